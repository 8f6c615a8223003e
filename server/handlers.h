/* handlers.h - the handlers of the route table, one file a group: handle_<group>.c. */
#ifndef SERVER_HANDLERS_H
#define SERVER_HANDLERS_H

struct server_handler;

/* handle_health.c: answered on the I/O thread, without waiting for anything. */
extern const struct server_handler server_handle_health_root;
extern const struct server_handler server_handle_health_live;
extern const struct server_handler server_handle_health_ready;

/* handle_models.c */
extern const struct server_handler server_handle_models_server;
extern const struct server_handler server_handle_models_list;
extern const struct server_handler server_handle_models_metadata;
extern const struct server_handler server_handle_models_ready;
extern const struct server_handler server_handle_models_config;
extern const struct server_handler server_handle_models_stats;
extern const struct server_handler server_handle_models_all_stats;
extern const struct server_handler server_handle_models_openapi;
extern const struct server_handler server_handle_models_tf_list;
extern const struct server_handler server_handle_models_tf_status;
extern const struct server_handler server_handle_models_tf_metadata;

/* handle_infer.c */
extern const struct server_handler server_handle_infer;
extern const struct server_handler server_handle_infer_predict;

/* handle_metrics.c */
extern const struct server_handler server_handle_metrics;

/* handle_repository.c */
extern const struct server_handler server_handle_repository_index;
extern const struct server_handler server_handle_repository_load;
extern const struct server_handler server_handle_repository_unload;
extern const struct server_handler server_handle_repository_logging;
extern const struct server_handler server_handle_repository_set_logging;

#endif
