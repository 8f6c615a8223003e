/* bench_ceilings.c - see bench_ceilings.h.
 *
 * The loops over registers are assembly: a compiler may neither fold nor reorder them. They name
 * registers 0 to 15 only, so that the file is compiled for the plain processor and runs them only
 * where engine/cpu.c saw the instructions. */
#include "tests/bench/bench_ceilings.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/cpu.h"
#include "engine/kernel.h"
#include "engine/openmp.h"
#include "tests/bench/bench_turn.h"

enum { ROWS = 128, WIDTH = 768, CHUNKS = 16, LOOPS = 20000, HOT_TURN_MS = 5 };
enum { HUGE_PAGE = 2 << 20 };

const char *const bench_ceilings_names[BENCH_CEILINGS] = {
    "sgemm", "bf16 matmul", "FMA peak", "AMX peak", "memory read", "memory copy",
};

/* An operand pair of one kernel, written once. */
struct product {
    const struct engine_kernel *kernel;
    struct engine_left left;
    struct engine_right right;
    float *c;
    void *scratch;
};

struct worker {
    pthread_t thread;
    struct bench_ceilings *all;
    struct product products[2]; /* sgemm, bf16 */
    char *memory;               /* of all->share bytes */
    size_t chunk;               /* the next one of CHUNKS */
    double work;                /* flops or bytes of the last call */
    double rate;                /* of the turn, 1e9 a second */
};

struct bench_ceilings {
    int threads;
    size_t share; /* bytes of memory of one thread */
    size_t hot;   /* of one thread, in the turn that runs */
    void *memory;
    struct worker *workers;
    pthread_barrier_t together;
    double (*call)(void *worker); /* of the turn that runs */
    double turn_ms;
};

/* ---- matmuls -------------------------------------------------------------------------------- */

static void *take(size_t bytes)
{
    void *ret = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (ret == NULL)
        bench_turn_fail("%s", "no memory for the ceilings");
    return ret;
}

static void open_product(struct product *p, const struct engine_kernel *kernel)
{
    p->kernel = kernel;
    if (kernel == NULL)
        return;
    float *values = bench_turn_numbers((size_t)WIDTH * WIDTH);
    p->left.data = take(kernel->left_init(&p->left, ROWS, WIDTH));
    kernel->left_write(&p->left, 0, ROWS, 0, WIDTH, values, WIDTH);
    p->right.data = take(kernel->right_init(&p->right, WIDTH, WIDTH, false));
    kernel->right_write_rows(&p->right, 0, WIDTH, 0, WIDTH, values, WIDTH);
    p->c = bench_turn_numbers((size_t)ROWS * WIDTH);
    p->scratch = take(kernel->scratch_bytes);
    free(values);
}

static void close_product(struct product *p)
{
    free(p->left.data);
    free(p->right.data);
    free(p->c);
    free(p->scratch);
}

static double run_product(struct worker *w, const struct product *p)
{
    double start = bench_turn_now_ms();
    if (p->kernel->acquire != NULL)
        p->kernel->acquire();
    p->kernel->multiply(&p->left, 0, ROWS, &p->right, 0, WIDTH, WIDTH, p->c, WIDTH, false, NULL, 0,
                        p->scratch);
    if (p->kernel->release != NULL)
        p->kernel->release();
    w->work = 2.0 * ROWS * WIDTH * WIDTH;
    return bench_turn_now_ms() - start;
}

static double run_sgemm(void *worker)
{
    struct worker *w = worker;
    return run_product(w, &w->products[0]);
}

static double run_bf16(void *worker)
{
    struct worker *w = worker;
    return run_product(w, &w->products[1]);
}

/* ---- peaks ---------------------------------------------------------------------------------- */

