/* kernel_avx512_tile.h - the register tile of the AVX-512 kernels and the passes around it.
 *
 * A lane is 32 bits: a float32 number, or a pair of bfloat16 numbers of neighbouring depths. To the
 * loops they are the same but for the instruction: a lane of L is broadcast and multiplied by
 * vectors of R, and the sums are float32. Depths and strides are counted in lanes here. R lies in
 * panels of 64 columns, [columns/64][lanes of depth][64], the last one as narrow as a multiple of
 * 16 allows. Each kernel makes its own set of tiles (ENGINE_KERNEL_AVX512_TILE_SET) with "pairs"
 * constant, so that no tile decides anything at run time.
 *
 * Register tile: 6 rows x 4 vectors = 24 accumulators, 4 vectors of R and one broadcast of L: 29
 * of 32 registers; 24 FMA for 10 loads, so the two load ports are half idle. 6 x 4 independent
 * chains hide the latency of 4 with room for rows that are missing: 2 x 4 is still enough.
 * The FMA is written as asm: with the intrinsic, GCC 12 moves accumulators between registers and
 * spills one of them every four steps, which costs 4 %.
 * Blocking: a panel is taken in blocks of 384 x 64 = 96 KB, which stay in L2 while all rows pass
 * over them (21 bytes a cycle at full speed, half of what L2 gives); sums rest in C in between.
 * Blocks of 32 KB, for L1, are no faster in projections and 5 % slower in P V; but with few rows,
 * where the next weights stream into L2 meanwhile, they leave the fill buffers to that.
 *
 * An element is one chain of FMAs in ascending k, started from 0 or from C: its bits do not depend
 * on the rows and columns beside it, nor on where the depth is cut.
 * For the two kernels' files alone: it refuses to know how operands are made. */
#ifndef ENGINE_KERNEL_AVX512_TILE_H
#define ENGINE_KERNEL_AVX512_TILE_H

#include "engine/kernel.h"
#include "engine/kernel_vectors.h"

enum { PANEL = 64, ROWS = 6, STEPS = 4, LINE = 64 };
enum { DEPTH_BLOCK = 384, DEPTH_BLOCK_FEW = 128, FEW_ROWS = 32 };

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t padded16(int64_t columns)
{
    return (columns + 15) & ~(int64_t)15;
}

/* ---- right operands ------------------------------------------------------------------------- */

/* Width of the panel that column n lies in. */
static inline int64_t panel_width(const struct engine_right *right, int64_t n)
{
    return least(PANEL, padded16(right->columns) - n / PANEL * PANEL);
}

/* Lane k of column n, n a multiple of 16, in panels "lanes" deep. */
static inline float *panel_at(const struct engine_right *right, int64_t lanes, int64_t k, int64_t n)
{
    int64_t first = n / PANEL * PANEL;
    return (float *)right->data + first * lanes + k * panel_width(right, n) + n - first;
}

/* 16 columns of up to 16 lanes of depth, from vectors of a column each. */
static inline __attribute__((always_inline)) void write_square(float *to, int64_t width,
                                                               __m512i r[16], int64_t lanes)
{
    engine_kernel_vectors_transpose(r);
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int k = 0; k < 16; k++)
        if (k < lanes)
            _mm512_storeu_si512(to + k * width, r[k]);
}

/* ---- the register tile ---------------------------------------------------------------------- */

/* Memory to be prefetched during a step, so many bytes every STEPS in k. */
struct share {
    const char *next, *end;
    int64_t bytes;
};

struct step {
    const float *a, *b;
    float *c;
    int64_t a_stride, b_stride, c_stride, depth;
    struct share ahead;
    __mmask16 last; /* columns of the last vector */
    bool add;
};

/* Where the rows of L and the panel stand. Three rows are reached from each pointer, so that the
 * addresses need few registers. */
struct cursor {
    const float *upper, *lower; /* rows 0 to 2, 3 to 5 */
    const float *b;
    int64_t a_stride, b_stride;
};

/* The step in k that lies u behind the cursor. */
static inline __attribute__((always_inline)) void advance(const bool pairs, const int rows,
                                                          const int vectors, __m512 c[ROWS][4],
                                                          struct cursor *at, const int u)
{
    __m512 r[4];
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int j = 0; j < vectors; j++)
        r[j] = _mm512_loadu_ps(at->b + 16 * j);
    at->b += at->b_stride;
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < rows; i++) {
        const float *row = (i < 3 ? at->upper : at->lower) + i % 3 * at->a_stride;
        __m512 l = _mm512_set1_ps(row[u]);
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int j = 0; j < vectors; j++)
            if (pairs)
                __asm__("vdpbf16ps %2, %1, %0" : "+v"(c[i][j]) : "v"(l), "v"(r[j]));
            else
                __asm__("vfmadd231ps %2, %1, %0" : "+v"(c[i][j]) : "v"(l), "v"(r[j]));
    }
}

static inline void prefetch(struct share *ahead)
{
    const char *end = ahead->next + ahead->bytes;
    for (; ahead->next < end && ahead->next < ahead->end; ahead->next += LINE)
        _mm_prefetch(ahead->next, _MM_HINT_T1);
}

