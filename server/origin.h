/* origin.h - whether a request comes from a web page that has no business here.
 *
 * A daemon on a workstation is within reach of every page that its browser shows: a page may post
 * anywhere without asking, and may have its own name lead to 127.0.0.1 and read the answers. What
 * the browser adds tells: Origin (the page's) on whatever may change something, and Host (the
 * name in the address). Programs send no Origin and an honest Host.
 *   - A method other than GET, HEAD and OPTIONS with an Origin that is neither the Host nor a
 *     --cors-origin is refused.
 *   - On a loopback address Host must be an address, localhost or an --allow-host.
 * Not here: who may do what (keys, --allow-control). Threads: any; nothing is kept. */
#ifndef SERVER_ORIGIN_H
#define SERVER_ORIGIN_H

#include <stdbool.h>
#include <sys/socket.h>

#include "engine/error.h"

struct server_options;

/* Views of a request; host and origin NULL: not sent. */
struct server_origin {
    const char *method;
    const char *target; /* "/path"; the host of "http://host/path" goes before Host */
    const char *host;
    const char *origin;
    bool is_loopback; /* the address that the client connected to */
};

/* Errors: FORBIDDEN, with the option that would allow it. */
ENGINE_MUST_CHECK enum engine_code server_origin_check(const struct server_options *options,
                                                       const struct server_origin *request,
                                                       struct engine_error *err);

/* Whether pages of this origin (NULL: none) may read answers: it is a --cors-origin. */
bool server_origin_is_granted(const struct server_options *options, const char *origin);

/* Is it 127.0.0.0/8 or ::1, also as an IPv6 form of the former? */
bool server_origin_is_loopback(const struct sockaddr_storage *address);

/* What the options take: "https://page.example[:8443]"; a name or address without a port. */
bool server_origin_is_origin(const char *text);
bool server_origin_is_host(const char *text);

#endif
