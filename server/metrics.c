/* metrics.c - see metrics.h. Text format 0.0.4. */
#include "server/metrics.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "api/version.h"
#include "engine/engine.h"
#include "server/admission.h"
#include "server/deadlines.h"
#include "server/repository.h"

/* Upper bounds in microseconds: from a tiny call to a very large one. */
static const int64_t bounds_us[] = {100,     200,     500,     1000,    2000,   5000,
                                    10000,   20000,   50000,   100000,  200000, 500000,
                                    1000000, 2000000, 5000000, 10000000};
static const int statuses[] = {200, 400, 401, 403, 404, 405, 408, 411, 413, 414,
                               415, 429, 431, 499, 500, 501, 503, 504, 0};

enum {
    BOUNDS = sizeof bounds_us / sizeof bounds_us[0],
    STATUSES = sizeof statuses / sizeof statuses[0]
};

struct server_metrics {
    atomic_uint_fast64_t requests[SERVER_ROUTE_CLASSES][STATUSES];
    atomic_uint_fast64_t buckets[SERVER_ROUTE_CLASSES][BOUNDS + 1];
    atomic_uint_fast64_t total_ns[SERVER_ROUTE_CLASSES];
    atomic_uint_fast64_t cancelled, discarded, ids;
    atomic_int connections, lingering;
    uint64_t seed;
};

