/* engine_turns.c - the engine in a process of its own, timed turn by turn from outside.
 *
 * peers.py and servers.py stop this process (SIGSTOP) while it is another engine's turn, so it
 * does nothing but answer lines from stdin, one answer a line on stdout:
 *
 *     time B T VARIANT MS           -> "ok MEDIAN_MS CALLS"     one caller
 *     load B T VARIANT MS CALLERS   -> "ok CALLS_PER_S CALLS"   CALLERS threads at once
 *     check B T VARIANT PREFIX      -> "ok"; PREFIX.output and PREFIX.scores hold raw floats
 *     facts                         -> "ok CPU; kernels; notes"
 *     anything that fails           -> "error MESSAGE"
 *
 * VARIANT is f32|x3|b16, then "+s" (scores returned), ".rN" (N heads reused), ".nomask".
 * A call is engine_plan_create, engine_run (inline on one thread), engine_plan_destroy: what a
 * caller pays. A precision
 * that the engine would quietly replace by another is an error here.
 *
 *     engine_turns DIRECTORY THREADS
 *
 * DIRECTORY holds input.f32 (floats, the first B*T*C are the query) and rN.safetensors, the
 * weights of a layer that reuses N heads. It measures no ceiling, prints no table, speaks no
 * HTTP: that is bench.c's and servers.py's work. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/formats/safetensors.h"

enum { HEADS = 12, HEAD_DIM = 64, WIDTH = 768, MAX_CALLERS = 64, MAX_SAMPLES = 1 << 16 };

struct turns {
    const char *directory;
    struct engine *engine;
    struct engine_model *models[HEADS + 1]; /* by heads reused; made at first use */
    float *input;
    size_t input_count;
};

/* One line's wish, and the memory its tensors lie in. */
struct work {
    int64_t batch, length;
    enum engine_precision precision;
    bool scores, mask;
    int64_t reused;
    struct engine_model *model;
    uint8_t *mask_data; /* [B,1,T], 0 for the last key */
    float *reuse_data;  /* [B,N,T,T], every weight 1/T */
    struct engine_call call;
};

