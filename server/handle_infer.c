/* handle_infer.c - inference: decode, plan, admit, compute, encode.
 *
 * The body is decoded while it arrives. Tiny calls are computed here, on the I/O thread, because
 * handing them over costs more than they do; the others are the engine's, and their answer is
 * rendered by the thread that finished them. A client who is alone has the I/O thread help with
 * calls that are not long: waking a worker and being woken by it takes as long as a small one.
 * Everything that can be refused is refused before the body is sent (headers) or before memory is
 * taken (plan). */
#include "server/handlers.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/admission.h"
#include "server/deadlines.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/reply.h"
#include "server/repository.h"
#include "server/shutdown.h"

/* About 50 microseconds on one thread: what suspending, two wake-ups and resuming cost. */
#define INLINE_FLOPS 1.5e6

/* Some ten milliseconds on one thread: who comes meanwhile has to wait for the I/O thread. */
#define LONG_FLOPS 2e9

/* Requests in a row that tell that a client is alone. */
enum { ALONE = 4 };

struct infer {
    struct server_request *request;
    struct server_model *model;
    struct api_decoder *decoder;
    struct api_infer_request *call;
    struct engine_plan *plan;
    struct engine_buffer outputs[ENGINE_OUTPUT_COUNT];
    struct server_admission_ticket ticket;
    int64_t planned_ns, computed_ns, batch;
};

/* ---- headers ---------------------------------------------------------------------------- */

static enum api_protocol choose_protocol(const struct server_request *request)
{
    static const char safetensors[] = "application/safetensors";
    const char *type = request->framing.content_type;
    if (request->match.route->class == SERVER_ROUTE_PREDICT)
        return API_PROTOCOL_TFSERVING;
    if (type != NULL && strncasecmp(type, safetensors, sizeof safetensors - 1) == 0)
        return API_PROTOCOL_SAFETENSORS;
    return API_PROTOCOL_OIP;
}

static enum engine_code create_decoder(struct server_request *request, struct infer *infer,
                                       struct engine_error *err)
{
    const struct server_framing *framing = &request->framing;
    struct api_request_head head = {
        .protocol = choose_protocol(request),
        .engine = request->service->engine,
        .model = infer->model->model,
        .defaults = &infer->model->settings.defaults,
        .model_name = infer->model->name,
        .model_version = infer->model->version,
        .content_type = framing->content_type,
        .content_encoding = server_framing_text(&framing->content_encoding),
        .accept = framing->accept,
        .accept_encoding = framing->accept_encoding,
        .header_content_length = server_framing_text(&framing->header_content_length),
        .content_length = framing->content_length,
        .max_body_bytes = (size_t)request->service->options->max_body_bytes,
    };
    return api_decoder_create(&head, &infer->decoder, err);
}

static enum engine_code begin(struct server_request *request, struct engine_error *err)
{
    struct server_service *service = request->service;
    struct server_model *model = NULL;
    ENGINE_TRY(server_repository_find(service->repository, request->match.model,
                                      request->match.version, &model, err));
    struct infer *infer = calloc(1, sizeof *infer);
    if (infer == NULL) {
        server_model_release(model);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the request");
    }
    request->work = infer;
    infer->request = request;
    infer->model = model;
    if (!request->framing.has_body)
        return engine_error_set(err, ENGINE_LENGTH_REQUIRED,
                                "the request has no body; Content-Length or chunked is needed");
    ENGINE_TRY(server_admission_peek(service->admission, err));
    return create_decoder(request, infer, err);
}

static enum engine_code feed(struct server_request *request, const void *bytes, size_t size,
                             struct engine_error *err)
{
    struct infer *infer = request->work;
    return api_decoder_feed(infer->decoder, bytes, size, err);
}

/* ---- computing -------------------------------------------------------------------------- */

static void count(struct infer *infer, bool success, int64_t encoded_ns)
{
    struct server_model_sample sample = {
        .success = success,
        .batch = infer->batch,
        .total_ns = encoded_ns - infer->request->body_ns,
        .input_ns = infer->planned_ns - infer->request->body_ns,
        .queue_ns = infer->request->reply.queue_ns,
        .infer_ns = infer->request->reply.compute_ns,
        .output_ns = infer->request->reply.encode_ns,
    };
    server_model_count(infer->model, &sample);
}

static void drop_call(struct infer *infer)
{
    struct engine *engine = infer->request->service->engine;
    engine_plan_destroy(infer->plan);
    infer->plan = NULL;
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        engine_buffer_give(engine, &infer->outputs[i]);
    if (infer->call != NULL)
        api_infer_request_destroy(infer->call);
    infer->call = NULL;
}

/* A job that was cancelled: its client left, or the drain ran out of time. */
static void fail(struct infer *infer, enum engine_code code, const struct engine_error *err,
                 bool gone)
{
    struct server_request *request = infer->request;
    if (code == ENGINE_CANCELLED && gone)
        server_metrics_cancelled(request->service->metrics);
    if (code == ENGINE_CANCELLED)
        engine_error_set(&request->error, ENGINE_UNAVAILABLE,
                         gone ? "the client left" : "the server is shutting down");
    else if (err != NULL && err->code != ENGINE_OK)
        request->error = *err;
    else
        engine_error_set(&request->error, code, "the call was not computed");
}

