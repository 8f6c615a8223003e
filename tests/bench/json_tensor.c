/* json_tensor.c - what jansson alone takes to parse one JSON text and to dump it again.
 *
 *     json_tensor FILE      "time MS" on stdin -> "ok MEDIAN_MS CALLS" on stdout, again and again
 *
 * A call is json_loadb of the file's text and json_dumpb of the result into a buffer that is
 * there already, nine significant digits a real: exact for float32. It knows no HTTP;
 * json_tensor.py puts its figure beside the daemon's. */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_SAMPLES = 4096 };

struct text {
    char *bytes, *dumped;
    size_t size, room;
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static bool text_read(const char *path, struct text *text)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) {
        return false;
    }
    text->size = (size_t)ftell(file);
    text->room = 2 * text->size;
    rewind(file);
    text->bytes = malloc(text->size);
    text->dumped = malloc(text->room);
    bool done =
        text->bytes && text->dumped && fread(text->bytes, 1, text->size, file) == text->size;
    fclose(file);
    return done;
}

static bool parse_and_dump(const struct text *text)
{
    json_t *root = json_loadb(text->bytes, text->size, 0, NULL);
    if (!root) {
        return false;
    }
    size_t size = json_dumpb(root, text->dumped, text->room, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(root);
    return size > 0 && size <= text->room;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool turn(const struct text *text, double ms)
{
    static double samples[MAX_SAMPLES];
    bool done = parse_and_dump(text);
    double start = now_ms(), end = start + ms;
    size_t calls = 0;
    while (done && calls < MAX_SAMPLES && (calls < 3 || start < end)) {
        done = parse_and_dump(text);
        double now = now_ms();
        samples[calls++] = now - start;
        start = now;
    }
    if (done) {
        qsort(samples, calls, sizeof samples[0], compare);
        printf("ok %.6f %zu\n", samples[calls / 2], calls);
    } else {
        puts("error jansson refuses the text");
    }
    fflush(stdout);
    return done;
}

int main(int argc, char **argv)
{
    struct text text = {0};
    char line[128];
    if (argc != 2 || !text_read(argv[1], &text)) {
        fputs("usage: json_tensor FILE\n", stderr);
        return 2;
    }
    while (fgets(line, sizeof line, stdin)) {
        turn(&text, strncmp(line, "time ", 5) ? 0 : atof(line + 5));
    }
    free(text.bytes);
    free(text.dumped);
    return 0;
}
