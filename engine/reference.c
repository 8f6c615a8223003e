/* reference.c - see reference.h. */
#include "engine/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/dropout.h"

/* One outer row: the projected inputs of all its heads. Letters as in engine/README.md. */
struct outer {
    const struct engine_reference *r;
    int64_t index;
    double *q;       /* [T][new][H], scaled */
    double *k;       /* [S][new][H] */
    double *v;       /* [S][N][V], heads in the order of the scores: new, then reused */
    double *context; /* [T][N][V] */
    double *row;     /* S scores */
};

/* Rounds to the policy's type, as every operation of TensorFlow does under it. Of float32's
 * operations only those are rounded here whose rounding is seen beside a mask's 1e9. */
static double round_to(enum engine_policy policy, double value)
{
    switch (policy) {
    case ENGINE_POLICY_MIXED_FLOAT16:
        return (double)engine_tensor_f16_value(engine_tensor_f16_bits((float)value));
    case ENGINE_POLICY_MIXED_BFLOAT16:
        return (double)engine_tensor_bf16_value(engine_tensor_bf16_bits((float)value));
    case ENGINE_POLICY_FLOAT32:
        return (double)(float)value;
    case ENGINE_POLICY_FLOAT64:
        break;
    }
    return value;
}

/* Rounds under the 16-bit policies only. */
static double round_16(enum engine_policy policy, double value)
{
    return engine_layer_rounds(policy) ? round_to(policy, value) : value;
}

/* Inputs are cast to the type of the computation first. */
static double input(const struct outer *o, const struct engine_tensor *t, int64_t index)
{
    return round_to(o->r->config->policy, engine_tensor_get(t, (size_t)index));
}

static double weight(const struct outer *o, enum engine_weight id, int64_t index)
{
    const struct engine_weights *weights = o->r->weights;
    if (weights->wide[id] != NULL)
        return weights->wide[id][index];
    return round_16(o->r->config->policy,
                    (double)((const float *)weights->tensors[id].data)[index]);
}

static double bias(const struct outer *o, enum engine_weight id, int64_t index)
{
    return o->r->weights->tensors[id].data != NULL ? weight(o, id, index) : 0.0;
}

static const struct engine_tensor *value_of(const struct engine_reference *r)
{
    const struct engine_tensor *inputs = r->call->inputs;
    return inputs[ENGINE_VALUE].data != NULL ? &inputs[ENGINE_VALUE] : &inputs[ENGINE_QUERY];
}

static const struct engine_tensor *key_of(const struct engine_reference *r)
{
    const struct engine_tensor *inputs = r->call->inputs;
    return inputs[ENGINE_KEY].data != NULL ? &inputs[ENGINE_KEY] : value_of(r);
}

/* ---- projections ------------------------------------------------------------------------ */

/* to[row][head0 + n][d] = (sum_c x[row][c] * kernel[c][n][d] + bias[n][d]) * factor, for the rows
 * of this outer row; "to" has heads_all heads a row. Three operations, each rounded. */
static void project(const struct outer *o, const struct engine_tensor *x,
                    const struct engine_rows *rows, int64_t count, enum engine_weight kernel,
                    double factor, double *to, int64_t heads_all, int64_t head0)
{
    const struct engine_tensor *w = &o->r->weights->tensors[kernel];
    if (w->data == NULL)
        return;
    int64_t width = w->shape[0], heads = w->shape[1], dim = w->shape[2];
    enum engine_weight bias_id = (enum engine_weight)(kernel + 1);
    enum engine_policy policy = o->r->config->policy;
    factor = round_16(policy, factor);
    for (int64_t i = 0; i < count; i++) {
        int64_t at = engine_geometry_row(rows, o->index * count + i) * width;
        double *row = to + (i * heads_all + head0) * dim;
        for (int64_t j = 0; j < heads * dim; j++)
            row[j] = 0.0;
        for (int64_t c = 0; c < width; c++) {
            double value = input(o, x, at + c);
            for (int64_t j = 0; j < heads * dim; j++)
                row[j] += value * weight(o, kernel, c * heads * dim + j);
        }
        for (int64_t j = 0; j < heads * dim; j++) {
            row[j] = round_16(policy, round_16(policy, row[j]) + bias(o, bias_id, j));
            row[j] = round_16(policy, row[j] * factor);
        }
    }
}

static void project_all(const struct outer *o)
{
    const struct engine_geometry *g = o->r->geometry;
    const struct engine_tensor *query = &o->r->call->inputs[ENGINE_QUERY];
    project(o, query, &g->query_rows, g->queries, ENGINE_WEIGHT_QUERY_KERNEL,
            1.0 / sqrt((double)g->key_dim), o->q, g->heads_new, 0);
    project(o, key_of(o->r), &g->value_rows, g->keys, ENGINE_WEIGHT_KEY_KERNEL, 1.0, o->k,
            g->heads_new, 0);
    project(o, value_of(o->r), &g->value_rows, g->keys, ENGINE_WEIGHT_VALUE_NEW_KERNEL, 1.0, o->v,
            g->heads, 0);
    project(o, value_of(o->r), &g->value_rows, g->keys, ENGINE_WEIGHT_VALUE_REUSE_KERNEL, 1.0, o->v,
            g->heads, g->heads_new);
}

