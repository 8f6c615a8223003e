/* listener.h - sockets, the accepting thread, and libmicrohttpd's daemon behind them.
 *
 * The daemon has no listening socket of its own: an own acceptor spreads connections evenly,
 * answers 503 where libmicrohttpd would let clients hang, survives a lack of descriptors, and
 * can be closed before the daemon is (MHD_quiesce_daemon races into abort). TCP and unix sockets.
 * Threads: one caller (main). */
#ifndef SERVER_LISTENER_H
#define SERVER_LISTENER_H

#include "engine/error.h"
#include "server/service.h"

struct server_listener;

/* Binds all sockets of the options; accepts nothing yet. Errors: INVALID_ARGUMENT (an address
 * that cannot be read or is taken), INTERNAL. */
ENGINE_MUST_CHECK enum engine_code server_listener_open(struct server_service *service,
                                                        struct server_listener **ret,
                                                        struct engine_error *err);
/* Starts daemon and acceptor and prints a line a listener: "attnd: ready on ...". */
ENGINE_MUST_CHECK enum engine_code server_listener_start(struct server_listener *listener,
                                                         struct engine_error *err);
/* Stops accepting: what the kernel has accepted already is still taken in. */
void server_listener_close_sockets(struct server_listener *listener);
/* Closes connections and frees; no connection may be suspended. NULL is fine. */
void server_listener_close(struct server_listener *listener);

#endif
