/* deadlines.c - see deadlines.h. */
#include "server/deadlines.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "engine/engine.h"
#include "server/origin.h"

enum {
    POLL_PEERS = 256,                   /* looked at with one system call */
    COMPUTE_TICK_NS = 10 * 1000 * 1000, /* how late a client that left is noticed */
    SHORT_BYTES = 64 * 1024             /* a reply that is sent too soon to be looked at first */
};

#define SECONDS(n) ((n)*INT64_C(1000000000))

/* 64 KiB/s is a tenth of a slow telephone line; five seconds are for its start. */
const struct server_deadlines_limits server_deadlines_default = {
    .idle_ns = SECONDS(75),
    .headers_ns = SECONDS(10),
    .grace_ns = SECONDS(5),
    .total_ns = SECONDS(600),
    .reply_ns = SECONDS(60),
    .bytes_per_second = 64 * 1024,
};

struct server_deadlines {
    struct server_deadlines_limits limits;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct server_peer *first, *last; /* of all; the one with the latest request */
    int counts[SERVER_PHASE_REPLY + 1];
    int64_t changed_ns, tick_ns;
    bool sleeps_long, stopping;
};

int64_t server_deadlines_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return SECONDS((int64_t)now.tv_sec) + now.tv_nsec;
}

static uint64_t acknowledged(const struct server_peer *peer)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    (void)getsockopt(peer->descriptor, IPPROTO_TCP, TCP_INFO, &info, &size);
    return info.tcpi_bytes_acked;
}

static bool rate_is_low(const struct server_deadlines *deadlines, uint64_t bytes, int64_t age_ns)
{
    if (age_ns <= 0)
        return false;
    return (double)bytes < (double)age_ns / 1e9 * (double)deadlines->limits.bytes_per_second;
}

static void sample(struct server_peer *peer, uint64_t bytes, int64_t now)
{
    peer->sampled = true;
    peer->bytes = bytes;
    peer->progress = 0;
    peer->progress_ns = now;
}

/* Short replies cost no system call: they are sampled when first looked at, and all of them may
 * have been acknowledged before. A unix socket tells nothing of the kind; only the total time
 * limits its replies. */
static bool reply_is_slow(const struct server_deadlines *deadlines, struct server_peer *peer,
                          int64_t now)
{
    if (!peer->is_tcp)
        return now - peer->request_ns > deadlines->limits.total_ns;
    uint64_t bytes = acknowledged(peer);
    if (!peer->sampled)
        sample(peer, bytes > SHORT_BYTES ? bytes - SHORT_BYTES : 0, now);
    bytes -= peer->bytes;
    if (bytes != peer->progress)
        peer->progress_ns = now;
    peer->progress = bytes;
    int64_t most = deadlines->limits.reply_ns;
    return now - peer->progress_ns > most ||
           rate_is_low(deadlines, bytes, now - peer->phase_ns - most);
}

static bool is_late(const struct server_deadlines *deadlines, struct server_peer *peer, int64_t now)
{
    int64_t age = now - peer->phase_ns;
    switch (peer->phase) {
    case SERVER_PHASE_IDLE:
        return age > deadlines->limits.idle_ns;
    case SERVER_PHASE_HEADERS:
        return age > deadlines->limits.headers_ns;
    case SERVER_PHASE_BODY:
        return now - peer->request_ns > deadlines->limits.total_ns ||
               rate_is_low(deadlines, peer->bytes, age - deadlines->limits.grace_ns);
    case SERVER_PHASE_REPLY:
        return reply_is_slow(deadlines, peer, now);
    case SERVER_PHASE_COMPUTE:
        break;
    }
    return false;
}

