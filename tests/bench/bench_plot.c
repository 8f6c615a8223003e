/* bench_plot.c - see bench_plot.h. */
#include "tests/bench/bench_plot.h"

#include <math.h>
#include <stdlib.h>

#include "tests/bench/bench_turn.h"

enum { PANEL_WIDTH = 760, PANEL_HEIGHT = 470, LEFT = 60, TOP = 40, RIGHT = 110, BOTTOM = 50 };

struct panel {
    FILE *file;
    const struct bench_point *points;
    int count;
    double y;              /* of its upper edge */
    double low[2], ten[2]; /* of an axis (flop/B, GF/s): log10 of its least value, decades shown */
    double roofs[BENCH_CEILINGS];
};

static double x_of(const struct panel *p, double intensity)
{
    return LEFT + (log10(intensity) - p->low[0]) / p->ten[0] * (PANEL_WIDTH - LEFT - RIGHT);
}

static double y_of(const struct panel *p, double speed)
{
    return p->y + PANEL_HEIGHT - BOTTOM -
           (log10(speed) - p->low[1]) / p->ten[1] * (PANEL_HEIGHT - TOP - BOTTOM);
}

static double median_of(const struct panel *p, int ceiling)
{
    double *values = malloc((size_t)p->count * sizeof *values);
    if (values == NULL)
        bench_turn_fail("%s", "no memory for the plot");
    for (int i = 0; i < p->count; i++)
        values[i] = p->points[i].ceilings[ceiling];
    double ret = bench_turn_median(values, p->count);
    free(values);
    return ret;
}

/* Whole decades round all points and, upwards, all peaks. */
static void set_axes(struct panel *p)
{
    double least[2] = {INFINITY, INFINITY}, most[2] = {0, 0};
    for (int i = 0; i < p->count; i++) {
        double at[2] = {bench_roofline_intensity(&p->points[i]),
                        bench_roofline_speed(&p->points[i])};
        for (int axis = 0; axis < 2; axis++) {
            least[axis] = fmin(least[axis], at[axis]);
            most[axis] = fmax(most[axis], at[axis]);
        }
    }
    for (int c = 0; c <= BENCH_AMX_PEAK; c++)
        most[1] = fmax(most[1], p->roofs[c]);
    for (int axis = 0; axis < 2; axis++) {
        p->low[axis] = floor(log10(least[axis]));
        p->ten[axis] = fmax(1, ceil(log10(most[axis])) - p->low[axis]);
    }
}

static void draw_axes(const struct panel *p)
{
    double right = PANEL_WIDTH - RIGHT, bottom = p->y + PANEL_HEIGHT - BOTTOM;
    for (int i = 0; i <= (int)p->ten[0]; i++) {
        double value = pow(10, p->low[0] + i), x = x_of(p, value);
        fprintf(p->file,
                "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#ddd\"/>"
                "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n",
                x, p->y + TOP, bottom, x, bottom + 16, value);
    }
    for (int i = 0; i <= (int)p->ten[1]; i++) {
        double value = pow(10, p->low[1] + i), y = y_of(p, value);
        fprintf(p->file,
                "<path d=\"M%d %.1fH%.1f\" stroke=\"#ddd\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                LEFT, y, right, LEFT - 6, y + 4, value);
    }
    fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">flop per byte</text>\n",
            (LEFT + right) / 2, bottom + 36);
    fprintf(p->file, "<text x=\"%d\" y=\"%.1f\">GF/s</text>\n", LEFT - 40, p->y + TOP - 8);
    fprintf(p->file,
            "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" font-size=\"15\">Roofline, %d "
            "thread%s</text>\n",
            right, p->y + 24, p->points[0].threads, p->points[0].threads > 1 ? "s" : "");
}

