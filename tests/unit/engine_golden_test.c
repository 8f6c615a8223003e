/* engine_golden_test.c - does the engine compute what the real layer computed? Every case of
 * tests/golden, by the fast path and by the reference, within the tolerance of the manifest. */
#include "tests/unit/engine_support.h"

#include <jansson.h>

#include "api/layer_config.h"
#include "engine/formats/safetensors.h"

struct golden {
    const char *name;
    double atol, rtol;
    struct engine *engine;
    double worst[2]; /* fast, reference; as a part of the tolerance */
};

static char *read_text(const char *path, size_t *ret_size)
{
    static char text[1 << 16];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    *ret_size = fread(text, 1, sizeof text, file);
    fclose(file);
    return text;
}

static struct engine_safetensors *open_tensors(const char *name, const char *file)
{
    char path[256];
    struct engine_error err = {0};
    struct engine_safetensors *ret = NULL;
    snprintf(path, sizeof path, "tests/golden/%s/%s", name, file);
    if (engine_safetensors_open(path, &ret, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    return ret;
}

static void read_config(const char *name, struct engine_layer_config *ret)
{
    char path[256];
    size_t size = 0;
    struct engine_error err = {0};
    snprintf(path, sizeof path, "tests/golden/%s/layer.json", name);
    const char *text = read_text(path, &size);
    if (api_layer_config_read(text, size, ret, &err) != ENGINE_OK)
        fail_msg("%s: %s", name, err.message);
}

/* The greatest error as a part of what is allowed. */
static void compare(struct golden *g, int path, const char *what, const struct engine_tensor *got,
                    const struct engine_tensor *wanted)
{
    if (!engine_tensor_same_shape(got, wanted))
        fail_msg("%s: %s has another shape", g->name, what);
    for (size_t i = 0; i < support_count(wanted); i++) {
        double expected = engine_tensor_get(wanted, i), value = engine_tensor_get(got, i);
        double part = fabs(value - expected) / (g->atol + g->rtol * fabs(expected));
        if (!(part <= 1))
            fail_msg("%s: %s %s[%zu] is %.9g, TensorFlow says %.9g", g->name,
                     path == 0 ? "engine" : "reference", what, i, value, expected);
        g->worst[path] = part > g->worst[path] ? part : g->worst[path];
    }
}

static void compare_reference(struct golden *g, const struct engine_model *model,
                              const struct engine_call *call, const struct engine_tensor *output,
                              const struct engine_tensor *scores)
{
    struct support_reference reference;
    support_define(model, call, &reference);
    struct engine_tensor got = reference.geometry.output;
    got.dtype = ENGINE_F64;
    got.data = reference.output;
    compare(g, 1, "attention_output", &got, output);
    got = reference.geometry.scores;
    got.dtype = ENGINE_F64;
    got.data = reference.scores;
    compare(g, 1, "attention_scores", &got, scores);
    free(reference.output);
    free(reference.scores);
}

static void check_case(struct golden *g)
{
    struct engine_layer_config config;
    struct engine_error err = {0};
    struct engine_model *model = NULL;
    struct engine_call call;
    struct support_answer answer;
    read_config(g->name, &config);
    struct engine_safetensors *weights = open_tensors(g->name, "weights.safetensors");
    struct engine_safetensors *tensors = open_tensors(g->name, "call.safetensors");
    const struct engine_model_source source = {.config = &config,
                                               .weights = engine_safetensors_tensors(weights),
                                               .weights_count = engine_safetensors_count(weights)};
    if (engine_model_create(g->engine, &source, &model, &err) != ENGINE_OK)
        fail_msg("%s: %s", g->name, err.message);
    engine_call_init(&call);
    call.wanted[ENGINE_ATTENTION_SCORES] = true;
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++) {
        const struct engine_tensor *t =
            engine_safetensors_find(tensors, engine_input_name((enum engine_input)i));
        if (t == NULL)
            continue;
        call.inputs[i] = *t; /* aligned: the file's views need not be */
        call.inputs[i].data = support_memory(support_count(t) * 8);
        memcpy(call.inputs[i].data, t->data,
               support_count(t) * engine_tensor_element_bytes(t->dtype));
    }
    const struct engine_tensor *output =
        engine_safetensors_find(tensors, "expected/attention_output");
    const struct engine_tensor *scores =
        engine_safetensors_find(tensors, "expected/attention_scores");
    support_run(g->engine, model, &call, false, &answer);
    compare(g, 0, "attention_output", &answer.outputs[ENGINE_ATTENTION_OUTPUT], output);
    compare(g, 0, "attention_scores", &answer.outputs[ENGINE_ATTENTION_SCORES], scores);
    compare_reference(g, model, &call, output, scores);
    support_answer_reset(&answer);
    support_call_reset(&call);
    engine_model_release(model);
    engine_safetensors_destroy(weights);
    engine_safetensors_destroy(tensors);
}

static void every_case_of_the_real_layer_is_reproduced_within_its_tolerance(void **unused)
{
    json_error_t error;
    const char *name;
    json_t *manifest = json_load_file("tests/golden/MANIFEST.json", 0, &error), *entry;
    json_t *cases = json_object_get(manifest, "cases");
    struct engine *engine = support_open(2);
    int count = 0;
    (void)unused;
    assert_non_null(cases);
    json_object_foreach(cases, name, entry)
    {
        json_t *tolerance = json_object_get(entry, "tolerance");
        struct golden g = {.name = name,
                           .atol = json_real_value(json_object_get(tolerance, "atol")),
                           .rtol = json_real_value(json_object_get(tolerance, "rtol")),
                           .engine = engine};
        check_case(&g);
        printf("%-28s worst error / tolerance: engine %.3f, reference %.3f (atol %g)\n", name,
               g.worst[0], g.worst[1], g.atol);
        count++;
    }
    assert_int_equal(count, 51);
    engine_close(engine);
    json_decref(manifest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_of_the_real_layer_is_reproduced_within_its_tolerance)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
