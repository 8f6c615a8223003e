/* api_exchanges_test.c - are the bytes that tritonclient sends understood, and are the answers the
 * bytes that it reads? Each exchange is a request as that client writes it, with the layer's own
 * names, and the whole answer. Values of attention_output are the layer's and are not compared. */
#include "tests/unit/api_support.h"

#include <zlib.h>

static const char request_a[] =
    "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\",\"parameters\":{"
    "\"binary_data_size\":8}}],\"parameters\":{\"binary_data_output\":true}}";
static const char answer_a[] =
    "{\"model_name\":\"m\",\"model_version\":\"1\",\"parameters\":{\"precision\":\"f32\"},"
    "\"outputs\":[{\"name\":\"attention_output\","
    "\"datatype\":\"FP32\",\"shape\":[1,1,2],\"parameters\":{\"binary_data_size\":8}},{\"name\":"
    "\"attention_scores\",\"datatype\":\"FP32\",\"shape\":[1,2,1,1],\"parameters\":{"
    "\"binary_data_size\":8}}]}";
static const unsigned char ones[8] = {0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f};

struct exchange {
    const char *json;
    const void *tail; /* of the request */
    size_t tail_bytes;
    bool has_header;    /* Inference-Header-Content-Length */
    const char *answer; /* its JSON */
    size_t answer_tail; /* bytes of binary data behind it; 0: no header */
};

static char *join(const struct exchange *x, size_t *ret_size)
{
    size_t json = strlen(x->json);
    char *body = malloc(json + x->tail_bytes + 1);
    memcpy(body, x->json, json);
    if (x->tail_bytes > 0)
        memcpy(body + json, x->tail, x->tail_bytes);
    *ret_size = json + x->tail_bytes;
    return body;
}

/* Sends body under the headers of head and compares the whole answer. */
static void exchange(struct fixture *fixture, struct api_request_head *head,
                     const struct exchange *x, const char *body, size_t size)
{
    char length[24];
    snprintf(length, sizeof length, "%zu", strlen(x->json));
    head->header_content_length = x->has_header ? length : NULL;
    for (size_t piece = 1; piece <= size; piece = 2 * piece + 1) {
        struct api_reply reply;
        size_t bytes = 0, json = strlen(x->answer);
        char *text = answer(fixture, accept(head, body, size, piece), &reply, &bytes);
        assert_int_equal(bytes, json + x->answer_tail);
        assert_memory_equal(text, x->answer, json);
        assert_string_equal(reply.content_type,
                            x->answer_tail > 0 ? "application/octet-stream" : "application/json");
        assert_int_equal(reply.header_content_length, x->answer_tail > 0 ? (int)json : -1);
        assert_null(reply.content_encoding);
        free(text);
        api_reply_reset(fixture->engine, &reply);
    }
}

static void plain_exchange(struct fixture *fixture, const struct exchange *x)
{
    size_t size = 0;
    char *body = join(x, &size);
    struct api_request_head head = head_of(fixture, size);
    exchange(fixture, &head, x, body, size);
    head.content_length = -1; /* the same in chunks */
    exchange(fixture, &head, x, body, size);
    free(body);
}

static const struct exchange exchange_a = {request_a, ones, sizeof ones, true, answer_a, 16};

static void a_the_default_request_is_binary_both_ways(void **state)
{
    plain_exchange(*state, &exchange_a);
}

static void b_compressed_requests_keep_the_length_of_their_json(void **state)
{
    size_t size = 0;
    char *body = join(&exchange_a, &size);
    static const struct {
        const char *name;
        int window;
    } codings[] = {{"gzip", 31}, {"deflate", 15}};
    for (size_t i = 0; i < 2; i++) {
        unsigned char packed[512];
        z_stream stream = {0};
        assert_int_equal(
            deflateInit2(&stream, 6, Z_DEFLATED, codings[i].window, 8, Z_DEFAULT_STRATEGY), Z_OK);
        stream.next_in = (unsigned char *)body;
        stream.avail_in = (unsigned)size;
        stream.next_out = packed;
        stream.avail_out = sizeof packed;
        assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
        struct api_request_head head = head_of(*state, stream.total_out);
        head.content_encoding = codings[i].name;
        exchange(*state, &head, &exchange_a, (const char *)packed, stream.total_out);
        deflateEnd(&stream);
    }
    free(body);
}

/* The header is there, and nothing behind the JSON: that is a binary input all the same. */
static void c_an_empty_binary_input_is_one(void **state)
{
    static const struct exchange x = {
        "{\"inputs\":[{\"name\":\"query\",\"shape\":[0,1,2],\"datatype\":\"FP32\",\"parameters\":{"
        "\"binary_data_size\":0}}],\"parameters\":{\"binary_data_output\":true}}",
        NULL,
        0,
        true,
        "{\"model_name\":\"m\",\"model_version\":\"1\",\"parameters\":{\"precision\":\"f32\"},"
        "\"outputs\":[{\"name\":\"attention_output\","
        "\"datatype\":\"FP32\",\"shape\":[0,1,2],\"parameters\":{\"binary_data_size\":0}},{"
        "\"name\":\"attention_scores\",\"datatype\":\"FP32\",\"shape\":[0,2,1,1],\"parameters\":{"
        "\"binary_data_size\":0}}]}",
        0};
    plain_exchange(*state, &x);
}

