/* error_body.c - see error_body.h. */
#include "api/error_body.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

int api_error_body_status(enum engine_code code)
{
    switch (code) {
    case ENGINE_OK:
        return 200;
    case ENGINE_INVALID_ARGUMENT:
    case ENGINE_SHAPE_MISMATCH:
        return 400;
    case ENGINE_UNAUTHORIZED:
        return 401;
    case ENGINE_FORBIDDEN:
        return 403;
    case ENGINE_NOT_FOUND:
        return 404;
    case ENGINE_METHOD:
        return 405;
    case ENGINE_TIMEOUT:
        return 408;
    case ENGINE_LENGTH_REQUIRED:
        return 411;
    case ENGINE_TOO_LARGE:
        return 413;
    case ENGINE_URL_TOO_LONG:
        return 414;
    case ENGINE_MEDIA_TYPE:
        return 415;
    case ENGINE_OVERLOADED:
        return 429;
    case ENGINE_HEADERS_TOO_MANY:
        return 431;
    case ENGINE_UNSUPPORTED:
        return 501;
    case ENGINE_UNAVAILABLE:
    case ENGINE_OUT_OF_MEMORY:
    case ENGINE_CANCELLED:
        return 503;
    case ENGINE_DEADLINE:
        return 504;
    case ENGINE_INTERNAL:
        break;
    }
    return 500;
}

/* Length of the well-formed UTF-8 sequence at text, or 0. */
static size_t sequence(const unsigned char *text)
{
    static const struct {
        unsigned char mask, lead;
        unsigned least;
        size_t length;
    } forms[] = {{0xe0, 0xc0, 0x80, 2}, {0xf0, 0xe0, 0x800, 3}, {0xf8, 0xf0, 0x10000, 4}};
    for (size_t f = 0; f < 3; f++) {
        if ((text[0] & forms[f].mask) != forms[f].lead)
            continue;
        unsigned code = text[0] & (unsigned char)~forms[f].mask;
        for (size_t i = 1; i < forms[f].length; i++) {
            if ((text[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (text[i] & 0x3fu);
        }
        bool surrogate = code >= 0xd800 && code <= 0xdfff;
        return code >= forms[f].least && code <= 0x10ffff && !surrogate ? forms[f].length : 0;
    }
    return 0;
}

/* Appends one character of the message; returns how much of the message it was. */
static size_t append(const unsigned char *from, char *to, size_t *ret_bytes)
{
    size_t length = 1;
    if (*from == '"' || *from == '\\') {
        to[0] = '\\';
        to[1] = (char)*from;
        *ret_bytes = 2;
    } else if (*from < 0x20 || *from == 0x7f) {
        *ret_bytes = (size_t)sprintf(to, "\\u%04x", *from);
    } else if (*from < 0x80) {
        to[0] = (char)*from;
        *ret_bytes = 1;
    } else if ((length = sequence(from)) > 0) {
        memcpy(to, from, length);
        *ret_bytes = length;
    } else {
        to[0] = '?'; /* also a sequence cut by the length of a message */
        *ret_bytes = 1;
        length = 1;
    }
    return length;
}

size_t api_error_body_write(const struct engine_error *err, char *text, size_t size)
{
    const char *message = err->code == ENGINE_INTERNAL
                              ? "the server failed; its log has the cause under this request's id"
                              : err->message;
    const unsigned char *from = (const unsigned char *)message;
    char *at = text, *end = text + size - 16;
    at += sprintf(at, "{\"error\":\"");
    while (*from != '\0' && at < end) {
        size_t bytes = 0;
        from += append(from, at, &bytes);
        at += bytes;
    }
    memcpy(at, "\"}", 3);
    return (size_t)(at + 2 - text);
}
