/* documents.h - every JSON document that is not an inference answer: metadata, configuration,
 * statistics, repository index, health, TensorFlow Serving status and metadata, load requests.
 *
 * Writers return malloc'd, terminated text (the caller frees), NULL when memory is short.
 * Bodies follow the Open Inference Protocol v2 with Triton's extensions and TensorFlow Serving
 * v1, as listed in PROTOCOL.md. Threads: any; what is passed in must not change meanwhile. */
#ifndef API_DOCUMENTS_H
#define API_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/model_files.h"
#include "engine/engine.h"

struct api_duration {
    uint64_t count, ns;
};

/* Counted by the server for each model version; Triton's statistics extension. */
struct api_statistics {
    uint64_t last_inference_ms; /* since 1970 */
    uint64_t inference_count, execution_count;
    struct api_duration success, fail, queue, compute_input, compute_infer, compute_output;
};

enum api_model_state {
    API_MODEL_READY,
    API_MODEL_LOADING,
    API_MODEL_UNLOADING,
    API_MODEL_UNAVAILABLE
};

/* One version of one model, as the documents need it. */
struct api_model_view {
    const char *name;
    const char *version;
    enum api_model_state state;
    const char *reason;         /* why it is not ready; "" or NULL: none */
    struct engine_model *model; /* NULL unless ready */
    const struct api_model_settings *settings;
    const struct api_statistics *statistics;
    const char *const *versions; /* all ready versions of this name */
    size_t versions_count;
};

/* GET /v2; control: load and unload are allowed. */
char *api_document_server(const char *version, bool control);
/* GET /v2/health/live, /ready; GET /v2/models/M/ready (not ready: the server answers 503). */
char *api_document_live(void);
char *api_document_ready(bool ready);
char *api_document_model_ready(const char *name, bool ready);
/* GET /v2/models/M, …/config; …/stats and GET /v2/models/stats; GET /v2/models. */
char *api_document_model(const struct api_model_view *view);
char *api_document_config(struct engine *engine, const struct api_model_view *view);
char *api_document_stats(const struct api_model_view *views, size_t count);
char *api_document_models(const struct api_model_view *views, size_t count);
/* POST /v2/repository/index. */
char *api_document_index(const struct api_model_view *views, size_t count);
/* GET /v1/models/M[/versions/V] (TensorFlow Serving's and KServe's keys at once), /v1/models,
 * …/metadata. The views are all versions of one name. */
char *api_document_tf_status(const struct api_model_view *views, size_t count);
char *api_document_tf_models(const struct api_model_view *views, size_t count);
char *api_document_tf_metadata(const struct api_model_view *view);

/* GET and POST /v2/logging. */
struct api_logging {
    bool info, warning, error;
    int verbose_level;
    bool iso8601;
};
char *api_document_logging(const struct api_logging *logging);
ENGINE_MUST_CHECK enum engine_code api_document_logging_read(const char *json, size_t size,
                                                             struct api_logging *inout,
                                                             struct engine_error *err);

/* Body of POST /v2/repository/index: may be empty; {"ready": true} filters. */
ENGINE_MUST_CHECK enum engine_code api_document_index_read(const char *json, size_t size,
                                                           bool *ret_ready_only,
                                                           struct engine_error *err);

/* Body of POST …/load: may be empty; "config" (text) and "file:<path>" (base64) parameters. */
struct api_load_request {
    char *config; /* NULL: none */
    struct api_model_file *files;
    size_t files_count;
};
ENGINE_MUST_CHECK enum engine_code api_document_load_read(const char *json, size_t size,
                                                          struct api_load_request *ret,
                                                          struct engine_error *err);
void api_load_request_reset(struct api_load_request *request);

/* Body of POST …/unload: may be empty; parameter unload_dependents is accepted. */
ENGINE_MUST_CHECK enum engine_code api_document_unload_read(const char *json, size_t size,
                                                            struct engine_error *err);

/* GET /openapi.json: static text. */
const char *api_document_openapi(size_t *ret_size);

#endif
