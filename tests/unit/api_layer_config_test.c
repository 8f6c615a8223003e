/* api_layer_config_test.c - is every configuration that Keras wrote read, and written back as the
 * same JSON values; are all spellings one; are wrong ones refused by the name of the key? */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "api/layer_config.h"
#include "api/python_json.h"

static struct engine_layer_config read_text(const char *text)
{
    struct engine_layer_config config;
    struct engine_error err = {0};
    if (api_layer_config_read(text, strlen(text), &config, &err) != ENGINE_OK)
        fail_msg("%s: %s", err.message, text);
    return config;
}

static void refuses(const char *text, enum engine_code code, const char *part)
{
    struct engine_layer_config config;
    struct engine_error err = {0};
    assert_int_equal(api_layer_config_read(text, strlen(text), &config, &err), code);
    if (strstr(err.message, part) == NULL)
        fail_msg("\"%s\" does not mention \"%s\"", err.message, part);
}

/* Numbers are compared as numbers: "3" of Keras is 3.0 here. */
static bool equal(const json_t *a, const json_t *b)
{
    const char *key;
    json_t *item;
    size_t i;
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_object(a)) {
        json_object_foreach((json_t *)a, key, item)
        {
            const json_t *other = json_object_get(b, key);
            if (other == NULL || !equal(item, other))
                return false;
        }
        return json_object_size(a) == json_object_size(b);
    }
    if (!json_is_array(a))
        return json_equal(a, b) == 1;
    json_array_foreach(a, i, item)
    {
        if (!equal(item, json_array_get(b, i)))
            return false;
    }
    return json_array_size(a) == json_array_size(b);
}

static void round_trips(const json_t *given, const char *where)
{
    const json_t *inner = json_object_get(given, "config");
    char *text = json_dumps(given, 0);
    struct engine_layer_config config = read_text(text);
    char *written = api_layer_config_write(&config);
    json_t *back = json_loads(written, 0, NULL);
    if (!equal(back, inner != NULL ? inner : given))
        fail_msg("%s: read %s, wrote %s", where, text, written);
    json_decref(back);
    free(written);
    free(text);
}

static void configurations_of_keras_come_back_equal(void **state)
{
    (void)state;
    json_t *all = json_load_file("tests/golden/facts/configurations.json", 0, NULL), *item;
    size_t i;
    assert_int_equal(json_array_size(all), 3);
    json_array_foreach(all, i, item)
    {
        round_trips(item, "configurations.json");
    }
    json_decref(all);
}

static void every_golden_layer_comes_back_equal(void **state)
{
    (void)state;
    struct dirent **entries;
    int count = scandir("tests/golden", &entries, NULL, alphasort), cases = 0;
    assert_true(count > 0);
    for (int i = 0; i < count; i++) {
        char path[512];
        snprintf(path, sizeof path, "tests/golden/%s/layer.json", entries[i]->d_name);
        json_t *layer = json_load_file(path, 0, NULL);
        if (layer != NULL) {
            round_trips(layer, path);
            cases++;
        }
        json_decref(layer);
        free(entries[i]);
    }
    free(entries);
    assert_true(cases >= 50);
}

#define LAYER(more) "{\"num_heads\": 4, \"key_dim\": 2" more "}"

static void all_spellings_of_an_initializer_are_one(void **state)
{
    (void)state;
    static const char *const spellings[] = {
        LAYER(", \"kernel_initializer\": \"he_normal\""),
        LAYER(", \"kernel_initializer\": \"HeNormal\""),
        LAYER(", \"kernel_initializer\": {\"class_name\": \"HeNormal\", \"config\": {}}"),
        LAYER(", \"kernel_initializer\": {\"module\": \"keras.initializers\", \"class_name\": "
              "\"HeNormal\", \"config\": {\"seed\": null}, \"registered_name\": null}"),
    };
    struct engine_layer_config first = read_text(spellings[0]);
    assert_string_equal(first.kernel_initializer.class_name, "HeNormal");
    assert_float_equal(first.kernel_initializer.scale, 2, 0);
    for (int i = 1; i < 4; i++) {
        struct engine_layer_config other = read_text(spellings[i]);
        assert_memory_equal(&other.kernel_initializer, &first.kernel_initializer,
                            sizeof first.kernel_initializer);
    }
}

