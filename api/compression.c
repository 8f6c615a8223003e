/* compression.c - see compression.h. */
#include "api/compression.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/uio.h>

#include <zlib.h>

/* zlib's window bits: 15, and 16 more for gzip's frame. */
enum { ZLIB_FRAME = 15, GZIP_FRAME = 31, PIECE_BYTES = 32 * 1024, FASTEST = 1 };

struct api_inflate {
    z_stream stream;
    size_t limit, total;
    bool ended; /* at the end of a member, which may be the last */
    bool has_members;
    unsigned char piece[PIECE_BYTES];
};

const char *api_compression_name(enum api_coding coding)
{
    return coding == API_CODING_GZIP ? "gzip" : coding == API_CODING_DEFLATE ? "deflate" : NULL;
}

enum engine_code api_compression_read(const char *header, enum api_coding *ret,
                                      struct engine_error *err)
{
    if (header == NULL || *header == '\0' || strcasecmp(header, "identity") == 0)
        *ret = API_CODING_IDENTITY;
    else if (strcasecmp(header, "gzip") == 0 || strcasecmp(header, "x-gzip") == 0)
        *ret = API_CODING_GZIP;
    else if (strcasecmp(header, "deflate") == 0)
        *ret = API_CODING_DEFLATE;
    else
        return engine_error_set(err, ENGINE_MEDIA_TYPE,
                                "Content-Encoding is \"%.40s\", it must be gzip, deflate or "
                                "identity",
                                header);
    return ENGINE_OK;
}

/* The q-value of the coding that stands at "text", in thousandths. */
static int quality(const char *text, size_t length)
{
    for (size_t i = 0; i + 2 < length; i++) {
        if (text[i] != ';')
            continue;
        size_t j = i + 1;
        while (j < length && (text[j] == ' ' || text[j] == '\t'))
            j++;
        if (j + 2 > length || (text[j] != 'q' && text[j] != 'Q') || text[j + 1] != '=')
            continue;
        int value = 0, scale = 1000;
        for (j += 2; j < length && scale > 0; j++) {
            if (text[j] == '.')
                continue;
            if (text[j] < '0' || text[j] > '9')
                break;
            value += (text[j] - '0') * scale;
            scale /= 10;
        }
        return value > 1000 ? 1000 : value;
    }
    return 1000;
}

static bool names(const char *text, size_t length, const char *coding)
{
    size_t size = strlen(coding);
    return length >= size && strncasecmp(text, coding, size) == 0 &&
           (length == size || text[size] == ';' || text[size] == ' ' || text[size] == '\t');
}

enum api_coding api_compression_preferred(const char *header)
{
    int gzip = 0, deflate = 0, identity = -1;
    if (header == NULL)
        return API_CODING_IDENTITY;
    for (const char *at = header; *at != '\0';) {
        at += strspn(at, " ,\t");
        size_t length = strcspn(at, ",");
        int q = quality(at, length);
        if (names(at, length, "gzip"))
            gzip = q;
        else if (names(at, length, "deflate"))
            deflate = q;
        else if (names(at, length, "identity"))
            identity = q;
        else if (names(at, length, "*") && identity < 0 && q == 0)
            identity = 0;
        at += length;
    }
    /* Identity not named is as welcome as anything. */
    identity = identity < 0 ? 1000 : identity;
    if (gzip > identity && gzip >= deflate)
        return API_CODING_GZIP;
    return deflate > identity ? API_CODING_DEFLATE : API_CODING_IDENTITY;
}

enum engine_code api_inflate_create(enum api_coding coding, size_t limit, struct api_inflate **ret,
                                    struct engine_error *err)
{
    struct api_inflate *inflate = calloc(1, sizeof *inflate);
    if (inflate == NULL ||
        inflateInit2(&inflate->stream, coding == API_CODING_GZIP ? GZIP_FRAME : ZLIB_FRAME) !=
            Z_OK) {
        free(inflate);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to inflate a body");
    }
    inflate->limit = limit;
    inflate->has_members = coding == API_CODING_GZIP;
    *ret = inflate;
    return ENGINE_OK;
}

