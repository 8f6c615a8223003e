/* attention.c - see attention.h. */
#include "engine/attention.h"

#include <math.h>
#include <string.h>

#include "engine/dropout.h"
#include "engine/emit.h"

/* Logits below this cannot bring a key with an adder of -1e9 back above exp's underflow. */
#define SAFE_LOGIT 1e7f

/* Of a tile in scratch. Rows of whole kilobytes would share a few sets of L1: one line more. */
static int64_t tile_stride(int64_t keys)
{
    return keys % 128 == 0 ? keys + 16 : keys;
}

size_t engine_attention_scratch_bytes(const struct engine_plan *plan)
{
    const struct engine_geometry *g = &plan->geometry;
    struct engine_left left = {0};
    size_t rows = (size_t)plan->tile_rows;
    return engine_arena_bytes(rows * (size_t)tile_stride(g->keys) * sizeof(float)) +
           engine_arena_bytes(rows * (size_t)g->value_dim * sizeof(float)) +
           engine_arena_bytes(rows * sizeof(float)) +
           engine_arena_bytes(plan->kernel->left_init(&left, plan->tile_rows, g->keys)) +
           engine_arena_bytes(plan->kernel->scratch_bytes) +
           engine_arena_bytes(engine_emit_scratch_bytes(plan));
}

/* Head "index" as returned: new heads first, then reused ones. */
struct unit {
    const struct engine_plan *plan;
    int64_t outer, index, query0, rows, keys, live;
    bool is_new, deferred;
    bool returned; /* its scores are part of the answer, and not there yet */
    float *tile;   /* rows x keys */
    int64_t stride;
    struct engine_left weights; /* data NULL: still to be made of the tile */
    float *context, *factors;
    void *scratch, *emit_scratch;
    struct engine_arena *arena;
};

static bool alloc(struct unit *u)
{
    const struct engine_geometry *g = &u->plan->geometry;
    size_t rows = (size_t)u->plan->tile_rows;
    u->stride = tile_stride(g->keys);
    u->tile = engine_arena_alloc(u->arena, rows * (size_t)u->stride * sizeof(float));
    u->context = engine_arena_alloc(u->arena, rows * (size_t)g->value_dim * sizeof(float));
    u->factors = engine_arena_alloc(u->arena, rows * sizeof(float));
    u->scratch = engine_arena_alloc(u->arena, u->plan->kernel->scratch_bytes);
    u->emit_scratch = engine_arena_alloc(u->arena, engine_emit_scratch_bytes(u->plan));
    return !u->arena->overflowed;
}

static void find(struct unit *u, int64_t unit)
{
    const struct engine_plan *plan = u->plan;
    const struct engine_geometry *g = &plan->geometry;
    u->query0 = unit % plan->query_blocks * plan->tile_rows;
    u->index = unit / plan->query_blocks % g->heads;
    u->outer = unit / plan->query_blocks / g->heads;
    u->rows = g->queries - u->query0 < plan->tile_rows ? g->queries - u->query0 : plan->tile_rows;
    u->keys = u->live = g->keys;
    u->is_new = u->index < g->heads_new;
}

/* ---- new heads ------------------------------------------------------------------------------ */

static float bound(const struct unit *u, int which)
{
    float value;
    const char *bounds = engine_plan_at(u->plan, u->plan->bounds_offset);
    memcpy(&value, bounds + (size_t)(u->outer * ENGINE_PLAN_BOUNDS + which) * sizeof(uint32_t),
           sizeof value);
    return value;
}

static const float *adder_row(const struct unit *u)
{
    const struct engine_mask *mask = &u->plan->mask;
    const float *adder = (const void *)engine_plan_at(u->plan, u->plan->adder_offset);
    return adder + u->outer * mask->outer_stride + u->index * mask->head_stride +
           u->query0 * mask->query_stride;
}

static int64_t live_keys(const struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    if (!atomic_load_explicit(&plan->has_dead_keys, memory_order_relaxed))
        return u->keys;
    float logit = (float)plan->geometry.key_dim * bound(u, ENGINE_PLAN_BOUND_QUERY) *
                      bound(u, ENGINE_PLAN_BOUND_KEY) +
                  plan->model->position_bound;
    if (!(logit < SAFE_LOGIT) || !isfinite(bound(u, ENGINE_PLAN_BOUND_VALUE)))
        return u->keys;
    int64_t live = engine_mask_live(adder_row(u), u->keys);
    live += live & 1; /* kernels take an even depth of operands that go on */
    return live < u->keys ? live : u->keys;
}

static void multiply_keys(struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    size_t head = (size_t)(u->outer * plan->geometry.heads_new + u->index);
    struct engine_left queries = plan->query_left;
    struct engine_right keys = plan->key_right;
    queries.data = engine_plan_at(plan, plan->queries.offset + head * plan->queries.bytes);
    keys.data = engine_plan_at(plan, plan->keys.offset + head * plan->keys.bytes);
    plan->kernel->multiply(&queries, u->query0, u->rows, &keys, 0, u->live, plan->geometry.key_dim,
                           u->tile, u->stride, false, NULL, 0, u->scratch);
}

