/* projection.c - see projection.h. */
#include "engine/projection.h"

#include <math.h>
#include <string.h>

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Of a tile. Rows of whole kilobytes would share a few sets of L1: one line more. */
static int64_t tile_stride(int64_t columns)
{
    return columns % 128 == 0 ? columns + 16 : columns;
}

size_t engine_projection_scratch_bytes(const struct engine_plan *plan)
{
    size_t tile = 0, other = 0, gathered = 0;
    for (int i = 0; i < ENGINE_MODEL_PARTS; i++) {
        const struct engine_plan_stage *s = &plan->stages[i];
        if (s->units == 0)
            continue;
        size_t bytes = sizeof(float) * (size_t)(s->block_rows * s->block_groups) *
                       (size_t)tile_stride(s->projection->block_heads * s->projection->width);
        tile = bytes > tile ? bytes : tile;
        if (i == ENGINE_MODEL_OUTPUT && plan->packed->parts[ENGINE_MODEL_OUTPUT_NEW].blocks > 0)
            other = bytes;
    }
    for (int i = 0; i < 3; i++) {
        size_t bytes = plan->inputs[i].gathered
                           ? sizeof(float) * ENGINE_PLAN_GATHER_ROWS * (size_t)plan->inputs[i].width
                           : 0;
        gathered = bytes > gathered ? bytes : gathered;
    }
    size_t project = engine_arena_bytes(tile) + engine_arena_bytes(other) +
                     engine_arena_bytes(plan->kernel->scratch_bytes);
    return project > gathered ? project : engine_arena_bytes(gathered);
}

void engine_projection_gather(const struct engine_plan *plan, const struct engine_plan_input *input,
                              int64_t unit, struct engine_arena *arena)
{
    int64_t width = input->width, row0 = unit * ENGINE_PLAN_GATHER_ROWS;
    int64_t rows = least(ENGINE_PLAN_GATHER_ROWS, input->rows - row0);
    size_t element = engine_tensor_element_bytes(input->source.dtype);
    if (input->map->identity && input->source.dtype == ENGINE_F32 && !plan->rounds) {
        const float *source = (const float *)input->source.data + row0 * width;
        plan->kernel->left_write(&input->left, row0, rows, 0, width, source, width);
        return;
    }
    float *tile = engine_arena_alloc(arena, sizeof(float) * (size_t)(rows * width));
    if (tile == NULL)
        return;
    for (int64_t i = 0; i < rows; i++) {
        int64_t from = engine_geometry_row(input->map, row0 + i) * width;
        engine_tensor_to_f32(input->source.dtype,
                             (const char *)input->source.data + (size_t)from * element,
                             tile + i * width, (size_t)width);
    }
    engine_plan_round(plan, tile, rows * width);
    plan->kernel->left_write(&input->left, row0, rows, 0, width, tile, width);
}

/* Rows of a stage: canonical rows row0 .. row0 + rows; groups of stage->rows each. */
struct block {
    const struct engine_plan *plan;
    const struct engine_plan_stage *stage;
    enum engine_model_part part;
    int64_t row0, rows;
    int64_t head0, heads;
    float *tile;
    int64_t stride;
    float *other; /* for the second output's product; else NULL */
};

/* Products are added to what the tile holds: the bias, laid under them, costs no pass of its own.
 */
static void lay_bias(const struct block *b)
{
    const struct engine_model_projection *p = b->stage->projection;
    size_t bytes = (size_t)(b->heads * p->width) * sizeof(float);
    for (int64_t i = 0; i < b->rows; i++)
        memcpy(b->tile + i * b->stride, p->bias + b->head0 * p->width, bytes);
}

/* Greatest absolute value of a tile, as float bits: their order is that of the values. */
static uint32_t greatest_of(const struct block *b, float *tile, int64_t rows, int64_t columns)
{
    uint32_t greatest = 0;
    if (b->plan->kernel->finish != NULL)
        return b->plan->kernel->finish(tile, b->stride, rows, columns, NULL);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            uint32_t bits;
            memcpy(&bits, &tile[i * b->stride + j], sizeof bits);
            bits &= 0x7fffffffu;
            greatest = bits > greatest ? bits : greatest;
        }
    return greatest;
}

/* Raises the bound of an outer row to the tile's greatest absolute value. */
static void raise_bound(const struct block *b, int64_t outer, float *tile, int64_t rows,
                        int64_t columns)
{
    _Atomic uint32_t *bound =
        (_Atomic uint32_t *)(void *)engine_plan_at(b->plan, b->plan->bounds_offset) +
        outer * ENGINE_PLAN_BOUNDS + (int)b->part;
    uint32_t greatest = greatest_of(b, tile, rows, columns);
    uint32_t old = atomic_load_explicit(bound, memory_order_relaxed);
    while (old < greatest && !atomic_compare_exchange_weak(bound, &old, greatest))
        continue;
}

