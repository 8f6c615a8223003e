/* dropout.c - see dropout.h. */
#include "engine/dropout.h"

#include <math.h>

void engine_dropout_random(uint64_t seed, uint32_t stream, uint64_t block, uint32_t ret[4])
{
    uint32_t x0 = (uint32_t)block, x1 = (uint32_t)(block >> 32), x2 = stream, x3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * x0, p1 = (uint64_t)0xCD9E8D57u * x2;
        uint32_t y0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0, y2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x1 = (uint32_t)p1;
        x3 = (uint32_t)p0;
        x0 = y0;
        x2 = y2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    ret[0] = x0;
    ret[1] = x1;
    ret[2] = x2;
    ret[3] = x3;
}

/* A number below the threshold is dropped: P = rate to 2^-32. */
static uint32_t threshold(double rate)
{
    return (uint32_t)fmin(rate * 4294967296.0, 4294967295.0);
}

double engine_dropout_factor(uint64_t seed, double rate, uint64_t index)
{
    uint32_t numbers[4];
    engine_dropout_random(seed, ENGINE_DROPOUT_SCORES, index / 4, numbers);
    return numbers[index % 4] < threshold(rate) ? 0.0 : 1.0 / (1.0 - rate);
}

void engine_dropout_apply(uint64_t seed, double rate, uint64_t index, float *scores, size_t count)
{
    uint32_t numbers[4], limit = threshold(rate);
    float scale = (float)(1.0 / (1.0 - rate));
    for (size_t i = 0; i < count; i++, index++) {
        if (i == 0 || index % 4 == 0)
            engine_dropout_random(seed, ENGINE_DROPOUT_SCORES, index / 4, numbers);
        scores[i] = numbers[index % 4] < limit ? 0.0f : scores[i] * scale;
    }
}
