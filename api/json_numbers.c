/* json_numbers.c - see json_numbers.h. */
#include "api/json_numbers.h"

#include <math.h>
#include <string.h>

enum { FIRST_BYTES = 4096 }; /* the smallest buffer there is: bodies may hold thousands of arrays */

/* ---- storing ---------------------------------------------------------------------------- */

static enum engine_code check_room(const struct api_json_numbers *numbers, size_t bytes,
                                   struct engine_error *err)
{
    if (numbers->buffer.bytes <= numbers->room && bytes <= numbers->room - numbers->buffer.bytes)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_TOO_LARGE,
                            "the body's numbers need more memory than the %zu bytes left to them; "
                            "binary tensors, or shape and datatype before data, need less",
                            numbers->room);
}

static enum engine_code grow(struct api_json_numbers *numbers, const char *field,
                             struct engine_error *err)
{
    size_t element = engine_tensor_element_bytes(numbers->dtype);
    struct engine_buffer larger;
    size_t elements = numbers->capacity == 0 ? FIRST_BYTES / element : 2 * numbers->capacity;
    if (numbers->count >= numbers->expected)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s has more elements than the %zu its shape tells", field,
                                numbers->expected);
    ENGINE_TRY(check_room(numbers, elements * element, err));
    ENGINE_TRY(engine_buffer_take(numbers->engine, elements * element, &larger, err));
    if (numbers->count > 0)
        memcpy(larger.data, numbers->buffer.data, numbers->count * element);
    engine_buffer_give(numbers->engine, &numbers->buffer);
    numbers->buffer = larger;
    numbers->capacity = larger.bytes / element;
    if (numbers->capacity > numbers->expected)
        numbers->capacity = numbers->expected;
    return ENGINE_OK;
}

static const struct {
    int64_t least, most;
} ranges[ENGINE_DTYPE_COUNT] = {
    [ENGINE_BOOL] = {0, 1},
    [ENGINE_U8] = {0, UINT8_MAX},
    [ENGINE_U16] = {0, UINT16_MAX},
    [ENGINE_U32] = {0, UINT32_MAX},
    [ENGINE_I8] = {INT8_MIN, INT8_MAX},
    [ENGINE_I16] = {INT16_MIN, INT16_MAX},
    [ENGINE_I32] = {INT32_MIN, INT32_MAX},
    [ENGINE_I64] = {INT64_MIN, INT64_MAX},
};

/* Little-endian two's complement: the low bytes are the narrow type. */
static bool store_integer(struct api_json_numbers *numbers, int64_t value)
{
    size_t element = engine_tensor_element_bytes(numbers->dtype);
    if (value < ranges[numbers->dtype].least || value > ranges[numbers->dtype].most)
        return false;
    memcpy((char *)numbers->buffer.data + numbers->count * element, &value, element);
    return true;
}

/* true and false, where 1 and 0 would do. NULL: neither stands there. */
static const char *read_truth(const char *text, const char *end, int64_t *ret)
{
    size_t length = (size_t)(end - text);
    if (length >= 4 && memcmp(text, "true", 4) == 0) {
        *ret = 1;
        return text + 4;
    }
    if (length >= 5 && memcmp(text, "false", 5) == 0) {
        *ret = 0;
        return text + 5;
    }
    return NULL;
}

/* "NaN", "Infinity" and "-Infinity" as texts, from clients whose JSON has no other way. */
static const char *read_quoted(const char *text, const char *end, double *ret)
{
    const char *word = text + 1, *letter = word < end && *word == '-' ? word + 1 : word;
    if (letter >= end || (*letter != 'N' && *letter != 'I'))
        return NULL;
    const char *stop = api_number_text_read_f64(word, end, ret);
    return stop != NULL && stop < end && *stop == '"' ? stop + 1 : NULL;
}

/* A value of a floating-point type that is no plain number. */
static const char *read_word(struct api_json_numbers *numbers, const char *text, const char *end)
{
    int64_t truth = 0;
    double value = 0;
    const char *stop = NULL;
    if (*text == '"') {
        stop = read_quoted(text, end, &value);
    } else if (!numbers->is_told) {
        stop = read_truth(text, end, &truth);
        value = (double)truth;
        if (stop != NULL && (numbers->truths == 0 || numbers->last_truth != numbers->count + 1)) {
            numbers->truths++;
            numbers->last_truth = numbers->count + 1;
        }
    }
    if (stop != NULL && numbers->dtype == ENGINE_F32)
        ((float *)numbers->buffer.data)[numbers->count] = (float)value;
    else if (stop != NULL)
        ((double *)numbers->buffer.data)[numbers->count] = value;
    return stop;
}

