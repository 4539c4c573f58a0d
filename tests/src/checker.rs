//! Checks proofs of the demo model's domain by recomputing every step.
//!
//! The domain has four families of problems: greatest common divisors by Euclid's algorithm, small primes,
//! linear equations and divisibility. [`evaluate`] reads a numbered proof line by line and writes what a careful
//! verifier would write about it. It follows `evaluate` in `models/train/data.py` sentence by sentence, so the
//! texts can be compared as well as the verdicts; the only difference is that numbers of more than
//! [`MAX_DIGITS`] digits count as unreadable here.

use std::fmt::Write as _;

/// Longest number that is read, in digits. Products of two such numbers still fit an `i128`.
pub const MAX_DIGITS: usize = 18;

/// The primes that may bound the search for a divisor; they cover every number below 23 * 23.
const SMALL_PRIMES: [i128; 9] = [2, 3, 5, 7, 11, 13, 17, 19, 23];

/// One above the largest number of the prime family.
const PRIME_LIMIT: i128 = 23 * 23;

/// `+` or `-`, as it stands between two numbers of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Addition.
    Plus,
    /// Subtraction.
    Minus,
}

impl Sign {
    fn apply(self, left: i128, right: i128) -> i128 {
        match self {
            Sign::Plus => left + right,
            Sign::Minus => left - right,
        }
    }

    fn opposite(self) -> Sign {
        match self {
            Sign::Plus => Sign::Minus,
            Sign::Minus => Sign::Plus,
        }
    }
}

impl std::fmt::Display for Sign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sign::Plus => "+",
            Sign::Minus => "-",
        })
    }
}

/// What is claimed of the value of `u*v ± c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is even.
    Even,
    /// It is odd.
    Odd,
    /// This number divides it (2 or more).
    DivisibleBy(i128),
}

impl Claim {
    /// The number the value is divided by, and the remainder that must be left.
    fn divisor_and_remainder(self) -> (i128, i128) {
        match self {
            Claim::Even => (2, 0),
            Claim::Odd => (2, 1),
            Claim::DivisibleBy(divisor) => (divisor, 0),
        }
    }
}

/// A problem of the demo's domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// `gcd(a, b) = claim`.
    Gcd {
        /// First number.
        a: i128,
        /// Second number.
        b: i128,
        /// The value the problem states, right or not.
        claim: i128,
    },
    /// `n` is prime, or is not: which of them is true decides the proof that is wanted.
    Prime {
        /// The number, 2 to 528.
        n: i128,
    },
    /// `ax ± b = c`.
    Linear {
        /// Factor of x, 1 or more.
        a: i128,
        /// Sign of `b`.
        sign: Sign,
        /// What is added or subtracted.
        b: i128,
        /// Right-hand side.
        c: i128,
    },
    /// Something about `u*v ± c`.
    Divides {
        /// What is claimed.
        claim: Claim,
        /// First factor.
        u: i128,
        /// Second factor.
        v: i128,
        /// Sign of `c`.
        sign: Sign,
        /// What is added or subtracted.
        c: i128,
    },
}

