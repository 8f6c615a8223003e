/* json_envelope.c - see json_envelope.h. */
#include "api/json_envelope.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/json_null.h"
#include "engine/formats/json.h"

enum { KEY_BYTES = 32, MARK_BYTES = 24, FIELD_BYTES = 96 };

enum state {
    IN_TEXT,    /* between values, and in literals */
    IN_STRING,  /* of the envelope */
    IN_PENDING, /* after a "[" that may begin numbers or objects */
    IN_NUMBERS,
    IN_BASE64
};

/* An open object or list. */
struct level {
    bool is_object;
    bool wants_key;
    size_t index;        /* of a list's element that is being read */
    char key[KEY_BYTES]; /* the last one; "" if too long or escaped */
    bool has_dtype;
    enum engine_dtype dtype; /* of a "datatype" member seen */
    size_t shape_at;         /* where a "shape" member's list begins in the text; 0: not seen */
};

struct api_json_envelope {
    struct engine *engine;
    enum api_json_style style;
    enum engine_dtype untold;
    size_t limit, room;
    char mark[MARK_BYTES]; /* begins each placeholder */
    char *text;
    size_t text_bytes, text_room;
    struct level levels[API_MAX_NESTING + 1];
    int depth;
    enum state state;
    bool escaped, is_key;
    bool begun;                    /* something other than blanks was there */
    const char *fed;               /* what is being read, */
    size_t fed_before;             /* and how many bytes came before it */
    size_t ends_after;             /* bytes until the JSON was complete; 0: it is not */
    size_t string_at;              /* where the open string began in the text */
    struct api_json_value *values; /* one more than count is there while one is being read */
    int count, room_for_values;
    struct api_json_numbers numbers;
    struct api_base64 base64;
    char field[FIELD_BYTES]; /* of the value being read, for messages: "inputs[1].data" */
};

/* ---- the text that is kept -------------------------------------------------------------- */

static enum engine_code keep(struct api_json_envelope *e, const char *bytes, size_t size,
                             struct engine_error *err)
{
    if (size > API_MAX_ENVELOPE_BYTES - e->text_bytes)
        return engine_error_set(
            err, ENGINE_TOO_LARGE,
            "the JSON apart from tensor data has more than %d bytes; data are read %s",
            API_MAX_ENVELOPE_BYTES,
            e->style == API_JSON_OIP ? "under inputs[].data" : "under instances or inputs");
    if (e->text_bytes + size > e->text_room) {
        size_t room = 2 * (e->text_bytes + size) + 1024;
        char *text = realloc(e->text, room);
        if (text == NULL)
            return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a JSON body");
        e->text = text;
        e->text_room = room;
    }
    memcpy(e->text + e->text_bytes, bytes, size);
    e->text_bytes += size;
    return ENGINE_OK;
}

static enum engine_code keep_placeholder(struct api_json_envelope *e, struct engine_error *err)
{
    char text[MARK_BYTES + 16];
    int length = snprintf(text, sizeof text, "\"%s%d\"", e->mark, e->count);
    return keep(e, text, (size_t)length, err);
}

enum engine_code api_json_envelope_create(struct engine *engine, enum api_json_style style,
                                          enum engine_dtype untold, size_t limit, size_t room,
                                          struct api_json_envelope **ret, struct engine_error *err)
{
    struct api_json_envelope *e = calloc(1, sizeof *e);
    uint64_t random = 0;
    if (e == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a JSON body");
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
        free(e);
        return engine_error_set(err, ENGINE_INTERNAL, "the system gives no random numbers");
    }
    e->engine = engine;
    e->style = style;
    e->untold = untold;
    e->limit = limit;
    e->room = room;
    snprintf(e->mark, sizeof e->mark, "%016llx:", (unsigned long long)random);
    *ret = e;
    return ENGINE_OK;
}

void api_json_envelope_destroy(struct api_json_envelope *e)
{
    if (e == NULL)
        return;
    for (int i = 0; i < e->room_for_values; i++)
        engine_buffer_give(e->engine, &e->values[i].buffer);
    api_json_numbers_reset(&e->numbers);
    free(e->values);
    free(e->text);
    free(e);
}

