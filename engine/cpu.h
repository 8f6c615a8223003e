/* cpu.h - what this processor and this container offer. Immutable after engine_cpu_read. */
#ifndef ENGINE_CPU_H
#define ENGINE_CPU_H

#include <stdbool.h>
#include <stddef.h>

struct engine_cpu {
    bool avx2, avx512, avx512_bf16, amx; /* usable: present, allowed by the system, and not
                                            capped by ONEDNN_MAX_CPU_ISA */
    size_t l1d_bytes, l2_bytes;          /* of one core; clamped to plausible values */
    int threads;                         /* min(affinity, floor(cgroup quota)), at least 1 */
    size_t memory_bytes;                 /* of the cgroup, or of the machine */
};

/* Reads once, asks the kernel for AMX (arch_prctl) before threads start; later calls return the
 * same. Thread-safe after the first call. */
const struct engine_cpu *engine_cpu(void);

#endif
