/* number_text.cc - see number_text.h. */
#include "api/number_text.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

namespace
{

const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                         1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

inline bool is_digit(char c)
{
    return static_cast<unsigned char>(c - '0') < 10;
}

/* A number's parts, as JSON's grammar has them. */
struct parts {
    uint64_t mantissa;
    int exponent; /* of ten */
    bool negative;
    bool is_short; /* the mantissa holds all digits */
};

/* -? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?   NULL: not that. */
const char *split(const char *at, const char *end, parts *ret)
{
    uint64_t mantissa = 0;
    int exponent = 0;
    ret->negative = at < end && *at == '-';
    at += ret->negative ? 1 : 0;
    const char *first = at;
    while (at < end && is_digit(*at))
        mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
    long digits = at - first;
    if (digits == 0 || (*first == '0' && digits > 1))
        return nullptr;
    if (at < end && *at == '.') {
        const char *point = ++at;
        while (at < end && is_digit(*at))
            mantissa = mantissa * 10 + static_cast<uint64_t>(*at++ - '0');
        if (at == point)
            return nullptr;
        exponent = static_cast<int>(point - at);
        digits += at - point;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        bool down = at < end && *at == '-';
        at += at < end && (*at == '-' || *at == '+') ? 1 : 0;
        const char *start = at;
        int value = 0;
        while (at < end && is_digit(*at)) {
            value = value < 100000 ? value * 10 + (*at - '0') : value;
            at++;
        }
        if (at == start)
            return nullptr;
        exponent += down ? -value : value;
    }
    ret->mantissa = mantissa;
    ret->exponent = exponent;
    ret->is_short = digits <= 19;
    return at;
}

/* Clinger's fast path: both factors are exact doubles, so one operation rounds correctly. */
inline bool quick(const parts &p, double *ret)
{
    if (!p.is_short || p.mantissa > (UINT64_C(1) << 53) || p.exponent < -22 || p.exponent > 22)
        return false;
    double value = static_cast<double>(p.mantissa);
    value = p.exponent < 0 ? value / powers[-p.exponent] : value * powers[p.exponent];
    *ret = p.negative ? -value : value;
    return true;
}

/* A double that is the correctly rounded value rounds to the right float unless it lies on the
 * middle between two floats (those are doubles themselves), where the true value may lie on
 * either side; and unless the float is subnormal or overflows. */
inline bool narrows(double value)
{
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    double size = std::fabs(value);
    return (bits & 0x1fffffff) != 0x10000000 &&
           ((size >= 1.2e-38 && size <= 3.4e38) || size == 0.0);
}

/* NaN, Infinity, -Infinity. */
template <typename T> const char *read_word(const char *text, const char *end, T *ret)
{
    size_t length = static_cast<size_t>(end - text);
    if (length >= 3 && std::memcmp(text, "NaN", 3) == 0) {
        *ret = std::numeric_limits<T>::quiet_NaN();
        return text + 3;
    }
    if (length >= 8 && std::memcmp(text, "Infinity", 8) == 0) {
        *ret = std::numeric_limits<T>::infinity();
        return text + 8;
    }
    if (length >= 9 && std::memcmp(text, "-Infinity", 9) == 0) {
        *ret = -std::numeric_limits<T>::infinity();
        return text + 9;
    }
    return nullptr;
}

/* The general case; from_chars leaves values out of range untouched. */
template <typename T> void read_slow(const char *text, const char *end, const parts &p, T *ret)
{
    T value = 0;
    std::from_chars_result result = std::from_chars(text, end, value);
    if (result.ec == std::errc::result_out_of_range) {
        /* Digits before the point and exponent decide: beyond 10^0 it is too large. */
        const char *c = text + (p.negative ? 1 : 0);
        long place = p.exponent;
        bool leading = true;
        for (; c < end && (is_digit(*c) || *c == '.'); c++) {
            if (*c == '.')
                continue;
            leading = leading && *c == '0';
            place += leading ? 0 : 1;
        }
        value = place > 0 ? std::numeric_limits<T>::infinity() : 0;
        value = p.negative ? -value : value;
    }
    *ret = value;
}

template <typename T> size_t write(T value, bool whole_point, char *text)
{
    if (std::isnan(value)) {
        std::memcpy(text, "NaN", 3);
        return 3;
    }
    if (std::isinf(value)) {
        std::memcpy(text, "-Infinity", 9);
        if (value < 0)
            return 9;
        std::memcpy(text, "Infinity", 8);
        return 8;
    }
    char *end = std::to_chars(text, text + API_NUMBER_TEXT_BYTES - 2, value).ptr;
    if (whole_point) {
        bool whole = true;
        for (const char *c = text; c < end; c++)
            whole = whole && *c != '.' && *c != 'e';
        if (whole) {
            *end++ = '.';
            *end++ = '0';
        }
    }
    return static_cast<size_t>(end - text);
}

template <typename T> const char *read_integer(const char *text, const char *end, T *ret)
{
    parts p;
    const char *stop = split(text, end, &p);
    if (stop == nullptr)
        return nullptr;
    std::from_chars_result result = std::from_chars(text, stop, *ret);
    return result.ec == std::errc() && result.ptr == stop ? stop : nullptr;
}

} // namespace

const char *api_number_text_read_f32(const char *text, const char *end, float *ret)
{
    parts p;
    double value;
    const char *stop = split(text, end, &p);
    if (stop == nullptr)
        return read_word(text, end, ret);
    if (quick(p, &value) && narrows(value))
        *ret = static_cast<float>(value);
    else
        read_slow(text, stop, p, ret);
    return stop;
}

const char *api_number_text_read_f64(const char *text, const char *end, double *ret)
{
    parts p;
    const char *stop = split(text, end, &p);
    if (stop == nullptr)
        return read_word(text, end, ret);
    if (!quick(p, ret))
        read_slow(text, stop, p, ret);
    return stop;
}

const char *api_number_text_read_i64(const char *text, const char *end, int64_t *ret)
{
    return read_integer(text, end, ret);
}

const char *api_number_text_read_u64(const char *text, const char *end, uint64_t *ret)
{
    return read_integer(text, end, ret);
}

size_t api_number_text_write_f32(float value, bool whole_point, char *text)
{
    return write(value, whole_point, text);
}

size_t api_number_text_write_f64(double value, bool whole_point, char *text)
{
    return write(value, whole_point, text);
}

size_t api_number_text_write_i64(int64_t value, char *text)
{
    return static_cast<size_t>(std::to_chars(text, text + API_NUMBER_TEXT_BYTES, value).ptr - text);
}
