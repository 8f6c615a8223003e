/* engine_initializers_test.c - do the initializers draw from Keras' distributions? Mean, deviation
 * and range of every entry of tests/golden/facts/initializers.json: 65,536 values each, so two
 * samples differ by chance; the bounds are six standard errors. */
#include "tests/unit/engine_support.h"

#include <jansson.h>

#include "api/layer_config.h"
#include "engine/initializers.h"

static const struct {
    const char *fact, *json;
} spellings[] = {
    {"constant(0.3)", "{\"class_name\": \"Constant\", \"config\": {\"value\": 0.3}}"},
    {"TruncatedNormal(stddev=0.02)",
     "{\"class_name\": \"TruncatedNormal\", \"config\": {\"mean\": 0.0, \"stddev\": 0.02}}"},
    {"VarianceScaling(2, fan_out, uniform)",
     "{\"class_name\": \"VarianceScaling\", \"config\": {\"scale\": 2.0, \"mode\": \"fan_out\", "
     "\"distribution\": \"uniform\"}}"},
    {"VarianceScaling(1, fan_avg, untruncated_normal)",
     "{\"class_name\": \"VarianceScaling\", \"config\": {\"scale\": 1.0, \"mode\": \"fan_avg\", "
     "\"distribution\": \"untruncated_normal\"}}"},
};

static void read_initializer(const char *fact, struct engine_initializer *ret)
{
    char text[512], name[64];
    struct engine_layer_config config;
    struct engine_error err = {0};
    const char *json = name;
    snprintf(name, sizeof name, "\"%s\"", fact);
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++)
        if (strcmp(spellings[i].fact, fact) == 0)
            json = spellings[i].json;
    snprintf(text, sizeof text, "{\"num_heads\": 1, \"key_dim\": 1, \"kernel_initializer\": %s}",
             json);
    if (api_layer_config_read(text, strlen(text), &config, &err) != ENGINE_OK)
        fail_msg("%s: %s", fact, err.message);
    *ret = config.kernel_initializer;
}

struct statistics {
    double mean, stddev, least, most;
};

static void measure(const struct engine_tensor *t, struct statistics *ret)
{
    size_t count = support_count(t);
    double sum = 0, squares = 0;
    *ret = (struct statistics){.least = INFINITY, .most = -INFINITY};
    for (size_t i = 0; i < count; i++) {
        double value = engine_tensor_get(t, i);
        sum += value;
        squares += value * value;
        ret->least = value < ret->least ? value : ret->least;
        ret->most = value > ret->most ? value : ret->most;
    }
    ret->mean = sum / (double)count;
    ret->stddev = sqrt(fmax(0, squares / (double)count - ret->mean * ret->mean));
}

static double number(const json_t *fact, const char *key)
{
    return json_number_value(json_object_get(fact, key));
}

/* The extremes of bounded distributions are sharp, those of normals spread by about a tenth. */
static void compare(const char *name, const struct statistics *got, const json_t *fact)
{
    double stddev = number(fact, "stddev"), most = number(fact, "max"), n = 65536;
    bool bounded = most < 3 * stddev + 1e-9;
    printf("%-48s mean %9.2g (%9.2g), stddev %.5f (%.5f), max %.4f (%.4f)\n", name, got->mean,
           number(fact, "mean"), got->stddev, stddev, got->most, most);
    assert_true(fabs(got->mean - number(fact, "mean")) <= 6 * stddev * sqrt(2 / n) + 1e-7);
    assert_true(fabs(got->stddev - stddev) <= 6 * stddev / sqrt(n) + 1e-7);
    double slack = (bounded ? 0.01 : 0.3) * fabs(most) + 1e-7;
    assert_true(fabs(got->most - most) <= slack);
    assert_true(fabs(got->least - number(fact, "min")) <= slack);
}

