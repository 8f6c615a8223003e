/* model.h - a layer's weights, packed for the kernels; inside the engine only.
 *
 * Four merged projections: query and key for the new heads, value for [reused | new] heads, output
 * with its depth ordered the same way, so that the two output layers and their sum are one product.
 * The query's weights and bias carry the factor 1/sqrt(key_dim).
 * Under a 16-bit policy the results of all operations are rounded: weights are cast to the type,
 * the factor is left to the caller, and where some heads are reused the output is two parts. Each
 * projection is cut into blocks of whole heads (of columns, for the output), each a right operand
 * of its own, small enough that the next one is prefetched while it is used. Weights are packed for
 * the kernels of the model's own precision at load, for others when they are first used. Threads:
 * any. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "engine/kernel.h"
#include "engine/weights.h"

enum engine_model_part {
    ENGINE_MODEL_QUERY,
    ENGINE_MODEL_KEY,
    ENGINE_MODEL_VALUE,
    ENGINE_MODEL_OUTPUT,
    ENGINE_MODEL_OUTPUT_NEW, /* the new heads' alone; empty if OUTPUT has all */
    ENGINE_MODEL_PARTS
};

/* heads x width columns; block b holds heads b * block_heads and following. */
struct engine_model_projection {
    int64_t depth, heads, width, block_heads, blocks;
    struct engine_right *rights;
    const float *bias; /* heads x width; NULL: none */
};

struct engine_model_packed {
    const struct engine_kernel *kernel;
    struct engine_model_projection parts[ENGINE_MODEL_PARTS];
    float *biases[ENGINE_MODEL_PARTS];
    void *memory;
    size_t bytes;
};

/* Kernels that one engine can use: two for f32, one for each other precision. */
enum { ENGINE_MODEL_PACKINGS = 4 };

struct engine_model {
    atomic_int references;
    struct engine *engine;
    struct engine_layer_config config;
    struct engine_weights weights;
    enum engine_precision precision;
    float position_bound; /* greatest absolute relative position */
    atomic_uint turns;    /* plans made: every other one takes the weights backwards */
    pthread_mutex_t lock; /* packing */
    struct engine_model_packed packed[ENGINE_MODEL_PACKINGS]; /* one for each kernel */
};

int64_t engine_model_output_width(const struct engine_model *model);

/* The weights for a kernel; packs them at the first call. */
ENGINE_MUST_CHECK enum engine_code engine_model_pack(struct engine_model *model,
                                                     const struct engine_kernel *kernel,
                                                     const struct engine_model_packed **ret,
                                                     struct engine_error *err);

#endif
