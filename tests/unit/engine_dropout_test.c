/* engine_dropout_test.c - dropout: its fraction, mean and
 * independence of order; inside the layer: scores returned are those before dropout. */
#include "tests/unit/engine_support.h"

#include "engine/dropout.h"

/* 6 standard deviations of a fraction of a million. */
#define SIX_SIGMA(rate) (6 * sqrt((rate) * (1 - (rate)) / 1e6))

static void the_fraction_dropped_is_the_rate_and_the_mean_stays(void **unused)
{
    static const double rates[] = {0.01, 0.1, 0.3, 0.5, 0.9};
    enum { COUNT = 1000000 };
    float *scores = support_memory(COUNT * sizeof *scores);
    (void)unused;
    for (size_t r = 0; r < 5; r++) {
        double sum = 0, dropped = 0, rate = rates[r];
        for (int i = 0; i < COUNT; i++)
            scores[i] = 1;
        engine_dropout_apply(42, rate, 0, scores, COUNT);
        for (int i = 0; i < COUNT; i++) {
            assert_true(scores[i] == 0.0f || scores[i] == (float)(1 / (1 - rate)));
            dropped += scores[i] == 0.0f;
            sum += (double)scores[i];
        }
        printf("rate %g: dropped %.5f, mean %.5f\n", rate, dropped / COUNT, sum / COUNT);
        assert_true(fabs(dropped / COUNT - rate) < SIX_SIGMA(rate));
        assert_true(fabs(sum / COUNT - 1) < SIX_SIGMA(rate) / (1 - rate));
    }
    free(scores);
}

static void a_score_is_dropped_by_its_index_alone(void **unused)
{
    float whole[1000], parts[1000];
    (void)unused;
    for (int i = 0; i < 1000; i++)
        whole[i] = parts[i] = 1;
    engine_dropout_apply(7, 0.4, 5, whole, 1000);
    for (size_t at = 1000; at > 0;) { /* backwards, in pieces of odd lengths */
        size_t length = at % 13 + 1 < at ? at % 13 + 1 : at;
        at -= length;
        engine_dropout_apply(7, 0.4, 5 + at, parts + at, length);
    }
    assert_memory_equal(whole, parts, sizeof whole);
    for (size_t i = 0; i < 1000; i++)
        assert_true((double)whole[i] == (double)(float)engine_dropout_factor(7, 0.4, 5 + i));
}

static void seeds_and_streams_differ(void **unused)
{
    uint32_t a[4], b[4];
    (void)unused;
    engine_dropout_random(1, ENGINE_DROPOUT_SCORES, 0, a);
    engine_dropout_random(2, ENGINE_DROPOUT_SCORES, 0, b);
    assert_memory_not_equal(a, b, sizeof a);
    engine_dropout_random(1, ENGINE_DROPOUT_WEIGHTS, 0, b);
    assert_memory_not_equal(a, b, sizeof a);
    engine_dropout_random(1, ENGINE_DROPOUT_SCORES, (uint64_t)1 << 40, b);
    assert_memory_not_equal(a, b, sizeof a);
}

static void neighbours_are_uncorrelated(void **unused)
{
    enum { COUNT = 1000000 };
    double product = 0;
    double before = 0;
    (void)unused;
    for (uint64_t i = 0; i < COUNT; i++) {
        double dropped = engine_dropout_factor(3, 0.5, i) == 0 ? 1 : -1;
        product += dropped * before;
        before = dropped;
    }
    assert_true(fabs(product / COUNT) < 6 / sqrt(COUNT));
}

static void scores_returned_are_those_before_dropout(void **unused)
{
    struct engine *engine = support_open(2);
    struct support_random r = {1};
    struct engine_layer_config config;
    struct engine_call call;
    struct support_answer plain, trained, other;
    size_t bytes = 0;
    (void)unused;
    engine_layer_defaults(&config);
    config.num_heads = config.key_dim = 3;
    config.dropout = 0.5;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 8}};
    struct engine_model *model = support_draw(engine, &config);
    engine_call_init(&call);
    call.wanted[ENGINE_ATTENTION_SCORES] = true;
    call.inputs[ENGINE_QUERY] = support_random_tensor(&r, ENGINE_F32, 3, (int64_t[]){2, 9, 8});
    support_run(engine, model, &call, false, &plain);
    call.training = true;
    support_run(engine, model, &call, false, &trained);
    call.seed = 1;
    support_run(engine, model, &call, false, &other);
    assert_true(engine_tensor_bytes(&plain.outputs[1], &bytes));
    assert_memory_equal(plain.outputs[1].data, trained.outputs[1].data, bytes);
    assert_true(engine_tensor_bytes(&plain.outputs[0], &bytes));
    assert_memory_not_equal(plain.outputs[0].data, trained.outputs[0].data, bytes);
    assert_memory_not_equal(other.outputs[0].data, trained.outputs[0].data, bytes);
    support_answer_reset(&plain);
    support_answer_reset(&trained);
    support_answer_reset(&other);
    support_call_reset(&call);
    engine_model_release(model);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fraction_dropped_is_the_rate_and_the_mean_stays),
        cmocka_unit_test(a_score_is_dropped_by_its_index_alone),
        cmocka_unit_test(seeds_and_streams_differ),
        cmocka_unit_test(neighbours_are_uncorrelated),
        cmocka_unit_test(scores_returned_are_those_before_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
