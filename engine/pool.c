/* pool.c - see pool.h. */
#include "engine/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "engine/openmp.h"

enum { DEFAULT_PRIORITY = 4, OVERTAKING = 64, MOST_CALLS = 64 };

/* How long idle threads look for work: about what a wake-up through the kernel takes, which is also
 * the length of a unit of a small call, that is to say of the wait for the last unit of a phase. */
#define SPIN_NS 50000

/* They look longer while jobs come at gaps of no more than this on average: a client that waits for
 * each answer. */
#define LONG_GAP_NS 250000

/* Only for the order of jobs: nanoseconds that one flop is taken to need. */
#define NS_PER_FLOP 0.01

/* What a worker does: work, look for it, sleep, or wake up. Under the pool's lock. */
enum state { WORKING, LOOKING, ASLEEP, WOKEN };

struct worker {
    struct engine_pool *pool;
    pthread_t thread;
    pthread_cond_t called;
    enum state state;
    bool to_be_called; /* once the lock is free */
    int cpu;           /* the one that it runs on; -1: any */
};

struct engine_pool {
    struct engine_buffers *buffers;
    pthread_mutex_t lock;
    pthread_cond_t job_ended;
    struct engine_pool_job *jobs; /* all that are not over */
    atomic_int waiting_jobs;      /* changed under the lock, read by idle workers without it */
    atomic_int spare;             /* the same: threads that may compute and do not */
    atomic_uint steps;            /* the same for helpers: phases and jobs ended */
    int64_t idle_ns, gap_ns;      /* when the last job ended; mean time from there to the next */
    int looking, calls;           /* workers; calls to be made once the lock is free */
    int threads;
    int busy;    /* workers with a unit or a report, and helpers */
    int started; /* workers that have what they need */
    bool closing, lacks_memory;
    struct worker workers[];
};

/* ---- OpenMP ------------------------------------------------------------------------------- */

/* libgomp keeps some hundred bytes for each thread that says a number, and ends the process when it
 * cannot have them. So all sizes that it may ask for are had before and given back: glibc keeps
 * small blocks for the same thread. false: there is no memory, and OpenMP was not asked. */
