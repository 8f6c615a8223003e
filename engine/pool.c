/* pool.c - see pool.h. */
#include "engine/pool.h"

#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { DEFAULT_PRIORITY = 4, OVERTAKING = 64, SPINS = 400 };

/* Only for the order of jobs: nanoseconds that one flop is taken to need. */
#define NS_PER_FLOP 0.01

struct engine_pool {
    struct engine_buffers *buffers;
    pthread_mutex_t lock;
    pthread_cond_t work_came, job_ended;
    struct engine_pool_job *jobs; /* all that are not over */
    atomic_int waiting_jobs;      /* changed under the lock, read by idle workers without it */
    int sleeping, busy, threads;
    bool closing;
    pthread_t workers[];
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- jobs: all with the lock held --------------------------------------------------------- */

static bool has_unit(const struct engine_pool_job *job)
{
    return !job->over && job->next_unit < job->work.units[job->phase];
}

static void skip_empty_phases(struct engine_pool_job *job)
{
    while (job->phase < ENGINE_POOL_PHASES && job->work.units[job->phase] == 0)
        job->phase++;
    job->next_unit = job->ended_units = 0;
    if (job->phase == ENGINE_POOL_PHASES)
        job->over = true;
}

static void fail(struct engine_pool_job *job, enum engine_code code, const char *message)
{
    engine_error_set(&job->error, code, "%s", message);
    job->over = true;
}

static void stop_if_asked(struct engine_pool_job *job, int64_t now)
{
    if (job->over)
        return;
    if (atomic_load(&job->cancelled))
        fail(job, ENGINE_CANCELLED, "the call was cancelled");
    else if (job->options.deadline_ns != 0 && now > job->options.deadline_ns)
        fail(job, ENGINE_DEADLINE, "the call's deadline passed");
}

static void count_waiting(struct engine_pool *pool)
{
    int waiting = 0;
    for (struct engine_pool_job *job = pool->jobs; job != NULL; job = job->next)
        waiting += has_unit(job) || (job->over && job->workers == 0);
    atomic_store(&pool->waiting_jobs, waiting);
}

static bool is_before(const struct engine_pool_job *a, const struct engine_pool_job *b)
{
    int a_priority = a->options.priority != 0 ? a->options.priority : DEFAULT_PRIORITY;
    int b_priority = b->options.priority != 0 ? b->options.priority : DEFAULT_PRIORITY;
    if (a_priority != b_priority)
        return a_priority < b_priority;
    if ((a->workers == 0) != (b->workers == 0))
        return a->workers == 0;
    double ns_a = (double)a->units_left * a->flops_per_unit * NS_PER_FLOP;
    double ns_b = (double)b->units_left * b->flops_per_unit * NS_PER_FLOP;
    return (double)(a->arrival_ns - b->arrival_ns) + OVERTAKING * (ns_a - ns_b) < 0;
}

/* The job to work on next, or one that is over and only has to be reported; NULL: none. */
static struct engine_pool_job *pick(struct engine_pool *pool)
{
    struct engine_pool_job *best = NULL;
    int64_t now = pool->jobs != NULL ? now_ns() : 0;
    for (struct engine_pool_job *job = pool->jobs; job != NULL; job = job->next) {
        stop_if_asked(job, now);
        if (job->over && job->workers == 0)
            return job;
        if (has_unit(job) && (best == NULL || is_before(job, best)))
            best = job;
    }
    return best;
}

static void unlink_job(struct engine_pool *pool, struct engine_pool_job *job)
{
    if (job->previous != NULL)
        job->previous->next = job->next;
    else
        pool->jobs = job->next;
    if (job->next != NULL)
        job->next->previous = job->previous;
}

/* One wake-up a unit that waits, no more than there are sleepers. */
static void wake(struct engine_pool *pool, int64_t units)
{
    for (int64_t i = 0; i < units && i < pool->sleeping; i++)
        pthread_cond_signal(&pool->work_came);
}

static void end_unit(struct engine_pool *pool, struct engine_pool_job *job,
                     const struct engine_error *err)
{
    job->workers--;
    if (err->code != ENGINE_OK)
        fail(job, err->code, err->message);
    if (job->over || ++job->ended_units < job->work.units[job->phase])
        return;
    job->phase++;
    skip_empty_phases(job);
    if (!job->over && job->work.units[job->phase] > 1)
        wake(pool, job->work.units[job->phase] - 1); /* the first one is for this worker */
}

/* ---- workers ------------------------------------------------------------------------------ */

struct worker {
    struct engine_pool *pool;
    struct engine_buffer memory;
    struct engine_arena arena;
};

static enum engine_code fit_arena(struct engine_buffers *buffers, struct engine_buffer *memory,
                                  struct engine_arena *arena, size_t bytes,
                                  struct engine_error *err)
{
    if (memory->bytes >= bytes)
        return ENGINE_OK;
    engine_arena_reset(arena);
    engine_buffers_give(buffers, memory);
    ENGINE_TRY(engine_buffers_take(buffers, bytes, memory, err));
    engine_arena_init(arena, memory->data, memory->bytes);
    return ENGINE_OK;
}

static enum engine_code run_unit(const struct engine_pool_work *work, int phase, int64_t unit,
                                 struct engine_arena *arena, struct engine_error *err)
{
    enum engine_code code = work->run(work->argument, phase, unit, arena, err);
    if (code == ENGINE_OK && arena->overflowed)
        code = engine_error_set(err, ENGINE_INTERNAL, "a unit needed more scratch than planned");
    engine_arena_rewind(arena);
    return code;
}

/* Takes a unit of the job and runs it; lock held before and after, not meanwhile. */
static void work_on(struct worker *worker, struct engine_pool_job *job)
{
    struct engine_pool *pool = worker->pool;
    struct engine_error err = {0};
    int64_t unit = job->next_unit++;
    int phase = job->phase;
    job->units_left--;
    job->started = true;
    job->workers++;
    pool->busy++;
    count_waiting(pool);
    pthread_mutex_unlock(&pool->lock);
    if (fit_arena(pool->buffers, &worker->memory, &worker->arena, job->work.scratch_bytes, &err) ==
        ENGINE_OK)
        (void)run_unit(&job->work, phase, unit, &worker->arena, &err);
    pthread_mutex_lock(&pool->lock);
    pool->busy--;
    end_unit(pool, job, &err);
    count_waiting(pool);
}

/* Reports a job; its memory is its owner's again. Lock held before and after. */
static void report(struct engine_pool *pool, struct engine_pool_job *job)
{
    struct engine_error err = job->error;
    void (*done)(void *, enum engine_code, const struct engine_error *) = job->options.done;
    void *argument = job->options.argument;
    job->reported = true;
    unlink_job(pool, job);
    count_waiting(pool);
    pool->busy++;
    pthread_mutex_unlock(&pool->lock);
    done(argument, err.code, &err);
    pthread_mutex_lock(&pool->lock);
    pool->busy--;
}

/* A wake-up through the kernel takes some 50 us, the gap between two phases or two calls of a
 * client less: look for a while before sleeping. */
static void wait_for_work(struct engine_pool *pool)
{
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0;
         i < SPINS && atomic_load_explicit(&pool->waiting_jobs, memory_order_relaxed) == 0; i++)
        __builtin_ia32_pause();
    pthread_mutex_lock(&pool->lock);
    if (atomic_load(&pool->waiting_jobs) != 0 || (pool->closing && pool->jobs == NULL))
        return;
    pool->sleeping++;
    pthread_cond_wait(&pool->work_came, &pool->lock);
    pool->sleeping--;
}

