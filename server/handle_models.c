/* handle_models.c - documents about the server and its models: Open Inference Protocol v2 and
 * TensorFlow Serving v1. The documents themselves are written by api/documents. */
#include "server/handlers.h"

#include "api/documents.h"
#include "api/version.h"
#include "server/options.h"
#include "server/reply.h"
#include "server/repository.h"

enum { NOT_READY = 503 };

static enum engine_code server(struct server_request *request, struct engine_error *err)
{
    bool control = request->service->options->allow_control;
    return server_reply_text(request, api_document_server(API_VERSION, control), err);
}

static enum engine_code openapi(struct server_request *request, struct engine_error *err)
{
    (void)err;
    request->reply.status = 200;
    request->reply.static_text = api_document_openapi(&request->reply.text_bytes);
    return ENGINE_OK;
}

/* ---- all models ------------------------------------------------------------------------- */

static enum engine_code of_all(struct server_request *request,
                               char *write(const struct api_model_view *views, size_t count),
                               struct engine_error *err)
{
    struct server_model_list list;
    ENGINE_TRY(server_repository_list(request->service->repository, NULL, &list, err));
    char *text = write(list.views, list.count);
    server_repository_list_reset(&list);
    return server_reply_text(request, text, err);
}

static enum engine_code list_models(struct server_request *request, struct engine_error *err)
{
    return of_all(request, api_document_models, err);
}

static enum engine_code tf_list(struct server_request *request, struct engine_error *err)
{
    return of_all(request, api_document_tf_models, err);
}

/* Statistics are those of versions that are served. */
static size_t keep_loaded(struct server_model_list *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++)
        if (list->views[i].model != NULL)
            list->views[kept++] = list->views[i];
    return kept;
}

static enum engine_code all_stats(struct server_request *request, struct engine_error *err)
{
    struct server_model_list list;
    ENGINE_TRY(server_repository_list(request->service->repository, NULL, &list, err));
    char *text = api_document_stats(list.views, keep_loaded(&list));
    server_repository_list_reset(&list);
    return server_reply_text(request, text, err);
}

/* ---- one model -------------------------------------------------------------------------- */

/* Lists the versions of the path's model and finds the one meant: that of the path, else the
 * highest. The caller resets the list, also after a failure. */
static enum engine_code find_view(struct server_request *request, struct server_model_list *list,
                                  const struct api_model_view **ret, struct engine_error *err)
{
    struct server_model *model = NULL;
    const struct server_match *match = &request->match;
    ENGINE_TRY(server_repository_list(request->service->repository, match->model, list, err));
    ENGINE_TRY(server_repository_find(request->service->repository, match->model, match->version,
                                      &model, err));
    for (size_t i = 0; i < list->count; i++)
        if (list->models[i] == model)
            *ret = &list->views[i];
    server_model_release(model);
    if (*ret == NULL)
        return engine_error_set(err, ENGINE_UNAVAILABLE, "model \"%s\" is being replaced",
                                match->model);
    return ENGINE_OK;
}

static enum engine_code metadata(struct server_request *request, struct engine_error *err)
{
    struct server_model_list list;
    const struct api_model_view *view = NULL;
    enum engine_code code = find_view(request, &list, &view, err);
    if (code == ENGINE_OK)
        code = server_reply_text(request, api_document_model(view), err);
    server_repository_list_reset(&list);
    return code;
}

static enum engine_code config(struct server_request *request, struct engine_error *err)
{
    struct server_model_list list;
    const struct api_model_view *view = NULL;
    enum engine_code code = find_view(request, &list, &view, err);
    if (code == ENGINE_OK)
        code = server_reply_text(request, api_document_config(request->service->engine, view), err);
    server_repository_list_reset(&list);
    return code;
}

static enum engine_code tf_metadata(struct server_request *request, struct engine_error *err)
{
    struct server_model_list list;
    const struct api_model_view *view = NULL;
    enum engine_code code = find_view(request, &list, &view, err);
    if (code == ENGINE_OK)
        code = server_reply_text(request, api_document_tf_metadata(view), err);
    server_repository_list_reset(&list);
    return code;
}

/* With a version: that one; without: all versions of the name. */
static enum engine_code of_versions(struct server_request *request,
                                    char *write(const struct api_model_view *views, size_t count),
                                    bool loaded_only, struct engine_error *err)
{
    struct server_model_list list;
    const struct api_model_view *view = NULL;
    enum engine_code code = find_view(request, &list, &view, err);
    bool is_down = code == ENGINE_UNAVAILABLE && !loaded_only && list.count > 0;
    if (is_down) {
        engine_error_clear(err);
        code = ENGINE_OK;
    }
    if (code == ENGINE_OK && request->match.version[0] != '\0' && view != NULL)
        code = server_reply_text(request, write(view, 1), err);
    else if (code == ENGINE_OK)
        code = server_reply_text(request, write(list.views, list.count), err);
    server_repository_list_reset(&list);
    return code;
}

static enum engine_code stats(struct server_request *request, struct engine_error *err)
{
    return of_versions(request, api_document_stats, true, err);
}

/* TensorFlow Serving answers 200 for a model that is known and not served: its state says so. */
static enum engine_code tf_status(struct server_request *request, struct engine_error *err)
{
    return of_versions(request, api_document_tf_status, false, err);
}

static enum engine_code ready(struct server_request *request, struct engine_error *err)
{
    struct server_model *model = NULL;
    const struct server_match *match = &request->match;
    enum engine_code code = server_repository_find(request->service->repository, match->model,
                                                   match->version, &model, err);
    server_model_release(model);
    if (code != ENGINE_OK && code != ENGINE_UNAVAILABLE)
        return code;
    engine_error_clear(err);
    ENGINE_TRY(
        server_reply_text(request, api_document_model_ready(match->model, code == ENGINE_OK), err));
    if (code != ENGINE_OK) {
        request->reply.status = NOT_READY;
        request->reply.retry_after_s = 1;
    }
    return ENGINE_OK;
}

#define DOCUMENT(function)                                                                         \
    {                                                                                              \
        .max_body_bytes = API_MAX_CONTROL_BYTES, .end = function                                   \
    }

const struct server_handler server_handle_models_server = DOCUMENT(server);
const struct server_handler server_handle_models_list = DOCUMENT(list_models);
const struct server_handler server_handle_models_metadata = DOCUMENT(metadata);
const struct server_handler server_handle_models_ready = DOCUMENT(ready);
const struct server_handler server_handle_models_config = DOCUMENT(config);
const struct server_handler server_handle_models_stats = DOCUMENT(stats);
const struct server_handler server_handle_models_all_stats = DOCUMENT(all_stats);
const struct server_handler server_handle_models_openapi = DOCUMENT(openapi);
const struct server_handler server_handle_models_tf_list = DOCUMENT(tf_list);
const struct server_handler server_handle_models_tf_status = DOCUMENT(tf_status);
const struct server_handler server_handle_models_tf_metadata = DOCUMENT(tf_metadata);
