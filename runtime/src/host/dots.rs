//! Products of checkpoint rows with activations. One order of additions for a row and a token, whichever function
//! computes it and whatever else is computed with it: within a block of 128 columns lane by lane, then the blocks in
//! order, each with its scale, then the lanes.

use porism_shaders::weights::{BLOCK, WeightBytes, WeightType};

use super::simd::{Bf16, E4m3, Element, F16, F32, Simd, Vectorised, sum_each};

/// Bytes of a block's row of the widest type.
const BLOCK_BYTES: usize = 4 * BLOCK;
/// Bytes from what is read to what is asked for, at least.
const AHEAD: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Blocks of a row that a mat-mul decodes before it goes through the tokens: with 8 rows 16 KiB of f32.
const PANEL: usize = 4;

/// A weight matrix where the checkpoint has it.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    bytes: &'a [u8],
    kind: WeightType,
    cols: usize,
    scales: &'a [f32],
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `cols` elements from byte `offset` of a window on; `scales` from the matrix's first on.
    pub fn new(
        weights: WeightBytes<'a>,
        offset: usize,
        kind: WeightType,
        [rows, cols]: [usize; 2],
        scales: &'a [f32],
    ) -> Self {
        Matrix { bytes: weights.get(offset, rows * cols * kind.bytes()), kind, cols, scales }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.cols * self.kind.bytes()
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes()..][..self.row_bytes()]
    }

    /// What the sum of a block of a row is multiplied with.
    #[inline(always)]
    fn factor<S: Simd, E: Element>(&self, row: usize, block: usize) -> f32 {
        if E::SCALED {
            self.scales[row / BLOCK * self.cols.div_ceil(BLOCK) + block] * S::E4M3_FACTOR
        } else {
            1.0
        }
    }

    /// The bytes of a block of a row; those that the row does not have come from `spare` and are 0.
    #[inline(always)]
    fn block<'s, E: Element>(&self, row: usize, block: usize, spare: &'s mut [u8; BLOCK_BYTES]) -> &'s [u8]
    where
        'a: 's,
    {
        let bytes = &self.row(row)[block * BLOCK * E::BYTES..];
        if bytes.len() >= BLOCK * E::BYTES {
            return &bytes[..BLOCK * E::BYTES];
        }
        spare[..bytes.len()].copy_from_slice(bytes);
        &spare[..BLOCK * E::BYTES]
    }
}

/// `out[i] = Σ_k W[first + i, k] · x[k]`; x is padded with zeros to whole blocks.
pub(super) struct Dots<'a> {
    /// W
    pub matrix: &'a Matrix<'a>,
    /// Its first row.
    pub first: usize,
    /// x
    pub x: &'a [f32],
    /// One value per row.
    pub out: &'a mut [f32],
}

impl Vectorised for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.matrix.kind {
            WeightType::F8E4M3 => self.of::<S, E4m3>(simd),
            WeightType::BF16 => self.of::<S, Bf16>(simd),
            WeightType::F16 => self.of::<S, F16>(simd),
            WeightType::F32 => self.of::<S, F32>(simd),
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn of<S: Simd, E: Element>(self, simd: S) {
        let mut row = self.first;
        let mut fours = self.out.chunks_exact_mut(4);
        for out in &mut fours {
            out.copy_from_slice(&rows::<S, E, 4>(simd, self.matrix, row, self.x));
            row += 4;
        }
        for out in fours.into_remainder() {
            [*out] = rows::<S, E, 1>(simd, self.matrix, row, self.x);
            row += 1;
        }
    }
}

