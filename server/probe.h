/* probe.h - asks a running server whether it is healthy, for container health checks.
 *
 * One GET over a plain socket: images without a shell have no curl. No TLS, no redirects. */
#ifndef SERVER_PROBE_H
#define SERVER_PROBE_H

#include <stdbool.h>

#include "engine/error.h"

/* url: http://HOST[:PORT][/PATH] or unix:PATH; without a path /v2/health/ready is asked. Waits at
 * most two seconds. Errors: INVALID_ARGUMENT (a URL that cannot be read), UNAVAILABLE (no
 * connection, no answer, or another status than 200). */
ENGINE_MUST_CHECK enum engine_code server_probe(const char *url, struct engine_error *err);

#endif
