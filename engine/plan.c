/* plan.c - see plan.h. */
#include "engine/plan.h"

#include <string.h>
#include <time.h>

#include "engine/attention.h"
#include "engine/emit.h"
#include "engine/projection.h"
#include "engine/wide.h"

/* Rows of a projection unit: their tile of 256 columns is 256 KB, half of a small L2 beside X. */
enum { BLOCK_ROWS = 256, TILE_BYTES = 256 << 10, IN_PLACE_BYTES = 4 << 20 };

/* A unit of about a third of a millisecond. */
#define UNIT_FLOPS 60e6
/* Attention in units of some microseconds at least, else taking them costs as much. */
#define ATTEND_FLOPS 4e6

/* Inputs packed, or scores computed, in less than a worker takes to wake. */
enum { QUICK_VALUES = 65536 };

/* Dead keys are skipped if in some row there are more than one in so many: to know that they may be
 * costs a pass over queries, keys and values. */
enum { WORTH_SKIPPING = 8 };

void engine_plan_round(const struct engine_plan *plan, float *values, int64_t count)
{
    engine_tensor_round(engine_layer_dtype(plan->model->config.policy), values, (size_t)count);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- what is asked for ---------------------------------------------------------------------- */

static enum engine_code check_selection(const char *name, const struct engine_selection *selection,
                                        int64_t limit, struct engine_error *err)
{
    for (size_t i = 0; i < selection->count; i++)
        if (selection->indices[i] < 0 || selection->indices[i] >= limit)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "parameter %s names %lld, it must be 0 to %lld", name,
                                    (long long)selection->indices[i], (long long)limit - 1);
    return ENGINE_OK;
}

static enum engine_code check_dtype(enum engine_dtype dtype, enum engine_output output,
                                    struct engine_error *err)
{
    if (dtype == ENGINE_BOOL || engine_tensor_dtype_is_float(dtype))
        return ENGINE_OK;
    return engine_error_set(
        err, ENGINE_INVALID_ARGUMENT,
        "output %s cannot have datatype %s, it must be FP16, BF16, FP32 or FP64",
        engine_output_name(output), engine_tensor_dtype_name(dtype));
}

static enum engine_code check_wishes(struct engine_plan *plan, struct engine_error *err)
{
    const struct engine_call *call = &plan->call;
    const struct engine_geometry *g = &plan->geometry;
    ENGINE_TRY(check_selection("heads", &call->heads, g->heads, err));
    ENGINE_TRY(check_selection("query_rows", &call->query_rows, g->queries, err));
    ENGINE_TRY(check_dtype(call->dtype[ENGINE_ATTENTION_OUTPUT], ENGINE_ATTENTION_OUTPUT, err));
    ENGINE_TRY(check_dtype(call->dtype[ENGINE_ATTENTION_SCORES], ENGINE_ATTENTION_SCORES, err));
    if (call->top_k < 0 || call->top_k > g->keys)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameter top_k must be an integer from 1 to the number of keys, "
                                "which is %lld here",
                                (long long)g->keys);
    if (call->wanted[ENGINE_ATTENTION_SCORES_INDICES] && call->top_k == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "output attention_scores_indices exists only with top_k");
    plan->score_heads = call->heads.count > 0 ? (int64_t)call->heads.count : g->heads;
    plan->score_rows = call->query_rows.count > 0 ? (int64_t)call->query_rows.count : g->queries;
    plan->score_keys = call->top_k > 0 ? call->top_k : g->keys;
    plan->wants_output = call->wanted[ENGINE_ATTENTION_OUTPUT];
    plan->wants_scores =
        call->wanted[ENGINE_ATTENTION_SCORES] || call->wanted[ENGINE_ATTENTION_SCORES_INDICES];
    return ENGINE_OK;
}