/* Renders the answer; any thread. What the call held is given back here, not on the I/O thread. */
static void conclude(struct infer *infer, enum engine_code code, const struct engine_error *err,
                     bool gone)
{
    struct server_request *request = infer->request;
    struct server_reply *reply = &request->reply;
    int64_t now = server_deadlines_now();
    int64_t started_ns = engine_plan_facts(infer->plan)->started_ns;
    if (started_ns < infer->planned_ns)
        started_ns = infer->planned_ns; /* computed here, or never begun */
    reply->queue_ns = started_ns - infer->planned_ns;
    reply->compute_ns = now - started_ns;
    if (code != ENGINE_OK)
        fail(infer, code, err, gone);
    else
        code =
            api_infer_encode(request->service->engine, infer->call, engine_plan_facts(infer->plan),
                             infer->outputs, &reply->infer, &request->error);
    int64_t encoded_ns = server_deadlines_now();
    reply->encode_ns = encoded_ns - now;
    if (code == ENGINE_OK) {
        reply->status = 200;
        reply->has_infer = true;
        reply->has_timing = true;
    }
    server_admission_leave(request->service->admission, &infer->ticket, code == ENGINE_OK);
    count(infer, code == ENGINE_OK, encoded_ns);
    drop_call(infer);
}

static void done(void *argument, enum engine_code code, const struct engine_error *err)
{
    struct infer *infer = argument;
    struct server_request *request = infer->request;
    bool gone = server_deadlines_unwatch(request->service->deadlines, request->peer);
    conclude(infer, code, err, gone);
    server_connection_resume(request); /* last: the request is the I/O thread's again */
}

/* The sooner of the request's timeout and --deadline-ms, from the end of the body. 0: none. */
static int64_t deadline(const struct infer *infer)
{
    const struct server_options *options = infer->request->service->options;
    uint64_t limit_us = (uint64_t)options->deadline_ms * 1000;
    uint64_t timeout_us = infer->call->timeout_us;
    if (timeout_us != 0 && (limit_us == 0 || timeout_us < limit_us))
        limit_us = timeout_us;
    return limit_us == 0 ? 0 : infer->request->body_ns + (int64_t)limit_us * 1000;
}

static enum engine_code bind_outputs(struct infer *infer, struct engine_error *err)
{
    const struct engine_plan_facts *facts = engine_plan_facts(infer->plan);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        if (facts->output_bytes[i] == 0)
            continue;
        ENGINE_TRY(engine_buffer_take(infer->request->service->engine, facts->output_bytes[i],
                                      &infer->outputs[i], err));
        engine_plan_output(infer->plan, (enum engine_output)i, infer->outputs[i].data);
    }
    return ENGINE_OK;
}

static enum engine_code prepare(struct infer *infer, struct engine_error *err)
{
    struct server_service *service = infer->request->service;
    ENGINE_TRY(api_decoder_finish(infer->decoder, &infer->call, err));
    ENGINE_TRY(engine_plan_create(service->engine, infer->model->model, &infer->call->call,
                                  &infer->plan, err));
    const struct engine_plan_facts *facts = engine_plan_facts(infer->plan);
    infer->batch = facts->batch;
    ENGINE_TRY(
        server_admission_enter(service->admission, facts, deadline(infer), &infer->ticket, err));
    return bind_outputs(infer, err);
}

static void compute_inline(struct infer *infer)
{
    struct engine_error err = {0};
    enum engine_code code = engine_run_inline(infer->request->service->engine, infer->plan, &err);
    conclude(infer, code, &err, false);
}

static void submit(struct infer *infer)
{
    struct server_request *request = infer->request;
    struct engine_job_options options = {
        .deadline_ns = deadline(infer),
        .priority = infer->call->priority,
        .done = done,
        .argument = infer,
    };
    struct engine *engine = request->service->engine;
    struct engine_job *job = NULL;
    bool is_long = engine_plan_facts(infer->plan)->flops > LONG_FLOPS, helps = false;
    server_connection_lend(request);
    if (!is_long && request->peer->streak >= ALONE)
        helps = engine_submit_helped(engine, infer->plan, &options, &job);
    else
        engine_submit(engine, infer->plan, &options, &job);
    server_deadlines_watch(request->service->deadlines, request->peer, job, is_long);
    if (helps)
        engine_help(engine, job);
    server_connection_suspend(request);
}

static enum engine_code end(struct server_request *request, struct engine_error *err)
{
    struct infer *infer = request->work;
    enum engine_code code = prepare(infer, err);
    infer->planned_ns = server_deadlines_now();
    if (code != ENGINE_OK) {
        server_admission_leave(request->service->admission, &infer->ticket, false);
        count(infer, false, infer->planned_ns);
        return code;
    }
    if (engine_plan_facts(infer->plan)->flops <= INLINE_FLOPS)
        compute_inline(infer);
    else
        submit(infer);
    return request->suspended ? ENGINE_OK : request->error.code;
}

static void destroy(struct server_request *request)
{
    struct infer *infer = request->work;
    if (infer == NULL)
        return;
    drop_call(infer);
    api_decoder_destroy(infer->decoder);
    server_admission_leave(request->service->admission, &infer->ticket, false);
    server_model_release(infer->model);
    free(infer);
}

const struct server_handler server_handle_infer = {
    .begin = begin, .feed = feed, .end = end, .destroy = destroy};
const struct server_handler server_handle_infer_predict = {
    .begin = begin, .feed = feed, .end = end, .destroy = destroy};
