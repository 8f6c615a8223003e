/* error.h - what went wrong, said once, where it is known.
 *
 * Every function that can fail returns an engine_code and takes a struct engine_error last.
 * The first failure wins: engine_error_set() on an error that is already set keeps the first
 * message. Nothing here allocates, logs or exits.
 *
 * The list of codes serves all three layers; api/error_body.c turns a code into an HTTP status. */
#ifndef ENGINE_ERROR_H
#define ENGINE_ERROR_H

enum engine_code {
    ENGINE_OK = 0,
    ENGINE_INVALID_ARGUMENT, /* a field is wrong: its name, value and rule are in the message  */
    ENGINE_SHAPE_MISMATCH,   /* tensors do not fit the layer or each other                     */
    ENGINE_UNAUTHORIZED,     /* no or wrong credentials                                        */
    ENGINE_FORBIDDEN,        /* not allowed by the server's flags                              */
    ENGINE_NOT_FOUND,        /* no such model, version, route or handle                        */
    ENGINE_METHOD,           /* the route exists, the method does not                          */
    ENGINE_TIMEOUT,          /* the client was too slow                                        */
    ENGINE_LENGTH_REQUIRED,  /* a body without a declared length where one is needed           */
    ENGINE_TOO_LARGE,        /* over a documented limit                                        */
    ENGINE_URL_TOO_LONG,     /* over the limit of a URL                                        */
    ENGINE_HEADERS_TOO_MANY, /* over the limit of header lines                                 */
    ENGINE_MEDIA_TYPE,       /* a content type or encoding that is not understood              */
    ENGINE_OVERLOADED,       /* queue or budget full: try again                                */
    ENGINE_UNSUPPORTED,      /* valid, not served here                                         */
    ENGINE_UNAVAILABLE,      /* draining, the model is not loaded, or its files are unreadable */
    ENGINE_DEADLINE,         /* the call's time passed                                         */
    ENGINE_CANCELLED,        /* the client left; nobody reads the answer                       */
    ENGINE_OUT_OF_MEMORY,    /* the system refused memory that the budget allowed              */
    ENGINE_INTERNAL          /* our bug, or a library's                                        */
};

struct engine_error {
    enum engine_code code;
    char message[512]; /* one sentence: field, value, rule */
    char detail[512];  /* "" or what only the operator may see: paths, errno, users */
};

/* Marks "err" as clear. */
void engine_error_clear(struct engine_error *err);

/* Stores code and message unless "err" already holds a failure; err may be NULL.
 * Returns the code given, so that it can be returned in one line. */
enum engine_code engine_error_set(struct engine_error *err, enum engine_code code,
                                  const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Adds what belongs into the log and the output of --check, never into an answer. The first one
 * stays, as the first message does; err may be NULL. */
void engine_error_set_detail(struct engine_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Name of a code for logs and metrics: "invalid_argument". Never NULL. */
const char *engine_error_name(enum engine_code code);

/* Returns from the calling function when "call" fails: the one macro allowed to return. */
#define ENGINE_TRY(call)                                                                           \
    do {                                                                                           \
        enum engine_code engine_try_code_ = (call);                                                \
        if (engine_try_code_ != ENGINE_OK)                                                         \
            return engine_try_code_;                                                               \
    } while (0)

#define ENGINE_MUST_CHECK __attribute__((warn_unused_result))

#endif
