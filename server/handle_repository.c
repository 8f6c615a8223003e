/* handle_repository.c - the index, load and unload of models, settings of the log.
 *
 * Loading reads and packs weights, perhaps for seconds: it runs on a thread of its own while the
 * connection is suspended. Without --allow-control whatever changes the server is 403. */
#include "server/handlers.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/log.h"
#include "server/options.h"
#include "server/reply.h"
#include "server/repository.h"

/* ---- index ------------------------------------------------------------------------------ */

static enum engine_code index_models(struct server_request *request, struct engine_error *err)
{
    struct server_model_list list;
    bool ready_only = false;
    size_t count = 0;
    ENGINE_TRY(api_document_index_read(request->body, request->body_bytes, &ready_only, err));
    ENGINE_TRY(server_repository_list(request->service->repository, NULL, &list, err));
    for (size_t i = 0; i < list.count; i++)
        if (!ready_only || list.views[i].model != NULL)
            list.views[count++] = list.views[i];
    char *text = api_document_index(list.views, count);
    server_repository_list_reset(&list);
    return server_reply_text(request, text, err);
}

/* ---- load and unload -------------------------------------------------------------------- */

static enum engine_code check_control(struct server_request *request, struct engine_error *err)
{
    if (!request->service->options->allow_control)
        return engine_error_set(err, ENGINE_FORBIDDEN,
                                "changing what is served is not allowed: the server was "
                                "started without --allow-control");
    return ENGINE_OK;
}

static enum engine_code refuse_encoding(struct server_request *request, struct engine_error *err)
{
    const char *encoding = server_framing_text(&request->framing.content_encoding);
    if (encoding != NULL && strcasecmp(encoding, "identity") != 0)
        return engine_error_set(err, ENGINE_MEDIA_TYPE,
                                "Content-Encoding is not accepted on this route");
    return ENGINE_OK;
}

static enum engine_code begin_control(struct server_request *request, struct engine_error *err)
{
    ENGINE_TRY(check_control(request, err));
    return refuse_encoding(request, err);
}

static void log_change(struct server_request *request, const char *what)
{
    char text[API_MAX_NAME_BYTES + 64];
    bool failed = request->error.code != ENGINE_OK;
    snprintf(text, sizeof text, "model %s: %s%s", request->match.model, what,
             failed ? " failed: " : "");
    if (failed)
        server_log_failure(request->service->log, request->id, text, &request->error);
    else
        server_log_event(request->service->log, SERVER_LOG_INFO, request->id, "%s", text);
}

static void *run_load(void *argument)
{
    struct server_request *request = argument;
    struct engine_error *err = &request->error;
    struct api_load_request load;
    enum engine_code code = api_document_load_read(request->body, request->body_bytes, &load, err);
    if (code == ENGINE_OK) {
        code =
            server_repository_load(request->service->repository, request->match.model, &load, err);
        api_load_request_reset(&load);
    }
    log_change(request, "load");
    if (code == ENGINE_OK)
        request->reply.status = 200;
    server_connection_resume(request);
    return NULL;
}

static enum engine_code load(struct server_request *request, struct engine_error *err)
{
    pthread_t thread;
    pthread_attr_t attributes;
    (void)err;
    server_connection_lend(request);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, run_load, request) != 0)
        run_load(request); /* slower for the others, and answered all the same */
    pthread_attr_destroy(&attributes);
    server_connection_suspend(request);
    return ENGINE_OK;
}

static enum engine_code unload(struct server_request *request, struct engine_error *err)
{
    ENGINE_TRY(api_document_unload_read(request->body, request->body_bytes, err));
    ENGINE_TRY(server_repository_unload(request->service->repository, request->match.model, err));
    log_change(request, "unload");
    request->reply.status = 200;
    return ENGINE_OK;
}

/* ---- settings of the log ---------------------------------------------------------------- */

static enum engine_code logging(struct server_request *request, struct engine_error *err)
{
    struct api_logging settings;
    server_log_settings(request->service->log, &settings);
    return server_reply_text(request, api_document_logging(&settings), err);
}

static enum engine_code set_logging(struct server_request *request, struct engine_error *err)
{
    struct api_logging settings;
    server_log_settings(request->service->log, &settings);
    ENGINE_TRY(api_document_logging_read(request->body, request->body_bytes, &settings, err));
    server_log_apply(request->service->log, &settings);
    return server_reply_text(request, api_document_logging(&settings), err);
}

const struct server_handler server_handle_repository_index = {
    .max_body_bytes = API_MAX_CONTROL_BYTES, .begin = refuse_encoding, .end = index_models};
const struct server_handler server_handle_repository_load = {.begin = begin_control, .end = load};
const struct server_handler server_handle_repository_unload = {
    .max_body_bytes = API_MAX_CONTROL_BYTES, .begin = begin_control, .end = unload};
const struct server_handler server_handle_repository_logging = {
    .max_body_bytes = API_MAX_CONTROL_BYTES, .end = logging};
const struct server_handler server_handle_repository_set_logging = {
    .max_body_bytes = API_MAX_CONTROL_BYTES, .begin = begin_control, .end = set_logging};
