/* connection.c - see connection.h and request.h. */
#include "server/connection.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/limits.h"
#include "server/deadlines.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/origin.h"
#include "server/reply.h"
#include "server/shutdown.h"

enum {
    /* Read on after a failure, so that the client is still there to be told. */
    DISCARD_BYTES = 1024 * 1024,
    /* Then the connection closes, and load spreads anew. */
    REQUESTS_PER_CONNECTION = 10000
};

/* ---- a connection ----------------------------------------------------------------------- */

void server_connection_notify(void *argument, struct MHD_Connection *connection, void **peer,
                              enum MHD_ConnectionNotificationCode what)
{
    struct server_service *service = argument;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *peer = server_deadlines_add(service->deadlines, info->connect_fd);
        return;
    }
    server_metrics_connection(service->metrics, -1);
    if (*peer != NULL)
        server_deadlines_remove(service->deadlines, *peer);
    *peer = NULL;
}

/* Leaves the path as it came: routes.c decodes it, segment by segment. */
size_t server_connection_unescape(void *argument, struct MHD_Connection *connection, char *text)
{
    (void)argument;
    (void)connection;
    return strlen(text);
}

/* ---- a request begins ------------------------------------------------------------------- */

/* The request line is in. What is returned becomes *state of the access handler. */
void *server_connection_line(void *argument, const char *uri, struct MHD_Connection *connection)
{
    struct server_service *service = argument;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct server_request *request = calloc(1, sizeof *request);
    (void)uri;
    if (request == NULL || info == NULL || info->socket_context == NULL) {
        free(request);
        return NULL; /* no memory: the access handler closes the connection */
    }
    request->service = service;
    request->mhd = connection;
    request->peer = info->socket_context;
    request->started_ns = server_deadlines_now();
    server_deadlines_phase(service->deadlines, request->peer, SERVER_PHASE_HEADERS);
    return request;
}

static enum MHD_Result take_header(void *argument, enum MHD_ValueKind kind, const char *name,
                                   size_t name_length, const char *value, size_t value_length)
{
    (void)kind;
    server_framing_header(argument, name, name_length, value, value_length);
    return MHD_YES;
}

static bool is_id(const char *text, size_t length)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return text != NULL && length > 0 && length <= SERVER_REQUEST_ID_BYTES &&
           strspn(text, allowed) == length;
}

static void choose_id(struct server_request *request)
{
    const struct server_framing *framing = &request->framing;
    if (is_id(framing->request_id, framing->request_id_length))
        memcpy(request->id, framing->request_id, framing->request_id_length + 1);
    else
        server_metrics_make_id(request->service->metrics, request->id, sizeof request->id);
}

static size_t max_body(const struct server_request *request)
{
    size_t own = request->match.route->handler->max_body_bytes;
    return own != 0 ? own : (size_t)request->service->options->max_body_bytes;
}

static enum engine_code check_declared(struct server_request *request, struct engine_error *err)
{
    int64_t length = request->framing.content_length;
    if (length > 0 && (uint64_t)length > max_body(request))
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "the body has %lld bytes; at most %zu are accepted here",
                                (long long)length, max_body(request));
    return ENGINE_OK;
}

static enum engine_code check_sender(const struct server_request *request, const char *url,
                                     const char *method, struct engine_error *err)
{
    const struct server_origin sender = {.method = method,
                                         .target = url,
                                         .host = request->framing.host,
                                         .origin = request->framing.origin,
                                         .is_loopback = request->peer->is_loopback};
    return server_origin_check(request->service->options, &sender, err);
}

/* Everything that can be refused before the body is sent. An answer at this point closes the
 * connection, so requests without a body get theirs at the end like all others. */