/* One head of rows that belong to one outer row, into its operand. */
static void write_head(const struct block *b, int64_t outer, int64_t row, int64_t rows,
                       int64_t head, const float *tile)
{
    const struct engine_plan *plan = b->plan;
    const struct engine_kernel *kernel = plan->kernel;
    const struct engine_model_projection *p = b->stage->projection;
    size_t index = (size_t)(outer * p->heads + head);
    struct engine_left left = plan->query_left;
    struct engine_right right = b->part == ENGINE_MODEL_KEY ? plan->key_right : plan->value_right;
    switch (b->part) {
    case ENGINE_MODEL_QUERY:
        left.data = engine_plan_at(plan, plan->queries.offset + index * plan->queries.bytes);
        kernel->left_write(&left, row, rows, 0, p->width, tile, b->stride);
        return;
    case ENGINE_MODEL_KEY:
        right.data = engine_plan_at(plan, plan->keys.offset + index * plan->keys.bytes);
        kernel->right_write_columns(&right, row, rows, tile, b->stride);
        return;
    default:
        right.data = engine_plan_at(plan, plan->values.offset + index * plan->values.bytes);
        kernel->right_write_rows(&right, row, rows, 0, p->width, tile, b->stride);
    }
}

static void write_heads(const struct block *b)
{
    const struct engine_model_projection *p = b->stage->projection;
    for (int64_t done = 0; done < b->rows;) {
        int64_t outer = (b->row0 + done) / b->stage->rows, row = (b->row0 + done) % b->stage->rows;
        int64_t rows = least(b->stage->rows - row, b->rows - done);
        float *tile = b->tile + done * b->stride;
        if (b->plan->has_dead_keys)
            raise_bound(b, outer, tile, rows, b->heads * p->width);
        for (int64_t i = 0; i < b->heads; i++)
            write_head(b, outer, row, rows, b->head0 + i, tile + i * p->width);
        done += rows;
    }
}

/* Output rows go where the input's rows lie, in the type asked for. */
static void write_output(const struct block *b)
{
    const struct engine_tensor *output = &b->plan->facts.outputs[ENGINE_ATTENTION_OUTPUT];
    size_t element = engine_tensor_element_bytes(output->dtype);
    for (int64_t i = 0; i < b->rows; i++) {
        int64_t row = engine_geometry_row(&b->plan->geometry.query_rows, b->row0 + i);
        size_t at = (size_t)(row * b->stage->projection->heads + b->head0);
        engine_tensor_from_f32(output->dtype, b->tile + i * b->stride,
                               (char *)output->data + at * element, (size_t)b->heads);
    }
}

static bool lies_as_computed(const struct engine_plan *plan)
{
    return plan->geometry.query_rows.identity &&
           plan->facts.outputs[ENGINE_ATTENTION_OUTPUT].dtype == ENGINE_F32;
}

static void add_rounded(const struct block *b, float *row, const float *more, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        row[j] += more[j];
    engine_plan_round(b->plan, row, count);
}

/* What follows a product under a 16-bit policy, each step rounded: the bias and, since the layer
 * scales a query that was rounded already, 1/sqrt(key_dim). */
static void round_steps(const struct block *b)
{
    const struct engine_model_projection *p = b->stage->projection;
    int64_t columns = b->heads * p->width;
    float factor = (float)(1.0 / sqrt((double)b->plan->geometry.key_dim));
    engine_plan_round(b->plan, &factor, 1);
    for (int64_t i = 0; i < b->rows; i++) {
        float *row = b->tile + i * b->stride;
        engine_plan_round(b->plan, row, columns);
        if (p->bias != NULL)
            add_rounded(b, row, p->bias + b->head0 * p->width, columns);
        if (b->part != ENGINE_MODEL_QUERY)
            continue;
        for (int64_t j = 0; j < columns; j++)
            row[j] *= factor;
        engine_plan_round(b->plan, row, columns);
    }
}

/* The other output layer's product where its result is rounded before the two are added. */
static void add_new_output(const struct block *b, int64_t index, void *scratch)
{
    const struct engine_plan *plan = b->plan;
    const struct engine_model_projection *p = &plan->packed->parts[ENGINE_MODEL_OUTPUT_NEW];
    int64_t stride = tile_stride(b->heads);
    if (p->blocks == 0)
        return;
    plan->kernel->multiply(&plan->contexts[1], b->row0, b->rows, &p->rights[index], 0, b->heads,
                           p->depth, b->other, stride, false, NULL, 0, scratch);
    for (int64_t i = 0; i < b->rows; i++) {
        float *more = b->other + i * stride;
        engine_plan_round(plan, more, b->heads);
        add_rounded(b, b->tile + i * b->stride, more, b->heads);
    }
}