static void spellings_of_the_rest_are_read(void **state)
{
    (void)state;
    assert_int_equal(read_text(LAYER(", \"max_sequence_length\": 9")).pe_max_seq_length, 9);
    assert_int_equal(read_text(LAYER(", \"attention_axes\": 2")).attention_axes[0], 2);
    assert_true(read_text(LAYER(", \"reuse_attention\": true")).reuse_attention_true);
    assert_int_equal(read_text(LAYER(", \"reuse_attention\": false")).reuse_attention, 0);
    assert_int_equal(read_text(LAYER(", \"dtype\": {\"class_name\": \"Policy\", \"config\": "
                                     "{\"name\": \"mixed_float16\"}}"))
                         .policy,
                     ENGINE_POLICY_MIXED_FLOAT16);
    assert_float_equal(read_text(LAYER(", \"bias_regularizer\": \"l2\"")).bias_regularizer.l2, 0.01,
                       0);
    assert_int_equal(
        read_text(LAYER(", \"kernel_constraint\": \"non_neg\"")).kernel_constraint.kind,
        ENGINE_CONSTRAINT_NON_NEG);
    assert_int_equal(
        read_text("{\"class_name\": \"Text>ReuseMultiHeadAttention\", \"config\": " LAYER("") "}")
            .num_heads,
        4);
}

/* ---- as Python writes it ------------------------------------------------------------------- */

/* The same value in JSON and as str(), a serialization or an older Keras has it. */
static const struct {
    const char *key, *meant, *spelt;
} spellings[] = {
    {"query_shape", "[null, 40, 80]", "\"(None, 40, 80)\""},
    {"query_shape", "[null, 40, 80]", "\"TensorShape([None, 40, 80])\""},
    {"query_shape", "[null, 40, 80]", "\"[None, 40, 80]\""},
    {"query_shape", "[null, 40, 80]", "\"(?, 40, 80)\""},
    {"query_shape", "[null, 40, 80]", "\"(Dimension(None), Dimension(40), Dimension(80))\""},
    {"query_shape", "[null, 40, 80]", "\"(None,40,80)\""},
    {"query_shape", "[null, 40, 80]",
     "{\"class_name\": \"TensorShape\", \"items\": [null, 40, 80]}"},
    {"query_shape", "[null, 40, 80]", "{\"class_name\": \"__tuple__\", \"items\": [null, 40, 80]}"},
    {"query_shape", "[null, 40, 80]", "[null, \"40\", 80]"},
    {"query_shape", "null", "\"<unknown>\""},
    {"query_shape", "null", "\"TensorShape(None)\""},
    {"query_shape", "null", "\"None\""},
    {"query_shape", "null", "{\"class_name\": \"TensorShape\", \"items\": null}"},
    {"value_shape", "[2]", "\"(2,)\""},
    {"key_shape", "[]", "\"()\""},
    {"batch_input_shape", "[null, 5]", "\"(None, 5)\""},
    {"batch_input_shape", "[null, 5]", "{\"class_name\": \"__tuple__\", \"items\": [null, 5]}"},
    {"attention_axes", "[1]", "\"ListWrapper([1])\""},
    {"attention_axes", "[1]", "\"_TupleWrapper((1,))\""},
    {"attention_axes", "[1, 2]", "\"(1, 2)\""},
    {"attention_axes", "[-3]", "\"(-3,)\""},
    {"attention_axes", "[1]", "{\"class_name\": \"__tuple__\", \"items\": [1]}"},
    {"attention_axes", "[1]",
     "{\"class_name\": \"__numpy__\", \"config\": {\"value\": [1], \"dtype\": \"int64\"}}"},
    {"attention_axes", "[1, 2]", "[\"1\", \"2\"]"},
    {"attention_axes", "null", "\"None\""},
    {"output_shape", "[4, 2]", "\"ListWrapper([4, 2])\""},
    {"output_shape", "7", "\"7\""},
    {"output_shape", "[7]", "\"(7,)\""},
    {"output_shape", "[]", "\"ListWrapper([])\""},
    {"num_heads", "4", "\"4\""},
    {"num_heads", "4", "\"np.int64(4)\""},
    {"value_dim", "null", "0"},
    {"dropout", "0.1", "\"0.1\""},
    {"dropout", "0.1", "\"np.float32(0.1)\""},
    {"dropout", "0.0625", "\"6.25e-02\""},
    {"use_bias", "true", "1"},
    {"use_bias", "false", "0"},
    {"use_bias", "true", "\"True\""},
    {"trainable", "false", "0"},
    {"use_relative_pe", "false", "0"},
    {"use_relative_pe", "false", "\"False\""},
    {"reuse_attention", "2", "\"2\""},
    {"reuse_attention", "4", "-1"},
    {"reuse_attention", "0", "false"},
    {"dtype", "\"float32\"", "null"},
    {"dtype", "\"float32\"", "\"<dtype: 'float32'>\""},
    {"dtype", "\"mixed_float16\"", "\"<Policy \\\"mixed_float16\\\">\""},
    {"dtype", "\"mixed_float16\"",
     "{\"class_name\": \"Policy\", \"config\": {\"name\": \"mixed_float16\"}}"},
    {"dtype", "\"mixed_bfloat16\"",
     "{\"module\": \"keras\", \"class_name\": \"DTypePolicy\", \"config\": {\"name\": "
     "\"mixed_bfloat16\"}, \"registered_name\": null, \"shared_object_id\": 3}"},
    {"name", "\"reuse_multi_head_attention\"", "null"},
    {"kernel_initializer", "\"glorot_uniform\"",
     "{\"class_name\": \"GlorotUniform\", \"config\": {\"seed\": null, \"dtype\": \"float32\"}, "
     "\"shared_object_id\": 1}"},
    {"kernel_initializer", "{\"class_name\": \"RandomUniform\", \"config\": {\"seed\": 7}}",
     "{\"class_name\": \"RandomUniform\", \"config\": {\"minval\": \"-0.05\", \"maxval\": "
     "\"0.05\", \"seed\": \"7\", \"dtype\": null}}"},
    {"kernel_constraint",
     "{\"class_name\": \"MaxNorm\", \"config\": {\"max_value\": \"Infinity\", \"axis\": 0}}",
     "{\"class_name\": \"MaxNorm\", \"config\": {\"max_value\": Infinity, \"axis\": 0}}"},
    {"kernel_constraint",
     "{\"class_name\": \"MinMaxNorm\", \"config\": {\"min_value\": \"-Infinity\", \"max_value\": "
     "\"NaN\", \"axis\": [0, 1]}}",
     "{\"class_name\": \"MinMaxNorm\", \"config\": {\"min_value\":-Infinity, \"max_value\":NaN, "
     "\"axis\": {\"class_name\": \"__tuple__\", \"items\": [0, 1]}}}"},
};

