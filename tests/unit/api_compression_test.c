/* api_compression_test.c - is an answer compressed only for those who prefer it, and does a request
 * that inflates without end cost no more than the cap? */
#include "tests/unit/api_support.h"

#include <zlib.h>

#include "api/compression.h"

static void only_an_explicit_preference_counts(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        enum api_coding coding;
    } cases[] = {{NULL, API_CODING_IDENTITY},
                 {"", API_CODING_IDENTITY},
                 {"gzip", API_CODING_IDENTITY},
                 {"gzip, deflate", API_CODING_IDENTITY},
                 {"gzip, deflate, br, zstd", API_CODING_IDENTITY},
                 {"*", API_CODING_IDENTITY},
                 {"gzip;q=1, identity;q=1", API_CODING_IDENTITY},
                 {"gzip;q=0.5, identity;q=0.8", API_CODING_IDENTITY},
                 {"gzip;q=0, identity;q=0", API_CODING_IDENTITY},
                 {"br, identity;q=0", API_CODING_IDENTITY},
                 {"gzip;q=1, identity;q=0.5", API_CODING_GZIP},
                 {"gzip,identity;q=0", API_CODING_GZIP},
                 {"gzip, *;q=0", API_CODING_GZIP},
                 {"GZIP ; q=0.9 , identity;q=0.001", API_CODING_GZIP},
                 {"deflate;q=1.0, gzip;q=0.5, identity;q=0.1", API_CODING_DEFLATE},
                 {"deflate, identity;q=0", API_CODING_DEFLATE}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (api_compression_preferred(cases[i].header) != cases[i].coding)
            fail_msg("\"%s\" is not read as %d", cases[i].header, cases[i].coding);
}

/* A JSON request of so many equal rows, so that its answer compresses well. */
static char *rows_of(int rows)
{
    char *body = malloc((size_t)rows * 8 + 256);
    int size = sprintf(body,
                       "{\"inputs\":[{\"name\":\"query\",\"shape\":[1,%d,2],\"datatype\":\"FP32\","
                       "\"data\":[",
                       rows);
    for (int i = 0; i < rows; i++)
        size += sprintf(body + size, "%s1,2", i > 0 ? "," : "");
    sprintf(body + size, "]}],\"outputs\":[{\"name\":\"attention_output\"}]}");
    return body;
}

static char *answer_to(struct fixture *fixture, const char *body, const char *accept_encoding,
                       struct api_reply *reply, size_t *ret_size)
{
    struct api_request_head head = head_of(fixture, strlen(body));
    head.accept_encoding = accept_encoding;
    return answer(fixture, accept(&head, body, strlen(body), 4096), reply, ret_size);
}

static void a_compressed_answer_inflates_to_the_plain_one(void **state)
{
    static const struct {
        const char *header, *coding;
        int window;
    } cases[] = {{"gzip;q=1, identity;q=0.5", "gzip", 31},
                 {"deflate, identity;q=0", "deflate", 15}};
    char *body = rows_of(2000);
    struct api_reply plain;
    size_t size = 0;
    char *text = answer_to(*state, body, "gzip, deflate", &plain, &size);
    assert_null(plain.content_encoding);
    for (size_t i = 0; i < 2; i++) {
        struct api_reply reply;
        size_t packed_size = 0;
        char *packed = answer_to(*state, body, cases[i].header, &reply, &packed_size);
        assert_string_equal(reply.content_encoding, cases[i].coding);
        assert_true(packed_size < size / 4);
        unsigned char *unpacked = malloc(size + 1);
        z_stream stream = {.next_in = (unsigned char *)packed,
                           .avail_in = (unsigned)packed_size,
                           .next_out = unpacked,
                           .avail_out = (unsigned)size + 1};
        assert_int_equal(inflateInit2(&stream, cases[i].window), Z_OK);
        assert_int_equal(inflate(&stream, Z_FINISH), Z_STREAM_END);
        assert_int_equal(stream.total_out, size);
        assert_memory_equal(unpacked, text, size);
        inflateEnd(&stream);
        free(unpacked);
        free(packed);
        api_reply_reset(((struct fixture *)*state)->engine, &reply);
    }
    free(text);
    free(body);
    api_reply_reset(((struct fixture *)*state)->engine, &plain);
}

static void a_short_answer_stays_plain(void **state)
{
    char *body = rows_of(2);
    struct api_reply reply;
    size_t size = 0;
    free(answer_to(*state, body, "gzip, identity;q=0", &reply, &size));
    assert_null(reply.content_encoding);
    free(body);
    api_reply_reset(((struct fixture *)*state)->engine, &reply);
}

