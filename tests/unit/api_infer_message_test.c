/* api_infer_message_test.c - do requests of every protocol become the right call, whatever pieces
 * they arrive in, and are wrong ones refused with a sentence that names the field? */
#include "tests/unit/api_support.h"

#include <zlib.h>

#include "api/limits.h"
#include "engine/formats/safetensors.h"

static const char json_request[] =
    "{\"id\":\"a\\\"b\",\"inputs\":[{\"name\":\"query\",\"shape\":[1,3,2],\"datatype\":\"FP32\","
    "\"data\":[[0.5,-1.25e0],[3,4],[ 5 ,\n6.0625]]},{\"data\":[true,false, 1],\"name\":"
    "\"attention_mask\",\"datatype\":\"BOOL\",\"shape\":[1,1,3]}],\"model_name\":\"x\","
    "\"outputs\":[{\"name\":\"attention_output\"}]}";

static void json_is_read_alike_in_pieces_of_every_size(void **state)
{
    struct fixture *fixture = *state;
    static const float query[] = {0.5f, -1.25f, 3.0f, 4.0f, 5.0f, 6.0625f};
    static const unsigned char mask[] = {1, 0, 1};
    size_t size = strlen(json_request);
    for (size_t piece = 1; piece <= size; piece++) {
        struct api_request_head head = head_of(fixture, size);
        struct api_infer_request *request = accept(&head, json_request, size, piece);
        const struct engine_tensor *inputs = request->call.inputs;
        assert_int_equal(inputs[ENGINE_QUERY].rank, 3);
        assert_memory_equal(inputs[ENGINE_QUERY].data, query, sizeof query);
        assert_int_equal(inputs[ENGINE_ATTENTION_MASK].dtype, ENGINE_BOOL);
        assert_memory_equal(inputs[ENGINE_ATTENTION_MASK].data, mask, sizeof mask);
        assert_true(request->call.wanted[ENGINE_ATTENTION_OUTPUT]);
        assert_false(request->call.wanted[ENGINE_ATTENTION_SCORES]);
        api_infer_request_destroy(request);
    }
}

static void the_answer_has_the_protocols_key_order_and_echoes_the_id(void **state)
{
    struct fixture *fixture = *state;
    struct api_request_head head = head_of(fixture, strlen(json_request));
    struct api_reply reply;
    size_t size = 0;
    char *text =
        answer(fixture, accept(&head, json_request, strlen(json_request), 7), &reply, &size);
    static const char start[] =
        "{\"id\":\"a\\\"b\",\"model_name\":\"m\",\"model_version\":\"1\",\"parameters\":{"
        "\"precision\":\"f32\"},\"outputs\":[{\"name\":"
        "\"attention_output\",\"datatype\":\"FP32\",\"shape\":[1,3,2],\"data\":[";
    assert_memory_equal(text, start, strlen(start));
    assert_string_equal(reply.content_type, "application/json");
    assert_int_equal(reply.header_content_length, -1);
    free(text);
    api_reply_reset(fixture->engine, &reply);
}

/* What tritonclient sends by default: binary in, all outputs, binary out. */
static void binary_tensors_go_in_and_out_as_they_lie(void **state)
{
    struct fixture *fixture = *state;
    static const char json[] =
        "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\",\"parameters\":{"
        "\"binary_data_size\":8}}],\"parameters\":{\"binary_data_output\":true}}";
    static const unsigned char ones[] = {0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f};
    char body[512], length[16];
    size_t size = strlen(json);
    memcpy(body, json, size);
    memcpy(body + size, ones, sizeof ones);
    snprintf(length, sizeof length, "%zu", size);
    struct api_request_head head = head_of(fixture, size + sizeof ones);
    head.header_content_length = length;
    struct api_infer_request *request = accept(&head, body, size + sizeof ones, 5);
    assert_int_equal((uintptr_t)request->call.inputs[ENGINE_QUERY].data % 64, 0);
    struct api_reply reply;
    size_t bytes = 0;
    char *text = answer(fixture, request, &reply, &bytes);
    static const char wanted[] =
        "{\"model_name\":\"m\",\"model_version\":\"1\",\"parameters\":{\"precision\":\"f32\"},"
        "\"outputs\":[{\"name\":\"attention_output\","
        "\"datatype\":\"FP32\",\"shape\":[1,1,2],\"parameters\":{\"binary_data_size\":8}},{"
        "\"name\":"
        "\"attention_scores\",\"datatype\":\"FP32\",\"shape\":[1,2,1,1],\"parameters\":{"
        "\"binary_data_size\":8}}]}";
    assert_string_equal(reply.content_type, "application/octet-stream");
    assert_int_equal(reply.header_content_length, strlen(wanted));
    assert_int_equal(bytes, strlen(wanted) + 16);
    assert_memory_equal(text, wanted, strlen(wanted));
    static const float scores[] = {1.0f, 1.0f};
    assert_memory_equal(text + strlen(wanted) + 8, scores, sizeof scores);
    free(text);
    api_reply_reset(fixture->engine, &reply);
}