/* One value into the buffer. NULL: no such value stands there. */
static const char *read_value(struct api_json_numbers *numbers, const char *text, const char *end)
{
    const char *stop = NULL;
    int64_t integer = 0;
    if (numbers->dtype == ENGINE_F32) {
        stop = api_number_text_read_f32(text, end, (float *)numbers->buffer.data + numbers->count);
        return stop != NULL ? stop : read_word(numbers, text, end);
    }
    if (numbers->dtype == ENGINE_F64) {
        stop = api_number_text_read_f64(text, end, (double *)numbers->buffer.data + numbers->count);
        return stop != NULL ? stop : read_word(numbers, text, end);
    }
    if (numbers->dtype == ENGINE_U64)
        return api_number_text_read_u64(text, end,
                                        (uint64_t *)numbers->buffer.data + numbers->count);
    if (numbers->dtype == ENGINE_BOOL)
        stop = read_truth(text, end, &integer);
    if (stop == NULL)
        stop = api_number_text_read_i64(text, end, &integer);
    return stop != NULL && store_integer(numbers, integer) ? stop : NULL;
}

/* ---- scanning --------------------------------------------------------------------------- */

enum engine_code api_json_numbers_begin(struct api_json_numbers *numbers, struct engine *engine,
                                        enum engine_dtype dtype, bool is_told, size_t expected,
                                        size_t room, struct engine_error *err)
{
    size_t bytes = 0;
    numbers->engine = engine;
    numbers->dtype = dtype;
    numbers->is_told = is_told;
    numbers->truths = numbers->last_truth = 0;
    numbers->buffer = (struct engine_buffer){NULL, 0};
    numbers->count = 0;
    numbers->capacity = 0;
    numbers->expected = expected;
    numbers->room = room;
    numbers->depth = 1;
    numbers->rank = 0;
    numbers->regular = true;
    numbers->wants = API_NUMBERS_FIRST;
    numbers->token_bytes = 0;
    for (int i = 0; i < API_MAX_RANK; i++)
        numbers->lengths[i] = -1;
    numbers->open[0] = 0;
    if (expected == SIZE_MAX || expected == 0)
        return ENGINE_OK;
    if (!engine_tensor_mul(expected, engine_tensor_element_bytes(dtype), &bytes))
        bytes = SIZE_MAX;
    ENGINE_TRY(check_room(numbers, bytes, err));
    ENGINE_TRY(engine_buffer_take(engine, bytes, &numbers->buffer, err));
    numbers->capacity = expected;
    return ENGINE_OK;
}

void api_json_numbers_reset(struct api_json_numbers *numbers)
{
    if (numbers->engine != NULL)
        engine_buffer_give(numbers->engine, &numbers->buffer);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static bool is_token(char c)
{
    return c != ',' && c != ']' && c != '[' && !is_space(c);
}

static enum engine_code refuse(const struct api_json_numbers *numbers, const char *field,
                               const char *text, size_t size, struct engine_error *err)
{
    char shown[24];
    size_t length = 0;
    while (length < size && length < sizeof shown - 1 && is_token(text[length]))
        length++;
    for (size_t i = 0; i < length; i++)
        shown[i] = text[i] >= ' ' && text[i] < 127 ? text[i] : '?';
    if (length == 0 && size > 0) {
        shown[0] = text[0];
        length = 1;
    }
    shown[length] = '\0';
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "%s[%zu] is \"%s\", it must be a number that fits %s", field,
                            numbers->count, shown, engine_tensor_dtype_name(numbers->dtype));
}

/* A regular nesting has all leaves at one level and no list beside or below them, so that its
 * count is the product of its lengths: who reads the shape relies on it. A list that was closed
 * below the first leaf's level, as in [[],1], has left its length there. */
