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

/* ---- the shortest text of a float ------------------------------------------------------------
 *
 * R. Giulietti, "The Schubfach way to render doubles" (2020), for 24 bits: of the decimals inside
 * the interval that rounds to the float, the shortest, and of those the nearest. It takes a third
 * of the time of std::to_chars and gives the same text; compared with it for all 2^31 floats, and
 * for millions of them in the tests. std::to_chars writes what is not a common case. */

/* 10^i for i = -31 .. 45, scaled to 64 bits with the highest one set, rounded up. */
const uint64_t tens[] = {
    0x81ceb32c4b43fcf5, 0xa2425ff75e14fc32, 0xcad2f7f5359a3b3f, 0xfd87b5f28300ca0e,
    0x9e74d1b791e07e49, 0xc612062576589ddb, 0xf79687aed3eec552, 0x9abe14cd44753b53,
    0xc16d9a0095928a28, 0xf1c90080baf72cb2, 0x971da05074da7bef, 0xbce5086492111aeb,
    0xec1e4a7db69561a6, 0x9392ee8e921d5d08, 0xb877aa3236a4b44a, 0xe69594bec44de15c,
    0x901d7cf73ab0acda, 0xb424dc35095cd810, 0xe12e13424bb40e14, 0x8cbccc096f5088cc,
    0xafebff0bcb24aaff, 0xdbe6fecebdedd5bf, 0x89705f4136b4a598, 0xabcc77118461cefd,
    0xd6bf94d5e57a42bd, 0x8637bd05af6c69b6, 0xa7c5ac471b478424, 0xd1b71758e219652c,
    0x83126e978d4fdf3c, 0xa3d70a3d70a3d70b, 0xcccccccccccccccd, 0x8000000000000000,
    0xa000000000000000, 0xc800000000000000, 0xfa00000000000000, 0x9c40000000000000,
    0xc350000000000000, 0xf424000000000000, 0x9896800000000000, 0xbebc200000000000,
    0xee6b280000000000, 0x9502f90000000000, 0xba43b74000000000, 0xe8d4a51000000000,
    0x9184e72a00000000, 0xb5e620f480000000, 0xe35fa931a0000000, 0x8e1bc9bf04000000,
    0xb1a2bc2ec5000000, 0xde0b6b3a76400000, 0x8ac7230489e80000, 0xad78ebc5ac620000,
    0xd8d726b7177a8000, 0x878678326eac9000, 0xa968163f0a57b400, 0xd3c21bcecceda100,
    0x84595161401484a0, 0xa56fa5b99019a5c8, 0xcecb8f27f4200f3a, 0x813f3978f8940985,
    0xa18f07d736b90be6, 0xc9f2c9cd04674edf, 0xfc6f7c4045812297, 0x9dc5ada82b70b59e,
    0xc5371912364ce306, 0xf684df56c3e01bc7, 0x9a130b963a6c115d, 0xc097ce7bc90715b4,
    0xf0bdc21abb48db21, 0x96769950b50d88f5, 0xbc143fa4e250eb32, 0xeb194f8e1ae525fe,
    0x92efd1b8d0cf37bf, 0xb7abc627050305ae, 0xe596b7b0c643c71a, 0x8f7e32ce7bea5c70,
    0xb35dbf821ae4f38c};

/* The product's high part, with its lowest bit set if something was cut off ("round to odd"). */
inline uint32_t round_to_odd(uint64_t ten, uint32_t factor)
{
    uint64_t low = (ten & 0xffffffff) * factor, high = (ten >> 32) * factor + (low >> 32);
    return static_cast<uint32_t>(high >> 32) | (static_cast<uint32_t>(high) > 1 ? 1 : 0);
}

struct decimal {
    uint32_t digits;
    int exponent; /* value = digits * 10^exponent */
};

