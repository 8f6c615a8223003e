/* plan.h - a call laid out in memory and in units; inside the engine only.
 *
 * Phases: prepare (takes the workspace), gather (inputs into the kernel's left operands, mask
 * into its adder; nothing to do for plain float32 inputs), project (queries, keys, values),
 * attend, output. What each unit writes nobody else writes in that phase, and how a unit cuts its
 * rows and columns depends on shapes alone: the same bits on any number of threads.
 * Memory: one workspace of the engine's buffers while it runs; plus a worker's scratch. */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include <stdatomic.h>

#include "engine/geometry.h"
#include "engine/instance.h"
#include "engine/mask.h"
#include "engine/model.h"

enum engine_plan_phase {
    ENGINE_PLAN_PREPARE,
    ENGINE_PLAN_GATHER,
    ENGINE_PLAN_PROJECT,
    ENGINE_PLAN_ATTEND,
    ENGINE_PLAN_OUTPUT
};

/* Greatest absolute projected value of an outer row, as float bits (their order is that of the
 * values, NaN the greatest): tells whether dead keys may be skipped. */
enum {
    ENGINE_PLAN_BOUND_QUERY,
    ENGINE_PLAN_BOUND_KEY,
    ENGINE_PLAN_BOUND_VALUE,
    ENGINE_PLAN_BOUNDS
};

/* Rows of an input in the kernel's left format. */
struct engine_plan_input {
    struct engine_tensor source;
    const struct engine_rows *map;
    int64_t rows, width;
    struct engine_left left;
    bool gathered; /* left.data lies in the workspace at offset */
    size_t offset;
    int64_t units;
};

/* A product of all rows with one merged projection, cut into row blocks x column units. */
struct engine_plan_stage {
    const struct engine_model_projection *projection;
    int input;            /* which input; -1: the context */
    int64_t groups, rows; /* row blocks never straddle groups, unless they hold whole ones */
    int64_t block_rows;   /* of a group */
    int64_t block_groups; /* > 1: so many whole groups a block */
    int64_t row_blocks, blocks_per_unit, units;
};

/* One operand for each (outer, head). */
struct engine_plan_operands {
    size_t offset, bytes; /* of the first; of each */
};

struct engine_plan {
    struct engine_pool_job job;
    struct engine_job_options options; /* the caller's */
    struct engine *engine;
    struct engine_model *model;
    const struct engine_model_packed *packed;
    const struct engine_kernel *kernel;
    struct engine_call call;
    struct engine_geometry geometry;
    struct engine_plan_facts facts;

    bool wants_output, wants_scores, has_mask, scores_in_place, scores_streamed;
    bool rounds;    /* a 16-bit policy */
    bool backwards; /* blocks of weights from the last to the first */
    atomic_bool
        has_dead_keys; /* the mask hides a long suffix of the keys somewhere: known after gather */
    bool is_wide; /* policy float64: wide.c computes it, of what follows only the mask is set */
    size_t wide_output_offset, wide_scores_offset;
    struct engine_mask mask;
    struct engine_plan_input inputs[3]; /* query, value, key */
    struct engine_plan_stage stages[ENGINE_MODEL_PARTS];
    struct engine_left query_left;
    struct engine_left contexts[2]; /* one for each output part of the model */
    struct engine_right key_right, value_right;
    struct engine_plan_operands queries, keys, values;
    size_t context_offsets[2], adder_offset, bounds_offset;
    int64_t tile_rows, query_blocks, mask_units;
    int64_t attend_blocks; /* blocks of queries of one head in a unit: several if they are small */
    int64_t score_heads, score_rows, score_keys; /* of the scores returned */

    struct engine_buffer workspace, memory; /* of the call's numbers; of this plan */
};

enum { ENGINE_PLAN_MASK_ROWS = 64, ENGINE_PLAN_GATHER_ROWS = 64 };

static inline char *engine_plan_at(const struct engine_plan *plan, size_t offset)
{
    return (char *)plan->workspace.data + offset;
}

/* Rounds to the values of the policy's type; nothing under float32. */
void engine_plan_round(const struct engine_plan *plan, float *values, int64_t count);

#endif
