/* bench.c - the engine in-process, no HTTP: milliseconds of one layer, N=12 E=768 H=64,
 * self-attention, one additive mask.
 *
 * Variants take turns, round after round: a neighbour who slows the machine slows all of them. A
 * turn is one call to warm up, then calls for 20 ms, at least 3, and their median; the median of
 * the rounds is printed. The ceiling is a 128 x 768 x 768 product by sgemm on one thread, measured
 * by such turns in the same rounds. A precision that this machine lacks is left out, with a
 * word on stderr: the engine would compute it in float32. */
#include <omp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/kernel.h"

enum { HEADS = 12, WIDTH = 768, DIM = 64, ROUNDS = 9, TURN_MS = 20, MAX_LIST = 32 };
enum { MAX_CALLS = 4096 };

static const struct variant {
    const char *name;
    enum engine_precision precision;
    bool scores;
    int reused;
} variants[] = {
    {"f32", ENGINE_PRECISION_F32, false, 0},      {"f32+s", ENGINE_PRECISION_F32, true, 0},
    {"x3", ENGINE_PRECISION_X3, false, 0},        {"x3+s", ENGINE_PRECISION_X3, true, 0},
    {"b16", ENGINE_PRECISION_BF16, false, 0},     {"b16+s", ENGINE_PRECISION_BF16, true, 0},
    {"f32.r6", ENGINE_PRECISION_F32, false, 6},   {"f32+s.r6", ENGINE_PRECISION_F32, true, 6},
    {"f32.r12", ENGINE_PRECISION_F32, false, 12}, {"b16.r12", ENGINE_PRECISION_BF16, false, 12},
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

struct options {
    bool lines;
    bool skip[VARIANTS];
    int batch[MAX_LIST], tokens[MAX_LIST], cases;
    int threads[MAX_LIST], thread_counts;
};

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "bench: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(2);
}

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

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

static float *numbers(size_t count)
{
    float *values = aligned_alloc(64, (count * sizeof *values + 63) / 64 * 64);
    if (values == NULL)
        fail("%s", "no memory");
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((i * 2654435761u) % 2001) / 1000.0f - 1.0f;
    return values;
}

/* ---- one case ------------------------------------------------------------------------------ */

struct inputs {
    int batch, tokens;
    float *query, *scores, *mask;
    float *outputs[2];
};

static double run_once(struct engine *engine, struct engine_model *model, const struct inputs *in,
                       const struct variant *variant, double *flops)
{
    struct engine_error err = {0};
    struct engine_plan *plan;
    struct engine_call call;
    engine_call_init(&call);
    call.wanted[ENGINE_ATTENTION_SCORES] = variant->scores;
    call.precision = variant->precision;
    call.inputs[ENGINE_QUERY] =
        (struct engine_tensor){ENGINE_F32, 3, {in->batch, in->tokens, WIDTH}, in->query};
    call.inputs[ENGINE_ATTENTION_MASK] =
        (struct engine_tensor){ENGINE_F32, 3, {in->batch, 1, in->tokens}, in->mask};
    if (variant->reused > 0)
        call.inputs[ENGINE_REUSE_ATTENTION_SCORES] = (struct engine_tensor){
            ENGINE_F32, 4, {in->batch, HEADS, in->tokens, in->tokens}, in->scores};
    double start = now_ms();
    if (engine_plan_create(engine, model, &call, &plan, &err) != ENGINE_OK)
        fail("%s", err.message);
    for (int i = 0; i < 2; i++)
        engine_plan_output(plan, (enum engine_output)i, in->outputs[i]);
    enum engine_code code = engine_facts(engine)->threads == 1
                                ? engine_run_inline(engine, plan, &err)
                                : engine_run(engine, plan, &err);
    if (code != ENGINE_OK)
        fail("%s", err.message);
    *flops = engine_plan_facts(plan)->flops;
    engine_plan_destroy(plan);
    return now_ms() - start;
}

