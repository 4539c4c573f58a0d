//! Instructions of inner loops, counted in the listings of RADV (AMD) and NVK (NVIDIA).

use porism_gpu_compilers::variants::Inner;

/// The instructions of a loop without loops inside.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// All that count for the device: on AMD those of the vector unit, on NVIDIA all.
    pub instructions: u32,
    /// Fused multiplications and additions in f32.
    pub products: u32,
    /// Loads from buffers.
    pub loads: u32,
}

impl Counts {
    /// Loads and instructions per weight of the loop that multiplies weights: the one with the most products.
    pub fn per_weight(loops: &[Counts], inner: Inner) -> Option<(f64, f64)> {
        let busiest = loops.iter().filter(|one| one.loads > 0).max_by_key(|one| one.products)?;
        // A compiler may have unrolled it; sums by block and the like are a few products more.
        let turns = (f64::from(busiest.products) / f64::from(inner.products)).round().max(1.0);
        let weights = turns * f64::from(inner.weights);
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        Some((round(f64::from(busiest.loads) / weights), round(f64::from(busiest.instructions) / weights)))
    }
}

/// A piece of code without jumps: its instructions, one line each, and where it may jump to.
struct Block<'a> {
    lines: Vec<&'a str>,
    to: Vec<usize>,
}

