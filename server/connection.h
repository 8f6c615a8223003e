/* connection.h - libmicrohttpd's callbacks: a connection's life and a request's states.
 *
 * A request: headers judged (framing, route, handler's begin) -> body fed -> end -> answered, or
 * suspended -> resumed -> answered. An answer cannot be queued between first and last byte of a
 * body, so a failure there discards the rest, up to a megabyte, and is answered at its end.
 * Not here: what is answered (handlers) and how (reply). */
#ifndef SERVER_CONNECTION_H
#define SERVER_CONNECTION_H

#include <stddef.h>

#include <microhttpd.h>

#include "server/request.h"

/* Callbacks for MHD_start_daemon; their cls is the struct server_service. */
enum MHD_Result server_connection_access(void *service, struct MHD_Connection *connection,
                                         const char *url, const char *method, const char *version,
                                         const char *upload, size_t *upload_size, void **state);
void *server_connection_line(void *service, const char *uri, struct MHD_Connection *connection);
void server_connection_completed(void *service, struct MHD_Connection *connection, void **state,
                                 enum MHD_RequestTerminationCode how);
void server_connection_notify(void *service, struct MHD_Connection *connection, void **peer,
                              enum MHD_ConnectionNotificationCode what);
size_t server_connection_unescape(void *service, struct MHD_Connection *connection, char *text);

#endif
