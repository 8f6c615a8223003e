/* signature.h - what a file is that is not what it should be, told from its first bytes.
 *
 * For messages only: a file is never read otherwise because of it. Threads: any. */
#ifndef ENGINE_FORMATS_SIGNATURE_H
#define ENGINE_FORMATS_SIGNATURE_H

#include <stddef.h>

/* "a Git LFS pointer, ..."; with what to do about it, where something can be done. NULL: not
 * recognised. */
const char *engine_signature_of(const void *bytes, size_t size);

#endif
