/* buffers.h - resident memory by size class, under one budget.
 *
 * Fresh pages cost as much as the computation that fills them (a page fault zeroes 4 KB), so
 * blocks are kept and handed out again, last given first. Classes are powers of two and the
 * halves between (64 KB, 96 KB, 128 KB, …): at most a third is unused. When the budget would be
 * passed, idle blocks of other classes are returned to the system first.
 * Blocks are 64-byte aligned; from 2 MB on they lie on huge pages where the system allows.
 * It refuses to zero memory, and to go over the budget. Threads: any. */
#ifndef ENGINE_BUFFERS_H
#define ENGINE_BUFFERS_H

#include <pthread.h>

#include "engine/engine.h"

enum { ENGINE_BUFFERS_CLASSES = 96 };

struct engine_buffers_block; /* header inside an idle block */

struct engine_buffers {
    pthread_mutex_t lock;
    struct engine_buffers_block *idle[ENGINE_BUFFERS_CLASSES];
    struct engine_memory_facts facts;
};

void engine_buffers_init(struct engine_buffers *buffers, size_t budget_bytes);
/* All blocks must have been given back. */
void engine_buffers_reset(struct engine_buffers *buffers);

/* Errors: OVERLOADED (budget), OUT_OF_MEMORY. 0 bytes give an empty buffer. */
ENGINE_MUST_CHECK enum engine_code engine_buffers_take(struct engine_buffers *buffers, size_t bytes,
                                                       struct engine_buffer *ret,
                                                       struct engine_error *err);
/* Clears *buffer; an empty one is fine. */
void engine_buffers_give(struct engine_buffers *buffers, struct engine_buffer *buffer);

void engine_buffers_facts(struct engine_buffers *buffers, struct engine_memory_facts *ret);

#endif
