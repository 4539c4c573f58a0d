"""Trains the tiny proof model. Restartable: every run loads and saves RUN/state.pt.

    python train.py RUN --start weights.safetensors --steps 0                  # a run from committed weights
    python train.py RUN --phase dense  --minutes 30                            # dense attention
    python train.py RUN --phase index  --minutes 3                             # only the lightning indexers
    python train.py RUN --phase sparse --minutes 15 --qat --w0 0.4 --w1 0.02   # top-k attention, FP8-aware, rate -> 0
    python train.py RUN --phase mtp    --minutes 4  --qat --w0 0.6 --w1 0.02   # only the multi-token-prediction layer

The learning rate falls linearly from w0 to w1 (multiples of --lr and --adam) over the run. The index phase trains the
indexers alone, by the KL divergence to the attention summed over heads; the mtp phase trains the layer that guesses the
token after the next one, with its indexer, and nothing that the model's own output depends on. An empty file RUN/stop ends the run early.
"""

import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import time

# Short spins: quick when alone, no collapse beside other work. Batches have few shapes, whose compiled kernels are kept.
os.environ.pop("OMP_WAIT_POLICY", None)
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import data
from model import CONFIG, DECISIVE, INDEXER, Model
from tok import Tok

IGNORED = -100  # target of a position that is not trained
DECISIVE_WEIGHTS = (1, 6, 20)  # of a token by how much it decides (data.decisions)
ADAM_ONLY = ("gate", "embed", "head")  # matrices that Muon does not handle


