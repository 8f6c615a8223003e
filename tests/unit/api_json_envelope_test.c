/* api_json_envelope_test.c - does a JSON body take no more memory than it may, whatever it holds,
 * and is the place of a mistake in it named? */
#include "tests/unit/api_support.h"

#include "api/limits.h"

#define QUERY "\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\""

enum { CAP = 1 << 20 };

/* A body of "start", as many of "unit" as fit the cap, and "end". */
static char *repeat(const char *start, const char *unit, const char *end, size_t cap)
{
    char *body = malloc(cap + 1);
    size_t size = strlen(start);
    memcpy(body, start, size);
    while (size + strlen(unit) + strlen(end) <= cap) {
        memcpy(body + size, unit, strlen(unit));
        size += strlen(unit);
    }
    memcpy(body + size, end, strlen(end) + 1);
    return body;
}

/* The most memory that a body holds while it is read; how it ends does not matter here. */
static size_t peak_of(struct fixture *fixture, enum api_protocol protocol, const char *body,
                      int64_t content_length)
{
    struct api_request_head head = head_of(fixture, 0);
    struct api_decoder *decoder = NULL;
    struct api_infer_request *request = NULL;
    struct engine_error err = {0};
    struct engine_memory_facts memory;
    size_t size = strlen(body), peak = 0;
    head.protocol = protocol;
    head.content_length = content_length;
    head.max_body_bytes = CAP;
    enum engine_code code = api_decoder_create(&head, &decoder, &err);
    for (size_t at = 0; code == ENGINE_OK && at < size; at += 4096) {
        code = api_decoder_feed(decoder, body + at, size - at < 4096 ? size - at : 4096, &err);
        engine_memory(fixture->engine, &memory);
        peak = memory.taken_bytes > peak ? memory.taken_bytes : peak;
        peak = api_decoder_memory(decoder) > peak ? api_decoder_memory(decoder) : peak;
    }
    if (code == ENGINE_OK)
        code = api_decoder_finish(decoder, &request, &err);
    engine_memory(fixture->engine, &memory);
    peak = memory.taken_bytes > peak ? memory.taken_bytes : peak;
    if (code != ENGINE_OK && api_error_body_status(code) / 100 != 4)
        fail_msg("%d: %s", code, err.message);
    api_infer_request_destroy(request);
    api_decoder_destroy(decoder);
    return peak;
}

static void bodies_that_swell_stay_under_twice_the_cap(void **state)
{
    static const struct {
        enum api_protocol protocol;
        const char *start, *unit, *end;
    } corpus[] = {
        {API_PROTOCOL_OIP, "{\"inputs\":[{\"data\":[", "0,", "0]," QUERY "}]}"},
        {API_PROTOCOL_OIP, "{\"inputs\":[{" QUERY ",\"data\":[", "0,", "0]}]}"},
        {API_PROTOCOL_OIP, "{\"inputs\":[{\"data\":[", "[],", "[]]," QUERY "}]}"},
        {API_PROTOCOL_OIP, "{\"inputs\":[{\"data\":[", "[0],", "[0]]," QUERY "}]}"},
        {API_PROTOCOL_OIP, "{\"x\":[", "{},", "{}],\"inputs\":[]}"},
        {API_PROTOCOL_OIP, "{\"x\":[", "[],", "[]],\"inputs\":[]}"},
        {API_PROTOCOL_OIP, "{\"x\":[", "{\"a\":0},", "{}],\"inputs\":[]}"},
        {API_PROTOCOL_OIP, "{\"x\":[", "\"\",", "\"\"],\"inputs\":[]}"},
        {API_PROTOCOL_OIP, "{\"x\":\"", "y", "\",\"inputs\":[]}"},
        {API_PROTOCOL_OIP, "{\"inputs\":[", "{\"data\":[0]},", "{}]}"},
        {API_PROTOCOL_OIP, "{\"inputs\":[{\"data\":{\"b64\":\"", "AAAA", "\"}," QUERY "}]}"},
        {API_PROTOCOL_TFSERVING, "{\"inputs\":[", "0,", "0]}"},
        {API_PROTOCOL_TFSERVING, "{\"instances\":[", "{\"query\":[[1,2]]},", "{}]}"},
        {API_PROTOCOL_TFSERVING, "{\"instances\":[{\"query\":[", "1,", "1]},{\"query\":[1]}]}"},
        {API_PROTOCOL_TFSERVING, "{\"instances\":[", "{},", "{}]}"},
    };
    double worst = 0.0;
    for (size_t i = 0; i < sizeof corpus / sizeof corpus[0]; i++) {
        char *body = repeat(corpus[i].start, corpus[i].unit, corpus[i].end, CAP);
        for (int known = 0; known < 2; known++) {
            int64_t length = known ? (int64_t)strlen(body) : -1;
            double share = (double)peak_of(*state, corpus[i].protocol, body, length) / CAP;
            worst = share > worst ? share : worst;
            if (share > 2.0 + 0.15) /* and the envelope's text of up to 128 KiB */
                fail_msg("%s%s...: %.2f times the cap", corpus[i].start, corpus[i].unit, share);
        }
        free(body);
    }
    print_message("worst: %.2f times the cap\n", worst);
}

