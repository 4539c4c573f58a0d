//! What a model wrote → what it means. Tolerant of how, strict about what: a text that cannot be read is `None`, never a
//! guess.

use serde::{Deserialize, Serialize};

/// A grade. 1: complete and rigorous; 0.5: right, with details left out or minor errors; 0: wrong or severely incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "f64", try_from = "f64")]
pub enum Score {
    /// 0
    Zero,
    /// 0.5
    Half,
    /// 1
    One,
}

impl Score {
    /// As a number.
    pub fn value(self) -> f64 {
        match self {
            Score::Zero => 0.0,
            Score::Half => 0.5,
            Score::One => 1.0,
        }
    }

    /// The key of the published pool files: `1.0`, `0.5`, `0.0`.
    pub fn key(self) -> &'static str {
        match self {
            Score::Zero => "0.0",
            Score::Half => "0.5",
            Score::One => "1.0",
        }
    }

    /// Reads what stands in a box: `1`, `0.5`, `.5`, `1/2`, `\frac{1}{2}`, `1.00`, whatever fonts, styles, colours and spaces
    /// LaTeX has around it.
    pub fn read(boxed: &str) -> Option<Self> {
        Score::try_from(number(boxed)?).ok()
    }
}

/// Commands around a number that do not change it: fonts, styles, sizes, boxes, delimiters.
const DRESS: &str = "text textbf textit textrm textsf texttt textsc textsl textup textmd textnormal emph underline mathrm mathbf \
    mathit mathsf mathtt mathnormal mathbb mathcal boldsymbol bm pmb bold bf it rm sf tt bfseries itshape rmfamily \
    sffamily ttfamily normalfont displaystyle textstyle scriptstyle tiny small footnotesize scriptsize normalsize \
    large Large LARGE huge Huge mbox hbox fbox boxed left right big Big ensuremath operatorname mathop";
/// Spaces.
const BLANKS: [&str; 14] = [
    ",",
    ";",
    ":",
    "!",
    " ",
    ">",
    "quad",
    "qquad",
    "enspace",
    "thinspace",
    "hfill",
    "space",
    "nobreak",
    "allowbreak",
];
/// Commands whose first argument is about looks.
const LOOKS: [&str; 8] =
    ["color", "textcolor", "colorbox", "hspace", "vspace", "hskip", "mspace", "fontsize"];
const FRACTIONS: [&str; 6] = ["frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"];

/// The number that LaTeX shows; `None` for anything else, also for two numbers beside each other.
fn number(latex: &str) -> Option<f64> {
    let plain = plain(latex)?;
    let read = |text: &str| -> Option<f64> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let is_number = text.chars().all(|c| c.is_ascii_digit() || c == '.')
            && text.contains(|c: char| c.is_ascii_digit());
        // A full stop may follow.
        is_number.then(|| text.strip_suffix('.').unwrap_or(text).parse().ok())?
    };
    match plain.split_once('/') {
        Some((above, below)) => {
            let (above, below) = (read(above)?, read(below)?);
            (below != 0.0).then(|| above / below)
        }
        None => read(&plain),
    }
}

/// Digits, points and fraction bars of a text in LaTeX; `None` where it has anything else that is seen.
fn plain(latex: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = latex;
    // Something stands before that parts two numbers.
    let mut is_parted = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = after;
        match c {
            '\\' => {
                let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
                let length = if letters > 0 { letters } else { after.chars().next()?.len_utf8() };
                let (name, tail) = after.split_at(length);
                rest = tail.strip_prefix('*').unwrap_or(tail);
                is_parted = true;
                if FRACTIONS.contains(&name) {
                    let (above, tail) = argument(rest)?;
                    let (below, tail) = argument(tail)?;
                    rest = tail;
                    if out.ends_with(|c: char| c.is_ascii_digit()) {
                        return None;
                    }
                    out.push_str(&format!("{}/{}", plain(above)?, plain(below)?));
                } else if LOOKS.contains(&name) {
                    rest = argument(rest)?.1;
                } else if matches!(name, "over" | "slash") {
                    out.push('/');
                } else if !DRESS.split(' ').any(|word| word == name)
                    && !BLANKS.contains(&name)
                    && !matches!(name, "(" | ")" | "[" | "]")
                {
                    return None;
                }
            }
            '{' | '}' | '(' | ')' | '[' | ']' | '$' | '~' | '*' => is_parted = true,
            c if c.is_whitespace() => is_parted = true,
            '½' => {
                out.push_str("1/2");
                is_parted = true;
            }
            '0'..='9' | '.' | ',' | '/' | '+' => {
                if is_parted && c.is_ascii_digit() && out.ends_with(|c: char| c.is_ascii_digit()) {
                    return None;
                }
                is_parted = false;
                // A decimal comma.
                out.push(if c == ',' { '.' } else { c });
            }
            _ => return None,
        }
    }
    Some(out)
}

