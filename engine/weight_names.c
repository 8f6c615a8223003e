/* weight_names.c - see weight_names.h. Names come from files that anyone may have written: every
 * loop is bounded by the length of a name or the number of tensors. */
#include "engine/weight_names.h"

#include <string.h>

#include "engine/name_list.h"

/* A name without ":0", and where its last parts begin. */
struct parts {
    const char *name;
    size_t length; /* without ":0" */
    size_t last;   /* where the last part begins */
    size_t pair;   /* where the last two begin */
};

static size_t part_before(const char *name, size_t end)
{
    while (end > 0 && name[end - 1] != '/')
        end--;
    return end;
}

static struct parts split(const char *name)
{
    struct parts ret = {.name = name, .length = strlen(name)};
    size_t digits = ret.length;
    while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9')
        digits--;
    if (digits > 0 && digits < ret.length && name[digits - 1] == ':')
        ret.length = digits - 1;
    ret.last = part_before(name, ret.length);
    ret.pair = ret.last > 0 ? part_before(name, ret.last - 1) : 0;
    return ret;
}

static bool text_is(const struct parts *parts, size_t begin, const char *text)
{
    size_t length = strlen(text);
    return parts->length - begin == length && memcmp(parts->name + begin, text, length) == 0;
}

/* Where the weight's own name begins in the tensor's: what stands before is the scope. */
static size_t scope_of(const struct parts *parts, enum engine_weight weight)
{
    return weight == ENGINE_WEIGHT_POSITIONS ? parts->last : parts->pair;
}

/* The weight that the last parts name; ENGINE_WEIGHT_COUNT: none. */
static enum engine_weight weight_of(const struct parts *parts)
{
    for (int w = 0; w < ENGINE_WEIGHT_COUNT; w++)
        if (text_is(parts, scope_of(parts, (enum engine_weight)w),
                    engine_weights_name((enum engine_weight)w)))
            return (enum engine_weight)w;
    return ENGINE_WEIGHT_COUNT;
}

/* true if a tensor is a weight that lies under a prefix. A prefix is a scope, "a" or "a/", or
 * whatever stands before the weight's name and nothing else ("bert_" of "bert_query/kernel"). */
static bool is_under(const char *name, enum engine_weight weight, const char *prefix, size_t length)
{
    if (strncmp(name, prefix, length) != 0)
        return false;
    struct parts parts = split(name), rest = split(name + length);
    bool is_scope = length == 0 || prefix[length - 1] == '/' || name[length] == '/';
    return is_scope ? weight_of(&parts) == weight
                    : scope_of(&rest, weight) == 0 && weight_of(&rest) == weight;
}

/* ---- what is nearest to a missing name --------------------------------------------------- */

enum { NEAREST = 3, COMPARED_BYTES = 40 };

/* Letters to insert, drop or change (Levenshtein) between a weight's name and the end of a
 * tensor's: what stands before costs nothing. tail has at most COMPARED_BYTES. */
static unsigned distance(const char *wanted, const char *tail, size_t tail_length)
{
    unsigned row[COMPARED_BYTES + 1] = {0};
    for (size_t i = 1; wanted[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= tail_length; j++) {
            unsigned changed = diagonal + (wanted[i - 1] != tail[j - 1]);
            unsigned moved = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = changed < moved ? changed : moved;
        }
    }
    return row[tail_length];
}

static unsigned distance_to(const char *name, enum engine_weight weight)
{
    struct parts parts = split(name);
    size_t length = parts.length < COMPARED_BYTES ? parts.length : COMPARED_BYTES;
    return distance(engine_weights_name(weight), name + parts.length - length, length);
}

