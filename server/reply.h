/* reply.h - the only code that queues a libmicrohttpd response.
 *
 * Every answer carries X-Content-Type-Options, X-Request-Id and an exact Content-Type; what the
 * client did wrong is rendered by api/error_body. Compression, bodies and statuses are decided
 * before: this file only turns a server_reply into bytes on the wire. */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H

#include <stdbool.h>

#include "engine/error.h"
#include "server/request.h"

/* Takes text: the body of a success. NULL text: no memory. */
ENGINE_MUST_CHECK enum engine_code server_reply_text(struct server_request *request, char *text,
                                                     struct engine_error *err);

/* Turns a failure into the reply: status, body, Retry-After, Allow, Accept-Encoding. */
void server_reply_error(struct server_request *request, const struct engine_error *err);

/* Queues request->reply; I/O thread, inside the access handler. The reply's memory belongs to
 * the response afterwards. false: the connection is to be closed. */
bool server_reply_queue(struct server_request *request);

/* Writes request->reply to the socket, past libmicrohttpd, which takes no response in the middle of
 * a body. No byte of an answer is under way then. The connection is to be closed behind it. */
void server_reply_send(struct server_request *request);

/* Frees a reply that was not queued. */
void server_reply_reset(struct server_request *request);

#endif
