//! Checkpoint tensors on a device: which go into one binding, where in it they lie, and which scales they have.
//!
//! FP8 and BF16 bytes stay as they are in the checkpoint. Block scales, 1/4096 of the weights, are widened exactly to f32.

use porism_loader::{Checkpoint, Dtype, LayerRole, ModelConfig, Projection as Matrix, Role, Tensor};
use porism_shaders::kernels::segments::{ABSENT, Segment, SlotEntry};
use porism_shaders::weights::{BLOCK, WeightType};

use super::load::Fill;
use super::pieces::{EmbeddingPiece, Experts, Norms, Piece, Projection, Slab, SlotLayout, embedding_pieces};
use crate::device::Executor;
use crate::error::Error;
use crate::recording::View;

/// Rows in one piece of a split matrix are a multiple of this, so that block scales stay whole.
pub(crate) const ROW_UNIT: u32 = BLOCK as u32;

/// Puts a checkpoint's tensors onto a device.
pub struct Placer<'e, 'c> {
    executor: &'e mut dyn Executor<'c>,
    checkpoint: &'c Checkpoint,
    check_numbers: bool,
    /// Bytes of buffers made so far.
    placed: u64,
    /// What has to be brought to the device.
    fills: Vec<Fill>,
}

/// Rows of a tensor that go into a piece.
#[derive(Clone, Copy)]
struct Part<'c> {
    tensor: Tensor<'c>,
    first_row: u32,
    rows: u32,
    /// Column of y of the first row.
    column: u32,
}

impl<'e, 'c> Placer<'e, 'c> {
    /// Places onto `executor`. With `check_numbers` FP8 tensors with codes that are not numbers are refused where they
    /// are used from the map; those that are brought are looked through on their way.
    pub fn new(executor: &'e mut dyn Executor<'c>, checkpoint: &'c Checkpoint, check_numbers: bool) -> Self {
        Placer { executor, checkpoint, check_numbers, placed: 0, fills: vec![] }
    }

    /// What has to be brought to the device.
    pub fn into_fills(self) -> Vec<Fill> {
        self.fills
    }

    /// A buffer for pieces of tensors: each with its place in the buffer and its bytes of the tensor.
    fn weights(
        &mut self,
        label: &str,
        bytes: u64,
        pieces: &[(u64, Tensor<'c>, std::ops::Range<u64>)],
    ) -> Result<View, Error> {
        let slice = |(at, tensor, range): &(u64, Tensor<'c>, std::ops::Range<u64>)| {
            (*at, &tensor.bytes[range.start as usize..range.end as usize])
        };
        let slices = pieces.iter().map(slice).collect();
        let buffer = self.executor.allocate_weights(label, bytes, slices)?;
        self.placed += bytes;
        let all = View { buffer, offset: 0, bytes };
        if !self.executor.maps_weights() {
            for (at, tensor, range) in pieces {
                let whole = self.checkpoint.location(tensor.role).expect("a tensor is somewhere");
                let length = (range.end - range.start).next_multiple_of(4);
                self.fills.push(Fill { to: all.slice(*at, length), from: whole.part(range.clone()) });
            }
        }
        Ok(all)
    }

    /// Bytes of all buffers made so far, padding and scales included.
    pub fn placed(&self) -> u64 {
        self.placed
    }

    fn config(&self) -> &'c ModelConfig {
        self.checkpoint.config()
    }

    fn tensor(&self, role: Role) -> Result<Tensor<'c>, Error> {
        let tensor =
            self.checkpoint.tensor(role).expect("required roles are checked when the checkpoint is opened");
        self.check(&tensor)?;
        Ok(tensor)
    }

    fn check(&self, tensor: &Tensor<'c>) -> Result<(), Error> {
        if self.check_numbers && self.executor.maps_weights() {
            self.checkpoint.check_numbers(tensor)?;
        } else if self.check_numbers {
            self.checkpoint.check_scales(tensor)?;
        }
        Ok(())
    }

