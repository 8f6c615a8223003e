/* engine_kernel_test.c - every kernel of kernel.h against a plain double loop: odd shapes, parts of
 * operands, live depths beside garbage, and elements whose bits depend on nothing beside them.
 * Kernels that this processor lacks are named on stdout; sgemm is always there. */
#include "engine/kernel.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/cpu.h"
#include "engine/tensor.h"

/* tolerance: of the sum of |l * r|, beside an exact sum of the operands as the kernel keeps them.
 * x3: operands to 2^-17, lo * lo left out, 2^-18; float32 sums of up to 1000 terms.
 * x6: operands exact, what is left out below 2^-22. */
static const struct subject {
    const struct engine_kernel *(*kernel)(void);
    const char *name;
    double tolerance;
    bool bf16;
} subjects[] = {
    {engine_kernel_sgemm, "sgemm", 2e-6, false},
    {engine_kernel_avx512, "avx512", 2e-6, false},
    {engine_kernel_avx512_bf16, "avx512 bf16", 2e-6, true},
    {engine_kernel_amx_bf16, "amx bf16", 2e-6, true},
    {engine_kernel_amx_x3, "amx x3", 2.5e-5, false},
    {engine_kernel_amx_x6, "amx x6", 6e-7, false},
};
enum { SUBJECTS = sizeof subjects / sizeof subjects[0] };

static uint32_t state = 1;

static float number(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state / 2147483648.0f;
}

/* Memory full of NaN. */
static void *garbage(size_t bytes)
{
    size_t all = (bytes + 63) / 64 * 64 + 64;
    void *memory = aligned_alloc(64, all);
    assert_non_null(memory);
    memset(memory, 0xff, all);
    return memory;
}

static float *matrix(int64_t rows, int64_t columns, int64_t stride)
{
    float *values = garbage((size_t)(rows * stride) * sizeof *values);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            values[i * stride + j] = number();
    return values;
}

/* A product of whole operands, made of float32 matrices l (rows x depth) and r (depth x columns).
 */
struct product {
    const struct subject *subject;
    const struct engine_kernel *kernel;
    int64_t rows, depth, columns, l_stride;
    float *l, *r;
    struct engine_left left;
    struct engine_right right;
    void *scratch;
};

static void write_left(struct product *p)
{
    size_t bytes = p->kernel->left_init(&p->left, p->rows, p->depth);
    p->left.data = garbage(bytes);
    int64_t half = p->rows / 2, split = p->depth / 3;
    p->kernel->left_write(&p->left, 0, half, 0, p->depth, p->l, p->l_stride);
    p->kernel->left_write(&p->left, half, p->rows - half, 0, split, p->l + half * p->l_stride,
                          p->l_stride);
    p->kernel->left_write(&p->left, half, p->rows - half, split, p->depth - split,
                          p->l + half * p->l_stride + split, p->l_stride);
}

static void write_right(struct product *p, bool transposed)
{
    size_t bytes = p->kernel->right_init(&p->right, p->depth, p->columns, transposed);
    p->right.data = garbage(bytes);
    if (!transposed) {
        int64_t k = p->depth / 2 / 2 * 2, n = p->columns / 2 / 16 * 16;
        p->kernel->right_write_rows(&p->right, 0, k, 0, p->columns, p->r, p->columns);
        p->kernel->right_write_rows(&p->right, k, p->depth - k, 0, n, p->r + k * p->columns,
                                    p->columns);
        p->kernel->right_write_rows(&p->right, k, p->depth - k, n, p->columns - n,
                                    p->r + k * p->columns + n, p->columns);
        return;
    }
    float *keys = garbage((size_t)(p->columns * p->depth) * sizeof *keys);
    for (int64_t n = 0; n < p->columns; n++)
        for (int64_t k = 0; k < p->depth; k++)
            keys[n * p->depth + k] = p->r[k * p->columns + n];
    int64_t first = p->columns / 2 / 16 * 16;
    p->kernel->right_write_columns(&p->right, 0, first, keys, p->depth);
    p->kernel->right_write_columns(&p->right, first, p->columns - first, keys + first * p->depth,
                                   p->depth);
    free(keys);
}

static void make(struct product *p, const struct subject *subject, int64_t rows, int64_t depth,
                 int64_t columns, bool transposed)
{
    *p = (struct product){.subject = subject, .kernel = subject->kernel()};
    p->rows = rows;
    p->depth = depth;
    p->columns = columns;
    p->l_stride = depth + 3;
    p->l = matrix(rows, depth, p->l_stride);
    p->r = matrix(depth, columns, columns);
    write_left(p);
    write_right(p, transposed);
    p->scratch = garbage(p->kernel->scratch_bytes);
}

