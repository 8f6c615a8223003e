/* server_deadlines_test.c - connections that are too slow are told so and closed. Each test waits
 * by reading the client's end until the reaper closes it. */
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/deadlines.h"

#define MS(n) ((n)*INT64_C(1000000))

static const struct server_deadlines_limits quick = {.idle_ns = MS(60),
                                                     .headers_ns = MS(60),
                                                     .grace_ns = MS(60),
                                                     .total_ns = MS(60000),
                                                     .reply_ns = MS(60),
                                                     .bytes_per_second = 1000};

struct pair {
    struct server_deadlines *deadlines;
    struct server_peer *peer;
    int client, server;
};

static void open_pair(struct pair *pair, const struct server_deadlines_limits *limits)
{
    struct engine_error err = {0};
    int ends[2];
    assert_int_equal(server_deadlines_open(limits, &pair->deadlines, &err), ENGINE_OK);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    pair->client = ends[0];
    pair->server = ends[1];
    pair->peer = server_deadlines_add(pair->deadlines, pair->server);
    assert_non_null(pair->peer);
}

static void close_pair(struct pair *pair)
{
    server_deadlines_remove(pair->deadlines, pair->peer);
    server_deadlines_close(pair->deadlines);
    close(pair->client);
    close(pair->server);
}

/* Everything until the end of the stream. */
static size_t read_all(int descriptor, char *text, size_t size)
{
    size_t used = 0;
    ssize_t got;
    while ((got = read(descriptor, text + used, size - 1 - used)) > 0)
        used += (size_t)got;
    text[used] = '\0';
    return used;
}

static void a_silent_connection_is_closed_without_a_word(void **state)
{
    struct pair pair;
    char text[1024];
    (void)state;
    open_pair(&pair, &quick);
    assert_int_equal(read_all(pair.client, text, sizeof text), 0);
    close_pair(&pair);
}

static void headers_that_do_not_end_are_408(void **state)
{
    struct pair pair;
    char text[1024];
    (void)state;
    open_pair(&pair, &quick);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_HEADERS);
    assert_true(read_all(pair.client, text, sizeof text) > 0);
    assert_ptr_equal(strstr(text, "HTTP/1.1 408 "), text);
    close_pair(&pair);
}

static void the_408_has_the_length_it_says(void **state)
{
    struct pair pair;
    char text[1024];
    (void)state;
    open_pair(&pair, &quick);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_HEADERS);
    read_all(pair.client, text, sizeof text);
    const char *body = strstr(text, "\r\n\r\n") + 4;
    char length[40];
    snprintf(length, sizeof length, "Content-Length: %zu\r\n", strlen(body));
    assert_non_null(strstr(text, length));
    close_pair(&pair);
}

static void a_body_of_a_byte_now_and_then_is_408(void **state)
{
    struct pair pair;
    char text[1024];
    (void)state;
    open_pair(&pair, &quick);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_HEADERS);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_BODY);
    server_deadlines_received(pair.deadlines, pair.peer, 1);
    assert_true(read_all(pair.client, text, sizeof text) > 0);
    assert_ptr_equal(strstr(text, "HTTP/1.1 408 "), text);
    close_pair(&pair);
}

/* The slow one is expelled by the same look at the table that spares the quick one. */
static void a_body_that_is_quick_enough_stays(void **state)
{
    struct pair pair;
    char text[1024];
    int ends[2];
    (void)state;
    open_pair(&pair, &quick);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct server_peer *fast = server_deadlines_add(pair.deadlines, ends[1]);
    server_deadlines_phase(pair.deadlines, fast, SERVER_PHASE_HEADERS);
    server_deadlines_phase(pair.deadlines, fast, SERVER_PHASE_BODY);
    server_deadlines_received(pair.deadlines, fast, 1000000);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_HEADERS);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_BODY);
    assert_true(read_all(pair.client, text, sizeof text) > 0);
    assert_int_equal(recv(ends[0], text, sizeof text, MSG_DONTWAIT), -1);
    server_deadlines_remove(pair.deadlines, fast);
    close(ends[0]);
    close(ends[1]);
    close_pair(&pair);
}

/* The server's end is shut down by the reaper, which its own reader sees. */
static void a_client_that_left_in_its_body_is_closed_at_once(void **state)
{
    static const struct server_deadlines_limits slow = {.idle_ns = MS(600000),
                                                        .headers_ns = MS(600000),
                                                        .grace_ns = MS(2000),
                                                        .total_ns = MS(600000),
                                                        .bytes_per_second = 0};
    struct pair pair;
    (void)state;
    open_pair(&pair, &slow);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_HEADERS);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_BODY);
    shutdown(pair.client, SHUT_WR);
    char text[16];
    assert_int_equal(read_all(pair.client, text, sizeof text), 0);
    close_pair(&pair);
}

/* ---- replies, over TCP: a unix socket tells nothing of what was acknowledged ---------------- */