static enum engine_code begin(struct server_request *request, const char *url, const char *method,
                              const char *version, struct engine_error *err)
{
    struct server_framing *framing = &request->framing;
    snprintf(request->method, sizeof request->method, "%s", method);
    snprintf(request->path, sizeof request->path, "%s", url);
    server_framing_init(framing);
    MHD_get_connection_values_n(request->mhd, MHD_HEADER_KIND, take_header, framing);
    choose_id(request);
    enum engine_code code = server_framing_check(framing, version, err);
    if (code != ENGINE_OK) {
        request->reply.close = true; /* what follows may not be a request */
        return code;
    }
    ENGINE_TRY(check_sender(request, url, method, err));
    ENGINE_TRY(server_routes_find(method, url, &request->match, err));
    if (request->match.options)
        return ENGINE_OK;
    ENGINE_TRY(check_declared(request, err));
    request->counted = true;
    const struct server_handler *handler = request->match.route->handler;
    return handler->begin != NULL ? handler->begin(request, err) : ENGINE_OK;
}

/* ---- its body --------------------------------------------------------------------------- */

static enum engine_code gather(struct server_request *request, const char *bytes, size_t size,
                               struct engine_error *err)
{
    size_t needed = request->body_bytes + size + 1;
    if (needed > request->body_capacity) {
        size_t capacity = request->framing.content_length >= 0
                              ? (size_t)request->framing.content_length + 1
                              : 2 * needed;
        char *grown = realloc(request->body, capacity > needed ? capacity : needed);
        if (grown == NULL)
            return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the body");
        request->body = grown;
        request->body_capacity = capacity > needed ? capacity : needed;
    }
    memcpy(request->body + request->body_bytes, bytes, size);
    request->body_bytes += size;
    request->body[request->body_bytes] = '\0';
    return ENGINE_OK;
}

static enum engine_code feed(struct server_request *request, const char *bytes, size_t size,
                             struct engine_error *err)
{
    if (request->match.options)
        return ENGINE_OK;
    if (request->received_bytes > max_body(request))
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "the body is longer than %zu bytes, the most accepted here",
                                max_body(request));
    if (request->framing.content_length < 0 && ++request->chunks > API_MAX_CHUNKS)
        return engine_error_set(err, ENGINE_TOO_LARGE, "the body has more than %d chunks",
                                API_MAX_CHUNKS);
    const struct server_handler *handler = request->match.route->handler;
    return handler->feed != NULL ? handler->feed(request, bytes, size, err)
                                 : gather(request, bytes, size, err);
}

/* false: the client sends on and on after a failure; drop it. */
static bool take_body(struct server_request *request, const char *bytes, size_t size)
{
    request->received_bytes += size;
    server_deadlines_received(request->service->deadlines, request->peer, size);
    if (request->error.code == ENGINE_OK) {
        (void)feed(request, bytes, size, &request->error);
        request->taken_bytes = request->received_bytes;
        return true;
    }
    return request->received_bytes - request->taken_bytes <= DISCARD_BYTES;
}

/* ---- its answer ------------------------------------------------------------------------- */

static void answer_options(struct server_request *request)
{
    request->reply.status = MHD_HTTP_OK;
    request->reply.allow = request->match.allow;
}

static enum MHD_Result answer(struct server_request *request)
{
    if (request->error.code != ENGINE_OK) {
        bool close = request->reply.close;
        server_reply_error(request, &request->error);
        request->reply.close = close;
    }
    if (request->peer->requests >= REQUESTS_PER_CONNECTION)
        request->reply.close = true;
    server_deadlines_phase(request->service->deadlines, request->peer, SERVER_PHASE_REPLY);
    return server_reply_queue(request) ? MHD_YES : MHD_NO;
}

static enum MHD_Result finish(struct server_request *request)
{
    request->body_ns = server_deadlines_now();
    if (request->error.code != ENGINE_OK)
        return answer(request);
    if (request->match.options)
        answer_options(request);
    else
        (void)request->match.route->handler->end(request, &request->error);
    /* Once suspended the request may already be another thread's: look at nothing else. */
    return request->suspended ? MHD_YES : answer(request);
}

