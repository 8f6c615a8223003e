/* command_bench.c - attn bench: requests a second and latencies of a served model, and the server's
 * own share of them by its statistics.
 *
 * Each client keeps one connection and sends the next request when the answer is there; its first
 * one is not counted. A request that the server refuses (429, 503) is a failure here and is not
 * repeated: pauses would look like latency. Any other 4xx ends the run at once: what was sent once
 * is what would be sent again. It does not look at the answers: attn infer does. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/client/bench_request.h"
#include "api/client/client.h"
#include "api/client/commands.h"
#include "engine/formats/json.h"

enum { MAX_CLIENTS = 256, MAX_TIMES = 1 << 20 };

struct wishes {
    const char *url;
    struct api_bench_request_wishes call;
    long clients, seconds;
    bool json; /* the figures as JSON */
};

/* What the workers share. */
struct run {
    const struct wishes *wishes;
    struct api_bench_request request;
    atomic_bool ended;       /* by a request that is refused for what it is */
    struct engine_error err; /* that refusal; whoever ended the run wrote it */
};

struct worker {
    pthread_t thread;
    struct run *run;
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

/* True for what the server says of the request, not of its own load. */
static bool refused_for_good(enum engine_code code)
{
    switch (code) {
    case ENGINE_INVALID_ARGUMENT:
    case ENGINE_SHAPE_MISMATCH:
    case ENGINE_UNAUTHORIZED:
    case ENGINE_FORBIDDEN:
    case ENGINE_NOT_FOUND:
    case ENGINE_METHOD:
    case ENGINE_LENGTH_REQUIRED:
    case ENGINE_TOO_LARGE:
    case ENGINE_MEDIA_TYPE:
        return true;
    default:
        return false;
    }
}

static enum engine_code post(struct api_client *client, struct run *run, struct engine_error *err)
{
    char *answer = NULL;
    size_t size = 0;
    enum engine_code code = api_client_ask(client, &run->request.request, &answer, &size, err);
    free(answer);
    if (refused_for_good(code) && !atomic_exchange(&run->ended, true))
        run->err = *err;
    return code;
}

/* One request after the other, until the time is over. */
static void measure_client(struct worker *w, struct api_client *client)
{
    double end = w->start + (double)w->run->wishes->seconds * 1e3;
    while (w->end < end && w->count < MAX_TIMES && !atomic_load(&w->run->ended)) {
        struct engine_error err = {0};
        double start = w->end;
        enum engine_code answer = post(client, w->run, &err);
        w->end = now_ms();
        if (answer == ENGINE_OK)
            w->times[w->count++] = w->end - start;
        else if (w->failed++ == 0)
            w->err = err;
    }
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct api_client *client = NULL;
    const struct api_client_options once = {.attempts = 1};
    struct engine_error first = {0};
    enum engine_code code = api_client_open(w->run->wishes->url, &once, &client, &w->err);
    if (code == ENGINE_OK)
        (void)post(client, w->run, &first); /* connects, warms up; what fails fails again */
    w->start = w->end = now_ms();
    if (code == ENGINE_OK)
        measure_client(w, client);
    api_client_close(client);
    return NULL;
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
    char path[API_CLIENT_PATH_BYTES], *text = NULL;
    enum engine_code code = api_client_open(wishes->url, NULL, &client, &err);
    if (code == ENGINE_OK)
        code = api_client_path(path, "/v2/models/", wishes->call.model, "/stats", &err);
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
    const struct api_bench_request_wishes *call = &w->call;
    printf("%s, batch %ld, tokens %ld, %s%s, %ld client(s), %.1f s\n", call->model, call->batch,
           call->tokens, call->json ? "JSON" : "binary", call->scores ? " with scores" : "",
           w->clients, s->seconds);
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
    const struct api_bench_request_wishes *call = &w->call;
    bool known = s->server.requests > 0 && s->mean > 0;
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:s, s:b, s:I, s:f, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "model",
        call->model, "batch", (json_int_t)call->batch, "tokens", (json_int_t)call->tokens, "body",
        call->json ? "json" : "binary", "scores", (int)call->scores, "clients",
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

static void run_clients(struct run *run, double *times, struct summary *ret)
{
    static struct worker workers[MAX_CLIENTS];
    const struct wishes *wishes = run->wishes;
    struct served before = ask_served(wishes);
    long started = 0;
    for (; started < wishes->clients; started++) {
        struct worker *w = &workers[started];
        *w = (struct worker){.run = run, .times = times + started * MAX_TIMES};
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            break;
    }
    for (long i = 0; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    struct served after = ask_served(wishes);
    sum_up(workers, started, times, ret);
    ret->server = served_between(&before, &after);
    if (started < wishes->clients)
        (void)engine_error_set(&ret->err, ENGINE_OUT_OF_MEMORY,
                               "only %ld of %ld clients could be started", started,
                               wishes->clients);
}

static int measure(struct run *run)
{
    const struct wishes *wishes = run->wishes;
    double *times = malloc((size_t)wishes->clients * MAX_TIMES * sizeof *times);
    struct summary summary = {0};
    if (times == NULL) {
        (void)engine_error_set(&summary.err, ENGINE_OUT_OF_MEMORY, "no memory for the times");
        return api_commands_fail(&summary.err);
    }
    run_clients(run, times, &summary);
    free(times);
    if (atomic_load(&run->ended))
        return api_commands_fail(&run->err);
    if (wishes->json)
        (void)print_json(wishes, &summary, &summary.err);
    else
        print_text(wishes, &summary);
    return summary.err.code != ENGINE_OK ? api_commands_fail(&summary.err) : 0;
}

/* Returns -1 to go on, else the exit status. */
static int read_wishes(int argc, char **argv, struct wishes *ret)
{
    const char *batch = "1", *tokens = "16", *clients = "8", *seconds = "5";
    const char *positional[2] = {NULL, NULL};
    const struct api_commands_option options[] = {{"--batch", &batch, NULL},
                                                  {"--tokens", &tokens, NULL},
                                                  {"--clients", &clients, NULL},
                                                  {"--seconds", &seconds, NULL},
                                                  {"--json-body", NULL, &ret->call.json},
                                                  {"--scores", NULL, &ret->call.scores},
                                                  {"--json", NULL, &ret->json},
                                                  {NULL, NULL, NULL}};
    int status = api_commands_read(
        argc, argv,
        "bench URL MODEL [--batch 1] [--tokens 16] [--clients 8] "
        "[--seconds 5] [--json-body] [--scores] [--json]\n\n"
        "Sends queries to MODEL of the server at URL, for so many --seconds, from so many\n"
        "--clients, one connection each. A query is [--batch, --tokens, the layer's width]; a\n"
        "layer that reuses scores gets scores of its own as well. Prints requests a second,\n"
        "latencies, and what the server says it spent on them.\n\n"
        "  --json-body  numbers as JSON text; else safetensors\n"
        "  --scores     ask for the attention scores too\n"
        "  --json       the figures as JSON\n\n"
        "Exit status 1 if a request failed; a refused one is not repeated. An answer 4xx other\n"
        "than 429 ends the run at once, without figures.",
        options, positional, 2, 2);
    if (status >= 0)
        return status;
    ret->url = positional[0];
    ret->call.model = positional[1];
    bool good = api_commands_number("--batch", batch, 1, 65536, &ret->call.batch) &&
                api_commands_number("--tokens", tokens, 1, 1 << 20, &ret->call.tokens) &&
                api_commands_number("--clients", clients, 1, MAX_CLIENTS, &ret->clients) &&
                api_commands_number("--seconds", seconds, 1, 3600, &ret->seconds);
    return good ? -1 : 2;
}

int api_command_bench_run(int argc, char **argv)
{
    struct wishes wishes = {.url = NULL};
    struct run run = {.wishes = &wishes};
    struct engine_error err = {0};
    struct api_client *client = NULL;
    int status = read_wishes(argc, argv, &wishes);
    if (status >= 0)
        return status;
    enum engine_code code = api_client_open(wishes.url, NULL, &client, &err);
    if (code == ENGINE_OK)
        code = api_bench_request_make(client, &wishes.call, &run.request, &err);
    api_client_close(client);
    status = code == ENGINE_OK ? measure(&run) : api_commands_fail(&err);
    api_bench_request_reset(&run.request);
    return status;
}