bool engine_pool_prepare(void)
{
    enum { STEP = 16, BLOCKS = 64 };
    static _Thread_local bool is_ready;
    void *volatile blocks[BLOCKS]; /* else the compiler leaves out what is only freed */
    bool all = true;
    if (is_ready)
        return true;
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[i] = malloc((i + 1) * STEP);
    for (size_t i = 0; i < BLOCKS; i++) {
        all = all && blocks[i] != NULL;
        free(blocks[i]);
    }
    if (all)
        omp_set_num_threads(omp_get_max_threads());
    return is_ready = all;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

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

static bool has_unit_for_workers(const struct engine_pool_job *job)
{
    return !job->over && job->next_unit + job->helper_is_free < job->work.units[job->phase];
}

/* Sleepers worth waking for the phase that begins, besides the thread that begins it. */
static int64_t units_to_wake_for(const struct engine_pool_job *job)
{
    bool quick = job->work.quick_phases >> job->phase & 1;
    return quick ? 0 : job->work.units[job->phase] - 1;
}

/* Jobs with units that nobody takes, or too many for those who do. */
static int64_t jobs_to_wake_for(const struct engine_pool *pool)
{
    int64_t jobs = 0;
    for (const struct engine_pool_job *job = pool->jobs; job != NULL; job = job->next)
        jobs += (job->over && job->workers == 0) ||
                (has_unit_for_workers(job) && (job->workers == 0 || units_to_wake_for(job) > 0));
    return jobs;
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
        waiting += (has_unit_for_workers(job) && pool->busy < pool->threads) ||
                   (job->over && job->workers == 0);
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
        if (has_unit_for_workers(job) && pool->busy < pool->threads &&
            (best == NULL || is_before(job, best)))
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
    if (pool->jobs == NULL)
        pool->idle_ns = now_ns();
}

/* Workers who will see by themselves that there is work. Who looks on the core that this thread
 * computes on does not get to see it. */
static int64_t awake_elsewhere(const struct engine_pool *pool, int cpu)
{
    int64_t count = 0;
    for (int i = 0; i < pool->threads; i++) {
        const struct worker *worker = &pool->workers[i];
        count += (worker->state == LOOKING || worker->state == WOKEN) && worker->cpu != cpu;
    }
    return count;
}

static void call_one(struct engine_pool *pool, struct worker *worker)
{
    worker->state = WOKEN;
    worker->to_be_called = true;
    pool->calls++;
}

/* One call for each unit that waits and that nobody is looking for, no more than threads may
 * compute; sleepers of other cores first. */
static void wake(struct engine_pool *pool, int64_t units)
{
    int cpu = sched_getcpu();
    int64_t wanted = least(units, pool->threads - pool->busy);
    if (wanted <= 0)
        return;
    wanted -= awake_elsewhere(pool, cpu);
    for (int i = 0; i < pool->threads && wanted > 0; i++)
        if (pool->workers[i].state == ASLEEP && pool->workers[i].cpu != cpu) {
            call_one(pool, &pool->workers[i]);
            wanted--;
        }
    for (int i = 0; i < pool->threads && wanted > 0; i++)
        if (pool->workers[i].state == ASLEEP) {
            call_one(pool, &pool->workers[i]);
            wanted--;
        }
}

/* A call is a system call of tens of microseconds: nobody should wait for it at the lock. Workers
 * exist as long as the pool. */
static void unlock(struct engine_pool *pool)
{
    struct worker *called[MOST_CALLS];
    int count = 0;
    for (int i = 0; i < pool->threads && pool->calls > 0 && count < MOST_CALLS; i++) {
        if (!pool->workers[i].to_be_called)
            continue;
        pool->workers[i].to_be_called = false;
        pool->calls--;
        called[count++] = &pool->workers[i];
    }
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < count; i++)
        pthread_cond_signal(&called[i]->called);
}

static void wake_all(struct engine_pool *pool)
{
    for (int i = 0; i < pool->threads; i++) {
        pool->workers[i].state = pool->workers[i].state == ASLEEP ? WOKEN : pool->workers[i].state;
        pthread_cond_signal(&pool->workers[i].called);
    }
}

static void end_unit(struct engine_pool *pool, struct engine_pool_job *job,
                     const struct engine_error *err)
{
    job->workers--;
    if (err->code != ENGINE_OK)
        fail(job, err->code, err->message);
    if (!job->over && ++job->ended_units < job->work.units[job->phase])
        return;
    atomic_fetch_add_explicit(&pool->steps, 1, memory_order_release);
    if (job->over)
        return;
    job->phase++;
    skip_empty_phases(job);
    if (job->over)
        return;
    wake(pool, units_to_wake_for(job)); /* the first unit is for this thread */
}

/* ---- units ------------------------------------------------------------------------------ */

