// Attention over a tile of 128 entries by a workgroup that has eight heads: from scores to weights, and tiles folded into each
// other.

const TILE: u32 = 128u;
const HEADS: u32 = 8u;
// Lanes that share the softmax of one head, and entries of each.
const SHARES: u32 = 8u;
const SHARE: u32 = TILE / SHARES;

var<workgroup> scores: array<f32, HEADS * TILE>;
// exp(score − m), four entries at a time; 0 beyond the last entry.
var<workgroup> weights: array<vec4<f32>, HEADS * TILE / 4u>;
var<workgroup> share_max: array<f32, HEADS * SHARES>;
var<workgroup> share_sum: array<f32, HEADS * SHARES>;
// Of each head, over the tiles so far: m, l, and the factors that bring old and new sums to the same m.
var<workgroup> largest: array<f32, HEADS>;
var<workgroup> total: array<f32, HEADS>;
var<workgroup> old_factor: array<f32, HEADS>;
var<workgroup> new_factor: array<f32, HEADS>;

// From scores to weights, largest, total and the two factors, by `threads` lanes. Scores of entries beyond the last may be
// old ones.
fn softmax(lane: u32, threads: u32, tile: u32, count: u32) {
    for (var share = lane; share < HEADS * SHARES; share += threads) {
        let first = share * SHARE;
        let inside = min(count, (share % SHARES + 1u) * SHARE) - min(count, share % SHARES * SHARE);
        var m = scores[share / SHARES * TILE];
        for (var j = 0u; j < inside; j++) {
            m = max(m, scores[first + j]);
        }
        share_max[share] = m;
    }
    workgroupBarrier();
    for (var share = lane; share < HEADS * SHARES; share += threads) {
        let first = share * SHARE;
        let m = head_max(share / SHARES);
        var sum = 0.0;
        for (var j = 0u; j < SHARE; j += 4u) {
            let e = share % SHARES * SHARE + j;
            let four = vec4(scores[first + j], scores[first + j + 1u], scores[first + j + 2u], scores[first + j + 3u]);
            let inside = vec4(e, e + 1u, e + 2u, e + 3u) < vec4(count);
            let weight = select(vec4(0.0), exp(four - m), inside);
            weights[(first + j) / 4u] = weight;
            sum = (((sum + weight.x) + weight.y) + weight.z) + weight.w;
        }
        share_sum[share] = sum;
    }
    workgroupBarrier();
    if (lane < HEADS) {
        let m = head_max(lane);
        var l = 0.0;
        for (var j = 0u; j < SHARES; j++) {
            l += share_sum[lane * SHARES + j];
        }
        if (tile == 0u) {
            largest[lane] = m;
            total[lane] = l;
        } else {
            let old_m = largest[lane];
            let both = max(old_m, m);
            old_factor[lane] = exp(old_m - both);
            new_factor[lane] = exp(m - both);
            largest[lane] = both;
            total[lane] = fma(l, new_factor[lane], total[lane] * old_factor[lane]);
        }
    }
    workgroupBarrier();
}

fn head_max(head: u32) -> f32 {
    var m = share_max[head * SHARES];
    for (var j = 1u; j < SHARES; j++) {
        m = max(m, share_max[head * SHARES + j]);
    }
    return m;
}
