/* engine.c - see engine.h and instance.h: opening, facts, and the ways to run a plan. */
#include "engine/instance.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/calibrate.h"
#include "engine/cpu.h"
#include "engine/onednn.h"
#include "engine/plan.h"
#include "engine/selfcheck.h"

static const char *const precisions[] = {"default", "f32", "x3", "bf16"};

const char *engine_precision_name(enum engine_precision precision)
{
    return precisions[precision];
}

bool engine_precision_from_name(const char *name, enum engine_precision *ret)
{
    for (int i = ENGINE_PRECISION_F32; i <= ENGINE_PRECISION_BF16; i++) {
        if (strcmp(name, precisions[i]) == 0) {
            *ret = (enum engine_precision)i;
            return true;
        }
    }
    return false;
}

const char *engine_input_name(enum engine_input input)
{
    static const char *const names[ENGINE_INPUT_COUNT] = {"query", "value", "key", "attention_mask",
                                                          "reuse_attention_scores"};
    return names[input];
}

const char *engine_output_name(enum engine_output output)
{
    static const char *const names[ENGINE_OUTPUT_COUNT] = {"attention_output", "attention_scores",
                                                           "attention_scores_indices"};
    return names[output];
}

void engine_call_init(struct engine_call *call)
{
    *call = (struct engine_call){.wanted = {[ENGINE_ATTENTION_OUTPUT] = true}};
}

/* ---- precisions -------------------------------------------------------------------------------
 */

enum engine_precision engine_instance_precision(const struct engine *engine,
                                                enum engine_precision wish)
{
    enum engine_precision precision = wish == ENGINE_PRECISION_DEFAULT ? engine->precision : wish;
    return engine->kernels[precision] != NULL ? precision : ENGINE_PRECISION_F32;
}

const struct engine_kernel *engine_instance_kernel(const struct engine *engine,
                                                   enum engine_precision precision, int64_t length)
{
    if (precision == ENGINE_PRECISION_F32 && length >= ENGINE_INSTANCE_LONG &&
        engine->long_f32 != NULL)
        return engine->long_f32;
    return engine->kernels[precision];
}

static void name_kernel(char *text, size_t size, const struct engine_kernel *kernel)
{
    snprintf(text, size, "%s", kernel != NULL ? kernel->name : "none: no such kernel here");
}

/* A sentence for the log and for GET .../config, said once. */
__attribute__((format(printf, 2, 3))) static void note(struct engine_facts *facts,
                                                       const char *format, ...)
{
    char sentence[sizeof facts->notes];
    size_t used = strlen(facts->notes);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    if (strstr(facts->notes, sentence) == NULL)
        snprintf(facts->notes + used, sizeof facts->notes - used, "%s", sentence);
}

/* Takes a kernel for a precision if it passes the check, else none; NULL is no kernel.
 * A check that finds no memory says nothing of the kernel: it ends the start. */
static enum engine_code take_kernel(struct engine *engine, enum engine_precision precision,
                                    const struct engine_kernel *kernel, struct engine_error *err)
{
    struct engine_error cause = {0};
    double error;
    engine->kernels[precision] = kernel;
    if (kernel == NULL || engine_selfcheck_run(engine, precision, &error, &cause))
        return ENGINE_OK;
    engine->kernels[precision] = NULL;
    if (cause.code == ENGINE_OUT_OF_MEMORY)
        return engine_error_set(err, cause.code, "the self-check failed: %s", cause.message);
    if (cause.code != ENGINE_OK)
        note(&engine->facts, "%s kernel %s: off, %s. ", engine_precision_name(precision),
             kernel->name, cause.message);
    else
        note(&engine->facts, "%s kernel %s, %s softmax: off, the error is %.2g. ",
             engine_precision_name(precision), kernel->name,
             engine->softmax == engine_softmax_portable ? "portable" : "vector", error);
    return ENGINE_OK;
}

/* sgemm comes second because oneDNN generates its code at the first call, which takes 20 ms. */
static enum engine_code choose_f32(struct engine *engine, struct engine_error *err)
{
    const struct engine_kernel *const *chosen = &engine->kernels[ENGINE_PRECISION_F32];
    engine->softmax = engine_softmax_best();
    ENGINE_TRY(take_kernel(engine, ENGINE_PRECISION_F32, engine_kernel_avx512(), err));
    if (*chosen == NULL)
        ENGINE_TRY(take_kernel(engine, ENGINE_PRECISION_F32, engine_kernel_sgemm(), err));
    if (*chosen == NULL) {
        engine->softmax = engine_softmax_portable;
        ENGINE_TRY(take_kernel(engine, ENGINE_PRECISION_F32, engine_kernel_sgemm(), err));
    }
    if (*chosen == NULL)
        return engine_error_set(err, ENGINE_INTERNAL, "the self-check failed: %.*s",
                                (int)strlen(engine->facts.notes) - 2, engine->facts.notes);
    return ENGINE_OK;
}

