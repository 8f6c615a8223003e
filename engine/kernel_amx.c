/* kernel_amx.c - products on AMX tiles. Operands are kept as planes of bfloat16, each number as the
 * sum of its parts:
 *     bf16  one, rounded;
 *     x3    two, high and low (low = bf16(x - high)); high*high + high*low + low*high: what is left
 *           out, low*low, is 2^-18 of a product;
 *     x6    three of 8 bits, cut, which is all of a float32; the six products of more than 2^-22.
 *           The sum is as exact as one of float32 products, and sooner ready.
 * Sums are float32, the small products first within each tile of depth.
 *
 * Tiles: 2 x 2 of C (0 to 3), two of L (4, 5), two of R (6, 7): 4 KB of loads for 4 products.
 * Two panels are taken in blocks of 64 x 256 (x3: of 64 x 128 in two planes) = 32 KB, which stay in
 * L1 while all rows pass over them, 32 rows = 16 KB at a time, read from L2 once for both panels;
 * sums rest in C in between. One panel in blocks of 384 takes L2 twice as much and is 10 % slower,
 * and so are deeper or shallower blocks. x6 computes six times as long on what it loads: one panel
 * in its whole depth is best there (320 GF/s; blocks of 64: 270). An element is one sum in
 * ascending depth whatever is computed beside it.
 *
 * Rows beyond the last one are computed and thrown away: operands have room for 15 more rows.
 * Incomplete tiles of C go through scratch. A live depth that is no multiple of 32 has its last
 * tiles copied to scratch without what lies beyond (0 * NaN is NaN).
 *
 * Traps: GCC 12's _tile_loadconfig declares 8 of 64 bytes as read, and its tile loads and stores
 * declare no memory at all: hence the asm and the barriers. LDTILECFG clears all tiles, so there is
 * one configuration. oneDNN's own AMX code releases it: acquire() loads it for each unit of work.
 * Refuses denormals, as the instructions do (they count as 0); under x3 and x6 also infinities:
 * they make their row or column NaN. */
#include "engine/kernel.h"

#include <string.h>

#include "engine/cpu.h"
#include "engine/kernel_planes.h"
#include "engine/kernel_vectors.h"
#include "engine/operands_amx.h"