/* Twelve sums hide the latency of two ports; all numbers are 0. */
#define FMA(r, i) "vfmadd231ps %%" r "14, %%" r "15, %%" r #i "\n\t"
#define FMA_LOOP(r)                                                                                \
    __asm__ volatile("1:\n\t" FMA(r, 0) FMA(r, 1) FMA(r, 2) FMA(r, 3) FMA(r, 4) FMA(r, 5)          \
                         FMA(r, 6) FMA(r, 7) FMA(r, 8) FMA(r, 9) FMA(r, 10)                        \
                             FMA(r, 11) "dec %0\n\tjnz 1b\n\tvzeroupper"                           \
                     : "+r"(loops)::"cc", VECTOR_REGISTERS)
#define VECTOR_REGISTERS                                                                           \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

static double run_fma(void *worker)
{
    struct worker *w = worker;
    long loops = LOOPS;
    bool wide = engine_cpu()->avx512;
    double start = bench_turn_now_ms();
    __asm__ volatile("vzeroall" ::: VECTOR_REGISTERS);
    if (wide)
        FMA_LOOP("zmm");
    else
        FMA_LOOP("ymm");
    w->work = 2.0 * 12 * (wide ? 16 : 8) * LOOPS;
    return bench_turn_now_ms() - start;
}

/* Four sums of 16 x 16, operands of 16 x 32. Tiles are configured and left within the call: the
 * kernels of the engine configure their own. */
static double run_amx(void *worker)
{
    struct worker *w = worker;
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = 16;
    }
    long loops = LOOPS;
    double start = bench_turn_now_ms();
    __asm__ volatile("ldtilecfg %1\n\t"
                     "1:\n\t"
                     "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
                     "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
                     "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
                     "tdpbf16ps %%tmm7, %%tmm5, %%tmm3\n\t"
                     "dec %0\n\t"
                     "jnz 1b\n\t"
                     "tilerelease"
                     : "+r"(loops)
                     : "m"(config)
                     : "cc");
    w->work = 2.0 * 4 * 16 * 16 * 32 * LOOPS;
    return bench_turn_now_ms() - start;
}

/* ---- bandwidths ----------------------------------------------------------------------------- */

