/* bench_request.c - see bench_request.h. */
#include "api/client/bench_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/limits.h"
#include "engine/formats/json.h"

/* More values than this are no benchmark of a service. */
#define VALUES_LIMIT ((size_t)1 << 30)

enum { TENSORS = 4 };

static const char *const json_headers[] = {"Content-Type: application/json", NULL};
static const char *const safetensors_headers[] = {"Content-Type: application/safetensors", NULL};

struct tensors {
    struct engine_named_tensor named[TENSORS];
    size_t count;
};

/* ---- the tensors --------------------------------------------------------------------------- */

static const json_t *find(const json_t *list, const char *name)
{
    size_t index;
    json_t *entry;
    json_array_foreach(list, index, entry)
    {
        const char *said = json_string_value(json_object_get(entry, "name"));
        if (said != NULL && strcmp(said, name) == 0)
            return entry;
    }
    return NULL;
}

/* One extent of a tensor in the metadata of a model; -1: none, or not known. */
static int64_t extent(const json_t *tensor, size_t rank, size_t index)
{
    const json_t *shape = json_object_get(tensor, "shape");
    json_t *value = json_array_get(shape, index);
    return json_array_size(shape) == rank && json_is_integer(value) ? json_integer_value(value)
                                                                    : -1;
}

static void add(struct tensors *tensors, const char *name, int rank, const int64_t *shape)
{
    struct engine_named_tensor *tensor = &tensors->named[tensors->count++];
    *tensor =
        (struct engine_named_tensor){.name = name, .tensor = {.dtype = ENGINE_F32, .rank = rank}};
    memcpy(tensor->tensor.shape, shape, (size_t)rank * sizeof *shape);
}

/* Names and shapes by the model's metadata; false if they are not known. Value and key are left
 * out where the layer takes the query or the value in their place. */
static bool choose(const json_t *metadata, const struct api_bench_request_wishes *wishes,
                   struct tensors *ret)
{
    const json_t *inputs = json_object_get(metadata, "inputs"), *query = find(inputs, "query");
    const json_t *outputs = json_object_get(metadata, "outputs");
    int64_t b = wishes->batch, t = wishes->tokens;
    int64_t heads = extent(find(outputs, "attention_scores"), 4, 1);
    int64_t value = extent(find(inputs, "value"), 3, 2), key = extent(find(inputs, "key"), 3, 2);
    int64_t width = extent(query, 3, 2) > 0 ? extent(query, 3, 2) : value;
    bool reuses = find(inputs, "reuse_attention_scores") != NULL;
    ret->count = 0;
    if (json_array_size(json_object_get(query, "shape")) != 3 || width < 1 || (reuses && heads < 1))
        return false;
    value = value > 0 ? value : width;
    add(ret, "query", 3, (const int64_t[]){b, t, width});
    if (value != width)
        add(ret, "value", 3, (const int64_t[]){b, t, value});
    if (key > 0 && key != value)
        add(ret, "key", 3, (const int64_t[]){b, t, key});
    if (reuses)
        add(ret, "reuse_attention_scores", 4, (const int64_t[]){b, heads, t, t});
    return true;
}

static float value_at(const struct engine_named_tensor *tensor, size_t i)
{
    if (tensor->tensor.rank == 4)
        return 1.0f / (float)tensor->tensor.shape[3];
    return (float)(i * 2654435761u % 2001) / 1000.0f - 1.0f;
}

