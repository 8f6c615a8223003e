/* api_model_files_test.c - does a model directory, or what was uploaded in its place, become the
 * model that it says, and is a wrong one refused with the name of the key or file? */
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/model_files.h"
#include "engine/formats/safetensors.h"

#define LAYER "{\"num_heads\": 5, \"key_dim\": 6, \"reuse_attention\": 3}"
#define SHAPED                                                                                     \
    "{\"num_heads\": 2, \"key_dim\": 2, \"query_shape\": [null, null, 4], \"value_shape\": "       \
    "[null, null, 4]}"
static const char golden[] = "tests/golden/reuse_some";

struct fixture {
    struct engine *engine;
    char root[64];
    void *weights; /* of the golden case */
    size_t weights_bytes;
};

static int open_fixture(void **state)
{
    static struct fixture fixture;
    struct engine_error err = {0};
    struct engine_options options = {.threads = 1, .memory_budget_bytes = (size_t)1 << 30};
    FILE *file = fopen("tests/golden/reuse_some/weights.safetensors", "rb");
    assert_non_null(file);
    assert_int_equal(engine_open(&options, &fixture.engine, &err), ENGINE_OK);
    fixture.weights = malloc(1 << 20);
    fixture.weights_bytes = fread(fixture.weights, 1, 1 << 20, file);
    fclose(file);
    *state = &fixture;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *fixture = *state;
    free(fixture->weights);
    engine_close(fixture->engine);
    return 0;
}

/* ---- a directory ------------------------------------------------------------------------ */

static int make_root(void **state)
{
    struct fixture *fixture = *state;
    strcpy(fixture->root, "/tmp/attnd_model_XXXXXX");
    return mkdtemp(fixture->root) == NULL;
}

static int remove_root(void **state)
{
    struct fixture *fixture = *state;
    char command[96];
    snprintf(command, sizeof command, "rm -r %s", fixture->root);
    return system(command);
}

static void put(struct fixture *fixture, const char *name, const void *bytes, size_t size)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", fixture->root, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void put_text(struct fixture *fixture, const char *name, const char *text)
{
    put(fixture, name, text, strlen(text));
}

static void put_weights(struct fixture *fixture, const char *name)
{
    put(fixture, name, fixture->weights, fixture->weights_bytes);
}

/* ---- opening ---------------------------------------------------------------------------- */

struct opened {
    enum engine_code code;
    struct engine_error err;
    struct api_model_settings settings;
    int64_t heads, width;
    enum engine_precision precision;
};

static struct opened open_files(struct fixture *fixture, const char *directory,
                                const struct api_model_file *files, size_t count,
                                const char *config)
{
    struct engine_model *model = NULL;
    struct opened ret = {.code = ENGINE_OK};
    ret.code = api_model_files_open(fixture->engine, directory, files, count, config, &model,
                                    &ret.settings, &ret.err);
    if (ret.code != ENGINE_OK) {
        assert_true(ret.err.message[0] != '\0');
        return ret;
    }
    ret.heads = engine_model_config(model)->num_heads;
    ret.width = engine_model_width(model, ENGINE_VALUE);
    ret.precision = engine_model_precision(model);
    engine_model_release(model);
    return ret;
}

static struct opened open_root(struct fixture *fixture)
{
    return open_files(fixture, fixture->root, NULL, 0, NULL);
}

static void opens(struct opened opened)
{
    if (opened.code != ENGINE_OK)
        fail_msg("%s", opened.err.message);
}

/* The precision that a wish leads to on this machine: f32 where it has no kernel for it. */
static enum engine_precision served(const struct fixture *fixture, enum engine_precision wish)
{
    const struct engine_facts *facts = engine_facts(fixture->engine);
    const char *kernel = wish == ENGINE_PRECISION_X3 ? facts->kernel_x3 : facts->kernel_bf16;
    return strncmp(kernel, "none", 4) == 0 ? ENGINE_PRECISION_F32 : wish;
}

static void refused(struct opened opened, enum engine_code code, const char *part)
{
    if (opened.code != code || strstr(opened.err.message, part) == NULL)
        fail_msg("code %d, not %d, or no \"%s\" in: %s", (int)opened.code, (int)code, part,
                 opened.err.message);
}

