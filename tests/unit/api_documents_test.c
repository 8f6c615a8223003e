/* api_documents_test.c - do the documents hold the keys and values that clients read, are they
 * whole or absent when memory is short, and are bodies of control routes read as they are sent? */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "api/documents.h"

struct fixture {
    struct engine *engine;
    struct engine_model *plain, *reuse;
    struct api_model_settings settings;
};

/* The model's input width is 4; with axes it takes rank 4 and returns [3, 2] in the last place. */
static struct engine_model *make_model(struct engine *engine, bool reuse)
{
    struct engine_error err = {0};
    struct engine_layer_config config;
    struct engine_model *model = NULL;
    engine_layer_defaults(&config);
    config.num_heads = 2;
    config.key_dim = 3;
    config.query_shape = config.value_shape =
        (struct engine_layer_shape){.rank = reuse ? 4 : 3, .shape = {-1, -1, -1, -1}};
    config.query_shape.shape[reuse ? 3 : 2] = config.value_shape.shape[reuse ? 3 : 2] = 4;
    if (reuse) {
        config.reuse_attention = 1;
        config.axes_rank = 2;
        config.attention_axes[0] = 1;
        config.attention_axes[1] = 2;
        config.output_rank = 2;
        config.output_is_list = true;
        config.output_shape[0] = 3;
        config.output_shape[1] = 2;
        config.kernel_regularizer.kind = ENGINE_REGULARIZER_L2;
        config.kernel_regularizer.l2 = 0.5;
    }
    struct engine_model_source source = {.config = &config, .initialize = true, .seed = 7};
    if (engine_model_create(engine, &source, &model, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    return model;
}

static int open_fixture(void **state)
{
    static struct fixture fixture;
    struct engine_error err = {0};
    struct engine_options options = {.threads = 1, .memory_budget_bytes = (size_t)1 << 30};
    assert_int_equal(engine_open(&options, &fixture.engine, &err), ENGINE_OK);
    fixture.plain = make_model(fixture.engine, false);
    fixture.reuse = make_model(fixture.engine, true);
    *state = &fixture;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *fixture = *state;
    engine_model_release(fixture->plain);
    engine_model_release(fixture->reuse);
    engine_close(fixture->engine);
    return 0;
}

static const char *const versions[] = {"1", "3"};
static const struct api_statistics statistics = {.last_inference_ms = 1700000000123,
                                                 .inference_count = 8,
                                                 .execution_count = 2,
                                                 .success = {2, 500},
                                                 .queue = {2, 30}};

static struct api_model_view view_of(struct fixture *fixture, struct engine_model *model)
{
    return (struct api_model_view){.name = "m",
                                   .version = "3",
                                   .state = API_MODEL_READY,
                                   .model = model,
                                   .settings = &fixture->settings,
                                   .statistics = &statistics,
                                   .versions = versions,
                                   .versions_count = 2};
}

static const struct api_model_view broken = {
    .name = "n", .version = "", .state = API_MODEL_UNAVAILABLE, .reason = "no weights"};

/* Takes text. */
static json_t *parse(char *text)
{
    assert_non_null(text);
    json_t *root = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (root == NULL)
        fail_msg("not JSON: %s", text);
    free(text);
    return root;
}

/* Takes text. JSON values equal, "expected" written with any order of keys. */
static void is(char *text, const char *expected)
{
    json_t *root = parse(text), *wanted = json_loads(expected, JSON_DECODE_ANY, NULL);
    char *got = json_dumps(root, JSON_COMPACT | JSON_ENCODE_ANY);
    assert_non_null(wanted);
    if (json_equal(root, wanted) != 1)
        fail_msg("%s\nis not\n%s", got, expected);
    free(got);
    json_decref(wanted);
    json_decref(root);
}

static const json_t *at(const json_t *root, const char *key)
{
    const json_t *ret = json_object_get(root, key);
    if (ret == NULL)
        fail_msg("key %s is missing", key);
    return ret;
}

static void at_is(const json_t *root, const char *key, const char *expected)
{
    is(json_dumps(at(root, key), JSON_ENCODE_ANY), expected);
}

/* ---- server and models ------------------------------------------------------------------ */

static void the_server_lists_exactly_what_it_implements(void **state)
{
    (void)state;
    is(api_document_server("0.1.0", true),
       "{\"name\":\"attnd\",\"version\":\"0.1.0\",\"extensions\":[\"model_repository\","
       "\"model_repository(unload_dependents)\",\"model_configuration\",\"binary_tensor_data\","
       "\"parameters\",\"statistics\",\"schedule_policy\",\"logging\"]}");
    json_t *root = parse(api_document_server("0.1.0", false));
    assert_int_equal(json_array_size(at(root, "extensions")), 6);
    json_decref(root);
}

static void probes_carry_json(void **state)
{
    (void)state;
    is(api_document_live(), "{\"live\":true}");
    is(api_document_ready(true), "{\"live\":true,\"ready\":true}");
    is(api_document_model_ready("m", true), "{\"name\":\"m\",\"ready\":true}");
    json_t *root = parse(api_document_ready(false));
    at_is(root, "ready", "false");
    assert_true(json_is_string(at(root, "error")));
    json_decref(root);
    root = parse(api_document_model_ready("m", false));
    at_is(root, "ready", "false");
    assert_true(json_is_string(at(root, "error")));
    json_decref(root);
}

static void metadata_names_every_tensor_and_its_shape(void **state)
{
    struct fixture *fixture = *state;
    struct api_model_view view = view_of(fixture, fixture->plain);
    is(api_document_model(&view),
       "{\"name\":\"m\",\"versions\":[\"1\",\"3\"],\"platform\":\"attnd\",\"inputs\":["
       "{\"name\":\"query\",\"datatype\":\"FP32\",\"shape\":[-1,-1,4]},"
       "{\"name\":\"value\",\"datatype\":\"FP32\",\"shape\":[-1,-1,4]},"
       "{\"name\":\"key\",\"datatype\":\"FP32\",\"shape\":[-1,-1,4]},"
       "{\"name\":\"attention_mask\",\"datatype\":\"BOOL\",\"shape\":[-1,-1,-1]}],\"outputs\":["
       "{\"name\":\"attention_output\",\"datatype\":\"FP32\",\"shape\":[-1,-1,4]},"
       "{\"name\":\"attention_scores\",\"datatype\":\"FP32\",\"shape\":[-1,2,-1,-1]}]}");
}

static void metadata_follows_axes_and_reuse(void **state)
{
    struct fixture *fixture = *state;
    struct api_model_view view = view_of(fixture, fixture->reuse);
    json_t *root = parse(api_document_model(&view));
    const json_t *inputs = at(root, "inputs"), *outputs = at(root, "outputs");
    assert_int_equal(json_array_size(inputs), 5);
    at_is(json_array_get(inputs, 0), "shape", "[-1,-1,-1,4]");
    at_is(json_array_get(inputs, 4), "name", "\"reuse_attention_scores\"");
    at_is(json_array_get(inputs, 4), "shape", "[-1,-1,-1,-1,-1,-1]");
    at_is(json_array_get(outputs, 0), "shape", "[-1,-1,-1,3,2]");
    at_is(json_array_get(outputs, 1), "shape", "[-1,2,-1,-1,-1,-1]");
    json_decref(root);
}

static void the_configuration_holds_the_layer_and_what_follows(void **state)
{
    struct fixture *fixture = *state;
    struct api_model_view view = view_of(fixture, fixture->reuse);
    json_t *root = parse(api_document_config(fixture->engine, &view));
    const json_t *inputs = at(root, "input");
    at_is(root, "name", "\"m\"");
    at_is(root, "platform", "\"attnd\"");
    at_is(root, "backend", "\"attnd\"");
    at_is(root, "max_batch_size", "0");
    at_is(root, "version_policy", "{\"latest\":{\"num_versions\":1}}");
    is(json_dumps(json_array_get(inputs, 1), 0),
       "{\"name\":\"value\",\"data_type\":\"TYPE_FP32\",\"dims\":[-1,-1,-1,4],\"optional\":true}");
    at_is(json_array_get(inputs, 0), "optional", "false");
    at_is(json_array_get(inputs, 3), "data_type", "\"TYPE_BOOL\"");
    at_is(json_array_get(inputs, 4), "optional", "false");
    at_is(at(root, "layer"), "reuse_attention", "1");
    at_is(at(root, "layer"), "key_shape", "[null,null,null,4]");
    at_is(root, "precision", "\"f32\"");
    assert_true(json_real_value(at(root, "regularization_loss")) > 0);
    at_is(root, "kernel_constraint_satisfied", "true");
    assert_true(json_string_length(at(root, "kernel")) > 0);
    json_decref(root);
}

static void statistics_are_numbers_of_ready_versions(void **state)
{
    struct fixture *fixture = *state;
    const struct api_model_view views[] = {view_of(fixture, fixture->plain), broken};
    json_t *root = parse(api_document_stats(views, 2));
    const json_t *list = at(root, "model_stats"), *one = json_array_get(list, 0);
    assert_int_equal(json_array_size(list), 1);
    at_is(one, "version", "\"3\"");
    at_is(one, "last_inference", "1700000000123");
    at_is(one, "inference_count", "8");
    at_is(one, "execution_count", "2");
    at_is(at(one, "inference_stats"), "success", "{\"count\":2,\"ns\":500}");
    at_is(at(one, "inference_stats"), "queue", "{\"count\":2,\"ns\":30}");
    at_is(at(one, "inference_stats"), "cache_hit", "{\"count\":0,\"ns\":0}");
    at_is(one, "batch_stats", "[]");
    json_decref(root);
}

static void lists_name_each_model_and_the_index_its_state(void **state)
{
    struct fixture *fixture = *state;
    struct api_model_view first = view_of(fixture, fixture->plain);
    first.version = "1";
    const struct api_model_view views[] = {first, view_of(fixture, fixture->plain), broken};
    is(api_document_models(views, 3), "{\"models\":[\"m\",\"n\"]}");
    is(api_document_tf_models(views, 3), "{\"models\":[\"m\",\"n\"]}");
    is(api_document_index(views + 1, 2),
       "[{\"name\":\"m\",\"version\":\"3\",\"state\":\"READY\",\"reason\":\"\"},"
       "{\"name\":\"n\",\"version\":\"\",\"state\":\"UNAVAILABLE\",\"reason\":\"no weights\"}]");
    is(api_document_index(NULL, 0), "[]");
}

/* ---- TensorFlow Serving ----------------------------------------------------------------- */

static void status_serves_tensorflow_serving_and_kserve_at_once(void **state)
{
    struct fixture *fixture = *state;
    struct api_model_view view = view_of(fixture, fixture->plain);
    is(api_document_tf_status(&view, 1),
       "{\"name\":\"m\",\"ready\":true,\"model_version_status\":[{\"version\":\"3\",\"state\":"
       "\"AVAILABLE\",\"status\":{\"error_code\":\"OK\",\"error_message\":\"\"}}]}");
    json_t *root = parse(api_document_tf_status(&broken, 1));
    const json_t *one = json_array_get(at(root, "model_version_status"), 0);
    at_is(root, "ready", "false");
    at_is(one, "state", "\"END\"");
    at_is(at(one, "status"), "error_message", "\"no weights\"");
    json_decref(root);
}

static void metadata_of_tensorflow_serving_is_nested_twice(void **state)
{
    struct fixture *fixture = *state;
    struct api_model_view view = view_of(fixture, fixture->plain);
    json_t *root = parse(api_document_tf_metadata(&view));
    const json_t *all = at(at(at(root, "metadata"), "signature_def"), "signature_def");
    const json_t *plain = at(all, "serving_default"), *both = at(all, "with_scores");
    at_is(root, "model_spec", "{\"name\":\"m\",\"signature_name\":\"\",\"version\":\"3\"}");
    assert_int_equal(json_object_size(at(plain, "outputs")), 1);
    assert_int_equal(json_object_size(at(both, "outputs")), 2);
    at_is(at(plain, "inputs"), "query",
          "{\"dtype\":\"DT_FLOAT\",\"tensor_shape\":{\"dim\":[{\"size\":\"-1\",\"name\":\"\"},"
          "{\"size\":\"-1\",\"name\":\"\"},{\"size\":\"4\",\"name\":\"\"}],\"unknown_rank\":false},"
          "\"name\":\"query:0\"}");
    at_is(at(at(plain, "inputs"), "attention_mask"), "dtype", "\"DT_BOOL\"");
    at_is(plain, "method_name", "\"tensorflow/serving/predict\"");
    json_decref(root);
}

/* ---- bodies ----------------------------------------------------------------------------- */

#define TEXT(text) text, sizeof(text) - 1

static void the_index_body_may_be_empty_or_filter(void **state)
{
    struct engine_error err = {0};
    struct api_load_request load = {0};
    bool ready = true;
    (void)state;
    assert_int_equal(api_document_index_read(NULL, 0, &ready, &err), ENGINE_OK);
    ready = true;
    assert_int_equal(api_document_index_read(TEXT("{}"), &ready, &err), ENGINE_OK);
    assert_false(ready);
    assert_int_equal(api_document_index_read(TEXT(" {\"ready\":true}\n"), &ready, &err), ENGINE_OK);
    assert_true(ready);
    assert_int_equal(api_document_index_read(TEXT("{\"ready\":null}"), &ready, &err), ENGINE_OK);
    assert_false(ready); /* null is left out */
    assert_int_equal(api_document_load_read(TEXT("{\"parameters\":null}"), &load, &err), ENGINE_OK);
    assert_int_equal(
        api_document_load_read(TEXT("{\"parameters\":{\"config\":null}}"), &load, &err), ENGINE_OK);
    assert_null(load.config);
    api_load_request_reset(&load);
    assert_int_equal(api_document_unload_read(TEXT("{\"parameters\":null}"), &err), ENGINE_OK);
    assert_int_equal(api_document_index_read("{}{}", 2, &ready, &err), ENGINE_OK);
    assert_int_equal(api_document_index_read(TEXT("[]"), &ready, &err), ENGINE_INVALID_ARGUMENT);
    engine_error_clear(&err);
    assert_int_equal(api_document_index_read(TEXT("{\"ready\":1}"), &ready, &err),
                     ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "ready"));
}

static void a_load_keeps_configuration_files_and_their_versions(void **state)
{
    struct engine_error err = {0};
    struct api_load_request load = {0};
    (void)state;
    assert_int_equal(api_document_load_read(NULL, 0, &load, &err), ENGINE_OK);
    assert_null(load.config);
    assert_int_equal(api_document_load_read(TEXT("{\"parameters\":{\"config\":\"{}\","
                                                 "\"file:2/w.bin\":\"AAEC/w==\","
                                                 "\"file:..data\":\"\"}}"),
                                            &load, &err),
                     ENGINE_OK);
    assert_string_equal(load.config, "{}");
    assert_int_equal(load.files_count, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct api_model_file *file = &load.files[i];
        bool empty = strcmp(file->name, "..data") == 0;
        if (!empty)
            assert_string_equal(file->name,
                                "2/w.bin"); /* the version is the repository's to read */
        assert_int_equal(file->size, empty ? 0 : 4);
        assert_memory_equal(file->bytes, "\0\1\2\377", file->size);
    }
    api_load_request_reset(&load);
    assert_int_equal(load.files_count, 0);
}

static void wrong_loads_name_the_parameter(void **state)
{
    static const char *const cases[][2] = {
        {"{\"parameters\":{\"config\":3}}", "config"},
        {"{\"parameters\":{\"colour\":\"red\"}}", "colour"},
        {"{\"parameters\":[]}", "parameters"},
        {"{\"parameters\":{\"file:1/w\":\"AAEC\"}}", "config"},
        {"{\"parameters\":{\"config\":\"{}\",\"file:1/w\":\"A*==\"}}", "file:1/w"},
        {"{\"parameters\":{\"config\":\"{}\",\"file:1/w\":\"AAE\"}}", "file:1/w"},
        {"{\"parameters\":{\"config\":\"{}\",\"file:1/w\":7}}", "file:1/w"},
        {"{\"parameters\":{\"config\":\"{}\",\"file:1/../w\":\"\"}}", "file:1/../w"},
        {"{\"parameters\":{\"config\":\"{}\",\"file:../w\":\"\"}}", "file:../w"},
        {"{\"parameters\":{\"config\":\"{}\",\"file:1/..\":\"\"}}", "file:1/.."},
        {"{\"parameters\":{\"config\":\"{}\",\"file:/w\":\"\"}}", "file:/w"},
        {"{\"parameters\":{\"config\":\"{}\",\"file:\":\"\"}}", "file:"},
        {"{\"parameters\":", "JSON"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct engine_error err = {0};
        struct api_load_request load = {0};
        if (api_document_load_read(cases[i][0], strlen(cases[i][0]), &load, &err) !=
                ENGINE_INVALID_ARGUMENT ||
            strstr(err.message, cases[i][1]) == NULL)
            fail_msg("%s: %s", cases[i][0], err.message);
    }
}

static void an_unload_takes_unload_dependents_and_nothing_else(void **state)
{
    struct engine_error err = {0};
    (void)state;
    assert_int_equal(api_document_unload_read(NULL, 0, &err), ENGINE_OK);
    assert_int_equal(
        api_document_unload_read(TEXT("{\"parameters\":{\"unload_dependents\":false}}"), &err),
        ENGINE_OK);
    assert_int_equal(api_document_unload_read(TEXT("{\"parameters\":{\"force\":true}}"), &err),
                     ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "force"));
    engine_error_clear(&err);
    assert_int_equal(api_document_unload_read(TEXT("{\"parameters\":[]}"), &err),
                     ENGINE_INVALID_ARGUMENT);
}

static void settings_of_the_log_are_all_set_or_none(void **state)
{
    struct engine_error err = {0};
    struct api_logging logging = {.info = true, .error = true};
    (void)state;
    assert_int_equal(
        api_document_logging_read(TEXT("{\"log_info\":false,\"log_verbose_level\":2,\"log_format\":"
                                       "\"ISO8601\"}"),
                                  &logging, &err),
        ENGINE_OK);
    is(api_document_logging(&logging),
       "{\"log_file\":\"\",\"log_info\":false,\"log_warning\":false,\"log_error\":true,"
       "\"log_verbose_level\":2,\"log_format\":\"ISO8601\"}");
    assert_int_equal(
        api_document_logging_read(TEXT("{\"log_info\":true,\"log_file\":\"/x\"}"), &logging, &err),
        ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "log_file"));
    assert_false(logging.info);
}

