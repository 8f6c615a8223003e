/* server_lingering_test.c - is a client that still sends read on, and for how long? The ends of
 * waiting are seen by the client: its peer is gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/deadlines.h"
#include "server/lingering.h"
#include "server/metrics.h"

#define MS(n) ((n)*INT64_C(1000000))

static const struct server_lingering_limits patient = {
    .total_ns = MS(600000), .idle_ns = MS(600000), .max_bytes = 1 << 20};

struct room {
    struct server_metrics *metrics;
    struct server_lingering *lingering;
    int client;
};

static int add(struct room *room)
{
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(shutdown(ends[1], SHUT_WR), 0);
    server_metrics_connection(room->metrics, 1);
    server_lingering_take(room->lingering, ends[1]);
    return ends[0];
}

static void begin(struct room *room, const struct server_lingering_limits *limits)
{
    struct engine_error err = {0};
    room->metrics = server_metrics_create();
    assert_non_null(room->metrics);
    assert_int_equal(server_lingering_open(limits, room->metrics, &room->lingering, &err),
                     ENGINE_OK);
    room->client = add(room);
}

/* Every connection is given back in the count, however it ended. */
static void end(struct room *room)
{
    close(room->client);
    server_lingering_close(room->lingering);
    assert_int_equal(server_metrics_connections(room->metrics), 0);
    server_metrics_destroy(room->metrics);
}

/* Sends until the other side is gone, which it tells; SIGPIPE is ours to leave out. */
static size_t send_until_gone(int client)
{
    static const char piece[4096];
    size_t sent = 0;
    ssize_t now;
    while ((now = send(client, piece, sizeof piece, MSG_NOSIGNAL)) > 0)
        sent += (size_t)now;
    return sent;
}

static void what_the_client_sends_is_read_to_the_bound(void **state)
{
    struct room room;
    (void)state;
    begin(&room, &patient);
    size_t sent = send_until_gone(room.client);
    assert_true(sent > patient.max_bytes);
    assert_true(sent < 8 * patient.max_bytes); /* what two kernels and one turn hold */
    end(&room);
}

static void a_client_that_closes_is_let_go(void **state)
{
    struct room room;
    (void)state;
    begin(&room, &patient);
    assert_int_equal(send(room.client, "abc", 3, MSG_NOSIGNAL), 3);
    close(room.client);
    while (server_metrics_connections(room.metrics) > 0)
        (void)usleep(1000);
    room.client = -1;
    end(&room);
}

/* Its own end is shut down by nobody: only the other's close makes sending fail. */
static void a_silent_client_is_closed(void **state)
{
    static const struct server_lingering_limits limits = {
        .total_ns = MS(600000), .idle_ns = MS(60), .max_bytes = 1 << 20};
    struct room room;
    (void)state;
    begin(&room, &limits);
    while (server_metrics_connections(room.metrics) > 0)
        (void)usleep(1000);
    assert_int_equal(send(room.client, "a", 1, MSG_NOSIGNAL), -1);
    end(&room);
}

static void a_client_that_sends_a_byte_now_and_then_is_closed_in_the_end(void **state)
{
    static const struct server_lingering_limits limits = {
        .total_ns = MS(200), .idle_ns = MS(600000), .max_bytes = 1 << 20};
    struct room room;
    (void)state;
    begin(&room, &limits);
    while (send(room.client, "a", 1, MSG_NOSIGNAL) == 1)
        (void)usleep(1000);
    end(&room);
}

static void one_more_than_there_is_room_for_is_closed_at_once(void **state)
{
    enum { MOST = 256 };
    struct room room;
    int clients[MOST];
    (void)state;
    begin(&room, &patient);
    for (int i = 1; i <= MOST; i++)
        clients[i - 1] = add(&room);
    assert_int_equal(send(clients[MOST - 1], "a", 1, MSG_NOSIGNAL), -1);
    assert_int_equal(send(clients[MOST - 2], "a", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(server_metrics_connections(room.metrics), MOST);
    for (int i = 0; i < MOST; i++)
        close(clients[i]);
    end(&room);
}

static void all_are_gone_when_it_is_closed(void **state)
{
    struct room room;
    (void)state;
    begin(&room, &patient);
    server_lingering_close(room.lingering);
    assert_int_equal(send(room.client, "a", 1, MSG_NOSIGNAL), -1);
    room.lingering = NULL;
    end(&room);
}

static void the_bounds_are_those_of_the_protocol(void **state)
{
    struct server_lingering_limits limits;
    (void)state;
    server_lingering_limits(1000, &limits);
    assert_int_equal(limits.total_ns, MS(30000));
    assert_int_equal(limits.idle_ns, MS(5000));
    assert_int_equal(limits.max_bytes, 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_client_sends_is_read_to_the_bound),
        cmocka_unit_test(a_client_that_closes_is_let_go),
        cmocka_unit_test(a_silent_client_is_closed),
        cmocka_unit_test(a_client_that_sends_a_byte_now_and_then_is_closed_in_the_end),
        cmocka_unit_test(one_more_than_there_is_room_for_is_closed_at_once),
        cmocka_unit_test(all_are_gone_when_it_is_closed),
        cmocka_unit_test(the_bounds_are_those_of_the_protocol),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
