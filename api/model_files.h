/* model_files.h - a model directory (or files uploaded in its place) to an engine_model.
 *
 *     layer.json  weights.safetensors  model.json (optional)
 *
 * See PROTOCOL.md, "A model directory". Paths are relative to the directory and may not leave it
 * (openat2 RESOLVE_BENEATH). Exactly one weight file is found, else an error that lists what was
 * found. Not here: versions and reloading (server/repository). */
#ifndef API_MODEL_FILES_H
#define API_MODEL_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "api/infer_message.h"
#include "engine/engine.h"

/* A file given in memory: name relative to the model directory. */
struct api_model_file {
    const char *name;
    const void *bytes;
    size_t size;
};

struct api_model_settings {
    struct api_model_defaults defaults;
    enum engine_precision precision;
    int64_t warmup[8][3]; /* B, T, S */
    int warmup_count;
};

/* *ret: the directory holds layer.json or model.json: otherwise it is no model. Errors: what keeps
 * from looking, OUT_OF_MEMORY (descriptors too), INTERNAL. */
ENGINE_MUST_CHECK enum engine_code api_model_files_is_model(const char *directory, bool *ret,
                                                            struct engine_error *err);

/* Opens the model of a directory. files, if files_count > 0, take the directory's place
 * (directory may then be NULL); config_json, if not NULL, takes layer.json's or model.json's
 * place (it may hold either). Errors: NOT_FOUND, UNAVAILABLE (a file is there and may not be read:
 * why is the error's detail, for the operator), INVALID_ARGUMENT, SHAPE_MISMATCH, ... */
ENGINE_MUST_CHECK enum engine_code
api_model_files_open(struct engine *engine, const char *directory,
                     const struct api_model_file *files, size_t files_count,
                     const char *config_json, struct engine_model **ret_model,
                     struct api_model_settings *ret_settings, struct engine_error *err);

#endif
