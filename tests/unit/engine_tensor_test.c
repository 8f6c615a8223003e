/* engine_tensor_test.c - rounding to 16-bit types in place is what their bits say. */
#include "tests/unit/engine_support.h"

enum { COUNT = 1000 };

static float through_bits(enum engine_dtype dtype, float value)
{
    return dtype == ENGINE_F16 ? engine_tensor_f16_value(engine_tensor_f16_bits(value))
                               : engine_tensor_bf16_value(engine_tensor_bf16_bits(value));
}

/* All exponents, both signs, NaN and infinity: every 4,099th float, in rows of any length. */
static void rounding_in_place_is_that_through_the_types_bits(void **unused)
{
    float values[COUNT], wanted[COUNT];
    (void)unused;
    for (int d = ENGINE_F16; d <= ENGINE_BF16; d++) {
        uint32_t bits = 0;
        for (int row = 0; row < 1048; row++) {
            size_t count = (size_t)(COUNT - row % 33);
            for (size_t i = 0; i < count; i++, bits += 4099) {
                memcpy(&values[i], &bits, sizeof bits);
                wanted[i] = through_bits((enum engine_dtype)d, values[i]);
            }
            engine_tensor_round((enum engine_dtype)d, values, count);
            assert_memory_equal(values, wanted, count * sizeof *values);
        }
    }
}

static void ties_go_to_even_and_what_overflows_is_infinite(void **unused)
{
    float halves[] = {2049.0f, 2051.0f, 65519.0f, 65520.0f, -65520.0f, 0x1p-25f, 0x1.8p-24f};
    const float wanted[] = {2048.0f, 2052.0f, 65504.0f, INFINITY, -INFINITY, 0.0f, 0x1p-23f};
    float wide[] = {1.0f / 3.0f};
    (void)unused;
    engine_tensor_round(ENGINE_F16, halves, 7);
    assert_memory_equal(halves, wanted, sizeof halves);
    engine_tensor_round(ENGINE_F32, wide, 1);
    assert_true(wide[0] == 1.0f / 3.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_in_place_is_that_through_the_types_bits),
        cmocka_unit_test(ties_go_to_even_and_what_overflows_is_infinite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
