//! Checkpoint names ↔ [`Role`]s: the only place where a tensor's name is looked at as text.
//!
//! Also what each role is like in a given model: [`ModelConfig::shape_of`], and which roles a model must have:
//! [`ModelConfig::required_roles`].

use crate::config::{ModelConfig, TopkMethod};
use crate::shape::{Dtype, Shape};
use std::fmt;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `model.embed_tokens.weight` (vocab_size, hidden_size)
    Embedding,
    /// A layer's tensor.
    Layer {
        /// Counted from 0.
        layer: u32,
        /// Which one.
        part: LayerRole,
    },
    /// `model.norm.weight` (hidden_size)
    FinalNorm,
    /// `lm_head.weight` (vocab_size, hidden_size); the embedding where the two are tied.
    LmHead,
}

/// What a layer's tensor is for. Weights are stored (outputs, inputs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerRole {
    /// (hidden_size)
    InputLayernorm,
    /// (num_attention_heads · (nope + rope), hidden_size), in models without `q_lora_rank`
    QProj,
    /// (q_lora_rank, hidden_size)
    QAProj,
    /// (q_lora_rank)
    QALayernorm,
    /// (num_attention_heads · (nope + rope), q_lora_rank)
    QBProj,
    /// (kv_lora_rank + rope, hidden_size)
    KvAProjWithMqa,
    /// (kv_lora_rank)
    KvALayernorm,
    /// (num_attention_heads · (nope + v_head_dim), kv_lora_rank)
    KvBProj,
    /// (hidden_size, num_attention_heads · v_head_dim)
    OProj,
    /// (index_n_heads · index_head_dim, q_lora_rank)
    IndexerWqB,
    /// (index_head_dim, hidden_size)
    IndexerWk,
    /// (index_head_dim)
    IndexerKNorm,
    /// (index_head_dim)
    IndexerKNormBias,
    /// (index_n_heads, hidden_size)
    IndexerWeightsProj,
    /// (hidden_size)
    PostAttentionLayernorm,
    /// A dense layer's MLP, intermediate_size wide.
    Mlp(Projection),
    /// (n_routed_experts, hidden_size)
    RouterGate,
    /// (n_routed_experts); only chooses, does not weigh
    ScoreCorrectionBias,
    /// A routed expert's MLP, moe_intermediate_size wide.
    Expert {
        /// Counted from 0.
        expert: u32,
        /// Which of the three.
        projection: Projection,
    },
    /// The shared experts' one MLP, n_shared_experts · moe_intermediate_size wide.
    Shared(Projection),
}

/// The three matrices of a SwiGLU MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// (width, hidden_size)
    Gate,
    /// (width, hidden_size)
    Up,
    /// (hidden_size, width)
    Down,
}

impl Projection {
    /// In the order of the computation.
    pub const ALL: [Projection; 3] = [Self::Gate, Self::Up, Self::Down];

    fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate_proj.weight",
            Self::Up => "up_proj.weight",
            Self::Down => "down_proj.weight",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|projection| projection.name() == name)
    }
}

/// Layer tensors with a fixed name.
const LAYER_NAMES: [(&str, LayerRole); 17] = [
    ("input_layernorm.weight", LayerRole::InputLayernorm),
    ("self_attn.q_proj.weight", LayerRole::QProj),
    ("self_attn.q_a_proj.weight", LayerRole::QAProj),
    ("self_attn.q_a_layernorm.weight", LayerRole::QALayernorm),
    ("self_attn.q_b_proj.weight", LayerRole::QBProj),
    ("self_attn.kv_a_proj_with_mqa.weight", LayerRole::KvAProjWithMqa),
    ("self_attn.kv_a_layernorm.weight", LayerRole::KvALayernorm),
    ("self_attn.kv_b_proj.weight", LayerRole::KvBProj),
    ("self_attn.o_proj.weight", LayerRole::OProj),
    ("self_attn.indexer.wq_b.weight", LayerRole::IndexerWqB),
    ("self_attn.indexer.wk.weight", LayerRole::IndexerWk),
    ("self_attn.indexer.k_norm.weight", LayerRole::IndexerKNorm),
    ("self_attn.indexer.k_norm.bias", LayerRole::IndexerKNormBias),
    ("self_attn.indexer.weights_proj.weight", LayerRole::IndexerWeightsProj),
    ("post_attention_layernorm.weight", LayerRole::PostAttentionLayernorm),
    ("mlp.gate.weight", LayerRole::RouterGate),
    ("mlp.gate.e_score_correction_bias", LayerRole::ScoreCorrectionBias),
];

