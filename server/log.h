/* log.h - lines on stderr: one a request, and what happens to the process.
 *
 * A line is put together by the caller's thread and written by the log's own, so that a slow
 * reader of stderr never stops a request: when the buffer is full, lines are dropped and counted.
 * Of the requests answered with one 4xx status a second logs ten; a line counts the others.
 * Text from clients is escaped: a line is one line. Threads: any, after open. */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/documents.h"
#include "engine/error.h"

enum server_log_level { SERVER_LOG_ERROR, SERVER_LOG_WARNING, SERVER_LOG_INFO, SERVER_LOG_DEBUG };

struct server_log;

bool server_log_level_from_name(const char *name, int *ret);
const char *server_log_level_name(int level);

/* Writes to descriptor (borrowed). Errors: OUT_OF_MEMORY, INTERNAL (no thread). */
ENGINE_MUST_CHECK enum engine_code server_log_open(int descriptor, int level, bool json,
                                                   struct server_log **ret,
                                                   struct engine_error *err);
/* Writes what is left. NULL is fine. */
void server_log_close(struct server_log *log);

/* Returns when all lines so far are written, or after a second. */
void server_log_flush(struct server_log *log);

/* One event: a sentence. id: the request it belongs to, or NULL. */
void server_log_event(struct server_log *log, enum server_log_level level, const char *id,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));

/* What failed, and why: the error's message and, for the operator alone, its detail. */
void server_log_failure(struct server_log *log, const char *id, const char *what,
                        const struct engine_error *err);

/* One served request. */
struct server_log_request {
    const char *id, *method, *path;
    const char *error; /* message behind a status of 400 and above; NULL or "": none */
    int status;
    size_t bytes_in, bytes_out;
    int64_t duration_ns;
};
void server_log_request(struct server_log *log, const struct server_log_request *request);

/* Settings of /v2/logging. */
void server_log_settings(const struct server_log *log, struct api_logging *ret);
void server_log_apply(struct server_log *log, const struct api_logging *settings);

#endif
