/* probe.c - see probe.h. */
#include "server/probe.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/origin.h"

#define READY "/v2/health/ready"

struct target {
    char host[256], port[16], path[512];
    char authority[280]; /* for Host, as the URL has it */
    bool is_unix;
};

static enum engine_code read_url(const char *url, struct target *ret, struct engine_error *err)
{
    static const char scheme[] = "http://";
    memset(ret, 0, sizeof *ret);
    if (strncmp(url, "unix:", 5) == 0 && strlen(url + 5) < sizeof ret->host && url[5] != '\0') {
        ret->is_unix = true;
        snprintf(ret->host, sizeof ret->host, "%s", url + 5);
        snprintf(ret->path, sizeof ret->path, READY);
        snprintf(ret->authority, sizeof ret->authority, "localhost");
        return ENGINE_OK;
    }
    const char *authority = url + sizeof scheme - 1;
    if (strncmp(url, scheme, sizeof scheme - 1) != 0 || strlen(url) > 512)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "--probe is \"%.60s\"; it must be http://HOST:PORT or unix:PATH",
                                url);
    size_t length = strcspn(authority, "/");
    const char *path = authority + length;
    const char *end = authority[0] == '[' ? strchr(authority, ']') : authority;
    const char *colon = end != NULL ? strchr(end, ':') : NULL;
    bool has_port = colon != NULL && colon < path;
    size_t host = has_port ? (size_t)(colon - authority) : length;
    bool brackets = host > 2 && authority[0] == '[' && authority[host - 1] == ']';
    if (host == 0 || host >= sizeof ret->host || length >= sizeof ret->authority)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "--probe: \"%.60s\" names no host",
                                url);
    snprintf(ret->host, sizeof ret->host, "%.*s", (int)(host - (brackets ? 2 : 0)),
             authority + (brackets ? 1 : 0));
    snprintf(ret->authority, sizeof ret->authority, "%.*s", (int)length, authority);
    snprintf(ret->port, sizeof ret->port, "%.*s", has_port ? (int)(path - colon - 1) : 2,
             has_port ? colon + 1 : "80");
    snprintf(ret->path, sizeof ret->path, "%s", path[0] == '/' && path[1] != '\0' ? path : READY);
    return ENGINE_OK;
}

static enum engine_code fail(const char *what, struct engine_error *err)
{
    return engine_error_set(err, ENGINE_UNAVAILABLE, "%s: %s", what, strerror(errno));
}

static int open_socket(int family)
{
    struct timeval limit = {.tv_sec = 2};
    int descriptor = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor >= 0) {
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    }
    return descriptor;
}

static enum engine_code connect_unix(const struct target *target, int *ret,
                                     struct engine_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(target->host) >= sizeof address.sun_path)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "--probe: the path is too long");
    memcpy(address.sun_path, target->host, strlen(target->host) + 1);
    *ret = open_socket(AF_UNIX);
    if (*ret < 0 || connect(*ret, (struct sockaddr *)&address, sizeof address) != 0)
        return fail("cannot connect", err);
    return ENGINE_OK;
}

/* On a loopback address a server answers to no name but this one and those it was told. */
static void name_host(const struct addrinfo *found, struct target *target)
{
    struct sockaddr_storage address = {0};
    memcpy(&address, found->ai_addr, found->ai_addrlen);
    if (server_origin_is_loopback(&address))
        snprintf(target->authority, sizeof target->authority, "localhost");
}

static enum engine_code connect_tcp(struct target *target, int *ret, struct engine_error *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int failure = getaddrinfo(target->host, target->port, &hints, &found);
    if (failure != 0)
        return engine_error_set(err, ENGINE_UNAVAILABLE, "host %.100s: %s", target->host,
                                gai_strerror(failure));
    name_host(found, target);
    *ret = open_socket(found->ai_family);
    bool connected = *ret >= 0 && connect(*ret, found->ai_addr, found->ai_addrlen) == 0;
    freeaddrinfo(found);
    return connected ? ENGINE_OK : fail("cannot connect", err);
}

static enum engine_code ask(const struct target *target, int descriptor, struct engine_error *err)
{
    char text[1024];
    size_t used = 0;
    int status = 0;
    int length =
        snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
                 target->path, target->authority);
    if (send(descriptor, text, (size_t)length, MSG_NOSIGNAL) != length)
        return fail("cannot send", err);
    while (used < 16) { /* "HTTP/1.1 200 OK" */
        ssize_t got = recv(descriptor, text + used, sizeof text - 1 - used, 0);
        if (got <= 0)
            return fail("no answer", err);
        used += (size_t)got;
    }
    text[used] = '\0';
    if (sscanf(text, "HTTP/1.%*1[01] %d", &status) == 1 && status == 200)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_UNAVAILABLE, "%s%.200s answers %d%s", target->authority,
                            target->path, status,
                            status == 503 ? ": no model is loaded, one failed to load, or it is "
                                            "draining"
                                          : "");
}

enum engine_code server_probe(const char *url, struct engine_error *err)
{
    struct target target;
    int descriptor = -1;
    ENGINE_TRY(read_url(url, &target, err));
    enum engine_code code = target.is_unix ? connect_unix(&target, &descriptor, err)
                                           : connect_tcp(&target, &descriptor, err);
    if (code == ENGINE_OK)
        code = ask(&target, descriptor, err);
    if (descriptor >= 0)
        close(descriptor);
    return code;
}
