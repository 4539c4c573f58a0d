//! Twin of `lib/rope.wgsl`.

/// Number of the pair in which value `value` of `dims` rotated ones stands.
pub fn pair(value: usize, dims: usize, interleaved: bool) -> usize {
    if interleaved { value / 2 } else { value % (dims / 2) }
}

/// Whether `value` is the first of its pair.
pub fn is_first(value: usize, dims: usize, interleaved: bool) -> bool {
    if interleaved { value.is_multiple_of(2) } else { value < dims / 2 }
}

/// The other value of the pair.
pub fn partner(value: usize, dims: usize, interleaved: bool) -> usize {
    let distance = if interleaved { 1 } else { dims / 2 };
    if is_first(value, dims, interleaved) { value + distance } else { value - distance }
}

/// The first `dims` values of `values`, value by value, rotated by `angles` = (cos, sin) of each pair one after the other.
pub fn rotated<'a>(
    values: &'a [f32],
    dims: usize,
    interleaved: bool,
    angles: &'a [f32],
) -> impl Iterator<Item = f32> + 'a {
    (0..dims).map(move |value| {
        let pair = pair(value, dims, interleaved);
        let (cos, sin) = (angles[2 * pair], angles[2 * pair + 1]);
        let sin = if is_first(value, dims, interleaved) { -sin } else { sin };
        values[partner(value, dims, interleaved)].mul_add(sin, values[value] * cos)
    })
}

/// For cases: angles (cos, sin) of `tokens` tokens at odd positions, with an amplitude that is not 1.
pub fn angles(tokens: usize, dims: usize) -> Vec<f32> {
    let mut table = Vec::with_capacity(tokens * dims);
    for token in 0..tokens {
        for pair in 0..dims / 2 {
            let angle = (13 * token + 5) as f64 * 10000f64.powf(-2.0 * pair as f64 / dims as f64);
            table.extend([1.1 * angle.cos() as f32, 1.1 * angle.sin() as f32]);
        }
    }
    table
}

/// For cases: the rotation as multiplication of complex numbers in f64, pair by pair.
pub fn reference(values: &mut [f64], dims: usize, interleaved: bool, angles: &[f32]) {
    for pair in 0..dims / 2 {
        let (cos, sin) = (f64::from(angles[2 * pair]), f64::from(angles[2 * pair + 1]));
        let (a, b) = if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + dims / 2) };
        (values[a], values[b]) = (values[a] * cos - values[b] * sin, values[a] * sin + values[b] * cos);
    }
}