/* A thread that computes: a worker, or a helper for as long as it helps. */
struct hands {
    struct engine_pool *pool;
    struct engine_buffer memory;
    struct engine_arena arena;
    struct engine_pool_unit last; /* what it did before */
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

static enum engine_code run_unit(const struct engine_pool_work *work,
                                 const struct engine_pool_unit *unit, struct engine_arena *arena,
                                 struct engine_error *err)
{
    enum engine_code code = work->run(work->argument, unit, arena, err);
    if (code == ENGINE_OK && arena->overflowed)
        code = engine_error_set(err, ENGINE_INTERNAL, "a unit needed more scratch than planned");
    engine_arena_rewind(arena);
    return code;
}

/* Takes a unit of the job and runs it; lock held before and after, not meanwhile. The caller has
 * counted itself as busy. */
static void work_on(struct hands *hands, struct engine_pool_job *job)
{
    struct engine_pool *pool = hands->pool;
    struct engine_error err = {0};
    struct engine_pool_unit unit = {.phase = job->phase, .index = job->next_unit++};
    int64_t stride = unit.phase == hands->last.phase && unit.index > hands->last.index
                         ? unit.index - hands->last.index
                         : hands->last.next - hands->last.index;
    unit.next = unit.index + stride;
    hands->last = unit;
    job->units_left--;
    job->started = true;
    job->workers++;
    count_waiting(pool);
    wake(pool, jobs_to_wake_for(pool)); /* who saw two jobs come may be one worker */
    unlock(pool);
    if (fit_arena(pool->buffers, &hands->memory, &hands->arena, job->work.scratch_bytes, &err) ==
        ENGINE_OK)
        (void)run_unit(&job->work, &unit, &hands->arena, &err);
    pthread_mutex_lock(&pool->lock);
    end_unit(pool, job, &err);
    count_waiting(pool);
}

/* Reports a job; its memory is its owner's again. Lock held before and after; the caller is busy.
 */
static void report(struct engine_pool *pool, struct engine_pool_job *job)
{
    struct engine_error err = job->error;
    void (*done)(void *, enum engine_code, const struct engine_error *) = job->options.done;
    void *argument = job->options.argument;
    job->reported = true;
    unlink_job(pool, job);
    count_waiting(pool);
    unlock(pool);
    done(argument, err.code, &err);
    pthread_mutex_lock(&pool->lock);
}

static void set_busy(struct engine_pool *pool, int change)
{
    pool->busy += change;
    atomic_store(&pool->spare, pool->threads - pool->busy);
    count_waiting(pool);
}

/* ---- workers ------------------------------------------------------------------------------ */

/* The gap between two phases or two calls of a client is less than a wake-up through the kernel:
 * look for a while before sleeping, but no more workers than could take a unit: where a helper
 * computes, a core would be missing. */
static int64_t looking_time(const struct engine_pool *pool, int rank)
{
    return rank < pool->threads && pool->gap_ns < LONG_GAP_NS ? SPIN_NS + 2 * pool->gap_ns
                                                              : SPIN_NS;
}

static void wait_for_work(struct worker *worker)
{
    struct engine_pool *pool = worker->pool;
    int rank = ++pool->looking;
    int64_t until = now_ns() + looking_time(pool, rank);
    worker->state = LOOKING;
    unlock(pool);
    while (atomic_load_explicit(&pool->waiting_jobs, memory_order_relaxed) == 0 &&
           atomic_load_explicit(&pool->spare, memory_order_relaxed) >= rank && now_ns() < until)
        __builtin_ia32_pause();
    pthread_mutex_lock(&pool->lock);
    pool->looking--;
    worker->state = WORKING;
    if (atomic_load(&pool->waiting_jobs) != 0 || (pool->closing && pool->jobs == NULL))
        return;
    worker->state = ASLEEP;
    while (worker->state == ASLEEP)
        pthread_cond_wait(&worker->called, &pool->lock);
    worker->state = WORKING;
}

/* A core for each worker where there are as many: else the system may wake one on the core of the
 * thread that calls it, and leave the other idle. With fewer threads than cores (a quota) others
 * would choose the same cores. */
static void choose_cpu(struct worker *worker)
{
    cpu_set_t allowed, own;
    int index = (int)(worker - worker->pool->workers);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 ||
        CPU_COUNT(&allowed) != worker->pool->threads)
        return;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || index-- != 0)
            continue;
        CPU_ZERO(&own);
        CPU_SET(cpu, &own);
        if (sched_setaffinity(0, sizeof own, &own) == 0)
            worker->cpu = (int)cpu;
        return;
    }
}

