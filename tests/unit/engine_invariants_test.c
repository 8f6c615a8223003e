/* engine_invariants_test.c - what must hold whatever the numbers are: heads split into new and
 * reused reproduce the undivided layer, order of batch rows and heads does not matter, masked keys
 * do not matter, and a batch row has the same bits whatever lies beside it. */
#include "tests/unit/engine_support.h"

enum { HEADS = 5, REUSED = 2, DIM = 11, VALUE_DIM = 6, WIDTH = 23, QUERIES = 29, KEYS = 41 };

struct fixture {
    struct support_random random;
    struct engine *engine;
    struct engine_layer_config config;
    struct engine_named_tensor weights[ENGINE_WEIGHT_COUNT];
    size_t count;
};

static void add(struct fixture *f, enum engine_weight weight, int rank, const int64_t *shape)
{
    f->weights[f->count].name = engine_weights_name(weight);
    f->weights[f->count++].tensor = support_random_tensor(&f->random, ENGINE_F32, rank, shape);
    struct engine_tensor *t = &f->weights[f->count - 1].tensor;
    for (size_t i = 0; i < support_count(t); i++)
        ((float *)t->data)[i] *= 0.3f;
}

/* A whole layer: no head reused. */
static void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->random.state = 5;
    f->engine = support_open(2);
    engine_layer_defaults(&f->config);
    f->config.num_heads = HEADS;
    f->config.key_dim = DIM;
    f->config.value_dim = VALUE_DIM;
    add(f, ENGINE_WEIGHT_QUERY_KERNEL, 3, (int64_t[]){WIDTH, HEADS, DIM});
    add(f, ENGINE_WEIGHT_QUERY_BIAS, 2, (int64_t[]){HEADS, DIM});
    add(f, ENGINE_WEIGHT_KEY_KERNEL, 3, (int64_t[]){WIDTH, HEADS, DIM});
    add(f, ENGINE_WEIGHT_KEY_BIAS, 2, (int64_t[]){HEADS, DIM});
    add(f, ENGINE_WEIGHT_VALUE_NEW_KERNEL, 3, (int64_t[]){WIDTH, HEADS, VALUE_DIM});
    add(f, ENGINE_WEIGHT_VALUE_NEW_BIAS, 2, (int64_t[]){HEADS, VALUE_DIM});
    add(f, ENGINE_WEIGHT_OUTPUT_NEW_KERNEL, 3, (int64_t[]){HEADS, VALUE_DIM, WIDTH});
    add(f, ENGINE_WEIGHT_OUTPUT_NEW_BIAS, 1, (int64_t[]){WIDTH});
}

static void fixture_reset(struct fixture *f)
{
    for (size_t i = 0; i < f->count; i++)
        free(f->weights[i].tensor.data);
    engine_close(f->engine);
}