static void reset(struct product *p)
{
    free(p->l);
    free(p->r);
    free(p->left.data);
    free(p->right.data);
    free(p->scratch);
}

static void multiply(struct product *p, int64_t row0, int64_t rows, int64_t column0,
                     int64_t columns, int64_t depth, float *c, int64_t c_stride, bool add)
{
    if (p->kernel->acquire != NULL)
        p->kernel->acquire();
    p->kernel->multiply(&p->left, row0, rows, &p->right, column0, columns, depth, c, c_stride, add,
                        p->r, sizeof(float) * (size_t)(p->depth * p->columns), p->scratch);
    if (p->kernel->outcome != NULL)
        assert_int_equal(p->kernel->outcome(NULL), ENGINE_OK);
    if (p->kernel->release != NULL)
        p->kernel->release();
}

static double kept(const struct product *p, float value)
{
    return p->subject->bf16 ? (double)engine_tensor_bf16_value(engine_tensor_bf16_bits(value))
                            : (double)value;
}

/* The worst error of c, which holds factor * (rows row0.., columns column0..) + start, as a share
 * of the sum of |l * r|. */
static double worst(const struct product *p, int64_t row0, int64_t rows, int64_t column0,
                    int64_t columns, int64_t depth, const float *c, int64_t c_stride, double start)
{
    double ret = 0.0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            double sum = start, size = fabs(start) + 1e-30;
            for (int64_t k = 0; k < depth; k++) {
                double l = kept(p, p->l[(row0 + i) * p->l_stride + k]);
                double r = kept(p, p->r[k * p->columns + column0 + j]);
                sum += l * r;
                size += fabs(l * r);
            }
            double error = fabs((double)c[i * c_stride + j] - sum) / size;
            ret = !(error <= ret) ? error : ret;
        }
    return ret;
}

static void assert_close(const struct product *p, double error)
{
    if (!(error <= p->subject->tolerance))
        fail_msg("%s %lld x %lld x %lld: error %g, at most %g", p->subject->name,
                 (long long)p->rows, (long long)p->depth, (long long)p->columns, error,
                 p->subject->tolerance);
}

enum { MARGIN = 5 };

/* The product, and a sentinel around it. */
static double check_whole(struct product *p)
{
    int64_t stride = p->columns + MARGIN;
    float *c = garbage((size_t)((p->rows + 1) * stride) * sizeof *c);
    for (int64_t i = 0; i < (p->rows + 1) * stride; i++)
        c[i] = 7.0f;
    multiply(p, 0, p->rows, 0, p->columns, p->depth, c, stride, false);
    double error = worst(p, 0, p->rows, 0, p->columns, p->depth, c, stride, 0.0);
    assert_close(p, error);
    for (int64_t i = 0; i <= p->rows; i++)
        for (int64_t j = i < p->rows ? p->columns : 0; j < stride; j++)
            assert_true(c[i * stride + j] == 7.0f);
    free(c);
    return error;
}

static void for_each_subject(double (*check)(const struct subject *))
{
    for (int i = 0; i < SUBJECTS; i++) {
        if (subjects[i].kernel() == NULL)
            printf("    %s: not on this processor\n", subjects[i].name);
        else
            printf("    %s: worst error %.2g of the sum of products\n", subjects[i].name,
                   check(&subjects[i]));
    }
}

/* ---- tests ---------------------------------------------------------------------------------- */

static double check_shape(const struct subject *subject, int64_t rows, int64_t depth,
                          int64_t columns)
{
    double ret = 0.0;
    for (int transposed = 0; transposed <= 1; transposed++) {
        struct product p;
        make(&p, subject, rows, depth, columns, transposed != 0);
        double error = check_whole(&p);
        ret = error > ret ? error : ret;
        reset(&p);
    }
    return ret;
}

static double check_rows(const struct subject *subject)
{
    double ret = 0.0;
    for (int64_t rows = 1; rows <= 40; rows++)
        ret = fmax(ret, check_shape(subject, rows, 37, 41));
    for (int64_t rows = 127; rows <= 129; rows++)
        ret = fmax(ret, check_shape(subject, rows, 64, 64));
    return ret;
}

static double check_depths(const struct subject *subject)
{
    double ret = 0.0;
    for (int64_t depth = 1; depth <= 70; depth++)
        ret = fmax(ret, check_shape(subject, 19, depth, 35));
    ret = fmax(ret, check_shape(subject, 33, 129, 65));
    ret = fmax(ret, check_shape(subject, 5, 512, 33));
    return fmax(ret, check_shape(subject, 17, 768, 70));
}