impl Problem {
    /// Reads a problem in one of the wordings the demo model was trained on; `None` for anything else.
    pub fn parse(text: &str) -> Option<Problem> {
        let text = text.trim();
        let text = text.strip_suffix('.').unwrap_or(text);
        for pattern in ["gcd(#, #) = #", "gcd(#,#) = #", "the greatest common divisor of # and # is #"] {
            if let Some([a, b, claim]) = after_any(text, &["Prove that ", "Show that "], pattern) {
                return Some(Problem::Gcd { a, b, claim });
            }
        }
        for pattern in ["# is prime", "# is a prime number", "# is not prime", "# is composite"] {
            if let Some([n]) = after_any(text, &["Prove that ", "Show that "], pattern) {
                return (2..PRIME_LIMIT).contains(&n).then_some(Problem::Prime { n });
            }
        }
        for pattern in [
            "Find the integer x with #x ± # = # and prove the answer is right",
            "Solve #x ± # = # and prove the answer is right",
        ] {
            if let Some([a, sign, b, c]) = numbers(text, pattern) {
                return (a > 0).then_some(Problem::Linear { a, sign: sign_of(sign), b, c });
            }
        }
        let expression =
            |claim, [u, v, sign, c]: [i128; 4]| Problem::Divides { claim, u, v, sign: sign_of(sign), c };
        for (pattern, claim) in [("#*# ± # is even", Claim::Even), ("#*# ± # is odd", Claim::Odd)] {
            if let Some(found) = after_any(text, &["Prove that ", "Show that "], pattern) {
                return Some(expression(claim, found));
            }
        }
        let (divisor, found) = if let Some([d, u, v, s, c]) =
            after_any(text, &["Prove that ", "Show that "], "# divides #*# ± #")
        {
            (d, [u, v, s, c])
        } else {
            let [u, v, s, c, d] =
                after_any(text, &["Prove that ", "Show that "], "#*# ± # is divisible by #")?;
            (d, [u, v, s, c])
        };
        (divisor > 1).then(|| expression(Claim::DivisibleBy(divisor), found))
    }
}

/// The verifier's mark for a whole proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// A step is wrong.
    Wrong,
    /// One step is skipped or a check line has a slip, and the conclusion holds.
    Half,
    /// Every step holds.
    Right,
}

impl Score {
    /// The mark as it stands in `\boxed{…}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Score::Wrong => "0",
            Score::Half => "0.5",
            Score::Right => "1",
        }
    }
}

/// What recomputing a proof showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// One sentence per step, in order, up to the first wrong one.
    pub lines: Vec<String>,
    /// Number of the first wrong step, counted from 1; one past the last line if the conclusion is missing.
    pub wrong_step: Option<usize>,
    /// Steps before which another one is missing.
    pub skips: Vec<usize>,
    /// Check lines with a slip of the pen.
    pub slips: Vec<usize>,
}

impl Evaluation {
    /// The mark for the whole proof.
    pub fn score(&self) -> Score {
        if self.wrong_step.is_some() {
            Score::Wrong
        } else if self.skips.is_empty() && self.slips.is_empty() {
            Score::Right
        } else {
            Score::Half
        }
    }

    /// The whole text a verifier should write: the sentences, the summary and the boxed score.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        match self.wrong_step {
            Some(step) => _ = write!(text, "Step {step} is wrong."),
            None if !self.skips.is_empty() => text.push_str("A step is skipped, the conclusion holds."),
            None if !self.slips.is_empty() => text.push_str("There is a slip, the conclusion holds."),
            None => text.push_str("All steps hold."),
        }
        _ = write!(text, "\n\\boxed{{{}}}", self.score().as_str());
        text
    }
}

/// Recomputes a proof: `solution` is the text of the `## Solution` section, lines numbered `1. ` onwards.
pub fn evaluate(problem: &Problem, solution: &str) -> Evaluation {
    let mut steps = Vec::new();
    for (index, line) in solution.trim().split('\n').enumerate() {
        let step = line.strip_prefix(&format!("{}. ", index + 1));
        steps.push(step);
        if step.is_none() {
            break;
        }
    }
    let mut report = Report {
        evaluation: Evaluation { lines: Vec::new(), wrong_step: None, skips: Vec::new(), slips: Vec::new() },
    };
    let verdict = match *problem {
        Problem::Gcd { a, b, claim } => report.gcd(&steps, a, b, claim),
        Problem::Prime { n } if is_prime(n) => report.prime(&steps, n),
        Problem::Prime { n } => report.composite(&steps, n),
        Problem::Linear { a, sign, b, c } => report.linear(&steps, a, sign, b, c),
        Problem::Divides { claim, u, v, sign, c } => report.divides(&steps, claim, [u, v, c], sign),
    };
    debug_assert_eq!(
        verdict.is_err(),
        report.evaluation.wrong_step.is_some(),
        "a wrong step ends the reading"
    );
    report.evaluation
}

