// Order of f32 values as u32, so that comparisons are exact and total on every driver.

// Ascending keys for ascending values; -0 equals 0, and every NaN comes above infinity, where it is seen.
fn ordered(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return 0xffffffffu;
    }
    if (magnitude == 0u || bits == magnitude) {
        return magnitude | 0x80000000u;
    }
    return ~bits;
}
