//! Checks proofs of the demo model's domain by recomputing every step.
//!
//! The domain has four families of problems: greatest common divisors by Euclid's algorithm, small primes,
//! linear equations and divisibility. [`evaluate`] reads a numbered proof line by line and writes what a careful
//! verifier would write about it. A statement may be false: then no proof of it is right, and one that says what is so instead
//! is found wrong at its last line only. Every line of such a proof is determined by the problem and the lines before it, so a
//! sentence repeats the line and sets beside it what it must be, as far as the two agree, then the word that differs:
//! `Step 2: 7*8 = 54? 7*8 = 5! 56, wrong.`
//!
//! It follows `Evaluation` in `models/train/data.py` sentence by sentence, so the texts can be compared as well as
//! the verdicts; the only difference is that numbers of more than [`MAX_DIGITS`] digits, and sums of more than three
//! digits of a number that has no more, count as unreadable here.

pub mod problems;
mod recompute;

use std::fmt::Write as _;

pub use recompute::Checker;

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
    /// `n` is prime, or is not: which of them is true decides the proof that is compared with.
    Prime {
        /// The number, 2 to 528.
        n: i128,
        /// Whether the problem says that it is prime, right or not.
        claim: bool,
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
        let claims = [
            ("# is prime", true),
            ("# is a prime number", true),
            ("# is not prime", false),
            ("# is composite", false),
        ];
        for (pattern, claim) in claims {
            if let Some([n]) = after_any(text, &["Prove that ", "Show that "], pattern) {
                return (2..PRIME_LIMIT).contains(&n).then_some(Problem::Prime { n, claim });
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

    /// Why the statement is false, as in `gcd(84, 30) is 6`; `None` for a true one.
    pub fn falsehood(&self) -> Option<String> {
        match *self {
            Problem::Gcd { a, b, claim } => {
                let (mut x, mut y) = (a, b);
                while y != 0 {
                    (x, y) = (y, x % y);
                }
                (x != claim).then(|| format!("gcd({a}, {b}) is {x}"))
            }
            Problem::Prime { n, claim } if claim == is_prime(n) => None,
            Problem::Prime { n, claim: false } => Some(format!("{n} is prime")),
            Problem::Prime { n, .. } => {
                let divisor = (2..n).find(|d| n % d == 0)?;
                Some(format!("{n} is {divisor}*{}", n / divisor))
            }
            Problem::Linear { a, sign, b, c } => {
                let total = sign.opposite().apply(c, b);
                let why =
                    || format!("{a}x would be {total}, which {a} does not divide, so no integer x solves it");
                (total.rem_euclid(a) != 0).then(why)
            }
            Problem::Divides { claim, u, v, sign, c } => {
                let value = sign.apply(u * v, c);
                let (divisor, remainder) = claim.divisor_and_remainder();
                let found = value.rem_euclid(divisor);
                (found != remainder).then(|| match claim {
                    Claim::Even => format!("{u}*{v} {sign} {c} is {value}, which is odd"),
                    Claim::Odd => format!("{u}*{v} {sign} {c} is {value}, which is even"),
                    Claim::DivisibleBy(_) => {
                        format!("{u}*{v} {sign} {c} is {value}, which leaves {found} when it is divided by {divisor}")
                    }
                })
            }
        }
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
        Problem::Prime { n, .. } if is_prime(n) => report.in_order(&steps, &prime_lines(n)),
        Problem::Prime { n, .. } => report.composite(&steps, n),
        Problem::Linear { a, sign, b, c } => report.in_order(&steps, &linear_lines(a, sign, b, c)),
        Problem::Divides { claim, u, v, sign, c } => {
            let last = steps.last().copied().flatten();
            report.in_order(&steps, &divides_lines(claim, [u, v, c], sign, last))
        }
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

    fn skip(&mut self, step: usize, missing: &str) {
        self.add(step, &format!("skips {missing}."));
        self.evaluation.skips.push(step);
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

    /// Sets a line beside what it must be, if anything. `slip` says whether a difference is only a slip.
    fn compare(&mut self, step: usize, line: &str, right: Option<&str>, slip: bool) -> Checked {
        let claimed = line.strip_suffix('.').unwrap_or(line);
        let agrees = right == Some(claimed);
        let shown = right.map_or("none".to_owned(), |right| up_to_difference(claimed, right));
        let text = format!("{claimed}? {shown}");
        if agrees {
            self.add(step, &format!("{text}, ok."));
        } else if slip {
            self.add(step, &format!("{text}, a slip."));
            self.evaluation.slips.push(step);
        } else {
            return self.wrong(step, &text);
        }
        Ok(())
    }

    /// A proof whose lines are all known beforehand, in their order; one of them may be missing.
    fn in_order(&mut self, steps: &[Option<&str>], wanted: &[Wanted]) -> Checked {
        let mut stage = 0;
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            let Some(this) = stage_of(line, wanted, stage) else { return self.invalid(step) };
            for missing in &wanted[stage..this] {
                if self.has_skips() {
                    return self.wrong(step, "too many steps are skipped");
                }
                let Some(text) = &missing.skipped else { return self.invalid(step) };
                self.skip(step, text);
            }
            stage = this + 1;
            let concludes = stage == wanted.len();
            if concludes && step != steps.len() {
                return self.invalid(step);
            }
            let wanted = &wanted[this];
            self.compare(step, line, wanted.right.as_deref(), wanted.is_slip(line))?;
            if concludes {
                return Ok(());
            }
        }
        self.conclusion_missing(steps)
    }

    fn gcd(&mut self, steps: &[Option<&str>], a: i128, b: i128, claim: i128) -> Checked {
        let (mut x, mut y) = (a, b); // what is to be divided
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            if let Some([dividend, _, divisor, ..]) = numbers::<6>(line, DIVISION) {
                if y == 0 {
                    return self.invalid(step);
                }
                if !self.has_skips() && x % y != 0 && (dividend, divisor) == (y, x % y) {
                    self.skip(step, &division(x, y));
                    (x, y) = (y, x % y);
                }
                self.compare(step, line, Some(&division(x, y)), false)?;
                (x, y) = (y, x % y);
            } else if numbers::<4>(line, "The last nonzero remainder is #, so gcd(#, #) = #.").is_some() {
                if step != steps.len() {
                    return self.invalid(step);
                }
                if y != 0 {
                    if self.has_skips() || x % y != 0 {
                        return self.wrong(step, &format!("must divide {x} by {y}"));
                    }
                    self.skip(step, &division(x, y));
                    x = y;
                }
                let right = format!("The last nonzero remainder is {x}, so gcd({a}, {b}) = {x}");
                self.compare(step, line, Some(&right), false)?;
                // what was found is set beside what was to be proved
                let claimed = format!("prove {claim}.");
                return self.compare(step, &claimed, Some(&format!("prove {x}")), false);
            } else {
                return self.invalid(step);
            }
        }
        self.conclusion_missing(steps)
    }

    fn composite(&mut self, steps: &[Option<&str>], n: i128) -> Checked {
        let divides = |d| 1 < d && d < n && n % d == 0;
        let mut factor = None;
        for (index, line) in steps.iter().enumerate() {
            let step = index + 1;
            let Some(line) = line else { return self.invalid(step) };
            if let Some([_, d, _]) = numbers(line, PRODUCT) {
                if index > 0 || steps.len() < 2 {
                    return self.invalid(step);
                }
                let right = divides(d).then(|| format!("{}*{d} = {n}", n / d));
                self.compare(step, line, right.as_deref(), false)?;
                factor = Some(d);
            } else if let Some([claimed, ..]) = numbers::<3>(line, "1 < # < #, so # is not prime.") {
                if step != steps.len() {
                    return self.invalid(step);
                }
                if factor.is_none() {
                    if !divides(claimed) {
                        return self.wrong(step, &format!("{claimed} does not divide {n}"));
                    }
                    self.skip(step, &format!("{}*{claimed} = {n}", n / claimed));
                }
                let factor = factor.unwrap_or(claimed);
                let right = format!("1 < {factor} < {n}, so {n} is not prime");
                return self.compare(step, line, Some(&right), false);
            } else {
                return self.invalid(step);
            }
        }
        self.conclusion_missing(steps)
    }
}

/// A line that a proof of some family must have, in its place.
struct Wanted {
    /// The forms it is recognised by, as [`words`] reads them.
    forms: &'static [&'static str],
    /// The line without its full stop; `None` if no line of this form is right.
    right: Option<String>,
    /// What is said to be missing where it is left out; `None` if that cannot be said.
    skipped: Option<String>,
    /// What a division divides by, which tells it from the other divisions of the proof.
    divisor: Option<String>,
    /// Which of its words, counted from 0, nothing else stands on: a difference in these is a slip.
    idle: &'static [usize],
}

impl Wanted {
    fn new(forms: &'static [&'static str], right: Option<String>) -> Self {
        Self { forms, skipped: right.clone(), right, divisor: None, idle: &[] }
    }

    fn words<'a>(&self, line: &'a str) -> Option<Vec<&'a str>> {
        self.forms.iter().find_map(|form| words(line, form))
    }

    /// Whether a line of this form differs from the right one at most in numbers that nothing stands on.
    fn is_slip(&self, line: &str) -> bool {
        let right = format!("{}.", self.right.as_deref().unwrap_or_default());
        let (Some(found), Some(right)) = (self.words(line), self.words(&right)) else { return false };
        let same = |index: usize| found[index] == right[index] || self.idle.contains(&index);
        !self.idle.is_empty() && (0..right.len()).all(same)
    }
}

