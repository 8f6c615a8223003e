/* options.c - see options.h. One table; a row is a flag, its variable, its kind and its words. */
#include "server/options.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "server/log.h"
#include "server/origin.h"

enum kind {
    KIND_LIST,
    KIND_HOST, /* lists whose values have a form */
    KIND_ORIGIN,
    KIND_NUMBER,
    KIND_BYTES,
    KIND_SWITCH,
    KIND_PRECISION,
    KIND_CPU,
    KIND_LOG_FORMAT,
    KIND_LOG_LEVEL,
    KIND_ACTION, /* no environment variable: it is a command, not a setting */
    KIND_PROBE,
    KIND_MISSING
};

struct option_row {
    const char *name;
    const char *value; /* placeholder in the help; NULL: takes none */
    enum kind kind;
    size_t offset;
    int64_t minimum, maximum;
    const char *help;
};

#define AT(member) offsetof(struct server_options, member)

static const struct option_row rows[] = {
    {"models", "DIR", KIND_LIST, AT(models), 0, 0,
     "serve every sub-directory that is a model, or DIR if it is one itself; repeatable"},
    {"model", "NAME=DIR", KIND_LIST, AT(model), 0, 0, "serve one model; repeatable"},
    {"listen", "ADDR:PORT", KIND_LIST, AT(listen), 0, 0,
     "default 127.0.0.1:8080, or nothing with --unix alone; PORT alone is on 127.0.0.1, 0 any "
     "free one; repeatable"},
    {"unix", "PATH", KIND_LIST, AT(unix_paths), 0, 0, "listen on a unix socket; repeatable"},
    {"threads", "N", KIND_NUMBER, AT(threads), 0, 1024,
     "compute threads; default 0: what affinity and cgroup quota allow"},
    {"cpu", "avx512|avx2|portable", KIND_CPU, AT(cpu), 0, 0,
     "use no instructions above these; default: all that the machine has"},
    {"precision", "f32|x3|bf16", KIND_PRECISION, AT(precision), 0, 0,
     "of models and requests that do not say; default f32"},
    {"max-body", "BYTES", KIND_BYTES, AT(max_body_bytes), 1, INT64_C(1) << 40,
     "largest request body, also inflated; default 256M"},
    {"memory-budget", "BYTES", KIND_BYTES, AT(memory_budget_bytes), 0, INT64_C(1) << 50,
     "for requests being served; default 0: four fifths of what there is"},
    {"max-queue", "N", KIND_NUMBER, AT(max_queue), 1, 1000000,
     "calls waiting or running before 429 is answered; default 256"},
    {"deadline-ms", "N", KIND_NUMBER, AT(deadline_ms), 0, 86400000,
     "longest time of a call, queue and compute; default 30000; 0: none"},
    {"drain-delay-ms", "N", KIND_NUMBER, AT(drain_delay_ms), 0, 3600000,
     "after SIGTERM, time to go on serving while not ready; default 5000"},
    {"drain-timeout-ms", "N", KIND_NUMBER, AT(drain_timeout_ms), 0, 3600000,
     "then, longest wait for requests in flight; default 30000"},
    {"tls-cert", "FILE", KIND_MISSING, 0, 0, 0, "not available in this build"},
    {"tls-key", "FILE", KIND_MISSING, 0, 0, 0, "not available in this build"},
    {"api-key-file", "FILE", KIND_MISSING, 0, 0, 0, "not available in this build"},
    {"allow-control", NULL, KIND_SWITCH, AT(allow_control), 0, 0,
     "let clients load, upload and unload models"},
    {"allow-host", "NAME", KIND_HOST, AT(allow_hosts), 0, 0,
     "a name that Host may be on loopback, beside localhost and addresses; repeatable"},
    {"cors-origin", "ORIGIN", KIND_ORIGIN, AT(cors_origins), 0, 0,
     "pages of http(s)://HOST[:PORT] may ask and read answers; default none; repeatable"},
    {"allow-fetch", "PREFIX", KIND_MISSING, 0, 0, 0, "not available in this build"},
    {"score-store-bytes", "N", KIND_MISSING, 0, 0, 0, "not available in this build"},
    {"score-ttl-s", "N", KIND_MISSING, 0, 0, 0, "not available in this build"},
    {"log-format", "text|json", KIND_LOG_FORMAT, AT(log_json), 0, 0, "default text"},
    {"log-level", "error|warning|info|debug", KIND_LOG_LEVEL, AT(log_level), 0, 0,
     "default info: a line a request"},
    {"check", NULL, KIND_ACTION, 0, SERVER_OPTIONS_CHECK, 0,
     "open the models, print what would be served, exit"},
    {"probe", "URL", KIND_PROBE, 0, SERVER_OPTIONS_PROBE, 0,
     "exit 0 if the server at URL (http://HOST:PORT or unix:PATH) is ready"},
    {"version", NULL, KIND_ACTION, 0, SERVER_OPTIONS_VERSION, 0, "print the version"},
    {"help", NULL, KIND_ACTION, 0, SERVER_OPTIONS_HELP, 0, "print this; -h does too"},
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static enum engine_code set_number(const struct option_row *row, const char *value, int64_t *ret,
                                   struct engine_error *err)
{
    char *end = NULL;
    errno = 0;
    long long number = isdigit((unsigned char)value[0]) ? strtoll(value, &end, 10) : -1;
    int shift = 0;
    if (end != NULL && row->kind == KIND_BYTES && *end != '\0' && end[1] == '\0') {
        const char *units = "KMG";
        const char *unit = strchr(units, toupper((unsigned char)*end));
        shift = unit != NULL ? (int)(unit - units + 1) * 10 : 0;
        end += unit != NULL ? 1 : 0;
    }
    if (end == NULL || *end != '\0' || errno != 0 || number > (row->maximum >> shift) ||
        number << shift < row->minimum)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "--%s is \"%.60s\"; it must be a whole number from %lld to %lld%s",
                                row->name, value, (long long)row->minimum, (long long)row->maximum,
                                row->kind == KIND_BYTES ? ", K, M or G may follow" : "");
    *ret = number << shift;
    return ENGINE_OK;
}