static void every_initializer_draws_from_keras_distribution(void **unused)
{
    json_error_t error;
    size_t at;
    json_t *facts = json_load_file("tests/golden/facts/initializers.json", 0, &error), *fact;
    (void)unused;
    assert_true(json_array_size(facts) >= 32);
    json_array_foreach(facts, at, fact)
    {
        const char *name = json_string_value(json_object_get(fact, "initializer"));
        struct engine_initializer initializer;
        struct engine_error err = {0};
        struct statistics got;
        int64_t shape[3];
        for (size_t i = 0; i < 3; i++)
            shape[i] = json_integer_value(json_array_get(json_object_get(fact, "shape"), i));
        struct engine_tensor t = support_tensor(ENGINE_F32, 3, shape);
        read_initializer(name, &initializer);
        if (engine_initializers_fill(&initializer, 12, 3, &t, &err) != ENGINE_OK)
            fail_msg("%s: %s", name, err.message);
        measure(&t, &got);
        compare(name, &got, fact);
        free(t.data);
    }
    json_decref(facts);
}

static void orthogonal_kernels_are_orthogonal(void **unused)
{
    struct engine_initializer initializer = {.kind = ENGINE_INITIALIZER_ORTHOGONAL, .gain = 2};
    struct engine_error err = {0};
    struct engine_tensor t = support_tensor(ENGINE_F32, 3, (int64_t[]){5, 4, 7});
    const float *w = t.data;
    double worst = 0;
    (void)unused;
    assert_int_equal(engine_initializers_fill(&initializer, 1, 1, &t, &err), ENGINE_OK);
    for (int a = 0; a < 7; a++) /* 20 x 7: the columns are orthogonal, of length gain */
        for (int b = 0; b < 7; b++) {
            double dot = 0;
            for (int i = 0; i < 20; i++)
                dot += (double)w[i * 7 + a] * (double)w[i * 7 + b];
            worst = fmax(worst, fabs(dot - (a == b ? 4 : 0)));
        }
    printf("orthogonal: worst product off by %.2g\n", worst);
    assert_true(worst < 1e-5);
    free(t.data);
}

static void a_seed_repeats_and_an_own_seed_makes_equal_shapes_equal(void **unused)
{
    struct engine_initializer initializer = {.kind = ENGINE_INITIALIZER_RANDOM_NORMAL, .stddev = 1};
    struct engine_error err = {0};
    struct engine_tensor t[4];
    (void)unused;
    for (int i = 0; i < 4; i++)
        t[i] = support_tensor(ENGINE_F32, 1, (int64_t[]){100});
    assert_int_equal(engine_initializers_fill(&initializer, 5, 1, &t[0], &err), ENGINE_OK);
    assert_int_equal(engine_initializers_fill(&initializer, 5, 1, &t[1], &err), ENGINE_OK);
    assert_int_equal(engine_initializers_fill(&initializer, 5, 2, &t[2], &err), ENGINE_OK);
    assert_memory_equal(t[0].data, t[1].data, 400);
    assert_memory_not_equal(t[0].data, t[2].data, 400);
    initializer.has_seed = true;
    initializer.seed = 9;
    assert_int_equal(engine_initializers_fill(&initializer, 5, 1, &t[2], &err), ENGINE_OK);
    assert_int_equal(engine_initializers_fill(&initializer, 6, 2, &t[3], &err), ENGINE_OK);
    assert_memory_equal(t[2].data, t[3].data, 400);
    for (int i = 0; i < 4; i++)
        free(t[i].data);
}

static void initializers_that_do_not_fit_a_shape_are_refused(void **unused)
{
    struct engine_initializer identity = {.kind = ENGINE_INITIALIZER_IDENTITY, .gain = 1};
    struct engine_initializer orthogonal = {.kind = ENGINE_INITIALIZER_ORTHOGONAL, .gain = 1};
    struct engine_error err = {0};
    struct engine_tensor three = support_tensor(ENGINE_F32, 3, (int64_t[]){2, 2, 2});
    struct engine_tensor one = support_tensor(ENGINE_F32, 1, (int64_t[]){2});
    (void)unused;
    assert_int_equal(engine_initializers_fill(&identity, 1, 1, &three, &err),
                     ENGINE_INVALID_ARGUMENT);
    assert_int_equal(engine_initializers_fill(&orthogonal, 1, 1, &one, NULL),
                     ENGINE_INVALID_ARGUMENT);
    free(three.data);
    free(one.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_initializer_draws_from_keras_distribution),
        cmocka_unit_test(orthogonal_kernels_are_orthogonal),
        cmocka_unit_test(a_seed_repeats_and_an_own_seed_makes_equal_shapes_equal),
        cmocka_unit_test(initializers_that_do_not_fit_a_shape_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
