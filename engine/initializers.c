/* initializers.c - see initializers.h. */
#include "engine/initializers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dropout.h"

/* Standard deviation of a normal cut at two, so that the cut one has the asked for deviation. */
#define TRUNCATED_STDDEV 0.87962566103423978

struct source {
    uint64_t seed, block;
    uint32_t stream;
    uint32_t numbers[4];
    int used;
};

static double uniform(struct source *source)
{
    if (source->used == 4) {
        engine_dropout_random(source->seed, source->stream, source->block++, source->numbers);
        source->used = 0;
    }
    return ((double)source->numbers[source->used++] + 0.5) * 0x1p-32;
}

/* Box and Muller; one of the pair is enough here. */
static double normal(struct source *source)
{
    double radius = sqrt(-2.0 * log(uniform(source)));
    return radius * cos(6.283185307179586 * uniform(source));
}

static double truncated(struct source *source)
{
    double value = normal(source);
    while (fabs(value) > 2.0)
        value = normal(source);
    return value;
}

static void fans(const struct engine_tensor *t, double *ret_in, double *ret_out)
{
    double field = 1.0;
    for (int i = 0; i < t->rank - 2; i++)
        field *= (double)t->shape[i];
    if (t->rank == 0) {
        *ret_in = *ret_out = 1.0;
    } else if (t->rank == 1) {
        *ret_in = *ret_out = (double)t->shape[0];
    } else {
        *ret_in = (double)t->shape[t->rank - 2] * field;
        *ret_out = (double)t->shape[t->rank - 1] * field;
    }
}

static void fill_scaled(const struct engine_initializer *init, const struct engine_tensor *t,
                        size_t count, struct source *source)
{
    double in, out;
    float *values = t->data;
    fans(t, &in, &out);
    double fan = init->mode == ENGINE_FAN_IN    ? in
                 : init->mode == ENGINE_FAN_OUT ? out
                                                : (in + out) / 2.0;
    double variance = init->scale / fmax(1.0, fan);
    for (size_t i = 0; i < count; i++) {
        switch (init->distribution) {
        case ENGINE_DISTRIBUTION_TRUNCATED_NORMAL:
            values[i] = (float)(truncated(source) * sqrt(variance) / TRUNCATED_STDDEV);
            break;
        case ENGINE_DISTRIBUTION_UNTRUNCATED_NORMAL:
            values[i] = (float)(normal(source) * sqrt(variance));
            break;
        case ENGINE_DISTRIBUTION_UNIFORM:
            values[i] = (float)((2.0 * uniform(source) - 1.0) * sqrt(3.0 * variance));
            break;
        }
    }
}

/* Gram and Schmidt, twice for accuracy, on the rows of a "rows <= columns" matrix of normals:
 * what the Q of a QR decomposition with positive diagonal of R is. */
static void orthonormalize(double *m, size_t rows, size_t columns)
{
    for (size_t i = 0; i < rows; i++) {
        double *row = m + i * columns, norm = 0.0;
        for (size_t again = 0; again < 2; again++) {
            for (size_t j = 0; j < i; j++) {
                const double *other = m + j * columns;
                double dot = 0.0;
                for (size_t k = 0; k < columns; k++)
                    dot += row[k] * other[k];
                for (size_t k = 0; k < columns; k++)
                    row[k] -= dot * other[k];
            }
        }
        for (size_t k = 0; k < columns; k++)
            norm += row[k] * row[k];
        norm = sqrt(norm);
        for (size_t k = 0; k < columns; k++)
            row[k] /= norm;
    }
}

static enum engine_code fill_orthogonal(const struct engine_initializer *init,
                                        const struct engine_tensor *t, size_t count,
                                        struct source *source, struct engine_error *err)
{
    if (t->rank < 2)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "initializer Orthogonal needs two dimensions, the weight has %d",
                                t->rank);
    size_t last = (size_t)t->shape[t->rank - 1];
    size_t first = last == 0 ? 0 : count / last;
    size_t rows = first < last ? first : last, columns = first < last ? last : first;
    double *m = malloc((count + 1) * sizeof *m);
    if (m == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to initialize a weight");
    for (size_t i = 0; i < count; i++)
        m[i] = normal(source);
    orthonormalize(m, rows, columns);
    float *values = t->data;
    for (size_t i = 0; i < first; i++)
        for (size_t j = 0; j < last; j++)
            values[i * last + j] =
                (float)(init->gain * (first < last ? m[i * columns + j] : m[j * columns + i]));
    free(m);
    return ENGINE_OK;
}

static enum engine_code fill_identity(const struct engine_initializer *init,
                                      const struct engine_tensor *t, struct engine_error *err)
{
    if (t->rank != 2)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "initializer Identity needs two dimensions, the weight has %d",
                                t->rank);
    float *values = t->data;
    for (int64_t i = 0; i < t->shape[0]; i++)
        for (int64_t j = 0; j < t->shape[1]; j++)
            values[i * t->shape[1] + j] = i == j ? (float)init->gain : 0.0f;
    return ENGINE_OK;
}

static double draw(const struct engine_initializer *init, struct source *source)
{
    switch (init->kind) {
    case ENGINE_INITIALIZER_ONES:
        return 1.0;
    case ENGINE_INITIALIZER_CONSTANT:
        return init->value;
    case ENGINE_INITIALIZER_RANDOM_UNIFORM:
        return init->minimum + uniform(source) * (init->maximum - init->minimum);
    case ENGINE_INITIALIZER_RANDOM_NORMAL:
        return init->mean + normal(source) * init->stddev;
    case ENGINE_INITIALIZER_TRUNCATED_NORMAL:
        return init->mean + truncated(source) * init->stddev;
    default:
        return 0.0;
    }
}

enum engine_code engine_initializers_fill(const struct engine_initializer *initializer,
                                          uint64_t seed, uint32_t stream,
                                          struct engine_tensor *tensor, struct engine_error *err)
{
    struct source source = {.seed = seed, .stream = ENGINE_DROPOUT_WEIGHTS + stream, .used = 4};
    size_t count = 0;
    if (!engine_tensor_count(tensor, &count))
        return engine_error_set(err, ENGINE_TOO_LARGE, "a weight to be initialized is too large");
    if (initializer->has_seed) {
        source.seed = (uint64_t)initializer->seed;
        source.stream = ENGINE_DROPOUT_WEIGHTS;
    }
    if (initializer->kind == ENGINE_INITIALIZER_ORTHOGONAL)
        return fill_orthogonal(initializer, tensor, count, &source, err);
    if (initializer->kind == ENGINE_INITIALIZER_IDENTITY)
        return fill_identity(initializer, tensor, err);
    if (initializer->kind == ENGINE_INITIALIZER_VARIANCE_SCALING) {
        fill_scaled(initializer, tensor, count, &source);
        return ENGINE_OK;
    }
    float *values = tensor->data;
    for (size_t i = 0; i < count; i++)
        values[i] = (float)draw(initializer, &source);
    return ENGINE_OK;
}
