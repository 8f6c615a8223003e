/* api_parameters_test.c - do the parameters of requests and outputs become the wishes they spell,
 * in every protocol that carries them? */
#include "tests/unit/api_support.h"

#define QUERY                                                                                      \
    "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,3,2],\"datatype\":\"FP32\",\"data\":"           \
    "[1,2,3,4,5,6]}]"

static struct api_infer_request *read(struct fixture *fixture, const char *rest)
{
    char body[1024];
    snprintf(body, sizeof body, QUERY ",%s}", rest);
    struct api_request_head head = head_of(fixture, strlen(body));
    return accept(&head, body, strlen(body), 64);
}

static void refuse_rest(struct fixture *fixture, const char *rest, int status, const char *word)
{
    char body[1024];
    snprintf(body, sizeof body, QUERY ",%s}", rest);
    struct api_request_head head = head_of(fixture, strlen(body));
    refuse_head(&head, body, strlen(body), status, word);
}

static void request_parameters_are_read(void **state)
{
    struct api_infer_request *request =
        read(*state, "\"parameters\":{\"timeout\":250000,\"priority\":2,\"training\":true,"
                     "\"seed\":17,\"precision\":\"f32\",\"return_attention_scores\":false,"
                     "\"sequence_id\":7,\"sequence_start\":true,\"mine\":\"x\",\"other\":1.5}");
    assert_int_equal(request->timeout_us, 250000);
    assert_int_equal(request->priority, 2);
    assert_true(request->call.training);
    assert_int_equal(request->call.seed, 17);
    assert_int_equal(request->call.precision, ENGINE_PRECISION_F32);
    assert_true(request->call.wanted[ENGINE_ATTENTION_OUTPUT]);
    assert_false(request->call.wanted[ENGINE_ATTENTION_SCORES]);
    api_infer_request_destroy(request);
}

static void a_refused_parameter_is_shown_with_its_value_and_the_rule(void **state)
{
    static const char *const rows[][2] = {
        {"timeout\":-1", "timeout is -1, it must be an integer"},
        {"timeout\":\"soon\"", "timeout is \"soon\", it must be an integer"},
        {"priority\":1.5", "priority is 1.5, it must be an integer"},
        {"seed\":true", "seed is true, it must be an integer"},
        {"training\":1", "training is 1, it must be true or false"},
        {"training\":{\"data\":[1]}", "training is an object, it must be"},
        {"precision\":\"f64\"", "precision is \"f64\", it must be f32"},
        {"non_finite\":[]", "non_finite is a list, it must be literal"},
        {"mine\":{}", "mine is an object, it must be a string"},
        {"precision\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "aaa..., it must be"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char rest[256];
        snprintf(rest, sizeof rest, "\"parameters\":{\"%s}", rows[i][0]);
        refuse_rest(*state, rest, 400, rows[i][1]);
    }
    static const char *const outputs[][2] = {
        {"heads\":\"3-1\"", "heads is \"3-1\", it must be indices"},
        {"top_k\":0", "top_k is 0, it must be an integer from 1"},
        {"binary_data\":\"yes\"", "binary_data is \"yes\", it must be true"},
        {"datatype\":\"INT8\"", "datatype is \"INT8\", it must be FP32"},
    };
    for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
        char rest[256];
        snprintf(rest, sizeof rest,
                 "\"outputs\":[{\"name\":\"attention_scores\",\"parameters\":{\"%s}}]",
                 outputs[i][0]);
        refuse_rest(*state, rest, 400, outputs[i][1]);
    }
}

static void no_outputs_are_all_or_the_models_defaults(void **state)
{
    struct api_infer_request *request = read(*state, "\"outputs\":[]");
    assert_true(request->call.wanted[ENGINE_ATTENTION_OUTPUT]);
    assert_true(request->call.wanted[ENGINE_ATTENTION_SCORES]);
    assert_false(request->call.wanted[ENGINE_ATTENTION_SCORES_INDICES]);
    api_infer_request_destroy(request);
    static const char body[] = QUERY "}";
    struct api_model_defaults defaults = {.has_outputs = true, .outputs = {true, false, false}};
    struct api_request_head head = head_of(*state, strlen(body));
    head.defaults = &defaults;
    request = accept(&head, body, strlen(body), 64);
    assert_false(request->call.wanted[ENGINE_ATTENTION_SCORES]);
    api_infer_request_destroy(request);
}

static void scores_are_chosen_by_heads_rows_and_size(void **state)
{
    struct api_infer_request *request = read(
        *state, "\"outputs\":[{\"name\":\"attention_scores\",\"parameters\":{\"heads\":\"1,0\","
                "\"query_rows\":\"0,1-2\",\"top_k\":2,\"datatype\":\"FP16\"}}]");
    const struct engine_call *call = &request->call;
    assert_int_equal(call->heads.count, 2);
    assert_int_equal(call->heads.indices[0] * 10 + call->heads.indices[1], 10);
    assert_int_equal(call->query_rows.count, 3);
    assert_int_equal(call->query_rows.indices[2], 2);
    assert_int_equal(call->top_k, 2);
    assert_int_equal(call->dtype[ENGINE_ATTENTION_SCORES], ENGINE_F16);
    assert_true(call->wanted[ENGINE_ATTENTION_SCORES_INDICES]);
    assert_false(call->wanted[ENGINE_ATTENTION_OUTPUT]);
    struct api_reply reply;
    size_t size = 0;
    char *text = answer(*state, request, &reply, &size);
    assert_non_null(strstr(text, "\"name\":\"attention_scores\",\"datatype\":\"FP16\",\"shape\":"
                                 "[1,2,3,2],\"data\":["));
    assert_non_null(strstr(text, "\"name\":\"attention_scores_indices\",\"datatype\":\"INT32\","
                                 "\"shape\":[1,2,3,2],\"data\":["));
    free(text);
    api_reply_reset(((struct fixture *)*state)->engine, &reply);
    request =
        read(*state, "\"outputs\":[{\"name\":\"attention_scores\",\"parameters\":{\"heads\":1,"
                     "\"query_rows\":\"2\"}}]");
    assert_int_equal(request->call.heads.count, 1);
    assert_int_equal(request->call.query_rows.indices[0], 2);
    api_infer_request_destroy(request);
}