/// Which of the wanted lines this one stands for, from `stage` on. A division by a number that is not among them stands for
/// the division that is due.
fn stage_of(line: &str, wanted: &[Wanted], stage: usize) -> Option<usize> {
    let is_this = |wanted: &Wanted| {
        let words = wanted.words(line);
        words.is_some_and(|words| wanted.divisor.as_ref().is_none_or(|divisor| words[2] == divisor))
    };
    let due = || wanted[stage].words(line).map(|_| stage);
    wanted[stage..].iter().position(is_this).map(|ahead| stage + ahead).or_else(due)
}

/// The proof that `n` is prime.
fn prime_lines(n: i128) -> Vec<Wanted> {
    let bound = bound_prime(n);
    let square = bound * bound;
    let (digits, sum) = digits_and_sum(n);
    let right = format!("{bound}*{bound} = {square} > {n}, so test the primes below {bound}");
    // the square of the bound only says how far to test
    let mut lines = vec![Wanted {
        idle: &[2],
        ..Wanted::new(&["#*# = # > #, so test the primes below #."], Some(right))
    }];
    let right = format!("{n} ends in {}, so 2 and 5 do not divide it", n % 10);
    lines.push(Wanted::new(&["# ends in %, so 2 and 5 do not divide it."], Some(right)));
    let right = format!("{digits} = {sum}, so 3 does not divide it");
    lines.push(Wanted::new(DIGIT_SUM, Some(right)));
    for d in SMALL_PRIMES.into_iter().filter(|d| (7..bound).contains(d)) {
        lines.push(Wanted { divisor: Some(d.to_string()), ..Wanted::new(&[DIVISION], Some(division(n, d))) });
    }
    lines.push(Wanted::new(&["So # is prime."], Some(format!("So {n} is prime"))));
    lines
}