/// The suffix of a scale, in place of `weight`.
const SCALE: &str = "weight_scale_inv";

/// The file's name as a [`Role`]'s, as it is in checkpoints.
impl Role {
    /// Whether a tensor of this name holds together what the experts of this one's layer hold one by one, as some programs
    /// save it: `model.layers.3.mlp.experts.gate_up_proj`.
    pub(crate) fn is_held_together_in(self, name: &str) -> bool {
        let Self::Layer { layer, part: LayerRole::Expert { .. } } = self else { return false };
        let experts = format!("model.layers.{layer}.mlp.experts.");
        // Others put something before it.
        let rest = name.split_once(&experts).map(|(_, rest)| rest);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("model.embed_tokens.weight"),
            Self::FinalNorm => f.write_str("model.norm.weight"),
            Self::LmHead => f.write_str("lm_head.weight"),
            Self::Layer { layer, part } => write!(f, "model.layers.{layer}.{part}"),
        }
    }
}

impl fmt::Display for LayerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mlp(projection) => write!(f, "mlp.{}", projection.name()),
            Self::Shared(projection) => write!(f, "mlp.shared_experts.{}", projection.name()),
            Self::Expert { expert, projection } => write!(f, "mlp.experts.{expert}.{}", projection.name()),
            _ => {
                let (name, _) =
                    LAYER_NAMES.iter().find(|(_, part)| part == self).expect("all others are listed");
                f.write_str(name)
            }
        }
    }
}

impl Role {
    /// A layer's role.
    pub fn layer(layer: u32, part: LayerRole) -> Self {
        Self::Layer { layer, part }
    }

    /// The name of the scale that belongs to this weight.
    pub fn scale_name(&self) -> String {
        let name = self.to_string();
        format!("{}{SCALE}", name.strip_suffix("weight").unwrap_or(&name))
    }

    /// The bytes it is counted under.
    pub fn kind(&self) -> Kind {
        use LayerRole::*;
        match self {
            Self::Embedding => Kind::Embedding,
            Self::FinalNorm => Kind::Norm,
            Self::LmHead => Kind::Head,
            Self::Layer { part, .. } => match part {
                InputLayernorm | PostAttentionLayernorm | QALayernorm | KvALayernorm => Kind::Norm,
                QProj | QAProj | QBProj | KvAProjWithMqa | KvBProj | OProj => Kind::Attention,
                IndexerWqB | IndexerWk | IndexerKNorm | IndexerKNormBias | IndexerWeightsProj => {
                    Kind::Indexer
                }
                Mlp(_) => Kind::DenseMlp,
                RouterGate | ScoreCorrectionBias => Kind::Router,
                Expert { .. } => Kind::RoutedExpert,
                Shared(_) => Kind::SharedExpert,
            },
        }
    }

    /// Dtypes a tensor of this role may have. Linear weights are decoded in the kernels, whatever they are; what is
    /// read element by element is not FP8 in any published checkpoint.
    pub fn dtypes(&self) -> &'static [Dtype] {
        const PLAIN: &[Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16];
        const LINEAR: &[Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::F8E4m3];
        match self.kind() {
            Kind::Embedding | Kind::Norm | Kind::Router => PLAIN,
            Kind::Indexer if self.is_vector() => PLAIN,
            _ => LINEAR,
        }
    }

    fn is_vector(&self) -> bool {
        use LayerRole::*;
        matches!(self, Self::Layer { part: IndexerKNorm | IndexerKNormBias | ScoreCorrectionBias, .. })
            || self.kind() == Kind::Norm
    }
}

