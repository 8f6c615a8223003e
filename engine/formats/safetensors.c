/* safetensors.c - see safetensors.h. */
#include "engine/formats/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/formats/json.h"

#include "engine/formats/signature.h"

enum { HEADER_LIMIT = 16 << 20, RANK_LIMIT = ENGINE_MAX_RANK, NAME_LIMIT = 65535 };

struct span {
    size_t begin, end;
};

struct engine_safetensors {
    json_t *header; /* holds the names */
    struct engine_named_tensor *tensors;
    struct span *spans; /* while parsing */
    size_t count;
    void *owned; /* the file, if it was opened here */
};

static const struct {
    const char *name;
    enum engine_dtype dtype;
} dtype_names[] = {
    {"BOOL", ENGINE_BOOL}, {"U8", ENGINE_U8},   {"I8", ENGINE_I8},     {"U16", ENGINE_U16},
    {"I16", ENGINE_I16},   {"F16", ENGINE_F16}, {"BF16", ENGINE_BF16}, {"U32", ENGINE_U32},
    {"I32", ENGINE_I32},   {"F32", ENGINE_F32}, {"U64", ENGINE_U64},   {"I64", ENGINE_I64},
    {"F64", ENGINE_F64},
};

/* Types of the format that nothing here reads: such tensors are skipped where none is needed. */
static const struct {
    const char *name;
    unsigned bits;
} foreign_types[] = {
    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E8M0", 8}, {"C64", 64},
};

/* ---- one entry -------------------------------------------------------------------------- */

static enum engine_code read_dtype(const char *name, const json_t *value,
                                   struct engine_named_tensor *ret, unsigned *ret_bits,
                                   struct engine_error *err)
{
    const char *text = json_string_value(value);
    for (size_t i = 0; text != NULL && i < sizeof dtype_names / sizeof dtype_names[0]; i++) {
        if (strcmp(text, dtype_names[i].name) == 0) {
            ret->tensor.dtype = dtype_names[i].dtype;
            *ret_bits = (unsigned)engine_tensor_element_bytes(dtype_names[i].dtype) * 8;
            return ENGINE_OK;
        }
    }
    for (size_t i = 0; text != NULL && i < sizeof foreign_types / sizeof foreign_types[0]; i++) {
        if (strcmp(text, foreign_types[i].name) == 0) {
            ret->foreign = foreign_types[i].name;
            *ret_bits = foreign_types[i].bits;
            return ENGINE_OK;
        }
    }
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "safetensors: tensor %.80s has dtype %.20s; BOOL, integers "
                            "of 8 to 64 bits, F16, BF16, F32 and F64 are read",
                            name, text != NULL ? text : "(no text)");
}

static enum engine_code read_shape(const char *name, const json_t *value, struct engine_tensor *ret,
                                   struct engine_error *err)
{
    size_t rank = json_array_size(value);
    if (!json_is_array(value) || rank > RANK_LIMIT)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: the shape of tensor %.80s must be a list of at most "
                                "%d dimensions",
                                name, RANK_LIMIT);
    ret->rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *size = json_array_get(value, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "safetensors: dimension %zu of tensor %.80s is no count", i,
                                    name);
        ret->shape[i] = json_integer_value(size);
    }
    return ENGINE_OK;
}

static enum engine_code read_span(const char *name, const json_t *value, size_t data_bytes,
                                  struct span *ret, struct engine_error *err)
{
    const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin) ||
        (size_t)json_integer_value(end) > data_bytes)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: data_offsets of tensor %.80s must be [begin, end] "
                                "within the %zu bytes of data",
                                name, data_bytes);
    ret->begin = (size_t)json_integer_value(begin);
    ret->end = (size_t)json_integer_value(end);
    return ENGINE_OK;
}

/* Elements smaller than a byte end at a byte's end. */
static bool span_fits(const struct span *span, const struct engine_tensor *tensor, unsigned bits)
{
    size_t count = 0, all_bits = 0;
    return engine_tensor_count(tensor, &count) && engine_tensor_mul(count, bits, &all_bits) &&
           all_bits % 8 == 0 && span->end - span->begin == all_bits / 8;
}

/* Keys that the format does not have are left alone, as the reference library leaves them. */
static enum engine_code read_entry(const char *name, json_t *entry, const unsigned char *data,
                                   size_t data_bytes, struct engine_named_tensor *ret,
                                   struct span *ret_span, struct engine_error *err)
{
    unsigned bits = 0;
    *ret = (struct engine_named_tensor){.name = name};
    if (strlen(name) > NAME_LIMIT)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: a tensor's name has %zu bytes; %d are allowed",
                                strlen(name), NAME_LIMIT);
    if (!json_is_object(entry))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: tensor %.80s must have dtype, shape and "
                                "data_offsets",
                                name);
    ENGINE_TRY(read_dtype(name, json_object_get(entry, "dtype"), ret, &bits, err));
    ENGINE_TRY(read_shape(name, json_object_get(entry, "shape"), &ret->tensor, err));
    ENGINE_TRY(read_span(name, json_object_get(entry, "data_offsets"), data_bytes, ret_span, err));
    if (!span_fits(ret_span, &ret->tensor, bits))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: tensor %.80s has %zu bytes of data, its shape and "
                                "dtype need another number",
                                name, ret_span->end - ret_span->begin);
    if (ret->foreign == NULL)
        ret->tensor.data = (void *)(uintptr_t)(data + ret_span->begin);
    return ENGINE_OK;
}