/* oneDNN 3.x that may not make code takes several times as long and says nothing. */
static enum engine_code note_slow_library(struct engine *engine, struct engine_error *err)
{
    const struct engine_kernel *kernel = engine->kernels[ENGINE_PRECISION_F32];
    bool makes_code = engine_onednn_makes_code();
    double rate;
    if (kernel != engine_kernel_sgemm())
        return ENGINE_OK;
    ENGINE_TRY(engine_calibrate_rate(kernel, ENGINE_CALIBRATE_ABSURD, &rate, err));
    if (!makes_code || rate < ENGINE_CALIBRATE_ABSURD)
        note(&engine->facts, "f32: %s computes no more than %.1f GF/s here%s. ", kernel->name,
             rate * 1e-9, makes_code ? "" : ENGINE_ONEDNN_NO_CODE);
    return ENGINE_OK;
}

/* Float32 as six products of bfloat16 parts: checked in the place of the short calls' kernel. */
static enum engine_code choose_long_f32(struct engine *engine, struct engine_error *err)
{
    const struct engine_kernel *usual = engine->kernels[ENGINE_PRECISION_F32];
    ENGINE_TRY(take_kernel(engine, ENGINE_PRECISION_F32, engine_kernel_amx_x6(), err));
    engine->long_f32 = engine->kernels[ENGINE_PRECISION_F32];
    engine->kernels[ENGINE_PRECISION_F32] = usual;
    return ENGINE_OK;
}

/* Without AMX, AVX512_BF16 may be twice as fast as float32 (Zen) or half as fast (Intel): where it
 * is no gain, float32 serves both better. */
static enum engine_code choose_bf16(struct engine *engine, struct engine_error *err)
{
    const struct engine_kernel *kernel = engine_kernel_amx_bf16();
    double speed;
    if (kernel == NULL && engine_kernel_avx512_bf16() != NULL) {
        kernel = engine_kernel_avx512_bf16();
        ENGINE_TRY(
            engine_calibrate_speed(kernel, engine->kernels[ENGINE_PRECISION_F32], &speed, err));
        if (speed < ENGINE_CALIBRATE_FASTER) {
            note(&engine->facts, "bf16: %s is %s than f32 here (%.2fx). ", kernel->name,
                 speed < 1 ? "slower" : "hardly faster", speed);
            kernel = NULL;
        }
    }
    return take_kernel(engine, ENGINE_PRECISION_BF16, kernel, err);
}

static enum engine_code choose_kernels(struct engine *engine, struct engine_error *err)
{
    const struct engine_cpu *cpu = engine_cpu();
    struct engine_facts *facts = &engine->facts;
    ENGINE_TRY(choose_f32(engine, err));
    ENGINE_TRY(note_slow_library(engine, err));
    ENGINE_TRY(choose_long_f32(engine, err));
    ENGINE_TRY(take_kernel(engine, ENGINE_PRECISION_X3, engine_kernel_amx_x3(), err));
    ENGINE_TRY(choose_bf16(engine, err));
    name_kernel(facts->kernel_f32, sizeof facts->kernel_f32, engine->kernels[ENGINE_PRECISION_F32]);
    if (engine->long_f32 != NULL)
        snprintf(facts->kernel_f32, sizeof facts->kernel_f32, "%s+%s",
                 engine->kernels[ENGINE_PRECISION_F32]->name, engine->long_f32->name);
    name_kernel(facts->kernel_x3, sizeof facts->kernel_x3, engine->kernels[ENGINE_PRECISION_X3]);
    name_kernel(facts->kernel_bf16, sizeof facts->kernel_bf16,
                engine->kernels[ENGINE_PRECISION_BF16]);
    snprintf(facts->cpu, sizeof facts->cpu, "%s%s",
             cpu->avx512 ? "avx512"
             : cpu->avx2 ? "avx2"
                         : "portable",
             cpu->amx ? " amx" : "");
    if (cpu->level != cpu->machine)
        note(facts, "Instructions: %s is used, the machine has %s. ", cpu->level, cpu->machine);
    return ENGINE_OK;
}

/* ---- the engine -------------------------------------------------------------------------------
 */

