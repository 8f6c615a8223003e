/* listener.c - see listener.h. */
#include "server/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <microhttpd.h>

#include "api/limits.h"
#include "engine/engine.h"
#include "server/connection.h"
#include "server/deadlines.h"
#include "server/lingering.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/options.h"

enum {
    BACKLOG = 1024,
    MAX_CONNECTIONS = 4096,
    NO_LIMIT = 1 << 24,
    ACCEPT_NS = 50 * 1000 * 1000,
    RESERVED_DESCRIPTORS = 64, /* models, sockets, epoll, the log */
    SOCKETS = 2 * SERVER_OPTIONS_LIST,
    VISITS = 32, /* at most, until each I/O thread has had one */
    PATIENCE_MS = 10000,
    ADDRESS_BYTES = 160
};

struct server_listener {
    struct server_service *service;
    struct MHD_Daemon *daemon;
    struct pollfd sockets[SOCKETS + 1]; /* the last one says stop */
    const char *unix_paths[SOCKETS];    /* to be removed; NULL: TCP */
    int count;
    int stop;  /* an eventfd; -1: none */
    int spare; /* given up for a moment when descriptors run out */
    int max_connections;
    bool accepting;
    pthread_t acceptor;
};

/* ---- sockets ---------------------------------------------------------------------------- */

static enum engine_code bind_failed(const char *address, struct engine_error *err)
{
    return engine_error_set(
        err, ENGINE_INVALID_ARGUMENT, "cannot listen on %.120s: %s%s", address, strerror(errno),
        errno == EADDRINUSE ? "; --listen ADDR:PORT takes another, port 0 any that is free" : "");
}

static enum engine_code add_socket(struct server_listener *listener, int descriptor,
                                   const char *unix_path, const char *address,
                                   struct engine_error *err)
{
    if (listen(descriptor, BACKLOG) != 0) {
        close(descriptor);
        return bind_failed(address, err);
    }
    listener->unix_paths[listener->count] = unix_path;
    listener->sockets[listener->count++] = (struct pollfd){descriptor, POLLIN, 0};
    return ENGINE_OK;
}

/* getaddrinfo takes 99999 and listens on 34463. */
static bool is_port(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && digits <= 5 && text[digits] == '\0' && atoi(text) <= 65535;
}

/* What cannot be a name is not asked for: that may take long. */
static bool is_host(const char *host, size_t length)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  ".-_:%";
    return length == 0 || (host[0] != '\0' && strspn(host, allowed) == strlen(host));
}

static enum engine_code no_address(const char *address, const char *cause, struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "--listen is \"%.60s\"; it must be ADDR:PORT or PORT, which is "
                            "127.0.0.1:PORT (all interfaces: 0.0.0.0:PORT): %s",
                            address, cause);
}

/* "127.0.0.1:8080", "[::1]:0", "localhost:8080"; "8080" and ":8080" are on the loopback, so that
 * nobody serves the whole network by leaving something out. */
static enum engine_code find_address(const char *address, struct addrinfo **ret,
                                     struct engine_error *err)
{
    const char *colon = strrchr(address, ':');
    const char *port = colon != NULL ? colon + 1 : address;
    char host[128];
    size_t length = (size_t)(port - address);
    length -= length > 0 ? 1 : 0; /* the colon */
    bool brackets = length > 1 && address[0] == '[' && address[length - 1] == ']';
    if (!is_port(port))
        return no_address(address, "the port is a number from 0 to 65535", err);
    snprintf(host, sizeof host, "%.*s", (int)(length - (brackets ? 2 : 0)),
             address + (brackets ? 1 : 0));
    if (length >= sizeof host || !is_host(host, length))
        return no_address(address, "that is no address", err);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    int failure = getaddrinfo(length > 0 ? host : "127.0.0.1", port, &hints, ret);
    return failure == 0 ? ENGINE_OK : no_address(address, gai_strerror(failure), err);
}

/* SO_REUSEADDR alone: a second daemon on the same port is an error, not a silent share of the
 * connections. */