/* Peaks and matmuls across, matmuls dashed; memory's bandwidth upwards to the highest of them. */
static void draw_roofs(const struct panel *p)
{
    double highest = 0, right = PANEL_WIDTH - RIGHT;
    for (int c = 0; c <= BENCH_AMX_PEAK; c++) {
        bool dashed = c == BENCH_SGEMM || c == BENCH_BF16_MATMUL;
        if (p->roofs[c] <= 0)
            continue;
        highest = fmax(highest, p->roofs[c]);
        fprintf(p->file, "<path d=\"M%d %.1fH%.1f\" stroke=\"#333\"%s/>", LEFT,
                y_of(p, p->roofs[c]), right, dashed ? " stroke-dasharray=\"5 4\"" : "");
        fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s %.0f</text>\n",
                dashed ? right - 4 : right + 6, y_of(p, p->roofs[c]) + (dashed ? -3 : 4),
                dashed ? "end" : "start", bench_ceilings_names[c], p->roofs[c]);
    }
    double read = p->roofs[BENCH_MEMORY_READ];
    double from = fmax(pow(10, p->low[0]), pow(10, p->low[1]) / read);
    double to = fmin(pow(10, p->low[0] + p->ten[0]), highest / read);
    if (from < to)
        fprintf(p->file,
                "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"#333\"/>"
                "<text x=\"%.1f\" y=\"%.1f\">memory %.1f GB/s</text>\n",
                x_of(p, from), y_of(p, from * read), x_of(p, to), y_of(p, to * read),
                x_of(p, from) + 8, y_of(p, from * read) - 2, read);
}

static const char *color(enum engine_precision precision)
{
    return precision == ENGINE_PRECISION_F32  ? "#1b4f8f"
           : precision == ENGINE_PRECISION_X3 ? "#2a8a4a"
                                              : "#c0392b";
}

/* Hollow: scores returned; smaller: heads reused. A point says more under the mouse. */
static void draw_points(const struct panel *p)
{
    for (int i = 0; i < p->count; i++) {
        const struct bench_point *at = &p->points[i];
        double x = x_of(p, bench_roofline_intensity(at)), y = y_of(p, bench_roofline_speed(at));
        const char *paint = color(at->variant->precision);
        fprintf(p->file,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" stroke=\"%s\" fill=\"%s\"><title>%dx%d "
                "%s: %.1f GF/s, %.0f %% of %.1f</title></circle>\n",
                x, y, at->variant->reused > 0 ? 3.0 : 4.5, paint,
                at->variant->scores ? "#fff" : paint, at->batch, at->tokens, at->variant->name,
                bench_roofline_speed(at), 100 * bench_roofline_speed(at) / bench_roofline_roof(at),
                bench_roofline_roof(at));
        if (at->variant->precision == ENGINE_PRECISION_F32 && !at->variant->scores &&
            at->variant->reused == 0)
            fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\">%dx%d</text>\n", x + 6, y + 12, at->batch,
                    at->tokens);
    }
}

static void draw_legend(const struct panel *p)
{
    static const enum engine_precision precisions[] = {ENGINE_PRECISION_F32, ENGINE_PRECISION_X3,
                                                       ENGINE_PRECISION_BF16};
    double x = LEFT + 16, y = p->y + 20;
    for (int i = 0; i < 3; i++, x += 50)
        fprintf(p->file,
                "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>"
                "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n",
                x, y, color(precisions[i]), x + 8, y + 4, engine_precision_name(precisions[i]));
    fprintf(p->file, "<text x=\"%.1f\" y=\"%.1f\">hollow: scores; small: heads reused</text>\n", x,
            y + 4);
}

static void draw_panel(struct panel *p)
{
    for (int c = 0; c < BENCH_CEILINGS; c++)
        p->roofs[c] = median_of(p, c);
    set_axes(p);
    draw_axes(p);
    draw_roofs(p);
    draw_points(p);
    draw_legend(p);
}

static int panel_length(const struct bench_point *points, int count)
{
    int length = 1;
    while (length < count && points[length].threads == points[0].threads)
        length++;
    return length;
}

void bench_plot_write(FILE *file, const struct bench_point *points, int count)
{
    int panels = 0;
    for (int i = 0; i < count; i += panel_length(points + i, count - i))
        panels++;
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "font-family=\"sans-serif\" font-size=\"11\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
            PANEL_WIDTH, panels * PANEL_HEIGHT);
    for (int i = 0, panel = 0; i < count; panel++) {
        int length = panel_length(points + i, count - i);
        struct panel p = {
            .file = file, .points = points + i, .count = length, .y = (double)panel * PANEL_HEIGHT};
        draw_panel(&p);
        i += length;
    }
    fprintf(file, "</svg>\n");
}
