/* bench_turn.h - what every measurement of bench stands on: the clock, a turn, the median.
 *
 * Whoever is measured takes turns with the others, round after round: a neighbour who slows the
 * machine slows all of them. A turn is one call to warm up, then calls for a given time, at least
 * 3, and their median. It does not judge: no outlier is dropped. */
#ifndef TESTS_BENCH_TURN_H
#define TESTS_BENCH_TURN_H

#include <stddef.h>

enum { BENCH_TURN_MS = 20 };

double bench_turn_now_ms(void);

/* Sorts the values, count >= 1. */
double bench_turn_median(double *values, int count);

/* Milliseconds of one call: call(argument) does the work once and returns how long that took.
 * Any thread. */
double bench_turn_run(double (*call)(void *argument), void *argument, double turn_ms);

/* 64-byte aligned float32 numbers from -1 to 1, for the caller to free; ends the program when there
 * is no memory. */
float *bench_turn_numbers(size_t count);

/* "bench: ..." to stderr, exit status 2. */
__attribute__((format(printf, 1, 2), noreturn)) void bench_turn_fail(const char *format, ...);

#endif