static void leaf_done(struct api_json_numbers *numbers)
{
    if (numbers->rank == 0) {
        numbers->rank = numbers->depth;
        if (numbers->depth < API_MAX_RANK && numbers->lengths[numbers->depth] != -1)
            numbers->regular = false;
    }
    numbers->regular = numbers->regular && numbers->rank == numbers->depth;
    numbers->open[numbers->depth - 1]++;
    numbers->wants = API_NUMBERS_AFTER;
}

static enum engine_code open_list(struct api_json_numbers *numbers, const char *field,
                                  struct engine_error *err)
{
    if (numbers->depth == API_MAX_RANK)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "%s is nested more than %d levels deep", field, API_MAX_RANK);
    if (numbers->depth == numbers->rank) /* a list where leaves are, as in [1,[]] */
        numbers->regular = false;
    numbers->open[numbers->depth++] = 0;
    numbers->wants = API_NUMBERS_FIRST;
    return ENGINE_OK;
}

/* true: that was the last one. */
static bool close_list(struct api_json_numbers *numbers)
{
    int level = --numbers->depth;
    if (numbers->lengths[level] == -1)
        numbers->lengths[level] = numbers->open[level];
    else if (numbers->lengths[level] != numbers->open[level])
        numbers->regular = false;
    if (level == 0) {
        if (numbers->rank == 0) /* no leaf at all: as deep as lists were closed */
            while (numbers->rank < API_MAX_RANK && numbers->lengths[numbers->rank] >= 0)
                numbers->rank++;
        return true;
    }
    numbers->open[level - 1]++;
    numbers->wants = API_NUMBERS_AFTER;
    return false;
}

/* A character that is not part of a value. */
static enum engine_code punctuate(struct api_json_numbers *numbers, const char *field,
                                  const char *at, bool *ret_done, struct engine_error *err)
{
    if (*at == '[' && numbers->wants != API_NUMBERS_AFTER)
        return open_list(numbers, field, err);
    if (*at == ',' && numbers->wants == API_NUMBERS_AFTER) {
        numbers->wants = API_NUMBERS_VALUE;
        return ENGINE_OK;
    }
    if (*at == ']' && numbers->wants != API_NUMBERS_VALUE) {
        *ret_done = close_list(numbers);
        return ENGINE_OK;
    }
    return refuse(numbers, field, at, 1, err);
}

/* Completes a number cut by the end of the last piece. */
static enum engine_code finish_token(struct api_json_numbers *numbers, const char *field,
                                     const char *bytes, size_t size, size_t *used,
                                     struct engine_error *err)
{
    while (*used < size && is_token(bytes[*used])) {
        if (numbers->token_bytes == API_NUMBER_TEXT_LONGEST)
            return refuse(numbers, field, numbers->token, numbers->token_bytes, err);
        numbers->token[numbers->token_bytes++] = bytes[(*used)++];
    }
    if (*used == size)
        return ENGINE_OK; /* perhaps it goes on */
    const char *end = numbers->token + numbers->token_bytes;
    if (read_value(numbers, numbers->token, end) != end)
        return refuse(numbers, field, numbers->token, numbers->token_bytes, err);
    numbers->token_bytes = 0;
    numbers->count++;
    leaf_done(numbers);
    return ENGINE_OK;
}

static enum engine_code cut_token(struct api_json_numbers *numbers, const char *field,
                                  const char *text, const char *end, struct engine_error *err)
{
    size_t length = (size_t)(end - text);
    if (length > API_NUMBER_TEXT_LONGEST)
        return refuse(numbers, field, text, length, err);
    memcpy(numbers->token, text, length);
    numbers->token_bytes = length;
    return ENGINE_OK;
}

/* Numbers separated by a comma, perhaps with a space, the common case, without a state between
 * them. Returns where something else stands, after a comma. */
static const char *scan_run(struct api_json_numbers *numbers, const char *at, const char *end)
{
    int64_t run = 0;
    while (numbers->count < numbers->capacity && end - at > 40) {
        const char *stop = read_value(numbers, at, end);
        if (stop == NULL || end - stop < 4 || *stop != ',' || stop - at > API_NUMBER_TEXT_LONGEST)
            break;
        stop += stop[1] == ' ' ? 2 : 1;
        if (is_space(*stop) || *stop == '[' || *stop == ']')
            break;
        numbers->count++;
        run++;
        at = stop;
    }
    if (run > 0) {
        leaf_done(numbers);
        numbers->open[numbers->depth - 1] += run - 1;
        numbers->wants = API_NUMBERS_VALUE;
    }
    return at;
}

