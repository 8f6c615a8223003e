/* number_text.cc - see number_text.h.
 *
 * Reading: Clinger's exact fast path, else std::from_chars. Writing doubles: std::to_chars. Writing
 * floats: the Schubfach algorithm (Raffaello Giulietti: The Schubfach way to render doubles, 2021),
 * three times as fast as std::to_chars, whose digits it gives for every float there is. */
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

/* 10^k for k from -31 to 45, as 64-bit significands rounded up. */
const uint64_t powers_of_ten[] = {
    0x81CEB32C4B43FCF5, 0xA2425FF75E14FC32, 0xCAD2F7F5359A3B3F, 0xFD87B5F28300CA0E,
    0x9E74D1B791E07E49, 0xC612062576589DDB, 0xF79687AED3EEC552, 0x9ABE14CD44753B53,
    0xC16D9A0095928A28, 0xF1C90080BAF72CB2, 0x971DA05074DA7BEF, 0xBCE5086492111AEB,
    0xEC1E4A7DB69561A6, 0x9392EE8E921D5D08, 0xB877AA3236A4B44A, 0xE69594BEC44DE15C,
    0x901D7CF73AB0ACDA, 0xB424DC35095CD810, 0xE12E13424BB40E14, 0x8CBCCC096F5088CC,
    0xAFEBFF0BCB24AAFF, 0xDBE6FECEBDEDD5BF, 0x89705F4136B4A598, 0xABCC77118461CEFD,
    0xD6BF94D5E57A42BD, 0x8637BD05AF6C69B6, 0xA7C5AC471B478424, 0xD1B71758E219652C,
    0x83126E978D4FDF3C, 0xA3D70A3D70A3D70B, 0xCCCCCCCCCCCCCCCD, 0x8000000000000000,
    0xA000000000000000, 0xC800000000000000, 0xFA00000000000000, 0x9C40000000000000,
    0xC350000000000000, 0xF424000000000000, 0x9896800000000000, 0xBEBC200000000000,
    0xEE6B280000000000, 0x9502F90000000000, 0xBA43B74000000000, 0xE8D4A51000000000,
    0x9184E72A00000000, 0xB5E620F480000000, 0xE35FA931A0000000, 0x8E1BC9BF04000000,
    0xB1A2BC2EC5000000, 0xDE0B6B3A76400000, 0x8AC7230489E80000, 0xAD78EBC5AC620000,
    0xD8D726B7177A8000, 0x878678326EAC9000, 0xA968163F0A57B400, 0xD3C21BCECCEDA100,
    0x84595161401484A0, 0xA56FA5B99019A5C8, 0xCECB8F27F4200F3A, 0x813F3978F8940985,
    0xA18F07D736B90BE6, 0xC9F2C9CD04674EDF, 0xFC6F7C4045812297, 0x9DC5ADA82B70B59E,
    0xC5371912364CE306, 0xF684DF56C3E01BC7, 0x9A130B963A6C115D, 0xC097CE7BC90715B4,
    0xF0BDC21ABB48DB21, 0x96769950B50D88F5, 0xBC143FA4E250EB32, 0xEB194F8E1AE525FE,
    0x92EFD1B8D0CF37BF, 0xB7ABC627050305AE, 0xE596B7B0C643C71A, 0x8F7E32CE7BEA5C70,
    0xB35DBF821AE4F38C,
};

struct decimal {
    uint32_t digits;
    int exponent; /* of ten */
};

/* The upper half of g * c; its last bit also says whether anything lies below. */
inline uint32_t round_to_odd(uint64_t g, uint32_t c)
{
    unsigned __int128 product = static_cast<unsigned __int128>(g) * c;
    uint32_t high = static_cast<uint32_t>(product >> 64);
    uint32_t low = static_cast<uint32_t>(product >> 32);
    return high | (low > 1);
}

/* The shortest decimal that lies nearer to the float c * 2^q than to any other; of those the one
 * nearest to it. lower_closer: the float below is half as far away as the one above. */