/// The first argument of a command, and what follows it.
fn argument(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if let Some(inner) = text.strip_prefix('{') {
        let close = closing_brace(inner)?;
        return Some((&inner[..close], &inner[close + 1..]));
    }
    let first = text.chars().next().filter(|c| *c != '\\')?;
    Some(text.split_at(first.len_utf8()))
}

impl From<Score> for f64 {
    fn from(score: Score) -> f64 {
        score.value()
    }
}

impl TryFrom<f64> for Score {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        [Score::Zero, Score::Half, Score::One]
            .into_iter()
            .find(|score| score.value() == value)
            .ok_or_else(|| format!("{value} is no score: it must be 1, 0.5 or 0"))
    }
}

/// A proof and what its writer thinks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The text of `## Solution`, without the heading.
    pub proof: String,
    /// The text of `## Self Evaluation`, without the heading; empty where there is none.
    pub self_evaluation: String,
    /// Its score, where it can be read.
    pub self_score: Option<Score>,
}

/// An evaluation with its score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// All of it.
    pub text: String,
    /// What its last box holds.
    pub score: Score,
}

/// Parts a text into thinking and answer at the last `</think>`; without one all of it is the answer.
pub fn split_thinking(text: &str) -> (&str, &str) {
    match text.rsplit_once("</think>") {
        Some((thinking, answer)) => {
            let thinking = thinking.trim();
            (thinking.strip_prefix("<think>").unwrap_or(thinking).trim(), answer.trim())
        }
        None => ("", text.trim()),
    }
}

/// Reads an answer of the generate or refine role: the section `Solution`, then `Self Evaluation`. `None` without a
/// solution of at least one character.
pub fn attempt(answer: &str) -> Option<Attempt> {
    let mut solution = None;
    let mut evaluation = None;
    let mut at = 0;
    for line in answer.split_inclusive('\n') {
        match heading(line) {
            // The first one counts: a proof may say "solution" again.
            Some(Heading::Solution) if solution.is_none() => solution = Some((at, at + line.len())),
            // The last one counts: a proof may talk about evaluations.
            Some(Heading::SelfEvaluation) if solution.is_some() => evaluation = Some((at, at + line.len())),
            _ => {}
        }
        at += line.len();
    }
    let (_, begin) = solution?;
    let (end, self_evaluation) = match evaluation {
        Some((start, after)) => (start, answer[after..].trim()),
        None => (answer.len(), ""),
    };
    let proof = answer[begin..end].trim();
    (!proof.is_empty()).then(|| Attempt {
        proof: proof.to_owned(),
        self_evaluation: self_evaluation.to_owned(),
        self_score: last_box(self_evaluation).and_then(Score::read),
    })
}

/// Reads an answer of the verify or meta-verify role: the last box is the score. `None` without a box, or with something
/// else in it.
pub fn evaluation(answer: &str) -> Option<Evaluation> {
    let text = answer.trim();
    let score = Score::read(last_box(text)?)?;
    Some(Evaluation { text: text.to_owned(), score })
}

/// Reads an answer of the compare role: which of two proofs is better, `\boxed{1}` or `\boxed{2}`.
pub fn preference(answer: &str) -> Option<usize> {
    let number = number(last_box(answer)?)?;
    [1.0, 2.0].iter().position(|choice| *choice == number)
}

/// What stands in the last `\boxed{…}` whose braces are closed.
pub fn last_box(text: &str) -> Option<&str> {
    const BOXED: &str = "\\boxed";
    let mut end = text.len();
    while let Some(at) = text[..end].rfind(BOXED) {
        let rest = text[at + BOXED.len()..].trim_start();
        if let Some(inner) = rest.strip_prefix('{')
            && let Some(close) = closing_brace(inner)
        {
            return Some(&inner[..close]);
        }
        end = at;
    }
    None
}

