"""Writes a trained state as a checkpoint in the layout DeepSeek-V3.2-Exp has on the hub.

    python export.py RUN/state.pt TOKENIZER_DIR OUT_DIR [--topk 64] [--weights weights.safetensors]

FP8 linears: `<name>.weight` F8_E4M3 with `<name>.weight_scale_inv` F32, one per 128x128 block (powers of two);
everything else BF16, the indexer's k_norm and the router bias F32. Rounding is the training's own (model.fp8_round),
so nothing is lost at export. --weights also writes the unrounded weights in BF16, for train.py --start.
"""

import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

import data
from model import CONFIG, FP8_NAMES, Model, block_scale, expand_scale

ATTENTION = (
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "o_proj",
    "q_a_layernorm",
    "kv_a_layernorm",
)
HUB_NAMES = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    **{name: f"self_attn.{name}" for name in ATTENTION},
    "ix_wq_b": "self_attn.indexer.wq_b",
    "ix_wk": "self_attn.indexer.wk",
    "ix_weights_proj": "self_attn.indexer.weights_proj",
    "ix_k_norm": "self_attn.indexer.k_norm",
}
FEED_FORWARD = (("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down"))
SHARDS = 2


def size(tensor):
    return tensor.numel() * tensor.element_size()


def tensors(model):
    """The model's weights under their hub names."""
    out = {}

    def put(name, weight, fp8=False):
        weight = weight.detach().float()
        if fp8:
            scale = block_scale(weight)
            quotient = weight / expand_scale(scale, *weight.shape)
            out[name + ".weight"] = quotient.to(torch.float8_e4m3fn).contiguous()
            out[name + ".weight_scale_inv"] = scale.float().contiguous()
        else:
            out[name + ".weight"] = weight.bfloat16().contiguous()

    put("model.embed_tokens", model.embed)
    for index, layer in enumerate(model.layers):
        prefix = f"model.layers.{index}."
        parameters = dict(layer.named_parameters())
        for name, hub in HUB_NAMES.items():
            if name == "ix_k_norm":
                out[prefix + hub + ".weight"] = parameters[name].detach().float().contiguous()
                out[prefix + hub + ".bias"] = parameters["ix_k_bias"].detach().float().contiguous()
            else:
                put(prefix + hub, parameters[name], name in FP8_NAMES)
        if not layer.moe:
            for hub, name in FEED_FORWARD:
                put(f"{prefix}mlp.{hub}", parameters["s_" + name], True)
            continue
        put(prefix + "mlp.gate", parameters["gate"])
        out[prefix + "mlp.gate.e_score_correction_bias"] = layer.bias.detach().float().contiguous()
        for hub, name in FEED_FORWARD:
            put(f"{prefix}mlp.shared_experts.{hub}", parameters["s_" + name], True)
            for expert, weight in enumerate(parameters["e_" + name]):
                put(f"{prefix}mlp.experts.{expert}.{hub}", weight, True)
    put("model.norm", model.norm)
    put("lm_head", model.head)
    return out


def split(all_tensors):
    """Names per shard, about equal in bytes and in order."""
    total, written, parts = sum(map(size, all_tensors.values())), 0, [[]]
    for name, tensor in all_tensors.items():
        if written > total / SHARDS * len(parts) and len(parts) < SHARDS:
            parts.append([])
        parts[-1].append(name)
        written += size(tensor)
    return parts


def write_json(path, value, indent=2):
    with open(path, "w") as file:
        json.dump(value, file, indent=indent)


def write_checkpoint(model, config, tok_dir, out_dir):
    os.makedirs(out_dir, exist_ok=True)
    all_tensors = tensors(model)
    parts, weight_map = split(all_tensors), {}
    for i, names in enumerate(parts):
        file = f"model-{i+1:05d}-of-{len(parts):06d}.safetensors"
        save_file({name: all_tensors[name] for name in names}, f"{out_dir}/{file}", metadata={"format": "pt"})
        weight_map |= {name: file for name in names}
    total = sum(map(size, all_tensors.values()))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(f"{out_dir}/model.safetensors.index.json", index, 1)
    write_json(f"{out_dir}/config.json", config)
    generation = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 1.0, "top_p": 0.95}
    write_json(f"{out_dir}/generation_config.json", generation)
    if os.path.abspath(tok_dir) != os.path.abspath(out_dir):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"{tok_dir}/{file}", out_dir)
    with open(f"{out_dir}/prompts.toml", "w") as file:
        file.write("# Prompt set of this model: the four roles of the prover.  ")
        file.write("{candidates} is one or more `candidate` blocks.\n")
        for role, text in data.PROMPTS.items():
            file.write(f"{role} = {json.dumps(text)}\n")
        # What the model knows is written by hand, beside the numbers of data.py.
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "domain.toml")) as domain:
            file.write(domain.read())
    print(len(all_tensors), "tensors,", total, "bytes in", len(parts), "shards")


def write_weights(state, path):
    """BF16, the router biases and the indexers' k_norm F32."""
    keep = ("bias", "ix_k_norm", "ix_k_bias")
    weights = {name: t if name.split(".")[-1] in keep else t.bfloat16() for name, t in state["model"].items()}
    weights = {name: t.contiguous() for name, t in weights.items() if name.split(".")[-1] != "load"}
    save_file(weights, path, metadata={"format": "pt", "log": json.dumps(state["log"])})


def main():
    parser = argparse.ArgumentParser(description="Writes a checkpoint in the hub layout.")
    parser.add_argument("state")
    parser.add_argument("tok_dir")
    parser.add_argument("out_dir")
    parser.add_argument("--topk", type=int, help="index_topk, e.g. 1024 while the indexers are not trained")
    parser.add_argument("--weights", help="also write the BF16 weights training can go on from")
    args = parser.parse_args()
    state = torch.load(args.state, weights_only=False, map_location="cpu")
    config = dict(CONFIG)
    if args.topk:
        config["index_topk"] = args.topk
    model = Model(config)
    model.load_state_dict(state["model"], strict=False)
    write_checkpoint(model, config, args.tok_dir, args.out_dir)
    print("log", json.dumps(state["log"]))
    if args.weights:
        write_weights(state, args.weights)


if __name__ == "__main__":
    main()
