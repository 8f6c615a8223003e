/* name_list.h - names in a message: bounded, whatever their number and length.
 *
 * Long names are told by their ends, where they differ; those that find no room are counted.
 * Threads: one at a time. */
#ifndef ENGINE_NAME_LIST_H
#define ENGINE_NAME_LIST_H

#include <stddef.h>

struct engine_name_list {
    char text[320]; /* "a, b" */
    size_t used;
    size_t left_out;
};

void engine_name_list_add(struct engine_name_list *list, const char *name);

/* "a, b and 3 more". Nothing is added afterwards. */
const char *engine_name_list_text(struct engine_name_list *list);

#endif
