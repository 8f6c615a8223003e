/* bench_roofline.c - see bench_roofline.h. */
#include "tests/bench/bench_roofline.h"

double bench_roofline_bytes(const struct bench_variant *variant, int batch, int tokens)
{
    double rows = (double)batch * tokens, heads_new = BENCH_HEADS - variant->reused;
    double number = variant->precision == ENGINE_PRECISION_BF16 ? 2 : 4;
    double head = (double)BENCH_WIDTH * BENCH_DIM * number; /* of one projection */
    double weights = head * (2 * heads_new + 2 * BENCH_HEADS);
    double row = rows * sizeof(float), scores = row * tokens;
    double inputs = row * BENCH_WIDTH + row + scores * variant->reused;
    double outputs = row * BENCH_WIDTH + (variant->scores ? scores * BENCH_HEADS : 0);
    return weights + inputs + outputs;
}

double bench_roofline_speed(const struct bench_point *point)
{
    return point->flops * 1e-6 / point->ms;
}

double bench_roofline_intensity(const struct bench_point *point)
{
    return point->flops / bench_roofline_bytes(point->variant, point->batch, point->tokens);
}

/* A useful product of x3 takes three on tiles, one of float32 six. */
double bench_roofline_peak(const struct bench_point *point)
{
    double fma = point->ceilings[BENCH_FMA_PEAK], amx = point->ceilings[BENCH_AMX_PEAK];
    if (point->variant->precision == ENGINE_PRECISION_BF16)
        return amx;
    if (point->variant->precision == ENGINE_PRECISION_X3)
        return amx / 3;
    return point->amx_f32 && amx / 6 > fma ? amx / 6 : fma;
}

static double roof(const struct bench_point *point, double bandwidth)
{
    double peak = bench_roofline_peak(point);
    double slope = bench_roofline_intensity(point) * bandwidth;
    return peak > 0 && peak < slope ? peak : slope;
}

double bench_roofline_roof(const struct bench_point *point)
{
    return roof(point, point->hot_read);
}

double bench_roofline_cold_roof(const struct bench_point *point)
{
    return roof(point, point->ceilings[BENCH_MEMORY_READ]);
}

static double matmul(const struct bench_point *point)
{
    return point->ceilings[point->variant->precision == ENGINE_PRECISION_F32 ? BENCH_SGEMM
                                                                             : BENCH_BF16_MATMUL];
}

/* ---- tables ---------------------------------------------------------------------------------- */

void bench_roofline_print_head(void)
{
    printf("   B      T  threads  variant           ms      GF/s  of sgemm\n");
}

void bench_roofline_print_time(const struct bench_point *p)
{
    double speed = bench_roofline_speed(p);
    printf("%4d %6d %8d  %-9s %10.3f %9.1f %8.0f %%\n", p->batch, p->tokens, p->threads,
           p->variant->name, p->ms, speed, 100 * speed / p->ceilings[BENCH_SGEMM]);
}

static bool same_case(const struct bench_point *a, const struct bench_point *b)
{
    return a->batch == b->batch && a->tokens == b->tokens && a->threads == b->threads;
}

static void print_ceilings(const struct bench_point *points, int count)
{
    printf("\nCeilings, all threads at once: GF/s, and GB/s for memory\n   B      T  threads");
    for (int c = 0; c < BENCH_CEILINGS; c++)
        printf(" %12s", bench_ceilings_names[c]);
    printf("\n");
    for (int i = 0; i < count; i++) {
        if (i > 0 && same_case(&points[i - 1], &points[i]))
            continue;
        printf("%4d %6d %8d", points[i].batch, points[i].tokens, points[i].threads);
        for (int c = 0; c < BENCH_CEILINGS; c++)
            if (points[i].ceilings[c] > 0)
                printf(" %12.1f", points[i].ceilings[c]);
            else
                printf(" %12s", "-");
        printf("\n");
    }
}

void bench_roofline_print(const struct bench_point *points, int count)
{
    print_ceilings(points, count);
    printf(
        "\nRoofline\n   B      T  threads  variant     Mflop       MB  flop/B      GB/s      GF/s"
        "      peak      roof  of roof  cold roof\n");
    for (int i = 0; i < count; i++) {
        const struct bench_point *p = &points[i];
        double speed = bench_roofline_speed(p), bound = bench_roofline_roof(p);
        printf("%4d %6d %8d  %-9s %7.0f %8.1f %7.1f %9.1f %9.1f %9.1f %9.1f %6.0f %% %10.1f\n",
               p->batch, p->tokens, p->threads, p->variant->name, p->flops * 1e-6,
               bench_roofline_bytes(p->variant, p->batch, p->tokens) * 1e-6,
               bench_roofline_intensity(p), p->hot_read, speed, bench_roofline_peak(p), bound,
               100 * speed / bound, bench_roofline_cold_roof(p));
    }
}

void bench_roofline_write_csv(FILE *file, const struct bench_point *points, int count)
{
    fprintf(file, "batch,tokens,threads,variant,ms,flops,bytes,flops_per_byte,gflops,of_matmul,"
                  "peak_gflops,hot_read_gbs,roof_gflops,of_roof,cold_roof_gflops,sgemm_gflops,"
                  "bf16_matmul_gflops,fma_peak_gflops,amx_peak_gflops,memory_read_gbs,"
                  "memory_copy_gbs\n");
    for (int i = 0; i < count; i++) {
        const struct bench_point *p = &points[i];
        double speed = bench_roofline_speed(p), bound = bench_roofline_roof(p);
        fprintf(file, "%d,%d,%d,%s,%.5f,%.0f,%.0f,%.3f,%.2f,%.4f,%.2f,%.2f,%.2f,%.4f,%.2f",
                p->batch, p->tokens, p->threads, p->variant->name, p->ms, p->flops,
                bench_roofline_bytes(p->variant, p->batch, p->tokens), bench_roofline_intensity(p),
                speed, speed / matmul(p), bench_roofline_peak(p), p->hot_read, bound, speed / bound,
                bench_roofline_cold_roof(p));
        for (int c = 0; c < BENCH_CEILINGS; c++)
            fprintf(file, ",%.2f", p->ceilings[c]);
        fprintf(file, "\n");
    }
}
