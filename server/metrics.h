/* metrics.h - counts and latency histograms, and their text for Prometheus.
 *
 * Counting is a few relaxed atomic additions. Labels are bounded: route classes, the statuses of
 * the contract, names of models that are loaded; never what a client wrote. Threads: any. */
#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "server/routes.h"
#include "server/service.h"

struct server_metrics;

struct server_metrics *server_metrics_create(void); /* NULL: no memory */
void server_metrics_destroy(struct server_metrics *metrics);

/* A request is answered (or given up: 499). */
void server_metrics_request(struct server_metrics *metrics, enum server_route_class class,
                            int status, int64_t duration_ns);
/* A connection came (1) or went (-1); how many there are. */
void server_metrics_connection(struct server_metrics *metrics, int change);
int server_metrics_connections(const struct server_metrics *metrics);
/* Those of them that are not only read on behind their last answer. */
int server_metrics_connections_served(const struct server_metrics *metrics);
/* Work that was cancelled because its client left. */
void server_metrics_cancelled(struct server_metrics *metrics);

/* Bytes that were read and thrown away: what follows a failure. */
void server_metrics_discarded(struct server_metrics *metrics, uint64_t bytes);
/* A connection began (1) or ended (-1) to linger. */
void server_metrics_lingering(struct server_metrics *metrics, int change);

/* A request id that no other request of this process or its neighbours has. */
void server_metrics_make_id(struct server_metrics *metrics, char *ret, size_t size);

/* The whole page; malloc'd. Errors: OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code server_metrics_text(const struct server_service *service,
                                                       char **ret, struct engine_error *err);

#endif
