/* engine.h - the attention engine: all that the server may use.
 *
 * An engine owns worker threads and memory. A model is one layer with its weights, immutable,
 * counted by reference. A call (tensors and wishes) becomes a plan (shapes, bytes, flops: every
 * error a client can make is found here); a plan is run by the workers, once.
 *
 *     engine_plan_create -> engine_plan_output (bind memory) -> engine_run | engine_submit
 *
 * The engine knows no HTTP, no JSON, no sockets; it never logs and never exits.
 * Maths and sources: engine/README.md. Letters: B batch, T queries, S keys, N heads, R reused
 * heads, H key_dim, V value_dim, C widths of inputs. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/layer.h"
#include "engine/tensor.h"

struct engine;
struct engine_model;
struct engine_plan;
struct engine_job;

/* How products are computed. f32: float32 throughout. x3: each operand split into two bfloat16,
 * three products, float32 sums (about 1e-5). bf16: operands rounded to bfloat16 (about 5e-3).
 * Softmax and scores are float32 in all of them. */
enum engine_precision {
    ENGINE_PRECISION_DEFAULT, /* the model's, else the engine's */
    ENGINE_PRECISION_F32,
    ENGINE_PRECISION_X3,
    ENGINE_PRECISION_BF16
};

const char *engine_precision_name(enum engine_precision precision); /* "f32", "x3", "bf16" */
bool engine_precision_from_name(const char *name, enum engine_precision *ret);

/* ---- engine ---------------------------------------------------------------------------- */

/* Instruction sets, each with those before it. avx512 is float32 only: bfloat16 instructions and
 * tiles are left alone under that limit. */
enum engine_cpu_level {
    ENGINE_CPU_UNLIMITED,
    ENGINE_CPU_PORTABLE,
    ENGINE_CPU_AVX2,
    ENGINE_CPU_AVX512
};

const char *engine_cpu_level_name(enum engine_cpu_level level);                /* UNLIMITED: "" */
bool engine_cpu_level_from_name(const char *name, enum engine_cpu_level *ret); /* "avx2" ... */

struct engine_options {
    enum engine_cpu_level cpu;       /* use nothing above; the same for all engines of a process */
    int threads;                     /* 0: min(affinity, floor(cgroup quota)) */
    enum engine_precision precision; /* default of models that do not say */
    size_t memory_budget_bytes;      /* 0: four fifths of what cgroup or machine has */
};

struct engine_facts {
    int threads;
    size_t memory_budget_bytes;
    char cpu[64];        /* "avx512 amx", "avx2", "portable": what is used; notes say what exists */
    char kernel_f32[32]; /* the kernel that serves each precision, after the self-check */
    char kernel_x3[32];  /* "none: ..." where the precision falls back to f32 */
    char kernel_bf16[32];
    char notes[512]; /* what a limit, the self-check or calibration turned off, what is absurdly
                        slow; one sentence each */
};

/* Starts workers, measures the machine (about a millisecond), checks each fast path against the
 * reference and turns off what disagrees. Call once, before other threads use oneDNN.
 * Errors: INVALID_ARGUMENT (also a cpu level that the machine lacks, or that comes after another
 * choice), OUT_OF_MEMORY, INTERNAL. */
ENGINE_MUST_CHECK enum engine_code engine_open(const struct engine_options *options,
                                               struct engine **ret, struct engine_error *err);
/* Waits for running jobs, stops the workers. NULL is fine. All models must be released before. */
void engine_close(struct engine *engine);
const struct engine_facts *engine_facts(const struct engine *engine);

/* ---- memory: resident buffers by size class, 64-byte aligned -------------------------------- */

struct engine_buffer {
    void *data;
    size_t bytes; /* usable; at least what was asked for */
};

/* Any thread. OUT_OF_MEMORY when the system refuses; OVERLOADED when the budget is used up. */
ENGINE_MUST_CHECK enum engine_code engine_buffer_take(struct engine *engine, size_t bytes,
                                                      struct engine_buffer *ret,
                                                      struct engine_error *err);
/* Gives it back; clears *buffer; an empty one is fine. Contents are not cleared. */
void engine_buffer_give(struct engine *engine, struct engine_buffer *buffer);

struct engine_memory_facts {
    size_t taken_bytes, resident_bytes, budget_bytes;
    uint64_t takes, misses; /* misses went to the system */
};
void engine_memory(const struct engine *engine, struct engine_memory_facts *ret);