/* The names of the NEAREST tensors, the nearest first, the file's order among equals. */
static void list_nearest(const struct engine_named_tensor *tensors, size_t count,
                         enum engine_weight weight, struct engine_name_list *ret)
{
    const char *names[NEAREST];
    unsigned distances[NEAREST] = {0};
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        unsigned d = distance_to(tensors[i].name, weight);
        size_t at = kept < NEAREST ? kept++ : NEAREST - 1;
        if (kept == NEAREST && at == NEAREST - 1 && i >= NEAREST && d >= distances[at])
            continue;
        for (; at > 0 && distances[at - 1] > d; at--) {
            distances[at] = distances[at - 1];
            names[at] = names[at - 1];
        }
        distances[at] = d;
        names[at] = tensors[i].name;
    }
    for (size_t i = 0; i < kept; i++)
        engine_name_list_add(ret, names[i]);
}

/* ---- finding ----------------------------------------------------------------------------- */

struct search {
    const struct engine_layer_config *config;
    const struct engine_named_tensor *tensors;
    size_t count;
    const char *prefix;
    size_t prefix_length;
};

/* The tensors of a weight in a scope: how many, and the first of them. */
static size_t look_in(const struct search *search, enum engine_weight weight, size_t scope_length,
                      const struct engine_named_tensor **ret)
{
    size_t found = 0;
    for (size_t i = 0; i < search->count; i++) {
        const struct engine_named_tensor *tensor = &search->tensors[i];
        if (is_under(tensor->name, weight, search->prefix, scope_length) && found++ == 0)
            *ret = tensor;
    }
    return found;
}

/* The scope round another; 0 is the whole file. */
static size_t enclosing(const char *scope, size_t length)
{
    return part_before(scope, length > 0 ? length - 1 : 0);
}

/* Only the position table is looked for outside the prefix: Keras made it before the scope. */
static enum engine_code find_one(const struct search *search, enum engine_weight weight,
                                 const struct engine_named_tensor **ret, struct engine_error *err)
{
    const char *name = engine_weights_name(weight);
    size_t scope = search->prefix_length;
    size_t found = look_in(search, weight, scope, ret);
    struct engine_name_list list = {.used = 0};
    while (found == 0 && weight == ENGINE_WEIGHT_POSITIONS && scope > 0) {
        scope = enclosing(search->prefix, scope);
        found = look_in(search, weight, scope, ret);
    }
    if (found == 1)
        return ENGINE_OK;
    for (size_t i = 0; i < search->count && found > 1; i++)
        if (is_under(search->tensors[i].name, weight, search->prefix, scope))
            engine_name_list_add(&list, search->tensors[i].name);
    if (found > 1)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "weight %s may be any of %s; \"prefix\" in model.json says which "
                                "scope is meant",
                                name, engine_name_list_text(&list));
    if (search->count == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "weight %s is missing: the weight file holds no tensors (a Keras "
                                "layer has weights from its first call on)",
                                name);
    list_nearest(search->tensors, search->count, weight, &list);
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "weight %s%s is missing from the weight file; the nearest names there "
                            "are %s",
                            search->prefix, name, engine_name_list_text(&list));
}

/* ---- what is left over ------------------------------------------------------------------- */

/* Scopes of the weights found, without the position table's: it may lie anywhere. */
struct scopes {
    const char *text[ENGINE_WEIGHT_COUNT];
    size_t length[ENGINE_WEIGHT_COUNT];
    size_t count;
};

static void collect_scopes(const struct engine_named_tensor *const *found, struct scopes *ret)
{
    ret->count = 0;
    for (int w = ENGINE_WEIGHT_POSITIONS + 1; w < ENGINE_WEIGHT_COUNT; w++) {
        if (found[w] == NULL)
            continue;
        struct parts parts = split(found[w]->name);
        size_t i = 0;
        while (i < ret->count &&
               !(ret->length[i] == parts.pair && memcmp(ret->text[i], parts.name, parts.pair) == 0))
            i++;
        ret->text[i] = parts.name;
        ret->length[i] = parts.pair;
        ret->count += i == ret->count;
    }
}