static char *write_with(const char *key, const char *value)
{
    static const char others[] = "\"num_heads\": 4, ";
    char text[1024];
    snprintf(text, sizeof text, "{%s\"key_dim\": 2, \"%s\": %s}",
             strcmp(key, "num_heads") == 0 ? "" : others, key, value);
    struct engine_layer_config config = read_text(text);
    return api_layer_config_write(&config);
}

static void what_python_wrote_is_what_was_meant(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        char *meant = write_with(spellings[i].key, spellings[i].meant);
        char *spelt = write_with(spellings[i].key, spellings[i].spelt);
        if (strcmp(meant, spelt) != 0)
            fail_msg("%s: %s is %s", spellings[i].key, spellings[i].spelt, spelt);
        free(meant);
        free(spelt);
    }
}

static void texts_that_stand_for_nothing_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\"\"",
        "\"x\"",
        "\"(None, 40\"",
        "\"None, 40\"",
        "\"(1 2)\"",
        "\"[1)\"",
        "\"(,)\"",
        "\"f(\"",
        "\"(((((((1)))))))\"",
        "\"[[[[[[\"",
        "\"0x10\"",
        "\" 1\"",
        "\"1 \"",
        "\"(a, b)\"",
        "\"[1.5]\"",
        "{\"class_name\": \"TensorShape\"}",
        "{\"class_name\": \"__tuple__\", \"items\": 3}",
        "[[1]]",
        "[true]",
        "{\"items\": [1]}",
        "{\"class_name\": \"list\", \"items\": [1]}",
        "\"inf\"",
        "\"(inf,)\"",
        "\"99999999999999999999\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char text[256];
        snprintf(text, sizeof text, LAYER(", \"query_shape\": %s"), texts[i]);
        refuses(text, ENGINE_INVALID_ARGUMENT, "query_shape");
    }
    char deep[4096] = LAYER(", \"query_shape\": \"");
    size_t length = strlen(deep) - 1; /* without the last brace */
    memset(deep + length, '(', 3000);
    strcpy(deep + length + 3000, "\"}");
    refuses(deep, ENGINE_INVALID_ARGUMENT, "query_shape");
}