static void add(atomic_uint_fast64_t *counter, uint64_t amount)
{
    atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

static unsigned long long get(const atomic_uint_fast64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

struct server_metrics *server_metrics_create(void)
{
    struct server_metrics *metrics = calloc(1, sizeof *metrics);
    if (metrics != NULL && getrandom(&metrics->seed, sizeof metrics->seed, GRND_NONBLOCK) < 0)
        metrics->seed = (uint64_t)getpid();
    return metrics;
}

void server_metrics_destroy(struct server_metrics *metrics)
{
    free(metrics);
}

void server_metrics_request(struct server_metrics *metrics, enum server_route_class class,
                            int status, int64_t duration_ns)
{
    int s = 0, b = 0;
    while (s < STATUSES - 1 && statuses[s] != status)
        s++;
    while (b < BOUNDS && duration_ns > bounds_us[b] * 1000)
        b++;
    add(&metrics->requests[class][s], 1);
    add(&metrics->buckets[class][b], 1);
    add(&metrics->total_ns[class], (uint64_t)duration_ns);
}

void server_metrics_connection(struct server_metrics *metrics, int change)
{
    atomic_fetch_add_explicit(&metrics->connections, change, memory_order_relaxed);
}

int server_metrics_connections(const struct server_metrics *metrics)
{
    return atomic_load_explicit(&metrics->connections, memory_order_relaxed);
}

void server_metrics_cancelled(struct server_metrics *metrics)
{
    add(&metrics->cancelled, 1);
}

void server_metrics_discarded(struct server_metrics *metrics, uint64_t bytes)
{
    add(&metrics->discarded, bytes);
}

int server_metrics_connections_served(const struct server_metrics *metrics)
{
    return server_metrics_connections(metrics) -
           atomic_load_explicit(&metrics->lingering, memory_order_relaxed);
}

void server_metrics_lingering(struct server_metrics *metrics, int change)
{
    atomic_fetch_add_explicit(&metrics->lingering, change, memory_order_relaxed);
}

void server_metrics_make_id(struct server_metrics *metrics, char *ret, size_t size)
{
    uint64_t number = atomic_fetch_add_explicit(&metrics->ids, 1, memory_order_relaxed);
    snprintf(ret, size, "%016llx-%llx", (unsigned long long)metrics->seed,
             (unsigned long long)number);
}

/* ---- text ------------------------------------------------------------------------------- */

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(FILE *out, const char *name, const char *type, const char *help, double value)
{
    head(out, name, type, help);
    fprintf(out, "%s %.17g\n", name, value);
}

static void print_requests(FILE *out, const struct server_metrics *metrics)
{
    head(out, "attnd_requests_total", "counter", "Requests by route and status.");
    for (int c = 0; c < SERVER_ROUTE_CLASSES; c++)
        for (int s = 0; s < STATUSES; s++)
            if (get(&metrics->requests[c][s]) > 0)
                fprintf(out, "attnd_requests_total{route=\"%s\",status=\"%d\"} %llu\n",
                        server_routes_class_name((enum server_route_class)c), statuses[s],
                        get(&metrics->requests[c][s]));
}

static void print_histograms(FILE *out, const struct server_metrics *metrics)
{
    head(out, "attnd_request_duration_seconds", "histogram",
         "From the request line to the last byte of the answer.");
    for (int c = 0; c < SERVER_ROUTE_CLASSES; c++) {
        const char *name = server_routes_class_name((enum server_route_class)c);
        unsigned long long below = 0;
        for (int b = 0; b < BOUNDS; b++) {
            below += get(&metrics->buckets[c][b]);
            fprintf(out, "attnd_request_duration_seconds_bucket{route=\"%s\",le=\"%g\"} %llu\n",
                    name, (double)bounds_us[b] / 1e6, below);
        }
        below += get(&metrics->buckets[c][BOUNDS]);
        fprintf(out,
                "attnd_request_duration_seconds_bucket{route=\"%s\",le=\"+Inf\"} %llu\n"
                "attnd_request_duration_seconds_sum{route=\"%s\"} %.9f\n"
                "attnd_request_duration_seconds_count{route=\"%s\"} %llu\n",
                name, below, name, (double)get(&metrics->total_ns[c]) / 1e9, name, below);
    }
}

/* 0: the system does not tell. */
static double resident_bytes(void)
{
    char text[128] = "";
    long pages = 0;
    int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    if (read(file, text, sizeof text - 1) <= 0 || sscanf(text, "%*s %ld", &pages) != 1)
        pages = 0;
    close(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void print_process(FILE *out, const struct server_service *service)
{
    const struct engine_facts *facts = engine_facts(service->engine);
    struct server_deadlines_counts now;
    struct engine_load load;
    struct engine_memory_facts memory;
    server_deadlines_count(service->deadlines, &now);
    engine_load(service->engine, &load);
    engine_memory(service->engine, &memory);
    head(out, "attnd_build_info", "gauge", "Version and what the machine lets the engine use.");
    fprintf(out, "attnd_build_info{version=\"%s\",cpu=\"%s\",f32=\"%s\",x3=\"%s\",bf16=\"%s\"} 1\n",
            API_VERSION, facts->cpu, facts->kernel_f32, facts->kernel_x3, facts->kernel_bf16);
    one(out, "attnd_threads", "gauge", "Compute threads.", facts->threads);
    one(out, "attnd_connections", "gauge", "Open connections.",
        server_metrics_connections(service->metrics));
    one(out, "attnd_connections_lingering", "gauge",
        "Of these, closed and read on until their client has the answer.",
        atomic_load_explicit(&service->metrics->lingering, memory_order_relaxed));
    one(out, "attnd_discarded_bytes_total", "counter",
        "Bytes of refused requests that were read and thrown away.",
        (double)get(&service->metrics->discarded));
    one(out, "attnd_requests_in_flight", "gauge", "Requests read, computed or answered now.",
        now.headers + now.body + now.compute + now.reply);
    one(out, "attnd_calls_admitted", "gauge", "Calls waiting or running.",
        server_admission_calls(service->admission));
    one(out, "attnd_calls_queued", "gauge", "Calls that no worker has begun.", load.jobs_queued);
    one(out, "nv_inference_pending_request_count", "gauge", "The same under Triton's name.",
        load.jobs_queued);
    one(out, "attnd_calls_running", "gauge", "Calls that workers are at.", load.jobs_running);
    one(out, "attnd_workers_busy", "gauge", "Compute threads at work.", load.workers_busy);
    one(out, "attnd_calls_cancelled_total", "counter", "Calls ended because their client left.",
        (double)get(&service->metrics->cancelled));
    one(out, "attnd_calls_shed_total", "counter", "Calls answered 429.",
        (double)server_admission_shed(service->admission));
    one(out, "attnd_memory_budget_bytes", "gauge", "Limit for requests being served.",
        (double)memory.budget_bytes);
    one(out, "attnd_memory_taken_bytes", "gauge", "Buffers in use.", (double)memory.taken_bytes);
    one(out, "attnd_memory_resident_bytes", "gauge", "Buffers in use or kept.",
        (double)memory.resident_bytes);
    one(out, "attnd_buffer_takes_total", "counter", "Buffers handed out.", (double)memory.takes);
    one(out, "attnd_buffer_misses_total", "counter", "Of these, asked from the system.",
        (double)memory.misses);
    double resident = resident_bytes();
    if (resident > 0)
        one(out, "process_resident_memory_bytes", "gauge", "Resident set size.", resident);
}

/* Triton's names and units, for dashboards and autoscalers that know them. */
struct model_row {
    const char *name, *help;
    uint64_t (*value)(const struct api_statistics *statistics);
};

static uint64_t success(const struct api_statistics *s)
{
    return s->success.count;
}
static uint64_t failure(const struct api_statistics *s)
{
    return s->fail.count;
}
static uint64_t inferences(const struct api_statistics *s)
{
    return s->inference_count;
}
static uint64_t executions(const struct api_statistics *s)
{
    return s->execution_count;
}
static uint64_t request_us(const struct api_statistics *s)
{
    return (s->success.ns + s->fail.ns) / 1000;
}
static uint64_t queue_us(const struct api_statistics *s)
{
    return s->queue.ns / 1000;
}
static uint64_t input_us(const struct api_statistics *s)
{
    return s->compute_input.ns / 1000;
}
static uint64_t infer_us(const struct api_statistics *s)
{
    return s->compute_infer.ns / 1000;
}
static uint64_t output_us(const struct api_statistics *s)
{
    return s->compute_output.ns / 1000;
}

static const struct model_row model_rows[] = {
    {"nv_inference_request_success", "Calls answered.", success},
    {"nv_inference_request_failure", "Calls failed.", failure},
    {"nv_inference_count", "Batch entries computed.", inferences},
    {"nv_inference_exec_count", "Calls computed.", executions},
    {"nv_inference_request_duration_us", "Body complete to answer ready, summed.", request_us},
    {"nv_inference_queue_duration_us", "Waiting for a worker, summed.", queue_us},
    {"nv_inference_compute_input_duration_us", "Decoding and planning, summed.", input_us},
    {"nv_inference_compute_infer_duration_us", "Computing, summed.", infer_us},
    {"nv_inference_compute_output_duration_us", "Encoding, summed.", output_us},
};

static enum engine_code print_models(FILE *out, const struct server_service *service,
                                     struct engine_error *err)
{
    struct server_model_list list;
    ENGINE_TRY(server_repository_list(service->repository, NULL, &list, err));
    for (size_t r = 0; r < sizeof model_rows / sizeof model_rows[0]; r++) {
        head(out, model_rows[r].name, "counter", model_rows[r].help);
        for (size_t i = 0; i < list.count; i++)
            if (list.views[i].statistics != NULL)
                fprintf(out, "%s{model=\"%s\",version=\"%s\"} %llu\n", model_rows[r].name,
                        list.views[i].name, list.views[i].version,
                        (unsigned long long)model_rows[r].value(list.views[i].statistics));
    }
    head(out, "attnd_model_ready", "gauge", "1: the model is served.");
    for (size_t i = 0; i < list.count; i++)
        fprintf(out, "attnd_model_ready{model=\"%s\",version=\"%s\"} %d\n", list.views[i].name,
                list.views[i].version, list.views[i].state == API_MODEL_READY);
    server_repository_list_reset(&list);
    return ENGINE_OK;
}

/* What the page's stream writes to. open_memstream() would lose text that it has no room for and
 * not say so. */
struct page {
    char *text;
    size_t used, room;
    bool failed;
};

static ssize_t write_page(void *argument, const char *bytes, size_t size)
{
    struct page *page = argument;
    size_t needed = page->used + size + 1;
    char *grown = page->text;
    if (!page->failed && needed > page->room) {
        grown = realloc(page->text, 2 * needed);
        page->failed = grown == NULL;
        page->room = 2 * needed;
    }
    if (page->failed)
        return 0;
    page->text = grown;
    memcpy(page->text + page->used, bytes, size);
    page->used += size;
    page->text[page->used] = '\0';
    return (ssize_t)size;
}

enum engine_code server_metrics_text(const struct server_service *service, char **ret,
                                     struct engine_error *err)
{
    struct page page = {.text = NULL};
    FILE *out = fopencookie(&page, "w", (cookie_io_functions_t){.write = write_page});
    if (out == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the metrics");
    print_process(out, service);
    print_requests(out, service->metrics);
    print_histograms(out, service->metrics);
    enum engine_code code = print_models(out, service, err);
    if (fclose(out) != 0 || page.failed)
        code = engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the metrics");
    if (code != ENGINE_OK)
        free(page.text);
    else
        *ret = page.text;
    return code;
}
