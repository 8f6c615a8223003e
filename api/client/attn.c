/* attn.c - the command-line client: picks the command. */
#include <stdio.h>
#include <string.h>

#include "api/client/client.h"
#include "api/client/commands.h"
#include "api/version.h"

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"models", "list a server's models", api_commands_models},
    {"infer", "send a call, save or check the answer", api_command_infer_run},
    {"load", "load or reload a model", api_commands_load},
    {"unload", "unload a model", api_commands_unload},
    {"bench", "requests a second and latencies of a served model", api_command_bench_run},
    {"inspect", "describe a model directory's weights", api_command_models_inspect},
    {"convert", "make a model directory of a weight file", api_command_models_convert},
};

static void print_help(FILE *file)
{
    fprintf(file, "usage: attn COMMAND ...\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(file, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fprintf(file, "\nattn COMMAND --help says more, attn --version which one this is. Exit status: "
                  "0 done, 1 failed, 2 wrong usage.\n");
}

int main(int argc, char **argv)
{
    struct engine_error err = {0};
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("attn %s (revision %s)\n", API_VERSION, ATTND_REVISION);
        return 0;
    }
    if (api_client_start(&err) != ENGINE_OK)
        return api_commands_fail(&err);
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "attn: command \"%s\" does not exist; attn --help lists them\n", argv[1]);
    return 2;
}