/// The parts of a model's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// What stands before `</think>`.
    pub think: Option<String>,
    /// The `## Solution` section without its heading, for answers that have one.
    pub solution: Option<String>,
    /// The `## Self Evaluation` section, or the whole answer of a verifier.
    pub evaluation: Option<String>,
    /// The last `\boxed{…}` of the evaluation.
    pub score: Option<String>,
}

/// Splits what a model wrote after its prompt into thoughts, proof, evaluation and score.
pub fn split_output(text: &str) -> Output {
    let mut output = Output::default();
    let mut rest = text;
    if let Some((think, after)) = rest.split_once("</think>") {
        output.think = Some(think.to_owned());
        rest = after;
    }
    rest = rest.split("<｜end▁of▁sentence｜>").next().unwrap_or_default();
    if let Some((_, section)) = rest.split_once("## Solution\n") {
        let (solution, evaluation) = match section.split_once("\n\n## Self Evaluation\n") {
            Some((solution, evaluation)) => (solution, Some(evaluation.to_owned())),
            None => (section, None),
        };
        output.solution = Some(solution.trim().to_owned());
        output.evaluation = evaluation;
    } else {
        output.evaluation = Some(rest.to_owned());
    }
    output.score = output.evaluation.as_deref().and_then(|evaluation| {
        let boxes = evaluation.match_indices("\\boxed{").filter_map(|(at, head)| {
            let inside = &evaluation[at + head.len()..];
            inside.find('}').map(|end| inside[..end].to_owned())
        });
        boxes.last()
    });
    output
}

/// A wrong step was met and written down: nothing after it is read.
struct WrongStep;

type Checked<T = ()> = Result<T, WrongStep>;

struct Report {
    evaluation: Evaluation,
}

impl Report {
    fn add(&mut self, step: usize, text: &str) {
        self.evaluation.lines.push(format!("Step {step}: {text}"));
    }

    fn ok(&mut self, step: usize, text: &str) {
        self.add(step, &format!("{text}, ok."));
    }

    fn skip(&mut self, step: usize, missing: &str) {
        self.add(step, &format!("skips {missing}."));
        self.evaluation.skips.push(step);
    }

    fn slip(&mut self, step: usize, text: &str) {
        self.add(step, &format!("{text}, a slip."));
        self.evaluation.slips.push(step);
    }

    fn wrong<T>(&mut self, step: usize, text: &str) -> Checked<T> {
        self.add(step, &format!("{text}, wrong."));
        self.evaluation.wrong_step = Some(step);
        Err(WrongStep)
    }

    fn invalid<T>(&mut self, step: usize) -> Checked<T> {
        self.wrong(step, "not a valid step")
    }

    fn conclusion_missing(&mut self, steps: &[Option<&str>]) -> Checked {
        self.wrong(steps.len() + 1, "the conclusion is missing")
    }

    fn has_skips(&self) -> bool {
        !self.evaluation.skips.is_empty()
    }

    /// `a - q*b = a - p = r`: the product, the difference, and that the remainder is below the divisor.
    fn division(&mut self, step: usize, [a, q, b, a_again, p, r]: [i128; 6]) -> Checked {
        if a_again != a {
            return self.invalid(step);
        }
        let product = q * b;
        if p != product {
            return self.wrong(step, &format!("{q}*{b} = {product}, not {p}"));
        }
        if p > a {
            return self.wrong(step, &format!("{q}*{b} = {product}, more than {a}"));
        }
        if r != a - p {
            return self.wrong(step, &format!("{q}*{b} = {product}, {a} - {p} = {}, not {r}", a - p));
        }
        if r >= b {
            return self.wrong(step, &format!("{q}*{b} = {product}, {a} - {p} = {r}, too large"));
        }
        self.ok(step, &format!("{q}*{b} = {product}, {a} - {p} = {r}"));
        Ok(())
    }

