/* server_options_test.c - a flag wins over its variable; what does not fit is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/log.h"
#include "server/options.h"

static struct engine_error failure;

static enum engine_code read_options(struct server_options *ret, const char *const *words)
{
    char *argv[16] = {(char *)(uintptr_t) "attnd"};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    engine_error_clear(&failure);
    return server_options_read(argc, argv, ret, &failure);
}

#define READ(ret, ...) read_options(ret, (const char *const[]){__VA_ARGS__, NULL})

static void defaults_listen_on_the_loopback_only(void **state)
{
    struct server_options options;
    (void)state;
    assert_int_equal(READ(&options, "--models", "d"), ENGINE_OK);
    assert_int_equal(options.listen.count, 1);
    assert_string_equal(options.listen.values[0], "127.0.0.1:8080");
    assert_false(options.allow_control);
    assert_int_equal(options.precision, ENGINE_PRECISION_F32);
    assert_int_equal(options.cpu, ENGINE_CPU_UNLIMITED);
    assert_int_equal(options.log_level, SERVER_LOG_INFO);
}

static void a_unix_socket_alone_opens_no_port(void **state)
{
    struct server_options options;
    (void)state;
    assert_int_equal(READ(&options, "--unix", "/tmp/s"), ENGINE_OK);
    assert_int_equal(options.listen.count, 0);
}

static void values_are_read_in_both_spellings(void **state)
{
    struct server_options options;
    (void)state;
    assert_int_equal(READ(&options, "--max-body=2M", "--threads", "3", "--allow-control",
                          "--models=a", "--models", "b", "--precision", "bf16", "--cpu=avx2"),
                     ENGINE_OK);
    assert_int_equal(options.cpu, ENGINE_CPU_AVX2);
    assert_int_equal(options.max_body_bytes, 2 << 20);
    assert_int_equal(options.threads, 3);
    assert_true(options.allow_control);
    assert_int_equal(options.models.count, 2);
    assert_int_equal(options.precision, ENGINE_PRECISION_BF16);
}

static void a_flag_wins_over_its_variable(void **state)
{
    struct server_options options;
    (void)state;
    setenv("ATTND_MAX_QUEUE", "7", 1);
    setenv("ATTND_MODELS", "x,y", 1);
    setenv("ATTND_PORT", "tcp://10.0.0.1:80", 1); /* Kubernetes makes such names */
    assert_int_equal(READ(&options, "--max-queue", "9"), ENGINE_OK);
    assert_int_equal(options.max_queue, 9);
    assert_int_equal(options.models.count, 2);
    assert_string_equal(options.models.values[1], "y");
    server_options_reset(&options);
    assert_int_equal(READ(&options, "--models", "z"), ENGINE_OK);
    assert_int_equal(options.max_queue, 7);
    assert_int_equal(options.models.count, 1);
    unsetenv("ATTND_MAX_QUEUE");
    unsetenv("ATTND_MODELS");
    unsetenv("ATTND_PORT");
}

static void a_bad_value_is_named(void **state)
{
    static const char *const cases[][2] = {
        {"--max-body", "ten"},
        {"--max-body", "-1"},
        {"--max-body", "0"},
        {"--max-body", "10X"},
        {"--threads", "1.5"},
        {"--threads", "99999"},
        {"--max-body", "9999999T"},
        {"--deadline-ms", ""},
        {"--precision", "f64"},
        {"--log-format", "xml"},
        {"--log-level", "loud"},
        {"--allow-control=maybe", ""},
        {"--allow-host", ""},
        {"--allow-host", "http://a.example"},
        {"--allow-host", "a.example:8080"},
        {"--allow-host", "*"},
        {"--cors-origin", "*"},
        {"--cors-origin", "null"},
        {"--cors-origin", "a.example"},
        {"--cors-origin", "https://a.example/"},
        {"--cors-origin", "https://a.example:99999"},
        {"--cors-origin", "ftp://a.example"},
        {"--max-body", "99999999999999999999999"},
    };
    struct server_options options;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *words[] = {cases[i][0], strchr(cases[i][0], '=') ? NULL : cases[i][1], NULL};
        if (read_options(&options, words) != ENGINE_INVALID_ARGUMENT)
            fail_msg("accepted: %s %s", cases[i][0], cases[i][1]);
        assert_non_null(strstr(failure.message, "--"));
    }
}