static void d_binary_and_json_mix_both_ways(void **state)
{
    static const struct exchange x = {
        "{\"id\":\"7\\u00e4/\",\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":"
        "\"FP32\",\"parameters\":{\"binary_data_size\":8}},{\"name\":\"value\",\"shape\":[1,2,2],"
        "\"datatype\":\"FP32\",\"data\":[1.0,1.0,1.0,1.0]}],\"outputs\":[{\"name\":"
        "\"attention_output\",\"parameters\":{\"binary_data\":true}},{\"name\":"
        "\"attention_scores\",\"parameters\":{\"binary_data\":false}}],\"parameters\":{"
        "\"priority\":1,\"timeout\":5000,\"k\":1}}",
        ones,
        sizeof ones,
        true,
        "{\"id\":\"7\xc3\xa4/"
        "\",\"model_name\":\"m\",\"model_version\":\"1\",\"parameters\":{\"precision\":\"f32\"},"
        "\"outputs\":[{"
        "\"name\":\"attention_output\",\"datatype\":\"FP32\",\"shape\":[1,1,2],\"parameters\":{"
        "\"binary_data_size\":8}},{\"name\":\"attention_scores\",\"datatype\":\"FP32\",\"shape\":"
        "[1,2,1,2],\"data\":[0.5,0.5,0.5,0.5]}]}",
        8};
    plain_exchange(*state, &x);
    size_t size = 0;
    char *body = join(&x, &size), length[24];
    struct api_request_head head = head_of(*state, size);
    snprintf(length, sizeof length, "%zu", strlen(x.json));
    head.header_content_length = length;
    struct api_infer_request *request = accept(&head, body, size, size);
    assert_int_equal(request->timeout_us, 5000);
    assert_int_equal(request->priority, 1);
    api_infer_request_destroy(request);
    free(body);
}

static void e_bfloat16_and_booleans_are_read_as_bytes_and_as_text(void **state)
{
    static const char binary[] =
        "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"BF16\",\"parameters\":{"
        "\"binary_data_size\":4}},{\"name\":\"attention_mask\",\"shape\":[1,1,1],\"datatype\":"
        "\"BOOL\",\"parameters\":{\"binary_data_size\":1}}],\"outputs\":[{\"name\":"
        "\"attention_scores\"}]}";
    static const char text[] =
        "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"BF16\",\"data\":[1,1]},"
        "{\"name\":\"attention_mask\",\"shape\":[1,1,1],\"datatype\":\"BOOL\",\"data\":[true]}],"
        "\"outputs\":[{\"name\":\"attention_scores\"}]}";
    static const char scores[] =
        "{\"model_name\":\"m\",\"model_version\":\"1\",\"parameters\":{\"precision\":\"f32\"},"
        "\"outputs\":[{\"name\":\"attention_scores\","
        "\"datatype\":\"FP32\",\"shape\":[1,2,1,1],\"data\":[1,1]}]}";
    static const unsigned char bytes[] = {0x80, 0x3f, 0x80, 0x3f, 1};
    const struct exchange x = {binary, bytes, sizeof bytes, true, scores, 0};
    const struct exchange y = {text, NULL, 0, false, scores, 0};
    plain_exchange(*state, &x);
    plain_exchange(*state, &y);
    struct api_request_head head = head_of(*state, strlen(text));
    struct api_infer_request *request = accept(&head, text, strlen(text), 9);
    assert_memory_equal(request->call.inputs[ENGINE_QUERY].data, bytes, 4);
    assert_memory_equal(request->call.inputs[ENGINE_ATTENTION_MASK].data, bytes + 4, 1);
    api_infer_request_destroy(request);
    refuse(*state,
           "{\"inputs\":[{\"name\":\"query\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"a\"]"
           "}]}",
           "inputs[0].datatype is \"BYTES\"");
}

/* tritonclient names a region on outputs beside "binary_data": false. */
static void f_shared_memory_is_refused_by_its_name(void **state)
{
    refuse(*state,
           "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,1,2],\"datatype\":\"FP32\","
           "\"parameters\":{\"shared_memory_region\":\"r\",\"shared_memory_byte_size\":8}}]}",
           "shared memory");
    refuse(*state,
           "{\"inputs\":[],\"outputs\":[{\"name\":\"attention_output\",\"parameters\":{"
           "\"binary_data\":false,\"shared_memory_region\":\"r\",\"shared_memory_byte_size\":64,"
           "\"shared_memory_offset\":8}}]}",
           "shared_memory_region");
}

/* The asyncio client asks for gzip by habit and does not unpack what is no inference answer. */
static void g_habitual_headers_change_nothing(void **state)
{
    size_t size = 0;
    char *body = join(&exchange_a, &size);
    struct api_request_head head = head_of(*state, size);
    head.accept = "*/*";
    head.accept_encoding = "gzip, deflate";
    head.content_type = "application/octet-stream";
    exchange(*state, &head, &exchange_a, body, size);
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_the_default_request_is_binary_both_ways),
        cmocka_unit_test(b_compressed_requests_keep_the_length_of_their_json),
        cmocka_unit_test(c_an_empty_binary_input_is_one),
        cmocka_unit_test(d_binary_and_json_mix_both_ways),
        cmocka_unit_test(e_bfloat16_and_booleans_are_read_as_bytes_and_as_text),
        cmocka_unit_test(f_shared_memory_is_refused_by_its_name),
        cmocka_unit_test(g_habitual_headers_change_nothing),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
