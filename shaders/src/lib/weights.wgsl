// Weights as the checkpoint stores them, decoded inside the kernels.

const F8E4M3: u32 = 0u;
const BF16: u32 = 1u;
const F16: u32 = 2u;
const F32: u32 = 3u;

// What E4M3 codes are decoded in: their values are multiplied with it.
@if(half)
const E4M3_UNIT: f32 = 256.0;
@if(!half)
const E4M3_UNIT: f32 = 1.0;

// Four E4M3 codes of a little-endian word, in units. With `half`, where the driver keeps f16 subnormals: a code's bits shifted
// into an f16 are its value / 256.
@if(half)
fn e4m3x4_units(word: u32) -> vec4<f32> {
    let even = unpack2x16float(halves(word << 8u));
    let odd = unpack2x16float(halves(word));
    return vec4<f32>(even.x, odd.x, even.y, odd.y);
}

// The codes in bits 8 to 15 and 24 to 31, as f16: the sign stays, the other bits move one place down.
@if(half)
fn halves(word: u32) -> u32 {
    return (word & 0x80008000u) | ((word >> 1u) & 0x3f803f80u);
}

@if(half)
fn e4m3x4(word: u32) -> vec4<f32> {
    return e4m3x4_units(word) * E4M3_UNIT;
}

@if(!half)
fn e4m3x4_units(word: u32) -> vec4<f32> {
    return e4m3x4(word);
}

// Four E4M3 codes of a little-endian word. No f32 or f16 subnormal appears on the way, since some GPUs flush them:
// normal numbers are shifted into place, subnormals (m · 2^-9) come from a subtraction.
@if(!half)
fn e4m3x4(word: u32) -> vec4<f32> {
    let codes = vec4<u32>(word << 24u, word << 16u, word << 8u, word);
    let magnitude = (codes & vec4<u32>(0x7f000000u)) >> vec4<u32>(4u);
    let normal = bitcast<vec4<f32>>(magnitude + vec4<u32>(0x3c000000u));
    let subnormal = bitcast<vec4<f32>>(magnitude | vec4<u32>(0x3c800000u)) - vec4<f32>(0.015625);
    let value = select(normal, subnormal, magnitude < vec4<u32>(0x00800000u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) | (codes & vec4<u32>(0x80000000u)));
}

// Two BF16 values of a little-endian word.
fn bf16x2(word: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(word << 16u, word & 0xffff0000u));
}

// The element of type `kind` that starts at byte `byte` (0–3) of a word; two-byte elements start at even bytes.
fn element(kind: u32, word: u32, byte: u32) -> f32 {
    let shifted = word >> (byte * 8u);
    if (kind == F8E4M3) {
        return e4m3x4(shifted & 0xffu).x;
    }
    if (kind == BF16) {
        return bitcast<f32>(shifted << 16u);
    }
    if (kind == F16) {
        return unpack2x16float(shifted & 0xffffu).x;
    }
    return bitcast<f32>(word);
}

fn element_bytes(kind: u32) -> u32 {
    if (kind == F8E4M3) {
        return 1u;
    }
    return select(2u, 4u, kind == F32);
}
