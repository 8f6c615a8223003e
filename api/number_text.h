/* number_text.h - numbers and their text: exact, shortest, without a locale.
 *
 * Text is read as JSON numbers plus NaN, Infinity and -Infinity, which Python's json writes. The
 * nearest float is returned, ties to even, whatever the number of digits. The writer gives the
 * shortest text that reads back as the same value. number_text.cc holds the one use of C++:
 * <charconv>. Threads: any. */
#ifndef API_NUMBER_TEXT_H
#define API_NUMBER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    API_NUMBER_TEXT_BYTES = 32,        /* room that any written number fits in */
    API_NUMBER_TEXT_LONGEST = 1024 - 1 /* longest token that is read */
};

/* Reads one number from text .. end and returns where it stops, or NULL if there is none. The
 * text must go on past the number (or end with it): a cut token reads as a shorter one. Values
 * beyond the type's range read as infinity (f32, f64), or are refused (integers). */
const char *api_number_text_read_f32(const char *text, const char *end, float *ret);
const char *api_number_text_read_f64(const char *text, const char *end, double *ret);
const char *api_number_text_read_i64(const char *text, const char *end, int64_t *ret);
const char *api_number_text_read_u64(const char *text, const char *end, uint64_t *ret);

/* Writes a number, not terminated, and returns its length. whole_point adds ".0" to whole numbers
 * (TensorFlow Serving does). */
size_t api_number_text_write_f32(float value, bool whole_point, char *text);
size_t api_number_text_write_f64(double value, bool whole_point, char *text);
size_t api_number_text_write_i64(int64_t value, char *text);

#ifdef __cplusplus
}
#endif

#endif