/* ---- the API's description -------------------------------------------------------------- */

static void the_description_covers_every_route(void **state)
{
#define V "/versions/{version}"
    static const char *const routes[][2] = {
        {"get", "/"},
        {"get", "/metrics"},
        {"get", "/openapi.json"},
        {"get", "/v2"},
        {"get", "/v2/health/live"},
        {"get", "/v2/health/ready"},
        {"get", "/v2/models"},
        {"get", "/v2/models/stats"},
        {"get", "/v2/models/{model}"},
        {"get", "/v2/models/{model}" V},
        {"get", "/v2/models/{model}/ready"},
        {"get", "/v2/models/{model}" V "/ready"},
        {"get", "/v2/models/{model}/config"},
        {"get", "/v2/models/{model}" V "/config"},
        {"get", "/v2/models/{model}/stats"},
        {"get", "/v2/models/{model}" V "/stats"},
        {"post", "/v2/models/{model}/infer"},
        {"post", "/v2/models/{model}" V "/infer"},
        {"post", "/v2/repository/index"},
        {"post", "/v2/repository/models/{model}/load"},
        {"post", "/v2/repository/models/{model}/unload"},
        {"get", "/v2/logging"},
        {"post", "/v2/logging"},
        {"get", "/v1/models"},
        {"post", "/v1/models/{model}:predict"},
        {"post", "/v1/models/{model}" V ":predict"},
        {"get", "/v1/models/{model}"},
        {"get", "/v1/models/{model}" V},
        {"get", "/v1/models/{model}/metadata"},
        {"get", "/v1/models/{model}" V "/metadata"},
    };
#undef V
    size_t size = 0;
    (void)state;
    const char *text = api_document_openapi(&size);
    assert_int_equal(strlen(text), size);
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    at_is(root, "openapi", "\"3.1.0\"");
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const json_t *path = json_object_get(at(root, "paths"), routes[i][1]);
        if (json_object_get(path, routes[i][0]) == NULL)
            fail_msg("%s %s is not described", routes[i][0], routes[i][1]);
    }
    json_decref(root);
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

