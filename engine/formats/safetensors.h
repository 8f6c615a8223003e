/* safetensors.h - the safetensors file format, read from and written to memory.
 *
 * Hostile input assumed: every number is bounded before it is used. Follows
 * huggingface/safetensors: 8 bytes length, JSON header, data; offsets contiguous from 0 to the
 * end, no holes, no overlap. Here moreover no duplicate names, names of at most 65,535 bytes, at
 * most 16 dimensions. Tensors of the format's types that nothing here reads (F4, F6_*, F8_*, C64)
 * are in the list, marked foreign. Values are not checked (NaN is data). Threads: any. */
#ifndef ENGINE_FORMATS_SAFETENSORS_H
#define ENGINE_FORMATS_SAFETENSORS_H

#include <stddef.h>

#include "engine/error.h"
#include "engine/tensor.h"

struct engine_safetensors; /* parsed header; tensors are views of the bytes given */

/* Parses; borrows bytes until destroyed. Tensors need not be aligned. Errors: INVALID_ARGUMENT
 * naming tensor and rule, or what the file is instead, TOO_LARGE (header over 16 MiB),
 * OUT_OF_MEMORY. */
ENGINE_MUST_CHECK enum engine_code engine_safetensors_parse(const void *bytes, size_t size,
                                                            struct engine_safetensors **ret,
                                                            struct engine_error *err);
void engine_safetensors_destroy(struct engine_safetensors *file); /* NULL is fine */

size_t engine_safetensors_count(const struct engine_safetensors *file);
const struct engine_named_tensor *engine_safetensors_tensors(const struct engine_safetensors *file);
/* NULL: no such tensor, or a foreign one. */
const struct engine_tensor *engine_safetensors_find(const struct engine_safetensors *file,
                                                    const char *name);
/* A value of __metadata__; NULL: none. */
const char *engine_safetensors_metadata(const struct engine_safetensors *file, const char *key);

/* Reads a whole file into owned memory and parses it. Errors as above, and NOT_FOUND. */
ENGINE_MUST_CHECK enum engine_code engine_safetensors_open(const char *path,
                                                           struct engine_safetensors **ret,
                                                           struct engine_error *err);

/* Makes the header (8 bytes and JSON, padded to 8) for tensors in the order given; metadata is
 * key, value, key, value, ..., NULL, or NULL. Returns malloc'd bytes; data follow it in order,
 * without gaps. The order must be by descending element size for readers that map the file. */
ENGINE_MUST_CHECK enum engine_code
engine_safetensors_header(const struct engine_named_tensor *tensors, size_t count,
                          const char *const *metadata, char **ret_header, size_t *ret_size,
                          struct engine_error *err);
/* Writes a file: header and data. */
ENGINE_MUST_CHECK enum engine_code
engine_safetensors_write(const char *path, const struct engine_named_tensor *tensors, size_t count,
                         const char *const *metadata, struct engine_error *err);

#endif