static void clear_dead_keys(const struct unit *u, float *scores, int64_t stride, int64_t from)
{
    for (int64_t i = 0; i < u->rows && from < u->keys; i++)
        memset(scores + i * stride + from, 0, (size_t)(u->keys - from) * sizeof(float));
}

static bool drops(const struct engine_plan *plan)
{
    return plan->call.training && plan->model->config.dropout > 0;
}

static bool has_direct_softmax(const struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    return plan->kernel->softmax != NULL && !plan->geometry.several_axes &&
           plan->model->config.policy == ENGINE_POLICY_FLOAT32 && !drops(plan);
}

/* Where the kernel's own softmax puts its results: the left operand of the values, and the scores
 * in the tile (of whole ones, where they are returned). false: no memory. */
static bool find_results(struct unit *u, struct engine_softmax_results *ret)
{
    const struct engine_plan *plan = u->plan;
    size_t bytes = plan->kernel->left_init(&u->weights, u->rows, u->live);
    *ret = (struct engine_softmax_results){.planes = u->weights.planes, .plane = u->weights.plane};
    if (plan->wants_output) {
        u->weights.data = engine_arena_alloc(u->arena, bytes);
        if (u->weights.data == NULL)
            return false;
        ret->left = u->weights.data;
        ret->left_stride = u->weights.stride;
    }
    bool whole = plan->scores_streamed || plan->scores_in_place;
    if (u->returned && !u->deferred) {
        ret->streamed = plan->scores_streamed;
        ret->scores = whole ? engine_emit_place(plan, u->outer, u->index, u->query0) : u->tile;
        ret->scores_stride = whole ? u->keys : u->stride;
        u->returned = !whole; /* else there is nothing left to emit */
    }
    return true;
}

static void softmax_direct(struct unit *u, const struct engine_softmax_rows *rows)
{
    struct engine_softmax_results results;
    if (!find_results(u, &results))
        return;
    u->plan->kernel->softmax(rows, &results);
    if (results.scores == NULL)
        return;
    int64_t dead = results.streamed ? (u->live + 15) / 16 * 16 : u->live;
    clear_dead_keys(u, results.scores, results.scores_stride, dead);
}

static void softmax(struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    const struct engine_layer_config *config = &plan->model->config;
    const float *positions = plan->model->weights.tensors[ENGINE_WEIGHT_POSITIONS].data;
    u->deferred = !plan->wants_scores && !plan->geometry.several_axes &&
                  config->policy == ENGINE_POLICY_FLOAT32;
    struct engine_softmax_rows rows = {
        .tile = u->tile,
        .stride = u->stride,
        .rows = u->rows,
        .keys = u->live,
        .query0 = u->query0,
        .several_axes = plan->geometry.several_axes,
        .policy = config->policy,
        .defer = u->deferred,
        .factors = u->factors,
    };
    if (positions != NULL) {
        rows.position_length = config->pe_max_seq_length;
        rows.position = positions + u->index * (2 * rows.position_length - 1);
    }
    if (plan->has_mask) {
        rows.adder = adder_row(u);
        rows.adder_stride = plan->mask.query_stride;
    }
    if (has_direct_softmax(u)) {
        softmax_direct(u, &rows);
        return;
    }
    plan->engine->softmax(&rows);
    if (plan->wants_scores)
        clear_dead_keys(u, u->tile, u->stride, u->live);
}

static void compute_scores(struct unit *u)
{
    u->live = live_keys(u);
    if (u->keys == 0)
        return;
    multiply_keys(u);
    softmax(u);
}

/* ---- reused heads -----------------------------------------------------------------------------
 */

static void copy_direct(struct unit *u)
{
    const struct engine_softmax_rows rows = {
        .tile = u->tile, .stride = u->stride, .rows = u->rows, .keys = u->keys};
    struct engine_softmax_results results;
    if (!find_results(u, &results))
        return;
    if (results.scores == u->tile)
        results.scores = NULL; /* they are there */
    if (results.left != NULL || results.scores != NULL)
        u->plan->kernel->copy(&rows, &results);
}

/* The block's rows of the scores given; float32 ones are used where they lie. */
static void take_scores(struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    const struct engine_geometry *g = &plan->geometry;
    const struct engine_tensor *given = &plan->call.inputs[ENGINE_REUSE_ATTENTION_SCORES];
    int64_t head = u->outer * g->reuse_heads_given + u->index - g->heads_new;
    int64_t at = (head * g->queries + u->query0) * u->keys;
    const char *from =
        (const char *)given->data + (size_t)at * engine_tensor_element_bytes(given->dtype);
    bool is_f32 = given->dtype == ENGINE_F32;
    if (is_f32 && !plan->call.training && plan->model->config.policy == ENGINE_POLICY_FLOAT32) {
        u->tile = (float *)(void *)(uintptr_t)from; /* only read from here on */
        u->stride = u->keys;
        if (has_direct_softmax(u))
            copy_direct(u);
        return;
    }
    u->stride = u->keys;
    engine_tensor_to_f32(given->dtype, from, u->tile, (size_t)(u->rows * u->keys));
    if (g->heads_new >
        0) /* else they are returned as they were given, and cast when they are used */
        engine_plan_round(plan, u->tile, u->rows * u->keys);
}

