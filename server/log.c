/* log.c - see log.h. */
#include "server/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    BUFFER_BYTES = 256 * 1024,
    LINE_BYTES = 4096,
    /* Lines of one hundredth of a second go out in one write. */
    COLLECT_NS = 10 * 1000 * 1000,
    /* Lines of each 4xx status in a second: a client that errs without end hides nothing else. */
    REFUSAL_LINES = 10,
    REFUSALS = 100 /* statuses 400 to 499 */
};

/* What was refused with one status in one second. */
struct refusals {
    time_t second; /* CLOCK_MONOTONIC */
    unsigned lines;
    uint64_t left_out;
};

struct server_log {
    int descriptor;
    bool json;
    atomic_bool enabled[SERVER_LOG_DEBUG + 1];
    atomic_int verbose;
    atomic_bool iso8601;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the writer: lines, or the end */
    pthread_cond_t idle; /* flush: all written */
    char *filling, *writing;
    size_t filled;
    uint64_t dropped;
    struct refusals refusals[REFUSALS];
    int unsaid; /* statuses with lines left out that no line has counted yet */
    bool busy, stopping;
};

static const char *const level_names[] = {"error", "warning", "info", "debug"};

bool server_log_level_from_name(const char *name, int *ret)
{
    for (int i = 0; i <= SERVER_LOG_DEBUG; i++) {
        if (strcmp(name, level_names[i]) != 0)
            continue;
        *ret = i;
        return true;
    }
    return false;
}

const char *server_log_level_name(int level)
{
    return level_names[level];
}

/* ---- lines ------------------------------------------------------------------------------ */

/* A line under construction; what does not fit is cut, the line feed is always kept. */
struct line {
    bool json;
    size_t used;
    char text[LINE_BYTES];
};

static void put(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct line *line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = LINE_BYTES - 4 - line->used;
    int written = vsnprintf(line->text + line->used, room, format, arguments);
    va_end(arguments);
    if (written > 0)
        line->used += (size_t)written < room ? (size_t)written : room - 1;
}

/* Only printable ASCII passes as it is; quote and backslash are escaped in both formats. */
static void put_escaped(struct line *line, const char *text)
{
    for (; *text != '\0' && line->used < LINE_BYTES - 16; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            put(line, "\\%c", c);
        else if (c >= 0x20 && c < 0x7f)
            line->text[line->used++] = (char)c;
        else
            put(line, line->json ? "\\u%04x" : "\\x%02x", c);
    }
}

static void put_text(struct line *line, const char *key, const char *value)
{
    put(line, line->json ? ",\"%s\":\"" : " %s=\"", key);
    put_escaped(line, value);
    put(line, "\"");
}

static void put_number(struct line *line, const char *key, double value, int digits)
{
    put(line, line->json ? ",\"%s\":%.*f" : " %s=%.*f", key, digits, value);
}

static void begin(const struct server_log *log, struct line *line, enum server_log_level level,
                  const char *event)
{
    struct timespec now;
    struct tm tm;
    char stamp[40];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    bool iso = atomic_load_explicit(&log->iso8601, memory_order_relaxed);
    size_t length = strftime(stamp, sizeof stamp, iso ? "%FT%T" : "%F %T", &tm);
    snprintf(stamp + length, sizeof stamp - length, ".%03ld%s", now.tv_nsec / 1000000,
             iso ? "Z" : "");
    line->json = log->json;
    line->used = 0;
    put(line, line->json ? "{\"time\":\"%s\",\"level\":\"%s\",\"event\":\"%s\"" : "%s %s %s", stamp,
        level_names[level], event);
}

/* Holds the lock. */
static void append(struct server_log *log, struct line *line)
{
    if (line->json)
        line->text[line->used++] = '}';
    line->text[line->used++] = '\n';
    if (log->filled + line->used > BUFFER_BYTES) {
        log->dropped++;
        return;
    }
    memcpy(log->filling + log->filled, line->text, line->used);
    if (log->filled == 0)
        pthread_cond_signal(&log->wake);
    log->filled += line->used;
}

static void finish(struct server_log *log, struct line *line)
{
    pthread_mutex_lock(&log->lock);
    append(log, line);
    pthread_mutex_unlock(&log->lock);
}

