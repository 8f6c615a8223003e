/* model.c - see model.h. */
#include "server/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void make_input(struct engine_call *call, enum engine_input input, int64_t batch,
                       int64_t length, int64_t width)
{
    call->inputs[input] =
        (struct engine_tensor){.dtype = ENGINE_F32, .rank = 3, .shape = {batch, length, width}};
}

/* The tensors of a call [B,T,S] that the model accepts, without their memory. */
static void shape_call(const struct server_model *model, const int64_t bts[3],
                       struct engine_call *call)
{
    const struct engine_layer_config *config = engine_model_config(model->model);
    int64_t widths[3];
    for (int i = ENGINE_QUERY; i <= ENGINE_KEY; i++)
        widths[i] = engine_model_width(model->model, i);
    engine_call_init(call);
    make_input(call, ENGINE_QUERY, bts[0], bts[1], widths[0] > 0 ? widths[0] : widths[1]);
    make_input(call, ENGINE_VALUE, bts[0], bts[2], widths[1] > 0 ? widths[1] : 1);
    if (widths[2] > 0)
        make_input(call, ENGINE_KEY, bts[0], bts[2], widths[2]);
    if (engine_layer_heads_reused(config) > 0)
        call->inputs[ENGINE_REUSE_ATTENTION_SCORES] = (struct engine_tensor){
            .dtype = ENGINE_F32, .rank = 4, .shape = {bts[0], config->num_heads, bts[1], bts[2]}};
    call->wanted[ENGINE_ATTENTION_OUTPUT] = true;
    call->wanted[ENGINE_ATTENTION_SCORES] = true;
}

/* Bytes of all given inputs together, each on a 64-byte boundary. */
static enum engine_code input_bytes(const struct engine_call *call, size_t *ret,
                                    struct engine_error *err)
{
    size_t total = 0;
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++) {
        size_t bytes;
        if (call->inputs[i].rank == 0)
            continue;
        if (!engine_tensor_bytes(&call->inputs[i], &bytes) ||
            !engine_tensor_add(total, bytes + 64 - bytes % 64, &total))
            return engine_error_set(err, ENGINE_TOO_LARGE, "a warm-up shape overflows memory");
    }
    *ret = total;
    return ENGINE_OK;
}

static void place_inputs(struct engine_call *call, void *memory)
{
    char *at = memory;
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++) {
        size_t bytes = 0;
        if (call->inputs[i].rank == 0 || !engine_tensor_bytes(&call->inputs[i], &bytes))
            continue;
        call->inputs[i].data = at;
        at += bytes + 64 - bytes % 64;
    }
}

static enum engine_code run(struct server_model *model, const struct engine_call *call,
                            struct engine_error *err)
{
    struct engine_buffer outputs[ENGINE_OUTPUT_COUNT] = {{0}};
    struct engine_plan *plan = NULL;
    ENGINE_TRY(engine_plan_create(model->engine, model->model, call, &plan, err));
    const struct engine_plan_facts *facts = engine_plan_facts(plan);
    enum engine_code code = ENGINE_OK;
    for (int i = 0; i < ENGINE_OUTPUT_COUNT && code == ENGINE_OK; i++) {
        if (facts->output_bytes[i] == 0)
            continue;
        code = engine_buffer_take(model->engine, facts->output_bytes[i], &outputs[i], err);
        if (code == ENGINE_OK)
            engine_plan_output(plan, (enum engine_output)i, outputs[i].data);
    }
    if (code == ENGINE_OK)
        code = engine_run(model->engine, plan, err);
    engine_plan_destroy(plan);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        engine_buffer_give(model->engine, &outputs[i]);
    return code;
}

static enum engine_code run_zeros(struct server_model *model, const int64_t bts[3],
                                  struct engine_error *err)
{
    struct engine_call call;
    struct engine_buffer inputs = {0};
    size_t bytes = 0;
    shape_call(model, bts, &call);
    ENGINE_TRY(input_bytes(&call, &bytes, err));
    ENGINE_TRY(engine_buffer_take(model->engine, bytes, &inputs, err));
    memset(inputs.data, 0, bytes);
    place_inputs(&call, inputs.data);
    enum engine_code code = run(model, &call, err);
    engine_buffer_give(model->engine, &inputs);
    return code;
}

/* Runs a call of zeros: buffers become resident and kernels are chosen before the first client. */
static enum engine_code warm_up(struct server_model *model, int index, struct engine_error *err)
{
    const int64_t *bts = model->settings.warmup[index];
    struct engine_error reason = {0};
    enum engine_code code = run_zeros(model, bts, &reason);
    if (code == ENGINE_OK)
        return ENGINE_OK;
    return engine_error_set(err, code, "model.json: warmup[%d] is [%lld,%lld,%lld]: %.180s", index,
                            (long long)bts[0], (long long)bts[1], (long long)bts[2],
                            reason.message);
}

enum engine_code server_model_open(struct engine *engine, const struct server_model_source *source,
                                   struct server_model **ret, struct engine_error *err)
{
    struct server_model *model = calloc(1, sizeof *model);
    if (model == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the model");
    snprintf(model->name, sizeof model->name, "%s", source->name);
    snprintf(model->version, sizeof model->version, "%s", source->version);
    model->engine = engine;
    pthread_mutex_init(&model->lock, NULL);
    atomic_init(&model->references, 1);
    enum engine_code code =
        api_model_files_open(engine, source->directory, source->files, source->files_count,
                             source->config_json, &model->model, &model->settings, err);
    for (int i = 0; code == ENGINE_OK && i < model->settings.warmup_count; i++)
        code = warm_up(model, i, err);
    if (code != ENGINE_OK) {
        server_model_release(model);
        return code;
    }
    *ret = model;
    return ENGINE_OK;
}

void server_model_retain(struct server_model *model)
{
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
}

void server_model_release(struct server_model *model)
{
    if (model == NULL ||
        atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) != 1)
        return;
    engine_model_release(model->model);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

static void extend(struct api_duration *duration, int64_t ns)
{
    duration->count++;
    duration->ns += ns > 0 ? (uint64_t)ns : 0;
}

void server_model_count(struct server_model *model, const struct server_model_sample *sample)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct api_statistics *statistics = &model->statistics;
    pthread_mutex_lock(&model->lock);
    statistics->last_inference_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    if (!sample->success) {
        extend(&statistics->fail, sample->total_ns);
    } else {
        statistics->inference_count += (uint64_t)sample->batch;
        statistics->execution_count++;
        extend(&statistics->success, sample->total_ns);
        extend(&statistics->queue, sample->queue_ns);
        extend(&statistics->compute_input, sample->input_ns);
        extend(&statistics->compute_infer, sample->infer_ns);
        extend(&statistics->compute_output, sample->output_ns);
    }
    pthread_mutex_unlock(&model->lock);
}

void server_model_statistics(struct server_model *model, struct api_statistics *ret)
{
    pthread_mutex_lock(&model->lock);
    *ret = model->statistics;
    pthread_mutex_unlock(&model->lock);
}