/// R rows at once, so that additions need not wait for each other.
#[inline(always)]
fn rows<S: Simd, E: Element, const R: usize>(
    simd: S,
    matrix: &Matrix<'_>,
    row: usize,
    x: &[f32],
) -> [f32; R] {
    let mut bytes: [&[u8]; R] = [&[]; R];
    for (r, bytes) in bytes.iter_mut().enumerate() {
        *bytes = matrix.row(row + r);
    }
    let mut totals = [simd.splat(0.0); R];
    let whole = matrix.cols / BLOCK;
    let size = BLOCK * E::BYTES;
    let ahead = AHEAD.max(R * matrix.row_bytes());
    for (block, x) in x.chunks_exact(BLOCK).take(whole).enumerate() {
        let mut w: [&[u8]; R] = [&[]; R];
        for (w, bytes) in w.iter_mut().zip(bytes) {
            *w = &bytes[block * size..][..size];
            // What the next rows read; processors do not foresee several rows side by side.
            for line in 0..size / LINE {
                simd.prefetch(w.as_ptr().wrapping_add(ahead + line * LINE));
            }
        }
        add_block::<S, E, R>(simd, matrix, [row, block], w, x, &mut totals);
    }
    if !matrix.cols.is_multiple_of(BLOCK) {
        let mut spare = [[0; BLOCK_BYTES]; R];
        let mut w: [&[u8]; R] = [&[]; R];
        for ((w, spare), bytes) in w.iter_mut().zip(&mut spare).zip(bytes) {
            let bytes = &bytes[whole * size..];
            spare[..bytes.len()].copy_from_slice(bytes);
            *w = &spare[..size];
        }
        add_block::<S, E, R>(simd, matrix, [row, whole], w, &x[whole * BLOCK..][..BLOCK], &mut totals);
    }
    sum_each(simd, totals)
}

/// Adds the products of a block of R rows to their totals.
#[inline(always)]
fn add_block<S: Simd, E: Element, const R: usize>(
    simd: S,
    matrix: &Matrix<'_>,
    [row, block]: [usize; 2],
    w: [&[u8]; R],
    x: &[f32],
    totals: &mut [S::V; R],
) {
    let mut sums = [simd.splat(0.0); R];
    for chunk in 0..BLOCK / S::CHUNK {
        let x = &x[chunk * S::CHUNK..][..S::CHUNK];
        let mut values = [simd.splat(0.0); 4];
        for (value, x) in values.iter_mut().zip(x.chunks_exact(S::LANES)) {
            *value = simd.load(x);
        }
        for (sum, w) in sums.iter_mut().zip(w) {
            let w = E::decode(simd, &w[chunk * S::CHUNK * E::BYTES..][..S::CHUNK * E::BYTES]);
            for (w, x) in w.into_iter().zip(values) {
                *sum = simd.multiply_add(w, x, *sum);
            }
        }
    }
    for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
        let factor = simd.splat(matrix.factor::<S, E>(row + r, block));
        *total = simd.multiply_add(sum, factor, *total);
    }
}

/// `out[t · rows + i] = Σ_k W[first + i, k] · x[t][k]`, each weight decoded once; the x are padded with zeros to whole
/// blocks. The same bits as [`Dots`].
pub(super) struct Products<'a> {
    /// W
    pub matrix: &'a Matrix<'a>,
    /// Its first row.
    pub first: usize,
    /// How many rows.
    pub rows: usize,
    /// x of each token.
    pub x: &'a [&'a [f32]],
    /// Row after row of a token, token after token.
    pub out: &'a mut [f32],
}

impl Vectorised for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.matrix.kind {
            WeightType::F8E4M3 => self.of::<S, E4m3>(simd),
            WeightType::BF16 => self.of::<S, Bf16>(simd),
            WeightType::F16 => self.of::<S, F16>(simd),
            WeightType::F32 => self.of::<S, F32>(simd),
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    fn of<S: Simd, E: Element>(self, simd: S) {
        if self.x.len() == 1 {
            let Products { matrix, first, x, out, .. } = self;
            return Dots { matrix, first, x: x[0], out }.of::<S, E>(simd);
        }
        if S::MANY_REGISTERS { self.by::<S, E, 8>(simd) } else { self.by::<S, E, 4>(simd) }
    }

