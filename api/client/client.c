/* client.c - see client.h. */
#include "api/client/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include <curl/curl.h>

#include "api/limits.h"
#include "engine/formats/json.h"

/* An answer larger than this is nobody's attention layer. */
#define ANSWER_LIMIT ((size_t)4 << 30)

struct api_client {
    CURL *curl;
    char base[512];
    struct api_client_options options;
};

struct api_client_answer {
    char *bytes;
    struct engine_safetensors *file;
};

/* One request and what comes back. */
struct exchange {
    struct api_client *client;
    struct api_client_request request;
    char *bytes; /* of the answer, terminated */
    size_t bytes_count, bytes_room;
    bool begun, head_whole; /* a part of the answer came; all of its head */
    long status, retry_after_s;
};

static const char *const json_headers[] = {"Content-Type: application/json", NULL};
static const char *const safetensors_both_ways[] = {"Content-Type: application/safetensors",
                                                    "Accept: application/safetensors", NULL};

enum engine_code api_client_start(struct engine_error *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INTERNAL, "libcurl does not start");
}

/* ---- opening ------------------------------------------------------------------------------- */

static enum engine_code set_url(struct api_client *client, const char *url,
                                struct engine_error *err)
{
    bool http = strncmp(url, "http://", 7) == 0 || strncmp(url, "https://", 8) == 0;
    bool local = strncmp(url, "unix:", 5) == 0;
    size_t length = strlen(url);
    if ((!http && !local) || length >= sizeof client->base)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "URL is \"%.80s\", it must be http://HOST:PORT, https://HOST:PORT "
                                "or unix:PATH",
                                url);
    snprintf(client->base, sizeof client->base, "%s", local ? "http://localhost" : url);
    while (length > 0 && !local && client->base[length - 1] == '/')
        client->base[--length] = '\0';
    if (local)
        curl_easy_setopt(client->curl, CURLOPT_UNIX_SOCKET_PATH, url + 5);
    return ENGINE_OK;
}

static int show_progress(void *argument, curl_off_t down_total, curl_off_t down,
                         curl_off_t up_total, curl_off_t up)
{
    const struct api_client *client = argument;
    (void)down_total;
    (void)up_total;
    client->options.progress(client->options.argument, (uint64_t)up, (uint64_t)down);
    return 0;
}

