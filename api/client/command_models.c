/* command_models.c - attn inspect and convert: model directories, without a server. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api/client/commands.h"
#include "api/layer_config.h"
#include "api/model_files.h"
#include "engine/engine.h"
#include "engine/formats/json.h"
#include "engine/formats/safetensors.h"

/* ---- inspect ------------------------------------------------------------------------------- */

struct moments {
    double least, most, mean, deviation;
};

static struct moments measure(const struct engine_tensor *tensor)
{
    struct moments m = {INFINITY, -INFINITY, 0.0, 0.0};
    size_t count = 0;
    (void)engine_tensor_count(tensor, &count);
    for (size_t i = 0; i < count; i++) {
        double value = engine_tensor_get(tensor, i);
        m.least = fmin(m.least, value);
        m.most = fmax(m.most, value);
        m.mean += value / (double)count;
    }
    for (size_t i = 0; i < count; i++) {
        double away = engine_tensor_get(tensor, i) - m.mean;
        m.deviation += away * away / (double)count;
    }
    m.deviation = sqrt(m.deviation);
    return m;
}

static void print_table(const struct engine_model *model)
{
    struct engine_named_tensor weight;
    struct engine_penalties penalties;
    char shape[128];
    printf("%-32s %-18s %11s %11s %11s %11s\n", "weight", "shape", "min", "max", "mean", "stddev");
    for (size_t i = 0; engine_model_weight(model, i, &weight); i++) {
        struct moments m = measure(&weight.tensor);
        printf("%-32s %-18s %11.4g %11.4g %11.4g %11.4g\n", weight.name,
               engine_tensor_shape_text(&weight.tensor, shape, sizeof shape), m.least, m.most,
               m.mean, m.deviation);
    }
    engine_model_penalties(model, &penalties);
    printf("regularization loss %.9g; kernel constraint %s, bias constraint %s\n",
           penalties.regularization_loss,
           penalties.kernel_constraint_satisfied ? "satisfied" : "not satisfied",
           penalties.bias_constraint_satisfied ? "satisfied" : "not satisfied");
}

/* JSON has no infinities: what is not finite becomes null. */
static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static enum engine_code print_json(const struct engine_model *model, struct engine_error *err)
{
    struct engine_named_tensor weight;
    struct engine_penalties penalties;
    json_t *weights = json_array();
    for (size_t i = 0; engine_model_weight(model, i, &weight); i++) {
        struct moments m = measure(&weight.tensor);
        json_t *shape = json_array();
        for (int d = 0; d < weight.tensor.rank; d++)
            shape = engine_json_append(shape, json_integer(weight.tensor.shape[d]));
        weights = engine_json_append(
            weights, json_pack("{s:s,s:o,s:o,s:o,s:o,s:o}", "name", weight.name, "shape", shape,
                               "min", number(m.least), "max", number(m.most), "mean",
                               number(m.mean), "stddev", number(m.deviation)));
    }
    engine_model_penalties(model, &penalties);
    json_t *root = json_pack("{s:o,s:o,s:b,s:b}", "weights", weights, "regularization_loss",
                             number(penalties.regularization_loss), "kernel_constraint_satisfied",
                             (int)penalties.kernel_constraint_satisfied,
                             "bias_constraint_satisfied", (int)penalties.bias_constraint_satisfied);
    return api_commands_print(root, JSON_INDENT(1), err);
}

int api_command_models_inspect(int argc, char **argv)
{
    bool json = false;
    const char *directory = NULL;
    const struct api_commands_option options[] = {{"--json", NULL, &json}, {NULL, NULL, NULL}};
    int status =
        api_commands_read(argc, argv,
                          "inspect MODELDIR [--json]\n\n"
                          "Opens MODELDIR as the server would, without one, and prints each weight "
                          "that the layer uses:\n"
                          "shape, extremes, mean and standard deviation. --json prints them as "
                          "JSON. Exit status 1 with\nthe reason if it cannot be served.",
                          options, &directory, 1, 1);
    if (status >= 0)
        return status;
    struct engine_error err = {0};
    struct engine *engine = NULL;
    struct engine_model *model = NULL;
    struct api_model_settings settings;
    enum engine_code code = engine_open(&(struct engine_options){.threads = 1}, &engine, &err);
    if (code == ENGINE_OK)
        code = api_model_files_open(engine, directory, NULL, 0, NULL, &model, &settings, &err);
    if (code == ENGINE_OK && json)
        code = print_json(model, &err);
    else if (code == ENGINE_OK)
        print_table(model);
    engine_model_release(model);
    engine_close(engine);
    if (code == ENGINE_OK)
        return 0;
    fprintf(stderr, "attn: %s: %s\n", directory, err.message);
    return 1;
}

