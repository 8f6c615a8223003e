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

static void mistakes_name_the_key(void **state)
{
    (void)state;
    enum engine_code wrong = ENGINE_INVALID_ARGUMENT;
    refuses("[]", wrong, "object");
    refuses("{\"num_heads\": 4", wrong, "JSON");
    refuses("{\"num_heads\": 4, \"num_heads\": 4, \"key_dim\": 2}", wrong, "JSON");
    refuses("{\"key_dim\": 2}", wrong, "num_heads");
    refuses(LAYER(", \"heads\": 3"), wrong, "heads");
    refuses(LAYER(", \"use_bias\": 1"), wrong, "use_bias");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configurations_of_keras_come_back_equal),
        cmocka_unit_test(every_golden_layer_comes_back_equal),
        cmocka_unit_test(all_spellings_of_an_initializer_are_one),
        cmocka_unit_test(spellings_of_the_rest_are_read),
        cmocka_unit_test(mistakes_name_the_key),
        cmocka_unit_test(mistakes_inside_objects_name_the_key),
        cmocka_unit_test(a_writer_short_of_memory_writes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
