// l > 0 ? l / penalty : l · penalty      for l = logits[row, id], in place, for every (row, id) of `seen`
// seen: u32 (count, 2), no pair twice   penalties: f32 (rows)   logits: f32 (rows, vocab_size)
// Workgroups: count / 256. Pairs outside of logits are skipped.

struct Params {
    count: u32,
    rows: u32,
    vocab_size: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> seen: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> penalties: array<f32>;
@group(0) @binding(2) var<storage, read_write> logits: array<f32>;

const THREADS: u32 = 256u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
    if (thread.x >= params.count) {
        return;
    }
    let pair = seen[thread.x];
    if (pair.x >= params.rows || pair.y >= params.vocab_size) {
        return;
    }
    let penalty = penalties[pair.x];
    let at = pair.x * params.vocab_size + pair.y;
    let logit = logits[at];
    logits[at] = select(logit * penalty, logit / penalty, logit > 0.0);
}