    #[inline(always)]
    fn by<S: Simd, E: Element, const R: usize>(self, simd: S) {
        let Products { matrix, first, rows, x, out } = self;
        let zero = simd.splat(0.0);
        let vectors = std::hint::black_box(BLOCK / S::LANES);
        let blocks = matrix.cols.div_ceil(BLOCK);
        let mut panel = vec![[zero; R]; PANEL * vectors];
        let mut factors = [[0.0; R]; PANEL];
        // Rows end in the same place, so what is 0 stays 0.
        let mut spare = [0; BLOCK_BYTES];
        let mut totals = vec![[zero; R]; x.len()];
        for start in (0..rows).step_by(R) {
            totals.fill([zero; R]);
            for panel_start in (0..blocks).step_by(PANEL) {
                let panel_blocks = PANEL.min(blocks - panel_start);
                // From this panel to the next one, of these rows or of the next ones.
                let next = if panel_start + PANEL < blocks {
                    PANEL * BLOCK * E::BYTES
                } else {
                    (R * matrix.row_bytes()).wrapping_sub(panel_start * BLOCK * E::BYTES)
                };
                for (b, factors) in factors[..panel_blocks].iter_mut().enumerate() {
                    let panel = &mut panel[b * vectors..][..vectors];
                    for (r, factor) in factors.iter_mut().enumerate() {
                        // Where rows end within R, the last one is computed again.
                        let row = first + (start + r).min(rows - 1);
                        *factor = matrix.factor::<S, E>(row, panel_start + b);
                        let bytes = matrix.block::<E>(row, panel_start + b, &mut spare);
                        for line in 0..BLOCK * E::BYTES / LINE {
                            simd.prefetch(bytes.as_ptr().wrapping_add(next + line * LINE));
                        }
                        for (four, bytes) in
                            panel.chunks_exact_mut(4).zip(bytes.chunks_exact(S::CHUNK * E::BYTES))
                        {
                            for (to, w) in four.iter_mut().zip(E::decode(simd, bytes)) {
                                to[r] = w;
                            }
                        }
                    }
                }
                let panel = &panel[..panel_blocks * vectors];
                let columns = panel_start * BLOCK..(panel_start + panel_blocks) * BLOCK;
                for (x, totals) in x.chunks(3).zip(totals.chunks_mut(3)) {
                    match x {
                        [a] => tile(simd, panel, vectors, &factors, [&a[columns.clone()]], totals),
                        [a, b] => {
                            let x = [&a[columns.clone()], &b[columns.clone()]];
                            tile(simd, panel, vectors, &factors, x, totals);
                        }
                        [a, b, c] => {
                            let x = [&a[columns.clone()], &b[columns.clone()], &c[columns.clone()]];
                            tile(simd, panel, vectors, &factors, x, totals);
                        }
                        _ => unreachable!("at most three"),
                    }
                }
            }
            for (totals, out) in totals.iter().zip(out.chunks_exact_mut(rows)) {
                for (four, out) in totals.chunks_exact(4).zip(out[start..].chunks_mut(4)) {
                    let sums = simd.sums([four[0], four[1], four[2], four[3]]);
                    out.copy_from_slice(&sums[..out.len()]);
                }
            }
        }
    }
}

/// Adds the products of a panel of R rows with T tokens to their totals.
///
/// `vectors` of a block is `BLOCK / LANES`, but the compiler must not know: it would unroll the loop, take the tokens one
/// after the other, and keep the panel's vectors on the stack meanwhile.
#[inline(always)]
fn tile<S: Simd, const R: usize, const T: usize>(
    simd: S,
    panel: &[[S::V; R]],
    vectors: usize,
    factors: &[[f32; R]; PANEL],
    x: [&[f32]; T],
    totals: &mut [[S::V; R]],
) {
    let length = vectors * S::LANES;
    for (b, (panel, factors)) in panel.chunks_exact(vectors).zip(factors).enumerate() {
        let mut block: [&[f32]; T] = [&[]; T];
        for (block, x) in block.iter_mut().zip(x) {
            *block = &x[b * length..][..length];
        }
        let mut sums = [[simd.splat(0.0); R]; T];
        for (v, w) in panel.iter().enumerate() {
            let mut values = [simd.splat(0.0); T];
            for (value, block) in values.iter_mut().zip(block) {
                *value = simd.load(&block[v * S::LANES..]);
            }
            for (r, w) in w.iter().enumerate() {
                for (sums, value) in sums.iter_mut().zip(values) {
                    sums[r] = simd.multiply_add(*w, value, sums[r]);
                }
            }
        }
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for ((total, sum), factor) in totals.iter_mut().zip(sums).zip(factors) {
                *total = simd.multiply_add(sum, simd.splat(*factor), *total);
            }
        }
    }
}

