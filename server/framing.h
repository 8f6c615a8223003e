/* framing.h - the headers of a request, judged before anything else is.
 *
 * libmicrohttpd (0.9.75, and in part 1.0.1) lets through what two servers can read differently:
 * two Content-Length, Content-Length beside Transfer-Encoding, transfer codings other than
 * chunked, names with spaces, NUL in values. Each of these is 400 here, and the connection is
 * closed by the caller. Bare line feeds and folded lines cannot be seen at this level.
 * No libmicrohttpd in this file: headers come one by one. Threads: one at a time. */
#ifndef SERVER_FRAMING_H
#define SERVER_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

/* Values are views of the connection's memory; NULL: absent. */
struct server_framing {
    int headers, hosts, lengths, codings;
    const char *content_length_text, *coding;
    const char *host, *origin;
    bool malformed_name, malformed_value, repeated;
    const char *content_type, *content_encoding, *accept, *accept_encoding;
    const char *header_content_length; /* Inference-Header-Content-Length */
    const char *request_id;            /* X-Request-Id */
    size_t request_id_length;

    bool has_body;          /* either header was there */
    int64_t content_length; /* -1: chunked; 0: none */
};

void server_framing_init(struct server_framing *framing);

/* The next header; value is terminated, value_length counts what may hide behind a NUL. */
void server_framing_header(struct server_framing *framing, const char *name, size_t name_length,
                           const char *value, size_t value_length);

/* After the last one. version is "HTTP/1.1". Sets has_body and content_length.
 * Errors: INVALID_ARGUMENT, TOO_LARGE (a Content-Length beyond 2^62, too many headers). */
ENGINE_MUST_CHECK enum engine_code
server_framing_check(struct server_framing *framing, const char *version, struct engine_error *err);

#endif