/* 64 MB of one character in 64 KB: refused at the cap, not after. */
static void a_body_that_inflates_without_end_stops_at_the_cap(void **state)
{
    struct fixture *fixture = *state;
    enum { PACKED = 1 << 18, PIECE = 1 << 16 };
    static unsigned char piece[PIECE], packed[PACKED];
    static const struct {
        const char *start;
        char filler;
    } bombs[] = {{"{\"inputs\":[{\"data\":[1", '1'},
                 {"{\"inputs\":[{\"data\":[", ' '},
                 {"{\"inputs\":[{\"data\":{\"b64\":\"", 'A'},
                 {"{\"x\":\"", 'x'}};
    for (size_t b = 0; b < sizeof bombs / sizeof bombs[0]; b++) {
        z_stream stream = {.next_out = packed, .avail_out = PACKED};
        assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        stream.next_in = (unsigned char *)(uintptr_t)bombs[b].start;
        stream.avail_in = (unsigned)strlen(bombs[b].start);
        assert_int_equal(deflate(&stream, Z_NO_FLUSH), Z_OK);
        memset(piece, bombs[b].filler, sizeof piece);
        for (int i = 0; i < 1024; i++) {
            stream.next_in = piece;
            stream.avail_in = PIECE;
            assert_int_equal(deflate(&stream, i < 1023 ? Z_NO_FLUSH : Z_FINISH),
                             i < 1023 ? Z_OK : Z_STREAM_END);
        }
        struct api_request_head head = head_of(fixture, stream.total_out);
        head.content_encoding = "gzip";
        struct api_decoder *decoder = NULL;
        struct engine_error err = {0};
        size_t peak = 0;
        enum engine_code code = api_decoder_create(&head, &decoder, &err);
        for (size_t at = 0; code == ENGINE_OK && at < stream.total_out; at++) {
            code = api_decoder_feed(decoder, packed + at, 1, &err);
            struct engine_memory_facts memory;
            engine_memory(fixture->engine, &memory);
            peak = memory.taken_bytes > peak ? memory.taken_bytes : peak;
        }
        deflateEnd(&stream);
        api_decoder_destroy(decoder);
        assert_int_equal(api_error_body_status(code) / 100, 4);
        assert_true(peak <= 2 * head.max_body_bytes);
    }
}

/* Members as gzip and its parallel relatives write them, cut anywhere by the network. */
static void gzip_of_several_members_is_gzip(void **state)
{
    char *body = rows_of(200);
    size_t size = strlen(body), packed_bytes = 0, text_bytes = 0, plain_bytes = 0;
    unsigned char packed[16384];
    struct api_reply reply, plain;
    for (size_t at = 0; at < size;) {
        size_t now = size - at < 700 ? size - at : 700; /* and one member of nothing */
        z_stream stream = {.next_in = (unsigned char *)body + at,
                           .avail_in = (unsigned)(at == 700 ? 0 : now),
                           .next_out = packed + packed_bytes,
                           .avail_out = (unsigned)(sizeof packed - packed_bytes)};
        static bool was_empty;
        assert_int_equal(deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
        if (at == 700 && was_empty)
            stream.avail_in = (unsigned)now;
        was_empty = at == 700;
        size_t taken = stream.avail_in;
        assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
        packed_bytes += stream.total_out;
        at += taken;
        deflateEnd(&stream);
    }
    char *wanted = answer_to(*state, body, NULL, &plain, &plain_bytes);
    for (size_t piece = 1; piece < 4096; piece = piece * 5 + 1) {
        struct api_request_head head = head_of(*state, packed_bytes);
        head.content_encoding = "gzip";
        char *text =
            answer(*state, accept(&head, (char *)packed, packed_bytes, piece), &reply, &text_bytes);
        assert_int_equal(text_bytes, plain_bytes);
        assert_memory_equal(text, wanted, text_bytes);
        free(text);
        api_reply_reset(((struct fixture *)*state)->engine, &reply);
    }
    struct api_request_head head = head_of(*state, packed_bytes - 1);
    head.content_encoding = "gzip";
    refuse_head(&head, (char *)packed, packed_bytes - 1, 400, "ends too early");
    memcpy(packed + packed_bytes, "junk", 4);
    head = head_of(*state, packed_bytes + 4);
    head.content_encoding = "gzip";
    refuse_head(&head, (char *)packed, packed_bytes + 4, 400, "compressed body");
    free(wanted);
    free(body);
    api_reply_reset(((struct fixture *)*state)->engine, &plain);
}

static void a_damaged_stream_is_refused(void **state)
{
    static const char *const bodies[] = {"no gzip at all", "\x1f\x8b\x08", "\x78\x9c\xff\xff\xff"};
    for (size_t i = 0; i < 3; i++) {
        struct api_request_head head = head_of(*state, strlen(bodies[i]));
        head.content_encoding = i == 2 ? "deflate" : "gzip";
        refuse_head(&head, bodies[i], strlen(bodies[i]), 400, "compressed body");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_an_explicit_preference_counts),
        cmocka_unit_test(a_compressed_answer_inflates_to_the_plain_one),
        cmocka_unit_test(a_short_answer_stays_plain),
        cmocka_unit_test(a_body_that_inflates_without_end_stops_at_the_cap),
        cmocka_unit_test(gzip_of_several_members_is_gzip),
        cmocka_unit_test(a_damaged_stream_is_refused),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
