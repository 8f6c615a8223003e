/* tensor.c - see tensor.h. */
#include "engine/tensor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[ENGINE_DTYPE_COUNT] = {
    [ENGINE_BOOL] = {"BOOL", 1},  [ENGINE_U8] = {"UINT8", 1},   [ENGINE_U16] = {"UINT16", 2},
    [ENGINE_U32] = {"UINT32", 4}, [ENGINE_U64] = {"UINT64", 8}, [ENGINE_I8] = {"INT8", 1},
    [ENGINE_I16] = {"INT16", 2},  [ENGINE_I32] = {"INT32", 4},  [ENGINE_I64] = {"INT64", 8},
    [ENGINE_F16] = {"FP16", 2},   [ENGINE_BF16] = {"BF16", 2},  [ENGINE_F32] = {"FP32", 4},
    [ENGINE_F64] = {"FP64", 8},
};

size_t engine_tensor_element_bytes(enum engine_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *engine_tensor_dtype_name(enum engine_dtype dtype)
{
    return dtypes[dtype].name;
}

bool engine_tensor_dtype_from_name(const char *name, size_t length, enum engine_dtype *ret)
{
    for (int i = 0; i < ENGINE_DTYPE_COUNT; i++) {
        if (strlen(dtypes[i].name) == length && memcmp(dtypes[i].name, name, length) == 0) {
            *ret = (enum engine_dtype)i;
            return true;
        }
    }
    return false;
}

bool engine_tensor_dtype_is_float(enum engine_dtype dtype)
{
    return dtype >= ENGINE_F16;
}

bool engine_tensor_mul(size_t a, size_t b, size_t *ret)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}

bool engine_tensor_add(size_t a, size_t b, size_t *ret)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret = sum;
    return true;
}

/* The product of all dimensions that are not zero must fit too: a zero must not hide nonsense. */
bool engine_tensor_count(const struct engine_tensor *t, size_t *ret)
{
    const size_t limit = (size_t)1 << 62;
    size_t product = 1;
    bool empty = false;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] < 0)
            return false;
        if (t->shape[i] == 0)
            empty = true;
        else if (!engine_tensor_mul(product, (size_t)t->shape[i], &product) || product > limit)
            return false;
    }
    *ret = empty ? 0 : product;
    return true;
}

bool engine_tensor_bytes(const struct engine_tensor *t, size_t *ret)
{
    size_t count, bytes;
    if (!engine_tensor_count(t, &count) ||
        !engine_tensor_mul(count, engine_tensor_element_bytes(t->dtype), &bytes) ||
        bytes > (size_t)1 << 62)
        return false;
    *ret = bytes;
    return true;
}

char *engine_tensor_shape_text(const struct engine_tensor *t, char *text, size_t size)
{
    size_t used = 0;
    if (size == 0)
        return text;
    text[0] = '\0';
    for (int i = 0; i < t->rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i == 0 ? "[" : ",",
                                 (long long)t->shape[i]);
    if (used < size)
        snprintf(text + used, size - used, t->rank == 0 ? "[]" : "]");
    return text;
}

bool engine_tensor_same_shape(const struct engine_tensor *a, const struct engine_tensor *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof a->shape[0]) == 0;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float value_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t engine_tensor_bf16_bits(float value)
{
    uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u); /* a NaN stays one, quiet */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float engine_tensor_bf16_value(uint16_t bits)
{
    return value_of((uint32_t)bits << 16);
}