static void a_short_body_reserves_no_memory_by_a_large_shape(void **state)
{
    static const char body[] = "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,262144,2],"
                               "\"datatype\":\"FP64\",\"data\":[1,2]}]}";
    refuse(*state, body, "inputs[0].data should have 524288 elements");
    assert_true(peak_of(*state, API_PROTOCOL_OIP, body, (int64_t)strlen(body)) < 65536);
}

static void mistakes_are_named_with_their_place(void **state)
{
    refuse(*state,
           "{\"inputs\":[{" QUERY ",\"data\":[1,2]},{\"name\":\"value\",\"shape\":[1,1,2],"
           "\"datatype\":\"FP32\",\"data\":[1,x]}]}",
           "inputs[1].data[1] is \"x\"");
    refuse(*state, "{\"inputs\":[{" QUERY ",\"data\":[1]}]}", "inputs[0].data has 1 elements");
    refuse(*state, "{\"inputs\":[{" QUERY ",\"data\":{\"b64\":\"AAAA!\"}}]}",
           "inputs[0].data.b64 holds");
    refuse(*state, "{\"inputs\":[{" QUERY ",\"data\":{\"b64\":\"AAAAA\"}}]}",
           "inputs[0].data.b64 has a length");
    refuse(*state, "{\"inputs\":[{\"datatype\":\"FP31\",\"data\":[\"a\"]}]}",
           "inputs[0].datatype is \"FP31\"");
    static const char row[] = "{\"instances\":[{\"query\":[[1,2]]},{\"query\":[[1,null]]}]}";
    struct api_request_head head = head_of(*state, strlen(row));
    head.protocol = API_PROTOCOL_TFSERVING;
    refuse_head(&head, row, strlen(row), 400, "instances[1].query[1] is \"null\"");
}

/* "\n" must not pass as the letter n, nor an escaped quote as the end. */
static void base64_knows_no_escape_but_the_slash(void **state)
{
    static const char slash[] =
        "{\"inputs\":[{" QUERY ",\"data\":{\"b64\":\"\\/\\/\\/\\/AAAAAAA=\"}}]}";
    refuse(*state, "{\"inputs\":[{" QUERY ",\"data\":{\"b64\":\"AAAAAAAAA\\nA=\"}}]}", "base64");
    refuse(*state, "{\"inputs\":[{" QUERY ",\"data\":{\"b64\":\"AAAAAAAAAAA=\\\"}}]}", "base64");
    for (size_t piece = 1; piece < sizeof slash; piece++) {
        struct api_request_head head = head_of(*state, strlen(slash));
        struct api_infer_request *request = accept(&head, slash, strlen(slash), piece);
        assert_memory_equal(request->call.inputs[ENGINE_QUERY].data, "\xff\xff\xff\0\0\0\0\0", 8);
        api_infer_request_destroy(request);
    }
}

static void a_member_named_b64_elsewhere_is_plain_text(void **state)
{
    static const char body[] =
        "{\"inputs\":[{" QUERY ",\"data\":[1,2]}],\"parameters\":{\"b64\":\"what it likes\"}}";
    struct api_request_head head = head_of(*state, strlen(body));
    api_infer_request_destroy(accept(&head, body, strlen(body), 3));
}

/* Clients that write every member of their types send null for what is not given. */
static void null_stands_for_an_optional_member_left_out(void **state)
{
    static const char body[] =
        "{\"id\":null,\"parameters\":null,\"inputs\":[{" QUERY ",\"parameters\":null,\"data\":[1,2]"
        "}],\"outputs\":[{\"name\":\"attention_output\",\"parameters\":null}]}";
    struct api_request_head head = head_of(*state, strlen(body));
    api_infer_request_destroy(accept(&head, body, strlen(body), 5));
    refuse(*state, "{\"inputs\":[{" QUERY ",\"data\":null}]}", "inputs[0].data is missing");
}

/* Whether a number is too long must not depend on where the network cut the body. */
static void a_number_of_too_many_digits_is_refused_in_pieces_of_every_size(void **state)
{
    char body[4096], digits[2001];
    memset(digits, '1', sizeof digits - 1);
    digits[sizeof digits - 1] = '\0';
    snprintf(body, sizeof body, "{\"inputs\":[{" QUERY ",\"data\":[0.%s, %60s]}]}", digits, "2");
    refuse(*state, body, "inputs[0].data[0]");
}

static void large_json_that_fails_learns_of_binary_tensors(void **state)
{
    char *body = repeat("{\"inputs\":[{\"data\":[", "0.25,", "x]," QUERY "}]}", 3 * CAP / 2);
    struct api_request_head head = head_of(*state, strlen(body));
    struct api_infer_request *request = NULL;
    struct engine_error err;
    head.max_body_bytes = 8 * CAP;
    assert_int_equal(decode(&head, body, strlen(body), 65536, &request, &err),
                     ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "\"x\""));
    assert_non_null(strstr(err.message, "Inference-Header-Content-Length"));
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_that_swell_stay_under_twice_the_cap),
        cmocka_unit_test(a_short_body_reserves_no_memory_by_a_large_shape),
        cmocka_unit_test(mistakes_are_named_with_their_place),
        cmocka_unit_test(base64_knows_no_escape_but_the_slash),
        cmocka_unit_test(a_member_named_b64_elsewhere_is_plain_text),
        cmocka_unit_test(null_stands_for_an_optional_member_left_out),
        cmocka_unit_test(a_number_of_too_many_digits_is_refused_in_pieces_of_every_size),
        cmocka_unit_test(large_json_that_fails_learns_of_binary_tensors),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
