/* python_json.c - see python_json.h. */
#include "api/python_json.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/formats/json.h"
#include "engine/formats/signature.h"

static enum engine_code no_memory(struct engine_error *err)
{
    return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a configuration");
}

/* ---- the text --------------------------------------------------------------------------- */

static const char *const bare_words[] = {"NaN", "Infinity", "-Infinity"};

/* Length of the bare word at a place outside of texts; 0: none. */
static size_t bare_word(const char *at, size_t left)
{
    for (size_t i = 0; i < sizeof bare_words / sizeof bare_words[0]; i++) {
        size_t length = strlen(bare_words[i]);
        if (length <= left && memcmp(at, bare_words[i], length) == 0)
            return length;
    }
    return 0;
}

/* Copies JSON with quotes round the bare words, the shortest of which has three letters. */
static size_t quote_bare_words(const char *text, size_t size, char *to)
{
    bool is_text = false;
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        size_t word = is_text ? 0 : bare_word(text + i, size - i);
        if (word > 0) {
            to[used++] = '"';
            memcpy(to + used, text + i, word);
            used += word;
            to[used++] = '"';
            i += word - 1;
            continue;
        }
        if (is_text && text[i] == '\\' && i + 1 < size)
            to[used++] = text[i++]; /* what follows ends no text */
        else if (text[i] == '"')
            is_text = !is_text;
        to[used++] = text[i];
    }
    return used;
}

enum engine_code api_python_json_load(const char *what, const char *text, size_t size, json_t **ret,
                                      struct engine_error *err)
{
    static const char mark[] = "\xef\xbb\xbf";
    json_error_t where;
    bool has_mark = size >= 3 && memcmp(text, mark, 3) == 0;
    if (size > SIZE_MAX / 2 - 1)
        return no_memory(err);
    char *strict = malloc(size * 2 + 1);
    if (strict == NULL)
        return no_memory(err);
    size_t used = quote_bare_words(text + (has_mark ? 3 : 0), size - (has_mark ? 3 : 0), strict);
    enum engine_code code =
        engine_json_load(strict, used, JSON_REJECT_DUPLICATES, ret, &where, err);
    free(strict);
    if (code != ENGINE_OK || *ret != NULL)
        return code;
    const char *instead = engine_signature_of(text, size);
    if (instead != NULL && strcmp(instead, "JSON text") != 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "%s is not JSON but %s", what,
                                instead);
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "%s is not JSON: line %d: %.120s", what,
                            where.line, where.text);
}

/* ---- what str() makes of a value --------------------------------------------------------- */

enum { LITERAL_BYTES = 400, LITERAL_DEPTH = 4 };

struct reader {
    const char *at;
    bool is_short_of_memory;
};

static json_t *read_literal(struct reader *reader, int depth);

static json_t *made(struct reader *reader, json_t *value)
{
    reader->is_short_of_memory = reader->is_short_of_memory || value == NULL;
    return value;
}

static void skip_spaces(struct reader *reader)
{
    while (*reader->at == ' ')
        reader->at++;
}

static bool take(struct reader *reader, const char *word)
{
    size_t length = strlen(word);
    if (strncmp(reader->at, word, length) != 0)
        return false;
    reader->at += length;
    return true;
}

/* Digits as Python writes them: no hexadecimal, no spaces before. */
static json_t *read_number(struct reader *reader)
{
    size_t length = strspn(reader->at, "+-0123456789.eE");
    char digits[48], *end;
    if (length == 0 || length >= sizeof digits)
        return NULL;
    memcpy(digits, reader->at, length);
    digits[length] = '\0';
    errno = 0;
    long long integer = strtoll(digits, &end, 10);
    bool is_integer = *end == '\0' && errno == 0;
    double real = strtod(digits, &end);
    if (*end != '\0' || !isfinite(real))
        return NULL;
    reader->at += length;
    return made(reader, is_integer ? json_integer(integer) : json_real(real));
}

/* "(1,)", "[None, 40]", "()". */
static json_t *read_items(struct reader *reader, const char *close, int depth)
{
    json_t *list = made(reader, json_array());
    for (skip_spaces(reader); list != NULL && !take(reader, close);) {
        json_t *item = read_literal(reader, depth);
        skip_spaces(reader);
        bool goes_on = take(reader, ",") || strncmp(reader->at, close, 1) == 0;
        bool is_added = item != NULL && json_array_append_new(list, item) == 0;
        reader->is_short_of_memory = reader->is_short_of_memory || (item != NULL && !is_added);
        if (!is_added || !goes_on) {
            json_decref(list);
            return NULL;
        }
        skip_spaces(reader);
    }
    return list;
}

