//! Sizes of weight buffers before one is made: what [`crate::weights`] will allocate, to the byte.

use porism_loader::{Kind, LayerRole, Projection as Matrix, Role, TensorSpec, TensorTable};

use super::place::ROW_UNIT;
use super::slots::{TABLE_ENTRY_BYTES, scale_bytes};
use crate::error::Error;
use crate::recording::View;

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByKind([u64; Kind::ALL.len()]);

impl ByKind {
    /// Adds bytes to a kind.
    pub fn add(&mut self, kind: Kind, bytes: u64) {
        self.0[kind as usize] += bytes;
    }

    /// Takes bytes from a kind that has them.
    pub fn remove(&mut self, kind: Kind, bytes: u64) {
        self.0[kind as usize] -= bytes;
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: &ByKind) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Bytes of a kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Kinds that have any bytes, in the order of the forward pass.
    pub fn rows(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().map(|kind| (kind, self.of(kind))).filter(|(_, bytes)| *bytes > 0)
    }
}

/// One expert's place on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its weights, padded.
    pub bytes: u64,
    /// Its scales, in f32.
    pub scales: u64,
}

impl Slot {
    /// All bytes of an expert.
    pub fn total(&self) -> u64 {
        self.bytes + 4 * self.scales
    }
}

/// Matrices that are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matrices {
    /// Bytes, scales included.
    pub bytes: u64,
    /// Numbers in them.
    pub weights: u64,
}

/// Sizes of a model's weights on a device.
pub struct Layout<'t> {
    table: &'t dyn TensorTable,
    /// Largest binding, in bytes.
    limit: u64,
}

impl std::fmt::Debug for Layout<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Layout(bindings up to {})", self.limit)
    }
}

impl<'t> Layout<'t> {
    /// For a device that binds at most `max_binding_bytes` at once.
    pub fn new(table: &'t dyn TensorTable, max_binding_bytes: u64) -> Self {
        Self { table, limit: max_binding_bytes.min(u64::from(u32::MAX)) }
    }

    fn spec(&self, role: Role) -> Result<TensorSpec, Error> {
        self.table.spec(role).ok_or_else(|| Error::Unsupported(format!("the model has no `{role}`")))
    }

    /// Matrices sharing x. Pieces are split as when they are placed.
    fn projection(&self, roles: &[Role], into: &mut ByKind) -> Result<(), Error> {
        let first_kind = roles.first().map_or(Kind::Unused, Role::kind);
        let (mut parts, mut used, mut scales) = (0, 0u64, 0u64);
        let finish = |parts: &mut usize, used: &mut u64, scales: &mut u64, into: &mut ByKind| {
            // A piece without scales still binds a buffer of one.
            if *parts > 0 && *scales == 0 {
                into.add(first_kind, 4);
            }
            (*parts, *used, *scales) = (0, 0, 0);
        };
        for role in roles {
            let spec = self.spec(*role)?;
            let row_bytes = u64::from(spec.shape.columns()) * spec.dtype.bytes();
            let scales_per_block =
                if spec.scale.is_some() { u64::from(spec.shape.scale_shape()[1]) } else { 0 };
            let mut first_row = 0;
            while first_row < spec.shape.rows() {
                let left = spec.shape.rows() - first_row;
                let room = u32::try_from((self.limit - used.min(self.limit)) / row_bytes).unwrap_or(u32::MAX);
                let rows = if room >= left { left } else { room / ROW_UNIT * ROW_UNIT };
                if rows == 0 || parts == 4 {
                    if parts == 0 {
                        return Err(Error::Unsupported(format!(
                            "{ROW_UNIT} rows of {role} are {} bytes, more than this device binds at once ({})",
                            row_bytes * u64::from(ROW_UNIT),
                            self.limit
                        )));
                    }
                    finish(&mut parts, &mut used, &mut scales, into);
                    continue;
                }
                parts += 1;
                let bytes = (row_bytes * u64::from(rows)).next_multiple_of(16);
                let count = u64::from(rows.div_ceil(ROW_UNIT)) * scales_per_block;
                used += bytes;
                scales += count;
                into.add(role.kind(), bytes + 4 * count);
                first_row += rows;
            }
        }
        finish(&mut parts, &mut used, &mut scales, into);
        Ok(())
    }