static enum engine_code bind_tcp(struct server_listener *listener, const char *address,
                                 struct engine_error *err)
{
    struct addrinfo *found = NULL;
    ENGINE_TRY(find_address(address, &found, err));
    int yes = 1;
    int descriptor = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor >= 0)
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    bool bound = descriptor >= 0 && bind(descriptor, found->ai_addr, found->ai_addrlen) == 0;
    freeaddrinfo(found);
    if (bound)
        return add_socket(listener, descriptor, NULL, address, err);
    enum engine_code code = bind_failed(address, err);
    if (descriptor >= 0)
        close(descriptor);
    return code;
}

/* A socket file nobody answers on is left over from a crash and goes. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat status;
    if (stat(address->sun_path, &status) != 0 || !S_ISSOCK(status.st_mode))
        return false;
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool refused = probe >= 0 &&
                   connect(probe, (const struct sockaddr *)address, sizeof *address) != 0 &&
                   errno == ECONNREFUSED;
    if (probe >= 0)
        close(probe);
    return refused;
}

static enum engine_code bind_unix(struct server_listener *listener, const char *path,
                                  struct engine_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "--unix is %zu bytes long; at most %zu are possible", strlen(path),
                                sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (is_stale(&address))
        unlink(path);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask = umask(077);
    bool bound =
        descriptor >= 0 && bind(descriptor, (const struct sockaddr *)&address, sizeof address) == 0;
    umask(mask);
    if (bound)
        return add_socket(listener, descriptor, path, path, err);
    enum engine_code code = bind_failed(path, err);
    if (descriptor >= 0)
        close(descriptor);
    return code;
}

static enum engine_code bind_all(struct server_listener *listener, struct engine_error *err)
{
    const struct server_options *options = listener->service->options;
    for (size_t i = 0; i < options->listen.count; i++)
        ENGINE_TRY(bind_tcp(listener, options->listen.values[i], err));
    for (size_t i = 0; i < options->unix_paths.count; i++)
        ENGINE_TRY(bind_unix(listener, options->unix_paths.values[i], err));
    return ENGINE_OK;
}

/* As many connections as descriptors allow. */
static int connection_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 256;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur > MAX_CONNECTIONS + RESERVED_DESCRIPTORS)
        return MAX_CONNECTIONS;
    int usable = (int)limit.rlim_cur - RESERVED_DESCRIPTORS;
    return usable > 16 ? usable : 16;
}

enum engine_code server_listener_open(struct server_service *service, struct server_listener **ret,
                                      struct engine_error *err)
{
    struct server_listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the listener");
    listener->service = service;
    listener->stop = -1;
    listener->max_connections = connection_limit();
    listener->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    enum engine_code code = bind_all(listener, err);
    if (code != ENGINE_OK) {
        server_listener_close(listener);
        return code;
    }
    *ret = listener;
    return ENGINE_OK;
}

/* ---- accepting -------------------------------------------------------------------------- */