/// The solution of `ax ± b = c`. Where no integer solves it, the lines that show so; the last of them is not what is asked
/// for.
fn linear_lines(a: i128, sign: Sign, b: i128, c: i128) -> Vec<Wanted> {
    const NONE: &str = "So x is no integer.";
    let undo = sign.opposite();
    let total = undo.apply(c, b); // what ax must be
    let (x, rest) = (total.div_euclid(a), total.rem_euclid(a));
    let divided =
        if rest == 0 { format!("{total}/{a} = {x}") } else { format!("{total}/{a} = {x} + {rest}/{a}") };
    let mut lines = vec![
        Wanted {
            skipped: Some(format!("{c} {undo} {b} = {total}")),
            ..Wanted::new(&["#x = # ± # = #."], Some(format!("{a}x = {c} {undo} {b} = {total}")))
        },
        Wanted {
            skipped: Some(divided.clone()),
            ..Wanted::new(&["x = #/# = #.", "x = #/# = # + #/#."], Some(format!("x = {divided}")))
        },
    ];
    if rest != 0 {
        lines.push(Wanted::new(&[NONE], Some("So x is an integer".to_owned())));
        return lines;
    }
    let check = format!("{a}*{x} {sign} {b} = {total} {sign} {b} = {c}");
    lines.push(Wanted {
        skipped: Some(format!("the check {check}")),
        // the two numbers that the check computes
        idle: &[4, 7],
        ..Wanted::new(&["Check: #*# ± # = # ± # = #."], Some(format!("Check: {check}")))
    });
    let conclusion = format!("{a} is not 0, so x = {x} is the only solution");
    lines.push(Wanted::new(&["# is not #, so x = # is the only solution.", NONE], Some(conclusion)));
    lines
}

