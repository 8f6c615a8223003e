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

/* ---- names: each row says how Keras' name is made of the weight's ---------------------------- */

enum { NAME_BYTES = 96 };

struct naming {
    const char *what, *scope, *table_scope, *suffix, *prefix;
};

static void rename_all(struct fixture *f, char names[][NAME_BYTES], const struct naming *naming)
{
    static const char *plain[ENGINE_WEIGHT_COUNT];
    for (size_t i = 0; i < f->count; i++) {
        plain[i] = f->weights[i].name;
        snprintf(names[i], NAME_BYTES, "%s%s%s", i == 0 ? naming->table_scope : naming->scope,
                 plain[i], naming->suffix);
        f->weights[i].name = names[i];
    }
}

static void names_of_keras_are_found_in_whatever_scope(void **unused)
{
    static const struct naming rows[] = {
        {"plain", "", "", "", NULL},
        {"w.name of a layer alone", "attn/", "attn/", ":0", NULL},
        {"the table outside the scope", "attn/", "", ":0", NULL},
        {"the table in another scope", "model/attn/", "model/", ":0", NULL},
        {"the table in a scope beside", "model/attn/", "other/scope/", ":0", NULL},
        {"the table in a scope, the rest in none", "", "attn/", ":0", NULL},
        {"w.path", "model/block/attn/", "model/block/attn/", "", NULL},
        {"replicas", "attn/", "attn/", ":12", NULL},
        {"a prefix", "attn/", "attn/", ":0", "attn/"},
        {"a prefix without its slash", "attn/", "attn/", ":0", "attn"},
        {"a scope below the prefix", "model/attn/", "model/", "", "model/"},
        {"the table outside the prefix", "model/attn/", "model/", ":0", "model/attn/"},
        {"the table in no scope", "model/attn/", "", ":0", "model/attn"},
        {"the table beside the prefix", "model/attn/", "other/", ":0", "model/attn"},
        {"a prefix that is no scope", "bert_", "bert_", "", "bert_"},
    };
    static char names[ENGINE_WEIGHT_COUNT][NAME_BYTES];
    (void)unused;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct fixture f;
        struct engine_model *model;
        struct engine_error err;
        struct engine_named_tensor got;
        fixture_init(&f);
        rename_all(&f, names, &rows[i]);
        if (load(&f, rows[i].prefix, &model, &err) != ENGINE_OK)
            fail_msg("%s: %s", rows[i].what, err.message);
        for (size_t w = 0; w < f.count; w++) {
            assert_true(engine_model_weight(model, w, &got));
            assert_memory_equal(got.tensor.data, f.weights[w].tensor.data,
                                support_count(&got.tensor) * sizeof(float));
        }
        engine_model_release(model);
        fixture_reset(&f);
    }
}

/* Adds a tensor of a name to a layer in scope "attn/" whose table lies outside. */
static void with_another(const char *name, const char *prefix, const char *const named[2])
{
    static const struct naming keras = {"", "attn/", "", ":0", NULL};
    static char names[ENGINE_WEIGHT_COUNT][NAME_BYTES];
    struct fixture f;
    fixture_init(&f);
    rename_all(&f, names, &keras);
    add(&f, name, 3, (int64_t[]){C, N - R, H});
    if (named != NULL) {
        refused(&f, prefix, named[0]);
        refused(&f, prefix, named[1]);
    } else {
        struct engine_model *model;
        struct engine_error err;
        if (load(&f, prefix, &model, &err) != ENGINE_OK)
            fail_msg("%s: %s", name, err.message);
        engine_model_release(model);
    }
    fixture_reset(&f);
}

