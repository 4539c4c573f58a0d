"""Writes held-out problems (never trained on) as JSON lines.

python heldout.py OUT.jsonl [N per family]
"""

import json
import random
import sys

import data


def heldout_problems(family, n):
    """n different held-out problems of a family, or all there are."""
    rng, found = random.Random(1000), {}
    for _ in range(40000):
        problem = data.random_problem(rng, family, heldout=True)
        found.setdefault(problem.key, problem)
        if len(found) >= n:
            break
    return list(found.values())


def main():
    out, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 250
    with open(out, "w") as file:
        for family in data.KEPT:
            problems = heldout_problems(family, n)
            for problem in problems:
                row = {"problem": problem.text(), "family": family, "conclusion": problem.conclusion()}
                file.write(json.dumps(row) + "\n")
            print(family, len(problems))


if __name__ == "__main__":
    main()
