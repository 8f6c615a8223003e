/* cpu.c - see cpu.h. */
#include "engine/cpu.h"

#include <cpuid.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/onednn.h"

static struct engine_cpu cpu;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static atomic_bool is_read;
static enum engine_cpu_level limit; /* set before all is read */

/* ---- instruction sets ------------------------------------------------------------------- */

enum level { LEVEL_PORTABLE, LEVEL_AVX2, LEVEL_AVX512, LEVEL_AVX512_BF16, LEVEL_AMX };

static const char *const level_names[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

static enum level level_of(enum engine_cpu_level wish)
{
    return wish == ENGINE_CPU_PORTABLE ? LEVEL_PORTABLE
           : wish == ENGINE_CPU_AVX2   ? LEVEL_AVX2
           : wish == ENGINE_CPU_AVX512 ? LEVEL_AVX512
                                       : LEVEL_AMX;
}

const char *engine_cpu_level_name(enum engine_cpu_level level)
{
    return level == ENGINE_CPU_UNLIMITED ? "" : level_names[level_of(level)];
}

bool engine_cpu_level_from_name(const char *name, enum engine_cpu_level *ret)
{
    for (int i = ENGINE_CPU_PORTABLE; i <= ENGINE_CPU_AVX512; i++)
        if (strcmp(name, engine_cpu_level_name((enum engine_cpu_level)i)) == 0) {
            *ret = (enum engine_cpu_level)i;
            return true;
        }
    return false;
}

/* The levels that ONEDNN_MAX_CPU_ISA names; ours are capped by the same variable. */
static enum level library_cap(void)
{
    static const struct {
        const char *name;
        enum level level;
    } names[] = {
        {"SSE41", LEVEL_PORTABLE},
        {"AVX", LEVEL_PORTABLE},
        {"AVX2", LEVEL_AVX2},
        {"AVX2_VNNI", LEVEL_AVX2},
        {"AVX512_CORE", LEVEL_AVX512},
        {"AVX512_CORE_VNNI", LEVEL_AVX512},
        {"AVX512_CORE_BF16", LEVEL_AVX512_BF16},
        {"AVX512_CORE_FP16", LEVEL_AVX512_BF16},
    };
    const char *cap = getenv("ONEDNN_MAX_CPU_ISA");
    if (cap == NULL)
        return LEVEL_AMX;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(cap, names[i].name) == 0)
            return names[i].level;
    return LEVEL_AMX;
}

/* Linux hands out the tile registers only to processes that ask: ARCH_REQ_XCOMP_PERM for
 * XTILEDATA, once, before other threads start. */
static bool ask_for_tiles(void)
{
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

static bool has_amx_bits(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    return (d & (1u << 22)) != 0 && (d & (1u << 24)) != 0; /* AMX-BF16, AMX-TILE */
}

static bool has_avx512_bf16_bit(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5)) != 0;
}

static enum level machine_level(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return LEVEL_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return LEVEL_AVX2;
    if (!has_avx512_bf16_bit())
        return LEVEL_AVX512;
    return has_amx_bits() ? LEVEL_AMX : LEVEL_AVX512_BF16;
}

static void read_instructions(void)
{
    enum level machine = machine_level(), level = machine, wish = level_of(limit),
               cap = library_cap();
    level = wish < level ? wish : level;
    level = cap < level ? cap : level;
    if (level == LEVEL_AMX && !ask_for_tiles())
        level = LEVEL_AVX512_BF16;
    cpu.level = level_names[level];
    cpu.machine = level_names[machine];
    cpu.avx2 = level >= LEVEL_AVX2;
    cpu.avx512 = level >= LEVEL_AVX512;
    cpu.avx512_bf16 = level >= LEVEL_AVX512_BF16;
    cpu.amx = level == LEVEL_AMX;
}

