/* bench_ceilings.h - what this machine can do at best, on as many threads at once as the engine
 * has: the ceilings that bench holds the engine against, measured in the same rounds.
 *
 * Matmuls are the engine's own kernels on one hot product of 128 x 768 x 768 per thread; peaks are
 * loops over registers that never touch memory; bandwidths are streams. It measures what the
 * machine gives while it is asked, not what a data sheet says. */
#ifndef TESTS_BENCH_CEILINGS_H
#define TESTS_BENCH_CEILINGS_H

#include <stddef.h>

enum bench_ceiling {
    BENCH_SGEMM,       /* GF/s: oneDNN's sgemm */
    BENCH_BF16_MATMUL, /* GF/s: the AMX kernel, bfloat16 operands, float32 sums */
    BENCH_FMA_PEAK,    /* GF/s: float32 fused multiply-add, AVX-512 or AVX2 registers */
    BENCH_AMX_PEAK,    /* GF/s: tdpbf16ps on tiles */
    BENCH_MEMORY_READ, /* GB/s: reading more than the caches hold */
    BENCH_MEMORY_COPY, /* GB/s: memcpy of it; read and written bytes both count */
    BENCH_CEILINGS
};

extern const char *const bench_ceilings_names[BENCH_CEILINGS]; /* "sgemm" ... */

struct bench_ceilings;

/* Takes 256 MB, or twice the last cache if that is more, 1 GB at most. Ends the program when
 * something is lacking. */
struct bench_ceilings *bench_ceilings_open(int threads);
void bench_ceilings_close(struct bench_ceilings *ceilings);

/* One turn of all threads at once: the sum of their rates, by the median of each one's calls, so
 * threads need a processor each: two that take turns on one count twice. 0 where the machine has
 * no such instructions. */
double bench_ceilings_turn(struct bench_ceilings *ceilings, enum bench_ceiling which);

/* GB/s of reading the same bytes again and again, each thread its share: what a call that moves so
 * many bytes finds in the caches. */
double bench_ceilings_hot_read(struct bench_ceilings *ceilings, size_t bytes);

#endif