# ------------------------------------------------------------------------------------------------------ batches
def bucket(length):
    """The padded length of a document."""
    step = 16 if length <= 256 else 32
    return -(-length // step) * step


class Buckets:
    """Documents of similar length, gathered into batches of few fixed shapes: CPU kernels are compiled per shape."""

    def __init__(self, budget):
        self.budget, self.waiting = budget, {}

    def add(self, document):
        """-> (documents, padded length) when a batch of `budget` tokens is full, else None."""
        length = bucket(len(document[0]))
        batch = self.waiting.setdefault(length, [])
        batch.append(document)
        if len(batch) == self.budget // length:
            del self.waiting[length]
            return batch, length
        return None


def encode(tok, document):
    """-> ids and targets, those of decisive tokens raised by multiples of DECISIVE. The whole text is tokenized at once, as at inference; a token is trained if it starts
    inside a trained segment."""
    encoding = tok.tokenizer.encode("".join(text for text, _ in document), add_special_tokens=False)
    trained = []
    for text, flag in document:
        trained += [flag] * len(text)
    decisive = data.decisions("".join(text for text, _ in document))
    targets = []
    for i, (start, _) in zip(encoding.ids, encoding.offsets):
        targets.append(i + DECISIVE * decisive.get(start, 0) if trained[start] else IGNORED)
    return encoding.ids, targets


def collate(documents, pad, length=0):
    """-> ids [B, T] and the targets one position earlier [B, T]."""
    length = length or max(len(ids) for ids, _ in documents)
    ids_batch = torch.full((len(documents), length), pad)
    target_batch = torch.full((len(documents), length), IGNORED)
    for row, (ids, targets) in enumerate(documents):
        ids_batch[row, : len(ids)] = torch.tensor(ids)
        target_batch[row, : len(targets) - 1] = torch.tensor(targets[1:])
    return ids_batch, target_batch


def worker(queue, tok_dir, seed, budget, max_length, drills, checks, repeats, compares, claims):
    """Fills the queue with batches, in a process of its own."""
    torch.set_num_threads(1)
    rng, tok, buckets = random.Random(seed), Tok(tok_dir), Buckets(budget)
    while True:
        kind = rng.random()
        if kind < drills:
            document = data.drill(rng, rng.randint(8, 16))
        elif kind < drills + checks:
            document = data.check_drill(rng)
        elif kind < drills + checks + repeats:
            document = data.repeat_drill(rng)
        elif kind < drills + checks + repeats + compares:
            document = data.compare_drill(rng)
        elif kind < drills + checks + repeats + compares + claims:
            document = data.claim_drill(rng)
        else:
            document = data.document(rng)
        document = encode(tok, document)
        if len(document[0]) <= max_length and (full := buckets.add(document)):
            queue.put(collate(full[0], tok.pad, full[1]))


# ---------------------------------------------------------------------------------------------------- optimizer
def newton_schulz(gradient, steps=5):
    """The nearest (semi-)orthogonal matrix, about."""
    x = gradient.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.775 * square + 2.0315 * (square @ square)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: for the hidden matrices (and stacks of them)."""

    def __init__(self, params, lr=0.02, momentum=0.95):
        super().__init__(params, dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "m" not in state:
                    state["m"] = torch.zeros_like(p)
                momentum = state["m"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = newton_schulz(p.grad.lerp(momentum, group["momentum"]))
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)


# --------------------------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def heldout_scores(model, tok, n=24, mode="dense", seed=77):
    """Teacher-forced -> {role/family: (share of held-out documents whose every trained token is the argmax, loss)}."""
    model.eval()
    rng, scores, weights = random.Random(seed), {}, model.weights()
    for role in data.ROLES:
        for family in data.KEPT:
            documents = [data.document(rng, role, family, heldout=True, prompt_loss=False) for _ in range(n)]
            documents = [d for d in (encode(tok, d) for d in documents) if len(d[0]) <= 900]
            ids, targets = collate(documents, tok.pad)
            targets[(ids == tok.think_close).cumsum(1) == 0] = IGNORED  # the choice of plan is free
            hidden, _ = model(ids, mode, weights=weights)
            loss, logits, trained = model.loss(hidden, targets, weights[3])
            hit = torch.ones_like(trained)
            hit[trained] = logits.argmax(-1) == targets[trained] % DECISIVE
            scores[f"{role[:4]}/{family[:3]}"] = (hit.all(1).float().mean().item(), loss.item())
    model.train()
    return scores


@torch.no_grad()
def drafts_accepted(model, tok, n=24, seed=78):
    """Share of the tokens of held-out answers, by role, at which the multi-token-prediction layer guessed, one token ahead, what
    the model itself then says (both take the likeliest token)."""
    model.eval()
    rng, shares, weights = random.Random(seed), {}, model.weights()
    for role in data.ROLES:
        hits = count = 0
        for family in data.KEPT:
            documents = [data.document(rng, role, family, heldout=True, prompt_loss=False) for _ in range(n)]
            documents = [d for d in (encode(tok, d) for d in documents) if len(d[0]) <= 900]
            ids, targets = collate(documents, tok.pad)
            hidden, _ = model(ids, "sparse", weights=weights)
            drafted, _ = model.draft(ids, hidden, "sparse", weights=weights)
            head = weights[3].to(model.dtype)
            said = (hidden[:, 1:].to(model.dtype) @ head.mT).argmax(-1)
            guessed = (drafted.to(model.dtype) @ head.mT).argmax(-1)
            answer = targets[:, 1:] != IGNORED
            hits += int((said == guessed)[answer].sum())
            count += int(answer.sum())
        shares[role] = round(hits / count, 4)
    model.train()
    return shares


# ----------------------------------------------------------------------------------------------------- training
def arguments():
    parser = argparse.ArgumentParser(description="Trains the tiny proof model.")
    add = parser.add_argument
    add("run", help="folder of state.pt")
    add("--start", help="weights.safetensors to begin a run with")
    add("--phase", default="dense", choices=("dense", "index", "sparse", "mtp"))
    add("--tok", default="../porism-tiny", help="folder of tokenizer.json")
    add("--minutes", type=float, default=10, help="length of the run by the clock")
    add("--mtokens", type=float, default=0, help="length in million tokens, instead of --minutes")
    add("--steps", type=int, default=10**9, help="most steps of this run")
    add("--lr", type=float, default=0.02, help="rate of Muon")
    add("--adam", type=float, default=3e-3, help="rate of AdamW (norms, router, embedding, head)")
    add("--w0", type=float, default=1.0, help="rate multiplier at the start")
    add("--w1", type=float, default=1.0, help="and at the end (linear)")
    add("--budget", type=int, default=6144, help="tokens of a batch, per rank")
    add("--maxlen", type=int, default=800, help="longest document, in tokens")
    add("--drills", type=float, default=0.0, help="share of arithmetic drills among the documents")
    add("--checks", type=float, default=0.0, help="share of proofs whose every line is to be checked")
    add("--repeats", type=float, default=0.0, help="share of lines to be repeated as they are")
    add("--compares", type=float, default=0.0, help="share of evaluations of which only the verdicts are trained")
    add("--claims", type=float, default=0.0, help="share of gcd proofs of which only the sentence about the claim is trained")
    add("--follow", action="store_true", help="train the indexers along in the dense phase")
    add("--qat", action="store_true", help="train through the rounding of the export")
    add("--kl", type=float, default=1.0, help="weight of the indexers' loss")
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=1)
    add("--ranks", type=int, default=1, help="data-parallel processes")
    add("--rank", type=int, default=0, help="set by rank 0 for the others")
    add("--fp32", action="store_true")
    add("--eval-every", type=float, default=1800, help="seconds")
    add("--end-eval", type=int, default=16, help="documents per role and family at the end")
    return parser.parse_args()


class Run:
    """One run: model, optimizers, log, and the file they live in."""

    def __init__(self, args):
        self.args = args
        self.path = f"{args.run}/state.pt"
        self.tok = Tok(args.tok)
        self.model = Model(dict(CONFIG), torch.float32 if args.fp32 else torch.bfloat16)
        self.model.qat = args.qat
        self.log = {"tokens": 0, "trained": 0, "steps": 0, "seconds": 0.0}
        self.loaded = {}
        assert self.tok.size <= CONFIG["vocab_size"]
        if args.start:
            from safetensors.torch import load_file

            self.model.load_state_dict(load_file(args.start), strict=False)
        elif os.path.exists(self.path):
            self.loaded = torch.load(self.path, weights_only=False)
            self.model.load_state_dict(self.loaded["model"], strict=False)
            self.log = self.loaded["log"]
        self.parameters = {
            name: p for name, p in self.model.named_parameters() if name.startswith("mtp.") == (args.phase == "mtp")
        }
        for name, p in self.model.named_parameters():
            p.requires_grad_(name in self.parameters)
        layers = [self.model.mtp.layer] if args.phase == "mtp" else self.model.layers
        self.balanced = [layer for layer in layers if layer.moe]
        self.build_optimizers()

    def build_optimizers(self):
        args = self.args
        last = {name: name.split(".")[-1] for name in self.parameters}
        rest = {name: p for name, p in self.parameters.items() if last[name] not in INDEXER}
        muon = [p for name, p in rest.items() if p.dim() >= 2 and last[name] not in ADAM_ONLY]
        self.adam = [p for name, p in rest.items() if p.dim() < 2 or last[name] in ADAM_ONLY]
        self.indexer = [p for name, p in self.parameters.items() if last[name] in INDEXER]
        if args.phase == "index":
            for p in rest.values():
                p.requires_grad_(False)
        index_rate = 2e-3 if args.phase == "index" else 1e-3
        groups = [{"params": self.adam, "lr": args.adam}, {"params": self.indexer, "lr": index_rate}]
        self.optimizers = [Muon(muon, args.lr), torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)]
        self.rates = [[args.lr], [args.adam, index_rate]]
        if self.loaded.get("opt") and (self.loaded["phase"] == args.phase or args.phase == "sparse"):
            for optimizer, state in zip(self.optimizers, self.loaded["opt"]):
                optimizer.load_state_dict(state)

    def set_rate(self, multiplier):
        for optimizer, rates in zip(self.optimizers, self.rates):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * multiplier

    def save(self):
        keep = self.args.phase in ("index", "mtp")
        opt = self.loaded.get("opt", []) if keep else [o.state_dict() for o in self.optimizers]
        state = {"model": self.model.state_dict(), "opt": opt, "log": self.log}
        phase = self.loaded.get("phase", "dense") if keep else self.args.phase
        torch.save(state | {"phase": phase, "config": dict(CONFIG)}, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)

    def share_gradients(self, numbers):
        """Averages gradients, expert loads and the given numbers over the ranks -> the averaged numbers."""
        shared = [p.grad for p in self.parameters.values() if p.grad is not None]
        shared += [layer.load for layer in self.balanced]
        flat = torch.cat([t.flatten() for t in shared] + [torch.tensor(numbers, dtype=torch.float32)])
        dist.all_reduce(flat)
        flat /= self.args.ranks
        for t, part in zip(shared, flat.split([t.numel() for t in shared] + [len(numbers)])):
            t.copy_(part.view_as(t))
        return flat[-len(numbers) :].tolist()

    def step(self, ids, targets, multiplier, kl_layers):
        """One optimizer step -> tokens, trained tokens, loss, KL loss per layer."""
        args, model, phase = self.args, self.model, self.args.phase
        weights = model.weights()
        with torch.set_grad_enabled(phase != "mtp"):
            hidden, kl = model(ids, "sparse" if phase == "sparse" else "dense", kl_layers, weights)
        if phase == "mtp":
            hidden, kl = model.draft(ids, hidden, want_kl=True, weights=weights)
            targets, kl_layers = targets[:, 1:], (0,)
        with torch.set_grad_enabled(phase != "index"):
            loss, _, trained = model.loss(hidden, targets, weights[3], DECISIVE_WEIGHTS)
        (kl / len(kl_layers) if phase == "index" else loss + args.kl * kl).backward()
        numbers = [int((ids != self.tok.pad).sum()), int(trained.sum()), loss.item()]
        numbers.append(kl.item() / len(kl_layers) if kl_layers else 0.0)
        if args.ranks > 1:
            numbers = self.share_gradients(numbers)
            numbers[:2] = (n * args.ranks for n in numbers[:2])
        if phase != "index":
            torch.nn.utils.clip_grad_norm_(self.adam, 1.0)
        if kl_layers:
            torch.nn.utils.clip_grad_norm_(self.indexer, 1.0)
        self.set_rate(multiplier)
        for optimizer in self.optimizers[1:] if phase == "index" else self.optimizers:
            optimizer.step()
        for p in self.parameters.values():
            p.grad = None
        if phase != "index":
            model.update_bias(3e-3 * multiplier, self.balanced)
        return numbers

    def train(self):
        args, model, log = self.args, self.model, self.log
        context = mp.get_context("spawn")
        queue = context.Queue(24)
        seed = args.seed + 7919 * args.rank
        shares = (args.drills, args.checks, args.repeats, args.compares, args.claims)
        worker_args = (queue, args.tok, seed, args.budget, args.maxlen, *shares)
        producer = context.Process(target=worker, args=worker_args, daemon=True)
        producer.start()
        queue.get()
        began = logged = evaluated = saved = time.time()
        tokens_before, steps_before, window = log["tokens"], log["steps"], 0
        mean_loss = mean_kl = None
        layers, rng = len(model.layers), random.Random(args.seed)
        mode = "dense" if args.phase == "dense" else "sparse"
        begin = dict(log)

        def control(step):
            """Rank 0 decides for all: share of the run that is done, and whether to go on."""
            decision = torch.zeros(2)
            if args.rank == 0:
                by_tokens = (log["tokens"] - tokens_before) / (args.mtokens * 1e6) if args.mtokens else None
                decision[0] = by_tokens if args.mtokens else (time.time() - began) / (args.minutes * 60)
                decision[1] = float(step < args.steps and not os.path.exists(f"{args.run}/stop"))
            if args.ranks > 1:
                dist.all_reduce(decision)
            return decision.tolist()

        step = 0
        while (decision := control(step))[0] < 1 and decision[1]:
            warm_up = min(1, (step + 1) / (60 if steps_before < 60 else 10))
            multiplier = warm_up * (args.w0 + (args.w1 - args.w0) * decision[0])
            one = (rng.randrange(layers),)
            wanted = {"dense": one if args.follow else (), "index": range(layers), "sparse": one, "mtp": ()}
            kl_layers = wanted[args.phase]
            tokens, trained, loss, kl = self.step(*queue.get(), multiplier, kl_layers)
            step += 1
            if args.rank:
                continue
            log["tokens"] += round(tokens)
            log["trained"] += round(trained)
            log["steps"] += 1
            window += round(tokens)
            mean_loss = loss if mean_loss is None else 0.97 * mean_loss + 0.03 * loss
            mean_kl = kl if mean_kl is None else 0.95 * mean_kl + 0.05 * kl
            now = time.time()
            if now - logged > 20:
                load = torch.stack([layer.load for layer in self.balanced])
                line = {
                    "t": round(log["seconds"] + now - began),
                    "clock": time.strftime("%H:%M:%S"),
                    "phase": args.phase,
                    "step": log["steps"],
                    "tokens": log["tokens"],
                    "loss": round(mean_loss, 4),
                    "kl": round(mean_kl, 4),
                    "tok_s": round(window / (now - logged)),
                    "lr": round(multiplier, 3),
                    "load": [round(load.min().item(), 3), round(load.max().item(), 3)],
                }
                print(json.dumps(line), flush=True)
                logged, window = now, 0
            if now - evaluated > args.eval_every:
                evaluated = now
                self.report("HELDOUT", heldout_scores(model, self.tok, mode=mode))
            if now - saved > 120:
                saved = now
                self.save()
        producer.terminate()
        if args.rank == 0:
            log["seconds"] += time.time() - began
            if args.phase == "mtp":  # its tokens are counted apart: the model learned nothing from them
                log.update(begin, mtp_tokens=log["tokens"] - begin["tokens"] + log.get("mtp_tokens", 0))
            self.save()
            if args.phase == "mtp":
                print("END", json.dumps(self.log | {"accepted": drafts_accepted(model, self.tok, args.end_eval)}))
            else:
                self.report("END", heldout_scores(model, self.tok, args.end_eval, mode))

    def report(self, title, scores):
        exact = {key: [round(share, 2), round(loss, 3)] for key, (share, loss) in scores.items()}
        print(title, json.dumps({"phase": self.args.phase, **self.log, "exact, loss": exact}), flush=True)


def main():
    args = arguments()
    # Keep freed pages: no storm of page faults (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD).
    libc = ctypes.CDLL("libc.so.6")
    for option, value in ((-3, 2**31 - 1), (-1, 2**31 - 1), (-2, 2**27)):
        libc.mallopt(option, value)
    os.makedirs(args.run, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if args.ranks > 1:
        if args.rank == 0:
            for rank in range(1, args.ranks):
                subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--rank", str(rank)])
        address = "tcp://127.0.0.1:29517"
        dist.init_process_group("gloo", init_method=address, rank=args.rank, world_size=args.ranks)
    Run(args).train()


if __name__ == "__main__":
    main()
