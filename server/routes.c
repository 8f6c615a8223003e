/* routes.c - see routes.h. */
#include "server/routes.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "server/handlers.h"

#define V "/versions/{version}"

/* Literal paths come before patterns that would swallow them. */
static const struct server_route table[] = {
    {"GET", "/", SERVER_ROUTE_HEALTH, &server_handle_health_root},
    {"GET", "/v2/health/live", SERVER_ROUTE_HEALTH, &server_handle_health_live},
    {"GET", "/v2/health/ready", SERVER_ROUTE_HEALTH, &server_handle_health_ready},
    {"GET", "/metrics", SERVER_ROUTE_METRICS, &server_handle_metrics},
    {"GET", "/openapi.json", SERVER_ROUTE_METADATA, &server_handle_models_openapi},
    {"GET", "/v2", SERVER_ROUTE_METADATA, &server_handle_models_server},
    {"GET", "/v2/models", SERVER_ROUTE_METADATA, &server_handle_models_list},
    {"GET", "/v2/models/stats", SERVER_ROUTE_METADATA, &server_handle_models_all_stats},
    {"GET", "/v2/models/{model}", SERVER_ROUTE_METADATA, &server_handle_models_metadata},
    {"GET", "/v2/models/{model}" V, SERVER_ROUTE_METADATA, &server_handle_models_metadata},
    {"GET", "/v2/models/{model}/ready", SERVER_ROUTE_HEALTH, &server_handle_models_ready},
    {"GET", "/v2/models/{model}" V "/ready", SERVER_ROUTE_HEALTH, &server_handle_models_ready},
    {"GET", "/v2/models/{model}/config", SERVER_ROUTE_METADATA, &server_handle_models_config},
    {"GET", "/v2/models/{model}" V "/config", SERVER_ROUTE_METADATA, &server_handle_models_config},
    {"GET", "/v2/models/{model}/stats", SERVER_ROUTE_METADATA, &server_handle_models_stats},
    {"GET", "/v2/models/{model}" V "/stats", SERVER_ROUTE_METADATA, &server_handle_models_stats},
    {"POST", "/v2/models/{model}/infer", SERVER_ROUTE_INFER, &server_handle_infer},
    {"POST", "/v2/models/{model}" V "/infer", SERVER_ROUTE_INFER, &server_handle_infer},
    {"POST", "/v2/repository/index", SERVER_ROUTE_CONTROL, &server_handle_repository_index},
    {"POST", "/v2/repository/models/{model}/load", SERVER_ROUTE_CONTROL,
     &server_handle_repository_load},
    {"POST", "/v2/repository/models/{model}/unload", SERVER_ROUTE_CONTROL,
     &server_handle_repository_unload},
    {"GET", "/v2/logging", SERVER_ROUTE_CONTROL, &server_handle_repository_logging},
    {"POST", "/v2/logging", SERVER_ROUTE_CONTROL, &server_handle_repository_set_logging},
    {"GET", "/v1/models", SERVER_ROUTE_METADATA, &server_handle_models_tf_list},
    {"POST", "/v1/models/{model}:predict", SERVER_ROUTE_PREDICT, &server_handle_infer_predict},
    {"POST", "/v1/models/{model}/versions/{version}:predict", SERVER_ROUTE_PREDICT,
     &server_handle_infer_predict},
    {"GET", "/v1/models/{model}", SERVER_ROUTE_METADATA, &server_handle_models_tf_status},
    {"GET", "/v1/models/{model}" V, SERVER_ROUTE_METADATA, &server_handle_models_tf_status},
    {"GET", "/v1/models/{model}/metadata", SERVER_ROUTE_METADATA,
     &server_handle_models_tf_metadata},
    {"GET", "/v1/models/{model}" V "/metadata", SERVER_ROUTE_METADATA,
     &server_handle_models_tf_metadata},
};

enum { ROUTES = sizeof table / sizeof table[0], SEGMENTS = 8 };

/* A path cut at its slashes; segments are views, not terminated. */
struct path {
    const char *segments[SEGMENTS];
    size_t lengths[SEGMENTS];
    int count;
};

bool server_routes_is_name(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > API_MAX_NAME_BYTES || name[0] == '.' || name[0] == ' ')
        return false;
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && strchr("._- ", name[i]) == NULL)
            return false;
    return true;
}

bool server_routes_is_version(const char *version)
{
    size_t length = strspn(version, "0123456789");
    return length > 0 && length <= 18 && version[length] == '\0' && version[0] != '0';
}

const char *server_routes_class_name(enum server_route_class class)
{
    static const char *const names[] = {"health",  "metadata", "infer", "predict",
                                        "control", "metrics",  "other"};
    return names[class];
}