static void a_bad_variable_is_named(void **state)
{
    struct server_options options;
    (void)state;
    setenv("ATTND_THREADS", "many", 1);
    assert_int_equal(READ(&options, "--models", "d"), ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(failure.message, "ATTND_THREADS"));
    unsetenv("ATTND_THREADS");
}

static void names_and_origins_are_lists_in_the_environment_too(void **state)
{
    struct server_options options;
    (void)state;
    setenv("ATTND_ALLOW_HOST", "a.example,B.example.", 1);
    setenv("ATTND_CORS_ORIGIN", "https://a.example,http://[::1]:3000", 1);
    assert_int_equal(READ(&options, "--models", "d"), ENGINE_OK);
    assert_int_equal(options.allow_hosts.count, 2);
    assert_int_equal(options.cors_origins.count, 2);
    assert_string_equal(options.cors_origins.values[1], "http://[::1]:3000");
    server_options_reset(&options);
    unsetenv("ATTND_ALLOW_HOST");
    unsetenv("ATTND_CORS_ORIGIN");
}

static void collect(void *argument, const char *name, const char *nearest)
{
    char *text = argument;
    snprintf(text + strlen(text), 512 - strlen(text), "%s>%s ", name, nearest);
}

static void
unknown_variables_are_told_with_the_nearest_and_those_of_kubernetes_are_not(void **state)
{
    static const char *const environment[] = {"PATH=/bin",
                                              "ATTND_MAXBODY=1",
                                              "ATTND_LISTEN=:1",
                                              "ATTND_max_queue=3",
                                              "ATTND_MODEL_DIR=m",
                                              "ATTND_LOG=1",
                                              "ATTND_CORS_ORIGINS=x",
                                              "ATTND_HELP=1",
                                              "ATTND_=",
                                              "ATTND_PORT=tcp://10.0.0.1:80",
                                              "ATTND_PORT_80_TCP_ADDR=10.0.0.1",
                                              "ATTND_SERVICE_HOST=10.0.0.1",
                                              "ATTND_SERVICE_PORT_HTTP=80",
                                              "ATTND_CANARY_SERVICE_HOST=10.0.0.2",
                                              "ATTND_CANARY_PORT=tcp://10.0.0.2:80",
                                              "ATTND_CANARY_PORT_80_TCP=tcp://10.0.0.2:80",
                                              "ATTND_LISTEN_PORT=9000",
                                              "ATTND_A_VARIABLE_WHOSE_NAME_IS_LONGER_THAN_ANY_"
                                              "OPTION_THAT_THERE_IS_OR_EVER_WILL_BE_MADE=1",
                                              NULL};
    char told[512] = "";
    (void)state;
    server_options_unknown((char *const *)(uintptr_t)environment, collect, told);
    assert_non_null(strstr(told, "ATTND_MAXBODY>ATTND_MAX_BODY "));
    assert_non_null(strstr(told, "ATTND_max_queue>ATTND_MAX_QUEUE "));
    assert_non_null(strstr(told, "ATTND_MODEL_DIR>ATTND_MODEL"));
    assert_non_null(strstr(told, "ATTND_LOG>ATTND_"));
    assert_non_null(strstr(told, "ATTND_CORS_ORIGINS>ATTND_CORS_ORIGIN "));
    assert_non_null(strstr(told, "ATTND_LISTEN_PORT>ATTND_LISTEN "));
    assert_non_null(strstr(told, "ATTND_HELP>"));
    assert_non_null(strstr(told, "ATTND_>"));
    assert_non_null(strstr(told, "ATTND_A_VARIABLE"));
    assert_null(strstr(told, "ATTND_PORT"));
    assert_null(strstr(told, "SERVICE"));
    assert_null(strstr(told, "CANARY"));
    assert_null(strstr(told, "PATH="));
}

