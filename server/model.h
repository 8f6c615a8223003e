/* model.h - one loaded version of one model: the engine's model, its settings, its statistics.
 *
 * Counted by reference: a request holds one from its headers to its end, so that a model can be
 * replaced or unloaded while it is served. Immutable but for the statistics. Threads: any. */
#ifndef SERVER_MODEL_H
#define SERVER_MODEL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/documents.h"
#include "api/limits.h"

enum { SERVER_MODEL_VERSION_BYTES = 20 };

struct server_model {
    char name[API_MAX_NAME_BYTES + 1];
    char version[SERVER_MODEL_VERSION_BYTES];
    struct engine *engine;
    struct engine_model *model;
    struct api_model_settings settings;
    pthread_mutex_t lock; /* statistics */
    struct api_statistics statistics;
    atomic_int references;
};

/* Where a version's files are. */
struct server_model_source {
    const char *name, *version;
    const char *directory; /* NULL: files */
    const struct api_model_file *files;
    size_t files_count;
    const char *config_json; /* NULL: the directory's */
};

/* Opens and warms up. Returns new with one reference. Errors: those of api_model_files_open. */
ENGINE_MUST_CHECK enum engine_code server_model_open(struct engine *engine,
                                                     const struct server_model_source *source,
                                                     struct server_model **ret,
                                                     struct engine_error *err);
void server_model_retain(struct server_model *model);
void server_model_release(struct server_model *model); /* NULL is fine */

/* Times of one call in nanoseconds. */
struct server_model_sample {
    bool success;
    int64_t batch;
    int64_t total_ns, queue_ns, input_ns, infer_ns, output_ns;
};
void server_model_count(struct server_model *model, const struct server_model_sample *sample);
void server_model_statistics(struct server_model *model, struct api_statistics *ret);

#endif