static enum engine_code set_list(const struct option_row *row, const char *value,
                                 struct server_options_list *list, struct engine_error *err)
{
    if (value[0] == '\0')
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "--%s is empty; it needs %s",
                                row->name, row->value);
    if (list->count == SERVER_OPTIONS_LIST)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "--%s is given more than %d times",
                                row->name, SERVER_OPTIONS_LIST);
    list->values[list->count++] = value;
    return ENGINE_OK;
}

static enum engine_code refuse(const struct option_row *row, const char *value, const char *rule,
                               struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "--%s is \"%.60s\"; it must be %s",
                            row->name, value, rule);
}

static enum engine_code set_switch(const struct option_row *row, const char *value, bool *ret,
                                   struct engine_error *err)
{
    bool yes = strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
    if (!yes && strcmp(value, "0") != 0 && strcmp(value, "false") != 0)
        return refuse(row, value, "0 or 1", err);
    *ret = yes;
    return ENGINE_OK;
}

static enum engine_code set(const struct option_row *row, const char *value,
                            struct server_options *options, struct engine_error *err)
{
    void *at = (char *)options + row->offset;
    switch (row->kind) {
    case KIND_HOST:
        if (!server_origin_is_host(value))
            return refuse(row, value, "a name without scheme and port", err);
        return set_list(row, value, at, err);
    case KIND_ORIGIN:
        if (!server_origin_is_origin(value))
            return refuse(row, value, "http://HOST[:PORT] or https://HOST[:PORT], no path", err);
        return set_list(row, value, at, err);
    case KIND_LIST:
        return set_list(row, value, at, err);
    case KIND_NUMBER:
    case KIND_BYTES:
        return set_number(row, value, at, err);
    case KIND_SWITCH:
        return set_switch(row, value, at, err);
    case KIND_PRECISION:
        return engine_precision_from_name(value, at) ? ENGINE_OK
                                                     : refuse(row, value, row->value, err);
    case KIND_CPU:
        return engine_cpu_level_from_name(value, at) ? ENGINE_OK
                                                     : refuse(row, value, row->value, err);
    case KIND_LOG_FORMAT:
        if (strcmp(value, "text") != 0 && strcmp(value, "json") != 0)
            return refuse(row, value, row->value, err);
        *(bool *)at = value[0] == 'j';
        return ENGINE_OK;
    case KIND_LOG_LEVEL:
        return server_log_level_from_name(value, at) ? ENGINE_OK
                                                     : refuse(row, value, row->value, err);
    case KIND_PROBE:
        options->probe_url = value;
        /* fall through */
    case KIND_ACTION:
        options->action = (enum server_options_action)row->minimum;
        return ENGINE_OK;
    case KIND_MISSING:
        break;
    }
    return engine_error_set(err, ENGINE_UNSUPPORTED, "--%s is not available in this build",
                            row->name);
}

static void defaults(struct server_options *options)
{
    memset(options, 0, sizeof *options);
    options->precision = ENGINE_PRECISION_F32;
    options->max_body_bytes = INT64_C(256) << 20;
    options->max_queue = 256;
    options->deadline_ms = 30000;
    options->drain_delay_ms = 5000;
    options->drain_timeout_ms = 30000;
    options->log_level = SERVER_LOG_INFO;
}

