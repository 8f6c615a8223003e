/* shutdown.h - signals, and the way from serving to a clean exit.
 *
 *     SIGTERM -> not ready, answers close their connections, still serving: --drain-delay-ms
 *             -> listeners closed -> requests in flight finish: --drain-timeout-ms at most
 *             -> what still computes is cancelled and answered 503 -> connections closed, exit 0
 *
 * SIGHUP is logged and ignored. Balancers learn of a leaving replica some seconds after it does,
 * hence the delay. A second SIGTERM, or SIGINT, ends it at once. Threads: main, but for
 * server_shutdown_draining. */
#ifndef SERVER_SHUTDOWN_H
#define SERVER_SHUTDOWN_H

#include <stdbool.h>

struct server_listener;
struct server_service;
struct server_shutdown;

/* Before the first thread is created: all threads inherit the mask. Ignores SIGPIPE. */
void server_shutdown_block_signals(void);

struct server_shutdown *server_shutdown_create(void); /* NULL: no memory */
void server_shutdown_destroy(struct server_shutdown *shutdown);

/* Any thread. NULL: no. */
bool server_shutdown_draining(const struct server_shutdown *shutdown);

/* Sleeps until a signal, drains, and returns when nothing computes any more. */
void server_shutdown_run(struct server_service *service, struct server_listener *listener);

#endif