static void output_shapes_that_are_not_given_come_back_as_they_are(void **state)
{
    (void)state;
    static const char *const values[] = {"null", "0", "[]", "5", "[5]", "[5,6]"};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char *text = write_with("output_shape", values[i]), wanted[48];
        snprintf(wanted, sizeof wanted, "\"output_shape\":%s,", values[i]);
        if (strstr(text, wanted) == NULL && strstr(text, "\"output_shape\": ") == NULL)
            fail_msg("%s: %s", values[i], text);
        json_t *back = json_loads(text, 0, NULL),
               *given = json_loads(values[i], JSON_DECODE_ANY, NULL);
        assert_true(json_equal(json_object_get(back, "output_shape"), given));
        json_decref(back);
        json_decref(given);
        free(text);
    }
}

static void a_byte_order_mark_and_long_names_are_read(void **state)
{
    (void)state;
    enum { LONGEST = ENGINE_LAYER_NAME_BYTES - 1 };
    static char text[ENGINE_LAYER_NAME_BYTES + 100];
    assert_int_equal(read_text("\xef\xbb\xbf" LAYER("")).num_heads, 4);
    refuses("\xef\xbb" LAYER(""), ENGINE_INVALID_ARGUMENT, "JSON");
    int head = snprintf(text, sizeof text, LAYER(", \"name\": \""));
    head--;
    for (int length = LONGEST; length <= LONGEST + 1; length++) {
        memset(text + head, 'n', (size_t)length);
        strcpy(text + head + length, "\"}");
        if (length > LONGEST) {
            refuses(text, ENGINE_INVALID_ARGUMENT, "name");
            continue;
        }
        struct engine_layer_config config = read_text(text);
        assert_int_equal(strlen(config.name), LONGEST);
    }
    /* Words that look like numbers stay what they are inside texts. */
    struct engine_layer_config config =
        read_text(LAYER(", \"name\": \"NaN \\\"Infinity \\\\\", \"dropout\": 0"));
    assert_string_equal(config.name, "NaN \"Infinity \\");
    refuses(LAYER(", \"dropout\": NaN"), ENGINE_INVALID_ARGUMENT, "dropout");
    refuses(LAYER(", \"dropout\": Infinityx"), ENGINE_INVALID_ARGUMENT, "JSON");
    refuses(LAYER(", \"num_heads\": Infinity"), ENGINE_INVALID_ARGUMENT, "JSON");
}

/* ---- where the layer is -----------------------------------------------------------------------
 */

#define SERIALIZED(name)                                                                           \
    "{\"module\": \"reuse_attention\", \"class_name\": \"ReuseMultiHeadAttention\", \"config\": "  \
    "{\"num_heads\": 4, \"key_dim\": 2, \"name\": \"" name "\"}, \"registered_name\": "            \
    "\"Package>ReuseMultiHeadAttention\", \"build_config\": {\"input_shape\": [1, 2, 3]}, "        \
    "\"name\": \"" name "\", \"inbound_nodes\": [], \"shared_object_id\": 4}"
#define DENSE "{\"class_name\": \"Dense\", \"config\": {\"name\": \"dense\", \"units\": 3}}"
#define MODEL(name, layers)                                                                        \
    "{\"class_name\": \"Functional\", \"config\": {\"name\": \"" name "\", \"layers\": [" layers   \
    "], \"input_layers\": []}, \"keras_version\": \"2.21.0\", \"backend\": \"tensorflow\"}"
#define WRAPPED(name)                                                                              \
    "{\"class_name\": \"TimeDistributed\", \"config\": {\"name\": \"wrapper\", "                   \
    "\"layer\": " SERIALIZED(name) "}}"
#define BLOCK                                                                                      \
    "{\"class_name\": \"ReuseTransformer\", \"config\": {\"name\": \"block\", "                    \
    "\"num_attention_heads\": 2, \"inner_dim\": 8}}"

static enum engine_code search(const char *text, const char *layer, struct engine_layer_config *ret,
                               struct engine_error *err)
{
    json_t *document = json_loads(text, 0, NULL);
    assert_non_null(document);
    enum engine_code code = api_layer_config_read_document(document, layer, ret, err);
    json_decref(document);
    return code;
}

