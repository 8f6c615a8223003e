/* server_repository_test.c - models by directory: versions, replacement, what does not open.
 * Runs in the repository's root: the models are links to golden cases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/repository.h"

static struct engine *engine;
static struct server_log *quiet;
static char root[64], golden[4096];

static void make_path(char path[4096], const char *name)
{
    snprintf(path, 4096, "%s/%s", root, name);
}

static void make_directory(const char *name)
{
    char path[4096];
    make_path(path, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void make_model(const char *name)
{
    char path[4096];
    make_path(path, name);
    assert_int_equal(symlink(golden, path), 0);
}

static void make_broken(const char *name)
{
    char path[4096];
    make_directory(name);
    snprintf(path, sizeof path, "%s/%s/layer.json", root, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{}", file);
    fclose(file);
}

static int open_engine(void **state)
{
    struct engine_options options = {.threads = 1};
    struct engine_error err = {0};
    (void)state;
    if (realpath("tests/golden/axes_1_of_4d", golden) == NULL)
        return -1;
    return engine_open(&options, &engine, &err) == ENGINE_OK &&
                   server_log_open(STDERR_FILENO, -1, false, &quiet, &err) == ENGINE_OK
               ? 0
               : -1;
}

static int close_engine(void **state)
{
    (void)state;
    server_log_close(quiet);
    engine_close(engine);
    return 0;
}

static int make_root(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/attnd_repository_XXXXXX");
    return mkdtemp(root) != NULL ? 0 : -1;
}

static int remove_root(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command);
}

static struct server_repository *open_repository(void)
{
    struct server_options options = {.models = {{root}, 1}};
    struct server_repository *repository = NULL;
    struct engine_error err = {0};
    if (server_repository_open(engine, quiet, &options, &repository, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    return repository;
}

static enum engine_code find(struct server_repository *repository, const char *name,
                             const char *version, char found[20])
{
    struct engine_error err = {0};
    struct server_model *model = NULL;
    enum engine_code code = server_repository_find(repository, name, version, &model, &err);
    if (code == ENGINE_OK)
        strcpy(found, model->version);
    server_model_release(model);
    return code;
}

static void the_highest_version_is_the_default(void **state)
{
    char found[20];
    (void)state;
    make_directory("m");
    make_model("m/2");
    make_model("m/10");
    make_model("m/9");
    struct server_repository *repository = open_repository();
    assert_int_equal(find(repository, "m", "", found), ENGINE_OK);
    assert_string_equal(found, "10");
    assert_int_equal(find(repository, "m", "2", found), ENGINE_OK);
    assert_string_equal(found, "2");
    assert_int_equal(find(repository, "m", "3", found), ENGINE_NOT_FOUND);
    assert_int_equal(find(repository, "n", "", found), ENGINE_NOT_FOUND);
    assert_true(server_repository_ready(repository));
    server_repository_close(repository);
}

static void files_without_a_number_are_version_1(void **state)
{
    char found[20];
    (void)state;
    make_model("m");
    make_directory("no_model");
    struct server_repository *repository = open_repository();
    assert_int_equal(find(repository, "m", "", found), ENGINE_OK);
    assert_string_equal(found, "1");
    assert_int_equal(find(repository, "no_model", "", found), ENGINE_NOT_FOUND);
    server_repository_close(repository);
}

static void a_broken_model_is_known_not_served_and_not_ready(void **state)
{
    struct server_model_list list;
    char found[20];
    (void)state;
    make_model("good");
    make_broken("broken");
    struct server_repository *repository = open_repository();
    assert_int_equal(find(repository, "good", "", found), ENGINE_OK);
    assert_int_equal(find(repository, "broken", "", found), ENGINE_UNAVAILABLE);
    assert_false(server_repository_ready(repository));
    struct engine_error err = {0};
    assert_int_equal(server_repository_list(repository, NULL, &list, &err), ENGINE_OK);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.views[0].name, "broken");
    assert_int_equal(list.views[0].state, API_MODEL_UNAVAILABLE);
    assert_true(list.views[0].reason[0] != '\0');
    assert_int_equal(list.views[1].state, API_MODEL_READY);
    server_repository_list_reset(&list);
    server_repository_close(repository);
}

static void unloading_on_purpose_leaves_the_server_ready_while_a_model_is_left(void **state)
{
    struct api_load_request load = {0};
    struct engine_error err = {0};
    char found[20];
    (void)state;
    make_model("m");
    make_model("other");
    struct server_repository *repository = open_repository();
    assert_int_equal(server_repository_unload(repository, "m", &err), ENGINE_OK);
    assert_int_equal(find(repository, "m", "", found), ENGINE_UNAVAILABLE);
    assert_true(server_repository_ready(repository));
    assert_int_equal(server_repository_unload(repository, "other", &err), ENGINE_OK);
    assert_false(server_repository_ready(repository));
    assert_int_equal(server_repository_load(repository, "m", &load, &err), ENGINE_OK);
    assert_int_equal(find(repository, "m", "", found), ENGINE_OK);
    assert_true(server_repository_ready(repository));
    assert_int_equal(server_repository_unload(repository, "n", &err), ENGINE_NOT_FOUND);
    server_repository_close(repository);
}

static void a_failing_reload_leaves_the_old_version_serving(void **state)
{
    static char broken[] = "{";
    struct api_load_request load = {.config = broken};
    struct engine_error err = {0};
    char found[20];
    (void)state;
    make_model("m");
    struct server_repository *repository = open_repository();
    assert_int_not_equal(server_repository_load(repository, "m", &load, &err), ENGINE_OK);
    assert_int_equal(find(repository, "m", "", found), ENGINE_OK);
    assert_true(server_repository_ready(repository));
    server_repository_close(repository);
}

static void a_model_in_use_outlives_its_removal(void **state)
{
    struct engine_error err = {0};
    struct server_model *model = NULL;
    (void)state;
    make_model("m");
    struct server_repository *repository = open_repository();
    assert_int_equal(server_repository_find(repository, "m", "", &model, &err), ENGINE_OK);
    assert_int_equal(server_repository_unload(repository, "m", &err), ENGINE_OK);
    assert_non_null(engine_model_config(model->model));
    server_model_release(model);
    server_repository_close(repository);
}

static void a_server_without_models_is_an_error(void **state)
{
    struct server_options options = {.models = {{root}, 1}};
    struct server_repository *repository = NULL;
    struct engine_error err = {0};
    (void)state;
    assert_int_equal(server_repository_open(engine, quiet, &options, &repository, &err),
                     ENGINE_INVALID_ARGUMENT);
    options.allow_control = true;
    engine_error_clear(&err);
    assert_int_equal(server_repository_open(engine, quiet, &options, &repository, &err), ENGINE_OK);
    assert_false(server_repository_ready(repository));
    server_repository_close(repository);
}

/* The names that are served, by commas. */
static void served(const char *const *directories, size_t count, char names[256])
{
    struct server_options options = {.allow_control = true};
    struct server_repository *repository = NULL;
    struct server_model_list list;
    struct engine_error err = {0};
    for (size_t i = 0; i < count; i++)
        options.models.values[options.models.count++] = directories[i];
    if (server_repository_open(engine, quiet, &options, &repository, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(server_repository_list(repository, NULL, &list, &err), ENGINE_OK);
    names[0] = '\0';
    for (size_t i = 0; i < list.count; i++)
        snprintf(names + strlen(names), 256 - strlen(names), "%s%s:%s", i > 0 ? "," : "",
                 list.views[i].name, list.views[i].version);
    server_repository_list_reset(&list);
    server_repository_close(repository);
}

static void a_directory_that_is_a_model_is_served_under_its_name(void **state)
{
    char model[4096], slashes[4200], within[4200], numbered[4096], both[4096], names[256];
    (void)state;
    make_model("m");
    make_directory("numbered");
    make_model("numbered/3");
    make_model("numbered/12");
    make_directory("both"); /* numbers are names where there are others */
    make_model("both/3");
    make_model("both/n");
    make_path(model, "m");
    make_path(numbered, "numbered");
    make_path(both, "both");
    snprintf(slashes, sizeof slashes, "%s//", model);
    snprintf(within, sizeof within, "%s/.", model);
    served((const char *[]){model}, 1, names);
    assert_string_equal(names, "m:1");
    served((const char *[]){slashes}, 1, names);
    assert_string_equal(names, "m:1");
    served((const char *[]){within}, 1, names); /* the link's target has the name */
    assert_string_equal(names, "axes_1_of_4d:1");
    served((const char *[]){numbered}, 1, names);
    assert_string_equal(names, "numbered:3,numbered:12");
    served((const char *[]){both}, 1, names);
    assert_string_equal(names, "3:1,n:1");
    served((const char *[]){numbered, model}, 2, names);
    assert_string_equal(names, "m:1,numbered:3,numbered:12");
    served((const char *[]){root}, 1, names);
    assert_string_equal(names, "both:3,m:1,numbered:3,numbered:12");
}

#define WITH_ROOT(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ROOT(the_highest_version_is_the_default),
        WITH_ROOT(files_without_a_number_are_version_1),
        WITH_ROOT(a_broken_model_is_known_not_served_and_not_ready),
        WITH_ROOT(unloading_on_purpose_leaves_the_server_ready_while_a_model_is_left),
        WITH_ROOT(a_failing_reload_leaves_the_old_version_serving),
        WITH_ROOT(a_model_in_use_outlives_its_removal),
        WITH_ROOT(a_server_without_models_is_an_error),
        WITH_ROOT(a_directory_that_is_a_model_is_served_under_its_name),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