enum MHD_Result server_connection_access(void *service, struct MHD_Connection *connection,
                                         const char *url, const char *method, const char *version,
                                         const char *upload, size_t *upload_size, void **state)
{
    struct server_request *request = *state;
    (void)service;
    (void)connection;
    if (request == NULL)
        return MHD_NO;
    if (!request->begun) {
        request->begun = true;
        if (begin(request, url, method, version, &request->error) != ENGINE_OK &&
            (request->framing.content_length != 0 || request->reply.close))
            return answer(request);
        if (request->framing.has_body)
            server_deadlines_phase(request->service->deadlines, request->peer, SERVER_PHASE_BODY);
        return MHD_YES;
    }
    if (*upload_size > 0) {
        size_t size = *upload_size;
        *upload_size = 0;
        return take_body(request, upload, size) ? MHD_YES : MHD_NO;
    }
    if (!request->suspended)
        return finish(request);
    if (atomic_load_explicit(&request->stage, memory_order_acquire) != SERVER_REQUEST_ANSWERED)
        return MHD_NO; /* resumed by nobody of ours */
    request->suspended = false;
    return answer(request);
}

void server_connection_lend(struct server_request *request)
{
    server_deadlines_phase(request->service->deadlines, request->peer, SERVER_PHASE_COMPUTE);
}

/* Whoever comes second of this and resume sees what the other has done. */
void server_connection_suspend(struct server_request *request)
{
    if (atomic_load_explicit(&request->stage, memory_order_acquire) == SERVER_REQUEST_ANSWERED)
        return;
    request->suspended = true;
    MHD_suspend_connection(request->mhd);
    if (atomic_exchange(&request->stage, SERVER_REQUEST_SUSPENDED) != SERVER_REQUEST_ANSWERED)
        return;
    atomic_store(&request->stage, SERVER_REQUEST_ANSWERED);
    MHD_resume_connection(request->mhd);
}

void server_connection_resume(struct server_request *request)
{
    struct MHD_Connection *mhd = request->mhd;
    if (atomic_exchange(&request->stage, SERVER_REQUEST_ANSWERED) == SERVER_REQUEST_SUSPENDED)
        MHD_resume_connection(mhd);
}

/* ---- its end ---------------------------------------------------------------------------- */

static void record(const struct server_request *request, enum MHD_RequestTerminationCode how)
{
    int64_t duration = server_deadlines_now() - request->started_ns;
    bool broken = how != MHD_REQUEST_TERMINATED_COMPLETED_OK;
    bool late = broken && server_deadlines_late(request->service->deadlines, request->peer);
    int status = request->reply.status;
    if (status == 0) /* no answer of ours: the reaper's, or none */
        status = late ? 408 : 499;
    const struct server_route *route = request->match.route;
    server_metrics_request(request->service->metrics,
                           route != NULL ? route->class : SERVER_ROUTE_OTHER, status, duration);
    struct server_log_request line = {
        .id = request->id,
        .method = request->method,
        .path = request->path,
        .error = request->error.code != ENGINE_OK ? request->error.message
                 : late                           ? "the client was too slow"
                 : broken                         ? "the client left"
                                                  : NULL,
        .status = status,
        .bytes_in = request->received_bytes,
        .bytes_out = request->sent_bytes,
        .duration_ns = duration,
    };
    server_log_request(request->service->log, &line);
}

void server_connection_completed(void *argument, struct MHD_Connection *connection, void **state,
                                 enum MHD_RequestTerminationCode how)
{
    struct server_request *request = *state;
    (void)argument;
    (void)connection;
    if (request == NULL)
        return;
    *state = NULL;
    if (request->begun)
        record(request, how);
    const struct server_route *route = request->match.route;
    if (request->counted && route->handler->destroy != NULL)
        route->handler->destroy(request);
    server_reply_reset(request);
    server_deadlines_phase(request->service->deadlines, request->peer, SERVER_PHASE_IDLE);
    free(request->body);
    free(request);
}
