/* bench.c - the engine in-process, no HTTP: milliseconds of one layer, N=12 E=768 H=64,
 * self-attention, one additive mask, and how near they are to what the machine can do.
 *
 * Variants and ceilings take turns (bench_turn.h), round after round; the median of the rounds is
 * printed. A precision that this machine lacks is left out, with a word on stderr: the engine would
 * compute it in float32. --lines without a file measures no ceilings. It compares with nobody
 * else: see peers.py. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu.h"
#include "engine/engine.h"
#include "engine/openmp.h"
#include "tests/bench/bench_ceilings.h"
#include "tests/bench/bench_plot.h"
#include "tests/bench/bench_roofline.h"
#include "tests/bench/bench_turn.h"

enum { ROUNDS = 9, MAX_LIST = 32 };

/* The last ones are measured only when --variants names them. */
static const struct bench_variant variants[] = {
    {"f32", ENGINE_PRECISION_F32, false, 0},      {"f32+s", ENGINE_PRECISION_F32, true, 0},
    {"x3", ENGINE_PRECISION_X3, false, 0},        {"x3+s", ENGINE_PRECISION_X3, true, 0},
    {"b16", ENGINE_PRECISION_BF16, false, 0},     {"b16+s", ENGINE_PRECISION_BF16, true, 0},
    {"f32.r6", ENGINE_PRECISION_F32, false, 6},   {"f32+s.r6", ENGINE_PRECISION_F32, true, 6},
    {"f32.r12", ENGINE_PRECISION_F32, false, 12}, {"b16.r12", ENGINE_PRECISION_BF16, false, 12},
    {"x3.r6", ENGINE_PRECISION_X3, false, 6},     {"x3+s.r6", ENGINE_PRECISION_X3, true, 6},
    {"b16.r6", ENGINE_PRECISION_BF16, false, 6},  {"b16+s.r6", ENGINE_PRECISION_BF16, true, 6},
    {"x3.r12", ENGINE_PRECISION_X3, false, 12},
};
enum { VARIANTS = sizeof variants / sizeof variants[0], USUAL_VARIANTS = 10 };

struct options {
    bool lines;
    bool skip[VARIANTS];
    int batch[MAX_LIST], tokens[MAX_LIST], cases;
    int threads[MAX_LIST], thread_counts;
    FILE *csv, *svg;
};

struct results {
    struct bench_point *points;
    int count;
};

/* One count of threads: what turns are taken with. ceilings may be NULL. */
struct bench {
    const struct options *options;
    struct engine *engine;
    struct engine_model *models[3]; /* 0, 6, 12 heads reused */
    struct bench_ceilings *ceilings;
    bool skip[VARIANTS]; /* not asked for, or the precision is lacking */
};

/* ---- one case ------------------------------------------------------------------------------ */

struct inputs {
    int batch, tokens;
    float *query, *scores, *mask;
    float *outputs[2];
};

/* The argument of run_once. */
struct call {
    struct engine *engine;
    struct engine_model *model;
    const struct inputs *in;
    const struct bench_variant *variant;
    double flops; /* of the last call */
};

static void describe(const struct call *c, struct engine_call *ret)
{
    const struct inputs *in = c->in;
    engine_call_init(ret);
    ret->wanted[ENGINE_ATTENTION_SCORES] = c->variant->scores;
    ret->precision = c->variant->precision;
    ret->inputs[ENGINE_QUERY] =
        (struct engine_tensor){ENGINE_F32, 3, {in->batch, in->tokens, BENCH_WIDTH}, in->query};
    ret->inputs[ENGINE_ATTENTION_MASK] =
        (struct engine_tensor){ENGINE_F32, 3, {in->batch, 1, in->tokens}, in->mask};
    if (c->variant->reused > 0)
        ret->inputs[ENGINE_REUSE_ATTENTION_SCORES] = (struct engine_tensor){
            ENGINE_F32, 4, {in->batch, BENCH_HEADS, in->tokens, in->tokens}, in->scores};
}