uint16_t engine_tensor_f16_bits(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* rounds to 65520 or more: infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: a subnormal, or zero */
        /* Adding 0.5 puts the last kept bit (2^-24) at the end of a float's mantissa, where the
         * processor rounds to nearest even. */
        uint32_t rounded = bits_of(value_of(magnitude) + 0.5f) - bits_of(0.5f);
        return (uint16_t)(sign | rounded);
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

float engine_tensor_f16_value(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu;
    uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 0x1fu)
        return value_of(sign | 0x7f800000u | (mantissa << 13));
    if (exponent == 0)
        return value_of(sign | bits_of((float)mantissa * 0x1p-24f));
    return value_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

/* To float16 and back without its bits, and without branches: compilers make vectors of it. */
static float round_f16(float value)
{
    uint32_t bits = bits_of(value), sign = bits & 0x80000000u, magnitude = bits ^ sign;
    uint32_t rounded = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & 0xffffe000u;
    uint32_t subnormal = bits_of(value_of(magnitude) + 0.5f - 0.5f); /* as in f16_bits */
    rounded = rounded > 0x477fe000u ? 0x7f800000u : rounded;
    rounded = magnitude < 0x38800000u ? subnormal : rounded;
    rounded = magnitude > 0x7f800000u ? 0x7fc00000u : rounded;
    return value_of(sign | rounded);
}

static float round_bf16(float value)
{
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    return value_of(magnitude > 0x7f800000u ? (bits | 0x400000u) & 0xffff0000u : rounded);
}

/* Blocks of a known length become vectors also where the compiler is not told to try hard. */
enum { BLOCK = 16 };

static void round_all_f16(float *values, size_t count)
{
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            values[i + j] = round_f16(values[i + j]);
    for (; i < count; i++)
        values[i] = round_f16(values[i]);
}

static void round_all_bf16(float *values, size_t count)
{
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK)
        for (size_t j = 0; j < BLOCK; j++)
            values[i + j] = round_bf16(values[i + j]);
    for (; i < count; i++)
        values[i] = round_bf16(values[i]);
}

void engine_tensor_round(enum engine_dtype dtype, float *values, size_t count)
{
    if (dtype == ENGINE_BF16)
        round_all_bf16(values, count);
    if (dtype == ENGINE_F16)
        round_all_f16(values, count);
}

#define LOAD(type)                                                                                 \
    ({                                                                                             \
        type loaded_;                                                                              \
        memcpy(&loaded_, (const char *)t->data + index * sizeof loaded_, sizeof loaded_);          \
        loaded_;                                                                                   \
    })

double engine_tensor_get(const struct engine_tensor *t, size_t index)
{
    switch (t->dtype) {
    case ENGINE_BOOL:
        return LOAD(uint8_t) != 0;
    case ENGINE_U8:
        return LOAD(uint8_t);
    case ENGINE_U16:
        return LOAD(uint16_t);
    case ENGINE_U32:
        return LOAD(uint32_t);
    case ENGINE_U64:
        return (double)LOAD(uint64_t);
    case ENGINE_I8:
        return LOAD(int8_t);
    case ENGINE_I16:
        return LOAD(int16_t);
    case ENGINE_I32:
        return LOAD(int32_t);
    case ENGINE_I64:
        return (double)LOAD(int64_t);
    case ENGINE_F16:
        return (double)engine_tensor_f16_value(LOAD(uint16_t));
    case ENGINE_BF16:
        return (double)engine_tensor_bf16_value(LOAD(uint16_t));
    case ENGINE_F32:
        return (double)LOAD(float);
    case ENGINE_F64:
        return LOAD(double);
    case ENGINE_DTYPE_COUNT:
        break;
    }
    return 0.0;
}

void engine_tensor_to_f32(enum engine_dtype dtype, const void *from, float *to, size_t count)
{
    if (dtype == ENGINE_F32) {
        memcpy(to, from, count * sizeof *to);
        return;
    }
    /* The view is only read. */
    struct engine_tensor t = {.dtype = dtype, .rank = 0, .data = (void *)(uintptr_t)from};
    for (size_t i = 0; i < count; i++)
        to[i] = (float)engine_tensor_get(&t, i);
}

void engine_tensor_from_f32(enum engine_dtype dtype, const float *from, void *to, size_t count)
{
    uint16_t *halves = to;
    double *doubles = to;
    switch (dtype) {
    case ENGINE_F16:
        for (size_t i = 0; i < count; i++)
            halves[i] = engine_tensor_f16_bits(from[i]);
        return;
    case ENGINE_BF16:
        for (size_t i = 0; i < count; i++)
            halves[i] = engine_tensor_bf16_bits(from[i]);
        return;
    case ENGINE_F64:
        for (size_t i = 0; i < count; i++)
            doubles[i] = (double)from[i];
        return;
    default:
        memcpy(to, from, count * sizeof *from);
    }
}