/// What weights are counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The embedding.
    Embedding,
    /// MLA's projections.
    Attention,
    /// The lightning indexer.
    Indexer,
    /// MLPs of dense layers.
    DenseMlp,
    /// Router weights and biases.
    Router,
    /// Shared experts.
    SharedExpert,
    /// Routed experts.
    RoutedExpert,
    /// RMS norms.
    Norm,
    /// `lm_head`.
    Head,
    /// The multi-token-prediction head, which is left out.
    Mtp,
    /// Tensors that are not used.
    Unused,
}

impl Kind {
    /// Every kind, in the order of the forward pass.
    pub const ALL: [Kind; 11] = [
        Self::Embedding,
        Self::Attention,
        Self::Indexer,
        Self::DenseMlp,
        Self::Router,
        Self::SharedExpert,
        Self::RoutedExpert,
        Self::Norm,
        Self::Head,
        Self::Mtp,
        Self::Unused,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Indexer => "indexer",
            Self::DenseMlp => "dense mlp",
            Self::Router => "router",
            Self::SharedExpert => "shared experts",
            Self::RoutedExpert => "routed experts",
            Self::Norm => "norms",
            Self::Head => "lm_head",
            Self::Mtp => "mtp",
            Self::Unused => "unused",
        }
    }
}

/// What a name in a checkpoint turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A tensor of the model.
    Weight(Role),
    /// The block scales of one.
    Scale(Role),
    /// Part of the multi-token-prediction head.
    Mtp,
    /// A buffer that is computed instead (`rotary_emb.inv_freq`).
    Buffer,
    /// Anything else.
    Unknown,
}

impl Name {
    /// Layers from `num_hidden_layers` on are the MTP head's.
    pub fn parse(name: &str, num_hidden_layers: u32) -> Self {
        if let Some(stem) = name.strip_suffix(SCALE) {
            let weight = format!("{stem}weight");
            return match Self::parse(&weight, num_hidden_layers) {
                Self::Weight(role) => Self::Scale(role),
                other => other,
            };
        }
        match name {
            "model.embed_tokens.weight" => return Self::Weight(Role::Embedding),
            "model.norm.weight" => return Self::Weight(Role::FinalNorm),
            "lm_head.weight" => return Self::Weight(Role::LmHead),
            _ => {}
        }
        if name.ends_with("rotary_emb.inv_freq") {
            return Self::Buffer;
        }
        let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(numbered) else {
            return Self::Unknown;
        };
        if layer >= num_hidden_layers {
            return Self::Mtp;
        }
        parse_part(part).map_or(Self::Unknown, |part| Self::Weight(Role::Layer { layer, part }))
    }
}

fn parse_part(name: &str) -> Option<LayerRole> {
    if let Some(mlp) = name.strip_prefix("mlp.") {
        if let Some(projection) = Projection::parse(mlp) {
            return Some(LayerRole::Mlp(projection));
        }
        if let Some((expert, projection)) = mlp.strip_prefix("experts.").and_then(numbered) {
            return Some(LayerRole::Expert { expert, projection: Projection::parse(projection)? });
        }
        if let Some(projection) = mlp.strip_prefix("shared_experts.") {
            return Some(LayerRole::Shared(Projection::parse(projection)?));
        }
    }
    LAYER_NAMES.iter().find(|(known, _)| *known == name).map(|(_, part)| *part)
}

/// `"12.rest"` → (12, `"rest"`). Numbers are as written by a program, so that a role has one name only: no sign,
/// no leading zero.
fn numbered(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_once('.')?;
    let canonical = digits == "0" || digits.starts_with(|first: char| ('1'..='9').contains(&first));
    let number = digits.parse().ok().filter(|_| canonical && digits.bytes().all(|b| b.is_ascii_digit()))?;
    Some((number, rest))
}