size_t api_json_envelope_memory(const struct api_json_envelope *e)
{
    size_t bytes = sizeof *e + e->text_room + e->numbers.buffer.bytes;
    for (int i = 0; i < e->room_for_values; i++)
        bytes += sizeof *e->values + e->values[i].buffer.bytes;
    return bytes;
}

size_t api_json_envelope_room(const struct api_json_envelope *e)
{
    size_t held = (size_t)e->room_for_values * sizeof *e->values;
    for (int i = 0; i < e->room_for_values; i++)
        held += e->values[i].buffer.bytes;
    return held < e->room ? e->room - held : 0;
}

/* ---- values ----------------------------------------------------------------------------- */

static struct level *top(struct api_json_envelope *e)
{
    return &e->levels[e->depth];
}

static bool is_key(struct api_json_envelope *e, const char *key)
{
    return e->depth > 0 && top(e)->is_object && strcmp(top(e)->key, key) == 0;
}

/* The path of what is being read, cut where it is too long. */
static void name_field(struct api_json_envelope *e)
{
    size_t used = 0;
    e->field[0] = '\0';
    for (int i = 1; i <= e->depth && used < FIELD_BYTES; i++) {
        const struct level *level = &e->levels[i];
        char *at = e->field + used;
        size_t left = FIELD_BYTES - used;
        int length = level->is_object ? snprintf(at, left, "%s%s", i > 1 ? "." : "", level->key)
                                      : snprintf(at, left, "[%zu]", level->index);
        used += (size_t)length;
    }
}

/* How an array is stored whose datatype was told. */
static enum engine_dtype stored_as(const struct level *level)
{
    return level->dtype == ENGINE_F16 || level->dtype == ENGINE_BF16 ? ENGINE_F32 : level->dtype;
}

/* Elements that the shape before the data tells, or SIZE_MAX: the plan judges it. */
static size_t told_by_shape(const struct api_json_envelope *e, const struct level *level)
{
    size_t product = 1, at = level->shape_at; /* the list is closed, or this is no JSON */
    if (at == 0)
        return SIZE_MAX;
    for (at++; at < e->text_bytes && e->text[at] != ']'; at++) {
        size_t value = 0;
        bool digits = false;
        for (; at < e->text_bytes && e->text[at] >= '0' && e->text[at] <= '9'; at++) {
            if (!engine_tensor_mul(value, 10, &value) ||
                !engine_tensor_add(value, (size_t)(e->text[at] - '0'), &value))
                return SIZE_MAX;
            digits = true;
        }
        if (digits && !engine_tensor_mul(product, value, &product))
            return SIZE_MAX;
        if (e->text[at] == ']')
            break;
        if (strchr(", \t\r\n", e->text[at]) == NULL)
            return SIZE_MAX; /* no list of counts: the protocol says so later */
    }
    return product;
}

/* Makes values[count] be there, empty. */
static enum engine_code room_for_value(struct api_json_envelope *e, struct engine_error *err)
{
    if (e->count == API_MAX_VALUES)
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "the body has more than %d arrays of numbers", API_MAX_VALUES);
    if (e->count < e->room_for_values)
        return ENGINE_OK;
    int room = e->room_for_values == 0 ? 8 : 2 * e->room_for_values;
    struct api_json_value *values = realloc(e->values, (size_t)room * sizeof *values);
    if (values == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a JSON body");
    memset(values + e->room_for_values, 0, (size_t)(room - e->room_for_values) * sizeof *values);
    e->values = values;
    e->room_for_values = room;
    return ENGINE_OK;
}

static enum engine_code begin_numbers(struct api_json_envelope *e, struct engine_error *err)
{
    bool oip = e->style == API_JSON_OIP, is_told = oip && top(e)->has_dtype;
    size_t expected = oip ? told_by_shape(e, top(e)) : SIZE_MAX;
    ENGINE_TRY(room_for_value(e, err));
    name_field(e);
    /* An element takes two bytes of the body, at least: a short body reserves no memory. */
    if (expected != SIZE_MAX && expected > e->limit / 2)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s should have %zu elements by its shape, more than a body of "
                                "%zu bytes can hold",
                                e->field, expected, e->limit);
    e->state = IN_NUMBERS;
    return api_json_numbers_begin(&e->numbers, e->engine, is_told ? stored_as(top(e)) : e->untold,
                                  is_told, expected, api_json_envelope_room(e), err);
}

