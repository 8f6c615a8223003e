/* buffers.c - see buffers.h. */
#include "engine/buffers.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { SMALLEST_BYTES = 4096, HUGE_PAGE_BYTES = 2 << 20 };

struct engine_buffers_block {
    struct engine_buffers_block *next;
};

/* Classes 2i and 2i+1 are 4096 * 2^i and one and a half times that. */
static size_t class_bytes(int class)
{
    size_t power = (size_t)SMALLEST_BYTES << (class / 2);
    return class % 2 == 0 ? power : power + power / 2;
}

/* -1: larger than any class. */
static int class_of(size_t bytes)
{
    for (int class = 0; class < ENGINE_BUFFERS_CLASSES; class ++)
        if (class_bytes(class) >= bytes)
            return class;
    return -1;
}

void engine_buffers_init(struct engine_buffers *buffers, size_t budget_bytes)
{
    *buffers = (struct engine_buffers){.facts = {.budget_bytes = budget_bytes}};
    pthread_mutex_init(&buffers->lock, NULL);
}

/* Called with the lock held. */
static void return_to_system(struct engine_buffers *buffers, int class)
{
    struct engine_buffers_block *block = buffers->idle[class];
    buffers->idle[class] = block->next;
    buffers->facts.resident_bytes -= class_bytes(class);
    free(block);
}

void engine_buffers_reset(struct engine_buffers *buffers)
{
    for (int class = 0; class < ENGINE_BUFFERS_CLASSES; class ++)
        while (buffers->idle[class] != NULL)
            return_to_system(buffers, class);
    pthread_mutex_destroy(&buffers->lock);
}

/* Largest idle blocks first, until "bytes" more fit the budget. Called with the lock held. */
static void make_room(struct engine_buffers *buffers, size_t bytes)
{
    for (int class = ENGINE_BUFFERS_CLASSES - 1; class >= 0; class --)
        while (buffers->idle[class] != NULL &&
               buffers->facts.resident_bytes + bytes > buffers->facts.budget_bytes)
            return_to_system(buffers, class);
}

/* An idle block, or NULL after the bytes of a new one have been charged. */
static enum engine_code charge(struct engine_buffers *buffers, int class, void **ret,
                               struct engine_error *err)
{
    size_t size = class_bytes(class);
    enum engine_code code = ENGINE_OK;
    pthread_mutex_lock(&buffers->lock);
    struct engine_memory_facts *facts = &buffers->facts;
    struct engine_buffers_block *block = buffers->idle[class];
    if (block != NULL) {
        buffers->idle[class] = block->next;
    } else if (size > facts->budget_bytes - facts->taken_bytes) {
        code =
            engine_error_set(err, ENGINE_OVERLOADED,
                             "%zu bytes of memory are needed, %zu of the budget of %zu are free",
                             size, facts->budget_bytes - facts->taken_bytes, facts->budget_bytes);
    } else {
        make_room(buffers, size);
        facts->resident_bytes += size;
        facts->misses++;
    }
    if (code == ENGINE_OK) {
        facts->taken_bytes += size;
        facts->takes++;
    }
    pthread_mutex_unlock(&buffers->lock);
    *ret = block;
    return code;
}

static void uncharge(struct engine_buffers *buffers, size_t size)
{
    pthread_mutex_lock(&buffers->lock);
    buffers->facts.resident_bytes -= size;
    buffers->facts.taken_bytes -= size;
    pthread_mutex_unlock(&buffers->lock);
}

enum engine_code engine_buffers_take(struct engine_buffers *buffers, size_t bytes,
                                     struct engine_buffer *ret, struct engine_error *err)
{
    int class = class_of(bytes);
    void *memory = NULL;
    *ret = (struct engine_buffer){0};
    if (bytes == 0)
        return ENGINE_OK;
    if (class < 0)
        return engine_error_set(err, ENGINE_OVERLOADED,
                                "%zu bytes of memory are more than any budget", bytes);
    size_t size = class_bytes(class);
    size_t alignment = size >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : SMALLEST_BYTES;
    ENGINE_TRY(charge(buffers, class, &memory, err));
    if (memory == NULL) {
        memory = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
        if (memory == NULL) {
            uncharge(buffers, size);
            return engine_error_set(err, ENGINE_OUT_OF_MEMORY,
                                    "the system refused %zu bytes of memory", size);
        }
        if (size >= HUGE_PAGE_BYTES)
            (void)madvise(memory, size, MADV_HUGEPAGE); /* a wish; slower without, not wrong */
    }
    *ret = (struct engine_buffer){.data = memory, .bytes = size};
    return ENGINE_OK;
}

void engine_buffers_give(struct engine_buffers *buffers, struct engine_buffer *buffer)
{
    if (buffer->data == NULL)
        return;
    int class = class_of(buffer->bytes);
    struct engine_buffers_block *block = buffer->data;
    pthread_mutex_lock(&buffers->lock);
    block->next = buffers->idle[class];
    buffers->idle[class] = block;
    buffers->facts.taken_bytes -= buffer->bytes;
    pthread_mutex_unlock(&buffers->lock);
    *buffer = (struct engine_buffer){0};
}

void engine_buffers_facts(struct engine_buffers *buffers, struct engine_memory_facts *ret)
{
    pthread_mutex_lock(&buffers->lock);
    *ret = buffers->facts;
    pthread_mutex_unlock(&buffers->lock);
}