static void set_defaults(struct api_client *client)
{
    struct api_client_options *o = &client->options;
    o->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : 60000;
    o->attempts = o->attempts > 0 ? o->attempts : 4;
    o->wait_ms_max = o->wait_ms_max > 0 ? o->wait_ms_max : 5000;
    curl_easy_setopt(client->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(client->curl, CURLOPT_CONNECTTIMEOUT_MS, 10000L);
    curl_easy_setopt(client->curl, CURLOPT_TIMEOUT_MS, o->timeout_ms);
    curl_easy_setopt(client->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(client->curl, CURLOPT_PROXY, "");
    curl_easy_setopt(client->curl, CURLOPT_PATH_AS_IS, 1L); /* a model called ".." is no way up */
    if (o->progress == NULL)
        return;
    curl_easy_setopt(client->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(client->curl, CURLOPT_XFERINFOFUNCTION, show_progress);
    curl_easy_setopt(client->curl, CURLOPT_XFERINFODATA, client);
}

enum engine_code api_client_open(const char *url, const struct api_client_options *options,
                                 struct api_client **ret, struct engine_error *err)
{
    struct api_client *client = calloc(1, sizeof *client);
    if (client == NULL || (client->curl = curl_easy_init()) == NULL) {
        free(client);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a client");
    }
    if (options != NULL)
        client->options = *options;
    enum engine_code code = set_url(client, url, err);
    if (code != ENGINE_OK) {
        api_client_close(client);
        return code;
    }
    set_defaults(client);
    *ret = client;
    return ENGINE_OK;
}

void api_client_close(struct api_client *client)
{
    if (client == NULL)
        return;
    curl_easy_cleanup(client->curl);
    free(client);
}

/* ---- one attempt --------------------------------------------------------------------------- */

static size_t take_bytes(char *bytes, size_t one, size_t count, void *argument)
{
    struct exchange *x = argument;
    size_t size = one * count, needed = x->bytes_count + size + 1;
    if (needed > ANSWER_LIMIT)
        return 0;
    if (needed > x->bytes_room) {
        char *grown = realloc(x->bytes, 2 * needed);
        if (grown == NULL)
            return 0;
        x->bytes = grown;
        x->bytes_room = 2 * needed;
    }
    memcpy(x->bytes + x->bytes_count, bytes, size);
    x->bytes_count += size;
    x->bytes[x->bytes_count] = '\0';
    return size;
}

static size_t take_header(char *bytes, size_t one, size_t count, void *argument)
{
    static const char name[] = "Retry-After:";
    struct exchange *x = argument;
    x->begun = true;
    x->head_whole = one * count <= 2 && bytes[0] != ' '; /* the empty line */
    if (one * count > sizeof name && strncasecmp(bytes, name, sizeof name - 1) == 0) {
        /* A date, or what is no number of seconds, counts as no wish. */
        char text[16] = "";
        size_t length = one * count - (sizeof name - 1);
        memcpy(text, bytes + sizeof name - 1, length < sizeof text ? length : sizeof text - 1);
        char *end = text;
        long seconds = strtol(text, &end, 10);
        if (end != text && strspn(end, " \r\n") == strlen(end) && seconds >= 0)
            x->retry_after_s = seconds;
    }
    return one * count;
}

/* Returns new, NULL when there is no memory for all of them. */
static struct curl_slist *make_headers(const char *const *lines)
{
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    for (; list != NULL && lines != NULL && *lines != NULL; lines++) {
        struct curl_slist *longer = curl_slist_append(list, *lines);
        if (longer == NULL)
            curl_slist_free_all(list);
        list = longer;
    }
    return list;
}

static void set_body(CURL *curl, const struct api_client_request *request)
{
    if (request->body == NULL) {
        curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L);
        return;
    }
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->size);
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
}

static CURLcode attempt(struct exchange *x)
{
    CURL *curl = x->client->curl;
    char url[1024];
    int length = snprintf(url, sizeof url, "%s%s", x->client->base, x->request.path);
    x->bytes_count = 0;
    if (x->bytes != NULL)
        x->bytes[0] = '\0'; /* the text of an attempt before */
    x->status = 0;
    x->retry_after_s = -1;
    x->begun = x->head_whole = false;
    if (length < 0 || (size_t)length >= sizeof url)
        return CURLE_URL_MALFORMAT;
    struct curl_slist *headers = make_headers(x->request.headers);
    if (headers == NULL || curl_easy_setopt(curl, CURLOPT_URL, url) != CURLE_OK) {
        curl_slist_free_all(headers);
        return CURLE_OUT_OF_MEMORY;
    }
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, x);
    set_body(curl, &x->request);
    CURLcode result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &x->status);
    curl_slist_free_all(headers);
    /* libcurl takes a head that broke off for an answer without a body. */
    return result == CURLE_OK && !x->head_whole ? CURLE_PARTIAL_FILE : result;
}

/* ---- errors -------------------------------------------------------------------------------- */

static enum engine_code code_of(long status)
{
    switch (status) {
    case 401:
        return ENGINE_UNAUTHORIZED;
    case 403:
        return ENGINE_FORBIDDEN;
    case 404:
        return ENGINE_NOT_FOUND;
    case 405:
        return ENGINE_METHOD;
    case 408:
        return ENGINE_TIMEOUT;
    case 411:
        return ENGINE_LENGTH_REQUIRED;
    case 413:
        return ENGINE_TOO_LARGE;
    case 414:
        return ENGINE_URL_TOO_LONG;
    case 415:
        return ENGINE_MEDIA_TYPE;
    case 429:
        return ENGINE_OVERLOADED;
    case 431:
        return ENGINE_HEADERS_TOO_MANY;
    case 501:
        return ENGINE_UNSUPPORTED;
    case 503:
        return ENGINE_UNAVAILABLE;
    case 504:
        return ENGINE_DEADLINE;
    default:
        return status >= 400 && status < 500 ? ENGINE_INVALID_ARGUMENT : ENGINE_INTERNAL;
    }
}

