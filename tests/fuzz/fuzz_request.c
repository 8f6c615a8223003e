/* fuzz_request.c - any bytes as the body of an inference request, in every protocol, in pieces.
 *
 * Beside what the sanitizers see, it must hold that
 *   - a body in pieces is the body in one: the same answer, or both are refused (the place that
 *     is named may differ: damage to compressed data is seen before or behind other damage);
 *   - a refusal has a sentence and a client's status; an answer has the shapes that it tells;
 *   - every buffer comes back.
 * Input: a byte for the protocol and compression, two for Inference-Header-Content-Length, one for
 * the size of the pieces, then the body. Not here: HTTP itself (tests/http). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/error_body.h"
#include "api/infer_message.h"
#include "engine/engine.h"

enum { WIDTH = 2, LARGEST_OUTPUT = 1 << 20, HEAD_BYTES = 4, LARGEST_ANSWER = 1 << 16 };

static struct engine *engine;
static struct engine_model *model;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* A layer that reuses one of its two heads, so that every input has a meaning. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct engine_error err = {0};
    struct engine_options options = {.threads = 1, .memory_budget_bytes = (size_t)1 << 28};
    struct engine_layer_config config;
    (void)argc;
    (void)argv;
    engine_layer_defaults(&config);
    config.num_heads = 2;
    config.key_dim = 2;
    config.reuse_attention = 1;
    config.query_shape = config.value_shape =
        (struct engine_layer_shape){.rank = 3, .shape = {-1, -1, WIDTH}};
    struct engine_model_source source = {.config = &config, .initialize = true, .seed = 7};
    REQUIRE(engine_open(&options, &engine, &err) == ENGINE_OK);
    REQUIRE(engine_model_create(engine, &source, &model, &err) == ENGINE_OK);
    return 0;
}

static enum engine_code decode(const struct api_request_head *head, const uint8_t *body,
                               size_t size, size_t piece, struct api_infer_request **ret,
                               struct engine_error *err)
{
    struct api_decoder *decoder = NULL;
    enum engine_code code = api_decoder_create(head, &decoder, err);
    for (size_t at = 0; code == ENGINE_OK && at < size; at += piece) {
        size_t now = size - at < piece ? size - at : piece;
        uint8_t *copy = malloc(now); /* so that reading past the piece is seen */
        REQUIRE(copy != NULL);
        memcpy(copy, body + at, now);
        code = api_decoder_feed(decoder, copy, now, err);
        free(copy);
    }
    if (code == ENGINE_OK)
        code = api_decoder_finish(decoder, ret, err);
    api_decoder_destroy(decoder);
    return code;
}

static void give_all(struct engine_buffer outputs[ENGINE_OUTPUT_COUNT])
{
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        if (outputs[i].data != NULL)
            engine_buffer_give(engine, &outputs[i]);
}

/* Computes and renders; returns how many bytes of the answer are in text, 0 when it is refused. */
static size_t answer(struct api_infer_request *request, uint8_t text[LARGEST_ANSWER])
{
    struct engine_error err = {0};
    struct engine_buffer outputs[ENGINE_OUTPUT_COUNT] = {0};
    struct engine_plan *plan = NULL;
    struct api_reply reply;
    size_t length = 0;
    enum engine_code code = engine_plan_create(engine, model, &request->call, &plan, &err);
    if (code != ENGINE_OK) {
        REQUIRE(err.message[0] != '\0' && api_error_body_status(code) < 500);
        return 0;
    }
    const struct engine_plan_facts *facts = engine_plan_facts(plan);
    bool small = facts->workspace_bytes <= LARGEST_OUTPUT;
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        small = small && facts->output_bytes[i] <= LARGEST_OUTPUT;
    for (int i = 0; small && i < ENGINE_OUTPUT_COUNT; i++) {
        if (!request->call.wanted[i])
            continue;
        size_t bytes = facts->output_bytes[i] > 0 ? facts->output_bytes[i] : 1;
        REQUIRE(engine_buffer_take(engine, bytes, &outputs[i], &err) == ENGINE_OK);
        engine_plan_output(plan, (enum engine_output)i, outputs[i].data);
    }
    if (small && engine_run_inline(engine, plan, &err) == ENGINE_OK) {
        REQUIRE(api_infer_encode(engine, request, facts, outputs, &reply, &err) == ENGINE_OK);
        for (int i = 0; i < reply.parts_count && length < LARGEST_ANSWER; i++) {
            size_t room = LARGEST_ANSWER - length, part = reply.parts[i].iov_len;
            memcpy(text + length, reply.parts[i].iov_base, part < room ? part : room);
            length += part < room ? part : room;
        }
        api_reply_reset(engine, &reply);
    }
    give_all(outputs);
    engine_plan_destroy(plan);
    return length;
}

static void check_refusal(enum engine_code code, const struct engine_error *err)
{
    char text[2048];
    REQUIRE(err->message[0] != '\0');
    REQUIRE(api_error_body_status(code) < 500 || code == ENGINE_UNSUPPORTED);
    size_t length = api_error_body_write(err, text, sizeof text);
    REQUIRE(length > 0 && length < sizeof text);
    for (size_t i = 0; i < length; i++)
        REQUIRE((unsigned char)text[i] >= ' '); /* what is echoed is escaped */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t whole_text[LARGEST_ANSWER], pieces_text[LARGEST_ANSWER];
    char length_text[16];
    if (size < HEAD_BYTES)
        return 0;
    const char *codings[] = {NULL, "gzip", "deflate", NULL};
    struct api_request_head head = {
        .protocol = (enum api_protocol)(data[0] % 3),
        .engine = engine,
        .model = model,
        .model_name = "m",
        .model_version = "1",
        .content_encoding = codings[data[0] / 3 % 4],
        .accept = data[0] & 0x80 ? "application/safetensors" : NULL,
        .content_length = (int64_t)(size - HEAD_BYTES),
        .max_body_bytes = 1 << 20,
    };
    snprintf(length_text, sizeof length_text, "%d", data[1] | data[2] << 8);
    head.header_content_length = data[1] != 0xff ? length_text : NULL;
    const uint8_t *body = data + HEAD_BYTES;
    struct engine_error whole = {0}, pieces = {0};
    struct api_infer_request *one = NULL, *other = NULL;
    enum engine_code code = decode(&head, body, size - HEAD_BYTES, size, &one, &whole);
    enum engine_code again =
        decode(&head, body, size - HEAD_BYTES, (size_t)data[3] + 1, &other, &pieces);
    REQUIRE((code == ENGINE_OK) == (again == ENGINE_OK));
    if (code != ENGINE_OK) {
        check_refusal(code, &whole);
        check_refusal(again, &pieces);
    } else {
        size_t length = answer(one, whole_text);
        REQUIRE(answer(other, pieces_text) == length);
        REQUIRE(memcmp(whole_text, pieces_text, length) == 0);
    }
    api_infer_request_destroy(one);
    api_infer_request_destroy(other);
    struct engine_memory_facts memory;
    engine_memory(engine, &memory);
    REQUIRE(memory.taken_bytes == 0);
    return 0;
}
