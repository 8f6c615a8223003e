/* engine_properties_test.c - does any small layer and call agree with the reference? 10,000 random
 * ones: inputs of 3 to 6 dimensions, free, permuted and negative axes, masks of every rank and
 * type, reuse, relative positions, policies, types in and out, selected heads and rows, best keys,
 * one output or both, sizes of zero, dropout. Each also on one thread, two and inline: same bits.
 * Fixed seed: a failure repeats; the message says which case. */
#include "tests/unit/engine_support.h"

enum { CASES = 10000, AXIS_LIMIT = 5 };

/* Allowed error relative to 1 + |wanted|. Under a 16-bit policy TensorFlow's rounding of each
 * intermediate leaves a few units in the last place of that type. */
static const double policy_tolerance[] = {[ENGINE_POLICY_FLOAT32] = 5e-6,
                                          [ENGINE_POLICY_MIXED_FLOAT16] = 3e-3,
                                          [ENGINE_POLICY_MIXED_BFLOAT16] = 3e-2,
                                          [ENGINE_POLICY_FLOAT64] = 1e-14};

/* Beside it, of the precision of products. */
static const double precision_tolerance[] = {
    [ENGINE_PRECISION_F32] = 0, [ENGINE_PRECISION_X3] = 1e-4, [ENGINE_PRECISION_BF16] = 4e-2};

struct world {
    struct support_random random;
    struct engine *engines[2];
    double worst[4][4]; /* by policy and precision, of FP32 and FP64 outputs */
    int index, cases[4][4];
    enum engine_policy policy;
    enum engine_precision precision;
};

struct layout {
    int rank, axes, axis[ENGINE_MAX_INPUT_RANK], free_axes, free_axis[ENGINE_MAX_INPUT_RANK];
    int64_t query[ENGINE_MAX_INPUT_RANK], value[ENGINE_MAX_INPUT_RANK];
    int64_t key_width;
};

static int64_t below(struct world *w, int64_t n)
{
    return support_below(&w->random, n);
}

static bool one_in(struct world *w, int64_t n)
{
    return below(w, n) == 0;
}

static enum engine_dtype some_float(struct world *w)
{
    static const enum engine_dtype floats[] = {ENGINE_F16, ENGINE_BF16, ENGINE_F64};
    return one_in(w, 3) ? floats[below(w, 3)] : ENGINE_F32;
}

/* ---- layers ------------------------------------------------------------------------------- */

static int64_t some_size(struct world *w)
{
    return one_in(w, 60) ? 0 : 1 + below(w, AXIS_LIMIT);
}

