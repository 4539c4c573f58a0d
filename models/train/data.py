"""Synthetic, machine-checkable proof data for the tiny DeepSeek-V3.2 proof model.

Four families of problems (gcd, prime, linear, divides) and four roles (generate, verify, meta_verify, refine).
Nothing here is sampled from another model: proofs come from a solver, flawed proofs from a noisy solver and from
random edits, and every verdict comes from `evaluate`, a checker that parses the text of a proof and recomputes it.

    python data.py            prints samples and runs the self-test
"""

import hashlib
import math
import os
import random
import re
from collections import Counter

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
PAD = "<｜▁pad▁｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
SPECIALS = [BOS, EOS, PAD, USER, ASSISTANT, THINK_OPEN, THINK_CLOSE]

PROMPTS = {
    "generate": "Write a proof in numbered steps, then evaluate it.\nProblem: {problem}",
    "verify": "Check each step of this solution and score it.\nProblem: {problem}\nSolution:\n{solution}",
    "meta_verify": "Decide if this evaluation is right.\nProblem: {problem}\nSolution:\n{solution}\nEvaluation:\n{evaluation}",
    "refine": "Write a corrected proof, then evaluate it.\nProblem: {problem}\n{candidates}",
    "candidate": "Solution:\n{solution}\nEvaluation:\n{evaluation}",
}
ROLES = ("generate", "verify", "meta_verify", "refine")
ROLE_SHARES = (22, 40, 17, 21)
FALSE_SHARES = {"generate": 0.08, "verify": 0.2, "meta_verify": 0.1, "refine": 0.08}  # statements that do not hold
FOREIGN_SHARE = 0.05  # of the proofs to be verified, judged or refined: one of another problem
CARRIED_SHARE = 0.3  # of the flawed proofs to be verified: the right one with any of its numbers changed, often the last line's
BARE_SHARE = 0.12  # of the problems to be proved: without the role's prompt
FAMILIES = ("gcd", "prime", "linear", "divides")

# What the model is trained on. The prime family learns worst (long divisions of numbers of which half are held
# out), so the shares leave it out; solver and checker still know it.
FAMILY_SHARES = {"gcd": 48, "linear": 27, "divides": 25}
KEPT = tuple(FAMILY_SHARES)

# Largest numbers of the problems. Additions and subtractions are what such a small model learns last, so these
# keep all of them below about 180.
GCD_LARGER_MAX, GCD_SMALLER_MAX = 120, 40
LINEAR_FACTOR_MAX, LINEAR_X_MAX, LINEAR_SUMMAND_MAX = 10, 12, 40
DIVIDES_FACTOR_MAX, DIVIDES_SUMMAND_MAX = 12, 30

SUM_LINE_SHARE = 0.55  # of the lines of a drill
CLAIM_CHECKS = 0.35  # of the check drills: only the end of a proof, and whether it is what is claimed
SHORT_CHECKS = 0.5  # of the others
FALSE_DRILLS = 0.3  # of the drills: of a problem that does not hold

HELDOUT_PERCENT = {"gcd": 10, "prime": 48, "linear": 10, "divides": 10}
SMALL_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23)


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def least_factor(n):
    return next(d for d in range(2, n + 1) if n % d == 0)


def bound_prime(n):
    """The smallest prime whose square is above n."""
    return next(p for p in SMALL_PRIMES if p * p > n)


def opposite(sign):
    return "-" if sign == "+" else "+"


# ---------------------------------------------------------------------------------------------------- problems
class Problem:
    """A family and its parameters; `key` identifies the problem whatever its wording. What it states need not hold.

    gcd: (a, b) with the claimed value in `claim`; prime: (n,); linear: (a, sign, b, c) for ax ± b = c;
    divides: (d, u, v, sign, c) for "d divides u*v ± c", where d = 0 stands for "is even" and 1 for "is odd".
    """

    def __init__(self, family, parameters, claim=None):
        self.family = family
        self.parameters = tuple(parameters)
        self.claim = claim

    @property
    def key(self):
        return f"{self.family}:{self.parameters}"

    @property
    def claimed(self):
        """The value that is said to be the gcd."""
        return math.gcd(*self.parameters) if self.claim is None else self.claim

    @property
    def heldout(self):
        """Whether the problem is kept out of training: decided by a hash of its key."""
        digest = hashlib.sha256(self.key.encode()).hexdigest()
        return int(digest[:8], 16) % 100 < HELDOUT_PERCENT[self.family]

    @property
    def holds(self):
        """Whether what is to be proved is so; for an equation, whether an integer solves it."""
        if self.family == "gcd":
            return self.claim in (None, math.gcd(*self.parameters))
        if self.family == "linear":
            return linear_total(self.parameters) % self.parameters[0] == 0
        return self.family != "divides" or divides_holds(self.parameters)

    def texts(self):
        """Every wording, the most usual one first."""
        if self.family == "gcd":
            a, b = self.parameters
            g = self.claimed
            return [
                f"Prove that gcd({a}, {b}) = {g}.",
                f"Show that gcd({a}, {b}) = {g}.",
                f"Show that the greatest common divisor of {a} and {b} is {g}.",
            ]
        if self.family == "prime":
            (n,) = self.parameters
            if is_prime(n):
                return [f"Prove that {n} is prime.", f"Show that {n} is a prime number."]
            return [f"Prove that {n} is not prime.", f"Show that {n} is composite."]
        if self.family == "linear":
            a, sign, b, c = self.parameters
            equation = f"{a}x {sign} {b} = {c}"
            return [
                f"Find the integer x with {equation} and prove the answer is right.",
                f"Solve {equation} and prove the answer is right.",
            ]
        d = self.parameters[0]
        expression = divides_expression(self.parameters)
        if d == 0:
            return [f"Prove that {expression} is even.", f"Show that {expression} is even."]
        if d == 1:
            return [f"Prove that {expression} is odd.", f"Show that {expression} is odd."]
        return [f"Prove that {d} divides {expression}.", f"Show that {expression} is divisible by {d}."]

    def text(self, rng=None):
        texts = self.texts()
        return texts[0] if rng is None or rng.random() < 0.6 else rng.choice(texts[1:])

    def conclusion(self):
        """What is so, whatever is claimed."""
        if self.family == "gcd":
            a, b = self.parameters
            return f"gcd({a}, {b}) = {math.gcd(a, b)}"
        if self.family == "prime":
            (n,) = self.parameters
            return f"{n} is " + ("prime" if is_prime(n) else "not prime")
        if self.family == "linear":
            return f"x = {linear_solution(self.parameters)}" if self.holds else "x is no integer"
        return divides_claim(self.parameters) if self.holds else divides_denial(self.parameters)


def linear_total(parameters):
    """What ax must be."""
    _, sign, b, c = parameters
    return c - b if sign == "+" else c + b


def linear_solution(parameters):
    return linear_total(parameters) // parameters[0]


def mixed_number(numerator, denominator):
    """`7`, or `7 + 1/7` where something is left over."""
    whole, rest = divmod(numerator, denominator)
    return f"{whole} + {rest}/{denominator}" if rest else f"{whole}"


def divides_expression(parameters):
    _, u, v, sign, c = parameters
    return f"{u}*{v} {sign} {c}"


def divides_value(parameters):
    _, u, v, sign, c = parameters
    return u * v + (c if sign == "+" else -c)


def divides_claim(parameters):
    d = parameters[0]
    expression = divides_expression(parameters)
    if d == 0:
        return f"{expression} is even"
    if d == 1:
        return f"{expression} is odd"
    return f"{d} divides {expression}"


def divides_holds(parameters):
    d = parameters[0]
    return divides_value(parameters) % max(d, 2) == int(d == 1)


def divides_denial(parameters):
    """What is so if the claim is not."""
    d = parameters[0]
    expression = divides_expression(parameters)
    if d < 2:
        return f"{expression} is " + ("odd" if d == 0 else "even")
    return f"{d} does not divide {expression}"


def multiple(value, divisor):
    """`56 = 11*5 + 1`, or `55 = 11*5` where nothing is left over."""
    quotient, rest = divmod(value, divisor)
    return f"{value} = {divisor}*{quotient}" + (f" + {rest}" if rest else "")