static void a_compressed_body_counts_its_header_after_inflating(void **state)
{
    struct fixture *fixture = *state;
    unsigned char packed[1024];
    z_stream stream = {0};
    assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (unsigned char *)(uintptr_t)json_request;
    stream.avail_in = (unsigned)strlen(json_request);
    stream.next_out = packed;
    stream.avail_out = sizeof packed;
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    size_t size = stream.total_out;
    deflateEnd(&stream);
    struct api_request_head head = head_of(fixture, size);
    head.content_encoding = "gzip";
    api_infer_request_destroy(accept(&head, packed, size, 3));
    refuse_head(&head, (const char *)packed, size - 9, 400, "ends too early");
    head.max_body_bytes = 100;
    head.content_length = -1;
    refuse_head(&head, (const char *)packed, size, 413, "the body");
    head.content_encoding = "br";
    refuse_head(&head, (const char *)packed, size, 415, "Content-Encoding");
}

static void tf_serving_rows_and_columns_are_read(void **state)
{
    struct fixture *fixture = *state;
    static const char *const bodies[] = {
        "{\"instances\":[[[1,2],[3,4]],[[5,6],[7,8]]]}",
        "{\"inputs\":[[[1,2],[3,4]],[[5,6],[7,8]]]}",
        "{\"signature_name\":\"with_scores\",\"inputs\":{\"query\":[[[1,2],[3,4]],[[5,6],[7,8]]],"
        "\"other\":\"ignored\"}}",
        "{\"instances\":[{\"query\":[[1,2],[3,4]]},{\"query\":[[5,6],[7,8]]}],"
        "\"signature_name\":\"with_scores\"}"};
    static const float values[] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const char *const starts[] = {"{\"predictions\":[[[", "{\"outputs\":[[[",
                                         "{\"outputs\":{\"attention_output\":[[[",
                                         "{\"predictions\":[{\"attention_output\":[["};
    for (size_t i = 0; i < 4; i++) {
        struct api_request_head head = head_of(fixture, strlen(bodies[i]));
        head.protocol = API_PROTOCOL_TFSERVING;
        struct api_infer_request *request = accept(&head, bodies[i], strlen(bodies[i]), 4);
        const struct engine_tensor *query = &request->call.inputs[ENGINE_QUERY];
        assert_int_equal(query->rank, 3);
        assert_int_equal(query->shape[0] * 100 + query->shape[1] * 10 + query->shape[2], 222);
        assert_memory_equal(query->data, values, sizeof values);
        struct api_reply reply;
        size_t size = 0;
        char *text = answer(fixture, request, &reply, &size);
        assert_memory_equal(text, starts[i], strlen(starts[i]));
        assert_int_equal(text[size - 1], '}');
        free(text);
        api_reply_reset(fixture->engine, &reply);
    }
}

/* The shape that a nesting tells is what the engine reads by: where a list and a number stand side
 * by side it would tell of more numbers than there are. */
static void tf_serving_nesting_must_be_regular(void **state)
{
    struct fixture *fixture = *state;
    static const char *const bodies[] = {"{\"inputs\":[[[1,[]],[2,[]]]]}",
                                         "{\"inputs\":[[[[],1],[[],1]]]}",
                                         "{\"inputs\":[[[1,2],[3]]]}",
                                         "{\"inputs\":[[[1,2],3]]}",
                                         "{\"instances\":[[[1,2]],[[1,2],[3,4]]]}",
                                         "{\"inputs\":[[[],[1]]]}",
                                         "{\"instances\":[{\"query\":[[1,[]]]}]}",
                                         "{\"inputs\":{\"query\":[[[1,[]]]]}}"};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        struct api_request_head head = head_of(fixture, strlen(bodies[i]));
        head.protocol = API_PROTOCOL_TFSERVING;
        refuse_head(&head, bodies[i], strlen(bodies[i]), 400, "irregularly");
    }
}

