/* server_log_test.c - a line is one line, whatever a client sends. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/log.h"

static char text[65536];

/* What one request logs, in the format given. */
static const char *logged(bool json, int level, const struct server_log_request *request)
{
    struct engine_error err = {0};
    struct server_log *log = NULL;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(server_log_open(ends[1], level, json, &log, &err), ENGINE_OK);
    server_log_request(log, request);
    server_log_event(log, SERVER_LOG_DEBUG, NULL, "detail");
    server_log_close(log);
    close(ends[1]);
    ssize_t size = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    text[size > 0 ? size : 0] = '\0';
    return text;
}

static const struct server_log_request hostile = {.id = "id-1",
                                                  .method = "GET",
                                                  .path = "/a\r\nb\"\\\x01\xff",
                                                  .status = 404,
                                                  .error = "no\nway"};

static void line_feeds_from_clients_do_not_make_lines(void **state)
{
    (void)state;
    logged(false, SERVER_LOG_INFO, &hostile);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_null(strchr(text, '\r'));
    assert_non_null(strstr(text, "path=\"/a\\x0d\\x0ab\\\"\\\\\\x01\\xff\""));
    assert_non_null(strstr(text, "id=\"id-1\""));
    assert_non_null(strstr(text, "status=404"));
}

static void json_lines_are_escaped_as_json(void **state)
{
    (void)state;
    logged(true, SERVER_LOG_INFO, &hostile);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_non_null(strstr(text, "\"path\":\"/a\\u000d\\u000ab\\\"\\\\\\u0001\\u00ff\""));
    assert_int_equal(text[0], '{');
    assert_int_equal(text[strlen(text) - 2], '}');
}

static void levels_above_the_chosen_one_are_silent(void **state)
{
    struct server_log_request broken = {.id = "i", .method = "GET", .path = "/", .status = 500};
    (void)state;
    assert_string_equal(logged(false, SERVER_LOG_ERROR, &hostile), "");
    assert_string_equal(logged(false, SERVER_LOG_WARNING, &hostile), "");
    assert_non_null(strstr(logged(false, SERVER_LOG_WARNING, &broken), "status=500"));
    assert_non_null(strstr(logged(false, SERVER_LOG_DEBUG, &hostile), "message=\"detail\""));
}

static void a_reader_that_never_reads_does_not_stop_the_caller(void **state)
{
    struct engine_error err = {0};
    struct server_log *log = NULL;
    int ends[2];
    (void)state;
    signal(SIGPIPE, SIG_IGN); /* as in the daemon */
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(server_log_open(ends[1], SERVER_LOG_INFO, false, &log, &err), ENGINE_OK);
    for (int i = 0; i < 20000; i++) /* far more than pipe and buffer hold */
        server_log_request(log, &hostile);
    close(ends[0]); /* the writer gets an error and ends */
    server_log_close(log);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(line_feeds_from_clients_do_not_make_lines),
        cmocka_unit_test(json_lines_are_escaped_as_json),
        cmocka_unit_test(levels_above_the_chosen_one_are_silent),
        cmocka_unit_test(a_reader_that_never_reads_does_not_stop_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