static enum engine_code server_error(const struct exchange *x, struct engine_error *err)
{
    json_error_t where;
    json_t *root = NULL;
    if (x->bytes != NULL)
        ENGINE_TRY(engine_json_load(x->bytes, x->bytes_count, 0, &root, &where, err));
    const char *said = json_string_value(json_object_get(root, "error"));
    enum engine_code code =
        engine_error_set(err, code_of(x->status), "the server answered %ld: %.180s", x->status,
                         said != NULL ? said : "(no text)");
    json_decref(root);
    return code;
}

static enum engine_code transfer_error(const struct exchange *x, CURLcode result,
                                       struct engine_error *err)
{
    const char *why = curl_easy_strerror(result);
    if (result == CURLE_OPERATION_TIMEDOUT)
        return engine_error_set(err, ENGINE_TIMEOUT, "the request failed: %s", why);
    if (x->begun)
        return engine_error_set(err, ENGINE_INTERNAL, "the answer broke off after %zu bytes: %s",
                                x->bytes_count, why);
    return engine_error_set(err, ENGINE_UNAVAILABLE, "the request failed: %s", why);
}

static void pause_ms(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* Attempts until the answer is final. Without a Retry-After: 100 ms, doubled each time. */
static enum engine_code run(struct exchange *x, struct engine_error *err)
{
    const struct api_client_options *o = &x->client->options;
    for (int i = 0;; i++) {
        CURLcode result = attempt(x);
        bool busy = result == CURLE_OK && (x->status == 429 || x->status == 503);
        if (result != CURLE_OK)
            return transfer_error(x, result, err);
        if (x->status == 200)
            return ENGINE_OK;
        if (!busy || i + 1 >= o->attempts)
            return server_error(x, err);
        if (x->retry_after_s > o->wait_ms_max / 1000)
            return server_error(x, err);
        long wait = x->retry_after_s >= 0 ? x->retry_after_s * 1000 : 100L << (i < 16 ? i : 16);
        if (wait > o->wait_ms_max)
            return server_error(x, err);
        pause_ms(wait);
    }
}

/* ---- requests ------------------------------------------------------------------------------ */

/* Letters, digits and what else stands for itself in a path; the rest of a name is escaped, so
 * that a name can never be another path. */
static bool plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("-._~", c) != NULL);
}

enum engine_code api_client_path(char *ret, const char *before, const char *model,
                                 const char *after, struct engine_error *err)
{
    if (model[0] == '\0' || strlen(model) > API_MAX_NAME_BYTES)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the model's name has %zu bytes, it must have 1 to %d",
                                strlen(model), API_MAX_NAME_BYTES);
    char *to = ret + sprintf(ret, "%s", before);
    for (; *model != '\0'; model++)
        to += sprintf(to, plain(*model) ? "%c" : "%%%02X", (unsigned char)*model);
    strcpy(to, after);
    return ENGINE_OK;
}

enum engine_code api_client_ask(struct api_client *client, const struct api_client_request *request,
                                char **ret, size_t *ret_size, struct engine_error *err)
{
    struct exchange x = {.client = client, .request = *request};
    enum engine_code code = run(&x, err);
    if (code == ENGINE_OK && x.bytes == NULL)
        x.bytes = calloc(1, 1); /* an empty answer is a text all the same */
    if (code == ENGINE_OK && x.bytes == NULL)
        code = engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for an answer");
    if (code != ENGINE_OK) {
        free(x.bytes);
        return code;
    }
    *ret = x.bytes;
    *ret_size = x.bytes_count;
    return ENGINE_OK;
}