/* Returns false when there are more segments than any route has: nothing can match then. */
static bool split(const char *text, struct path *ret)
{
    ret->count = 0;
    while (*text == '/') {
        size_t length = strcspn(++text, "/");
        if (length == 0 && text[0] == '\0' && ret->count > 0)
            return true; /* one slash at the end is the same path */
        if (ret->count == SEGMENTS)
            return false;
        ret->segments[ret->count] = text;
        ret->lengths[ret->count++] = length;
        text += length;
    }
    return *text == '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes one segment. false: a broken escape, NUL, a slash in disguise, or too long. */
static bool decode(const char *text, size_t length, char *ret, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        int c = (unsigned char)text[i];
        if (c == '%') {
            int high = i + 2 < length ? hex_digit(text[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
            if (low < 0)
                return false;
            c = high * 16 + low;
            i += 2;
        }
        if (c == '\0' || c == '/' || used + 1 >= size)
            return false;
        ret[used++] = (char)c;
    }
    ret[used] = '\0';
    return true;
}

/* "{model}:predict": the end of the pattern is literal, the part before it is a parameter. */
static bool segment_fits(const char *pattern, size_t pattern_length, const char *text,
                         size_t length)
{
    if (pattern[0] != '{')
        return pattern_length == length && memcmp(pattern, text, length) == 0;
    const char *suffix = (const char *)memchr(pattern, '}', pattern_length) + 1;
    size_t suffix_length = pattern_length - (size_t)(suffix - pattern);
    if (suffix_length == 0)
        return memchr(text, ':', length) == NULL;
    return length > suffix_length &&
           memcmp(text + length - suffix_length, suffix, suffix_length) == 0;
}

static bool fits(const struct path *pattern, const struct path *path)
{
    if (pattern->count != path->count)
        return false;
    for (int i = 0; i < path->count; i++)
        if (!segment_fits(pattern->segments[i], pattern->lengths[i], path->segments[i],
                          path->lengths[i]))
            return false;
    return true;
}

static enum engine_code read_parameters(const struct path *pattern, const struct path *path,
                                        struct server_match *ret, struct engine_error *err)
{
    for (int i = 0; i < path->count; i++) {
        const char *name = pattern->segments[i];
        if (name[0] != '{')
            continue;
        const char *end = (const char *)memchr(name, '}', pattern->lengths[i]) + 1;
        size_t suffix = pattern->lengths[i] - (size_t)(end - name);
        bool is_model = name[1] == 'm';
        char *to = is_model ? ret->model : ret->version;
        size_t size = is_model ? sizeof ret->model : sizeof ret->version;
        bool readable = decode(path->segments[i], path->lengths[i] - suffix, to, size);
        if (is_model && (!readable || !server_routes_is_name(to)))
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "the path's model name is malformed: it has 1 to %d letters, "
                                    "digits, '.', '-', '_' or spaces and does not begin with '.'",
                                    API_MAX_NAME_BYTES);
        if (!is_model && (!readable || !server_routes_is_version(to)))
            return engine_error_set(err, ENGINE_NOT_FOUND,
                                    "the path's version is not a number without leading zero");
    }
    return ENGINE_OK;
}

static void add_method(struct server_match *match, const char *method)
{
    size_t used = strlen(match->allow);
    snprintf(match->allow + used, sizeof match->allow - used, "%s%s%s", used > 0 ? ", " : "",
             method, strcmp(method, "GET") == 0 ? ", HEAD" : "");
}

/* Absolute form, "http://host/path": the path begins at the third slash. */
static const char *without_authority(const char *path)
{
    if (strncmp(path, "http://", 7) != 0 && strncmp(path, "https://", 8) != 0)
        return path;
    const char *slash = strchr(strchr(path, ':') + 3, '/');
    return slash != NULL ? slash : "/";
}

enum engine_code server_routes_find(const char *method, const char *path, struct server_match *ret,
                                    struct engine_error *err)
{
    struct path parts, pattern;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    enum engine_code code = ENGINE_OK;
    memset(ret, 0, sizeof *ret);
    if (strlen(path) > API_MAX_URL_BYTES)
        return engine_error_set(err, ENGINE_URL_TOO_LONG, "the URL is longer than %d bytes",
                                API_MAX_URL_BYTES);
    ret->options = strcmp(method, "OPTIONS") == 0;
    if (ret->options && strcmp(path, "*") == 0) {
        snprintf(ret->allow, sizeof ret->allow, "GET, HEAD, POST, OPTIONS");
        return ENGINE_OK;
    }
    bool readable = split(without_authority(path), &parts);
    const char *first = NULL; /* a literal path is not also a model of that name */
    for (int i = 0; readable && i < ROUTES; i++) {
        if (first != NULL && strcmp(table[i].pattern, first) != 0)
            continue;
        if (!split(table[i].pattern, &pattern) || !fits(&pattern, &parts))
            continue;
        if (first == NULL)
            code = read_parameters(&pattern, &parts, ret, err);
        first = table[i].pattern;
        add_method(ret, table[i].method);
        if (strcmp(table[i].method, wanted) == 0)
            ret->route = &table[i];
    }
    if (first == NULL)
        return engine_error_set(err, ENGINE_NOT_FOUND,
                                "nothing is served at %.150s; inference is at "
                                "/v2/models/NAME/infer and /v1/models/NAME:predict, and "
                                "/openapi.json has all routes",
                                path);
    add_method(ret, "OPTIONS");
    if (code != ENGINE_OK || ret->options || ret->route != NULL)
        return code;
    return engine_error_set(err, ENGINE_METHOD, "method %.20s is not served here; allowed: %s",
                            method, ret->allow);
}
