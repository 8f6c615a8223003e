/* tfserving_response.c - answers of TensorFlow Serving and KServe v1. See protocol.h.
 *
 *     {"predictions": [...]}, a list of rows: values, or objects when there are several outputs
 *     {"outputs": value | {name: value, ...}}
 *
 * Whole numbers end in ".0", as TensorFlow Serving writes floats. */
#include <string.h>

#include "api/protocol.h"

static struct engine_tensor filled(const struct api_writer *writer, int output)
{
    struct engine_tensor tensor = writer->facts->outputs[output];
    tensor.data = writer->outputs[output].data;
    return tensor;
}

static struct api_json_numbers_style style_of(const struct api_request_state *state)
{
    return (struct api_json_numbers_style){
        .nested = true, .whole_point = true, .non_finite = state->non_finite};
}

static void write_columns(struct api_writer *writer, const struct api_request_state *state,
                          int count)
{
    const struct api_json_numbers_style style = style_of(state);
    const bool *wanted = state->request.call.wanted;
    bool first = true;
    api_writer_text(writer, count > 1 ? "{\"outputs\":{" : "{\"outputs\":");
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        if (!wanted[i])
            continue;
        struct engine_tensor tensor = filled(writer, i);
        if (count > 1)
            api_writer_text(writer, "%s\"%s\":", first ? "" : ",",
                            engine_output_name((enum engine_output)i));
        api_writer_numbers(writer, &tensor, &style);
        first = false;
    }
    api_writer_text(writer, count > 1 ? "}}" : "}");
}

/* Appends the text of one row's slice of an output to a buffer that grows. */
static enum engine_code append_slice(struct api_writer *writer,
                                     const struct api_json_numbers_style *style, int output,
                                     int64_t row, struct engine_buffer *text, size_t *used)
{
    struct engine_tensor whole = filled(writer, output), slice = {.dtype = whole.dtype};
    struct api_json_text numbers;
    size_t bytes = 0, total = 0;
    slice.rank = whole.rank - 1;
    memcpy(slice.shape, whole.shape + 1, (size_t)slice.rank * sizeof slice.shape[0]);
    (void)engine_tensor_bytes(&slice, &bytes);
    slice.data = (char *)whole.data + (size_t)row * bytes;
    enum engine_code code =
        api_json_numbers_write(writer->engine, &slice, style, &numbers, writer->err);
    for (int i = 0; i < numbers.count; i++)
        total += numbers.lengths[i];
    if (code == ENGINE_OK && *used + total + 256 > text->bytes) {
        struct engine_buffer larger;
        code = engine_buffer_take(writer->engine, 2 * (*used + total + 256), &larger, writer->err);
        if (code == ENGINE_OK) {
            if (*used > 0)
                memcpy(larger.data, text->data, *used);
            engine_buffer_give(writer->engine, text);
            *text = larger;
        }
    }
    for (int i = 0; i < numbers.count; i++) {
        if (code == ENGINE_OK) {
            memcpy((char *)text->data + *used, numbers.buffers[i].data, numbers.lengths[i]);
            *used += numbers.lengths[i];
        }
        engine_buffer_give(writer->engine, &numbers.buffers[i]);
    }
    return code;
}

/* append_slice leaves room for this. */
static void append_text(struct engine_buffer *text, size_t *used, const char *what)
{
    memcpy((char *)text->data + *used, what, strlen(what));
    *used += strlen(what);
}

static enum engine_code append_row(struct api_writer *writer, const struct api_request_state *state,
                                   int64_t row, struct engine_buffer *text, size_t *used)
{
    const struct api_json_numbers_style style = style_of(state);
    const bool *wanted = state->request.call.wanted;
    bool first = true;
    append_text(text, used, row > 0 ? ",{" : "{");
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        if (!wanted[i])
            continue;
        append_text(text, used, first ? "\"" : ",\"");
        append_text(text, used, engine_output_name((enum engine_output)i));
        append_text(text, used, "\":");
        ENGINE_TRY(append_slice(writer, &style, i, row, text, used));
        first = false;
    }
    append_text(text, used, "}");
    return ENGINE_OK;
}

static void write_objects(struct api_writer *writer, const struct api_request_state *state)
{
    int64_t rows = writer->facts->outputs[ENGINE_ATTENTION_OUTPUT].shape[0];
    struct engine_buffer text = {NULL, 0};
    struct api_reply *reply = writer->reply;
    size_t used = 0;
    api_writer_text(writer, "{\"predictions\":[");
    api_writer_flush(writer);
    if (writer->code == ENGINE_OK)
        writer->code = engine_buffer_take(writer->engine, 4096, &text, writer->err);
    for (int64_t row = 0; row < rows && writer->code == ENGINE_OK; row++)
        writer->code = append_row(writer, state, row, &text, &used);
    if (writer->code != ENGINE_OK) {
        engine_buffer_give(writer->engine, &text);
        return;
    }
    if (used > 0)
        reply->parts[reply->parts_count++] = (struct iovec){text.data, used};
    reply->bytes += used;
    reply->buffers[reply->buffers_count++] = text;
    api_writer_text(writer, "]}");
}

void api_tfserving_response_write(struct api_writer *writer, const struct api_request_state *state)
{
    const bool *wanted = state->request.call.wanted;
    int count = 0;
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        count += wanted[i] ? 1 : 0;
    if (state->form == API_FORM_TF_COLUMNS) {
        write_columns(writer, state, count);
    } else if (count > 1) {
        write_objects(writer, state);
    } else {
        const struct api_json_numbers_style style = style_of(state);
        struct engine_tensor tensor =
            filled(writer, wanted[ENGINE_ATTENTION_OUTPUT] ? ENGINE_ATTENTION_OUTPUT
                                                           : ENGINE_ATTENTION_SCORES);
        api_writer_text(writer, "{\"predictions\":");
        api_writer_numbers(writer, &tensor, &style);
        api_writer_text(writer, "}");
    }
    api_writer_flush(writer);
}