/* Chosen rows make one axis of the query axes, the best keys one of the key axes. */
static void shape_scores(const struct engine_plan *plan, struct engine_tensor *ret)
{
    const struct engine_geometry *g = &plan->geometry;
    int lead = 1 + g->free_axes;
    *ret = (struct engine_tensor){.dtype = ENGINE_F32};
    for (int i = 0; i < lead; i++)
        ret->shape[ret->rank++] = g->scores.shape[i];
    ret->shape[ret->rank++] = plan->score_heads;
    for (int i = 0; i < g->axes && plan->call.query_rows.count == 0; i++)
        ret->shape[ret->rank++] = g->scores.shape[lead + 1 + i];
    if (plan->call.query_rows.count > 0)
        ret->shape[ret->rank++] = plan->score_rows;
    for (int i = 0; i < g->axes && plan->call.top_k == 0; i++)
        ret->shape[ret->rank++] = g->scores.shape[lead + 1 + g->axes + i];
    if (plan->call.top_k > 0)
        ret->shape[ret->rank++] = plan->score_keys;
}

static enum engine_code shape_outputs(struct engine_plan *plan, struct engine_error *err)
{
    struct engine_plan_facts *facts = &plan->facts;
    facts->outputs[ENGINE_ATTENTION_OUTPUT] = plan->geometry.output;
    shape_scores(plan, &facts->outputs[ENGINE_ATTENTION_SCORES]);
    shape_scores(plan, &facts->outputs[ENGINE_ATTENTION_SCORES_INDICES]);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        enum engine_dtype dtype = plan->call.dtype[i];
        if (i == ENGINE_ATTENTION_SCORES_INDICES)
            dtype = ENGINE_I32;
        else if (dtype == ENGINE_BOOL)
            dtype = plan->is_wide ? ENGINE_F64 : ENGINE_F32;
        facts->outputs[i].dtype = dtype;
        if (plan->call.wanted[i] &&
            !engine_tensor_bytes(&facts->outputs[i], &facts->output_bytes[i]))
            return engine_error_set(err, ENGINE_TOO_LARGE, "output %s is too large",
                                    engine_output_name((enum engine_output)i));
    }
    return ENGINE_OK;
}

/* ---- memory: offsets in the workspace ---------------------------------------------------------
 */

static enum engine_code reserve(struct engine_plan *plan, size_t bytes, int64_t count, size_t *ret,
                                struct engine_error *err)
{
    size_t *total = &plan->facts.workspace_bytes, all;
    *ret = *total;
    if (!engine_tensor_mul(engine_arena_bytes(bytes), (size_t)count, &all) ||
        !engine_tensor_add(*total, all, total) || *total > (size_t)1 << 60)
        return engine_error_set(err, ENGINE_TOO_LARGE, "the call needs too much memory");
    return ENGINE_OK;
}

static enum engine_code lay_out_input(struct engine_plan *plan, enum engine_input which,
                                      struct engine_error *err)
{
    struct engine_plan_input *input = &plan->inputs[which];
    const struct engine_geometry *g = &plan->geometry;
    const struct engine_tensor *given = plan->call.inputs;
    input->source = given[ENGINE_QUERY];
    if (which != ENGINE_QUERY && given[ENGINE_VALUE].data != NULL)
        input->source = given[ENGINE_VALUE];
    if (which == ENGINE_KEY && given[ENGINE_KEY].data != NULL)
        input->source = given[ENGINE_KEY];
    input->map = which == ENGINE_QUERY ? &g->query_rows : &g->value_rows;
    input->rows = g->outer * (which == ENGINE_QUERY ? g->queries : g->keys);
    input->width = input->source.shape[input->source.rank - 1];
    for (int i = 0; i < (int)which; i++) /* the same tensor is gathered once */
        if (plan->inputs[i].source.data == input->source.data && plan->inputs[i].gathered &&
            plan->inputs[i].width == input->width) {
            *input = plan->inputs[i];
            input->units = 0;
            return ENGINE_OK;
        }
    if (plan->kernel->left_is_plain && input->map->identity && input->source.dtype == ENGINE_F32 &&
        !plan->rounds) {
        input->left = (struct engine_left){
            .data = input->source.data, .depth = input->width, .stride = input->width};
        return ENGINE_OK;
    }
    input->gathered = true;
    input->units = ceil_div(input->rows, ENGINE_PLAN_GATHER_ROWS);
    size_t bytes = plan->kernel->left_init(&input->left, input->rows, input->width);
    return reserve(plan, bytes, 1, &input->offset, err);
}