static char *write_document(struct fixture *fixture, int i)
{
    const struct api_model_view views[] = {view_of(fixture, fixture->reuse), broken};
    const struct api_logging logging = {.info = true};
    switch (i) {
    case 0:
        return api_document_server("0.1.0", true);
    case 1:
        return api_document_model(views);
    case 2:
        return api_document_config(fixture->engine, views);
    case 3:
        return api_document_stats(views, 2);
    case 4:
        return api_document_models(views, 2);
    case 5:
        return api_document_index(views, 2);
    case 6:
        return api_document_tf_status(views, 2);
    case 7:
        return api_document_tf_metadata(views);
    case 8:
        return api_document_model_ready("m", true);
    default:
        return api_document_logging(&logging);
    }
}

static void documents_are_whole_or_absent_when_memory_is_short(void **state)
{
    int failures = 0;
    json_set_alloc_funcs(failing_malloc, free);
    for (int i = 0; i < 10; i++) {
        char *whole = write_document(*state, i);
        bool complete = false;
        assert_non_null(whole);
        for (long n = 0; !complete; n++) {
            allocations_left = n;
            char *text = write_document(*state, i);
            complete = allocations_left >= 0;
            allocations_left = -1;
            if (text != NULL && strcmp(text, whole) != 0)
                fail_msg("document %d after %ld allocations: %s", i, n, text);
            failures += !complete;
            free(text);
        }
        free(whole);
    }
    json_set_alloc_funcs(malloc, free);
    print_message("%d allocations failed in turn\n", failures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_server_lists_exactly_what_it_implements),
        cmocka_unit_test(probes_carry_json),
        cmocka_unit_test(metadata_names_every_tensor_and_its_shape),
        cmocka_unit_test(metadata_follows_axes_and_reuse),
        cmocka_unit_test(the_configuration_holds_the_layer_and_what_follows),
        cmocka_unit_test(statistics_are_numbers_of_ready_versions),
        cmocka_unit_test(lists_name_each_model_and_the_index_its_state),
        cmocka_unit_test(status_serves_tensorflow_serving_and_kserve_at_once),
        cmocka_unit_test(metadata_of_tensorflow_serving_is_nested_twice),
        cmocka_unit_test(the_index_body_may_be_empty_or_filter),
        cmocka_unit_test(a_load_keeps_configuration_files_and_their_versions),
        cmocka_unit_test(wrong_loads_name_the_parameter),
        cmocka_unit_test(an_unload_takes_unload_dependents_and_nothing_else),
        cmocka_unit_test(settings_of_the_log_are_all_set_or_none),
        cmocka_unit_test(the_description_covers_every_route),
        cmocka_unit_test(documents_are_whole_or_absent_when_memory_is_short),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
