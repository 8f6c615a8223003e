/* api_number_text_test.c - does number text read and write exactly, for every float? */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/number_text.h"

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* What is read must be what strtof reads, to the bit, and all of the text must be used. */
static void check_like_strtof(const char *text)
{
    float value = -1.0f;
    const char *end = text + strlen(text), *stop = api_number_text_read_f32(text, end, &value);
    float wanted = strtof(text, NULL);
    if (stop != end || bits_of(value) != bits_of(wanted))
        fail_msg("%s reads as %.9g, strtof says %.9g", text, (double)value, (double)wanted);
}

static void every_exponent_reads_back_as_written(void **state)
{
    (void)state;
    char text[API_NUMBER_TEXT_BYTES + 1];
    for (uint32_t exponent = 0; exponent < 255; exponent++) {
        for (int i = 0; i < 4000; i++) {
            uint32_t mantissa = i == 0 ? 0 : i == 1 ? 0x7fffff : (uint32_t)next_random() & 0x7fffff;
            float value = float_of((uint32_t)(next_random() & 1) << 31 | exponent << 23 | mantissa);
            float back = -1.0f;
            size_t length = api_number_text_write_f32(value, false, text);
            assert_true(length < API_NUMBER_TEXT_BYTES);
            text[length] = '\0';
            assert_ptr_equal(api_number_text_read_f32(text, text + length, &back), text + length);
            if (bits_of(back) != bits_of(value))
                fail_msg("%s reads back as %.9g", text, (double)back);
        }
    }
}

static void random_texts_read_like_strtof(void **state)
{
    (void)state;
    char text[128];
    for (int i = 0; i < 600000; i++) {
        float value = float_of((uint32_t)next_random());
        if (!isfinite(value))
            continue;
        double wide = (double)value;
        int length = i % 4 == 0   ? snprintf(text, sizeof text, "%.9g", wide)
                     : i % 4 == 1 ? snprintf(text, sizeof text, "%.17g", wide)
                     : i % 4 == 2 ? snprintf(text, sizeof text, "%.4f", wide)
                                  : snprintf(text, sizeof text, "%.25e", wide);
        if (length < (int)sizeof text)
            check_like_strtof(text);
    }
}

static void halfway_cases_read_like_strtof(void **state)
{
    (void)state;
    char text[256];
    for (int i = 0; i < 100000; i++) {
        uint32_t bits = (uint32_t)next_random() & 0x7f7fffff;
        double low = (double)float_of(bits), high = (double)float_of(bits + 1);
        if (!isfinite(high))
            continue;
        snprintf(text, sizeof text, "%.60g", (low + high) / 2.0);
        check_like_strtof(text);
        snprintf(text, sizeof text, "%.17g", (low + high) / 2.0);
        check_like_strtof(text);
    }
}

static void special_texts_read_like_strtof(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "0",
        "-0",
        "0.0",
        "1e0",
        "1E+5",
        "1e-5",
        "123456789012345678901234567890",
        "0.1",
        "3.4028235e38",
        "3.4028236e38",
        "1e39",
        "-1e39",
        "1e400",
        "1e-400",
        "1e-46",
        "1.1754944e-38",
        "1.17549429e-38",
        "7e-46",
        "1.4e-45",
        "16777217",
        "16777219",
        "0.000000000000000000000000000000000000000000001401298464324817",
        "9007199254740993",
        "1e22",
        "1e23",
        "179769313486231570000000000000000000000"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        check_like_strtof(texts[i]);
}

static void doubles_read_like_strtod(void **state)
{
    (void)state;
    char text[64];
    for (int i = 0; i < 300000; i++) {
        uint64_t bits = next_random();
        double value, back = -1.0;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        if (i % 2 == 0)
            snprintf(text, sizeof text, "%.17g", value);
        else
            snprintf(text, sizeof text, "%.9g", value);
        const char *end = text + strlen(text);
        assert_ptr_equal(api_number_text_read_f64(text, end, &back), end);
        double wanted = strtod(text, NULL);
        if (memcmp(&back, &wanted, sizeof back) != 0)
            fail_msg("%s reads as %.17g", text, back);
    }
}

static void words_for_what_is_no_number_are_read_and_written(void **state)
{
    (void)state;
    float value = 0.0f;
    char text[API_NUMBER_TEXT_BYTES];
    const char *nan_word = "NaN";
    assert_non_null(api_number_text_read_f32(nan_word, nan_word + 3, &value));
    assert_true(isnan(value));
    const char *word = "-Infinity";
    assert_non_null(api_number_text_read_f32(word, word + 9, &value));
    assert_true(isinf(value) && value < 0);
    assert_int_equal(api_number_text_write_f32(INFINITY, false, text), 8);
    assert_memory_equal(text, "Infinity", 8);
    assert_int_equal(api_number_text_write_f32(NAN, true, text), 3);
}

