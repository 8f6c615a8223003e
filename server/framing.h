/* framing.h - the headers of a request, judged before anything else is.
 *
 * libmicrohttpd (0.9.75, and in part 1.0.1) lets through what two servers can read differently:
 * two Content-Length, Content-Length beside Transfer-Encoding, transfer codings other than
 * chunked, names with spaces, control bytes in values and in the target. Each of these is 400
 * here, and the connection is closed by the caller. Folded lines, bare line feeds and what 0.9.75
 * cuts off cannot be seen: they only make the header larger than its parts are together, and the
 * caller closes the connection after the answer.
 * White space behind a value is no part of it (RFC 9110, 5.5).
 * No libmicrohttpd in this file: headers come one by one. Threads: one at a time. */
#ifndef SERVER_FRAMING_H
#define SERVER_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

/* A value without the white space behind it. One that is longer is cut and ends in '~': nothing
 * that is understood does. */
struct server_framing_value {
    int times;   /* 0: absent */
    bool padded; /* there was white space behind it */
    char text[48];
};

/* Pointers are views of the connection's memory; NULL: absent. */
struct server_framing {
    int headers, hosts;
    struct server_framing_value length, coding, expect;
    struct server_framing_value content_encoding;
    struct server_framing_value header_content_length; /* Inference-Header-Content-Length */
    const char *host, *origin;
    const char *content_type, *accept, *accept_encoding;
    const char *request_id; /* X-Request-Id */
    size_t request_id_length;
    bool malformed_target, malformed_name, malformed_value, repeated;
    size_t bytes; /* of target and headers, written the way most clients do */

    bool has_body;          /* either header was there */
    int64_t content_length; /* -1: chunked; 0: none */
};

/* Begins with the target of the request line, query and all. */
void server_framing_init(struct server_framing *framing, const char *target);

/* The next header; value is terminated, value_length counts what may hide behind a NUL. */
void server_framing_header(struct server_framing *framing, const char *name, size_t name_length,
                           const char *value, size_t value_length);

/* After the last one. version is "HTTP/1.1". Sets has_body and content_length.
 * Errors: INVALID_ARGUMENT, TOO_LARGE (a Content-Length beyond 2^62), HEADERS_TOO_MANY. */
ENGINE_MUST_CHECK enum engine_code
server_framing_check(struct server_framing *framing, const char *version, struct engine_error *err);

/* A value's text; NULL: absent. */
const char *server_framing_text(const struct server_framing_value *value);

/* Whether the whole header, request line and last line included, is larger or smaller than its
 * parts are together: something in it was not seen. */
bool server_framing_hides(const struct server_framing *framing, const char *method,
                          size_t header_bytes);

/* Whether the client waits for a word before it sends the body. */
bool server_framing_expects(const struct server_framing *framing);

#endif
