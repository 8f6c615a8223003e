/* emit.c - see emit.h. */
#include "engine/emit.h"

#include <emmintrin.h>
#include <string.h>

size_t engine_emit_scratch_bytes(const struct engine_plan *plan)
{
    return (size_t)plan->call.top_k * (sizeof(float) + sizeof(int32_t));
}

bool engine_emit_wants_head(const struct engine_plan *plan, int64_t head)
{
    const struct engine_selection *heads = &plan->call.heads;
    if (heads->count == 0)
        return true;
    for (size_t i = 0; i < heads->count; i++)
        if (heads->indices[i] == head)
            return true;
    return false;
}

float *engine_emit_place(const struct engine_plan *plan, int64_t outer, int64_t head,
                         int64_t query0)
{
    const struct engine_geometry *g = &plan->geometry;
    float *scores = plan->facts.outputs[ENGINE_ATTENTION_SCORES].data;
    return scores + ((outer * g->heads + head) * g->queries + query0) * g->keys;
}

/* Non-temporal stores: a line that is only written need not be read first. keys % 16 == 0 and
 * the tensor is 64-byte aligned, so is every row. */
static void stream(float *to, const float *from, int64_t count)
{
    for (int64_t i = 0; i < count; i += 4)
        _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
}

/* The order of wide.c: greater values first, then smaller indices; NaN ranks last. */
static bool ranks_before(float later, float earlier)
{
    return later > earlier || (earlier != earlier && later == later);
}

/* Insertion into a short sorted list: k is small beside the keys, most keys fail the first test. */
static void find_best(const float *row, int64_t keys, int64_t k, float *values, int32_t *indices)
{
    int64_t count = 0;
    for (int64_t j = 0; j < keys; j++) {
        int64_t at = count;
        if (count == k && !ranks_before(row[j], values[k - 1]))
            continue;
        if (count < k)
            count++;
        else
            at = k - 1;
        for (; at > 0 && ranks_before(row[j], values[at - 1]); at--) {
            values[at] = values[at - 1];
            indices[at] = indices[at - 1];
        }
        values[at] = row[j];
        indices[at] = (int32_t)j;
    }
}

/* Row number "to" of the returned tensor. */
static void write_row(const struct engine_plan *plan, int64_t to, const float *row, void *scratch)
{
    const struct engine_tensor *scores = &plan->facts.outputs[ENGINE_ATTENTION_SCORES];
    const struct engine_tensor *indices = &plan->facts.outputs[ENGINE_ATTENTION_SCORES_INDICES];
    int64_t k = plan->score_keys;
    if (plan->call.top_k > 0) {
        float *best = scratch;
        int32_t *best_keys = (int32_t *)(void *)(best + k);
        find_best(row, plan->geometry.keys, k, best, best_keys);
        row = best;
        if (plan->call.wanted[ENGINE_ATTENTION_SCORES_INDICES])
            memcpy((int32_t *)indices->data + to * k, best_keys, (size_t)k * sizeof(int32_t));
    }
    if (plan->call.wanted[ENGINE_ATTENTION_SCORES])
        engine_tensor_from_f32(scores->dtype, row,
                               (char *)scores->data +
                                   (size_t)(to * k) * engine_tensor_element_bytes(scores->dtype),
                               (size_t)k);
}

static void write_selected_rows(const struct engine_plan *plan, const struct engine_emit_rows *rows,
                                int64_t head_at, void *scratch)
{
    const struct engine_selection *chosen = &plan->call.query_rows;
    int64_t base = (rows->outer * plan->score_heads + head_at) * plan->score_rows;
    for (int64_t i = 0; i < plan->score_rows; i++) {
        int64_t query = chosen->count > 0 ? chosen->indices[i] : i;
        if (query >= rows->query0 && query < rows->query0 + rows->rows)
            write_row(plan, base + i, rows->tile + (query - rows->query0) * rows->stride, scratch);
    }
}

void engine_emit(const struct engine_plan *plan, const struct engine_emit_rows *rows, void *scratch)
{
    const struct engine_selection *heads = &plan->call.heads;
    if (plan->scores_streamed) {
        int64_t keys = plan->geometry.keys;
        float *to = engine_emit_place(plan, rows->outer, rows->head, rows->query0);
        for (int64_t i = 0; i < rows->rows; i++)
            stream(to + i * keys, rows->tile + i * rows->stride, keys);
        _mm_sfence(); /* before another thread is told that the unit has ended */
        return;
    }
    for (int64_t i = 0; i < plan->score_heads; i++)
        if (heads->count == 0 ? i == rows->head : heads->indices[i] == rows->head)
            write_selected_rows(plan, rows, i, scratch);
}
