/* exceptions.h - ends of the process that C++ libraries bring about when memory is short.
 *
 * libdnnl is C++. What it does before main and where it makes code throws where memory is short,
 * past callers that are C; and it calls code that it was refused the memory for. The process
 * cannot go on after either. It ends with a sentence and status 1, like any start that fails, and
 * not with a dump of its memory. */
#ifndef SERVER_EXCEPTIONS_H
#define SERVER_EXCEPTIONS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* For exceptions that nobody catches, from now on. To be called before the first line of any
 * library's C++: libraries are initialised before main. */
void server_exceptions_watch(void);

/* For jumps into code that is not there, while oneDNN makes and tries its own: it does so at the
 * first product, none is made later. One thread at a time. */
void server_exceptions_watch_code(bool on);

#ifdef __cplusplus
}
#endif

#endif
