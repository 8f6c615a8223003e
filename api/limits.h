/* limits.h - every cap on what a client may send, each with its reason and a test.
 *
 * The body's size is a flag (--max-body); these are fixed. */
#ifndef API_LIMITS_H
#define API_LIMITS_H

enum {
    /* jansson sees at most this much of a request: 79 times as much memory at worst. */
    API_MAX_ENVELOPE_BYTES = 64 * 1024,
    /* Deeper nesting than any tensor of rank 16 needs; the scanner counts, it does not recurse. */
    API_MAX_NESTING = 32,
    /* More than the layer has inputs and outputs; unknown names are refused one by one anyway. */
    API_MAX_INPUTS = 16,
    API_MAX_OUTPUTS = 16,
    API_MAX_RANK = 16,
    API_MAX_NAME_BYTES = 128,         /* tensor and model names */
    API_MAX_ID_BYTES = 1024,          /* request ids are echoed */
    API_MAX_PARAMETERS = 64,          /* of a request, an input or an output */
    API_MAX_VALUES = 4096,            /* arrays of numbers in one JSON body: rows times inputs */
    API_MAX_SELECTION = 65536,        /* indices of heads or query rows in one request */
    API_MAX_HEADER_BYTES = 64 * 1024, /* request line and headers: libmicrohttpd's pool */
    API_MAX_HEADERS = 128,
    API_MAX_URL_BYTES = 8 * 1024,
    API_MAX_CHUNKS = 1024 * 1024,    /* pieces of one chunked body */
    API_MAX_CONTROL_BYTES = 1 << 20, /* bodies of control routes other than load */
    API_MAX_UPLOAD_FILES = 64        /* files in one load request */
};

#endif
