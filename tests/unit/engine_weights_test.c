/* engine_weights_test.c - loading weights: which must exist, their shapes, prefixes, types. */
#include "tests/unit/engine_support.h"

enum { N = 3, R = 1, H = 4, V = 5, C = 6, D = 7, L = 8 };

struct fixture {
    struct engine *engine;
    struct engine_layer_config config;
    struct engine_named_tensor weights[ENGINE_WEIGHT_COUNT + 2];
    size_t count;
    struct support_random random;
};

static void add(struct fixture *f, const char *name, int rank, const int64_t *shape)
{
    f->weights[f->count].name = name;
    f->weights[f->count++].tensor = support_random_tensor(&f->random, ENGINE_F32, rank, shape);
}

/* One of three heads reused, relative positions, three widths. */
static void fixture_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->engine = support_open(1);
    engine_layer_defaults(&f->config);
    f->config.num_heads = N;
    f->config.reuse_attention = R;
    f->config.key_dim = H;
    f->config.value_dim = V;
    f->config.use_relative_pe = true;
    f->config.pe_max_seq_length = L;
    add(f, "relative_position_embeddings", 3, (int64_t[]){1, N - R, 2 * L - 1});
    add(f, "query/kernel", 3, (int64_t[]){C, N - R, H});
    add(f, "query/bias", 2, (int64_t[]){N - R, H});
    add(f, "key/kernel", 3, (int64_t[]){C + 1, N - R, H});
    add(f, "key/bias", 2, (int64_t[]){N - R, H});
    add(f, "value_reuse/kernel", 3, (int64_t[]){D, R, V});
    add(f, "value_reuse/bias", 2, (int64_t[]){R, V});
    add(f, "value_new/kernel", 3, (int64_t[]){D, N - R, V});
    add(f, "value_new/bias", 2, (int64_t[]){N - R, V});
    add(f, "attention_output_reuse/kernel", 3, (int64_t[]){R, V, C});
    add(f, "attention_output_reuse/bias", 1, (int64_t[]){C});
    add(f, "attention_output_new/kernel", 3, (int64_t[]){N - R, V, C});
}

static void fixture_reset(struct fixture *f)
{
    for (size_t i = 0; i < f->count; i++)
        free(f->weights[i].tensor.data);
    engine_close(f->engine);
}

static enum engine_code load(struct fixture *f, const char *prefix, struct engine_model **ret,
                             struct engine_error *err)
{
    const struct engine_model_source source = {
        .config = &f->config, .weights = f->weights, .weights_count = f->count, .prefix = prefix};
    *err = (struct engine_error){0};
    *ret = NULL;
    return engine_model_create(f->engine, &source, ret, err);
}

static void refused(struct fixture *f, const char *prefix, const char *named)
{
    struct engine_model *model;
    struct engine_error err;
    enum engine_code code = load(f, prefix, &model, &err);
    if (code != ENGINE_INVALID_ARGUMENT && code != ENGINE_SHAPE_MISMATCH)
        fail_msg("%s: code %d", named, (int)code);
    if (strstr(err.message, named) == NULL)
        fail_msg("\"%s\" does not name %s", err.message, named);
}

static void widths_follow_from_the_weights(void **unused)
{
    struct fixture f;
    struct engine_model *model;
    struct engine_error err;
    (void)unused;
    fixture_init(&f);
    assert_int_equal(load(&f, NULL, &model, &err), ENGINE_OK);
    assert_int_equal(engine_model_width(model, ENGINE_QUERY), C);
    assert_int_equal(engine_model_width(model, ENGINE_KEY), C + 1);
    assert_int_equal(engine_model_width(model, ENGINE_VALUE), D);
    assert_int_equal(engine_model_width(model, ENGINE_ATTENTION_MASK), -1);
    engine_model_release(model);
    fixture_reset(&f);
}

static void weights_come_back_in_keras_order_with_their_values(void **unused)
{
    struct fixture f;
    struct engine_model *model;
    struct engine_error err;
    struct engine_named_tensor got;
    (void)unused;
    fixture_init(&f);
    assert_int_equal(load(&f, "", &model, &err), ENGINE_OK);
    for (size_t i = 0; i < f.count; i++) {
        assert_true(engine_model_weight(model, i, &got));
        assert_string_equal(got.name, f.weights[i].name);
        assert_true(engine_tensor_same_shape(&got.tensor, &f.weights[i].tensor));
        assert_memory_equal(got.tensor.data, f.weights[i].tensor.data,
                            support_count(&got.tensor) * sizeof(float));
    }
    assert_false(engine_model_weight(model, f.count, &got));
    engine_model_release(model);
    fixture_reset(&f);
}

