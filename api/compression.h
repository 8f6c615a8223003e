/* compression.h - gzip and deflate (zlib-wrapped) of bodies, both ways.
 *
 * A request's inflated size is bounded by its caller. Threads: one at a time for each object. */
#ifndef API_COMPRESSION_H
#define API_COMPRESSION_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/engine.h"

enum api_coding { API_CODING_IDENTITY, API_CODING_GZIP, API_CODING_DEFLATE };

/* "gzip", "deflate"; NULL for identity. */
const char *api_compression_name(enum api_coding coding);

/* A Content-Encoding header (NULL: identity). Errors: MEDIA_TYPE. */
ENGINE_MUST_CHECK enum engine_code api_compression_read(const char *header, enum api_coding *ret,
                                                        struct engine_error *err);

/* What an Accept-Encoding header prefers to identity by its q-values. A client that lists codings
 * without an order ("gzip, deflate", as many do by habit) gets identity: compressing float
 * tensors costs more than it saves, and some of them cannot read it. */
enum api_coding api_compression_preferred(const char *header);

struct api_inflate;
ENGINE_MUST_CHECK enum engine_code api_inflate_create(enum api_coding coding, size_t limit,
                                                      struct api_inflate **ret,
                                                      struct engine_error *err);
/* gzip may be several members, one behind the other (RFC 1952, 2.2).
 * Hands inflated pieces to "take" until the bytes are used up; stops at its first failure.
 * Errors: INVALID_ARGUMENT (damaged), TOO_LARGE (over the limit). */
ENGINE_MUST_CHECK enum engine_code
api_inflate_feed(struct api_inflate *inflate, const void *bytes, size_t size,
                 enum engine_code (*take)(void *argument, const void *bytes, size_t size,
                                          struct engine_error *err),
                 void *argument, struct engine_error *err);
/* INVALID_ARGUMENT if the stream is not complete. */
ENGINE_MUST_CHECK enum engine_code api_inflate_finish(struct api_inflate *inflate,
                                                      struct engine_error *err);
void api_inflate_destroy(struct api_inflate *inflate); /* NULL is fine */

struct iovec;
/* Compresses the parts into one pooled buffer. *ret_bytes 0: it would not be smaller, nothing was
 * taken. Errors: memory. */
ENGINE_MUST_CHECK enum engine_code
api_compression_deflate(struct engine *engine, enum api_coding coding, const struct iovec *parts,
                        int count, size_t bytes, struct engine_buffer *ret, size_t *ret_bytes,
                        struct engine_error *err);

#endif
