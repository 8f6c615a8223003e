/* wide.h - policy float64: the reference as a job, an outer row a unit.
 *
 * There is one definition of the layer in double precision, reference.c, and no fast path beside
 * it: who asks for float64 asks for exact digits, not for speed. Outputs are written in double,
 * where they are returned if they are whole FP64 tensors, else in the workspace first.
 * A unit looks for cancelling and deadline before each row of queries. Threads: any, one unit
 * each. */
#ifndef ENGINE_WIDE_H
#define ENGINE_WIDE_H

#include "engine/plan.h"

/* Doubles needed in the workspace for each output; 0: computed where it is returned. */
void engine_wide_workspace(const struct engine_plan *plan, size_t *ret_output, size_t *ret_scores);
double engine_wide_flops(const struct engine_plan *plan);

/* Errors: CANCELLED, DEADLINE, OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code engine_wide_unit(struct engine_plan *plan, int64_t outer,
                                                    struct engine_error *err);

#endif
