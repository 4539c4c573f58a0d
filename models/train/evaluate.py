"""Measures an exported checkpoint on held-out problems with the real checker (data.evaluate).

    python evaluate.py MODEL_DIR [--n 200] [--temperature 0 --top-p 1] [--roles generate,verify,meta_verify,refine,false,
                       foreign,search] [--out figures.jsonl]

N different held-out problems per family and role. generate: right proofs, and self-evaluations that agree with the
checker. verify: the model's score against the checker's on proofs of which half are good and half flawed, and how
many of those with a wrong number it calls right. meta_verify: same score as the checker's. refine: right proofs
written from a flawed one and its honest evaluation. false: the verifier on false statements, with proofs of what is so,
forged and flawed ones; foreign: on true statements with right proofs of others. search: N false statements of all families
together as the prover goes about them, PROOFS proofs each, read until a reading says less than 1, READINGS times at most:
how many pass. The first six take the likeliest token unless told otherwise, search samples at temperature 1, top-p 0.95.
"""

import argparse
import glob
import json
import os
import random
import time
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would fight with other work
import torch
from safetensors.torch import load_file

import data
import export
from heldout import heldout_problems
from model import Model, expand_scale
from tok import Tok

BATCH = 200  # answers written at once
PASS = 24  # answers compared at once
MAX_NEW = {"generate": 480, "verify": 420, "meta_verify": 420, "refine": 560}
PROOFS, READINGS = 4, 8
EXAMPLES = 5


def load(directory):
    """The exported tensors back in the training model, dequantised, in float32."""
    stored = {}
    for file in glob.glob(f"{directory}/model-*.safetensors"):
        stored |= load_file(file)

    def weight(name):
        value, scale = stored[name + ".weight"].float(), stored.get(name + ".weight_scale_inv")
        return value if scale is None else value * expand_scale(scale, *value.shape)

    def put_layer(prefix, layer):
        parameters = dict(layer.named_parameters())
        for name, hub in export.HUB_NAMES.items():
            parameters[name].copy_(weight(prefix + hub))
        parameters["ix_k_bias"].copy_(stored[prefix + "self_attn.indexer.k_norm.bias"])
        for hub, name in export.FEED_FORWARD:
            if not layer.moe:
                parameters["s_" + name].copy_(weight(f"{prefix}mlp.{hub}"))
                continue
            parameters["s_" + name].copy_(weight(f"{prefix}mlp.shared_experts.{hub}"))
            for expert, target in enumerate(parameters["e_" + name]):
                target.copy_(weight(f"{prefix}mlp.experts.{expert}.{hub}"))
        if layer.moe:
            parameters["gate"].copy_(weight(prefix + "mlp.gate"))
            layer.bias.copy_(stored[prefix + "mlp.gate.e_score_correction_bias"])

    with open(f"{directory}/config.json") as file:
        model = Model(json.load(file), torch.float32)
    with torch.no_grad():
        model.embed.copy_(weight("model.embed_tokens"))
        model.norm.copy_(weight("model.norm"))
        model.head.copy_(weight("lm_head"))
        for index, layer in enumerate(model.layers):
            put_layer(f"model.layers.{index}.", layer)
        if model.mtp is not None:
            prefix = f"model.layers.{len(model.layers)}."
            for hub, name in export.MTP_NAMES.items():
                getattr(model.mtp, name).copy_(weight(prefix + hub))
            put_layer(prefix, model.mtp.layer)
    return model.eval()


