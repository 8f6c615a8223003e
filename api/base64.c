/* base64.c - see base64.h. */
#include "api/base64.h"

static int symbol(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool api_base64_feed(struct api_base64 *state, const char *text, size_t size, unsigned char *to,
                     size_t *ret_bytes)
{
    size_t bytes = 0;
    for (size_t i = 0; i < size; i++) {
        int value = symbol(text[i]);
        bool pads = text[i] == '=' && state->symbols >= 2;
        if (state->ended || (value < 0 && !pads) || (value >= 0 && state->padding > 0))
            return false;
        state->bits = state->bits << 6 | (uint32_t)(pads ? 0 : value);
        state->padding += pads ? 1 : 0;
        if (++state->symbols < 4)
            continue;
        for (int k = 0; k < 3 - state->padding; k++)
            to[bytes++] = (unsigned char)(state->bits >> (16 - 8 * k));
        state->ended = state->padding > 0;
        state->symbols = 0;
        state->bits = 0;
    }
    *ret_bytes = bytes;
    return true;
}

bool api_base64_complete(const struct api_base64 *state)
{
    return state->symbols == 0;
}