static void *work(void *argument)
{
    struct engine_pool *pool = argument;
    struct worker worker = {.pool = pool};
    omp_set_num_threads(1);
    pthread_mutex_lock(&pool->lock);
    while (!pool->closing || pool->jobs != NULL) {
        struct engine_pool_job *job = pick(pool);
        if (job == NULL)
            wait_for_work(pool);
        else if (job->over)
            report(pool, job);
        else
            work_on(&worker, job);
    }
    pthread_cond_broadcast(&pool->work_came); /* the last job has gone: nobody need wait */
    pthread_mutex_unlock(&pool->lock);
    engine_arena_reset(&worker.arena);
    engine_buffers_give(pool->buffers, &worker.memory);
    return NULL;
}

/* ---- opening and closing -------------------------------------------------------------------- */

enum engine_code engine_pool_open(int threads, struct engine_buffers *buffers,
                                  struct engine_pool **ret, struct engine_error *err)
{
    struct engine_pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof pool->workers[0]);
    if (pool == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for %d threads", threads);
    pool->buffers = buffers;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work_came, NULL);
    pthread_cond_init(&pool->job_ended, NULL);
    for (; pool->threads < threads; pool->threads++) {
        if (pthread_create(&pool->workers[pool->threads], NULL, work, pool) != 0) {
            engine_pool_close(pool);
            return engine_error_set(err, ENGINE_INTERNAL, "the system refused %d threads", threads);
        }
    }
    *ret = pool;
    return ENGINE_OK;
}

void engine_pool_close(struct engine_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->work_came);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->threads; i++)
        pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->job_ended);
    pthread_cond_destroy(&pool->work_came);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* ---- submitting ----------------------------------------------------------------------------- */

void engine_pool_submit(struct engine_pool *pool, struct engine_pool_job *job)
{
    int64_t units = 0;
    for (int i = 0; i < ENGINE_POOL_PHASES; i++)
        units += job->work.units[i];
    job->units_left = units;
    job->flops_per_unit = units > 0 ? job->work.flops / (double)units : 0;
    job->arrival_ns = now_ns();
    job->phase = job->workers = 0;
    job->started = job->over = job->reported = false;
    job->error = (struct engine_error){0};
    atomic_store(&job->cancelled, false);
    skip_empty_phases(job);
    pthread_mutex_lock(&pool->lock);
    job->previous = NULL;
    job->next = pool->jobs;
    if (pool->jobs != NULL)
        pool->jobs->previous = job;
    pool->jobs = job;
    count_waiting(pool);
    wake(pool, job->over ? 1 : job->work.units[job->phase]);
    pthread_mutex_unlock(&pool->lock);
}

