/* softmax.c - the portable form, and the choice. See softmax.h. */
#include "engine/softmax.h"

#include <math.h>
#include <stddef.h>

#include "engine/cpu.h"
#include "engine/tensor.h"

engine_softmax_function *engine_softmax_best(void)
{
    const struct engine_cpu *cpu = engine_cpu();
    return cpu->avx512 ? engine_softmax_avx512_rows
           : cpu->avx2 ? engine_softmax_avx2_rows
                       : engine_softmax_portable;
}

static int64_t clip(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

/* Key j reads index j + shift; indices below 0 read the first value, above 2L - 2 the last. */
void engine_softmax_split(const struct engine_softmax_rows *rows, int64_t row,
                          struct engine_softmax_runs *ret)
{
    int64_t shift = rows->position_length - 1 - (rows->query0 + row);
    int64_t values = 2 * rows->position_length - 1;
    ret->low = clip(-shift, 0, rows->keys);
    ret->middle = clip(values - shift, ret->low, rows->keys) - ret->low;
    ret->slice = rows->position + (ret->middle > 0 ? ret->low + shift : 0);
    ret->first = rows->position[0];
    ret->last = rows->position[values - 1];
}

static void add_positions(const struct engine_softmax_rows *rows, int64_t row, float *x)
{
    struct engine_softmax_runs runs;
    engine_softmax_split(rows, row, &runs);
    for (int64_t j = 0; j < runs.low; j++)
        x[j] += runs.first;
    for (int64_t j = 0; j < runs.middle; j++)
        x[runs.low + j] += runs.slice[j];
    for (int64_t j = runs.low + runs.middle; j < rows->keys; j++)
        x[j] += runs.last;
}

static float round_to(enum engine_policy policy, float value)
{
    if (policy == ENGINE_POLICY_MIXED_FLOAT16)
        return engine_tensor_f16_value(engine_tensor_f16_bits(value));
    if (policy == ENGINE_POLICY_MIXED_BFLOAT16)
        return engine_tensor_bf16_value(engine_tensor_bf16_bits(value));
    return value;
}

static float prepare(const struct engine_softmax_rows *rows, int64_t row)
{
    float *x = rows->tile + row * rows->stride;
    bool rounds =
        rows->policy == ENGINE_POLICY_MIXED_FLOAT16 || rows->policy == ENGINE_POLICY_MIXED_BFLOAT16;
    float maximum = -INFINITY;
    if (rows->position != NULL)
        add_positions(rows, row, x);
    if (rows->adder != NULL) {
        const float *adder = rows->adder + row * rows->adder_stride;
        for (int64_t j = 0; j < rows->keys; j++)
            x[j] += adder[j];
    }
    for (int64_t j = 0; j < rows->keys; j++) {
        if (rounds)
            x[j] = round_to(rows->policy, x[j]);
        if (!(x[j] <= maximum)) /* also NaN, which then stays */
            maximum = isnan(maximum) ? maximum : x[j];
    }
    return maximum;
}

static void finish_one(const struct engine_softmax_rows *rows, int64_t row, float maximum)
{
    float *x = rows->tile + row * rows->stride;
    double sum = 0.0;
    for (int64_t j = 0; j < rows->keys; j++) {
        x[j] = expf(x[j] - maximum);
        sum += (double)x[j];
    }
    float factor = (float)(1.0 / sum);
    if (rows->defer) {
        rows->factors[row] = factor;
        return;
    }
    for (int64_t j = 0; j < rows->keys; j++)
        x[j] *= factor;
}

static void finish_several(const struct engine_softmax_rows *rows, int64_t row, float maximum)
{
    float *x = rows->tile + row * rows->stride;
    double sum = (double)expf(x[0] - maximum);
    for (int64_t j = 1; j < rows->keys; j++)
        sum += (double)expf(x[j] - maximum);
    float total = round_to(rows->policy, maximum + (float)log(sum));
    for (int64_t j = 0; j < rows->keys; j++)
        x[j] = expf(x[j] - total);
}

void engine_softmax_portable(const struct engine_softmax_rows *rows)
{
    for (int64_t row = 0; row < rows->rows && rows->keys > 0; row++) {
        float maximum = prepare(rows, row);
        if (rows->several_axes)
            finish_several(rows, row, maximum);
        else
            finish_one(rows, row, maximum);
    }
}
