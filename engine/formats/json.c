/* json.c - see json.h. */
#include "engine/formats/json.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>

/* ---- parsing ---------------------------------------------------------------------------- */

/* Blocks that a parse under way has allocated, and where it ends when one is refused. */
struct guard {
    jmp_buf out;
    void **blocks;
    size_t count, room;
};

static _Thread_local struct guard *guard; /* NULL: this thread parses nothing */

static bool keep(struct guard *g, void *block)
{
    if (g->count == g->room) {
        size_t room = g->room == 0 ? 64 : 2 * g->room;
        void **blocks = realloc(g->blocks, room * sizeof *blocks);
        if (blocks == NULL)
            return false;
        g->blocks = blocks;
        g->room = room;
    }
    g->blocks[g->count++] = block;
    return true;
}

/* A parser never sees NULL: it would go on with less than it read. It is left by the way that
 * load() keeps open, which frees what it had. jansson holds no lock and no file meanwhile. */
static void *allocate(size_t size)
{
    void *block = malloc(size);
    if (guard == NULL || (block != NULL && keep(guard, block)))
        return block;
    free(block);
    longjmp(guard->out, 1);
}

/* What is freed was allocated lately, nearly always. */
static void release(void *block)
{
    size_t i = guard != NULL ? guard->count : 0;
    while (i > 0 && guard->blocks[i - 1] != block)
        i--;
    if (i > 0)
        guard->blocks[i - 1] = guard->blocks[--guard->count];
    free(block);
}

/* jansson's allocator is one for the process: it is set before there is a second thread. */
__attribute__((constructor)) static void set_allocator(void)
{
    json_set_alloc_funcs(allocate, release);
}

/* false: memory was short. */
static bool load(struct guard *g, const char *bytes, size_t size, size_t flags, json_t **ret,
                 json_error_t *ret_where)
{
    if (setjmp(g->out) != 0)
        return false;
    *ret = json_loadb(bytes, size, flags, ret_where);
    return true;
}

enum engine_code engine_json_load(const char *bytes, size_t size, size_t flags, json_t **ret,
                                  json_error_t *ret_where, struct engine_error *err)
{
    struct guard g = {.blocks = NULL};
    guard = &g;
    bool whole = load(&g, bytes, size, flags, ret, ret_where);
    guard = NULL;
    for (size_t i = 0; !whole && i < g.count; i++)
        free(g.blocks[i]);
    free(g.blocks);
    return whole ? ENGINE_OK
                 : engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a JSON document");
}

/* ---- building and writing --------------------------------------------------------------- */

json_t *engine_json_append(json_t *array, json_t *item)
{
    if (json_array_append_new(array, item) == 0)
        return array;
    json_decref(array);
    return NULL;
}

json_t *engine_json_set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) == 0)
        return object;
    json_decref(object);
    return NULL;
}

/* Into memory of the right size, which needs no growth. */
char *engine_json_text(json_t *document, size_t flags)
{
    size_t size = json_dumpb(document, NULL, 0, flags);
    char *text = size > 0 ? malloc(size + 1) : NULL;
    if (text != NULL && json_dumpb(document, text, size, flags) != size) {
        free(text);
        text = NULL;
    }
    json_decref(document);
    if (text != NULL)
        text[size] = '\0';
    return text;
}