static void each_missing_weight_is_named(void **unused)
{
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    for (size_t i = 0; i < f.count; i++) {
        struct engine_named_tensor gone = f.weights[i], last = f.weights[f.count - 1];
        f.weights[i] = last;
        f.count--;
        refused(&f, NULL, gone.name);
        f.count++;
        f.weights[i] = gone;
        f.weights[f.count - 1] = last;
    }
    fixture_reset(&f);
}

static void each_wrong_dimension_and_rank_is_named(void **unused)
{
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    for (size_t i = 0; i < f.count; i++) {
        struct engine_tensor *t = &f.weights[i].tensor, kept = *t;
        t->rank--;
        refused(&f, NULL, f.weights[i].name);
        *t = kept;
        /* The heads' dimension: every weight but the output bias has one that must fit. */
        int axis = i == 10 ? 0 : t->rank == 2 || i == 9 || i == 11 ? 0 : 1;
        t->shape[axis]--;
        refused(&f, NULL, f.weights[i].name);
        *t = kept;
    }
    fixture_reset(&f);
}

static void a_weight_the_layer_does_not_have_is_named(void **unused)
{
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    add(&f, "attention_output_new/bias", 1, (int64_t[]){C}); /* one output bias in all */
    refused(&f, NULL, "attention_output_new/bias");
    f.weights[f.count - 1].name = "query/kernels";
    refused(&f, NULL, "query/kernels");
    f.config.use_bias = false;
    f.count--;
    free(f.weights[f.count].tensor.data);
    refused(&f, NULL, "/bias");
    fixture_reset(&f);
}

static void a_type_that_is_no_float_is_named(void **unused)
{
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    f.weights[1].tensor.dtype = ENGINE_I32;
    refused(&f, NULL, "query/kernel");
    fixture_reset(&f);
}

static void a_prefix_selects_and_what_lies_outside_is_left_alone(void **unused)
{
    static char names[ENGINE_WEIGHT_COUNT][64];
    struct fixture f;
    struct engine_model *model;
    struct engine_error err;
    (void)unused;
    fixture_init(&f);
    for (size_t i = 0; i < f.count; i++) {
        snprintf(names[i], sizeof names[i], "encoder/%s", f.weights[i].name);
        f.weights[i].name = names[i];
    }
    add(&f, "pooler/kernel", 1, (int64_t[]){2});
    assert_int_equal(load(&f, "encoder/", &model, &err), ENGINE_OK);
    engine_model_release(model);
    refused(&f, "decoder/", "decoder/relative_position_embeddings");
    refused(&f, NULL, "relative_position_embeddings");
    fixture_reset(&f);
}

static void narrow_and_wide_floats_are_converted(void **unused)
{
    static const enum engine_dtype types[] = {ENGINE_F16, ENGINE_BF16, ENGINE_F64};
    struct fixture f;
    struct engine_model *model;
    struct engine_error err;
    struct engine_named_tensor got;
    (void)unused;
    fixture_init(&f);
    struct engine_tensor *t = &f.weights[1].tensor;
    for (size_t i = 0; i < 3; i++) {
        free(t->data);
        *t = support_random_tensor(&f.random, types[i], 3, (int64_t[]){C, N - R, H});
        assert_int_equal(load(&f, NULL, &model, &err), ENGINE_OK);
        assert_true(engine_model_weight(model, 1, &got));
        for (size_t j = 0; j < support_count(t); j++)
            assert_true(((float *)got.tensor.data)[j] == (float)engine_tensor_get(t, j));
        engine_model_release(model);
    }
    fixture_reset(&f);
}

static void a_layer_without_weights_or_shapes_is_refused(void **unused)
{
    struct fixture f;
    struct engine_model *model = NULL;
    struct engine_error err = {0};
    (void)unused;
    fixture_init(&f);
    const struct engine_model_source source = {.config = &f.config, .initialize = true};
    assert_int_equal(engine_model_create(f.engine, &source, &model, &err), ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "shape"));
    fixture_reset(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_follow_from_the_weights),
        cmocka_unit_test(weights_come_back_in_keras_order_with_their_values),
        cmocka_unit_test(each_missing_weight_is_named),
        cmocka_unit_test(each_wrong_dimension_and_rank_is_named),
        cmocka_unit_test(a_weight_the_layer_does_not_have_is_named),
        cmocka_unit_test(a_type_that_is_no_float_is_named),
        cmocka_unit_test(a_prefix_selects_and_what_lies_outside_is_left_alone),
        cmocka_unit_test(narrow_and_wide_floats_are_converted),
        cmocka_unit_test(a_layer_without_weights_or_shapes_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