static void what_json_forbids_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"",    "-",   "+1", "01",  "1.",  ".5", "1e",
                                        "1e+", "abc", "-a", "nan", "inf", "--1"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        float value;
        const char *end = texts[i] + strlen(texts[i]);
        const char *stop = api_number_text_read_f32(texts[i], end, &value);
        if (stop == end && end != texts[i])
            fail_msg("\"%s\" was read", texts[i]);
        assert_true(stop == NULL || stop < end);
    }
}

static void integers_are_exact_and_bounded(void **state)
{
    (void)state;
    int64_t value = 0;
    uint64_t wide = 0;
    const char *text = "9223372036854775807";
    assert_non_null(api_number_text_read_i64(text, text + 19, &value));
    assert_true(value == INT64_MAX);
    text = "9223372036854775808";
    assert_null(api_number_text_read_i64(text, text + 19, &value));
    assert_non_null(api_number_text_read_u64(text, text + 19, &wide));
    assert_true(wide == UINT64_C(9223372036854775808));
    assert_null(api_number_text_read_i64("1.5", (const char *)"1.5" + 3, &value));
}

static void whole_numbers_get_a_point_when_asked(void **state)
{
    (void)state;
    char text[API_NUMBER_TEXT_BYTES];
    assert_int_equal(api_number_text_write_f32(3.0f, true, text), 3);
    assert_memory_equal(text, "3.0", 3);
    assert_int_equal(api_number_text_write_f32(3.0f, false, text), 1);
    size_t length = api_number_text_write_f32(1e20f, true, text);
    assert_memory_equal(text, "1e+20", length);
}

/* printf with ever more digits, until it reads back, is the oracle. It looks at the nearest text of
 * each length alone, so that fewer digits than its are possible. */
static void the_shortest_text_is_written(void **state)
{
    (void)state;
    char text[API_NUMBER_TEXT_BYTES + 1], wanted[64];
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)next_random();
        bits = i % 4 == 0 ? bits & 0xff800000 : i % 4 == 1 ? 0x3e000000 + bits % 0x2000000 : bits;
        float value = float_of(bits);
        if (!isfinite(value) || value == 0.0f)
            continue;
        int digits = 0;
        do
            snprintf(wanted, sizeof wanted, "%.*e", digits++, (double)value);
        while (strtof(wanted, NULL) != value);
        size_t length = api_number_text_write_f32(value, false, text), written = 0;
        text[length] = '\0';
        if (strtof(text, NULL) != value)
            fail_msg("%s reads back as another number than %.9g", text, (double)value);
        char *exponent = strchr(text, 'e'), *from = text + strcspn(text, "123456789");
        for (char *c = from; *c != '\0' && c != exponent; c++)
            written += *c >= '0' && *c <= '9' ? 1 : 0;
        bool is_whole = strchr(text, '.') == NULL && exponent == NULL;
        if (!is_whole && written > (size_t)digits)
            fail_msg("%s has %zu digits, %d would do: %s", text, written, digits, wanted);
    }
}

static void text_is_plain_from_a_ten_thousandth_to_a_billion(void **state)
{
    (void)state;
    static const struct {
        float value;
        const char *text;
    } cases[] = {{0.5f, "0.5"},
                 {-0.001f, "-0.001"},
                 {0.0001f, "0.0001"},
                 {0.000099f, "9.9e-05"},
                 {0.00001f, "1e-05"},
                 {-0.0f, "-0"},
                 {1.5f, "1.5"},
                 {12345.678f, "12345.678"},
                 {100000.0f, "100000"},
                 {16777216.0f, "16777216"},
                 {1e9f, "1e+09"},
                 {FLT_MAX, "3.4028235e+38"},
                 {FLT_MIN, "1.1754944e-38"},
                 {1e-45f, "1e-45"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[API_NUMBER_TEXT_BYTES + 1];
        text[api_number_text_write_f32(cases[i].value, false, text)] = '\0';
        assert_string_equal(text, cases[i].text);
    }
}

/* 1e+05 would be no integer to those who read INT32. */
static void integers_are_written_with_their_digits(void **state)
{
    (void)state;
    char text[API_NUMBER_TEXT_BYTES];
    assert_int_equal(api_number_text_write_i64(100000, text), 6);
    assert_memory_equal(text, "100000", 6);
    assert_int_equal(api_number_text_write_i64(INT64_MIN, text), 20);
    assert_memory_equal(text, "-9223372036854775808", 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_exponent_reads_back_as_written),
        cmocka_unit_test(random_texts_read_like_strtof),
        cmocka_unit_test(halfway_cases_read_like_strtof),
        cmocka_unit_test(special_texts_read_like_strtof),
        cmocka_unit_test(doubles_read_like_strtod),
        cmocka_unit_test(words_for_what_is_no_number_are_read_and_written),
        cmocka_unit_test(what_json_forbids_is_refused),
        cmocka_unit_test(integers_are_exact_and_bounded),
        cmocka_unit_test(whole_numbers_get_a_point_when_asked),
        cmocka_unit_test(the_shortest_text_is_written),
        cmocka_unit_test(text_is_plain_from_a_ten_thousandth_to_a_billion),
        cmocka_unit_test(integers_are_written_with_their_digits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
