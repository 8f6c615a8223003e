/* emit.h - computed score rows into the tensor that is returned: chosen heads, rows and best keys,
 * in the type asked for. Large tensors are written past the caches.
 *
 * Ties in top_k go to the smaller key index; NaN ranks last. It computes no scores.
 * Threads: any; units write different rows. */
#ifndef ENGINE_EMIT_H
#define ENGINE_EMIT_H

#include "engine/plan.h"

/* rows x keys of one head (numbered as returned, before selection). */
struct engine_emit_rows {
    int64_t outer, head, query0, rows;
    const float *tile;
    int64_t stride; /* elements between rows */
};

size_t engine_emit_scratch_bytes(const struct engine_plan *plan);
bool engine_emit_wants_head(const struct engine_plan *plan, int64_t head);

/* Where whole float32 rows are returned. */
float *engine_emit_place(const struct engine_plan *plan, int64_t outer, int64_t head,
                         int64_t query0);

void engine_emit(const struct engine_plan *plan, const struct engine_emit_rows *rows,
                 void *scratch);

#endif