static enum engine_code lay_out_operands(struct engine_plan *plan, struct engine_error *err)
{
    const struct engine_kernel *kernel = plan->kernel;
    const struct engine_geometry *g = &plan->geometry;
    size_t bytes;
    if (g->heads_new > 0) {
        bytes = kernel->left_init(&plan->query_left, g->queries, g->key_dim);
        plan->queries.bytes = engine_arena_bytes(bytes);
        ENGINE_TRY(reserve(plan, bytes, g->outer * g->heads_new, &plan->queries.offset, err));
        bytes = kernel->right_init(&plan->key_right, g->key_dim, g->keys, true);
        plan->keys.bytes = engine_arena_bytes(bytes);
        ENGINE_TRY(reserve(plan, bytes, g->outer * g->heads_new, &plan->keys.offset, err));
    }
    if (plan->wants_output) {
        bytes = kernel->right_init(&plan->value_right, g->keys, g->value_dim, false);
        plan->values.bytes = engine_arena_bytes(bytes);
        ENGINE_TRY(reserve(plan, bytes, g->outer * g->heads, &plan->values.offset, err));
        for (int i = 0; i < 2; i++) {
            int64_t depth = plan->packed->parts[ENGINE_MODEL_OUTPUT + i].depth;
            bytes = kernel->left_init(&plan->contexts[i], g->outer * g->queries, depth);
            ENGINE_TRY(reserve(plan, depth > 0 ? bytes : 0, 1, &plan->context_offsets[i], err));
        }
    }
    ENGINE_TRY(reserve(plan, ENGINE_PLAN_BOUNDS * sizeof(uint32_t) * (size_t)g->outer, 1,
                       &plan->bounds_offset, err));
    if (!plan->has_mask)
        return ENGINE_OK;
    plan->mask_units = ceil_div((int64_t)(plan->mask.floats / (size_t)(g->keys > 0 ? g->keys : 1)),
                                ENGINE_PLAN_MASK_ROWS);
    return reserve(plan, plan->mask.floats * sizeof(float), 1, &plan->adder_offset, err);
}

/* ---- units ------------------------------------------------------------------------------------
 */

static void cut_stage(struct engine_plan *plan, enum engine_model_part part, int input,
                      int64_t groups, int64_t rows)
{
    struct engine_plan_stage *s = &plan->stages[part];
    const struct engine_model_projection *p = &plan->packed->parts[part];
    *s =
        (struct engine_plan_stage){.projection = p, .input = input, .groups = groups, .rows = rows};
    if (groups == 0 || rows == 0 || p->blocks == 0)
        return;
    s->block_rows = rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
    s->block_groups = rows < BLOCK_ROWS ? BLOCK_ROWS / rows : 1;
    if (s->block_groups > groups)
        s->block_groups = groups;
    s->row_blocks = ceil_div(groups, s->block_groups) * ceil_div(rows, s->block_rows);
    double block_flops = 2.0 * (double)(s->block_rows * s->block_groups) * (double)p->depth *
                         (double)(p->block_heads * p->width);
    int64_t most = ceil_div(p->blocks * s->row_blocks, 2 * plan->engine->facts.threads);
    s->blocks_per_unit = block_flops < UNIT_FLOPS ? (int64_t)(UNIT_FLOPS / block_flops) : 1;
    s->blocks_per_unit = s->blocks_per_unit < most ? s->blocks_per_unit : most;
    s->blocks_per_unit = s->blocks_per_unit < p->blocks ? s->blocks_per_unit : p->blocks;
    s->units = s->row_blocks * ceil_div(p->blocks, s->blocks_per_unit);
    plan->facts.flops += 2.0 * (double)groups * (double)rows * (double)p->depth * (double)p->heads *
                         (double)p->width;
}