/// `out[t · cols + c] = Σ_n x[t][n] · W[first + n, c]`: a product with the transpose, which is read row by row all the
/// same. Within rows that share scales by n, then those runs in order.
pub(super) struct Columns<'a> {
    /// W
    pub matrix: &'a Matrix<'a>,
    /// Its first row.
    pub first: usize,
    /// How many rows.
    pub rows: usize,
    /// x of each token, one value per row.
    pub x: &'a [&'a [f32]],
    /// One value per column, token after token.
    pub out: &'a mut [f32],
}

impl Vectorised for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.matrix.kind {
            WeightType::F8E4M3 => self.of::<S, E4m3>(simd),
            WeightType::BF16 => self.of::<S, Bf16>(simd),
            WeightType::F16 => self.of::<S, F16>(simd),
            WeightType::F32 => self.of::<S, F32>(simd),
        }
    }
}

impl Columns<'_> {
    #[inline(always)]
    fn of<S: Simd, E: Element>(self, simd: S) {
        let Columns { matrix, first, rows, x, out } = self;
        let cols = matrix.cols;
        for column in (0..cols).step_by(S::CHUNK) {
            for (x, out) in x.chunks(4).zip(out.chunks_mut(4 * cols)) {
                match x {
                    [a] => columns::<S, E, 1>(simd, matrix, [first, rows, column], [a], out),
                    [a, b] => columns::<S, E, 2>(simd, matrix, [first, rows, column], [a, b], out),
                    [a, b, c] => columns::<S, E, 3>(simd, matrix, [first, rows, column], [a, b, c], out),
                    [a, b, c, d] => {
                        columns::<S, E, 4>(simd, matrix, [first, rows, column], [a, b, c, d], out);
                    }
                    _ => unreachable!("at most four"),
                }
            }
        }
    }
}

/// A chunk of columns from `column` on for T tokens.
#[inline(always)]
fn columns<S: Simd, E: Element, const T: usize>(
    simd: S,
    matrix: &Matrix<'_>,
    [first, rows, column]: [usize; 3],
    x: [&[f32]; T],
    out: &mut [f32],
) {
    let cols = matrix.cols;
    let size = S::CHUNK * E::BYTES;
    let mut totals = [[simd.splat(0.0); 4]; T];
    let mut n = 0;
    while n < rows {
        let run = (BLOCK - (first + n) % BLOCK).min(rows - n);
        let mut sums = [[simd.splat(0.0); 4]; T];
        for n in n..n + run {
            let bytes = &matrix.row(first + n)[column * E::BYTES..];
            let mut spare = [0; BLOCK_BYTES];
            let w = if bytes.len() >= size {
                E::decode(simd, &bytes[..size])
            } else {
                spare[..bytes.len()].copy_from_slice(bytes);
                E::decode(simd, &spare[..size])
            };
            for (sums, x) in sums.iter_mut().zip(x) {
                let value = simd.splat(x[n]);
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = simd.multiply_add(w, value, *sum);
                }
            }
        }
        let factor = simd.splat(matrix.factor::<S, E>(first + n, column / BLOCK));
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = simd.multiply_add(sum, factor, *total);
            }
        }
        n += run;
    }
    let count = S::CHUNK.min(cols - column);
    for (t, totals) in totals.into_iter().enumerate() {
        let mut values = [0.0; BLOCK];
        for (total, values) in totals.into_iter().zip(values.chunks_exact_mut(S::LANES)) {
            simd.store(total, values);
        }
        out[t * cols + column..][..count].copy_from_slice(&values[..count]);
    }
}