enum engine_code engine_open(const struct engine_options *options, struct engine **ret,
                             struct engine_error *err)
{
    ENGINE_TRY(engine_cpu_limit(options->cpu, err));
    const struct engine_cpu *cpu = engine_cpu();
    int threads = options->threads != 0 ? options->threads : cpu->threads;
    size_t budget = options->memory_budget_bytes != 0 ? options->memory_budget_bytes
                                                      : cpu->memory_bytes / 5 * 4;
    if (threads < 1 || threads > 1024)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "threads is %d, it must be 1 to 1024",
                                threads);
    struct engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for an engine");
    engine->precision =
        options->precision != ENGINE_PRECISION_DEFAULT ? options->precision : ENGINE_PRECISION_F32;
    engine->facts.threads = threads;
    engine->facts.memory_budget_bytes = budget;
    engine_buffers_init(&engine->buffers, budget);
    enum engine_code code = choose_kernels(engine, err);
    if (code == ENGINE_OK)
        code = engine_pool_open(threads, &engine->buffers, &engine->pool, err);
    if (code != ENGINE_OK) {
        engine_buffers_reset(&engine->buffers);
        free(engine);
        return code;
    }
    *ret = engine;
    return ENGINE_OK;
}

void engine_close(struct engine *engine)
{
    if (engine == NULL)
        return;
    engine_pool_close(engine->pool);
    engine_buffers_reset(&engine->buffers);
    free(engine);
}

const struct engine_facts *engine_facts(const struct engine *engine)
{
    return &engine->facts;
}

enum engine_code engine_buffer_take(struct engine *engine, size_t bytes, struct engine_buffer *ret,
                                    struct engine_error *err)
{
    return engine_buffers_take(&engine->buffers, bytes, ret, err);
}

void engine_buffer_give(struct engine *engine, struct engine_buffer *buffer)
{
    engine_buffers_give(&engine->buffers, buffer);
}

void engine_memory(const struct engine *engine, struct engine_memory_facts *ret)
{
    engine_buffers_facts((struct engine_buffers *)(uintptr_t)&engine->buffers, ret);
}

/* ---- running ------------------------------------------------------------------------------------
 */

bool engine_prepare_thread(void)
{
    return engine_pool_prepare();
}

enum engine_code engine_run_inline(struct engine *engine, struct engine_plan *plan,
                                   struct engine_error *err)
{
    enum engine_code code = engine_pool_run_inline(&engine->buffers, &plan->job.work, err);
    engine_buffers_give(&engine->buffers, &plan->workspace);
    return code;
}

enum engine_code engine_run(struct engine *engine, struct engine_plan *plan,
                            struct engine_error *err)
{
    plan->job.options = (struct engine_job_options){0};
    enum engine_code code = engine_pool_run(engine->pool, &plan->job, err);
    engine_buffers_give(&engine->buffers, &plan->workspace);
    return code;
}

/* The plan may be destroyed by the caller's "done": nothing of it is used after. */
static void end_plan(void *argument, enum engine_code code, const struct engine_error *err)
{
    struct engine_plan *plan = argument;
    struct engine_job_options options = plan->options;
    engine_buffers_give(&plan->engine->buffers, &plan->workspace);
    options.done(options.argument, code, err);
}

/* struct engine_job is the plan's pool job under the name that the server knows. */
static void fill_options(struct engine_plan *plan, const struct engine_job_options *options,
                         struct engine_job **ret)
{
    plan->options = *options;
    plan->job.options = *options;
    plan->job.options.done = end_plan;
    plan->job.options.argument = plan;
    if (ret != NULL)
        *ret = (struct engine_job *)plan; /* before "done" can come */
}

void engine_submit(struct engine *engine, struct engine_plan *plan,
                   const struct engine_job_options *options, struct engine_job **ret)
{
    fill_options(plan, options, ret);
    engine_pool_submit(engine->pool, &plan->job);
}

bool engine_submit_helped(struct engine *engine, struct engine_plan *plan,
                          const struct engine_job_options *options, struct engine_job **ret)
{
    fill_options(plan, options, ret);
    return engine_pool_submit_helped(engine->pool, &plan->job);
}

void engine_help(struct engine *engine, struct engine_job *job)
{
    engine_pool_help(engine->pool, &((struct engine_plan *)job)->job);
}

void engine_job_cancel(struct engine_job *job)
{
    struct engine_plan *plan = (struct engine_plan *)job;
    engine_pool_cancel(plan->engine->pool, &plan->job);
}

void engine_parallel(struct engine *engine, int count, void (*part)(void *argument, int i),
                     void *argument)
{
    engine_pool_parallel(engine->pool, count, part, argument);
}

void engine_load(const struct engine *engine, struct engine_load *ret)
{
    engine_pool_load(engine->pool, ret);
}
