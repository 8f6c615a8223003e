/* tensor.h - element types, shapes, views; all size arithmetic, checked for overflow.
 *
 * A tensor here is a view: row-major, dense, no strides, memory owned by someone else.
 * Threads: any. Errors carry the name of the tensor, the value and the rule. */
#ifndef ENGINE_TENSOR_H
#define ENGINE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

/* An input has at most 8 dimensions; the scores of six attended axes have 14. */
enum { ENGINE_MAX_INPUT_RANK = 8, ENGINE_MAX_RANK = 16 };

enum engine_dtype {
    ENGINE_BOOL, /* one byte, 0 or 1 */
    ENGINE_U8,
    ENGINE_U16,
    ENGINE_U32,
    ENGINE_U64,
    ENGINE_I8,
    ENGINE_I16,
    ENGINE_I32,
    ENGINE_I64,
    ENGINE_F16,
    ENGINE_BF16,
    ENGINE_F32,
    ENGINE_F64,
    ENGINE_DTYPE_COUNT
};

struct engine_tensor {
    enum engine_dtype dtype;
    int rank;
    int64_t shape[ENGINE_MAX_RANK];
    void *data; /* view of someone else's memory; NULL: not given, or not yet bound */
};

/* A tensor with a name, as weight files hold them. The name is a view of the file's memory. */
struct engine_named_tensor {
    const char *name;
    struct engine_tensor tensor;
    const char *foreign; /* NULL, or a type that nothing here reads ("F8_E4M3"): tensor.data is
                            NULL then and its dtype means nothing */
};

/* Bytes of one element: 1, 2, 4 or 8. */
size_t engine_tensor_element_bytes(enum engine_dtype dtype);

/* "FP32", as the Open Inference Protocol spells it. Never NULL. */
const char *engine_tensor_dtype_name(enum engine_dtype dtype);

/* Reads such a name (not null-terminated: length given). false: unknown. */
bool engine_tensor_dtype_from_name(const char *name, size_t length, enum engine_dtype *ret);

bool engine_tensor_dtype_is_float(enum engine_dtype dtype);

/* a * b and a + b with overflow found: false leaves *ret untouched. */
bool engine_tensor_mul(size_t a, size_t b, size_t *ret);
bool engine_tensor_add(size_t a, size_t b, size_t *ret);

/* Product of the dimensions (1 for rank 0). false: a dimension is negative, or the product
 * or its bytes do not fit 2^62. */
bool engine_tensor_count(const struct engine_tensor *t, size_t *ret);
bool engine_tensor_bytes(const struct engine_tensor *t, size_t *ret);

/* Writes "[2,3,4]" into text, always terminated; returns text. */
char *engine_tensor_shape_text(const struct engine_tensor *t, char *text, size_t size);

bool engine_tensor_same_shape(const struct engine_tensor *a, const struct engine_tensor *b);

/* One element, converted; index < count. Integers beyond 2^53 round, BOOL is 0 or 1. */
double engine_tensor_get(const struct engine_tensor *t, size_t index);

/* Copies count elements from "from" (any type) to float, and from float to F16, BF16, F32 or F64
 * (round to nearest even, overflow to infinity, NaN stays NaN). */
void engine_tensor_to_f32(enum engine_dtype dtype, const void *from, float *to, size_t count);
void engine_tensor_from_f32(enum engine_dtype dtype, const float *from, void *to, size_t count);

/* Rounds to the values of F16 or BF16; any other type leaves them as they are. */
void engine_tensor_round(enum engine_dtype dtype, float *values, size_t count);

/* Single 16-bit values and their bits. */
uint16_t engine_tensor_f16_bits(float value);
uint16_t engine_tensor_bf16_bits(float value);
float engine_tensor_f16_value(uint16_t bits);
float engine_tensor_bf16_value(uint16_t bits);

#endif