struct caller {
    struct turns *turns;
    const struct work *work;
    int64_t until_ns;
    size_t calls;
    enum engine_code code;
    struct engine_error err;
    pthread_t thread;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- models ----------------------------------------------------------------------------- */

static enum engine_code model_create(struct turns *turns, const struct engine_safetensors *file,
                                     int64_t reused, struct engine_error *err)
{
    struct engine_layer_config config;
    engine_layer_defaults(&config);
    config.num_heads = HEADS;
    config.key_dim = HEAD_DIM;
    config.reuse_attention = reused;
    const struct engine_tensor *pe = engine_safetensors_find(file, "relative_position_embeddings");
    if (pe) {
        config.use_relative_pe = true;
        config.pe_max_seq_length = (pe->shape[2] + 1) / 2;
    }
    struct engine_model_source source = {
        .config = &config,
        .weights = engine_safetensors_tensors(file),
        .weights_count = engine_safetensors_count(file),
        .prefix = "",
    };
    return engine_model_create(turns->engine, &source, &turns->models[reused], err);
}

static enum engine_code model_of(struct turns *turns, int64_t reused, struct engine_error *err)
{
    char path[4096];
    struct engine_safetensors *file = NULL;
    if (turns->models[reused]) {
        return ENGINE_OK;
    }
    snprintf(path, sizeof path, "%s/r%d.safetensors", turns->directory, (int)reused);
    enum engine_code code = engine_safetensors_open(path, &file, err);
    if (code == ENGINE_OK) {
        code = model_create(turns, file, reused, err);
    }
    engine_safetensors_destroy(file);
    return code;
}

/* ---- work ------------------------------------------------------------------------------- */

static bool variant_read(const char *text, struct work *work)
{
    static const struct {
        const char *name;
        enum engine_precision precision;
    } names[] = {
        {"f32", ENGINE_PRECISION_F32}, {"x3", ENGINE_PRECISION_X3}, {"b16", ENGINE_PRECISION_BF16}};
    size_t i = 0, length = strcspn(text, "+.");
    while (i < 3 && (strlen(names[i].name) != length || memcmp(text, names[i].name, length))) {
        i++;
    }
    if (i == 3) {
        return false;
    }
    work->precision = names[i].precision;
    work->mask = true;
    for (text += length; *text;) {
        int read = 0, heads = 0;
        if (!strncmp(text, "+s", 2)) {
            work->scores = true;
            text += 2;
        } else if (!strcmp(text, ".nomask")) {
            work->mask = false;
            text += 7;
        } else if (sscanf(text, ".r%d%n", &heads, &read) == 1 && heads >= 0 && heads <= HEADS) {
            work->reused = heads;
            text += read;
        } else {
            return false;
        }
    }
    return true;
}

static void work_clear(struct work *work)
{
    free(work->mask_data);
    free(work->reuse_data);
    memset(work, 0, sizeof *work);
}

static void mask_fill(struct work *work)
{
    size_t count = (size_t)(work->batch * work->length);
    for (size_t i = 0; i < count; i++) {
        work->mask_data[i] = (i + 1) % (size_t)work->length != 0;
    }
    work->call.inputs[ENGINE_ATTENTION_MASK] =
        (struct engine_tensor){ENGINE_BOOL, 3, {work->batch, 1, work->length}, work->mask_data};
}

static void reuse_fill(struct work *work)
{
    size_t count = (size_t)(work->batch * HEADS * work->length * work->length);
    for (size_t i = 0; i < count; i++) {
        work->reuse_data[i] = 1.0f / (float)work->length;
    }
    work->call.inputs[ENGINE_REUSE_ATTENTION_SCORES] = (struct engine_tensor){
        ENGINE_F32, 4, {work->batch, HEADS, work->length, work->length}, work->reuse_data};
}

static bool memory_take(struct work *work)
{
    size_t rows = (size_t)(work->batch * work->length);
    if (work->mask && work->reused < HEADS) {
        work->mask_data = malloc(rows);
    }
    if (work->reused > 0) {
        work->reuse_data =
            aligned_alloc(64, (rows * HEADS * (size_t)work->length * 4 + 63) / 64 * 64);
    }
    return (work->mask_data || !work->mask || work->reused == HEADS) &&
           (work->reuse_data || work->reused == 0);
}

static enum engine_code work_open(struct turns *turns, const char *batch, const char *length,
                                  const char *variant, struct work *work, struct engine_error *err)
{
    work->batch = atoll(batch);
    work->length = atoll(length);
    if (work->batch < 1 || work->length < 2 || work->batch > 4096 || work->length > 65536 ||
        (size_t)(work->batch * work->length * WIDTH) > turns->input_count) {
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "B and T must be positive and fit input.f32, not %s and %s", batch,
                                length);
    }
    if (!variant_read(variant, work)) {
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "variant %s is unknown", variant);
    }
    enum engine_code code = model_of(turns, work->reused, err);
    if (code != ENGINE_OK) {
        return code;
    }
    if (!memory_take(work)) {
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the inputs");
    }
    work->model = turns->models[work->reused];
    engine_call_init(&work->call);
    work->call.inputs[ENGINE_QUERY] =
        (struct engine_tensor){ENGINE_F32, 3, {work->batch, work->length, WIDTH}, turns->input};
    work->call.inputs[ENGINE_VALUE] = work->call.inputs[ENGINE_QUERY];
    if (work->mask_data) {
        mask_fill(work);
    }
    if (work->reuse_data) {
        reuse_fill(work);
    }
    work->call.wanted[ENGINE_ATTENTION_OUTPUT] = true;
    work->call.wanted[ENGINE_ATTENTION_SCORES] = work->scores;
    work->call.precision = work->precision;
    return ENGINE_OK;
}

/* ---- calls ------------------------------------------------------------------------------ */

