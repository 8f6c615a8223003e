/* admission.c - see admission.h. */
#include "server/admission.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "server/deadlines.h"

enum { WINDOW_NS = 20 * 1000 * 1000 };

struct server_admission {
    struct engine *engine;
    int64_t max_calls;
    pthread_mutex_t lock;
    int64_t calls;
    size_t bytes;        /* of workspaces of admitted calls */
    double flops;        /* admitted and not left, whatever of it is done */
    double flops_per_ns; /* of the whole engine, a moving average; 0: not known yet */
    double window_flops; /* to do at window_ns, and admitted since */
    int64_t window_ns;   /* begin of the spell that is measured: the engine was never idle in it */
    uint64_t shed;
};

struct server_admission *server_admission_create(struct engine *engine, int64_t max_calls)
{
    struct server_admission *admission = calloc(1, sizeof *admission);
    if (admission == NULL)
        return NULL;
    admission->engine = engine;
    admission->max_calls = max_calls;
    pthread_mutex_init(&admission->lock, NULL);
    return admission;
}

void server_admission_destroy(struct server_admission *admission)
{
    if (admission == NULL)
        return;
    pthread_mutex_destroy(&admission->lock);
    free(admission);
}

static enum engine_code check_calls(struct server_admission *admission, struct engine_error *err)
{
    if (admission->calls < admission->max_calls)
        return ENGINE_OK;
    admission->shed++;
    return engine_error_set(err, ENGINE_OVERLOADED,
                            "%lld calls wait or run, as many as --max-queue allows; try again",
                            (long long)admission->calls);
}

enum engine_code server_admission_peek(struct server_admission *admission, struct engine_error *err)
{
    pthread_mutex_lock(&admission->lock);
    enum engine_code code = check_calls(admission, err);
    pthread_mutex_unlock(&admission->lock);
    return code;
}

/* taken: inputs, outputs and workspaces in use now; the workspaces of calls that were admitted
 * and have not begun come on top. Counting running ones twice errs on the safe side. */
static enum engine_code check_bytes(struct server_admission *admission, size_t bytes,
                                    struct engine_error *err)
{
    struct engine_memory_facts memory;
    engine_memory(admission->engine, &memory);
    if (bytes > memory.budget_bytes)
        return engine_error_set(err, ENGINE_TOO_LARGE,
                                "the call needs %zu bytes of memory; the server has %zu", bytes,
                                memory.budget_bytes);
    size_t used = memory.taken_bytes + admission->bytes;
    if (used <= memory.budget_bytes && bytes <= memory.budget_bytes - used)
        return ENGINE_OK;
    admission->shed++;
    return engine_error_set(err, ENGINE_OVERLOADED,
                            "the call needs %zu bytes and %zu of the memory budget of %zu are in "
                            "use; try again",
                            bytes, used, memory.budget_bytes);
}

/* What of the admitted calls is still to be done: units done count, also of a call that will run
 * for long or be cancelled. */
static double flops_to_do(struct server_admission *admission)
{
    struct engine_load load;
    engine_load(admission->engine, &load);
    return load.flops_queued;
}

static void begin_window(struct server_admission *admission)
{
    admission->window_ns = server_deadlines_now();
    admission->window_flops = flops_to_do(admission);
}

/* Expected end = now + (what is to be done + this) / rate. All that was admitted is no less than
 * what is to be done, and costs nothing to look at. */
static enum engine_code check_wait(struct server_admission *admission, double flops,
                                   int64_t deadline_ns, struct engine_error *err)
{
    if (deadline_ns == 0 || admission->flops_per_ns <= 0 || admission->calls == 0)
        return ENGINE_OK;
    double left_ns = (double)(deadline_ns - server_deadlines_now());
    if ((admission->flops + flops) / admission->flops_per_ns <= left_ns)
        return ENGINE_OK;
    double wait_ns = (flops_to_do(admission) + flops) / admission->flops_per_ns;
    if (wait_ns <= left_ns)
        return ENGINE_OK;
    admission->shed++;
    return engine_error_set(err, ENGINE_OVERLOADED,
                            "about %.0f ms of work wait and the call's deadline is in %.0f ms; "
                            "try again",
                            wait_ns / 1e6, left_ns / 1e6);
}

enum engine_code server_admission_enter(struct server_admission *admission,
                                        const struct engine_plan_facts *facts, int64_t deadline_ns,
                                        struct server_admission_ticket *ret,
                                        struct engine_error *err)
{
    size_t bytes = facts->workspace_bytes;
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        if (!engine_tensor_add(bytes, facts->output_bytes[i], &bytes))
            return engine_error_set(err, ENGINE_TOO_LARGE, "the call's outputs overflow memory");
    pthread_mutex_lock(&admission->lock);
    enum engine_code code = check_calls(admission, err);
    if (code == ENGINE_OK)
        code = check_bytes(admission, bytes, err);
    if (code == ENGINE_OK)
        code = check_wait(admission, facts->flops, deadline_ns, err);
    if (code == ENGINE_OK) {
        *ret = (struct server_admission_ticket){facts->workspace_bytes, facts->flops, true};
        if (admission->calls++ == 0)
            begin_window(admission);
        admission->bytes += ret->bytes;
        admission->flops += ret->flops;
        admission->window_flops += ret->flops;
    }
    pthread_mutex_unlock(&admission->lock);
    return code;
}

/* What the engine gets done while it is never idle. Shorter spells teach nothing: calls that
 * come one by one neither wait nor make others wait. A call that is cancelled takes an unknown
 * part of its work along, so a spell with one teaches nothing either. */
static void learn_rate(struct server_admission *admission, bool finished)
{
    int64_t spell_ns = server_deadlines_now() - admission->window_ns;
    if (finished && spell_ns < WINDOW_NS)
        return;
    double rate = (admission->window_flops - flops_to_do(admission)) / (double)spell_ns;
    double old = admission->flops_per_ns;
    if (finished && rate > 0) /* not so when a call was counted before the engine had it */
        admission->flops_per_ns = old <= 0 ? rate : old + (rate - old) / 4;
    begin_window(admission);
}

void server_admission_leave(struct server_admission *admission,
                            struct server_admission_ticket *ticket, bool finished)
{
    if (!ticket->held)
        return;
    pthread_mutex_lock(&admission->lock);
    learn_rate(admission, finished);
    admission->calls--;
    admission->bytes -= ticket->bytes;
    admission->flops = admission->calls == 0 ? 0 : admission->flops - ticket->flops;
    pthread_mutex_unlock(&admission->lock);
    memset(ticket, 0, sizeof *ticket);
}

int server_admission_calls(struct server_admission *admission)
{
    pthread_mutex_lock(&admission->lock);
    int64_t calls = admission->calls;
    pthread_mutex_unlock(&admission->lock);
    return (int)calls;
}

uint64_t server_admission_shed(struct server_admission *admission)
{
    pthread_mutex_lock(&admission->lock);
    uint64_t shed = admission->shed;
    pthread_mutex_unlock(&admission->lock);
    return shed;
}
