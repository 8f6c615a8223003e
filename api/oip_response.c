/* oip_response.c - an answer of the Open Inference Protocol v2. See protocol.h.
 *
 * Outputs asked for as binary data follow the JSON as they lie in the engine's buffers. */
#include "api/protocol.h"

static void write_head(struct api_writer *writer, const struct api_request_state *state)
{
    api_writer_text(writer, "{");
    if (state->id != NULL) {
        api_writer_text(writer, "\"id\":");
        api_writer_string(writer, state->id);
        api_writer_text(writer, ",");
    }
    api_writer_text(writer, "\"model_name\":");
    api_writer_string(writer, state->model_name);
    api_writer_text(writer, ",\"model_version\":");
    api_writer_string(writer, state->model_version);
    api_writer_text(writer, ",\"parameters\":{\"precision\":\"%s\"", writer->reply->precision);
    if (writer->reply->has_seed)
        api_writer_text(writer, ",\"seed\":%llu", (unsigned long long)writer->reply->seed);
    api_writer_text(writer, "},\"outputs\":[");
}

static void write_output(struct api_writer *writer, const struct api_request_state *state,
                         enum engine_output output)
{
    const struct api_json_numbers_style style = {.non_finite = state->non_finite};
    const struct engine_tensor *tensor = &writer->facts->outputs[output];
    struct engine_tensor filled = *tensor;
    char shape[256];
    filled.data = writer->outputs[output].data;
    api_writer_text(writer, "{\"name\":\"%s\",\"datatype\":\"%s\",\"shape\":%s,",
                    engine_output_name(output), engine_tensor_dtype_name(tensor->dtype),
                    engine_tensor_shape_text(tensor, shape, sizeof shape));
    if (state->binary[output]) {
        api_writer_text(writer, "\"parameters\":{\"binary_data_size\":%zu}}",
                        writer->facts->output_bytes[output]);
        return;
    }
    api_writer_text(writer, "\"data\":[");
    api_writer_numbers(writer, &filled, &style);
    api_writer_text(writer, "]}");
}

void api_oip_response_write(struct api_writer *writer, const struct api_request_state *state)
{
    const bool *wanted = state->request.call.wanted;
    size_t binary_bytes = 0;
    bool first = true;
    write_head(writer, state);
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++) {
        if (!wanted[i])
            continue;
        api_writer_text(writer, first ? "" : ",");
        first = false;
        write_output(writer, state, (enum engine_output)i);
        binary_bytes += state->binary[i] ? writer->facts->output_bytes[i] : 0;
    }
    api_writer_text(writer, "]}");
    api_writer_flush(writer);
    if (binary_bytes == 0)
        return;
    writer->reply->content_type = "application/octet-stream";
    writer->reply->header_content_length = (int64_t)writer->reply->bytes;
    for (int i = 0; i < ENGINE_OUTPUT_COUNT; i++)
        if (wanted[i] && state->binary[i])
            api_writer_bytes(writer, (enum engine_output)i);
}
