/* routes.h - the one table of method, path and handler, and the one validator of names.
 *
 * Paths are matched as they came: split at "/" first, each segment decoded strictly after that,
 * so that an encoded slash never makes a new segment. Threads: any; everything is constant. */
#ifndef SERVER_ROUTES_H
#define SERVER_ROUTES_H

#include <stdbool.h>
#include <stddef.h>

#include "api/limits.h"
#include "engine/error.h"

struct server_handler;

/* Groups of routes, for metrics and limits. */
enum server_route_class {
    SERVER_ROUTE_HEALTH,
    SERVER_ROUTE_METADATA,
    SERVER_ROUTE_INFER,
    SERVER_ROUTE_PREDICT,
    SERVER_ROUTE_CONTROL,
    SERVER_ROUTE_METRICS,
    SERVER_ROUTE_OTHER, /* nothing matched */
    SERVER_ROUTE_CLASSES
};

struct server_route {
    const char *method;
    const char *pattern; /* "/v2/models/{model}/versions/{version}/infer" */
    enum server_route_class class;
    const struct server_handler *handler;
};

enum { SERVER_ROUTES_ALLOW_BYTES = 64 };

/* What a path says. */
struct server_match {
    const struct server_route *route;
    char model[API_MAX_NAME_BYTES + 1];    /* "": the path names none */
    char version[20];                      /* "": the path names none */
    char allow[SERVER_ROUTES_ALLOW_BYTES]; /* methods of the path: "GET, HEAD, OPTIONS" */
    bool options;                          /* the method is OPTIONS: answer with "allow" */
};

/* Finds the route of method and raw path (without query; absolute form is accepted). HEAD finds
 * what GET finds. Fills "allow" also when it fails with METHOD.
 * Errors: INVALID_ARGUMENT (malformed path or name), NOT_FOUND, METHOD, URL_TOO_LONG. */
ENGINE_MUST_CHECK enum engine_code server_routes_find(const char *method, const char *path,
                                                      struct server_match *ret,
                                                      struct engine_error *err);

/* A model's name: 1 to API_MAX_NAME_BYTES letters, digits, dots, dashes, underscores and spaces,
 * beginning with none of dot and space. Used for URLs, flags and directories alike. */
bool server_routes_is_name(const char *name);
/* A version: digits without a leading zero, at most 18. */
bool server_routes_is_version(const char *version);

const char *server_routes_class_name(enum server_route_class class);

#endif
