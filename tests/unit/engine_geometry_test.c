/* engine_geometry_test.c - questionable configurations and calls: every row of
 * tests/golden/facts/refusals.json with what we do, refuse or compute. A refusal names the
 * argument. The table must cover the file: a new fact without a decision fails. */
#include "tests/unit/engine_support.h"

#include <jansson.h>

#include "api/layer_config.h"

struct shape {
    int rank;
    int64_t size[8];
};

struct decision {
    const char *what;  /* as in refusals.json */
    const char *named; /* what the message must say; NULL: computed */
    const char *json;  /* beside num_heads 2, key_dim 2, which it may override; or "" */
    struct shape query, value, key, mask, reused; /* rank 0: not given */
    struct shape output, scores;                  /* of what is computed */
};

/* clang-format off */
static const struct decision decisions[] = {
    {"num_heads=2, key_dim=2, reuse_attention=3", "reuse_attention", "\"reuse_attention\": 3", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"num_heads=2, key_dim=2, reuse_attention=-2", "reuse_attention", "\"reuse_attention\": -2", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    /* Python's True is 1: one head, as it was before TensorFlow refused it. */
    {"reuse_attention=True, called", NULL, "\"reuse_attention\": true", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {4, {1, 1, 3, 3}}, {3, {1, 3, 4}}, {4, {1, 2, 3, 3}}},
    {"key_dim=0, called", "key_dim", "\"key_dim\": 0", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"num_heads=0, called", "num_heads", "\"num_heads\": 0", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"dropout=1.5, called", "dropout", "\"dropout\": 1.5", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"reuse without scores", "reuse_attention_scores", "\"reuse_attention\": -1", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"reused scores with too few heads", "reuse_attention_scores", "\"num_heads\": 3, \"reuse_attention\": 2", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {4, {1, 1, 3, 3}}, {0}, {0}},
    {"reused scores of another S", "reuse_attention_scores", "\"reuse_attention\": 1", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {4, {1, 1, 3, 4}}, {0}, {0}},
    {"full reuse, more heads given", "reuse_attention_scores", "\"reuse_attention\": -1", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {4, {1, 4, 3, 3}}, {0}, {0}},
    {"batch of value differs", "value", "", {3, {3, 3, 4}}, {3, {2, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"batch 1 against 3", "value", "", {3, {3, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"key and value lengths differ", "key", "", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {3, {1, 5, 4}}, {0}, {0}, {0}, {0}},
    {"ranks differ", "value", "", {3, {1, 3, 4}}, {4, {1, 3, 2, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"mask of rank 1", "attention_mask", "", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {1, {5}}, {0}, {0}, {0}},
    {"mask (B,S)", "attention_mask", "", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {2, {2, 5}}, {0}, {0}, {0}},
    {"mask of rank 5", "attention_mask", "", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {5, {1, 2, 1, 3, 5}}, {0}, {0}, {0}},
    {"mask wider than the keys", "attention_mask", "", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {3, {2, 3, 6}}, {0}, {0}, {0}},
    /* TensorFlow lets the mask make 4 output rows of one query. Nobody means that. */
    {"mask broadcasting T = 1 up to 4", "attention_mask", "", {3, {2, 1, 4}}, {3, {2, 5, 4}}, {0}, {3, {2, 4, 5}}, {0}, {0}, {0}},
    /* Masks concern the new heads: N - R as in TensorFlow, or N, of which the first N - R count. */
    {"mask of N - R heads, partial reuse", NULL, "\"num_heads\": 3, \"reuse_attention\": 1", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {4, {2, 2, 3, 5}}, {4, {2, 1, 3, 5}}, {3, {2, 3, 4}}, {4, {2, 3, 3, 5}}},
    {"mask of N heads, partial reuse", NULL, "\"num_heads\": 3, \"reuse_attention\": 1", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {4, {2, 3, 3, 5}}, {4, {2, 1, 3, 5}}, {3, {2, 3, 4}}, {4, {2, 3, 3, 5}}},
    {"mask of 4 heads, 2 of 3 new", "attention_mask", "\"num_heads\": 3, \"reuse_attention\": 1", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {4, {2, 4, 3, 5}}, {4, {2, 1, 3, 5}}, {0}, {0}},
    {"mask of the reused heads' number", "attention_mask", "\"num_heads\": 5, \"reuse_attention\": 2", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {4, {2, 2, 3, 5}}, {4, {2, 2, 3, 5}}, {0}, {0}},
    {"attention_axes=(5,)", "attention_axes", "\"attention_axes\": [5]", {3, {2, 3, 4}}, {3, {2, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    /* TensorFlow attends over the batch: answers would depend on who else asks. */
    {"attention_axes=(0,)", "attention_axes", "\"attention_axes\": [0]", {3, {2, 3, 4}}, {3, {2, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    /* What no call could satisfy is refused at load: there are no inputs then. */
    {"attention_axes=(0,), no call", "attention_axes", "\"attention_axes\": [0]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(-1,): features", "attention_axes", "\"attention_axes\": [-1]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(1, -2): heads", "attention_axes", "\"attention_axes\": [1, -2]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(7,): nine dimensions", "attention_axes", "\"attention_axes\": [7]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(-9,)", "attention_axes", "\"attention_axes\": [-9]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(6, -8): rank 8, where -8 is 1", NULL, "\"attention_axes\": [6, -8]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(6, -3): of rank 8 the same", "attention_axes", "\"attention_axes\": [6, -3]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(6, -5, 4): of rank 8 the same", "attention_axes", "\"attention_axes\": [6, -5, 4]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"relative positions, axes (2,): a call is refused", NULL, "\"use_relative_pe\": true, \"attention_axes\": [2]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"relative positions, axes (-3,): rank 3", NULL, "\"use_relative_pe\": true, \"attention_axes\": [-3]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"relative positions of no new head, axes (2,)", NULL, "\"use_relative_pe\": true, \"reuse_attention\": -1, \"attention_axes\": [2]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"partial reuse, axes (2,): a call is refused", NULL, "\"reuse_attention\": 1, \"attention_axes\": [2]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"partial reuse, axes (2, 1): rank 4", NULL, "\"reuse_attention\": 1, \"attention_axes\": [2, 1]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"query_shape with a negative size", "query_shape", "\"query_shape\": [1, -5, 4]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"value_shape with -1", "value_shape", "\"value_shape\": [1, -1, 4]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"key_shape with a null", NULL, "\"key_shape\": [1, null, 4]", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(1, 1)", "attention_axes", "\"attention_axes\": [1, 1]", {3, {2, 3, 4}}, {3, {2, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"attention_axes=(2,) on 3-D: the head axis", "attention_axes", "\"attention_axes\": [2]", {3, {2, 3, 4}}, {3, {2, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"relative positions with axes (2,)", "use_relative_pe", "\"use_relative_pe\": true, \"attention_axes\": [2]", {4, {2, 3, 4, 4}}, {4, {2, 3, 4, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"relative positions with axes (1,2)", "use_relative_pe", "\"use_relative_pe\": true, \"attention_axes\": [1, 2]", {4, {2, 3, 4, 4}}, {4, {2, 3, 4, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"relative positions with axes (1,) on 4-D", NULL, "\"use_relative_pe\": true, \"attention_axes\": [1]", {4, {2, 3, 4, 4}}, {4, {2, 3, 4, 4}}, {0}, {0}, {0}, {4, {2, 3, 4, 4}}, {5, {2, 4, 2, 3, 3}}},
    {"partial reuse with a free axis", "reuse_attention", "\"reuse_attention\": 1, \"attention_axes\": [2]", {4, {2, 3, 4, 4}}, {4, {2, 3, 4, 4}}, {0}, {0}, {5, {2, 3, 1, 4, 4}}, {0}, {0}},
    {"empty batch", NULL, "", {3, {0, 3, 4}}, {3, {0, 3, 4}}, {0}, {0}, {0}, {3, {0, 3, 4}}, {4, {0, 2, 3, 3}}},
    {"no keys, S = 0", NULL, "", {3, {1, 3, 4}}, {3, {1, 0, 4}}, {0}, {0}, {0}, {3, {1, 3, 4}}, {4, {1, 2, 3, 0}}},
    {"no queries, T = 0", NULL, "", {3, {1, 0, 4}}, {3, {1, 3, 4}}, {0}, {0}, {0}, {3, {1, 0, 4}}, {4, {1, 2, 0, 3}}},
    {"rank-2 input", "query", "", {2, {3, 4}}, {2, {3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"kernel_initializer=identity", "kernel_initializer", "\"kernel_initializer\": \"identity\"", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"bias_initializer=orthogonal", "bias_initializer", "\"bias_initializer\": \"orthogonal\"", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"kernel_initializer=nonsense", "kernel_initializer", "\"kernel_initializer\": \"nonsense\"", {0}, {0}, {0}, {0}, {0}, {0}, {0}},
    /* Keras drops it; so it changes nothing here. */
    {"activity_regularizer=l2, what get_config says", NULL, "\"activity_regularizer\": \"l2\"", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {0}, {3, {1, 3, 4}}, {4, {1, 2, 3, 3}}},
    /* The documented name of pe_max_seq_length: taken. */
    {"max_sequence_length=8 (the documented name)", NULL, "\"max_sequence_length\": 8", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {0}, {3, {1, 3, 4}}, {4, {1, 2, 3, 3}}},
    /* Beyond the file. */
    /* What the layer computes where sizes fit by chance, or in another shape than the query's. */
    {"full reuse, scores of 7 queries, 3 asked", "reuse_attention_scores", "\"reuse_attention\": -1", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {0}, {4, {2, 2, 7, 5}}, {0}, {0}},
    {"full reuse, 3 batch rows asked of 2", "value", "\"reuse_attention\": -1", {3, {3, 3, 4}}, {3, {2, 5, 4}}, {0}, {0}, {4, {2, 2, 3, 5}}, {0}, {0}},
    {"relative positions over two axes that fit by chance", "use_relative_pe", "\"use_relative_pe\": true", {4, {1, 3, 2, 4}}, {4, {1, 3, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"partial reuse with a free axis that fits by chance", "reuse_attention", "\"reuse_attention\": 1, \"attention_axes\": [1]", {4, {2, 4, 1, 4}}, {4, {2, 5, 1, 4}}, {0}, {0}, {5, {2, 1, 1, 4, 5}}, {0}, {0}},
    {"width 0", "query_shape", "\"query_shape\": [1, 3, 0]", {3, {1, 3, 0}}, {3, {1, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    /* What the layer fails at. */
    {"float64 with relative positions", NULL, "\"dtype\": \"float64\", \"use_relative_pe\": true", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {0}, {0}, {3, {2, 3, 4}}, {4, {2, 2, 3, 5}}},
    {"float64, float32 scores partly reused", NULL, "\"dtype\": \"float64\", \"reuse_attention\": 1", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {0}, {4, {2, 1, 3, 5}}, {3, {2, 3, 4}}, {4, {2, 2, 3, 5}}},
    {"mixed_float16, float32 scores partly reused", NULL, "\"dtype\": \"mixed_float16\", \"reuse_attention\": 1", {3, {2, 3, 4}}, {3, {2, 5, 4}}, {0}, {0}, {4, {2, 1, 3, 5}}, {3, {2, 3, 4}}, {4, {2, 2, 3, 5}}},
    {"four axes", NULL, "", {6, {1, 2, 2, 2, 2, 4}}, {6, {1, 2, 2, 2, 2, 4}}, {0}, {0}, {0}, {6, {1, 2, 2, 2, 2, 4}}, {0}},
    {"six axes", NULL, "", {8, {1, 2, 1, 2, 1, 2, 2, 4}}, {8, {1, 2, 1, 2, 1, 2, 2, 4}}, {0}, {0}, {0}, {8, {1, 2, 1, 2, 1, 2, 2, 4}}, {0}},
    {"query of another width", "query", "", {3, {1, 3, 5}}, {3, {1, 3, 4}}, {0}, {0}, {0}, {0}, {0}},
    {"value of another width", "value", "", {3, {1, 3, 4}}, {3, {1, 3, 5}}, {0}, {0}, {0}, {0}, {0}},
    {"nine heads of scores to partial reuse", NULL, "\"reuse_attention\": 1", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {4, {1, 9, 3, 3}}, {3, {1, 3, 4}}, {4, {1, 2, 3, 3}}},
    {"scores given and not reused", NULL, "", {3, {1, 3, 4}}, {3, {1, 3, 4}}, {0}, {0}, {4, {1, 9, 1, 1}}, {3, {1, 3, 4}}, {4, {1, 2, 3, 3}}},
    {"sizes whose product overflows", "query", "", {3, {(int64_t)1 << 40, (int64_t)1 << 40, 4}}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"scores that overflow", "attention_scores", "", {3, {1, (int64_t)1 << 30, 4}}, {0}, {0}, {0}, {0}, {0}, {0}},
    {"a negative size", "query", "", {3, {1, -3, 4}}, {0}, {0}, {0}, {0}, {0}, {0}},
};
/* clang-format on */

enum { DECISIONS = sizeof decisions / sizeof decisions[0] };

static float zeros[4096];

static void give(const struct shape *shape, struct engine_tensor *ret)
{
    if (shape->rank == 0)
        return;
    *ret = (struct engine_tensor){.dtype = ENGINE_F32, .rank = shape->rank, .data = zeros};
    memcpy(ret->shape, shape->size, (size_t)shape->rank * sizeof shape->size[0]);
}

/* The base comes without what the decision says itself. */
static enum engine_code read_config(const struct decision *d, struct engine_layer_config *ret,
                                    struct engine_error *err)
{
    char text[512];
    snprintf(text, sizeof text, "{%s%s%s}", d->json,
             strstr(d->json, "num_heads") == NULL
                 ? (d->json[0] != '\0' ? ", \"num_heads\": 2" : "\"num_heads\": 2")
                 : "",
             strstr(d->json, "key_dim") == NULL ? ", \"key_dim\": 2" : "");
    return api_layer_config_read(text, strlen(text), ret, err);
}

static enum engine_code decide(struct engine *engine, const struct decision *d,
                               struct engine_error *err)
{
    struct engine_layer_config config;
    struct engine_call call;
    struct engine_model *model = NULL;
    struct engine_plan *plan = NULL;
    ENGINE_TRY(read_config(d, &config, err));
    struct engine_layer_shape *shapes[] = {&config.query_shape, &config.key_shape,
                                           &config.value_shape};
    for (int i = 0; i < 3; i++)
        if (shapes[i]->rank < 0)
            *shapes[i] = (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 4}};
    const struct engine_model_source source = {.config = &config, .initialize = true};
    ENGINE_TRY(engine_model_create(engine, &source, &model, err));
    if (d->query.rank == 0 && d->output.rank == 0) { /* loading is what is asked */
        engine_model_release(model);
        return ENGINE_OK;
    }
    engine_call_init(&call);
    call.wanted[ENGINE_ATTENTION_SCORES] = true;
    give(&d->query, &call.inputs[ENGINE_QUERY]);
    give(&d->value, &call.inputs[ENGINE_VALUE]);
    give(&d->key, &call.inputs[ENGINE_KEY]);
    give(&d->mask, &call.inputs[ENGINE_ATTENTION_MASK]);
    give(&d->reused, &call.inputs[ENGINE_REUSE_ATTENTION_SCORES]);
    enum engine_code code = engine_plan_create(engine, model, &call, &plan, err);
    if (code == ENGINE_OK) {
        struct support_answer answer;
        engine_plan_destroy(plan);
        support_run(engine, model, &call, false, &answer);
        const struct shape *wanted[] = {&d->output, &d->scores};
        for (int i = 0; i < 2 && d->named == NULL && wanted[i]->rank > 0; i++) {
            assert_int_equal(answer.outputs[i].rank, wanted[i]->rank);
            assert_memory_equal(answer.outputs[i].shape, wanted[i]->size,
                                (size_t)wanted[i]->rank * sizeof(int64_t));
        }
        support_answer_reset(&answer);
    }
    engine_model_release(model);
    return code;
}

static void every_questionable_call_is_refused_by_name_or_computed(void **unused)
{
    struct engine *engine = support_open(1);
    (void)unused;
    for (int i = 0; i < DECISIONS; i++) {
        const struct decision *d = &decisions[i];
        struct engine_error err = {0};
        enum engine_code code = decide(engine, d, &err);
        if ((code == ENGINE_OK) != (d->named == NULL))
            fail_msg("%s: code %d, \"%s\"", d->what, (int)code, err.message);
        if (d->named != NULL && strstr(err.message, d->named) == NULL)
            fail_msg("%s: \"%s\" does not name %s", d->what, err.message, d->named);
        if (d->named != NULL && code != ENGINE_INVALID_ARGUMENT && code != ENGINE_SHAPE_MISMATCH &&
            code != ENGINE_TOO_LARGE)
            fail_msg("%s: code %d", d->what, (int)code);
        printf("%-48s %s\n", d->what, d->named != NULL ? err.message : "(computed)");
    }
    engine_close(engine);
}

static void every_fact_has_a_decision(void **unused)
{
    json_error_t error;
    size_t at;
    json_t *facts = json_load_file("tests/golden/facts/refusals.json", 0, &error), *fact;
    (void)unused;
    assert_true(json_array_size(facts) > 30);
    json_array_foreach(facts, at, fact)
    {
        const char *what = json_string_value(json_object_get(fact, "what"));
        bool found = false;
        for (int i = 0; i < DECISIONS; i++)
            found = found || strcmp(decisions[i].what, what) == 0;
        if (!found)
            fail_msg("no decision for \"%s\"", what);
    }
    json_decref(facts);
}

/* Negative axes count on the projected rank: -4 of a 4-D input is axis 1, -3 axis 2. */
static void negative_axes_count_on_the_projected_rank(void **unused)
{
    struct engine *engine = support_open(1);
    struct engine_error err = {0};
    static const struct decision good = {
        "-3 on 4-D", NULL, "\"attention_axes\": [-3]", {4, {2, 3, 4, 4}},   {4, {2, 3, 5, 4}}, {0},
        {0},         {0},  {4, {2, 3, 4, 4}},          {5, {2, 3, 2, 4, 5}}};
    static const struct decision heads = {"-2: the heads",
                                          "attention_axes",
                                          "\"attention_axes\": [-2]",
                                          {3, {2, 3, 4}},
                                          {3, {2, 3, 4}},
                                          {0},
                                          {0},
                                          {0},
                                          {0},
                                          {0}};
    (void)unused;
    assert_int_equal(decide(engine, &good, &err), ENGINE_OK);
    assert_int_equal(decide(engine, &heads, &err), ENGINE_INVALID_ARGUMENT);
    engine_close(engine);
}

static void wishes_are_checked_by_name(void **unused)
{
    struct engine *engine = support_open(1);
    struct engine_layer_config config;
    struct engine_call call;
    struct engine_plan *plan = NULL;
    int64_t high[] = {2}, low[] = {-1};
    (void)unused;
    engine_layer_defaults(&config);
    config.num_heads = config.key_dim = 2;
    config.query_shape = config.key_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, 4}};
    struct engine_model *model = support_draw(engine, &config);
    engine_call_init(&call);
    give(&(struct shape){3, {1, 3, 4}}, &call.inputs[ENGINE_QUERY]);
    for (int i = 0; i < 6; i++) {
        static const char *const named[] = {"heads", "query_rows", "top_k",
                                            "top_k", "top_k",      "attention_output"};
        struct engine_call bad = call;
        struct engine_error err = {0};
        if (i == 0)
            bad.heads = (struct engine_selection){high, 1};
        if (i == 1)
            bad.query_rows = (struct engine_selection){low, 1};
        if (i == 2)
            bad.top_k = 4;
        if (i == 3)
            bad.top_k = -1;
        bad.wanted[ENGINE_ATTENTION_SCORES_INDICES] = i == 4;
        if (i == 5)
            bad.dtype[ENGINE_ATTENTION_OUTPUT] = ENGINE_I32;
        assert_int_equal(engine_plan_create(engine, model, &bad, &plan, &err),
                         ENGINE_INVALID_ARGUMENT);
        if (strstr(err.message, named[i]) == NULL)
            fail_msg("\"%s\" does not name %s", err.message, named[i]);
    }
    engine_model_release(model);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_questionable_call_is_refused_by_name_or_computed),
        cmocka_unit_test(every_fact_has_a_decision),
        cmocka_unit_test(negative_axes_count_on_the_projected_rank),
        cmocka_unit_test(wishes_are_checked_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
