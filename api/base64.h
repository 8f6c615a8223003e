/* base64.h - base64 (RFC 4648, with padding) to bytes, as it arrives. Threads: any. */
#ifndef API_BASE64_H
#define API_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct api_base64 {
    uint32_t bits;
    int symbols, padding; /* of the group of four that is open */
    bool ended;
};

/* Decodes size characters into "to", which has room for size / 4 * 3 + 3 bytes; *ret_bytes tells
 * how many were written. Start with a zeroed struct. false: a character that does not belong. */
bool api_base64_feed(struct api_base64 *state, const char *text, size_t size, unsigned char *to,
                     size_t *ret_bytes);

/* true if the text ended at the end of a group. */
bool api_base64_complete(const struct api_base64 *state);

#endif