static bool is_model(const char *directory)
{
    struct engine_error err = {0};
    bool ret = false;
    if (api_model_files_is_model(directory, &ret, &err) != ENGINE_OK)
        fail_msg("%s: %s", directory, err.message);
    return ret;
}

/* ---- tests ------------------------------------------------------------------------------ */

static void a_golden_directory_is_a_model(void **state)
{
    struct opened opened = open_files(*state, golden, NULL, 0, NULL);
    opens(opened);
    assert_int_equal(opened.heads, 5);
    assert_int_equal(opened.width, 16);
    assert_false(opened.settings.defaults.has_outputs);
    assert_true(is_model(golden));
    assert_false(is_model("tests/golden"));
    assert_false(is_model("tests/there_is_none"));
}

static void a_file_that_cannot_be_opened_is_not_taken_for_missing(void **state)
{
    struct engine_error err = {0};
    struct rlimit usual, none = {0, 0};
    bool found;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    none.rlim_max = usual.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    enum engine_code looked = api_model_files_is_model(golden, &found, &err);
    struct opened opened = open_files(*state, golden, NULL, 0, NULL);
    struct opened configured = open_files(*state, golden, NULL, 0, LAYER);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &usual), 0);
    assert_int_equal(looked, ENGINE_OUT_OF_MEMORY);
    refused(opened, ENGINE_OUT_OF_MEMORY, "cannot open model.json");
    refused(configured, ENGINE_OUT_OF_MEMORY, "cannot open model.json");
}

static void model_json_says_how_it_is_served(void **state)
{
    struct fixture *fixture = *state;
    put_text(fixture, "layer.json", LAYER);
    put_weights(fixture, "mine.safetensors");
    put_text(fixture, "model.json",
             "{\"outputs\": [\"attention_output\"], \"precision\": \"x3\", \"warmup\": [[1,2,3]], "
             "\"weights\": \"mine.safetensors\", \"prefix\": \"\"}");
    struct opened opened = open_root(fixture);
    opens(opened);
    assert_true(opened.settings.defaults.has_outputs);
    assert_true(opened.settings.defaults.outputs[ENGINE_ATTENTION_OUTPUT]);
    assert_false(opened.settings.defaults.outputs[ENGINE_ATTENTION_SCORES]);
    assert_int_equal(opened.precision, served(fixture, ENGINE_PRECISION_X3));
    assert_int_equal(opened.settings.warmup_count, 1);
    assert_int_equal(opened.settings.warmup[0][2], 3);
}

static void model_json_may_hold_the_layer(void **state)
{
    struct fixture *fixture = *state;
    put_weights(fixture, "weights.safetensors");
    put_text(fixture, "model.json",
             "{\"class_name\": \"ReuseMultiHeadAttention\", \"config\": " LAYER "}");
    opens(open_root(fixture));
    put_text(fixture, "my_layer.json", LAYER);
    put_text(fixture, "model.json", "{\"config\": \"my_layer.json\"}");
    opens(open_root(fixture));
}

static void the_only_weight_file_is_found(void **state)
{
    struct fixture *fixture = *state;
    put_text(fixture, "layer.json", LAYER);
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "none");
    put_weights(fixture, "a.safetensors");
    opens(open_root(fixture));
    put_weights(fixture, "b.safetensors");
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "a.safetensors");
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "b.safetensors");
    put_weights(fixture, "weights.safetensors");
    opens(open_root(fixture));
}

static void weights_of_other_formats_are_named(void **state)
{
    static const char *const names[][2] = {
        {"w.h5", "HDF5"}, {"w.npz", "NumPy"}, {"w.keras", "Keras"}, {"w.index", "checkpoint"}};
    struct fixture *fixture = *state;
    put_text(fixture, "layer.json", LAYER);
    for (int i = 0; i < 4; i++) {
        char path[256];
        put_text(fixture, names[i][0], "x");
        refused(open_root(fixture), ENGINE_UNSUPPORTED, names[i][1]);
        snprintf(path, sizeof path, "%s/%s", fixture->root, names[i][0]);
        unlink(path);
    }
    put_text(fixture, "model.json", "{\"weights\": \"other.h5\"}");
    refused(open_root(fixture), ENGINE_UNSUPPORTED, "other.h5");
}

