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

static float greatest(const float *x, int64_t count)
{
    float maximum = -INFINITY;
    for (int64_t j = 0; j < count; j++)
        if (!(x[j] <= maximum)) /* also NaN, which then stays */
            maximum = isnan(maximum) ? maximum : x[j];
    return maximum;
}

static void add_adder(const struct engine_softmax_rows *rows, int64_t row, float *x)
{
    const float *adder = rows->adder + row * rows->adder_stride;
    for (int64_t j = 0; j < rows->keys; j++)
        x[j] += adder[j];
}

/* logsumexp subtracts no maximum that is not finite. */
static float finite_or_zero(float maximum)
{
    return isfinite(maximum) ? maximum : 0.0f;
}

/* ---- float32 -------------------------------------------------------------------------------- */

static float prepare(const struct engine_softmax_rows *rows, int64_t row)
{
    float *x = rows->tile + row * rows->stride;
    if (rows->position != NULL)
        add_positions(rows, row, x);
    if (rows->adder != NULL)
        add_adder(rows, row, x);
    return greatest(x, rows->keys);
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
    float *x = rows->tile + row * rows->stride, top = finite_or_zero(maximum);
    double sum = (double)expf(x[0] - top);
    for (int64_t j = 1; j < rows->keys; j++)
        sum += (double)expf(x[j] - top);
    float total = top + (float)log(sum);
    for (int64_t j = 0; j < rows->keys; j++)
        x[j] = expf(x[j] - total);
}

/* ---- 16-bit policies: each of TensorFlow's operations ends in the type ---------------------- */

static float round_to(enum engine_dtype dtype, float value)
{
    engine_tensor_round(dtype, &value, 1);
    return value;
}

static float prepare_rounded(const struct engine_softmax_rows *rows, int64_t row,
                             enum engine_dtype dtype)
{
    float *x = rows->tile + row * rows->stride;
    engine_tensor_round(dtype, x, (size_t)rows->keys);
    if (rows->position != NULL) {
        add_positions(rows, row, x);
        engine_tensor_round(dtype, x, (size_t)rows->keys);
    }
    if (rows->adder != NULL) {
        add_adder(rows, row, x);
        engine_tensor_round(dtype, x, (size_t)rows->keys);
    }
    return greatest(x, rows->keys);
}

static float exponential(float x, enum engine_dtype dtype)
{
    return round_to(dtype, expf(round_to(dtype, x)));
}

static void finish_one_rounded(float *x, int64_t count, float maximum, enum engine_dtype dtype)
{
    double sum = 0.0;
    for (int64_t j = 0; j < count; j++)
        x[j] -= maximum;
    engine_tensor_round(dtype, x, (size_t)count);
    for (int64_t j = 0; j < count; j++)
        x[j] = expf(x[j]);
    engine_tensor_round(dtype, x, (size_t)count);
    for (int64_t j = 0; j < count; j++)
        sum += (double)x[j];
    float factor = round_to(dtype, 1.0f / round_to(dtype, (float)sum));
    for (int64_t j = 0; j < count; j++)
        x[j] *= factor;
    engine_tensor_round(dtype, x, (size_t)count);
}

static void finish_several_rounded(float *x, int64_t count, float maximum, enum engine_dtype dtype)
{
    float top = finite_or_zero(maximum);
    double sum = 0.0;
    for (int64_t j = 0; j < count; j++)
        sum += (double)exponential(x[j] - top, dtype);
    float total = round_to(dtype, logf(round_to(dtype, (float)sum)));
    total = round_to(dtype, total + top);
    for (int64_t j = 0; j < count; j++)
        x[j] = exponential(x[j] - total, dtype);
}

static void rounded_rows(const struct engine_softmax_rows *rows)
{
    enum engine_dtype dtype = engine_layer_dtype(rows->policy);
    for (int64_t row = 0; row < rows->rows && rows->keys > 0; row++) {
        float *x = rows->tile + row * rows->stride;
        float maximum = prepare_rounded(rows, row, dtype);
        if (rows->several_axes)
            finish_several_rounded(x, rows->keys, maximum, dtype);
        else
            finish_one_rounded(x, rows->keys, maximum, dtype);
    }
}

void engine_softmax_portable(const struct engine_softmax_rows *rows)
{
    if (engine_layer_rounds(rows->policy)) {
        rounded_rows(rows);
        return;
    }
    for (int64_t row = 0; row < rows->rows && rows->keys > 0; row++) {
        float maximum = prepare(rows, row);
        if (rows->several_axes)
            finish_several(rows, row, maximum);
        else
            finish_one(rows, row, maximum);
    }
}
