/* commands.c - models, load, unload, and what all commands share. See commands.h. */
#include "api/client/commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/client/client.h"
#include "engine/formats/json.h"

int api_commands_fail(const struct engine_error *err)
{
    fprintf(stderr, err->detail[0] != '\0' ? "attn: %s (%s)\n" : "attn: %s%s\n", err->message,
            err->detail);
    return 1;
}

enum engine_code api_commands_print(json_t *document, size_t flags, struct engine_error *err)
{
    char *text = engine_json_text(document, flags);
    if (text == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the answer");
    printf("%s\n", text);
    free(text);
    return ENGINE_OK;
}

bool api_commands_number(const char *name, const char *text, long least, long most, long *ret)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno == 0 && end != text && *end == '\0' && value >= least && value <= most) {
        *ret = value;
        return true;
    }
    fprintf(stderr, "attn: %s is \"%s\", it must be an integer from %ld to %ld\n", name, text,
            least, most);
    return false;
}

bool api_commands_real(const char *name, const char *text, double *ret)
{
    char *end;
    double value = strtod(text, &end);
    if (end != text && *end == '\0' && value >= 0.0) {
        *ret = value;
        return true;
    }
    fprintf(stderr, "attn: %s is \"%s\", it must be a number of at least 0\n", name, text);
    return false;
}

char *api_commands_text(const char *path, struct engine_error *err)
{
    enum { LIMIT = 1 << 20 };
    FILE *file = fopen(path, "re");
    char *text = file != NULL ? malloc(LIMIT) : NULL;
    size_t size = text != NULL ? fread(text, 1, LIMIT, file) : 0;
    const char *fault = text == NULL || ferror(file) != 0  ? strerror(errno)
                        : size == LIMIT                    ? "it has 1 MB or more"
                        : memchr(text, '\0', size) != NULL ? "it is no text"
                                                           : NULL;
    if (file != NULL)
        fclose(file);
    if (fault == NULL) {
        text[size] = '\0';
        return text;
    }
    (void)engine_error_set(err, size == LIMIT ? ENGINE_TOO_LARGE : ENGINE_NOT_FOUND,
                           "cannot read %.150s: %s", path, fault);
    free(text);
    return NULL;
}

static int read_option(int argc, char **argv, int *i, const struct api_commands_option *options)
{
    for (; options->name != NULL; options++) {
        if (strcmp(argv[*i], options->name) != 0)
            continue;
        if (options->value == NULL) {
            *options->flag = true;
            return -1;
        }
        if (*i + 1 >= argc) {
            fprintf(stderr, "attn: %s needs a value\n", argv[*i]);
            return 2;
        }
        *options->value = argv[++*i];
        return -1;
    }
    fprintf(stderr, "attn: option \"%s\" is unknown\n", argv[*i]);
    return 2;
}

int api_commands_read(int argc, char **argv, const char *usage,
                      const struct api_commands_option *options, const char **positional,
                      int needed, int count)
{
    int given = 0, line = (int)strcspn(usage, "\n");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            printf("usage: attn %s\n", usage);
            return 0;
        }
        if (argv[i][0] == '-' && argv[i][1] != '\0') {
            int status = read_option(argc, argv, &i, options);
            if (status >= 0)
                return status;
        } else if (given < count) {
            positional[given++] = argv[i];
        } else {
            fprintf(stderr, "attn: \"%s\" is one argument too many; usage: attn %.*s\n", argv[i],
                    line, usage);
            return 2;
        }
    }
    if (given >= needed)
        return -1;
    fprintf(stderr, "attn: an argument is missing; usage: attn %.*s\n", line, usage);
    return 2;
}

/* ---- models -------------------------------------------------------------------------------- */

static const char *member(const json_t *entry, const char *name)
{
    const char *text = json_string_value(json_object_get(entry, name));
    return text != NULL ? text : "";
}

static void print_models(const json_t *list)
{
    size_t index;
    json_t *entry;
    printf("%-32s %-8s %-12s %s\n", "name", "version", "state", "reason");
    json_array_foreach(list, index, entry)
    {
        printf("%-32s %-8s %-12s %s\n", member(entry, "name"), member(entry, "version"),
               member(entry, "state"), member(entry, "reason"));
    }
}

static enum engine_code show_models(struct api_client *client, bool json, struct engine_error *err)
{
    char *text = NULL;
    ENGINE_TRY(api_client_document(client, "/v2/repository/index", "{}", &text, err));
    json_error_t where;
    json_t *list = NULL;
    if (engine_json_load(text, strlen(text), 0, &list, &where, err) == ENGINE_OK &&
        !json_is_array(list))
        (void)engine_error_set(err, ENGINE_INTERNAL,
                               "the server's answer is \"%.80s\", it must be a JSON list", text);
    if (err->code == ENGINE_OK && json)
        printf("%s\n", text);
    else if (err->code == ENGINE_OK)
        print_models(list);
    json_decref(list);
    free(text);
    return err->code;
}

int api_commands_models(int argc, char **argv)
{
    bool json = false;
    const char *url = NULL;
    const struct api_commands_option options[] = {{"--json", NULL, &json}, {NULL, NULL, NULL}};
    int status = api_commands_read(argc, argv,
                                   "models URL [--json]\n\n"
                                   "Lists the models of the server at URL, http://HOST:PORT or "
                                   "unix:PATH: versions, states,\n"
                                   "and why one is not served. --json prints the server's list.",
                                   options, &url, 1, 1);
    if (status >= 0)
        return status;
    struct engine_error err = {0};
    struct api_client *client = NULL;
    enum engine_code code = api_client_open(url, NULL, &client, &err);
    if (code == ENGINE_OK)
        code = show_models(client, json, &err);
    api_client_close(client);
    return code == ENGINE_OK ? 0 : api_commands_fail(&err);
}

/* ---- load, unload -------------------------------------------------------------------------- */

static const char load_usage[] =
    "load URL MODEL [--config layer.json]\n\n"
    "Has the server at URL read MODEL's directory again, or a directory that is new there. If "
    "that\n"
    "fails, what was served before goes on. --config sends a layer's configuration in place of\n"
    "the directory's layer.json. The server has to run with --allow-control.";

static const char unload_usage[] =
    "unload URL MODEL\n\n"
    "Has the server at URL serve MODEL no longer, once the calls that it computes are done. The\n"
    "server has to run with --allow-control.";

static int control(int argc, char **argv, bool load)
{
    const char *config_path = NULL, *positional[2] = {NULL, NULL};
    const struct api_commands_option options[] = {{"--config", &config_path, NULL},
                                                  {NULL, NULL, NULL}};
    int status = api_commands_read(argc, argv, load ? load_usage : unload_usage,
                                   load ? options : options + 1, positional, 2, 2);
    if (status >= 0)
        return status;
    struct engine_error err = {0};
    struct api_client *client = NULL;
    char *config = config_path != NULL ? api_commands_text(config_path, &err) : NULL;
    enum engine_code code = err.code;
    if (code == ENGINE_OK)
        code = api_client_open(positional[0], NULL, &client, &err);
    if (code == ENGINE_OK)
        code = load ? api_client_load(client, positional[1], config, &err)
                    : api_client_unload(client, positional[1], &err);
    if (code == ENGINE_OK)
        printf("%s %s\n", positional[1], load ? "loaded" : "unloaded");
    free(config);
    api_client_close(client);
    return code == ENGINE_OK ? 0 : api_commands_fail(&err);
}

int api_commands_load(int argc, char **argv)
{
    return control(argc, argv, true);
}

int api_commands_unload(int argc, char **argv)
{
    return control(argc, argv, false);
}
