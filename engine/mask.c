/* mask.c - see mask.h. */
#include "engine/mask.h"

#include <stdio.h>
#include <string.h>

#define NEGATIVE_F32  (-1e9f)
#define NEGATIVE_BF16 (-998244352.0f)
#define NEGATIVE_F16  (-32752.0f)

static enum engine_code refuse_rank(const struct engine_tensor *mask, int least, int most,
                                    struct engine_error *err)
{
    char shape[128];
    return engine_error_set(
        err, ENGINE_SHAPE_MISMATCH, "attention_mask has %d dimensions %s, it must have %d to %d",
        mask->rank, engine_tensor_shape_text(mask, shape, sizeof shape), least, most);
}

static enum engine_code refuse_size(const struct engine_tensor *mask,
                                    const struct engine_geometry *g, int dimension, int64_t size,
                                    struct engine_error *err)
{
    char shape[128], wanted[128], heads[64] = "";
    if (dimension == 1 + g->free_axes && g->heads_reused > 0)
        snprintf(heads, sizeof heads, " (%lld of them new, which it may have instead)",
                 (long long)g->heads_new);
    return engine_error_set(
        err, ENGINE_SHAPE_MISMATCH,
        "attention_mask %s does not broadcast to the scores %s: dimension %d of the scores is "
        "%lld%s, the mask has %lld",
        engine_tensor_shape_text(mask, shape, sizeof shape),
        engine_tensor_shape_text(&g->scores, wanted, sizeof wanted), dimension,
        (long long)g->scores.shape[dimension], heads, (long long)size);
}

/* Masks touch new heads only, which come first: of N heads in a mask the first N - R are used. */
static bool fits(const struct engine_geometry *g, int dimension, int64_t size)
{
    if (dimension == 1 + g->free_axes && size == g->heads_new)
        return true;
    return size == 1 || size == g->scores.shape[dimension];
}

/* Aligns the mask's dimensions with the scores': leading ones left, the last 2 * axes right. */
static enum engine_code align(struct engine_mask *ret, const struct engine_tensor *mask,
                              const struct engine_geometry *g, struct engine_error *err)
{
    int leading = mask->rank - 2 * g->axes, inserted = g->scores.rank - mask->rank;
    int64_t stride = 1;
    for (int i = g->scores.rank - 1; i >= 0; i--) {
        bool is_inserted = i >= leading && i < leading + inserted;
        int64_t size = is_inserted ? 1 : mask->shape[i < leading ? i : i - inserted];
        if (!fits(g, i, size))
            return refuse_size(mask, g, i, size, err);
        ret->counts[i] = i == 1 + g->free_axes ? g->heads_new : g->scores.shape[i];
        ret->source_strides[i] = size == 1 ? 0 : stride;
        stride *= size;
    }
    return ENGINE_OK;
}

/* Product of the group's dimensions, or 1 if the mask is the same along all of them. */
static int64_t group_count(const struct engine_mask *mask, int first, int count)
{
    int64_t product = 1;
    bool varies = false;
    for (int i = first; i < first + count; i++) {
        product *= mask->counts[i];
        varies = varies || (mask->source_strides[i] != 0 && mask->counts[i] != 1);
    }
    return varies || product == 0 ? product : 1;
}

enum engine_code engine_mask_init(struct engine_mask *ret, const struct engine_tensor *mask,
                                  const struct engine_geometry *g, enum engine_policy policy,
                                  struct engine_error *err)
{
    const struct engine_tensor *scores = &g->scores;
    int axes = g->axes;
    struct engine_mask result = {.source = *mask, .policy = policy, .rank = scores->rank};
    if (mask->rank < 2 * axes || mask->rank > scores->rank)
        return refuse_rank(mask, 2 * axes, scores->rank, err);
    ENGINE_TRY(align(&result, mask, g, err));
    const int groups[4] = {1 + g->free_axes, 1, axes, axes};
    memcpy(result.groups, groups, sizeof groups);
    result.outer_count = group_count(&result, 0, groups[0]);
    result.head_count = group_count(&result, groups[0], 1);
    result.query_count = group_count(&result, groups[0] + 1, axes);
    result.keys = 1;
    for (int i = scores->rank - axes; i < scores->rank; i++)
        result.keys *= scores->shape[i];
    result.query_stride = result.query_count > 1 ? result.keys : 0;
    result.head_stride = result.head_count > 1 ? result.query_count * result.keys : 0;
    result.outer_stride =
        result.outer_count > 1 ? result.head_count * result.query_count * result.keys : 0;
    size_t floats = (size_t)result.keys;
    if (!engine_tensor_mul(floats, (size_t)result.query_count, &floats) ||
        !engine_tensor_mul(floats, (size_t)result.head_count, &floats) ||
        !engine_tensor_mul(floats, (size_t)result.outer_count, &floats) || floats > (size_t)1 << 60)
        return engine_error_set(err, ENGINE_TOO_LARGE, "attention_mask is too large to expand");
    result.floats = floats;
    *ret = result;
    return ENGINE_OK;
}

