/* repository.h - which models there are, in which versions, and how they come and go.
 *
 * A name has versions (numbered directories, or just "1"); the highest is the default. Loading
 * happens beside serving: the new versions replace the old ones at once when all of them are
 * open; if one fails, the old ones go on serving. Requests keep what they found.
 * Locks: "control" (one load at a time), then "lock" (the table; held briefly). Threads: any. */
#ifndef SERVER_REPOSITORY_H
#define SERVER_REPOSITORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "api/documents.h"
#include "server/log.h"
#include "server/model.h"
#include "server/options.h"

struct server_repository;

/* Opens every model of the options. A directory of --models that is a model itself is served under
 * its name; sub-directories that are none are logged, each with the reason. A model that does not
 * open is kept as UNAVAILABLE with its reason, and the server is not ready. Errors:
 * INVALID_ARGUMENT (a directory or name that cannot be used, no model at all), OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code server_repository_open(struct engine *engine,
                                                          struct server_log *log,
                                                          const struct server_options *options,
                                                          struct server_repository **ret,
                                                          struct engine_error *err);
void server_repository_close(struct server_repository *repository); /* NULL is fine */

/* Some model is served, and all are that were not unloaded on purpose. */
bool server_repository_ready(const struct server_repository *repository);

/* A version ("": the highest), with a reference for the caller. Errors: NOT_FOUND, UNAVAILABLE. */
ENGINE_MUST_CHECK enum engine_code server_repository_find(struct server_repository *repository,
                                                          const char *name, const char *version,
                                                          struct server_model **ret,
                                                          struct engine_error *err);

/* Views for api/documents, each with its own copy of the statistics. A name without a loaded
 * version is one view without version. name NULL: all. Errors: OUT_OF_MEMORY, and it is empty. */
struct server_model_list {
    struct api_model_view *views;
    size_t count;
    struct server_model **models; /* referenced; NULL for a view without version */
    struct api_statistics *statistics;
    const char **versions;
    char (*texts)[API_MAX_NAME_BYTES + 1]; /* names */
    char (*reasons)[512];
};
ENGINE_MUST_CHECK enum engine_code server_repository_list(struct server_repository *repository,
                                                          const char *name,
                                                          struct server_model_list *ret,
                                                          struct engine_error *err);
void server_repository_list_reset(struct server_model_list *list);

/* May take long. Errors: NOT_FOUND, and those of server_model_open. */
ENGINE_MUST_CHECK enum engine_code server_repository_load(struct server_repository *repository,
                                                          const char *name,
                                                          const struct api_load_request *request,
                                                          struct engine_error *err);
ENGINE_MUST_CHECK enum engine_code server_repository_unload(struct server_repository *repository,
                                                            const char *name,
                                                            struct engine_error *err);

/* For --check: a line a version. Errors: INVALID_ARGUMENT where a model did not open,
 * OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code server_repository_print(struct server_repository *repository,
                                                           FILE *out, struct engine_error *err);

#endif
