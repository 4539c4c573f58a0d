//! Host twin and cases of `group_experts.wgsl`.

use crate::case::random;
use crate::group_experts::{Bindings, Overrides, Params};
use crate::{Call, Case, CaseBuffer, Tolerance};

/// The same computation on the host.
pub fn twin(call: &mut Call<'_>) {
    let p: Params = call.params();
    let bound = call.bindings::<Params>();
    let (expert_ids, pair_order, tiles, arguments) = (
        bound.expert_ids.u32(),
        bound.pair_order.u32_mut(),
        bound.tiles.u32_mut(),
        bound.arguments.u32_mut(),
    );
    let expert_ids = &expert_ids[..p.pairs as usize];
    let pair_order = &mut pair_order[..expert_ids.len()];
    for (p, pair) in pair_order.iter_mut().enumerate() {
        *pair = p as u32;
    }
    pair_order.sort_by_key(|pair| expert_ids[*pair as usize]);
    let mut tile_count = 0;
    let mut first = 0;
    for run in pair_order.chunk_by(|a, b| expert_ids[*a as usize] == expert_ids[*b as usize]) {
        for piece in run.chunks(p.tile as usize) {
            let tile = [expert_ids[run[0] as usize], first, piece.len() as u32, 0];
            tiles[4 * tile_count..][..4].copy_from_slice(&tile);
            first += piece.len() as u32;
            tile_count += 1;
        }
    }
    let tile_count = tile_count as u32;
    arguments[..4].copy_from_slice(&[p.x_groups_0, tile_count, 1, tile_count]);
    arguments[4..8].copy_from_slice(&[p.x_groups_1, tile_count, 1, tile_count]);
}

/// Inputs on which the adapters must agree with the twin.
pub fn cases() -> Vec<Case> {
    // (pairs, experts, tile, what the expert of a random number is)
    type Pick = fn(u32, u32) -> u32;
    let any: Pick = |random, experts| random % experts;
    let last: Pick = |_, experts| experts - 1;
    let few: Pick = |random, experts| (random % 3) * (experts / 3);
    [
        (1, 8, 32, "one pair", any),
        (21, 5, 4, "an odd number of experts", any),
        (40, 1, 16, "one expert", any),
        (600, 256, 16, "most experts have few", any),
        (1000, 160, 64, "all with the last expert", last),
        (4096, 256, 64, "three experts have all", few),
        (5001, 33, 1, "tiles of one", any),
        (16384, 512, 64, "the most there may be", any),
    ]
    .into_iter()
    .map(|(pairs, experts, tile, name, pick): (usize, u32, usize, &str, Pick)| {
        let ids: Vec<u32> = random::f32s(1, pairs).iter().map(|v| pick(v.to_bits() >> 3, experts)).collect();
        let max_tiles = pairs / tile + pairs.min(experts as usize);
        let params = Params { pairs: pairs as u32, experts, tile: tile as u32, x_groups_0: 7, x_groups_1: 9 };
        let buffers = Bindings {
            expert_ids: CaseBuffer::u32(&ids),
            pair_order: CaseBuffer::OutU32(vec![u32::MAX; pairs]),
            tiles: CaseBuffer::OutU32(vec![u32::MAX; 4 * max_tiles]),
            arguments: CaseBuffer::OutU32(vec![0; 8]),
        };
        let name = format!("{pairs} pairs, {experts} experts: {name}");
        Case::new(name, params, Overrides::default(), [1, 1, 1], buffers, Tolerance::EXACT)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bound;

    /// What a mat-mul over the tiles relies on.
    #[test]
    fn tiles_cover_every_pair_once_in_order() {
        for case in cases() {
            let params: Params = bytemuck::pod_read_unaligned(&case.params);
            let mut words: Vec<Vec<u32>> = case
                .buffers
                .iter()
                .map(|b| b.initial().chunks(4).map(bytemuck::pod_read_unaligned).collect())
                .collect();
            let (ids, outputs) = words.split_at_mut(1);
            let mut bindings = vec![Bound::Read(bytemuck::cast_slice(&ids[0]))];
            bindings.extend(outputs.iter_mut().map(|words| Bound::Write(bytemuck::cast_slice_mut(words))));
            twin(&mut Call {
                params: &case.params,
                constants: case.constants,
                groups: case.groups,
                bindings,
            });
            let (ids, pair_order, tiles, arguments) = (&words[0], &words[1], &words[2], &words[3]);
            let mut next = 0;
            let mut seen = Vec::new();
            for tile in tiles.chunks(4).take(arguments[1] as usize) {
                let (expert, first, count) = (tile[0], tile[1] as usize, tile[2] as usize);
                assert!(
                    first == next && (1..=params.tile as usize).contains(&count),
                    "{}: {tile:?}",
                    case.name
                );
                for pair in &pair_order[first..first + count] {
                    assert!(
                        ids[*pair as usize] == expert,
                        "{}: pair {pair} in a tile of {expert}",
                        case.name
                    );
                    seen.push((expert, *pair));
                }
                next += count;
            }
            assert!(seen.len() == ids.len() && seen.is_sorted_by(|a, b| a < b), "{}", case.name);
        }
    }
}