static void two_tensors_for_a_weight_are_listed(void **unused)
{
    (void)unused;
    with_another("b/query/kernel:0", NULL, (const char *[]){"attn/query/kernel:0", "b/query/k"});
    with_another("query/kernel", NULL, (const char *[]){"attn/query/kernel:0", "query/kernel;"});
    with_another("attn/query/kernel:1", NULL, (const char *[]){"kernel:0, attn/", "kernel:1"});
    with_another("attn/x/query/kernel", "attn", (const char *[]){"attn/x/query", "attn/query"});
    with_another("b/relative_position_embeddings:0", NULL,
                 (const char *[]){"b/relative_position_embeddings:0", ", b/relative"});
    with_another("b/query/kernel:0", "attn", NULL);
    with_another("attn_1/query/kernel:0", "attn", NULL);
    with_another("b/relative_position_embeddings:0", "attn",
                 (const char *[]){"b/relative_position_embeddings:0", "may be any of"});
}

/* Each weight in turn in another scope than the rest: no name is ambiguous, none is missing. */
static void pieces_of_several_layers_are_no_layer(void **unused)
{
    static const struct naming keras = {"", "attn/", "", ":0", NULL};
    static char names[ENGINE_WEIGHT_COUNT][NAME_BYTES];
    static const char *const scopes[] = {"", "b/", "attn/x/", "model/attn/"};
    (void)unused;
    for (size_t i = 0; i < sizeof scopes / sizeof scopes[0]; i++)
        for (size_t w = 1; w < ENGINE_WEIGHT_COUNT - 1; w++) {
            struct fixture f;
            fixture_init(&f);
            assert_true(w < f.count);
            const char *plain = f.weights[w].name;
            rename_all(&f, names, &keras);
            snprintf(names[w], NAME_BYTES, "%s%s:0", scopes[i], plain);
            refused(&f, NULL, "\"attn/\"");
            refused(&f, "", scopes[i]);
            fixture_reset(&f);
        }
}

static void what_is_no_weight_is_refused_only_among_the_layers_own(void **unused)
{
    (void)unused;
    with_another("attn/attention_output_new/bias:0", NULL,
                 (const char *[]){"attn/attention_output_new/bias:0", "no weight"});
    with_another("attn/query/kernels", NULL, (const char *[]){"attn/query/kernels", "no weight"});
    with_another("attn/scale", NULL, (const char *[]){"attn/scale", "no weight"});
    with_another("attn/scale", "attn", (const char *[]){"attn/scale", "no weight"});
    with_another("b/attention_output_new/bias:0", NULL, NULL);
    with_another("pooler/kernel", NULL, NULL);
    with_another("attn/deeper/scope/kernel", NULL, NULL);
    with_another("my_query/kernel", NULL, NULL);
}

static void a_table_that_the_layer_has_not_is_refused_where_keras_puts_it(void **unused)
{
    static const char *const scopes[] = {"", "model/", "model/attn/"};
    static char names[ENGINE_WEIGHT_COUNT][NAME_BYTES];
    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        const struct naming naming = {"", "model/attn/", scopes[i], ":0", NULL};
        struct fixture f;
        fixture_init(&f);
        rename_all(&f, names, &naming);
        f.config.use_relative_pe = false;
        refused(&f, NULL, "relative_position_embeddings:0");
        if (i < 2) { /* it may be the other layer's */
            struct engine_model *model;
            struct engine_error err;
            add(&f, "other/dense/kernel:0", 1, (int64_t[]){2});
            assert_int_equal(load(&f, NULL, &model, &err), ENGINE_OK);
            engine_model_release(model);
        }
        f.weights[0].name = "other/relative_position_embeddings:0";
        struct engine_model *model;
        struct engine_error err;
        assert_int_equal(load(&f, NULL, &model, &err), ENGINE_OK);
        engine_model_release(model);
        fixture_reset(&f);
    }
}

static void a_prefix_selects_and_what_lies_outside_is_left_alone(void **unused)
{
    static const struct naming encoder = {"", "encoder/", "encoder/", "", NULL};
    static char names[ENGINE_WEIGHT_COUNT][NAME_BYTES];
    struct fixture f;
    struct engine_model *model;
    struct engine_error err;
    (void)unused;
    fixture_init(&f);
    rename_all(&f, names, &encoder);
    add(&f, "pooler/kernel", 1, (int64_t[]){2});
    assert_int_equal(load(&f, "encoder/", &model, &err), ENGINE_OK);
    engine_model_release(model);
    refused(&f, "decoder/", "decoder/query/kernel");
    refused(&f, "decoder/", "encoder/query/kernel"); /* the nearest */
    fixture_reset(&f);
}