static double run_once(void *argument)
{
    struct call *c = argument;
    struct engine_error err = {0};
    struct engine_plan *plan;
    struct engine_call call;
    describe(c, &call);
    double start = bench_turn_now_ms();
    if (engine_plan_create(c->engine, c->model, &call, &plan, &err) != ENGINE_OK)
        bench_turn_fail("%s", err.message);
    for (int i = 0; i < 2; i++)
        engine_plan_output(plan, (enum engine_output)i, c->in->outputs[i]);
    enum engine_code code = engine_facts(c->engine)->threads == 1
                                ? engine_run_inline(c->engine, plan, &err)
                                : engine_run(c->engine, plan, &err);
    if (code != ENGINE_OK)
        bench_turn_fail("%s", err.message);
    c->flops = engine_plan_facts(plan)->flops;
    engine_plan_destroy(plan);
    return bench_turn_now_ms() - start;
}

struct rounds {
    double ceilings[BENCH_CEILINGS][ROUNDS];
    double times[VARIANTS][ROUNDS], hot_read[VARIANTS][ROUNDS];
    double flops[VARIANTS];
};

static void run_round(const struct bench *b, const struct inputs *in, struct rounds *ret, int round)
{
    for (int c = 0; c < BENCH_CEILINGS && b->ceilings != NULL; c++)
        ret->ceilings[c][round] = bench_ceilings_turn(b->ceilings, (enum bench_ceiling)c);
    for (int v = 0; v < VARIANTS; v++) {
        if (b->skip[v])
            continue;
        struct call call = {.engine = b->engine,
                            .model = b->models[variants[v].reused / 6],
                            .in = in,
                            .variant = &variants[v]};
        if (b->ceilings != NULL)
            ret->hot_read[v][round] = bench_ceilings_hot_read(
                b->ceilings, (size_t)bench_roofline_bytes(&variants[v], in->batch, in->tokens));
        ret->times[v][round] = bench_turn_run(run_once, &call, BENCH_TURN_MS);
        ret->flops[v] = call.flops;
    }
}

static struct bench_point point_of(const struct bench *b, const struct inputs *in,
                                   struct rounds *rounds, int v)
{
    const struct engine_facts *facts = engine_facts(b->engine);
    struct bench_point ret = {.variant = &variants[v],
                              .batch = in->batch,
                              .tokens = in->tokens,
                              .threads = facts->threads,
                              .ms = bench_turn_median(rounds->times[v], ROUNDS),
                              .flops = rounds->flops[v],
                              .hot_read = bench_turn_median(rounds->hot_read[v], ROUNDS),
                              .amx_f32 = strstr(facts->kernel_f32, "amx") != NULL};
    for (int c = 0; c < BENCH_CEILINGS; c++)
        ret.ceilings[c] = bench_turn_median(rounds->ceilings[c], ROUNDS);
    return ret;
}

static void run_case(const struct bench *b, const struct inputs *in, struct results *results)
{
    static struct rounds rounds;
    memset(&rounds, 0, sizeof rounds);
    run_round(b, in, &rounds, 0); /* warms up: the next one overwrites it */
    for (int round = 0; round < ROUNDS; round++)
        run_round(b, in, &rounds, round);
    for (int v = 0; v < VARIANTS; v++) {
        if (b->skip[v])
            continue;
        struct bench_point *point = &results->points[results->count++];
        *point = point_of(b, in, &rounds, v);
        if (b->options->lines)
            printf("%d %d %d %s %.4f\n", point->batch, point->tokens, point->threads,
                   point->variant->name, point->ms);
        else
            bench_roofline_print_time(point);
    }
    fflush(stdout);
}

static void measure(const struct bench *b, int batch, int tokens, struct results *results)
{
    size_t rows = (size_t)batch * (size_t)tokens, scores = rows * BENCH_HEADS * (size_t)tokens;
    struct inputs in = {.batch = batch, .tokens = tokens};
    in.query = bench_turn_numbers(rows * BENCH_WIDTH);
    in.scores = bench_turn_numbers(scores);
    in.mask = bench_turn_numbers(rows);
    for (size_t i = 0; i < rows; i++)
        in.mask[i] = 1.0f;
    in.outputs[0] = bench_turn_numbers(rows * BENCH_WIDTH);
    in.outputs[1] = bench_turn_numbers(scores);
    run_case(b, &in, results);
    free(in.query), free(in.scores), free(in.mask), free(in.outputs[0]), free(in.outputs[1]);
}

/* ---- all cases ------------------------------------------------------------------------------- */

