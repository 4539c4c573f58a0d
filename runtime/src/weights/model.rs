//! A share of a checkpoint's weights as a model: room is made on a device, and what has to be brought there is listed.

use std::ops::Range;

use porism_loader::{Checkpoint, LayerRole, ModelConfig, Projection as Matrix, Role};
use porism_shaders::attention_output::MAX_KV_LORA_RANK;

use super::load::Fill;
use super::pieces::embedding_pieces;
use super::place::Placer;
use crate::device::Executor;
use crate::error::Error;
use crate::model::Model;
use crate::model::attention::Attention;
use crate::model::block::{Ffn, Layer};
use crate::model::head::Head;
use crate::model::moe::Moe;

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
        let mut lone_experts = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let residents = &share.residents[layer as usize];
            let at_home = share.range.contains(&layer);
            if at_home {
                layers.push(Layer::load(&mut placer, &config, layer, residents)?);
            }
            let guest = !at_home && !residents.is_empty();
            lone_experts.push(if guest { Some(placer.experts(layer, residents, false)?) } else { None });
        }
        let mut head = None;
        if let Some(projection) = projection.filter(|_| share.head) {
            head = Some(Head { norm: placer.final_norm()?, projection });
        }
        let bytes = placer.placed();
        let range = share.range.clone();
        Ok((Model { config, range, embedding, layers, head, lone_experts, bytes }, placer.into_fills()))
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
}

impl Attention {
    /// Places the attention weights of a layer.
    pub fn load(placer: &mut Placer<'_, '_>, c: &ModelConfig, layer: u32) -> Result<Self, Error> {
        if c.kv_lora_rank > MAX_KV_LORA_RANK {
            return Err(Error::Unsupported(format!(
                "kv_lora_rank is {}, kernels have room for {MAX_KV_LORA_RANK}",
                c.kv_lora_rank
            )));
        }
        let role = |part| Role::Layer { layer, part };
        let has_indexer = c.has_indexer(layer);
        let first = if c.q_lora_rank.is_some() { LayerRole::QAProj } else { LayerRole::QProj };
        let mut input = vec![role(first), role(LayerRole::KvAProjWithMqa)];
        let mut queries = vec![role(LayerRole::QBProj)];
        if has_indexer {
            input.extend([role(LayerRole::IndexerWk), role(LayerRole::IndexerWeightsProj)]);
            queries.push(role(LayerRole::IndexerWqB));
        }
        let mut kv_b = placer.projection("kv_b_proj", &[role(LayerRole::KvBProj)])?;
        if kv_b.pieces.len() > 1 {
            return Err(Error::Unsupported("kv_b_proj exceeds what this device binds at once".into()));
        }
        let input = placer.projection("attention input", &input)?;
        let queries = match c.q_lora_rank {
            Some(_) => Some(placer.projection("attention queries", &queries)?),
            None => None,
        };
        let query_rows = c.num_attention_heads * c.qk_head_dim();
        Ok(Attention {
            input,
            queries_alone: queries.as_ref().map(|queries| queries.first_rows(query_rows)),
            queries,
            kv_b: kv_b.pieces.remove(0),
            output: placer.projection("o_proj", &[role(LayerRole::OProj)])?,
            has_indexer,
        })
    }
}

impl Moe {
    /// Places the router, the shared expert and those of the routed ones that stay on the layer's home.
    pub fn load(placer: &mut Placer<'_, '_>, layer: u32, resident: &[u32]) -> Result<Self, Error> {
        let mut gate = placer.projection("router", &[Role::Layer { layer, part: LayerRole::RouterGate }])?;
        if gate.pieces.len() > 1 {
            return Err(Error::Unsupported("the router exceeds what this device binds at once".into()));
        }
        Ok(Moe { gate: gate.pieces.remove(0), experts: placer.experts(layer, resident, true)? })
    }
}
