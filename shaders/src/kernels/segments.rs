//! Up to four weights that share x in one dispatch of the mat-vec or the mat-mul: the packed form of `Params`.

/// One weight of a dispatch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Byte offset in the bound window, a multiple of 16 (in EXPERTS mode: within a slot).
    pub offset: u32,
    /// Index of its first scale.
    pub scale_offset: u32,
    /// Type code.
    pub kind: u32,
    /// Rows.
    pub rows: u32,
    /// Column of y where its rows begin.
    pub column: u32,
}

/// Where an expert lies in a slab: byte offset / 16 of its slot, and the index of its first scale.
pub type SlotEntry = [u32; 2];

/// The entry of an expert that is not in the slab.
pub const ABSENT: SlotEntry = [u32::MAX, 0];

/// The fields `segment0` to `columns` of `Params`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segments {
    /// First workgroup, byte offset, first scale, type code of each.
    pub packed: [[u32; 4]; 4],
    /// Rows of each; 0 where there is none.
    pub rows: [u32; 4],
    /// Columns of y.
    pub columns: [u32; 4],
}

impl Segments {
    /// Packs `segments`, each starting at the next workgroup of `rows_per_group` rows; returns the workgroup count too.
    /// With `shared_from`, the segments from there on count from workgroup 0 again: they are the shared expert's.
    pub fn pack(segments: &[Segment], rows_per_group: u32, shared_from: Option<usize>) -> (Self, u32) {
        let mut packed = Segments::default();
        let (mut first, mut most) = (0, 0);
        for (index, segment) in segments.iter().enumerate() {
            if shared_from == Some(index) {
                first = 0;
            }
            packed.packed[index] = [first, segment.offset, segment.scale_offset, segment.kind];
            packed.rows[index] = segment.rows;
            packed.columns[index] = segment.column;
            first += segment.rows.div_ceil(rows_per_group);
            most = most.max(first);
        }
        (packed, most)
    }

    /// Each segment's (packed, rows, column).
    pub fn unpack(&self) -> [([u32; 4], u32, u32); 4] {
        std::array::from_fn(|i| (self.packed[i], self.rows[i], self.columns[i]))
    }
}