static void open_tcp_pair(struct pair *pair, const struct server_deadlines_limits *limits)
{
    struct engine_error err = {0};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int bytes = 4096, listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(server_deadlines_open(limits, &pair->deadlines, &err), ENGINE_OK);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    pair->client = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(pair->client, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    assert_int_equal(connect(pair->client, (struct sockaddr *)&address, size), 0);
    pair->server = accept(listener, NULL, NULL);
    assert_true(pair->server >= 0);
    close(listener);
    pair->peer = server_deadlines_add(pair->deadlines, pair->server);
    assert_non_null(pair->peer);
}

/* As much as the kernel takes. */
static void fill(const struct pair *pair)
{
    static char piece[65536];
    while (send(pair->server, piece, sizeof piece, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        ;
}

static bool is_late(const struct pair *pair)
{
    return server_deadlines_late(pair->deadlines, pair->peer);
}

static void a_reader_that_takes_nothing_is_cut(void **state)
{
    struct pair pair;
    char text[16];
    (void)state;
    open_tcp_pair(&pair, &quick);
    server_deadlines_reply(pair.deadlines, pair.peer, 1 << 30);
    fill(&pair);
    /* Nothing is read: the reaper shuts the server's end down, whose reader sees the end. */
    assert_int_equal(read(pair.server, text, sizeof text), 0);
    assert_true(is_late(&pair));
    close_pair(&pair);
}

static void a_reader_that_takes_a_byte_now_and_then_is_cut(void **state)
{
    static const struct server_deadlines_limits limits = {.idle_ns = MS(600000),
                                                          .grace_ns = MS(60),
                                                          .total_ns = MS(600000),
                                                          .reply_ns = MS(200),
                                                          .bytes_per_second = 1000000000};
    struct pair pair;
    char text[512];
    (void)state;
    open_tcp_pair(&pair, &limits);
    server_deadlines_reply(pair.deadlines, pair.peer, 1 << 30);
    while (!is_late(&pair)) {
        fill(&pair);
        assert_true(read(pair.client, text, sizeof text) > 0);
        (void)usleep(1000);
    }
    close_pair(&pair);
}

/* A pause that is long for a request, and not for a reply; the neighbour, which is silent, tells
 * when the reaper has looked at both again and again. */
static void a_reader_that_pauses_is_not_cut(void **state)
{
    static const struct server_deadlines_limits limits = {.idle_ns = MS(300),
                                                          .grace_ns = MS(20),
                                                          .total_ns = MS(20),
                                                          .reply_ns = MS(600000),
                                                          .bytes_per_second = 1 << 30};
    struct pair pair;
    char text[16];
    int ends[2];
    (void)state;
    open_tcp_pair(&pair, &limits);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_HEADERS);
    server_deadlines_reply(pair.deadlines, pair.peer, 1 << 30);
    fill(&pair);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct server_peer *silent = server_deadlines_add(pair.deadlines, ends[1]);
    assert_int_equal(read_all(ends[0], text, sizeof text), 0);
    assert_false(is_late(&pair));
    server_deadlines_remove(pair.deadlines, silent);
    close(ends[0]);
    close(ends[1]);
    close_pair(&pair);
}

static void the_bounds_of_a_reply_are_those_of_the_protocol(void **state)
{
    (void)state;
    assert_int_equal(server_deadlines_default.reply_ns, MS(60000));
    assert_int_equal(server_deadlines_default.bytes_per_second, 65536);
}

/* ---- whose unread bytes are waited for ------------------------------------------------------ */

static void only_clients_that_may_still_send_are_lingered_for(void **state)
{
    struct pair pair;
    char byte;
    (void)state;
    open_pair(&pair, &server_deadlines_default);
    assert_true(server_deadlines_lingers(pair.deadlines, pair.peer)); /* no request yet */
    pair.peer->awaited = false;
    assert_false(server_deadlines_lingers(pair.deadlines, pair.peer));
    assert_int_equal(write(pair.client, "a", 1), 1);
    assert_true(server_deadlines_lingers(pair.deadlines, pair.peer)); /* unread */
    assert_int_equal(read(pair.server, &byte, 1), 1);
    pair.peer->awaited = true;
    shutdown(pair.client, SHUT_WR);
    assert_false(server_deadlines_lingers(pair.deadlines, pair.peer)); /* it has left */
    close_pair(&pair);
}

static void phases_are_counted(void **state)
{
    struct pair pair;
    struct server_deadlines_counts counts;
    (void)state;
    open_pair(&pair, &server_deadlines_default);
    server_deadlines_count(pair.deadlines, &counts);
    assert_int_equal(counts.idle, 1);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_HEADERS);
    server_deadlines_phase(pair.deadlines, pair.peer, SERVER_PHASE_COMPUTE);
    server_deadlines_count(pair.deadlines, &counts);
    assert_int_equal(counts.idle + counts.headers, 0);
    assert_int_equal(counts.compute, 1);
    assert_false(server_deadlines_unwatch(pair.deadlines, pair.peer));
    close_pair(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_connection_is_closed_without_a_word),
        cmocka_unit_test(headers_that_do_not_end_are_408),
        cmocka_unit_test(the_408_has_the_length_it_says),
        cmocka_unit_test(a_body_of_a_byte_now_and_then_is_408),
        cmocka_unit_test(a_body_that_is_quick_enough_stays),
        cmocka_unit_test(a_client_that_left_in_its_body_is_closed_at_once),
        cmocka_unit_test(a_reader_that_takes_nothing_is_cut),
        cmocka_unit_test(a_reader_that_takes_a_byte_now_and_then_is_cut),
        cmocka_unit_test(a_reader_that_pauses_is_not_cut),
        cmocka_unit_test(the_bounds_of_a_reply_are_those_of_the_protocol),
        cmocka_unit_test(only_clients_that_may_still_send_are_lingered_for),
        cmocka_unit_test(phases_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