static void cut_attention(struct engine_plan *plan)
{
    const struct engine_geometry *g = &plan->geometry;
    plan->tile_rows = 128;
    while (plan->tile_rows > 32 && plan->tile_rows * g->keys * (int64_t)sizeof(float) > TILE_BYTES)
        plan->tile_rows /= 2;
    if (plan->tile_rows > g->queries && g->queries > 0)
        plan->tile_rows = g->queries;
    plan->query_blocks = ceil_div(g->queries, plan->tile_rows);
    double block_flops = 4.0 * (double)(plan->tile_rows * g->keys * (g->key_dim + g->value_dim));
    int64_t most = ceil_div(g->outer * g->heads * plan->query_blocks,
                            2 * (int64_t)plan->engine->facts.threads);
    plan->attend_blocks =
        block_flops < ATTEND_FLOPS ? (int64_t)(ATTEND_FLOPS / (block_flops + 1)) : 1;
    plan->attend_blocks = plan->attend_blocks < most ? plan->attend_blocks : most;
    plan->attend_blocks = plan->attend_blocks > 0 ? plan->attend_blocks : 1;
    double product = 2.0 * (double)g->outer * (double)g->queries * (double)g->keys;
    plan->facts.flops += product * (double)g->heads_new * (double)g->key_dim;
    if (plan->wants_output)
        plan->facts.flops += product * (double)g->heads * (double)g->value_dim;
}

/* Whole float32 rows are computed where they are returned, unless a cache cannot hold them all. */
static void place_scores(struct engine_plan *plan)
{
    bool whole = plan->call.heads.count == 0 && plan->call.query_rows.count == 0 &&
                 plan->call.top_k == 0 && plan->call.wanted[ENGINE_ATTENTION_SCORES] &&
                 plan->facts.outputs[ENGINE_ATTENTION_SCORES].dtype == ENGINE_F32;
    size_t bytes = plan->facts.output_bytes[ENGINE_ATTENTION_SCORES];
    bool streams = plan->geometry.keys % 16 == 0 && bytes > IN_PLACE_BYTES;
    plan->scores_streamed = whole && streams;
    plan->scores_in_place = whole && !streams && !plan->call.training;
}

static void count_units(struct engine_plan *plan)
{
    int64_t *units = plan->job.work.units;
    const struct engine_geometry *g = &plan->geometry;
    units[ENGINE_PLAN_PREPARE] = 1;
    units[ENGINE_PLAN_GATHER] = plan->mask_units;
    for (int i = 0; i < 3; i++)
        units[ENGINE_PLAN_GATHER] += plan->inputs[i].units;
    for (int i = 0; i < ENGINE_MODEL_OUTPUT; i++)
        units[ENGINE_PLAN_PROJECT] += plan->stages[i].units;
    units[ENGINE_PLAN_ATTEND] =
        ceil_div(g->outer * g->heads * plan->query_blocks, plan->attend_blocks);
    units[ENGINE_PLAN_OUTPUT] = plan->stages[ENGINE_MODEL_OUTPUT].units;
    for (int i = 0; i < ENGINE_POOL_PHASES; i++)
        plan->facts.units += units[i];
    int64_t gathered = 0;
    for (int i = 0; i < 3; i++)
        gathered += plan->inputs[i].units * plan->inputs[i].width * ENGINE_PLAN_GATHER_ROWS;
    if (gathered < QUICK_VALUES)
        plan->job.work.quick_phases |= 1u << ENGINE_PLAN_GATHER;
    if (g->outer * g->heads * g->queries * g->keys < QUICK_VALUES)
        plan->job.work.quick_phases |= 1u << ENGINE_PLAN_ATTEND;
}

static enum engine_code lay_out(struct engine_plan *plan, struct engine_error *err)
{
    const struct engine_geometry *g = &plan->geometry;
    if (g->heads_new > 0)
        ENGINE_TRY(lay_out_input(plan, ENGINE_QUERY, err));
    if (plan->wants_output)
        ENGINE_TRY(lay_out_input(plan, ENGINE_VALUE, err));
    if (g->heads_new > 0) {
        ENGINE_TRY(lay_out_input(plan, ENGINE_KEY, err));
        cut_stage(plan, ENGINE_MODEL_QUERY, ENGINE_QUERY, g->outer, g->queries);
        cut_stage(plan, ENGINE_MODEL_KEY, ENGINE_KEY, g->outer, g->keys);
    }
    ENGINE_TRY(lay_out_operands(plan, err));
    if (plan->wants_output) {
        cut_stage(plan, ENGINE_MODEL_VALUE, ENGINE_VALUE, g->outer, g->keys);
        cut_stage(plan, ENGINE_MODEL_OUTPUT, -1, g->outer * g->queries, 1);
    }
    cut_attention(plan);
    place_scores(plan);
    count_units(plan);
    size_t scratch = engine_projection_scratch_bytes(plan),
           more = engine_attention_scratch_bytes(plan);
    plan->job.work.scratch_bytes = scratch > more ? scratch : more;
    return ENGINE_OK;
}

