/* reply.c - see reply.h. */
#include "server/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/socket.h>
#include <time.h>

#include <microhttpd.h>

#include "api/error_body.h"
#include "engine/engine.h"
#include "server/deadlines.h"
#include "server/options.h"
#include "server/origin.h"
#include "server/shutdown.h"

enum {
    ERROR_BODY_BYTES = 2048,
    RETRY_AFTER_S = 1,
    SMALL_BYTES = 64 * 1024 /* cheaper to copy than to send apart from the headers */
};

/* What a response keeps until libmicrohttpd has sent it, perhaps long after the request. */
struct parcel {
    struct engine *engine;
    struct api_reply infer;
};

enum engine_code server_reply_text(struct server_request *request, char *text,
                                   struct engine_error *err)
{
    if (text == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the answer");
    request->reply.status = MHD_HTTP_OK;
    request->reply.text = text;
    request->reply.text_bytes = strlen(text);
    return ENGINE_OK;
}

void server_reply_error(struct server_request *request, const struct engine_error *err)
{
    struct server_reply *reply = &request->reply;
    server_reply_reset(request);
    if (&request->error != err)
        request->error = *err;
    reply->status = api_error_body_status(err->code);
    reply->text = malloc(ERROR_BODY_BYTES);
    if (reply->text != NULL) {
        reply->text_bytes = api_error_body_write(err, reply->text, ERROR_BODY_BYTES);
    } else {
        static const char short_of_memory[] = "{\"error\":\"no memory for the answer\"}";
        reply->status = MHD_HTTP_SERVICE_UNAVAILABLE;
        reply->static_text = short_of_memory;
        reply->text_bytes = sizeof short_of_memory - 1;
    }
    if (reply->status == MHD_HTTP_TOO_MANY_REQUESTS ||
        reply->status == MHD_HTTP_SERVICE_UNAVAILABLE)
        reply->retry_after_s = RETRY_AFTER_S;
    if (reply->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        reply->allow = request->match.allow;
    reply->accept_encoding = reply->status == MHD_HTTP_UNSUPPORTED_MEDIA_TYPE;
}

void server_reply_reset(struct server_request *request)
{
    free(request->reply.text);
    if (request->reply.has_infer)
        api_reply_reset(request->service->engine, &request->reply.infer);
    memset(&request->reply, 0, sizeof request->reply);
}

static void give_back(void *argument)
{
    struct parcel *parcel = argument;
    api_reply_reset(parcel->engine, &parcel->infer);
    free(parcel);
}

/* libmicrohttpd sends the headers of an iovec by themselves, which wakes the client twice; one
 * buffer goes out together with them. */
static struct MHD_Response *response_of_small(struct api_reply *infer)
{
    char *bytes = malloc(infer->bytes + 1);
    size_t used = 0;
    if (bytes == NULL)
        return NULL;
    for (int i = 0; i < infer->parts_count; i++) {
        memcpy(bytes + used, infer->parts[i].iov_base, infer->parts[i].iov_len);
        used += infer->parts[i].iov_len;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(used, bytes, MHD_RESPMEM_MUST_FREE);
    if (response == NULL)
        free(bytes);
    return response;
}

/* Nothing is copied: the buffers are given back when libmicrohttpd is done with them. */
static struct MHD_Response *response_of_large(struct engine *engine, const struct api_reply *infer)
{
    struct parcel *parcel = malloc(sizeof *parcel);
    struct MHD_IoVec parts[API_REPLY_PARTS];
    struct MHD_Response *response;
    if (parcel == NULL)
        return NULL;
    *parcel = (struct parcel){engine, *infer};
    for (int i = 0; i < infer->parts_count; i++)
        parts[i] = (struct MHD_IoVec){infer->parts[i].iov_base, infer->parts[i].iov_len};
    if (infer->parts_count == 1)
        response = MHD_create_response_from_buffer_with_free_callback_cls(
            parts[0].iov_len, infer->parts[0].iov_base, give_back, parcel);
    else
        response =
            MHD_create_response_from_iovec(parts, (unsigned)infer->parts_count, give_back, parcel);
    if (response == NULL)
        free(parcel);
    return response;
}

static struct MHD_Response *response_of_infer(struct server_request *request)
{
    struct api_reply *infer = &request->reply.infer;
    request->sent_bytes = infer->bytes;
    if (infer->bytes <= SMALL_BYTES)
        return response_of_small(infer);
    struct MHD_Response *response = response_of_large(request->service->engine, infer);
    if (response != NULL)
        request->reply.has_infer = false; /* its buffers are the response's now */
    return response;
}

static struct MHD_Response *response_of_text(struct server_request *request)
{
    struct server_reply *reply = &request->reply;
    request->sent_bytes = reply->text_bytes;
    if (reply->text == NULL) {
        const char *text = reply->static_text != NULL ? reply->static_text : "";
        return MHD_create_response_from_buffer(reply->text_bytes, (void *)(uintptr_t)text,
                                               MHD_RESPMEM_PERSISTENT);
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(reply->text_bytes, reply->text, MHD_RESPMEM_MUST_FREE);
    if (response != NULL)
        reply->text = NULL;
    return response;
}

/* Headers that find no memory are an answer that means something else: none is sent then. */
struct headers {
    struct MHD_Response *response;
    bool failed;
};

static void add(struct headers *headers, const char *name, const char *value)
{
    if (MHD_add_response_header(headers->response, name, value) != MHD_YES)
        headers->failed = true;
}

static void add_number(struct headers *headers, const char *name, long long value)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", value);
    add(headers, name, text);
}

static void add_type(struct headers *headers, const struct server_reply *reply, bool is_infer)
{
    const char *type = reply->content_type;
    char text[24];
    if (is_infer) {
        type = reply->infer.content_type;
        if (reply->infer.content_encoding != NULL)
            add(headers, "Content-Encoding", reply->infer.content_encoding);
        if (reply->infer.header_content_length >= 0)
            add_number(headers, "Inference-Header-Content-Length",
                       reply->infer.header_content_length);
        add(headers, "X-Attnd-Precision", reply->infer.precision);
        if (reply->infer.has_seed) {
            snprintf(text, sizeof text, "%llu", (unsigned long long)reply->infer.seed);
            add(headers, "X-Attnd-Seed", text);
        }
    }
    add(headers, "Content-Type", type != NULL ? type : "application/json");
}

/* What a browser asks before it shows an answer to a page of another origin. Caches are told on
 * every answer, also on those without Origin. */
static void add_cors(struct headers *headers, const struct server_request *request)
{
    const struct server_options *options = request->service->options;
    const char *origin = request->framing.origin;
    if (options->cors_origins.count == 0)
        return;
    add(headers, "Vary", "Origin");
    if (!server_origin_is_granted(options, origin))
        return;
    add(headers, "Access-Control-Allow-Origin", origin);
    add(headers, "Access-Control-Expose-Headers",
        "Inference-Header-Content-Length, X-Request-Id, Server-Timing, "
        "Retry-After, Allow");
    if (!request->match.options)
        return;
    add(headers, "Access-Control-Allow-Methods", request->match.allow);
    add(headers, "Access-Control-Allow-Headers",
        "Accept, Authorization, Content-Encoding, Content-Type, "
        "Inference-Header-Content-Length, X-Request-Id");
    add(headers, "Access-Control-Allow-Private-Network", "true");
    add(headers, "Access-Control-Max-Age", "600");
}

static void add_all(struct headers *headers, const struct server_request *request)
{
    const struct server_reply *reply = &request->reply;
    char text[128];
    add(headers, "X-Content-Type-Options", "nosniff");
    add(headers, "X-Request-Id", request->id);
    add_cors(headers, request);
    if (reply->allow != NULL)
        add(headers, "Allow", reply->allow);
    if (reply->accept_encoding)
        add(headers, "Accept-Encoding", "gzip, deflate");
    if (reply->retry_after_s > 0)
        add_number(headers, "Retry-After", reply->retry_after_s);
    if (reply->close || server_shutdown_draining(request->service->shutdown))
        add(headers, "Connection", "close");
    if (reply->has_timing) {
        snprintf(text, sizeof text, "queue;dur=%.3f, compute;dur=%.3f, encode;dur=%.3f",
                 (double)reply->queue_ns / 1e6, (double)reply->compute_ns / 1e6,
                 (double)reply->encode_ns / 1e6);
        add(headers, "Server-Timing", text);
    }
}

/* No answer at all, and the log says so. */
static bool give_up(struct server_request *request)
{
    request->reply.status = MHD_HTTP_SERVICE_UNAVAILABLE;
    if (request->error.code == ENGINE_OK)
        engine_error_set(&request->error, ENGINE_OUT_OF_MEMORY, "no memory for the answer");
    return false;
}

bool server_reply_queue(struct server_request *request)
{
    struct server_reply *reply = &request->reply;
    bool is_infer = reply->has_infer;
    struct MHD_Response *response =
        is_infer ? response_of_infer(request) : response_of_text(request);
    struct headers headers = {.response = response};
    if (response == NULL)
        return give_up(request);
    if (is_infer || request->sent_bytes > 0)
        add_type(&headers, reply, is_infer);
    add_all(&headers, request);
    server_deadlines_reply(request->service->deadlines, request->peer, request->sent_bytes);
    bool queued = !headers.failed &&
                  MHD_queue_response(request->mhd, (unsigned)reply->status, response) == MHD_YES;
    MHD_destroy_response(response);
    return queued || give_up(request);
}

static void write_date(char *text, size_t size)
{
    time_t now = time(NULL);
    struct tm parts;
    strftime(text, size, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &parts));
}

void server_reply_send(struct server_request *request)
{
    const struct server_reply *reply = &request->reply;
    char text[ERROR_BODY_BYTES + 512], date[40];
    write_date(date, sizeof date);
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: application/json\r\n"
                        "X-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\n"
                        "Connection: close\r\nContent-Length: %zu\r\n\r\n%.*s",
                        reply->status, MHD_get_reason_phrase_for((unsigned)reply->status), date,
                        request->id, reply->text_bytes, (int)reply->text_bytes,
                        reply->text != NULL ? reply->text : "");
    request->sent_bytes = reply->text_bytes;
    (void)!send(request->peer->descriptor, text, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
}