static void variable_name(const struct option_row *row, char name[64])
{
    int length = snprintf(name, 64, "ATTND_%s", row->name);
    for (int i = 6; i < length; i++)
        name[i] = row->name[i - 6] == '-' ? '_' : (char)toupper((unsigned char)row->name[i - 6]);
}

static bool has_variable(const struct option_row *row)
{
    return row->kind != KIND_ACTION && row->kind != KIND_PROBE;
}

/* Repeatable options take a list separated by commas. The copy lives as long as the options. */
static enum engine_code read_variable(const struct option_row *row, const char *value,
                                      struct server_options *options, struct engine_error *err)
{
    if (row->kind != KIND_LIST && row->kind != KIND_HOST && row->kind != KIND_ORIGIN)
        return set(row, value, options, err);
    size_t length = strlen(value) + 1;
    char *copy = malloc(sizeof(void *) + length);
    if (copy == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to read the environment");
    memcpy(copy, &options->owned, sizeof(void *));
    memcpy(copy + sizeof(void *), value, length);
    options->owned = copy;
    char *rest = copy + sizeof(void *);
    for (char *item = strsep(&rest, ","); item != NULL; item = strsep(&rest, ","))
        ENGINE_TRY(set(row, item, options, err));
    return ENGINE_OK;
}

static enum engine_code read_environment(struct server_options *options, const bool given[ROWS],
                                         struct engine_error *err)
{
    for (int i = 0; i < ROWS; i++) {
        char name[64];
        if (given[i] || !has_variable(&rows[i]))
            continue;
        variable_name(&rows[i], name);
        const char *value = getenv(name);
        if (value == NULL)
            continue;
        struct engine_error cause = {0};
        enum engine_code code = read_variable(&rows[i], value, options, &cause);
        if (code != ENGINE_OK)
            return engine_error_set(err, code, "%s: %.200s", name, cause.message);
    }
    return ENGINE_OK;
}

static int find_row(const char *name, size_t length)
{
    for (int i = 0; i < ROWS; i++)
        if (strlen(rows[i].name) == length && memcmp(rows[i].name, name, length) == 0)
            return i;
    return -1;
}

static int smallest(int a, int b, int c)
{
    int least = a < b ? a : b;
    return least < c ? least : c;
}

/* Letters to add, drop or change until one text is the other; "-" and "_" are one letter, small
 * and large ones too. */
static int distance(const char *text, size_t length, const char *name)
{
    int row[64], width = (int)strlen(name);
    for (int j = 0; j <= width; j++)
        row[j] = j;
    for (size_t i = 0; i < length; i++) {
        int corner = row[0];
        row[0] = (int)i + 1;
        for (int j = 0; j < width; j++) {
            char a = (char)tolower((unsigned char)text[i]);
            int change = corner + ((a == '_' ? '-' : a) != name[j]);
            corner = row[j + 1];
            row[j + 1] = smallest(row[j + 1] + 1, row[j] + 1, change);
        }
    }
    return row[width];
}

static const struct option_row *nearest(const char *text, size_t length, bool variables)
{
    const struct option_row *best = NULL;
    int least = 0;
    for (int i = 0; i < ROWS; i++) {
        if (variables && !has_variable(&rows[i]))
            continue;
        int own = distance(text, length, rows[i].name);
        if (best == NULL || own < least) {
            best = &rows[i];
            least = own;
        }
    }
    return best;
}

static enum engine_code refuse_unknown(const char *argument, size_t length,
                                       struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "option \"%.60s\" is unknown; the nearest is --%s; see --help",
                            argument, nearest(argument + 2, length, false)->name);
}

static enum engine_code read_arguments(int argc, char *const *argv, struct server_options *options,
                                       bool given[ROWS], struct engine_error *err)
{
    for (int i = 1; i < argc; i++) {
        const char *argument = strcmp(argv[i], "-h") == 0 ? "--help" : argv[i];
        if (strncmp(argument, "--", 2) != 0)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "argument \"%.60s\" is no option; see --help", argument);
        const char *equals = strchr(argument, '=');
        size_t length = equals != NULL ? (size_t)(equals - argument - 2) : strlen(argument + 2);
        int found = find_row(argument + 2, length);
        if (found < 0)
            return refuse_unknown(argument, length, err);
        const struct option_row *row = &rows[found];
        const char *value = equals != NULL ? equals + 1 : "1";
        if (row->value == NULL && row->kind == KIND_ACTION && equals != NULL)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "--%s takes no value", row->name);
        if (row->value != NULL && equals == NULL) {
            if (++i == argc)
                return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "--%s needs a value: %s",
                                        row->name, row->value);
            value = argv[i];
        }
        given[found] = true;
        ENGINE_TRY(set(row, value, options, err));
    }
    return ENGINE_OK;
}