/* What an output says of itself wins over the request; what it leaves open it inherits. */
static void binary_output_is_wished_for_by_request_or_output(void **state)
{
    static const struct {
        const char *rest, *output, *scores;
    } cases[] = {
        {"\"parameters\":{\"binary_data_output\":true}", "binary_data_size\":24",
         "binary_data_size\":72"},
        {"\"outputs\":[{\"name\":\"attention_output\",\"parameters\":{\"binary_data\":false}},{"
         "\"name\":\"attention_scores\"}],\"parameters\":{\"binary_data_output\":true}",
         "\"data\":[", "binary_data_size\":72"},
        {"\"outputs\":[{\"name\":\"attention_output\",\"parameters\":{\"binary_data\":true}},{"
         "\"name\":\"attention_scores\"}]",
         "binary_data_size\":24", "\"data\":["}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct api_reply reply;
        size_t size = 0;
        char *text = answer(*state, read(*state, cases[i].rest), &reply, &size);
        char *scores = strstr(text, "\"name\":\"attention_scores\"");
        assert_non_null(scores);
        assert_non_null(strstr(scores, cases[i].scores));
        scores[0] = '\0';
        assert_non_null(strstr(text, cases[i].output));
        free(text);
        api_reply_reset(((struct fixture *)*state)->engine, &reply);
    }
}

static void wrong_parameters_are_named(void **state)
{
#define SCORES(text) "\"outputs\":[{\"name\":\"attention_scores\",\"parameters\":{" text "}}]"
    static const struct {
        const char *rest, *word;
        int status;
    } cases[] = {
        {"\"parameters\":{\"timeout\":-1}", "timeout", 400},
        {"\"parameters\":{\"timeout\":1.5}", "timeout", 400},
        {"\"parameters\":{\"training\":1}", "training", 400},
        {"\"parameters\":{\"precision\":\"f64\"}", "precision", 400},
        {"\"parameters\":{\"triton_enable\":true}", "triton_enable", 400},
        {"\"parameters\":{\"mine\":[1]}", "mine", 400},
        {"\"parameters\":{\"mine\":{}}", "mine", 400},
        {"\"parameters\":7", "parameters", 400},
        {SCORES("\"classification\":3"), "classification", 400},
        {SCORES("\"store\":true"), "store", 501},
        {SCORES("\"heads\":\"\""), "heads", 400},
        {SCORES("\"heads\":\"0,\""), "heads", 400},
        {SCORES("\"heads\":\"3-1\""), "heads", 400},
        {SCORES("\"heads\":\"a\""), "heads", 400},
        {SCORES("\"heads\":-1"), "heads", 400},
        {SCORES("\"query_rows\":\"0-99999999\""), "65536", 400},
        {SCORES("\"top_k\":0"), "top_k", 400},
        {SCORES("\"datatype\":\"INT8\""), "datatype", 400},
        {SCORES("\"binary_data\":\"yes\""), "binary_data", 400},
        {"\"outputs\":[{\"name\":\"attention_output\",\"parameters\":{\"top_k\":1}}]", "top_k",
         400},
        {"\"outputs\":[{\"name\":\"attention_output\"},{\"name\":\"attention_output\"}]", "twice",
         400},
        {"\"outputs\":[{\"name\":\"nothing\"}]", "nothing", 400},
        {"\"outputs\":[{}]", "outputs[0].name", 400},
        {"\"id\":7", "id", 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refuse_rest(*state, cases[i].rest, cases[i].status, cases[i].word);
}

static void keys_that_decide_may_not_come_twice(void **state)
{
    static const char *const rests[] = {"\"inputs\":[]",
                                        "\"id\":\"a\",\"id\":\"b\"",
                                        "\"outputs\":[],\"outputs\":[]",
                                        "\"parameters\":{},\"parameters\":{}",
                                        "\"parameters\":{\"seed\":1,\"seed\":2}",
                                        "\"parameters\":{\"seed\":1,\"se\\u0065d\":2}"};
    for (size_t i = 0; i < sizeof rests / sizeof rests[0]; i++)
        refuse_rest(*state, rests[i], 400, "duplicate");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_parameters_are_read),
        cmocka_unit_test(no_outputs_are_all_or_the_models_defaults),
        cmocka_unit_test(scores_are_chosen_by_heads_rows_and_size),
        cmocka_unit_test(binary_output_is_wished_for_by_request_or_output),
        cmocka_unit_test(wrong_parameters_are_named),
        cmocka_unit_test(a_refused_parameter_is_shown_with_its_value_and_the_rule),
        cmocka_unit_test(keys_that_decide_may_not_come_twice),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
