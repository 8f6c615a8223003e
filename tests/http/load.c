/* load.c - many clients at once, each answer compared: the load of the HTTP tests.
 *
 *     load URL QUESTIONS.json CLIENTS REQUESTS
 *
 * QUESTIONS.json: [{"path": "/...", "headers": ["Name: value", ...], "body": FILE, "answer": FILE},
 * ...]. Each client keeps one connection and asks REQUESTS times, all questions in turn, beginning
 * with another one than its neighbours; every answer has to be the expected one, byte by byte. A
 * client that is told that nothing more is served (503, no connection) stops; nothing is repeated.
 * Prints {"answered": N, "refused": N, "failed": N, "failure": TEXT, "seconds": S}: failed are
 * other answers than the expected ones, answers that broke off, and other statuses; the text is
 * the first one's. Exit status 0 when it ran, whatever was answered. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "api/client/client.h"

enum { MAX_CLIENTS = 256, MAX_QUESTIONS = 256, MAX_HEADERS = 8 };

struct question {
    struct api_client_request request;
    const char *headers[MAX_HEADERS + 1];
    char *answer;
    size_t answer_size;
};

struct run {
    const char *url;
    struct question questions[MAX_QUESTIONS];
    size_t questions_count;
    long requests;
};

struct worker {
    pthread_t thread;
    const struct run *run;
    size_t number;
    long answered, refused, failed;
    struct engine_error err; /* the first failure */
};

static char *read_file(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rbe");
    char *bytes = NULL;
    if (file != NULL && fseek(file, 0, SEEK_END) == 0) {
        long size = ftell(file);
        rewind(file);
        bytes = size >= 0 ? malloc((size_t)size + 1) : NULL;
        *ret_size = bytes != NULL ? fread(bytes, 1, (size_t)size, file) : 0;
    }
    if (file != NULL)
        fclose(file);
    return bytes;
}

/* The question's texts are views of the entry. */
static bool read_question(const json_t *entry, struct question *ret)
{
    json_t *headers = json_object_get(entry, "headers");
    const char *body = json_string_value(json_object_get(entry, "body"));
    const char *answer = json_string_value(json_object_get(entry, "answer"));
    ret->request.path = json_string_value(json_object_get(entry, "path"));
    if (ret->request.path == NULL || body == NULL || answer == NULL ||
        json_array_size(headers) > MAX_HEADERS)
        return false;
    for (size_t i = 0; i < json_array_size(headers); i++)
        ret->headers[i] = json_string_value(json_array_get(headers, i));
    ret->request.headers = ret->headers;
    ret->request.body = read_file(body, &ret->request.size);
    ret->answer = read_file(answer, &ret->answer_size);
    return ret->request.body != NULL && ret->answer != NULL;
}

static bool read_questions(const json_t *list, struct run *run)
{
    run->questions_count = json_array_size(list);
    if (run->questions_count < 1 || run->questions_count > MAX_QUESTIONS)
        return false;
    for (size_t i = 0; i < run->questions_count; i++)
        if (!read_question(json_array_get(list, i), &run->questions[i]))
            return false;
    return true;
}

static void drop_questions(struct run *run)
{
    for (size_t i = 0; i < run->questions_count; i++) {
        free((void *)run->questions[i].request.body);
        free(run->questions[i].answer);
    }
}

static enum engine_code ask(struct api_client *client, const struct question *question,
                            struct engine_error *err)
{
    char *bytes = NULL;
    size_t size = 0;
    ENGINE_TRY(api_client_ask(client, &question->request, &bytes, &size, err));
    bool same = size == question->answer_size && memcmp(bytes, question->answer, size) == 0;
    if (!same)
        (void)engine_error_set(err, ENGINE_INTERNAL, "%s: another answer: %.100s",
                               question->request.path, bytes);
    free(bytes);
    return err->code;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    struct api_client *client = NULL;
    const struct api_client_options once = {.attempts = 1};
    if (api_client_open(w->run->url, &once, &client, &w->err) != ENGINE_OK)
        w->failed++;
    for (long i = 0; client != NULL && i < w->run->requests && w->refused == 0; i++) {
        struct engine_error err = {0};
        size_t index = (w->number + (size_t)i) % w->run->questions_count;
        enum engine_code code = ask(client, &w->run->questions[index], &err);
        if (code == ENGINE_OK)
            w->answered++;
        else if (code == ENGINE_UNAVAILABLE)
            w->refused++;
        else if (w->failed++ == 0)
            w->err = err;
    }
    api_client_close(client);
    return NULL;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int run_all(const struct run *run, long clients)
{
    static struct worker workers[MAX_CLIENTS];
    struct worker sum = {.answered = 0};
    double start = now_s();
    long started = 0;
    for (; started < clients; started++) {
        struct worker *w = &workers[started];
        *w = (struct worker){.run = run, .number = (size_t)started};
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            break;
    }
    for (long i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        sum.answered += workers[i].answered;
        sum.refused += workers[i].refused;
        sum.failed += workers[i].failed;
        if (sum.err.code == ENGINE_OK)
            sum.err = workers[i].err;
    }
    json_t *root = json_pack("{s:I, s:I, s:I, s:s, s:f}", "answered", (json_int_t)sum.answered,
                             "refused", (json_int_t)sum.refused, "failed", (json_int_t)sum.failed,
                             "failure", sum.err.message, "seconds", now_s() - start);
    bool printed = root != NULL && json_dumpf(root, stdout, 0) == 0;
    json_decref(root);
    return printed && started == clients ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct run run;
    struct engine_error err = {0};
    long clients = argc == 5 ? strtol(argv[3], NULL, 10) : 0;
    run.requests = argc == 5 ? strtol(argv[4], NULL, 10) : 0;
    if (clients < 1 || clients > MAX_CLIENTS || run.requests < 1) {
        fprintf(stderr, "usage: load URL QUESTIONS.json CLIENTS REQUESTS\n");
        return 2;
    }
    run.url = argv[1];
    json_t *list = json_load_file(argv[2], 0, NULL);
    bool ready = read_questions(list, &run) && api_client_start(&err) == ENGINE_OK;
    if (!ready)
        fprintf(stderr, "load: %s cannot be read, or libcurl does not start\n", argv[2]);
    int status = ready ? run_all(&run, clients) : 1;
    drop_questions(&run);
    json_decref(list);
    return status;
}
