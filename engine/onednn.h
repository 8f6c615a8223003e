/* onednn.h - all that comes from oneDNN: the sgemm kernel (engine_kernel_sgemm in kernel.h).
 *
 * dnnl_sgemm has the same signature in 2.6 and 3.x and keeps no state. Its bits depend on the
 * number of rows it is given (other code paths below 16 rows, at depths of 1024 and more below
 * about 100 rows, and with AVX2 for the last rows of most counts), so it is called with depths of
 * at most 768 and with counts of rows that were found to give a row the same bits.
 * Nothing here starts an OpenMP team: callers have set one thread.
 *
 * A call fails when memory runs out, or when the library may not make the code that it runs: 2.6
 * then refuses, 3.x computes the same several times as slowly and says nothing. */
#ifndef ENGINE_ONEDNN_H
#define ENGINE_ONEDNN_H

#include "engine/engine.h"
#include "engine/kernel.h"

/* "2.6.3": the library's version at run time. */
void engine_onednn_version(char *text, size_t size);

/* The library uses no instructions above "level". false: it has chosen already, by computing or by
 * an earlier limit. */
ENGINE_MUST_CHECK bool engine_onednn_limit(enum engine_cpu_level level);

/* Whether the system lets this process make code (systemd's MemoryDenyWriteExecute=yes and
 * PR_SET_MDWE do not); and what to say where it does not. */
bool engine_onednn_makes_code(void);
#define ENGINE_ONEDNN_NO_CODE                                                                      \
    "; the system refuses executable memory (MemoryDenyWriteExecute, PR_SET_MDWE), which oneDNN "  \
    "needs"

#endif
