//! Twin of `lib/order.wgsl`.

/// Ascending keys for ascending values; −0 equals 0, and every NaN comes above infinity.
pub fn ordered(value: f32) -> u32 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    if value.is_nan() {
        u32::MAX
    } else if magnitude == 0 || bits == magnitude {
        magnitude | 0x8000_0000
    } else {
        !bits
    }
}

#[cfg(test)]
mod tests {
    use super::ordered;

    #[test]
    fn keys_ascend_with_the_values() {
        let tiny = f32::from_bits(1);
        let values =
            [f32::NEG_INFINITY, f32::MIN, -1.0, -tiny, 0.0, tiny, 1.0, f32::MAX, f32::INFINITY, f32::NAN];
        assert!(values.map(ordered).is_sorted_by(|a, b| a < b));
        assert!(ordered(-0.0) == ordered(0.0));
        assert!(ordered(-f32::NAN) == ordered(f32::NAN));
        assert!(ordered(f32::NEG_INFINITY) > 0, "0 is free for `no value`");
    }
}
