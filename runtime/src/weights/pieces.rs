//! Where weights lie on a device: which matrices one dispatch reads, and where in the binding each begins.

use porism_loader::LayerRole;
use porism_shaders::kernels::segments::Segment;

use crate::recording::View;

/// Matrices that are multiplied with the same x: their rows one after the other are the columns of y.
#[derive(Clone, Debug)]
pub struct Projection {
    /// One dispatch each; more than one where the matrices exceed a binding or number more than four.
    pub pieces: Vec<Piece>,
    /// Length of x.
    pub cols: u32,
    /// Rows of all matrices together.
    pub rows: u32,
}

impl Projection {
    /// The first matrices only, which have `rows` rows together.
    pub fn first_rows(&self, rows: u32) -> Projection {
        let pieces = self.pieces.iter().map(|piece| Piece {
            segments: piece.segments.iter().copied().filter(|segment| segment.column < rows).collect(),
            ..*piece
        });
        Projection { pieces: pieces.filter(|piece| !piece.segments.is_empty()).collect(), rows, ..*self }
    }
}

/// Up to four (parts of) matrices in one binding.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Their bytes.
    pub weights: View,
    /// Their scales.
    pub scales: View,
    /// Where each lies, and its first column in y.
    pub segments: Vec<Segment>,
}

/// Rows of the embedding in one binding.
#[derive(Clone, Debug)]
pub struct EmbeddingPiece {
    /// First token id.
    pub first_row: u32,
    /// The rows, one segment.
    pub piece: Piece,
}

/// Small vectors of a layer in one f32 buffer; each starts at a bindable offset.
#[derive(Clone, Debug)]
pub struct Norms {
    /// The buffer.
    pub all: View,
    pub(super) places: Vec<(LayerRole, u32, u32)>,
}

impl Norms {
    /// Index of the first value of a vector, if the layer has it.
    pub fn find(&self, role: LayerRole) -> Option<u32> {
        self.places.iter().find(|(r, ..)| *r == role).map(|(_, first, _)| *first)
    }

    /// Index of the first value of a vector that every such layer has.
    pub fn offset(&self, role: LayerRole) -> u32 {
        self.find(role).expect("required roles are checked when the checkpoint is opened")
    }

    /// A vector by itself.
    pub fn view(&self, role: LayerRole) -> View {
        let (_, first, len) = self.places.iter().find(|(r, ..)| *r == role).expect("required role");
        self.all.slice(u64::from(*first) * 4, u64::from(*len) * 4)
    }
}

/// How one expert of a layer lies in its slot.
#[derive(Clone, Copy, Debug)]
pub struct SlotLayout {
    /// Gate and up.
    pub gate_up: [Segment; 2],
    /// Down.
    pub down: Segment,
    /// Bytes of a slot.
    pub bytes: u64,
    /// Scales of an expert.
    pub scales: u32,
}

/// Routed experts of a layer that stay on a device, and the shared one where it fits beside them.
#[derive(Clone, Debug)]
pub struct Experts {
    /// One binding each; a single one where they fit, none where no expert stays here.
    pub slabs: Vec<Slab>,
    /// How each lies in its slot.
    pub slot: SlotLayout,
    /// Whether all routed experts of the layer are here.
    pub all: bool,
    /// The shared expert's gate and up, if there is one.
    pub shared_gate_up: Option<Projection>,
    /// The shared expert's down.
    pub shared_down: Option<Projection>,
    /// Whether the shared expert lies in the only slab, so that decode needs no dispatch of its own for it.
    pub shared_in_slab: bool,
}

/// A storage buffer of equal slots, one expert each.
#[derive(Clone, Copy, Debug)]
pub struct Slab {
    /// The slots.
    pub weights: View,
    /// Scales of all experts of the slabs.
    pub scales: View,
    /// A [`SlotEntry`](porism_shaders::kernels::segments::SlotEntry) per expert of the layer.
    pub slots: View,
}

/// The pieces of a projection as pieces of an embedding, for models whose head is the embedding too.
pub fn embedding_pieces(projection: &Projection) -> Vec<EmbeddingPiece> {
    projection
        .pieces
        .iter()
        .flat_map(|piece| {
            piece.segments.iter().map(|segment| EmbeddingPiece {
                first_row: segment.column,
                piece: Piece { segments: vec![*segment], ..piece.clone() },
            })
        })
        .collect()
}
