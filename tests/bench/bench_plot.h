/* bench_plot.h - the roofline of all points as SVG: one picture for each count of threads, both
 * axes logarithmic. Written by hand: no plotting library for one kind of picture. */
#ifndef TESTS_BENCH_PLOT_H
#define TESTS_BENCH_PLOT_H

#include <stdio.h>

#include "tests/bench/bench_roofline.h"

/* Points of one count of threads lie together. The roofs are the medians over them. */
void bench_plot_write(FILE *file, const struct bench_point *points, int count);

#endif
