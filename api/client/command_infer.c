/* command_infer.c - attn infer: a call from a safetensors file, its answer to another. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/client/client.h"
#include "api/client/commands.h"

enum { TENSORS = 32 };
static const char expected[] = "expected/";

/* The tensors to be sent, by descending element size as the format wants them. */
static size_t choose(const struct engine_safetensors *file, struct engine_named_tensor *ret)
{
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(file);
    size_t count = 0;
    for (size_t element = 8; element >= 1; element /= 2)
        for (size_t i = 0; i < engine_safetensors_count(file) && count < TENSORS; i++)
            if (strncmp(tensors[i].name, expected, strlen(expected)) != 0 &&
                engine_tensor_element_bytes(tensors[i].tensor.dtype) == element)
                ret[count++] = tensors[i];
    return count;
}

/* Compares an answer with what the call's file expects. Returns the greatest difference, or -1
 * when there is nothing to compare with; infinity when the shapes differ. */
static double compare(const struct engine_safetensors *call, const struct engine_named_tensor *got)
{
    char name[256];
    size_t count = 0;
    double worst = 0.0;
    snprintf(name, sizeof name, "%s%s", expected, got->name);
    const struct engine_tensor *wanted = engine_safetensors_find(call, name);
    if (wanted == NULL)
        return -1.0;
    if (!engine_tensor_same_shape(wanted, &got->tensor) || !engine_tensor_count(wanted, &count))
        return INFINITY;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs(engine_tensor_get(wanted, i) - engine_tensor_get(&got->tensor, i));
        if (!(difference <= worst))
            worst = difference;
    }
    return worst;
}

/* Prints each output; true if all that could be compared lies within the tolerance. */
static bool report(const struct engine_safetensors *call, const struct engine_safetensors *answer,
                   double tolerance)
{
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(answer);
    bool close = true;
    for (size_t i = 0; i < engine_safetensors_count(answer); i++) {
        char shape[128];
        double worst = compare(call, &tensors[i]);
        printf("%-26s %-5s %s", tensors[i].name, engine_tensor_dtype_name(tensors[i].tensor.dtype),
               engine_tensor_shape_text(&tensors[i].tensor, shape, sizeof shape));
        if (worst >= 0.0)
            printf("  worst difference %.3g", worst);
        printf("\n");
        close = close && worst <= tolerance;
    }
    return close;
}

static enum engine_code save(const struct engine_safetensors *answer, const char *path,
                             struct engine_error *err)
{
    if (path == NULL)
        return ENGINE_OK;
    return engine_safetensors_write(path, engine_safetensors_tensors(answer),
                                    engine_safetensors_count(answer), NULL, err);
}

/* A line on stderr that keeps changing, for transfers that take a while. */
static void show(void *argument, uint64_t sent, uint64_t received)
{
    uint64_t *shown = argument;
    if (sent + received < *shown + (8u << 20))
        return;
    *shown = sent + received;
    fprintf(stderr, "\rattn: %llu MB sent, %llu MB received", (unsigned long long)(sent >> 20),
            (unsigned long long)(received >> 20));
}

int api_command_infer_run(int argc, char **argv)
{
    const char *output = NULL, *tolerance_text = "1e-3", *precision = NULL;
    const char *positional[3] = {NULL, NULL, NULL};
    bool scores = false;
    const struct api_commands_option options[] = {{"-o", &output, NULL},
                                                  {"--scores", NULL, &scores},
                                                  {"--precision", &precision, NULL},
                                                  {"--tolerance", &tolerance_text, NULL},
                                                  {NULL, NULL, NULL}};
    int status = api_commands_read(argc, argv,
                                   "infer URL MODEL CALL.safetensors [-o OUT.safetensors] "
                                   "[--scores] [--precision f32|x3|bf16] [--tolerance 1e-3]\n\n"
                                   "Tensors named expected/... are not sent; the answer is "
                                   "compared with them.",
                                   options, positional, 3, 3);
    if (status >= 0)
        return status;
    const char *metadata[] = {"return_attention_scores", scores ? "true" : "false",
                              precision != NULL ? "precision" : NULL, precision, NULL};
    uint64_t shown = 0;
    struct api_client_options wishes = {.progress = show, .argument = &shown};
    struct engine_error err = {0};
    struct engine_safetensors *call = NULL;
    struct api_client *client = NULL;
    struct api_client_answer *answer = NULL;
    struct engine_named_tensor tensors[TENSORS];
    bool close = false;
    enum engine_code code = engine_safetensors_open(positional[2], &call, &err);
    if (code == ENGINE_OK)
        code = api_client_open(positional[0], &wishes, &client, &err);
    if (code == ENGINE_OK) {
        size_t count = choose(call, tensors);
        code = api_client_infer(client, positional[1], tensors, count, metadata, &answer, &err);
    }
    if (code == ENGINE_OK) {
        close = report(call, api_client_answer_file(answer), strtod(tolerance_text, NULL));
        code = save(api_client_answer_file(answer), output, &err);
    }
    if (shown > 0)
        fprintf(stderr, "\n");
    api_client_answer_destroy(answer);
    api_client_close(client);
    engine_safetensors_destroy(call);
    if (code != ENGINE_OK)
        return api_commands_fail(&err);
    return close ? 0 : 1;
}