static void layers_are_found_in_what_keras_writes(void **state)
{
    (void)state;
    static const struct {
        const char *text, *layer, *name;
    } rows[] = {
        {SERIALIZED("attn"), NULL, "attn"},
        {SERIALIZED("attn"), "attn", "attn"},
        {"{\"num_heads\": 4, \"key_dim\": 2, \"name\": \"attn\"}", "attn", "attn"},
        {MODEL("m", DENSE ", " SERIALIZED("attn")), NULL, "attn"},
        {MODEL("m", SERIALIZED("a") ", " SERIALIZED("b")), "b", "b"},
        {MODEL("m", DENSE ", " MODEL("inner", SERIALIZED("a") ", " SERIALIZED("b"))), "a", "a"},
        {MODEL("m", MODEL("x", SERIALIZED("a")) ", " MODEL("y", SERIALIZED("a"))), "y/a", "a"},
        {MODEL("m", MODEL("x", MODEL("y", SERIALIZED("a")))), NULL, "a"},
        {MODEL("m", WRAPPED("a") ", " SERIALIZED("b")), "b", "b"},
        {MODEL("m", BLOCK ", " SERIALIZED("b")), NULL, "b"},
        {"{\"class_name\": \"Sequential\", \"config\": [" DENSE ", " SERIALIZED("attn") "]}", NULL,
         "attn"},
        {"{\"name\": \"m\", \"layers\": [" SERIALIZED("attn") "], \"input_layers\": []}", NULL,
         "attn"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct engine_layer_config config;
        struct engine_error err = {0};
        if (search(rows[i].text, rows[i].layer, &config, &err) != ENGINE_OK)
            fail_msg("row %zu: %s", i, err.message);
        assert_string_equal(config.name, rows[i].name);
    }
}

static void layers_that_cannot_be_chosen_are_told(void **state)
{
    (void)state;
    enum engine_code wrong = ENGINE_INVALID_ARGUMENT, unsupported = ENGINE_UNSUPPORTED;
    const struct {
        const char *text, *layer;
        enum engine_code code;
        const char *part;
    } rows[] = {
        {MODEL("m", SERIALIZED("a") ", " SERIALIZED("b")), NULL, wrong, "layers: a, b; \"layer\""},
        {MODEL("m", MODEL("x", SERIALIZED("a")) ", " SERIALIZED("a")), "a", wrong, "x/a, a"},
        {MODEL("m", SERIALIZED("a") ", " SERIALIZED("b")), "c", wrong, "served are a, b"},
        {SERIALIZED("a"), "b", wrong, "layer is b"},
        {"{\"num_heads\": 4, \"key_dim\": 2, \"name\": \"a\"}", "b", wrong, "layer is b"},
        {MODEL("m", DENSE), NULL, unsupported, "no ReuseMultiHeadAttention"},
        {DENSE, NULL, unsupported, "Dense"},
        {WRAPPED("attn"), NULL, unsupported, "layer attn is wrapped in TimeDistributed"},
        {MODEL("m", WRAPPED("a") ", " SERIALIZED("b")), "a", unsupported, "TimeDistributed"},
        {MODEL("m", WRAPPED("a") ", " SERIALIZED("b")), NULL, wrong, "several"},
        {BLOCK, NULL, unsupported, "block is a ReuseTransformer"},
        {MODEL("m", BLOCK), NULL, unsupported, "_attention_layer"},
        {"{\"num_attention_heads\": 2, \"inner_dim\": 8}", NULL, unsupported, "_attention_layer"},
        {"{\"class_name\": \"ReuseMultiHeadAttention\"}", NULL, wrong, "config"},
        {"{\"class_name\": \"ReuseMultiHeadAttention\", \"config\": 3}", NULL, wrong, "config"},
        {"{\"config\": {}}", NULL, unsupported, "missing"},
        {"{\"class_name\": \"Sequential\", \"config\": []}", NULL, unsupported, "holds no"},
        {"[]", NULL, wrong, "object"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct engine_layer_config config;
        struct engine_error err = {0};
        enum engine_code code = search(rows[i].text, rows[i].layer, &config, &err);
        if (code != rows[i].code || strstr(err.message, rows[i].part) == NULL)
            fail_msg("row %zu: %s: %s", i, engine_error_name(code), err.message);
    }
}

/* Of models inside models as deep as a document can nest, and of names as long as can be. */
static void hostile_models_are_refused(void **state)
{
    (void)state;
    enum { DEPTH = 300, LONG = 3000 };
    static const char open[] = "{\"class_name\": \"M\", \"config\": {\"layers\": [";
    static char text[DEPTH * (sizeof open + 4) + 1];
    struct engine_layer_config config;
    struct engine_error err = {0};
    text[0] = '\0';
    for (int i = 0; i < DEPTH; i++)
        strcat(text, open);
    for (int i = 0; i < DEPTH; i++)
        strcat(text, "]}}");
    assert_int_equal(search(text, NULL, &config, &err), ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "deep"));

    char *name = malloc(LONG + 1), *wide = malloc(20 * LONG);
    assert_true(name != NULL && wide != NULL);
    memset(name, 'n', LONG);
    name[LONG] = '\0';
    sprintf(wide,
            "{\"config\": {\"layers\": [{\"config\": {\"name\": \"%s\", \"layers\": [{\"config\": "
            "{\"name\": \"%s\", \"layers\": [" SERIALIZED("a") ", " SERIALIZED("a") "]}}]}}]}}",
            name, name);
    err = (struct engine_error){0};
    assert_int_equal(search(wide, NULL, &config, &err), ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "several"));
    free(name);
    free(wide);
}

