/* engine_edges_test.c - small calls of the real layer where implementations go wrong: every case of
 * tests/edges (or of the directory given as argument), by the fast path and by the reference, once
 * for each instruction set that the machine has: each in a process of its own, because a process
 * asks for its instruction sets once. */
#include "tests/unit/engine_support.h"

#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "api/model_files.h"
#include "engine/formats/safetensors.h"

static const char *directory = "tests/edges";

struct edge {
    char path[512];
    const char *name;
    bool on_grid; /* each score returned is a value of the policy's type */
    double tolerance;
    double worst; /* as a part of what is allowed */
    enum engine_policy policy;
    int wrong;
};

static bool same_not_finite(double a, double b)
{
    return (isnan(a) && isnan(b)) || (isinf(a) && a == b);
}

static void compare(struct edge *e, const char *what, const struct engine_tensor *got,
                    const struct engine_tensor *wanted)
{
    if (!engine_tensor_same_shape(got, wanted))
        fail_msg("%s: %s has another shape", e->name, what);
    for (size_t i = 0; i < support_count(wanted); i++) {
        double expected = engine_tensor_get(wanted, i), value = engine_tensor_get(got, i);
        double part = fabs(value - expected) / (e->tolerance * (1 + fabs(expected)));
        if (same_not_finite(value, expected))
            continue;
        if (!(part <= 1) && e->wrong++ == 0)
            print_error("%s: %s[%zu] is %.9g, the layer says %.9g\n", e->name, what, i, value,
                        expected);
        e->worst = part > e->worst ? part : e->worst;
    }
}

static void check_grid(struct edge *e, const struct engine_tensor *scores)
{
    const float *values = scores->data;
    for (size_t i = 0; e->on_grid && i < support_count(scores); i++) {
        float rounded = values[i];
        engine_tensor_round(engine_layer_dtype(e->policy), &rounded, 1);
        if (memcmp(&rounded, &values[i], sizeof rounded) != 0 && e->wrong++ == 0)
            print_error("%s: score %zu is %.9g, no value of the type\n", e->name, i,
                        (double)values[i]);
    }
}

static void compare_reference(struct edge *e, const struct engine_model *model,
                              const struct engine_call *call, const struct engine_tensor *output,
                              const struct engine_tensor *scores)
{
    struct support_reference reference;
    support_define(model, call, &reference);
    struct engine_tensor got = reference.geometry.output;
    got.dtype = ENGINE_F64;
    got.data = reference.output;
    compare(e, "reference's output", &got, output);
    got = reference.geometry.scores;
    got.dtype = ENGINE_F64;
    got.data = reference.scores;
    compare(e, "reference's scores", &got, scores);
    free(reference.output);
    free(reference.scores);
}

/* Inputs of the call; aligned, which the file's views need not be. */
static void read_inputs(struct engine_safetensors *tensors, struct engine_call *call)
{
    engine_call_init(call);
    call->wanted[ENGINE_ATTENTION_SCORES] = true;
    for (int i = 0; i < ENGINE_INPUT_COUNT; i++) {
        const struct engine_tensor *t =
            engine_safetensors_find(tensors, engine_input_name((enum engine_input)i));
        if (t == NULL)
            continue;
        call->inputs[i] = *t;
        call->inputs[i].data = support_memory(support_count(t) * 8);
        memcpy(call->inputs[i].data, t->data,
               support_count(t) * engine_tensor_element_bytes(t->dtype));
    }
}

static void check_case(struct engine *engine, struct edge *e)
{
    char path[600];
    struct engine_error err = {0};
    struct engine_model *model = NULL;
    struct api_model_settings settings;
    struct engine_safetensors *tensors = NULL;
    struct engine_call call;
    struct support_answer answer;
    if (api_model_files_open(engine, e->path, NULL, 0, NULL, &model, &settings, &err) != ENGINE_OK)
        fail_msg("%s: %s", e->name, err.message);
    snprintf(path, sizeof path, "%s/call.safetensors", e->path);
    if (engine_safetensors_open(path, &tensors, &err) != ENGINE_OK)
        fail_msg("%s: %s", e->name, err.message);
    e->policy = engine_model_config(model)->policy;
    read_inputs(tensors, &call);
    const struct engine_tensor *output =
        engine_safetensors_find(tensors, "expected/attention_output");
    const struct engine_tensor *scores =
        engine_safetensors_find(tensors, "expected/attention_scores");
    support_run(engine, model, &call, false, &answer);
    compare(e, "output", &answer.outputs[ENGINE_ATTENTION_OUTPUT], output);
    compare(e, "scores", &answer.outputs[ENGINE_ATTENTION_SCORES], scores);
    check_grid(e, &answer.outputs[ENGINE_ATTENTION_SCORES]);
    compare_reference(e, model, &call, output, scores);
    support_answer_reset(&answer);
    support_call_reset(&call);
    engine_model_release(model);
    engine_safetensors_destroy(tensors);
}

/* false: no case, or one for a protocol, which the HTTP tests ask. */
static bool read_case(const char *name, struct edge *ret)
{
    char path[600];
    json_error_t error;
    *ret = (struct edge){.name = name};
    snprintf(ret->path, sizeof ret->path, "%s/%s", directory, name);
    snprintf(path, sizeof path, "%s/case.json", ret->path);
    if (access(path, F_OK) != 0)
        return false;
    json_t *facts = json_load_file(path, 0, &error);
    assert_non_null(facts);
    const char *rule = json_string_value(json_object_get(facts, "rule"));
    bool is_binary = strcmp(json_string_value(json_object_get(facts, "proto")), "binary") == 0;
    ret->tolerance = json_real_value(json_object_get(facts, "tolerance"));
    ret->on_grid = strcmp(rule, "grid") == 0;
    if (!ret->on_grid && strcmp(rule, "compare") != 0)
        fail_msg("%s: unknown rule %s", name, rule);
    json_decref(facts);
    return is_binary;
}

static void every_edge_case_of_the_real_layer_is_reproduced(void **unused)
{
    DIR *cases = opendir(directory);
    struct engine *engine = support_open(2);
    const struct dirent *entry;
    struct edge e;
    int count = 0, wrong = 0;
    double worst = 0;
    (void)unused;
    assert_non_null(cases);
    while ((entry = readdir(cases)) != NULL) {
        if (!read_case(entry->d_name, &e))
            continue;
        check_case(engine, &e);
        worst = e.worst > worst ? e.worst : worst;
        wrong += e.wrong > 0;
        count++;
    }
    closedir(cases);
    engine_close(engine);
    print_message("%d cases, cap %s, worst error / tolerance %.3f\n", count,
                  getenv("ONEDNN_MAX_CPU_ISA"), worst);
    assert_int_equal(wrong, 0);
    assert_true(count > 0);
}

static int run_with(const char *cap)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_edge_case_of_the_real_layer_is_reproduced)};
    pid_t child = fork();
    int status = -1;
    if (child == 0) {
        setenv("ONEDNN_MAX_CPU_ISA", cap, 1);
        exit(cmocka_run_group_tests_name(cap, tests, NULL, NULL));
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(int count, char **arguments)
{
    static const char *const caps[] = {"SSE41", "AVX2", "AVX512_CORE", "AVX512_CORE_BF16",
                                       "DEFAULT"};
    int failed = 0;
    if (count > 1)
        directory = arguments[1];
    for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++)
        failed += run_with(caps[i]);
    return failed;
}
