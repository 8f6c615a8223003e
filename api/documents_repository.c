/* documents_repository.c - the repository's documents: index, load, unload, logging. See
 * documents.h. */
#include "api/documents.h"

#include <stdlib.h>
#include <string.h>

#include "api/base64.h"
#include "api/json_null.h"
#include "api/limits.h"
#include "engine/formats/json.h"

static char *compact(json_t *document)
{
    return engine_json_text(document, JSON_COMPACT);
}

static const char *state_name(enum api_model_state state)
{
    switch (state) {
    case API_MODEL_READY:
        return "READY";
    case API_MODEL_LOADING:
        return "LOADING";
    case API_MODEL_UNLOADING:
        return "UNLOADING";
    case API_MODEL_UNAVAILABLE:
        break;
    }
    return "UNAVAILABLE";
}

char *api_document_index(const struct api_model_view *views, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        list = engine_json_append(list, json_pack("{s:s,s:s,s:s,s:s}", "name", views[i].name,
                                                  "version", views[i].version, "state",
                                                  state_name(views[i].state), "reason",
                                                  views[i].reason != NULL ? views[i].reason : ""));
    return compact(list);
}

/* An object, or nothing at all: *ret is NULL then. */
static enum engine_code read_object(const char *json, size_t size, json_t **ret,
                                    struct engine_error *err)
{
    json_error_t error;
    *ret = NULL;
    size_t blanks = 0;
    while (blanks < size && strchr(" \t\r\n", json[blanks]) != NULL && json[blanks] != '\0')
        blanks++;
    if (blanks == size)
        return ENGINE_OK;
    ENGINE_TRY(engine_json_load(json, size, JSON_REJECT_DUPLICATES, ret, &error, err));
    if (json_is_object(*ret)) {
        api_json_null_drop(*ret);
        return ENGINE_OK;
    }
    bool parsed = *ret != NULL;
    json_decref(*ret);
    *ret = NULL;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "the body must be a JSON object%s%.100s",
                            parsed ? "" : ": ", parsed ? "" : error.text);
}

enum engine_code api_document_index_read(const char *json, size_t size, bool *ret_ready_only,
                                         struct engine_error *err)
{
    json_t *root;
    ENGINE_TRY(read_object(json, size, &root, err));
    json_t *ready = json_object_get(root, "ready");
    enum engine_code code = ENGINE_OK;
    if (ready != NULL && !json_is_boolean(ready))
        code = engine_error_set(err, ENGINE_INVALID_ARGUMENT, "ready must be true or false");
    else
        *ret_ready_only = json_is_true(ready);
    json_decref(root);
    return code;
}

/* ---- loading ------------------------------------------------------------------------------- */

void api_load_request_reset(struct api_load_request *request)
{
    for (size_t i = 0; i < request->files_count; i++) {
        free((void *)(uintptr_t)request->files[i].name);
        free((void *)(uintptr_t)request->files[i].bytes);
    }
    free(request->files);
    free(request->config);
    memset(request, 0, sizeof *request);
}

/* ".." as a part of the path; "..data" is a name like any other. */
static bool leaves(const char *path)
{
    while (path != NULL && *path != '\0') {
        path += *path == '/';
        if (strcspn(path, "/") == 2 && strncmp(path, "..", 2) == 0)
            return true;
        path = strchr(path, '/');
    }
    return false;
}

static enum engine_code read_file(const char *key, const json_t *value, struct api_model_file *ret,
                                  struct engine_error *err)
{
    const char *text = json_string_value(value), *path = key + strlen("file:");
    struct api_base64 state = {0};
    size_t bytes = 0, length = json_string_length(value);
    if (text == NULL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameters.%.80s must be base64 text", key);
    if (*path == '\0' || strlen(path) > API_MAX_NAME_BYTES || leaves(path) || *path == '/')
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameters.%.80s must name a file of the model directory", key);
    unsigned char *decoded = malloc(length / 4 * 3 + 3);
    char *name = strdup(path);
    *ret = (struct api_model_file){name, decoded, 0};
    if (decoded == NULL || name == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for an uploaded file");
    /* The request owns name and bytes from here on, cppcheck does not see it. */
    if (!api_base64_feed(&state, text, length, decoded, &bytes) || !api_base64_complete(&state))
        /* cppcheck-suppress memleak */
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "parameters.%.80s is no base64", key);
    ret->size = bytes;
    /* cppcheck-suppress memleak */
    return ENGINE_OK;
}

static enum engine_code read_parameter(const char *key, const json_t *value,
                                       struct api_load_request *request, struct engine_error *err)
{
    if (strcmp(key, "config") == 0) {
        if (!json_is_string(value))
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "parameters.config must be JSON as a text");
        request->config = strdup(json_string_value(value));
        return request->config != NULL
                   ? ENGINE_OK
                   : engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a configuration");
    }
    if (strncmp(key, "file:", 5) != 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameters.%.80s is not known; there are config and file:PATH",
                                key);
    if (request->files_count == API_MAX_UPLOAD_FILES)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "more than %d files are given",
                                API_MAX_UPLOAD_FILES);
    return read_file(key, value, &request->files[request->files_count++], err);
}

