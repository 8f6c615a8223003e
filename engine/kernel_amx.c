#include "engine/kernel.h"
const struct engine_kernel *engine_kernel_amx_bf16(void) { return NULL; }
const struct engine_kernel *engine_kernel_amx_x3(void) { return NULL; }
