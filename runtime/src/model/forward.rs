//! The forward pass: embed, blocks, norm, head. Sizes, caching and places are other files' business.
//!
//! h: (tokens, hidden_size) is the residual stream; every layer adds to it twice. Each layer has a home, the device that has
//! its attention and its caches; its experts may be anywhere.

use std::ops::Range;

use porism_loader::{Checkpoint, LayerRole, ModelConfig, Projection as Matrix, Role};

use super::attention::{self, Attention};
use super::moe::{self, Moe};
use super::step::Step;
use crate::error::Error;
use crate::executor::Executor;
use crate::loading::Fill;
use crate::ops::{Form, Ops, Rows};
use crate::recording::View;
use crate::rig::Rig;
use crate::weights::{EmbeddingPiece, Experts, Norms, Placer, Projection, embedding_pieces};

/// What a device holds of a model.
#[derive(Debug)]
pub struct Model {
    /// The architecture.
    pub config: ModelConfig,
    /// The layers it is home to.
    pub range: Range<u32>,
    /// `embed_tokens`; nothing where it is elsewhere.
    pub embedding: Vec<EmbeddingPiece>,
    /// The blocks of `range`.
    pub layers: Vec<Layer>,
    /// The end of the forward pass, if it is here.
    pub head: Option<Head>,
    /// Routed experts of other homes' layers that stay here, by layer.
    pub guests: Vec<Option<Experts>>,
    /// Bytes of all weight buffers, padding and scales included.
    pub bytes: u64,
}

/// From h to logits.
#[derive(Debug)]
pub struct Head {
    /// `norm`
    pub norm: View,
    /// `lm_head`, or the embedding once more where the two are tied.
    pub projection: Projection,
}

/// Which part of a model a device is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The layers it is home to.
    pub range: Range<u32>,
    /// Whether it looks tokens up.
    pub embedding: bool,
    /// Whether it computes the logits.
    pub head: bool,
    /// Experts that stay there, by layer, ascending.
    pub residents: Vec<Vec<u32>>,
}

impl Share {
    /// All of a model.
    pub fn all(config: &ModelConfig) -> Self {
        let experts =
            |layer| if config.is_moe(layer) { (0..config.n_routed_experts).collect() } else { vec![] };
        Share {
            range: 0..config.num_hidden_layers,
            embedding: true,
            head: true,
            residents: (0..config.num_hidden_layers).map(experts).collect(),
        }
    }

    /// Whether it takes part in the forward pass beyond computing experts.
    pub fn is_home(&self) -> bool {
        self.embedding || self.head || !self.range.is_empty()
    }
}

/// One block.
#[derive(Debug)]
pub struct Layer {
    /// Its small vectors.
    pub norms: Norms,
    /// Attention over the latent cache.
    pub attention: Attention,
    /// What follows it.
    pub ffn: Ffn,
}

/// The second half of a block.
#[derive(Debug)]
pub enum Ffn {
    /// A dense SwiGLU.
    Dense {
        /// gate_proj, up_proj
        gate_up: Projection,
        /// down_proj
        down: Projection,
    },
    /// Experts.
    Moe(Moe),
}

impl Model {
    /// Makes room for a share of a checkpoint's weights on a device and says what has to be brought there. FP8 codes that
    /// are not numbers are refused where `check_numbers`.
    pub fn load<'c>(
        checkpoint: &'c Checkpoint,
        executor: &mut dyn Executor<'c>,
        share: &Share,
        check_numbers: bool,
    ) -> Result<(Self, Vec<Fill>), Error> {
        let config = checkpoint.config().clone();
        let mut placer = Placer::new(executor, checkpoint, check_numbers);
        let (mut embedding, mut projection) = (vec![], None);
        if share.head || (share.embedding && config.tie_word_embeddings) {
            projection = Some(placer.projection("lm_head", &[Role::LmHead])?);
        }
        if share.embedding {
            embedding = match &projection {
                Some(head) if config.tie_word_embeddings => embedding_pieces(head),
                _ => placer.embedding()?,
            };
        }
        let mut layers = Vec::new();
        let mut guests = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let residents = &share.residents[layer as usize];
            let at_home = share.range.contains(&layer);
            if at_home {
                layers.push(Layer::load(&mut placer, &config, layer, residents)?);
            }
            let guest = !at_home && !residents.is_empty();
            guests.push(if guest { Some(placer.experts(layer, residents, false)?) } else { None });
        }
        let mut head = None;
        if let Some(projection) = projection.filter(|_| share.head) {
            head = Some(Head { norm: placer.final_norm()?, projection });
        }
        let bytes = placer.placed();
        let range = share.range.clone();
        Ok((Model { config, range, embedding, layers, head, guests, bytes }, placer.into_fills()))
    }

    /// A layer that the device is home to.
    pub fn layer(&self, layer: u32) -> &Layer {
        &self.layers[(layer - self.range.start) as usize]
    }

    /// Records the logits of the rows of h listed from entry `first` of `output_rows` on.
    pub fn head(&self, ops: &mut Ops<'_>, step: &Step, first: u32, count: u32) {
        let c = &self.config;
        let a = &step.activations;
        let h = Rows::new(a.h, c.hidden_size);
        let rows = step.inputs.output_rows;
        let rows = rows.slice(u64::from(first) * 4, rows.bytes - u64::from(first) * 4);
        let head = self.head.as_ref().expect("recorded where the head is");
        ops.rms_norm(
            "norm",
            h,
            head.norm,
            Some(rows),
            c.hidden_size,
            c.rms_norm_eps as f32,
            a.final_x,
            count,
        );
        let logits = Rows::new(a.logits, c.vocab_size);
        ops.project(
            "lm_head",
            &head.projection,
            Rows::new(a.final_x, c.hidden_size),
            logits,
            Form::default(),
            count,
        );
    }
}