static struct engine_model *make(struct fixture *f, const struct engine_layer_config *config,
                                 const struct engine_named_tensor *weights, size_t count)
{
    struct engine_error err = {0};
    struct engine_model *model = NULL;
    const struct engine_model_source source = {
        .config = config, .weights = weights, .weights_count = count};
    if (engine_model_create(f->engine, &source, &model, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    return model;
}

/* Heads order[0..count) of a weight whose heads are dimension "axis". */
static struct engine_tensor take_heads(const struct engine_tensor *from, int axis, const int *order,
                                       int count)
{
    struct engine_tensor t = *from;
    size_t before = 1, after = 1;
    for (int i = 0; i < axis; i++)
        before *= (size_t)from->shape[i];
    for (int i = axis + 1; i < from->rank; i++)
        after *= (size_t)from->shape[i];
    t.shape[axis] = count;
    t.data = support_memory(before * (size_t)count * after * sizeof(float));
    for (size_t i = 0; i < before; i++)
        for (size_t j = 0; j < (size_t)count; j++)
            memcpy((float *)t.data + (i * (size_t)count + j) * after,
                   (const float *)from->data +
                       (i * (size_t)from->shape[axis] + (size_t)order[j]) * after,
                   after * sizeof(float));
    return t;
}

static void random_call(struct fixture *f, int64_t batch, int64_t queries, struct engine_call *call)
{
    engine_call_init(call);
    call->wanted[ENGINE_ATTENTION_SCORES] = true;
    call->inputs[ENGINE_QUERY] =
        support_random_tensor(&f->random, ENGINE_F32, 3, (int64_t[]){batch, queries, WIDTH});
    call->inputs[ENGINE_VALUE] =
        support_random_tensor(&f->random, ENGINE_F32, 3, (int64_t[]){batch, KEYS, WIDTH});
}

static double distance(const struct engine_tensor *a, const struct engine_tensor *b)
{
    double worst = 0;
    assert_true(engine_tensor_same_shape(a, b));
    for (size_t i = 0; i < support_count(a); i++) {
        double x = engine_tensor_get(a, i), y = engine_tensor_get(b, i);
        double error = fabs(x - y) / (1 + fabs(y));
        if (!(error <= worst))
            worst = error;
    }
    return worst;
}

/* ---- reuse -------------------------------------------------------------------------------- */

/* The weights of a layer whose first heads are new and whose heads in "order" from fresh on are
 * reused. The bias of the output moves to the reused projection, as Keras has it. */
static size_t split_weights(const struct fixture *f, int fresh, struct engine_named_tensor *ret)
{
    static const int order[HEADS] = {0, 1, 2, 3, 4};
    static const enum engine_weight reused[] = {ENGINE_WEIGHT_VALUE_REUSE_KERNEL,
                                                ENGINE_WEIGHT_VALUE_REUSE_BIAS,
                                                ENGINE_WEIGHT_OUTPUT_REUSE_KERNEL};
    static const int axes[] = {1, 0, 1, 0, 1, 0, 0};
    size_t count = 0;
    for (int i = 0; i < 7 && fresh > 0; i++) {
        ret[count].name = f->weights[i].name;
        ret[count++].tensor = take_heads(&f->weights[i].tensor, axes[i], order, fresh);
    }
    for (int i = 4; i < 7; i++) {
        ret[count].name = engine_weights_name(reused[i - 4]);
        ret[count++].tensor =
            take_heads(&f->weights[i].tensor, axes[i], order + fresh, HEADS - fresh);
    }
    ret[count] = f->weights[7];
    ret[count].name = engine_weights_name(ENGINE_WEIGHT_OUTPUT_REUSE_BIAS);
    ret[count].tensor = support_tensor(ENGINE_F32, 1, (int64_t[]){WIDTH});
    memcpy(ret[count++].tensor.data, f->weights[7].tensor.data, WIDTH * sizeof(float));
    return count;
}

static void check_split(struct fixture *f, int fresh)
{
    struct engine_named_tensor split[ENGINE_WEIGHT_COUNT];
    struct engine_layer_config config = f->config;
    struct engine_call call;
    struct support_answer whole, parts;
    static const int order[HEADS] = {0, 1, 2, 3, 4};
    struct engine_model *model = make(f, &f->config, f->weights, f->count);
    random_call(f, 2, QUERIES, &call);
    support_run(f->engine, model, &call, false, &whole);
    engine_model_release(model);
    config.reuse_attention = HEADS - fresh;
    size_t count = split_weights(f, fresh, split);
    call.inputs[ENGINE_REUSE_ATTENTION_SCORES] =
        take_heads(&whole.outputs[ENGINE_ATTENTION_SCORES], 1, order + fresh, HEADS - fresh);
    model = make(f, &config, split, count);
    support_run(f->engine, model, &call, false, &parts);
    for (int i = 0; i < 2; i++) {
        double error = distance(&parts.outputs[i], &whole.outputs[i]);
        printf("%d of %d heads new: %s differs by %.2g\n", fresh, HEADS,
               engine_output_name((enum engine_output)i), error);
        assert_true(error < 5e-6);
    }
    for (size_t i = 0; i < count; i++)
        free(split[i].tensor.data);
    engine_model_release(model);
    support_answer_reset(&whole);
    support_answer_reset(&parts);
    support_call_reset(&call);
}

static void heads_given_their_true_scores_reproduce_the_undivided_layer(void **unused)
{
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    for (int fresh = 0; fresh < HEADS; fresh++)
        check_split(&f, fresh);
    fixture_reset(&f);
}

/* ---- order ---------------------------------------------------------------------------------- */

static void permuting_heads_permutes_the_scores_and_keeps_the_output(void **unused)
{
    static const int order[HEADS] = {3, 0, 4, 2, 1}, axes[] = {1, 0, 1, 0, 1, 0, 0};
    struct fixture f;
    struct engine_named_tensor permuted[ENGINE_WEIGHT_COUNT];
    struct engine_call call;
    struct support_answer before, after;
    (void)unused;
    fixture_init(&f);
    memcpy(permuted, f.weights, sizeof permuted);
    for (int i = 0; i < 7; i++)
        permuted[i].tensor = take_heads(&f.weights[i].tensor, axes[i], order, HEADS);
    random_call(&f, 2, QUERIES, &call);
    struct engine_model *model = make(&f, &f.config, f.weights, f.count);
    support_run(f.engine, model, &call, false, &before);
    engine_model_release(model);
    model = make(&f, &f.config, permuted, f.count);
    support_run(f.engine, model, &call, false, &after);
    engine_model_release(model);
    struct engine_tensor wanted =
        take_heads(&before.outputs[ENGINE_ATTENTION_SCORES], 1, order, HEADS);
    assert_true(distance(&after.outputs[ENGINE_ATTENTION_SCORES], &wanted) < 1e-6);
    assert_true(distance(&after.outputs[ENGINE_ATTENTION_OUTPUT],
                         &before.outputs[ENGINE_ATTENTION_OUTPUT]) < 5e-6);
    free(wanted.data);
    for (int i = 0; i < 7; i++)
        free(permuted[i].tensor.data);
    support_answer_reset(&before);
    support_answer_reset(&after);
    support_call_reset(&call);
    fixture_reset(&f);
}

/* Batch rows order[i] of a tensor. */
static struct engine_tensor take_rows(const struct engine_tensor *t, const int *order, int count)
{
    return take_heads(t, 0, order, count);
}

/* The rows chosen, run by themselves, have the bits they had among the others. */
static void check_rows(struct fixture *f, const struct engine_call *call,
                       const struct support_answer *all, const int *order, int count)
{
    struct engine_call chosen = *call;
    struct support_answer answer;
    struct engine_model *model = make(f, &f->config, f->weights, f->count);
    for (int i = 0; i < 2; i++)
        chosen.inputs[i] = take_rows(&call->inputs[i], order, count);
    support_run(f->engine, model, &chosen, false, &answer);
    for (int i = 0; i < 2; i++) {
        struct engine_tensor wanted = take_rows(&all->outputs[i], order, count);
        assert_memory_equal(answer.outputs[i].data, wanted.data,
                            support_count(&wanted) * sizeof(float));
        free(wanted.data);
    }
    engine_model_release(model);
    support_call_reset(&chosen);
    support_answer_reset(&answer);
}

/* 11 batch rows of so many queries. */
static void check_batch(struct fixture *f, int64_t queries, enum engine_precision precision)
{
    static const int reversed[] = {10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    struct engine_call call;
    struct support_answer all;
    struct engine_model *model = make(f, &f->config, f->weights, f->count);
    random_call(f, 11, queries, &call);
    call.precision = precision;
    support_run(f->engine, model, &call, false, &all);
    engine_model_release(model);
    for (int row = 0; row < 11; row++)
        check_rows(f, &call, &all, &row, 1);
    check_rows(f, &call, &all, reversed, 11);
    check_rows(f, &call, &all, reversed + 2, 5);
    support_answer_reset(&all);
    support_call_reset(&call);
}

static void a_batch_row_has_the_same_bits_alone_and_beside_any_others(void **unused)
{
    static const int64_t queries[] = {1, 2, 3, 7, QUERIES, 77, 133};
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    for (int i = ENGINE_PRECISION_F32; i <= ENGINE_PRECISION_BF16; i++)
        for (size_t j = 0; j < sizeof queries / sizeof queries[0]; j++)
            check_batch(&f, queries[j], (enum engine_precision)i);
    fixture_reset(&f);
}

static void repeating_a_call_repeats_its_bits(void **unused)
{
    struct fixture f;
    struct engine_call call;
    struct support_answer first, again;
    (void)unused;
    fixture_init(&f);
    f.config.dropout = 0.4;
    random_call(&f, 3, QUERIES, &call);
    call.training = true;
    call.seed = 9;
    struct engine_model *model = make(&f, &f.config, f.weights, f.count);
    support_run(f.engine, model, &call, false, &first);
    for (int i = 0; i < 50; i++) {
        support_run(f.engine, model, &call, i % 2 == 1, &again);
        support_same_bits(&first, &again);
        support_answer_reset(&again);
    }
    engine_model_release(model);
    support_answer_reset(&first);
    support_call_reset(&call);
    fixture_reset(&f);
}

/* ---- masks ---------------------------------------------------------------------------------- */

/* padding: the masked keys come last, and are skipped; else they lie anywhere. */
static void check_masked_keys(struct fixture *f, bool padding, enum engine_precision precision)
{
    struct engine_call call;
    struct support_answer before, after;
    struct engine_model *model = make(f, &f->config, f->weights, f->count);
    random_call(f, 2, QUERIES, &call);
    call.precision = precision;
    call.inputs[ENGINE_ATTENTION_MASK] = support_tensor(ENGINE_BOOL, 3, (int64_t[]){2, 1, KEYS});
    uint8_t *mask = call.inputs[ENGINE_ATTENTION_MASK].data;
    for (int i = 0; i < 2 * KEYS; i++)
        if (padding ? i % KEYS < 17 + i / KEYS : i % 3 != 0)
            mask[i] = 1;
        else
            mask[i] = 0;
    support_run(f->engine, model, &call, false, &before);
    float *value = call.inputs[ENGINE_VALUE].data;
    for (int i = 0; i < 2 * KEYS; i++)
        for (int c = 0; c < WIDTH && mask[i] == 0; c++)
            value[i * WIDTH + c] = support_value(&f->random) * 3;
    support_run(f->engine, model, &call, false, &after);
    support_same_bits(&before, &after);
    for (size_t i = 0; i < support_count(&after.outputs[ENGINE_ATTENTION_SCORES]); i++) {
        int64_t row = (int64_t)i / (HEADS * QUERIES * KEYS), key = (int64_t)i % KEYS;
        if (mask[row * KEYS + key] == 0)
            assert_true(((float *)after.outputs[ENGINE_ATTENTION_SCORES].data)[i] == 0.0f);
    }
    engine_model_release(model);
    support_answer_reset(&before);
    support_answer_reset(&after);
    support_call_reset(&call);
}

static void a_masked_key_changes_no_bit_and_its_score_is_zero(void **unused)
{
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    for (int i = ENGINE_PRECISION_F32; i <= ENGINE_PRECISION_BF16; i++) {
        check_masked_keys(&f, true, (enum engine_precision)i);
        check_masked_keys(&f, false, (enum engine_precision)i);
    }
    fixture_reset(&f);
}

/* Scores that are not returned are scaled after the product with the values. */
static void asking_for_scores_changes_the_output_in_its_last_bits_only(void **unused)
{
    struct fixture f;
    struct engine_call call;
    struct support_answer with, without;
    (void)unused;
    fixture_init(&f);
    random_call(&f, 3, QUERIES, &call);
    struct engine_model *model = make(&f, &f.config, f.weights, f.count);
    call.wanted[ENGINE_ATTENTION_SCORES] = true;
    support_run(f.engine, model, &call, false, &with);
    call.wanted[ENGINE_ATTENTION_SCORES] = false;
    support_run(f.engine, model, &call, false, &without);
    for (size_t i = 0; i < support_count(&with.outputs[ENGINE_ATTENTION_OUTPUT]); i++) {
        double a = engine_tensor_get(&with.outputs[ENGINE_ATTENTION_OUTPUT], i);
        double b = engine_tensor_get(&without.outputs[ENGINE_ATTENTION_OUTPUT], i);
        assert_true(fabs(a - b) <= 2e-6 * (1 + fabs(a)));
    }
    engine_model_release(model);
    support_answer_reset(&with);
    support_answer_reset(&without);
    support_call_reset(&call);
    fixture_reset(&f);
}

/* 3e38 times 2 is no float32; half of it, for a key_dim of 4, is. */
static void a_float32_query_is_scaled_before_it_overflows(void **unused)
{
    struct engine_layer_config config;
    struct engine_call call;
    struct support_answer answer;
    struct engine *engine = support_open(1);
    (void)unused;
    engine_layer_defaults(&config);
    config.num_heads = 1;
    config.key_dim = 4;
    config.use_bias = false;
    config.kernel_initializer =
        (struct engine_initializer){.kind = ENGINE_INITIALIZER_CONSTANT, .value = 2};
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {1, 1, 1}};
    engine_call_init(&call);
    call.inputs[ENGINE_QUERY] = support_tensor(ENGINE_F32, 3, (int64_t[]){1, 1, 1});
    call.inputs[ENGINE_VALUE] = support_tensor(ENGINE_F32, 3, (int64_t[]){1, 2, 1});
    support_set(&call.inputs[ENGINE_QUERY], 0, 3e38);
    support_set(&call.inputs[ENGINE_VALUE], 0, 1e-38);
    support_set(&call.inputs[ENGINE_VALUE], 1, 1e-38);
    call.wanted[ENGINE_ATTENTION_SCORES] = true;
    struct engine_model *model = support_draw(engine, &config);
    support_run(engine, model, &call, false, &answer);
    for (size_t i = 0; i < 2; i++)
        assert_true(engine_tensor_get(&answer.outputs[ENGINE_ATTENTION_SCORES], i) == 0.5);
    engine_model_release(model);
    support_answer_reset(&answer);
    support_call_reset(&call);
    engine_close(engine);
}

/* ---- the best keys -------------------------------------------------------------------------- */

enum { BEST_ROWS = 200, BEST_KEYS = 9 };

static bool is_before(const float *row, int a, int b)
{
    if (isnan(row[a]) != isnan(row[b]))
        return isnan(row[b]);
    return row[a] > row[b] || (!(row[a] < row[b]) && a < b);
}

/* Each returned key has to be the first, by the order above, of those not yet returned. */
static void check_best(const float *row, const int32_t *keys, int k)
{
    bool taken[BEST_KEYS] = {false};
    for (int i = 0; i < k; i++) {
        int best = -1;
        for (int j = 0; j < BEST_KEYS; j++)
            if (!taken[j] && (best < 0 || is_before(row, j, best)))
                best = j;
        assert_int_equal(keys[i], best);
        taken[best] = true;
    }
}

static void check_best_under(struct engine *engine, enum engine_policy policy)
{
    static const float values[] = {NAN, NAN, INFINITY, -INFINITY, 0, 1, 2};
    struct support_random r = {7};
    struct engine_layer_config config;
    struct engine_call call;
    struct support_answer answer;
    engine_layer_defaults(&config);
    config.policy = policy;
    config.num_heads = config.key_dim = 1;
    config.reuse_attention = 1;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 4}};
    struct engine_model *model = support_draw(engine, &config);
    engine_call_init(&call);
    call.wanted[ENGINE_ATTENTION_SCORES] = call.wanted[ENGINE_ATTENTION_SCORES_INDICES] = true;
    call.inputs[ENGINE_QUERY] =
        support_random_tensor(&r, ENGINE_F32, 3, (int64_t[]){1, BEST_ROWS, 4});
    call.inputs[ENGINE_VALUE] =
        support_random_tensor(&r, ENGINE_F32, 3, (int64_t[]){1, BEST_KEYS, 4});
    call.inputs[ENGINE_REUSE_ATTENTION_SCORES] =
        support_tensor(ENGINE_F32, 4, (int64_t[]){1, 1, BEST_ROWS, BEST_KEYS});
    float *scores = call.inputs[ENGINE_REUSE_ATTENTION_SCORES].data;
    for (int i = 0; i < BEST_ROWS * BEST_KEYS; i++)
        scores[i] = values[support_below(&r, sizeof values / sizeof values[0])];
    for (call.top_k = 1; call.top_k <= BEST_KEYS; call.top_k++) {
        support_run(engine, model, &call, false, &answer);
        const int32_t *keys = answer.outputs[ENGINE_ATTENTION_SCORES_INDICES].data;
        for (int i = 0; i < BEST_ROWS; i++)
            check_best(scores + i * BEST_KEYS, keys + i * call.top_k, (int)call.top_k);
        support_answer_reset(&answer);
    }
    support_call_reset(&call);
    engine_model_release(model);
}

static void the_best_keys_are_the_greatest_then_the_first_and_nan_is_last(void **unused)
{
    struct engine *engine = support_open(1);
    (void)unused;
    for (int policy = 0; policy <= ENGINE_POLICY_FLOAT64; policy++)
        check_best_under(engine, (enum engine_policy)policy);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_given_their_true_scores_reproduce_the_undivided_layer),
        cmocka_unit_test(permuting_heads_permutes_the_scores_and_keeps_the_output),
        cmocka_unit_test(a_batch_row_has_the_same_bits_alone_and_beside_any_others),
        cmocka_unit_test(repeating_a_call_repeats_its_bits),
        cmocka_unit_test(a_masked_key_changes_no_bit_and_its_score_is_zero),
        cmocka_unit_test(asking_for_scores_changes_the_output_in_its_last_bits_only),
        cmocka_unit_test(a_float32_query_is_scaled_before_it_overflows),
        cmocka_unit_test(the_best_keys_are_the_greatest_then_the_first_and_nan_is_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
