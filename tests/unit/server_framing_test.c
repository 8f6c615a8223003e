/* server_framing_test.c - what two servers could read differently is refused, row by row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/limits.h"
#include "server/framing.h"

/* Headers as "Name: value" strings, NULL at the end. Host is added unless no_host. */
static enum engine_code judge(struct server_framing *framing, const char *version, bool no_host,
                              const char *const *lines)
{
    struct engine_error err = {0};
    server_framing_init(framing, "/");
    if (!no_host)
        server_framing_header(framing, "Host", 4, "a", 1);
    for (; *lines != NULL; lines++) {
        static char name[64];
        const char *colon = strchr(*lines, ':');
        memcpy(name, *lines, (size_t)(colon - *lines));
        name[colon - *lines] = '\0';
        server_framing_header(framing, name, strlen(name), colon + 2, strlen(colon + 2));
    }
    return server_framing_check(framing, version, &err);
}

#define JUDGE(framing, ...)                                                                        \
    judge(framing, "HTTP/1.1", false, (const char *const[]){__VA_ARGS__, NULL})

static void a_content_length_is_read(void **state)
{
    struct server_framing framing;
    (void)state;
    assert_int_equal(JUDGE(&framing, "content-length: 142"), ENGINE_OK);
    assert_true(framing.has_body);
    assert_int_equal(framing.content_length, 142);
}

static void chunked_is_a_body_of_unknown_length(void **state)
{
    struct server_framing framing;
    (void)state;
    assert_int_equal(JUDGE(&framing, "Transfer-Encoding: Chunked"), ENGINE_OK);
    assert_true(framing.has_body);
    assert_int_equal(framing.content_length, -1);
}

static void neither_header_means_no_body(void **state)
{
    struct server_framing framing;
    (void)state;
    assert_int_equal(JUDGE(&framing, "Accept: */*"), ENGINE_OK);
    assert_false(framing.has_body);
    assert_int_equal(framing.content_length, 0);
    assert_string_equal(framing.accept, "*/*");
}

static void ambiguous_framing_is_refused(void **state)
{
    static const char *const cases[][3] = {
        {"Content-Length: 3", "Content-Length: 4", NULL},
        {"Content-Length: 3", "Content-Length: 3", NULL},
        {"Content-Length: 3", "Transfer-Encoding: chunked", NULL},
        {"Transfer-Encoding: xchunked", NULL, NULL},
        {"Transfer-Encoding: gzip, chunked", NULL, NULL},
        {"Transfer-Encoding: identity", NULL, NULL},
        {"Transfer-Encoding: ", NULL, NULL},
        {"Transfer-Encoding: chunked", "Transfer-Encoding: identity", NULL},
        {"Transfer-Encoding : chunked", NULL, NULL},
        {"Content-Length : 3", NULL, NULL},
        {"Content-Length: +3", NULL, NULL},
        {"Content-Length: -1", NULL, NULL},
        {"Content-Length: 0x3", NULL, NULL},
        {"Content-Length: 3, 3", NULL, NULL},
        {"Content-Length: ", NULL, NULL},
        {"Host: b", NULL, NULL},
        {"Content-Encoding: gzip", "Content-Encoding: identity", NULL},
    };
    struct server_framing framing;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (judge(&framing, "HTTP/1.1", false, cases[i]) != ENGINE_INVALID_ARGUMENT)
            fail_msg("accepted: %s", cases[i][0]);
}

static void a_content_length_beyond_all_memory_is_too_large(void **state)
{
    struct server_framing framing;
    (void)state;
    assert_int_equal(JUDGE(&framing, "Content-Length: 18446744073709551615"), ENGINE_TOO_LARGE);
    assert_int_equal(JUDGE(&framing, "Content-Length: 99999999999999999999999"), ENGINE_TOO_LARGE);
}