static enum engine_code lay_out_wide(struct engine_plan *plan, struct engine_error *err)
{
    size_t output, scores;
    engine_wide_workspace(plan, &output, &scores);
    ENGINE_TRY(reserve(plan, output * sizeof(double), 1, &plan->wide_output_offset, err));
    ENGINE_TRY(reserve(plan, scores * sizeof(double), 1, &plan->wide_scores_offset, err));
    plan->facts.flops = engine_wide_flops(plan);
    plan->job.work.units[ENGINE_PLAN_PREPARE] = 1;
    plan->job.work.units[ENGINE_PLAN_ATTEND] = plan->geometry.outer;
    plan->facts.units = 1 + plan->geometry.outer;
    return ENGINE_OK;
}

/* ---- running ------------------------------------------------------------------------------------
 */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Builds with ATTND_POISON (all with sanitizers): what a run does not write is NaN, not what an
 * earlier call left there. */
static void poison(const struct engine_plan *plan)
{
#ifdef ATTND_POISON
    const struct engine_plan_facts *facts = &plan->facts;
    if (facts->workspace_bytes > 0)
        memset(plan->workspace.data, 0xff, facts->workspace_bytes);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        if (facts->output_bytes[i] > 0)
            memset(facts->outputs[i].data, 0xff, facts->output_bytes[i]);
#else
    (void)plan;
#endif
}

static enum engine_code prepare(struct engine_plan *plan, struct engine_error *err)
{
    ENGINE_TRY(engine_buffers_take(&plan->engine->buffers, plan->facts.workspace_bytes,
                                   &plan->workspace, err));
    poison(plan);
    plan->facts.started_ns = now_ns();
    if (plan->is_wide)
        return ENGINE_OK;
    for (int i = 0; i < 3; i++)
        if (plan->inputs[i].gathered)
            plan->inputs[i].left.data = engine_plan_at(plan, plan->inputs[i].offset);
    for (int i = 0; i < 2; i++)
        plan->contexts[i].data = engine_plan_at(plan, plan->context_offsets[i]);
    if (plan->geometry.outer > 0)
        memset(engine_plan_at(plan, plan->bounds_offset), 0,
               ENGINE_PLAN_BOUNDS * sizeof(uint32_t) * (size_t)plan->geometry.outer);
    return ENGINE_OK;
}

static void fill_mask(struct engine_plan *plan, int64_t unit)
{
    int64_t keys = plan->mask.keys, row0 = unit * ENGINE_PLAN_MASK_ROWS;
    int64_t rows = (int64_t)(plan->mask.floats / (size_t)keys) - row0;
    rows = rows < ENGINE_PLAN_MASK_ROWS ? rows : ENGINE_PLAN_MASK_ROWS;
    float *adder = (float *)(void *)engine_plan_at(plan, plan->adder_offset) + row0 * keys;
    engine_mask_fill(&plan->mask, row0, rows, adder);
    if (plan->mask.query_stride != 0 || plan->model->config.policy != ENGINE_POLICY_FLOAT32)
        return;
    for (int64_t i = 0; i < rows; i++)
        if (keys - engine_mask_live(adder + i * keys, keys) > keys / WORTH_SKIPPING)
            atomic_store_explicit(&plan->has_dead_keys, true, memory_order_relaxed);
}

static void gather(struct engine_plan *plan, int64_t unit, struct engine_arena *arena)
{
    if (unit < plan->mask_units) {
        fill_mask(plan, unit);
        return;
    }
    unit -= plan->mask_units;
    for (int i = 0; i < 3; i++) {
        if (unit < plan->inputs[i].units) {
            engine_projection_gather(plan, &plan->inputs[i], unit, arena);
            return;
        }
        unit -= plan->inputs[i].units;
    }
}

