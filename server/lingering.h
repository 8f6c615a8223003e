/* lingering.h - connections that were closed while their client still sends.
 *
 * A socket that is closed with bytes unread makes the kernel send a reset, and the client's kernel
 * may then throw away the answer that was on its way. So whoever answers before the end of a
 * request hands a descriptor of the connection over, with the sending side shut down: it is read
 * on, everything is thrown away, and it is closed when the client does so, after 5 seconds
 * without a byte, after 30 seconds, after twice the largest body, or with the server.
 * At most 256 connections linger, without memory of their own; one more is closed at once.
 * One thread, never an I/O thread. Lock: one, held for no system call that waits. */
#ifndef SERVER_LINGERING_H
#define SERVER_LINGERING_H

#include <stdint.h>

#include "engine/error.h"

struct server_lingering;
struct server_metrics;

/* Limits, in time and bytes; constants but for the last and for tests. */
struct server_lingering_limits {
    int64_t total_ns, idle_ns;
    uint64_t max_bytes;
};

/* Starts the thread. max_body_bytes: --max-body. Errors: OUT_OF_MEMORY, INTERNAL. */
ENGINE_MUST_CHECK enum engine_code
server_lingering_open(const struct server_lingering_limits *limits, struct server_metrics *metrics,
                      struct server_lingering **ret, struct engine_error *err);
void server_lingering_limits(uint64_t max_body_bytes, struct server_lingering_limits *ret);
void server_lingering_close(struct server_lingering *lingering); /* NULL is fine */

/* Takes the descriptor of a connection whose sending side is shut down, and the connection's place
 * in the count of server_metrics_connection. Any thread. */
void server_lingering_take(struct server_lingering *lingering, int descriptor);

#endif