/* One call. Buffers are taken at the first one of a turn and used again by the others. */
static enum engine_code call_once(struct turns *turns, const struct work *work,
                                  struct engine_buffer buffers[ENGINE_OUTPUT_COUNT],
                                  struct engine_error *err)
{
    struct engine_plan *plan = NULL;
    enum engine_code code = engine_plan_create(turns->engine, work->model, &work->call, &plan, err);
    if (code == ENGINE_OK && engine_plan_facts(plan)->precision != work->precision) {
        code = engine_error_set(err, ENGINE_UNSUPPORTED, "%s falls back to %s on this machine",
                                engine_precision_name(work->precision),
                                engine_precision_name(engine_plan_facts(plan)->precision));
    }
    for (int i = 0; i < ENGINE_OUTPUT_COUNT && code == ENGINE_OK; i++) {
        size_t bytes = engine_plan_facts(plan)->output_bytes[i];
        if (bytes > buffers[i].bytes) {
            code = engine_buffer_take(turns->engine, bytes, &buffers[i], err);
        }
        if (bytes > 0 && code == ENGINE_OK) {
            engine_plan_output(plan, (enum engine_output)i, buffers[i].data);
        }
    }
    if (code == ENGINE_OK) {
        code = engine_facts(turns->engine)->threads == 1
                   ? engine_run_inline(turns->engine, plan, err) /* the caller is the thread */
                   : engine_run(turns->engine, plan, err);
    }
    engine_plan_destroy(plan);
    return code;
}

static void buffers_give(struct turns *turns, struct engine_buffer buffers[ENGINE_OUTPUT_COUNT])
{
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        engine_buffer_give(turns->engine, &buffers[i]);
    }
}

static int compare_ns(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Warm-up of a quarter of the time (two calls at least), then ms and three calls at least. */
static enum engine_code time_turn(struct turns *turns, const struct work *work, double ms,
                                  struct engine_error *err)
{
    static int64_t samples[MAX_SAMPLES];
    struct engine_buffer buffers[ENGINE_OUTPUT_COUNT] = {{NULL, 0}};
    int64_t warm_end = now_ns() + (int64_t)(ms * 0.25e6);
    enum engine_code code = ENGINE_OK;
    for (int i = 0; code == ENGINE_OK && (i < 2 || now_ns() < warm_end); i++) {
        code = call_once(turns, work, buffers, err);
    }
    int64_t start = now_ns(), end = start + (int64_t)(ms * 1e6);
    size_t calls = 0;
    while (code == ENGINE_OK && calls < MAX_SAMPLES && (calls < 3 || start < end)) {
        code = call_once(turns, work, buffers, err);
        int64_t done = now_ns();
        samples[calls++] = done - start;
        start = done;
    }
    buffers_give(turns, buffers);
    if (code == ENGINE_OK) {
        qsort(samples, calls, sizeof samples[0], compare_ns);
        printf("ok %.6f %zu\n", (double)samples[calls / 2] / 1e6, calls);
    }
    return code;
}

static void *caller_main(void *argument)
{
    struct caller *caller = argument;
    struct engine_buffer buffers[ENGINE_OUTPUT_COUNT] = {{NULL, 0}};
    while (caller->code == ENGINE_OK && now_ns() < caller->until_ns) {
        caller->code = call_once(caller->turns, caller->work, buffers, &caller->err);
        caller->calls++;
    }
    buffers_give(caller->turns, buffers);
    return NULL;
}

static enum engine_code load_turn(struct turns *turns, const struct work *work, double ms,
                                  int callers, struct engine_error *err)
{
    static struct caller all[MAX_CALLERS];
    if (callers < 1 || callers > MAX_CALLERS) {
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "CALLERS must be 1 to %d, not %d",
                                MAX_CALLERS, callers);
    }
    enum engine_code code = ENGINE_OK;
    int64_t start = now_ns();
    size_t calls = 0;
    int started = 0;
    for (; started < callers; started++) {
        all[started] =
            (struct caller){.turns = turns, .work = work, .until_ns = start + (int64_t)(ms * 1e6)};
        if (pthread_create(&all[started].thread, NULL, caller_main, &all[started])) {
            code = engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no thread for a caller");
            break;
        }
    }
    for (int i = 0; i < started; i++) {
        pthread_join(all[i].thread, NULL);
        calls += all[i].calls;
        if (code == ENGINE_OK && all[i].code != ENGINE_OK) {
            code = all[i].code;
            *err = all[i].err;
        }
    }
    if (code == ENGINE_OK) {
        printf("ok %.3f %zu\n", (double)calls * 1e9 / (double)(now_ns() - start), calls);
    }
    return code;
}