static enum engine_code run(void *argument, const struct engine_pool_unit *unit,
                            struct engine_arena *arena, struct engine_error *err)
{
    struct engine_plan *plan = argument;
    int phase = unit->phase;
    const struct engine_kernel *kernel = plan->kernel;
    if (phase == ENGINE_PLAN_PREPARE)
        return prepare(plan, err);
    if (plan->is_wide)
        return engine_wide_unit(plan, unit->index, err);
    if (kernel->acquire != NULL)
        kernel->acquire();
    if (phase == ENGINE_PLAN_GATHER)
        gather(plan, unit->index, arena);
    else if (phase == ENGINE_PLAN_ATTEND)
        engine_attention_unit(plan, unit->index, arena);
    else
        engine_projection_unit(plan, unit, arena);
    if (kernel->release != NULL)
        kernel->release();
    return kernel->outcome != NULL ? kernel->outcome(err) : ENGINE_OK;
}

/* ---- plans --------------------------------------------------------------------------------------
 */

static enum engine_code fill(struct engine_plan *plan, struct engine_error *err)
{
    struct engine_model *model = plan->model;
    const struct engine_tensor *mask = &plan->call.inputs[ENGINE_ATTENTION_MASK];
    enum engine_precision wish =
        plan->call.precision != ENGINE_PRECISION_DEFAULT ? plan->call.precision : model->precision;
    plan->is_wide = model->config.policy == ENGINE_POLICY_FLOAT64;
    plan->facts.precision = engine_instance_precision(plan->engine, wish);
    ENGINE_TRY(
        engine_geometry_init(&plan->geometry, &model->config, &model->weights, &plan->call, err));
    int64_t queries = plan->geometry.queries, keys = plan->geometry.keys;
    int64_t length = queries > keys ? queries : keys;
    plan->rounds = engine_layer_rounds(model->config.policy);
    if (plan->rounds) /* what overflows stays infinite, which it does not in planes (kernel.h) */
        length = 0;
    plan->kernel = engine_instance_kernel(plan->engine, plan->facts.precision, length);
    ENGINE_TRY(check_wishes(plan, err));
    plan->facts.batch = plan->geometry.batch;
    plan->backwards = atomic_fetch_add_explicit(&model->turns, 1, memory_order_relaxed) % 2 != 0;
    if (mask->data != NULL && plan->geometry.heads_new > 0) {
        ENGINE_TRY(engine_mask_init(&plan->mask, mask, &plan->geometry, model->config.policy, err));
        plan->has_mask = plan->mask.floats > 0;
    }
    ENGINE_TRY(shape_outputs(plan, err));
    if (plan->is_wide)
        return lay_out_wide(plan, err);
    ENGINE_TRY(engine_model_pack(model, plan->kernel, &plan->packed, err));
    return lay_out(plan, err);
}

enum engine_code engine_plan_create(struct engine *engine, struct engine_model *model,
                                    const struct engine_call *call, struct engine_plan **ret,
                                    struct engine_error *err)
{
    struct engine_buffer memory;
    ENGINE_TRY(engine_buffers_take(&engine->buffers, sizeof(struct engine_plan), &memory, err));
    struct engine_plan *plan = memory.data;
    memset(plan, 0, sizeof *plan);
    plan->memory = memory;
    engine_model_retain(model);
    plan->engine = engine;
    plan->model = model;
    plan->call = *call;
    enum engine_code code = fill(plan, err);
    if (code != ENGINE_OK) {
        engine_plan_destroy(plan);
        return code;
    }
    plan->job.work.run = run;
    plan->job.work.argument = plan;
    plan->job.work.flops = plan->facts.flops;
    *ret = plan;
    return ENGINE_OK;
}

void engine_plan_destroy(struct engine_plan *plan)
{
    if (plan == NULL)
        return;
    engine_model_release(plan->model);
    struct engine_buffer memory = plan->memory; /* which the plan lies in */
    engine_buffers_give(&plan->engine->buffers, &memory);
}

const struct engine_plan_facts *engine_plan_facts(const struct engine_plan *plan)
{
    return &plan->facts;
}

void engine_plan_output(struct engine_plan *plan, enum engine_output output, void *data)
{
    plan->facts.outputs[output].data = data;
}
