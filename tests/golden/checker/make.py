"""Writes proofs.jsonl: generated proofs, right and corrupted, with the verdict of models/train/data.py.

    python make.py            from any directory

Of the first thousand a third is right, a third flawed the way the training data is, a third damaged further (lines
swapped, repeated, cut, unnumbered, signs changed), in all four families. The others are about false statements, with a
proof of what is so, a forged one, a damaged one or one of another problem; and right proofs of another problem.
"""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "models" / "train"))
import data  # noqa: E402

COUNT, FALSE_COUNT = 1000, 600


def damage(text, rng):
    """Something no solver would write."""
    lines = text.split("\n")
    kind = rng.randrange(8)
    i = rng.randrange(len(lines))
    if kind == 0 and len(lines) > 1:
        j = rng.randrange(len(lines) - 1)
        bodies = [line.split(". ", 1)[-1] for line in lines]
        bodies[j], bodies[j + 1] = bodies[j + 1], bodies[j]
        return data.number(bodies)
    if kind == 1:
        bodies = [line.split(". ", 1)[-1] for line in lines]
        return data.number(bodies[: i + 1] + bodies[i:])
    if kind == 2:
        return text[: rng.randrange(len(text))]
    if kind == 3:
        lines[i] = lines[i].split(". ", 1)[-1]
    elif kind == 4:
        lines[i] = lines[i].replace(" - ", " + ") if " - " in lines[i] else lines[i].replace(" + ", " - ")
    elif kind == 5:
        lines[i] = lines[i].rstrip(".")
    elif kind == 6:
        bodies = [line.split(". ", 1)[-1] for line in lines]
        del bodies[i]
        if bodies:
            del bodies[rng.randrange(len(bodies))]
        return data.number(bodies)
    else:
        lines[i] = data.edit_number(data.edit_number(lines[i], rng), rng)
    return "\n".join(lines)


def main():
    rng = random.Random(5)
    with open(HERE / "proofs.jsonl", "w", encoding="utf-8") as out:
        for i in range(COUNT):
            problem = data.random_problem(rng, data.FAMILIES[i % 4], heldout=rng.random() < 0.5)
            text = problem.text(rng)
            if problem.family == "gcd" and rng.random() < 0.05:
                text = text.rsplit("=" if "=" in text else "is", 1)[0]
                text += ("= " if text.endswith(" ") and "gcd" in text else "is ") + f"{rng.randint(1, 9)}."
                problem = data.parse_problem(text)
            if i % 3 == 0:
                solution = data.number(data.solve(problem))
            elif i % 3 == 1:
                solution = data.flawed(problem, rng)
            else:
                solution = damage(
                    data.flawed(problem, rng) if rng.random() < 0.3 else data.number(data.solve(problem)), rng
                )
            out.write(row(text, solution))
        for i in range(FALSE_COUNT):
            problem = data.random_false_problem(rng, data.KEPT[i % 3], heldout=rng.random() < 0.5)
            if i % 5 == 4:
                problem = data.random_problem(rng, data.KEPT[i % 3])
                solution = data.foreign(problem, rng)
            elif i % 5 == 3:
                solution = damage(rng.choice((data.number(data.solve(problem)), data.forged(problem, rng))), rng)
            else:
                solution = (data.number(data.solve(problem)), data.forged(problem, rng), data.flawed(problem, rng))[i % 5]
            out.write(row(problem.text(rng), solution))


def row(text, solution):
    evaluation = data.evaluate(data.parse_problem(text), solution)
    fields = {
        "problem": text,
        "solution": solution,
        "score": evaluation.score,
        "wrong_step": evaluation.bad,
        "evaluation": evaluation.text(),
    }
    return json.dumps(fields) + "\n"


if __name__ == "__main__":
    main()
