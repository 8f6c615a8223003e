/* admission.h - who may compute: a bound on calls, on bytes, and on waiting.
 *
 * A call is admitted when fewer than --max-queue calls wait or run, when its buffers fit beside
 * all others' into the memory budget, and when what waits before it leaves time before its
 * deadline. Otherwise it is OVERLOADED (429) at once; nothing is accepted to fail later.
 * Threads: any. */
#ifndef SERVER_ADMISSION_H
#define SERVER_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"

struct server_admission;

struct server_admission *server_admission_create(struct engine *engine, int64_t max_calls);
void server_admission_destroy(struct server_admission *admission);

/* Before the body is read: is there room at all? Errors: OVERLOADED. */
ENGINE_MUST_CHECK enum engine_code server_admission_peek(struct server_admission *admission,
                                                         struct engine_error *err);

/* What an admitted call holds; to be left with the same values. */
struct server_admission_ticket {
    size_t bytes;
    double flops;
    bool held;
};

/* deadline_ns: CLOCK_MONOTONIC, 0: none. Errors: OVERLOADED; TOO_LARGE when the call would not
 * fit an idle server either. */
ENGINE_MUST_CHECK enum engine_code server_admission_enter(struct server_admission *admission,
                                                          const struct engine_plan_facts *facts,
                                                          int64_t deadline_ns,
                                                          struct server_admission_ticket *ret,
                                                          struct engine_error *err);
/* finished: all of it was computed. Clears the ticket; one that is not held is fine. */
void server_admission_leave(struct server_admission *admission,
                            struct server_admission_ticket *ticket, bool finished);

int server_admission_calls(struct server_admission *admission);
uint64_t server_admission_shed(struct server_admission *admission);

#endif