/* ---- the header ------------------------------------------------------------------------- */

static enum engine_code check_metadata(json_t *metadata, struct engine_error *err)
{
    const char *key;
    json_t *value;
    bool strings = json_is_object(metadata) || json_is_null(metadata);
    json_object_foreach(metadata, key, value) strings = strings && json_is_string(value);
    if (strings)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "safetensors: __metadata__ must map strings to strings");
}

static int compare_spans(const void *left, const void *right)
{
    const struct span *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

/* Without holes, without overlap, from the first byte to the last. */
static enum engine_code check_cover(struct span *spans, size_t count, size_t data_bytes,
                                    struct engine_error *err)
{
    size_t at = 0;
    qsort(spans, count, sizeof *spans, compare_spans);
    for (size_t i = 0; i < count; i++) {
        if (spans[i].begin != at)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "safetensors: data_offsets leave a hole or overlap at byte %zu",
                                    at);
        at = spans[i].end;
    }
    if (at == data_bytes)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                            "safetensors: the tensors cover %zu bytes, the file has %zu", at,
                            data_bytes);
}

static enum engine_code read_entries(struct engine_safetensors *file, const unsigned char *data,
                                     size_t data_bytes, struct engine_error *err)
{
    size_t entries = json_object_size(file->header);
    const char *name;
    json_t *entry;
    file->tensors = calloc(entries + 1, sizeof *file->tensors);
    file->spans = calloc(entries + 1, sizeof *file->spans);
    if (file->tensors == NULL || file->spans == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a safetensors header");
    json_object_foreach(file->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) {
            ENGINE_TRY(check_metadata(entry, err));
            continue;
        }
        ENGINE_TRY(read_entry(name, entry, data, data_bytes, &file->tensors[file->count],
                              &file->spans[file->count], err));
        file->count++;
    }
    return check_cover(file->spans, file->count, data_bytes, err);
}

/* JSON's white space before the brace; a byte order mark is none. */
static bool begins_with_brace(const unsigned char *text, size_t length)
{
    size_t at = 0;
    while (at < length &&
           (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n'))
        at++;
    return at < length && text[at] == '{';
}

static enum engine_code read_header(struct engine_safetensors *file, const unsigned char *bytes,
                                    size_t size, struct engine_error *err)
{
    uint64_t length = 0;
    json_error_t error;
    if (size < 8)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: %zu bytes are too few for a header length", size);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | bytes[i];
    if (length > HEADER_LIMIT)
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "safetensors: the header has %llu bytes; %d are allowed",
                                (unsigned long long)length, HEADER_LIMIT);
    if (length > size - 8)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: the header has %llu bytes, only %zu follow",
                                (unsigned long long)length, size - 8);
    if (!begins_with_brace(bytes + 8, (size_t)length))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: the header must begin with {");
    ENGINE_TRY(engine_json_load((const char *)bytes + 8, (size_t)length, JSON_REJECT_DUPLICATES,
                                &file->header, &error, err));
    if (file->header == NULL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "safetensors: the header is no valid JSON at byte %d: %.100s",
                                error.position, error.text);
    return read_entries(file, bytes + 8 + length, size - 8 - (size_t)length, err);
}

/* What is no safetensors at all is called what it is. */
static enum engine_code refuse(const void *bytes, size_t size, const struct engine_error *cause,
                               struct engine_error *err)
{
    const char *what =
        cause->code == ENGINE_OUT_OF_MEMORY ? NULL : engine_signature_of(bytes, size);
    if (what != NULL)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "safetensors: the file is %s", what);
    return engine_error_set(err, cause->code, "%s", cause->message);
}

enum engine_code engine_safetensors_parse(const void *bytes, size_t size,
                                          struct engine_safetensors **ret, struct engine_error *err)
{
    struct engine_safetensors *file = calloc(1, sizeof *file);
    if (file == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a safetensors header");
    struct engine_error cause = {.code = ENGINE_OK};
    enum engine_code code = read_header(file, bytes, size, &cause);
    free(file->spans);
    file->spans = NULL;
    if (code != ENGINE_OK) {
        engine_safetensors_destroy(file);
        return refuse(bytes, size, &cause, err);
    }
    *ret = file;
    return ENGINE_OK;
}

void engine_safetensors_destroy(struct engine_safetensors *file)
{
    if (file == NULL)
        return;
    json_decref(file->header);
    free(file->tensors);
    free(file->owned);
    free(file);
}

size_t engine_safetensors_count(const struct engine_safetensors *file)
{
    return file->count;
}

const struct engine_named_tensor *engine_safetensors_tensors(const struct engine_safetensors *file)
{
    return file->tensors;
}

const struct engine_tensor *engine_safetensors_find(const struct engine_safetensors *file,
                                                    const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0 && file->tensors[i].foreign == NULL)
            return &file->tensors[i].tensor;
    return NULL;
}