/* The golden weights under longer names, in memory. */
static char *prefixed(struct fixture *fixture, const char *prefix, size_t *ret_size)
{
    struct engine_safetensors *file = NULL;
    struct engine_error err = {0};
    struct engine_named_tensor tensors[32];
    char names[32][128], *header = NULL;
    size_t header_bytes = 0, bytes = 0, total;
    assert_int_equal(
        engine_safetensors_parse(fixture->weights, fixture->weights_bytes, &file, &err), ENGINE_OK);
    size_t count = engine_safetensors_count(file);
    assert_true(count <= 32);
    for (size_t i = 0; i < count; i++) {
        tensors[i] = engine_safetensors_tensors(file)[i];
        snprintf(names[i], sizeof names[i], "%s%s", prefix, tensors[i].name);
        tensors[i].name = names[i];
    }
    assert_int_equal(engine_safetensors_header(tensors, count, NULL, &header, &header_bytes, &err),
                     ENGINE_OK);
    char *ret = malloc(header_bytes + fixture->weights_bytes);
    assert_non_null(ret);
    memcpy(ret, header, header_bytes);
    total = header_bytes;
    for (size_t i = 0; i < count; i++) {
        assert_true(engine_tensor_bytes(&tensors[i].tensor, &bytes));
        memcpy(ret + total, tensors[i].tensor.data, bytes);
        total += bytes;
    }
    *ret_size = total;
    free(header);
    engine_safetensors_destroy(file);
    return ret;
}

static void weights_in_any_scope_are_found(void **state)
{
    struct fixture *fixture = *state;
    size_t size = 0;
    char *weights = prefixed(fixture, "encoder/layer_0/", &size);
    put_text(fixture, "layer.json", LAYER);
    put(fixture, "weights.safetensors", weights, size);
    free(weights);
    opens(open_root(fixture));
    put_text(fixture, "model.json", "{\"prefix\": \"encoder/layer_0/\"}");
    opens(open_root(fixture));
    put_text(fixture, "model.json", "{\"prefix\": \"\"}");
    opens(open_root(fixture));
    put_text(fixture, "model.json", "{\"prefix\": \"encoder/layer_1/\"}");
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "encoder/layer_1/");
}

static void weights_may_be_drawn_from_a_seed(void **state)
{
    struct fixture *fixture = *state;
    put_text(fixture, "layer.json", SHAPED);
    put_text(fixture, "model.json", "{\"initialize\": 7}");
    struct opened opened = open_root(fixture);
    opens(opened);
    assert_int_equal(opened.width, 4);
    put_text(fixture, "model.json", "{\"initialize\": 7, \"weights\": \"w.safetensors\"}");
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "initialize");
}

static void mistakes_in_model_json_name_the_key(void **state)
{
    static const struct {
        const char *text, *part;
        enum engine_code code;
    } cases[] = {
        {"[]", "object", ENGINE_INVALID_ARGUMENT},
        {"{", "model.json", ENGINE_INVALID_ARGUMENT},
        {"{\"precison\": \"f32\"}", "precison", ENGINE_INVALID_ARGUMENT},
        {"{\"precision\": \"f16\"}", "precision", ENGINE_INVALID_ARGUMENT},
        {"{\"outputs\": []}", "outputs", ENGINE_INVALID_ARGUMENT},
        {"{\"outputs\": [\"attention_scores_indices\"]}", "outputs", ENGINE_INVALID_ARGUMENT},
        {"{\"warmup\": [[1, 2]]}", "warmup", ENGINE_INVALID_ARGUMENT},
        {"{\"warmup\": [[1, 2, 0]]}", "warmup", ENGINE_INVALID_ARGUMENT},
        {"{\"initialize\": true}", "initialize", ENGINE_INVALID_ARGUMENT},
        {"{\"prefix\": 3}", "prefix", ENGINE_INVALID_ARGUMENT},
        {"{\"config\": 3}", "config", ENGINE_INVALID_ARGUMENT},
        {"{\"layers\": []}", "layers", ENGINE_UNSUPPORTED},
        {"{\"class_name\": \"ReuseEncoder\"}", "ReuseEncoder", ENGINE_UNSUPPORTED},
        {"{\"class_name\": \"ReuseTransformer\"}", "_attention_layer", ENGINE_UNSUPPORTED},
        {"{\"class_name\": 3}", "class_name", ENGINE_INVALID_ARGUMENT},
        {"{\"layer\": 3}", "layer", ENGINE_INVALID_ARGUMENT},
        {"{\"layer\": \"none\"}", "layer is none", ENGINE_INVALID_ARGUMENT},
    };
    struct fixture *fixture = *state;
    put_text(fixture, "layer.json", LAYER);
    put_weights(fixture, "weights.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_text(fixture, "model.json", cases[i].text);
        refused(open_root(fixture), cases[i].code, cases[i].part);
    }
}

