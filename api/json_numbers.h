/* json_numbers.h - arrays of numbers as JSON: a scanner that takes them as they arrive, and a
 * writer that uses idle workers.
 *
 * The scanner reads from after the first "[" to its "]" and may be interrupted at any byte, also
 * inside a number. It does not recurse: levels are counted. Values go straight into a pooled
 * buffer of the wanted type. Leaves are counted, and the lengths of all levels noted, so that the
 * shape of a regular nesting is known at the end. NaN, Infinity and -Infinity are floating-point
 * numbers, bare and as texts. true and false are values of BOOL; where the type is not told yet
 * they are counted, and who learns the type judges them. Objects, null and other texts are refused.
 * Threads: one at a time for each scanner. */
#ifndef API_JSON_NUMBERS_H
#define API_JSON_NUMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/limits.h"
#include "api/number_text.h"
#include "engine/engine.h"

struct api_json_numbers {
    struct engine *engine;
    enum engine_dtype dtype; /* BOOL, integers, F32, F64: what values are stored as */
    bool is_told;            /* the request named the type; else dtype is how to keep what comes */
    size_t truths;           /* true and false among the values so far, where is_told is false */
    size_t last_truth;       /* count after the last of them: a value may be read twice */
    struct engine_buffer buffer;
    size_t count, capacity;        /* elements */
    size_t expected;               /* elements; SIZE_MAX: not known */
    size_t room;                   /* bytes that buffers may take, while they grow too */
    int depth;                     /* open "[" */
    int rank;                      /* deepest level; leaves lie there if regular */
    bool regular;                  /* all leaves at one depth, all lists of a level equally long */
    int64_t lengths[API_MAX_RANK]; /* of each level's first list; -1: not closed yet */
    int64_t open[API_MAX_RANK];    /* elements so far of the open list of each level */
    enum { API_NUMBERS_FIRST, API_NUMBERS_VALUE, API_NUMBERS_AFTER } wants;
    char token[API_NUMBER_TEXT_LONGEST + 1]; /* a number cut by the end of a piece */
    size_t token_bytes;
};

/* Starts after the first "[". is_told: the request named the type. expected: elements promised by a
 * shape (allocated now), or SIZE_MAX. room: bytes of buffers that it may take. Errors:
 * OUT_OF_MEMORY, OVERLOADED, and TOO_LARGE beyond the room. */
ENGINE_MUST_CHECK enum engine_code api_json_numbers_begin(struct api_json_numbers *numbers,
                                                          struct engine *engine,
                                                          enum engine_dtype dtype, bool is_told,
                                                          size_t expected, size_t room,
                                                          struct engine_error *err);

/* Takes bytes; *ret_used tells how many. *ret_done: the last "]" was among them. Errors:
 * INVALID_ARGUMENT (what stands there is no number, or does not fit), and memory as above.
 * "field" names the array in messages. */
ENGINE_MUST_CHECK enum engine_code api_json_numbers_feed(struct api_json_numbers *numbers,
                                                         const char *field, const char *bytes,
                                                         size_t size, size_t *ret_used,
                                                         bool *ret_done, struct engine_error *err);

void api_json_numbers_reset(struct api_json_numbers *numbers); /* gives the buffer back */

/* How NaN and infinities are written: NaN, which Python reads and JSON does not know; null; or
 * "NaN", a text. */
enum api_non_finite { API_NON_FINITE_LITERAL, API_NON_FINITE_NULL, API_NON_FINITE_STRING };

struct api_json_numbers_style {
    bool nested;      /* lists to the shape, "[[1,2],[3,4]]"; else the elements of one, "1,2,3" */
    bool whole_point; /* "1.0", as TensorFlow Serving writes floats */
    enum api_non_finite non_finite;
};

/* Text of a tensor's elements. It lies in up to "pieces" buffers, in order; lengths says how much
 * of each. Errors: OUT_OF_MEMORY, OVERLOADED. */
struct api_json_text {
    struct engine_buffer buffers[4];
    size_t lengths[4];
    int count;
};
ENGINE_MUST_CHECK enum engine_code
api_json_numbers_write(struct engine *engine, const struct engine_tensor *tensor,
                       const struct api_json_numbers_style *style, struct api_json_text *ret,
                       struct engine_error *err);

#endif
