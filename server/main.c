/* main.c - wires the parts together, waits for a signal, unwinds. Decides nothing itself. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/version.h"
#include "engine/engine.h"
#include "server/admission.h"
#include "server/deadlines.h"
#include "server/exceptions.h"
#include "server/lingering.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/probe.h"
#include "server/repository.h"
#include "server/service.h"
#include "server/shutdown.h"

/* Memory stays with the process: what was used once is used again, and a request does not reach
 * the kernel for it. Large tensors do not come from malloc. Two arenas: the I/O thread's, and
 * one for everything else. */
static void keep_memory(void)
{
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    mallopt(M_TOP_PAD, 1 << 20);
    mallopt(M_ARENA_MAX, 2);
}

static void warn_of_variable(void *log, const char *name, const char *nearest)
{
    server_log_event(log, SERVER_LOG_WARNING, NULL,
                     "the environment variable %s is no option and is ignored; the nearest is %s",
                     name, nearest);
}

static void log_configuration(const struct server_service *service)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&text, &bytes);
    if (memory != NULL) {
        server_options_print(service->options, memory);
        if (fclose(memory) == 0)
            server_log_event(service->log, SERVER_LOG_INFO, NULL, "configuration: %s", text);
    }
    free(text);
    server_options_unknown(environ, warn_of_variable, service->log);
}

static enum engine_code open_engine(struct server_service *service, struct engine_error *err)
{
    const struct server_options *options = service->options;
    struct engine_options wanted = {
        .cpu = options->cpu,
        .threads = (int)options->threads,
        .precision = options->precision,
        .memory_budget_bytes = (size_t)options->memory_budget_bytes,
    };
    ENGINE_TRY(
        server_log_open(STDERR_FILENO, options->log_level, options->log_json, &service->log, err));
    server_exceptions_watch_code(true);
    enum engine_code code = engine_open(&wanted, &service->engine, err);
    server_exceptions_watch_code(false);
    if (code != ENGINE_OK)
        return code;
    const struct engine_facts *facts = engine_facts(service->engine);
    server_log_event(service->log, SERVER_LOG_INFO, NULL,
                     "attnd " API_VERSION ": %d threads, %s, f32 by %s, x3 by %s, bf16 by %s%s%s",
                     facts->threads, facts->cpu, facts->kernel_f32, facts->kernel_x3,
                     facts->kernel_bf16, facts->notes[0] != '\0' ? "; " : "", facts->notes);
    log_configuration(service);
    return ENGINE_OK;
}

static enum engine_code open_repository(struct server_service *service, struct engine_error *err)
{
    return server_repository_open(service->engine, service->log, service->options,
                                  &service->repository, err);
}

static enum engine_code open_parts(struct server_service *service, struct engine_error *err)
{
    service->metrics = server_metrics_create();
    service->shutdown = server_shutdown_create();
    service->admission = server_admission_create(service->engine, service->options->max_queue);
    if (service->metrics == NULL || service->shutdown == NULL || service->admission == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the server");
    struct server_lingering_limits limits;
    server_lingering_limits((uint64_t)service->options->max_body_bytes, &limits);
    ENGINE_TRY(server_lingering_open(&limits, service->metrics, &service->lingering, err));
    return server_deadlines_open(&server_deadlines_default, &service->deadlines, err);
}

static void close_all(struct server_service *service)
{
    server_lingering_close(service->lingering);
    server_deadlines_close(service->deadlines);
    server_admission_destroy(service->admission);
    server_shutdown_destroy(service->shutdown);
    server_repository_close(service->repository);
    engine_close(service->engine);
    server_metrics_destroy(service->metrics);
    server_log_close(service->log);
}

/* Addresses are bound before models are opened: a port that is taken is found out at once. */
static enum engine_code serve(struct server_service *service, struct engine_error *err)
{
    struct server_listener *listener = NULL;
    enum engine_code code = open_engine(service, err);
    if (code == ENGINE_OK)
        code = open_parts(service, err);
    if (code == ENGINE_OK)
        code = server_listener_open(service, &listener, err);
    if (code == ENGINE_OK)
        code = open_repository(service, err);
    if (code == ENGINE_OK)
        code = server_listener_start(listener, err);
    if (code == ENGINE_OK)
        server_shutdown_run(service, listener);
    server_listener_close(listener);
    if (code == ENGINE_OK)
        server_log_event(service->log, SERVER_LOG_INFO, NULL, "stopped");
    return code;
}

static enum engine_code check(struct server_service *service, struct engine_error *err)
{
    ENGINE_TRY(open_engine(service, err));
    ENGINE_TRY(open_repository(service, err));
    return server_repository_print(service->repository, stdout, err);
}

static enum engine_code act(const struct server_options *options, struct engine_error *err)
{
    struct server_service service = {.options = options};
    enum engine_code code = ENGINE_OK;
    switch (options->action) {
    case SERVER_OPTIONS_HELP:
        server_options_help(stdout);
        return ENGINE_OK;
    case SERVER_OPTIONS_VERSION:
        printf("attnd %s (revision %s)\n", API_VERSION, ATTND_REVISION);
        return ENGINE_OK;
    case SERVER_OPTIONS_PROBE:
        return server_probe(options->probe_url, err);
    case SERVER_OPTIONS_CHECK:
        code = check(&service, err);
        break;
    case SERVER_OPTIONS_SERVE:
        code = serve(&service, err);
        break;
    }
    close_all(&service);
    return code;
}

/* The loader calls what stands here before it initialises the libraries. */
__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)(void) = server_exceptions_watch;

int main(int argc, char **argv)
{
    struct server_options options;
    struct engine_error err = {0};
    keep_memory();
    server_shutdown_block_signals();
    enum engine_code code = server_options_read(argc, argv, &options, &err);
    bool readable = code == ENGINE_OK;
    if (readable) {
        code = act(&options, &err);
        server_options_reset(&options);
    }
    if (code != ENGINE_OK)
        fprintf(stderr, err.detail[0] != '\0' ? "attnd: %s (%s)\n" : "attnd: %s%s\n", err.message,
                err.detail);
    return code == ENGINE_OK ? 0 : readable ? 1 : 2;
}