/* Milliseconds of 128 x 768 x 768. */
static double run_ceiling(void)
{
    static float *memory;
    const struct engine_kernel *kernel = engine_kernel_sgemm();
    struct engine_left left;
    struct engine_right right;
    size_t left_bytes = kernel->left_init(&left, 128, WIDTH);
    size_t right_bytes = kernel->right_init(&right, WIDTH, WIDTH, false);
    if (memory == NULL)
        memory = numbers((2 * left_bytes + right_bytes + kernel->scratch_bytes) / sizeof(float));
    char *at = (char *)memory;
    left.data = at;
    right.data = at + left_bytes;
    float *c = (float *)(void *)(at + left_bytes + right_bytes);
    double start = now_ms();
    kernel->multiply(&left, 0, 128, &right, 0, WIDTH, WIDTH, c, WIDTH, false, NULL, 0,
                     at + 2 * left_bytes + right_bytes);
    return now_ms() - start;
}

/* One turn of either kind: engine NULL means the ceiling. */
static double run_turn(struct engine *engine, struct engine_model *model, const struct inputs *in,
                       const struct variant *variant, double *flops)
{
    static double times[MAX_CALLS];
    int calls = -1; /* the first warms up */
    for (double start = now_ms(); calls < 3 || now_ms() - start < TURN_MS; calls++) {
        double ms = engine == NULL ? run_ceiling() : run_once(engine, model, in, variant, flops);
        if (calls >= 0)
            times[calls] = ms;
        if (calls == MAX_CALLS - 1)
            break;
    }
    return median(times, calls);
}

static const char *kernel_name(const struct engine *engine, enum engine_precision precision)
{
    const struct engine_facts *facts = engine_facts(engine);
    return precision == ENGINE_PRECISION_X3     ? facts->kernel_x3
           : precision == ENGINE_PRECISION_BF16 ? facts->kernel_bf16
                                                : facts->kernel_f32;
}

static bool has_kernel(const struct engine *engine, enum engine_precision precision)
{
    return strncmp(kernel_name(engine, precision), "none", 4) != 0;
}

static void run_case(struct engine *engine, struct engine_model *const models[3],
                     const struct inputs *in, const struct options *options)
{
    bool lines = options->lines;
    double times[VARIANTS][ROUNDS], ceiling[ROUNDS], flops[VARIANTS];
    for (int round = -1; round < ROUNDS; round++) {
        double ms = run_turn(NULL, NULL, NULL, NULL, NULL);
        if (round >= 0)
            ceiling[round] = ms;
        for (int v = 0; v < VARIANTS; v++) {
            if (options->skip[v] || !has_kernel(engine, variants[v].precision))
                continue;
            ms = run_turn(engine, models[variants[v].reused / 6], in, &variants[v], &flops[v]);
            if (round >= 0)
                times[v][round] = ms;
        }
    }
    int threads = engine_facts(engine)->threads;
    double peak = 2e-6 * 128 * WIDTH * WIDTH / median(ceiling, ROUNDS) * threads;
    for (int v = 0; v < VARIANTS; v++) {
        if (options->skip[v] || !has_kernel(engine, variants[v].precision))
            continue;
        double ms = median(times[v], ROUNDS), speed = flops[v] * 1e-6 / ms;
        if (lines)
            printf("%d %d %d %s %.4f\n", in->batch, in->tokens, threads, variants[v].name, ms);
        else
            printf("%4d %6d %8d  %-9s %10.3f %9.1f %8.0f %%\n", in->batch, in->tokens, threads,
                   variants[v].name, ms, speed, 100 * speed / peak);
    }
}

static void measure(struct engine *engine, struct engine_model *const models[3], int batch,
                    int tokens, const struct options *options)
{
    size_t rows = (size_t)batch * (size_t)tokens, scores = rows * HEADS * (size_t)tokens;
    struct inputs in = {.batch = batch, .tokens = tokens};
    in.query = numbers(rows * WIDTH);
    in.scores = numbers(scores);
    in.mask = numbers(rows);
    for (size_t i = 0; i < rows; i++)
        in.mask[i] = 1.0f;
    in.outputs[0] = numbers(rows * WIDTH);
    in.outputs[1] = numbers(scores);
    run_case(engine, models, &in, options);
    free(in.query), free(in.scores), free(in.mask), free(in.outputs[0]), free(in.outputs[1]);
}

static struct engine_model *make_model(struct engine *engine, int reused)
{
    struct engine_layer_config config;
    struct engine_error err = {0};
    struct engine_model *model;
    engine_layer_defaults(&config);
    config.num_heads = HEADS;
    config.key_dim = DIM;
    config.reuse_attention = reused;
    config.use_relative_pe = reused < HEADS;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, WIDTH}};
    const struct engine_model_source source = {.config = &config, .initialize = true};
    if (engine_model_create(engine, &source, &model, &err) != ENGINE_OK)
        fail("%s", err.message);
    return model;
}

