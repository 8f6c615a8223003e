/* command_bench.c - attn bench: requests a second and latencies of a served model. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "api/client/client.h"
#include "api/client/commands.h"

enum { MAX_CLIENTS = 256, MAX_TIMES = 1 << 20 };

struct wishes {
    const char *url, *model;
    long batch, tokens, width, clients, seconds;
    bool json_body, scores;
    char path[256];
    char *body;
    size_t size;
    const char *type;
};

struct worker {
    pthread_t thread;
    const struct wishes *wishes;
    double *times; /* ms */
    size_t count, failed;
    struct engine_error err; /* the first failure */
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

static void *work(void *argument)
{
    struct worker *w = argument;
    struct api_client *client = NULL;
    enum engine_code code = api_client_open(w->wishes->url, NULL, &client, &w->err);
    double end = now_ms() + (double)w->wishes->seconds * 1e3;
    while (code == ENGINE_OK && now_ms() < end && w->count < MAX_TIMES) {
        struct engine_error err = {0};
        size_t size = 0;
        double start = now_ms();
        if (api_client_post(client, w->wishes->path, w->wishes->type, w->wishes->body,
                            w->wishes->size, &size, &err) == ENGINE_OK) {
            w->times[w->count++] = now_ms() - start;
            continue;
        }
        if (w->failed++ == 0)
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
    json_t *root = text != NULL ? json_loads(text, 0, NULL) : NULL;
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
    wishes->type = "application/json";
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
    wishes->type = "application/safetensors";
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

/* ---- the answer ---------------------------------------------------------------------------- */

static void print(const struct wishes *wishes, double *times, size_t count, size_t failed,
                  double seconds, bool json)
{
    qsort(times, count, sizeof *times, by_value);
    double p50 = count > 0 ? times[count / 2] : 0, p90 = count > 0 ? times[count * 9 / 10] : 0,
           p99 = count > 0 ? times[count * 99 / 100] : 0;
    if (json)
        printf("{\"model\":\"%s\",\"clients\":%ld,\"requests\":%zu,\"failed\":%zu,"
               "\"requests_per_second\":%.1f,\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f}\n",
               wishes->model, wishes->clients, count, failed, (double)count / seconds, p50, p90,
               p99);
    else
        printf("%zu requests, %zu failed, %.1f a second; ms: p50 %.3f, p90 %.3f, p99 %.3f\n", count,
               failed, (double)count / seconds, p50, p90, p99);
}

static int measure(struct wishes *wishes, bool json)
{
    static struct worker workers[MAX_CLIENTS];
    size_t count = 0, failed = 0;
    double *all = malloc((size_t)wishes->clients * MAX_TIMES * sizeof *all), *to = all;
    struct engine_error err = {0};
    if (all == NULL) {
        (void)engine_error_set(&err, ENGINE_OUT_OF_MEMORY, "no memory for the times");
        return api_commands_fail(&err);
    }
    double start = now_ms();
    for (long i = 0; i < wishes->clients; i++) {
        workers[i] = (struct worker){.wishes = wishes, .times = all + i * MAX_TIMES};
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            wishes->clients = i;
    }
    for (long i = 0; i < wishes->clients; i++)
        pthread_join(workers[i].thread, NULL);
    double seconds = (now_ms() - start) / 1e3;
    for (long i = 0; i < wishes->clients; i++) {
        memmove(to, workers[i].times, workers[i].count * sizeof *to);
        to += workers[i].count;
        count += workers[i].count;
        failed += workers[i].failed;
        if (workers[i].err.code != ENGINE_OK)
            err = workers[i].err;
    }
    print(wishes, all, count, failed, seconds, json);
    free(all);
    return err.code != ENGINE_OK ? api_commands_fail(&err) : 0;
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
                                   "[--seconds 5] [--json-body] [--scores] [--json]",
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