/* ---- convert ------------------------------------------------------------------------------- */

static enum engine_code copy_weights(const char *from, const char *directory, const char *prefix,
                                     struct engine_error *err)
{
    struct engine_safetensors *file = NULL;
    char path[1024];
    size_t length = strlen(prefix), count = 0;
    const char *dot = strrchr(from, '.');
    if (dot == NULL || strcmp(dot, ".safetensors") != 0)
        return engine_error_set(err, ENGINE_UNSUPPORTED,
                                "%.120s is no .safetensors file; the format \"%.20s\" is not read",
                                from, dot != NULL ? dot : "");
    ENGINE_TRY(engine_safetensors_open(from, &file, err));
    const struct engine_named_tensor *all = engine_safetensors_tensors(file);
    struct engine_named_tensor *chosen = calloc(engine_safetensors_count(file) + 1, sizeof *chosen);
    for (size_t i = 0; chosen != NULL && i < engine_safetensors_count(file); i++) {
        if (strncmp(all[i].name, prefix, length) != 0 || all[i].foreign != NULL)
            continue; /* no layer needs what has a type that is not read */
        chosen[count] = all[i];
        chosen[count++].name += length;
    }
    snprintf(path, sizeof path, "%s/weights.safetensors", directory);
    enum engine_code code =
        chosen == NULL ? engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory")
        : count == 0   ? engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                          "no tensor's name begins with \"%.80s\"", prefix)
                       : engine_safetensors_write(path, chosen, count, NULL, err);
    free(chosen);
    engine_safetensors_destroy(file);
    return code;
}

/* Written as the layer's own get_config(), so that what is not understood is found out now. */
static enum engine_code copy_config(const char *from, const char *directory,
                                    struct engine_error *err)
{
    struct engine_layer_config config;
    char path[1024], *text = api_commands_text(from, err);
    if (text == NULL)
        return err->code;
    enum engine_code code = api_layer_config_read(text, strlen(text), &config, err);
    free(text);
    if (code != ENGINE_OK)
        return code;
    char *written = api_layer_config_write(&config);
    snprintf(path, sizeof path, "%s/layer.json", directory);
    FILE *file = written != NULL ? fopen(path, "we") : NULL;
    bool done = file != NULL && fprintf(file, "%s\n", written) > 0;
    if (file != NULL && fclose(file) != 0)
        done = false;
    free(written);
    return done ? ENGINE_OK
                : engine_error_set(err, ENGINE_INVALID_ARGUMENT, "cannot write %.150s", path);
}

int api_command_models_convert(int argc, char **argv)
{
    const char *config = NULL, *prefix = "", *positional[2] = {NULL, NULL};
    const struct api_commands_option options[] = {
        {"--config", &config, NULL}, {"--prefix", &prefix, NULL}, {NULL, NULL, NULL}};
    int status = api_commands_read(argc, argv,
                                   "convert FILE.safetensors OUTDIR [--config layer.json] "
                                   "[--prefix P]\n\n"
                                   "Writes the tensors of FILE.safetensors to "
                                   "OUTDIR/weights.safetensors.\n\n"
                                   "  --config  a layer's configuration, as Keras writes it: "
                                   "checked, and written to\n"
                                   "            OUTDIR/layer.json, without which OUTDIR is no "
                                   "model yet\n"
                                   "  --prefix  only the tensors whose names begin so, without it",
                                   options, positional, 2, 2);
    if (status >= 0)
        return status;
    struct engine_error err = {0};
    if (mkdir(positional[1], 0777) != 0 && errno != EEXIST) {
        (void)engine_error_set(&err, ENGINE_INVALID_ARGUMENT, "cannot make %.150s: %s",
                               positional[1], strerror(errno));
        return api_commands_fail(&err);
    }
    enum engine_code code = copy_weights(positional[0], positional[1], prefix, &err);
    if (code == ENGINE_OK && config != NULL)
        code = copy_config(config, positional[1], &err);
    return code == ENGINE_OK ? 0 : api_commands_fail(&err);
}