static void a_missing_weight_comes_with_the_nearest_names(void **unused)
{
    struct fixture f;
    (void)unused;
    fixture_init(&f);
    f.weights[1].name = "model/Query/kernel:0";
    refused(&f, NULL, "weight query/kernel is missing");
    refused(&f, NULL, "names there are model/Query/kernel:0, ");
    f.weights[1].name = "attention.query.kernel";
    refused(&f, NULL, "attention.query.kernel");
    size_t count = f.count;
    f.count = 0;
    refused(&f, NULL, "holds no tensors (a Keras layer has weights from its first call on)");
    f.count = count;
    fixture_reset(&f);
}

/* Names of thousands of bytes are told by their ends, and the sentence stays whole. */
static void long_names_are_read_and_told(void **unused)
{
    enum { LONG = 70000, END = 60 };
    char *names = malloc((ENGINE_WEIGHT_COUNT + 1) * LONG);
    struct fixture f;
    struct engine_model *model;
    struct engine_error err;
    (void)unused;
    assert_non_null(names);
    memset(names, 's', (ENGINE_WEIGHT_COUNT + 1) * LONG);
    fixture_init(&f);
    for (size_t i = 0; i < f.count; i++) {
        snprintf(names + (i + 1) * LONG - END, END, "/%s:0", f.weights[i].name);
        f.weights[i].name = names + i * LONG;
    }
    char *second = names + ENGINE_WEIGHT_COUNT * LONG;
    strcpy(second + LONG - END, "/query/kernel:1");
    assert_int_equal(load(&f, NULL, &model, &err), ENGINE_OK);
    engine_model_release(model);
    add(&f, second, 3, (int64_t[]){C, N - R, H});
    refused(&f, NULL, "s/query/kernel:0, ...ss");
    refused(&f, NULL, "s/query/kernel:1; ");
    fixture_reset(&f);
    free(names);
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

/* A tensor of a type that nothing here reads is skipped, unless it is one of the weights. */
static void foreign_types_are_skipped_where_they_are_not_needed(void **unused)
{
    static const char *const names[] = {"scale", "query/scale", "attention_output_new/bias"};
    struct fixture f;
    struct engine_model *model;
    struct engine_error err;
    (void)unused;
    fixture_init(&f);
    add(&f, names[0], 1, (int64_t[]){2});
    f.weights[f.count - 1].foreign = "F8_E4M3";
    for (size_t i = 0; i < 3; i++) {
        f.weights[f.count - 1].name = names[i];
        assert_int_equal(load(&f, NULL, &model, &err), ENGINE_OK);
        engine_model_release(model);
    }
    f.weights[1].foreign = "F8_E5M2";
    refused(&f, NULL, "weight query/kernel has datatype F8_E5M2");
    f.weights[1].foreign = NULL;
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
        cmocka_unit_test(names_of_keras_are_found_in_whatever_scope),
        cmocka_unit_test(two_tensors_for_a_weight_are_listed),
        cmocka_unit_test(pieces_of_several_layers_are_no_layer),
        cmocka_unit_test(what_is_no_weight_is_refused_only_among_the_layers_own),
        cmocka_unit_test(a_table_that_the_layer_has_not_is_refused_where_keras_puts_it),
        cmocka_unit_test(a_missing_weight_comes_with_the_nearest_names),
        cmocka_unit_test(long_names_are_read_and_told),
        cmocka_unit_test(a_prefix_selects_and_what_lies_outside_is_left_alone),
        cmocka_unit_test(narrow_and_wide_floats_are_converted),
        cmocka_unit_test(foreign_types_are_skipped_where_they_are_not_needed),
        cmocka_unit_test(a_layer_without_weights_or_shapes_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
