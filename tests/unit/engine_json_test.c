/* JSON documents: parsed and written whole, or not at all. What happens when memory is short is
 * tests/torture's to find out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/formats/json.h"

static json_t *load(const char *text, size_t flags)
{
    struct engine_error err = {0};
    json_error_t where;
    json_t *root = NULL;
    assert_int_equal(engine_json_load(text, strlen(text), flags, &root, &where, &err), ENGINE_OK);
    return root;
}

static void a_document_is_written_as_it_was_read(void **state)
{
    static const char *const texts[] = {
        "{\"a\":[1,2.5,null,true],\"b\":{\"c\":\"text of more than sixteen bytes\"}}",
        "[-9223372036854775808,9223372036854775807,\"\\u0001\\\"\\\\\"]", "{}", "[]"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char *text = engine_json_text(load(texts[i], 0), JSON_COMPACT);
        assert_string_equal(text, texts[i]);
        free(text);
    }
}

static void a_document_of_many_values_is_whole(void **state)
{
    json_t *list = json_array();
    (void)state;
    for (int i = 0; i < 5000; i++)
        list = engine_json_append(list, json_pack("{s:i,s:s}", "index", i, "name", "value"));
    char *text = engine_json_text(list, 0);
    json_t *again = load(text, JSON_REJECT_DUPLICATES);
    assert_int_equal(json_array_size(again), 5000);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(again, 4999), "index")),
                     4999);
    free(text);
    json_decref(again);
}

static void what_is_no_json_is_no_document_and_the_place_is_told(void **state)
{
    struct engine_error err = {0};
    json_error_t where = {.position = 0};
    json_t *root = (json_t *)&where;
    (void)state;
    assert_int_equal(engine_json_load("{\"a\":1,}", 8, 0, &root, &where, &err), ENGINE_OK);
    assert_null(root);
    assert_int_equal(where.position, 8);
    assert_non_null(strstr(where.text, "expected"));
    assert_null(load("{\"a\":1,\"a\":2}", JSON_REJECT_DUPLICATES));
    assert_null(load("[1", 0));
}

static void a_part_that_is_missing_makes_the_document_missing(void **state)
{
    (void)state;
    assert_null(engine_json_append(json_array(), NULL));
    assert_null(engine_json_append(NULL, json_integer(1)));
    assert_null(engine_json_set(json_object(), "a", NULL));
    assert_null(engine_json_set(NULL, "a", json_integer(1)));
    assert_null(engine_json_text(NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_is_written_as_it_was_read),
        cmocka_unit_test(a_document_of_many_values_is_whole),
        cmocka_unit_test(what_is_no_json_is_no_document_and_the_place_is_told),
        cmocka_unit_test(a_part_that_is_missing_makes_the_document_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