/* No byte of an answer is under way while a request comes in, so one may be written here. */
static void expel(struct server_peer *peer)
{
    static const char late[] =
        "HTTP/1.1 408 Request Timeout\r\n"
        "Content-Type: application/json\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\nContent-Length: 64\r\n\r\n"
        "{\"error\":\"the request came too slowly: 64 KiB/s is the minimum\"}";
    if (peer->phase == SERVER_PHASE_BODY || peer->phase == SERVER_PHASE_HEADERS)
        (void)!send(peer->descriptor, late, sizeof late - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(peer->descriptor, SHUT_RDWR);
    peer->gone = true;
    peer->late = true;
}

static void reap_late(struct server_deadlines *deadlines)
{
    int64_t now = server_deadlines_now();
    for (struct server_peer *peer = deadlines->first; peer != NULL; peer = peer->next)
        if (!peer->gone && is_late(deadlines, peer, now))
            expel(peer);
}

static void note_gone(struct server_peer *peer)
{
    char byte;
    if (peer->phase != SERVER_PHASE_COMPUTE) {
        /* What it sent before it left may still be read. */
        if (recv(peer->descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT) != 0)
            return;
        shutdown(peer->descriptor, SHUT_RDWR);
    }
    peer->gone = true;
    if (peer->job != NULL)
        engine_job_cancel(peer->job);
    peer->job = NULL;
}

static void poll_some(struct server_peer *const *peers, struct pollfd *polls, int count)
{
    if (count == 0 || poll(polls, (nfds_t)count, 0) <= 0)
        return;
    for (int i = 0; i < count; i++)
        if (polls[i].revents != 0)
            note_gone(peers[i]);
}

/* Clients that left while their call is computed: nothing else looks at a suspended connection.
 * With "all" also those that left before their request was complete: when the last bytes and
 * the end come together, libmicrohttpd 0.9.75 reads the bytes and never sees the end.
 * Pipelined bytes may wait on a healthy connection, so only a hang-up counts. */
static void poll_gone(struct server_deadlines *deadlines, bool all)
{
    struct server_peer *peers[POLL_PEERS];
    struct pollfd polls[POLL_PEERS];
    int count = 0;
    for (struct server_peer *peer = deadlines->first; peer != NULL; peer = peer->next) {
        bool computing = peer->phase == SERVER_PHASE_COMPUTE && peer->job != NULL;
        if (peer->gone || !(computing || (all && peer->phase < SERVER_PHASE_COMPUTE)))
            continue;
        peers[count] = peer;
        polls[count++] = (struct pollfd){peer->descriptor, POLLRDHUP, 0};
        if (count < POLL_PEERS)
            continue;
        poll_some(peers, polls, count);
        count = 0;
    }
    poll_some(peers, polls, count);
}

static void sleep_until(struct server_deadlines *deadlines, int64_t until_ns)
{
    struct timespec until = {until_ns / SECONDS(1), until_ns % SECONDS(1)};
    if (deadlines->first == NULL)
        pthread_cond_wait(&deadlines->wake, &deadlines->lock);
    else
        pthread_cond_timedwait(&deadlines->wake, &deadlines->lock, &until);
}

static void *reap(void *argument)
{
    struct server_deadlines *deadlines = argument;
    int64_t reaped_ns = 0;
    pthread_mutex_lock(&deadlines->lock);
    while (!deadlines->stopping) {
        int64_t now = server_deadlines_now();
        bool all = now - reaped_ns >= deadlines->tick_ns;
        poll_gone(deadlines, all);
        if (all) {
            reap_late(deadlines);
            reaped_ns = now;
        }
        bool computing = deadlines->counts[SERVER_PHASE_COMPUTE] > 0;
        deadlines->sleeps_long = !computing;
        sleep_until(deadlines, now + (computing ? COMPUTE_TICK_NS : deadlines->tick_ns));
        deadlines->sleeps_long = false;
    }
    pthread_mutex_unlock(&deadlines->lock);
    return NULL;
}

enum engine_code server_deadlines_open(const struct server_deadlines_limits *limits,
                                       struct server_deadlines **ret, struct engine_error *err)
{
    struct server_deadlines *deadlines = calloc(1, sizeof *deadlines);
    pthread_condattr_t attributes;
    if (deadlines == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the reaper");
    deadlines->limits = *limits;
    deadlines->tick_ns = limits->grace_ns / 20;
    pthread_mutex_init(&deadlines->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&deadlines->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    if (pthread_create(&deadlines->thread, NULL, reap, deadlines) != 0) {
        free(deadlines);
        return engine_error_set(err, ENGINE_INTERNAL, "the reaper's thread does not start");
    }
    *ret = deadlines;
    return ENGINE_OK;
}

void server_deadlines_close(struct server_deadlines *deadlines)
{
    if (deadlines == NULL)
        return;
    pthread_mutex_lock(&deadlines->lock);
    deadlines->stopping = true;
    pthread_cond_signal(&deadlines->wake);
    pthread_mutex_unlock(&deadlines->lock);
    pthread_join(deadlines->thread, NULL);
    pthread_cond_destroy(&deadlines->wake);
    pthread_mutex_destroy(&deadlines->lock);
    free(deadlines);
}

struct server_peer *server_deadlines_add(struct server_deadlines *deadlines, int descriptor)
{
    struct server_peer *peer = calloc(1, sizeof *peer);
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (peer == NULL)
        return NULL;
    peer->descriptor = descriptor;
    bool is_known = getsockname(descriptor, (struct sockaddr *)&address, &size) == 0;
    peer->is_tcp = is_known && address.ss_family != AF_UNIX;
    peer->is_loopback = is_known && server_origin_is_loopback(&address);
    peer->phase_ns = server_deadlines_now();
    peer->awaited = true;
    pthread_mutex_lock(&deadlines->lock);
    peer->next = deadlines->first;
    if (peer->next != NULL)
        peer->next->previous = peer;
    else
        pthread_cond_signal(&deadlines->wake);
    deadlines->first = peer;
    deadlines->counts[SERVER_PHASE_IDLE]++;
    deadlines->changed_ns = peer->phase_ns;
    pthread_mutex_unlock(&deadlines->lock);
    return peer;
}

void server_deadlines_remove(struct server_deadlines *deadlines, struct server_peer *peer)
{
    pthread_mutex_lock(&deadlines->lock);
    if (peer->previous != NULL)
        peer->previous->next = peer->next;
    else
        deadlines->first = peer->next;
    if (peer->next != NULL)
        peer->next->previous = peer->previous;
    deadlines->counts[peer->phase]--;
    if (deadlines->last == peer)
        deadlines->last = NULL;
    pthread_mutex_unlock(&deadlines->lock);
    free(peer);
}

static void change_phase(struct server_deadlines *deadlines, struct server_peer *peer,
                         enum server_phase phase)
{
    int64_t now = server_deadlines_now();
    deadlines->counts[peer->phase]--;
    deadlines->counts[phase]++;
    if (phase == SERVER_PHASE_HEADERS) {
        peer->request_ns = now;
        peer->requests++;
        peer->streak = deadlines->last == peer ? peer->streak + 1 : 1;
        deadlines->last = peer;
    }
    peer->phase = phase;
    peer->phase_ns = now;
    peer->bytes = 0;
    peer->sampled = false;
    peer->finished = false;
    deadlines->changed_ns = now;
}

void server_deadlines_phase(struct server_deadlines *deadlines, struct server_peer *peer,
                            enum server_phase phase)
{
    pthread_mutex_lock(&deadlines->lock);
    change_phase(deadlines, peer, phase);
    pthread_mutex_unlock(&deadlines->lock);
}

void server_deadlines_reply(struct server_deadlines *deadlines, struct server_peer *peer,
                            size_t bytes)
{
    bool is_long = bytes > SHORT_BYTES && peer->is_tcp;
    uint64_t before = is_long ? acknowledged(peer) : 0;
    pthread_mutex_lock(&deadlines->lock);
    change_phase(deadlines, peer, SERVER_PHASE_REPLY);
    if (is_long)
        sample(peer, before, peer->phase_ns);
    pthread_mutex_unlock(&deadlines->lock);
}

void server_deadlines_received(struct server_deadlines *deadlines, struct server_peer *peer,
                               size_t bytes)
{
    pthread_mutex_lock(&deadlines->lock);
    peer->bytes += bytes;
    pthread_mutex_unlock(&deadlines->lock);
}

void server_deadlines_watch(struct server_deadlines *deadlines, struct server_peer *peer,
                            struct engine_job *job, bool is_long)
{
    pthread_mutex_lock(&deadlines->lock);
    if (!peer->finished)
        peer->job = job;
    if (!peer->finished && is_long && deadlines->sleeps_long)
        pthread_cond_signal(&deadlines->wake);
    pthread_mutex_unlock(&deadlines->lock);
}

bool server_deadlines_unwatch(struct server_deadlines *deadlines, struct server_peer *peer)
{
    pthread_mutex_lock(&deadlines->lock);
    bool gone = peer->gone;
    peer->job = NULL;
    peer->finished = true;
    pthread_mutex_unlock(&deadlines->lock);
    return gone;
}

bool server_deadlines_lingers(struct server_deadlines *deadlines, const struct server_peer *peer)
{
    char byte;
    pthread_mutex_lock(&deadlines->lock);
    bool gone = peer->gone;
    pthread_mutex_unlock(&deadlines->lock);
    if (gone)
        return false;
    ssize_t unread = recv(peer->descriptor, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return unread > 0 || (unread < 0 && errno == EAGAIN && peer->awaited);
}

bool server_deadlines_late(struct server_deadlines *deadlines, const struct server_peer *peer)
{
    pthread_mutex_lock(&deadlines->lock);
    bool late = peer->late;
    pthread_mutex_unlock(&deadlines->lock);
    return late;
}

void server_deadlines_cancel_all(struct server_deadlines *deadlines)
{
    pthread_mutex_lock(&deadlines->lock);
    for (struct server_peer *peer = deadlines->first; peer != NULL; peer = peer->next) {
        if (peer->job != NULL)
            engine_job_cancel(peer->job);
        peer->job = NULL;
    }
    pthread_mutex_unlock(&deadlines->lock);
}

void server_deadlines_count(struct server_deadlines *deadlines, struct server_deadlines_counts *ret)
{
    pthread_mutex_lock(&deadlines->lock);
    ret->idle = deadlines->counts[SERVER_PHASE_IDLE];
    ret->headers = deadlines->counts[SERVER_PHASE_HEADERS];
    ret->body = deadlines->counts[SERVER_PHASE_BODY];
    ret->compute = deadlines->counts[SERVER_PHASE_COMPUTE];
    ret->reply = deadlines->counts[SERVER_PHASE_REPLY];
    ret->quiet_ns = server_deadlines_now() - deadlines->changed_ns;
    pthread_mutex_unlock(&deadlines->lock);
}
