"""Fast torch implementation of DeepSeek-V3.2 (MLA + MoE + DSA) for training and batched sampling on a CPU.

Same mathematics as the plain reference (ref_dsv32.py); export.py writes the weights in the hub layout.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = dict(
    architectures=["DeepseekV32ForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=0,
    eos_token_id=1,
    ep_size=1,
    first_k_dense_replace=1,
    hidden_act="silu",
    hidden_size=128,
    index_head_dim=32,
    index_n_heads=4,
    index_topk=64,
    initializer_range=0.02,
    intermediate_size=384,
    kv_lora_rank=64,
    max_position_embeddings=1024,
    model_type="deepseek_v32",
    moe_intermediate_size=96,
    moe_layer_freq=1,
    n_group=4,
    n_routed_experts=12,
    n_shared_experts=1,
    norm_topk_prob=True,
    num_attention_heads=4,
    num_experts_per_tok=2,
    num_hidden_layers=5,
    num_key_value_heads=4,
    num_nextn_predict_layers=1,
    pad_token_id=2,
    q_lora_rank=64,
    qk_nope_head_dim=32,
    qk_rope_head_dim=16,
    quantization_config=dict(
        activation_scheme="dynamic",
        fmt="e4m3",
        quant_method="fp8",
        scale_fmt="ue8m0",
        weight_block_size=[128, 128],
    ),
    rms_norm_eps=1e-06,
    rope_scaling=dict(
        beta_fast=32,
        beta_slow=1,
        factor=4,
        mscale=1.0,
        mscale_all_dim=1.0,
        original_max_position_embeddings=256,
        type="yarn",
    ),
    rope_theta=10000,
    routed_scaling_factor=1.5,
    scoring_func="sigmoid",
    tie_word_embeddings=False,
    topk_group=2,
    topk_method="noaux_tc",
    torch_dtype="bfloat16",
    transformers_version="4.44.2",
    use_cache=True,
    v_head_dim=32,
    vocab_size=512,
)


BLOCK = 128  # rows and columns of a weight that share one scale
E4M3_MAX = 448

# Parameters by the form they are exported in. `ix_` is the lightning indexer, `e_` a routed expert, `s_` the shared
# expert or the feed-forward of a layer without experts.
DECISIVE = 1 << 16  # added, once or more, to the target of a token that decides a comparison
INDEXER = ("ix_wq_b", "ix_wk", "ix_weights_proj", "ix_k_norm", "ix_k_bias")
F32_NAMES = ("ix_k_norm", "ix_k_bias")
FP8_NAMES = (
    *("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "ix_wq_b", "ix_wk"),
    *("e_gate", "e_up", "e_down", "s_gate", "s_up", "s_down"),
)


# -------------------------------------------------------------------------------------------------- FP8 weights
def block_scale(w):
    """Power-of-two scales (ue8m0, rounded up) of the 128x128 blocks of w [..., n, m] -> [..., n/128, m/128]."""
    n, m = w.shape[-2:]
    padded = F.pad(w.abs(), (0, -m % BLOCK, 0, -n % BLOCK))
    rows, columns = (size // BLOCK for size in padded.shape[-2:])
    blocks = padded.reshape(*padded.shape[:-2], rows, BLOCK, columns, BLOCK)
    largest = blocks.amax((-3, -1)).clamp(min=1e-4)
    return torch.exp2(torch.ceil(torch.log2(largest / E4M3_MAX)))


def expand_scale(scale, n, m):
    """[n/128, m/128] -> [n, m]."""
    return scale.repeat_interleave(BLOCK, -2)[..., :n, :].repeat_interleave(BLOCK, -1)[..., :m]


@torch.no_grad()
def fp8_round(w):
    """The value an exported FP8 weight will have."""
    n, m = w.shape[-2:]
    scale = block_scale(w)
    scale = scale if scale.shape[-2:] == (1, 1) else expand_scale(scale, n, m)
    return (w / scale).to(torch.float8_e4m3fn).float() * scale


# -------------------------------------------------------------------------------------------- rotary positions
def yarn_mscale(factor, mscale):
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_table(config, length):
    """YaRN: cos and sin [length, rope_dim/2] and the softmax scale with its magnitude correction."""
    dim, yarn, theta = config["qk_rope_head_dim"], config["rope_scaling"], config["rope_theta"]
    factor, original = yarn["factor"], yarn["original_max_position_embeddings"]
    assert yarn["mscale"] == yarn["mscale_all_dim"]

    def dimension_of(rotations):
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension_of(yarn["beta_fast"])), 0)
    high = min(math.ceil(dimension_of(yarn["beta_slow"])), dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    frequency = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    frequency = frequency / factor * ramp + frequency * (1 - ramp)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    scale = (config["qk_nope_head_dim"] + dim) ** -0.5 * yarn_mscale(factor, yarn["mscale_all_dim"]) ** 2
    return angle.cos().float(), angle.sin().float(), scale


def rope_interleaved(x, cos, sin):
    """Rotates neighbouring pairs (attention)."""
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def rope_half(x, cos, sin):
    """Rotates pairs half the width apart (indexer)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half].float(), x[..., half:].float()
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1).to(x.dtype)


