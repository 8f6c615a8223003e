/* json_null.c - see json_null.h. */
#include "api/json_null.h"

#include "api/limits.h"

static void drop(json_t *value, int levels)
{
    void *next;
    if (levels == 0)
        return;
    for (size_t i = 0; i < json_array_size(value); i++)
        drop(json_array_get(value, i), levels - 1);
    for (void *member = json_object_iter(value); member != NULL; member = next) {
        next = json_object_iter_next(value, member);
        if (json_is_null(json_object_iter_value(member)))
            (void)json_object_del(value, json_object_iter_key(member));
        else
            drop(json_object_iter_value(member), levels - 1);
    }
}

void api_json_null_drop(json_t *document)
{
    drop(document, API_MAX_NESTING);
}