static double check_columns(const struct subject *subject)
{
    double ret = 0.0;
    for (int64_t columns = 1; columns <= 200; columns += columns < 70 ? 1 : 13)
        ret = fmax(ret, check_shape(subject, 13, 34, columns));
    return ret;
}

static void products_are_those_of_a_plain_loop_for_any_rows(void **unused)
{
    (void)unused;
    for_each_subject(check_rows);
}

static void products_are_those_of_a_plain_loop_for_any_depth(void **unused)
{
    (void)unused;
    for_each_subject(check_depths);
}

static void products_are_those_of_a_plain_loop_for_any_columns(void **unused)
{
    (void)unused;
    for_each_subject(check_columns);
}

/* Own kernels: bits of whole products, then of the same in pieces. */
static double check_pieces(const struct subject *subject)
{
    static const int64_t row_cuts[] = {0, 1, 6, 23, 40, 77}, column_cuts[] = {0, 64, 128, 150};
    struct product p;
    make(&p, subject, 77, 790, 150, false); /* beyond every block of depth */
    float *whole = garbage((size_t)(p.rows * p.columns) * sizeof *whole);
    float *pieces = garbage((size_t)(p.rows * p.columns) * sizeof *pieces);
    multiply(&p, 0, p.rows, 0, p.columns, p.depth, whole, p.columns, false);
    for (int i = 0; i + 1 < 6; i++)
        for (int j = 0; j + 1 < 4; j++)
            multiply(&p, row_cuts[i], row_cuts[i + 1] - row_cuts[i], column_cuts[j],
                     column_cuts[j + 1] - column_cuts[j], p.depth,
                     pieces + row_cuts[i] * p.columns + column_cuts[j], p.columns, false);
    assert_memory_equal(whole, pieces, (size_t)(p.rows * p.columns) * sizeof *whole);
    multiply(&p, 0, p.rows, 64, 7, p.depth, pieces, p.columns, false);
    for (int64_t i = 0; i < p.rows; i++)
        assert_memory_equal(whole + i * p.columns + 64, pieces + i * p.columns, 7 * sizeof(float));
    free(whole);
    free(pieces);
    reset(&p);
    return 0.0;
}

static void an_element_has_the_same_bits_whatever_is_computed_beside_it(void **unused)
{
    (void)unused;
    for (int i = 1; i < SUBJECTS; i++)
        if (subjects[i].kernel() != NULL)
            (void)check_pieces(&subjects[i]);
}

static double check_add(const struct subject *subject)
{
    struct product p;
    make(&p, subject, 21, 66, 75, false);
    float *c = garbage((size_t)(p.rows * p.columns) * sizeof *c);
    for (int64_t i = 0; i < p.rows * p.columns; i++)
        c[i] = 2.5f;
    multiply(&p, 0, p.rows, 0, p.columns, p.depth, c, p.columns, true);
    double error = worst(&p, 0, p.rows, 0, p.columns, p.depth, c, p.columns, 2.5);
    assert_close(&p, error);
    free(c);
    reset(&p);
    return error;
}

static void a_product_is_added_to_what_is_there(void **unused)
{
    (void)unused;
    for_each_subject(check_add);
}

/* Sums that begin with a bias have the bits of sums added to it; in every shape of a block's edge.
 */
static double check_bias(const struct subject *subject)
{
    static const int64_t shapes[][3] = {{21, 66, 75}, {64, 300, 64}, {70, 640, 130}, {1, 5, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0] && subject->kernel()->takes_bias; i++) {
        struct product p;
        make(&p, subject, shapes[i][0], shapes[i][1], shapes[i][2], false);
        float *bias = matrix(1, p.columns, p.columns);
        float *c = matrix(p.rows, p.columns, p.columns),
              *laid = matrix(p.rows, p.columns, p.columns);
        for (int64_t row = 0; row < p.rows; row++)
            memcpy(laid + row * p.columns, bias, (size_t)p.columns * sizeof *bias);
        multiply(&p, 0, p.rows, 0, p.columns, p.depth, laid, p.columns, true);
        p.right.bias = bias;
        multiply(&p, 0, p.rows, 0, p.columns, p.depth, c, p.columns, false);
        assert_memory_equal(c, laid, (size_t)(p.rows * p.columns) * sizeof *c);
        multiply(&p, 0, p.rows, 0, p.columns, p.depth, c, p.columns, true); /* no bias then */
        p.right.bias = NULL;
        multiply(&p, 0, p.rows, 0, p.columns, p.depth, laid, p.columns, true);
        assert_memory_equal(c, laid, (size_t)(p.rows * p.columns) * sizeof *c);
        free(bias), free(c), free(laid);
        reset(&p);
    }
    return 0.0;
}