static struct engine_model *make_model(struct engine *engine, int reused)
{
    struct engine_layer_config config;
    struct engine_error err = {0};
    struct engine_model *model;
    engine_layer_defaults(&config);
    config.num_heads = BENCH_HEADS;
    config.key_dim = BENCH_DIM;
    config.reuse_attention = reused;
    config.use_relative_pe = reused < BENCH_HEADS;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, BENCH_WIDTH}};
    const struct engine_model_source source = {.config = &config, .initialize = true};
    if (engine_model_create(engine, &source, &model, &err) != ENGINE_OK)
        bench_turn_fail("%s", err.message);
    return model;
}

static void skip_what_lacks(struct bench *b)
{
    const struct engine_facts *facts = engine_facts(b->engine);
    const struct {
        enum engine_precision precision;
        const char *kernel;
    } kernels[] = {{ENGINE_PRECISION_X3, facts->kernel_x3},
                   {ENGINE_PRECISION_BF16, facts->kernel_bf16}};
    for (int k = 0; k < 2; k++) {
        if (strncmp(kernels[k].kernel, "none", 4) != 0)
            continue;
        fprintf(stderr, "bench: no %s: %s\n", engine_precision_name(kernels[k].precision),
                kernels[k].kernel);
        for (int v = 0; v < VARIANTS; v++)
            b->skip[v] = b->skip[v] || variants[v].precision == kernels[k].precision;
    }
}

static void measure_all(const struct options *options, int threads, struct results *results)
{
    struct engine_error err = {0};
    struct bench b = {.options = options};
    if (engine_open(&(struct engine_options){.threads = threads}, &b.engine, &err) != ENGINE_OK)
        bench_turn_fail("%s", err.message);
    if (!options->lines || options->csv != NULL || options->svg != NULL)
        b.ceilings = bench_ceilings_open(threads);
    if (b.ceilings != NULL && threads > engine_cpu()->threads)
        fprintf(stderr, "bench: %d threads on %d processor(s): their ceilings read too high\n",
                threads, engine_cpu()->threads);
    memcpy(b.skip, options->skip, sizeof b.skip);
    skip_what_lacks(&b);
    for (int i = 0; i < 3; i++)
        b.models[i] = make_model(b.engine, 6 * i);
    for (int i = 0; i < options->cases; i++)
        measure(&b, options->batch[i], options->tokens[i], results);
    for (int i = 0; i < 3; i++)
        engine_model_release(b.models[i]);
    bench_ceilings_close(b.ceilings);
    engine_close(b.engine);
}

/* Before anything is measured: a wrong path is said at once. */
static FILE *open_file(const char *path)
{
    FILE *file = fopen(path, "w");
    if (file == NULL)
        bench_turn_fail("file \"%s\" cannot be written", path);
    return file;
}

static void write_file(FILE *file,
                       void (*write)(FILE *file, const struct bench_point *points, int count),
                       const struct results *results)
{
    if (file == NULL)
        return;
    write(file, results->points, results->count);
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        bench_turn_fail("%s", "a file cannot be written to its end");
}

/* ---- options --------------------------------------------------------------------------------- */

static void read_cases(const char *text, struct options *ret)
{
    const char *at = text;
    for (ret->cases = 0; ret->cases < MAX_LIST; ret->cases++) {
        int length = 0;
        if (sscanf(at, "%dx%d%n", &ret->batch[ret->cases], &ret->tokens[ret->cases], &length) < 2 ||
            ret->batch[ret->cases] < 1 || ret->tokens[ret->cases] < 1)
            bench_turn_fail("--cases is \"%s\", it must be like 1x16,8x128", text);
        at += length;
        if (*at == '\0') {
            ret->cases++;
            return;
        }
        if (*at++ != ',')
            bench_turn_fail("--cases is \"%s\", it must be like 1x16,8x128", text);
    }
    bench_turn_fail("--cases \"%s\" has more than 32 cases", text);
}