static enum engine_code end_numbers(struct api_json_envelope *e, struct engine_error *err)
{
    struct api_json_value *value = &e->values[e->count];
    struct api_json_numbers *numbers = &e->numbers;
    if (numbers->expected != SIZE_MAX && numbers->count != numbers->expected)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s has %zu elements, its shape tells %zu", e->field,
                                numbers->count, numbers->expected);
    *value = (struct api_json_value){.dtype = numbers->dtype,
                                     .buffer = numbers->buffer,
                                     .count = numbers->count,
                                     .truths = numbers->truths,
                                     .rank = numbers->rank,
                                     .regular = numbers->regular};
    memcpy(value->shape, numbers->lengths, sizeof value->shape);
    numbers->buffer = (struct engine_buffer){NULL, 0};
    e->state = IN_TEXT;
    ENGINE_TRY(keep_placeholder(e, err));
    e->count++;
    return ENGINE_OK;
}

static enum engine_code begin_base64(struct api_json_envelope *e, struct engine_error *err)
{
    ENGINE_TRY(room_for_value(e, err));
    name_field(e);
    memset(&e->base64, 0, sizeof e->base64);
    e->values[e->count] = (struct api_json_value){.is_bytes = true};
    e->state = IN_BASE64;
    return ENGINE_OK;
}

static enum engine_code room_for_bytes(struct api_json_envelope *e, size_t more,
                                       struct engine_error *err)
{
    struct api_json_value *value = &e->values[e->count];
    struct engine_buffer larger;
    size_t bytes = value->count + more;
    if (bytes <= value->buffer.bytes)
        return ENGINE_OK;
    size_t room = api_json_envelope_room(e);
    if (bytes > room)
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "%s needs more memory than the %zu bytes left to this body",
                                e->field, room);
    ENGINE_TRY(engine_buffer_take(e->engine, bytes > room / 2 ? bytes : 2 * bytes, &larger, err));
    if (value->count > 0)
        memcpy(larger.data, value->buffer.data, value->count);
    engine_buffer_give(e->engine, &value->buffer);
    value->buffer = larger;
    return ENGINE_OK;
}

static enum engine_code no_base64(const struct api_json_envelope *e, struct engine_error *err)
{
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "%s holds a character that is not base64",
                            e->field);
}

/* Decodes characters of the text to behind what is there. */
static enum engine_code decode_base64(struct api_json_envelope *e, const char *text, size_t size,
                                      struct engine_error *err)
{
    struct api_json_value *value = &e->values[e->count];
    size_t bytes = 0;
    ENGINE_TRY(room_for_bytes(e, size / 4 * 3 + 3, err));
    if (!api_base64_feed(&e->base64, text, size, (unsigned char *)value->buffer.data + value->count,
                         &bytes))
        return no_base64(e, err);
    value->count += bytes;
    return ENGINE_OK;
}

/* JSON allows "\/" for "/"; encoders that escape the slash are met. No other escape stands for a
 * character of base64. */
static enum engine_code feed_base64(struct api_json_envelope *e, const char **at, const char *end,
                                    struct engine_error *err)
{
    if (e->escaped && **at != '/')
        return no_base64(e, err);
    e->escaped = false;
    const char *stop = *at;
    while (stop < end && *stop != '"' && *stop != '\\')
        stop++;
    ENGINE_TRY(decode_base64(e, *at, (size_t)(stop - *at), err));
    *at = stop == end ? end : stop + 1;
    e->escaped = stop < end && *stop == '\\';
    if (stop == end || e->escaped)
        return ENGINE_OK;
    if (!api_base64_complete(&e->base64))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s has a length that is no multiple of four", e->field);
    e->state = IN_TEXT;
    ENGINE_TRY(keep_placeholder(e, err));
    e->count++;
    return ENGINE_OK;
}

/* ---- the walk --------------------------------------------------------------------------- */

static enum engine_code open_level(struct api_json_envelope *e, char bracket,
                                   struct engine_error *err)
{
    if (e->depth == API_MAX_NESTING)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the JSON is nested more than %d levels deep", API_MAX_NESTING);
    if (bracket == '[' && is_key(e, "shape"))
        top(e)->shape_at = e->text_bytes;
    e->levels[++e->depth] =
        (struct level){.is_object = bracket == '{', .wants_key = bracket == '{'};
    return keep(e, &bracket, 1, err);
}