static void sums_begin_with_the_bias(void **unused)
{
    (void)unused;
    for (int i = 0; i < SUBJECTS; i++)
        if (subjects[i].kernel() != NULL)
            (void)check_bias(&subjects[i]);
}

/* R is written up to "live" only, the rest stays NaN; L's columns from there on are NaN as well. */
static double check_live(const struct subject *subject)
{
    double ret = 0.0;
    for (int64_t live = 2; live <= 98; live += 2) {
        struct product p;
        make(&p, subject, 18, 99, 50, false);
        for (int64_t i = 0; i < p.rows; i++)
            for (int64_t k = live; k < p.depth; k++)
                p.l[i * p.l_stride + k] = NAN;
        memset(p.right.data, 0xff, p.kernel->right_init(&p.right, p.depth, p.columns, false));
        p.kernel->left_write(&p.left, 0, p.rows, 0, p.depth, p.l, p.l_stride);
        p.kernel->right_write_rows(&p.right, 0, live, 0, p.columns, p.r, p.columns);
        float c[18 * 50];
        multiply(&p, 0, p.rows, 0, p.columns, live, c, 50, false);
        double error = worst(&p, 0, p.rows, 0, p.columns, live, c, 50, 0.0);
        assert_close(&p, error);
        ret = fmax(ret, error);
        reset(&p);
    }
    return ret;
}

static void garbage_beyond_the_live_depth_does_not_matter(void **unused)
{
    (void)unused;
    for_each_subject(check_live);
}

static double check_empty(const struct subject *subject)
{
    struct product p;
    make(&p, subject, 9, 40, 20, false);
    float c[9 * 20], kept_c[9 * 20];
    memset(c, 0xff, sizeof c);
    multiply(&p, 0, 9, 0, 20, 0, c, 20, false);
    for (int i = 0; i < 9 * 20; i++)
        assert_true(c[i] == 0.0f);
    multiply(&p, 0, 9, 0, 20, 40, c, 20, false);
    memcpy(kept_c, c, sizeof c);
    multiply(&p, 0, 9, 0, 20, 0, c, 20, true);
    assert_memory_equal(c, kept_c, sizeof c);
    reset(&p);
    return 0.0;
}

static void a_product_of_depth_zero_is_zero_and_adds_nothing(void **unused)
{
    (void)unused;
    for (int i = 0; i < SUBJECTS; i++)
        if (subjects[i].kernel() != NULL)
            (void)check_empty(&subjects[i]);
}

/* Kernels that take float32 rows take them from any address and with any stride. */
static double check_plain(const struct subject *subject)
{
    struct product p;
    make(&p, subject, 15, 65, 64, true);
    if (!p.kernel->left_is_plain) {
        reset(&p);
        return 0.0;
    }
    float c[15 * 64];
    float *shifted = garbage(sizeof(float) * (size_t)(p.rows * p.l_stride + 1));
    memcpy(shifted + 1, p.l, sizeof(float) * (size_t)(p.rows * p.l_stride));
    void *packed = p.left.data;
    p.left = (struct engine_left){.data = shifted + 1, .depth = p.depth, .stride = p.l_stride};
    multiply(&p, 0, 15, 0, 64, p.depth, c, 64, false);
    double error = worst(&p, 0, 15, 0, 64, p.depth, c, 64, 0.0);
    assert_close(&p, error);
    p.left.data = packed;
    free(shifted);
    reset(&p);
    return error;
}

static void plain_left_rows_may_lie_anywhere(void **unused)
{
    (void)unused;
    for_each_subject(check_plain);
}

/* Parts of a number must not overflow where the number does not. */
static double check_greatest(const struct subject *subject)
{
    struct product p;
    make(&p, subject, 20, 40, 40, false);
    for (int k = 0; k < 40; k++)
        p.l[7 * p.l_stride + k] = k == 2 ? FLT_MAX : 0.0f;
    for (int64_t j = 0; j < 40; j++)
        p.r[2 * 40 + j] = 0.25f;
    free(p.left.data);
    free(p.right.data);
    write_left(&p);
    write_right(&p, false);
    float c[20 * 40];
    multiply(&p, 0, 20, 0, 40, 40, c, 40, false);
    bool is_exact = subject->kernel != engine_kernel_amx_x3 && !subject->bf16;
    for (int j = 0; j < 40 && is_exact; j++)
        assert_true(c[7 * 40 + j] == FLT_MAX / 4);
    reset(&p);
    return 0;
}