static bool file_write(const char *prefix, const char *suffix, const void *data, size_t bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s.%s", prefix, suffix);
    FILE *file = fopen(path, "wb");
    if (!file) {
        return false;
    }
    bool written = fwrite(data, 1, bytes, file) == bytes;
    return fclose(file) == 0 && written;
}

static enum engine_code check_turn(struct turns *turns, const struct work *work, const char *prefix,
                                   struct engine_error *err)
{
    struct engine_buffer buffers[ENGINE_OUTPUT_COUNT] = {{NULL, 0}};
    size_t rows = (size_t)(work->batch * work->length);
    enum engine_code code = call_once(turns, work, buffers, err);
    if (code == ENGINE_OK &&
        (!file_write(prefix, "output", buffers[ENGINE_ATTENTION_OUTPUT].data, rows * WIDTH * 4) ||
         (work->scores && !file_write(prefix, "scores", buffers[ENGINE_ATTENTION_SCORES].data,
                                      rows * HEADS * (size_t)work->length * 4)))) {
        code =
            engine_error_set(err, ENGINE_INTERNAL, "cannot write %s: %s", prefix, strerror(errno));
    }
    buffers_give(turns, buffers);
    if (code == ENGINE_OK) {
        puts("ok");
    }
    return code;
}

/* ---- lines ------------------------------------------------------------------------------ */

static void facts_print(const struct turns *turns)
{
    const struct engine_facts *facts = engine_facts(turns->engine);
    printf("ok %s; f32 %s; x3 %s; bf16 %s; %s\n", facts->cpu, facts->kernel_f32, facts->kernel_x3,
           facts->kernel_bf16, facts->notes);
}

static enum engine_code line_answer(struct turns *turns, char *words[6], int count,
                                    struct work *work, struct engine_error *err)
{
    if (count == 1 && !strcmp(words[0], "facts")) {
        facts_print(turns);
        return ENGINE_OK;
    }
    if (count < 5) {
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "a line has too few words");
    }
    enum engine_code code = work_open(turns, words[1], words[2], words[3], work, err);
    if (code != ENGINE_OK) {
        return code;
    }
    if (!strcmp(words[0], "time")) {
        return time_turn(turns, work, atof(words[4]), err);
    }
    if (!strcmp(words[0], "load") && count == 6) {
        return load_turn(turns, work, atof(words[4]), atoi(words[5]), err);
    }
    if (!strcmp(words[0], "check")) {
        return check_turn(turns, work, words[4], err);
    }
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "%s is no command", words[0]);
}

static void lines_serve(struct turns *turns)
{
    char line[4096];
    while (fgets(line, sizeof line, stdin)) {
        char *words[6] = {NULL}, *rest = line;
        int count = 0;
        for (char *word; count < 6 && (word = strtok_r(rest, " \n", &rest));) {
            words[count++] = word;
        }
        if (count == 0) {
            continue;
        }
        struct engine_error err;
        struct work work = {0};
        engine_error_clear(&err);
        if (line_answer(turns, words, count, &work, &err) != ENGINE_OK) {
            printf("error %s\n", err.message);
        }
        work_clear(&work);
        fflush(stdout);
    }
}

static bool input_read(struct turns *turns)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/input.f32", turns->directory);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        return false;
    }
    size_t bytes = (size_t)ftell(file);
    rewind(file);
    turns->input = aligned_alloc(64, (bytes + 63) / 64 * 64);
    turns->input_count = bytes / 4;
    bool done = turns->input && fread(turns->input, 1, bytes, file) == bytes;
    fclose(file);
    return done;
}

int main(int argc, char **argv)
{
    struct turns turns = {.directory = argc > 1 ? argv[1] : NULL};
    struct engine_error err;
    engine_error_clear(&err);
    if (argc != 3 || !input_read(&turns)) {
        fputs("usage: engine_turns DIRECTORY THREADS (DIRECTORY with input.f32)\n", stderr);
        return 2;
    }
    struct engine_options options = {.threads = atoi(argv[2])};
    if (engine_open(&options, &turns.engine, &err) != ENGINE_OK) {
        fprintf(stderr, "engine_turns: %s\n", err.message);
        return 1;
    }
    lines_serve(&turns);
    for (int i = 0; i <= HEADS; i++) {
        engine_model_release(turns.models[i]);
    }
    engine_close(turns.engine);
    free(turns.input);
    return 0;
}
