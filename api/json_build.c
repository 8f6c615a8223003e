/* json_build.c - see json_build.h. */
#include "api/json_build.h"

#include <stdlib.h>

json_t *api_json_build_append(json_t *array, json_t *item)
{
    if (json_array_append_new(array, item) == 0)
        return array;
    json_decref(array);
    return NULL;
}

json_t *api_json_build_set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) == 0)
        return object;
    json_decref(object);
    return NULL;
}

/* Into memory of the right size: json_dumps() would grow its own, and does not look whether that
 * worked while it writes a key. */
char *api_json_build_text(json_t *document, size_t flags)
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
