/* options.h - flags and environment to one struct, checked; prints its own help.
 *
 * Every option is a flag and an environment variable (--max-body, ATTND_MAX_BODY); the flag wins.
 * A value that does not fit is an error that names option and rule. Options of the contract that
 * this build cannot honour are refused, never silently accepted. Other variables that begin with
 * ATTND_ are at most warned of: Kubernetes makes such names from a service's name. */
#ifndef SERVER_OPTIONS_H
#define SERVER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/engine.h"

enum { SERVER_OPTIONS_LIST = 64 };

/* Values of a repeatable option: views of the arguments, or of the copied environment. */
struct server_options_list {
    const char *values[SERVER_OPTIONS_LIST];
    size_t count;
};

enum server_options_action {
    SERVER_OPTIONS_SERVE,
    SERVER_OPTIONS_CHECK,
    SERVER_OPTIONS_PROBE,
    SERVER_OPTIONS_VERSION,
    SERVER_OPTIONS_HELP
};

struct server_options {
    enum server_options_action action;
    const char *probe_url;
    struct server_options_list models; /* directories of models */
    struct server_options_list model;  /* NAME=DIR */
    struct server_options_list listen; /* ADDR:PORT; the default only if no unix socket is given */
    struct server_options_list unix_paths;
    struct server_options_list allow_hosts;  /* names that Host may be on loopback */
    struct server_options_list cors_origins; /* of pages that may ask and read answers */
    enum engine_cpu_level cpu;
    int64_t threads; /* 0: all that the container may use */
    enum engine_precision precision;
    int64_t max_body_bytes;
    int64_t memory_budget_bytes; /* 0: four fifths of what there is */
    int64_t max_queue;           /* calls waiting or running */
    int64_t deadline_ms;         /* 0: none */
    int64_t drain_delay_ms, drain_timeout_ms;
    bool allow_control;
    bool log_json;
    int log_level; /* enum server_log_level */
    void *owned;   /* copies of environment values */
};

/* Reads environment and arguments (argv[1]...). The struct holds views of argv.
 * Errors: INVALID_ARGUMENT, UNSUPPORTED (not available in this build). */
ENGINE_MUST_CHECK enum engine_code server_options_read(int argc, char *const *argv,
                                                       struct server_options *ret,
                                                       struct engine_error *err);
void server_options_reset(struct server_options *options);

void server_options_help(FILE *out);

/* All settings as they are, "name=value name=value"; no line end. */
void server_options_print(const struct server_options *options, FILE *out);

/* Calls each for every ATTND_ variable that is no option and not of Kubernetes, with the option's
 * variable that is nearest to it. environment as in environ. */
void server_options_unknown(char *const *environment,
                            void (*each)(void *argument, const char *name, const char *nearest),
                            void *argument);

#endif