static enum engine_code scan_value(struct api_json_numbers *numbers, const char *field,
                                   const char **at, const char *end, struct engine_error *err)
{
    if (numbers->wants == API_NUMBERS_AFTER)
        return refuse(numbers, field, *at, (size_t)(end - *at), err);
    if (numbers->count == numbers->capacity)
        ENGINE_TRY(grow(numbers, field, err));
    *at = scan_run(numbers, *at, end);
    if (numbers->count == numbers->capacity)
        return ENGINE_OK; /* grow first, if more follows */
    const char *stop = *at;
    while (stop < end && is_token(*stop))
        stop++;
    if (stop == end) {
        const char *token = *at;
        *at = end;
        return cut_token(numbers, field, token, end, err);
    }
    if (stop == *at)
        return ENGINE_OK; /* a bracket follows the comma */
    if (stop - *at > API_NUMBER_TEXT_LONGEST || read_value(numbers, *at, stop) != stop)
        return refuse(numbers, field, *at, (size_t)(stop - *at), err);
    numbers->count++;
    leaf_done(numbers);
    *at = stop;
    return ENGINE_OK;
}

enum engine_code api_json_numbers_feed(struct api_json_numbers *numbers, const char *field,
                                       const char *bytes, size_t size, size_t *ret_used,
                                       bool *ret_done, struct engine_error *err)
{
    size_t used = 0;
    *ret_done = false;
    if (numbers->token_bytes > 0) {
        if (numbers->count == numbers->capacity)
            ENGINE_TRY(grow(numbers, field, err));
        ENGINE_TRY(finish_token(numbers, field, bytes, size, &used, err));
    }
    const char *at = bytes + used, *end = bytes + size;
    while (at < end && !*ret_done) {
        if (is_space(*at)) {
            at++;
        } else if (is_token(*at)) {
            ENGINE_TRY(scan_value(numbers, field, &at, end, err));
        } else {
            ENGINE_TRY(punctuate(numbers, field, at, ret_done, err));
            at++;
        }
    }
    *ret_used = (size_t)(at - bytes);
    return ENGINE_OK;
}

/* ---- writing ---------------------------------------------------------------------------- */

/* Below this many elements a second thread costs more than it brings. */
enum { PIECE_ELEMENTS = 2048, PIECES = 4, ELEMENT_BYTES = 18, WIDE_ELEMENT_BYTES = 28 };

struct writing {
    const struct engine_tensor *tensor;
    const struct api_json_numbers_style *style;
    struct api_json_text *text;
    size_t count;
    size_t starts[PIECES + 1];
};

/* Closes and opens lists before element i: one pair for each trailing dimension it begins. */
static char *write_brackets(const struct engine_tensor *t, size_t i, char *at)
{
    size_t span = 1;
    int levels = 0;
    for (int d = t->rank - 1; d >= 0; d--) {
        span *= (size_t)t->shape[d];
        if (i % span != 0)
            break;
        levels++;
    }
    for (int d = 0; d < levels && i > 0; d++)
        *at++ = ']';
    if (i > 0)
        *at++ = ',';
    for (int d = 0; d < levels; d++)
        *at++ = '[';
    return at;
}

static size_t write_non_finite(double value, enum api_non_finite as, char *at)
{
    if (as == API_NON_FINITE_NULL) {
        memcpy(at, "null", 4);
        return 4;
    }
    size_t length = api_number_text_write_f64(value, false, at + 1);
    at[0] = at[length + 1] = '"';
    return length + 2;
}

static size_t write_float(const struct writing *w, float value, char *at)
{
    if (w->style->non_finite != API_NON_FINITE_LITERAL && !isfinite(value))
        return write_non_finite((double)value, w->style->non_finite, at);
    return api_number_text_write_f32(value, w->style->whole_point, at);
}

static size_t write_double(const struct writing *w, double value, char *at)
{
    if (w->style->non_finite != API_NON_FINITE_LITERAL && !isfinite(value))
        return write_non_finite(value, w->style->non_finite, at);
    return api_number_text_write_f64(value, w->style->whole_point, at);
}