static enum engine_code fill(struct engine_named_tensor *tensor, float **ret,
                             struct engine_error *err)
{
    size_t count = 0;
    if (!engine_tensor_count(&tensor->tensor, &count) || count > VALUES_LIMIT)
        return engine_error_set(err, ENGINE_TOO_LARGE, "%s would be too large", tensor->name);
    float *values = malloc((count + 1) * sizeof *values);
    if (values == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for %s", tensor->name);
    for (size_t i = 0; i < count; i++)
        values[i] = value_at(tensor, i);
    tensor->tensor.data = values;
    *ret = values;
    return ENGINE_OK;
}

/* ---- the body ------------------------------------------------------------------------------ */

static void write_shape(FILE *out, const struct engine_tensor *tensor)
{
    for (int i = 0; i < tensor->rank; i++)
        fprintf(out, "%s%lld", i > 0 ? "," : "", (long long)tensor->shape[i]);
}

static void write_tensor(FILE *out, const struct engine_named_tensor *tensor)
{
    const float *values = tensor->tensor.data;
    size_t count = 0;
    (void)engine_tensor_count(&tensor->tensor, &count);
    fprintf(out, "{\"name\":\"%s\",\"datatype\":\"FP32\",\"shape\":[", tensor->name);
    write_shape(out, &tensor->tensor);
    fprintf(out, "],\"data\":[");
    for (size_t i = 0; i < count; i++)
        fprintf(out, i > 0 ? ",%.9g" : "%.9g", (double)values[i]);
    fprintf(out, "]}");
}

static enum engine_code make_json(const struct tensors *tensors, bool scores,
                                  struct api_bench_request *ret, struct engine_error *err)
{
    FILE *out = open_memstream(&ret->body, &ret->request.size);
    if (out == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    fprintf(out, "{\"inputs\":[");
    for (size_t i = 0; i < tensors->count; i++) {
        fputs(i > 0 ? "," : "", out);
        write_tensor(out, &tensors->named[i]);
    }
    fprintf(out, "],\"parameters\":{\"return_attention_scores\":%s}}", scores ? "true" : "false");
    bool whole = ferror(out) == 0;
    if (fclose(out) != 0 || !whole)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a request");
    ret->request.headers = json_headers;
    return ENGINE_OK;
}

static enum engine_code make_binary(const struct tensors *tensors, bool scores,
                                    struct api_bench_request *ret, struct engine_error *err)
{
    const char *metadata[] = {"return_attention_scores", scores ? "true" : "false", NULL};
    ret->request.headers = safetensors_headers;
    return api_client_body(tensors->named, tensors->count, metadata, &ret->body, &ret->request.size,
                           err);
}

static enum engine_code make_body(struct tensors *tensors,
                                  const struct api_bench_request_wishes *wishes,
                                  struct api_bench_request *ret, struct engine_error *err)
{
    float *values[TENSORS] = {NULL};
    enum engine_code code = ENGINE_OK;
    for (size_t i = 0; i < tensors->count && code == ENGINE_OK; i++)
        code = fill(&tensors->named[i], &values[i], err);
    if (code == ENGINE_OK)
        code = (wishes->json ? make_json : make_binary)(tensors, wishes->scores, ret, err);
    for (size_t i = 0; i < TENSORS; i++)
        free(values[i]);
    ret->request.body = ret->body;
    ret->request.path = ret->path;
    return code;
}

enum engine_code api_bench_request_make(struct api_client *client,
                                        const struct api_bench_request_wishes *wishes,
                                        struct api_bench_request *ret, struct engine_error *err)
{
    struct tensors tensors;
    char *text = NULL;
    *ret = (struct api_bench_request){.body = NULL};
    ENGINE_TRY(api_client_path(ret->path, "/v2/models/", wishes->model, "", err));
    ENGINE_TRY(api_client_document(client, ret->path, NULL, &text, err));
    json_error_t where;
    json_t *metadata = NULL;
    enum engine_code code = engine_json_load(text, strlen(text), 0, &metadata, &where, err);
    bool known = code == ENGINE_OK && choose(metadata, wishes, &tensors);
    json_decref(metadata);
    free(text);
    if (code != ENGINE_OK)
        return code;
    if (!known)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "model %.80s has no query [B,T,C] of known width", wishes->model);
    ENGINE_TRY(api_client_path(ret->path, "/v2/models/", wishes->model, "/infer", err));
    return make_body(&tensors, wishes, ret, err);
}

void api_bench_request_reset(struct api_bench_request *request)
{
    free(request->body);
    *request = (struct api_bench_request){.body = NULL};
}
