/* command_bench.c - attn bench: requests a second and latencies of a served model, and the server's
 * own share of them by its statistics.
 *
 * Each client keeps one connection and sends the next request when the answer is there; its first
 * one is not counted. A request that the server refuses (429, 503) is a failure here and is not
 * repeated: pauses would look like latency. It does not look at the answers: attn infer does. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/client/client.h"
#include "api/client/commands.h"
#include "engine/formats/json.h"

enum { MAX_CLIENTS = 256, MAX_TIMES = 1 << 20 };

struct wishes {
    const char *url, *model;
    long batch, tokens, width, clients, seconds;
    bool json_body, scores;
    char path[256];
    char *body;
    size_t size;
    const char *const *headers;
};

static const char *const json_headers[] = {"Content-Type: application/json", NULL};
static const char *const safetensors_headers[] = {"Content-Type: application/safetensors", NULL};

struct worker {
    pthread_t thread;
    const struct wishes *wishes;
    double *times;     /* ms */
    double start, end; /* ms, of what is counted */
    size_t count, failed;
    struct engine_error err; /* the first failure */
};

/* What the server counted for the model so far, in ns; requests is 0 where it says nothing. */
struct served {
    double requests, queue, input, infer, output;
};

struct summary {
    size_t count, failed;
    double seconds, mean, p50, p90, p99, max; /* ms but seconds */
    struct served server;                     /* during the run */
    struct engine_error err;                  /* one of the failures */
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static enum engine_code post(struct api_client *client, const struct wishes *wishes,
                             struct engine_error *err)
{
    const struct api_client_request request = {wishes->path, wishes->headers, wishes->body,
                                               wishes->size};
    char *answer = NULL;
    size_t size = 0;
    enum engine_code code = api_client_ask(client, &request, &answer, &size, err);
    free(answer);
    return code;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct api_client *client = NULL;
    const struct api_client_options once = {.attempts = 1};
    struct engine_error ignored = {0};
    enum engine_code code = api_client_open(w->wishes->url, &once, &client, &w->err);
    if (code == ENGINE_OK)
        (void)post(client, w->wishes, &ignored); /* connects, warms up; what fails fails again */
    w->start = w->end = now_ms();
    double end = w->start + (double)w->wishes->seconds * 1e3;
    while (code == ENGINE_OK && w->end < end && w->count < MAX_TIMES) {
        struct engine_error err = {0};
        double start = w->end;
        enum engine_code answer = post(client, w->wishes, &err);
        w->end = now_ms();
        if (answer == ENGINE_OK)
            w->times[w->count++] = w->end - start;
        else if (w->failed++ == 0)
            w->err = err;
    }
    api_client_close(client);
    return NULL;
}

/* ---- the request --------------------------------------------------------------------------- */

/* The query's width, as the model's metadata tell it. */
static enum engine_code find_width(struct wishes *wishes, struct engine_error *err)
{
    struct api_client *client = NULL;
    char path[256], *text = NULL;
    snprintf(path, sizeof path, "/v2/models/%s", wishes->model);
    enum engine_code code = api_client_open(wishes->url, NULL, &client, err);
    if (code == ENGINE_OK)
        code = api_client_document(client, path, NULL, &text, err);
    json_error_t where;
    json_t *root = NULL;
    if (code == ENGINE_OK)
        code = engine_json_load(text, strlen(text), 0, &root, &where, err);
    json_t *shape = json_object_get(json_array_get(json_object_get(root, "inputs"), 0), "shape");
    size_t rank = json_array_size(shape);
    wishes->width = rank == 3 ? (long)json_integer_value(json_array_get(shape, rank - 1)) : -1;
    json_decref(root);
    free(text);
    api_client_close(client);
    if (code == ENGINE_OK && wishes->width < 1)
        code = engine_error_set(err, ENGINE_UNSUPPORTED,
                                "model %.80s has no query [B,T,C] of known width", wishes->model);
    return code;
}

static float value_at(size_t i)
{
    return (float)(i * 2654435761u % 2001) / 1000.0f - 1.0f;
}

static enum engine_code make_json(struct wishes *wishes, size_t count, struct engine_error *err)
{
    char *body = malloc(count * 16 + 512), *at = body;
    if (body == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    at += sprintf(at,
                  "{\"inputs\":[{\"name\":\"query\",\"datatype\":\"FP32\",\"shape\":[%ld,%ld,%ld],"
                  "\"data\":[",
                  wishes->batch, wishes->tokens, wishes->width);
    for (size_t i = 0; i < count; i++)
        at += sprintf(at, i > 0 ? ",%.9g" : "%.9g", (double)value_at(i));
    at += sprintf(at, "]}],\"parameters\":{\"return_attention_scores\":%s}}",
                  wishes->scores ? "true" : "false");
    wishes->body = body;
    wishes->size = (size_t)(at - body);
    wishes->headers = json_headers;
    return ENGINE_OK;
}

static enum engine_code make_binary(struct wishes *wishes, size_t count, struct engine_error *err)
{
    const char *metadata[] = {"return_attention_scores", wishes->scores ? "true" : "false", NULL};
    struct engine_named_tensor query = {
        "query",
        {.dtype = ENGINE_F32, .rank = 3, .shape = {wishes->batch, wishes->tokens, wishes->width}}};
    char *header = NULL;
    size_t size = 0;
    ENGINE_TRY(engine_safetensors_header(&query, 1, metadata, &header, &size, err));
    char *body = realloc(header, size + count * sizeof(float));
    if (body == NULL) {
        free(header);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    }
    for (size_t i = 0; i < count; i++) {
        float value = value_at(i);
        memcpy(body + size + i * sizeof value, &value, sizeof value);
    }
    wishes->body = body;
    wishes->size = size + count * sizeof(float);
    wishes->headers = safetensors_headers;
    return ENGINE_OK;
}

static enum engine_code make_body(struct wishes *wishes, struct engine_error *err)
{
    size_t count = 0;
    snprintf(wishes->path, sizeof wishes->path, "/v2/models/%s/infer", wishes->model);
    ENGINE_TRY(find_width(wishes, err));
    if (!engine_tensor_mul((size_t)wishes->batch * (size_t)wishes->tokens, (size_t)wishes->width,
                           &count) ||
        count > (size_t)1 << 30)
        return engine_error_set(err, ENGINE_TOO_LARGE, "the query would be too large");
    return wishes->json_body ? make_json(wishes, count, err) : make_binary(wishes, count, err);
}

/* ---- the server's statistics --------------------------------------------------------------- */

static double sum_ns(const json_t *stats, const char *name)
{
    return json_number_value(json_object_get(json_object_get(stats, name), "ns"));
}

/* A server without statistics is measured all the same. */
static struct served ask_served(const struct wishes *wishes)
{
    struct engine_error err = {0};
    struct api_client *client = NULL;
    char path[256], *text = NULL;
    snprintf(path, sizeof path, "/v2/models/%s/stats", wishes->model);
    enum engine_code code = api_client_open(wishes->url, NULL, &client, &err);
    if (code == ENGINE_OK)
        code = api_client_document(client, path, NULL, &text, &err);
    json_error_t where;
    json_t *root = NULL;
    if (code == ENGINE_OK)
        code = engine_json_load(text, strlen(text), 0, &root, &where, &err);
    json_t *stats =
        json_object_get(json_array_get(json_object_get(root, "model_stats"), 0), "inference_stats");
    struct served ret = {
        .requests = json_number_value(json_object_get(json_object_get(stats, "success"), "count")),
        .queue = sum_ns(stats, "queue"),
        .input = sum_ns(stats, "compute_input"),
        .infer = sum_ns(stats, "compute_infer"),
        .output = sum_ns(stats, "compute_output")};
    json_decref(root);
    free(text);
    api_client_close(client);
    return ret;
}

/* In ms a request, between two looks. */
static struct served served_between(const struct served *before, const struct served *after)
{
    double requests = after->requests - before->requests, scale = 1e-6 / requests;
    if (requests < 1)
        return (struct served){.requests = 0};
    return (struct served){
        requests, (after->queue - before->queue) * scale, (after->input - before->input) * scale,
        (after->infer - before->infer) * scale, (after->output - before->output) * scale};
}

/* ---- the answer ---------------------------------------------------------------------------- */

static void print_text(const struct wishes *w, const struct summary *s)
{
    printf("%s, batch %ld, tokens %ld, %s%s, %ld client(s), %.1f s\n", w->model, w->batch,
           w->tokens, w->json_body ? "JSON" : "binary", w->scores ? " with scores" : "", w->clients,
           s->seconds);
    printf("  requests    %zu, %zu failed, %.1f a second\n", s->count, s->failed,
           (double)s->count / s->seconds);
    if (s->count == 0)
        return;
    printf("  latency ms  mean %.3f, p50 %.3f, p90 %.3f, p99 %.3f, max %.3f\n", s->mean, s->p50,
           s->p90, s->p99, s->max);
    if (s->server.requests > 0)
        printf("  server ms   queue %.3f, input %.3f, compute %.3f, output %.3f; computing is "
               "%.0f %% of the latency\n",
               s->server.queue, s->server.input, s->server.infer, s->server.output,
               100 * s->server.infer / s->mean);
}

static enum engine_code print_json(const struct wishes *w, const struct summary *s,
                                   struct engine_error *err)
{
    bool known = s->server.requests > 0 && s->mean > 0;
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:s, s:b, s:I, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "model",
        w->model, "batch", (json_int_t)w->batch, "tokens", (json_int_t)w->tokens, "body",
        w->json_body ? "json" : "binary", "scores", (int)w->scores, "clients",
        (json_int_t)w->clients, "seconds", s->seconds, "requests", (json_int_t)s->count, "failed",
        (json_int_t)s->failed, "requests_per_second", (double)s->count / s->seconds, "mean_ms",
        s->mean, "p50_ms", s->p50, "p90_ms", s->p90, "p99_ms", s->p99, "max_ms", s->max);
    if (known)
        root = engine_json_set(root, "server",
                               json_pack("{s:f, s:f, s:f, s:f, s:f}", "queue_ms", s->server.queue,
                                         "input_ms", s->server.input, "compute_ms", s->server.infer,
                                         "output_ms", s->server.output, "compute_share",
                                         s->server.infer / s->mean));
    return api_commands_print(root, JSON_REAL_PRECISION(6), err);
}

/* ---- the run ------------------------------------------------------------------------------- */

/* Gathers the workers' times in all, sorts them. */
static void sum_up(const struct worker *workers, long clients, double *all, struct summary *ret)
{
    double start = workers[0].start, end = workers[0].end, sum = 0, *to = all;
    for (long i = 0; i < clients; i++) {
        const struct worker *w = &workers[i];
        memmove(to, w->times, w->count * sizeof *to);
        to += w->count;
        ret->count += w->count;
        ret->failed += w->failed;
        start = w->start < start ? w->start : start;
        end = w->end > end ? w->end : end;
        if (w->err.code != ENGINE_OK)
            ret->err = w->err;
    }
    ret->seconds = end > start ? (end - start) / 1e3 : 1e-9;
    if (ret->count == 0)
        return;
    qsort(all, ret->count, sizeof *all, by_value);
    for (size_t i = 0; i < ret->count; i++)
        sum += all[i];
    ret->mean = sum / (double)ret->count;
    ret->p50 = all[ret->count / 2];
    ret->p90 = all[ret->count * 9 / 10];
    ret->p99 = all[ret->count * 99 / 100];
    ret->max = all[ret->count - 1];
}

static int measure(struct wishes *wishes, bool json)
{
    static struct worker workers[MAX_CLIENTS];
    double *all = malloc((size_t)wishes->clients * MAX_TIMES * sizeof *all);
    struct summary summary = {0};
    if (all == NULL) {
        (void)engine_error_set(&summary.err, ENGINE_OUT_OF_MEMORY, "no memory for the times");
        return api_commands_fail(&summary.err);
    }
    struct served before = ask_served(wishes);
    long started = 0;
    for (; started < wishes->clients; started++) {
        struct worker *w = &workers[started];
        *w = (struct worker){.wishes = wishes, .times = all + started * MAX_TIMES};
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            break;
    }
    for (long i = 0; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    struct served after = ask_served(wishes);
    sum_up(workers, started, all, &summary);
    summary.server = served_between(&before, &after);
    if (started < wishes->clients)
        (void)engine_error_set(&summary.err, ENGINE_OUT_OF_MEMORY,
                               "only %ld of %ld clients could be started", started,
                               wishes->clients);
    free(all);
    if (json)
        (void)print_json(wishes, &summary, &summary.err);
    else
        print_text(wishes, &summary);
    return summary.err.code != ENGINE_OK ? api_commands_fail(&summary.err) : 0;
}

int api_command_bench_run(int argc, char **argv)
{
    const char *batch = "1", *tokens = "16", *clients = "8", *seconds = "5";
    const char *positional[2] = {NULL, NULL};
    struct wishes wishes = {.url = NULL};
    bool json = false;
    const struct api_commands_option options[] = {{"--batch", &batch, NULL},
                                                  {"--tokens", &tokens, NULL},
                                                  {"--clients", &clients, NULL},
                                                  {"--seconds", &seconds, NULL},
                                                  {"--json-body", NULL, &wishes.json_body},
                                                  {"--scores", NULL, &wishes.scores},
                                                  {"--json", NULL, &json},
                                                  {NULL, NULL, NULL}};
    int status = api_commands_read(argc, argv,
                                   "bench URL MODEL [--batch 1] [--tokens 16] [--clients 8] "
                                   "[--seconds 5] [--json-body] [--scores] [--json]\n\n"
                                   "Sends [batch, tokens, width] queries from so many clients, one "
                                   "connection each.\nPrints requests a second, latencies, and "
                                   "what the server says it spent on them.\n\n"
                                   "  --json-body  numbers as JSON text; else safetensors\n"
                                   "  --scores     ask for the attention scores too\n"
                                   "  --json       the figures as JSON\n\n"
                                   "Exit status 1 if a request failed; a refused one is not "
                                   "repeated.",
                                   options, positional, 2, 2);
    if (status >= 0)
        return status;
    if (!api_commands_number("--batch", batch, 1, 65536, &wishes.batch) ||
        !api_commands_number("--tokens", tokens, 1, 1 << 20, &wishes.tokens) ||
        !api_commands_number("--clients", clients, 1, MAX_CLIENTS, &wishes.clients) ||
        !api_commands_number("--seconds", seconds, 1, 3600, &wishes.seconds))
        return 2;
    wishes.url = positional[0];
    wishes.model = positional[1];
    struct engine_error err = {0};
    if (make_body(&wishes, &err) != ENGINE_OK)
        return api_commands_fail(&err);
    status = measure(&wishes, json);
    free(wishes.body);
    return status;
}