def top_positions(score, k, exact=True):
    """Indices of the k largest scores.

    exact: ties (scores of 0 are common after the ReLU) go to the lowest index, as at inference.
    """
    if exact:
        return torch.sort(score, dim=-1, descending=True, stable=True)[1][..., :k]
    return score.topk(k, -1)[1]


# --------------------------------------------------------------------------------- operations with own backward
class Gather(torch.autograd.Function):
    """x[slot // k]: a row per (token, expert) slot; `row_of` is where each slot went. The backward gathers too."""

    @staticmethod
    def forward(ctx, x, slot, row_of, k):
        ctx.row_of, ctx.k = row_of, k
        return x.index_select(0, slot // k)

    @staticmethod
    def backward(ctx, grad):
        tokens = ctx.row_of.numel() // ctx.k
        return grad.index_select(0, ctx.row_of).view(tokens, ctx.k, -1).sum(1), None, None, None


class Ungather(torch.autograd.Function):
    """y[row_of]: back to the order of the slots; rows of padding get no gradient."""

    @staticmethod
    def forward(ctx, y, row_of):
        ctx.row_of, ctx.rows = row_of, y.shape[0]
        return y.index_select(0, row_of)

    @staticmethod
    def backward(ctx, grad):
        return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, ctx.row_of, grad), None


class Attention(torch.autograd.Function):
    """softmax(scale q k^T + mask) v, q and k [N, T, d], v [N, T, e], with the probabilities kept.

    On CPUs this is 4 to 8 times faster than the backward of scaled_dot_product_attention.
    hidden: True where a query may not look, broadcast over `shape` [B, H, T, T]; None for causal attention.
    """

    @staticmethod
    def forward(ctx, q, k, v, scale, hidden, shape):
        if hidden is None:
            length = q.shape[1]
            causal = torch.full((length, length), float("-inf"), dtype=q.dtype).triu_(1)
            scores = torch.baddbmm(causal, q, k.mT, alpha=scale)
        else:
            scores = torch.bmm(q * scale, k.mT)
            scores.view(shape).masked_fill_(hidden, float("-inf"))
        probability = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, probability)
        ctx.scale = scale
        return torch.bmm(probability, v)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, p = ctx.saved_tensors
        grad = grad.contiguous()
        d_v = torch.bmm(p.mT, grad)
        d_scores = torch._softmax_backward_data(torch.bmm(grad, v.mT), p, -1, p.dtype)
        d_q = torch.bmm(d_scores, k).mul_(ctx.scale)
        d_k = torch.bmm(d_scores.mT, q).mul_(ctx.scale)
        return d_q, d_k, d_v, None, None, None


