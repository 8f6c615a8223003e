/* signature.c - see signature.h. */
#include "engine/formats/signature.h"

#include <stdbool.h>
#include <string.h>

struct signature {
    const char *bytes;
    size_t size;
    const char *what;
};

#define SIGNATURE(text, what)                                                                      \
    {                                                                                              \
        text, sizeof text - 1, what                                                                \
    }

static const struct signature signatures[] = {
    SIGNATURE("version https://git-lfs", "a Git LFS pointer, which stands for a file that was not "
                                         "fetched: git lfs pull fetches it"),
    SIGNATURE("\x89HDF\r\n\x1a\n", "an HDF5 file"),
    SIGNATURE("PK\x03\x04", "a ZIP archive, as .npz, .keras and .pt are"),
    SIGNATURE("\x93NUMPY", "a NumPy array"),
    SIGNATURE("GGUF", "a GGUF file"),
    SIGNATURE("\x1f\x8b", "compressed by gzip"),
    SIGNATURE("\x28\xb5\x2f\xfd", "compressed by zstd"),
    SIGNATURE("\x80\x02", "a Python pickle, as PyTorch writes"),
    SIGNATURE("\x80\x03", "a Python pickle"),
    SIGNATURE("\x80\x04", "a Python pickle"),
};

static const unsigned char *skip_spaces(const unsigned char *at, const unsigned char *end)
{
    if (end - at >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
        at += 3;
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n'))
        at++;
    return at;
}

static bool is_letter(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* "<html", "<!DOCTYPE", "<?xml"; the length of a header may begin with '<' too. */
static bool is_page(const unsigned char *at, const unsigned char *end)
{
    return end - at >= 3 && at[0] == '<' && (at[1] == '!' || at[1] == '?' || is_letter(at[1])) &&
           (is_letter(at[2]) || at[2] == '-');
}

/* '{' and a key, or nothing but the end. */
static bool is_json(const unsigned char *at, const unsigned char *end)
{
    if (at == end || *at != '{')
        return false;
    at = skip_spaces(at + 1, end);
    return at < end && (*at == '"' || *at == '}');
}

const char *engine_signature_of(const void *bytes, size_t size)
{
    const unsigned char *end = (const unsigned char *)bytes + size;
    if (size == 0)
        return "empty";
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++)
        if (size >= signatures[i].size &&
            memcmp(bytes, signatures[i].bytes, signatures[i].size) == 0)
            return signatures[i].what;
    const unsigned char *at = skip_spaces(bytes, end);
    if (is_page(at, end))
        return "an HTML or XML page, perhaps a site's answer in the file's place";
    if (!is_json(at, end))
        return NULL;
    if (memmem(at, (size_t)(end - at), "\"weight_map\"", 12) != NULL)
        return "an index of safetensors files, which holds no tensors itself: join the files that "
               "it names into one";
    return "JSON text";
}