static bool may_begin_numbers(struct api_json_envelope *e)
{
    if (e->style == API_JSON_OIP)
        return is_key(e, "data");
    return e->depth > 0 &&
           (strcmp(e->levels[1].key, "instances") == 0 || strcmp(e->levels[1].key, "inputs") == 0);
}

/* Said before the data, whose elements would be judged by a type that nobody gave. A name with
 * an escape in it is left to the protocol. */
static enum engine_code refuse_datatype(struct api_json_envelope *e, const char *text,
                                        size_t length, struct engine_error *err)
{
    bool of_input = e->style == API_JSON_OIP && e->depth == 3 &&
                    strcmp(e->levels[1].key, "inputs") == 0 && memchr(text, '\\', length) == NULL;
    if (!of_input)
        return ENGINE_OK;
    name_field(e);
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "%s is \"%.*s\", it must be BOOL, [U]INT8 to [U]INT64, FP16, BF16, "
                            "FP32 or FP64",
                            e->field, length < 20 ? (int)length : 20, text);
}

static enum engine_code end_string(struct api_json_envelope *e, struct engine_error *err)
{
    const char *text = e->text + e->string_at + 1;
    size_t length = e->text_bytes - e->string_at - 2;
    struct level *level = top(e);
    if (e->is_key) {
        bool plain = length < KEY_BYTES && memchr(text, '\\', length) == NULL;
        memcpy(level->key, text, plain ? length : 0);
        level->key[plain ? length : 0] = '\0';
        level->wants_key = false;
    } else if (is_key(e, "datatype")) {
        level->has_dtype = engine_tensor_dtype_from_name(text, length, &level->dtype);
        if (!level->has_dtype)
            return refuse_datatype(e, text, length, err);
    }
    return ENGINE_OK;
}

/* A whole string, or what is there of it. */
static enum engine_code walk_string(struct api_json_envelope *e, const char **at, const char *end,
                                    struct engine_error *err)
{
    const char *from = *at, *stop = from;
    for (; stop < end; stop++) {
        if (e->escaped) {
            e->escaped = false;
        } else if (*stop == '\\') {
            e->escaped = true;
        } else if (*stop == '"') {
            ENGINE_TRY(keep(e, from, (size_t)(stop + 1 - from), err));
            *at = stop + 1;
            e->state = IN_TEXT;
            return end_string(e, err);
        }
    }
    *at = end;
    return keep(e, from, (size_t)(end - from), err);
}

static enum engine_code begin_string(struct api_json_envelope *e, struct engine_error *err)
{
    struct level *level = top(e);
    e->is_key = e->depth > 0 && level->is_object && level->wants_key;
    if (!e->is_key && e->style == API_JSON_OIP && is_key(e, "b64") && e->depth > 1 &&
        strcmp(e->levels[e->depth - 1].key, "data") == 0)
        return begin_base64(e, err);
    e->string_at = e->text_bytes;
    e->state = IN_STRING;
    return keep(e, "\"", 1, err);
}

static size_t position(const struct api_json_envelope *e, const char *at)
{
    return e->fed_before + (size_t)(at - e->fed);
}

/* Between values JSON has blanks and printable ASCII, behind its end only blanks. A safetensors
 * file that lost its zeros has one letter before an object. */
static bool is_foreign(const struct api_json_envelope *e, char c)
{
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r')
        return false;
    if (e->ends_after > 0 || c <= ' ' || c > '~') /* as signed: also above 127 */
        return true;
    if (e->depth > 0)
        return false;
    return e->begun ? c == '{' : strchr("{[\"-0123456789tfnNI", c) == NULL;
}

/* Said at the first such byte: behind it there may be megabytes that somebody meant to be read. */
static enum engine_code refuse_byte(const struct api_json_envelope *e, const char *at,
                                    struct engine_error *err)
{
    if (e->ends_after == 0)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the body is no valid JSON: byte %zu is 0x%02x; a safetensors file "
                                "needs Content-Type: application/safetensors (and with curl "
                                "--data-binary), a compressed body Content-Encoding",
                                position(e, at) + 1, (unsigned char)*at);
    if (e->style == API_JSON_OIP)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the JSON ends after %zu bytes and the body goes on; for binary "
                                "tensors set the header Inference-Header-Content-Length: %zu",
                                e->ends_after, e->ends_after);
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "the JSON ends after %zu bytes and the body goes on; it must be one "
                            "JSON object",
                            e->ends_after);
}

