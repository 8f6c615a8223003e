/* penalties.c - see penalties.h. */
#include "engine/penalties.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Keras' guard against division by a zero norm, and our tolerance. */
#define EPSILON   1e-7
#define TOLERANCE 1e-5

double engine_penalties_loss(const struct engine_regularizer *regularizer,
                             const struct engine_tensor *weight)
{
    const float *values = weight->data;
    double absolute = 0.0, squares = 0.0;
    size_t count = 0;
    if (!engine_tensor_count(weight, &count))
        return 0.0;
    for (size_t i = 0; i < count; i++) {
        absolute += fabs((double)values[i]);
        squares += (double)values[i] * (double)values[i];
    }
    switch (regularizer->kind) {
    case ENGINE_REGULARIZER_L1:
        return regularizer->l1 * absolute;
    case ENGINE_REGULARIZER_L2:
        return regularizer->l2 * squares;
    case ENGINE_REGULARIZER_L1L2:
        return regularizer->l1 * absolute + regularizer->l2 * squares;
    case ENGINE_REGULARIZER_NONE:
    case ENGINE_REGULARIZER_ORTHOGONAL:
        break;
    }
    return 0.0;
}

static double clip(double value, double least, double most)
{
    return value < least ? least : value > most ? most : value;
}

/* What a weight of this norm would be multiplied by. */
static double factor(const struct engine_constraint *constraint, double norm)
{
    switch (constraint->kind) {
    case ENGINE_CONSTRAINT_MAX_NORM:
        return clip(norm, 0.0, constraint->max_value) / (EPSILON + norm);
    case ENGINE_CONSTRAINT_UNIT_NORM:
        return 1.0 / (EPSILON + norm);
    case ENGINE_CONSTRAINT_MIN_MAX_NORM:
        return (constraint->rate * clip(norm, constraint->min_value, constraint->max_value) +
                (1.0 - constraint->rate) * norm) /
               (EPSILON + norm);
    default:
        return 1.0;
    }
}

static bool sums_over(const struct engine_constraint *constraint, int rank, int axis)
{
    for (int i = 0; i < constraint->axis_rank; i++) {
        int64_t at = constraint->axis[i];
        if ((at < 0 ? at + rank : at) == axis)
            return true;
    }
    return false;
}

/* Index of an element's group: its index with the summed axes left out. */
static size_t group_of(const struct engine_constraint *constraint, const struct engine_tensor *t,
                       size_t index)
{
    size_t group = 0, scale = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        size_t size = (size_t)t->shape[i];
        if (!sums_over(constraint, t->rank, i)) {
            group += index % size * scale;
            scale *= size;
        }
        index /= size;
    }
    return group;
}

static bool norms_fit(const struct engine_constraint *constraint, const struct engine_tensor *t,
                      size_t count)
{
    const float *values = t->data;
    double *squares = calloc(count + 1, sizeof *squares);
    if (squares == NULL)
        return false;
    bool fit = true;
    for (size_t i = 0; i < count; i++)
        squares[group_of(constraint, t, i)] += (double)values[i] * (double)values[i];
    for (size_t i = 0; fit && i < count; i++) {
        double norm = sqrt(squares[group_of(constraint, t, i)]);
        double moved = fabs((double)values[i]) * fabs(factor(constraint, norm) - 1.0);
        fit = moved <= TOLERANCE * norm + EPSILON; /* by the guard alone norms near it shrink */
    }
    free(squares);
    return fit;
}

bool engine_penalties_satisfied(const struct engine_constraint *constraint,
                                const struct engine_tensor *weight)
{
    const float *values = weight->data;
    size_t count = 0;
    if (!engine_tensor_count(weight, &count))
        return false;
    if (constraint->kind == ENGINE_CONSTRAINT_NONE || constraint->kind == ENGINE_CONSTRAINT_RADIAL)
        return true;
    if (constraint->kind != ENGINE_CONSTRAINT_NON_NEG)
        return norms_fit(constraint, weight, count);
    for (size_t i = 0; i < count; i++)
        if (values[i] < 0.0f)
            return false;
    return true;
}
