/* selfcheck.h - does this build compute on this processor what the reference defines?
 *
 * A miscompiled kernel, a library with a bug for one processor or an emulator that lacks an
 * instruction gives wrong numbers silently. At start each kernel runs one tiny layer (odd sizes,
 * relative positions, a mask with dead keys, new and reused heads) against reference.c.
 * It chooses nothing: engine.c turns off what disagrees. Threads: before the workers start. */
#ifndef ENGINE_SELFCHECK_H
#define ENGINE_SELFCHECK_H

#include "engine/instance.h"

/* Runs the layer with the kernel of a precision (engine->kernels) and the engine's softmax on the
 * calling thread. *ret_error: the greatest error, relative to 1 + |value|; infinity if the run
 * failed or gave NaN. Returns whether it lies within the precision's bound.
 * *err says why the layer could not be run; it stays clear where the numbers are wrong. */
bool engine_selfcheck_run(struct engine *engine, enum engine_precision precision, double *ret_error,
                          struct engine_error *err);

#endif
