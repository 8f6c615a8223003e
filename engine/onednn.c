/* onednn.c - see onednn.h. */
#include "engine/onednn.h"

#include <oneapi/dnnl/dnnl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* Rows of a call, and the fewest; columns and depth of a call at most. */
enum { TILE_ROWS = 120, PART_ROWS = 72, LEAST_ROWS = 16, TILE_COLUMNS = 512, TILE_DEPTH = 768 };

void engine_onednn_version(char *text, size_t size)
{
    const dnnl_version_t *version = dnnl_version();
    snprintf(text, size, "%d.%d.%d", version->major, version->minor, version->patch);
}

bool engine_onednn_limit(enum engine_cpu_level level)
{
    dnnl_cpu_isa_t isa = level == ENGINE_CPU_AVX512 ? dnnl_cpu_isa_avx512_core
                         : level == ENGINE_CPU_AVX2 ? dnnl_cpu_isa_avx2
                                                    : dnnl_cpu_isa_sse41;
    return level == ENGINE_CPU_UNLIMITED || dnnl_set_max_cpu_isa(isa) == dnnl_success;
}

static size_t left_init(struct engine_left *left, int64_t rows, int64_t depth)
{
    left->depth = left->stride = depth;
    return (size_t)rows * (size_t)depth * sizeof(float);
}

static void copy_rows(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                      int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * to_stride, from + i * from_stride, (size_t)columns * sizeof(float));
}

static void left_write(const struct engine_left *left, int64_t row0, int64_t rows, int64_t column0,
                       int64_t columns, const float *tile, int64_t tile_stride)
{
    copy_rows((float *)left->data + row0 * left->stride + column0, left->stride, tile, tile_stride,
              rows, columns);
}

static size_t right_init(struct engine_right *right, int64_t depth, int64_t columns,
                         bool transposed)
{
    right->depth = depth;
    right->columns = columns;
    right->transposed = transposed;
    return (size_t)depth * (size_t)columns * sizeof(float);
}

static void right_write_rows(const struct engine_right *right, int64_t k0, int64_t rows,
                             int64_t column0, int64_t columns, const float *tile,
                             int64_t tile_stride)
{
    copy_rows((float *)right->data + k0 * right->columns + column0, right->columns, tile,
              tile_stride, rows, columns);
}

/* Kept as it comes, [columns][depth]: sgemm reads it transposed. */
static void right_write_columns(const struct engine_right *right, int64_t n0, int64_t count,
                                const float *tile, int64_t tile_stride)
{
    copy_rows((float *)right->data + n0 * right->depth, right->depth, tile, tile_stride, count,
              right->depth);
}

/* ---- failures --------------------------------------------------------------------------- */

/* Of the first call on this thread that failed since it was last asked. C is garbage then. */
static _Thread_local dnnl_status_t failure;

static const char *status_name(dnnl_status_t status)
{
    return status == dnnl_invalid_arguments ? "invalid arguments"
           : status == dnnl_unimplemented   ? "unimplemented"
           : status == dnnl_runtime_error   ? "runtime error"
                                            : "unexpected";
}

bool engine_onednn_makes_code(void)
{
    const size_t bytes = 4096;
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return true; /* no memory is another reason */
    bool may = mprotect(page, bytes, PROT_READ | PROT_EXEC) == 0;
    munmap(page, bytes);
    return may;
}

static enum engine_code outcome(struct engine_error *err)
{
    dnnl_status_t status = failure;
    failure = dnnl_success;
    if (status == dnnl_success)
        return ENGINE_OK;
    if (status == dnnl_out_of_memory)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for a product of oneDNN");
    return engine_error_set(err, ENGINE_INTERNAL, "a product of oneDNN failed: %s (status %d)%s",
                            status_name(status), (int)status,
                            engine_onednn_makes_code() ? "" : ENGINE_ONEDNN_NO_CODE);
}

/* ---- products --------------------------------------------------------------------------- */

struct product {
    const struct engine_left *left;
    const struct engine_right *right;
    float *scratch;
};