enum engine_code api_client_document(struct api_client *client, const char *path, const char *body,
                                     char **ret, struct engine_error *err)
{
    const struct api_client_request request = {path, body != NULL ? json_headers : NULL, body,
                                               body != NULL ? strlen(body) : 0};
    size_t size = 0;
    return api_client_ask(client, &request, ret, &size, err);
}

enum engine_code api_client_body(const struct engine_named_tensor *tensors, size_t count,
                                 const char *const *metadata, char **ret, size_t *ret_size,
                                 struct engine_error *err)
{
    char *header = NULL;
    size_t size = 0, at;
    ENGINE_TRY(engine_safetensors_header(tensors, count, metadata, &header, &size, err));
    at = size;
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 0;
        if (!engine_tensor_bytes(&tensors[i].tensor, &bytes) ||
            !engine_tensor_add(size, bytes, &size)) {
            free(header);
            return engine_error_set(err, ENGINE_TOO_LARGE, "tensor %.80s is too large",
                                    tensors[i].name);
        }
    }
    char *body = realloc(header, size + 1);
    if (body == NULL) {
        free(header);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    }
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 0;
        (void)engine_tensor_bytes(&tensors[i].tensor, &bytes);
        if (bytes > 0)
            memcpy(body + at, tensors[i].tensor.data, bytes);
        at += bytes;
    }
    *ret = body;
    *ret_size = size;
    return ENGINE_OK;
}

/* Takes the bytes, also when it fails. */
static enum engine_code take_answer(char *bytes, size_t size, struct api_client_answer **ret,
                                    struct engine_error *err)
{
    struct api_client_answer *answer = calloc(1, sizeof *answer);
    if (answer == NULL) {
        free(bytes);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for an answer");
    }
    answer->bytes = bytes;
    enum engine_code code = engine_safetensors_parse(bytes, size, &answer->file, err);
    if (code != ENGINE_OK) {
        api_client_answer_destroy(answer);
        return code;
    }
    *ret = answer;
    return ENGINE_OK;
}

enum engine_code api_client_infer(struct api_client *client, const char *model,
                                  const struct engine_named_tensor *tensors, size_t count,
                                  const char *const *metadata, struct api_client_answer **ret,
                                  struct engine_error *err)
{
    char path[API_CLIENT_PATH_BYTES], *body = NULL, *bytes = NULL;
    struct api_client_request request = {path, safetensors_both_ways, NULL, 0};
    size_t size = 0;
    ENGINE_TRY(api_client_path(path, "/v2/models/", model, "/infer", err));
    ENGINE_TRY(api_client_body(tensors, count, metadata, &body, &request.size, err));
    request.body = body;
    enum engine_code code = api_client_ask(client, &request, &bytes, &size, err);
    free(body);
    return code == ENGINE_OK ? take_answer(bytes, size, ret, err) : code;
}

const struct engine_safetensors *api_client_answer_file(const struct api_client_answer *answer)
{
    return answer->file;
}

void api_client_answer_destroy(struct api_client_answer *answer)
{
    if (answer == NULL)
        return;
    engine_safetensors_destroy(answer->file);
    free(answer->bytes);
    free(answer);
}

/* ---- control ------------------------------------------------------------------------------- */

static enum engine_code control(struct api_client *client, const char *model, const char *verb,
                                const char *config, struct engine_error *err)
{
    char path[API_CLIENT_PATH_BYTES], *answer = NULL;
    ENGINE_TRY(api_client_path(path, "/v2/repository/models/", model, verb, err));
    json_t *body =
        config != NULL ? json_pack("{s:{s:s}}", "parameters", "config", config) : json_object();
    char *text = engine_json_text(body, JSON_COMPACT);
    if (text == NULL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "the configuration is no UTF-8 text");
    enum engine_code code = api_client_document(client, path, text, &answer, err);
    free(text);
    free(answer);
    return code;
}

enum engine_code api_client_load(struct api_client *client, const char *model, const char *config,
                                 struct engine_error *err)
{
    return control(client, model, "/load", config, err);
}

enum engine_code api_client_unload(struct api_client *client, const char *model,
                                   struct engine_error *err)
{
    return control(client, model, "/unload", NULL, err);
}