def cases(role, family, n):
    """-> list of (problem, solution or None, evaluation or None, prompt content)."""
    rng, out = random.Random(f"{role} {family}"), []
    if role == "false":
        for problem in false_problems(family, n, rng):
            solution = rng.choice((lambda *_: data.number(data.solve(problem)), data.forged, data.flawed))(problem, rng)
            content = data.PROMPTS["verify"].format(problem=problem.text(), solution=solution)
            out.append((problem, solution, None, content))
        return out
    for problem in heldout_problems(family, n):
        solution = evaluation = None
        text = problem.text()
        if role == "generate":
            content = data.PROMPTS[role].format(problem=text)
        elif role == "foreign":
            solution = data.foreign(problem, rng)
            content = data.PROMPTS["verify"].format(problem=text, solution=solution)
        elif role == "verify":
            good = rng.random() < 0.5
            solution = data.number(data.solve(problem)) if good else data.flawed(problem, rng)
            content = data.PROMPTS[role].format(problem=text, solution=solution)
        elif role == "meta_verify":
            solution = data.flawed(problem, rng)
            honest = rng.random() < 0.5
            evaluation = data.evaluate(problem, solution).text()
            evaluation = evaluation if honest else data.flawed_evaluation(problem, solution, rng)[0]
            content = data.PROMPTS[role].format(problem=text, solution=solution, evaluation=evaluation)
        else:
            while solution is None or data.evaluate(problem, solution).score == "1":
                solution = data.flawed(problem, rng)
            evaluation = data.evaluate(problem, solution).text()
            content = data.PROMPTS[role].format(problem=text, candidates=data.candidate(solution, evaluation))
        out.append((problem, solution, evaluation, content))
    return out


def false_problems(family, n, rng):
    """n different held-out statements of a family that do not hold, or all that are found."""
    found = {}
    for _ in range(40000):
        problem = data.random_false_problem(rng, family, heldout=True)
        found.setdefault(problem.text(), problem)
        if len(found) >= n:
            break
    return list(found.values())


