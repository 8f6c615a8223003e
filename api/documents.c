/* documents.c - metadata, configuration, statistics and health. See documents.h. */
#include "api/documents.h"

#include <stdio.h>
#include <string.h>

#include "api/layer_config.h"
#include "engine/formats/json.h"

static char *compact(json_t *document)
{
    return engine_json_text(document, JSON_COMPACT);
}

/* ---- the server ---------------------------------------------------------------------------- */

char *api_document_server(const char *version, bool control)
{
    static const char *const extensions[] = {"model_configuration",
                                             "binary_tensor_data",
                                             "parameters",
                                             "statistics",
                                             "schedule_policy",
                                             "logging",
                                             NULL};
    json_t *list = json_array();
    if (control) {
        list = engine_json_append(list, json_string("model_repository"));
        list = engine_json_append(list, json_string("model_repository(unload_dependents)"));
    }
    for (int i = 0; extensions[i] != NULL; i++)
        list = engine_json_append(list, json_string(extensions[i]));
    return compact(
        json_pack("{s:s,s:s,s:o}", "name", "attnd", "version", version, "extensions", list));
}

char *api_document_live(void)
{
    return strdup("{\"live\":true}");
}

char *api_document_ready(bool ready)
{
    return ready ? strdup("{\"live\":true,\"ready\":true}")
                 : strdup("{\"error\":\"the server is not ready: it is draining, or a model is "
                          "not loaded; POST /v2/repository/index tells why\","
                          "\"live\":true,\"ready\":false}");
}

char *api_document_model_ready(const char *name, bool ready)
{
    if (ready)
        return compact(json_pack("{s:s,s:b}", "name", name, "ready", 1));
    return compact(
        json_pack("{s:s,s:s,s:b}", "error", "the model is not ready", "name", name, "ready", 0));
}

/* ---- tensors of a model -------------------------------------------------------------------- */

static int axes_of(const struct engine_layer_config *config)
{
    if (config->axes_rank > 0)
        return config->axes_rank;
    return config->query_shape.rank > 3 ? config->query_shape.rank - 2 : 1;
}

/* Rank of the inputs: as the layer was built, or the least that its axes allow. */
static int rank_of(const struct engine_layer_config *config)
{
    int rank = config->query_shape.rank >= 3 ? config->query_shape.rank : 3;
    for (int i = 0; i < config->axes_rank; i++) {
        int64_t needed = config->attention_axes[i] > 0 ? config->attention_axes[i] + 2
                                                       : 2 - config->attention_axes[i] - 1;
        if (needed > rank)
            rank = (int)(needed > ENGINE_MAX_INPUT_RANK ? ENGINE_MAX_INPUT_RANK : needed);
    }
    return rank;
}

static json_t *shape(int variable, int64_t last)
{
    json_t *list = json_array();
    for (int i = 0; i < variable; i++)
        list = engine_json_append(list, json_integer(-1));
    if (last != 0)
        list = engine_json_append(list, json_integer(last));
    return list;
}

/* Batch and free axes, heads, queries, keys. */
static json_t *scores_shape(const struct engine_layer_config *config, int64_t heads)
{
    int axes = axes_of(config), before = rank_of(config) - 1 - axes;
    json_t *list = shape(before, heads);
    for (int i = 0; i < 2 * axes; i++)
        list = engine_json_append(list, json_integer(-1));
    return list;
}

static json_t *input_shape(const struct engine_model *model, enum engine_input input)
{
    const struct engine_layer_config *config = engine_model_config(model);
    int rank = rank_of(config);
    if (input == ENGINE_ATTENTION_MASK)
        return shape(rank - 1 + axes_of(config), 0);
    if (input == ENGINE_REUSE_ATTENTION_SCORES)
        return scores_shape(config, -1);
    return shape(rank - 1, engine_model_width(model, (int)input));
}

static json_t *output_shape(const struct engine_model *model, enum engine_output output)
{
    const struct engine_layer_config *config = engine_model_config(model);
    struct engine_named_tensor weight;
    if (output == ENGINE_ATTENTION_SCORES)
        return scores_shape(config, config->num_heads);
    json_t *list = shape(rank_of(config) - 1, 0);
    for (size_t i = 0; engine_model_weight(model, i, &weight); i++) {
        if (strncmp(weight.name, "attention_output", 16) != 0 ||
            strstr(weight.name, "kernel") == NULL)
            continue;
        for (int d = 2; d < weight.tensor.rank; d++)
            list = engine_json_append(list, json_integer(weight.tensor.shape[d]));
        break;
    }
    return list;
}

static bool has_input(const struct engine_model *model, enum engine_input input)
{
    return input != ENGINE_REUSE_ATTENTION_SCORES ||
           engine_layer_heads_reused(engine_model_config(model)) > 0;
}

static const char *float_type(const struct engine_model *model)
{
    return engine_model_config(model)->policy == ENGINE_POLICY_FLOAT64 ? "FP64" : "FP32";
}