const char *engine_safetensors_metadata(const struct engine_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}

/* ---- files ------------------------------------------------------------------------------ */

static enum engine_code read_file(int descriptor, const char *path, unsigned char **ret,
                                  size_t *ret_size, struct engine_error *err)
{
    struct stat status;
    size_t at = 0;
    if (fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "%.150s is no regular file", path);
    size_t size = (size_t)status.st_size;
    unsigned char *bytes = malloc(size + 1);
    if (bytes == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the %zu bytes of %.120s",
                                size, path);
    while (at < size) {
        ssize_t got = read(descriptor, bytes + at, size - at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            free(bytes);
            return engine_error_set(err, ENGINE_INTERNAL, "%.120s: %zu of %zu bytes were read",
                                    path, at, size);
        }
        at += (size_t)got;
    }
    *ret = bytes;
    *ret_size = at;
    return ENGINE_OK;
}

enum engine_code engine_safetensors_open(const char *path, struct engine_safetensors **ret,
                                         struct engine_error *err)
{
    unsigned char *bytes = NULL;
    size_t size = 0;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return engine_error_set(err, ENGINE_NOT_FOUND, "cannot open %.150s: %s", path,
                                strerror(errno));
    enum engine_code code = read_file(descriptor, path, &bytes, &size, err);
    close(descriptor);
    if (code == ENGINE_OK)
        code = engine_safetensors_parse(bytes, size, ret, err);
    if (code != ENGINE_OK) {
        free(bytes);
        return code;
    }
    (*ret)->owned = bytes;
    return ENGINE_OK;
}

/* ---- writing ---------------------------------------------------------------------------- */

static const char *dtype_text(enum engine_dtype dtype)
{
    for (size_t i = 0; i < sizeof dtype_names / sizeof dtype_names[0]; i++)
        if (dtype_names[i].dtype == dtype)
            return dtype_names[i].name;
    return "";
}

static json_t *make_entry(const struct engine_tensor *tensor, size_t begin, size_t end)
{
    json_t *shape = json_array();
    for (int i = 0; i < tensor->rank; i++)
        shape = engine_json_append(shape, json_integer(tensor->shape[i]));
    return json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtype_text(tensor->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

static json_t *make_header(const struct engine_named_tensor *tensors, size_t count,
                           const char *const *metadata)
{
    json_t *header = json_object();
    size_t at = 0;
    if (metadata != NULL && metadata[0] != NULL) {
        json_t *strings = json_object();
        for (size_t i = 0; metadata[i] != NULL; i += 2)
            strings = engine_json_set(strings, metadata[i], json_string(metadata[i + 1]));
        header = engine_json_set(header, "__metadata__", strings);
    }
    for (size_t i = 0; i < count; i++) {
        size_t bytes = 0;
        (void)engine_tensor_bytes(&tensors[i].tensor, &bytes);
        header = engine_json_set(header, tensors[i].name,
                                 make_entry(&tensors[i].tensor, at, at + bytes));
        at += bytes;
    }
    return header;
}

enum engine_code engine_safetensors_header(const struct engine_named_tensor *tensors, size_t count,
                                           const char *const *metadata, char **ret_header,
                                           size_t *ret_size, struct engine_error *err)
{
    char *text = engine_json_text(make_header(tensors, count, metadata), JSON_COMPACT);
    size_t length = text != NULL ? strlen(text) : 0, padded = (length + 7) / 8 * 8;
    unsigned char *bytes = malloc(8 + padded);
    if (text == NULL || bytes == NULL) {
        free(text);
        free(bytes);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a safetensors header");
    }
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    memcpy(bytes + 8, text, length);
    memset(bytes + 8 + length, ' ', padded - length);
    free(text);
    *ret_header = (char *)bytes;
    *ret_size = 8 + padded;
    return ENGINE_OK;
}

enum engine_code engine_safetensors_write(const char *path,
                                          const struct engine_named_tensor *tensors, size_t count,
                                          const char *const *metadata, struct engine_error *err)
{
    char *header = NULL;
    size_t size = 0;
    ENGINE_TRY(engine_safetensors_header(tensors, count, metadata, &header, &size, err));
    FILE *file = fopen(path, "we");
    bool written = file != NULL && fwrite(header, 1, size, file) == size;
    for (size_t i = 0; written && i < count; i++) {
        size_t bytes = 0;
        (void)engine_tensor_bytes(&tensors[i].tensor, &bytes);
        written = bytes == 0 || fwrite(tensors[i].tensor.data, 1, bytes, file) == bytes;
    }
    free(header);
    if (file != NULL && fclose(file) != 0)
        written = false;
    if (!written)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "cannot write %.150s: %s", path,
                                strerror(errno));
    return ENGINE_OK;
}
