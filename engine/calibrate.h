/* calibrate.h - is one kernel faster than another on this processor?
 *
 * For instructions that a processor may have and still be slow at. It measures and says a number:
 * it refuses to choose a kernel, to remember, to start threads. Numbers that a kernel computes
 * never depend on it, only whether the kernel is used. */
#ifndef ENGINE_CALIBRATE_H
#define ENGINE_CALIBRATE_H

#include "engine/error.h"
#include "engine/kernel.h"

/* A kernel of less precision has to be so many times as fast to be worth its errors. */
#define ENGINE_CALIBRATE_FASTER 1.15

/* Floating-point operations a second that no processor of this kind falls below unless what it runs
 * is not code made for it. */
#define ENGINE_CALIBRATE_ABSURD 4e9

/* *ret_speed: how many times as fast as "usual" a kernel multiplies 64 x 768 x 192 in caches, on
 * the calling thread; about a millisecond. Packing is not timed. A preempted run does not count:
 * they take turns and the best of each is compared. Threads: any, for kernels that exist here.
 * Errors: OUT_OF_MEMORY, and what the kernels' products end with. */
enum engine_code engine_calibrate_speed(const struct engine_kernel *kernel,
                                        const struct engine_kernel *usual, double *ret_speed,
                                        struct engine_error *err);

/* *ret_rate: floating-point operations a second of the same product. Tries again while that is less
 * than "enough", a few times: a preempted run does not count. Threads and errors as above. */
enum engine_code engine_calibrate_rate(const struct engine_kernel *kernel, double enough,
                                       double *ret_rate, struct engine_error *err);

#endif