static void read_threads(const char *text, struct options *ret)
{
    const char *at = text;
    for (ret->thread_counts = 0; ret->thread_counts < MAX_LIST;) {
        char *end;
        long count = strtol(at, &end, 10);
        if (end == at || count < 1 || count > 1024 || (*end != '\0' && *end != ','))
            bench_turn_fail("--threads is \"%s\", it must be like 1,2", text);
        ret->threads[ret->thread_counts++] = (int)count;
        if (*end == '\0')
            return;
        at = end + 1;
    }
    bench_turn_fail("--threads \"%s\" has more than 32 numbers", text);
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
            bench_turn_fail("--variants names \"%.*s\", which does not exist", (int)length, at);
        ret->skip[v] = false;
        at += length + (at[length] == ',' ? 1 : 0);
    }
}

static void limit_cpu(const char *name)
{
    enum engine_cpu_level level;
    struct engine_error err = {0};
    if (!engine_cpu_level_from_name(name, &level))
        bench_turn_fail("--cpu is \"%s\", it must be avx512|avx2|portable", name);
    if (engine_cpu_limit(level, &err) != ENGINE_OK)
        bench_turn_fail("--%s", err.message);
}

static void print_help(void)
{
    printf(
        "usage: bench [--cases 1x16,1x128,...] [--threads 1,2] [--variants f32,b16+s,...]\n"
        "             [--cpu avx512|avx2|portable] [--lines] [--csv FILE] [--svg FILE]\n\n"
        "Times of one attention layer (12 heads of 64, width 768, one additive mask) in this\n"
        "process, beside what the machine can do. tests/bench/README.md explains the columns.\n\n"
        "  --cases     batch x tokens; default 1x16,1x128,8x128,1x512,4x512\n"
        "  --threads   default 1\n"
        "  --variants  default all of the first row:\n             ");
    for (int v = 0; v < VARIANTS; v++)
        printf("%s %s", v == USUAL_VARIANTS ? "\n             " : "", variants[v].name);
    printf("\n              +s: scores returned; .r6: so many heads reused\n"
           "  --cpu LEVEL no instructions above these, else ATTND_CPU; default: all there are\n"
           "  --lines     one line a variant and nothing else: B T threads variant ms\n"
           "  --csv FILE  all figures, a row a variant\n"
           "  --svg FILE  the roofline as a picture\n");
}

/* "1x16,..." as in --help, and what argv says. */
static void read_options(int argc, char **argv, struct options *ret)
{
    read_cases("1x16,1x128,8x128,1x512,4x512", ret);
    for (int v = USUAL_VARIANTS; v < VARIANTS; v++)
        ret->skip[v] = true;
    const char *cpu = getenv("ATTND_CPU");
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--help") == 0) {
            print_help();
            exit(0);
        }
        if (strcmp(argv[i], "--lines") == 0)
            ret->lines = true;
        else if (strcmp(argv[i], "--cases") == 0 && has_value)
            read_cases(argv[++i], ret);
        else if (strcmp(argv[i], "--threads") == 0 && has_value)
            read_threads(argv[++i], ret);
        else if (strcmp(argv[i], "--cpu") == 0 && has_value)
            cpu = argv[++i];
        else if (strcmp(argv[i], "--variants") == 0 && has_value)
            read_variants(argv[++i], ret);
        else if (strcmp(argv[i], "--csv") == 0 && has_value)
            ret->csv = open_file(argv[++i]);
        else if (strcmp(argv[i], "--svg") == 0 && has_value)
            ret->svg = open_file(argv[++i]);
        else
            bench_turn_fail("option \"%s\" is unknown or lacks its value; see --help", argv[i]);
    }
    if (cpu != NULL)
        limit_cpu(cpu);
}

int main(int argc, char **argv)
{
    omp_set_num_threads(1); /* the engine sees to its own threads */
    struct options options = {.threads = {1}, .thread_counts = 1};
    read_options(argc, argv, &options);
    size_t most = (size_t)options.cases * (size_t)options.thread_counts * VARIANTS;
    struct results results = {calloc(most, sizeof *results.points), 0};
    if (results.points == NULL)
        bench_turn_fail("%s", "no memory");
    if (!options.lines)
        bench_roofline_print_head();
    for (int i = 0; i < options.thread_counts; i++)
        measure_all(&options, options.threads[i], &results);
    if (!options.lines)
        bench_roofline_print(results.points, results.count);
    write_file(options.csv, bench_roofline_write_csv, &results);
    write_file(options.svg, bench_plot_write, &results);
    free(results.points);
    return 0;
}
