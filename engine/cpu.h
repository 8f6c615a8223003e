/* cpu.h - what this processor and this container offer. Immutable after the first engine_cpu(). */
#ifndef ENGINE_CPU_H
#define ENGINE_CPU_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/engine.h"

struct engine_cpu {
    bool avx2, avx512, avx512_bf16, amx; /* usable: present, allowed by the system, and not above
                                            engine_cpu_limit or ONEDNN_MAX_CPU_ISA */
    const char *level, *machine;         /* "avx512_bf16": the highest used; the highest there is */
    size_t l1d_bytes, l2_bytes;          /* of one core; clamped to plausible values */
    int threads;                         /* min(affinity, floor(cgroup quota)), at least 1 */
    size_t memory_bytes;                 /* of the cgroup, or of the machine */
};

/* Reads once, asks the kernel for AMX (arch_prctl) before threads start; later calls return the
 * same. Thread-safe after the first call. */
const struct engine_cpu *engine_cpu(void);

/* Own kernels and oneDNN use nothing above "level" in this process. Before the first engine_cpu()
 * and the first product; the same limit again is fine, and so is UNLIMITED. One thread at a time.
 * Errors: INVALID_ARGUMENT (above what the machine has; too late). */
ENGINE_MUST_CHECK enum engine_code engine_cpu_limit(enum engine_cpu_level level,
                                                    struct engine_error *err);

#endif
