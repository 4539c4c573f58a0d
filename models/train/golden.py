"""Held-out documents through the plain reference: writes MODEL_DIR/golden.safetensors and compares with model.py.

    python golden.py MODEL_DIR FOLDER_OF_ref_dsv32.py

`input_ids_N` [tokens] I32 and `logits_N` [tokens, vocabulary] F32: the reference in float64 (weights dequantised
exactly, activations not quantised). Prints the largest difference of model.py's float32 logits and whether every
argmax is the same; exits with 1 if the difference exceeds 1e-3 or an argmax differs.
"""

import random
import sys

import torch
from safetensors.torch import save_file

import data
import evaluate
from tok import Tok

DOCUMENTS = (("generate", "gcd"), ("verify", "linear"), ("refine", "divides"))
TOLERANCE = 1e-3


def main():
    directory, reference_folder = sys.argv[1:3]
    sys.path.insert(0, reference_folder)
    from ref_dsv32 import Ref

    tok, model, reference = Tok(directory), evaluate.load(directory), Ref(directory)
    rng, golden, good = random.Random(3), {}, True
    for i, (role, family) in enumerate(DOCUMENTS):
        text = "".join(part for part, _ in data.document(rng, role, family, heldout=True))
        ids = tok.encode(text)
        expected = reference.prefill(ids)
        with torch.no_grad():
            weights = model.weights()
            hidden, _ = model(torch.tensor([ids]), "sparse", weights=weights)
            found = (hidden[0] @ weights[3].mT).double()
        difference = (found - expected).abs().max().item()
        same = bool((found.argmax(-1) == expected.argmax(-1)).all())
        good &= same and difference <= TOLERANCE
        print(
            role,
            family,
            len(ids),
            f"tokens: largest difference {difference:.1e}",
            "same argmax" if same else "ARGMAX DIFFERS",
        )
        golden[f"input_ids_{i}"] = torch.tensor(ids, dtype=torch.int32)
        golden[f"logits_{i}"] = expected.float().contiguous()
    save_file(golden, f"{directory}/golden.safetensors")
    sys.exit(not good)


if __name__ == "__main__":
    main()