static json_t *tensors(const struct engine_model *model, bool inputs)
{
    json_t *list = json_array();
    int count = inputs ? ENGINE_INPUT_COUNT : ENGINE_ATTENTION_SCORES + 1;
    for (int i = 0; i < count; i++) {
        if (inputs && !has_input(model, (enum engine_input)i))
            continue;
        const char *name = inputs ? engine_input_name((enum engine_input)i)
                                  : engine_output_name((enum engine_output)i);
        const char *type = inputs && i == ENGINE_ATTENTION_MASK ? "BOOL" : float_type(model);
        list = engine_json_append(
            list, json_pack("{s:s,s:s,s:o}", "name", name, "datatype", type, "shape",
                            inputs ? input_shape(model, (enum engine_input)i)
                                   : output_shape(model, (enum engine_output)i)));
    }
    return list;
}

char *api_document_model(const struct api_model_view *view)
{
    json_t *versions = json_array();
    for (size_t i = 0; i < view->versions_count; i++)
        versions = engine_json_append(versions, json_string(view->versions[i]));
    return compact(json_pack("{s:s,s:o,s:s,s:o,s:o}", "name", view->name, "versions", versions,
                             "platform", "attnd", "inputs", tensors(view->model, true), "outputs",
                             tensors(view->model, false)));
}

char *api_document_models(const struct api_model_view *views, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(views[i].name, views[i - 1].name) != 0)
            list = engine_json_append(list, json_string(views[i].name));
    return compact(json_pack("{s:o}", "models", list));
}

/* ---- configuration ------------------------------------------------------------------------- */

/* Triton's ModelConfig spells the same tensors in its own way. */
static json_t *config_tensors(const struct engine_model *model, bool inputs)
{
    json_t *given = tensors(model, inputs), *list = given != NULL ? json_array() : NULL, *tensor;
    size_t index;
    json_array_foreach(given, index, tensor)
    {
        const char *name = json_string_value(json_object_get(tensor, "name"));
        const char *type = json_string_value(json_object_get(tensor, "datatype"));
        char data_type[24];
        snprintf(data_type, sizeof data_type, "TYPE_%s", type != NULL ? type : "");
        bool optional = inputs && name != NULL && strcmp(name, "query") != 0 &&
                        strcmp(name, "reuse_attention_scores") != 0;
        json_t *entry = json_pack("{s:s?,s:s,s:O}", "name", name, "data_type", data_type, "dims",
                                  json_object_get(tensor, "shape"));
        if (inputs)
            entry = engine_json_set(entry, "optional", json_boolean(optional));
        list = engine_json_append(list, entry);
    }
    json_decref(given);
    return list;
}

/* The layer's get_config(), with shapes filled in from the weights where it was never built. */
static json_t *layer_document(const struct engine_model *model)
{
    struct engine_layer_config config = *engine_model_config(model);
    struct engine_layer_shape *shapes[] = {&config.query_shape, &config.value_shape,
                                           &config.key_shape};
    int rank = rank_of(&config);
    for (int i = 0; i < 3; i++) {
        if (shapes[i]->rank >= 0)
            continue;
        shapes[i]->rank = rank;
        for (int d = 0; d < rank - 1; d++)
            shapes[i]->shape[d] = -1;
        shapes[i]->shape[rank - 1] = engine_model_width(model, i);
    }
    return api_layer_config_write_document(&config);
}

static const char *kernel_of(const struct engine_facts *facts, enum engine_precision precision)
{
    return precision == ENGINE_PRECISION_X3     ? facts->kernel_x3
           : precision == ENGINE_PRECISION_BF16 ? facts->kernel_bf16
                                                : facts->kernel_f32;
}

char *api_document_config(struct engine *engine, const struct api_model_view *view)
{
    const struct engine_facts *facts = engine_facts(engine);
    enum engine_precision precision = engine_model_precision(view->model);
    struct engine_penalties penalties;
    engine_model_penalties(view->model, &penalties);
    return compact(json_pack(
        "{s:s,s:s,s:s,s:{s:{s:i}},s:i,s:o,s:o,s:o,s:f,s:b,s:b,s:s,s:s,s:s,s:s,s:i,s:I}", "name",
        view->name, "platform", "attnd", "backend", "attnd", "version_policy", "latest",
        "num_versions", 1, "max_batch_size", 0, "input", config_tensors(view->model, true),
        "output", config_tensors(view->model, false), "layer", layer_document(view->model),
        "regularization_loss", penalties.regularization_loss, "kernel_constraint_satisfied",
        (int)penalties.kernel_constraint_satisfied, "bias_constraint_satisfied",
        (int)penalties.bias_constraint_satisfied, "precision",
        engine_model_precision_name(view->model, precision), "precision_wished",
        engine_precision_name(engine_model_precision_wished(view->model)), "kernel",
        kernel_of(facts, precision), "notes", facts->notes, "threads", facts->threads,
        "weight_bytes", (json_int_t)engine_model_bytes(view->model)));
}

/* ---- statistics ---------------------------------------------------------------------------- */

static json_t *duration(const struct api_duration *d)
{
    return json_pack("{s:I,s:I}", "count", (json_int_t)d->count, "ns", (json_int_t)d->ns);
}