static void the_settings_are_printed_as_they_are(void **state)
{
    struct server_options options;
    char *text = NULL;
    size_t bytes = 0;
    FILE *memory = open_memstream(&text, &bytes);
    (void)state;
    assert_int_equal(READ(&options, "--models", "a", "--models", "b", "--max-body", "2M",
                          "--log-format", "json", "--precision=x3", "--allow-control"),
                     ENGINE_OK);
    server_options_print(&options, memory);
    fclose(memory);
    static const char *const parts[] = {
        "models=a,b ",      "listen=127.0.0.1:8080 ", "max-body=2097152 ",
        "log-format=json ", "precision=x3 ",          "cpu= ",
        "allow-control=1 ", "log-level=info",         "cors-origin= "};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(text, parts[i]) == NULL)
            fail_msg("no \"%s\" in %s", parts[i], text);
    free(text);
}

static void unknown_options_are_refused(void **state)
{
    struct server_options options;
    (void)state;
    assert_int_equal(READ(&options, "--max-bodi", "1"), ENGINE_INVALID_ARGUMENT);
    assert_non_null(strstr(failure.message, "--max-body;"));
    assert_int_equal(READ(&options, "-x"), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(READ(&options, "--"), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(READ(&options, "--modelz", "d"), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(READ(&options, "--modelz=d"), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(READ(&options, "models"), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(READ(&options, "--models"), ENGINE_INVALID_ARGUMENT);
    assert_int_equal(READ(&options, "--version=1"), ENGINE_INVALID_ARGUMENT);
}

static void what_this_build_lacks_is_never_silently_accepted(void **state)
{
    struct server_options options;
    (void)state;
    assert_int_equal(READ(&options, "--tls-cert", "f"), ENGINE_UNSUPPORTED);
    assert_non_null(strstr(failure.message, "--tls-cert"));
    setenv("ATTND_API_KEY_FILE", "f", 1);
    assert_int_equal(READ(&options, "--models", "d"), ENGINE_UNSUPPORTED);
    unsetenv("ATTND_API_KEY_FILE");
}

static void actions_are_recognised(void **state)
{
    struct server_options options;
    (void)state;
    assert_int_equal(READ(&options, "--probe", "http://a"), ENGINE_OK);
    assert_int_equal(options.action, SERVER_OPTIONS_PROBE);
    assert_string_equal(options.probe_url, "http://a");
    assert_int_equal(READ(&options, "--check", "--models", "d"), ENGINE_OK);
    assert_int_equal(options.action, SERVER_OPTIONS_CHECK);
    assert_int_equal(READ(&options, "-h"), ENGINE_OK);
    assert_int_equal(options.action, SERVER_OPTIONS_HELP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_listen_on_the_loopback_only),
        cmocka_unit_test(a_unix_socket_alone_opens_no_port),
        cmocka_unit_test(values_are_read_in_both_spellings),
        cmocka_unit_test(a_flag_wins_over_its_variable),
        cmocka_unit_test(a_bad_value_is_named),
        cmocka_unit_test(a_bad_variable_is_named),
        cmocka_unit_test(names_and_origins_are_lists_in_the_environment_too),
        cmocka_unit_test(
            unknown_variables_are_told_with_the_nearest_and_those_of_kubernetes_are_not),
        cmocka_unit_test(the_settings_are_printed_as_they_are),
        cmocka_unit_test(unknown_options_are_refused),
        cmocka_unit_test(what_this_build_lacks_is_never_silently_accepted),
        cmocka_unit_test(actions_are_recognised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