/* Offset in the mask of index "index" of the group that starts at dimension first. */
static int64_t group_offset(const struct engine_mask *mask, int first, int count, int64_t index)
{
    int64_t offset = 0;
    for (int i = first + count - 1; i >= first; i--) {
        offset += index % mask->counts[i] * mask->source_strides[i];
        index /= mask->counts[i];
    }
    return offset;
}

static int64_t row_offset(const struct engine_mask *mask, int64_t outer, int64_t head,
                          int64_t query)
{
    const int *groups = mask->groups;
    return group_offset(mask, 0, groups[0], outer) + group_offset(mask, groups[0], 1, head) +
           group_offset(mask, groups[0] + 1, groups[2], query);
}

static float rounded_adder(enum engine_dtype dtype, float value, float negative)
{
    engine_tensor_round(dtype, &value, 1);
    value = 1.0f - value;
    engine_tensor_round(dtype, &value, 1);
    value *= negative;
    engine_tensor_round(dtype, &value, 1);
    return value;
}

double engine_mask_adder(enum engine_policy policy, double value)
{
    switch (policy) {
    case ENGINE_POLICY_FLOAT64:
        return (1.0 - value) * -1e9;
    case ENGINE_POLICY_MIXED_FLOAT16:
        return (double)rounded_adder(ENGINE_F16, (float)value, NEGATIVE_F16);
    case ENGINE_POLICY_MIXED_BFLOAT16:
        return (double)rounded_adder(ENGINE_BF16, (float)value, NEGATIVE_BF16);
    case ENGINE_POLICY_FLOAT32:
        break;
    }
    return (double)((1.0f - (float)value) * NEGATIVE_F32);
}

/* The mask's usual types, as they lie: bytes of 0 and 1, float32 policy. */
static void fill_bytes(const uint8_t *bytes, int64_t keys, float *adder)
{
    for (int64_t j = 0; j < keys; j++)
        adder[j] = bytes[j] != 0 ? 0.0f : NEGATIVE_F32;
}

static void fill_row(const struct engine_mask *mask, int64_t offset, float *adder)
{
    int axes = mask->groups[3], first = mask->rank - axes;
    bool dense = axes == 1 && mask->source_strides[first] == 1;
    if (dense && mask->source.dtype == ENGINE_BOOL && mask->policy == ENGINE_POLICY_FLOAT32) {
        fill_bytes((const uint8_t *)mask->source.data + offset, mask->keys, adder);
        return;
    }
    for (int64_t j = 0; j < mask->keys; j++) {
        int64_t at = offset + (dense ? j : group_offset(mask, first, axes, j));
        adder[j] =
            (float)engine_mask_adder(mask->policy, engine_tensor_get(&mask->source, (size_t)at));
    }
}

void engine_mask_fill(const struct engine_mask *mask, int64_t row0, int64_t rows, float *adder)
{
    for (int64_t row = row0; row < row0 + rows; row++) {
        int64_t query = row % mask->query_count;
        int64_t head = row / mask->query_count % mask->head_count;
        int64_t outer = row / mask->query_count / mask->head_count;
        fill_row(mask, row_offset(mask, outer, head, query), adder + (row - row0) * mask->keys);
    }
}

double engine_mask_value(const struct engine_mask *mask, int64_t outer, int64_t head, int64_t query,
                         int64_t key)
{
    int axes = mask->groups[3];
    int64_t offset =
        row_offset(mask, outer, head, query) + group_offset(mask, mask->rank - axes, axes, key);
    return engine_tensor_get(&mask->source, (size_t)offset);
}

int64_t engine_mask_live(const float *adder, int64_t keys)
{
    int64_t live = keys;
    while (live > 0 && adder[live - 1] == NEGATIVE_F32)
        live--;
    for (int64_t j = 0; j < live; j++)
        if (adder[j] != 0.0f)
            return keys;
    return live > 0 ? live : keys;
}