    fn gcd(&mut self, steps: &[Option<&str>], a: i128, b: i128, claim: i128) -> Checked {
        let (mut x, mut y) = (a, b);
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            if let Some(found) = numbers(line, DIVISION) {
                let [dividend, _, divisor, _, _, remainder]: [i128; 6] = found;
                if y == 0 || divisor == 0 {
                    return self.invalid(step);
                }
                if (dividend, divisor) != (x, y) {
                    let (next_x, next_y) = (y, x % y);
                    if self.has_skips() || next_y == 0 || (dividend, divisor) != (next_x, next_y) {
                        return self.wrong(step, &format!("must divide {x} by {y}"));
                    }
                    self.skip(step, &division_text(x, y));
                }
                self.division(step, found)?;
                (x, y) = (divisor, remainder);
            } else if let Some([g, first, second, result]) =
                numbers(line, "The last nonzero remainder is #, so gcd(#, #) = #.")
            {
                if step != steps.len() {
                    return self.invalid(step);
                }
                if y != 0 {
                    if self.has_skips() || x % y != 0 {
                        return self.wrong(step, &format!("must divide {x} by {y}"));
                    }
                    self.skip(step, &division_text(x, y));
                    x = y;
                }
                if (first, second) != (a, b) {
                    return self.invalid(step);
                }
                for value in [g, result] {
                    if value != x {
                        return self.wrong(step, &format!("the last nonzero remainder is {x}, not {value}"));
                    }
                }
                if claim != x {
                    return self.wrong(step, &format!("the claim is {claim}"));
                }
                self.ok(step, &format!("the last nonzero remainder is {x}"));
                return Ok(());
            } else {
                return self.invalid(step);
            }
        }
        self.conclusion_missing(steps)
    }

    fn prime(&mut self, steps: &[Option<&str>], n: i128) -> Checked {
        let bound = bound_prime(n);
        let (digits, digit_sum) = digits_and_sum(n);
        let tests = SMALL_PRIMES.into_iter().filter(|&d| (7..bound).contains(&d)).map(PrimeStep::Division);
        let mut wanted = vec![PrimeStep::Bound, PrimeStep::LastDigit, PrimeStep::DigitSum];
        wanted.extend(tests);
        wanted.push(PrimeStep::Conclusion);
        let mut next = 0;
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            let Some(read) = ReadPrimeStep::parse(line) else { return self.invalid(step) };
            let kind = read.kind();
            if !wanted[next..].contains(&kind) {
                return match (kind, wanted[next]) {
                    (PrimeStep::Division(_), PrimeStep::Division(d)) => {
                        self.wrong(step, &format!("must divide {n} by {d}"))
                    }
                    _ => self.invalid(step),
                };
            }
            while wanted[next] != kind {
                if self.has_skips() {
                    return self.wrong(step, "too many steps are skipped");
                }
                let missing = match wanted[next] {
                    PrimeStep::Bound => format!("{bound}*{bound} = {} > {n}", bound * bound),
                    PrimeStep::LastDigit => format!("{n} ends in {}", n % 10),
                    PrimeStep::DigitSum => format!("{digits} = {digit_sum}"),
                    PrimeStep::Division(d) => division_text(n, d),
                    // cannot happen: the conclusion is the last step there is
                    PrimeStep::Conclusion => return self.invalid(step),
                };
                self.skip(step, &missing);
                next += 1;
            }
            next += 1;
            match read {
                ReadPrimeStep::Bound([left, right, square, number, below]) => {
                    let text = format!("{bound}*{bound} = {}", bound * bound);
                    if (left, right, below, number) != (bound, bound, bound, n) {
                        return self.wrong(step, &format!("the bound must be {text}"));
                    }
                    if square == bound * bound {
                        self.ok(step, &text);
                    } else {
                        self.slip(step, &format!("{text}, not {square}"));
                    }
                }
                ReadPrimeStep::LastDigit([number, digit]) => {
                    if number != n {
                        return self.invalid(step);
                    }
                    if digit != n % 10 {
                        return self.wrong(step, &format!("{n} ends in {}, not {digit}", n % 10));
                    }
                    self.ok(step, &format!("{n} ends in {digit}"));
                }
                ReadPrimeStep::DigitSum { terms, sum } => {
                    if terms != digits {
                        return self.wrong(step, &format!("the digits are {digits}"));
                    }
                    if sum != digit_sum {
                        return self.wrong(step, &format!("{digits} = {digit_sum}, not {sum}"));
                    }
                    self.ok(step, &format!("{digits} = {digit_sum}"));
                }
                ReadPrimeStep::Division(found) => {
                    if found[0] != n {
                        return self.wrong(step, &format!("must divide {n} by {}", found[2]));
                    }
                    self.division(step, found)?;
                }
                ReadPrimeStep::Conclusion(number) => {
                    if number != n || step != steps.len() {
                        return self.invalid(step);
                    }
                    self.add(step, "ok.");
                    return Ok(());
                }
            }
        }
        self.conclusion_missing(steps)
    }

    fn composite(&mut self, steps: &[Option<&str>], n: i128) -> Checked {
        let mut factor = None;
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            if let Some([q, d, product]) = numbers(line, PRODUCT) {
                if index > 0 || steps.len() < 2 {
                    return self.invalid(step);
                }
                if q * d != product {
                    return self.wrong(step, &format!("{q}*{d} = {}, not {product}", q * d));
                }
                if product != n {
                    return self.wrong(step, &format!("{q}*{d} = {product}, not {n}"));
                }
                self.ok(step, &format!("{q}*{d} = {product}"));
                factor = Some(d);
            } else if let Some([claimed, first, second]) = numbers(line, "1 < # < #, so # is not prime.") {
                if step != steps.len() || first != n || second != n {
                    return self.invalid(step);
                }
                let d = match factor {
                    Some(d) => d,
                    None if claimed > 1 && claimed < n && n % claimed == 0 => {
                        self.skip(step, &format!("{}*{claimed} = {n}", n / claimed));
                        claimed
                    }
                    None => return self.wrong(step, &format!("{claimed} does not divide {n}")),
                };
                if claimed != d {
                    return self.wrong(step, &format!("the factor is {d}, not {claimed}"));
                }
                if d <= 1 || d >= n {
                    return self.wrong(step, &format!("{d} is not between 1 and {n}"));
                }
                self.ok(step, &format!("1 < {d} < {n}"));
                return Ok(());
            } else {
                return self.invalid(step);
            }
        }
        self.conclusion_missing(steps)
    }

    fn linear(&mut self, steps: &[Option<&str>], a: i128, sign: Sign, b: i128, c: i128) -> Checked {
        let undo = sign.opposite();
        let total = undo.apply(c, b); // what ax must be
        let mut x = None;
        let mut stage = 0;
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            let Some(read) = LinearStep::parse(line) else { return self.invalid(step) };
            let this = read.stage();
            if this <= stage {
                return self.invalid(step);
            }
            for missing in stage + 1..this {
                if self.has_skips() {
                    return self.wrong(step, "too many steps are skipped");
                }
                match (missing, x) {
                    (1, _) => self.skip(step, &format!("{c} {undo} {b} = {total}")),
                    (2, _) => {
                        if total.rem_euclid(a) != 0 {
                            return self.invalid(step);
                        }
                        let value = total.div_euclid(a);
                        x = Some(value);
                        self.skip(step, &format!("{total}/{a} = {value}"));
                    }
                    (_, Some(value)) if a * value == total => {
                        self.skip(
                            step,
                            &format!("the check {a}*{value} {sign} {b} = {total} {sign} {b} = {c}"),
                        );
                    }
                    _ => return self.wrong(step, "the check is missing"),
                }
            }
            stage = this;
            match (read, x) {
                (LinearStep::Isolate([factor, right, operation, moved, sum]), _) => {
                    if (factor, right, moved) != (a, c, b) {
                        return self.invalid(step);
                    }
                    if sign_of(operation) != undo {
                        return self.wrong(step, &format!("must be {c} {undo} {b}"));
                    }
                    if sum != total {
                        return self.wrong(step, &format!("{c} {undo} {b} = {total}, not {sum}"));
                    }
                    self.ok(step, &format!("{c} {undo} {b} = {total}"));
                }
                (LinearStep::Divide([sum, factor, quotient]), _) => {
                    if (sum, factor) != (total, a) {
                        return self.wrong(step, &format!("must be {total}/{a}"));
                    }
                    if a * quotient != total {
                        return self.wrong(step, &format!("{a}*{quotient} = {}, not {total}", a * quotient));
                    }
                    self.ok(step, &format!("{a}*{quotient} = {total}"));
                    x = Some(quotient);
                }
                (LinearStep::Check([factor, value, sign_1, b_1, product, sign_2, b_2, result]), Some(x)) => {
                    if (factor, b_1, b_2) != (a, b, b) || sign_of(sign_1) != sign || sign_of(sign_2) != sign {
                        return self.invalid(step);
                    }
                    if value != x {
                        return self.wrong(step, &format!("x = {x}, not {value}"));
                    }
                    let (p, v) = (a * x, sign.apply(a * x, b));
                    if product != p {
                        self.slip(step, &format!("{a}*{x} = {p}, not {product}"));
                    } else if result != v {
                        self.slip(step, &format!("{a}*{x} = {p}, {p} {sign} {b} = {v}, not {result}"));
                    } else if v != c {
                        return self.wrong(step, &format!("{a}*{x} = {p}, {p} {sign} {b} = {v}, not {c}"));
                    } else {
                        self.ok(step, &format!("{a}*{x} = {p}, {p} {sign} {b} = {v}"));
                    }
                }
                (LinearStep::Only([factor, value]), Some(x)) => {
                    if factor != a || step != steps.len() {
                        return self.invalid(step);
                    }
                    if value != x {
                        return self.wrong(step, &format!("x = {x}, not {value}"));
                    }
                    self.ok(step, &format!("x = {x}"));
                    return Ok(());
                }
                // cannot happen: stage 2 is read or skipped, and both set x
                (LinearStep::Check(_) | LinearStep::Only(_), None) => return self.invalid(step),
            }
        }
        self.conclusion_missing(steps)
    }

    fn divides(&mut self, steps: &[Option<&str>], claim: Claim, [u, v, c]: [i128; 3], sign: Sign) -> Checked {
        let product = u * v;
        let value = sign.apply(product, c);
        let (divisor, remainder) = claim.divisor_and_remainder();
        let tail = |remainder: i128| if remainder == 1 { " + 1" } else { "" };
        let conclusion = match claim {
            Claim::Even => format!("So {u}*{v} {sign} {c} is even."),
            Claim::Odd => format!("So {u}*{v} {sign} {c} is odd."),
            Claim::DivisibleBy(d) => format!("So {d} divides {u}*{v} {sign} {c}."),
        };
        let mut stage = 0;
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            let Some(read) = DividesStep::parse(line) else { return self.invalid(step) };
            let this = read.stage();
            if this <= stage {
                return self.invalid(step);
            }
            for missing in stage + 1..this {
                if self.has_skips() {
                    return self.wrong(step, "too many steps are skipped");
                }
                match missing {
                    1 => self.skip(step, &format!("{u}*{v} = {product}")),
                    2 => self.skip(step, &format!("{product} {sign} {c} = {value}")),
                    _ => {
                        if value.rem_euclid(divisor) != remainder {
                            return self.invalid(step);
                        }
                        self.skip(
                            step,
                            &format!("{value} = {divisor}*{}{}", value.div_euclid(divisor), tail(remainder)),
                        );
                    }
                }
            }
            stage = this;
            match read {
                DividesStep::Product([first, second, result]) => {
                    if (first, second) != (u, v) {
                        return self.invalid(step);
                    }
                    if result != product {
                        return self.wrong(step, &format!("{u}*{v} = {product}, not {result}"));
                    }
                    self.ok(step, &format!("{u}*{v} = {product}"));
                }
                DividesStep::Sum([left, operation, right, result]) => {
                    if (left, right) != (product, c) || sign_of(operation) != sign {
                        return self.wrong(step, &format!("must be {product} {sign} {c}"));
                    }
                    if result != value {
                        return self.wrong(step, &format!("{product} {sign} {c} = {value}, not {result}"));
                    }
                    self.ok(step, &format!("{product} {sign} {c} = {value}"));
                }
                DividesStep::Multiple([total, factor, quotient], rest) => {
                    if total != value {
                        return self.wrong(step, &format!("the value is {value}, not {total}"));
                    }
                    if factor != divisor || rest != remainder {
                        return self.invalid(step);
                    }
                    let (text, result) =
                        (format!("{factor}*{quotient}{}", tail(rest)), factor * quotient + rest);
                    if result != value {
                        return self.wrong(step, &format!("{text} = {result}, not {value}"));
                    }
                    self.ok(step, &format!("{text} = {value}"));
                }
                DividesStep::Conclusion => {
                    if *line != conclusion || step != steps.len() {
                        return self.invalid(step);
                    }
                    self.add(step, "ok.");
                    return Ok(());
                }
            }
        }
        self.conclusion_missing(steps)
    }
}