static void a_path_does_not_leave_the_directory(void **state)
{
    struct fixture *fixture = *state;
    char path[256];
    put_text(fixture, "layer.json", LAYER);
    put_weights(fixture, "inside.safetensors");
    put_text(fixture, "model.json", "{\"weights\": \"../weights.safetensors\"}");
    refused(open_root(fixture), ENGINE_NOT_FOUND, "out of reach");
    put_text(fixture, "model.json", "{\"weights\": \"/etc/hostname\"}");
    refused(open_root(fixture), ENGINE_NOT_FOUND, "out of reach");
    snprintf(path, sizeof path, "%s/link", fixture->root);
    assert_int_equal(symlink("/etc/hostname", path), 0);
    put_text(fixture, "model.json", "{\"weights\": \"link\"}");
    refused(open_root(fixture), ENGINE_NOT_FOUND, "out of reach");
    snprintf(path, sizeof path, "%s/weights.safetensors", fixture->root);
    assert_int_equal(symlink("inside.safetensors", path), 0);
    put_text(fixture, "model.json", "{}");
    opens(open_root(fixture)); /* a link that stays inside is fine */
}

static void a_pipe_is_refused_and_not_waited_for(void **state)
{
    struct fixture *fixture = *state;
    char path[256];
    put_text(fixture, "layer.json", LAYER);
    snprintf(path, sizeof path, "%s/weights.safetensors", fixture->root);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(20);
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "no regular file");
    alarm(0);
}

/* The superuser reads whatever the mode says, but not without these capabilities. */
static void set_rights(bool over_files)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    const unsigned mine = 1u << CAP_DAC_OVERRIDE | 1u << CAP_DAC_READ_SEARCH;
    assert_int_equal(syscall(SYS_capget, &header, data), 0);
    data[0].effective =
        over_files ? data[0].effective | (data[0].permitted & mine) : data[0].effective & ~mine;
    assert_int_equal(syscall(SYS_capset, &header, data), 0);
}

static void a_file_that_may_not_be_read_is_not_called_missing(void **state)
{
    static const char *const names[] = {"layer.json", "model.json", "weights.safetensors"};
    struct fixture *fixture = *state;
    char path[128], where[256];
    put_text(fixture, "layer.json", LAYER);
    put_text(fixture, "model.json", "{}");
    put_weights(fixture, "weights.safetensors");
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", fixture->root, names[i]);
        assert_int_equal(chmod(path, 0), 0);
        set_rights(false);
        bool is_model = false;
        enum engine_code looked = api_model_files_is_model(fixture->root, &is_model, NULL);
        struct opened opened = open_root(fixture);
        set_rights(true);
        assert_true(looked == ENGINE_OK && is_model);
        refused(opened, ENGINE_UNAVAILABLE, names[i]);
        assert_non_null(strstr(opened.err.message, "no right to read it"));
        snprintf(where, sizeof where, "%s: Permission denied (errno 13), mode 0000 of user %u",
                 path, getuid());
        if (strstr(opened.err.detail, where) == NULL)
            fail_msg("%s", opened.err.detail);
        assert_null(strstr(opened.err.message, fixture->root));
        assert_null(strstr(opened.err.message, "errno"));
        assert_int_equal(chmod(path, 0644), 0);
    }
    opens(open_root(fixture));
}