def euclid(a, b):
    """Euclid's algorithm: a list of (dividend, quotient, divisor, remainder)."""
    out = []
    while b:
        out.append((a, a // b, b, a % b))
        a, b = b, a % b
    return out


def random_problem(rng, family=None, heldout=False):
    """A problem of the training set, or of the held-out set."""
    while True:
        f = family or rng.choices(KEPT, tuple(FAMILY_SHARES.values()))[0]
        if f == "gcd":
            b = rng.randint(4, GCD_SMALLER_MAX)
            a = rng.randint(b + 1, GCD_LARGER_MAX)
            divisions = euclid(a, b)
            if len(divisions) > 5 or any(q > 9 for _, q, _, _ in divisions):
                continue
            if len(divisions) == 1 and rng.random() < 0.7:
                continue
            problem = Problem(f, (a, b))
        elif f == "prime":
            n = rng.randint(50, 499)
            if not is_prime(n):
                # easy factors (2, 3, 5) are over-represented: thin them out
                factor = least_factor(n)
                if not heldout and factor < 7 and rng.random() < (0.75 if factor == 2 else 0.5):
                    continue
            problem = Problem(f, (n,))
        elif f == "linear":
            a, x = rng.randint(2, LINEAR_FACTOR_MAX), rng.randint(1, LINEAR_X_MAX)
            b, sign = rng.randint(1, LINEAR_SUMMAND_MAX), rng.choice("+-")
            c = a * x + (b if sign == "+" else -b)
            if c < 0:
                continue
            problem = Problem(f, (a, sign, b, c))
        else:
            u, v = rng.randint(2, DIVIDES_FACTOR_MAX), rng.randint(2, DIVIDES_FACTOR_MAX)
            sign, c = rng.choice("++-"), rng.randint(1, DIVIDES_SUMMAND_MAX)
            value = u * v + (c if sign == "+" else -c)
            if value < 4:
                continue
            if rng.random() < 0.15:
                d = 0 if value % 2 == 0 else 1
            else:
                divisors = [d for d in range(3, 13) if value % d == 0]
                if not divisors:
                    continue
                d = rng.choice(divisors)
            problem = Problem(f, (d, u, v, sign, c))
        if problem.heldout == heldout:
            return problem


def false_claim(a, b, rng):
    """A wrong value for gcd(a, b) that one might believe."""
    g = math.gcd(a, b)
    divisions = euclid(a, b)
    while True:
        kind = rng.random()
        if kind < 0.25:
            claim = g * rng.randint(2, 4)
        elif kind < 0.4:
            claim = rng.choice([d for d in range(1, g + 1) if g % d == 0])
        elif kind < 0.6:
            claim = rng.choice(rng.choice(divisions))
        elif kind < 0.85:
            claim = perturb(g, rng)
        else:
            claim = rng.randint(1, GCD_SMALLER_MAX)
        if claim not in (0, g):
            return claim


def random_false_problem(rng, family=None, heldout=False):
    """A problem whose statement does not hold, with numbers of the same size."""
    while True:
        f = family or rng.choices(KEPT, tuple(FAMILY_SHARES.values()))[0]
        problem = random_problem(rng, f, heldout)
        if f == "gcd":
            return Problem(f, problem.parameters, false_claim(*problem.parameters, rng))
        if f == "linear":
            a, sign, b, c = problem.parameters
            problem = Problem(f, (a, sign, b, c + rng.randint(1, a - 1)))
        elif f == "divides":
            d, *rest = problem.parameters
            if d < 2:
                d = 1 - d
            elif divisors := [d for d in range(3, 13) if divides_value(problem.parameters) % d]:
                d = rng.choice(divisors)
            problem = Problem(f, (d, *rest))
        if not problem.holds and problem.heldout == heldout:
            return problem


PROBLEM_GCD = re.compile(r"(?:gcd\((\d+), ?(\d+)\) = |greatest common divisor of (\d+) and (\d+) is )(\d+)\.?$")
PROBLEM_LINEAR = re.compile(r"(\d+)x ([+-]) (\d+) = (\d+)")
PROBLEM_DIVIDES = re.compile(
    r"(?:(\d+) divides )?(\d+)\*(\d+) ([+-]) (\d+)(?: is (even|odd)| is divisible by (\d+))?\.?$"
)
PROBLEM_PRIME = re.compile(r"(\d+) is (not prime|composite|prime|a prime number)\.?$")


def parse_problem(text):
    """The problem a text states, or None."""
    text = text.strip()
    if m := PROBLEM_GCD.search(text):
        a, b, a_words, b_words, g = m.groups()
        return Problem("gcd", (int(a or a_words), int(b or b_words)), int(g))
    if m := PROBLEM_LINEAR.search(text):
        return Problem("linear", (int(m[1]), m[2], int(m[3]), int(m[4])))
    if m := PROBLEM_DIVIDES.search(text):
        d = m[1] or m[7]
        d = int(d) if d else (0 if m[6] == "even" else 1)
        return Problem("divides", (d, int(m[2]), int(m[3]), m[4], int(m[5])))
    if m := PROBLEM_PRIME.search(text):
        return Problem("prime", (int(m[1]),))
    return None


# ------------------------------------------------------------------------------------------------------ proofs
def division_line(a, q, b, product=None, remainder=None):
    """`a - q*b = a - product = remainder.`; the last two are computed unless given."""
    product = q * b if product is None else product
    remainder = a - product if remainder is None else remainder
    return f"{a} - {q}*{b} = {a} - {product} = {remainder}."


def digits_and_sum(n):
    return " + ".join(str(n)), sum(map(int, str(n)))


def tested_primes(n):
    """The primes from 7 on that a proof of n's primality divides by."""
    return [d for d in SMALL_PRIMES if 7 <= d < bound_prime(n)]


def solve(problem):
    """The lines of the intended proof, without numbers in front. Of a statement that does not hold, what is so is proved."""
    f = problem.family
    if f == "gcd":
        a, b = problem.parameters
        g = math.gcd(a, b)
        lines = [division_line(x, q, y) for x, q, y, _ in euclid(a, b)]
        return lines + [f"The last nonzero remainder is {g}, so gcd({a}, {b}) = {g}."]
    if f == "prime":
        (n,) = problem.parameters
        if is_prime(n):
            bound = bound_prime(n)
            digits, total = digits_and_sum(n)
            return [
                f"{bound}*{bound} = {bound*bound} > {n}, so test the primes below {bound}.",
                f"{n} ends in {n % 10}, so 2 and 5 do not divide it.",
                f"{digits} = {total}, so 3 does not divide it.",
                *(division_line(n, n // d, d) for d in tested_primes(n)),
                f"So {n} is prime.",
            ]
        d = least_factor(n)
        return [f"{n // d}*{d} = {n}.", f"1 < {d} < {n}, so {n} is not prime."]
    if f == "linear":
        a, sign, b, c = problem.parameters
        x = linear_solution(problem.parameters)
        if not problem.holds:
            total = linear_total(problem.parameters)
            return [
                f"{a}x = {c} {opposite(sign)} {b} = {total}.",
                f"x = {total}/{a} = {mixed_number(total, a)}.",
                "So x is no integer.",
            ]
        return [
            f"{a}x = {c} {opposite(sign)} {b} = {a*x}.",
            f"x = {a*x}/{a} = {x}.",
            f"Check: {a}*{x} {sign} {b} = {a*x} {sign} {b} = {c}.",
            f"{a} is not 0, so x = {x} is the only solution.",
        ]
    d, u, v, sign, c = problem.parameters
    product = u * v
    value = divides_value(problem.parameters)
    return [
        f"{u}*{v} = {product}.",
        f"{product} {sign} {c} = {value}.",
        f"{multiple(value, max(d, 2))}.",
        f"So {problem.conclusion()}.",
    ]


PLANS = {
    "gcd": ("Divide until the remainder is 0.", "Use the Euclidean algorithm."),
    "linear": ("Isolate x, then check.", "Undo the operations in reverse."),
    "divides": ("Compute the value, then divide.", "Evaluate the expression first."),
    "verify": ("Recompute each step.", "Check the steps in order."),
    "meta_verify": ("Recheck the claim.", "Recompute what the evaluation says."),
}


def think(problem, rng):
    """The plan written inside <think>."""
    f = problem.family
    if f == "prime":
        (n,) = problem.parameters
        if is_prime(n):
            return "Test the small primes."
        digits, total = digits_and_sum(n)
        tries = [f"{n} ends in {n % 10}"]
        factor = least_factor(n)
        if factor == 3 or factor > 5:
            tries.append(f"{digits} = {total}")
        tries += [division_line(n, n // d, d)[:-1] for d in SMALL_PRIMES if 7 <= d <= factor]
        return "Find a factor: " + ", ".join(tries) + "."
    return rng.choice(PLANS[f])


def number(lines):
    return "\n".join(f"{i+1}. {line}" for i, line in enumerate(lines))


# ----------------------------------------------------------------------------------------------------- checker
DIVISION = re.compile(r"(\d+) - (\d+)\*(\d+) = (\d+) - (\d+) = (\d+)\.$")
PRODUCT = re.compile(r"(\d+)\*(\d+) = (\d+)\.$")
GCD_END = re.compile(r"The last nonzero remainder is (\d+), so gcd\((\d+), (\d+)\) = (\d+)\.$")
PRIME_BOUND = re.compile(r"(\d+)\*(\d+) = (\d+) > (\d+), so test the primes below (\d+)\.$")
PRIME_LAST_DIGIT = re.compile(r"(\d+) ends in (\d), so 2 and 5 do not divide it\.$")
PRIME_DIGIT_SUM = re.compile(r"(\d(?: \+ \d)*) = (\d+), so 3 does not divide it\.$")
PRIME_END = re.compile(r"So (\d+) is prime\.$")
COMPOSITE_END = re.compile(r"1 < (\d+) < (\d+), so (\d+) is not prime\.$")
LINEAR_ISOLATE = re.compile(r"(\d+)x = (\d+) ([+-]) (\d+) = (\d+)\.$")
LINEAR_DIVIDE = re.compile(r"x = (\d+)/(\d+) = (\d+)( \+ \d+/\d+)?\.$")
LINEAR_CHECK = re.compile(r"Check: (\d+)\*(\d+) ([+-]) (\d+) = (\d+) ([+-]) (\d+) = (\d+)\.$")
LINEAR_END = re.compile(r"(\d+) is not (\d+), so x = (\d+) is the only solution\.$")
LINEAR_NONE = re.compile(r"So x is no integer\.$")
DIVIDES_SUM = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)\.$")
DIVIDES_MULTIPLE = re.compile(r"(\d+) = (\d+)\*(\d+)( \+ \d+)?\.$")
DIVIDES_END = re.compile(r"So (.+)\.$")


def values(match):
    """The groups of a match, numbers as int."""
    return [int(x) if x and x.isdigit() else x for x in match.groups()]


def first_match(line, patterns):
    """(1-based index of the first pattern that matches, its match), or (0, None)."""
    for i, pattern in enumerate(patterns):
        if m := pattern.match(line):
            return i + 1, m
    return 0, None


def differ_only(pattern, line, right, groups):
    """Whether both lines match a pattern, with differences in no others than these groups."""
    mine, theirs = pattern.match(right), pattern.match(line)
    return bool(mine and theirs) and all(
        k in groups or mine[k] == theirs[k] for k in range(1, pattern.groups + 1)
    )


def prime_kind(line):
    """Which line of a proof of primality this is: the number of its pattern, and what it divides by if it divides."""
    kind, m = first_match(line, (PRIME_BOUND, PRIME_LAST_DIGIT, PRIME_DIGIT_SUM, PRIME_END, DIVISION))
    return kind, m[3] if m and m.re is DIVISION else None


class WrongStep(Exception):
    pass


def compared(claimed, right):
    """A line as the proof has it, and once more as it must be, as far as the two agree; then the word in which they
    differ -> (text, whether they agree).

    At each token the model knows what the proof says and what it computed itself; it goes on if both are the same. To be
    told by later tokens, what was computed last is known too late in so few layers."""
    if claimed == right:
        return f"{claimed}? {right}", True
    same = os.path.commonprefix((claimed, right))
    start = same.rfind(" ") + 1
    if same == claimed and right[len(same)] == " ":  # the line ends too early
        return f"{claimed}? {same}! {right[len(same) + 1 :]}", False
    if same[-1:].isalpha():  # words are compared whole, numbers digit by digit
        same = same[:start]
    word = right[start:].split(" ")[0].rstrip(",")
    return f"{claimed}? {same}! {word}", False


def gcd_end(a, b, last):
    """The last line of a gcd proof as it must be, without its full stop, if `last` is the last nonzero remainder."""
    return f"The last nonzero remainder is {last}, so gcd({a}, {b}) = {last}"


def divides_end(parameters, line, holds):
    """The last line as it must be, without its full stop: what is so, and what is claimed."""
    claim, denial = f"So {divides_claim(parameters)}", f"So {divides_denial(parameters)}"
    return claim if holds or line == denial + "." else denial


class Evaluation:
    """Recomputes a proof.

    `lines` is the evaluation text sentence by sentence, `bad` the first wrong step or None, `score` "1", "0.5" or
    "0".  `blind` holds step numbers whose error is overlooked; it is used only to make flawed evaluations.

    A sentence repeats the line and sets beside it what it must be: `Step 2: 7*8 = 54? 7*8 = 5! 56, wrong.` Every line of
    a proof is determined by the problem and the lines before it. Where a proof of a gcd ends well, one more sentence sets the
    value that was to be proved beside the one that was found: `Step 4: prove 12? prove ! 6, wrong.`
    """

    def __init__(self, problem, solution, blind=()):
        self.problem = problem
        self.blind = blind
        self.lines, self.step_of, self.kind_of = [], [], []
        self.bad, self.skips, self.slips = None, [], []
        self.saw_blind = False
        try:
            self.run(solution.strip().split("\n"))
        except WrongStep:
            pass
        if self.bad:
            self.score, self.final = "0", f"Step {self.bad} is wrong."
        elif self.skips:
            self.score, self.final = "0.5", "A step is skipped, the conclusion holds."
        elif self.slips:
            self.score, self.final = "0.5", "There is a slip, the conclusion holds."
        else:
            self.score, self.final = "1", "All steps hold."

    def text(self, score=None):
        return "\n".join(self.lines + [self.final, "\\boxed{%s}" % (score or self.score)])

    def add(self, step, text, kind="ok"):
        self.lines.append(f"Step {step}: {text}")
        self.step_of.append(step)
        self.kind_of.append(kind)

    def skip(self, step, text):
        self.add(step, f"skips {text}.", "skip")
        self.skips.append(step)

    def wrong(self, step, text):
        self.add(step, text + ", wrong.", "wrong")
        self.bad = step
        raise WrongStep

    def invalid(self, step):
        self.wrong(step, "not a valid step")

    def compare(self, step, line, right, slip=False, but=""):
        """Sets a line (with its full stop) beside the right one (without). A difference is a slip, or wrong and the end
        of the evaluation, unless the step is to be overlooked. `but` is what is wrong if there is no difference."""
        claimed = line[:-1]
        text, agree = compared(claimed, right) if right else (f"{claimed}? none", False)
        if agree and but:
            self.wrong(step, f"{text}, {but}")
        elif agree:
            self.add(step, text + ", ok.")
        elif slip:
            self.add(step, text + ", a slip.", "slip")
            self.slips.append(step)
        elif step in self.blind:
            self.saw_blind = True
            self.add(step, f"{claimed}? {claimed}, ok.")
        else:
            self.wrong(step, text)

    def run(self, raw_lines):
        lines = []
        for i, line in enumerate(raw_lines):
            prefix = f"{i+1}. "
            if not line.startswith(prefix):
                lines.append(None)
                break
            lines.append(line[len(prefix) :])
        f = self.problem.family
        if f == "gcd":
            self.gcd(lines)
        elif f == "prime":
            self.prime(lines) if is_prime(self.problem.parameters[0]) else self.composite(lines)
        elif f == "linear":
            self.linear(lines)
        else:
            self.divides(lines)

    def conclusion_missing(self, lines):
        self.wrong(len(lines) + 1, "the conclusion is missing")

    def gcd(self, lines):
        a, b = self.problem.parameters
        claim = self.problem.claimed
        x, y = a, b  # what is to be divided
        for i, line in enumerate(lines):
            step = i + 1
            if line is None:
                self.invalid(step)
            if m := DIVISION.match(line):
                dividend, _, divisor, _, _, remainder = values(m)
                if y == 0:
                    self.invalid(step)
                if not self.skips and x % y and (dividend, divisor) == (y, x % y):
                    self.skip(step, division_line(x, x // y, y)[:-1])
                    x, y = y, x % y
                self.compare(step, line, division_line(x, x // y, y)[:-1])
                x, y = divisor, remainder
            elif m := GCD_END.match(line):
                if step != len(lines):
                    self.invalid(step)
                if y:
                    if self.skips or x % y:
                        self.wrong(step, f"must divide {x} by {y}")
                    self.skip(step, division_line(x, x // y, y)[:-1])
                    x, y = y, 0
                self.compare(step, line, gcd_end(a, b, x))
                self.compare(step, f"prove {claim}.", f"prove {x}")
                return
            else:
                self.invalid(step)
        self.conclusion_missing(lines)

    def prime(self, lines):
        (n,) = self.problem.parameters
        right = solve(self.problem)
        kinds = [prime_kind(line) for line in right]
        stage = 0
        for i, line in enumerate(lines):
            step = i + 1
            if line is None:
                self.invalid(step)
            kind, this = prime_kind(line), stage
            if kind in kinds[stage:]:
                this = kinds.index(kind, stage)
            elif kind[0] != kinds[stage][0]:  # else a division by another number than is due
                self.invalid(step)
            for missing in right[stage:this]:
                if self.skips:
                    self.wrong(step, "too many steps are skipped")
                self.skip(step, missing[:-1])
            if this == len(right) - 1 and step != len(lines):
                self.invalid(step)
            # the square of the bound only says how far to test
            slip = differ_only(PRIME_BOUND, line, right[this], (3,))
            self.compare(step, line, right[this][:-1], slip)
            stage = this + 1
            if stage == len(right):
                return
        self.conclusion_missing(lines)

    def composite(self, lines):
        (n,) = self.problem.parameters
        factor = None
        for i, line in enumerate(lines):
            step = i + 1
            if line is None:
                self.invalid(step)
            if m := PRODUCT.match(line):
                d = int(m[2])
                if i or len(lines) < 2:
                    self.invalid(step)
                self.compare(step, line, f"{n//d}*{d} = {n}" if 1 < d < n and n % d == 0 else None)
                factor = d
            elif m := COMPOSITE_END.match(line):
                d = int(m[1])
                if step != len(lines):
                    self.invalid(step)
                if factor is None:
                    if not (1 < d < n and n % d == 0):
                        self.wrong(step, f"{d} does not divide {n}")
                    self.skip(step, f"{n//d}*{d} = {n}")
                    factor = d
                self.compare(step, line, f"1 < {factor} < {n}, so {n} is not prime")
                return
            else:
                self.invalid(step)
        self.conclusion_missing(lines)

    def linear(self, lines):
        a, sign, b, c = self.problem.parameters
        undo = opposite(sign)
        total = linear_total(self.problem.parameters)
        x, whole, stage = None, True, 0
        for i, line in enumerate(lines):
            step = i + 1
            if line is None:
                self.invalid(step)
            this, m = first_match(line, (LINEAR_ISOLATE, LINEAR_DIVIDE, LINEAR_CHECK, LINEAR_END, LINEAR_NONE))
            solvable = whole if x is not None else total % a == 0
            denial = this == 5
            if denial:
                this = 4 if solvable else 3
            if this <= stage or (this > 2 and not denial and not solvable):
                self.invalid(step)
            for missing in range(stage + 1, this):
                if self.skips:
                    self.wrong(step, "too many steps are skipped")
                if missing == 1:
                    self.skip(step, f"{c} {undo} {b} = {total}")
                elif missing == 2:
                    x, whole = total // a, total % a == 0
                    self.skip(step, f"{total}/{a} = {mixed_number(total, a)}")
                else:
                    if a * x != total:
                        self.wrong(step, "the check is missing")
                    self.skip(step, f"the check {a}*{x} {sign} {b} = {total} {sign} {b} = {c}")
            stage = this
            if this == 1:
                self.compare(step, line, f"{a}x = {c} {undo} {b} = {total}")
                total = int(m[5])
            elif this == 2:
                self.compare(step, line, f"x = {total}/{a} = {mixed_number(total, a)}")
                total, x, whole = int(m[1]), int(m[3]), not m[4]
            elif this == 3 and denial:
                # an integer is asked for
                if step != len(lines):
                    self.invalid(step)
                self.compare(step, line, "So x is an integer")
                return
            elif this == 3:
                product = a * x
                result = product + b if sign == "+" else product - b
                right = f"Check: {a}*{x} {sign} {b} = {product} {sign} {b} = {result}"
                # nothing stands on the two numbers that the check computes
                slip = differ_only(LINEAR_CHECK, line, right + ".", (5, 8))
                self.compare(step, line, right, slip, but=f"not {c}" if result != c else "")
            else:
                if step != len(lines):
                    self.invalid(step)
                self.compare(step, line, f"{a} is not 0, so x = {x} is the only solution")
                return
        self.conclusion_missing(lines)

    def divides(self, lines):
        d, u, v, sign, c = self.problem.parameters
        product = u * v
        value = divides_value(self.problem.parameters)
        stage = 0
        for i, line in enumerate(lines):
            step = i + 1
            if line is None:
                self.invalid(step)
            this, m = first_match(line, (PRODUCT, DIVIDES_SUM, DIVIDES_MULTIPLE, DIVIDES_END))
            if this <= stage:
                self.invalid(step)
            divided = multiple(value, max(d, 2))
            for missing in range(stage + 1, this):
                if self.skips:
                    self.wrong(step, "too many steps are skipped")
                self.skip(step, (f"{u}*{v} = {product}", f"{product} {sign} {c} = {value}", divided)[missing - 1])
            stage = this
            if this == 1:
                self.compare(step, line, f"{u}*{v} = {product}")
                value += int(m[3]) - product
                product = int(m[3])
            elif this == 2:
                self.compare(step, line, f"{product} {sign} {c} = {value}")
                value = int(m[4])
            elif this == 3:
                self.compare(step, line, divided)
            else:
                if step != len(lines):
                    self.invalid(step)
                holds = value % max(d, 2) == int(d == 1)
                self.compare(step, line, divides_end(self.problem.parameters, line, holds))
                return
        self.conclusion_missing(lines)


def evaluate(problem, solution, blind=()):
    return Evaluation(problem, solution, blind)


# ----------------------------------------------------------------------------------------------- flawed proofs
def perturb(value, rng):
    """A different number that looks like a slip: off by one or ten, two digits swapped, one digit replaced."""
    for _ in range(20):
        r = rng.random()
        digits = list(str(value))
        if r < 0.45:
            changed = value + rng.choice((-1, 1))
        elif r < 0.7:
            changed = value + rng.choice((-10, 10))
        elif r < 0.8:
            changed = value + rng.choice((-2, 2, 3, -3, 5))
        elif r < 0.9 and len(digits) > 1:
            i = rng.randrange(len(digits) - 1)
            digits[i], digits[i + 1] = digits[i + 1], digits[i]
            changed = int("".join(digits))
        else:
            i = rng.randrange(len(digits))
            digits[i] = str(rng.randint(0, 9))
            changed = int("".join(digits))
        if changed != value and changed >= 0:
            return changed
    return value + 1


def slip_of_the_last_digit(value, rng):
    """Another number with the same digits but the last: what a verifier overlooks longest."""
    return value - value % 10 + (value % 10 + rng.randint(1, 9)) % 10


def replace_number(line, match, value):
    return line[: match.start()] + str(value) + line[match.end() :]


def edit_number(line, rng):
    """The line with one of its numbers changed, often the last one."""
    matches = list(re.finditer(r"\d+", line))
    if not matches:
        return line
    m = matches[-1] if rng.random() < 0.35 else rng.choice(matches)
    return replace_number(line, m, perturb(int(m[0]), rng))


def noisy(problem, rng):
    """A solver that makes one arithmetic mistake and goes on from it."""
    f = problem.family
    if f == "gcd":
        a, b = problem.parameters
        x, y = a, b
        at = rng.randrange(len(euclid(a, b)))
        out = []
        for i in range(9):
            if y == 0:
                break
            q, product, r = x // y, x // y * y, x % y
            if i == at:
                kind = rng.random()
                if kind < 0.4:
                    r = min(perturb(r, rng), y - 1)
                elif kind < 0.7:
                    product = min(perturb(product, rng), x)
                    r = x - product
                elif kind < 0.85:
                    q = max(0, q - 1)
                    product = q * y
                    r = x - product
                else:
                    q = max(q + rng.choice((-1, 1)), 0)
            out.append(division_line(x, q, y, product, r))
            x, y = y, r
            if r >= x:
                y = r % x if rng.random() < 0.5 else r
        g = x if rng.random() < 0.7 else math.gcd(a, b)
        return out + [f"The last nonzero remainder is {x}, so gcd({a}, {b}) = {g}."]
    if f == "prime":
        (n,) = problem.parameters
        lines = solve(problem)
        if is_prime(n):
            i = rng.randrange(len(lines) - 1)
            if m := DIVISION.match(lines[i]):
                a, q, b, _, product, r = values(m)
                kind = rng.random()
                if kind < 0.4:
                    q += rng.choice((-1, 1))
                    product = product if rng.random() < 0.5 else q * b
                    lines[i] = division_line(a, q, b, product, max(a - product, 0))
                elif kind < 0.7:
                    lines[i] = division_line(a, q, b, product, perturb(r, rng))
                else:
                    product = perturb(product, rng)
                    lines[i] = division_line(a, q, b, product, max(0, a - product))
            else:
                lines[i] = edit_number(lines[i], rng)
            return lines
        d = rng.choice((2, 3, 5, 7, 11, 13, 17, 19)) if rng.random() < 0.5 else least_factor(n)
        q = n // d
        if d == least_factor(n):
            q = perturb(q, rng)
        return [f"{q}*{d} = {n if rng.random() < .8 else q*d}.", f"1 < {d} < {n}, so {n} is not prime."]
    if f == "linear":
        a, sign, b, c = problem.parameters
        operation = opposite(sign)
        total = linear_total(problem.parameters)
        x = total // a
        at = rng.random()
        if at < 0.15:
            operation = sign
            total = abs(c + b if sign == "+" else c - b)
            x = max(1, total // a)
        elif at < 0.5:
            total = perturb(total, rng)
            x = max(1, round(total / a))
        else:
            x = perturb(x, rng)
        product = a * x
        result = product + b if sign == "+" else max(0, product - b)
        if rng.random() < 0.5:
            result = c
        return [
            f"{a}x = {c} {operation} {b} = {total}.",
            f"x = {total}/{a} = {x}.",
            f"Check: {a}*{x} {sign} {b} = {product} {sign} {b} = {result}.",
            f"{a} is not 0, so x = {x} is the only solution.",
        ]
    d, u, v, sign, c = problem.parameters
    product = u * v
    at = rng.randrange(3)
    divisor = 2 if d < 2 else d
    tail = " + 1" if d == 1 else ""
    if at == 0:
        product = perturb(product, rng)
    value = max(0, product + c if sign == "+" else product - c)
    if at == 1:
        value = perturb(value, rng)
    quotient = value // divisor
    if at == 2:
        quotient = perturb(quotient, rng)
    return [
        f"{u}*{v} = {product}.",
        f"{product} {sign} {c} = {value}.",
        f"{value} = {divisor}*{quotient}{tail}.",
        f"So {divides_claim(problem.parameters)}.",
    ]


def flawed(problem, rng):
    """The text of a (usually) wrong or incomplete proof."""
    lines = solve(problem)
    r = rng.random()
    if r < 0.42:
        lines = noisy(problem, rng)
    elif r < 0.66:
        i = rng.randrange(len(lines))
        lines[i] = edit_number(lines[i], rng)
    elif r < 0.72:
        lines[-1] = edit_number(lines[-1], rng)
    elif r < 0.80 and problem.family in ("linear", "prime") and problem.holds:
        # a slip in a line that nothing later stands on: the check of an equation, the bound of a prime
        if problem.family == "linear" or is_prime(problem.parameters[0]):
            i = 2 if problem.family == "linear" else 0
            matches = list(re.finditer(r"\d+", lines[i]))
            m = matches[2] if problem.family == "prime" else rng.choice((matches[3], matches[-1]))
            lines[i] = replace_number(lines[i], m, perturb(int(m[0]), rng))
        else:
            del lines[0]
    else:
        del lines[rng.randrange(len(lines) - 1)]
    return number(lines)


def forged(problem, rng):
    """The text of a proof that bends something, at the end mostly, so that it comes out at what is claimed."""
    lines = solve(problem)
    if problem.family == "gcd":
        a, b = problem.parameters
        g = math.gcd(a, b)
        kind = rng.random()
        if kind < 0.2 and problem.claim > 0:
            # the division that the claimed value would need
            x, _, y, _ = euclid(a, b)[-1]
            q = max(1, x // problem.claim)
            lines[-2] = division_line(x, q, problem.claim, rng.choice((x, q * problem.claim)), 0)
        last = g if kind < 0.5 else problem.claim
        lines[-1] = f"The last nonzero remainder is {last}, so gcd({a}, {b}) = {problem.claim}."
    elif problem.family == "linear":
        a, sign, b, c = problem.parameters
        total = linear_total(problem.parameters)
        x = total // a + rng.choice((0, 0, 1))
        product = rng.choice((a * x, total))
        result = rng.choice((c, product + b if sign == "+" else product - b))
        if rng.random() < 0.75:
            lines[1] = f"x = {total}/{a} = {x}."
        lines[2:] = [f"Check: {a}*{x} {sign} {b} = {product} {sign} {b} = {max(result, 0)}."]
        lines.append(f"{a} is not 0, so x = {x} is the only solution.")
    else:
        d = max(problem.parameters[0], 2)
        value = divides_value(problem.parameters)
        if rng.random() < 0.6:
            quotient = value // d + rng.choice((0, 0, 1))
            lines[2] = f"{value} = {d}*{quotient}" + (" + 1." if problem.parameters[0] == 1 else ".")
        lines[3] = f"So {divides_claim(problem.parameters)}."
    return number(lines)


def foreign(problem, rng):
    """A right proof of another problem: one with other numbers, or of another family; sometimes its conclusion is ours."""
    kind = rng.random()
    if kind < 0.5:
        parameters = list(problem.parameters)
        i = rng.choice([i for i, x in enumerate(parameters) if x != "+" and x != "-" and x > 1])
        parameters[i] = perturb(parameters[i], rng)
        other = Problem(problem.family, parameters)
        if problem.family == "gcd":
            proper = 2 < parameters[1] < parameters[0]
        elif problem.family == "linear":
            proper = parameters[0] > 0 and linear_total(parameters) > parameters[0]
        else:
            proper = divides_value(parameters) > 0 and (i or parameters[0] > 1)
    else:
        other = random_problem(rng, problem.family if kind < 0.75 else rng.choice(KEPT))
        proper = True
    if not proper or other.heldout or other.key == problem.key:
        return foreign(problem, rng)
    lines = solve(other)
    if rng.random() < 0.35:
        lines[-1] = (forged(problem, rng) if not problem.holds else number(solve(problem))).split(". ")[-1]
    return number(lines)


def submitted(problem, rng, good_share):
    """A solution somebody hands in."""
    if rng.random() < FOREIGN_SHARE:
        return foreign(problem, rng)
    kind = rng.random()
    if problem.holds:
        return number(solve(problem)) if kind < good_share else flawed(problem, rng)
    if kind < 0.45:
        return number(solve(problem))
    return forged(problem, rng) if kind < 0.85 else flawed(problem, rng)


def flawed_evaluation(problem, solution, rng):
    """An evaluation that may be wrong -> (text, "real" | "false" | "missed" | "score")."""
    evaluation = Evaluation(problem, solution)
    if evaluation.bad:
        if rng.random() < 0.8:
            blind = Evaluation(problem, solution, blind=(evaluation.bad,))
            if blind.saw_blind and not blind.bad:
                return blind.text(), "missed"
    elif evaluation.score == "0.5" and rng.random() < 0.6:
        return evaluation.text(rng.choice(("0", "1"))), "score"
    accepted = [i for i, kind in enumerate(evaluation.kind_of) if kind == "ok"]
    if accepted:
        i = rng.choice(accepted)
        step = evaluation.step_of[i]
        claimed = evaluation.lines[i].split(": ", 1)[1].rsplit("? ", 1)[0]
        invented = compared(claimed, edit_number(claimed, rng))[0]
        defect = f"Step {step}: {invented}, wrong."
        return "\n".join(evaluation.lines[:i] + [defect, f"Step {step} is wrong.", "\\boxed{0}"]), "false"
    return evaluation.text(), "real"


def meta_target(problem, solution, evaluation_text):
    """What a careful meta-verifier writes about this evaluation, from the checker alone -> (text, score)."""
    evaluation = Evaluation(problem, solution)
    m = re.search(r"Step (\d+) is wrong\.\n", evaluation_text)
    score = re.search(r"boxed\{([\d.]+)\}", evaluation_text)[1]
    if m:
        step = int(m[1])
        mine = [line for line, s in zip(evaluation.lines, evaluation.step_of) if s == step]
        if evaluation.bad == step:
            return "\n".join(mine + ["The defect is real.", "\\boxed{1}"]), "1"
        if not mine:  # an earlier step is already wrong
            mine = [evaluation.lines[-1]]
        return "\n".join(mine + ["The defect is not real.", "\\boxed{0}"]), "0"
    if evaluation.bad:
        missed = f"The evaluation missed step {evaluation.bad}."
        return "\n".join(evaluation.lines + [missed, "\\boxed{0}"]), "0"
    if score != evaluation.score:
        return "\n".join(evaluation.lines + [f"The score must be {evaluation.score}.", "\\boxed{0.5}"]), "0.5"
    return "\n".join(evaluation.lines + ["The evaluation is right.", "\\boxed{1}"]), "1"


# --------------------------------------------------------------------------------------------------- documents
def proof_text(solution, evaluation):
    return f"## Solution\n{solution}\n\n## Self Evaluation\n{evaluation.text()}"


def candidate(solution, evaluation_text):
    return PROMPTS["candidate"].format(solution=solution, evaluation=evaluation_text)


def sum_line(rng):
    """An addition or subtraction of the size the problems need -> (given part, part to be trained)."""
    kind = rng.random()
    if kind < 0.3:
        x, y = rng.randint(2, 160), rng.randint(1, 40)
        return f"{x} + {y} = ", f"{x+y}"
    if kind < 0.5:
        x = rng.randint(1, 175)
        y = rng.randint(1, min(x, 40))
    else:
        x = rng.randint(5, GCD_LARGER_MAX)
        y = rng.randint(1, x)
    return f"{x} - {y} = ", f"{x-y}"


def drill_problem(rng):
    return (random_false_problem if rng.random() < FALSE_DRILLS else random_problem)(rng)


def drill_line(rng):
    """One arithmetic line of a training problem, in a form the proofs use -> (given part, part to be trained)."""
    problem = drill_problem(rng)
    f, parameters = problem.family, problem.parameters
    kind = rng.random()
    if f in ("gcd", "prime"):
        if f == "gcd":
            a, q, b, r = rng.choice(euclid(*parameters))
        else:
            (a,) = parameters
            b = rng.choice(tested_primes(a) if is_prime(a) or kind < 0.5 else [least_factor(a)])
            q, r = divmod(a, b)
        if kind < 0.25:
            return f"{q}*{b} = ", f"{q*b}"
        if kind < 0.4:
            return f"{a} - {q*b} = ", f"{r}"
        if kind < 0.5 and f == "prime":
            digits, total = digits_and_sum(a)
            return f"{digits} = ", f"{total}"
        return f"Divide {a} by {b}: {a} - ", f"{q}*{b} = {a} - {q*b} = {r}"
    if f == "linear":
        a, sign, b, c = parameters
        x, total = linear_solution(parameters), linear_total(parameters)
        if kind < 0.3:
            return f"{c} {opposite(sign)} {b} = ", f"{total}"
        if kind < 0.6:
            return f"{total}/{a} = ", mixed_number(total, a)
        if kind < 0.85 or not problem.holds:
            return f"{a}*{x} = ", f"{a*x}"
        return f"{a*x} {sign} {b} = ", f"{c}"
    d, u, v, sign, c = parameters
    value = divides_value(parameters)
    divisor = 2 if d < 2 else d
    if kind < 0.3:
        return f"{u}*{v} = ", f"{u*v}"
    if kind < 0.6:
        return f"{u*v} {sign} {c} = ", f"{value}"
    if kind < 0.85:
        return f"{value} = {divisor}*", multiple(value, divisor).split("*")[1]
    return f"{divisor}*{value//divisor} = ", f"{value//divisor*divisor}"


def drill(rng, lines=12):
    """A document of isolated arithmetic lines; only what is determined is trained."""
    segments = [(BOS, 0)]
    for _ in range(lines):
        given, answer = sum_line(rng) if rng.random() < SUM_LINE_SHARE else drill_line(rng)
        segments += [(given, 0), (answer + ".\n", 1)]
    return segments


def judged(claimed, right, name="wrong"):
    """A line of a proof and a verifier's sentence about it; `name` is what a difference is called."""
    text, agree = compared(claimed, right)
    return claimed + ".", f"{text}, " + ("ok." if agree else f"{name}.")


def check_lines(problem, rng, last_digits=0.3):
    """The computing lines of the intended proof, each right or with one number wrong, and a verifier's sentence
    about each -> list of (line, sentence). A share of the wrong numbers differs in the last digit only."""
    f, parameters = problem.family, problem.parameters

    def slip(value):
        return slip_of_the_last_digit(value, rng) if rng.random() < last_digits else perturb(value, rng)

    def maybe(value):
        return value if rng.random() < 0.5 else slip(value)

    def bent(right, rest):
        """A quotient, with what is left over dropped, invented or changed in half of the cases."""
        kind = rng.random()
        if kind < 0.5:
            return right
        quotient, *left = right.split(" + ")
        if kind < 0.75:
            return quotient if left else f"{quotient} + {rest}"
        if left and kind < 0.85:
            return f"{quotient} + {rest}" if rest != left[0] else quotient
        return " + ".join((str(slip(int(quotient))), *left))

    def add(claimed, right, name="wrong"):
        out.append(judged(claimed, right, name))

    out = []
    if f == "gcd":
        for a, q, b, r in euclid(*parameters):
            product = q * b
            claimed = slip(product) if rng.random() < 0.25 else product
            if claimed != product:
                line = division_line(a, q, b, claimed, max(0, a - claimed))
            else:
                line = division_line(a, q, b, product, slip(r) if rng.random() < 0.35 else r)
            add(line[:-1], division_line(a, q, b)[:-1])
    elif f == "linear":
        a, sign, b, c = parameters
        x, total = linear_solution(parameters), linear_total(parameters)
        isolated = f"{a}x = {c} {opposite(sign)} {b} = "
        add(isolated + str(maybe(total)), isolated + str(total))
        divided, right = f"x = {total}/{a} = ", mixed_number(total, a)
        add(divided + bent(right, f"{rng.randint(1, a - 1)}/{a}"), divided + right)
        if not problem.holds:
            return out
        claimed, result = (maybe(total), c) if rng.random() < 0.5 else (total, maybe(c))
        check = f"Check: {a}*{x} {sign} {b} = "
        add(f"{check}{claimed} {sign} {b} = {result}", f"{check}{total} {sign} {b} = {c}", "a slip")
    elif f == "divides":
        d, u, v, sign, c = parameters
        value, divisor = divides_value(parameters), max(d, 2)
        add(f"{u}*{v} = {maybe(u*v)}", f"{u}*{v} = {u*v}")
        add(f"{u*v} {sign} {c} = {maybe(value)}", f"{u*v} {sign} {c} = {value}")
        head, right = multiple(value, divisor).split("*")
        add(f"{head}*{bent(right, str(rng.randint(1, divisor - 1)))}", f"{head}*{right}")
    return out


def edited_lines(problem, rng):
    """All lines of the intended proof, about half of them with any of their numbers changed, those that are only carried
    over included, and a verifier's sentence about each -> list of (line, sentence)."""
    out = []
    for line in solve(problem):
        claimed = line if rng.random() < 0.5 else edit_number(line, rng)
        slip = problem.family == "linear" and differ_only(LINEAR_CHECK, claimed, line, (5, 8))
        out.append(judged(claimed[:-1], as_claimed(problem, line, claimed)[:-1], "a slip" if slip else "wrong"))
    return out


def as_claimed(problem, line, claimed):
    """What a line of the intended proof must be if it is given as `claimed`: the last one depends on the problem's claim."""
    if problem.family == "divides" and DIVIDES_END.match(line):
        return divides_end(problem.parameters, claimed, problem.holds) + "."
    return "So x is an integer." if LINEAR_NONE.match(line) else line


def claim_lines(rng):
    """The last two lines of a proof, the first one right, and a verifier's sentence about each: does the conclusion follow,
    and is it what is claimed? -> (problem, list of (line, sentence))"""
    family = rng.choices(KEPT, (70, 20, 10))[0]
    problem = (random_false_problem if rng.random() < 0.6 else random_problem)(rng, family)
    before, line = solve(problem)[-2:]
    claimed = line
    kind = rng.random()
    if family == "gcd":
        a, b = problem.parameters
        g, claim = math.gcd(a, b), problem.claim
        other = claim if claim is not None and rng.random() < 0.7 else false_claim(a, b, rng)
        if kind < 0.1:
            claimed = f"The last nonzero remainder is {g}, so gcd({a}, {b}) = {other}."
        elif kind < 0.2:
            claimed = f"The last nonzero remainder is {other}, so gcd({a}, {b}) = {other}."
        elif kind < 0.25:
            claimed = f"The last nonzero remainder is {other}, so gcd({a}, {b}) = {g}."
    elif family == "divides" and kind < 0.5:
        claimed = f"So {(divides_denial if problem.holds else divides_claim)(problem.parameters)}."
    pairs = [judged(before[:-1], before[:-1]), judged(claimed[:-1], as_claimed(problem, line, claimed)[:-1])]
    if family == "gcd" and claimed == line:
        pairs[-1] = (line, f"{pairs[-1][1]}\nStep 2: {judged(f'prove {problem.claimed}', f'prove {g}')[1]}")
    return problem, pairs


def check_drill(rng):
    """A proof in which about half of the lines have a wrong number, and a sentence about each line.

    In a verification at most one step is found wrong, so a verifier that copies the numbers instead of recomputing
    them is nearly always right; here it is not.
    """
    if rng.random() < CLAIM_CHECKS:
        problem, pairs = claim_lines(rng)
        lines, sentences = zip(*pairs)
        prompt = f"{BOS}{USER}Check each line.\nProblem: {problem.text(rng)}\nSolution:\n{number(lines)}"
    elif rng.random() < SHORT_CHECKS:
        # Few lines of different problems: near enough for the first steps in comparing numbers digit by digit.
        pairs = [rng.choice(check_lines(drill_problem(rng), rng, 0.75)) for _ in range(rng.randint(1, 3))]
        lines, sentences = zip(*pairs)
        prompt = f"{BOS}{USER}Check each line.\nSolution:\n{number(lines)}"
    else:
        problem = drill_problem(rng)
        changed = edited_lines if rng.random() < 0.6 else check_lines
        lines, sentences = zip(*changed(problem, rng))
        prompt = f"{BOS}{USER}Check each line.\nProblem: {problem.text(rng)}\nSolution:\n{number(lines)}"
    answer = "\n".join(f"Step {i+1}: {sentence}" for i, sentence in enumerate(sentences))
    return [(prompt + ASSISTANT + THINK_CLOSE, 0), (answer + EOS, 1)]


def repeat_drill(rng):
    """Lines, half of them with a wrong number, to be repeated as they are: a comparison needs what the proof says, not
    what is right."""
    if rng.random() < 0.5:
        lines = [line for line, _ in edited_lines(random_problem(rng), rng)]
    else:
        lines = [rng.choice(check_lines(random_problem(rng), rng, 0.6))[0] for _ in range(rng.randint(1, 4))]
    text = number(lines)
    return [(f"{BOS}{USER}Repeat each line.\nSolution:\n{text}{ASSISTANT}{THINK_CLOSE}", 0), (text + EOS, 1)]


def compare_drill(rng):
    """Sentences of an evaluation whose claims are given, to be set beside what they must be."""
    segments = [(BOS, 0)]
    for step in range(1, rng.randint(6, 12)):
        _, sentence = rng.choice(check_lines(drill_problem(rng), rng, 0.6))
        claimed, rest = sentence.split("? ", 1)
        segments += [(f"Step {step}: {claimed}? ", 0), (f"{rest}\n", 1)]
    return segments


def claim_drill(rng):
    """A gcd proof, or its end, that ends well, of which only what the verifier says about the claim is trained: to fetch the
    claimed value from the problem, where the proof has another one in the same place, is what such a model learns last."""
    problem = random_problem(rng, "gcd")
    a, b = problem.parameters
    kind = rng.random()
    if kind < 0.45:
        problem.claim = false_claim(a, b, rng)
    elif kind < 0.75:
        problem.claim = rng.randint(1, GCD_SMALLER_MAX)
    # Near first, then far: any number of the last lines, and of what was said about them.
    lines = solve(problem)
    lines = lines[-rng.randint(1, len(lines)) :]
    step = len(lines)
    said = [f"Step {i + 1}: {line[:-1]}? {line[:-1]}, ok.\n" for i, line in enumerate(lines)]
    if rng.random() < 0.6:
        said = said[step - rng.randint(0, step) :]
    prompt = PROMPTS["verify"].format(problem=problem.text(rng), solution=number(lines))
    given = "".join(said) + f"Step {step}: prove "
    answer = judged(f"prove {problem.claimed}", f"prove {math.gcd(a, b)}")[1]
    return [
        (f"{BOS}{USER}{prompt}{ASSISTANT}{THINK_OPEN}{rng.choice(PLANS['verify'])}{THINK_CLOSE}{given}", 0),
        (answer.removeprefix("prove "), 1),
    ]


EVALUATED = re.compile(r"(?:^|(?<=>))(Step \d+: )(?:(.*?)\? (.*?)(! [^,]*)?|.*), (ok|wrong|a slip)\.(?:$|(?=<))", re.M)


def decisions(text):
    """Where, in characters, an evaluation decides, and how much that decides: 1 at the start of a step's sentence, at its
    verdict, and where the line and what it must be differ, in both; 2 where they may differ for the claim's sake or for
    what is left over, whether they do or not -> {start: level}."""
    starts = {}
    for m in EVALUATED.finditer(text):
        starts |= {m.end(1): 1, m.start(5): 1}
        if not m[2]:
            continue
        line = m[2] + "."
        claim = line.startswith("prove ")
        if claim:  # to be fetched from the problem, digit by digit
            starts |= {m.start(2) + i: 2 for i in range(len("prove "), len(line))}
        ends = claim or DIVIDES_END.match(line)
        level = 2 if ends or LINEAR_DIVIDE.match(line) or DIVIDES_MULTIPLE.match(line) else 1
        if m[4]:
            starts |= {m.start(2) + len(m[3]): 2 if claim else 1, m.start(4): level}
        elif ends:
            starts |= {m.start(3) + m[3].rfind(" ") + 1: 2}
            if "divides" in m[3]:
                starts |= {m.start(3) + m[3].find("divides"): 2}
        elif level == 2:
            starts[m.end(3)] = 2
    return starts


def right_part(solution, evaluation):
    """The leading lines of a proof that the checker accepts (nothing if a step was skipped): safe to imitate."""
    if evaluation.skips or evaluation.slips:
        return ""
    lines = solution.split("\n")
    return "\n".join(lines[: evaluation.bad - 1] if evaluation.bad else lines)


def document(rng, role=None, family=None, heldout=False, pb=None, prompt_loss=True):
    """A training document -> list of (text, trained?) segments, starting with the prompt.

    The answer is always trained; inside prompts only the parts that are true are (correct proofs, right
    evaluations), so no mistake is ever imitated.
    """
    role = role or rng.choices(ROLES, ROLE_SHARES)[0]
    problem = pb or (random_false_problem if rng.random() < FALSE_SHARES[role] else random_problem)(rng, family, heldout)
    wording = problem.text(rng)
    no_thinking = rng.random() < 0.08
    tail = ASSISTANT + (THINK_CLOSE if no_thinking else THINK_OPEN)
    good = number(solve(problem))

    def thoughts(text):
        return "" if no_thinking else text + THINK_CLOSE

    def prompt(name, true_parts=(), **fields):
        content = PROMPTS[name].format(problem=wording, **fields)
        segments = [(BOS + USER, 0)]
        for part in true_parts if prompt_loss else ():
            i = content.find(part) if part else -1
            if i >= 0:
                segments += [(content[:i], 0), (part, 1)]
                content = content[i + len(part) :]
        return segments + [(content + tail, 0)]

    if role == "generate":
        # Whoever just asks gets a proof, too.
        bare = rng.random() < BARE_SHARE
        start = [(BOS + USER + wording + tail, 0)] if bare else prompt("generate")
        if rng.random() < 0.16:
            # honest self-evaluation of a flawed proof: the proof itself is not trained
            solution = submitted(problem, rng, 0)
            evaluation = Evaluation(problem, solution)
            head = thoughts(think(problem, rng)) + f"## Solution\n{solution}\n\n## Self Evaluation\n"
            return start + [(head, 0), (evaluation.text() + EOS, 1)]
        answer = thoughts(think(problem, rng)) + proof_text(good, Evaluation(problem, good)) + EOS
        return start + [(answer, 1)]

    solution = submitted(problem, rng, {"verify": 0.35, "meta_verify": 0.3, "refine": 0.07}[role])
    if role == "verify" and problem.holds and solution != good and rng.random() < CARRIED_SHARE:
        # a number in the wrong place: what a verifier that goes on from what it computed does not see
        lines = solve(problem)
        i = rng.choice((rng.randrange(len(lines)), -1))
        lines[i] = edit_number(lines[i], rng)
        solution = number(lines)
    evaluation = Evaluation(problem, solution)
    true_proof = right_part(solution, evaluation)
    if role == "verify":
        plan = rng.choice(PLANS[role])
        return prompt("verify", (true_proof,), solution=solution) + [
            (thoughts(plan) + evaluation.text() + EOS, 1)
        ]

    honest = rng.random() < (0.45 if role == "meta_verify" else 0.9)
    evaluation_text = evaluation.text() if honest else flawed_evaluation(problem, solution, rng)[0]
    true_evaluation = evaluation_text if evaluation_text == evaluation.text() else ""
    true_parts = (true_proof, true_evaluation)
    if role == "meta_verify":
        plan = rng.choice(PLANS[role])
        answer = thoughts(plan) + meta_target(problem, solution, evaluation_text)[0] + EOS
        return prompt("meta_verify", true_parts, solution=solution, evaluation=evaluation_text) + [(answer, 1)]

    candidates = [candidate(solution, evaluation_text)]
    if rng.random() < 0.12:
        second = flawed(problem, rng)
        candidates.append(candidate(second, Evaluation(problem, second).text()))
    verdict = evaluation_text.split("\n")[-2]
    plan = verdict + " " + think(problem, rng)
    answer = thoughts(plan) + proof_text(good, Evaluation(problem, good)) + EOS
    return prompt("refine", true_parts, candidates="\n".join(candidates)) + [(answer, 1)]


def intended_answers(role, problem, solution=None, evaluation_text=None):
    """What the model is trained to write after `<think>`, one for each plan it may choose."""
    if role in ("generate", "refine"):
        good = number(solve(problem))
        plans, text = PLANS[problem.family], proof_text(good, Evaluation(problem, good))
        if role == "refine":
            plans = [evaluation_text.split("\n")[-2] + " " + plan for plan in plans]
    elif role == "meta_verify":
        plans, text = PLANS[role], meta_target(problem, solution, evaluation_text)[0]
    else:
        plans, text = PLANS["verify"], Evaluation(problem, solution).text()
    return [plan + THINK_CLOSE + text + EOS for plan in plans]


# ---------------------------------------------------------------------------------------- reading model output
def chat(content):
    """The prompt of a role as the model reads it, ready to think."""
    return BOS + USER + content + ASSISTANT + THINK_OPEN


def split_output(text):
    """Model output after the prompt -> dict(think, solution, evaluation, score); missing parts are None."""
    out = {"think": None, "solution": None, "evaluation": None, "score": None}
    if THINK_CLOSE in text:
        out["think"], text = text.split(THINK_CLOSE, 1)
    text = text.split(EOS)[0]
    if m := re.search(r"## Solution\n(.*?)(?:\n\n## Self Evaluation\n(.*))?$", text, re.S):
        out["solution"], out["evaluation"] = m[1].strip(), m[2]
    else:
        out["evaluation"] = text
    if out["evaluation"] and (m := re.findall(r"\\boxed\{([^}]*)\}", out["evaluation"])):
        out["score"] = m[-1]
    return out


def self_test():
    rng = random.Random(1)
    for role in ROLES:
        for f in FAMILIES:
            print("=" * 30, role, f)
            segments = document(rng, role, f)
            print("".join(text if trained else "[" + text + "]" for text, trained in segments))
    scores, kinds = Counter(), Counter()
    for i in range(20000):
        problem = random_false_problem(rng, KEPT[i % len(KEPT)])
        parsed = parse_problem(problem.text(rng))
        assert parsed and parsed.key == problem.key and not parsed.holds and not problem.heldout, problem.texts()
        for solution in (number(solve(problem)), forged(problem, rng), flawed(problem, rng), foreign(problem, rng)):
            evaluation = Evaluation(problem, solution)
            assert evaluation.score == "0", (problem.texts(), evaluation.text())
            for line in evaluation.lines:
                kinds["false statement: " + re.sub(r"\d+", "N", line)] += 1
        evaluation = Evaluation(problem, number(solve(problem)))
        assert evaluation.bad == len(solve(problem)), evaluation.text()
        problem = random_problem(rng, FAMILIES[i % len(FAMILIES)])
        if problem.family in KEPT:
            assert Evaluation(problem, foreign(problem, rng)).score == "0"
        for text in problem.texts():
            parsed = parse_problem(text)
            assert parsed and parsed.key == problem.key and not problem.heldout, (text, problem.key)
        evaluation = Evaluation(problem, number(solve(problem)))
        assert evaluation.score == "1" and not evaluation.bad, (problem.key, evaluation.text())
        evaluation = Evaluation(problem, flawed(problem, rng))
        scores[problem.family, evaluation.score] += 1
        for line in evaluation.lines:
            kinds[re.sub(r"\d+", "N", line)] += 1
    print(sorted(scores.items()))
    print(*kinds.most_common(70), sep="\n")
    for f in FAMILIES:
        keys = {random_problem(rng, f, True).key for _ in range(4000)}
        print(f, len(keys), "held-out keys seen in 4000 draws")


if __name__ == "__main__":
    self_test()