static enum engine_code read_load(json_t *root, struct api_load_request *request,
                                  struct engine_error *err)
{
    json_t *parameters = json_object_get(root, "parameters"), *value;
    const char *key;
    if (parameters == NULL)
        return ENGINE_OK;
    if (!json_is_object(parameters))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "parameters must be an object");
    request->files = calloc(API_MAX_UPLOAD_FILES, sizeof *request->files);
    if (request->files == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for uploaded files");
    json_object_foreach(parameters, key, value)
        ENGINE_TRY(read_parameter(key, value, request, err));
    if (request->files_count > 0 && request->config == NULL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "parameters.config is missing; files replace a model's directory "
                                "only together with a configuration");
    return ENGINE_OK;
}

enum engine_code api_document_load_read(const char *json, size_t size, struct api_load_request *ret,
                                        struct engine_error *err)
{
    struct api_load_request request = {.config = NULL};
    json_t *root;
    ENGINE_TRY(read_object(json, size, &root, err));
    enum engine_code code = read_load(root, &request, err);
    json_decref(root);
    if (code != ENGINE_OK) {
        api_load_request_reset(&request);
        return code;
    }
    *ret = request;
    return ENGINE_OK;
}

static enum engine_code read_unload(const json_t *parameters, struct engine_error *err)
{
    const char *key;
    json_t *value;
    if (parameters != NULL && !json_is_object(parameters))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "parameters must be an object");
    json_object_foreach((json_t *)parameters, key, value)
    {
        if (strcmp(key, "unload_dependents") != 0 || !json_is_boolean(value))
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "parameters.%.80s is not known; there is unload_dependents, "
                                    "true or false",
                                    key);
    }
    return ENGINE_OK;
}

enum engine_code api_document_unload_read(const char *json, size_t size, struct engine_error *err)
{
    json_t *root;
    ENGINE_TRY(read_object(json, size, &root, err));
    enum engine_code code = read_unload(json_object_get(root, "parameters"), err);
    json_decref(root);
    return code;
}

/* ---- logging ------------------------------------------------------------------------------- */

char *api_document_logging(const struct api_logging *logging)
{
    return compact(json_pack("{s:s,s:b,s:b,s:b,s:i,s:s}", "log_file", "", "log_info",
                             (int)logging->info, "log_warning", (int)logging->warning, "log_error",
                             (int)logging->error, "log_verbose_level", logging->verbose_level,
                             "log_format", logging->iso8601 ? "ISO8601" : "default"));
}

static enum engine_code read_setting(const char *key, const json_t *value,
                                     struct api_logging *logging, struct engine_error *err)
{
    bool *flag = strcmp(key, "log_info") == 0      ? &logging->info
                 : strcmp(key, "log_warning") == 0 ? &logging->warning
                 : strcmp(key, "log_error") == 0   ? &logging->error
                                                   : NULL;
    const char *text = json_string_value(value);
    if (flag != NULL && json_is_boolean(value)) {
        *flag = json_is_true(value);
        return ENGINE_OK;
    }
    if (strcmp(key, "log_verbose_level") == 0 && json_is_integer(value) &&
        json_integer_value(value) >= 0 && json_integer_value(value) <= 100) {
        logging->verbose_level = (int)json_integer_value(value);
        return ENGINE_OK;
    }
    if (strcmp(key, "log_format") == 0 && text != NULL &&
        (strcmp(text, "default") == 0 || strcmp(text, "ISO8601") == 0)) {
        logging->iso8601 = text[0] == 'I';
        return ENGINE_OK;
    }
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "%.60s cannot be set so; there are log_info, log_warning, log_error "
                            "(true or false), log_verbose_level (0 to 100), log_format (default "
                            "or ISO8601)",
                            key);
}

enum engine_code api_document_logging_read(const char *json, size_t size, struct api_logging *inout,
                                           struct engine_error *err)
{
    struct api_logging logging = *inout;
    json_t *root, *value;
    const char *key;
    enum engine_code code = ENGINE_OK;
    ENGINE_TRY(read_object(json, size, &root, err));
    json_object_foreach(root, key, value) if (code == ENGINE_OK) code =
        read_setting(key, value, &logging, err);
    json_decref(root);
    if (code == ENGINE_OK)
        *inout = logging;
    return code;
}