/* ---- scores ----------------------------------------------------------------------------- */

static double position(const struct outer *o, int64_t head, int64_t query, int64_t key)
{
    const struct engine_tensor *table = &o->r->weights->tensors[ENGINE_WEIGHT_POSITIONS];
    if (table->data == NULL)
        return 0.0;
    int64_t last = table->shape[2] - 1, index = key - query + last / 2;
    index = index < 0 ? 0 : index > last ? last : index;
    return weight(o, ENGINE_WEIGHT_POSITIONS, head * (last + 1) + index);
}

static double adder(const struct outer *o, int64_t head, int64_t query, int64_t key)
{
    if (o->r->mask == NULL)
        return 0.0;
    return engine_mask_adder(o->r->config->policy,
                             engine_mask_value(o->r->mask, o->index, head, query, key));
}

/* exp(x - max) / sum. */
static void softmax_one(enum engine_policy policy, double *row, int64_t keys, double maximum)
{
    double sum = 0.0;
    for (int64_t j = 0; j < keys; j++) {
        row[j] = round_16(policy, exp(round_16(policy, row[j] - maximum)));
        sum += row[j];
    }
    double inverse = round_16(policy, 1.0 / round_16(policy, sum));
    for (int64_t j = 0; j < keys; j++)
        row[j] = engine_layer_rounds(policy) ? round_to(policy, row[j] * inverse) : row[j] / sum;
}

/* exp(x - logsumexp(x)), which subtracts no maximum that is not finite. */
static void softmax_several(enum engine_policy policy, double *row, int64_t keys, double maximum)
{
    double top = isfinite(maximum) ? maximum : 0.0, sum = 0.0;
    for (int64_t j = 0; j < keys; j++)
        sum += round_16(policy, exp(round_16(policy, row[j] - top)));
    double total = round_to(policy, top + round_16(policy, log(round_16(policy, sum))));
    for (int64_t j = 0; j < keys; j++)
        row[j] = round_16(policy, exp(round_16(policy, row[j] - total)));
}

static void softmax(const struct outer *o, double *row)
{
    const struct engine_geometry *g = o->r->geometry;
    double maximum = -INFINITY;
    if (g->keys == 0)
        return;
    for (int64_t j = 0; j < g->keys; j++)
        maximum = row[j] > maximum || isnan(row[j]) ? row[j] : maximum;
    if (g->several_axes)
        softmax_several(o->r->config->policy, row, g->keys, maximum);
    else
        softmax_one(o->r->config->policy, row, g->keys, maximum);
}

static void score_row(const struct outer *o, int64_t head, int64_t query, double *row)
{
    const struct engine_geometry *g = o->r->geometry;
    const double *q = o->q + (query * g->heads_new + head) * g->key_dim;
    for (int64_t j = 0; j < g->keys; j++) {
        const double *k = o->k + (j * g->heads_new + head) * g->key_dim;
        double sum = 0.0;
        for (int64_t d = 0; d < g->key_dim; d++)
            sum += q[d] * k[d];
        sum = round_16(o->r->config->policy, sum);
        sum = round_to(o->r->config->policy, sum + position(o, head, query, j));
        row[j] = round_to(o->r->config->policy, sum + adder(o, head, query, j));
    }
    softmax(o, row);
}

static void reuse_row(const struct outer *o, int64_t reused, int64_t query, double *row)
{
    const struct engine_geometry *g = o->r->geometry;
    const struct engine_tensor *given = &o->r->call->inputs[ENGINE_REUSE_ATTENTION_SCORES];
    int64_t at = ((o->index * g->reuse_heads_given + reused) * g->queries + query) * g->keys;
    /* A full reuse returns them as they are and casts them when they are used. */
    for (int64_t j = 0; j < g->keys; j++)
        row[j] =
            g->heads_new > 0 ? input(o, given, at + j) : engine_tensor_get(given, (size_t)(at + j));
}

/* ---- outputs ---------------------------------------------------------------------------- */

static void apply_dropout(const struct outer *o, int64_t head, int64_t query, double *row)
{
    const struct engine_geometry *g = o->r->geometry;
    uint64_t at = (uint64_t)(((o->index * g->heads + head) * g->queries + query) * g->keys);
    bool drops = o->r->call->training && o->r->config->dropout != 0.0;
    double rate = o->r->config->dropout;
    for (int64_t j = 0; j < g->keys; j++) {
        row[j] = round_16(o->r->config->policy, row[j]);
        if (drops)
            row[j] =
                round_16(o->r->config->policy,
                         row[j] * engine_dropout_factor(o->r->call->seed, rate, at + (uint64_t)j));
    }
}