static size_t write_element(const struct writing *w, size_t i, char *at)
{
    const struct engine_tensor *t = w->tensor;
    if (t->dtype == ENGINE_F32)
        return write_float(w, ((const float *)t->data)[i], at);
    if (t->dtype == ENGINE_F16 || t->dtype == ENGINE_BF16)
        return write_float(w, (float)engine_tensor_get(t, i), at);
    if (t->dtype == ENGINE_F64)
        return write_double(w, ((const double *)t->data)[i], at);
    /* Integers below 2^53: outputs have none that are wider than INT32. */
    return api_number_text_write_i64((int64_t)engine_tensor_get(t, i), at);
}

static void write_piece(void *argument, int piece)
{
    struct writing *w = argument;
    char *at = w->text->buffers[piece].data;
    for (size_t i = w->starts[piece]; i < w->starts[piece + 1]; i++) {
        if (w->style->nested)
            at = write_brackets(w->tensor, i, at);
        else if (i > 0)
            *at++ = ',';
        at += write_element(w, i, at);
    }
    for (int d = 0; w->style->nested && w->starts[piece + 1] == w->count && d < w->tensor->rank;
         d++)
        *at++ = ']';
    w->text->lengths[piece] = (size_t)(at - (char *)w->text->buffers[piece].data);
}

/* Nested text of a tensor without elements: lists down to the first empty dimension. */
static void write_empty(const struct engine_tensor *t, int dimension, char **at, size_t *room)
{
    if (*room < 4)
        return;
    *(*at)++ = '[';
    (*room)--;
    for (int64_t i = 0; dimension < t->rank && i < t->shape[dimension] && *room > 4; i++) {
        if (i > 0) {
            *(*at)++ = ',';
            (*room)--;
        }
        if (dimension + 1 < t->rank)
            write_empty(t, dimension + 1, at, room);
    }
    *(*at)++ = ']';
    (*room)--;
}

static enum engine_code write_nothing(struct engine *engine, const struct engine_tensor *tensor,
                                      bool nested, struct api_json_text *ret,
                                      struct engine_error *err)
{
    ENGINE_TRY(engine_buffer_take(engine, 65536, &ret->buffers[0], err));
    char *at = ret->buffers[0].data;
    size_t room = ret->buffers[0].bytes;
    ret->count = 1;
    if (nested)
        write_empty(tensor, 0, &at, &room);
    ret->lengths[0] = (size_t)(at - (char *)ret->buffers[0].data);
    return ENGINE_OK;
}

enum engine_code api_json_numbers_write(struct engine *engine, const struct engine_tensor *tensor,
                                        const struct api_json_numbers_style *style,
                                        struct api_json_text *ret, struct engine_error *err)
{
    struct writing w = {.tensor = tensor, .style = style, .text = ret};
    bool nested = style->nested;
    bool wide = engine_tensor_element_bytes(tensor->dtype) == 8;
    size_t element = (size_t)(wide ? WIDE_ELEMENT_BYTES : ELEMENT_BYTES);
    memset(ret, 0, sizeof *ret);
    if (!engine_tensor_count(tensor, &w.count))
        return engine_error_set(err, ENGINE_TOO_LARGE, "an output is too large to be written");
    if (w.count == 0)
        return write_nothing(engine, tensor, nested, ret, err);
    if (nested) /* brackets, at worst two a level and element of the innermost list */
        element +=
            2 * (size_t)tensor->rank / (size_t)tensor->shape[tensor->rank - 1] +
            (tensor->shape[tensor->rank - 1] < 2 * tensor->rank ? 2 * (size_t)tensor->rank : 2);
    size_t pieces = w.count / PIECE_ELEMENTS;
    pieces = pieces < 1 ? 1 : pieces > PIECES ? PIECES : pieces;
    for (size_t i = 0; i <= pieces; i++)
        w.starts[i] = w.count / pieces * i;
    w.starts[pieces] = w.count;
    for (size_t i = 0; i < pieces; i++) {
        size_t bytes = (w.starts[i + 1] - w.starts[i]) * element + 4 * ENGINE_MAX_RANK;
        ENGINE_TRY(engine_buffer_take(engine, bytes, &ret->buffers[i], err));
        ret->count = (int)i + 1;
    }
    engine_parallel(engine, (int)pieces, write_piece, &w);
    return ENGINE_OK;
}
