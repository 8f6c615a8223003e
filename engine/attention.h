/* attention.h - the fused unit of attention: one outer row, one head, a block of queries.
 *
 * logits = Q K^T, softmax over full rows with relative positions and mask, scores out, dropout,
 * times V, into the context. A reused head starts from the scores given. The tile is written
 * once: where the scores are returned, or in the worker's scratch.
 *
 * Keys after the last live one are skipped where the mask is the same for the block's queries and
 * no logit can reach 1e7 and no value is infinite: their weights are then exactly 0.
 * Threads: any, one unit each. */
#ifndef ENGINE_ATTENTION_H
#define ENGINE_ATTENTION_H

#include "engine/plan.h"

size_t engine_attention_scratch_bytes(const struct engine_plan *plan);
void engine_attention_unit(const struct engine_plan *plan, int64_t unit,
                           struct engine_arena *arena);

#endif
