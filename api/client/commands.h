/* commands.h - the commands of attn (command_*.c) and what they share. Each command takes its own
 * arguments (argv[0] is its name), prints to stdout, and returns the exit status: 0 done, 1 failed,
 * 2 wrong usage. */
#ifndef API_CLIENT_COMMANDS_H
#define API_CLIENT_COMMANDS_H

#include <stdbool.h>

#include <jansson.h>

#include "engine/error.h"

int api_commands_models(int argc, char **argv);
int api_command_infer_run(int argc, char **argv);
int api_commands_load(int argc, char **argv);
int api_commands_unload(int argc, char **argv);
int api_command_bench_run(int argc, char **argv);
int api_command_models_inspect(int argc, char **argv);
int api_command_models_convert(int argc, char **argv);

/* An option of a command: a flag (value NULL) or one with a value. */
struct api_commands_option {
    const char *name;   /* "--json" */
    const char **value; /* where the value goes; NULL: a flag */
    bool *flag;
};

/* Sorts arguments into options and "count" positional ones (NULL where optional ones lack; at
 * least "needed"). Prints what is wrong, or usage after --help. Returns -1 to go on, else the exit
 * status. */
int api_commands_read(int argc, char **argv, const char *usage,
                      const struct api_commands_option *options, const char **positional,
                      int needed, int count);

/* Reads a whole number of an option; false after saying what is wrong. */
bool api_commands_number(const char *name, const char *text, long least, long most, long *ret);

/* The same for a number of zero and more that need not be whole. */
bool api_commands_real(const char *name, const char *text, double *ret);

/* A text file of less than 1 MB, terminated; returns new, NULL after setting the error. */
char *api_commands_text(const char *path, struct engine_error *err);

/* Prints the failure; returns 1. */
int api_commands_fail(const struct engine_error *err);

/* Takes a document and prints it, with jansson's flags. Errors: OUT_OF_MEMORY, also for NULL. */
ENGINE_MUST_CHECK enum engine_code api_commands_print(json_t *document, size_t flags,
                                                      struct engine_error *err);

#endif