static inline __attribute__((always_inline)) void tile(const bool pairs, const int rows,
                                                       const int vectors, const struct step *s)
{
    __m512 c[ROWS][4];
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < rows; i++) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int j = 0; j < vectors; j++)
            c[i][j] = s->add ? _mm512_maskz_loadu_ps(j == vectors - 1 ? s->last : 0xffff,
                                                     s->c + i * s->c_stride + 16 * j)
                             : _mm512_setzero_ps();
    }
    struct cursor at = {s->a, s->a + 3 * s->a_stride, s->b, s->a_stride, s->b_stride};
    struct share ahead = s->ahead;
    int64_t k = s->depth;
    for (; k >= STEPS; k -= STEPS) {
        prefetch(&ahead);
        __asm__("" : "+r"(at.lower)); /* else the compiler computes it from upper again */
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int u = 0; u < STEPS; u++)
            advance(pairs, rows, vectors, c, &at, u);
        at.upper += STEPS;
        at.lower += STEPS;
    }
    for (; k > 0; k--) {
        advance(pairs, rows, vectors, c, &at, 0);
        at.upper++;
        at.lower++;
    }
    ENGINE_KERNEL_VECTORS_UNROLL
    for (int i = 0; i < rows; i++) {
        ENGINE_KERNEL_VECTORS_UNROLL
        for (int j = 0; j < vectors; j++)
            _mm512_mask_storeu_ps(s->c + i * s->c_stride + 16 * j,
                                  j == vectors - 1 ? s->last : 0xffff, c[i][j]);
    }
}

/* By rows and vectors, less one. */
struct tiles {
    void (*of[ROWS][4])(const struct step *);
};

#define TILE(pairs, rows, vectors)                                                                 \
    static void tile_##rows##x##vectors(const struct step *s)                                      \
    {                                                                                              \
        tile(pairs, rows, vectors, s);                                                             \
    }
#define TILES(pairs, rows)                                                                         \
    TILE(pairs, rows, 1) TILE(pairs, rows, 2) TILE(pairs, rows, 3) TILE(pairs, rows, 4)
#define NAMES(rows)                                                                                \
    {                                                                                              \
        tile_##rows##x1, tile_##rows##x2, tile_##rows##x3, tile_##rows##x4                         \
    }

#define ALL_TILES(pairs)                                                                           \
    TILES(pairs, 1) TILES(pairs, 2) TILES(pairs, 3) TILES(pairs, 4) TILES(pairs, 5) TILES(pairs, 6)
#define ALL_NAMES                                                                                  \
    {                                                                                              \
        {                                                                                          \
            NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6)                             \
        }                                                                                          \
    }

/* Defines the constant "name", a kernel's tiles; once a file. */
#define ENGINE_KERNEL_AVX512_TILE_SET(name, pairs)                                                 \
    ALL_TILES(pairs)                                                                               \
    static const struct tiles name = ALL_NAMES

/* ---- the product ---------------------------------------------------------------------------- */

static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* What is to be prefetched, and how much of the work is done. */
struct ahead {
    const char *next;
    int64_t lines, done, tiles;
};

static inline struct share take_share(struct ahead *ahead, int64_t depth)
{
    if (ahead->lines == 0)
        return (struct share){0};
    int64_t from = ahead->lines * ahead->done / ahead->tiles;
    ahead->done++;
    int64_t to = ahead->lines * ahead->done / ahead->tiles;
    return (struct share){ahead->next + from * LINE, ahead->next + to * LINE,
                          ceil_div(to - from, depth / STEPS + 1) * LINE};
}

static inline int64_t depth_block(int64_t rows)
{
    return rows <= FEW_ROWS ? DEPTH_BLOCK_FEW : DEPTH_BLOCK;
}

/* All rows by a step's panel, in tiles of about equal height. */
static inline void multiply_rows(const struct tiles *tiles, struct step *s, int64_t rows,
                                 int64_t vectors, struct ahead *ahead)
{
    for (int64_t left = ceil_div(rows, ROWS); left > 0; left--) {
        int64_t height = ceil_div(rows, left);
        s->ahead = take_share(ahead, s->depth);
        tiles->of[height - 1][vectors - 1](s);
        s->a += height * s->a_stride;
        s->c += height * s->c_stride;
        rows -= height;
    }
}

/* All rows by one panel, or by its first columns. */
static inline void multiply_panel(const struct tiles *tiles, const struct step *panel, int64_t rows,
                                  int64_t columns, struct ahead *ahead)
{
    int64_t vectors = ceil_div(columns, 16), k = 0;
    do {
        struct step s = *panel;
        s.a += k;
        s.b += k * s.b_stride;
        s.add = panel->add || k > 0;
        s.depth = least(depth_block(rows), panel->depth - k);
        s.last = engine_kernel_vectors_lanes16(columns - 16 * (vectors - 1));
        multiply_rows(tiles, &s, rows, vectors, ahead);
        k += depth_block(rows);
    } while (k < panel->depth);
}

/* kernel.h's "multiply" of rows that begin at a, a_stride lanes apart, by "depth" of R's "lanes" of
 * depth. */
static inline void
engine_kernel_avx512_tile_multiply(const struct tiles *tiles, struct step *panel, int64_t rows,
                                   const struct engine_right *right, int64_t lanes, int64_t column0,
                                   int64_t columns, const void *next, size_t next_bytes)
{
    float *c = panel->c;
    struct ahead ahead = {
        .next = next,
        .lines = next != NULL ? (int64_t)next_bytes / LINE : 0,
        .tiles = ceil_div(columns, PANEL) * ceil_div(rows, ROWS) *
                 (panel->depth > 0 ? ceil_div(panel->depth, depth_block(rows)) : 1),
    };
    for (int64_t j = 0; j < columns; j += PANEL) {
        panel->b = panel_at(right, lanes, 0, column0 + j);
        panel->b_stride = panel_width(right, column0 + j);
        panel->c = c + j;
        multiply_panel(tiles, panel, rows, least(PANEL, columns - j), &ahead);
    }
}

#endif
