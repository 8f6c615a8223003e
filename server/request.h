/* request.h - one HTTP request and its answer, as handlers see them: no libmicrohttpd here.
 *
 * connection.c calls a handler's functions in this order, all on the connection's I/O thread:
 *
 *     begin (headers are in) -> feed (body, in pieces) -> end (body complete) -> ... destroy
 *
 * A failure of any of them becomes the answer. "end" fills in the reply, or lends the request
 * (server_connection_lend), lets another thread fill it in, which then calls
 * server_connection_resume and does not touch the request afterwards, and suspends it
 * (server_connection_suspend), which does nothing if it is answered already. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/infer_message.h"
#include "server/framing.h"
#include "server/routes.h"
#include "server/service.h"

struct MHD_Connection;
struct server_peer;

enum { SERVER_REQUEST_ID_BYTES = 128, SERVER_REQUEST_PATH_BYTES = 200 };

/* The answer. Without text and infer the body is empty. */
struct server_reply {
    int status;               /* 0: not answered yet */
    const char *content_type; /* static; NULL: application/json */
    char *text;               /* malloc'd, freed with the reply; NULL: none */
    const char *static_text;  /* in place of text */
    size_t text_bytes;
    bool has_infer; /* infer is the body, and brings its own type and encoding */
    struct api_reply infer;
    const char *allow; /* view of the request's match; NULL: none */
    bool accept_encoding;
    int retry_after_s; /* 0: none */
    bool close;
    bool has_timing;
    int64_t queue_ns, compute_ns, encode_ns; /* Server-Timing */
};

enum server_request_stage {
    SERVER_REQUEST_HERE,
    SERVER_REQUEST_SUSPENDED,
    SERVER_REQUEST_ANSWERED
};

struct server_request {
    struct server_service *service;
    struct MHD_Connection *mhd;
    struct server_peer *peer;
    struct server_framing framing;
    struct server_match match;
    struct server_reply reply;
    struct engine_error error; /* why the reply is no success */
    void *work;                /* the handler's own */
    char *body;                /* gathered for handlers without "feed"; terminated */
    size_t body_bytes, body_capacity;
    size_t received_bytes, sent_bytes;
    int chunks;
    int64_t started_ns;     /* CLOCK_MONOTONIC, first byte of the request line known */
    int64_t body_ns;        /* body complete */
    size_t discarded_bytes; /* received after the failure */
    char method[16];
    char id[SERVER_REQUEST_ID_BYTES + 1];
    char path[SERVER_REQUEST_PATH_BYTES];
    bool begun;     /* headers were judged */
    bool counted;   /* begin was called: destroy must be */
    bool broken;    /* where it ends is not known: it is answered at once */
    bool last;      /* something in its header was not seen: the connection closes after it */
    bool suspended; /* I/O thread only */
    /* ANSWERED by the other thread: what it wrote is there for the I/O thread. */
    _Atomic enum server_request_stage stage;
};

struct server_handler {
    size_t max_body_bytes; /* 0: --max-body */
    enum engine_code (*begin)(struct server_request *request, struct engine_error *err);
    /* NULL: connection.c gathers the body */
    enum engine_code (*feed)(struct server_request *request, const void *bytes, size_t size,
                             struct engine_error *err);
    enum engine_code (*end)(struct server_request *request, struct engine_error *err);
    void (*destroy)(struct server_request *request); /* NULL: nothing to do */
};

/* I/O thread, before another thread gets the request. */
void server_connection_lend(struct server_request *request);
/* I/O thread, last thing in "end" of a request that was lent. */
void server_connection_suspend(struct server_request *request);
/* Called by the thread that has it, last: the request is answered by request->error or
 * request->reply. */
void server_connection_resume(struct server_request *request);

#endif