    /// `embed_tokens`; nothing where it is the head as well.
    pub fn embedding(&self) -> Result<ByKind, Error> {
        let mut bytes = ByKind::default();
        if !self.table.config().tie_word_embeddings {
            self.projection(&[Role::Embedding], &mut bytes)?;
        }
        Ok(bytes)
    }

    /// The last norm and `lm_head`.
    pub fn head(&self) -> Result<ByKind, Error> {
        let mut bytes = ByKind::default();
        self.projection(&[Role::LmHead], &mut bytes)?;
        bytes.add(Kind::Norm, 4 * u64::from(self.table.config().hidden_size));
        Ok(bytes)
    }

    /// A layer's matrices without its experts, routed and shared: those that share x together.
    fn groups(&self, layer: u32) -> Vec<Vec<Role>> {
        use LayerRole::*;
        let config = self.table.config();
        let role = |part| Role::Layer { layer, part };
        let mut groups = if config.is_moe(layer) {
            vec![vec![role(RouterGate)]]
        } else {
            vec![vec![role(Mlp(Matrix::Gate)), role(Mlp(Matrix::Up))], vec![role(Mlp(Matrix::Down))]]
        };
        let first = if config.q_lora_rank.is_some() { QAProj } else { QProj };
        let mut input = vec![role(first), role(KvAProjWithMqa)];
        let mut queries = vec![role(QBProj)];
        if config.has_indexer(layer) {
            input.extend([role(IndexerWk), role(IndexerWeightsProj)]);
            queries.push(role(IndexerWqB));
        }
        groups.extend([vec![role(KvBProj)], input]);
        if config.q_lora_rank.is_some() {
            groups.push(queries);
        }
        groups.push(vec![role(OProj)]);
        groups
    }

    /// A layer without its experts, routed and shared.
    pub fn layer(&self, layer: u32) -> Result<ByKind, Error> {
        use LayerRole::*;
        let role = |part| Role::Layer { layer, part };
        let mut bytes = ByKind::default();
        for group in self.groups(layer) {
            self.projection(&group, &mut bytes)?;
        }
        let mut values = 0u64;
        for part in [
            InputLayernorm,
            QALayernorm,
            KvALayernorm,
            IndexerKNorm,
            IndexerKNormBias,
            PostAttentionLayernorm,
            ScoreCorrectionBias,
        ] {
            if let Some(spec) = self.table.spec(role(part)) {
                values = values.next_multiple_of(View::ALIGNMENT / 4) + spec.shape.elements();
            }
        }
        bytes.add(Kind::Norm, 4 * values.max(1));
        Ok(bytes)
    }

    /// What one token's computation reads of a layer besides its experts.
    pub fn always(&self, layer: u32) -> Result<Matrices, Error> {
        let roles: Vec<Role> = self.groups(layer).into_iter().flatten().collect();
        self.matrices(&roles)
    }

    /// What of that is read only where positions have to be selected.
    pub fn selecting(&self, layer: u32) -> Result<Matrices, Error> {
        let role = Role::Layer { layer, part: LayerRole::IndexerWqB };
        let there = self.table.config().has_indexer(layer) && self.table.spec(role).is_some();
        self.matrices(if there { std::slice::from_ref(&role) } else { &[] })
    }

    /// The shared expert of a layer, if it has one.
    pub fn shared(&self, layer: u32) -> Result<Matrices, Error> {
        let config = self.table.config();
        let there = config.is_moe(layer) && config.n_shared_experts > 0;
        let roles = Matrix::ALL.map(|projection| Role::layer(layer, LayerRole::Shared(projection)));
        self.matrices(if there { &roles } else { &[] })
    }