static void weigh_values(const struct outer *o, int64_t head, int64_t query, const double *row)
{
    const struct engine_geometry *g = o->r->geometry;
    double *to = o->context + (query * g->heads + head) * g->value_dim;
    for (int64_t d = 0; d < g->value_dim; d++)
        to[d] = 0.0;
    for (int64_t j = 0; j < g->keys; j++)
        for (int64_t d = 0; d < g->value_dim; d++)
            to[d] += row[j] * o->v[(j * g->heads + head) * g->value_dim + d];
    for (int64_t d = 0; d < g->value_dim; d++)
        to[d] = round_16(o->r->config->policy, to[d]);
}

/* out += context . kernel + bias, over the heads that a kernel covers; each operation rounded. */
static void combine(const struct outer *o, int64_t query, enum engine_weight kernel, int64_t head0,
                    double *out)
{
    const struct engine_geometry *g = o->r->geometry;
    const struct engine_tensor *w = &o->r->weights->tensors[kernel];
    enum engine_policy policy = o->r->config->policy;
    if (w->data == NULL)
        return;
    const double *context = o->context + (query * g->heads + head0) * g->value_dim;
    for (int64_t e = 0; e < g->output_width; e++) {
        double sum = 0.0;
        for (int64_t i = 0; i < w->shape[0] * g->value_dim; i++)
            sum += context[i] * weight(o, kernel, i * g->output_width + e);
        sum = round_16(policy, sum) + bias(o, (enum engine_weight)(kernel + 1), e);
        out[e] = round_16(policy, out[e] + round_16(policy, sum));
    }
}

static void output_row(const struct outer *o, int64_t query)
{
    const struct engine_geometry *g = o->r->geometry;
    int64_t at = engine_geometry_row(&g->query_rows, o->index * g->queries + query);
    double *out = o->r->output + at * g->output_width;
    for (int64_t e = 0; e < g->output_width; e++)
        out[e] = 0.0;
    combine(o, query, ENGINE_WEIGHT_OUTPUT_REUSE_KERNEL, g->heads_new, out);
    combine(o, query, ENGINE_WEIGHT_OUTPUT_NEW_KERNEL, 0, out);
    for (int64_t e = 0; e < g->output_width; e++)
        out[e] = round_to(o->r->config->policy, out[e]);
}

static void query_row(const struct outer *o, int64_t query)
{
    const struct engine_geometry *g = o->r->geometry;
    for (int64_t head = 0; head < g->heads; head++) {
        if (head < g->heads_new)
            score_row(o, head, query, o->row);
        else
            reuse_row(o, head - g->heads_new, query, o->row);
        if (o->r->scores != NULL) {
            int64_t at = ((o->index * g->heads + head) * g->queries + query) * g->keys;
            for (int64_t j = 0; j < g->keys; j++)
                o->r->scores[at + j] = o->row[j];
        }
        apply_dropout(o, head, query, o->row);
        weigh_values(o, head, query, o->row);
    }
    if (o->r->output != NULL)
        output_row(o, query);
}

/* ---- running ---------------------------------------------------------------------------- */

static double *array(int64_t a, int64_t b, int64_t c)
{
    size_t count = 0;
    if (!engine_tensor_mul((size_t)a, (size_t)b, &count) ||
        !engine_tensor_mul(count, (size_t)c, &count) || count > SIZE_MAX / 16)
        return NULL;
    return malloc((count + 1) * sizeof(double));
}

static void outer_free(struct outer *o)
{
    free(o->q);
    free(o->k);
    free(o->v);
    free(o->context);
    free(o->row);
}

static bool outer_make(struct outer *o, const struct engine_geometry *g)
{
    o->q = array(g->queries, g->heads_new, g->key_dim);
    o->k = array(g->keys, g->heads_new, g->key_dim);
    o->v = array(g->keys, g->heads, g->value_dim);
    o->context = array(g->queries, g->heads, g->value_dim);
    o->row = array(g->keys, 1, 1);
    return o->q != NULL && o->k != NULL && o->v != NULL && o->context != NULL && o->row != NULL;
}

enum engine_code engine_reference_run(const struct engine_reference *reference, int64_t first,
                                      int64_t count, bool (*stop)(void *argument), void *argument,
                                      struct engine_error *err)
{
    const struct engine_geometry *g = reference->geometry;
    struct outer o = {.r = reference};
    enum engine_code code = ENGINE_OK;
    if (!outer_make(&o, g))
        code = engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for double precision");
    for (o.index = first; code == ENGINE_OK && o.index < first + count; o.index++) {
        project_all(&o);
        for (int64_t t = 0; code == ENGINE_OK && t < g->queries; t++) {
            if (stop != NULL && stop(argument))
                code = engine_error_set(err, ENGINE_CANCELLED, "the call was cancelled");
            else
                query_row(&o, t);
        }
    }
    outer_free(&o);
    return code;
}