/* What may be lacking is found out before the pool is there. Takes the lock. */
static void start(struct worker *worker)
{
    struct engine_pool *pool = worker->pool;
    bool ready = engine_pool_prepare();
    if (ready)
        omp_set_num_threads(1);
    pthread_mutex_lock(&pool->lock);
    pool->started++;
    pool->lacks_memory = pool->lacks_memory || !ready;
    pthread_cond_broadcast(&pool->job_ended);
    choose_cpu(worker);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct engine_pool *pool = worker->pool;
    struct hands hands = {.pool = pool, .last = {.next = 1}};
    start(worker);
    while (!pool->closing || pool->jobs != NULL) {
        struct engine_pool_job *job = pick(pool);
        if (job == NULL) {
            wait_for_work(worker);
            continue;
        }
        set_busy(pool, 1);
        if (job->over)
            report(pool, job);
        else
            work_on(&hands, job);
        set_busy(pool, -1);
    }
    wake_all(pool); /* the last job has gone: nobody need wait */
    unlock(pool);
    engine_arena_reset(&hands.arena);
    engine_buffers_give(pool->buffers, &hands.memory);
    return NULL;
}

/* ---- opening and closing -------------------------------------------------------------------- */

static void init(struct engine_pool *pool, struct engine_buffers *buffers)
{
    pthread_mutexattr_t attributes;
    pool->buffers = buffers;
    pool->gap_ns = LONG_GAP_NS;
    pthread_mutexattr_init(&attributes); /* held for a fraction of a microsecond: try, then sleep */
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&pool->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    pthread_cond_init(&pool->job_ended, NULL);
}

static bool create_worker(struct engine_pool *pool)
{
    struct worker *worker = &pool->workers[pool->threads];
    *worker = (struct worker){.pool = pool, .cpu = -1};
    pthread_cond_init(&worker->called, NULL);
    if (pthread_create(&worker->thread, NULL, work, worker) == 0) {
        pool->threads++;
        return true;
    }
    pthread_cond_destroy(&worker->called);
    return false;
}

enum engine_code engine_pool_open(int threads, struct engine_buffers *buffers,
                                  struct engine_pool **ret, struct engine_error *err)
{
    struct engine_pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof pool->workers[0]);
    bool created = true;
    if (pool == NULL)
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for %d threads", threads);
    init(pool, buffers);
    pthread_mutex_lock(&pool->lock); /* workers begin when all are there */
    while (created && pool->threads < threads)
        created = create_worker(pool);
    while (pool->started < pool->threads)
        pthread_cond_wait(&pool->job_ended, &pool->lock);
    bool lacks_memory = pool->lacks_memory;
    unlock(pool);
    if (created && !lacks_memory) {
        *ret = pool;
        return ENGINE_OK;
    }
    engine_pool_close(pool);
    return lacks_memory
               ? engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for %d threads", threads)
               : engine_error_set(err, ENGINE_INTERNAL, "the system refused %d threads", threads);
}

