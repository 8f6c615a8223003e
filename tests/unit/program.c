/* program.c - what every unit program does before main: ATTND_CPU=avx512|avx2|portable caps the
 * instructions that the engine and oneDNN use, and output comes line by line, so that a crash loses
 * none of it. Tests that set the daemon's variables begin without that one. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/cpu.h"

__attribute__((constructor)) static void limit_cpu(void)
{
    const char *name = getenv("ATTND_CPU");
    enum engine_cpu_level level;
    struct engine_error err = {0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (name == NULL)
        return;
    if (!engine_cpu_level_from_name(name, &level))
        engine_error_set(&err, ENGINE_INVALID_ARGUMENT, "it must be avx512|avx2|portable");
    else if (engine_cpu_limit(level, &err) == ENGINE_OK) {
        unsetenv("ATTND_CPU");
        return;
    }
    fprintf(stderr, "ATTND_CPU=%s: %s\n", name, err.message);
    exit(2);
}