/// The steps a proof of primality consists of, in their order.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PrimeStep {
    Bound,
    LastDigit,
    DigitSum,
    Division(i128),
    Conclusion,
}

/// A step of a proof of primality as it was read.
enum ReadPrimeStep<'a> {
    Bound([i128; 5]),
    LastDigit([i128; 2]),
    DigitSum { terms: &'a str, sum: i128 },
    Division([i128; 6]),
    Conclusion(i128),
}

impl<'a> ReadPrimeStep<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if let Some(found) = numbers(line, "#*# = # > #, so test the primes below #.") {
            return Some(Self::Bound(found));
        }
        if let Some(found) = numbers(line, "# ends in %, so 2 and 5 do not divide it.") {
            return Some(Self::LastDigit(found));
        }
        if let Some(equation) = line.strip_suffix(", so 3 does not divide it.") {
            let (terms, sum) = equation.split_once(" = ")?;
            let one_digit = |term: &str| term.len() == 1 && term.as_bytes()[0].is_ascii_digit();
            let [sum] = numbers(sum, "#")?;
            return terms.split(" + ").all(one_digit).then_some(Self::DigitSum { terms, sum });
        }
        if let Some(found) = numbers(line, DIVISION) {
            return Some(Self::Division(found));
        }
        numbers(line, "So # is prime.").map(|[n]| Self::Conclusion(n))
    }

    fn kind(&self) -> PrimeStep {
        match self {
            Self::Bound(_) => PrimeStep::Bound,
            Self::LastDigit(_) => PrimeStep::LastDigit,
            Self::DigitSum { .. } => PrimeStep::DigitSum,
            Self::Division(found) => PrimeStep::Division(found[2]),
            Self::Conclusion(_) => PrimeStep::Conclusion,
        }
    }
}