/* Best effort: the client may not read it, and nothing waits for that. */
static void say_full(int descriptor)
{
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\n"
                               "Content-Type: application/json\r\n"
                               "X-Content-Type-Options: nosniff\r\n"
                               "Retry-After: 1\r\nConnection: close\r\n"
                               "Content-Length: 60\r\n\r\n"
                               "{\"error\":\"the server has as many connections as it accepts\"}";
    (void)!send(descriptor, full, sizeof full - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The client's request is on the way: it is read while descriptors allow, or the answer is lost. */
static void refuse(struct server_listener *listener, int descriptor)
{
    struct server_service *service = listener->service;
    say_full(descriptor);
    shutdown(descriptor, SHUT_WR);
    if (server_metrics_connections(service->metrics) >=
        listener->max_connections + RESERVED_DESCRIPTORS / 2) {
        close(descriptor);
        return;
    }
    server_metrics_connection(service->metrics, 1);
    server_lingering_take(service->lingering, descriptor);
}

/* Out of descriptors: the spare one lets the waiting client be told. */
static void refuse_with_spare(struct server_listener *listener, int socket_descriptor)
{
    if (listener->spare >= 0)
        close(listener->spare);
    int descriptor = accept4(socket_descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (descriptor >= 0) {
        say_full(descriptor);
        close(descriptor);
    }
    listener->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Counted here, not when libmicrohttpd has taken it in: many may be on their way. */
static void hand_over(struct server_listener *listener, int descriptor,
                      const struct sockaddr_storage *address, socklen_t size)
{
    struct server_service *service = listener->service;
    /* 1.0.1 wants the whole address of a unix peer, which has no name. */
    if (size < (socklen_t)sizeof(struct sockaddr))
        size = (socklen_t)sizeof(struct sockaddr_un);
    server_metrics_connection(service->metrics, 1);
    /* Takes the descriptor, also when it fails. */
    if (MHD_add_connection(listener->daemon, descriptor, (const struct sockaddr *)address, size) ==
        MHD_YES)
        return;
    server_metrics_connection(service->metrics, -1);
    server_log_event(service->log, SERVER_LOG_WARNING, NULL, "a connection was not taken in: %s",
                     strerror(errno));
}

/* Until nobody waits, but not for ever: busy clients come back as fast as they are served. */
static void accept_waiting(struct server_listener *listener, int socket_descriptor)
{
    int64_t until = server_deadlines_now() + ACCEPT_NS;
    while (server_deadlines_now() < until) {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        memset(&address, 0, sizeof address);
        int descriptor = accept4(socket_descriptor, (struct sockaddr *)&address, &size,
                                 SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0 && (errno == EMFILE || errno == ENFILE)) {
            refuse_with_spare(listener, socket_descriptor);
            return;
        }
        if (descriptor < 0)
            return;
        if (server_metrics_connections(listener->service->metrics) < listener->max_connections)
            hand_over(listener, descriptor, &address, size);
        else
            refuse(listener, descriptor);
    }
}

static void *accept_connections(void *argument)
{
    struct server_listener *listener = argument;
    const struct pollfd *stop = &listener->sockets[listener->count];
    for (;;) {
        if (poll(listener->sockets, (nfds_t)listener->count + 1, -1) < 0 && errno != EINTR)
            break;
        for (int i = 0; i < listener->count; i++)
            if (listener->sockets[i].revents != 0 || stop->revents != 0)
                accept_waiting(listener, listener->sockets[i].fd);
        if (stop->revents != 0)
            break;
    }
    return NULL;
}

/* ---- the daemon ------------------------------------------------------------------------- */

static void log_daemon(void *argument, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));
static void log_daemon(void *argument, const char *format, va_list arguments)
{
    struct server_service *service = argument;
    char text[512];
    int length = vsnprintf(text, sizeof text, format, arguments);
    if (length > 0 && (size_t)length < sizeof text && text[length - 1] == '\n')
        text[length - 1] = '\0';
    server_log_event(service->log, SERVER_LOG_DEBUG, NULL, "libmicrohttpd: %s", text);
}

/* Its invariants are broken: nothing it holds can be trusted. EX_SOFTWARE. */
static void panic(void *argument, const char *file, unsigned line, const char *reason)
{
    (void)argument;
    dprintf(STDERR_FILENO, "attnd: libmicrohttpd gave up at %s:%u: %s\n", file, line,
            reason != NULL ? reason : "no reason given");
    _exit(70);
}

/* One thread moves gigabytes a second; the cores belong to the engine. */
static unsigned io_threads(const struct server_service *service)
{
    int threads = engine_facts(service->engine)->threads / 8;
    return threads < 1 ? 1 : threads > 4 ? 4 : (unsigned)threads;
}

static struct MHD_Daemon *start_daemon(struct server_listener *listener)
{
    struct server_service *service = listener->service;
    unsigned threads = io_threads(service);
    struct MHD_OptionItem pool[] = {
        {MHD_OPTION_THREAD_POOL_SIZE, (intptr_t)threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME |
                     MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;
    MHD_set_panic_func(panic, NULL);
    /* libmicrohttpd's own limit must never be met: 0.9.75 waits for itself for ever there. Ours
     * is checked before. */
    return MHD_start_daemon(
        flags, 0, NULL, NULL, server_connection_access, service, MHD_OPTION_EXTERNAL_LOGGER,
        log_daemon, service, MHD_OPTION_NOTIFY_CONNECTION, server_connection_notify, service,
        MHD_OPTION_URI_LOG_CALLBACK, server_connection_line, service, MHD_OPTION_NOTIFY_COMPLETED,
        server_connection_completed, service, MHD_OPTION_UNESCAPE_CALLBACK,
        server_connection_unescape, service, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)API_MAX_HEADER_BYTES, MHD_OPTION_CONNECTION_LIMIT, (unsigned)NO_LIMIT,
        MHD_OPTION_CONNECTION_TIMEOUT, 0u,
#if MHD_VERSION >= 0x01000000
        MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1,
#else
        MHD_OPTION_STRICT_FOR_CLIENT, 1,
#endif
        MHD_OPTION_ARRAY, threads > 1 ? pool : pool + 1, MHD_OPTION_END);
}

/* A connection of our own, which ends at once. Its end that is left, of the lower number; -1:
 * nobody took it. */
static int visit(struct server_listener *listener)
{
    struct sockaddr_storage address = {.ss_family = AF_UNIX};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    hand_over(listener, pair[1], &address, sizeof address.ss_family);
    shutdown(pair[0], SHUT_WR);
    struct pollfd closed = {pair[0], POLLIN, 0};
    if (poll(&closed, 1, PATIENCE_MS) == 1)
        return pair[0];
    close(pair[0]);
    return -1;
}

/* What a thread has to be given before its first call is given by the thread itself, and
 * libmicrohttpd calls nobody when one starts: each gets a connection before the first client. Which
 * one takes it depends on the number of its descriptor, which the ends that are kept open make one
 * more each time. */
static enum engine_code prepare_threads(struct server_listener *listener, struct engine_error *err)
{
    struct server_service *service = listener->service;
    int ends[VISITS], count = 0;
    bool taken = true;
    while (taken && count < VISITS && atomic_load(&service->threads_ready) < io_threads(service)) {
        ends[count] = visit(listener);
        taken = ends[count] >= 0;
        count += taken;
    }
    for (int i = 0; i < count; i++)
        close(ends[i]);
    return taken ? ENGINE_OK
                 : engine_error_set(err, ENGINE_INTERNAL, "the HTTP threads do not answer");
}

static void print_ready(const struct server_listener *listener)
{
    for (int i = 0; i < listener->count; i++) {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        char host[NI_MAXHOST], port[NI_MAXSERV];
        if (listener->unix_paths[i] != NULL) {
            dprintf(STDERR_FILENO, "attnd: ready on unix:%s\n", listener->unix_paths[i]);
            continue;
        }
        if (getsockname(listener->sockets[i].fd, (struct sockaddr *)&address, &size) != 0 ||
            getnameinfo((struct sockaddr *)&address, size, host, sizeof host, port, sizeof port,
                        NI_NUMERICHOST | NI_NUMERICSERV) != 0)
            continue;
        bool v6 = address.ss_family == AF_INET6;
        dprintf(STDERR_FILENO, "attnd: ready on http://%s%s%s:%s\n", v6 ? "[" : "", host,
                v6 ? "]" : "", port);
    }
}

enum engine_code server_listener_start(struct server_listener *listener, struct engine_error *err)
{
    listener->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    listener->sockets[listener->count] = (struct pollfd){listener->stop, POLLIN, 0};
    listener->daemon = start_daemon(listener);
    if (listener->stop < 0 || listener->daemon == NULL)
        return engine_error_set(err, ENGINE_INTERNAL, "the HTTP threads do not start: %s",
                                strerror(errno));
    ENGINE_TRY(prepare_threads(listener, err));
    if (pthread_create(&listener->acceptor, NULL, accept_connections, listener) != 0)
        return engine_error_set(err, ENGINE_INTERNAL, "the accepting thread does not start");
    listener->accepting = true;
    server_log_flush(listener->service->log);
    print_ready(listener);
    return ENGINE_OK;
}

void server_listener_close_sockets(struct server_listener *listener)
{
    if (listener->accepting) {
        eventfd_write(listener->stop, 1);
        pthread_join(listener->acceptor, NULL);
        listener->accepting = false;
    }
    for (int i = 0; i < listener->count; i++) {
        close(listener->sockets[i].fd);
        if (listener->unix_paths[i] != NULL)
            unlink(listener->unix_paths[i]);
    }
    listener->count = 0;
    if (listener->stop >= 0)
        close(listener->stop);
    listener->stop = -1;
}

void server_listener_close(struct server_listener *listener)
{
    if (listener == NULL)
        return;
    server_listener_close_sockets(listener);
    if (listener->daemon != NULL)
        MHD_stop_daemon(listener->daemon);
    if (listener->spare >= 0)
        close(listener->spare);
    free(listener);
}
