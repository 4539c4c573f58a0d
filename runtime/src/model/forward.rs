//! The forward pass: embed, blocks, norm, head. Sizes, caching and devices are other files' business.
//!
//! h: (tokens, hidden_size) is the residual stream; every layer adds to it twice.

use porism_loader::{Checkpoint, LayerRole, ModelConfig, Projection as Matrix, Role};

use super::attention::{self, Attention};
use super::moe::{self, Moe};
use super::step::Step;
use crate::error::Error;
use crate::executor::Executor;
use crate::ops::{Form, Ops, Rows};
use crate::recording::View;
use crate::weights::{EmbeddingPiece, Norms, Placer, Projection, embedding_pieces};

/// All weights of a model on a device.
#[derive(Debug)]
pub struct Model {
    /// The architecture.
    pub config: ModelConfig,
    /// `embed_tokens`
    pub embedding: Vec<EmbeddingPiece>,
    /// The blocks.
    pub layers: Vec<Layer>,
    /// `norm`
    pub final_norm: View,
    /// `lm_head`, or the embedding once more where the two are tied.
    pub head: Projection,
    /// Bytes of all weight buffers, padding and scales included.
    pub bytes: u64,
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
    /// Puts all weights of a checkpoint onto a device. FP8 codes that are not numbers are refused where `check_numbers`.
    pub fn load<'c>(
        checkpoint: &'c Checkpoint,
        executor: &mut dyn Executor<'c>,
        check_numbers: bool,
        progress: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let config = checkpoint.config().clone();
        let mut placer = Placer::new(executor, checkpoint, check_numbers, progress);
        let (embedding, head);
        if config.tie_word_embeddings {
            head = placer.projection("lm_head", &[Role::LmHead])?;
            embedding = embedding_pieces(&head);
        } else {
            embedding = placer.embedding()?;
            head = placer.projection("lm_head", &[Role::LmHead])?;
        }
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let role = |part| Role::Layer { layer, part };
                let ffn = if config.is_moe(layer) {
                    Ffn::Moe(Moe::load(&mut placer, layer)?)
                } else {
                    let [gate, up, down] = Matrix::ALL.map(|matrix| role(LayerRole::Mlp(matrix)));
                    Ffn::Dense {
                        gate_up: placer.projection("gate_up", &[gate, up])?,
                        down: placer.projection("down", &[down])?,
                    }
                };
                let attention = Attention::load(&mut placer, &config, layer)?;
                Ok(Layer { norms: placer.norms(layer)?, attention, ffn })
            })
            .collect::<Result<_, Error>>()?;
        let final_norm = placer.final_norm()?;
        let bytes = placer.placed();
        Ok(Model { config, embedding, layers, final_norm, head, bytes })
    }

    /// Records the step's tokens through all layers. `after` is called with what has been recorded so far: before the
    /// first layer, and after each.
    pub fn layers(&self, ops: &mut Ops<'_>, step: &Step, after: &mut dyn FnMut(&mut Ops<'_>, Option<usize>)) {
        let c = &self.config;
        let a = &step.activations;
        ops.layer = None;
        ops.embedding(&self.embedding, c.hidden_size, step.inputs.token_ids, a.h);
        after(ops, None);
        for (index, layer) in self.layers.iter().enumerate() {
            ops.layer = Some(index as u32);
            let h = Rows::new(a.h, c.hidden_size);
            let norm = layer.norms.view(LayerRole::InputLayernorm);
            ops.rms_norm(
                "input_layernorm",
                h,
                norm,
                None,
                c.hidden_size,
                c.rms_norm_eps as f32,
                a.x,
                ops.tokens,
            );
            attention::record(ops, c, layer, step, index);
            match &layer.ffn {
                Ffn::Dense { gate_up, down } => {
                    let norm = layer.norms.view(LayerRole::PostAttentionLayernorm);
                    let eps = c.rms_norm_eps as f32;
                    ops.rms_norm(
                        "post_attention_layernorm",
                        h,
                        norm,
                        None,
                        c.hidden_size,
                        eps,
                        a.x,
                        ops.tokens,
                    );
                    let act = Rows::new(a.act, gate_up.rows);
                    let x = Rows::new(a.x, c.hidden_size);
                    ops.project("gate_up", gate_up, x, act, Form::default(), ops.tokens);
                    let form = Form { swiglu: true, accumulate: true };
                    ops.project("down", down, act, h, form, ops.tokens);
                }
                Ffn::Moe(moe) => moe::record(ops, c, &layer.norms, moe, step),
            }
            after(ops, Some(index));
        }
        ops.layer = None;
    }

    /// Records the logits of the rows of h listed from entry `first` of `output_rows` on.
    pub fn head(&self, ops: &mut Ops<'_>, step: &Step, first: u32, count: u32) {
        let c = &self.config;
        let a = &step.activations;
        let h = Rows::new(a.h, c.hidden_size);
        let rows = step.inputs.output_rows;
        let rows = rows.slice(u64::from(first) * 4, rows.bytes - u64::from(first) * 4);
        ops.rms_norm(
            "norm",
            h,
            self.final_norm,
            Some(rows),
            c.hidden_size,
            c.rms_norm_eps as f32,
            a.final_x,
            count,
        );
        let logits = Rows::new(a.logits, c.vocab_size);
        ops.project(
            "lm_head",
            &self.head,
            Rows::new(a.final_x, c.hidden_size),
            logits,
            Form::default(),
            count,
        );
    }
}
