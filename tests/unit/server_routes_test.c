/* server_routes_test.c - paths are matched as they came; names are validated in one place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/routes.h"

static enum engine_code find(const char *method, const char *path, struct server_match *match)
{
    struct engine_error err = {0};
    return server_routes_find(method, path, match, &err);
}

static void parameters_are_taken_from_the_path(void **state)
{
    struct server_match match;
    (void)state;
    assert_int_equal(find("POST", "/v2/models/a%20b/versions/12/infer", &match), ENGINE_OK);
    assert_string_equal(match.model, "a b");
    assert_string_equal(match.version, "12");
    assert_int_equal(match.route->class, SERVER_ROUTE_INFER);
    assert_int_equal(find("POST", "/v1/models/m:predict", &match), ENGINE_OK);
    assert_string_equal(match.model, "m");
    assert_string_equal(match.version, "");
    assert_int_equal(match.route->class, SERVER_ROUTE_PREDICT);
}

static void slashes_at_the_end_queries_and_authorities_do_not_matter(void **state)
{
    struct server_match match;
    (void)state;
    assert_int_equal(find("GET", "/v2/", &match), ENGINE_OK);
    assert_string_equal(match.route->pattern, "/v2");
    assert_int_equal(find("GET", "http://host:1/v2/health/live", &match), ENGINE_OK);
    assert_int_equal(find("GET", "http://host", &match), ENGINE_OK);
    assert_string_equal(match.route->pattern, "/");
}

static void a_literal_path_is_not_a_model_of_that_name(void **state)
{
    struct server_match match;
    (void)state;
    assert_int_equal(find("GET", "/v2/models/stats", &match), ENGINE_OK);
    assert_string_equal(match.route->pattern, "/v2/models/stats");
    assert_string_equal(match.allow, "GET, HEAD, OPTIONS");
}

static void malformed_names_never_reach_a_handler(void **state)
{
    static const char *const paths[] = {
        "/v2/models/../ready",       "/v2/models/./ready",       "/v2/models/a%2fb/ready",
        "/v2/models/a%00b/ready",    "/v2/models/a%zz/ready",    "/v2/models/a%4",
        "/v2/models/%2e%2e/ready",   "/v2/models//ready",        "/v2/models/a%0ab",
        "/v2/models/.hidden/config", "/v2/models/a%C3%A9/infer", "/v2/models/a%",
    };
    struct server_match match;
    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        const char *method = strstr(paths[i], "infer") != NULL ? "POST" : "GET";
        if (find(method, paths[i], &match) != ENGINE_INVALID_ARGUMENT)
            fail_msg("accepted: %s", paths[i]);
    }
}

static void versions_are_numbers_without_leading_zero(void **state)
{
    struct server_match match;
    (void)state;
    assert_int_equal(find("GET", "/v2/models/m/versions/v10", &match), ENGINE_NOT_FOUND);
    assert_int_equal(find("GET", "/v2/models/m/versions/01", &match), ENGINE_NOT_FOUND);
    assert_int_equal(find("GET", "/v2/models/m/versions/1234567890123456789012", &match),
                     ENGINE_NOT_FOUND);
    assert_int_equal(find("GET", "/v2/models/m/versions/7", &match), ENGINE_OK);
}

static void a_wrong_method_names_the_right_ones(void **state)
{
    struct server_match match;
    (void)state;
    assert_int_equal(find("GET", "/v2/models/m/infer", &match), ENGINE_METHOD);
    assert_string_equal(match.allow, "POST, OPTIONS");
    assert_int_equal(find("DELETE", "/v2/logging", &match), ENGINE_METHOD);
    assert_string_equal(match.allow, "GET, HEAD, POST, OPTIONS");
    assert_int_equal(find("HEAD", "/v2", &match), ENGINE_OK);
    assert_int_equal(find("OPTIONS", "/v2/models/m/infer", &match), ENGINE_OK);
    assert_true(match.options);
    assert_int_equal(find("OPTIONS", "*", &match), ENGINE_OK);
}

static void what_is_not_there_is_not_found(void **state)
{
    struct server_match match;
    (void)state;
    assert_int_equal(find("GET", "/v3", &match), ENGINE_NOT_FOUND);
    assert_int_equal(find("GET", "", &match), ENGINE_NOT_FOUND);
    assert_int_equal(find("GET", "v2", &match), ENGINE_NOT_FOUND);
    assert_int_equal(find("GET", "/a/b/c/d/e/f/g/h/i/j", &match), ENGINE_NOT_FOUND);
    assert_int_equal(find("DELETE", "/v2/scores/1", &match), ENGINE_NOT_FOUND);
}

static void a_name_of_the_largest_size_is_accepted_and_one_more_is_not(void **state)
{
    char name[API_MAX_NAME_BYTES + 2];
    (void)state;
    memset(name, 'a', sizeof name);
    name[API_MAX_NAME_BYTES + 1] = '\0';
    assert_false(server_routes_is_name(name));
    name[API_MAX_NAME_BYTES] = '\0';
    assert_true(server_routes_is_name(name));
    assert_false(server_routes_is_name(""));
}

static void a_url_over_the_limit_is_too_large(void **state)
{
    static char path[API_MAX_URL_BYTES + 2];
    struct server_match match;
    (void)state;
    memset(path, '/', sizeof path - 1);
    assert_int_equal(find("GET", path, &match), ENGINE_URL_TOO_LONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_are_taken_from_the_path),
        cmocka_unit_test(slashes_at_the_end_queries_and_authorities_do_not_matter),
        cmocka_unit_test(a_literal_path_is_not_a_model_of_that_name),
        cmocka_unit_test(malformed_names_never_reach_a_handler),
        cmocka_unit_test(versions_are_numbers_without_leading_zero),
        cmocka_unit_test(a_wrong_method_names_the_right_ones),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(a_name_of_the_largest_size_is_accepted_and_one_more_is_not),
        cmocka_unit_test(a_url_over_the_limit_is_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
