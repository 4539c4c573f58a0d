// cache[destination + i] = cache[source + i]      i < count; the two ranges do not overlap
// cache: f32. Copies the filled rows of a page, so that a sequence may go on where another one stood.

struct Params {
    source: u32,
    destination: u32,
    count: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read_write> cache: array<f32>;

const THREADS: u32 = 256u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < params.count) {
        cache[params.destination + id.x] = cache[params.source + id.x];
    }
}
