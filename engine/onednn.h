/* onednn.h - all that comes from oneDNN: the sgemm kernel (engine_kernel_sgemm in kernel.h).
 *
 * dnnl_sgemm has the same signature in 2.6 and 3.x and keeps no state. Its bits depend on the
 * number of rows it is given (other code paths below 16 rows, and at depths of 1024 and more
 * below about 100 rows), so it is called with at least 16 rows and depths of at most 768.
 * Nothing here starts an OpenMP team: callers have set one thread. */
#ifndef ENGINE_ONEDNN_H
#define ENGINE_ONEDNN_H

#include "engine/kernel.h"

/* "2.6.3": the library's version at run time. */
void engine_onednn_version(char *text, size_t size);

#endif