static void safetensors_go_both_ways(void **state)
{
    struct fixture *fixture = *state;
    float values[] = {1, 2, 3, 4};
    struct engine_named_tensor tensor = {
        .name = "query",
        .tensor = {.dtype = ENGINE_F32, .rank = 3, .shape = {1, 2, 2}, .data = values}};
    const char *metadata[] = {"return_attention_scores", "false", "id", "7", NULL};
    struct engine_error err = {0};
    char *header = NULL, body[512];
    size_t size = 0;
    assert_int_equal(engine_safetensors_header(&tensor, 1, metadata, &header, &size, &err), 0);
    memcpy(body, header, size);
    memcpy(body + size, values, sizeof values);
    free(header);
    size += sizeof values;
    struct api_request_head head = head_of(fixture, size);
    head.content_type = "application/safetensors";
    struct api_reply reply;
    char *text = answer(fixture, accept(&head, body, size, 11), &reply, &size);
    struct engine_safetensors *file = NULL;
    assert_int_equal(engine_safetensors_parse(text, size, &file, &err), ENGINE_OK);
    assert_int_equal(engine_safetensors_count(file), 1);
    assert_string_equal(engine_safetensors_metadata(file, "id"), "7");
    assert_non_null(engine_safetensors_find(file, "attention_output"));
    engine_safetensors_destroy(file);
    free(text);
    api_reply_reset(fixture->engine, &reply);
}

static void mistakes_are_named(void **state)
{
    struct fixture *fixture = *state;
#define IN(text) "{\"inputs\":[{" text "}]}"
#define QUERY    "\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\""
    refuse(fixture, "", "empty");
    refuse(fixture, "[]", "object");
    refuse(fixture, "{}", "inputs");
    refuse(fixture, "{\"inputs\":7}", "inputs");
    refuse(fixture, IN(QUERY), "inputs[0].data");
    refuse(fixture, IN(QUERY ",\"data\":[1]"), "elements");
    refuse(fixture, IN(QUERY ",\"data\":[1,2,3]"), "more elements");
    refuse(fixture, IN("\"data\":[1,2,3]," QUERY), "elements");
    refuse(fixture, IN(QUERY ",\"data\":[1,x]"), "\"x\"");
    refuse(fixture, IN(QUERY ",\"data\":[1,,2]"), "data[1]");
    refuse(fixture, IN(QUERY ",\"data\":[1,2,]"), "data");
    refuse(fixture, IN(QUERY ",\"data\":[1,\"2\"]"), "data[1]");
    refuse(fixture, IN(QUERY ",\"data\":[1,null]"), "null");
    refuse(fixture, IN(QUERY ",\"data\":3"), "inputs[0].data");
    refuse(fixture, IN(QUERY ",\"data\":[1,2],\"data\":[1,2]"), "duplicate");
    refuse(fixture, IN(QUERY ",\"data\":[1,2],\"parameters\":{\"binary_data_size\":8}"), "both");
    refuse(fixture, IN("\"name\":\"quer\",\"shape\":[1,1,2],\"datatype\":\"FP32\",\"data\":[1,2]"),
           "quer");
    refuse(fixture, IN("\"name\":\"query\",\"shape\":[1,-1,2],\"datatype\":\"FP32\",\"data\":[]"),
           "shape[1]");
    refuse(fixture,
           IN("\"name\":\"query\",\"shape\":[8589934592,8589934592,768],\"datatype\":\"FP32\","
              "\"data\":[1]"),
           "");
    refuse(fixture, IN("\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP31\",\"data\":[1,2]"),
           "FP31");
    refuse(fixture, IN(QUERY ",\"data\":[1,2]}],\"outputs\":[{\"name\":\"nothing\""), "nothing");
    refuse(fixture, IN(QUERY ",\"data\":[1,2]}],\"parameters\":{\"triton_x\":1},\"y\":[{"),
           "triton_x");
    refuse(fixture, IN(QUERY ",\"data\":{\"b64\":\"AAAA\"}"), "b64");
    refuse(fixture, IN(QUERY ",\"data\":{\"b64\":\"!\"}"), "base64");
    refuse(fixture,
           IN("\"name\":\"attention_mask\",\"shape\":[1,1,2],\"datatype\":\"UINT8\","
              "\"data\":[1,256]"),
           "256");
    refuse(fixture,
           IN("\"data\":[1,1.5],\"name\":\"attention_mask\",\"shape\":[1,1,2],"
              "\"datatype\":\"INT32\""),
           "fit");
    refuse(fixture, "{\"inputs\":[]} x", "JSON");
    refuse(fixture, "{\"inputs\":[],\"a\":\"\xff\"}", "JSON");
    refuse(fixture, "{\"inputs\":[{\"name\":\"query\",\"data\":[1,2", "ends inside");
}

