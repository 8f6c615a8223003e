/* arena.c - see arena.h. */
#include "engine/arena.h"

#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(memory, size)   ASAN_POISON_MEMORY_REGION(memory, size)
#define UNPOISON(memory, size) ASAN_UNPOISON_MEMORY_REGION(memory, size)
#else
#define POISON(memory, size)   ((void)(memory), (void)(size))
#define UNPOISON(memory, size) ((void)(memory), (void)(size))
#endif

size_t engine_arena_bytes(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

void engine_arena_init(struct engine_arena *arena, void *memory, size_t size)
{
    *arena = (struct engine_arena){.base = memory, .size = size};
    POISON(arena->base, arena->size);
}

void engine_arena_reset(struct engine_arena *arena)
{
    UNPOISON(arena->base, arena->size);
    *arena = (struct engine_arena){0};
}

void *engine_arena_alloc(struct engine_arena *arena, size_t bytes)
{
    size_t rounded = engine_arena_bytes(bytes);
    if (arena->overflowed || rounded < bytes || rounded > arena->size - arena->used) {
        arena->overflowed = true;
        return NULL;
    }
    char *memory = arena->base + arena->used;
    arena->used += rounded;
    UNPOISON(memory, bytes);
#ifdef ATTND_POISON
    memset(memory, 0xff, bytes); /* NaN: see plan.c */
#endif
    return memory;
}

void engine_arena_rewind(struct engine_arena *arena)
{
    POISON(arena->base, arena->used);
    arena->used = 0;
    arena->overflowed = false;
}
