/* instance.h - the engine as its own parts see it. */
#ifndef ENGINE_INSTANCE_H
#define ENGINE_INSTANCE_H

#include "engine/buffers.h"
#include "engine/engine.h"
#include "engine/kernel.h"
#include "engine/pool.h"
#include "engine/softmax.h"

/* From so many queries or keys on a kernel pays that needs half as much memory again. */
enum { ENGINE_INSTANCE_LONG = 48 };

struct engine {
    struct engine_buffers buffers;
    struct engine_pool *pool;
    struct engine_facts facts;
    enum engine_precision precision;        /* the default: never DEFAULT */
    const struct engine_kernel *kernels[4]; /* by precision; NULL: falls back to f32 */
    const struct engine_kernel *long_f32;   /* f32 from ENGINE_INSTANCE_LONG on; NULL: no other */
    engine_softmax_function *softmax;
};

/* The precision that a wish leads to: the engine's default, and f32 where there is no kernel. */
enum engine_precision engine_instance_precision(const struct engine *engine,
                                                enum engine_precision wish);
/* The kernel for calls whose greater number of queries and of keys is "length". It depends on
 * nothing else, so that a batch row has the same bits alone and among others. */
const struct engine_kernel *engine_instance_kernel(const struct engine *engine,
                                                   enum engine_precision precision, int64_t length);

#endif