    fn small_buffer(&mut self, label: &str, values: &[f32]) -> Result<View, Error> {
        let values = if values.is_empty() { &[1.0][..] } else { values };
        let bytes = size_of_val(values) as u64;
        let view = View { buffer: self.executor.allocate(label, bytes)?, offset: 0, bytes };
        self.executor.write(view, bytemuck::cast_slice(values))?;
        self.placed += bytes;
        Ok(view)
    }

    /// One piece from parts that fit a binding.
    fn piece(&mut self, label: &str, parts: &[Part<'c>]) -> Result<Piece, Error> {
        let mut pieces = Vec::new();
        let mut segments = Vec::new();
        let mut scales: Vec<f32> = Vec::new();
        let mut at = 0u64;
        for part in parts {
            segments.push(Segment {
                offset: at as u32,
                scale_offset: scales.len() as u32,
                kind: weight_type(part.tensor.dtype) as u32,
                rows: part.rows,
                column: part.column,
            });
            let row_bytes = u64::from(part.tensor.shape.columns()) * part.tensor.dtype.bytes();
            let first = u64::from(part.first_row) * row_bytes;
            let length = u64::from(part.rows) * row_bytes;
            pieces.push((at, part.tensor, first..first + length));
            at += length.next_multiple_of(16);
            scales.extend(scales_of(part.tensor, part.first_row, part.rows));
        }
        let weights = self.weights(label, at, &pieces)?;
        let scales = self.small_buffer(&format!("{label} scales"), &scales)?;
        Ok(Piece { weights, scales, segments })
    }

    /// Matrices sharing x, split where a binding or four segments do not suffice.
    pub fn projection(&mut self, label: &str, roles: &[Role]) -> Result<Projection, Error> {
        let limit = self.executor.tuning().max_binding_bytes.min(u64::from(u32::MAX));
        let mut groups: Vec<Vec<Part<'c>>> = vec![vec![]];
        let (mut column, mut used, mut cols) = (0, 0u64, 0);
        for role in roles {
            let tensor = self.tensor(*role)?;
            cols = tensor.shape.columns();
            let row_bytes = u64::from(cols) * tensor.dtype.bytes();
            let mut first_row = 0;
            while first_row < tensor.shape.rows() {
                let left = tensor.shape.rows() - first_row;
                let room = u32::try_from((limit - used.min(limit)) / row_bytes).unwrap_or(u32::MAX);
                let rows = if room >= left { left } else { room / ROW_UNIT * ROW_UNIT };
                let group = groups.last_mut().expect("never empty");
                if rows == 0 || group.len() == 4 {
                    if group.is_empty() {
                        return Err(Error::Unsupported(format!(
                            "{ROW_UNIT} rows of {role} are {} bytes, more than this device binds at once ({limit})",
                            row_bytes * u64::from(ROW_UNIT)
                        )));
                    }
                    groups.push(vec![]);
                    used = 0;
                    continue;
                }
                group.push(Part { tensor, first_row, rows, column });
                used += (row_bytes * u64::from(rows)).next_multiple_of(16);
                first_row += rows;
                column += rows;
            }
        }
        let pieces = groups.iter().map(|group| self.piece(label, group)).collect::<Result<_, _>>()?;
        Ok(Projection { pieces, cols, rows: column })
    }

    /// The embedding, split by rows where it exceeds a binding.
    pub fn embedding(&mut self) -> Result<Vec<EmbeddingPiece>, Error> {
        let projection = self.projection("embed_tokens", &[Role::Embedding])?;
        Ok(embedding_pieces(&projection))
    }

    /// The small vectors of a layer that the model has.
    pub fn norms(&mut self, layer: u32) -> Result<Norms, Error> {
        use LayerRole::*;
        let roles = [
            InputLayernorm,
            QALayernorm,
            KvALayernorm,
            IndexerKNorm,
            IndexerKNormBias,
            PostAttentionLayernorm,
            ScoreCorrectionBias,
        ];
        let mut values: Vec<f32> = Vec::new();
        let mut places = Vec::new();
        for part in roles {
            if let Some(tensor) = self.checkpoint.tensor(Role::Layer { layer, part }) {
                values.resize(values.len().next_multiple_of(View::ALIGNMENT as usize / 4), 0.0);
                let vector = tensor.to_f32();
                places.push((part, values.len() as u32, vector.len() as u32));
                values.extend(vector);
            }
        }
        Ok(Norms { all: self.small_buffer("norms", &values)?, places })
    }

    /// The norm before the head.
    pub fn final_norm(&mut self) -> Result<View, Error> {
        let tensor = self.tensor(Role::FinalNorm)?;
        self.small_buffer("norm", &tensor.to_f32())
    }

    /// Experts of a MoE layer that stay on this device, given in ascending order; with the shared one on the layer's home.
    pub fn experts(&mut self, layer: u32, resident: &[u32], home: bool) -> Result<Experts, Error> {
        let config = self.config();
        let slot = slot_layout(self.checkpoint, layer);
        let limit = self.executor.tuning().max_binding_bytes.min(u64::from(u32::MAX));
        let shared_roles: Vec<Role> = if home && config.n_shared_experts > 0 {
            Matrix::ALL.iter().map(|p| Role::layer(layer, LayerRole::Shared(*p))).collect()
        } else {
            vec![]
        };
        let mut shared = Vec::new();
        for role in &shared_roles {
            shared.push(self.tensor(*role)?);
        }
        let shared_bytes: u64 = shared.iter().map(|t| (t.bytes.len() as u64).next_multiple_of(16)).sum();
        let routed_bytes = slot.bytes * resident.len() as u64;
        let single = !resident.is_empty() && routed_bytes + shared_bytes <= limit;
        let slots_per_slab = if single { resident.len() } else { (limit / slot.bytes.max(1)) as usize };
        if slots_per_slab == 0 {
            return Err(Error::Unsupported(format!(
                "one expert is {} bytes, more than this device binds at once ({limit})",
                slot.bytes
            )));
        }

        let mut scales: Vec<f32> = Vec::new();
        let mut slabs = Vec::new();
        let mut shared_segments = Vec::new();
        for here in resident.chunks(slots_per_slab) {
            let mut pieces = Vec::new();
            let mut table: Vec<SlotEntry> = vec![ABSENT; config.n_routed_experts as usize];
            let mut bytes = 0;
            for expert in here {
                table[*expert as usize] = [(bytes / 16) as u32, scales.len() as u32];
                for (offset, tensor) in expert_tensors(self.checkpoint, layer, *expert, &slot)? {
                    self.check(&tensor)?;
                    pieces.push((bytes + offset, tensor, 0..tensor.bytes.len() as u64));
                    scales.extend(scales_of(tensor, 0, tensor.shape.rows()));
                }
                bytes += slot.bytes;
            }
            if single {
                for tensor in &shared {
                    shared_segments.push(Segment {
                        offset: bytes as u32,
                        scale_offset: scales.len() as u32,
                        kind: weight_type(tensor.dtype) as u32,
                        rows: tensor.shape.rows(),
                        column: 0,
                    });
                    pieces.push((bytes, *tensor, 0..tensor.bytes.len() as u64));
                    bytes += (tensor.bytes.len() as u64).next_multiple_of(16);
                    scales.extend(scales_of(*tensor, 0, tensor.shape.rows()));
                }
            }
            let weights = self.weights("experts", bytes, &pieces)?;
            let table_bytes = size_of_val(&table[..]) as u64;
            let slots_view =
                View { buffer: self.executor.allocate("slots", table_bytes)?, offset: 0, bytes: table_bytes };
            self.executor.write(slots_view, bytemuck::cast_slice(&table))?;
            self.placed += table_bytes;
            slabs.push((weights, slots_view));
        }
        let mut of_slabs = Vec::new();
        if !slabs.is_empty() {
            let scales = self.small_buffer("experts scales", &scales)?;
            of_slabs.extend(slabs.into_iter().map(|(weights, slots)| Slab { weights, scales, slots }));
        }

        let (mut shared_gate_up, mut shared_down) = (None, None);
        if !shared.is_empty() {
            let width = config.shared_intermediate_size();
            if single {
                shared_segments[1].column = width;
                let Slab { weights, scales, .. } = of_slabs[0];
                let piece = |segments: &[Segment]| Piece { weights, scales, segments: segments.to_vec() };
                shared_gate_up = Some(Projection {
                    pieces: vec![piece(&shared_segments[..2])],
                    cols: config.hidden_size,
                    rows: 2 * width,
                });
                shared_down = Some(Projection {
                    pieces: vec![piece(&shared_segments[2..])],
                    cols: width,
                    rows: config.hidden_size,
                });
            } else {
                shared_gate_up = Some(self.projection("shared gate_up", &shared_roles[..2])?);
                shared_down = Some(self.projection("shared down", &shared_roles[2..])?);
            }
        }
        Ok(Experts {
            shared_in_slab: single && !shared.is_empty(),
            slabs: of_slabs,
            slot,
            all: resident.len() == config.n_routed_experts as usize,
            shared_gate_up,
            shared_down,
        })
    }
}

/// The matrices of a routed expert, in the order in which they lie in its slot.
pub fn expert_roles(layer: u32, expert: u32) -> [Role; 3] {
    Matrix::ALL.map(|projection| Role::layer(layer, LayerRole::Expert { expert, projection }))
}

/// How the experts of a layer lie in their slots, taken from expert 0; the others must be alike.
pub fn slot_layout(checkpoint: &Checkpoint, layer: u32) -> SlotLayout {
    let (mut bytes, mut scales) = (0u64, 0u32);
    let [gate, mut up, down] = expert_roles(layer, 0).map(|role| {
        let tensor =
            checkpoint.tensor(role).expect("required roles are checked when the checkpoint is opened");
        let segment = Segment {
            offset: bytes as u32,
            scale_offset: scales,
            kind: weight_type(tensor.dtype) as u32,
            rows: tensor.shape.rows(),
            column: 0,
        };
        bytes += (tensor.bytes.len() as u64).next_multiple_of(16);
        scales += tensor.scale.map_or(0, |scale| scale.shape[0] * scale.shape[1]);
        segment
    });
    up.column = checkpoint.config().moe_intermediate_size;
    SlotLayout { gate_up: [gate, up], down, bytes, scales }
}

/// The matrices of an expert, each with its first byte in a slot.
///
/// # Errors
/// An expert that is stored in another way than `slot` says.
pub fn expert_tensors<'c>(
    checkpoint: &'c Checkpoint,
    layer: u32,
    expert: u32,
    slot: &SlotLayout,
) -> Result<[(u64, Tensor<'c>); 3], Error> {
    let segments = [slot.gate_up[0], slot.gate_up[1], slot.down];
    let parts = expert_roles(layer, expert).map(|role| {
        checkpoint.tensor(role).expect("required roles are checked when the checkpoint is opened")
    });
    for (segment, tensor) in segments.iter().zip(&parts) {
        if weight_type(tensor.dtype) as u32 != segment.kind {
            return Err(Error::Unsupported(format!(
                "the experts of layer {layer} differ in type: {} is {}",
                tensor.name(),
                tensor.dtype.name()
            )));
        }
    }
    let mut offsets = segments.iter().map(|segment| u64::from(segment.offset));
    Ok(parts.map(|tensor| (offsets.next().expect("three segments"), tensor)))
}

pub(crate) fn weight_type(dtype: Dtype) -> WeightType {
    match dtype {
        Dtype::F32 => WeightType::F32,
        Dtype::Bf16 => WeightType::BF16,
        Dtype::F16 => WeightType::F16,
        Dtype::F8E4m3 => WeightType::F8E4M3,
    }
}

/// Scales of whole rows of blocks, widened to f32.
pub(crate) fn scales_of(tensor: Tensor<'_>, first_row: u32, rows: u32) -> Vec<f32> {
    let Some(scale) = tensor.scale else { return vec![] };
    let per_row = scale.shape[1] as usize;
    let first = (first_row / ROW_UNIT) as usize * per_row;
    let count = rows.div_ceil(ROW_UNIT) as usize * per_row;
    scale.to_f32()[first..first + count].to_vec()
}