def search(model, tok, n, generator):
    """n false statements, in equal parts of all families -> figures, and the proofs that passed."""
    rng = random.Random("search")
    problems = [p for family in data.KEPT for p in false_problems(family, -(-n // len(data.KEPT)), rng)][:n]
    contents = [data.PROMPTS["generate"].format(problem=p.text()) for p in problems for _ in range(PROOFS)]
    texts, _ = answer(model, tok, contents, "generate", 1.0, 0.95, generator)
    proofs = {}
    for i, text in enumerate(texts):
        if solution := data.split_output(text)["solution"]:
            proofs[problems[i // PROOFS].text(), solution] = problems[i // PROOFS]
    left, written = list(proofs), len(proofs)
    first = 0
    for reading in range(READINGS):
        contents = [data.PROMPTS["verify"].format(problem=text, solution=solution) for text, solution in left]
        texts, _ = answer(model, tok, contents, "verify", 1.0, 0.95, generator)
        left = [proof for proof, text in zip(left, texts) if data.split_output(text)["score"] == "1"]
        first = first or len(left)
        if not left:
            break
    passed = {text for text, _ in left}
    figures = {"statements": len(problems), "passed": len(passed), "different proofs": written}
    return figures | {"of these called right by one reading": first}, left


def answer(model, tok, contents, role, temperature, top_p, generator):
    """-> the model's texts and their lengths in tokens."""
    order = sorted(range(len(contents)), key=lambda i: len(contents[i]))
    texts, lengths = [""] * len(contents), [0] * len(contents)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        prompts = [tok.encode(data.chat(contents[i])) for i in chosen]
        outputs = model.generate(prompts, MAX_NEW.get(role, MAX_NEW["verify"]), tok.eos, temperature, top_p, generator=generator)
        for i, prompt, output in zip(chosen, prompts, outputs):
            texts[i], lengths[i] = tok.decode(output), len(prompt) + len(output)
    return texts, lengths


@torch.no_grad()
def intended(model, tok, role, rows):
    """The rows, by index, that the model answers exactly as it was trained to if it always takes the likeliest token: found in
    one pass over the answer, which is much faster than writing it -> {index: (text, length in tokens)}."""
    weights, out, candidates = model.weights(), {}, []
    for i, (problem, solution, evaluation, content) in enumerate(rows):
        prompt = tok.encode(data.chat(content))
        for text in data.intended_answers(role, problem, solution, evaluation):
            ids = tok.encode(data.chat(content) + text)
            if ids[: len(prompt)] == prompt and len(ids) <= model.config["max_position_embeddings"]:
                candidates.append((ids, len(prompt), i, text))
    candidates.sort(key=lambda candidate: len(candidate[0]))
    while candidates:
        batch, candidates = candidates[:PASS], candidates[PASS:]
        longest = max(len(ids) for ids, *_ in batch)
        padded = torch.tensor([ids + [tok.pad] * (longest - len(ids)) for ids, *_ in batch])
        hidden, _ = model(padded, "sparse", weights=weights)
        said = (hidden @ weights[3].mT).argmax(-1)
        for row, (ids, start, i, text) in zip(said, batch):
            if row[start - 1 : len(ids) - 1].tolist() == ids[start:]:
                out[i] = text, len(ids)
    return out


def answers(model, tok, role, rows, temperature, top_p, generator):
    """-> the model's texts for all rows and their lengths in tokens."""
    known = intended(model, tok, role, rows) if temperature == 0 else {}
    others = [i for i in range(len(rows)) if i not in known]
    if others:
        contents = [rows[i][3] for i in others]
        written = answer(model, tok, contents, role, temperature, top_p, generator)
        known |= {i: pair for i, *pair in zip(others, *written)}
    return [known[i][0] for i in range(len(rows))], [known[i][1] for i in range(len(rows))]


def arrows(confusion):
    return {f"{true}->{said}": count for (true, said), count in sorted(confusion.items(), key=str)}


def score(role, rows, texts):
    """-> the figures of one role and family."""
    n, confusion, figures = len(rows), Counter(), {}
    right = called_right = 0
    wrong_examples = []
    for (problem, solution, evaluation, _), text in zip(rows, texts):
        output = data.split_output(text)
        if role in ("generate", "refine"):
            true = data.evaluate(problem, output["solution"]).score if output["solution"] else "0"
            right += true == "1"
        elif role in ("verify", "false", "foreign"):
            true = data.evaluate(problem, solution).score
            called_right += true == "0" and output["score"] == "1"
        else:
            true = data.meta_target(problem, solution, evaluation)[1]
        confusion[true, output["score"]] += 1
        if true != ("1" if role in ("generate", "refine") else output["score"]) and len(wrong_examples) < EXAMPLES:
            wrong_examples.append(f"{problem.text()}\n{solution or ''}\n{text}")
    agree = sum(count for (true, said), count in confusion.items() if true == said) / n
    if role in ("generate", "refine"):
        figures["right"] = right / n
    figures["score agrees with the checker"] = agree
    if role in ("verify", "false", "foreign"):
        wrong = sum(count for (true, _), count in confusion.items() if true == "0")
        figures["wrong called right"] = called_right / max(wrong, 1)
    figures["true->said"] = arrows(confusion)
    return figures, wrong_examples


def main():
    parser = argparse.ArgumentParser(description="Measures a checkpoint on held-out problems.")
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=200, help="problems per family and role")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--roles", default=",".join(data.ROLES))
    parser.add_argument("--families", default=",".join(data.KEPT))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", action="store_true", help="print some wrong answers")
    parser.add_argument("--out", help="append the figures to this file as JSON lines")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tok, model, began = Tok(args.model), load(args.model), time.time()
    generator = torch.Generator().manual_seed(1)
    for role in args.roles.split(","):
        if role == "search":
            figures, passed = search(model, tok, args.n, generator)
            row = {"role": role, **figures}
            print(json.dumps(row), f"{time.time()-began:.0f} s", flush=True)
            print(*(f"passed: {text}\n{solution}" for text, solution in passed), sep="\n", flush=True)
            if args.out:
                with open(args.out, "a") as file:
                    file.write(json.dumps(row) + "\n")
            continue
        for family in args.families.split(","):
            rows = cases(role, family, args.n)
            texts, lengths = answers(model, tok, role, rows, args.temperature, args.top_p, generator)
            figures, examples = score(role, rows, texts)
            figures |= {"tokens, prompt and answer": round(sum(lengths) / len(lengths), 1), "n": len(rows)}
            row = {
                "role": role,
                "family": family,
                "temperature": args.temperature,
                "top_p": args.top_p,
                **figures,
            }
            print(json.dumps(row), f"{time.time()-began:.0f} s", flush=True)
            if args.examples:
                print(*examples, sep="\n---\n")
            if args.out:
                with open(args.out, "a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