/// A step of the solution of a linear equation as it was read.
enum LinearStep {
    /// factor, right-hand side, operation, what is moved, result
    Isolate([i128; 5]),
    /// dividend, divisor, quotient
    Divide([i128; 3]),
    /// factor, x, sign, b, product, sign, b, result
    Check([i128; 8]),
    /// factor, x
    Only([i128; 2]),
}

impl LinearStep {
    fn parse(line: &str) -> Option<Self> {
        (numbers(line, "#x = # ± # = #.").map(Self::Isolate))
            .or_else(|| numbers(line, "x = #/# = #.").map(Self::Divide))
            .or_else(|| numbers(line, "Check: #*# ± # = # ± # = #.").map(Self::Check))
            .or_else(|| numbers(line, "# is not 0, so x = # is the only solution.").map(Self::Only))
    }

    fn stage(&self) -> u8 {
        match self {
            Self::Isolate(_) => 1,
            Self::Divide(_) => 2,
            Self::Check(_) => 3,
            Self::Only(_) => 4,
        }
    }
}

/// A step of a proof of divisibility as it was read.
enum DividesStep {
    /// factor, factor, product
    Product([i128; 3]),
    /// product, operation, summand, value
    Sum([i128; 4]),
    /// value, divisor, quotient; and the remainder, 0 or 1
    Multiple([i128; 3], i128),
    /// `So ….`
    Conclusion,
}