/* Behind "(": the one argument of a constructor ("ListWrapper([1])"), else a tuple's items. */
static json_t *read_round(struct reader *reader, bool is_call, int depth)
{
    struct reader alone = *reader;
    json_t *value = read_literal(&alone, depth);
    skip_spaces(&alone);
    if (is_call && value != NULL && take(&alone, ")")) {
        *reader = alone;
        return value;
    }
    json_decref(value);
    reader->is_short_of_memory = reader->is_short_of_memory || alone.is_short_of_memory;
    return read_items(reader, ")", depth);
}

static json_t *read_literal(struct reader *reader, int depth)
{
    if (depth == LITERAL_DEPTH)
        return NULL;
    if (take(reader, "None") || take(reader, "?") || take(reader, "<unknown>"))
        return made(reader, json_null());
    if (take(reader, "True"))
        return made(reader, json_true());
    if (take(reader, "False"))
        return made(reader, json_false());
    if (take(reader, "nan") || take(reader, "NaN"))
        return made(reader, json_string("NaN"));
    if (take(reader, "inf") || take(reader, "Infinity"))
        return made(reader, json_string("Infinity"));
    if (take(reader, "-inf") || take(reader, "-Infinity"))
        return made(reader, json_string("-Infinity"));
    if (take(reader, "["))
        return read_items(reader, "]", depth + 1);
    if (take(reader, "("))
        return read_round(reader, false, depth + 1);
    size_t name = strspn(reader->at, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_.");
    size_t digits = name > 0 ? strspn(reader->at + name, "0123456789") : 0; /* "np.int64(2)" */
    if (name > 0 && reader->at[name + digits] == '(') {
        reader->at += name + digits + 1;
        return read_round(reader, true, depth + 1);
    }
    return read_number(reader);
}

/* NULL: the text is only a text. */
static json_t *literal_of(const json_t *text, bool *is_short_of_memory)
{
    struct reader reader = {.at = json_string_value(text)};
    if (json_string_length(text) > LITERAL_BYTES)
        return NULL;
    json_t *value = read_literal(&reader, 0);
    *is_short_of_memory = reader.is_short_of_memory;
    if (value != NULL && *reader.at == '\0' && !reader.is_short_of_memory)
        return value;
    json_decref(value);
    return NULL;
}

/* ---- what serializations make of a value --------------------------------------------------- */

/* {"class_name": "__tuple__", "items": [...]} of SavedModel's metadata, and {"class_name":
 * "__numpy__", "config": {"value": ...}} of serialize_keras_object. NULL: no such object. */
static const json_t *inside(const json_t *object)
{
    static const char *const names[] = {"TensorShape", "__tuple__", "__list__", "__numpy__",
                                        "__tensor__"};
    const char *name = json_string_value(json_object_get(object, "class_name"));
    const json_t *items = json_object_get(object, "items");
    for (size_t i = 0; name != NULL && i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return items != NULL ? items
                                 : json_object_get(json_object_get(object, "config"), "value");
    return NULL;
}

static enum engine_code value_of(const json_t *value, json_t **ret, struct engine_error *err)
{
    bool is_short_of_memory = false;
    const json_t *held = value;
    for (int depth = 0; depth < LITERAL_DEPTH && inside(held) != NULL; depth++)
        held = inside(held);
    *ret = json_is_string(held) ? literal_of(held, &is_short_of_memory) : NULL;
    if (is_short_of_memory)
        return no_memory(err);
    if (*ret == NULL)
        *ret = json_incref((json_t *)held);
    return ENGINE_OK;
}

/* A list's own elements may be such values: [numpy.int64(1)] is written ["1"]. */
enum engine_code api_python_json_value(const json_t *value, json_t **ret, struct engine_error *err)
{
    json_t *given, *item, *element;
    size_t i;
    ENGINE_TRY(value_of(value, &given, err));
    *ret = given;
    if (!json_is_array(given))
        return ENGINE_OK;
    json_t *list = json_array();
    enum engine_code code = list != NULL ? ENGINE_OK : no_memory(err);
    json_array_foreach(given, i, element)
    {
        if (code == ENGINE_OK)
            code = value_of(element, &item, err);
        if (code == ENGINE_OK && json_array_append_new(list, item) != 0)
            code = no_memory(err);
    }
    json_decref(given);
    *ret = list;
    if (code == ENGINE_OK)
        return ENGINE_OK;
    json_decref(list);
    return code;
}

/* ---- numbers that JSON has not ------------------------------------------------------------- */

bool api_python_json_number(const json_t *value, double *ret)
{
    static const double values[] = {NAN, INFINITY, -INFINITY};
    const char *text = json_string_value(value);
    if (json_is_number(value)) {
        *ret = json_number_value(value);
        return true;
    }
    for (size_t i = 0; text != NULL && i < sizeof values / sizeof values[0]; i++)
        if (strcmp(text, bare_words[i]) == 0) {
            *ret = values[i];
            return true;
        }
    return false;
}

json_t *api_python_json_real(double value)
{
    if (isfinite(value))
        return json_real(value);
    return json_string(isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
}