static json_t *statistics(const struct api_model_view *view)
{
    static const struct api_statistics none = {0};
    static const struct api_duration never = {0, 0};
    const struct api_statistics *s = view->statistics != NULL ? view->statistics : &none;
    json_t *inference =
        json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "success", duration(&s->success), "fail",
                  duration(&s->fail), "queue", duration(&s->queue), "compute_input",
                  duration(&s->compute_input), "compute_infer", duration(&s->compute_infer),
                  "compute_output", duration(&s->compute_output), "cache_hit", duration(&never),
                  "cache_miss", duration(&never));
    json_int_t bytes = view->model != NULL ? (json_int_t)engine_model_bytes(view->model) : 0;
    return json_pack("{s:s,s:s,s:I,s:I,s:I,s:o,s:{},s:[],s:[{s:s,s:i,s:I}]}", "name", view->name,
                     "version", view->version, "last_inference", (json_int_t)s->last_inference_ms,
                     "inference_count", (json_int_t)s->inference_count, "execution_count",
                     (json_int_t)s->execution_count, "inference_stats", inference, "response_stats",
                     "batch_stats", "memory_usage", "type", "CPU", "id", 0, "byte_size", bytes);
}

char *api_document_stats(const struct api_model_view *views, size_t count)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        if (views[i].state == API_MODEL_READY)
            list = engine_json_append(list, statistics(&views[i]));
    return compact(json_pack("{s:o}", "model_stats", list));
}

/* ---- TensorFlow Serving and KServe v1 ------------------------------------------------------- */

static const char *tf_state(enum api_model_state state)
{
    switch (state) {
    case API_MODEL_READY:
        return "AVAILABLE";
    case API_MODEL_LOADING:
        return "LOADING";
    case API_MODEL_UNLOADING:
        return "UNLOADING";
    case API_MODEL_UNAVAILABLE:
        break;
    }
    return "END";
}

char *api_document_tf_status(const struct api_model_view *views, size_t count)
{
    json_t *list = json_array();
    bool ready = false;
    for (size_t i = 0; i < count; i++) {
        bool failed = views[i].reason != NULL && views[i].reason[0] != '\0';
        ready = ready || views[i].state == API_MODEL_READY;
        list =
            engine_json_append(list, json_pack("{s:s,s:s,s:{s:s,s:s}}", "version", views[i].version,
                                               "state", tf_state(views[i].state), "status",
                                               "error_code", failed ? "FAILED_PRECONDITION" : "OK",
                                               "error_message", failed ? views[i].reason : ""));
    }
    return compact(json_pack("{s:s,s:b,s:o}", "name", count > 0 ? views[0].name : "", "ready",
                             (int)ready, "model_version_status", list));
}

char *api_document_tf_models(const struct api_model_view *views, size_t count)
{
    return api_document_models(views, count);
}

static json_t *tf_tensors(const struct engine_model *model, bool inputs, bool with_scores)
{
    json_t *given = tensors(model, inputs), *object = given != NULL ? json_object() : NULL, *tensor;
    size_t index;
    json_array_foreach(given, index, tensor)
    {
        const char *name = json_string_value(json_object_get(tensor, "name"));
        const char *type = json_string_value(json_object_get(tensor, "datatype"));
        json_t *dims = json_array(), *size;
        size_t d;
        char text[32], port[64];
        if (name == NULL || type == NULL || (!inputs && index > 0 && !with_scores)) {
            json_decref(dims);
            continue;
        }
        json_array_foreach(json_object_get(tensor, "shape"), d, size)
        {
            snprintf(text, sizeof text, "%lld", (long long)json_integer_value(size));
            dims = engine_json_append(dims, json_pack("{s:s,s:s}", "size", text, "name", ""));
        }
        snprintf(port, sizeof port, "%s:0", name);
        object = engine_json_set(object, name,
                                 json_pack("{s:s,s:{s:o,s:b},s:s}", "dtype",
                                           strcmp(type, "BOOL") == 0   ? "DT_BOOL"
                                           : strcmp(type, "FP64") == 0 ? "DT_DOUBLE"
                                                                       : "DT_FLOAT",
                                           "tensor_shape", "dim", dims, "unknown_rank", 0, "name",
                                           port));
    }
    json_decref(given);
    return object;
}

static json_t *signature(const struct engine_model *model, bool with_scores)
{
    return json_pack("{s:o,s:o,s:s}", "inputs", tf_tensors(model, true, with_scores), "outputs",
                     tf_tensors(model, false, with_scores), "method_name",
                     "tensorflow/serving/predict");
}

char *api_document_tf_metadata(const struct api_model_view *view)
{
    return compact(json_pack("{s:{s:s,s:s,s:s},s:{s:{s:{s:o,s:o}}}}", "model_spec", "name",
                             view->name, "signature_name", "", "version", view->version, "metadata",
                             "signature_def", "signature_def", "serving_default",
                             signature(view->model, false), "with_scores",
                             signature(view->model, true)));
}