#define LOAD(r, at, i) "vmovaps " #at "(%0), %%" r #i "\n\t"
#define LOAD_LOOP(r, a, b, c, d, step)                                                             \
    __asm__ volatile("1:\n\t" LOAD(r, a, 0) LOAD(r, b, 1) LOAD(r, c, 2)                            \
                         LOAD(r, d, 3) "add $" step ", %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"    \
                     : "+r"(from)                                                                  \
                     : "r"(end)                                                                    \
                     : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3")

/* Bytes: a multiple of 256, not 0; from is 64-byte aligned. */
static void read_bytes(const char *from, size_t bytes)
{
    const char *end = from + bytes;
    if (engine_cpu()->avx512) {
        LOAD_LOOP("zmm", 0, 64, 128, 192, "256");
    } else if (engine_cpu()->avx2) {
        LOAD_LOOP("ymm", 0, 32, 64, 96, "128");
    } else {
        for (; from < end; from += sizeof(uint64_t))
            (void)*(const volatile uint64_t *)(const void *)from;
    }
}

static double run_read(void *worker)
{
    struct worker *w = worker;
    size_t bytes = w->all->share / CHUNKS;
    w->chunk = (w->chunk + 1) % CHUNKS;
    double start = bench_turn_now_ms();
    read_bytes(w->memory + w->chunk * bytes, bytes);
    w->work = (double)bytes;
    return bench_turn_now_ms() - start;
}

/* From the first half to the second. */
static double run_copy(void *worker)
{
    struct worker *w = worker;
    size_t bytes = w->all->share / CHUNKS;
    w->chunk = (w->chunk + 1) % (CHUNKS / 2);
    char *from = w->memory + w->chunk * bytes;
    double start = bench_turn_now_ms();
    memcpy(from + bytes * (CHUNKS / 2), from, bytes);
    w->work = 2.0 * (double)bytes;
    return bench_turn_now_ms() - start;
}

static double run_hot_read(void *worker)
{
    struct worker *w = worker;
    double start = bench_turn_now_ms();
    read_bytes(w->memory, w->all->hot);
    w->work = (double)w->all->hot;
    return bench_turn_now_ms() - start;
}

/* ---- turns ---------------------------------------------------------------------------------- */

static void *work(void *argument)
{
    struct worker *w = argument;
    omp_set_num_threads(1); /* holds for the thread that says it: sgemm must not start a team */
    pthread_barrier_wait(&w->all->together);
    double ms = bench_turn_run(w->all->call, w, w->all->turn_ms);
    w->rate = w->work / ms * 1e-6;
    return NULL;
}

static double run_turn(struct bench_ceilings *ceilings, double (*call)(void *worker),
                       double turn_ms)
{
    double sum = 0;
    ceilings->call = call;
    ceilings->turn_ms = turn_ms;
    for (int i = 0; i < ceilings->threads; i++)
        if (pthread_create(&ceilings->workers[i].thread, NULL, work, &ceilings->workers[i]) != 0)
            bench_turn_fail("thread %d of the ceilings does not start", i + 1);
    for (int i = 0; i < ceilings->threads; i++) {
        pthread_join(ceilings->workers[i].thread, NULL);
        sum += ceilings->workers[i].rate;
    }
    return sum;
}

double bench_ceilings_turn(struct bench_ceilings *ceilings, enum bench_ceiling which)
{
    static double (*const calls[BENCH_CEILINGS])(void *worker) = {
        run_sgemm, run_bf16, run_fma, run_amx, run_read, run_copy,
    };
    bool lacks = (which == BENCH_BF16_MATMUL && ceilings->workers[0].products[1].kernel == NULL) ||
                 (which == BENCH_FMA_PEAK && !engine_cpu()->avx2) ||
                 (which == BENCH_AMX_PEAK && !engine_cpu()->amx);
    return lacks ? 0 : run_turn(ceilings, calls[which], BENCH_TURN_MS);
}

double bench_ceilings_hot_read(struct bench_ceilings *ceilings, size_t bytes)
{
    size_t share = bytes / (size_t)ceilings->threads;
    share = share < ceilings->share ? share : ceilings->share;
    ceilings->hot = share < 256 ? 256 : share / 256 * 256;
    return run_turn(ceilings, run_hot_read, HOT_TURN_MS);
}

/* ---- life ------------------------------------------------------------------------------------ */

static size_t memory_bytes(void)
{
    size_t least = (size_t)256 << 20, most = (size_t)1 << 30;
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t wish = cache > 0 ? 2 * (size_t)cache : least;
    return wish < least ? least : wish > most ? most : wish;
}

struct bench_ceilings *bench_ceilings_open(int threads)
{
    struct bench_ceilings *ret = calloc(1, sizeof *ret);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    size_t bytes = memory_bytes() / HUGE_PAGE * HUGE_PAGE;
    void *memory = aligned_alloc(HUGE_PAGE, bytes);
    if (ret == NULL || workers == NULL || memory == NULL)
        bench_turn_fail("no memory for the ceilings: they need %zu MB", bytes >> 20);
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);
    *ret = (struct bench_ceilings){.threads = threads, .workers = workers, .memory = memory};
    ret->share = bytes / (size_t)threads / (CHUNKS * 256) * (CHUNKS * 256);
    pthread_barrier_init(&ret->together, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        workers[i].all = ret;
        workers[i].memory = (char *)memory + (size_t)i * ret->share;
        open_product(&workers[i].products[0], engine_kernel_sgemm());
        open_product(&workers[i].products[1], engine_kernel_amx_bf16());
    }
    return ret;
}

void bench_ceilings_close(struct bench_ceilings *ceilings)
{
    if (ceilings == NULL)
        return;
    for (int i = 0; i < ceilings->threads; i++) {
        close_product(&ceilings->workers[i].products[0]);
        close_product(&ceilings->workers[i].products[1]);
    }
    pthread_barrier_destroy(&ceilings->together);
    free(ceilings->memory);
    free(ceilings->workers);
    free(ceilings);
}