impl DividesStep {
    fn parse(line: &str) -> Option<Self> {
        (numbers(line, PRODUCT).map(Self::Product))
            .or_else(|| numbers(line, "# ± # = #.").map(Self::Sum))
            .or_else(|| numbers(line, "# = #*#.").map(|found| Self::Multiple(found, 0)))
            .or_else(|| numbers(line, "# = #*# + 1.").map(|found| Self::Multiple(found, 1)))
            .or_else(|| {
                (line.len() > "So .".len() && line.starts_with("So ") && line.ends_with('.'))
                    .then_some(Self::Conclusion)
            })
    }

    fn stage(&self) -> u8 {
        match self {
            Self::Product(_) => 1,
            Self::Sum(_) => 2,
            Self::Multiple(..) => 3,
            Self::Conclusion => 4,
        }
    }
}

const DIVISION: &str = "# - #*# = # - # = #.";
const PRODUCT: &str = "#*# = #.";

/// `a - q*b = a - p = r`, the division of `a` by `b` as it should be written.
fn division_text(a: i128, b: i128) -> String {
    let q = a / b;
    format!("{a} - {q}*{b} = {a} - {} = {}", q * b, a - q * b)
}

fn is_prime(n: i128) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

/// The smallest prime whose square is above `n`, which must be below [`PRIME_LIMIT`].
fn bound_prime(n: i128) -> i128 {
    let found = SMALL_PRIMES.into_iter().find(|p| p * p > n);
    found.unwrap_or_else(|| unreachable!("{n} is not below {PRIME_LIMIT}"))
}