    /// A routed expert of a layer.
    pub fn expert(&self, layer: u32) -> Result<Matrices, Error> {
        let role = |projection| Role::layer(layer, LayerRole::Expert { expert: 0, projection });
        self.matrices(&Matrix::ALL.map(role))
    }

    /// The head's matrix.
    pub fn logits(&self) -> Result<Matrices, Error> {
        self.matrices(&[Role::LmHead])
    }

    fn matrices(&self, roles: &[Role]) -> Result<Matrices, Error> {
        let mut all = Matrices::default();
        for role in roles {
            let spec = self.spec(*role)?;
            all.bytes += spec.weight_bytes() + 4 * spec.scales();
            all.weights += spec.shape.elements();
        }
        Ok(all)
    }

    /// What an expert of a layer takes.
    pub fn slot(&self, layer: u32) -> Result<Slot, Error> {
        let mut slot = Slot { bytes: 0, scales: 0 };
        for projection in Matrix::ALL {
            let spec = self.spec(Role::layer(layer, LayerRole::Expert { expert: 0, projection }))?;
            slot.bytes += spec.weight_bytes().next_multiple_of(16);
            slot.scales += spec.scales();
        }
        Ok(slot)
    }

    /// Experts of `slot` bytes in one binding.
    pub fn slots_per_slab(&self, slot: Slot) -> u64 {
        self.limit / slot.bytes.max(1)
    }

    /// The table of a slab's experts.
    pub fn table_bytes(&self) -> u64 {
        TABLE_ENTRY_BYTES * u64::from(self.table.config().n_routed_experts)
    }

    /// So many slots of `slot` bytes, shared by all layers whose experts are streamed to the device.
    pub fn pool(&self, slot: Slot, slots: u64) -> ByKind {
        let mut bytes = ByKind::default();
        if slots > 0 {
            let slabs = slots.div_ceil(self.slots_per_slab(slot).max(1));
            let scales = scale_bytes(slots, slot.scales);
            bytes.add(Kind::RoutedExpert, slots * slot.bytes + scales + slabs * self.table_bytes());
        }
        bytes
    }

    /// So many routed experts of a layer, and the shared one on the layer's home.
    pub fn experts(&self, layer: u32, resident: u32, home: bool) -> Result<ByKind, Error> {
        let config = self.table.config();
        let mut bytes = ByKind::default();
        let shared = if home && config.n_shared_experts > 0 { &Matrix::ALL[..] } else { &[] };
        let shared: Vec<Role> =
            shared.iter().map(|projection| Role::layer(layer, LayerRole::Shared(*projection))).collect();
        let mut shared_bytes = 0;
        for role in &shared {
            shared_bytes += self.spec(*role)?.weight_bytes().next_multiple_of(16);
        }
        let slot = self.slot(layer)?;
        let routed_bytes = slot.bytes * u64::from(resident);
        let single = resident > 0 && routed_bytes + shared_bytes <= self.limit;
        if resident > 0 {
            let per_slab = if single { u64::from(resident) } else { self.slots_per_slab(slot) };
            if per_slab == 0 {
                return Err(Error::Unsupported(format!(
                    "one expert is {} bytes, more than this device binds at once ({})",
                    slot.bytes, self.limit
                )));
            }
            let tables = u64::from(resident).div_ceil(per_slab) * self.table_bytes();
            let scales = (slot.scales * u64::from(resident)).max(1) * 4;
            bytes.add(Kind::RoutedExpert, routed_bytes + scales + tables);
        }
        if single {
            for role in &shared {
                bytes.add(Kind::SharedExpert, 4 * self.spec(*role)?.scales());
            }
            bytes.add(Kind::SharedExpert, shared_bytes);
            if slot.scales == 0 && shared.iter().any(|role| self.spec(*role).is_ok_and(|s| s.scales() > 0)) {
                // The one scale that stands for none is not needed then.
                bytes.0[Kind::RoutedExpert as usize] -= 4;
            }
        } else if !shared.is_empty() {
            self.projection(&shared[..2], &mut bytes)?;
            self.projection(&shared[2..], &mut bytes)?;
        }
        Ok(bytes)
    }

