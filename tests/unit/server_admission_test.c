/* server_admission_test.c - what is admitted fits; what does not fit is refused at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/admission.h"

static struct engine *engine;
static size_t budget;

static int open_one(void **state)
{
    struct engine_error err = {0};
    struct engine_options options = {.threads = 1, .memory_budget_bytes = 1 << 30};
    struct engine_memory_facts memory;
    (void)state;
    if (engine_open(&options, &engine, &err) != ENGINE_OK)
        return -1;
    engine_memory(engine, &memory);
    budget = memory.budget_bytes - memory.taken_bytes;
    return 0;
}

static int close_one(void **state)
{
    (void)state;
    engine_close(engine);
    return 0;
}

static enum engine_code enter(struct server_admission *admission, size_t bytes,
                              struct server_admission_ticket *ticket)
{
    struct engine_plan_facts facts = {.workspace_bytes = bytes, .flops = 1e6};
    struct engine_error err = {0};
    memset(ticket, 0, sizeof *ticket);
    return server_admission_enter(admission, &facts, 0, ticket, &err);
}

static void one_call_more_than_the_queue_holds_is_refused(void **state)
{
    struct server_admission *admission = server_admission_create(engine, 2);
    struct server_admission_ticket tickets[3];
    struct engine_error err = {0};
    (void)state;
    assert_int_equal(enter(admission, 1, &tickets[0]), ENGINE_OK);
    assert_int_equal(server_admission_peek(admission, &err), ENGINE_OK);
    assert_int_equal(enter(admission, 1, &tickets[1]), ENGINE_OK);
    assert_int_equal(server_admission_peek(admission, &err), ENGINE_OVERLOADED);
    assert_int_equal(enter(admission, 1, &tickets[2]), ENGINE_OVERLOADED);
    assert_int_equal(server_admission_shed(admission), 2);
    server_admission_leave(admission, &tickets[0], true);
    assert_int_equal(enter(admission, 1, &tickets[2]), ENGINE_OK);
    assert_int_equal(server_admission_calls(admission), 2);
    server_admission_destroy(admission);
}

static void workspaces_together_stay_within_the_budget(void **state)
{
    struct server_admission *admission = server_admission_create(engine, 100);
    struct server_admission_ticket first, second;
    (void)state;
    assert_int_equal(enter(admission, budget / 5 * 3, &first), ENGINE_OK);
    assert_int_equal(enter(admission, budget / 5 * 3, &second), ENGINE_OVERLOADED);
    server_admission_leave(admission, &first, true);
    assert_int_equal(enter(admission, budget / 5 * 3, &second), ENGINE_OK);
    server_admission_destroy(admission);
}

static void what_no_idle_server_could_hold_is_too_large(void **state)
{
    struct server_admission *admission = server_admission_create(engine, 100);
    struct server_admission_ticket ticket;
    (void)state;
    assert_int_equal(enter(admission, (size_t)1 << 31, &ticket), ENGINE_TOO_LARGE);
    assert_int_equal(server_admission_calls(admission), 0);
    server_admission_destroy(admission);
}

static void leaving_twice_counts_once(void **state)
{
    struct server_admission *admission = server_admission_create(engine, 100);
    struct server_admission_ticket first, second;
    (void)state;
    assert_int_equal(enter(admission, 1, &first), ENGINE_OK);
    assert_int_equal(enter(admission, 1, &second), ENGINE_OK);
    server_admission_leave(admission, &first, true);
    server_admission_leave(admission, &first, false);
    assert_int_equal(server_admission_calls(admission), 1);
    server_admission_destroy(admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_call_more_than_the_queue_holds_is_refused),
        cmocka_unit_test(workspaces_together_stay_within_the_budget),
        cmocka_unit_test(what_no_idle_server_could_hold_is_too_large),
        cmocka_unit_test(leaving_twice_counts_once),
    };
    return cmocka_run_group_tests(tests, open_one, close_one);
}