# --------------------------------------------------------------------------------------------------------- model
class Layer(nn.Module):
    """The parameters of one layer; Model does the arithmetic."""

    def __init__(self, config, index):
        super().__init__()
        c = config
        hidden, heads = c["hidden_size"], c["num_attention_heads"]
        nope, rope, v_dim = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        q_rank, kv_rank = c["q_lora_rank"], c["kv_lora_rank"]

        def matrix(rows, columns, gain=1.0, experts=()):
            return nn.Parameter(torch.randn(*experts, rows, columns) * (gain / math.sqrt(columns)))

        def ones(size):
            return nn.Parameter(torch.ones(size))

        self.input_layernorm = ones(hidden)
        self.post_attention_layernorm = ones(hidden)
        self.q_a_layernorm = ones(q_rank)
        self.kv_a_layernorm = ones(kv_rank)
        self.q_a_proj = matrix(q_rank, hidden)
        self.q_b_proj = matrix(heads * (nope + rope), q_rank)
        self.kv_a_proj_with_mqa = matrix(kv_rank + rope, hidden)
        self.kv_b_proj = matrix(heads * (nope + v_dim), kv_rank)
        self.o_proj = matrix(hidden, heads * v_dim, 0.2)

        index_heads, index_dim = c["index_n_heads"], c["index_head_dim"]
        self.ix_wq_b = matrix(index_heads * index_dim, q_rank)
        self.ix_wk = matrix(index_dim, hidden)
        self.ix_weights_proj = matrix(index_heads, hidden)
        self.ix_k_norm = ones(index_dim)
        self.ix_k_bias = nn.Parameter(torch.zeros(index_dim))

        self.moe = index >= c["first_k_dense_replace"]
        if self.moe:
            experts, width = c["n_routed_experts"], c["moe_intermediate_size"]
            shared_width = width * c["n_shared_experts"]
            self.gate = matrix(experts, hidden, 0.5)
            self.register_buffer("bias", torch.zeros(experts))
            self.register_buffer("load", torch.zeros(experts))
            self.e_gate = matrix(width, hidden, 1, (experts,))
            self.e_up = matrix(width, hidden, 1, (experts,))
            self.e_down = matrix(hidden, width, 0.2, (experts,))
        else:
            shared_width = c["intermediate_size"]
        self.s_gate = matrix(shared_width, hidden)
        self.s_up = matrix(shared_width, hidden)
        self.s_down = matrix(hidden, shared_width, 0.2)


class MultiTokenPrediction(nn.Module):
    """The parameters of the layer that guesses the token after the next one; it shares embedding and head with the model."""

    def __init__(self, config):
        super().__init__()
        hidden = config["hidden_size"]
        self.enorm = nn.Parameter(torch.ones(hidden))
        self.hnorm = nn.Parameter(torch.ones(hidden))
        self.norm = nn.Parameter(torch.ones(hidden))
        self.eh_proj = nn.Parameter(torch.randn(hidden, 2 * hidden) / math.sqrt(2 * hidden))
        self.layer = Layer(config, config["num_hidden_layers"])