static void files_are_called_what_they_are(void **state)
{
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n";
    static const char page[] = "<!DOCTYPE html>\n<html></html>";
    static const char index[] = "{\"weight_map\": {\"query/kernel\": \"a.safetensors\"}}";
    struct fixture *fixture = *state;
    put_text(fixture, "layer.json", LAYER);
    put_text(fixture, "weights.safetensors", lfs);
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "weights.safetensors: safetensors: the ");
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "Git LFS pointer");
    put_text(fixture, "weights.safetensors", page);
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "HTML");
    put_text(fixture, "weights.safetensors", index);
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "an index of safetensors files");
    put_text(fixture, "model.json", "{\"weights\": \"m.safetensors.index.json\"}");
    refused(open_root(fixture), ENGINE_UNSUPPORTED, "an index of safetensors");
    put_text(fixture, "model.json", lfs);
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "model.json is not JSON but a Git LFS");
    put_text(fixture, "model.json", "{}");
    put_text(fixture, "layer.json", page);
    refused(open_root(fixture), ENGINE_INVALID_ARGUMENT, "layer.json is not JSON but an HTML");
}

static void uploaded_files_take_the_directorys_place(void **state)
{
    struct fixture *fixture = *state;
    const struct api_model_file files[] = {
        {"layer.json", LAYER, strlen(LAYER)},
        {"weights.safetensors", fixture->weights, fixture->weights_bytes},
        {"model.json", "{\"precision\": \"bf16\"}", 21},
    };
    put_text(fixture, "layer.json", "nonsense");
    opens(open_files(fixture, NULL, files, 2, NULL));
    opens(open_files(fixture, fixture->root, files, 2, NULL));
    opens(open_files(fixture, NULL, files, 2, "{}"));
    assert_int_equal(open_files(fixture, NULL, files, 3, NULL).precision,
                     served(fixture, ENGINE_PRECISION_BF16));
    refused(open_files(fixture, golden, files, 1, NULL), ENGINE_INVALID_ARGUMENT, "none");
    refused(open_files(fixture, golden, files + 1, 1, NULL), ENGINE_NOT_FOUND, "layer.json");
}

static void a_configuration_given_is_a_layers_or_model_jsons(void **state)
{
    struct fixture *fixture = *state;
    put_weights(fixture, "weights.safetensors");
    put_text(fixture, "model.json", "{\"precision\": \"bf16\"}");
    struct opened opened = open_files(fixture, fixture->root, NULL, 0, LAYER);
    opens(opened);
    /* model.json still holds */
    assert_int_equal(opened.precision, served(fixture, ENGINE_PRECISION_BF16));
    put_text(fixture, "layer.json", LAYER);
    opened = open_files(fixture, fixture->root, NULL, 0, "{\"precision\": \"x3\"}");
    opens(opened);
    assert_int_equal(opened.precision, served(fixture, ENGINE_PRECISION_X3));
    refused(open_files(fixture, fixture->root, NULL, 0, "{\"backend\": \"onnx\"}"),
            ENGINE_INVALID_ARGUMENT, "backend");
}

#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_golden_directory_is_a_model),
        cmocka_unit_test(a_file_that_cannot_be_opened_is_not_taken_for_missing),
        WITH_ROOT(model_json_says_how_it_is_served),
        WITH_ROOT(model_json_may_hold_the_layer),
        WITH_ROOT(the_only_weight_file_is_found),
        WITH_ROOT(weights_of_other_formats_are_named),
        WITH_ROOT(weights_in_any_scope_are_found),
        WITH_ROOT(weights_may_be_drawn_from_a_seed),
        WITH_ROOT(mistakes_in_model_json_name_the_key),
        WITH_ROOT(a_path_does_not_leave_the_directory),
        WITH_ROOT(a_pipe_is_refused_and_not_waited_for),
        WITH_ROOT(a_file_that_may_not_be_read_is_not_called_missing),
        WITH_ROOT(files_are_called_what_they_are),
        WITH_ROOT(uploaded_files_take_the_directorys_place),
        WITH_ROOT(a_configuration_given_is_a_layers_or_model_jsons),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