static void mistakes_name_the_key(void **state)
{
    (void)state;
    enum engine_code wrong = ENGINE_INVALID_ARGUMENT;
    refuses("[]", wrong, "object");
    refuses("{\"num_heads\": 4", wrong, "JSON");
    refuses("{\"num_heads\": 4, \"num_heads\": 4, \"key_dim\": 2}", wrong, "JSON");
    refuses("{\"key_dim\": 2}", wrong, "num_heads");
    refuses(LAYER(", \"heads\": 3"), wrong, "heads");
    refuses(LAYER(", \"use_bias\": 2"), wrong, "use_bias");
    refuses(LAYER(", \"value_dim\": 1.5"), wrong, "value_dim");
    refuses(LAYER(", \"dropout\": 1.5"), wrong, "dropout");
    refuses(LAYER(", \"reuse_attention\": 5"), wrong, "reuse_attention");
    refuses(LAYER(", \"attention_axes\": []"), wrong, "attention_axes");
    refuses(LAYER(", \"attention_axes\": [1, 1]"), wrong, "axes");
    refuses(LAYER(", \"output_shape\": [1,1,1,1,1,1,1,1,1]"), wrong, "output_shape");
    refuses(LAYER(", \"dtype\": \"float16\""), ENGINE_UNSUPPORTED, "float16");
    refuses("{\"class_name\": \"Dense\", \"config\": {}}", ENGINE_UNSUPPORTED, "Dense");
}

static void mistakes_inside_objects_name_the_key(void **state)
{
    (void)state;
    enum engine_code wrong = ENGINE_INVALID_ARGUMENT;
    refuses(LAYER(", \"kernel_initializer\": \"he_norm\""), wrong, "kernel_initializer");
    refuses(LAYER(", \"kernel_initializer\": {\"class_name\": \"Zeros\", \"confg\": {}}"), wrong,
            "confg");
    refuses(LAYER(", \"kernel_initializer\": {\"class_name\": \"Zeros\", \"config\": 3}"), wrong,
            "config");
    refuses(LAYER(", \"kernel_initializer\": {\"class_name\": \"HeNormal\", \"config\": "
                  "{\"gain\": 1}}"),
            wrong, "gain");
    refuses(LAYER(", \"bias_regularizer\": {\"class_name\": \"L1\", \"config\": {\"l2\": 1}}"),
            wrong, "l2");
    refuses(LAYER(", \"bias_constraint\": {\"class_name\": \"NonNeg\", \"config\": {\"axis\": 0}}"),
            wrong, "axis");
    refuses(LAYER(", \"bias_constraint\": {\"class_name\": \"NonNeg\", \"extra\": 0}"), wrong,
            "extra");
}

/* ---- short memory ----------------------------------------------------------------------- */

/* One allocation fails, those after it succeed: a gap would go unnoticed otherwise. */
static long allocations_left = -1; /* before the one that fails; -1: none fails any more */

static void *failing_malloc(size_t size)
{
    if (allocations_left < 0)
        return malloc(size);
    return allocations_left-- == 0 ? NULL : malloc(size);
}

