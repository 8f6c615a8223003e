/* handle_health.c - is the process alive, is it ready. Nothing here waits, whatever the load:
 * liveness that queued behind work would get a busy server restarted. */
#include "server/handlers.h"

#include "api/documents.h"
#include "server/reply.h"
#include "server/repository.h"
#include "server/shutdown.h"

enum { NO_BODY = 64 * 1024, NOT_READY = 503 };

static enum engine_code root(struct server_request *request, struct engine_error *err)
{
    static const char alive[] = "{\"status\":\"alive\"}"; /* KServe v1's liveness */
    (void)err;
    request->reply.status = 200;
    request->reply.static_text = alive;
    request->reply.text_bytes = sizeof alive - 1;
    return ENGINE_OK;
}

static enum engine_code live(struct server_request *request, struct engine_error *err)
{
    return server_reply_text(request, api_document_live(), err);
}

static enum engine_code ready(struct server_request *request, struct engine_error *err)
{
    const struct server_service *service = request->service;
    bool is_ready = server_repository_ready(service->repository) &&
                    !server_shutdown_draining(service->shutdown);
    ENGINE_TRY(server_reply_text(request, api_document_ready(is_ready), err));
    if (!is_ready) {
        request->reply.status = NOT_READY;
        request->reply.retry_after_s = 1;
    }
    return ENGINE_OK;
}

const struct server_handler server_handle_health_root = {.max_body_bytes = NO_BODY, .end = root};
const struct server_handler server_handle_health_live = {.max_body_bytes = NO_BODY, .end = live};
const struct server_handler server_handle_health_ready = {.max_body_bytes = NO_BODY, .end = ready};