static enum engine_code walk_text(struct api_json_envelope *e, const char **at,
                                  struct engine_error *err)
{
    if (is_foreign(e, **at))
        return refuse_byte(e, *at, err);
    char c = *(*at)++;
    e->begun = e->begun || strchr(" \n\t\r", c) == NULL;
    switch (c) {
    case '"':
        return begin_string(e, err);
    case '[':
        if (may_begin_numbers(e)) {
            e->state = IN_PENDING;
            return ENGINE_OK;
        }
        return open_level(e, c, err);
    case '{':
        return open_level(e, c, err);
    case ']':
    case '}':
        if (e->depth == 1)
            e->ends_after = position(e, *at);
        e->depth -= e->depth > 0 ? 1 : 0;
        return keep(e, &c, 1, err);
    case ',':
        top(e)->wants_key = top(e)->is_object;
        top(e)->index++;
        return keep(e, &c, 1, err);
    default:
        return keep(e, &c, 1, err);
    }
}

/* After "[": objects belong to the envelope, all else is an array of numbers. */
static enum engine_code walk_pending(struct api_json_envelope *e, const char **at,
                                     struct engine_error *err)
{
    if (**at == ' ' || **at == '\n' || **at == '\t' || **at == '\r') {
        (*at)++;
        return ENGINE_OK;
    }
    e->state = IN_TEXT;
    if (e->style == API_JSON_TFSERVING && **at == '{')
        return open_level(e, '[', err);
    return begin_numbers(e, err);
}

static enum engine_code walk_numbers(struct api_json_envelope *e, const char **at, const char *end,
                                     struct engine_error *err)
{
    size_t used = 0;
    bool done = false;
    ENGINE_TRY(
        api_json_numbers_feed(&e->numbers, e->field, *at, (size_t)(end - *at), &used, &done, err));
    *at += used;
    return done ? end_numbers(e, err) : ENGINE_OK;
}

enum engine_code api_json_envelope_feed(struct api_json_envelope *e, const char *bytes, size_t size,
                                        struct engine_error *err)
{
    const char *at = bytes, *end = bytes + size;
    enum engine_code code = ENGINE_OK;
    e->fed = bytes;
    while (at < end && code == ENGINE_OK) {
        switch (e->state) {
        case IN_TEXT:
            code = walk_text(e, &at, err);
            break;
        case IN_STRING:
            code = walk_string(e, &at, end, err);
            break;
        case IN_PENDING:
            code = walk_pending(e, &at, err);
            break;
        case IN_NUMBERS:
            code = walk_numbers(e, &at, end, err);
            break;
        case IN_BASE64:
            code = feed_base64(e, &at, end, err);
            break;
        }
    }
    e->fed_before += size;
    return code;
}

enum engine_code api_json_envelope_finish(struct api_json_envelope *e, json_t **ret,
                                          struct engine_error *err)
{
    json_error_t error;
    if (e->state != IN_TEXT)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "the JSON body ends inside a value");
    json_t *root;
    ENGINE_TRY(engine_json_load(e->text != NULL ? e->text : "", e->text_bytes,
                                JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &root, &error, err));
    if (root == NULL) {
        char *near = strstr(error.text, " near ");
        if (near != NULL && strstr(near, e->mark) != NULL)
            *near = '\0'; /* it shows our placeholder, which is nothing the client sent */
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "the body is no valid JSON (byte %d, tensor data not counted): "
                                "%.120s",
                                error.position, error.text);
    }
    api_json_null_drop(root);
    *ret = root;
    return ENGINE_OK;
}

struct api_json_value *api_json_envelope_value(struct api_json_envelope *e,
                                               const json_t *placeholder)
{
    const char *text = json_string_value(placeholder);
    size_t length = strlen(e->mark);
    if (text == NULL || strncmp(text, e->mark, length) != 0)
        return NULL;
    int index = atoi(text + length);
    return index >= 0 && index < e->count ? &e->values[index] : NULL;
}