enum {
    TILE = ENGINE_OPERANDS_AMX_TILE,
    PANEL = ENGINE_OPERANDS_AMX_PANEL,
    DEPTH = ENGINE_OPERANDS_AMX_DEPTH,
    TILE_BYTES = ENGINE_OPERANDS_AMX_TILE_BYTES,
    LINE = 64,
    MAX_PLANES = ENGINE_KERNEL_PLANES
};
enum { DEPTH_BLOCK = 256, DEPTH_BLOCK_X6 = 768, GROUP = 2 * PANEL, FEW_ROWS = 32 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- operands ------------------------------------------------------------------------------- */

static size_t left_init_bf16(struct engine_left *left, int64_t rows, int64_t depth)
{
    return engine_operands_amx_left(left, rows, depth, 1);
}

static size_t left_init_x3(struct engine_left *left, int64_t rows, int64_t depth)
{
    return engine_operands_amx_left(left, rows, depth, 2);
}

static size_t left_init_x6(struct engine_left *left, int64_t rows, int64_t depth)
{
    return engine_operands_amx_left(left, rows, depth, 3);
}

static size_t right_init_bf16(struct engine_right *right, int64_t depth, int64_t columns,
                              bool transposed)
{
    return engine_operands_amx_right(right, depth, columns, transposed, 1);
}

static size_t right_init_x3(struct engine_right *right, int64_t depth, int64_t columns,
                            bool transposed)
{
    return engine_operands_amx_right(right, depth, columns, transposed, 2);
}

static size_t right_init_x6(struct engine_right *right, int64_t depth, int64_t columns,
                            bool transposed)
{
    return engine_operands_amx_right(right, depth, columns, transposed, 3);
}

/* ---- tiles ---------------------------------------------------------------------------------- */

static void acquire(void)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t column_bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {
        .palette = 1,
        .column_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

static void release(void)
{
    __asm__ volatile("tilerelease" ::: "memory");
}

/* Memory written before is there for the tile instructions, and theirs for what follows. */
static inline void barrier(void)
{
    __asm__ volatile("" ::: "memory");
}

/* What is to be prefetched: "bytes" at each step of depth. */
struct ahead {
    const char *next, *end;
    int64_t bytes;
};

static inline void prefetch(struct ahead *ahead)
{
    const char *end = ahead->next + ahead->bytes;
    for (; ahead->next < end && ahead->next < ahead->end; ahead->next += LINE)
        _mm_prefetch(ahead->next, _MM_HINT_T1);
}

/* Part of a product that one block of C needs: tiles of L and R from some depth on. */
struct run {
    const char *a, *b;
    int64_t a_stride; /* bytes */
    int64_t b_stride; /* bytes between depths */
    size_t a_plane, b_plane;
    int64_t tiles; /* of depth */
};

#define LOAD_LEFT(from)                                                                            \
    do {                                                                                           \
        _tile_loadd(4, from, run->a_stride);                                                       \
        if (two_rows)                                                                              \
            _tile_loadd(5, (from) + TILE * run->a_stride, run->a_stride);                          \
    } while (0)
#define LOAD_RIGHT(from)                                                                           \
    do {                                                                                           \
        _tile_loadd(6, from, LINE);                                                                \
        if (two_columns)                                                                           \
            _tile_loadd(7, (from) + TILE_BYTES, LINE);                                             \
    } while (0)
#define MULTIPLY()                                                                                 \
    do {                                                                                           \
        _tile_dpbf16ps(0, 4, 6);                                                                   \
        if (two_columns)                                                                           \
            _tile_dpbf16ps(1, 4, 7);                                                               \
        if (two_rows)                                                                              \
            _tile_dpbf16ps(2, 5, 6);                                                               \
        if (two_rows && two_columns)                                                               \
            _tile_dpbf16ps(3, 5, 7);                                                               \
    } while (0)

/* C += L R over a run; with several planes the small products first. The order lets an operand
 * that is loaded serve two products. */
static inline __attribute__((always_inline)) void
accumulate(const bool two_rows, const bool two_columns, const int planes, const struct run *run,
           struct ahead *ahead)
{
    const char *a = run->a, *b = run->b;
    for (int64_t i = 0; i < run->tiles; i++) {
        LOAD_LEFT(a);
        if (planes == 3) {
            LOAD_RIGHT(b + 2 * run->b_plane);
            MULTIPLY();
        }
        if (planes >= 2) {
            LOAD_RIGHT(b + run->b_plane);
            MULTIPLY();
        }
        if (planes == 3) {
            LOAD_LEFT(a + run->a_plane);
            MULTIPLY();
            LOAD_RIGHT(b);
            MULTIPLY();
            LOAD_LEFT(a + 2 * run->a_plane);
            MULTIPLY();
            LOAD_LEFT(a);
            MULTIPLY();
        } else {
            LOAD_RIGHT(b);
            MULTIPLY();
        }
        if (planes == 2) {
            LOAD_LEFT(a + run->a_plane);
            MULTIPLY();
        }
        prefetch(ahead);
        a += DEPTH * sizeof(uint16_t);
        b += run->b_stride;
    }
}

/* A block of C in memory: whole tiles; and what its sums start from. Strides in bytes. */
struct target {
    float *c;
    int64_t stride;
    const float *from; /* NULL: zeros */
    int64_t from_stride;
};

#define FOR_EACH_TILE(what, at, stride)                                                            \
    do {                                                                                           \
        what(0, (const char *)(at), stride);                                                       \
        if (two_columns)                                                                           \
            what(1, (const char *)(at) + LINE, stride);                                            \
        if (two_rows)                                                                              \
            what(2, (const char *)(at) + TILE * (stride), stride);                                 \
        if (two_rows && two_columns)                                                               \
            what(3, (const char *)(at) + TILE * (stride) + LINE, stride);                          \
    } while (0)
#define CLEAR(tile, at, stride) _tile_zero(tile)
#define LOAD(tile, at, stride)  _tile_loadd(tile, at, stride)
#define STORE(tile, at, stride) _tile_stored(tile, (void *)(uintptr_t)(at), stride)

static inline __attribute__((always_inline)) void block(const bool two_rows, const bool two_columns,
                                                        const int planes, const struct target *t,
                                                        const struct run *whole,
                                                        const struct run *rest, struct ahead *ahead)
{
    barrier();
    if (t->from != NULL)
        FOR_EACH_TILE(LOAD, t->from, t->from_stride);
    else
        FOR_EACH_TILE(CLEAR, t->from, t->from_stride);
    accumulate(two_rows, two_columns, planes, whole, ahead);
    if (rest != NULL)
        accumulate(two_rows, two_columns, planes, rest, ahead);
    FOR_EACH_TILE(STORE, t->c, t->stride);
    barrier();
}

#define BLOCK(name, two_rows, two_columns, planes)                                                 \
    static void block_##name(const struct target *t, const struct run *whole,                      \
                             const struct run *rest, struct ahead *ahead)                          \
    {                                                                                              \
        block(two_rows, two_columns, planes, t, whole, rest, ahead);                               \
    }
BLOCK(bf16_1x1, false, false, 1)
BLOCK(bf16_1x2, false, true, 1)
BLOCK(bf16_2x1, true, false, 1)
BLOCK(bf16_2x2, true, true, 1)
BLOCK(x3_1x1, false, false, 2)
BLOCK(x3_1x2, false, true, 2)
BLOCK(x3_2x1, true, false, 2)
BLOCK(x3_2x2, true, true, 2)
BLOCK(x6_1x1, false, false, 3)
BLOCK(x6_1x2, false, true, 3)
BLOCK(x6_2x1, true, false, 3)
BLOCK(x6_2x2, true, true, 3)

/* By planes, rows, columns. */
static void (*const blocks[MAX_PLANES][2][2])(const struct target *, const struct run *,
                                              const struct run *, struct ahead *) = {
    {{block_bf16_1x1, block_bf16_1x2}, {block_bf16_2x1, block_bf16_2x2}},
    {{block_x3_1x1, block_x3_1x2}, {block_x3_2x1, block_x3_2x2}},
    {{block_x6_1x1, block_x6_1x2}, {block_x6_2x1, block_x6_2x2}},
};

/* ---- the product ---------------------------------------------------------------------------- */

/* The calling thread's: tiles at the edge of C, and the last tiles of an incomplete depth. */
struct scratch {
    float c[2 * TILE][PANEL];
    char a[MAX_PLANES][2 * TILE][LINE]; /* by plane */
    char b[MAX_PLANES][2][TILE][LINE];
};

struct product {
    const struct engine_left *left;
    const struct engine_right *right;
    int64_t row0, rows, column0, columns, depth;
    float *c;
    int64_t c_stride;
    bool add;
    struct scratch *scratch;
    struct ahead ahead;
};

static void copy_block(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                       int64_t rows, int64_t columns)
{
    __mmask16 first = engine_kernel_vectors_lanes16(columns);
    __mmask16 second = (__mmask16)(engine_kernel_vectors_lanes32(columns) >> 16);
    for (int64_t i = 0; i < rows; i++) {
        _mm512_mask_storeu_ps(to + i * to_stride, first,
                              _mm512_maskz_loadu_ps(first, from + i * from_stride));
        _mm512_mask_storeu_ps(to + i * to_stride + TILE, second,
                              _mm512_maskz_loadu_ps(second, from + i * from_stride + TILE));
    }
}

/* Copies the last tiles of an incomplete depth without what lies beyond; "valid" bytes of each row
 * of L, pairs of R. */
static void copy_rest(const struct product *p, const struct run *from, int64_t rows, int64_t tiles,
                      struct run *ret)
{
    struct scratch *s = p->scratch;
    int64_t valid = p->depth % DEPTH;
    for (int plane = 0; plane < p->left->planes; plane++) {
        const char *a = from->a + (size_t)plane * from->a_plane;
        const char *b = from->b + (size_t)plane * from->b_plane;
        for (int64_t i = 0; i < rows; i++)
            _mm512_storeu_si512(s->a[plane][i],
                                _mm512_maskz_loadu_epi16(engine_kernel_vectors_lanes32(valid),
                                                         a + i * from->a_stride));
        memset(s->b[plane], 0, sizeof s->b[plane]);
        for (int64_t j = 0; j < tiles; j++)
            memcpy(s->b[plane][j], b + j * TILE_BYTES, (size_t)(valid + 1) / 2 * LINE);
    }
    *ret = (struct run){.a = s->a[0][0],
                        .b = s->b[0][0][0],
                        .a_stride = LINE,
                        .a_plane = sizeof s->a[0],
                        .b_plane = sizeof s->b[0],
                        .tiles = 1};
}

static int64_t depth_block(const struct engine_left *left)
{
    return left->planes == 3 ? DEPTH_BLOCK_X6 : DEPTH_BLOCK / left->planes;
}

static int64_t group_columns(const struct engine_left *left)
{
    return left->planes == 3 ? PANEL : GROUP;
}

/* What a block of C at depth k starts from: the sums so far, a row of biases (a stride of 0), or
 * nothing. */
static struct target target_at(const struct product *p, int64_t i, int64_t j, int64_t k)
{
    struct target ret = {.c = p->c + i * p->c_stride + j,
                         .stride = p->c_stride * (int64_t)sizeof(float)};
    if (p->add || k > 0) {
        ret.from = ret.c;
        ret.from_stride = ret.stride;
    } else if (p->right->bias != NULL) {
        ret.from = p->right->bias + p->column0 + j;
    }
    return ret;
}

static struct run run_at(const struct product *p, int64_t i, int64_t j, int64_t k)
{
    int64_t depth = least(p->depth - k, depth_block(p->left));
    return (struct run){
        .a = (const char *)p->left->data +
             ((p->row0 + i) * p->left->stride + k) * (int64_t)sizeof(uint16_t),
        .b = engine_operands_amx_right_at(p->right, k, p->column0 + j),
        .a_stride = p->left->stride * (int64_t)sizeof(uint16_t),
        .b_stride = engine_operands_amx_tiles(p->right, p->column0 + j) * TILE_BYTES,
        .a_plane = p->left->plane,
        .b_plane = p->right->plane,
        .tiles = ceil_div(depth, DEPTH),
    };
}

/* Whether the block of depth from k on ends inside a tile, beyond which may be garbage. */
static bool is_cut(const struct product *p, int64_t k)
{
    return p->depth - k <= depth_block(p->left) && p->depth % DEPTH != 0 &&
           (p->depth < p->right->depth || p->depth < p->left->depth);
}

/* Up to 32 x 32 elements of C over a block of depth from k on. */
static void multiply_block(struct product *p, int64_t i, int64_t j, int64_t k)
{
    int64_t rows = least(2 * TILE, p->rows - i), columns = least(PANEL, p->columns - j);
    bool two_rows = rows > TILE, two_columns = columns > TILE;
    struct run whole = run_at(p, i, j, k), rest = {.tiles = 0};
    if (is_cut(p, k)) {
        whole.tiles = (p->depth - k) / DEPTH;
        struct run last = whole;
        last.a += whole.tiles * DEPTH * (int64_t)sizeof(uint16_t);
        last.b += whole.tiles * whole.b_stride;
        copy_rest(p, &last, rows, two_columns ? 2 : 1, &rest);
    }
    struct target target = target_at(p, i, j, k);
    float *c = target.c;
    bool direct = rows % TILE == 0 && columns % TILE == 0;
    if (!direct) {
        target.c = p->scratch->c[0];
        target.stride = sizeof p->scratch->c[0];
        if (target.from != NULL)
            copy_block(target.c, PANEL, target.from, target.from_stride / (int64_t)sizeof(float),
                       rows, columns);
        target.from = target.from != NULL ? target.c : NULL;
        target.from_stride = target.stride;
    }
    blocks[p->left->planes - 1][two_rows][two_columns](&target, &whole, &rest, &p->ahead);
    if (!direct)
        copy_block(c, p->c_stride, target.c, PANEL, rows, columns);
}

/* All whole blocks of 32 rows by one or two whole panels, over a block of depth: most of the work,
 * without the questions that edges ask. Returns the rows done. */
static inline __attribute__((always_inline)) int64_t
multiply_group(const int planes, const int panels, struct product *p, int64_t j, int64_t k)
{
    struct run run = run_at(p, 0, j, k);
    struct target target = target_at(p, 0, j, k);
    int64_t panel = engine_operands_amx_padded(p->right->depth) * PANEL * (int64_t)sizeof(uint16_t),
            i = 0;
    for (; i + 2 * TILE <= p->rows; i += 2 * TILE) {
        block(true, true, planes, &target, &run, NULL, &p->ahead);
        if (panels == 2) {
            struct target second = target;
            struct run next = run;
            next.b += panel;
            second.c += PANEL;
            second.from += second.from != NULL ? PANEL : 0;
            block(true, true, planes, &second, &next, NULL, &p->ahead);
        }
        run.a += 2 * TILE * run.a_stride;
        target.c += 2 * TILE * p->c_stride;
        if (target.from_stride != 0)
            target.from = target.c;
    }
    return i;
}

static int64_t multiply_group_bf16(struct product *p, int64_t j, int64_t k)
{
    return multiply_group(1, 2, p, j, k);
}

static int64_t multiply_group_x3(struct product *p, int64_t j, int64_t k)
{
    return multiply_group(2, 2, p, j, k);
}

static int64_t multiply_group_x6(struct product *p, int64_t j, int64_t k)
{
    return multiply_group(3, 1, p, j, k);
}

static void multiply_columns(struct product *p, int64_t j, int64_t k)
{
    static int64_t (*const multiply_groups[MAX_PLANES])(struct product *, int64_t, int64_t) = {
        multiply_group_bf16, multiply_group_x3, multiply_group_x6};
    int64_t group = group_columns(p->left), end = least(p->columns, j + group), done = 0;
    if (end - j == group && !is_cut(p, k))
        done = multiply_groups[p->left->planes - 1](p, j, k);
    for (int64_t i = done; i < p->rows; i += 2 * TILE)
        for (int64_t n = j; n < end; n += PANEL)
            multiply_block(p, i, n, k);
}

/* With few rows memory is the limit, and the fill buffers that prefetches hold are what the loads
 * wait for: none is better (3 % at 16 rows, x3 12 %). */
static struct ahead prefetch_plan(const struct product *p, const char *next, size_t bytes)
{
    int64_t steps = ceil_div(p->columns, PANEL) * ceil_div(p->rows, 2 * TILE) *
                    (p->depth > 0 ? ceil_div(p->depth, DEPTH) : 1);
    if (next == NULL || steps == 0 || p->rows <= FEW_ROWS)
        return (struct ahead){0};
    return (struct ahead){next, next + bytes, ceil_div((int64_t)bytes, steps * LINE) * LINE};
}

static void multiply(const struct engine_left *left, int64_t row0, int64_t rows,
                     const struct engine_right *right, int64_t column0, int64_t columns,
                     int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                     size_t next_bytes, void *scratch)
{
    struct product p = {
        .left = left,
        .right = right,
        .row0 = row0,
        .rows = rows,
        .column0 = column0,
        .columns = columns,
        .depth = depth,
        .c = c,
        .c_stride = c_stride,
        .add = add,
        .scratch = scratch,
    };
    int64_t group = group_columns(left);
    p.ahead = prefetch_plan(&p, next, next_bytes);
    for (int64_t j = 0; j < columns; j += group) {
        int64_t k = 0;
        do {
            multiply_columns(&p, j, k);
            k += depth_block(left);
        } while (k < depth);
    }
}

const struct engine_kernel *engine_kernel_amx_bf16(void)
{
    static const struct engine_kernel kernel = {
        .name = "amx_bf16",
        .acquire = acquire,
        .release = release,
        .takes_bias = true,
        .left_init = left_init_bf16,
        .left_write = engine_operands_amx_write_left,
        .right_init = right_init_bf16,
        .right_write_rows = engine_operands_amx_write_rows,
        .right_write_columns = engine_operands_amx_write_columns,
        .scratch_bytes = sizeof(struct scratch),
        .multiply = multiply,
        .finish = engine_kernel_vectors_finish,
        .scale = engine_kernel_vectors_scale,
        .softmax = engine_softmax_amx_rows,
        .copy = engine_softmax_amx_copy,
    };
    return engine_cpu()->amx ? &kernel : NULL;
}

const struct engine_kernel *engine_kernel_amx_x3(void)
{
    static const struct engine_kernel kernel = {
        .name = "amx_x3",
        .acquire = acquire,
        .release = release,
        .takes_bias = true,
        .left_init = left_init_x3,
        .left_write = engine_operands_amx_write_left,
        .right_init = right_init_x3,
        .right_write_rows = engine_operands_amx_write_rows,
        .right_write_columns = engine_operands_amx_write_columns,
        .scratch_bytes = sizeof(struct scratch),
        .multiply = multiply,
        .finish = engine_kernel_vectors_finish,
        .scale = engine_kernel_vectors_scale,
        .softmax = engine_softmax_amx_rows,
        .copy = engine_softmax_amx_copy,
    };
    return engine_cpu()->amx ? &kernel : NULL;
}

const struct engine_kernel *engine_kernel_amx_x6(void)
{
    static const struct engine_kernel kernel = {
        .name = "amx_x6",
        .acquire = acquire,
        .release = release,
        .takes_bias = true,
        .left_init = left_init_x6,
        .left_write = engine_operands_amx_write_left,
        .right_init = right_init_x6,
        .right_write_rows = engine_operands_amx_write_rows,
        .right_write_columns = engine_operands_amx_write_columns,
        .scratch_bytes = sizeof(struct scratch),
        .multiply = multiply,
        .finish = engine_kernel_vectors_finish,
        .scale = engine_kernel_vectors_scale,
        .softmax = engine_softmax_amx_rows,
        .copy = engine_softmax_amx_copy,
    };
    return engine_cpu()->amx ? &kernel : NULL;
}
