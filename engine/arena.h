/* arena.h - scratch memory of one thread: bump allocation over a block that someone else owns.
 *
 * A unit of work takes what it needs and the arena is rewound after it; nothing is freed one by
 * one. Every allocation is 64-byte aligned. An arena that is too small answers NULL from then on
 * until it is rewound, so that one check after several allocations is enough. Under
 * AddressSanitizer memory not handed out is poisoned.
 * It never asks the system for memory. Threads: one at a time. */
#ifndef ENGINE_ARENA_H
#define ENGINE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct engine_arena {
    char *base;
    size_t size, used;
    bool overflowed;
};

/* memory must be 64-byte aligned and outlive the arena. */
void engine_arena_init(struct engine_arena *arena, void *memory, size_t size);

/* Unpoisons everything, so that the memory may be given back. */
void engine_arena_reset(struct engine_arena *arena);

/* Uninitialised, 64-byte aligned; NULL once the arena has overflowed. */
void *engine_arena_alloc(struct engine_arena *arena, size_t bytes);

/* Takes everything back. */
void engine_arena_rewind(struct engine_arena *arena);

/* Bytes that an allocation takes: rounded up to 64. */
size_t engine_arena_bytes(size_t bytes);

#endif
