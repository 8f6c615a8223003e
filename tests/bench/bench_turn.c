/* bench_turn.c - see bench_turn.h. */
#include "tests/bench/bench_turn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_CALLS = 4096, LEAST_CALLS = 3 };

void bench_turn_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "bench: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(2);
}

double bench_turn_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_turn_median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return values[count / 2];
}

double bench_turn_run(double (*call)(void *argument), void *argument, double turn_ms)
{
    double times[MAX_CALLS];
    int calls = 0;
    double start = bench_turn_now_ms();
    (void)call(argument);
    while (calls < MAX_CALLS && (calls < LEAST_CALLS || bench_turn_now_ms() - start < turn_ms))
        times[calls++] = call(argument);
    return bench_turn_median(times, calls);
}

float *bench_turn_numbers(size_t count)
{
    float *values = aligned_alloc(64, (count * sizeof *values + 64) / 64 * 64);
    if (values == NULL)
        bench_turn_fail("%s", "no memory");
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((i * 2654435761u) % 2001) / 1000.0f - 1.0f;
    return values;
}
