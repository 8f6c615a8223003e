/* engine_cpu_test.c - does a limit hold for own kernels and for oneDNN alike, and is one that
 * cannot be kept refused?
 *
 * A process chooses its instructions once: each try is this program again, "limit LEVEL". */
#include "tests/unit/engine_support.h"

#include <oneapi/dnnl/dnnl.h>
#include <unistd.h>

#include "engine/cpu.h"
#include "engine/kernel.h"

static const char *const names[] = {"portable", "avx2", "avx512"};
static const unsigned isa_of[] = {dnnl_cpu_isa_sse41, dnnl_cpu_isa_avx2, dnnl_cpu_isa_avx512_core};

/* ---- the tries -------------------------------------------------------------------------- */

/* Prints what came of it, one line. */
static int try_limit(const char *name)
{
    enum engine_cpu_level level;
    struct engine_error err = {0};
    if (!engine_cpu_level_from_name(name, &level))
        return 1;
    if (engine_cpu_limit(level, &err) != ENGINE_OK) {
        printf("refused: %s\n", err.message);
        return 0;
    }
    const struct engine_cpu *cpu = engine_cpu();
    bool again = engine_cpu_limit(level, NULL) == ENGINE_OK;
    bool other = engine_cpu_limit(level == ENGINE_CPU_AVX2 ? ENGINE_CPU_PORTABLE : ENGINE_CPU_AVX2,
                                  &err) == ENGINE_OK;
    printf("%s; own %d %d %d %d; oneDNN %u; again %d, other %d\n", cpu->level, cpu->avx2,
           cpu->avx512, cpu->avx512_bf16, cpu->amx, (unsigned)dnnl_get_effective_cpu_isa(), again,
           other);
    return 0;
}

/* Its line, without the end. */
static void run_self(const char *arguments, char *ret, size_t size)
{
    char self[512], command[700];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(length > 0);
    self[length] = '\0';
    snprintf(command, sizeof command, "exec '%s' %s", self, arguments);
    FILE *output = popen(command, "r");
    assert_non_null(output);
    if (fgets(ret, (int)size, output) == NULL)
        fail_msg("%s said nothing", command);
    assert_int_equal(pclose(output), 0);
    ret[strcspn(ret, "\n")] = '\0';
}

/* ---- what the machine has, by another witness ------------------------------------------- */

static bool has_flag(const char *flag)
{
    char *line = NULL, word[32];
    size_t size = 0;
    bool found = false;
    FILE *file = fopen("/proc/cpuinfo", "r");
    assert_non_null(file);
    snprintf(word, sizeof word, " %s ", flag);
    while (!found && getline(&line, &size, file) > 0) {
        if (strncmp(line, "flags", 5) != 0)
            continue;
        line[strcspn(line, "\n")] = ' ';
        found = strstr(line, word) != NULL;
    }
    free(line);
    fclose(file);
    return found;
}

static int machine(void)
{
    bool avx2 = has_flag("avx2") && has_flag("fma");
    bool avx512 =
        has_flag("avx512f") && has_flag("avx512bw") && has_flag("avx512dq") && has_flag("avx512vl");
    return avx2 && avx512 ? 2 : avx2 ? 1 : 0;
}

/* ---- tests ------------------------------------------------------------------------------ */

static void a_limit_caps_own_kernels_and_onednn_alike(void **unused)
{
    (void)unused;
    for (int level = 0; level <= machine(); level++) {
        char arguments[64], line[400], wanted[400];
        snprintf(arguments, sizeof arguments, "limit %s", names[level]);
        snprintf(wanted, sizeof wanted, "%s; own %d %d 0 0; oneDNN %u; again 1, other 0",
                 names[level], level >= 1, level >= 2, isa_of[level]);
        run_self(arguments, line, sizeof line);
        assert_string_equal(line, wanted);
    }
}

static void a_level_above_the_machine_is_refused_with_both_names(void **unused)
{
    (void)unused;
    for (int level = machine() + 1; level < 3; level++) {
        char arguments[64], line[400], wanted[400];
        snprintf(arguments, sizeof arguments, "limit %s", names[level]);
        snprintf(wanted, sizeof wanted,
                 "refused: cpu is %s, it must not be above what this machine has, %s", names[level],
                 names[machine()]);
        run_self(arguments, line, sizeof line);
        assert_string_equal(line, wanted);
    }
}

static void a_level_has_one_of_three_names(void **unused)
{
    enum engine_cpu_level level;
    (void)unused;
    for (int i = 0; i < 3; i++) {
        assert_true(engine_cpu_level_from_name(names[i], &level));
        assert_int_equal(level, ENGINE_CPU_PORTABLE + i);
        assert_string_equal(engine_cpu_level_name(level), names[i]);
    }
    assert_false(engine_cpu_level_from_name("amx", &level));
    assert_false(engine_cpu_level_from_name("AVX2", &level));
    assert_false(engine_cpu_level_from_name("", &level));
}

static void no_kernel_uses_more_than_there_is(void **unused)
{
    const struct engine_cpu *cpu = engine_cpu();
    struct engine *engine = support_open(1);
    (void)unused;
    assert_int_equal(engine_kernel_avx512() != NULL, cpu->avx512);
    assert_int_equal(engine_kernel_avx512_bf16() != NULL, cpu->avx512_bf16);
    assert_int_equal(engine_kernel_amx_bf16() != NULL, cpu->amx);
    assert_int_equal(engine_kernel_amx_x3() != NULL, cpu->amx);
    assert_int_equal(engine_kernel_amx_x6() != NULL, cpu->amx);
    bool says_so = strstr(engine_facts(engine)->notes, "the machine has") != NULL;
    assert_int_equal(says_so, strcmp(cpu->level, cpu->machine) != 0);
    engine_close(engine);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_limit_caps_own_kernels_and_onednn_alike),
        cmocka_unit_test(a_level_above_the_machine_is_refused_with_both_names),
        cmocka_unit_test(a_level_has_one_of_three_names),
        cmocka_unit_test(no_kernel_uses_more_than_there_is),
    };
    if (argc == 3 && strcmp(argv[1], "limit") == 0)
        return try_limit(argv[2]);
    unsetenv("ONEDNN_MAX_CPU_ISA"); /* another limit */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
