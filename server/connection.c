/* connection.c - see connection.h and request.h. */
#include "server/connection.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/limits.h"
#include "server/deadlines.h"
#include "server/lingering.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/origin.h"
#include "server/reply.h"
#include "server/shutdown.h"

/* Then the connection closes, and load spreads anew. */
enum { REQUESTS_PER_CONNECTION = 10000 };

/* ---- a connection ----------------------------------------------------------------------- */

/* libmicrohttpd is about to close the socket, and has shut down the sending side. A copy of the
 * descriptor keeps the connection. */
static bool lingers(struct server_service *service, const struct server_peer *peer)
{
    if (peer == NULL || !server_deadlines_lingers(service->deadlines, peer))
        return false;
    int descriptor = fcntl(peer->descriptor, F_DUPFD_CLOEXEC, 0);
    if (descriptor >= 0)
        server_lingering_take(service->lingering, descriptor);
    return descriptor >= 0;
}

/* The first connection of each I/O thread is the listener's own. */
static void prepare_thread(struct server_service *service)
{
    static _Thread_local bool is_ready;
    if (is_ready || !engine_prepare_thread())
        return;
    is_ready = true;
    atomic_fetch_add(&service->threads_ready, 1);
}

/* libmicrohttpd does not say that a request is over when it has no memory for the answer that it
 * gives itself (0.9.75). */
static void complete_forgotten(struct server_service *service, struct MHD_Connection *connection,
                               const struct server_peer *peer)
{
    void *state = peer != NULL ? peer->request : NULL;
    server_connection_completed(service, connection, &state, MHD_REQUEST_TERMINATED_WITH_ERROR);
}

void server_connection_notify(void *argument, struct MHD_Connection *connection, void **peer,
                              enum MHD_ConnectionNotificationCode what)
{
    struct server_service *service = argument;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        prepare_thread(service);
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *peer = server_deadlines_add(service->deadlines, info->connect_fd);
        return;
    }
    if (!lingers(service, *peer))
        server_metrics_connection(service->metrics, -1);
    complete_forgotten(service, connection, *peer);
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
    if (request == NULL || info == NULL || info->socket_context == NULL) {
        free(request);
        return NULL; /* no memory: the access handler closes the connection */
    }
    request->service = service;
    request->mhd = connection;
    request->peer = info->socket_context;
    request->peer->request = request;
    request->started_ns = server_deadlines_now();
    request->peer->awaited = true;
    server_framing_init(&request->framing, uri);
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
           strspn(text, allowed) >= length;
}

static void choose_id(struct server_request *request)
{
    const struct server_framing *framing = &request->framing;
    if (is_id(framing->request_id, framing->request_id_length))
        memcpy(request->id, framing->request_id, framing->request_id_length);
    else
        server_metrics_make_id(request->service->metrics, request->id, sizeof request->id);
}

static size_t max_body(const struct server_request *request)
{
    size_t own = request->match.route != NULL ? request->match.route->handler->max_body_bytes : 0;
    return own != 0 ? own : (size_t)request->service->options->max_body_bytes;
}

/* The most that is read of any body, served or not. */
static size_t read_limit(const struct server_request *request)
{
    size_t most = (size_t)request->service->options->max_body_bytes, here = max_body(request);
    return here > most ? here : most;
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

/* 0.9.75 takes what it does not understand for the end of the header, cuts values at a NUL, joins
 * folded lines, and takes a padded "chunked" for a coding that has no end. */
static enum engine_code check_library(struct server_request *request, const char *method,
                                      struct engine_error *err)
{
#if MHD_VERSION < 0x01000000
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (info == NULL || server_framing_hides(&request->framing, method, info->header_size))
        request->last = true;
    if (request->framing.coding.padded)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "Transfer-Encoding has white space behind it, which this server's "
                                "HTTP library cannot read");
#else
    (void)request, (void)method, (void)err;
#endif
    return ENGINE_OK;
}

static enum engine_code check_framing(struct server_request *request, const char *method,
                                      const char *version, struct engine_error *err)
{
    struct server_framing *framing = &request->framing;
    MHD_get_connection_values_n(request->mhd, MHD_HEADER_KIND, take_header, framing);
    choose_id(request);
    enum engine_code code = server_framing_check(framing, version, err);
    if (code == ENGINE_OK)
        code = check_library(request, method, err);
    request->broken = code != ENGINE_OK;
    return code;
}

/* Everything that can be refused before the body is sent. */
static enum engine_code begin(struct server_request *request, const char *url, const char *method,
                              const char *version, struct engine_error *err)
{
    snprintf(request->method, sizeof request->method, "%s", method);
    snprintf(request->path, sizeof request->path, "%s", url);
    ENGINE_TRY(check_framing(request, method, version, err));
    ENGINE_TRY(check_sender(request, url, method, err));
    ENGINE_TRY(server_routes_find(method, url, &request->match, err));
    ENGINE_TRY(check_declared(request, err));
    if (request->match.options)
        return ENGINE_OK;
    request->counted = true;
    const struct server_handler *handler = request->match.route->handler;
    return handler->begin != NULL ? handler->begin(request, err) : ENGINE_OK;
}

/* What a refused request held goes at once, however long its body takes to come. */
static void drop_work(struct server_request *request)
{
    if (request->counted && request->match.route->handler->destroy != NULL)
        request->match.route->handler->destroy(request);
    request->counted = false;
    free(request->body);
    request->body = NULL;
    request->body_bytes = request->body_capacity = 0;
}