/// Where the brace closes that was opened just before `text`. Escaped braces do not count.
fn closing_brace(text: &str) -> Option<usize> {
    // A box with a score is short; looking no further keeps hostile texts linear.
    const LONGEST: usize = 1000;
    let mut depth = 0usize;
    let mut escaped = false;
    for (at, c) in text.char_indices().take(LONGEST) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

enum Heading {
    Solution,
    SelfEvaluation,
}

/// `## Solution`, also `# Solution:`, `### **Self-Evaluation**`, `**Solution**`.
fn heading(line: &str) -> Option<Heading> {
    let line = line.trim();
    let marked = line.starts_with('#') || (line.starts_with("**") && line.ends_with('*'));
    // Longer lines are prose; without this a line of megabytes would be copied.
    if !marked || line.len() > 60 {
        return None;
    }
    let words: String = line
        .chars()
        .filter(|c| !matches!(c, '#' | '*' | ':' | '_'))
        .map(|c| if c == '-' { ' ' } else { c.to_ascii_lowercase() })
        .collect();
    match words.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["solution" | "proof"] => Some(Heading::Solution),
        ["self", "evaluation"] | ["selfevaluation"] => Some(Heading::SelfEvaluation),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_attempt_has_a_proof_and_a_score() {
        let text = "## Solution\n1. 84 = 2 * 30 + 24.\n\n## Self Evaluation\nStep 1: holds.\n\\boxed{1}\n";
        let read = attempt(text).unwrap();
        assert_eq!(read.proof, "1. 84 = 2 * 30 + 24.");
        assert_eq!(read.self_evaluation, "Step 1: holds.\n\\boxed{1}");
        assert_eq!(read.self_score, Some(Score::One));
        let loose = attempt("Well.\n# **Solution:**\nA.\n### Self-Evaluation\nso \\boxed{ 0.5 }").unwrap();
        assert_eq!((loose.proof.as_str(), loose.self_score), ("A.", Some(Score::Half)));
        let unrated = attempt("## Solution\nA.").unwrap();
        assert_eq!((unrated.self_evaluation.as_str(), unrated.self_score), ("", None));
        for bad in [
            "",
            "A proof.",
            "## Solution",
            "## Solution\n \n## Self Evaluation\n\\boxed{1}",
            "## Self Evaluation\n1",
        ] {
            assert_eq!(attempt(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_last_box_is_the_score() {
        let score = |text: &str| evaluation(text).map(|evaluation| evaluation.score);
        assert_eq!(score("\\boxed{0} but then \\boxed{1}"), Some(Score::One));
        assert_eq!(score("\\boxed{\\frac{1}{2}}"), Some(Score::Half));
        assert_eq!(score("\\boxed {\\text{0.5}}"), Some(Score::Half));
        assert_eq!(score("$\\boxed{0.0}$."), Some(Score::Zero));
        assert_eq!(score("\\boxed{1} and an unclosed \\boxed{0"), Some(Score::One));
        for none in [
            "",
            "1",
            "\\boxed{}",
            "\\boxed{2}",
            "\\boxed{0.7}",
            "\\boxed{x}",
            "\\boxed",
            "\\boxed{1} \\boxed{yes}",
        ] {
            assert_eq!(score(none), None, "{none}");
        }
        assert_eq!((preference("\\boxed{2}"), preference("\\boxed{0}")), (Some(1), None));
    }

    #[test]
    fn a_score_is_read_whatever_latex_has_around_it() {
        for one in [
            "1",
            " 1.0 ",
            "1.",
            "+1",
            "(1)",
            "[1]",
            "{1}",
            "{{1}}",
            "$1$",
            "\\(1\\)",
            "**1**",
            "1\\,",
            "\\,1\\;",
            "~1~",
            "\\ 1",
            "\\text{1}",
            "\\textbf{1}",
            "\\textbf{\\textit{1}}",
            "\\mathbf 1",
            "\\mathrm{1.00}",
            "\\boldsymbol{1}",
            "\\bm{1}",
            "\\bf 1",
            "{\\bf 1}",
            "\\bfseries 1",
            "\\displaystyle 1",
            "\\displaystyle\\frac{1}{1}",
            "\\large{1}",
            "\\Large\\bf 1",
            "\\color{red}{1}",
            "\\textcolor{green!50!black}{1}",
            "\\quad 1\\quad",
            "\\left(1\\right)",
            "\\mbox{1}",
            "\\fbox{1}",
            "\\operatorname{1}",
            "\\hspace{2pt}1",
            "\\underline{1}",
            "\\boxed{1}",
            "1/1",
            "1,0",
            "1{,}0",
            "\\text*{1}",
            "01",
        ] {
            assert_eq!(Score::read(one), Some(Score::One), "{one}");
        }
        for half in [
            "0.5",
            ".5",
            "0,5",
            "0{,}5",
            "1/2",
            "1 / 2",
            "½",
            "\\frac{1}{2}",
            "\\frac12",
            "\\frac 1 2",
            "\\dfrac{1}{2}",
            "\\tfrac12",
            "\\nicefrac{1}{2}",
            "\\sfrac{1}{2}",
            "{1 \\over 2}",
            "\\textbf{0.5}",
            "\\frac{\\textbf{1}}{\\bf 2}",
            "\\textstyle \\frac{1}{2}\\,",
            "0.50",
            "\\mathbf{\\frac{1}{2}}",
            "2/4",
        ] {
            assert_eq!(Score::read(half), Some(Score::Half), "{half}");
        }
        for zero in ["0", "0.0", "\\textit{0}", "0/1", "\\frac{0}{1}", "00"] {
            assert_eq!(Score::read(zero), Some(Score::Zero), "{zero}");
        }
        for none in [
            "",
            " ",
            ".",
            "{}",
            "1 0",
            "0 1",
            "{0}{1}",
            "1\\,0",
            "-1",
            "−1",
            "2",
            "0.7",
            "x",
            "1x",
            "score 1",
            "\\sqrt{1}",
            "1^2",
            "\\frac{1}",
            "\\frac{1}{0}",
            "1/2/3",
            "1.0.0",
            "\\foo{1}",
            "\\",
            "1\\%",
            "100\\%",
            "1\\frac{1}{2}",
            "0\\frac12",
            "\\frac\\frac",
            "1\\text{ or }0",
            "\\text{1 or 0}",
        ] {
            assert_eq!(Score::read(none), None, "{none}");
        }
        assert_eq!(preference("\\boxed{\\textbf{2}}"), Some(1));
        assert_eq!(preference("\\boxed{\\text{Proof 2}}"), None);
    }

    #[test]
    fn thinking_ends_at_the_last_mark() {
        assert_eq!(split_thinking("<think>a</think>b"), ("a", "b"));
        assert_eq!(split_thinking("a</think>b</think> c "), ("a</think>b", "c"));
        assert_eq!(split_thinking("c"), ("", "c"));
    }

    #[test]
    fn a_line_of_megabytes_is_read_in_no_time() {
        let long = "\\boxed{".repeat(100_000);
        assert_eq!(evaluation(&long), None);
        let long = format!("## Solution\n{}", "#".repeat(10 << 20));
        assert_eq!(attempt(&long).unwrap().proof.len(), 10 << 20);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(\\PC|\n|## Solution\n|## Self Evaluation\n|\\\\boxed\\{|\\}|1|0\\.5|</think>){0,40}") {
            let (_, answer) = split_thinking(&text);
            if let Some(read) = attempt(answer) {
                prop_assert!(!read.proof.is_empty() && answer.contains(&read.proof));
            }
            if let Some(read) = evaluation(answer) {
                prop_assert!(read.text.contains("\\boxed"));
            }
            preference(&text);
        }

        #[test]
        fn what_was_written_is_read(proof in "[a-z0-9 .\n]{1,80}", notes in "[a-z \n]{0,40}", score in 0usize..3) {
            prop_assume!(!proof.trim().is_empty());
            let score = [Score::Zero, Score::Half, Score::One][score];
            let text = format!("## Solution\n{proof}\n\n## Self Evaluation\n{notes}\n\\boxed{{{}}}", score.value());
            let read = attempt(&text).unwrap();
            prop_assert_eq!(read.proof, proof.trim());
            prop_assert_eq!(read.self_score, Some(score));
        }
    }
}
