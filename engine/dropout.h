/* dropout.h - random numbers by counter, and the dropout made of them.
 *
 * Philox 4x32-10: a keyed bijection of 128-bit counters. Any number can be had without those
 * before it, so a draw depends on (seed, stream, index) alone, never on threads or order.
 * Source: Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
 * Threads: any. */
#ifndef ENGINE_DROPOUT_H
#define ENGINE_DROPOUT_H

#include <stddef.h>
#include <stdint.h>

/* Streams of one seed. */
enum engine_dropout_stream { ENGINE_DROPOUT_SCORES = 1, ENGINE_DROPOUT_WEIGHTS = 16 };

/* Four numbers of 32 bits: those of indices 4 * block to 4 * block + 3. */
void engine_dropout_random(uint64_t seed, uint32_t stream, uint64_t block, uint32_t ret[4]);

/* Inverted dropout: scores[i] *= 0 with probability rate, else 1 / (1 - rate), for count scores,
 * of which the first has this index in the canonical order [outer][N][T][S]. 0 <= rate < 1. */
void engine_dropout_apply(uint64_t seed, double rate, uint64_t index, float *scores, size_t count);

/* The factor of one index: 0 or 1 / (1 - rate). For the reference. */
double engine_dropout_factor(uint64_t seed, double rate, uint64_t index);

#endif