impl Layer {
    fn load(
        placer: &mut Placer<'_, '_>,
        config: &ModelConfig,
        layer: u32,
        residents: &[u32],
    ) -> Result<Self, Error> {
        let role = |part| Role::Layer { layer, part };
        let ffn = if config.is_moe(layer) {
            Ffn::Moe(Moe::load(placer, layer, residents)?)
        } else {
            let [gate, up, down] = Matrix::ALL.map(|matrix| role(LayerRole::Mlp(matrix)));
            Ffn::Dense {
                gate_up: placer.projection("gate_up", &[gate, up])?,
                down: placer.projection("down", &[down])?,
            }
        };
        let attention = Attention::load(placer, config, layer)?;
        Ok(Layer { norms: placer.norms(layer)?, attention, ffn })
    }

    /// Records what every layer does on its home: attention, then a dense feed-forward or the choice of experts.
    fn record(&self, ops: &mut Ops<'_>, c: &ModelConfig, step: &Step, first_layer: u32, layer: u32) {
        let a = &step.activations;
        let (hidden, eps) = (c.hidden_size, c.rms_norm_eps as f32);
        let h = Rows::new(a.h, hidden);
        let norm = self.norms.view(LayerRole::InputLayernorm);
        ops.rms_norm("input_layernorm", h, norm, None, hidden, eps, a.x, ops.tokens);
        attention::record(ops, c, self, step, (layer - first_layer) as usize);
        match &self.ffn {
            Ffn::Dense { gate_up, down } => {
                let norm = self.norms.view(LayerRole::PostAttentionLayernorm);
                ops.rms_norm("post_attention_layernorm", h, norm, None, hidden, eps, a.x, ops.tokens);
                let act = Rows::new(a.act, gate_up.rows);
                let x = Rows::new(a.x, hidden);
                ops.project("gate_up", gate_up, x, act, Form::default(), ops.tokens);
                let form = Form { swiglu: true, accumulate: true };
                ops.project("down", down, act, h, form, ops.tokens);
            }
            Ffn::Moe(moe) => moe::route(ops, c, &self.norms, moe, step),
        }
    }
}

impl Layer {
    /// The experts that stay on the layer's home; none for a layer without.
    pub fn experts(&self) -> Option<&Experts> {
        match &self.ffn {
            Ffn::Dense { .. } => None,
            Ffn::Moe(moe) => Some(&moe.experts),
        }
    }
}

/// Takes the step's tokens through all layers, to the device that has the head. `after` is called with what has been
/// recorded so far: before the first layer, and after each. Nothing runs before it must: with one device that holds all,
/// this only records.
///
/// # Errors
/// A device that fails.
pub fn layers(
    rig: &mut Rig<'_>,
    tokens: u32,
    after: &mut dyn FnMut(&mut Ops<'_>, &Step, Option<u32>),
) -> Result<(), Error> {
    let mut home = rig.embedding_home();
    let (mut ops, model, step) = rig.recorder(home, tokens, None);
    ops.embedding(&model.embedding, model.config.hidden_size, step.inputs.token_ids, step.activations.h);
    after(&mut ops, step, None);
    for layer in 0..rig.num_layers() {
        // h follows the layers.
        rig.carry(home, rig.home(layer), layer, tokens)?;
        home = rig.home(layer);
        let reads_ahead = rig.reads_ahead(home);
        let (mut ops, model, step) = rig.recorder(home, tokens, Some(layer));
        let block = model.layer(layer);
        block.record(&mut ops, &model.config, step, model.range.start, layer);
        match block.experts().map(|experts| experts.all && !reads_ahead) {
            None => {}
            Some(true) => {
                let arriving = rig.is_arriving(home, layer);
                if arriving {
                    rig.wait_for_picks(home, layer, tokens)?;
                }
                let (mut ops, model, step) = rig.recorder(home, tokens, Some(layer));
                if let Some(experts) = model.layer(layer).experts() {
                    moe::all_experts(&mut ops, &model.config, experts, step);
                }
                if !arriving {
                    rig.count_picks(home, layer, tokens);
                }
            }
            Some(false) => {
                // The host has to see who was picked: some are elsewhere, have to be brought, or are on disk.
                let picks = rig.read_picks(home, layer, tokens)?;
                rig.scattered_experts(home, layer, &picks)?;
            }
        }
        let (mut ops, _, step) = rig.recorder(home, tokens, Some(layer));
        after(&mut ops, step, Some(layer));
    }
    rig.carry(home, rig.head_home(), rig.num_layers(), tokens)
}
