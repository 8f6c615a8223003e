/* engine_buffers_test.c - resident memory: reuse, classes, alignment, the budget. */
#include "tests/unit/engine_support.h"

#include <pthread.h>

#include "engine/buffers.h"

static void take(struct engine_buffers *buffers, size_t bytes, struct engine_buffer *ret)
{
    struct engine_error err = {0};
    if (engine_buffers_take(buffers, bytes, ret, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    assert_true(ret->bytes >= bytes);
    assert_int_equal((uintptr_t)ret->data % 64, 0);
    memset(ret->data, 1, bytes);
}

static void a_block_given_back_is_handed_out_again(void **unused)
{
    struct engine_buffers buffers;
    struct engine_buffer a, b;
    struct engine_memory_facts facts;
    (void)unused;
    engine_buffers_init(&buffers, 1 << 30);
    take(&buffers, 97000, &a);
    void *place = a.data;
    engine_buffers_give(&buffers, &a);
    assert_null(a.data);
    take(&buffers, 90000, &b); /* the same class: 96 KB */
    assert_ptr_equal(b.data, place);
    engine_buffers_facts(&buffers, &facts);
    assert_int_equal(facts.takes, 2);
    assert_int_equal(facts.misses, 1);
    assert_int_equal(facts.taken_bytes, facts.resident_bytes);
    engine_buffers_give(&buffers, &b);
    engine_buffers_facts(&buffers, &facts);
    assert_int_equal(facts.taken_bytes, 0);
    assert_true(facts.resident_bytes >= 97000);
    engine_buffers_reset(&buffers);
}

static void at_most_a_third_of_a_block_is_unused(void **unused)
{
    struct engine_buffers buffers;
    struct engine_buffer a;
    (void)unused;
    engine_buffers_init(&buffers, 1 << 30);
    for (size_t bytes = 4096; bytes < 3 << 20; bytes += 4097) {
        take(&buffers, bytes, &a);
        assert_true(a.bytes - bytes <= (a.bytes + 2) / 3);
        engine_buffers_give(&buffers, &a);
    }
    engine_buffers_reset(&buffers);
}

static void the_budget_is_never_passed_and_idle_blocks_make_room(void **unused)
{
    struct engine_buffers buffers;
    struct engine_buffer a, b;
    struct engine_error err = {0};
    struct engine_memory_facts facts;
    (void)unused;
    engine_buffers_init(&buffers, 1 << 20);
    take(&buffers, 700000, &a);
    assert_int_equal(engine_buffers_take(&buffers, 700000, &b, &err), ENGINE_OVERLOADED);
    assert_non_null(strstr(err.message, "budget"));
    assert_null(b.data);
    engine_buffers_give(&buffers, &a);
    take(&buffers, 500000, &b); /* another class: the idle block goes back to the system */
    engine_buffers_facts(&buffers, &facts);
    assert_true(facts.resident_bytes <= 1 << 20);
    engine_buffers_give(&buffers, &b);
    assert_int_equal(engine_buffers_take(&buffers, SIZE_MAX, &b, NULL), ENGINE_OVERLOADED);
    assert_int_equal(engine_buffers_take(&buffers, (size_t)1 << 61, &b, NULL), ENGINE_OVERLOADED);
    engine_buffers_reset(&buffers);
}

static void nothing_is_an_empty_buffer(void **unused)
{
    struct engine_buffers buffers;
    struct engine_buffer a = {.data = &buffers, .bytes = 1};
    (void)unused;
    engine_buffers_init(&buffers, 4096);
    assert_int_equal(engine_buffers_take(&buffers, 0, &a, NULL), ENGINE_OK);
    assert_null(a.data);
    engine_buffers_give(&buffers, &a);
    engine_buffers_reset(&buffers);
}

static void *take_and_give(void *argument)
{
    struct engine_buffers *buffers = argument;
    struct support_random r = {(uint64_t)(uintptr_t)&buffers};
    for (int i = 0; i < 5000; i++) {
        struct engine_buffer a;
        size_t bytes = 1 + (size_t)support_below(&r, 60000);
        if (engine_buffers_take(buffers, bytes, &a, NULL) != ENGINE_OK)
            continue; /* the others have it */
        memset(a.data, i, bytes);
        engine_buffers_give(buffers, &a);
    }
    return NULL;
}

static void threads_may_take_and_give_at_the_same_time(void **unused)
{
    struct engine_buffers buffers;
    struct engine_memory_facts facts;
    pthread_t threads[4];
    (void)unused;
    engine_buffers_init(&buffers, 300000);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, &buffers), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    engine_buffers_facts(&buffers, &facts);
    assert_int_equal(facts.taken_bytes, 0);
    assert_true(facts.resident_bytes <= 300000);
    engine_buffers_reset(&buffers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_given_back_is_handed_out_again),
        cmocka_unit_test(at_most_a_third_of_a_block_is_unused),
        cmocka_unit_test(the_budget_is_never_passed_and_idle_blocks_make_room),
        cmocka_unit_test(nothing_is_an_empty_buffer),
        cmocka_unit_test(threads_may_take_and_give_at_the_same_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
