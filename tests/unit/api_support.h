/* api_support.h - a small layer, and ways to send bodies to it and read what comes back, for the
 * tests of api/. */
#ifndef TESTS_UNIT_API_SUPPORT_H
#define TESTS_UNIT_API_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/error_body.h"
#include "api/infer_message.h"
#include "engine/engine.h"

struct fixture {
    struct engine *engine;
    struct engine_model *model;
};

enum { WIDTH = 2 };

static inline int open_fixture(void **state)
{
    static struct fixture fixture;
    struct engine_error err = {0};
    struct engine_options options = {.threads = 1, .memory_budget_bytes = (size_t)1 << 30};
    struct engine_layer_config config;
    engine_layer_defaults(&config);
    config.num_heads = 2;
    config.key_dim = 2;
    config.query_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, WIDTH}};
    struct engine_model_source source = {.config = &config, .initialize = true, .seed = 7};
    assert_int_equal(engine_open(&options, &fixture.engine, &err), ENGINE_OK);
    if (engine_model_create(fixture.engine, &source, &fixture.model, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    *state = &fixture;
    return 0;
}

static inline int close_fixture(void **state)
{
    struct fixture *fixture = *state;
    struct engine_memory_facts memory;
    engine_memory(fixture->engine, &memory);
    assert_int_equal(memory.taken_bytes, 0); /* every buffer came back */
    engine_model_release(fixture->model);
    engine_close(fixture->engine);
    return 0;
}

static inline struct api_request_head head_of(struct fixture *fixture, size_t size)
{
    return (struct api_request_head){.protocol = API_PROTOCOL_OIP,
                                     .engine = fixture->engine,
                                     .model = fixture->model,
                                     .model_name = "m",
                                     .model_version = "1",
                                     .content_length = (int64_t)size,
                                     .max_body_bytes = 1 << 20};
}

/* Decodes a body that arrives in pieces of so many bytes. */
static inline enum engine_code decode(const struct api_request_head *head, const void *body,
                                      size_t size, size_t piece, struct api_infer_request **ret,
                                      struct engine_error *err)
{
    struct api_decoder *decoder = NULL;
    engine_error_clear(err);
    enum engine_code code = api_decoder_create(head, &decoder, err);
    for (size_t at = 0; code == ENGINE_OK && at < size; at += piece) {
        size_t now = size - at < piece ? size - at : piece;
        char *copy = malloc(now); /* so that reading past the piece is found */
        memcpy(copy, (const char *)body + at, now);
        code = api_decoder_feed(decoder, copy, now, err);
        free(copy);
    }
    if (code == ENGINE_OK)
        code = api_decoder_finish(decoder, ret, err);
    api_decoder_destroy(decoder);
    return code;
}

static inline struct api_infer_request *accept(const struct api_request_head *head,
                                               const void *body, size_t size, size_t piece)
{
    struct engine_error err = {0};
    struct api_infer_request *request = NULL;
    if (decode(head, body, size, piece, &request, &err) != ENGINE_OK)
        fail_msg("refused: %s", err.message);
    return request;
}

static inline void refuse_head(const struct api_request_head *head, const char *body, size_t size,
                               int status, const char *word)
{
    for (size_t piece = 1; piece <= size + 1; piece += size / 3 + 1) {
        struct engine_error err = {0};
        struct api_infer_request *request = NULL;
        enum engine_code code = decode(head, body, size, piece, &request, &err);
        if (code == ENGINE_OK) {
            api_infer_request_destroy(request);
            fail_msg("accepted: %s", body);
        }
        if (api_error_body_status(code) != status || strstr(err.message, word) == NULL)
            fail_msg("%s\n -> %d %s (wanted %d, \"%s\")", body, api_error_body_status(code),
                     err.message, status, word);
    }
}

static inline void refuse(struct fixture *fixture, const char *body, const char *word)
{
    struct api_request_head head = head_of(fixture, strlen(body));
    refuse_head(&head, body, strlen(body), 400, word);
}

/* Answers a request and returns the reply's bytes, to be freed. */
static inline char *answer(struct fixture *fixture, struct api_infer_request *request,
                           struct api_reply *reply, size_t *ret_size)
{
    struct engine_error err = {0};
    struct engine_plan *plan = NULL;
    struct engine_buffer outputs[ENGINE_OUTPUT_COUNT] = {{NULL, 0}};
    if (engine_plan_create(fixture->engine, fixture->model, &request->call, &plan, &err))
        fail_msg("%s", err.message);
    const struct engine_plan_facts *facts = engine_plan_facts(plan);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        if (!request->call.wanted[i])
            continue;
        assert_int_equal(
            engine_buffer_take(fixture->engine, facts->output_bytes[i], &outputs[i], &err), 0);
        engine_plan_output(plan, (enum engine_output)i, outputs[i].data);
    }
    if (engine_run_inline(fixture->engine, plan, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    if (api_infer_encode(fixture->engine, request, facts, outputs, reply, &err) != ENGINE_OK)
        fail_msg("%s", err.message);
    char *bytes = malloc(reply->bytes + 1), *at = bytes;
    for (int i = 0; i < reply->parts_count; i++) {
        memcpy(at, reply->parts[i].iov_base, reply->parts[i].iov_len);
        at += reply->parts[i].iov_len;
    }
    *at = '\0';
    *ret_size = reply->bytes;
    assert_int_equal(at - bytes, reply->bytes);
    engine_plan_destroy(plan);
    api_infer_request_destroy(request);
    return bytes;
}

#endif