enum engine_code server_options_read(int argc, char *const *argv, struct server_options *ret,
                                     struct engine_error *err)
{
    bool given[ROWS] = {false};
    defaults(ret);
    enum engine_code code = read_arguments(argc, argv, ret, given, err);
    if (code == ENGINE_OK)
        code = read_environment(ret, given, err);
    if (code == ENGINE_OK && ret->listen.count == 0 && ret->unix_paths.count == 0)
        ret->listen.values[ret->listen.count++] = "127.0.0.1:8080";
    if (code != ENGINE_OK)
        server_options_reset(ret);
    return code;
}

/* ---- what else is in the environment ------------------------------------------------------ */

/* Kubernetes describes each service to each container: ATTND_PORT_80_TCP_ADDR for one named
 * attnd, ATTND_CANARY_SERVICE_HOST for attnd-canary. */
static bool is_of_kubernetes(const char *name, const char *value)
{
    size_t length = strlen(name);
    return strncmp(name, "ATTND_PORT", 10) == 0 || strncmp(name, "ATTND_SERVICE_", 14) == 0 ||
           strstr(name, "_SERVICE_HOST") != NULL || strstr(name, "_SERVICE_PORT") != NULL ||
           strstr(name, "_PORT_") != NULL ||
           (strcmp(name + length - 5, "_PORT") == 0 && strstr(value, "://") != NULL);
}

static bool is_variable(const char *text)
{
    char name[64];
    for (int i = 0; i < ROWS; i++) {
        variable_name(&rows[i], name);
        if (has_variable(&rows[i]) && strcmp(name, text) == 0)
            return true;
    }
    return false;
}

void server_options_unknown(char *const *environment,
                            void (*each)(void *argument, const char *name, const char *nearest),
                            void *argument)
{
    for (; *environment != NULL; environment++) {
        const char *equals = strchr(*environment, '=');
        char name[128], variable[64];
        if (equals == NULL || strncmp(*environment, "ATTND_", 6) != 0)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)(equals - *environment), *environment);
        if (is_variable(name) || is_of_kubernetes(name, equals + 1))
            continue;
        variable_name(nearest(name + 6, strlen(name) - 6, true), variable);
        each(argument, name, variable);
    }
}

/* ---- printing --------------------------------------------------------------------------- */

static void print_list(const struct server_options_list *list, FILE *out)
{
    for (size_t i = 0; i < list->count; i++)
        fprintf(out, "%s%s", i > 0 ? "," : "", list->values[i]);
}

static void print_value(const struct option_row *row, const struct server_options *options,
                        FILE *out)
{
    const void *at = (const char *)options + row->offset;
    switch (row->kind) {
    case KIND_LIST:
    case KIND_HOST:
    case KIND_ORIGIN:
        print_list(at, out);
        return;
    case KIND_NUMBER:
    case KIND_BYTES:
        fprintf(out, "%lld", (long long)*(const int64_t *)at);
        return;
    case KIND_SWITCH:
        fputs(*(const bool *)at ? "1" : "0", out);
        return;
    case KIND_PRECISION:
        fputs(engine_precision_name(*(const enum engine_precision *)at), out);
        return;
    case KIND_CPU:
        fputs(engine_cpu_level_name(*(const enum engine_cpu_level *)at), out);
        return;
    case KIND_LOG_FORMAT:
        fputs(*(const bool *)at ? "json" : "text", out);
        return;
    case KIND_LOG_LEVEL:
        fputs(server_log_level_name(*(const int *)at), out);
        return;
    case KIND_ACTION:
    case KIND_PROBE:
    case KIND_MISSING:
        return;
    }
}

void server_options_print(const struct server_options *options, FILE *out)
{
    const char *before = "";
    for (int i = 0; i < ROWS; i++) {
        if (!has_variable(&rows[i]) || rows[i].kind == KIND_MISSING)
            continue;
        fprintf(out, "%s%s=", before, rows[i].name);
        print_value(&rows[i], options, out);
        before = " ";
    }
}

void server_options_reset(struct server_options *options)
{
    while (options->owned != NULL) {
        void *next;
        memcpy(&next, options->owned, sizeof next);
        free(options->owned);
        options->owned = next;
    }
}

void server_options_help(FILE *out)
{
    fputs(
        "attnd - serves ReuseMultiHeadAttention layers over HTTP\n\n"
        "  attnd --models DIR [options]\n\n"
        "Each option is also an environment variable: --max-body is ATTND_MAX_BODY. A flag wins.\n"
        "Repeatable options take a list separated by commas there.\n\n",
        out);
    for (int i = 0; i < ROWS; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].value != NULL ? " " : "",
                 rows[i].value != NULL ? rows[i].value : "");
        fprintf(out, "  %-38s %s\n", left, rows[i].help);
    }
}
