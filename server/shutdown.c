/* shutdown.c - see shutdown.h. */
#include "server/shutdown.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "server/deadlines.h"
#include "server/listener.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/service.h"

enum {
    STEP_NS = 5 * 1000 * 1000,
    /* A kept-alive client that is busy sends its next request sooner than this. */
    QUIET_NS = 200 * 1000 * 1000
};

struct server_shutdown {
    atomic_bool draining;
};

static void signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

void server_shutdown_block_signals(void)
{
    sigset_t set;
    signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

struct server_shutdown *server_shutdown_create(void)
{
    return calloc(1, sizeof(struct server_shutdown));
}

void server_shutdown_destroy(struct server_shutdown *shutdown)
{
    free(shutdown);
}

bool server_shutdown_draining(const struct server_shutdown *shutdown)
{
    return shutdown != NULL && atomic_load_explicit(&shutdown->draining, memory_order_relaxed);
}

/* Waits for a signal to stop, at most so long. 0: none came. SIGHUP is none: a terminal that
 * closes, or a habit of other daemons, does not end this one. */
static int wait_signal(struct server_service *service, int64_t ns)
{
    sigset_t set;
    int64_t until = server_deadlines_now() + ns;
    signals(&set);
    do {
        struct timespec pause = {ns / 1000000000, ns % 1000000000};
        int signal_number = sigtimedwait(&set, NULL, &pause);
        if (signal_number > 0 && signal_number != SIGHUP)
            return signal_number;
        if (signal_number == SIGHUP)
            server_log_event(service->log, SERVER_LOG_INFO, NULL,
                             "SIGHUP is ignored: nothing is read anew");
        ns = until - server_deadlines_now();
    } while (ns > 0);
    return 0;
}

/* A connection that was accepted, but that no I/O thread has seen yet, is in flight too. */
static bool is_done(const struct server_service *service)
{
    struct server_deadlines_counts now;
    server_deadlines_count(service->deadlines, &now);
    if (now.headers + now.body + now.compute + now.reply > 0 ||
        server_metrics_connections_served(service->metrics) > now.idle)
        return false;
    return now.idle == 0 || now.quiet_ns > QUIET_NS;
}

/* Requests in flight; ends early on a signal. */
static void wait_in_flight(struct server_service *service, int64_t timeout_ns)
{
    int64_t until = server_deadlines_now() + timeout_ns;
    while (!is_done(service) && server_deadlines_now() < until)
        if (wait_signal(service, STEP_NS) != 0)
            return;
}

/* libmicrohttpd may not be stopped while a connection is suspended. Jobs end between two units;
 * a job may be handed in just after a look, so each look cancels anew. */
static void wait_computing(struct server_service *service)
{
    struct server_deadlines_counts now;
    for (;;) {
        server_deadlines_count(service->deadlines, &now);
        if (now.compute == 0)
            return;
        server_deadlines_cancel_all(service->deadlines);
        wait_signal(service, STEP_NS);
    }
}

void server_shutdown_run(struct server_service *service, struct server_listener *listener)
{
    const struct server_options *options = service->options;
    int number = 0;
    while (number == 0)
        number = wait_signal(service, INT64_C(3600) * 1000000000);
    atomic_store(&service->shutdown->draining, true);
    bool patient = number != SIGINT;
    server_log_event(service->log, SERVER_LOG_INFO, NULL, "draining: %s",
                     patient ? "SIGTERM" : "SIGINT");
    if (patient && options->drain_delay_ms > 0)
        patient = wait_signal(service, options->drain_delay_ms * 1000000) == 0;
    server_listener_close_sockets(listener);
    wait_in_flight(service, options->drain_timeout_ms * 1000000);
    wait_computing(service);
}
