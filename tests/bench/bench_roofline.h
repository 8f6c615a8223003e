/* bench_roofline.h - a measured point, the roof over it, and the tables and the CSV of both.
 *
 * roof = min(peak of the instructions that serve the precision, flops per byte x bandwidth).
 * Bytes are those that a call cannot avoid to move once: weights, inputs, outputs. The bandwidth is
 * that of reading as many bytes over and over, because the calls of a turn do the same: below the
 * size of a cache it is that cache's. Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009. */
#ifndef TESTS_BENCH_ROOFLINE_H
#define TESTS_BENCH_ROOFLINE_H

#include <stdbool.h>
#include <stdio.h>

#include "engine/engine.h"
#include "tests/bench/bench_ceilings.h"

/* The layer that is measured. */
enum { BENCH_HEADS = 12, BENCH_WIDTH = 768, BENCH_DIM = 64 };

struct bench_variant {
    const char *name;
    enum engine_precision precision;
    bool scores;
    int reused;
};

/* Medians of the rounds. Zero: not measured, or the machine lacks it. */
struct bench_point {
    const struct bench_variant *variant;
    int batch, tokens, threads;
    double ms, flops;
    double ceilings[BENCH_CEILINGS];
    double hot_read; /* GB/s of reading bench_roofline_bytes() over and over */
    bool amx_f32;    /* float32 may run as six bfloat16 products */
};

/* Bytes of weights, inputs and outputs of a call. Biases and relative positions, below 1 %, are
 * left out. */
double bench_roofline_bytes(const struct bench_variant *variant, int batch, int tokens);

double bench_roofline_speed(const struct bench_point *point);     /* GF/s */
double bench_roofline_intensity(const struct bench_point *point); /* flops per byte */
double bench_roofline_peak(const struct bench_point *point);      /* GF/s; 0: unknown */
double bench_roofline_roof(const struct bench_point *point);      /* GF/s; by hot_read */
double bench_roofline_cold_roof(const struct bench_point *point); /* GF/s; by memory read */

/* The line over a table of times, and a line of it. */
void bench_roofline_print_head(void);
void bench_roofline_print_time(const struct bench_point *point);
/* Ceilings and roofline of all points, those of a case together. */
void bench_roofline_print(const struct bench_point *points, int count);
/* One row a point, the names of the columns first. */
void bench_roofline_write_csv(FILE *file, const struct bench_point *points, int count);

#endif
