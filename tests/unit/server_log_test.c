/* server_log_test.c - a line is one line, whatever a client sends. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
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

/* All lines of what "call" logs, read while it runs. */
struct reading {
    int descriptor;
    char bytes[1 << 20];
    size_t size;
};

static void *read_all(void *argument)
{
    struct reading *reading = argument;
    ssize_t got;
    while ((got = read(reading->descriptor, reading->bytes + reading->size,
                       sizeof reading->bytes - 1 - reading->size)) > 0)
        reading->size += (size_t)got;
    return NULL;
}

static size_t count(const char *bytes, const char *part)
{
    size_t found = 0;
    for (const char *at = bytes; (at = strstr(at, part)) != NULL; at++)
        found++;
    return found;
}

static void refusals_of_one_kind_are_counted_after_ten_lines_a_second(void **state)
{
    static struct reading reading;
    static const int statuses[] = {400, 404, 499, 200, 503};
    enum { EACH = 500 };
    struct server_log_request request = {.id = "i", .method = "GET", .path = "/"};
    struct engine_error err = {0};
    struct server_log *log = NULL;
    struct timespec before, after;
    pthread_t thread;
    int ends[2];
    (void)state;
    assert_int_equal(pipe(ends), 0);
    reading.descriptor = ends[0];
    assert_int_equal(pthread_create(&thread, NULL, read_all, &reading), 0);
    assert_int_equal(server_log_open(ends[1], SERVER_LOG_INFO, false, &log, &err), ENGINE_OK);
    clock_gettime(CLOCK_MONOTONIC, &before);
    for (int i = 0; i < EACH; i++)
        for (size_t s = 0; s < sizeof statuses / sizeof statuses[0]; s++) {
            request.status = statuses[s];
            server_log_request(log, &request);
        }
    clock_gettime(CLOCK_MONOTONIC, &after);
    server_log_close(log);
    close(ends[1]);
    pthread_join(thread, NULL);
    close(ends[0]);
    size_t seconds = (size_t)(after.tv_sec - before.tv_sec) + 1;
    for (size_t s = 0; s < 3; s++) {
        char part[64];
        unsigned long long left_out = 0, more;
        snprintf(part, sizeof part, " status=%d", statuses[s]);
        size_t lines = count(reading.bytes, part);
        assert_in_range(lines, 1, 10 * seconds);
        snprintf(part, sizeof part, "were answered %d", statuses[s]);
        for (const char *at = reading.bytes; (at = strstr(at, part)) != NULL; at++) {
            const char *number = at;
            while (number[-1] != '"')
                number--;
            assert_int_equal(sscanf(number, "%llu more requests", &more), 1);
            left_out += more;
        }
        assert_int_equal(lines + left_out, EACH);
    }
    assert_int_equal(count(reading.bytes, " status=200"), EACH);
    assert_int_equal(count(reading.bytes, " status=503"), EACH);
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
    struct server_log_request served = hostile;
    served.status = 200;
    for (int i = 0; i < 20000; i++) /* far more than pipe and buffer hold */
        server_log_request(log, &served);
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
        cmocka_unit_test(refusals_of_one_kind_are_counted_after_ten_lines_a_second),
        cmocka_unit_test(a_reader_that_never_reads_does_not_stop_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
