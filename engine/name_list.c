/* name_list.c - see name_list.h. */
#include "engine/name_list.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 100, LAST_BYTES = 30 }; /* of a name; of " and 18446744073709551615 more" */

/* A character of UTF-8 is not cut. */
static const char *end_of(const char *name, size_t length)
{
    const char *end = name + length - NAME_BYTES;
    while (((unsigned char)*end & 0xc0) == 0x80)
        end++;
    return end;
}

void engine_name_list_add(struct engine_name_list *list, const char *name)
{
    size_t length = strlen(name), room = sizeof list->text - list->used;
    bool is_long = length > NAME_BYTES;
    const char *end = is_long ? end_of(name, length) : name;
    if (list->left_out > 0 || strlen(end) + sizeof ", ..." + LAST_BYTES > room) {
        list->left_out++;
        return;
    }
    list->used += (size_t)snprintf(list->text + list->used, room, "%s%s%s",
                                   list->used > 0 ? ", " : "", is_long ? "..." : "", end);
}

const char *engine_name_list_text(struct engine_name_list *list)
{
    if (list->left_out > 0)
        snprintf(list->text + list->used, sizeof list->text - list->used, " and %zu more",
                 list->left_out);
    return list->text;
}
