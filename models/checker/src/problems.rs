//! Problems of the demo model's domain, as `random_problem` in `models/train/data.py` draws them, and which of them were
//! kept out of its training.

use porism_prover::problem::Problem;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest as _, Sha256};

// The limits of data.py.
const GCD_LARGER_MAX: i64 = 120;
const GCD_SMALLER_MAX: i64 = 40;
const LINEAR_FACTOR_MAX: i64 = 10;
const LINEAR_X_MAX: i64 = 12;
const LINEAR_SUMMAND_MAX: i64 = 40;
const DIVIDES_FACTOR_MAX: i64 = 12;
const DIVIDES_SUMMAND_MAX: i64 = 30;
const HELD_OUT_PERCENT: u32 = 10;

/// A family of problems that the model was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Greatest common divisors by Euclid's algorithm.
    Gcd,
    /// `ax ± b = c`.
    Linear,
    /// What divides `u*v ± c`.
    Divides,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 3] = [Family::Gcd, Family::Linear, Family::Divides];

    /// As keys spell it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gcd => "gcd",
            Family::Linear => "linear",
            Family::Divides => "divides",
        }
    }
}

/// Whether the model has never seen the problem with this key: a Python tuple behind its family's name, `gcd:(84, 30)`.
pub fn is_held_out(key: &str) -> bool {
    let digest = Sha256::digest(key.as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % 100 < HELD_OUT_PERCENT
}

/// So many different held-out problems of a family. The same seed gives the same ones.
pub fn held_out(family: Family, count: usize, seed: u64) -> Vec<Problem> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut problems: Vec<Problem> = Vec::new();
    // There are hundreds of them per family; whoever asks for more would wait for ever.
    for _ in 0..count.saturating_mul(10_000) {
        if problems.len() == count {
            break;
        }
        let Some((key, texts)) = draw(family, &mut random) else { continue };
        let name = key.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        if !is_held_out(&key) || problems.iter().any(|problem| problem.problem_idx == name) {
            continue;
        }
        // The usual wording most of the time.
        let text = match texts.len() {
            1 => 0,
            _ if random.random_range(0..10) < 6 => 0,
            several => random.random_range(1..several),
        };
        problems.push(Problem {
            source: "held-out".to_owned(),
            problem_idx: name,
            question: texts[text].clone(),
        });
    }
    assert_eq!(problems.len(), count, "there are not so many held-out problems of {}", family.name());
    problems
}

/// So many different false statements of the demo's domain, of each kind in turn: a gcd that is another number (often one that
/// lies near, or a remainder on the way to it), an equation without an integer solution, a number that does not divide, odd for
/// even. The same seed gives the same ones.
///
/// # Panics
/// If there are not so many.
pub fn false_statements(count: usize, seed: u64) -> Vec<Problem> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut questions: Vec<String> = Vec::new();
    for _ in 0..count.saturating_mul(10_000) {
        if questions.len() == count {
            break;
        }
        let question = draw_false(questions.len() % 4, &mut random);
        questions.extend(question.filter(|question| !questions.contains(question)));
    }
    assert_eq!(questions.len(), count, "there are not so many false statements");
    let named = questions.into_iter().enumerate().map(|(index, question)| Problem {
        source: "false".to_owned(),
        problem_idx: format!("false-{index}"),
        question,
    });
    named.collect()
}

