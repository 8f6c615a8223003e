/* Tensors written as JSON: nesting, truth values, NaN and infinities both ways, null, float64, and
 * what the answer says of precision and seed. */
#include "tests/unit/api_support.h"

#include <math.h>

#define QUERY(shape, data)                                                                         \
    "{\"inputs\":[{\"name\":\"query\",\"shape\":" shape ",\"datatype\":\"FP32\",\"data\":" data    \
    "}]}"
/* The same with the type and shape told after the data. */
#define LATE(shape, data)                                                                          \
    "{\"inputs\":[{\"name\":\"query\",\"data\":" data ",\"datatype\":\"FP32\",\"shape\":" shape    \
    "}]}"
#define MASK(type, data)                                                                           \
    "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,2,2],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}" \
    ",{\"name\":\"attention_mask\",\"shape\":[1,2,2]," type "\"data\":" data "}]}"

static void takes(struct fixture *fixture, const char *body, const float *values, size_t count)
{
    for (size_t piece = 1; piece <= strlen(body); piece += 6) {
        struct api_request_head head = head_of(fixture, strlen(body));
        struct api_infer_request *request = accept(&head, body, strlen(body), piece);
        assert_memory_equal(request->call.inputs[ENGINE_QUERY].data, values,
                            count * sizeof *values);
        api_infer_request_destroy(request);
    }
}

