/* service.h - what every part of the process may reach: one struct, wired in main.c. */
#ifndef SERVER_SERVICE_H
#define SERVER_SERVICE_H

/* Immutable while requests are served; each part guards itself. */
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
};

#endif