static void deep_nesting_is_refused_without_recursion(void **state)
{
    struct fixture *fixture = *state;
    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH + 64);
    memset(deep, '[', DEPTH);
    deep[DEPTH] = '\0';
    struct api_request_head head = head_of(fixture, DEPTH);
    struct engine_error err = {0};
    struct api_infer_request *request = NULL;
    assert_int_equal(decode(&head, deep, DEPTH, 4096, &request, &err), ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "nested"));
    int length = sprintf(deep, "{\"inputs\":[{\"name\":\"query\",\"data\":");
    memset(deep + length, '[', DEPTH - 100);
    assert_int_equal(decode(&head, deep, DEPTH - 60, 4096, &request, &err),
                     ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "nested"));
    free(deep);
}

static void an_envelope_that_is_too_long_is_refused(void **state)
{
    struct fixture *fixture = *state;
    enum { SIZE = 200000 };
    char *body = malloc(SIZE);
    memset(body, ' ', SIZE);
    body[0] = '{';
    struct api_request_head head = head_of(fixture, SIZE);
    refuse_head(&head, body, SIZE, 413, "65536");
    free(body);
}

static void truncated_bodies_are_refused_at_every_byte(void **state)
{
    struct fixture *fixture = *state;
    size_t size = strlen(json_request);
    for (size_t cut = 0; cut < size; cut++) {
        struct api_request_head head = head_of(fixture, cut);
        struct engine_error err = {0};
        struct api_infer_request *request = NULL;
        char body[1024];
        memcpy(body, json_request, cut);
        assert_int_not_equal(decode(&head, body, cut, 64, &request, &err), ENGINE_OK);
        assert_true(err.message[0] != '\0');
    }
}

static void binary_sizes_must_add_up(void **state)
{
    struct fixture *fixture = *state;
    static const char json[] = "{\"inputs\":[{" QUERY ",\"parameters\":{\"binary_data_size\":8}}]}";
    char body[256], length[16];
    size_t size = strlen(json);
    memcpy(body, json, size);
    memset(body + size, 0, 16);
    snprintf(length, sizeof length, "%zu", size);
    struct api_request_head head = head_of(fixture, size + 7);
    head.header_content_length = length;
    refuse_head(&head, body, size + 7, 400, "7 are left");
    head.content_length = (int64_t)size + 9;
    refuse_head(&head, body, size + 9, 400, "left over");
    head.header_content_length = NULL;
    refuse_head(&head, body, size, 400, "Inference-Header-Content-Length");
    head.header_content_length = "0";
    refuse_head(&head, body, size, 400, "raw request");
    head.header_content_length = "99999";
    refuse_head(&head, body, size, 400, "99999");
    head.header_content_length = "-1";
    refuse_head(&head, body, size, 400, "Inference-Header-Content-Length");
}

static void errors_are_valid_json_whatever_they_quote(void **state)
{
    (void)state;
    struct engine_error err = {.code = ENGINE_INVALID_ARGUMENT};
    char text[1024];
    snprintf(err.message, sizeof err.message, "a \"b\" \\ \n \x01 \xc3\xa4 \xff \xe2\x82");
    size_t size = api_error_body_write(&err, text, sizeof text);
    assert_int_equal(size, strlen(text));
    assert_string_equal(text, "{\"error\":\"a \\\"b\\\" \\\\ \\u000a \\u0001 \xc3\xa4 ? ??\"}");
    err.code = ENGINE_INTERNAL;
    api_error_body_write(&err, text, sizeof text);
    assert_null(strstr(text, "\\u0001"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_is_read_alike_in_pieces_of_every_size),
        cmocka_unit_test(the_answer_has_the_protocols_key_order_and_echoes_the_id),
        cmocka_unit_test(binary_tensors_go_in_and_out_as_they_lie),
        cmocka_unit_test(a_compressed_body_counts_its_header_after_inflating),
        cmocka_unit_test(tf_serving_rows_and_columns_are_read),
        cmocka_unit_test(tf_serving_nesting_must_be_regular),
        cmocka_unit_test(safetensors_go_both_ways),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(deep_nesting_is_refused_without_recursion),
        cmocka_unit_test(an_envelope_that_is_too_long_is_refused),
        cmocka_unit_test(truncated_bodies_are_refused_at_every_byte),
        cmocka_unit_test(binary_sizes_must_add_up),
        cmocka_unit_test(errors_are_valid_json_whatever_they_quote),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