static void http_1_0_needs_no_host_and_has_no_chunks(void **state)
{
    static const char *const none[] = {NULL};
    static const char *const chunked[] = {"Transfer-Encoding: chunked", NULL};
    struct server_framing framing;
    (void)state;
    assert_int_equal(judge(&framing, "HTTP/1.0", true, none), ENGINE_OK);
    assert_int_equal(judge(&framing, "HTTP/1.1", true, none), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(judge(&framing, "HTTP/1.0", false, chunked), ENGINE_INVALID_ARGUMENT);
}

static void white_space_behind_a_value_is_no_part_of_it(void **state)
{
    struct server_framing framing;
    (void)state;
    assert_int_equal(JUDGE(&framing, "Content-Length: 142 \t ", "Content-Encoding: gzip\t",
                           "Inference-Header-Content-Length: 7 ", "X-Request-Id: a  "),
                     ENGINE_OK);
    assert_int_equal(framing.content_length, 142);
    assert_string_equal(server_framing_text(&framing.content_encoding), "gzip");
    assert_string_equal(server_framing_text(&framing.header_content_length), "7");
    assert_int_equal(framing.request_id_length, 1);
    assert_int_equal(JUDGE(&framing, "Transfer-Encoding: chunked \t"), ENGINE_OK);
    assert_int_equal(framing.content_length, -1);
    assert_true(framing.coding.padded);
}

/* What is cut must not be another value: here a length of 47 zeros before the 5. */
static void a_value_that_is_too_long_to_keep_is_none_that_is_understood(void **state)
{
    struct server_framing framing;
    (void)state;
    assert_int_equal(
        JUDGE(&framing, "Content-Length: 000000000000000000000000000000000000000000000005"),
        ENGINE_INVALID_ARGUMENT);
    assert_int_equal(JUDGE(&framing, "Content-Encoding: "
                                     "gzip                                                    x"),
                     ENGINE_OK);
    assert_int_equal(strlen(framing.content_encoding.text),
                     sizeof framing.content_encoding.text - 1);
}

static void expectations_are_read(void **state)
{
    struct server_framing framing;
    (void)state;
    assert_int_equal(JUDGE(&framing, "Expect: 100-Continue "), ENGINE_OK);
    assert_true(server_framing_expects(&framing));
    assert_int_equal(JUDGE(&framing, "Expect: 200-ok"), ENGINE_OK);
    assert_false(server_framing_expects(&framing));
}

static void control_bytes_are_refused(void **state)
{
    struct server_framing framing;
    struct engine_error err = {0};
    char line[] = "X-A: b?c", target[] = "/v2?x";
    (void)state;
    for (int c = 1; c < 256; c++) {
        bool is_control = (c < 0x20 && c != '\t') || c == 0x7f;
        line[6] = (char)c;
        assert_int_equal(JUDGE(&framing, line), is_control ? ENGINE_INVALID_ARGUMENT : ENGINE_OK);
        target[3] = (char)c;
        engine_error_clear(&err);
        server_framing_init(&framing, target);
        server_framing_header(&framing, "Host", 4, "a", 1);
        assert_int_equal(server_framing_check(&framing, "HTTP/1.1", &err),
                         is_control || c == '\t' ? ENGINE_INVALID_ARGUMENT : ENGINE_OK);
    }
}

static void a_header_is_as_large_as_its_parts_or_hides_something(void **state)
{
    struct server_framing framing;
    size_t plain = strlen("GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n");
    (void)state;
    assert_int_equal(JUDGE(&framing, "X-A: b"), ENGINE_OK);
    assert_false(server_framing_hides(&framing, "GET", plain));
    assert_true(server_framing_hides(&framing, "GET", plain + 1));
    assert_true(server_framing_hides(&framing, "GET", plain - 1));
}

static void a_nul_in_a_value_is_refused(void **state)
{
    struct server_framing framing;
    struct engine_error err = {0};
    (void)state;
    server_framing_init(&framing, "/");
    server_framing_header(&framing, "Host", 4, "a", 1);
    server_framing_header(&framing, "X-A", 3, "a\0b", 3);
    assert_int_equal(server_framing_check(&framing, "HTTP/1.1", &err), ENGINE_INVALID_ARGUMENT);
}

static void one_header_more_than_the_limit_is_too_many(void **state)
{
    struct server_framing framing;
    struct engine_error err = {0};
    (void)state;
    server_framing_init(&framing, "/");
    server_framing_header(&framing, "Host", 4, "a", 1);
    for (int i = 1; i < API_MAX_HEADERS; i++)
        server_framing_header(&framing, "X-A", 3, "a", 1);
    assert_int_equal(server_framing_check(&framing, "HTTP/1.1", &err), ENGINE_OK);
    server_framing_header(&framing, "X-A", 3, "a", 1);
    assert_int_equal(server_framing_check(&framing, "HTTP/1.1", &err), ENGINE_HEADERS_TOO_MANY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_content_length_is_read),
        cmocka_unit_test(chunked_is_a_body_of_unknown_length),
        cmocka_unit_test(neither_header_means_no_body),
        cmocka_unit_test(ambiguous_framing_is_refused),
        cmocka_unit_test(a_content_length_beyond_all_memory_is_too_large),
        cmocka_unit_test(http_1_0_needs_no_host_and_has_no_chunks),
        cmocka_unit_test(white_space_behind_a_value_is_no_part_of_it),
        cmocka_unit_test(a_value_that_is_too_long_to_keep_is_none_that_is_understood),
        cmocka_unit_test(expectations_are_read),
        cmocka_unit_test(control_bytes_are_refused),
        cmocka_unit_test(a_header_is_as_large_as_its_parts_or_hides_something),
        cmocka_unit_test(a_nul_in_a_value_is_refused),
        cmocka_unit_test(one_header_more_than_the_limit_is_too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