/* ---- lines that are left out --------------------------------------------------------------- */

static time_t this_second(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* Holds the lock: a line that counts those left out, if there are any, and a new second. */
static void turn_second(struct server_log *log, int i, time_t second)
{
    struct refusals *refusals = &log->refusals[i];
    struct line line;
    if (refusals->left_out > 0) {
        begin(log, &line, SERVER_LOG_INFO, "event");
        put(&line, line.json ? ",\"message\":\"" : " message=\"");
        put(&line, "%llu more requests of one second were answered %d; their lines are left out",
            (unsigned long long)refusals->left_out, 400 + i);
        put(&line, "\"");
        append(log, &line);
        log->unsaid--;
    }
    *refusals = (struct refusals){.second = second};
}

/* Holds the lock. all: also of the second that has not passed. */
static void count_left_out(struct server_log *log, bool all)
{
    time_t now = this_second();
    for (int i = 0; i < REFUSALS && log->unsaid > 0; i++)
        if (log->refusals[i].left_out > 0 && (all || log->refusals[i].second != now))
            turn_second(log, i, now);
}

/* Whether a request that was answered so gets a line. */
static bool is_said(struct server_log *log, int status)
{
    if (status < 400 || status >= 400 + REFUSALS)
        return true;
    struct refusals *refusals = &log->refusals[status - 400];
    time_t now = this_second();
    pthread_mutex_lock(&log->lock);
    if (refusals->second != now)
        turn_second(log, status - 400, now);
    bool said = refusals->lines < REFUSAL_LINES;
    if (said) {
        refusals->lines++;
    } else if (refusals->left_out++ == 0) {
        log->unsaid++;
        pthread_cond_signal(&log->wake);
    }
    pthread_mutex_unlock(&log->lock);
    return said;
}

/* ---- the writer ------------------------------------------------------------------------- */

static void write_all(int descriptor, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t written = write(descriptor, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return; /* stderr is gone: there is nowhere to say so */
        bytes += written;
        size -= (size_t)written;
    }
}

/* Takes the filled buffer and writes it, the lock given up meanwhile. */
static void write_filled(struct server_log *log)
{
    char *bytes = log->filling;
    size_t size = log->filled;
    uint64_t dropped = log->dropped;
    log->filling = log->writing;
    log->writing = bytes;
    log->filled = 0;
    log->dropped = 0;
    log->busy = true;
    pthread_mutex_unlock(&log->lock);
    write_all(log->descriptor, bytes, size);
    if (dropped > 0)
        dprintf(log->descriptor, "attnd: %llu log lines were dropped\n",
                (unsigned long long)dropped);
    pthread_mutex_lock(&log->lock);
    log->busy = false;
}

/* Lines left out are counted when their second has passed, whether or not another one comes. */
static void wait_for_lines(struct server_log *log)
{
    struct timespec until;
    if (log->unsaid == 0) {
        pthread_cond_wait(&log->wake, &log->lock);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    (void)pthread_cond_timedwait(&log->wake, &log->lock, &until);
    count_left_out(log, false);
}

static void *write_lines(void *argument)
{
    struct server_log *log = argument;
    pthread_mutex_lock(&log->lock);
    while (!log->stopping || log->filled > 0 || log->unsaid > 0) {
        if (log->stopping)
            count_left_out(log, true);
        if (log->filled > 0) {
            write_filled(log);
            pthread_cond_broadcast(&log->idle);
        }
        if (!log->stopping) {
            struct timespec pause = {0, COLLECT_NS};
            pthread_mutex_unlock(&log->lock);
            nanosleep(&pause, NULL);
            pthread_mutex_lock(&log->lock);
        }
        while (log->filled == 0 && !log->stopping)
            wait_for_lines(log);
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

/* ---- the log ---------------------------------------------------------------------------- */

enum engine_code server_log_open(int descriptor, int level, bool json, struct server_log **ret,
                                 struct engine_error *err)
{
    struct server_log *log = calloc(1, sizeof *log);
    char *buffers = malloc(2 * (size_t)BUFFER_BYTES);
    if (log == NULL || buffers == NULL) {
        free(log);
        free(buffers);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for the log");
    }
    log->descriptor = descriptor;
    log->json = json;
    log->filling = buffers;
    log->writing = buffers + BUFFER_BYTES;
    for (int i = 0; i <= SERVER_LOG_DEBUG; i++)
        atomic_init(&log->enabled[i], i <= level);
    atomic_init(&log->verbose, level >= SERVER_LOG_DEBUG ? 1 : 0);
    atomic_init(&log->iso8601, true);
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->wake, NULL);
    pthread_cond_init(&log->idle, NULL);
    if (pthread_create(&log->thread, NULL, write_lines, log) != 0) {
        free(buffers);
        free(log);
        return engine_error_set(err, ENGINE_INTERNAL, "the log's thread does not start");
    }
    *ret = log;
    return ENGINE_OK;
}

void server_log_close(struct server_log *log)
{
    if (log == NULL)
        return;
    pthread_mutex_lock(&log->lock);
    log->stopping = true;
    pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->lock);
    pthread_join(log->thread, NULL);
    pthread_cond_destroy(&log->wake);
    pthread_cond_destroy(&log->idle);
    pthread_mutex_destroy(&log->lock);
    free(log->filling < log->writing ? log->filling : log->writing);
    free(log);
}

void server_log_flush(struct server_log *log)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    pthread_mutex_lock(&log->lock);
    while (log->filled > 0 || log->busy)
        if (pthread_cond_timedwait(&log->idle, &log->lock, &until) != 0)
            break;
    pthread_mutex_unlock(&log->lock);
}

static bool enabled(const struct server_log *log, enum server_log_level level)
{
    return atomic_load_explicit(&log->enabled[level], memory_order_relaxed);
}

void server_log_event(struct server_log *log, enum server_log_level level, const char *id,
                      const char *format, ...)
{
    if (!enabled(log, level))
        return;
    char text[LINE_BYTES / 2]; /* escapes take room */
    struct line line;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    begin(log, &line, level, "event");
    if (id != NULL)
        put_text(&line, "id", id);
    put_text(&line, "message", text);
    finish(log, &line);
}

void server_log_failure(struct server_log *log, const char *id, const char *what,
                        const struct engine_error *err)
{
    bool has_detail = err->detail[0] != '\0';
    server_log_event(log, SERVER_LOG_ERROR, id, "%s%s%s%s%s", what, err->message,
                     has_detail ? " (" : "", err->detail, has_detail ? ")" : "");
}

void server_log_request(struct server_log *log, const struct server_log_request *request)
{
    enum server_log_level level = request->status >= 500 ? SERVER_LOG_WARNING : SERVER_LOG_INFO;
    if (!enabled(log, level) || !is_said(log, request->status))
        return;
    struct line line;
    begin(log, &line, level, "request");
    put_text(&line, "id", request->id);
    put_text(&line, "method", request->method);
    put_text(&line, "path", request->path);
    put_number(&line, "status", request->status, 0);
    put_number(&line, "in", (double)request->bytes_in, 0);
    put_number(&line, "out", (double)request->bytes_out, 0);
    put_number(&line, "ms", (double)request->duration_ns / 1e6, 3);
    if (request->error != NULL && request->error[0] != '\0')
        put_text(&line, "error", request->error);
    finish(log, &line);
}

void server_log_settings(const struct server_log *log, struct api_logging *ret)
{
    ret->info = enabled(log, SERVER_LOG_INFO);
    ret->warning = enabled(log, SERVER_LOG_WARNING);
    ret->error = enabled(log, SERVER_LOG_ERROR);
    ret->verbose_level = atomic_load(&log->verbose);
    ret->iso8601 = atomic_load(&log->iso8601);
}

void server_log_apply(struct server_log *log, const struct api_logging *settings)
{
    atomic_store(&log->enabled[SERVER_LOG_INFO], settings->info);
    atomic_store(&log->enabled[SERVER_LOG_WARNING], settings->warning);
    atomic_store(&log->enabled[SERVER_LOG_ERROR], settings->error);
    atomic_store(&log->enabled[SERVER_LOG_DEBUG], settings->verbose_level > 0);
    atomic_store(&log->verbose, settings->verbose_level);
    atomic_store(&log->iso8601, settings->iso8601);
}
