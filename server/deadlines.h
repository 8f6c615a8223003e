/* deadlines.h - absolute deadlines and minimum rates of every connection, kept by one thread.
 *
 * libmicrohttpd's own timeout starts anew with each byte, so a client with one byte a second
 * would be kept for ever. Here a connection that is too slow is told 408 (while no answer is
 * under way) and shut down; libmicrohttpd then closes it and frees what it held. Clients that
 * left while their call is computed are found by poll, and the call is cancelled.
 * Not here: the deadline of a call itself, which the engine keeps.
 * Lock: one, over all peers; nothing is called with it held but engine_job_cancel. */
#ifndef SERVER_DEADLINES_H
#define SERVER_DEADLINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

struct engine_job;
struct server_request;
struct server_deadlines;

enum server_phase {
    SERVER_PHASE_IDLE,    /* between requests, or before the first */
    SERVER_PHASE_HEADERS, /* the request line is in */
    SERVER_PHASE_BODY,
    SERVER_PHASE_COMPUTE, /* suspended; never timed here */
    SERVER_PHASE_REPLY
};

/* A connection. Created when it starts, removed before its descriptor is closed. */
struct server_peer {
    int descriptor;
    bool is_tcp;
    bool is_loopback; /* the address that was connected to */
    enum server_phase phase;
    int64_t phase_ns, request_ns; /* when the phase, when the request began */
    uint64_t bytes;               /* of the body, or acknowledged before the reply */
    bool sampled;                 /* bytes and progress are known for this reply */
    uint64_t progress;            /* of the reply: acknowledged when last looked at */
    int64_t progress_ns;          /* when that was last seen to grow */
    bool awaited;                 /* bytes of the client may come that nobody will read */
    unsigned requests;
    struct server_request *request; /* under way; I/O thread only */
    unsigned streak;        /* requests since another connection had one, this one included */
    struct engine_job *job; /* may be cancelled; NULL: none */
    bool finished;          /* the job's "done" has begun: it may not be watched any more */
    bool gone;              /* the client left, or was shut down */
    bool late;              /* it was shut down, for being too slow */
    struct server_peer *next, *previous;
};

/* Limits, in time and bytes; constants but for tests of the reaper itself. A request is late when
 * it is below bytes_per_second after grace_ns, or not complete after total_ns. A reply is late when
 * nothing of it was acknowledged for reply_ns, or when after the time t less is acknowledged than
 * bytes_per_second * (t - reply_ns): who reads in bursts may pause. */
struct server_deadlines_limits {
    int64_t idle_ns, headers_ns, grace_ns, total_ns, reply_ns;
    uint64_t bytes_per_second;
};
extern const struct server_deadlines_limits server_deadlines_default;

/* Starts the thread. Errors: OUT_OF_MEMORY, INTERNAL. */
ENGINE_MUST_CHECK enum engine_code
server_deadlines_open(const struct server_deadlines_limits *limits, struct server_deadlines **ret,
                      struct engine_error *err);
void server_deadlines_close(struct server_deadlines *deadlines); /* no peers left; NULL is fine */

/* I/O threads. Returns NULL without memory. */
struct server_peer *server_deadlines_add(struct server_deadlines *deadlines, int descriptor);
void server_deadlines_remove(struct server_deadlines *deadlines, struct server_peer *peer);
void server_deadlines_phase(struct server_deadlines *deadlines, struct server_peer *peer,
                            enum server_phase phase);
/* The phase of a reply of so many bytes. */
void server_deadlines_reply(struct server_deadlines *deadlines, struct server_peer *peer,
                            size_t bytes);
void server_deadlines_received(struct server_deadlines *deadlines, struct server_peer *peer,
                               size_t bytes);

/* The job that computes the peer's call: cancelled when the client leaves. unwatch (any thread,
 * first thing in the job's "done") returns whether it has left; the job is not cancelled after
 * it. watch may come after unwatch, when the job was quick. Long jobs are looked at every 10 ms;
 * for others the reaper is not woken, they have ended before it comes. */
void server_deadlines_watch(struct server_deadlines *deadlines, struct server_peer *peer,
                            struct engine_job *job, bool is_long);
bool server_deadlines_unwatch(struct server_deadlines *deadlines, struct server_peer *peer);

/* Before remove: whether the connection is closed by the server while its client may be sending,
 * or has sent what nobody has read. */
bool server_deadlines_lingers(struct server_deadlines *deadlines, const struct server_peer *peer);

/* Whether the peer was shut down for being too slow. */
bool server_deadlines_late(struct server_deadlines *deadlines, const struct server_peer *peer);

/* Cancels every watched job: the drain has waited long enough. */
void server_deadlines_cancel_all(struct server_deadlines *deadlines);

/* Connections in each phase; since: nanoseconds since any phase last changed. */
struct server_deadlines_counts {
    int idle, headers, body, compute, reply;
    int64_t quiet_ns;
};
void server_deadlines_count(struct server_deadlines *deadlines,
                            struct server_deadlines_counts *ret);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t server_deadlines_now(void);

#endif