static void run_block(struct block *b, int64_t index, const struct engine_right *next, float *tile,
                      void *scratch)
{
    const struct engine_plan *plan = b->plan;
    const struct engine_model_projection *p = b->stage->projection;
    const struct engine_left *left =
        b->part == ENGINE_MODEL_OUTPUT ? &plan->contexts[0] : &plan->inputs[b->stage->input].left;
    bool direct = b->part == ENGINE_MODEL_OUTPUT && lies_as_computed(plan);
    b->head0 = index * p->block_heads;
    b->heads = least(p->block_heads, p->heads - b->head0);
    b->tile = tile;
    b->stride = tile_stride(b->heads * p->width);
    if (direct) {
        b->stride = p->heads;
        b->tile = (float *)plan->facts.outputs[ENGINE_ATTENTION_OUTPUT].data + b->row0 * b->stride +
                  b->head0;
    }
    struct engine_right right = p->rights[index];
    bool add = p->bias != NULL && !plan->kernel->takes_bias && !plan->rounds;
    if (add)
        lay_bias(b);
    else if (p->bias != NULL && !plan->rounds)
        right.bias = p->bias + b->head0 * p->width;
    plan->kernel->multiply(left, b->row0, b->rows, &right, 0, b->heads * p->width, p->depth,
                           b->tile, b->stride, add, next != NULL ? next->data : NULL,
                           next != NULL ? next->bytes : 0, scratch);
    if (plan->rounds)
        round_steps(b);
    if (plan->rounds && b->part == ENGINE_MODEL_OUTPUT)
        add_new_output(b, index, scratch);
    if (b->part != ENGINE_MODEL_OUTPUT)
        write_heads(b);
    else if (!direct)
        write_output(b);
}

static void find_rows(struct block *b, int64_t row_block)
{
    const struct engine_plan_stage *s = b->stage;
    int64_t per_group = (s->rows + s->block_rows - 1) / s->block_rows;
    int64_t group0 = row_block / per_group * s->block_groups;
    int64_t first = row_block % per_group * s->block_rows;
    b->row0 = group0 * s->rows + first;
    b->rows = s->block_groups > 1 ? least(s->block_groups, s->groups - group0) * s->rows
                                  : least(s->block_rows, s->rows - first);
}

/* Which part, and where in it, a unit of a phase is. */
struct place {
    enum engine_model_part part;
    int64_t row_block, first, end; /* blocks of columns */
};

/* false: there is no such unit. What one call leaves of the weights in L2 is what the next one of
 * the model begins with: every other call takes them backwards. */

static bool find_place(const struct engine_plan *plan, int phase, int64_t unit, struct place *ret)
{
    int part = phase == ENGINE_PLAN_OUTPUT ? ENGINE_MODEL_OUTPUT : ENGINE_MODEL_QUERY;
    int last = phase == ENGINE_PLAN_OUTPUT ? ENGINE_MODEL_OUTPUT : ENGINE_MODEL_VALUE;
    if (plan->backwards)
        unit = plan->job.work.units[phase] - 1 - unit;
    if (unit < 0)
        return false;
    while (unit >= plan->stages[part].units) {
        unit -= plan->stages[part].units;
        if (part++ == last)
            return false;
    }
    /* All columns pass over a block of rows before the next one: its rows stay in L2 while weights,
     * which are prefetched, come from L3. The other order reads all rows again for each unit. */
    const struct engine_plan_stage *s = &plan->stages[part];
    int64_t column_units = s->units / s->row_blocks;
    ret->part = (enum engine_model_part)part;
    ret->row_block = unit / column_units;
    ret->first = unit % column_units * s->blocks_per_unit;
    ret->end = least(ret->first + s->blocks_per_unit, s->projection->blocks);
    return true;
}

/* The weights that the thread will probably need after a unit. */
static const struct engine_right *find_next(const struct engine_plan *plan,
                                            const struct engine_pool_unit *unit)
{
    struct place after;
    if (!find_place(plan, unit->phase, unit->next, &after) &&
        (unit->phase == ENGINE_PLAN_OUTPUT || plan->job.work.units[ENGINE_PLAN_OUTPUT] == 0 ||
         !find_place(plan, ENGINE_PLAN_OUTPUT, 0, &after)))
        return NULL;
    const struct engine_model_projection *p = plan->stages[after.part].projection;
    return &p->rights[plan->backwards ? after.end - 1 : after.first];
}

void engine_projection_unit(const struct engine_plan *plan, const struct engine_pool_unit *unit,
                            struct engine_arena *arena)
{
    struct place at;
    if (!find_place(plan, unit->phase, unit->index, &at))
        return;
    const struct engine_plan_stage *s = &plan->stages[at.part];
    struct block b = {.plan = plan, .stage = s, .part = at.part};
    const struct engine_model_projection *p = s->projection;
    size_t bytes = sizeof(float) * (size_t)(s->block_rows * s->block_groups) *
                   (size_t)tile_stride(p->block_heads * p->width);
    float *tile = engine_arena_alloc(arena, bytes);
    void *scratch = engine_arena_alloc(arena, plan->kernel->scratch_bytes);
    if (b.part == ENGINE_MODEL_OUTPUT && plan->packed->parts[ENGINE_MODEL_OUTPUT_NEW].blocks > 0)
        b.other = engine_arena_alloc(arena, bytes);
    if (arena->overflowed)
        return;
    find_rows(&b, at.row_block);
    const struct engine_right *following = find_next(plan, unit);
    int64_t count = at.end - at.first, step = plan->backwards ? -1 : 1;
    int64_t index = plan->backwards ? at.end - 1 : at.first;
    for (int64_t i = 0; i < count; i++, index += step)
        run_block(&b, index, i + 1 < count ? &p->rights[index + step] : following, tile, scratch);
}
