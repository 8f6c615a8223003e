/* command_infer.c - attn infer: a call from a safetensors file, its answer to another. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/client/client.h"
#include "api/client/commands.h"
#include "api/limits.h"

static const char expected[] = "expected/";

static const char usage[] =
    "infer URL MODEL CALL.safetensors [-o OUT.safetensors] [--scores] [--precision f32|x3|bf16] "
    "[--tolerance 1e-3]\n\n"
    "Sends the tensors of CALL.safetensors to MODEL of the server at URL, under the names of the\n"
    "inputs (query, attention_mask, ...), and prints type and shape of each output. Tensors\n"
    "named expected/attention_output and expected/attention_scores are not sent: the answer is\n"
    "compared with them.\n\n"
    "  -o           write the answer to OUT.safetensors\n"
    "  --scores     ask for the attention scores, also where none are expected\n"
    "  --precision  what is computed with; else what the model or the server says\n"
    "  --tolerance  the greatest difference allowed. Layers of policy mixed_bfloat16 need 1e-2:\n"
    "               TensorFlow on processors rounds their sums at each step\n\n"
    "Exit status 1 if an answer is refused, differs by more, or lacks what is expected.";

static enum engine_code check_types(const struct engine_safetensors *call, struct engine_error *err)
{
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(call);
    for (size_t i = 0; i < engine_safetensors_count(call); i++)
        if (tensors[i].foreign != NULL)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "tensor %.80s has the type %s, which no input has",
                                    tensors[i].name, tensors[i].foreign);
    return ENGINE_OK;
}

/* The tensors to be sent, by descending element size as the format wants them. */
static enum engine_code choose(const struct engine_safetensors *file,
                               struct engine_named_tensor *ret, size_t *ret_count,
                               struct engine_error *err)
{
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(file);
    size_t count = 0;
    for (size_t element = 8; element >= 1; element /= 2)
        for (size_t i = 0; i < engine_safetensors_count(file); i++) {
            if (strncmp(tensors[i].name, expected, strlen(expected)) == 0 ||
                engine_tensor_element_bytes(tensors[i].tensor.dtype) != element)
                continue;
            if (count == API_MAX_INPUTS)
                return engine_error_set(err, ENGINE_TOO_LARGE,
                                        "the call has more than %d tensors to send",
                                        API_MAX_INPUTS);
            ret[count++] = tensors[i];
        }
    *ret_count = count;
    return ENGINE_OK;
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
        double want = engine_tensor_get(wanted, i), is = engine_tensor_get(&got->tensor, i);
        bool same = want == is || (isnan(want) && isnan(is)); /* infinities, too */
        double difference = same ? 0.0 : fabs(want - is);
        if (!(difference <= worst))
            worst = isnan(difference) ? INFINITY : difference;
    }
    return worst;
}

/* Prints what is expected and was not answered; true if there is nothing of the kind. */
static bool report_absent(const struct engine_safetensors *call,
                          const struct engine_safetensors *answer)
{
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(call);
    bool complete = true;
    for (size_t i = 0; i < engine_safetensors_count(call); i++) {
        const char *name = tensors[i].name;
        if (strncmp(name, expected, strlen(expected)) != 0 ||
            engine_safetensors_find(answer, name + strlen(expected)) != NULL)
            continue;
        printf("%s is expected, and the answer has no such tensor\n", name + strlen(expected));
        complete = false;
    }
    return complete;
}

/* Prints each output; true if all that is expected was answered and lies within the tolerance. */
static bool report(const struct engine_safetensors *call, const struct engine_safetensors *answer,
                   double tolerance)
{
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(answer);
    bool close = report_absent(call, answer);
    for (size_t i = 0; i < engine_safetensors_count(answer); i++) {
        char shape[128];
        double worst = compare(call, &tensors[i]);
        printf("%-26s %-5s %s", tensors[i].name, engine_tensor_dtype_name(tensors[i].tensor.dtype),
               engine_tensor_shape_text(&tensors[i].tensor, shape, sizeof shape));
        if (worst >= 0.0)
            printf("  worst difference %.3g", worst);
        if (worst > tolerance)
            printf(", more than the tolerance %g", tolerance);
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

struct wishes {
    const char *url, *model, *call, *output, *precision;
    double tolerance;
    bool scores;
};

/* Returns -1 to go on, else the exit status. */
static int read_wishes(int argc, char **argv, struct wishes *ret)
{
    const char *tolerance = "1e-3", *positional[3] = {NULL, NULL, NULL};
    const struct api_commands_option options[] = {{"-o", &ret->output, NULL},
                                                  {"--scores", NULL, &ret->scores},
                                                  {"--precision", &ret->precision, NULL},
                                                  {"--tolerance", &tolerance, NULL},
                                                  {NULL, NULL, NULL}};
    int status = api_commands_read(argc, argv, usage, options, positional, 3, 3);
    if (status >= 0)
        return status;
    ret->url = positional[0];
    ret->model = positional[1];
    ret->call = positional[2];
    return api_commands_real("--tolerance", tolerance, &ret->tolerance) ? -1 : 2;
}

/* Scores that the call's file expects are asked for too: else they would go uncompared. */
static bool wants_scores(const struct wishes *wishes, const struct engine_safetensors *call)
{
    return wishes->scores || engine_safetensors_find(call, "expected/attention_scores") != NULL;
}

static enum engine_code ask(const struct wishes *wishes, const struct engine_safetensors *call,
                            struct api_client_answer **ret, struct engine_error *err)
{
    const char *metadata[] = {
        "return_attention_scores", wants_scores(wishes, call) ? "true" : "false",
        wishes->precision != NULL ? "precision" : NULL, wishes->precision, NULL};
    struct engine_named_tensor tensors[API_MAX_INPUTS];
    struct api_client *client = NULL;
    size_t count = 0;
    uint64_t shown = 0;
    const struct api_client_options options = {.progress = show, .argument = &shown};
    ENGINE_TRY(check_types(call, err));
    ENGINE_TRY(choose(call, tensors, &count, err));
    ENGINE_TRY(api_client_open(wishes->url, &options, &client, err));
    enum engine_code code =
        api_client_infer(client, wishes->model, tensors, count, metadata, ret, err);
    if (shown > 0)
        fprintf(stderr, "\n");
    api_client_close(client);
    return code;
}

int api_command_infer_run(int argc, char **argv)
{
    struct wishes wishes = {.url = NULL};
    struct engine_error err = {0};
    struct engine_safetensors *call = NULL;
    struct api_client_answer *answer = NULL;
    bool close = false;
    int status = read_wishes(argc, argv, &wishes);
    if (status >= 0)
        return status;
    enum engine_code code = engine_safetensors_open(wishes.call, &call, &err);
    if (code == ENGINE_OK)
        code = ask(&wishes, call, &answer, &err);
    if (code == ENGINE_OK) {
        close = report(call, api_client_answer_file(answer), wishes.tolerance);
        code = save(api_client_answer_file(answer), wishes.output, &err);
    }
    api_client_answer_destroy(answer);
    engine_safetensors_destroy(call);
    if (code != ENGINE_OK)
        return api_commands_fail(&err);
    return close ? 0 : 1;
}