static void choose_axes(struct world *w, struct engine_layer_config *config, struct layout *l)
{
    int order[ENGINE_MAX_INPUT_RANK], positions = l->rank - 2;
    for (int i = 0; i < positions; i++)
        order[i] = i + 1;
    for (int i = positions - 1; i > 0; i--) {
        int j = (int)below(w, i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    bool by_default = one_in(w, 3);
    l->axes = by_default ? positions : 1 + (int)below(w, positions);
    for (int i = 0; i < l->axes; i++) {
        l->axis[i] = by_default ? i + 1 : order[i];
        if (!by_default)
            config->attention_axes[i] = one_in(w, 3) ? l->axis[i] - (l->rank + 1) : l->axis[i];
    }
    config->axes_rank = by_default ? 0 : l->axes;
    for (int axis = 1; axis <= positions; axis++) {
        bool attended = false;
        for (int i = 0; i < l->axes; i++)
            attended = attended || l->axis[i] == axis;
        if (!attended)
            l->free_axis[l->free_axes++] = axis;
    }
}

static void choose_sizes(struct world *w, struct layout *l)
{
    l->query[0] = l->value[0] = one_in(w, 60) ? 0 : 1 + below(w, 3);
    for (int i = 1; i < l->rank - 1; i++)
        l->query[i] = l->value[i] = l->rank > 4 ? 1 + below(w, 3) : some_size(w);
    for (int i = 0; i < l->axes; i++)
        l->value[l->axis[i]] = l->rank > 4 ? 1 + below(w, 3) : some_size(w);
    if (l->rank == 3 && one_in(w, 4)) {
        l->query[1] = 1 + below(w, 70);
        l->value[1] = 1 + below(w, 70);
    }
    l->query[l->rank - 1] = 1 + below(w, 12);
    l->value[l->rank - 1] = 1 + below(w, 12);
    l->key_width = 1 + below(w, 12);
}

static void choose_layer(struct world *w, struct engine_layer_config *config, struct layout *l)
{
    static const enum engine_policy policies[] = {
        ENGINE_POLICY_FLOAT32,        ENGINE_POLICY_FLOAT32,       ENGINE_POLICY_FLOAT32,
        ENGINE_POLICY_FLOAT32,        ENGINE_POLICY_FLOAT32,       ENGINE_POLICY_FLOAT32,
        ENGINE_POLICY_MIXED_BFLOAT16, ENGINE_POLICY_MIXED_FLOAT16, ENGINE_POLICY_FLOAT64};
    memset(l, 0, sizeof *l);
    engine_layer_defaults(config);
    l->rank = one_in(w, 2) ? 3 : 4 + (int)below(w, 3);
    choose_axes(w, config, l);
    choose_sizes(w, l);
    config->policy = policies[below(w, 9)];
    config->num_heads = 1 + below(w, 4);
    config->key_dim = 1 + below(w, 9);
    config->value_dim = one_in(w, 2) ? 0 : 1 + below(w, 9);
    config->use_bias = !one_in(w, 4);
    config->dropout = one_in(w, 2) ? 0 : 0.3;
    config->reuse_attention = one_in(w, 3) ? 0 : below(w, config->num_heads + 2) - 1;
    if (l->free_axes > 0 && config->reuse_attention > 0)
        config->reuse_attention = one_in(w, 2) ? 0 : -1;
    config->use_relative_pe = l->axes == 1 && l->axis[0] == 1 && one_in(w, 2);
    config->pe_max_seq_length = 1 + below(w, 2 * AXIS_LIMIT);
    config->output_rank = (int)below(w, 4);
    for (int i = 0; i < config->output_rank; i++)
        config->output_shape[i] = 1 + below(w, 4);
    config->bias_initializer.kind = ENGINE_INITIALIZER_RANDOM_NORMAL;
    config->bias_initializer.stddev = 0.3;
}

/* ---- calls -------------------------------------------------------------------------------- */

static void choose_inputs(struct world *w, struct layout *l, struct engine_call *call)
{
    struct support_random *r = &w->random;
    int last = l->rank - 1;
    call->inputs[ENGINE_QUERY] = support_random_tensor(r, some_float(w), l->rank, l->query);
    if (one_in(w, 4)) { /* self-attention: value is the query */
        memcpy(l->value, l->query, sizeof l->value);
        l->key_width = l->query[last];
        return;
    }
    call->inputs[ENGINE_VALUE] = support_random_tensor(r, some_float(w), l->rank, l->value);
    if (one_in(w, 2)) {
        int64_t shape[ENGINE_MAX_INPUT_RANK];
        memcpy(shape, l->value, sizeof shape);
        shape[last] = l->key_width;
        call->inputs[ENGINE_KEY] = support_random_tensor(r, some_float(w), l->rank, shape);
    } else {
        l->key_width = l->value[last];
    }
}

static int scores_shape(const struct layout *l, int64_t heads, int64_t *shape)
{
    int rank = 0;
    shape[rank++] = l->query[0];
    for (int i = 0; i < l->free_axes; i++)
        shape[rank++] = l->query[l->free_axis[i]];
    shape[rank++] = heads;
    for (int i = 0; i < l->axes; i++)
        shape[rank++] = l->query[l->axis[i]];
    for (int i = 0; i < l->axes; i++)
        shape[rank++] = l->value[l->axis[i]];
    return rank;
}

/* A mask has the new heads, or all. */
static void choose_mask(struct world *w, const struct engine_layer_config *config,
                        const struct layout *l, struct engine_call *call)
{
    static const enum engine_dtype types[] = {ENGINE_BOOL, ENGINE_BOOL, ENGINE_U8,
                                              ENGINE_I32,  ENGINE_I64,  ENGINE_F32,
                                              ENGINE_F16,  ENGINE_BF16, ENGINE_F64};
    int64_t scores[ENGINE_MAX_RANK], shape[ENGINE_MAX_RANK];
    int64_t fresh = engine_layer_heads_new(config);
    int rank = scores_shape(l, one_in(w, 3) ? config->num_heads : fresh, scores);
    int least = 2 * l->axes;
    int mask_rank = least + (int)below(w, rank - least + 1), leading = mask_rank - least;
    for (int i = 0; i < mask_rank; i++) {
        int64_t size = i < leading ? scores[i] : scores[rank - mask_rank + i];
        shape[i] = one_in(w, 3) ? 1 : size;
    }
    struct engine_tensor mask = support_tensor(types[below(w, 9)], mask_rank, shape);
    int64_t ones = one_in(w, 4) ? 0 : 1 + below(w, 3); /* 0: every key masked */
    for (size_t i = 0; i < support_count(&mask); i++)
        support_set(&mask, i, below(w, 4) < ones ? 1 : 0);
    call->inputs[ENGINE_ATTENTION_MASK] = mask;
}

static void choose_scores(struct world *w, const struct engine_layer_config *config,
                          const struct layout *l, struct engine_call *call)
{
    int64_t shape[ENGINE_MAX_RANK], heads = engine_layer_heads_reused(config);
    if (heads < config->num_heads)
        heads += below(w, 2);
    int rank = scores_shape(l, heads, shape);
    if (heads == 0)
        return;
    struct engine_tensor given = support_tensor(some_float(w), rank, shape);
    double keys = 1; /* scores of the size of probabilities, which need not add up to 1 */
    for (int i = 0; i < l->axes; i++)
        keys *= (double)l->value[l->axis[i]];
    for (size_t i = 0; i < support_count(&given); i++)
        support_set(&given, i, (double)support_below(&w->random, 2001) / 1000 / keys);
    call->inputs[ENGINE_REUSE_ATTENTION_SCORES] = given;
}

static void select_some(struct world *w, int64_t limit, struct engine_selection *ret)
{
    if (!one_in(w, 6) || limit == 0)
        return;
    ret->count = 1 + (size_t)below(w, 5);
    ret->indices = support_memory(ret->count * sizeof *ret->indices);
    for (size_t i = 0; i < ret->count; i++)
        ret->indices[i] = below(w, limit);
}

static void choose_wishes(struct world *w, const struct engine_layer_config *config,
                          const struct layout *l, struct engine_call *call)
{
    int64_t queries = 1, keys = 1, which = below(w, 4);
    for (int i = 0; i < l->axes; i++) {
        queries *= l->query[l->axis[i]];
        keys *= l->value[l->axis[i]];
    }
    call->wanted[ENGINE_ATTENTION_OUTPUT] = which != 0;
    call->wanted[ENGINE_ATTENTION_SCORES] = which != 1;
    if (one_in(w, 3))
        call->dtype[ENGINE_ATTENTION_OUTPUT] = some_float(w);
    if (one_in(w, 3))
        call->dtype[ENGINE_ATTENTION_SCORES] = some_float(w);
    select_some(w, config->num_heads, &call->heads);
    select_some(w, queries, &call->query_rows);
    if (keys > 0 && one_in(w, 6)) {
        call->top_k = 1 + below(w, keys);
        call->wanted[ENGINE_ATTENTION_SCORES_INDICES] = one_in(w, 2);
    }
    call->precision = (enum engine_precision)below(w, 4);
    call->training = one_in(w, 4);
    call->seed = (uint64_t)below(w, 1000);
}

/* ---- comparing ---------------------------------------------------------------------------- */

static double tolerance_of(const struct world *w, enum engine_dtype dtype)
{
    double tolerance = policy_tolerance[w->policy];
    if (w->policy == ENGINE_POLICY_FLOAT64)
        return dtype == ENGINE_F64    ? tolerance
               : dtype == ENGINE_F32  ? 0x1p-24
               : dtype == ENGINE_BF16 ? 0x1p-8
                                      : 0x1p-11;
    tolerance += precision_tolerance[w->precision];
    return tolerance + (dtype == ENGINE_BF16 ? 0x1p-8 : dtype == ENGINE_F16 ? 0x1p-11 : 0);
}

static void compare(struct world *w, const struct engine_tensor *got, size_t at, double wanted)
{
    double value = engine_tensor_get(got, at);
    double error = fabs(value - wanted) / (1 + fabs(wanted));
    double *worst = &w->worst[w->policy][w->precision];
    if (!(error <= tolerance_of(w, got->dtype)))
        fail_msg("case %d, policy %d, precision %s, %s: element %zu is %.9g, the reference says "
                 "%.9g",
                 w->index, (int)w->policy, engine_precision_name(w->precision),
                 engine_tensor_dtype_name(got->dtype), at, value, wanted);
    if (got->dtype >= ENGINE_F32 && error > *worst)
        *worst = error;
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* k best values of a row; near ties may change places, so an index is judged by its value. */
static void compare_best(struct world *w, const struct support_answer *answer, size_t at,
                         const double *row, int64_t keys, int64_t k)
{
    const struct engine_tensor *scores = &answer->outputs[ENGINE_ATTENTION_SCORES];
    const struct engine_tensor *indices = &answer->outputs[ENGINE_ATTENTION_SCORES_INDICES];
    double *sorted = support_memory((size_t)keys * sizeof *sorted);
    memcpy(sorted, row, (size_t)keys * sizeof *sorted);
    qsort(sorted, (size_t)keys, sizeof *sorted, descending);
    for (int64_t i = 0; i < k; i++) {
        if (scores->data != NULL)
            compare(w, scores, at + (size_t)i, sorted[i]);
        if (indices->data == NULL)
            continue;
        int32_t key = ((const int32_t *)indices->data)[at + (size_t)i];
        assert_in_range(key, 0, keys - 1);
        double error = fabs(row[key] - sorted[i]) / (1 + fabs(sorted[i]));
        assert_true(error <= 2 * tolerance_of(w, ENGINE_F64));
        for (int64_t j = 0; j < i; j++)
            assert_int_not_equal(key, ((const int32_t *)indices->data)[at + (size_t)j]);
    }
    free(sorted);
}

static void compare_scores(struct world *w, const struct engine_call *call,
                           const struct support_answer *answer,
                           const struct support_reference *reference)
{
    const struct engine_geometry *g = &reference->geometry;
    int64_t heads = call->heads.count > 0 ? (int64_t)call->heads.count : g->heads;
    int64_t rows = call->query_rows.count > 0 ? (int64_t)call->query_rows.count : g->queries;
    int64_t width = call->top_k > 0 ? call->top_k : g->keys;
    for (int64_t i = 0; i < g->outer * heads * rows; i++) {
        int64_t outer = i / rows / heads, head = i / rows % heads, query = i % rows;
        head = call->heads.count > 0 ? call->heads.indices[head] : head;
        query = call->query_rows.count > 0 ? call->query_rows.indices[query] : query;
        const double *row =
            reference->scores + ((outer * g->heads + head) * g->queries + query) * g->keys;
        if (call->top_k > 0)
            compare_best(w, answer, (size_t)(i * width), row, g->keys, width);
        for (int64_t j = 0; j < width && call->top_k == 0; j++)
            compare(w, &answer->outputs[ENGINE_ATTENTION_SCORES], (size_t)(i * width + j), row[j]);
    }
}

static void check(struct world *w, struct engine_model *const models[2],
                  const struct engine_call *call)
{
    struct support_answer answers[3];
    struct support_reference reference;
    for (int i = 0; i < 3; i++)
        support_run(w->engines[i % 2], models[i % 2], call, i == 2, &answers[i]);
    support_same_bits(&answers[0], &answers[1]);
    support_same_bits(&answers[0], &answers[2]);
    support_define(models[0], call, &reference);
    const struct engine_tensor *output = &answers[0].outputs[ENGINE_ATTENTION_OUTPUT];
    if (output->data != NULL)
        for (size_t i = 0; i < support_count(&reference.geometry.output); i++)
            compare(w, output, i, reference.output[i]);
    if (call->wanted[ENGINE_ATTENTION_SCORES] || call->wanted[ENGINE_ATTENTION_SCORES_INDICES])
        compare_scores(w, call, &answers[0], &reference);
    for (int i = 0; i < 3; i++)
        support_answer_reset(&answers[i]);
    free(reference.output);
    free(reference.scores);
}

/* f32 where the machine has no kernel for the wish. */
static enum engine_precision precision_used(struct engine *engine, struct engine_model *model,
                                            const struct engine_call *call)
{
    struct engine_error err = {0};
    struct engine_plan *plan = NULL;
    if (engine_plan_create(engine, model, call, &plan, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    enum engine_precision precision = engine_plan_facts(plan)->precision;
    engine_plan_destroy(plan);
    return precision;
}

static void one_case(struct world *w)
{
    struct engine_layer_config config;
    struct layout l;
    struct engine_call call;
    struct engine_model *models[2];
    choose_layer(w, &config, &l);
    engine_call_init(&call);
    choose_inputs(w, &l, &call);
    if (one_in(w, 2))
        choose_mask(w, &config, &l, &call);
    choose_scores(w, &config, &l, &call);
    choose_wishes(w, &config, &l, &call);
    int last = l.rank - 1;
    config.query_shape.rank = config.key_shape.rank = config.value_shape.rank = l.rank;
    config.query_shape.shape[last] = l.query[last];
    config.value_shape.shape[last] = l.value[last];
    config.key_shape.shape[last] = l.key_width;
    for (int i = 0; i < 2; i++)
        models[i] = support_draw(w->engines[i], &config);
    w->policy = config.policy;
    w->precision = precision_used(w->engines[0], models[0], &call);
    check(w, models, &call);
    w->cases[w->policy][w->precision]++;
    for (int i = 0; i < 2; i++)
        engine_model_release(models[i]);
    support_call_reset(&call);
    free(call.heads.indices);
    free(call.query_rows.indices);
}

static void any_layer_and_call_agree_with_the_reference(void **unused)
{
    static const char *const names[] = {"float32", "mixed_float16", "mixed_bfloat16", "float64"};
    struct world w = {.random = {11}};
    (void)unused;
    for (int i = 0; i < 2; i++)
        w.engines[i] = support_open(i + 1);
    for (w.index = 0; w.index < CASES; w.index++)
        one_case(&w);
    for (int i = 0; i < 16; i++)
        if (w.cases[i / 4][i % 4] > 0)
            printf("%-14s %-4s %4d cases, worst error %.2g relative to 1 + |wanted|\n",
                   names[i / 4], engine_precision_name((enum engine_precision)(i % 4)),
                   w.cases[i / 4][i % 4], w.worst[i / 4][i % 4]);
    for (int i = 0; i < 2; i++)
        engine_close(w.engines[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_layer_and_call_agree_with_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
