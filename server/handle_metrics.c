/* handle_metrics.c - GET /metrics: Prometheus text. */
#include "server/handlers.h"

#include "api/limits.h"
#include "server/metrics.h"
#include "server/reply.h"

static enum engine_code end(struct server_request *request, struct engine_error *err)
{
    char *text = NULL;
    ENGINE_TRY(server_metrics_text(request->service, &text, err));
    request->reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
    return server_reply_text(request, text, err);
}

const struct server_handler server_handle_metrics = {.max_body_bytes = API_MAX_CONTROL_BYTES,
                                                     .end = end};
