/* pool.h - the worker threads, and the order in which units of work are taken.
 *
 * A job has phases, a phase has units; units of a phase are independent, and a phase starts when
 * the last unit of the one before has ended: the worker that ends it opens the next, nobody waits
 * at a barrier. A worker takes one unit at a time and may change jobs between any two, so a small
 * job overtakes a large one within a unit. Which job:
 *     1. by priority,
 *     2. one on which nobody works (many jobs get a worker each; an idle worker helps),
 *     3. least of  arrival + 64 x the time its remaining work takes: the smallest first, and
 *        a large one waits at most 64 times its own length.
 * Cancelling and deadlines take effect between units.
 *
 * A thread that submits may help with its own job: it starts at once, while a sleeping worker takes
 * some 50 us to wake, and there is nobody to wake in the end. It counts as one of the threads that
 * compute: a worker more rests meanwhile.
 *
 * Idle workers, and helpers between two phases, look for work for a few microseconds; then workers
 * sleep and helpers leave. Nobody waits for another thread otherwise, so a descheduled worker (CFS
 * quota) delays its own unit only. Each thread that computes tells OpenMP to use one: libgomp keeps
 * that number per thread, and would end the process if it had no memory for it. A worker makes sure
 * of it when it starts, before engine_pool_open returns; others are refused (OUT_OF_MEMORY), or the
 * workers do without their help.
 *
 * Where there are as many workers as cores are allowed, each keeps to one: else the system may wake
 * a worker on the core of the thread that calls it while another core idles.
 *
 * It knows nothing of attention, and refuses to create threads after engine_pool_open. */
#ifndef ENGINE_POOL_H
#define ENGINE_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/arena.h"
#include "engine/buffers.h"
#include "engine/engine.h"

enum { ENGINE_POOL_PHASES = 6 };

struct engine_pool;

/* next: the unit of the phase that the same thread will probably take after this one, which may not
 * exist: what it needs can be prefetched. */
struct engine_pool_unit {
    int phase;
    int64_t index, next;
};

/* What is to be done. run() is called by any worker, for units of the current phase at the same
 * time; an error ends the job. The arena has scratch_bytes and is rewound after each unit. */
struct engine_pool_work {
    int64_t units[ENGINE_POOL_PHASES]; /* phases without units are skipped */
    unsigned
        quick_phases; /* bits: phases that take less than a wake-up, for which nobody is woken */
    size_t scratch_bytes;
    double flops;
    enum engine_code (*run)(void *argument, const struct engine_pool_unit *unit,
                            struct engine_arena *arena, struct engine_error *err);
    void *argument;
};

/* A job lives in its owner's memory until "done" is called; the pool allocates nothing. */
struct engine_pool_job {
    struct engine_pool_work work;
    struct engine_job_options options;
    /* The rest belongs to the pool's lock. */
    struct engine_pool_job *next, *previous;
    int64_t arrival_ns;
    int64_t next_unit, ended_units, units_left;
    double flops_per_unit;
    int phase, workers;
    bool started, over, reported;
    bool helper_is_free; /* and takes a unit of the phase: one is kept for it */
    struct engine_error error;
    atomic_bool cancelled;
};

/* Errors: OUT_OF_MEMORY, INTERNAL (threads). buffers serve the workers' arenas. */
ENGINE_MUST_CHECK enum engine_code engine_pool_open(int threads, struct engine_buffers *buffers,
                                                    struct engine_pool **ret,
                                                    struct engine_error *err);
/* Ends all jobs first, then the threads. */
void engine_pool_close(struct engine_pool *pool);

/* work and options must be set in the job. done() is called exactly once. */
void engine_pool_submit(struct engine_pool *pool, struct engine_pool_job *job);
/* The same for a caller who would help. true: engine_pool_help must follow, and the job exists
 * until then; false: all threads compute already, and the workers will do it alone. */
ENGINE_MUST_CHECK bool engine_pool_submit_helped(struct engine_pool *pool,
                                                 struct engine_pool_job *job);
/* Computes units of the job until none is left for the caller, and may call "done". Not from a
 * worker. The job may be gone when it returns. */
void engine_pool_help(struct engine_pool *pool, struct engine_pool_job *job);
void engine_pool_cancel(struct engine_pool *pool, struct engine_pool_job *job);

/* Submits, helps if a thread is free, and waits; "done" of the options is not used. Not from a
 * worker. */
enum engine_code engine_pool_run(struct engine_pool *pool, struct engine_pool_job *job,
                                 struct engine_error *err);

/* All phases on the calling thread, with memory of the buffers. Errors: OUT_OF_MEMORY, OVERLOADED,
 * what a unit ends with. */
enum engine_code engine_pool_run_inline(struct engine_buffers *buffers,
                                        const struct engine_pool_work *work,
                                        struct engine_error *err);

/* See engine_prepare_thread. */
bool engine_pool_prepare(void);

/* See engine_parallel. */
void engine_pool_parallel(struct engine_pool *pool, int count, void (*part)(void *argument, int i),
                          void *argument);

void engine_pool_load(struct engine_pool *pool, struct engine_load *ret);

#endif