/* For finite floats above zero. Bits as IEEE 754 has them, without the sign. */
inline decimal shortest(uint32_t bits)
{
    const uint32_t fraction = bits & 0x7fffff, biased = bits >> 23;
    const uint32_t c = biased != 0 ? fraction | 0x800000 : fraction;
    const int q = (biased != 0 ? static_cast<int>(biased) : 1) - 150; /* value = c * 2^q */
    if (q <= 0 && q > -24 && (c & ((1u << -q) - 1)) == 0)
        return {c >> -q, 0};
    /* The interval's ends and the value in quarters; below a power of two floats lie closer. */
    const bool is_closer = fraction == 0 && biased > 1;
    const int k = (q * 1262611 - (is_closer ? 524031 : 0)) >> 22; /* floor of log10 */
    const int shift = q + ((-k * 1741647) >> 19) + 1;
    const uint64_t ten = tens[31 - k];
    const uint32_t odd = c & 1; /* the ends belong to the interval when c is even */
    const uint32_t lower = round_to_odd(ten, (4 * c - 2 + is_closer) << shift) + odd;
    const uint32_t value = round_to_odd(ten, (4 * c) << shift);
    const uint32_t upper = round_to_odd(ten, (4 * c + 2) << shift) - odd;
    const uint32_t s = value / 4;
    if (s >= 10) { /* one digit less */
        const uint32_t t = s / 10;
        const bool down = lower <= 40 * t, up = 40 * t + 40 <= upper;
        if (down != up)
            return {t + up, k + 1};
    }
    const bool down = lower <= 4 * s, up = 4 * s + 4 <= upper;
    if (down != up)
        return {s + up, k};
    const uint32_t middle = 4 * s + 2;
    return {s + (value > middle || (value == middle && (s & 1) != 0) ? 1 : 0), k};
}

/* Writes the digits in front of "end" and returns where they begin. */
inline char *write_digits(uint32_t digits, char *end)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324"
                                "25262728293031323334353637383940414243444546474849"
                                "50515253545556575859606162636465666768697071727374"
                                "75767778798081828384858687888990919293949596979899";
    while (digits >= 100) {
        end -= 2;
        std::memcpy(end, pairs + 2 * (digits % 100), 2);
        digits /= 100;
    }
    if (digits >= 10) {
        end -= 2;
        std::memcpy(end, pairs + 2 * digits, 2);
    } else {
        *--end = static_cast<char>('0' + digits);
    }
    return end;
}

/* "place" is where the point stands, counted from the first digit. */
inline char *write_plain(const char *digits, int count, int place, bool whole_point, char *at)
{
    if (place <= 0) {
        std::memcpy(at, "0.000", 5);
        std::memcpy(at + 2 - place, digits, static_cast<size_t>(count));
        return at + 2 - place + count;
    }
    std::memcpy(at, digits, static_cast<size_t>(place));
    at += place;
    if (place == count) {
        std::memcpy(at, ".0", 2);
        return at + (whole_point ? 2 : 0);
    }
    *at++ = '.';
    std::memcpy(at, digits + place, static_cast<size_t>(count - place));
    return at + count - place;
}

/* For exponents below zero; floats have none of three digits. */
inline char *write_scientific(const char *digits, int count, int exponent, char *at)
{
    *at++ = *digits;
    if (count > 1) {
        *at++ = '.';
        std::memcpy(at, digits + 1, static_cast<size_t>(count - 1));
        at += count - 1;
    }
    *at++ = 'e';
    *at++ = '-';
    *at++ = static_cast<char>('0' - exponent / 10);
    *at++ = static_cast<char>('0' - exponent % 10);
    return at;
}

/* The same choice between 0.00012 and 1.2e-04 as std::to_chars makes: the shorter, and of two
 * equally long ones the plain. Returns 0 for what is left to it. */
inline size_t write_common(float value, bool whole_point, char *text)
{
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    char *at = text;
    *at = '-';
    at += bits >> 31;
    bits &= 0x7fffffff;
    if (bits == 0 || bits >= 0x7f800000)
        return 0;
    decimal d = shortest(bits);
    while (d.digits % 10 == 0) {
        d.digits /= 10;
        d.exponent++;
    }
    if (d.exponent > 0)
        return 0; /* zeros before the point */
    char room[16];
    const char *first = write_digits(d.digits, room + sizeof room);
    const int count = static_cast<int>(room + sizeof room - first), place = d.exponent + count;
    if (place > (count > 1 ? -4 : -3))
        at = write_plain(first, count, place, whole_point, at);
    else
        at = write_scientific(first, count, place - 1, at);
    return static_cast<size_t>(at - text);
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
    size_t size = write_common(value, whole_point, text);
    return size != 0 ? size : write(value, whole_point, text);
}

size_t api_number_text_write_f64(double value, bool whole_point, char *text)
{
    return write(value, whole_point, text);
}

size_t api_number_text_write_i64(int64_t value, char *text)
{
    return static_cast<size_t>(std::to_chars(text, text + API_NUMBER_TEXT_BYTES, value).ptr - text);
}