/* Every way to cut the dimensions into consecutive groups is one way to nest. */
static void lists_are_as_long_as_products_of_consecutive_dimensions(void **state)
{
    static const float values[] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const char *const good[] = {
        QUERY("[2,2,2]", "[1,2,3,4,5,6,7,8]"),
        QUERY("[2,2,2]", "[[1,2,3,4],[5,6,7,8]]"),
        QUERY("[2,2,2]", "[[1,2],[3,4],[5,6],[7,8]]"),
        QUERY("[2,2,2]", "[[[1,2],[3,4]],[[5,6],[7,8]]]"),
        QUERY("[1,4,2]", "[[[1,2],[3,4],[5,6],[7,8]]]"),
        QUERY("[1,4,2]", "[[1,2],[3,4],[5,6],[7,8]]"),
        QUERY("[1,4,2]", "[[1,2,3,4,5,6,7,8]]"),
        QUERY("[4,1,2]", "[[[1,2]],[[3,4]],[[5,6]],[[7,8]]]"),
        QUERY("[4,1,2]", "[[1,2],[3,4],[5,6],[7,8]]"),
        LATE("[2,2,2]", "[[1,2,3,4],[5,6,7,8]]"),
    };
    static const char *const bad[] = {
        QUERY("[2,2,2]", "[[1,2,3,4,5,6,7,8]]"),
        QUERY("[2,2,2]", "[[[1,2,3,4],[5,6,7,8]]]"),
        QUERY("[2,2,2]", "[[1],[2],[3],[4],[5],[6],[7],[8]]"),
        QUERY("[1,4,2]", "[[1,2,3,4],[5,6,7,8]]"),
        QUERY("[1,4,2]", "[[[1,2,3,4],[5,6,7,8]]]"),
        QUERY("[1,2,4]", "[[[1,2],[3,4],[5,6],[7,8]]]"),
        QUERY("[2,2,2]", "[[1,2,3],[4,5,6,7,8]]"),
        QUERY("[2,2,2]", "[[1,2,3,4],5,6,7,8]"),
        QUERY("[2,2,2]", "[1,2,3,4,[5,6,7,8]]"),
        QUERY("[2,2,2]", "[[[[1],[2]],[[3],[4]]],[[[5],[6]],[[7],[8]]]]"),
        LATE("[2,2,2]", "[[1,2,3,4,5,6,7,8]]"),
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        takes(*state, good[i], values, 8);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuse(*state, bad[i], "nested");
}

static void truth_is_no_number(void **state)
{
    struct fixture *fixture = *state;
    static const char *const bad[] = {
        QUERY("[1,1,2]", "[1,true]"),
        QUERY("[1,1,2]", "[true,false]"),
        LATE("[1,1,2]", "[1,true]"),
        LATE("[1,1,2]", "[true,false]"),
        MASK("\"datatype\":\"FP32\",", "[1,0,true,0]"),
        MASK("\"datatype\":\"INT8\",", "[1,0,true,0]"),
        MASK("\"datatype\":\"FP16\",", "[1,0,true,0]"),
        ("{\"inputs\":[{\"name\":\"query\",\"data\":[1,true],\"datatype\":\"INT64\","
         "\"shape\":[1,1,2]}]}"),
    };
    static const char *const good[] = {
        MASK("\"datatype\":\"BOOL\",", "[true,false,1,0]"),
        "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\",\"data\":[1,2]},"
        "{\"name\":\"attention_mask\",\"data\":[true],\"datatype\":\"BOOL\",\"shape\":[1,1,1]}]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        refuse(fixture, bad[i], "true");
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct api_request_head head = head_of(fixture, strlen(good[i]));
        api_infer_request_destroy(accept(&head, good[i], strlen(good[i]), 3));
    }
}

static void tf_serving_masks_may_be_true_and_false(void **state)
{
    struct fixture *fixture = *state;
    static const char good[] = "{\"inputs\":{\"query\":[[[1,2],[3,4]]],"
                               "\"attention_mask\":[[[true,false],[true,true]]]}}";
    static const char *const bad[] = {
        "{\"inputs\":[[[1,true]]]}",
        "{\"inputs\":[[[true,true]]]}",
        "{\"instances\":[{\"query\":[[1,2]],\"attention_mask\":[[0,true]]}]}",
        "{\"inputs\":{\"query\":[[[1,2]]],\"value\":[[[true,false]]]}}",
    };
    static const float mask[] = {1, 0, 1, 1};
    for (size_t piece = 1; piece < sizeof good; piece++) {
        struct api_request_head head = head_of(fixture, strlen(good));
        head.protocol = API_PROTOCOL_TFSERVING;
        struct api_infer_request *request = accept(&head, good, strlen(good), piece);
        assert_memory_equal(request->call.inputs[ENGINE_ATTENTION_MASK].data, mask, sizeof mask);
        api_infer_request_destroy(request);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct api_request_head head = head_of(fixture, strlen(bad[i]));
        head.protocol = API_PROTOCOL_TFSERVING;
        refuse_head(&head, bad[i], strlen(bad[i]), 400, "true");
    }
}

static void non_finite_numbers_are_read_bare_and_quoted(void **state)
{
    struct fixture *fixture = *state;
    static const float values[] = {1, INFINITY, -INFINITY, 2, INFINITY, -INFINITY};
    takes(fixture, QUERY("[1,3,2]", "[1,\"Infinity\",\"-Infinity\",2,Infinity,-Infinity]"), values,
          6);
    takes(fixture, LATE("[1,3,2]", "[1,\"Infinity\" , \"-Infinity\",2,Infinity,-Infinity]"), values,
          6);
    static const char nan_body[] = QUERY("[1,1,2]", "[\"NaN\", NaN]");
    struct api_request_head head = head_of(fixture, strlen(nan_body));
    struct api_infer_request *request = accept(&head, nan_body, strlen(nan_body), 2);
    const float *read = request->call.inputs[ENGINE_QUERY].data;
    assert_true(isnan(read[0]) && isnan(read[1]));
    api_infer_request_destroy(request);
    static const char rows[] = "{\"instances\":[[[\"NaN\",1]]]}";
    head = head_of(fixture, strlen(rows));
    head.protocol = API_PROTOCOL_TFSERVING;
    request = accept(&head, rows, strlen(rows), 1);
    assert_true(isnan(((const float *)request->call.inputs[ENGINE_QUERY].data)[0]));
    api_infer_request_destroy(request);
    static const char *const bad[] = {"[\"nan\",1]", "[\"1\",1]",         "[\"Infinity,1]",
                                      "[\"\",1]",    "[\"Infinity \",1]", "[\"+Infinity\",1]",
                                      "[null,1]",    "[\"NaN\"1]",        "[\"1e999\",1]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char body[256];
        snprintf(body, sizeof body, QUERY("[1,1,2]", "%s"), bad[i]);
        refuse(fixture, body, "data[");
    }
    refuse(fixture, MASK("\"datatype\":\"INT32\",", "[1,0,\"NaN\",0]"), "NaN");
}

static void answers_in(struct fixture *fixture, enum api_protocol protocol, const char *body,
                       const char *wanted)
{
    struct api_request_head head = head_of(fixture, strlen(body));
    struct api_reply reply;
    size_t size = 0;
    head.protocol = protocol;
    char *text = answer(fixture, accept(&head, body, strlen(body), 9), &reply, &size);
    if (strstr(text, wanted) == NULL)
        fail_msg("%s\n holds no %s", text, wanted);
    free(text);
    api_reply_reset(fixture->engine, &reply);
}

static void non_finite_numbers_are_written_as_asked(void **state)
{
    static const char *const forms[][2] = {
        {"", "NaN"},
        {",\"parameters\":{\"non_finite\":\"literal\"}", "NaN"},
        {",\"parameters\":{\"non_finite\":\"null\"}", "null"},
        {",\"parameters\":{\"non_finite\":\"string\"}", "\"NaN\""},
        {",\"parameters\":{\"non_finite\":null}", "NaN"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        char body[512], wanted[128];
        snprintf(body, sizeof body,
                 "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\","
                 "\"data\":[NaN,1]}],\"outputs\":[{\"name\":\"attention_scores\"}]%s}",
                 forms[i][0]);
        snprintf(wanted, sizeof wanted, "\"data\":[%s,%s]", forms[i][1], forms[i][1]);
        answers_in(*state, API_PROTOCOL_OIP, body, wanted);
        snprintf(body, sizeof body,
                 "{\"signature_name\":\"with_scores\",\"instances\":[{\"query\":[[NaN,1]]}]%s}",
                 forms[i][0]);
        snprintf(wanted, sizeof wanted, "\"attention_scores\":[[[%s]],[[%s]]]", forms[i][1],
                 forms[i][1]);
        answers_in(*state, API_PROTOCOL_TFSERVING, body, wanted);
        snprintf(body, sizeof body, "{\"inputs\":{\"query\":[[[NaN,1]]]}%s}", forms[i][0]);
        snprintf(wanted, sizeof wanted, "{\"outputs\":[[[%s,%s]]]}", forms[i][1], forms[i][1]);
        answers_in(*state, API_PROTOCOL_TFSERVING, body, wanted);
    }
    refuse(*state, "{\"inputs\":[],\"parameters\":{\"non_finite\":\"nil\"}}",
           "literal, null or string");
}

static void a_member_that_is_null_is_left_out(void **state)
{
    struct fixture *fixture = *state;
    static const char *const oip[] = {
        "{\"id\":null,\"parameters\":null,\"outputs\":null,\"inputs\":[{\"name\":\"query\","
        "\"shape\":[1,1,2],\"datatype\":\"FP32\",\"parameters\":null,\"data\":[1,2]}]}",
        "{\"parameters\":{\"timeout\":null,\"priority\":null,\"training\":null,\"seed\":null,"
        "\"precision\":null,\"return_attention_scores\":null,\"binary_data_output\":null,"
        "\"mine\":null},\"outputs\":[{\"name\":\"attention_scores\",\"parameters\":{\"heads\":null,"
        "\"query_rows\":null,\"top_k\":null,\"datatype\":null,\"binary_data\":null}}],"
        "\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\","
        "\"parameters\":{\"binary_data_size\":null},\"data\":[1,2]}]}",
    };
    static const char *const tf[] = {
        "{\"signature_name\":null,\"inputs\":null,\"parameters\":null,\"instances\":[[[1,2]]]}",
        "{\"instances\":null,\"inputs\":{\"query\":[[[1,2]]],\"attention_mask\":null}}",
        "{\"instances\":[{\"query\":[[1,2]],\"attention_mask\":null},{\"query\":[[3,4]]}]}",
    };
    for (size_t i = 0; i < 2; i++)
        answers_in(fixture, API_PROTOCOL_OIP, oip[i], "attention_scores");
    for (size_t i = 0; i < 3; i++)
        answers_in(fixture, API_PROTOCOL_TFSERVING, tf[i], i == 1 ? "outputs" : "predictions");
    refuse(fixture, "{\"inputs\":null}", "inputs");
}

/* Dropout is drawn again by the seed that the answer tells. */
static void training_without_a_seed_tells_the_one_drawn(void **state)
{
    struct fixture *fixture = *state;
    char body[512];
    unsigned long long seeds[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        struct api_reply reply;
        size_t size = 0;
        snprintf(body, sizeof body, "%s,\"parameters\":{\"training\":true}}",
                 "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\","
                 "\"data\":[1,2]}]");
        struct api_request_head head = head_of(fixture, strlen(body));
        char *text = answer(fixture, accept(&head, body, strlen(body), 50), &reply, &size);
        const char *at = strstr(text, "\"seed\":");
        assert_non_null(at);
        seeds[i] = strtoull(at + 7, NULL, 10);
        assert_true(reply.has_seed && reply.seed == seeds[i]);
        assert_true(seeds[i] < 1ull << 53);
        free(text);
        api_reply_reset(fixture->engine, &reply);
    }
    assert_true(seeds[0] != seeds[1]); /* equal once in 2^53 runs */
    snprintf(body, sizeof body, "%s,\"parameters\":{\"training\":true,\"seed\":17}}",
             "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\","
             "\"data\":[1,2]}]");
    answers_in(fixture, API_PROTOCOL_OIP, body,
               "\"parameters\":{\"precision\":\"f32\",\"seed\":17},\"outputs\"");
}

/* A layer of the wide policy: numbers keep their 53 bits in every JSON protocol, both ways. */
static void float64_layers_read_and_write_all_digits(void **state)
{
    struct fixture *fixture = *state, wide = *fixture;
    struct engine_layer_config config = *engine_model_config(fixture->model);
    struct engine_error err = {0};
    config.policy = ENGINE_POLICY_FLOAT64;
    struct engine_model_source source = {.config = &config, .initialize = true, .seed = 7};
    assert_int_equal(engine_model_create(wide.engine, &source, &wide.model, &err), ENGINE_OK);
    static const char *const bodies[] = {
        "{\"instances\":[[[0.1,1.0000000000000002]]]}",
        "{\"instances\":[{\"query\":[[0.1,1.0000000000000002]]}]}",
        "{\"inputs\":[[[0.1,1.0000000000000002]]]}",
        "{\"inputs\":{\"query\":[[[0.1,1.0000000000000002]]]}}",
    };
    for (size_t i = 0; i < 4; i++) {
        struct api_request_head head = head_of(&wide, strlen(bodies[i]));
        head.protocol = API_PROTOCOL_TFSERVING;
        struct api_infer_request *request = accept(&head, bodies[i], strlen(bodies[i]), 5);
        const struct engine_tensor *query = &request->call.inputs[ENGINE_QUERY];
        assert_int_equal(query->dtype, ENGINE_F64);
        assert_true(((const double *)query->data)[0] == 0.1);
        assert_true(((const double *)query->data)[1] == 1.0000000000000002);
        struct api_reply reply;
        size_t size = 0;
        free(answer(&wide, request, &reply, &size));
        assert_string_equal(reply.precision, "f64");
        api_reply_reset(wide.engine, &reply);
    }
    engine_model_release(wide.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_are_as_long_as_products_of_consecutive_dimensions),
        cmocka_unit_test(truth_is_no_number),
        cmocka_unit_test(tf_serving_masks_may_be_true_and_false),
        cmocka_unit_test(non_finite_numbers_are_read_bare_and_quoted),
        cmocka_unit_test(non_finite_numbers_are_written_as_asked),
        cmocka_unit_test(a_member_that_is_null_is_left_out),
        cmocka_unit_test(training_without_a_seed_tells_the_one_drawn),
        cmocka_unit_test(float64_layers_read_and_write_all_digits),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
