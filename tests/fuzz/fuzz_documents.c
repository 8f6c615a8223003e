/* fuzz_documents.c - any bytes as layer.json, as a weight file, and as the bodies of the control
 * routes. What is read is written and read again: the second time must give the same text. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/documents.h"
#include "api/layer_config.h"
#include "engine/formats/safetensors.h"
#include "engine/weight_names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void layer_config(const char *text, size_t size)
{
    struct engine_layer_config config, second;
    struct engine_error err = {0};
    if (api_layer_config_read(text, size, &config, &err) != ENGINE_OK) {
        REQUIRE(err.message[0] != '\0');
        return;
    }
    char *written = api_layer_config_write(&config);
    REQUIRE(written != NULL);
    REQUIRE(api_layer_config_read(written, strlen(written), &second, &err) == ENGINE_OK);
    char *again = api_layer_config_write(&second);
    REQUIRE(again != NULL && strcmp(written, again) == 0);
    free(written);
    free(again);
}

/* Which tensor is which weight: all found, or a sentence; the tensors' shapes do not matter here.
 */
static void names(const struct engine_named_tensor *tensors, size_t count, const char *prefix)
{
    const struct engine_named_tensor *found[ENGINE_WEIGHT_COUNT];
    struct engine_layer_config config;
    struct engine_error err = {0};
    engine_layer_defaults(&config);
    config.num_heads = 2;
    config.key_dim = 3;
    config.use_relative_pe = true;
    if (engine_weight_names_find(&config, tensors, count, prefix, found, &err) != ENGINE_OK)
        REQUIRE(err.message[0] != '\0');
}

/* Every byte of every tensor is touched: a view beyond the file is seen. */
static void weights(const uint8_t *bytes, size_t size)
{
    struct engine_safetensors *file = NULL;
    struct engine_error err = {0};
    unsigned sum = 0;
    if (engine_safetensors_parse(bytes, size, &file, &err) != ENGINE_OK) {
        REQUIRE(err.message[0] != '\0');
        return;
    }
    const struct engine_named_tensor *tensors = engine_safetensors_tensors(file);
    for (size_t i = 0; i < engine_safetensors_count(file); i++) {
        size_t count = 0;
        if (tensors[i].foreign != NULL)
            continue;
        REQUIRE(engine_tensor_count(&tensors[i].tensor, &count));
        const uint8_t *at = tensors[i].tensor.data;
        for (size_t k = 0; k < count * engine_tensor_element_bytes(tensors[i].tensor.dtype); k++)
            sum += at[k];
        REQUIRE(engine_safetensors_find(file, tensors[i].name) != NULL);
    }
    names(tensors, engine_safetensors_count(file), "");
    names(tensors, engine_safetensors_count(file), "a");
    engine_safetensors_destroy(file);
    REQUIRE(sum + 1 != 0 || size > 0);
}

static void control(const char *text, size_t size)
{
    struct engine_error err = {0};
    struct api_load_request load = {0};
    struct api_logging logging = {0};
    bool ready = false;
    if (api_document_load_read(text, size, &load, &err) == ENGINE_OK)
        api_load_request_reset(&load);
    if (api_document_logging_read(text, size, &logging, &err) != ENGINE_OK ||
        api_document_index_read(text, size, &ready, &err) != ENGINE_OK ||
        api_document_unload_read(text, size, &err) != ENGINE_OK)
        REQUIRE(err.message[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0] % 3) {
    case 0:
        layer_config((const char *)data + 1, size - 1);
        break;
    case 1:
        weights(data + 1, size - 1);
        break;
    default:
        control((const char *)data + 1, size - 1);
    }
    return 0;
}
