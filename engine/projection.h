/* projection.h - units of the projections: rows x a merged weight, bias, into operands or output.
 *
 * Computes nothing of attention and cuts nothing: plan.c has cut. Threads: any, one unit each. */
#ifndef ENGINE_PROJECTION_H
#define ENGINE_PROJECTION_H

#include "engine/plan.h"

size_t engine_projection_scratch_bytes(const struct engine_plan *plan);

/* 64 rows of an input, converted to float32 and rounded to the policy, into its left operand. */
void engine_projection_gather(const struct engine_plan *plan, const struct engine_plan_input *input,
                              int64_t unit, struct engine_arena *arena);

/* A unit of phase PROJECT (query, key or value into operands of each head) or OUTPUT. */
void engine_projection_unit(const struct engine_plan *plan, const struct engine_pool_unit *unit,
                            struct engine_arena *arena);

#endif