/* ---- models ----------------------------------------------------------------------------- */

/* Where a layer's weights come from: named tensors (any float type; Keras' names, in any scope
 * below prefix), or the layer's own initializers, drawn from seed. */
struct engine_model_source {
    const struct engine_layer_config *config;
    const struct engine_named_tensor *weights;
    size_t weights_count;
    const char *prefix; /* "" or "encoder/layer_0/"; NULL is "" */
    bool initialize;
    uint64_t seed;
    enum engine_precision precision;
};

/* Copies and packs; the source may go afterwards. Widths follow from the weights; with
 * initialize they follow from the config's query_shape, key_shape and value_shape (their last
 * dimension), else INVALID_ARGUMENT. A tensor among the layer's weights that is none of them is
 * an error; other layers' are left alone. Errors: INVALID_ARGUMENT, SHAPE_MISMATCH,
 * OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code engine_model_create(struct engine *engine,
                                                       const struct engine_model_source *source,
                                                       struct engine_model **ret,
                                                       struct engine_error *err);
void engine_model_retain(struct engine_model *model);
void engine_model_release(struct engine_model *model); /* NULL is fine */

const struct engine_layer_config *engine_model_config(const struct engine_model *model);
/* The precision that serves calls which name none; and the one that was wished for, by the source
 * or else the engine's options. They differ where the machine has no kernel for the wish. */
enum engine_precision engine_model_precision(const struct engine_model *model);
enum engine_precision engine_model_precision_wished(const struct engine_model *model);
/* What a call of this precision is computed in: its name, but "f64" under policy float64. */
const char *engine_model_precision_name(const struct engine_model *model,
                                        enum engine_precision precision);
size_t engine_model_bytes(const struct engine_model *model); /* weights and packed weights */

/* Width of an input's last dimension: query, value, key; -1 where the layer has no such weight
 * (the query of a full reuse accepts any width, unless output_shape is not given). */
int64_t engine_model_width(const struct engine_model *model, int input);

/* The i-th weight in Keras' order (name without prefix, F32, view of the model); false past the
 * last. */
bool engine_model_weight(const struct engine_model *model, size_t i,
                         struct engine_named_tensor *ret);

/* What training would make of the weights; the forward pass never uses it. */
struct engine_penalties {
    double regularization_loss; /* sum over all weights that have a regularizer */
    bool kernel_constraint_satisfied, bias_constraint_satisfied;
};
void engine_model_penalties(const struct engine_model *model, struct engine_penalties *ret);

/* ---- calls ------------------------------------------------------------------------------ */

enum engine_input {
    ENGINE_QUERY,
    ENGINE_VALUE,
    ENGINE_KEY,
    ENGINE_ATTENTION_MASK,
    ENGINE_REUSE_ATTENTION_SCORES,
    ENGINE_INPUT_COUNT
};

enum engine_output {
    ENGINE_ATTENTION_OUTPUT,
    ENGINE_ATTENTION_SCORES,
    ENGINE_ATTENTION_SCORES_INDICES, /* I32, only with top_k */
    ENGINE_OUTPUT_COUNT
};

const char *engine_input_name(enum engine_input input);    /* "query" … */
const char *engine_output_name(enum engine_output output); /* "attention_output" … */

/* Rows or heads chosen by index, in the order given, repeats allowed. count 0: all. */
struct engine_selection {
    int64_t *indices; /* borrowed until the plan is destroyed */
    size_t count;
};

struct engine_call {
    struct engine_tensor inputs[ENGINE_INPUT_COUNT]; /* data NULL and rank 0: not given. A tensor
                                                        of zero elements has any non-NULL data */
    bool wanted[ENGINE_OUTPUT_COUNT];
    enum engine_dtype dtype[ENGINE_OUTPUT_COUNT]; /* F16, BF16, F32 or F64; indices always I32.
                                                     0 (BOOL) means the default: F32, or F64
                                                     under policy float64 */
    struct engine_selection heads;                /* of the scores returned */
    struct engine_selection query_rows;           /* of the scores returned; flat over T axes */
    int64_t top_k;                                /* 0: whole rows */
    bool training;
    uint64_t seed; /* with training: same seed, same dropout, on any number of threads */
    enum engine_precision precision;
};