fn draw_false(kind: usize, random: &mut ChaCha8Rng) -> Option<String> {
    let mut pick = |least: i64, most: i64| random.random_range(least..=most);
    match kind {
        0 => {
            let b = pick(4, GCD_SMALLER_MAX);
            let a = pick(b + 1, GCD_LARGER_MAX.min(10 * b - 1));
            let (mut x, mut y, mut remainders) = (a, b, Vec::new());
            while y > 0 {
                remainders.push(y);
                (x, y) = (y, x % y);
            }
            let near = [x + 1, x - 1, 2 * x, 3 * x, x / 2, b, remainders[remainders.len() / 2], pick(1, b)];
            let claim = near[pick(0, 7) as usize];
            let text = match pick(0, 2) {
                0 => format!("Prove that gcd({a}, {b}) = {claim}."),
                1 => format!("Show that gcd({a}, {b}) = {claim}."),
                _ => format!("Show that the greatest common divisor of {a} and {b} is {claim}."),
            };
            (claim != x && claim > 0).then_some(text)
        }
        1 => {
            let (a, x, b) =
                (pick(2, LINEAR_FACTOR_MAX), pick(1, LINEAR_X_MAX - 1), pick(1, LINEAR_SUMMAND_MAX));
            let total = a * x + pick(1, a - 1);
            let (sign, c) = if pick(0, 1) == 0 { ('+', total + b) } else { ('-', total - b) };
            let text = match pick(0, 1) {
                0 => format!("Find the integer x with {a}x {sign} {b} = {c} and prove the answer is right."),
                _ => format!("Solve {a}x {sign} {b} = {c} and prove the answer is right."),
            };
            (c >= 0).then_some(text)
        }
        _ => {
            let (u, v, c) =
                (pick(2, DIVIDES_FACTOR_MAX), pick(2, DIVIDES_FACTOR_MAX), pick(1, DIVIDES_SUMMAND_MAX));
            let (sign, value) = if pick(0, 1) == 0 { ('+', u * v + c) } else { ('-', u * v - c) };
            if value < 4 {
                return None;
            }
            let expression = format!("{u}*{v} {sign} {c}");
            if kind == 2 {
                let d = pick(3, 12);
                let text = match pick(0, 1) {
                    0 => format!("Prove that {d} divides {expression}."),
                    _ => format!("Show that {expression} is divisible by {d}."),
                };
                return (value % d != 0).then_some(text);
            }
            let parity = if value % 2 == 0 { "odd" } else { "even" };
            let verb = if pick(0, 1) == 0 { "Prove" } else { "Show" };
            Some(format!("{verb} that {expression} is {parity}."))
        }
    }
}

/// A problem's key and its wordings; `None` for one that is not used.
fn draw(family: Family, random: &mut ChaCha8Rng) -> Option<(String, Vec<String>)> {
    match family {
        Family::Gcd => {
            let b = random.random_range(4..=GCD_SMALLER_MAX);
            let a = random.random_range(b + 1..=GCD_LARGER_MAX);
            let (mut x, mut y, mut divisions, mut largest) = (a, b, 0, 0);
            while y > 0 {
                (divisions, largest) = (divisions + 1, largest.max(x / y));
                (x, y) = (y, x % y);
            }
            if divisions > 5 || largest > 9 || divisions == 1 && random.random_range(0..10) < 7 {
                return None;
            }
            let texts = vec![
                format!("Prove that gcd({a}, {b}) = {x}."),
                format!("Show that gcd({a}, {b}) = {x}."),
                format!("Show that the greatest common divisor of {a} and {b} is {x}."),
            ];
            Some((format!("gcd:({a}, {b})"), texts))
        }
        Family::Linear => {
            let (a, x) = (random.random_range(2..=LINEAR_FACTOR_MAX), random.random_range(1..=LINEAR_X_MAX));
            let b = random.random_range(1..=LINEAR_SUMMAND_MAX);
            let (sign, c) = if random.random() { ("+", a * x + b) } else { ("-", a * x - b) };
            if c < 0 {
                return None;
            }
            let equation = format!("{a}x {sign} {b} = {c}");
            let texts = vec![
                format!("Find the integer x with {equation} and prove the answer is right."),
                format!("Solve {equation} and prove the answer is right."),
            ];
            Some((format!("linear:({a}, '{sign}', {b}, {c})"), texts))
        }
        Family::Divides => {
            let u = random.random_range(2..=DIVIDES_FACTOR_MAX);
            let v = random.random_range(2..=DIVIDES_FACTOR_MAX);
            let c = random.random_range(1..=DIVIDES_SUMMAND_MAX);
            let (sign, value) =
                if random.random_range(0..3) < 2 { ("+", u * v + c) } else { ("-", u * v - c) };
            if value < 4 {
                return None;
            }
            let expression = format!("{u}*{v} {sign} {c}");
            // 0 and 1 stand for even and odd.
            let d = if random.random_range(0..100) < 15 {
                value % 2
            } else {
                let divisors: Vec<i64> = (3..13).filter(|d| value % d == 0).collect();
                if divisors.is_empty() {
                    return None;
                }
                divisors[random.random_range(0..divisors.len())]
            };
            let texts = match d {
                0 => vec![
                    format!("Prove that {expression} is even."),
                    format!("Show that {expression} is even."),
                ],
                1 => vec![
                    format!("Prove that {expression} is odd."),
                    format!("Show that {expression} is odd."),
                ],
                d => vec![
                    format!("Prove that {d} divides {expression}."),
                    format!("Show that {expression} is divisible by {d}."),
                ],
            };
            Some((format!("divides:({d}, {u}, {v}, '{sign}', {c})"), texts))
        }
    }
}
