/* calibrate.c - see calibrate.h. */
#include "engine/calibrate.h"

#include <stdlib.h>
#include <time.h>

#include "engine/openmp.h"

/* The product of a small call with weights; C and both operands lie in L2. The first round is not
 * special: it warms up, and the best of all counts. */
enum { ROWS = 64, DEPTH = 768, COLUMNS = 192, ROUNDS = 4 };

struct product {
    const struct engine_kernel *kernel;
    struct engine_left left;
    struct engine_right right;
    float *c;
    void *scratch;
    double best_s;
};

static void *memory(size_t bytes)
{
    return aligned_alloc(64, (bytes + 127) & ~(size_t)63);
}

static void reset(struct product *p)
{
    free(p->left.data);
    free(p->right.data);
    free(p->c);
    free(p->scratch);
}

/* Operands of equal rows: the time does not depend on what is multiplied. */
static bool open(struct product *p, const struct engine_kernel *kernel)
{
    float row[DEPTH];
    for (int i = 0; i < DEPTH; i++)
        row[i] = 0.5f;
    *p = (struct product){.kernel = kernel, .best_s = 1e9};
    p->left.data = memory(kernel->left_init(&p->left, ROWS, DEPTH));
    p->right.data = memory(kernel->right_init(&p->right, DEPTH, COLUMNS, false));
    p->c = memory(ROWS * COLUMNS * sizeof *p->c);
    p->scratch = memory(kernel->scratch_bytes);
    if (p->left.data == NULL || p->right.data == NULL || p->c == NULL || p->scratch == NULL)
        return false;
    kernel->left_write(&p->left, 0, ROWS, 0, DEPTH, row, 0);
    kernel->right_write_rows(&p->right, 0, DEPTH, 0, COLUMNS, row, 0);
    return true;
}

/* Of this thread: what others compute meanwhile does not count. */
static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static enum engine_code run(struct product *p, struct engine_error *err)
{
    const struct engine_kernel *kernel = p->kernel;
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(1); /* oneDNN's as well */
    if (kernel->acquire != NULL)
        kernel->acquire();
    double start = now_s();
    kernel->multiply(&p->left, 0, ROWS, &p->right, 0, COLUMNS, DEPTH, p->c, COLUMNS, false, NULL, 0,
                     p->scratch);
    double seconds = now_s() - start;
    if (kernel->release != NULL)
        kernel->release();
    omp_set_num_threads(threads_before);
    p->best_s = seconds < p->best_s ? seconds : p->best_s;
    return kernel->outcome != NULL ? kernel->outcome(err) : ENGINE_OK;
}

enum engine_code engine_calibrate_speed(const struct engine_kernel *kernel,
                                        const struct engine_kernel *usual, double *ret_speed,
                                        struct engine_error *err)
{
    struct product timed = {0}, beside = {0};
    enum engine_code code = ENGINE_OK;
    if (!open(&timed, kernel) || !open(&beside, usual)) {
        code = engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to time the %s kernel",
                                kernel->name);
        goto out;
    }
    for (int i = 0; i < ROUNDS && code == ENGINE_OK; i++) {
        code = run(&beside, err);
        if (code == ENGINE_OK)
            code = run(&timed, err);
    }
    *ret_speed = beside.best_s / timed.best_s;
out:
    reset(&timed);
    reset(&beside);
    return code;
}

enum engine_code engine_calibrate_rate(const struct engine_kernel *kernel, double enough,
                                       double *ret_rate, struct engine_error *err)
{
    struct product timed = {0};
    enum engine_code code = ENGINE_OK;
    *ret_rate = 0;
    if (!open(&timed, kernel))
        code = engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to time the %s kernel",
                                kernel->name);
    for (int i = 0; i < ROUNDS && code == ENGINE_OK && *ret_rate < enough; i++) {
        code = run(&timed, err);
        *ret_rate = (double)(2 * ROWS * DEPTH * COLUMNS) / timed.best_s;
    }
    reset(&timed);
    return code;
}