/* A refusal given before the body has come is lost by proxies, and by clients that send first and
 * read then: the body is read and thrown away. Not so where nobody knows where it ends, where its
 * client waits for a word, and where it is too long to be read. */
static bool answers_at_once(const struct server_request *request)
{
    const struct server_framing *framing = &request->framing;
    return request->broken || (framing->has_body && server_framing_expects(framing)) ||
           (framing->content_length > 0 && (uint64_t)framing->content_length > read_limit(request));
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
    if (request->received_bytes > max_body(request))
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "the body is longer than %zu bytes, the most accepted here",
                                max_body(request));
    if (request->chunks > API_MAX_CHUNKS)
        return engine_error_set(err, ENGINE_TOO_LARGE, "the body has more than %d chunks",
                                API_MAX_CHUNKS);
    if (request->match.options)
        return ENGINE_OK;
    const struct server_handler *handler = request->match.route->handler;
    return handler->feed != NULL ? handler->feed(request, bytes, size, err)
                                 : gather(request, bytes, size, err);
}

/* A chunked body has no announced length, and libmicrohttpd takes no answer before its end. */
static bool is_endless(const struct server_request *request)
{
    return request->received_bytes > read_limit(request) || request->chunks > API_MAX_CHUNKS;
}

/* false: the client was told, and the connection is to be closed. */
static bool take_body(struct server_request *request, const char *bytes, size_t size)
{
    request->received_bytes += size;
    request->chunks += request->framing.content_length < 0;
    server_deadlines_received(request->service->deadlines, request->peer, size);
    if (request->error.code != ENGINE_OK)
        request->discarded_bytes += size;
    else if (feed(request, bytes, size, &request->error) != ENGINE_OK)
        drop_work(request);
    if (!is_endless(request))
        return true;
    server_reply_error(request, &request->error);
    server_reply_send(request);
    return false;
}

/* ---- its answer ------------------------------------------------------------------------- */

static void answer_options(struct server_request *request)
{
    request->reply.status = MHD_HTTP_OK;
    request->reply.allow = request->match.allow;
}

/* What follows may not be a request. */
static bool is_last(const struct server_request *request)
{
    return request->broken || request->last || request->error.code == ENGINE_LENGTH_REQUIRED;
}

static enum MHD_Result answer(struct server_request *request)
{
    if (request->error.code != ENGINE_OK)
        server_reply_error(request, &request->error);
    request->reply.close = is_last(request) || request->peer->requests >= REQUESTS_PER_CONNECTION;
    return server_reply_queue(request) ? MHD_YES : MHD_NO;
}

static enum MHD_Result finish(struct server_request *request)
{
    request->body_ns = server_deadlines_now();
    request->peer->awaited = is_last(request);
    if (request->error.code != ENGINE_OK)
        return answer(request);
    if (request->match.options)
        answer_options(request);
    else
        (void)request->match.route->handler->end(request, &request->error);
    /* Once suspended the request may already be another thread's: look at nothing else. */
    return request->suspended ? MHD_YES : answer(request);
}

static enum MHD_Result await_body(struct server_request *request)
{
    if (request->framing.has_body)
        server_deadlines_phase(request->service->deadlines, request->peer, SERVER_PHASE_BODY);
    return MHD_YES;
}

static enum MHD_Result refuse(struct server_request *request)
{
    drop_work(request);
    return answers_at_once(request) ? answer(request) : await_body(request);
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
        if (begin(request, url, method, version, &request->error) != ENGINE_OK)
            return refuse(request);
        return await_body(request);
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

/* What libmicrohttpd answered itself; 0: nothing. It calls a line of a chunk that is longer than
 * its memory an error of the server, which it is not. */
static int library_status(const struct server_request *request)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->mhd, MHD_CONNECTION_INFO_HTTP_STATUS);
    int status = info != NULL ? (int)info->http_status : 0;
    return status == 500 ? 400 : status;
}

/* How it ended; returns the status that counts. *ret_why: what the log says; NULL: nothing. */
static int outcome(const struct server_request *request, enum MHD_RequestTerminationCode how,
                   const char **ret_why)
{
    bool broken = how != MHD_REQUEST_TERMINATED_COMPLETED_OK;
    bool late = broken && server_deadlines_late(request->service->deadlines, request->peer);
    int library = request->reply.status == 0 && !late ? library_status(request) : 0;
    const char *own = request->error.code != ENGINE_OK ? request->error.message : NULL;
    *ret_why = own != NULL    ? own
               : late         ? "the client was too slow"
               : library != 0 ? "it is not HTTP"
               : broken       ? "the client left"
                              : NULL;
    if (request->reply.status != 0)
        return request->reply.status;
    return late ? 408 : library != 0 ? library : 499;
}

static void record(const struct server_request *request, enum MHD_RequestTerminationCode how)
{
    int64_t duration = server_deadlines_now() - request->started_ns;
    const char *why = NULL;
    int status = outcome(request, how, &why);
    const struct server_route *route = request->match.route;
    server_metrics_request(request->service->metrics,
                           route != NULL ? route->class : SERVER_ROUTE_OTHER, status, duration);
    struct server_log_request line = {
        .id = request->id,
        .method = request->method,
        .path = request->path,
        .error = why,
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
    request->peer->request = NULL;
    if (request->begun)
        record(request, how);
    if (request->discarded_bytes > 0)
        server_metrics_discarded(request->service->metrics, request->discarded_bytes);
    drop_work(request);
    server_reply_reset(request);
    server_deadlines_phase(request->service->deadlines, request->peer, SERVER_PHASE_IDLE);
    free(request);
}