void api_inflate_destroy(struct api_inflate *inflate)
{
    if (inflate == NULL)
        return;
    inflateEnd(&inflate->stream);
    free(inflate);
}

enum engine_code api_inflate_feed(struct api_inflate *x, const void *bytes, size_t size,
                                  enum engine_code (*take)(void *argument, const void *bytes,
                                                           size_t size, struct engine_error *err),
                                  void *argument, struct engine_error *err)
{
    x->stream.next_in = (unsigned char *)(uintptr_t)bytes;
    x->stream.avail_in = (unsigned)size;
    do {
        if (x->ended && x->stream.avail_in == 0)
            return ENGINE_OK;
        if (x->ended && (!x->has_members || inflateReset(&x->stream) != Z_OK))
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "the compressed body goes on after its end");
        x->stream.next_out = x->piece;
        x->stream.avail_out = PIECE_BYTES;
        int status = inflate(&x->stream, Z_NO_FLUSH);
        if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
            return engine_error_set(err, ENGINE_INVALID_ARGUMENT,
                                    "the compressed body is damaged: %.80s",
                                    x->stream.msg != NULL ? x->stream.msg : "unknown reason");
        size_t made = PIECE_BYTES - x->stream.avail_out;
        x->total += made;
        x->ended = status == Z_STREAM_END;
        if (x->total > x->limit)
            return engine_error_set(err, ENGINE_TOO_LARGE,
                                    "the body inflates to more than %zu bytes", x->limit);
        if (made > 0)
            ENGINE_TRY(take(argument, x->piece, made, err));
    } while (x->stream.avail_in > 0 || x->stream.avail_out == 0);
    return ENGINE_OK;
}

enum engine_code api_inflate_finish(struct api_inflate *inflate, struct engine_error *err)
{
    if (inflate->ended)
        return ENGINE_OK;
    return engine_error_set(err, ENGINE_INVALID_ARGUMENT, "the compressed body ends too early");
}

static bool squeeze(z_stream *stream, const struct iovec *parts, int count)
{
    for (int i = 0; i < count; i++) {
        unsigned char *from = parts[i].iov_base;
        size_t left = parts[i].iov_len;
        do {
            size_t now = left < (1u << 30) ? left : (1u << 30);
            bool last = i == count - 1 && now == left;
            stream->next_in = from;
            stream->avail_in = (unsigned)now;
            int status = deflate(stream, last ? Z_FINISH : Z_NO_FLUSH);
            if (status == Z_STREAM_END)
                return true;
            if (status != Z_OK || stream->avail_in > 0)
                return false; /* no room left: not smaller */
            from += now;
            left -= now;
        } while (left > 0);
    }
    return false;
}

enum engine_code api_compression_deflate(struct engine *engine, enum api_coding coding,
                                         const struct iovec *parts, int count, size_t bytes,
                                         struct engine_buffer *ret, size_t *ret_bytes,
                                         struct engine_error *err)
{
    z_stream stream = {0};
    struct engine_buffer buffer;
    *ret_bytes = 0;
    if (bytes < 1024 || bytes >= (size_t)1 << 31)
        return ENGINE_OK;
    ENGINE_TRY(engine_buffer_take(engine, bytes, &buffer, err));
    if (deflateInit2(&stream, FASTEST, Z_DEFLATED,
                     coding == API_CODING_GZIP ? GZIP_FRAME : ZLIB_FRAME, 8,
                     Z_DEFAULT_STRATEGY) != Z_OK) {
        engine_buffer_give(engine, &buffer);
        return engine_error_set(err, ENGINE_OUT_OF_MEMORY, "no memory to compress an answer");
    }
    stream.next_out = buffer.data;
    stream.avail_out = (unsigned)(bytes - bytes / 16); /* must save a sixteenth */
    bool smaller = squeeze(&stream, parts, count);
    size_t total = stream.total_out;
    deflateEnd(&stream);
    if (!smaller) {
        engine_buffer_give(engine, &buffer);
        return ENGINE_OK;
    }
    *ret = buffer;
    *ret_bytes = total;
    return ENGINE_OK;
}