/* One call: a tile of rows, columns and depth that no limit above forbids. */
static void call(const struct product *p, const float *a, int64_t a_stride, int64_t rows,
                 int64_t column0, int64_t columns, int64_t k0, int64_t depth, float *c,
                 int64_t c_stride, bool add)
{
    const float *b = p->right->data;
    bool transposed = p->right->transposed;
    int64_t b_stride = transposed ? p->right->depth : p->right->columns;
    b += transposed ? column0 * b_stride + k0 : k0 * b_stride + column0;
    dnnl_status_t status = dnnl_sgemm('N', transposed ? 'T' : 'N', rows, columns, depth, 1.0f, a,
                                      a_stride, b, b_stride, add ? 1.0f : 0.0f, c, c_stride);
    if (failure == dnnl_success)
        failure = status;
}

/* Fewer than LEAST_ROWS rows: padded with copies of the last one, in scratch. */
static void call_few(const struct product *p, const float *a, int64_t rows, int64_t column0,
                     int64_t columns, int64_t k0, int64_t depth, float *c, int64_t c_stride,
                     bool add)
{
    float *padded_a = p->scratch, *padded_c = p->scratch + LEAST_ROWS * TILE_DEPTH;
    for (int64_t i = 0; i < LEAST_ROWS; i++) {
        int64_t row = i < rows ? i : rows - 1;
        memcpy(padded_a + i * depth, a + row * p->left->stride, (size_t)depth * sizeof(float));
        if (add)
            memcpy(padded_c + i * columns, c + row * c_stride, (size_t)columns * sizeof(float));
    }
    call(p, padded_a, depth, LEAST_ROWS, column0, columns, k0, depth, padded_c, columns, add);
    copy_rows(c, c_stride, padded_c, columns, rows, columns);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* oneDNN's AVX2 code takes rows by six; the last one to three of a call, and more of them in some
 * calls above 72, go another way and round otherwise. Their numbers must not depend on how many
 * rows come before: only counts that have no such rows are handed over (found by trying all up to
 * 128). One to three rows that are left make a call of their own, padded. */
static int64_t rows_of_call(int64_t rows)
{
    if (rows >= TILE_ROWS)
        return TILE_ROWS;
    if (rows > PART_ROWS)
        return PART_ROWS;
    if (rows < LEAST_ROWS || rows % 6 == 0 || rows % 6 > 3)
        return rows;
    return rows - rows % 6;
}

static void multiply_tile(const struct product *p, int64_t row0, int64_t rows, int64_t column0,
                          int64_t columns, int64_t depth, float *c, int64_t c_stride, bool add)
{
    for (int64_t k = 0; k < depth; k += TILE_DEPTH) {
        const float *a = (const float *)p->left->data + row0 * p->left->stride + k;
        int64_t k_count = least(TILE_DEPTH, depth - k);
        bool sum = add || k > 0;
        if (rows < LEAST_ROWS)
            call_few(p, a, rows, column0, columns, k, k_count, c, c_stride, sum);
        else
            call(p, a, p->left->stride, rows, column0, columns, k, k_count, c, c_stride, sum);
    }
}

static void multiply(const struct engine_left *left, int64_t row0, int64_t rows,
                     const struct engine_right *right, int64_t column0, int64_t columns,
                     int64_t depth, float *c, int64_t c_stride, bool add, const void *next,
                     size_t next_bytes, void *scratch)
{
    const struct product p = {left, right, scratch};
    (void)next, (void)next_bytes; /* sgemm copies its operands; a prefetch would come too late */
    if (depth == 0 && !add)
        for (int64_t i = 0; i < rows; i++)
            memset(c + i * c_stride, 0, (size_t)columns * sizeof(float));
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS)
        for (int64_t i = 0, count; i < rows; i += count) {
            count = rows_of_call(rows - i);
            multiply_tile(&p, row0 + i, count, column0 + j, least(TILE_COLUMNS, columns - j), depth,
                          c + i * c_stride + j, c_stride, add);
        }
}

const struct engine_kernel *engine_kernel_sgemm(void)
{
    static const struct engine_kernel kernel = {
        .name = "sgemm",
        .left_is_plain = true,
        .left_init = left_init,
        .left_write = left_write,
        .right_init = right_init,
        .right_write_rows = right_write_rows,
        .right_write_columns = right_write_columns,
        .scratch_bytes = LEAST_ROWS * (TILE_DEPTH + TILE_COLUMNS) * sizeof(float),
        .multiply = multiply,
        .outcome = outcome,
    };
    return &kernel;
}
