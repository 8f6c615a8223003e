/* lingering.c - see lingering.h. */
#include "server/lingering.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/deadlines.h"
#include "server/metrics.h"

enum {
    MOST = 256,
    PIECE_BYTES = 64 * 1024,
    PIECES = 16 /* read of one connection before it is another's turn */
};

#define SECONDS(n) ((n)*INT64_C(1000000000))

struct lingerer {
    int64_t until_ns, heard_ns;
    uint64_t bytes;
};

struct server_lingering {
    struct server_lingering_limits limits;
    struct server_metrics *metrics;
    pthread_t thread;
    pthread_mutex_t lock;
    int wake;                 /* an eventfd: there are new ones, or it is over */
    bool stopping;            /* with the lock */
    int waiting[MOST];        /* new ones, with the lock */
    int waiting_count, count; /* of new ones; of all, with the lock */
    /* The thread's own; polls[0] is wake, polls[i + 1] belongs to lingerers[i]. */
    struct lingerer lingerers[MOST];
    struct pollfd polls[MOST + 1];
    int taken;
    char piece[PIECE_BYTES];
};

void server_lingering_limits(uint64_t max_body_bytes, struct server_lingering_limits *ret)
{
    *ret = (struct server_lingering_limits){
        .total_ns = SECONDS(30), .idle_ns = SECONDS(5), .max_bytes = 2 * max_body_bytes};
}

/* ---- the thread ------------------------------------------------------------------------- */

static void let_go(struct server_lingering *lingering, int descriptor)
{
    close(descriptor);
    server_metrics_connection(lingering->metrics, -1);
    server_metrics_lingering(lingering->metrics, -1);
}

/* Returns false when it is over. */
static bool take_new(struct server_lingering *lingering)
{
    int64_t now = server_deadlines_now();
    pthread_mutex_lock(&lingering->lock);
    for (int i = 0; i < lingering->waiting_count; i++) {
        int at = lingering->taken++;
        lingering->lingerers[at] = (struct lingerer){now + lingering->limits.total_ns, now, 0};
        lingering->polls[at + 1] = (struct pollfd){lingering->waiting[i], POLLIN, 0};
    }
    lingering->waiting_count = 0;
    bool goes_on = !lingering->stopping;
    pthread_mutex_unlock(&lingering->lock);
    return goes_on;
}

static void drop(struct server_lingering *lingering, int at)
{
    let_go(lingering, lingering->polls[at + 1].fd);
    int last = --lingering->taken;
    lingering->lingerers[at] = lingering->lingerers[last];
    lingering->polls[at + 1] = lingering->polls[last + 1];
    pthread_mutex_lock(&lingering->lock);
    lingering->count--;
    pthread_mutex_unlock(&lingering->lock);
}

/* Reads what is there, and throws it away. Returns false when the client has closed. */
static bool read_on(struct server_lingering *lingering, int at)
{
    struct lingerer *lingerer = &lingering->lingerers[at];
    int descriptor = lingering->polls[at + 1].fd;
    uint64_t before = lingerer->bytes;
    ssize_t got = 0;
    for (int i = 0; i < PIECES; i++) {
        got = recv(descriptor, lingering->piece, PIECE_BYTES, MSG_DONTWAIT);
        if (got <= 0)
            break;
        lingerer->bytes += (uint64_t)got;
    }
    bool open = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
    if (lingerer->bytes > before) {
        lingerer->heard_ns = server_deadlines_now();
        server_metrics_discarded(lingering->metrics, lingerer->bytes - before);
    }
    return open;
}

static bool has_lingered(const struct server_lingering *lingering, int at, int64_t now)
{
    const struct lingerer *lingerer = &lingering->lingerers[at];
    return now >= lingerer->until_ns || now - lingerer->heard_ns >= lingering->limits.idle_ns ||
           lingerer->bytes > lingering->limits.max_bytes;
}

static int wait_ms(const struct server_lingering *lingering)
{
    int64_t ns = INT64_MAX, now = server_deadlines_now();
    for (int i = 0; i < lingering->taken; i++) {
        const struct lingerer *lingerer = &lingering->lingerers[i];
        int64_t until = lingerer->heard_ns + lingering->limits.idle_ns;
        until = until < lingerer->until_ns ? until : lingerer->until_ns;
        ns = until - now < ns ? until - now : ns;
    }
    return ns == INT64_MAX ? -1 : ns <= 0 ? 0 : (int)(ns / 1000000) + 1;
}

static void *linger(void *argument)
{
    struct server_lingering *lingering = argument;
    for (bool goes_on = true; goes_on;) {
        eventfd_t ignored;
        (void)poll(lingering->polls, (nfds_t)lingering->taken + 1, wait_ms(lingering));
        for (int i = lingering->taken - 1; i >= 0; i--)
            if ((lingering->polls[i + 1].revents != 0 && !read_on(lingering, i)) ||
                has_lingered(lingering, i, server_deadlines_now()))
                drop(lingering, i);
        if (lingering->polls[0].revents != 0)
            (void)eventfd_read(lingering->wake, &ignored);
        goes_on = take_new(lingering);
    }
    while (lingering->taken > 0)
        drop(lingering, lingering->taken - 1);
    return NULL;
}

/* ---- outside of it ---------------------------------------------------------------------- */

void server_lingering_take(struct server_lingering *lingering, int descriptor)
{
    pthread_mutex_lock(&lingering->lock);
    bool room = lingering->count < MOST && !lingering->stopping;
    if (room) {
        lingering->count++;
        lingering->waiting[lingering->waiting_count++] = descriptor;
    }
    pthread_mutex_unlock(&lingering->lock);
    server_metrics_lingering(lingering->metrics, 1);
    if (room)
        eventfd_write(lingering->wake, 1);
    else
        let_go(lingering, descriptor);
}

static enum engine_code start(struct server_lingering *lingering, struct engine_error *err)
{
    lingering->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lingering->wake < 0)
        return engine_error_set(err, ENGINE_INTERNAL, "no descriptor for lingering: %s",
                                strerror(errno));
    lingering->polls[0] = (struct pollfd){lingering->wake, POLLIN, 0};
    if (pthread_create(&lingering->thread, NULL, linger, lingering) == 0)
        return ENGINE_OK;
    close(lingering->wake);
    return engine_error_set(err, ENGINE_INTERNAL, "the thread that lingers does not start");
}

enum engine_code server_lingering_open(const struct server_lingering_limits *limits,
                                       struct server_metrics *metrics,
                                       struct server_lingering **ret, struct engine_error *err)
{
    struct server_lingering *lingering = calloc(1, sizeof *lingering);
    if (lingering == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for lingering");
    lingering->limits = *limits;
    lingering->metrics = metrics;
    pthread_mutex_init(&lingering->lock, NULL);
    enum engine_code code = start(lingering, err);
    if (code != ENGINE_OK) {
        pthread_mutex_destroy(&lingering->lock);
        free(lingering);
        return code;
    }
    *ret = lingering;
    return ENGINE_OK;
}

void server_lingering_close(struct server_lingering *lingering)
{
    if (lingering == NULL)
        return;
    pthread_mutex_lock(&lingering->lock);
    lingering->stopping = true;
    pthread_mutex_unlock(&lingering->lock);
    eventfd_write(lingering->wake, 1);
    pthread_join(lingering->thread, NULL);
    close(lingering->wake);
    pthread_mutex_destroy(&lingering->lock);
    free(lingering);
}