class Model(nn.Module):
    """config: as in config.json; dtype: of the matrix products (the residual stream stays float32)."""

    def __init__(self, config, dtype=torch.bfloat16):
        super().__init__()
        self.config, self.dtype, self.qat = config, dtype, False
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config["num_hidden_layers"]))
        self.mtp = MultiTokenPrediction(config) if config["num_nextn_predict_layers"] else None
        self.embed = nn.Parameter(torch.randn(config["vocab_size"], config["hidden_size"]) * 0.5)
        self.norm = nn.Parameter(torch.ones(config["hidden_size"]))
        self.head = nn.Parameter(torch.randn(config["vocab_size"], config["hidden_size"]) * 0.01)
        cos, sin, self.scale = rope_table(config, config["max_position_embeddings"])
        self.register_buffer("cos", cos, False)
        self.register_buffer("sin", sin, False)
        self.eps = config["rms_norm_eps"]

    # ------------------------------------------------------------------------------------------------- weights
    def exported(self, parameter, name):
        """The value the exported checkpoint will hold if `qat` is on (straight-through gradient), in float32."""
        if not self.qat:
            return parameter
        value = parameter.detach()
        if name in FP8_NAMES:
            rounded = fp8_round(value)
        elif name in F32_NAMES:
            rounded = value
        else:
            rounded = value.bfloat16().float()
        if parameter.requires_grad and torch.is_grad_enabled():
            return parameter + (rounded - value)
        return rounded

    def cast(self, module):
        """The module's own weights, by name, as the arithmetic wants them."""
        cast = {}
        for name, parameter in module.named_parameters():
            name = name.removeprefix("layer.")
            w = self.exported(parameter, name)
            keep = name == "gate" or name in F32_NAMES or parameter.dim() == 1
            cast[name] = w if keep else w.to(self.dtype)
        return cast

    def weights(self):
        """Casts every weight once per step -> (one dict per layer, embed, norm, head)."""
        layers = [self.cast(layer) for layer in self.layers]
        outer = (self.exported(getattr(self, name), name) for name in ("embed", "norm", "head"))
        return layers, *outer

    # --------------------------------------------------------------------------------------------------- parts
    def rms(self, x, weight):
        return F.rms_norm(x.float(), (x.shape[-1],), weight, 1e-6).to(self.dtype)

    def indexer_qk(self, w, x, q_latent, key_table, head_table):
        """Queries [B, heads, T, d], the one key per position [B, T, d] and head weights [B, T, heads]."""
        c = self.config
        heads, dim, rope = c["index_n_heads"], c["index_head_dim"], c["qk_rope_head_dim"]
        q = (q_latent @ w["ix_wq_b"].mT).view(*x.shape[:2], heads, dim).transpose(1, 2)
        q = torch.cat((rope_half(q[..., :rope], *head_table), q[..., rope:]), -1)
        k = F.layer_norm((x @ w["ix_wk"].mT).float(), (dim,), w["ix_k_norm"], w["ix_k_bias"], 1e-6)
        k = k.to(self.dtype)
        k = torch.cat((rope_half(k[..., :rope], *key_table), k[..., rope:]), -1)
        head_weights = (x @ w["ix_weights_proj"].mT).float() * (heads * dim) ** -0.5
        return q, k, head_weights

    def index_scores(self, q, k, head_weights):
        """sum over heads of weight * relu(q k^T) -> [B, T, S]."""
        dots = torch.relu(q @ k[:, None].mT)
        if self.training and not torch.is_grad_enabled():  # only to choose positions: in place, in bfloat16
            return dots.mul_(head_weights.mT[..., None].to(dots.dtype)).sum(1, dtype=torch.float32)
        return torch.einsum("bhts,bth->bts", dots.float(), head_weights)

    def attention_qkv(self, w, x, key_table, head_table):
        """-> query latent [B, T, q_rank]; q, k [B, H, T, nope + rope]; v [B, H, T, v_dim].

        key_table: cos and sin for [B, T, rope/2]; head_table: the same, shaped to broadcast over heads.
        """
        c = self.config
        batch, length = x.shape[:2]
        heads, nope, rope, v_dim = (
            c[name] for name in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        )
        kv_rank = c["kv_lora_rank"]
        q_latent = self.rms(x @ w["q_a_proj"].mT, w["q_a_layernorm"])
        q = (q_latent @ w["q_b_proj"].mT).view(batch, length, heads, nope + rope).transpose(1, 2)
        q = torch.cat((q[..., :nope], rope_interleaved(q[..., nope:], *head_table)), -1)
        latent = x @ w["kv_a_proj_with_mqa"].mT
        kv = self.rms(latent[..., :kv_rank], w["kv_a_layernorm"]) @ w["kv_b_proj"].mT
        kv = kv.view(batch, length, heads, nope + v_dim).transpose(1, 2)
        k_rope = rope_interleaved(latent[..., kv_rank:], *key_table)
        k_rope = k_rope[:, None].expand(batch, heads, length, rope)
        return q_latent, q, torch.cat((kv[..., :nope], k_rope), -1), kv[..., nope:]

    def swiglu(self, x, gate, up, down):
        return (F.silu(x @ gate.mT) * (x @ up.mT)) @ down.mT

    def route(self, layer, w, x):
        """x [N, D] -> experts [N, K] chosen with the balancing bias, and their weights [N, K] without it."""
        c = self.config
        experts, k, groups = c["n_routed_experts"], c["num_experts_per_tok"], c["n_group"]
        score = torch.sigmoid(x.float() @ w["gate"].mT)
        with torch.no_grad():
            grouped = (score + layer.bias).view(-1, groups, experts // groups)
            best_groups = grouped.topk(2, -1)[0].sum(-1).topk(c["topk_group"], -1)[1]
            keep = torch.zeros(len(score), groups, dtype=torch.bool).scatter_(1, best_groups, True)
            chosen = grouped.masked_fill(~keep[..., None], -1e9).view(-1, experts).topk(k, -1)[1]
        weight = score.gather(1, chosen)
        return chosen, weight / (weight.sum(-1, keepdim=True) + 1e-20) * c["routed_scaling_factor"]

    def experts(self, layer, w, x):
        """x [N, D]. Tokens are grouped by expert; every expert multiplies only its own rows."""
        k, experts = self.config["num_experts_per_tok"], self.config["n_routed_experts"]
        chosen, weight = self.route(layer, w, x)
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        count = torch.bincount(flat, minlength=experts)
        if self.training:
            layer.load.mul_(0.9).add_(count.float() / count.sum(), alpha=0.1)
        # Row counts are padded so that they recur: the CPU kernels are compiled per shape and found again.
        unit = 64 if self.training else 1
        padded = (count + unit - 1) // unit * unit
        rows = padded.tolist()
        shift = padded.cumsum(0) - padded - count.cumsum(0) + count
        row = torch.arange(len(order)) + shift[flat[order]]
        row_of = torch.empty_like(order)
        row_of[order] = row
        slot = torch.zeros(sum(rows), dtype=torch.long)
        slot[row] = order

        def each(parts, name):
            return torch.cat([part @ matrix for part, matrix in zip(parts, w[name].mT.unbind(0))])

        parts = Gather.apply(x, slot, row_of, k).split(rows)
        inner = F.silu(each(parts, "e_gate")) * each(parts, "e_up")
        out = Ungather.apply(each(inner.split(rows), "e_down"), row_of).view(-1, k, x.shape[-1])
        routed = (out * weight[..., None].to(out.dtype)).sum(1)
        return routed + self.swiglu(x, w["s_gate"], w["s_up"], w["s_down"])

    def feed_forward(self, layer, w, x):
        return self.experts(layer, w, x) if layer.moe else self.swiglu(x, w["s_gate"], w["s_up"], w["s_down"])

    # ------------------------------------------------------------------------------------------------ training
    def forward(self, ids, mode="dense", kl_layers=(), weights=None):
        """ids [B, T], right-padded; mode "dense" or "sparse" (top-k attention).

        -> final hidden states [B, T, D] after the last norm, and the KL loss of the indexers of `kl_layers`.
        """
        layers, embed, norm, _ = weights or self.weights()
        hidden, kl = F.embedding(ids, embed), 0.0
        for index, (layer, w) in enumerate(zip(self.layers, layers)):
            hidden, layer_kl = self.layer_forward(layer, w, hidden, ids, mode, index in kl_layers)
            kl = kl + layer_kl
        return F.rms_norm(hidden, (hidden.shape[-1],), norm, self.eps), kl

    def layer_forward(self, layer, w, hidden, ids, mode, want_kl):
        """hidden [B, T, D] before the layer -> the same after it, and its indexer's KL loss, if that is wanted."""
        c = self.config
        batch, length = ids.shape
        heads, top_k = c["num_attention_heads"], c["index_topk"]
        table = self.cos[:length], self.sin[:length]
        causal = torch.ones(length, length, dtype=torch.bool).tril()

        def flat(t):
            return t.reshape(batch * heads, length, t.shape[-1])

        x = self.rms(hidden, w["input_layernorm"])
        q_latent, q, k, v = self.attention_qkv(w, x, table, table)
        mask, kl = None, 0.0
        sparse = mode == "sparse" and length > top_k
        if want_kl or sparse:
            with torch.set_grad_enabled(want_kl and torch.is_grad_enabled()):
                indexer = self.indexer_qk(w, x.detach(), q_latent.detach(), table, table)
                score = self.index_scores(*indexer).masked_fill(~causal, float("-inf"))
            if sparse:
                with torch.no_grad():
                    top = top_positions(score.detach(), top_k, exact=not self.training)
                    mask = torch.zeros(batch, length, length, dtype=torch.bool).scatter_(-1, top, True) & causal
            if want_kl:
                losses = self.indexer_loss(score, q, k, causal if mask is None else mask)
                kl = losses[ids != c["pad_token_id"]].mean()
        out = Attention.apply(
            *(flat(q), flat(k), flat(v), self.scale),
            *(None if mask is None else ~mask[:, None], (batch, heads, length, length)),
        )
        out = out.view(batch, heads, length, -1).transpose(1, 2).reshape(batch, length, -1)
        hidden = hidden + (out @ w["o_proj"].mT).float()
        x = self.rms(hidden, w["post_attention_layernorm"]).view(batch * length, -1)
        return hidden + self.feed_forward(layer, w, x).view(batch, length, -1).float(), kl

    def draft(self, ids, hidden, mode="dense", want_kl=False, weights=None):
        """The multi-token-prediction layer: ids [B, T] and the model's final hidden states [B, T, D] of the same tokens ->
        hidden states [B, T - 1, D] whose head guesses, at i, the token at i + 2; and its indexer's KL loss."""
        embed, w = (weights or self.weights())[1], self.cast(self.mtp)
        following = self.rms(F.embedding(ids[:, 1:], embed), w["enorm"])
        both = torch.cat((following, self.rms(hidden[:, :-1], w["hnorm"])), -1)
        x = (both @ w["eh_proj"].mT).float()
        x, kl = self.layer_forward(self.mtp.layer, w, x, ids[:, 1:], mode, want_kl)
        return F.rms_norm(x, (x.shape[-1],), w["norm"], self.eps), kl

    def indexer_loss(self, score, q, k, mask):
        """KL divergence of the indexer's distribution from the attention summed over heads -> [B, T]."""
        with torch.no_grad():
            attention = (q @ k.mT).float().mul_(self.scale)
            attention = attention.masked_fill_(~(mask if mask.dim() == 2 else mask[:, None]), float("-inf"))
            p = torch.softmax(attention, -1).sum(1)
            p /= p.sum(-1, keepdim=True)
        log_q = torch.log_softmax(score.masked_fill(~mask, float("-inf")), -1)
        return torch.where(mask & (p > 0), p * (torch.log(p.clamp(min=1e-9)) - log_q), 0.0).sum(-1)

    def loss(self, hidden, targets, head, decisive_weights=(1,)):
        """Mean cross-entropy over the trained positions (targets != -100), their logits, and which they are. A target raised
        by n times DECISIVE counts decisive_weights[n] times, the last of them for all n beyond."""
        trained = targets != -100
        logits = (hidden[trained].to(self.dtype) @ head.to(self.dtype).mT).float()
        wanted = targets[trained]
        losses = F.cross_entropy(logits, wanted % DECISIVE, reduction="none")
        levels = (wanted // DECISIVE).clamp(max=len(decisive_weights) - 1)
        weights = torch.tensor(decisive_weights, dtype=torch.float32)[levels]
        return (losses * weights).sum() / weights.sum(), logits, trained

    def update_bias(self, rate, layers=None):
        """Load balance without an auxiliary loss: push the selection bias of under-used experts up."""
        for layer in layers or self.layers:
            if layer.moe:
                layer.bias.add_(torch.sign(1.0 / layer.load.numel() - layer.load), alpha=rate)
                layer.bias.sub_(layer.bias.mean())

    # ------------------------------------------------------------------------------------------------ sampling
    @torch.no_grad()
    def generate(
        self, prompts, max_new, eos, temperature=0.0, top_p=1.0, sparse=True, generator=None, max_length=1000
    ):
        """prompts: lists of ids -> lists of new ids, the end token included.

        One left-padded batch with a cache; positions count from the first real token.
        """
        c = self.config
        layers, embed, norm, head = self.weights()
        batch, longest = len(prompts), max(map(len, prompts))
        total = min(longest + max_new, max_length)
        heads, v_dim, top_k = c["num_attention_heads"], c["v_head_dim"], c["index_topk"]
        qk_dim = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
        offset = torch.tensor([longest - len(p) for p in prompts])
        ids = torch.full((batch, total), c["pad_token_id"])
        for i, p in enumerate(prompts):
            ids[i, longest - len(p) : longest] = torch.tensor(p)
        count = len(self.layers)
        keys = torch.zeros(count, batch, heads, total, qk_dim, dtype=self.dtype)
        values = torch.zeros(count, batch, heads, total, v_dim, dtype=self.dtype)
        index_keys = torch.zeros(count, batch, total, c["index_head_dim"], dtype=self.dtype)
        live = torch.arange(batch)
        out = [[] for _ in range(batch)]
        start, end = 0, longest
        while True:
            n, length = len(live), end - start
            rows, columns = torch.arange(start, end), torch.arange(end)
            position = (rows[None] - offset[:, None]).clamp(min=0)
            key_table = self.cos[position], self.sin[position]
            head_table = tuple(t[:, None] for t in key_table)
            valid = (columns >= offset[:, None, None]) & (columns <= rows[None, :, None])
            valid = valid.expand(n, length, end)
            hidden = F.embedding(ids[:, start:end], embed)
            for i, (layer, w) in enumerate(zip(self.layers, layers)):
                x = self.rms(hidden, w["input_layernorm"])
                q_latent, q, keys[i, :, :, start:end], values[i, :, :, start:end] = self.attention_qkv(
                    w, x, key_table, head_table
                )
                mask = valid
                if sparse:
                    index_q, index_keys[i, :, start:end], head_weights = self.indexer_qk(
                        w, x, q_latent, key_table, head_table
                    )
                    if end > top_k:
                        score = self.index_scores(index_q, index_keys[i, :, :end], head_weights)
                        top = top_positions(score.masked_fill(~valid, float("-inf")), top_k)
                        mask = torch.zeros(n, length, end, dtype=torch.bool).scatter_(-1, top, True) & valid
                mask = mask | ~valid.any(-1, keepdim=True)  # rows of padding: anything, to avoid NaN
                attended = F.scaled_dot_product_attention(
                    *(q, keys[i, :, :, :end], F.pad(values[i, :, :, :end], (0, qk_dim - v_dim))),
                    attn_mask=mask[:, None],
                    scale=self.scale,
                )[..., :v_dim]
                attended = attended.transpose(1, 2).reshape(n, length, -1)
                hidden = hidden + (attended @ w["o_proj"].mT).float()
                x = self.rms(hidden, w["post_attention_layernorm"]).reshape(n * length, -1)
                hidden = hidden + self.feed_forward(layer, w, x).view(n, length, -1).float()
            logits = F.rms_norm(hidden[:, -1], (hidden.shape[-1],), norm, self.eps) @ head.mT
            following = sample(logits, temperature, top_p, generator)
            for row, token in zip(live.tolist(), following.tolist()):
                out[row].append(token)
            keep = (following != eos).nonzero()[:, 0]
            if end >= total or len(keep) == 0:
                break
            ids[:, end] = following
            if len(keep) < 0.8 * n:  # drop finished rows now and then
                live, ids, offset = live[keep], ids[keep], offset[keep]
                keys, values, index_keys = (t[:, keep].contiguous() for t in (keys, values, index_keys))
            start, end = end, end + 1
        return [o[: o.index(eos) + 1] if eos in o else o for o in out]


def sample(logits, temperature, top_p, generator):
    """logits [B, V] -> ids [B]; temperature 0 takes the largest, top_p keeps the smallest set with that mass."""
    if temperature == 0:
        return logits.argmax(-1)
    probability, index = torch.softmax(logits / temperature, -1).sort(-1, descending=True)
    probability[probability.cumsum(-1) - probability >= top_p] = 0
    chosen = torch.multinomial(probability, 1, generator=generator)
    return index.gather(1, chosen)[:, 0]