    /// The whole model on one device.
    pub fn model(&self) -> Result<ByKind, Error> {
        let config = self.table.config();
        let mut bytes = self.embedding()?;
        for layer in 0..config.num_hidden_layers {
            bytes.extend(&self.layer(layer)?);
            if config.is_moe(layer) {
                bytes.extend(&self.experts(layer, config.n_routed_experts, true)?);
            }
        }
        bytes.extend(&self.head()?);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Executor, Staging, Tuning};
    use crate::host::HostExecutor;
    use crate::model::Model;
    use crate::recording::{BufferId, Recording};
    use crate::weights::Share;
    use porism_loader::{Checkpoint, Options};
    use std::path::Path;

    /// The host with the bindings of a lesser device, counting what is allocated for weights.
    struct Limited<'c> {
        inner: HostExecutor<'c>,
        limit: u64,
        allocated: u64,
    }

    impl<'c> Executor<'c> for Limited<'c> {
        fn tuning(&self) -> Tuning {
            Tuning { max_binding_bytes: self.limit, ..self.inner.tuning() }
        }

        fn allocate(&mut self, label: &str, bytes: u64) -> Result<BufferId, Error> {
            self.allocated += bytes;
            self.inner.allocate(label, bytes)
        }

        fn allocate_weights(
            &mut self,
            label: &str,
            bytes: u64,
            pieces: Vec<(u64, &'c [u8])>,
        ) -> Result<BufferId, Error> {
            assert!(bytes <= self.limit, "{label}: {bytes} bytes, bindings hold {}", self.limit);
            self.allocated += bytes;
            self.inner.allocate_weights(label, bytes, pieces)
        }

        fn maps_weights(&self) -> bool {
            self.inner.maps_weights()
        }

        fn write(&mut self, to: View, bytes: &[u8]) -> Result<(), Error> {
            self.inner.write(to, bytes)
        }

        fn submit(&mut self, recording: &Recording) -> Result<(), Error> {
            self.inner.submit(recording)
        }

        fn complete(&mut self, recording: &Recording) -> Result<&[u8], Error> {
            self.inner.complete(recording)
        }

        fn last_pass_seconds(&self) -> Option<f64> {
            None
        }

        fn set_staging(&mut self, staging: &Staging) -> Result<(), Error> {
            self.inner.set_staging(staging)
        }

        fn staging_bytes(&self) -> u64 {
            self.inner.staging_bytes()
        }

        fn submits(&self) -> u64 {
            0
        }
    }

    #[test]
    fn the_layout_is_what_is_allocated() {
        for name in ["v32-tiny-fp8", "v3-tiny-bf16", "v2-lite-tiny-bf16"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
            let checkpoint = Checkpoint::open(&folder, Options::default()).unwrap();
            let mut seen = Vec::new();
            for limit in [u64::MAX, 1 << 20, 400_000, 150_000] {
                let mut executor = Limited { inner: HostExecutor::new(), limit, allocated: 0 };
                let share = Share::all(checkpoint.config());
                let (model, _) = Model::load(&checkpoint, &mut executor, &share, false).unwrap();
                let planned = Layout::new(&checkpoint, limit).model().unwrap();
                assert_eq!(planned.total(), model.bytes, "{name}, bindings of {limit}");
                assert_eq!(planned.total(), executor.allocated, "{name}, bindings of {limit}");
                seen.push(planned.total());
            }
            seen.dedup();
            assert!(seen.len() > 1, "{name}: no limit changes the layout, so the test shows little");
        }
    }
}
