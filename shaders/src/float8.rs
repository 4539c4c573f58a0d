//! The two 8-bit formats of FP8 checkpoints: E4M3 for weights, UE8M0 for block scales.
//!
//! E4M3 (the "fn" variant): sign · 4 exponent bits (bias 7) · 3 mantissa bits. There are no infinities;
//! 0x7f and 0xff are NaN, 448 is the largest value, and exponent 0 is subnormal with steps of 2^-9.
//! UE8M0: eight exponent bits (bias 127), no sign and no mantissa; 0xff is NaN.
//!
//! This is the one definition the host twins, the loader and the adapters' self-test share.

/// The largest finite E4M3 value.
pub const E4M3_MAX: f32 = 448.0;

/// The value of every E4M3 code; NaN at 0x7f and 0xff.
pub const E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3_value(code as u8);
        code += 1;
    }
    table
};

/// The formula behind [`E4M3`], evaluated at compile time.
const fn e4m3_value(code: u8) -> f32 {
    let sign = (code as u32 >> 7) << 31;
    let exponent = (code as u32 >> 3) & 15;
    let mantissa = code as u32 & 7;
    if exponent == 15 && mantissa == 7 {
        return f32::NAN;
    }
    if exponent == 0 {
        // 2^-9 is the smallest step. Computed as a product of normal numbers: the well-known shift into
        // f32 bits would pass through an f32 subnormal, which some processors flush to zero.
        let magnitude = mantissa as f32 * (1.0 / 512.0);
        return if sign == 0 { magnitude } else { -magnitude };
    }
    f32::from_bits(sign | (exponent + 127 - 7) << 23 | mantissa << 20)
}

/// The value of one E4M3 code; NaN for 0x7f and 0xff.
#[inline]
pub fn e4m3_to_f32(code: u8) -> f32 {
    E4M3[code as usize]
}

/// The nearest E4M3 code: ties go to the even mantissa, magnitudes beyond 448 (infinities too) saturate,
/// NaN stays NaN with its sign.
#[inline]
pub fn f32_to_e4m3(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    if value.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = value.abs().min(E4M3_MAX);
    if magnitude < 1.0 / 64.0 {
        // Below 2^-6 the step is 2^-9. Eight steps make 2^-6 itself, whose code is 8, so rounding up
        // out of the subnormals needs no special case.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    // Keep three of 23 mantissa bits. A carry out of the mantissa raises the exponent by itself, and
    // the largest magnitude, 448, is representable, so the result never reaches the NaN code.
    let bits = magnitude.to_bits();
    let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
    sign | (((rounded >> 23) - (127 - 7)) << 3) as u8 | (rounded >> 20 & 7) as u8
}

/// The value of one UE8M0 code, 2^(code - 127); NaN for 0xff. Code 0 is 2^-127, an f32 subnormal.
#[inline]
pub fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        0xff => f32::NAN,
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value by the definition, in f64 powers of two: a second way to the same table.
    fn by_definition(code: u8) -> f64 {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
        let magnitude = match (exponent, code & 7) {
            (15, 7) => f64::NAN,
            (0, _) => mantissa / 8.0 * 2f64.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
        };
        if code & 0x80 == 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn all_256_e4m3_codes_have_their_defined_value() {
        for code in 0..=255u8 {
            let (value, wanted) = (e4m3_to_f32(code), by_definition(code));
            if code & 0x7f == 0x7f {
                assert!(value.is_nan(), "{code:#04x} is {value}");
            } else {
                assert_eq!(f64::from(value), wanted, "{code:#04x}");
                assert_eq!(value.is_sign_negative(), code & 0x80 != 0, "sign of {code:#04x}");
            }
        }
        assert_eq!(e4m3_to_f32(0x01), 2f32.powi(-9));
        assert_eq!(e4m3_to_f32(0x7e), E4M3_MAX);
    }

    #[test]
    fn every_finite_code_survives_the_way_there_and_back() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(f32_to_e4m3(e4m3_to_f32(code)), code);
        }
        assert_eq!(f32_to_e4m3(f32::NAN) & 0x7f, 0x7f);
    }

    #[test]
    fn encoding_takes_the_nearest_value_and_ties_take_the_even_code() {
        for code in 0..0x7eu8 {
            let (low, high) = (e4m3_to_f32(code), e4m3_to_f32(code + 1));
            let middle = (low + high) / 2.0; // exact: both have at most 4 significant bits
            let even = if code & 1 == 0 { code } else { code + 1 };
            for (sign, bit) in [(1.0, 0), (-1.0, 0x80)] {
                assert_eq!(f32_to_e4m3(sign * middle), even | bit, "middle of {low} and {high}");
                assert_eq!(f32_to_e4m3(sign * middle.next_down()), code | bit, "just below {middle}");
                assert_eq!(f32_to_e4m3(sign * middle.next_up()), (code + 1) | bit, "just above {middle}");
            }
        }
    }

    #[test]
    fn encoding_saturates_and_never_makes_nan_of_a_number() {
        for value in [448.0, 464.0, 500.0, 1e9, f32::MAX, f32::INFINITY] {
            assert_eq!(f32_to_e4m3(value), 0x7e);
            assert_eq!(f32_to_e4m3(-value), 0xfe);
        }
        for value in [0.0, f32::MIN_POSITIVE, 2f32.powi(-10)] {
            assert_eq!(f32_to_e4m3(value), 0x00, "{value}");
            assert_eq!(f32_to_e4m3(-value), 0x80, "{value}");
        }
    }

    #[test]
    fn all_256_ue8m0_codes_are_powers_of_two() {
        for code in 0..255u8 {
            assert_eq!(f64::from(e8m0_to_f32(code)), 2f64.powi(i32::from(code) - 127), "{code:#04x}");
        }
        assert!(e8m0_to_f32(255).is_nan());
    }
}