enum engine_code engine_cpu_limit(enum engine_cpu_level level, struct engine_error *err)
{
    enum level wish = level_of(level), machine = machine_level();
    if (level == ENGINE_CPU_UNLIMITED || level == limit)
        return ENGINE_OK;
    if (wish > machine)
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "cpu is %s, it must not be above what this machine has, %s",
                                level_names[wish], level_names[machine]);
    if (atomic_load(&is_read) || (wish < library_cap() && !engine_onednn_limit(level)))
        return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                "cpu is %s, but the instructions of this process are chosen",
                                level_names[wish]);
    limit = level;
    return ENGINE_OK;
}

/* ---- caches ----------------------------------------------------------------------------- */

static size_t clamp(long value, size_t least, size_t most, size_t fallback)
{
    if (value <= 0)
        return fallback;
    return (size_t)value < least ? least : (size_t)value > most ? most : (size_t)value;
}

static void read_caches(void)
{
    cpu.l1d_bytes = clamp(sysconf(_SC_LEVEL1_DCACHE_SIZE), 16 << 10, 128 << 10, 32 << 10);
    cpu.l2_bytes = clamp(sysconf(_SC_LEVEL2_CACHE_SIZE), 256 << 10, 2 << 20, 1 << 20);
}

/* ---- containers ------------------------------------------------------------------------- */

static bool read_line(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool read = fgets(text, (int)size, file) != NULL;
    fclose(file);
    return read;
}

/* floor(quota / period) of one group; 0: no limit. */
static long quota_threads(const char *directory)
{
    char path[600], text[128];
    long long quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (read_line(path, text, sizeof text)) {
        if (sscanf(text, "%lld %lld", &quota, &period) != 2)
            return 0;
    } else {
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
        if (!read_line(path, text, sizeof text) || sscanf(text, "%lld", &quota) != 1)
            return 0;
        snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
        if (!read_line(path, text, sizeof text) || sscanf(text, "%lld", &period) != 1)
            return 0;
    }
    if (quota <= 0 || period <= 0)
        return 0;
    return quota < period ? 1 : (long)(quota / period);
}

static size_t limit_bytes(const char *directory)
{
    char path[600], text[128];
    unsigned long long bytes = 0;
    snprintf(path, sizeof path, "%s/memory.max", directory);
    if (!read_line(path, text, sizeof text)) {
        snprintf(path, sizeof path, "%s/memory.limit_in_bytes", directory);
        if (!read_line(path, text, sizeof text))
            return 0;
    }
    if (sscanf(text, "%llu", &bytes) != 1 || bytes >= 1ull << 60)
        return 0;
    return (size_t)bytes;
}

/* Applies the limits of a group and of all above it. */
static void apply_groups(const char *root, char *group)
{
    char directory[560];
    for (;;) {
        snprintf(directory, sizeof directory, "%s%s", root, group);
        long threads = quota_threads(directory);
        size_t bytes = limit_bytes(directory);
        if (threads > 0 && threads < cpu.threads)
            cpu.threads = (int)threads;
        if (bytes > 0 && bytes < cpu.memory_bytes)
            cpu.memory_bytes = bytes;
        char *slash = strrchr(group, '/');
        if (slash == NULL)
            return;
        *slash = '\0';
    }
}

/* Lines are "0::/path" (version 2) and "4:cpu,cpuacct:/path" (version 1). */
static void read_groups(void)
{
    char line[512];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *path++ = '\0';
        if (strcmp(path, "/") == 0)
            *path = '\0';
        if (controllers[1] == '\0')
            apply_groups("/sys/fs/cgroup", path);
        else if (strstr(controllers + 1, "cpu") == controllers + 1)
            apply_groups("/sys/fs/cgroup/cpu", path);
        else if (strcmp(controllers + 1, "memory") == 0)
            apply_groups("/sys/fs/cgroup/memory", path);
    }
    fclose(file);
}

static void read_container(void)
{
    cpu_set_t set;
    cpu.threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    cpu.memory_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    read_groups();
    if (cpu.threads < 1)
        cpu.threads = 1;
}

static void read_all(void)
{
    atomic_store(&is_read, true);
    read_instructions();
    read_caches();
    read_container();
}

const struct engine_cpu *engine_cpu(void)
{
    pthread_once(&once, read_all);
    return &cpu;
}
