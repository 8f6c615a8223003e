/* origin.c - see origin.h. */
#include "server/origin.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/options.h"

enum { HOST_BYTES = 256, HTTP_PORT = 80, HTTPS_PORT = 443 };

/* "host[:port]", put into one form: letters small, no dot at the end, addresses as inet_ntop
 * writes them. */
struct authority {
    char host[HOST_BYTES];
    bool is_address;
    int port; /* 0: not given */
};

struct origin {
    struct authority authority; /* its port is known */
    bool is_https;
};

/* ---- reading ---------------------------------------------------------------------------- */

/* ":8080", ":" or nothing. */
static bool read_port(const char *text, size_t length, int *ret)
{
    *ret = 0;
    if (length == 0)
        return true;
    if (text[0] != ':' || length > 6)
        return false;
    for (size_t i = 1; i < length; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
        *ret = *ret * 10 + (text[i] - '0');
    }
    return *ret <= UINT16_MAX;
}

static bool read_address(int family, char host[HOST_BYTES])
{
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(family, host, bytes) == 1 &&
           inet_ntop(family, bytes, host, HOST_BYTES) != NULL;
}

static bool read_name(const char *text, size_t length, struct authority *ret)
{
    if (length > 1 && text[length - 1] == '.')
        length--; /* the same name, said to be whole */
    if (length == 0 || length >= sizeof ret->host || text[length - 1] == '.')
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (!isalnum(c) && c != '-' && c != '.' && c != '_')
            return false;
        ret->host[i] = (char)tolower(c);
    }
    ret->host[length] = '\0';
    ret->is_address = read_address(AF_INET, ret->host);
    return true;
}

static bool read_authority(const char *text, size_t length, struct authority *ret)
{
    while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        length--; /* blanks behind a header's value belong to nobody */
    if (length == 0)
        return false;
    if (text[0] != '[') {
        const char *colon = memchr(text, ':', length);
        size_t name = colon != NULL ? (size_t)(colon - text) : length;
        return read_name(text, name, ret) && read_port(text + name, length - name, &ret->port);
    }
    const char *end = memchr(text, ']', length);
    if (end == NULL || (size_t)(end - text) >= sizeof ret->host)
        return false;
    memcpy(ret->host, text + 1, (size_t)(end - text) - 1);
    ret->host[end - text - 1] = '\0';
    ret->is_address = true;
    return read_address(AF_INET6, ret->host) &&
           read_port(end + 1, length - (size_t)(end + 1 - text), &ret->port);
}

static bool read_origin(const char *text, struct origin *ret)
{
    static const char http[] = "http://", https[] = "https://";
    ret->is_https = strncasecmp(text, https, sizeof https - 1) == 0;
    if (!ret->is_https && strncasecmp(text, http, sizeof http - 1) != 0)
        return false;
    text += ret->is_https ? sizeof https - 1 : sizeof http - 1;
    if (!read_authority(text, strlen(text), &ret->authority))
        return false;
    if (ret->authority.port == 0)
        ret->authority.port = ret->is_https ? HTTPS_PORT : HTTP_PORT;
    return true;
}

/* What stands behind "http://" of a target; NULL: it is a path, or "*". */
static const char *target_authority(const char *target)
{
    bool is_absolute = strncmp(target, "http://", 7) == 0 || strncmp(target, "https://", 8) == 0;
    return is_absolute ? strchr(target, ':') + 3 : NULL;
}

/* The authority of a target goes before Host (RFC 9112, 3.2.2). false: there is neither, or it is
 * malformed. */
static bool read_host(const struct server_origin *request, struct authority *ret)
{
    const char *target = target_authority(request->target);
    if (target != NULL)
        return read_authority(target, strcspn(target, "/?#"), ret);
    return request->host != NULL && read_authority(request->host, strlen(request->host), ret);
}

bool server_origin_is_origin(const char *text)
{
    struct origin origin;
    return read_origin(text, &origin);
}

bool server_origin_is_host(const char *text)
{
    struct authority host;
    return strchr(text, ':') == NULL && read_authority(text, strlen(text), &host);
}

bool server_origin_is_loopback(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    }
    if (address->ss_family != AF_INET6)
        return false;
    const struct in6_addr *in6 = &((const struct sockaddr_in6 *)address)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(in6) ||
           (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == IN_LOOPBACKNET);
}

/* ---- judging ---------------------------------------------------------------------------- */

static bool is_allowed_host(const struct server_options *options, const struct authority *host)
{
    struct authority allowed;
    if (host->is_address || strcmp(host->host, "localhost") == 0)
        return true;
    for (size_t i = 0; i < options->allow_hosts.count; i++) {
        const char *name = options->allow_hosts.values[i];
        if (read_authority(name, strlen(name), &allowed) && strcmp(allowed.host, host->host) == 0)
            return true;
    }
    return false;
}

/* Host leaves out the port that its scheme has by default; a proxy may have taken TLS off, so
 * the scheme is the page's. */
static bool is_host(const struct origin *origin, const struct authority *host)
{
    int port = host->port != 0 ? host->port : origin->is_https ? HTTPS_PORT : HTTP_PORT;
    return strcmp(origin->authority.host, host->host) == 0 && origin->authority.port == port;
}

bool server_origin_is_granted(const struct server_options *options, const char *origin)
{
    struct origin page, granted;
    if (origin == NULL || options->cors_origins.count == 0 || !read_origin(origin, &page))
        return false;
    for (size_t i = 0; i < options->cors_origins.count; i++)
        if (read_origin(options->cors_origins.values[i], &granted) &&
            granted.is_https == page.is_https && is_host(&page, &granted.authority))
            return true;
    return false;
}

static bool may_change(const char *method)
{
    return strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0 &&
           strcmp(method, "OPTIONS") != 0;
}

static enum engine_code check_host(const struct server_options *options,
                                   const struct server_origin *request,
                                   const struct authority *host, struct engine_error *err)
{
    bool is_absent = request->host == NULL && target_authority(request->target) == NULL;
    if (!request->is_loopback || is_absent || (host != NULL && is_allowed_host(options, host)))
        return ENGINE_OK;
    const char *target = target_authority(request->target);
    const char *given = host != NULL ? host->host : target != NULL ? target : request->host;
    int length = (int)(given == target ? strcspn(given, "/?#") : strlen(given));
    return engine_error_set(err, ENGINE_FORBIDDEN,
                            "Host is \"%.*s\"; on a loopback address it must be an address, "
                            "localhost or a name that attnd was started with: --allow-host NAME",
                            length < 60 ? length : 60, given);
}

static enum engine_code check_origin(const struct server_options *options,
                                     const struct server_origin *request,
                                     const struct authority *host, struct engine_error *err)
{
    struct origin page;
    if (request->origin == NULL || !may_change(request->method) ||
        server_origin_is_granted(options, request->origin) ||
        (host != NULL && read_origin(request->origin, &page) && is_host(&page, host)))
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_FORBIDDEN,
                            "Origin is \"%.60s\"; a %.10s must come from a page of this host, "
                            "%.60s, or of an origin that attnd was started with: "
                            "--cors-origin ORIGIN",
                            request->origin, request->method,
                            request->host != NULL ? request->host : "which is not named");
}

enum engine_code server_origin_check(const struct server_options *options,
                                     const struct server_origin *request, struct engine_error *err)
{
    struct authority authority;
    const struct authority *host = NULL;
    if (!request->is_loopback && request->origin == NULL)
        return ENGINE_OK;
    if (read_host(request, &authority))
        host = &authority;
    ENGINE_TRY(check_host(options, request, host, err));
    return check_origin(options, request, host, err);
}
