/* kernels.c - every kernel of engine/kernel.h and every form of the softmax on the shapes that the
 * layer has, on one thread: GF/s, and nanoseconds per element. Kernels take turns, round after
 * round; the best round counts, so that a neighbour matters less. Not part of the tests.
 *
 * kernels [rounds [name]]: "projection", "four projections", "Q K", "P V" or "softmax" alone. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/cpu.h"
#include "engine/kernel.h"
#include "engine/openmp.h"
#include "engine/softmax.h"

enum { KERNELS = 6, MAX_BLOCKS = 64 };
#define TURN_S 0.004

/* A product as the schedule does it: weights in blocks of columns, the next one prefetched, or an
 * attention tile. */
static const struct shape {
    const char *name;
    int64_t rows, depth, columns;
    bool weights, transposed;
} shapes[] = {
    {"projection", 1, 768, 768, true, false},
    {"projection", 4, 768, 768, true, false},
    {"projection", 16, 768, 768, true, false},
    {"projection", 64, 768, 768, true, false},
    {"projection", 128, 768, 768, true, false},
    {"projection", 256, 768, 768, true, false},
    {"four projections", 1, 768, 3072, true, false},
    {"four projections", 16, 768, 3072, true, false},
    {"four projections", 128, 768, 3072, true, false},
    {"Q K", 128, 64, 128, false, true},
    {"Q K", 128, 64, 512, false, true},
    {"Q K", 32, 64, 2048, false, true},
    {"Q K", 16, 64, 16, false, true},
    {"P V", 128, 128, 64, false, false},
    {"P V", 128, 512, 64, false, false},
    {"P V", 32, 2048, 64, false, false},
    {"P V", 128, 2048, 64, false, false},
    {"P V", 16, 16, 64, false, false},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *memory(size_t bytes)
{
    void *ret = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (ret == NULL)
        exit(1);
    memset(ret, 0, (bytes + 127) / 64 * 64);
    return ret;
}

static float *numbers(int64_t count)
{
    float *values = memory((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(((uint64_t)i * 2654435761u) % 2001) / 1000.0f - 1.0f;
    return values;
}

/* ---- products ------------------------------------------------------------------------------- */

struct product {
    const struct engine_kernel *kernel;
    const struct shape *shape;
    struct engine_left left;
    struct engine_right rights[MAX_BLOCKS];
    size_t bytes;
    int64_t blocks, block_columns;
    float *c;
    void *scratch, *packed;
    double best_s;
};

static void open_right(struct product *p, struct engine_right *right, char **at, int64_t columns,
                       const float *values)
{
    size_t bytes = p->kernel->right_init(right, p->shape->depth, columns, p->shape->transposed);
    right->data = *at;
    *at += (bytes + 63) / 64 * 64;
    if (p->shape->transposed)
        p->kernel->right_write_columns(right, 0, columns, values, p->shape->depth);
    else
        p->kernel->right_write_rows(right, 0, p->shape->depth, 0, columns, values, columns);
}

static void open_product(struct product *p, const struct engine_kernel *kernel,
                         const struct shape *shape)
{
    *p = (struct product){.kernel = kernel, .shape = shape, .best_s = 1e9};
    p->block_columns = !shape->weights                   ? shape->columns
                       : kernel == engine_kernel_sgemm() ? 256
                                                         : 64;
    p->blocks = shape->columns / p->block_columns;
    float *l = numbers(shape->rows * shape->depth), *r = numbers(shape->depth * shape->columns);
    struct engine_right size;
    p->bytes = kernel->right_init(&size, shape->depth, p->block_columns, shape->transposed);
    char *at = p->packed = memory((p->bytes + 64) * (size_t)p->blocks);
    for (int64_t b = 0; b < p->blocks; b++)
        open_right(p, &p->rights[b], &at, p->block_columns, r);
    p->left.data = memory(kernel->left_init(&p->left, shape->rows, shape->depth));
    kernel->left_write(&p->left, 0, shape->rows, 0, shape->depth, l, shape->depth);
    p->c = memory((size_t)(shape->rows * shape->columns) * sizeof *p->c);
    p->scratch = memory(kernel->scratch_bytes);
    free(l);
    free(r);
}

static void reset_product(struct product *p)
{
    free(p->left.data);
    free(p->packed);
    free(p->c);
    free(p->scratch);
}

static void run_product(const struct product *p)
{
    for (int64_t b = 0; b < p->blocks; b++) {
        const void *next = b + 1 < p->blocks ? p->rights[b + 1].data : p->rights[0].data;
        p->kernel->multiply(&p->left, 0, p->shape->rows, &p->rights[b], 0, p->block_columns,
                            p->shape->depth, p->c + b * p->block_columns, p->shape->columns, false,
                            p->blocks > 1 ? next : NULL, p->blocks > 1 ? p->bytes : 0, p->scratch);
    }
}

static void time_product(struct product *p)
{
    if (p->kernel->acquire != NULL)
        p->kernel->acquire();
    double end = now_s() + TURN_S;
    for (double start = now_s(); start < end;) {
        run_product(p);
        double stop = now_s();
        p->best_s = stop - start < p->best_s ? stop - start : p->best_s;
        start = stop;
    }
    if (p->kernel->release != NULL)
        p->kernel->release();
}

static void compare_products(const struct shape *shape, int rounds)
{
    const struct engine_kernel *kernels[KERNELS] = {
        engine_kernel_sgemm(),    engine_kernel_avx512(), engine_kernel_avx512_bf16(),
        engine_kernel_amx_bf16(), engine_kernel_amx_x3(), engine_kernel_amx_x6()};
    struct product products[KERNELS];
    for (int i = 0; i < KERNELS; i++)
        if (kernels[i] != NULL)
            open_product(&products[i], kernels[i], shape);
    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < KERNELS; i++)
            if (kernels[i] != NULL)
                time_product(&products[i]);
    printf("%-18s %4lld x %4lld x %4lld", shape->name, (long long)shape->rows,
           (long long)shape->depth, (long long)shape->columns);
    double flops = 2.0 * (double)shape->rows * (double)shape->depth * (double)shape->columns;
    for (int i = 0; i < KERNELS; i++) {
        if (kernels[i] == NULL)
            continue;
        printf("  %s %6.0f", kernels[i]->name, flops / products[i].best_s * 1e-9);
        reset_product(&products[i]);
    }
    printf("\n");
}

/* ---- softmax -------------------------------------------------------------------------------- */

/* Logits as they come out of a product: the copy is timed on its own and taken off. */
static double time_rows(engine_softmax_function *form, const struct engine_softmax_rows *rows,
                        const float *from)
{
    size_t bytes = (size_t)(rows->rows * rows->keys) * sizeof(float);
    double start = now_s();
    memcpy(rows->tile, from, bytes);
    double middle = now_s();
    if (form != NULL)
        form(rows);
    return form != NULL ? now_s() - middle : middle - start;
}

static void compare_softmax(int64_t rows_count, int64_t keys, int rounds)
{
    static const struct {
        const char *name;
        engine_softmax_function *form;
    } forms[] = {{"portable", engine_softmax_portable},
                 {"avx2", engine_softmax_avx2_rows},
                 {"avx512", engine_softmax_avx512_rows}};
    int count = engine_cpu()->avx512 ? 3 : engine_cpu()->avx2 ? 2 : 1;
    float *logits = numbers(rows_count * keys), *positions = numbers(2 * keys - 1);
    struct engine_softmax_rows rows = {.tile = numbers(rows_count * keys),
                                       .stride = keys,
                                       .rows = rows_count,
                                       .keys = keys,
                                       .position = positions,
                                       .position_length = keys,
                                       .adder = numbers(keys),
                                       .factors = numbers(rows_count)};
    printf("softmax %lld x %lld, ns/element:", (long long)rows_count, (long long)keys);
    for (int defer = 0; defer <= 1; defer++) {
        rows.defer = defer != 0;
        for (int i = 0; i < count; i++) {
            double best = 1e9;
            for (int round = 0; round < 20 * rounds; round++) {
                double s = time_rows(forms[i].form, &rows, logits);
                best = s < best ? s : best;
            }
            printf("  %s%s %.3f", forms[i].name, defer != 0 ? " deferred" : "",
                   best * 1e9 / (double)(rows_count * keys));
        }
    }
    printf("\n");
    free(logits);
    free(positions);
    free(rows.tile);
    free((float *)(uintptr_t)rows.adder);
    free(rows.factors);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 10;
    omp_set_num_threads(1);
    for (int i = 0; i < SHAPES; i++)
        if (argc < 3 || strcmp(argv[2], shapes[i].name) == 0)
            compare_products(&shapes[i], rounds);
    if (argc >= 3 && strcmp(argv[2], "softmax") != 0)
        return 0;
    compare_softmax(128, 128, rounds);
    compare_softmax(128, 512, rounds);
    compare_softmax(32, 2048, rounds);
    return 0;
}
