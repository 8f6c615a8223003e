/* error.c - see error.h. */
#include "engine/error.h"

#include <stdarg.h>
#include <stdio.h>

void engine_error_clear(struct engine_error *err)
{
    if (err != NULL) {
        err->code = ENGINE_OK;
        err->message[0] = '\0';
        err->detail[0] = '\0';
    }
}

enum engine_code engine_error_set(struct engine_error *err, enum engine_code code,
                                  const char *format, ...)
{
    if (err == NULL || err->code != ENGINE_OK)
        return code;
    err->code = code;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    return code;
}

void engine_error_set_detail(struct engine_error *err, const char *format, ...)
{
    if (err == NULL || err->detail[0] != '\0')
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(err->detail, sizeof err->detail, format, arguments);
    va_end(arguments);
}

const char *engine_error_name(enum engine_code code)
{
    switch (code) {
    case ENGINE_OK:
        return "ok";
    case ENGINE_INVALID_ARGUMENT:
        return "invalid_argument";
    case ENGINE_SHAPE_MISMATCH:
        return "shape_mismatch";
    case ENGINE_UNAUTHORIZED:
        return "unauthorized";
    case ENGINE_FORBIDDEN:
        return "forbidden";
    case ENGINE_NOT_FOUND:
        return "not_found";
    case ENGINE_METHOD:
        return "method";
    case ENGINE_TIMEOUT:
        return "timeout";
    case ENGINE_LENGTH_REQUIRED:
        return "length_required";
    case ENGINE_TOO_LARGE:
        return "too_large";
    case ENGINE_URL_TOO_LONG:
        return "url_too_long";
    case ENGINE_HEADERS_TOO_MANY:
        return "headers_too_many";
    case ENGINE_MEDIA_TYPE:
        return "media_type";
    case ENGINE_OVERLOADED:
        return "overloaded";
    case ENGINE_UNSUPPORTED:
        return "unsupported";
    case ENGINE_UNAVAILABLE:
        return "unavailable";
    case ENGINE_DEADLINE:
        return "deadline";
    case ENGINE_CANCELLED:
        return "cancelled";
    case ENGINE_OUT_OF_MEMORY:
        return "out_of_memory";
    case ENGINE_INTERNAL:
        return "internal";
    }
    return "internal";
}
