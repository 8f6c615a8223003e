/* reference.h - the layer in plain double precision, one loop a formula: how it is defined.
 *
 * Oracle of the tests, self-check of the fast paths at start, and what serves policy float64.
 * Full generality: any axes, masks, reuse, relative positions, policies with the points where
 * TensorFlow rounds to their type, dropout. Not fast, and not meant to be.
 * Formulas: engine/README.md. Source: tensorflow/models
 * official/nlp/modeling/layers/reuse_attention.py at 0ca414d5. */
#ifndef ENGINE_REFERENCE_H
#define ENGINE_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/geometry.h"
#include "engine/mask.h"
#include "engine/weights.h"

struct engine_reference {
    const struct engine_layer_config *config;
    const struct engine_weights *weights;
    const struct engine_geometry *geometry;
    const struct engine_call *call; /* inputs, training, seed */
    const struct engine_mask *mask; /* NULL: none */
    double *output; /* [rows of the query as they lie in memory][output_width], or NULL */
    double *scores; /* [outer][N][T][S], or NULL */
};

/* Computes the outer rows first .. first + count: each is independent of the others, so callers
 * may share them among threads. Asks "stop" (may be NULL) before each row of queries.
 * Errors: OUT_OF_MEMORY, CANCELLED (stop said so). Threads: any, on different outer rows. */
ENGINE_MUST_CHECK enum engine_code engine_reference_run(const struct engine_reference *reference,
                                                        int64_t first, int64_t count,
                                                        bool (*stop)(void *argument),
                                                        void *argument, struct engine_error *err);

#endif