static void measure_all(const struct options *options, int threads)
{
    struct engine_error err = {0};
    struct engine *engine;
    struct engine_model *models[3];
    if (engine_open(&(struct engine_options){.threads = threads}, &engine, &err) != ENGINE_OK)
        fail("%s", err.message);
    for (int p = ENGINE_PRECISION_X3; p <= ENGINE_PRECISION_BF16; p++)
        if (!has_kernel(engine, (enum engine_precision)p))
            fprintf(stderr, "bench: no %s: %s\n", engine_precision_name((enum engine_precision)p),
                    kernel_name(engine, (enum engine_precision)p));
    for (int i = 0; i < 3; i++)
        models[i] = make_model(engine, 6 * i);
    for (int i = 0; i < options->cases; i++)
        measure(engine, models, options->batch[i], options->tokens[i], options);
    for (int i = 0; i < 3; i++)
        engine_model_release(models[i]);
    engine_close(engine);
}

/* ---- options --------------------------------------------------------------------------------- */

static void read_cases(const char *text, struct options *ret)
{
    const char *at = text;
    for (ret->cases = 0; ret->cases < MAX_LIST; ret->cases++) {
        int length = 0;
        if (sscanf(at, "%dx%d%n", &ret->batch[ret->cases], &ret->tokens[ret->cases], &length) < 2 ||
            ret->batch[ret->cases] < 1 || ret->tokens[ret->cases] < 1)
            fail("--cases is \"%s\", it must be like 1x16,8x128", text);
        at += length;
        if (*at == '\0') {
            ret->cases++;
            return;
        }
        if (*at++ != ',')
            fail("--cases is \"%s\", it must be like 1x16,8x128", text);
    }
    fail("--cases \"%s\" has more than 32 cases", text);
}

static void read_threads(const char *text, struct options *ret)
{
    const char *at = text;
    for (ret->thread_counts = 0; ret->thread_counts < MAX_LIST;) {
        char *end;
        long count = strtol(at, &end, 10);
        if (end == at || count < 1 || count > 1024 || (*end != '\0' && *end != ','))
            fail("--threads is \"%s\", it must be like 1,2", text);
        ret->threads[ret->thread_counts++] = (int)count;
        if (*end == '\0')
            return;
        at = end + 1;
    }
    fail("--threads \"%s\" has more than 32 numbers", text);
}

static void read_variants(const char *text, struct options *ret)
{
    for (int v = 0; v < VARIANTS; v++)
        ret->skip[v] = true;
    for (const char *at = text; *at != '\0';) {
        size_t length = strcspn(at, ",");
        int v = 0;
        while (v < VARIANTS &&
               (strlen(variants[v].name) != length || strncmp(variants[v].name, at, length) != 0))
            v++;
        if (v == VARIANTS)
            fail("--variants names \"%.*s\", which does not exist", (int)length, at);
        ret->skip[v] = false;
        at += length + (at[length] == ',' ? 1 : 0);
    }
}

int main(int argc, char **argv)
{
    omp_set_num_threads(1); /* the ceiling is one thread's; the engine sees to its own */
    struct options options = {.threads = {1}, .thread_counts = 1};
    read_cases("1x16,1x128,8x128,1x512,4x512", &options);
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--lines") == 0)
            options.lines = true;
        else if (strcmp(argv[i], "--cases") == 0 && has_value)
            read_cases(argv[++i], &options);
        else if (strcmp(argv[i], "--threads") == 0 && has_value)
            read_threads(argv[++i], &options);
        else if (strcmp(argv[i], "--variants") == 0 && has_value)
            read_variants(argv[++i], &options);
        else
            fail("option \"%s\" is unknown or lacks its value; there are --lines, --cases "
                 "1x16,1x128,"
                 " --threads 1,2 and --variants f32,b16+s",
                 argv[i]);
    }
    if (!options.lines)
        printf("   B      T  threads  variant           ms      GF/s  of sgemm\n");
    for (int i = 0; i < options.thread_counts; i++)
        measure_all(&options, options.threads[i]);
    return 0;
}