impl ModelConfig {
    /// The shape a role has in this model; `None` if the model has no such tensor.
    pub fn shape_of(&self, role: Role) -> Option<Shape> {
        use LayerRole::*;
        let hidden = self.hidden_size;
        let (layer, part) = match role {
            Role::Embedding | Role::LmHead => return Some(Shape::matrix(self.vocab_size, hidden)),
            Role::FinalNorm => return Some(Shape::vector(hidden)),
            Role::Layer { layer, part } => (layer, part),
        };
        if layer >= self.num_hidden_layers {
            return None;
        }
        let mlp = |projection, width| match projection {
            Projection::Gate | Projection::Up => Shape::matrix(width, hidden),
            Projection::Down => Shape::matrix(hidden, width),
        };
        let heads = self.num_attention_heads;
        let indexer = self.indexer.as_ref().filter(|_| self.has_indexer(layer));
        let moe = self.is_moe(layer);
        match part {
            InputLayernorm | PostAttentionLayernorm => Some(Shape::vector(hidden)),
            QProj if self.q_lora_rank.is_none() => Some(Shape::matrix(heads * self.qk_head_dim(), hidden)),
            QProj => None,
            QAProj => Some(Shape::matrix(self.q_lora_rank?, hidden)),
            QALayernorm => Some(Shape::vector(self.q_lora_rank?)),
            QBProj => Some(Shape::matrix(heads * self.qk_head_dim(), self.q_lora_rank?)),
            KvAProjWithMqa => Some(Shape::matrix(self.kv_lora_rank + self.qk_rope_head_dim, hidden)),
            KvALayernorm => Some(Shape::vector(self.kv_lora_rank)),
            KvBProj => {
                Some(Shape::matrix(heads * (self.qk_nope_head_dim + self.v_head_dim), self.kv_lora_rank))
            }
            OProj => Some(Shape::matrix(hidden, heads * self.v_head_dim)),
            IndexerWqB => indexer
                .map(|i| Shape::matrix(i.index_n_heads * i.index_head_dim, self.q_lora_rank.unwrap_or(0))),
            IndexerWk => indexer.map(|i| Shape::matrix(i.index_head_dim, hidden)),
            IndexerKNorm | IndexerKNormBias => indexer.map(|i| Shape::vector(i.index_head_dim)),
            IndexerWeightsProj => indexer.map(|i| Shape::matrix(i.index_n_heads, hidden)),
            Mlp(projection) => (!moe).then(|| mlp(projection, self.intermediate_size)),
            RouterGate => moe.then(|| Shape::matrix(self.n_routed_experts, hidden)),
            ScoreCorrectionBias => moe.then(|| Shape::vector(self.n_routed_experts)),
            Expert { expert, projection } => {
                (moe && expert < self.n_routed_experts).then(|| mlp(projection, self.moe_intermediate_size))
            }
            Shared(projection) => {
                (moe && self.n_shared_experts > 0).then(|| mlp(projection, self.shared_intermediate_size()))
            }
        }
    }

    /// Whether the model cannot be without this tensor.
    fn requires(&self, role: Role) -> bool {
        let needed = match role {
            Role::LmHead => !self.tie_word_embeddings,
            Role::Layer { part: LayerRole::ScoreCorrectionBias, .. } => {
                self.topk_method == TopkMethod::NoauxTc
            }
            _ => true,
        };
        needed && self.shape_of(role).is_some()
    }

    /// Every tensor the model must have, in the order of the forward pass. Lazy: nothing is allocated, whatever the
    /// config says.
    pub fn required_roles(&self) -> impl Iterator<Item = Role> + '_ {
        let layers = (0..self.num_hidden_layers)
            .flat_map(move |layer| self.layer_parts(layer).map(move |part| Role::Layer { layer, part }));
        std::iter::once(Role::Embedding)
            .chain(layers)
            .chain([Role::FinalNorm, Role::LmHead])
            .filter(|role| self.requires(*role))
    }

    /// Every part a layer of any model of the family may have.
    fn layer_parts(&self, layer: u32) -> impl Iterator<Item = LayerRole> + '_ {
        let experts = if self.is_moe(layer) { self.n_routed_experts } else { 0 };
        let fixed = LAYER_NAMES.iter().map(|(_, part)| *part);
        let dense = Projection::ALL.map(LayerRole::Mlp);
        let shared = Projection::ALL.map(LayerRole::Shared);
        let routed = (0..experts)
            .flat_map(|expert| Projection::ALL.map(|projection| LayerRole::Expert { expert, projection }));
        fixed.chain(dense).chain(shared).chain(routed)
    }
}