/* Keras names all of a layer in one scope, but for the table. Weights that each exist once, but in
 * several scopes, are pieces of several layers. */
static enum engine_code check_one_scope(const struct scopes *scopes, struct engine_error *err)
{
    if (scopes->count < 2)
        return ENGINE_OK;
    return engine_error_set(
        err, ENGINE_INVALID_ARGUMENT,
        "the weights lie in the scopes \"%.*s\" and \"%.*s\", those of one "
        "layer must lie in one",
        (int)(scopes->length[0] < 100 ? scopes->length[0] : 100), scopes->text[0],
        (int)(scopes->length[1] < 100 ? scopes->length[1] : 100), scopes->text[1]);
}

/* true if the name is one or two parts in one of the scopes, where only the layer's own lie. */
static bool is_inside(const struct scopes *scopes, const struct parts *parts)
{
    for (size_t i = 0; i < scopes->count; i++) {
        size_t length = scopes->length[i];
        if ((length == parts->pair || length == parts->last) &&
            memcmp(scopes->text[i], parts->name, length) == 0)
            return true;
    }
    return false;
}

/* true if it is a position table in a scope round one of them, where Keras puts the layer's. */
static bool is_table_outside(const struct scopes *scopes, const struct parts *parts)
{
    for (size_t i = 0; i < scopes->count; i++)
        if (parts->last <= scopes->length[i] &&
            memcmp(scopes->text[i], parts->name, parts->last) == 0)
            return weight_of(parts) == ENGINE_WEIGHT_POSITIONS;
    return false;
}

static bool is_any_of(const struct engine_named_tensor *const *found,
                      const struct engine_named_tensor *tensor)
{
    for (int w = 0; w < ENGINE_WEIGHT_COUNT; w++)
        if (found[w] == tensor)
            return true;
    return false;
}

/* What the layer of this configuration does not have: a name misspelt, or weights of a layer that
 * was configured otherwise. What lies in other scopes is other layers' and left alone, and where
 * there are others a table outside the scope may be theirs; so is what the prefix leaves out, and
 * what has a type that nothing here reads: no layer needs it. */
static enum engine_code refuse_left_over(const struct search *search,
                                         const struct engine_named_tensor *const *found,
                                         struct engine_error *err)
{
    const char *stranger = NULL, *table = NULL;
    bool has_others = search->prefix_length > 0;
    struct scopes scopes;
    collect_scopes(found, &scopes);
    ENGINE_TRY(check_one_scope(&scopes, err));
    for (size_t i = 0; i < search->count && stranger == NULL; i++) {
        const struct engine_named_tensor *tensor = &search->tensors[i];
        struct parts parts = split(tensor->name);
        if (is_any_of(found, tensor) || tensor->foreign != NULL ||
            strncmp(tensor->name, search->prefix, search->prefix_length) != 0)
            continue;
        if (is_inside(&scopes, &parts))
            stranger = tensor->name;
        else if (is_table_outside(&scopes, &parts))
            table = tensor->name;
        else
            has_others = true;
    }
    if (stranger == NULL && !has_others)
        stranger = table;
    if (stranger == NULL)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "weight %.100s is no weight of a layer so configured", stranger);
}

enum engine_code engine_weight_names_find(
    const struct engine_layer_config *config, const struct engine_named_tensor *tensors,
    size_t count, const char *prefix, const struct engine_named_tensor *found[ENGINE_WEIGHT_COUNT],
    struct engine_error *err)
{
    const struct search search = {.config = config,
                                  .tensors = tensors,
                                  .count = count,
                                  .prefix = prefix,
                                  .prefix_length = strlen(prefix)};
    for (int w = 0; w < ENGINE_WEIGHT_COUNT; w++) {
        found[w] = NULL;
        if (engine_weights_expected(config, (enum engine_weight)w))
            ENGINE_TRY(find_one(&search, (enum engine_weight)w, &found[w], err));
    }
    return refuse_left_over(&search, found, err);
}
