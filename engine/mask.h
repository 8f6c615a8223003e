/* mask.h - an attention mask as the additive term that Keras makes of it.
 *
 *     adder = (1 - mask) * NEG,  computed in the policy's type
 *     NEG = -1e9 (float32, float64), -998244352 (bfloat16), -32752 (float16)
 *
 * A mask has 2 * axes to rank(scores) dimensions; ones are inserted before its last 2 * axes
 * dimensions until the ranks match, then each dimension is 1 or that of the scores. It concerns the
 * new heads only: a heads dimension has N - R of them, as the layer wants it, or N, of which the
 * first N - R are used. Values are arithmetic, not tested: 0.5 adds half of NEG. The adder is kept
 * as rows over the keys, with strides of 0 where it is the same for all outer rows, heads or
 * queries. Source: reuse_attention.py _masked_softmax; tf_keras/layers/activation/softmax.py
 * (v2.21). Threads: any; fill writes the caller's memory only. */
#ifndef ENGINE_MASK_H
#define ENGINE_MASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/geometry.h"
#include "engine/layer.h"
#include "engine/tensor.h"

struct engine_mask {
    struct engine_tensor source;
    enum engine_policy policy;
    int rank;                                /* of the scores */
    int groups[4];                           /* dimensions that are outer, heads, queries, keys */
    int64_t counts[ENGINE_MAX_RANK];         /* of the scores of new heads */
    int64_t source_strides[ENGINE_MAX_RANK]; /* of the mask, 0 where it broadcasts */
    int64_t outer_count, head_count, query_count, keys; /* 1 where the adder broadcasts */
    int64_t outer_stride, head_stride, query_stride; /* of the adder, in elements; 0: broadcast */
    size_t floats;                                   /* of the whole adder */
};

/* Checks the mask against the geometry's scores. Errors: SHAPE_MISMATCH, INVALID_ARGUMENT,
 * TOO_LARGE. */
ENGINE_MUST_CHECK enum engine_code engine_mask_init(struct engine_mask *ret,
                                                    const struct engine_tensor *mask,
                                                    const struct engine_geometry *geometry,
                                                    enum engine_policy policy,
                                                    struct engine_error *err);

/* Writes rows row0 .. row0 + rows of the adder (outer x head x query counts), keys each. */
void engine_mask_fill(const struct engine_mask *mask, int64_t row0, int64_t rows, float *adder);

/* One mask value, converted to double; for the reference. */
double engine_mask_value(const struct engine_mask *mask, int64_t outer, int64_t head, int64_t query,
                         int64_t key);

/* The additive term for a mask value, by the policy's arithmetic. */
double engine_mask_adder(enum engine_policy policy, double value);

/* If an adder row is zeros followed by full NEG, with one zero at least: the number of zeros;
 * else keys. The dead keys' weights are then exactly 0 in float32 as long as no logit reaches
 * 1e8, so they need not be computed. */
int64_t engine_mask_live(const float *adder, int64_t keys);

#endif
