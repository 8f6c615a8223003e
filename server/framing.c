/* framing.c - see framing.h. */
#include "server/framing.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "api/limits.h"

void server_framing_init(struct server_framing *framing)
{
    memset(framing, 0, sizeof *framing);
}

/* RFC 9110, 5.6.2: token. */
static bool is_token(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)text[i]) &&
            (text[i] == '\0' || strchr("!#$%&'*+-.^_`|~", text[i]) == NULL))
            return false;
    return length > 0;
}

/* One value is kept; a second header of the same name makes the request ambiguous. */
static void keep(struct server_framing *framing, const char **at, const char *value)
{
    if (*at != NULL)
        framing->repeated = true;
    *at = value;
}

static bool is(const char *name, size_t length, const char *wanted)
{
    return strlen(wanted) == length && strncasecmp(name, wanted, length) == 0;
}

void server_framing_header(struct server_framing *framing, const char *name, size_t name_length,
                           const char *value, size_t value_length)
{
    framing->headers++;
    if (!is_token(name, name_length))
        framing->malformed_name = true;
    if (value == NULL || memchr(value, '\0', value_length) != NULL) {
        framing->malformed_value = true;
        return;
    }
    if (is(name, name_length, "Host")) {
        framing->hosts++;
        framing->host = value;
    } else if (is(name, name_length, "Origin")) {
        keep(framing, &framing->origin, value);
    } else if (is(name, name_length, "Content-Length")) {
        framing->lengths++;
        framing->content_length_text = value;
    } else if (is(name, name_length, "Transfer-Encoding")) {
        framing->codings++;
        framing->coding = value;
    } else if (is(name, name_length, "Content-Type")) {
        keep(framing, &framing->content_type, value);
    } else if (is(name, name_length, "Content-Encoding")) {
        keep(framing, &framing->content_encoding, value);
    } else if (is(name, name_length, "Inference-Header-Content-Length")) {
        keep(framing, &framing->header_content_length, value);
    } else if (is(name, name_length, "Accept")) {
        framing->accept = value;
    } else if (is(name, name_length, "Accept-Encoding")) {
        framing->accept_encoding = value;
    } else if (is(name, name_length, "X-Request-Id")) {
        framing->request_id = value;
        framing->request_id_length = value_length;
    }
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
    if (framing->codings > 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding is given %d times; once at most is allowed",
                                framing->codings);
    if (framing->lengths > 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding and Content-Length are both given; "
                                "one of them is allowed");
    if (strcasecmp(framing->coding, "chunked") != 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding is \"%.40s\"; only chunked is understood",
                                framing->coding);
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
    if (framing->malformed_value)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "a header's value holds a NUL byte");
    if (framing->headers > API_MAX_HEADERS)
        return engine_error_set(err, ENGINE_TOO_LARGE, "%d headers are given; %d are allowed",
                                framing->headers, API_MAX_HEADERS);
    if (framing->hosts > 1 || (framing->hosts == 0 && strcmp(version, "HTTP/1.0") != 0))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Host is given %d times; it must be given once", framing->hosts);
    if (framing->lengths > 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Content-Length is given %d times; once at most is allowed",
                                framing->lengths);
    if (framing->repeated)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Content-Type, Content-Encoding, Inference-Header-Content-Length "
                                "or Origin is given more than once");
    if (framing->codings > 0)
        return check_coding(framing, version, err);
    if (framing->lengths > 0) {
        framing->has_body = true;
        return read_length(framing->content_length_text, &framing->content_length, err);
    }
    return ENGINE_OK;
}