static void a_writer_short_of_memory_writes_nothing(void **state)
{
    (void)state;
    struct engine_layer_config config = read_text(
        LAYER(", \"attention_axes\": [1, 2], \"output_shape\": [2, 3], \"query_shape\": [null, 2, "
              "3, 4], \"kernel_constraint\": {\"class_name\": \"MinMaxNorm\", \"config\": "
              "{\"axis\": [0, 1]}}, \"kernel_regularizer\": \"l1_l2\", \"bias_initializer\": "
              "\"random_uniform\", \"dtype\": \"mixed_bfloat16\""));
    char *whole = api_layer_config_write(&config);
    int failures = 0;
    assert_non_null(whole);
    json_set_alloc_funcs(failing_malloc, free);
    for (long n = 0;; n++) {
        allocations_left = n;
        char *text = api_layer_config_write(&config);
        bool complete = allocations_left >= 0;
        if (text != NULL && strcmp(text, whole) != 0)
            fail_msg("after %ld allocations: %s", n, text);
        failures += text == NULL;
        free(text);
        if (complete)
            break;
    }
    json_set_alloc_funcs(malloc, free);
    free(whole);
    print_message("%d allocations failed in turn\n", failures);
    assert_true(failures > 100);
}

/* Whatever allocation fails, what is read is the whole configuration or an error that says so. */
static void a_reader_short_of_memory_says_so(void **state)
{
    (void)state;
    static const char text[] =
        LAYER(", \"query_shape\": \"(None, Dimension(3), 4)\", \"attention_axes\": \"(1, 2)\", "
              "\"dropout\": \"0.5\", \"value_shape\": {\"class_name\": \"TensorShape\", \"items\": "
              "[\"2\", 3]}, \"kernel_constraint\": {\"class_name\": \"MaxNorm\", \"config\": "
              "{\"max_value\": Infinity, \"axis\": {\"class_name\": \"__tuple__\", \"items\": [0, "
              "1]}}}, \"output_shape\": \"7\"");
    static const char plain[] = LAYER(
        ", \"query_shape\": \"(None, 3, 4)\", \"attention_axes\": [1, 2], \"dropout\": 0.5, "
        "\"value_shape\": [2, 3], \"output_shape\": 7, \"kernel_constraint\": "
        "{\"class_name\": \"MaxNorm\", \"config\": {\"max_value\": \"Infinity\", \"axis\": [0, "
        "1]}}");
    struct engine_layer_config wanted = read_text(plain);
    char *whole = api_layer_config_write(&wanted);
    struct engine_error none = {0};
    json_t *document = NULL;
    int failures = 0;
    assert_int_equal(api_python_json_load("a text", text, strlen(text), &document, &none),
                     ENGINE_OK);
    for (long n = 0; n >= 0;) {
        struct engine_layer_config config;
        struct engine_error err = {0};
        json_set_alloc_funcs(failing_malloc, free);
        allocations_left = n;
        enum engine_code code = api_layer_config_read_document(document, NULL, &config, &err);
        n = allocations_left >= 0 ? -1 : n + 1;
        allocations_left = -1;
        json_set_alloc_funcs(malloc, free);
        if (code == ENGINE_OUT_OF_MEMORY) {
            failures++;
            continue;
        }
        if (code != ENGINE_OK)
            fail_msg("after %ld allocations: %s", n, err.message);
        char *written = api_layer_config_write(&config);
        assert_string_equal(written, whole);
        free(written);
    }
    json_decref(document);
    free(whole);
    print_message("%d allocations failed in turn\n", failures);
    assert_true(failures > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configurations_of_keras_come_back_equal),
        cmocka_unit_test(every_golden_layer_comes_back_equal),
        cmocka_unit_test(all_spellings_of_an_initializer_are_one),
        cmocka_unit_test(spellings_of_the_rest_are_read),
        cmocka_unit_test(what_python_wrote_is_what_was_meant),
        cmocka_unit_test(texts_that_stand_for_nothing_are_refused),
        cmocka_unit_test(output_shapes_that_are_not_given_come_back_as_they_are),
        cmocka_unit_test(a_byte_order_mark_and_long_names_are_read),
        cmocka_unit_test(layers_are_found_in_what_keras_writes),
        cmocka_unit_test(layers_that_cannot_be_chosen_are_told),
        cmocka_unit_test(hostile_models_are_refused),
        cmocka_unit_test(mistakes_name_the_key),
        cmocka_unit_test(mistakes_inside_objects_name_the_key),
        cmocka_unit_test(a_reader_short_of_memory_says_so),
        cmocka_unit_test(a_writer_short_of_memory_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
