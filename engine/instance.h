/* instance.h - the engine as its own parts see it. */
#ifndef ENGINE_INSTANCE_H
#define ENGINE_INSTANCE_H

#include "engine/buffers.h"
#include "engine/engine.h"
#include "engine/kernel.h"
#include "engine/pool.h"
#include "engine/softmax.h"

struct engine {
    struct engine_buffers buffers;
    struct engine_pool *pool;
    struct engine_facts facts;
    enum engine_precision precision;        /* the default: never DEFAULT */
    const struct engine_kernel *kernels[4]; /* by precision; NULL: falls back to f32 */
    engine_softmax_function *softmax;
};

/* The precision that a wish leads to: the engine's default, and f32 where there is no kernel. */
enum engine_precision engine_instance_precision(const struct engine *engine,
                                                enum engine_precision wish);
const struct engine_kernel *engine_instance_kernel(const struct engine *engine,
                                                   enum engine_precision precision);

#endif
