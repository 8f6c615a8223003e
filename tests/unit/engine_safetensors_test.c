/* engine_safetensors_test.c - the file format: what may be read, what hostile files get, and that
 * what is written is read back. No input reads outside the bytes given (run under ASan). */
#include "tests/unit/engine_support.h"

#include <unistd.h>

#include "engine/formats/safetensors.h"

/* Header text and data bytes in a block of exactly that size, so that ASan sees one byte more. */
static enum engine_code parse_sized(uint64_t length, const char *header, size_t header_bytes,
                                    size_t data_bytes, struct engine_error *err)
{
    struct engine_safetensors *file = NULL;
    size_t size = 8 + header_bytes + data_bytes;
    unsigned char *bytes = calloc(size, 1);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> (8 * i));
    memcpy(bytes + 8, header, header_bytes);
    enum engine_code code = engine_safetensors_parse(bytes, size, &file, err);
    if (code == ENGINE_OK)
        engine_safetensors_destroy(file);
    free(bytes);
    return code;
}

static const struct {
    const char *what, *header;
    size_t data_bytes;
    enum engine_code code;
} vectors[] = {
    {"nothing", "{}", 0, ENGINE_OK},
    {"trailing spaces", "{}      ", 0, ENGINE_OK},
    {"one tensor", "{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     ENGINE_OK},
    {"a scalar", "{\"t\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, ENGINE_OK},
    {"zero elements", "{\"t\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[0,0]}}", 0,
     ENGINE_OK},
    {"metadata", "{\"__metadata__\":{\"a\":\"b\"}}", 0, ENGINE_OK},
    {"out of order",
     "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     3, ENGINE_OK},
    {"leading white space", " \t\r\n{}", 0, ENGINE_OK},
    {"no metadata", "{\"__metadata__\":null}", 0, ENGINE_OK},
    {"a key that the format has not",
     "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, ENGINE_OK},
    {"a byte order mark", "\xef\xbb\xbf{}", 0, ENGINE_INVALID_ARGUMENT},
    {"another white space", "\v{}", 0, ENGINE_INVALID_ARGUMENT},
    {"white space alone", "  ", 0, ENGINE_INVALID_ARGUMENT},
    {"a metadata value that is null", "{\"__metadata__\":{\"a\":null}}", 0,
     ENGINE_INVALID_ARGUMENT},
    {"no JSON", "{not json", 0, ENGINE_INVALID_ARGUMENT},
    {"no UTF-8", "{\"\xff\":1}", 0, ENGINE_INVALID_ARGUMENT},
    {"a list", "[]", 0, ENGINE_INVALID_ARGUMENT},
    {"text after", "{}x", 0, ENGINE_INVALID_ARGUMENT},
    {"metadata that is no text", "{\"__metadata__\":{\"a\":1}}", 0, ENGINE_INVALID_ARGUMENT},
    {"metadata that is a list", "{\"__metadata__\":[]}", 0, ENGINE_INVALID_ARGUMENT},
    {"a name twice",
     "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     1, ENGINE_INVALID_ARGUMENT},
    {"too few bytes", "{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7,
     ENGINE_INVALID_ARGUMENT},
    {"bytes left over", "{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9,
     ENGINE_INVALID_ARGUMENT},
    {"only data", "{}", 1, ENGINE_INVALID_ARGUMENT},
    {"a hole before", "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2,
     ENGINE_INVALID_ARGUMENT},
    {"overlap",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
     3, ENGINE_INVALID_ARGUMENT},
    {"the same bytes twice",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
     2, ENGINE_INVALID_ARGUMENT},
    {"offsets backwards", "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,1]}}", 2,
     ENGINE_INVALID_ARGUMENT},
    {"a negative offset", "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 2,
     ENGINE_INVALID_ARGUMENT},
    {"one offset", "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1]}}", 1,
     ENGINE_INVALID_ARGUMENT},
    {"offsets beyond 2^63",
     "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,18446744073709551615]}}", 1,
     ENGINE_INVALID_ARGUMENT},
    {"shape and offsets that differ",
     "{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
     ENGINE_INVALID_ARGUMENT},
    {"a shape that overflows to 4",
     "{\"t\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4,
     ENGINE_INVALID_ARGUMENT},
    {"two sizes that overflow",
     "{\"t\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     ENGINE_INVALID_ARGUMENT},
    {"an overflow hidden by a zero",
     "{\"t\":{\"dtype\":\"U8\",\"shape\":[0,4611686018427387905,16],\"data_offsets\":[0,0]}}", 0,
     ENGINE_INVALID_ARGUMENT},
    {"a negative size", "{\"t\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1,
     ENGINE_INVALID_ARGUMENT},
    {"a size that is no integer",
     "{\"t\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1,
     ENGINE_INVALID_ARGUMENT},
    {"17 dimensions",
     "{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"
     "\"data_offsets\":[0,1]}}",
     1, ENGINE_INVALID_ARGUMENT},
    {"no shape", "{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, ENGINE_INVALID_ARGUMENT},
    {"an entry that is no object", "{\"t\":1}", 0, ENGINE_INVALID_ARGUMENT},
    {"half a byte left", "{\"t\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
     ENGINE_INVALID_ARGUMENT},
    {"half a byte more", "{\"t\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2,
     ENGINE_INVALID_ARGUMENT},
    {"six bits too few", "{\"t\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2,
     ENGINE_INVALID_ARGUMENT},
    {"bits that overflow",
     "{\"t\":{\"dtype\":\"C64\",\"shape\":[576460752303423488],\"data_offsets\":[0,0]}}", 0,
     ENGINE_INVALID_ARGUMENT},
    {"a type that nobody has", "{\"t\":{\"dtype\":\"F7\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     ENGINE_INVALID_ARGUMENT},
    {"a type that is a number", "{\"t\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     ENGINE_INVALID_ARGUMENT},
};

static void each_vector_is_read_or_refused(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        struct engine_error err = {0};
        size_t length = strlen(vectors[i].header);
        enum engine_code code =
            parse_sized(length, vectors[i].header, length, vectors[i].data_bytes, &err);
        if (code != vectors[i].code)
            fail_msg("%s: %s (%s)", vectors[i].what, engine_error_name(code), err.message);
    }
}

/* Every type of the format is read or marked; the reference library 0.8.0 has these. */
static void types_that_nothing_reads_are_marked(void **unused)
{
    static const struct {
        const char *name;
        size_t bits;
    } types[] = {{"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6},
                 {"F8_E5M2", 8},     {"F8_E4M3", 8},     {"F8_E8M0", 8},
                 {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"C64", 64}};
    (void)unused;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char file[512] = {0};
        size_t bytes = types[i].bits * 8 / 8;
        int length = snprintf(file + 8, sizeof file - 8,
                              "{\"t\":{\"dtype\":\"%s\",\"shape\":[2,4],\"data_offsets\":[0,%zu]},"
                              "\"u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}}",
                              types[i].name, bytes, bytes, bytes + 1);
        struct engine_safetensors *parsed = NULL;
        struct engine_error err = {0};
        file[0] = (char)length;
        if (engine_safetensors_parse(file, 8 + (size_t)length + bytes + 1, &parsed, &err) !=
            ENGINE_OK)
            fail_msg("%s: %s", types[i].name, err.message);
        assert_int_equal(engine_safetensors_count(parsed), 2);
        for (size_t t = 0; t < 2; t++) {
            const struct engine_named_tensor *tensor = &engine_safetensors_tensors(parsed)[t];
            bool is_foreign = strcmp(tensor->name, "t") == 0;
            assert_int_equal(tensor->foreign != NULL, is_foreign);
            assert_int_equal(tensor->tensor.data == NULL, is_foreign);
            assert_int_equal(engine_safetensors_find(parsed, tensor->name) == NULL, is_foreign);
            if (is_foreign)
                assert_string_equal(tensor->foreign, types[i].name);
        }
        engine_safetensors_destroy(parsed);
    }
}

static void what_is_no_safetensors_is_called_what_it_is(void **unused)
{
    static const struct {
        const char *bytes;
        size_t size;
        const char *part;
    } rows[] = {
#define ROW(bytes, part) {bytes, sizeof bytes - 1, part}
        ROW("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n",
            "git lfs pull"),
        ROW("<!DOCTYPE html>\n<html>", "HTML"),
        ROW("\xef\xbb\xbf \n<html><head>", "HTML"),
        ROW("<?xml version=\"1.0\"?><Error>", "XML"),
        ROW("{\"metadata\": {}, \"weight_map\": {\"a\": \"b.safetensors\"}}", "index"),
        ROW("{\n  \"num_heads\": 3}", "JSON text"),
        ROW("\x89HDF\r\n\x1a\n\0\0\0\0", "HDF5"),
        ROW("PK\x03\x04\0\0\0\0\0\0\0\0", "ZIP"),
        ROW("\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip"),
        ROW("\x93NUMPY\x01\0v\0", "NumPy"),
        ROW("\x80\x02}q\0(X", "pickle"),
        ROW("GGUF\x03\0\0\0\0\0", "GGUF"),
        ROW("", "empty"),
        ROW("abcdefgh12345", "allowed"),
        ROW("<\0\0\0\0\0\0\0{\"a\":", "follow"),
        ROW("{\0\0\0\0\0\0\0{\"a\":", "follow"),
#undef ROW
    };
    (void)unused;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct engine_safetensors *file = NULL;
        struct engine_error err = {0};
        assert_int_not_equal(engine_safetensors_parse(rows[i].bytes, rows[i].size, &file, &err),
                             ENGINE_OK);
        if (strstr(err.message, rows[i].part) == NULL)
            fail_msg("row %zu: %s", i, err.message);
    }
}

static void lengths_that_lie_are_refused(void **unused)
{
    struct engine_error err = {0};
    struct engine_safetensors *file = NULL;
    (void)unused;
    for (size_t size = 0; size < 8; size++)
        assert_int_equal(engine_safetensors_parse("\2\0\0\0\0\0\0\0", size, &file, NULL),
                         ENGINE_INVALID_ARGUMENT);
    assert_int_equal(parse_sized(3, "{}", 2, 0, NULL), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(parse_sized(0, "", 0, 0, NULL), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(parse_sized(1, "{}", 2, 0, NULL), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(parse_sized((16 << 20) + 1, "{}", 2, 0, &err), ENGINE_TOO_LARGE);
    assert_int_equal(parse_sized(UINT64_MAX, "{}", 2, 0, NULL), ENGINE_TOO_LARGE);
    assert_int_equal(parse_sized((uint64_t)1 << 63, "{}", 2, 0, NULL), ENGINE_TOO_LARGE);
}

static void deep_nesting_is_refused_without_a_crash(void **unused)
{
    enum { DEPTH = 100000 };
    char *text = malloc(DEPTH + 8);
    assert_non_null(text);
    memset(text, '[', DEPTH + 8);
    memcpy(text, "{\"a\":", 5);
    (void)unused;
    assert_int_equal(parse_sized(DEPTH, text, DEPTH, 0, NULL), ENGINE_INVALID_ARGUMENT);
    free(text);
}

/* Every file of 1 changed byte is read or refused, and never crashes. */
static void no_changed_byte_crashes(void **unused)
{
    static const char header[] =
        "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"F16\",\"shape\":[2,1],"
        "\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[4,12]}}";
    size_t length = sizeof header - 1;
    int good = 0;
    (void)unused;
    for (size_t at = 0; at < length; at++)
        for (int byte = 0; byte < 256; byte += 3) {
            char text[sizeof header];
            memcpy(text, header, sizeof header);
            text[at] = (char)byte;
            good += parse_sized(length, text, length, 12, NULL) == ENGINE_OK;
        }
    assert_true(good > 0);
}

static void what_is_written_is_read_back(void **unused)
{
    struct support_random r = {8};
    char path[] = "/tmp/engine_safetensors_XXXXXX";
    static const char *const metadata[] = {"format", "attnd", "n", "1", NULL};
    struct engine_named_tensor tensors[3] = {
        {.name = "wide/\"quoted\""}, {.name = "narrow"}, {.name = "empty"}};
    struct engine_error err = {0};
    struct engine_safetensors *file = NULL;
    int descriptor = mkstemp(path);
    (void)unused;
    assert_true(descriptor >= 0);
    close(descriptor);
    tensors[0].tensor = support_random_tensor(&r, ENGINE_F64, 2, (int64_t[]){3, 5});
    tensors[1].tensor = support_random_tensor(&r, ENGINE_BF16, 1, (int64_t[]){7});
    tensors[2].tensor = support_tensor(ENGINE_BF16, 2, (int64_t[]){0, 4});
    if (engine_safetensors_write(path, tensors, 3, metadata, &err) != ENGINE_OK ||
        engine_safetensors_open(path, &file, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(engine_safetensors_count(file), 3);
    assert_string_equal(engine_safetensors_metadata(file, "format"), "attnd");
    assert_null(engine_safetensors_metadata(file, "none"));
    assert_null(engine_safetensors_find(file, "none"));
    for (int i = 0; i < 3; i++) {
        const struct engine_tensor *got = engine_safetensors_find(file, tensors[i].name);
        size_t bytes = 0;
        assert_non_null(got);
        assert_int_equal(got->dtype, tensors[i].tensor.dtype);
        assert_true(engine_tensor_same_shape(got, &tensors[i].tensor));
        assert_true(engine_tensor_bytes(got, &bytes));
        assert_memory_equal(got->data, tensors[i].tensor.data, bytes);
        free(tensors[i].tensor.data);
    }
    engine_safetensors_destroy(file);
    unlink(path);
    assert_int_equal(engine_safetensors_open(path, &file, &err), ENGINE_NOT_FOUND);
    assert_int_equal(engine_safetensors_open("/dev/null", &file, NULL), ENGINE_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_vector_is_read_or_refused),
        cmocka_unit_test(types_that_nothing_reads_are_marked),
        cmocka_unit_test(what_is_no_safetensors_is_called_what_it_is),
        cmocka_unit_test(lengths_that_lie_are_refused),
        cmocka_unit_test(deep_nesting_is_refused_without_a_crash),
        cmocka_unit_test(no_changed_byte_crashes),
        cmocka_unit_test(what_is_written_is_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