void engine_pool_cancel(struct engine_pool *pool, struct engine_pool_job *job)
{
    atomic_store(&job->cancelled, true);
    pthread_mutex_lock(&pool->lock);
    wake(pool, 1);
    pthread_mutex_unlock(&pool->lock);
}

struct waiter {
    struct engine_pool *pool;
    struct engine_error err;
    bool ended;
};

/* The waiter's memory may go as soon as the lock is free: nothing of it is used after. */
static void end_waiting(void *argument, enum engine_code code, const struct engine_error *err)
{
    struct waiter *waiter = argument;
    struct engine_pool *pool = waiter->pool;
    pthread_mutex_lock(&pool->lock);
    waiter->err = *err;
    waiter->err.code = code;
    waiter->ended = true;
    pthread_cond_broadcast(&pool->job_ended);
    pthread_mutex_unlock(&pool->lock);
}

static void wait_for(struct engine_pool *pool, const struct waiter *waiter)
{
    pthread_mutex_lock(&pool->lock);
    while (!waiter->ended)
        pthread_cond_wait(&pool->job_ended, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

enum engine_code engine_pool_run(struct engine_pool *pool, struct engine_pool_job *job,
                                 struct engine_error *err)
{
    struct waiter waiter = {.pool = pool};
    job->options.done = end_waiting;
    job->options.argument = &waiter;
    engine_pool_submit(pool, job);
    wait_for(pool, &waiter);
    return waiter.err.code == ENGINE_OK
               ? ENGINE_OK
               : engine_error_set(err, waiter.err.code, "%s", waiter.err.message);
}

enum engine_code engine_pool_run_inline(struct engine_buffers *buffers,
                                        const struct engine_pool_work *todo,
                                        struct engine_error *err)
{
    struct engine_buffer memory = {0};
    struct engine_arena arena = {0};
    int threads_before = omp_get_max_threads();
    ENGINE_TRY(fit_arena(buffers, &memory, &arena, todo->scratch_bytes, err));
    enum engine_code code = ENGINE_OK;
    omp_set_num_threads(1);
    for (int phase = 0; phase < ENGINE_POOL_PHASES && code == ENGINE_OK; phase++)
        for (int64_t unit = 0; unit < todo->units[phase] && code == ENGINE_OK; unit++)
            code = run_unit(todo, phase, unit, &arena, err);
    omp_set_num_threads(threads_before);
    engine_arena_reset(&arena);
    engine_buffers_give(buffers, &memory);
    return code;
}

/* ---- parallel loops ---------------------------------------------------------------------------
 */

struct loop {
    void (*part)(void *argument, int i);
    void *argument;
    atomic_int next;
    int count;
};

/* Whoever comes takes parts until none is left: a unit is a pair of hands, not a part. */
static enum engine_code help(void *argument, int phase, int64_t unit, struct engine_arena *arena,
                             struct engine_error *err)
{
    struct loop *loop = argument;
    (void)phase, (void)unit, (void)arena, (void)err;
    for (int i; (i = atomic_fetch_add(&loop->next, 1)) < loop->count;)
        loop->part(loop->argument, i);
    return ENGINE_OK;
}

/* A caller who is a worker must not wait for hands that may never come (all workers may be in
 * loops of their own): when the parts have run out it cancels what nobody has started. */
void engine_pool_parallel(struct engine_pool *pool, int count, void (*part)(void *argument, int i),
                          void *argument)
{
    struct loop loop = {.part = part, .argument = argument, .count = count};
    struct waiter waiter = {.pool = pool};
    int hands = count - 1 < pool->threads ? count - 1 : pool->threads;
    struct engine_pool_job job = {
        .work = {.units = {hands}, .run = help, .argument = &loop},
        .options = {.priority = 1, .done = end_waiting, .argument = &waiter},
    };
    if (hands > 0)
        engine_pool_submit(pool, &job);
    (void)help(&loop, 0, 0, NULL, NULL);
    if (hands <= 0)
        return;
    pthread_mutex_lock(&pool->lock);
    job.over = true;
    if (job.workers == 0 && !job.reported) {
        unlink_job(pool, &job);
        count_waiting(pool);
        waiter.ended = true;
    }
    while (!waiter.ended)
        pthread_cond_wait(&pool->job_ended, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void engine_pool_load(struct engine_pool *pool, struct engine_load *ret)
{
    *ret = (struct engine_load){0};
    pthread_mutex_lock(&pool->lock);
    for (struct engine_pool_job *job = pool->jobs; job != NULL; job = job->next) {
        ret->jobs_running += job->started;
        ret->jobs_queued += !job->started;
        ret->flops_queued += (double)job->units_left * job->flops_per_unit;
    }
    ret->workers_busy = pool->busy;
    pthread_mutex_unlock(&pool->lock);
}