void engine_pool_close(struct engine_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    wake_all(pool);
    unlock(pool);
    for (int i = 0; i < pool->threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    for (int i = 0; i < pool->threads; i++) /* each may be called by any until it has ended */
        pthread_cond_destroy(&pool->workers[i].called);
    pthread_cond_destroy(&pool->job_ended);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* ---- submitting ----------------------------------------------------------------------------- */

static bool enter(struct engine_pool *pool, struct engine_pool_job *job, bool would_help)
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
    if (pool->jobs == NULL)
        pool->gap_ns +=
            (least(job->arrival_ns - pool->idle_ns, 8 * LONG_GAP_NS) - pool->gap_ns) / 4;
    job->previous = NULL;
    job->next = pool->jobs;
    if (pool->jobs != NULL)
        pool->jobs->previous = job;
    pool->jobs = job;
    bool helps = would_help && pool->busy < pool->threads;
    job->workers += helps;
    job->helper_is_free = helps;
    set_busy(pool, helps);
    wake(pool, job->over ? 1 : helps ? units_to_wake_for(job) : job->work.units[job->phase]);
    unlock(pool);
    return helps;
}

void engine_pool_submit(struct engine_pool *pool, struct engine_pool_job *job)
{
    (void)enter(pool, job, false);
}

bool engine_pool_submit_helped(struct engine_pool *pool, struct engine_pool_job *job)
{
    return enter(pool, job, engine_pool_prepare());
}

/* Others compute the last units of a phase, or of the job: false if they take long. */
static bool wait_for_step(struct engine_pool *pool)
{
    unsigned before = atomic_load_explicit(&pool->steps, memory_order_relaxed);
    unlock(pool);
    int64_t until = now_ns() + SPIN_NS;
    while (atomic_load_explicit(&pool->steps, memory_order_relaxed) == before && now_ns() < until)
        __builtin_ia32_pause();
    pthread_mutex_lock(&pool->lock);
    return atomic_load_explicit(&pool->steps, memory_order_relaxed) != before;
}

/* The helper has counted as a worker of the job since it was submitted: nobody reports it
 * meanwhile. */
void engine_pool_help(struct engine_pool *pool, struct engine_pool_job *job)
{
    struct hands hands = {.pool = pool, .last = {.next = 1}};
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(1);
    pthread_mutex_lock(&pool->lock);
    for (bool stays = true; stays && !job->over;) {
        stop_if_asked(job, now_ns());
        job->helper_is_free = false;
        if (has_unit(job))
            work_on(&hands, job);
        job->helper_is_free = true;
        if (!job->over && !has_unit(job))
            stays = wait_for_step(pool);
    }
    job->helper_is_free = false;
    while (job->over && job->workers > 1 && wait_for_step(pool))
        continue;
    if (--job->workers == 0 && job->over)
        report(pool, job);
    set_busy(pool, -1);
    wake(pool, jobs_to_wake_for(pool));
    if (pool->closing && pool->jobs == NULL)
        wake_all(pool);
    unlock(pool);
    omp_set_num_threads(threads_before);
    engine_arena_reset(&hands.arena);
    engine_buffers_give(pool->buffers, &hands.memory);
}

void engine_pool_cancel(struct engine_pool *pool, struct engine_pool_job *job)
{
    atomic_store(&job->cancelled, true);
    pthread_mutex_lock(&pool->lock);
    wake(pool, 1);
    unlock(pool);
}

struct waiter {
    struct engine_pool *pool;
    struct engine_error err;
    atomic_bool ended;
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
    unlock(pool);
}

/* What others still do of a job that the caller has helped with takes about a unit. */
static void wait_for(struct engine_pool *pool, const struct waiter *waiter)
{
    int64_t until = now_ns() + SPIN_NS;
    while (!atomic_load_explicit(&waiter->ended, memory_order_relaxed) && now_ns() < until)
        __builtin_ia32_pause();
    pthread_mutex_lock(&pool->lock);
    while (!waiter->ended)
        pthread_cond_wait(&pool->job_ended, &pool->lock);
    unlock(pool);
}

enum engine_code engine_pool_run(struct engine_pool *pool, struct engine_pool_job *job,
                                 struct engine_error *err)
{
    struct waiter waiter = {.pool = pool};
    job->options.done = end_waiting;
    job->options.argument = &waiter;
    if (engine_pool_submit_helped(pool, job))
        engine_pool_help(pool, job);
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
    if (!engine_pool_prepare())
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory for another thread");
    ENGINE_TRY(fit_arena(buffers, &memory, &arena, todo->scratch_bytes, err));
    enum engine_code code = ENGINE_OK;
    omp_set_num_threads(1);
    for (int phase = 0; phase < ENGINE_POOL_PHASES && code == ENGINE_OK; phase++)
        for (int64_t i = 0; i < todo->units[phase] && code == ENGINE_OK; i++)
            code = run_unit(todo, &(struct engine_pool_unit){phase, i, i + 1}, &arena, err);
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
static enum engine_code help(void *argument, const struct engine_pool_unit *unit,
                             struct engine_arena *arena, struct engine_error *err)
{
    struct loop *loop = argument;
    (void)unit, (void)arena, (void)err;
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
    (void)help(&loop, NULL, NULL, NULL);
    if (hands <= 0)
        return;
    pthread_mutex_lock(&pool->lock);
    job.over = true;
    if (job.workers == 0 && !job.reported) {
        unlink_job(pool, &job);
        count_waiting(pool);
        waiter.ended = true;
    }
    unlock(pool);
    wait_for(pool, &waiter);
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
    unlock(pool);
}
