//! Numbers of bytes as people write them.

/// `689.4 GB`: one decimal, powers of 1000. Below a kilobyte the bytes, as in `999 B`.
pub fn size(bytes: u64) -> String {
    let (value, unit) = scaled(bytes as f64);
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A number below 1000, as far as there are units, and its unit.
pub fn scaled(value: f64) -> (f64, &'static str) {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = value;
    let mut unit = 0;
    // 999.95 would be written as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    (value, UNITS[unit])
}
