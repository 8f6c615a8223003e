/* framing.c - see framing.h. */
#include "server/framing.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "api/limits.h"

/* RFC 9110, 5.6.2: token. */
static bool is_token(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)text[i]) &&
            (text[i] == '\0' || strchr("!#$%&'*+-.^_`|~", text[i]) == NULL))
            return false;
    return length > 0;
}

/* No value and no target holds a control byte, but for the tab in values. */
static bool has_control(const char *text, size_t length, char allowed)
{
    for (size_t i = 0; i < length; i++)
        if (((unsigned char)text[i] < 0x20 && text[i] != allowed) || text[i] == 0x7f)
            return true;
    return false;
}

void server_framing_init(struct server_framing *framing, const char *target)
{
    memset(framing, 0, sizeof *framing);
    framing->bytes = strlen(target);
    framing->malformed_target = has_control(target, framing->bytes, ' ');
}

static size_t trimmed(const char *value, size_t length)
{
    while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t'))
        length--;
    return length;
}

/* The first value counts; "times" tells that the request is ambiguous. */
static void keep(struct server_framing_value *kept, const char *value, size_t length)
{
    size_t used = trimmed(value, length);
    if (kept->times++ > 0)
        return;
    kept->padded = used < length;
    if (used < sizeof kept->text)
        memcpy(kept->text, value, used);
    else
        snprintf(kept->text, sizeof kept->text, "%.*s~", (int)sizeof kept->text - 2, value);
}

static bool is(const char *name, size_t length, const char *wanted)
{
    return strlen(wanted) == length && strncasecmp(name, wanted, length) == 0;
}

static struct server_framing_value *kept_value(struct server_framing *framing, const char *name,
                                               size_t length)
{
    if (is(name, length, "Content-Length"))
        return &framing->length;
    if (is(name, length, "Transfer-Encoding"))
        return &framing->coding;
    if (is(name, length, "Content-Encoding"))
        return &framing->content_encoding;
    if (is(name, length, "Inference-Header-Content-Length"))
        return &framing->header_content_length;
    return is(name, length, "Expect") ? &framing->expect : NULL;
}

void server_framing_header(struct server_framing *framing, const char *name, size_t name_length,
                           const char *value, size_t value_length)
{
    framing->headers++;
    framing->bytes += name_length + value_length + strlen(": \r\n");
    if (!is_token(name, name_length))
        framing->malformed_name = true;
    if (value == NULL || has_control(value, value_length, '\t')) {
        framing->malformed_value = true;
        return;
    }
    struct server_framing_value *kept = kept_value(framing, name, name_length);
    if (kept != NULL) {
        keep(kept, value, value_length);
    } else if (is(name, name_length, "Host")) {
        framing->hosts++;
        framing->host = value;
    } else if (is(name, name_length, "Origin")) {
        framing->repeated = framing->repeated || framing->origin != NULL;
        framing->origin = value;
    } else if (is(name, name_length, "Content-Type")) {
        framing->repeated = framing->repeated || framing->content_type != NULL;
        framing->content_type = value;
    } else if (is(name, name_length, "Accept")) {
        framing->accept = value;
    } else if (is(name, name_length, "Accept-Encoding")) {
        framing->accept_encoding = value;
    } else if (is(name, name_length, "X-Request-Id")) {
        framing->request_id = value;
        framing->request_id_length = trimmed(value, value_length);
    }
}

const char *server_framing_text(const struct server_framing_value *value)
{
    return value->times > 0 ? value->text : NULL;
}

bool server_framing_hides(const struct server_framing *framing, const char *method,
                          size_t header_bytes)
{
    return header_bytes != strlen(method) + framing->bytes + strlen("  HTTP/1.1\r\n\r\n");
}

bool server_framing_expects(const struct server_framing *framing)
{
    return strcasecmp(framing->expect.text, "100-continue") == 0;
}

static enum engine_code read_length(const char *text, int64_t *ret, struct engine_error *err)
{
    int64_t length = 0;
    if (*text == '\0')
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "Content-Length is empty");
    for (const char *c = text; *c != '\0'; c++) {
        if (!isdigit((unsigned char)*c))
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "Content-Length is \"%.40s\"; only digits are allowed", text);
        if (length > (INT64_C(1) << 62) / 10 - 10)
            return engine_error_set(err, ENGINE_TOO_LARGE,
                                    "Content-Length %.40s is larger than any body served", text);
        length = length * 10 + (*c - '0');
    }
    *ret = length;
    return ENGINE_OK;
}

static enum engine_code check_coding(struct server_framing *framing, const char *version,
                                     struct engine_error *err)
{
    if (framing->coding.times > 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding is given %d times; once at most is allowed",
                                framing->coding.times);
    if (framing->length.times > 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding and Content-Length are both given; "
                                "one of them is allowed");
    if (strcasecmp(framing->coding.text, "chunked") != 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding is \"%.40s\"; only chunked is understood",
                                framing->coding.text);
    if (strcmp(version, "HTTP/1.0") == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding is given with HTTP/1.0, which has none");
    framing->has_body = true;
    framing->content_length = -1;
    return ENGINE_OK;
}

enum engine_code server_framing_check(struct server_framing *framing, const char *version,
                                      struct engine_error *err)
{
    if (framing->malformed_name)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "a header's name holds a character that names may not hold");
    if (framing->malformed_target)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "the URL holds a control byte");
    if (framing->malformed_value)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "a header's value holds a control byte");
    if (framing->headers > API_MAX_HEADERS)
        return engine_error_set(err, ENGINE_HEADERS_TOO_MANY,
                                "%d headers are given; %d are allowed", framing->headers,
                                API_MAX_HEADERS);
    if (framing->hosts > 1 || (framing->hosts == 0 && strcmp(version, "HTTP/1.0") != 0))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Host is given %d times; it must be given once", framing->hosts);
    if (framing->length.times > 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Content-Length is given %d times; once at most is allowed",
                                framing->length.times);
    if (framing->repeated || framing->content_encoding.times > 1 ||
        framing->header_content_length.times > 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Content-Type, Content-Encoding, Inference-Header-Content-Length "
                                "or Origin is given more than once");
    if (framing->coding.times > 0)
        return check_coding(framing, version, err);
    if (framing->length.times > 0) {
        framing->has_body = true;
        return read_length(framing->length.text, &framing->content_length, err);
    }
    return ENGINE_OK;
}