/// First and last block of each loop that has none inside.
fn inner_loops(blocks: &[Block<'_>]) -> Vec<(usize, usize)> {
    let back = |(from, block): (usize, &Block<'_>)| -> Vec<(usize, usize)> {
        block.to.iter().filter(|to| **to <= from).map(|to| (*to, from)).collect()
    };
    let loops: Vec<(usize, usize)> = blocks.iter().enumerate().flat_map(back).collect();
    let holds = |outer: &(usize, usize), inner: &(usize, usize)| {
        outer != inner && outer.0 <= inner.0 && outer.1 >= inner.1
    };
    loops.iter().filter(|one| !loops.iter().any(|other| holds(one, other))).copied().collect()
}

/// The loops in RADV's assembly.
pub fn amd(listing: &str) -> Vec<Counts> {
    let mut blocks: Vec<(&str, Block<'_>)> = vec![("BB0", Block { lines: vec![], to: vec![] })];
    for line in listing.lines() {
        let label = line.split(':').next().filter(|_| line.starts_with("BB") && line.contains(':'));
        if let Some(label) = label {
            blocks.push((label, Block { lines: vec![], to: vec![] }));
        } else {
            let instruction = line.split(';').next().unwrap_or_default().trim();
            if !instruction.is_empty() {
                blocks.last_mut().expect("there is a first").1.lines.push(instruction);
            }
        }
    }
    let labels: Vec<&str> = blocks.iter().map(|(label, _)| *label).collect();
    for (_, block) in &mut blocks {
        for line in &block.lines {
            let mut words = line.split_whitespace();
            if words.next().is_some_and(|word| word.starts_with("s_branch") || word.starts_with("s_cbranch"))
            {
                block.to.extend(words.filter_map(|word| labels.iter().rposition(|label| *label == word)));
            }
        }
    }
    let blocks: Vec<Block<'_>> = blocks.into_iter().map(|(_, block)| block).collect();
    let count = |(first, last): (usize, usize)| {
        let mut counts = Counts::default();
        for line in blocks[first..=last].iter().flat_map(|block| &block.lines) {
            let name = line.split_whitespace().next().unwrap_or_default();
            counts.instructions += u32::from(name.starts_with("v_"));
            let product = |word: &&str| {
                [
                    "v_fma_f32",
                    "v_fma_mix_f32",
                    "v_fmac_f32",
                    "v_mac_f32",
                    "v_mad_f32",
                    "v_dual_fmac_f32",
                    "v_dual_fmaak_f32",
                    "v_fmaak_f32",
                    "v_fmamk_f32",
                ]
                .iter()
                .any(|known| word.starts_with(known))
            };
            counts.products += line.split_whitespace().filter(product).count() as u32;
            // `s_load` fetches descriptors and immediates.
            let load = ["buffer_load", "global_load", "s_buffer_load"];
            counts.loads += u32::from(load.iter().any(|known| name.starts_with(known)));
        }
        counts
    };
    inner_loops(&blocks).into_iter().map(count).collect()
}

/// The loops in NVK's intermediate form, whose instructions are those of the device: `block 3 … [preds] -> {`, then
/// `} -> [successors]`.
pub fn nvidia(listing: &str) -> Vec<Counts> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut inside = false;
    for line in listing.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if line.starts_with("block") && line.ends_with('{') {
            blocks.push(Block { lines: vec![], to: vec![] });
            inside = true;
        } else if let Some(rest) = line.strip_prefix("} -> [") {
            let numbers = rest.trim_end_matches([']', '}', ' ']).split(',');
            let to =
                numbers.filter_map(|number| number.trim().trim_start_matches("block ").parse::<usize>().ok());
            if let Some(block) = blocks.last_mut() {
                block.to.extend(to);
            }
            inside = false;
        } else if inside && !line.is_empty() {
            blocks.last_mut().expect("inside of one").lines.push(line);
        }
    }
    let count = |(first, last): (usize, usize)| {
        let mut counts = Counts::default();
        for line in blocks[first..=last].iter().flat_map(|block| &block.lines) {
            // `@p0 r1 = ffma …`: what follows the predicate and the destinations.
            let right = line.rsplit_once(" = ").map_or(*line, |(_, right)| right);
            let mut words = right.split_whitespace().skip_while(|word| word.starts_with('@'));
            let name = words.next().unwrap_or_default();
            counts.instructions += 1;
            counts.products += u32::from(name.starts_with("ffma"));
            counts.loads += u32::from(["ldg", "ld.global"].iter().any(|known| name.starts_with(known)));
        }
        counts
    };
    inner_loops(&blocks).into_iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMD: &str = "BB0:\n\ts_load_b128 s[0:3], s[4:5], 0x0 ; f4\nBB1:\n\ts_nop 0\nBB2:\n\tbuffer_load_b128 v[0:3], v8 ; e0\n\t\
        v_dual_fmac_f32 v1, v2, v3 :: v_dual_fmac_f32 v4, v5, v6\n\tv_fma_f32 v1, v2, v3, v4\n\ts_cbranch_scc0 BB2 ; bf\nBB3:\n\t\
        v_add_f32 v0, v0, v1\n\ts_branch BB1 ; bf\nBB4:\n\ts_endpgm\n";

    #[test]
    fn only_loops_without_loops_inside_are_counted() {
        assert_eq!(amd(AMD), [Counts { instructions: 2, products: 3, loads: 1 }]);
    }

    #[test]
    fn nvidia_names_the_blocks_that_may_follow() {
        let listing = "block 0 a [] -> {\n r0 = mov 1\n} -> [1]\nblock 1 b [0, 1] -> {\n r1..5 = ldg.e.b128 [r0] // x\n \
            @p0 r6 = ffma r1 r2 r6\n p0 = isetp.lt r0 r7\n @p0 bra L1\n} -> [2, 1]\nblock 2 c [1] -> {\n exit\n} -> []\n";
        assert_eq!(nvidia(listing), [Counts { instructions: 4, products: 1, loads: 1 }]);
    }

    #[test]
    fn unrolled_loops_are_divided_by_their_turns() {
        let loops = [
            Counts { instructions: 400, products: 132, loads: 18 },
            Counts { instructions: 9, products: 200, loads: 0 },
        ];
        assert_eq!(Counts::per_weight(&loops, Inner { weights: 64, products: 64 }), Some((0.141, 3.125)));
        assert_eq!(Counts::per_weight(&loops[1..], Inner { weights: 64, products: 64 }), None);
    }
}
