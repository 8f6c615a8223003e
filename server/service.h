/* service.h - what every part of the process may reach: one struct, wired in main.c. */
#ifndef SERVER_SERVICE_H
#define SERVER_SERVICE_H

#include <stdatomic.h>

/* Immutable while requests are served, but for the count; each part guards itself. */
struct server_service {
    const struct server_options *options;
    struct server_log *log;
    struct engine *engine;
    struct server_repository *repository;
    struct server_metrics *metrics;
    struct server_admission *admission;
    struct server_deadlines *deadlines;
    struct server_lingering *lingering;
    struct server_shutdown *shutdown;
    atomic_uint threads_ready; /* I/O threads that have seen a connection */
};

#endif