/// `4 + 9 + 1` and 14, for 491.
fn digits_and_sum(n: i128) -> (String, i128) {
    let digits: Vec<String> = n.to_string().chars().map(String::from).collect();
    let sum = n.to_string().bytes().map(|digit| i128::from(digit - b'0')).sum();
    (digits.join(" + "), sum)
}

fn sign_of(number: i128) -> Sign {
    if number < 0 { Sign::Minus } else { Sign::Plus }
}

/// The numbers of a line that has exactly the form of `pattern`, where `#` stands for a number of up to
/// [`MAX_DIGITS`] digits, `%` for a single digit and `±` for a sign, which is returned as 1 or -1.
fn numbers<const N: usize>(line: &str, pattern: &str) -> Option<[i128; N]> {
    let mut found = [0; N];
    let mut slots = found.iter_mut();
    let mut rest = line;
    for symbol in pattern.chars() {
        let (value, length) = match symbol {
            '#' | '%' => {
                let length = rest.bytes().take_while(u8::is_ascii_digit).count();
                let longest = if symbol == '%' { 1 } else { MAX_DIGITS };
                if length == 0 || length > longest {
                    return None;
                }
                (rest[..length].parse().ok()?, length)
            }
            '±' if rest.starts_with('+') => (1, 1),
            '±' if rest.starts_with('-') => (-1, 1),
            _ => {
                rest = rest.strip_prefix(symbol)?;
                continue;
            }
        };
        *slots.next()? = value;
        rest = &rest[length..];
    }
    (rest.is_empty() && slots.next().is_none()).then_some(found)
}

/// [`numbers`] of what follows one of the given beginnings.
fn after_any<const N: usize>(text: &str, beginnings: &[&str], pattern: &str) -> Option<[i128; N]> {
    beginnings.iter().find_map(|beginning| numbers(text.strip_prefix(beginning)?, pattern))
}