decimal shortest(uint32_t c, int q, bool lower_closer)
{
    bool even = c % 2 == 0;
    int k = (q * 1262611 - (lower_closer ? 524031 : 0)) >> 22; /* floor(log10(2^q or 3/4 of it)) */
    int shift = q + ((-k * 1741647) >> 19) + 1;                /* floor(log2(10^-k)) */
    uint64_t g = powers_of_ten[-k + 31];
    uint32_t low = round_to_odd(g, (4 * c - 2 + lower_closer) << shift) + !even;
    uint32_t value = round_to_odd(g, (4 * c) << shift);
    uint32_t high = round_to_odd(g, (4 * c + 2) << shift) - !even;
    uint32_t s = value / 4;
    if (s >= 10) {
        uint32_t tens = s / 10;
        bool down = low <= 40 * tens, up = 40 * tens + 40 <= high;
        if (down != up)
            return {tens + up, k + 1};
    }
    bool down = low <= 4 * s, up = 4 * s + 4 <= high;
    if (down != up)
        return {s + up, k};
    uint32_t middle = 4 * s + 2;
    return {s + (value > middle || (value == middle && s % 2 == 1)), k};
}

decimal decimal_of(uint32_t bits)
{
    uint32_t fraction = bits & 0x7fffff, exponent = bits >> 23 & 0xff;
    uint32_t c = exponent != 0 ? fraction | 0x800000 : fraction;
    int q = exponent != 0 ? static_cast<int>(exponent) - 150 : -149;
    if (exponent != 0 && q <= 0 && q > -24 && (c & ((1u << -q) - 1)) == 0)
        return {c >> -q, 0}; /* a whole number */
    return shortest(c, q, fraction == 0 && exponent > 1);
}

/* Digits of a number below 10^9 so that they end at "end"; returns where they begin. */
char *digits_before(uint32_t number, char *end)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324"
                                "25262728293031323334353637383940414243444546474849"
                                "50515253545556575859606162636465666768697071727374"
                                "75767778798081828384858687888990919293949596979899";
    while (number >= 100) {
        end -= 2;
        std::memcpy(end, pairs + 2 * (number % 100), 2);
        number /= 100;
    }
    if (number >= 10) {
        end -= 2;
        std::memcpy(end, pairs + 2 * number, 2);
        return end;
    }
    *--end = static_cast<char>('0' + number);
    return end;
}

/* d.ddde-dd */
char *write_scientific(const char *digits, int count, int point, char *at)
{
    *at++ = digits[0];
    if (count > 1) {
        *at++ = '.';
        std::memcpy(at, digits + 1, static_cast<size_t>(count - 1));
        at += count - 1;
    }
    int exponent = point - 1;
    *at++ = 'e';
    *at++ = exponent < 0 ? '-' : '+';
    exponent = exponent < 0 ? -exponent : exponent;
    *at++ = static_cast<char>('0' + exponent / 10);
    *at++ = static_cast<char>('0' + exponent % 10);
    return at;
}

/* Plain from 0.0001 to below 10^9, else with an exponent. */
size_t write_float(float value, bool whole_point, char *text)
{
    char room[32], *at = text; /* digits end in its middle, so that 16 may be copied */
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    *at = '-';
    at += bits >> 31;
    bits &= 0x7fffffff;
    if (bits == 0) {
        *at++ = '0';
        if (whole_point) {
            std::memcpy(at, ".0", 2);
            at += 2;
        }
        return static_cast<size_t>(at - text);
    }
    decimal d = decimal_of(bits);
    const char *digits = digits_before(d.digits, room + 16);
    int count = static_cast<int>(room + 16 - digits);
    int point = count + d.exponent; /* digits before the decimal point */
    for (; count > 1 && digits[count - 1] == '0'; count--)
        continue;
    if (point < -3 || point > 9)
        return static_cast<size_t>(write_scientific(digits, count, point, at) - text);
    if (point <= 0) {
        std::memcpy(at, "0.0000", 6);
        at += 2 - point;
        std::memcpy(at, digits, 16); /* a fixed size is one move */
        at += count;
        return static_cast<size_t>(at - text);
    }
    if (count > point) {
        std::memcpy(at, digits, 16);
        at[point] = '.';
        std::memcpy(at + point + 1, digits + point, 9);
        return static_cast<size_t>(at + count + 1 - text);
    }
    for (int i = 0; i < point; i++)
        *at++ = i < count ? digits[i] : '0';
    if (whole_point) {
        std::memcpy(at, ".0", 2);
        at += 2;
    }
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
    if (std::isfinite(value))
        return write_float(value, whole_point, text);
    return write(static_cast<double>(value), whole_point, text);
}

size_t api_number_text_write_f64(double value, bool whole_point, char *text)
{
    return write(value, whole_point, text);
}

size_t api_number_text_write_i64(int64_t value, char *text)
{
    return static_cast<size_t>(std::to_chars(text, text + API_NUMBER_TEXT_BYTES, value).ptr - text);
}