void engine_call_init(struct engine_call *call);

/* ---- plans ------------------------------------------------------------------------------ */

struct engine_plan_facts {
    struct engine_tensor outputs[ENGINE_OUTPUT_COUNT]; /* dtype and shape; data as bound */
    size_t output_bytes[ENGINE_OUTPUT_COUNT];          /* 0 for those not wanted */
    size_t workspace_bytes;                            /* taken from the buffers while it runs */
    double flops;
    int64_t batch; /* B, for the statistics */
    int64_t units;
    enum engine_precision precision; /* the one used */
    int64_t started_ns;              /* CLOCK_MONOTONIC when its first unit began; 0: not yet */
};

/* Everything a client can get wrong about tensors is found here. The call is copied; tensors'
 * memory is borrowed until the plan is destroyed. The plan holds a reference to the model.
 * Errors: INVALID_ARGUMENT, SHAPE_MISMATCH, TOO_LARGE (sizes overflow), OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code engine_plan_create(struct engine *engine,
                                                      struct engine_model *model,
                                                      const struct engine_call *call,
                                                      struct engine_plan **ret,
                                                      struct engine_error *err);
void engine_plan_destroy(struct engine_plan *plan); /* never while it runs; NULL is fine */
const struct engine_plan_facts *engine_plan_facts(const struct engine_plan *plan);

/* Says where a wanted output goes: 64-byte aligned, output_bytes long, fully written by the run. */
void engine_plan_output(struct engine_plan *plan, enum engine_output output, void *data);

/* ---- running ---------------------------------------------------------------------------- */

struct engine_job_options {
    int64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none. Checked between units */
    int priority;        /* 1 highest; 0 the default, between */
    /* Called exactly once, by a worker or a caller who helps, after the last unit; code OK,
     * DEADLINE, CANCELLED, or what went wrong. May run long work: it counts as part of the job. The
     * job is gone when it returns. */
    void (*done)(void *argument, enum engine_code code, const struct engine_error *err);
    void *argument;
};

/* For threads that will run calls, or help with them: what OpenMP keeps for each thread is asked
 * for now and not by the first call. It ends the process where it finds no memory, with a sentence.
 * false: memory is short, and OpenMP was not asked. */
bool engine_prepare_thread(void);

/* Runs on the calling thread alone: for tiny calls (plan flops below
 * engine_inline_flops) and for tests. Any thread. */
ENGINE_MUST_CHECK enum engine_code
engine_run_inline(struct engine *engine, struct engine_plan *plan, struct engine_error *err);
/* Runs on the workers and, where a thread is free, on the calling one, and waits. Not from a
 * worker. */
ENGINE_MUST_CHECK enum engine_code engine_run(struct engine *engine, struct engine_plan *plan,
                                              struct engine_error *err);
/* Hands the plan to the workers and returns. *ret (may be NULL) is for engine_job_cancel, valid
 * until "done" was called. */
void engine_submit(struct engine *engine, struct engine_plan *plan,
                   const struct engine_job_options *options, struct engine_job **ret);
/* The same for a caller who would compute along, for the sake of the 50 us that a sleeping worker
 * takes to wake. true: engine_help must follow; the job exists until then. false: all threads are
 * busy, the workers will do it alone. */
ENGINE_MUST_CHECK bool engine_submit_helped(struct engine *engine, struct engine_plan *plan,
                                            const struct engine_job_options *options,
                                            struct engine_job **ret);
/* Computes units of the job until none is left for the caller; "done" may be called meanwhile, here
 * or by a worker, or come later. Not from a worker. */
void engine_help(struct engine *engine, struct engine_job *job);
/* Asks a job to stop between units: "done" follows with CANCELLED unless it was finished. The
 * caller must make sure that "done" has not returned yet. */
void engine_job_cancel(struct engine_job *job);

/* Runs part(argument, i) for i in 0..count-1, in parallel where workers are idle, on the calling
 * thread too; returns when all are done. For long number arrays. Workers may call it. */
void engine_parallel(struct engine *engine, int count, void (*part)(void *argument, int i),
                     void *argument);

/* Queued and running jobs, units not yet started, busy workers: for metrics and admission. */
struct engine_load {
    int jobs_queued, jobs_running, workers_busy;
    double flops_queued;
};
void engine_load(const struct engine *engine, struct engine_load *ret);

#endif