/* ---- both ---------------------------------------------------------------------------------------
 */

static void drop(const struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    double rate = plan->model->config.dropout;
    if (!drops(plan))
        return;
    int64_t row = (u->outer * plan->geometry.heads + u->index) * plan->geometry.queries + u->query0;
    for (int64_t i = 0; i < u->rows; i++)
        engine_dropout_apply(plan->call.seed, rate, (uint64_t)((row + i) * u->keys),
                             u->tile + i * u->stride, (size_t)u->live);
}

/* What the softmax did not round: scores given to a full reuse, and dropout's results. */
static void round_weights(const struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    if (!plan->rounds || (!drops(plan) && plan->geometry.heads_new > 0))
        return;
    for (int64_t i = 0; i < u->rows; i++)
        engine_plan_round(plan, u->tile + i * u->stride, u->live);
}

static void scale_context(const struct unit *u)
{
    int64_t width = u->plan->geometry.value_dim;
    if (u->plan->kernel->scale != NULL) {
        u->plan->kernel->scale(u->context, width, u->rows, width, u->factors);
        return;
    }
    for (int64_t i = 0; i < u->rows; i++)
        for (int64_t j = 0; j < width; j++)
            u->context[i * width + j] *= u->factors[i];
}

/* Heads lie [reused | new] in one operand, or in two if the output is two parts. */
static void write_context(const struct unit *u, int64_t head)
{
    const struct engine_plan *plan = u->plan;
    const struct engine_geometry *g = &plan->geometry;
    bool second = head * g->value_dim >= plan->contexts[0].depth;
    int64_t column = head * g->value_dim - (second ? plan->contexts[0].depth : 0);
    plan->kernel->left_write(&plan->contexts[second], u->outer * g->queries + u->query0, u->rows,
                             column, g->value_dim, u->context, g->value_dim);
}

static void multiply_values(struct unit *u)
{
    const struct engine_plan *plan = u->plan;
    const struct engine_geometry *g = &plan->geometry;
    int64_t head = u->is_new ? g->heads_reused + u->index : u->index - g->heads_new;
    struct engine_right values = plan->value_right;
    values.data = engine_plan_at(plan, plan->values.offset + (size_t)(u->outer * g->heads + head) *
                                                                 plan->values.bytes);
    struct engine_left weights = {.data = u->tile, .depth = u->keys, .stride = u->stride};
    if (u->weights.data != NULL) {
        weights = u->weights;
    } else if (!plan->kernel->left_is_plain) {
        size_t bytes = plan->kernel->left_init(&weights, u->rows, u->live);
        weights.data = engine_arena_alloc(u->arena, bytes);
        if (weights.data == NULL)
            return;
        plan->kernel->left_write(&weights, 0, u->rows, 0, u->live, u->tile, u->stride);
    }
    plan->kernel->multiply(&weights, 0, u->rows, &values, 0, g->value_dim, u->live, u->context,
                           g->value_dim, false, NULL, 0, u->scratch);
    if (u->deferred)
        scale_context(u);
    engine_plan_round(plan, u->context, u->rows * g->value_dim);
    write_context(u, head);
}

static void attend(const struct engine_plan *plan, int64_t unit, struct engine_arena *arena)
{
    struct unit u = {.plan = plan, .arena = arena};
    find(&u, unit);
    u.returned = plan->wants_scores && engine_emit_wants_head(plan, u.index);
    if ((!u.returned && !plan->wants_output) || !alloc(&u))
        return;
    bool in_place = plan->scores_in_place && u.is_new && !has_direct_softmax(&u);
    if (in_place) {
        u.tile = engine_emit_place(plan, u.outer, u.index, u.query0);
        u.stride = u.keys;
    }
    if (u.is_new)
        compute_scores(&u);
    else
        take_scores(&u);
    if (u.returned && !in_place) {
        const struct engine_emit_rows rows = {u.outer, u.index, u.query0, u.rows, u.tile, u.stride};
        engine_emit(plan, &rows, u.emit_scratch);
    }
    if (!plan->wants_output)
        return;
    drop(&u);
    round_weights(&u);
    multiply_values(&u);
}

void engine_attention_unit(const struct engine_plan *plan, int64_t unit, struct engine_arena *arena)
{
    const struct engine_geometry *g = &plan->geometry;
    int64_t all = g->outer * g->heads * plan->query_blocks, first = unit * plan->attend_blocks;
    attend(plan, first, arena);
    for (int64_t i = first + 1; i < first + plan->attend_blocks && i < all; i++) {
        if (arena->overflowed)
            return;
        engine_arena_rewind(arena);
        attend(plan, i, arena);
    }
}