static void the_greatest_float_keeps_its_value(void **unused)
{
    (void)unused;
    for_each_subject(check_greatest);
}

/* One NaN and one infinity reach their own rows, and no other element; under x3 and x6 the
 * infinity becomes NaN (infinity * 0 of the low planes). */
static double check_special(const struct subject *subject)
{
    struct product p;
    make(&p, subject, 20, 40, 40, false);
    p.l[3 * p.l_stride + 39] = NAN;
    p.l[5 * p.l_stride + 2] = INFINITY;
    for (int64_t j = 0; j < 40; j++)
        p.r[2 * 40 + j] = 0.5f;
    free(p.left.data);
    free(p.right.data);
    write_left(&p);
    write_right(&p, false);
    float c[20 * 40];
    multiply(&p, 0, 20, 0, 40, 40, c, 40, false);
    for (int i = 0; i < 20; i++)
        for (int j = 0; j < 40; j++) {
            float value = c[i * 40 + j];
            if (i == 3)
                assert_true(isnan(value));
            else if (i == 5)
                assert_true(subject->kernel == engine_kernel_amx_x3 ||
                                    subject->kernel == engine_kernel_amx_x6
                                ? isnan(value)
                                : value == INFINITY);
            else
                assert_true(isfinite(value));
        }
    reset(&p);
    return 0.0;
}

static void nan_and_infinity_stay_in_their_rows(void **unused)
{
    (void)unused;
    for (int i = 1; i < SUBJECTS; i++)
        if (subjects[i].kernel() != NULL)
            (void)check_special(&subjects[i]);
}

static void check_finish(const struct engine_kernel *kernel, int64_t rows, int64_t columns,
                         bool biased)
{
    int64_t stride = columns + MARGIN;
    float *tile = matrix(rows, stride, stride), *bias = matrix(1, columns, columns);
    float *wanted = garbage((size_t)(rows * stride) * sizeof *wanted);
    uint32_t greatest = 0;
    memcpy(wanted, tile, (size_t)(rows * stride) * sizeof *wanted);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            uint32_t bits;
            wanted[i * stride + j] += biased ? bias[j] : 0.0f;
            memcpy(&bits, &wanted[i * stride + j], sizeof bits);
            bits &= 0x7fffffffu;
            greatest = bits > greatest ? bits : greatest;
        }
    uint32_t got = kernel->finish(tile, stride, rows, columns, biased ? bias : NULL);
    assert_int_equal(got, greatest);
    assert_memory_equal(tile, wanted, (size_t)(rows * stride) * sizeof *wanted);
    free(tile);
    free(bias);
    free(wanted);
}

static void finishing_a_tile_adds_the_bias_and_finds_the_greatest_value(void **unused)
{
    (void)unused;
    for (int i = 0; i < SUBJECTS; i++) {
        const struct engine_kernel *kernel = subjects[i].kernel();
        if (kernel == NULL || kernel->finish == NULL)
            continue;
        for (int64_t columns = 1; columns <= 130; columns++) {
            check_finish(kernel, 3, columns, true);
            check_finish(kernel, 2, columns, false);
        }
        float nan_tile[70] = {[66] = NAN, [3] = -INFINITY};
        assert_true(kernel->finish(nan_tile, 70, 1, 70, NULL) > 0x7f800000u);
        nan_tile[66] = 1.0f;
        assert_int_equal(kernel->finish(nan_tile, 70, 1, 70, NULL), 0x7f800000u);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_those_of_a_plain_loop_for_any_rows),
        cmocka_unit_test(products_are_those_of_a_plain_loop_for_any_depth),
        cmocka_unit_test(products_are_those_of_a_plain_loop_for_any_columns),
        cmocka_unit_test(an_element_has_the_same_bits_whatever_is_computed_beside_it),
        cmocka_unit_test(a_product_is_added_to_what_is_there),
        cmocka_unit_test(sums_begin_with_the_bias),
        cmocka_unit_test(garbage_beyond_the_live_depth_does_not_matter),
        cmocka_unit_test(a_product_of_depth_zero_is_zero_and_adds_nothing),
        cmocka_unit_test(plain_left_rows_may_lie_anywhere),
        cmocka_unit_test(the_greatest_float_keeps_its_value),
        cmocka_unit_test(nan_and_infinity_stay_in_their_rows),
        cmocka_unit_test(finishing_a_tile_adds_the_bias_and_finds_the_greatest_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
