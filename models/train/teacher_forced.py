"""Share of held-out documents whose every answer token is the argmax, of an exported checkpoint: fast, no sampling.

python teacher_forced.py MODEL_DIR [N per role and family]
"""

import sys

import torch

import evaluate
from tok import Tok
from train import heldout_scores


def main():
    directory, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    torch.set_num_threads(1)
    model, tok = evaluate.load(directory), Tok(directory)
    totals = {}
    rounds = max(n // 10, 1)
    for seed in range(rounds):
        for key, (share, loss) in heldout_scores(model, tok, 10, "sparse", seed=500 + seed).items():
            total = totals.setdefault(key, [0.0, 0.0])
            total[0] += share / rounds
            total[1] += loss / rounds
        model.eval()
    for key, (share, loss) in totals.items():
        print(f"{key}: exact {share:.3f}, loss {loss:.4f}")


if __name__ == "__main__":
    main()
