#include "engine/kernel.h"
const struct engine_kernel *engine_kernel_avx512(void) { return NULL; }
