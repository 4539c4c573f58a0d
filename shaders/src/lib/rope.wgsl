// Rotary embedding. Pair i of a vector whose first `dims` values are rotated is (2i, 2i + 1) when interleaved (MLA),
// else (i, i + dims / 2) (the lightning indexer); angle = (cos, sin) of the token's position and pair i.

fn rope_pair(value: u32, dims: u32, interleaved: bool) -> u32 {
    return select(value % (dims / 2u), value / 2u, interleaved);
}

// Whether `value` is the first of its pair.
fn rope_is_first(value: u32, dims: u32, interleaved: bool) -> bool {
    return select(value < dims / 2u, value % 2u == 0u, interleaved);
}

// The other value of the pair.
fn rope_partner(value: u32, dims: u32, interleaved: bool) -> u32 {
    let distance = select(dims / 2u, 1u, interleaved);
    return select(value - distance, value + distance, rope_is_first(value, dims, interleaved));
}

// The rotated value at one place of a pair, given what stands there and at the partner's place.
fn rotated(own: f32, partner: f32, first: bool, angle: vec2<f32>) -> f32 {
    let sine = select(angle.y, -angle.y, first);
    return fma(partner, sine, own * angle.x);
}