/// The proof of a claim about `u*v ± c`. `last` is the last line of the proof that is read: one that rightly denies a false
/// claim is set beside the claim, any other beside what is so.
fn divides_lines(claim: Claim, [u, v, c]: [i128; 3], sign: Sign, last: Option<&str>) -> [Wanted; 4] {
    let product = u * v;
    let value = sign.apply(product, c);
    let (divisor, remainder) = claim.divisor_and_remainder();
    let (quotient, rest) = (value.div_euclid(divisor), value.rem_euclid(divisor));
    let tail = if rest == 0 { String::new() } else { format!(" + {rest}") };
    let (affirmed, denied) = match claim {
        Claim::Even => (format!("So {u}*{v} {sign} {c} is even"), format!("So {u}*{v} {sign} {c} is odd")),
        Claim::Odd => (format!("So {u}*{v} {sign} {c} is odd"), format!("So {u}*{v} {sign} {c} is even")),
        Claim::DivisibleBy(d) => (
            format!("So {d} divides {u}*{v} {sign} {c}"),
            format!("So {d} does not divide {u}*{v} {sign} {c}"),
        ),
    };
    let denies = last.and_then(|last| last.strip_suffix('.')) == Some(&denied);
    let conclusion = if rest == remainder || denies { affirmed } else { denied };
    [
        Wanted::new(&[PRODUCT], Some(format!("{u}*{v} = {product}"))),
        Wanted::new(&["# ± # = #."], Some(format!("{product} {sign} {c} = {value}"))),
        Wanted::new(&["# = #*#.", "# = #*# + #."], Some(format!("{value} = {divisor}*{quotient}{tail}"))),
        Wanted::new(&["So …."], Some(conclusion)),
    ]
}

const DIVISION: &str = "# - #*# = # - # = #.";
const PRODUCT: &str = "#*# = #.";
/// Numbers below [`PRIME_LIMIT`] have at most three digits.
const DIGIT_SUM: &[&str] = &[
    "% = #, so 3 does not divide it.",
    "% + % = #, so 3 does not divide it.",
    "% + % + % = #, so 3 does not divide it.",
];

/// `a - q*b = a - p = r`, the division of `a` by `b` as it should be written.
fn division(a: i128, b: i128) -> String {
    let q = a / b;
    format!("{a} - {q}*{b} = {a} - {} = {}", q * b, a - q * b)
}

/// `right` as far as `claimed` agrees, then the word of `right` in which they differ, without a comma: `7*8 = 5! 56`; all
/// that is missing if `claimed` ends too early: `57 = 8*7! + 1`. Numbers agree digit by digit, words as a whole.
fn up_to_difference(claimed: &str, right: &str) -> String {
    if claimed == right {
        return right.to_owned();
    }
    let length: usize =
        right.chars().zip(claimed.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let same = &right[..length];
    if let Some(missing) = right[length..].strip_prefix(' ')
        && same == claimed
    {
        return format!("{same}! {missing}");
    }
    let start = same.rfind(' ').map_or(0, |space| space + 1);
    let same = if same.ends_with(|last: char| last.is_alphabetic()) { &right[..start] } else { same };
    let word = right[start..].split(' ').next().unwrap_or_default().trim_end_matches(',');
    format!("{same}! {word}")
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

/// The words of a line that has exactly the form of `pattern`, where `#` stands for a number of up to
/// [`MAX_DIGITS`] digits, `%` for a single digit, `±` for a sign and `…` for anything before the last full stop.
fn words<'a>(line: &'a str, pattern: &str) -> Option<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut rest = line;
    for symbol in pattern.chars() {
        let (length, longest) = match symbol {
            '#' => (rest.bytes().take_while(u8::is_ascii_digit).count(), MAX_DIGITS),
            '%' => (rest.bytes().take_while(u8::is_ascii_digit).count(), 1),
            '±' => (usize::from(rest.starts_with(['+', '-'])), 1),
            '…' => (rest.strip_suffix('.')?.len(), usize::MAX),
            _ => {
                rest = rest.strip_prefix(symbol)?;
                continue;
            }
        };
        if length == 0 || length > longest {
            return None;
        }
        let (word, after) = rest.split_at(length);
        found.push(word);
        rest = after;
    }
    rest.is_empty().then_some(found)
}

/// [`words`] as numbers; a sign is 1 or -1.
fn numbers<const N: usize>(line: &str, pattern: &str) -> Option<[i128; N]> {
    let number = |word| match word {
        "+" => Some(1),
        "-" => Some(-1),
        _ => word.parse().ok(),
    };
    let found: Option<Vec<i128>> = words(line, pattern)?.into_iter().map(number).collect();
    found?.try_into().ok()
}

/// [`numbers`] of what follows one of the given beginnings.
fn after_any<const N: usize>(text: &str, beginnings: &[&str], pattern: &str) -> Option<[i128; N]> {
    beginnings.iter().find_map(|beginning| numbers(text.strip_prefix(beginning)?, pattern))
}
