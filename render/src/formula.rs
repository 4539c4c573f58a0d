//! Where the formulas of a text are.

/// Longest formula, in bytes. The longest published one has 1.6 kB; longer ones are shown as source.
pub(crate) const MAX_FORMULA: usize = 20_000;

/// The formula cannot be rendered; its source should be shown instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejected;

/// A formula between its delimiters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Formula<'a> {
    /// With delimiters, as written.
    pub source: &'a str,
    /// Without, blanks at both ends trimmed.
    pub latex: &'a str,
    pub display: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Formula(Formula<'a>),
}

/// Environments that are formulas without any delimiters.
const ENVIRONMENTS: [&str; 7] =
    ["equation", "align", "gather", "multline", "alignat", "eqnarray", "displaymath"];

/// Cuts a text at its formulas. A delimiter without its other half stays text.
pub(crate) fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut scanner = Scanner { text, bytes: text.as_bytes(), dead_until: [0; 4], wasted: 0 };
    let (mut from, mut at) = (0, 0);
    while at < text.len() {
        match scanner.formula_at(at) {
            Some((formula, end)) => {
                if from < at {
                    pieces.push(Piece::Text(&text[from..at]));
                }
                pieces.push(Piece::Formula(formula));
                (from, at) = (end, end);
            }
            // An escaped character opens nothing: `\\[4pt]` is row spacing, `\$` a dollar.
            None if scanner.bytes[at] == b'\\' => at += 2,
            None => at += 1,
        }
    }
    if from < text.len() {
        pieces.push(Piece::Text(&text[from..]));
    }
    pieces
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    /// Per kind of delimiter: no closing one stands before this position, so there is no need to look again.
    dead_until: [usize; 4],
    /// Bytes looked at in vain.
    wasted: usize,
}

impl<'a> Scanner<'a> {
    /// The formula that starts at `at`, and where the text goes on.
    fn formula_at(&mut self, at: usize) -> Option<(Formula<'a>, usize)> {
        let rest = &self.bytes[at..];
        let (open, close, end) = match rest {
            [b'\\', b'(', ..] => (2, self.bracket(at + 2, 0, b'(', b')')?, 2),
            [b'\\', b'[', ..] => (2, self.bracket(at + 2, 1, b'[', b']')?, 2),
            [b'$', b'$', ..] => (2, self.dollars(at + 2)?, 2),
            [b'$', ..] => (1, self.dollar(at + 1)?, 1),
            [b'\\', b'b', b'o', ..] => return self.boxed(at),
            [b'\\', b'b', ..] => return self.environment(at),
            _ => return None,
        };
        let latex = self.text[at + open..close].trim();
        let end = close + end;
        let display = rest.starts_with(b"\\[") || rest.starts_with(b"$$");
        let source = &self.text[at..end];
        (!latex.is_empty()).then_some((Formula { source, latex, display }, end))
    }

    /// Position of `\)` or `\]`. Formulas inside a group, as in `\text{if \(x\)}`, belong to the group.
    fn bracket(&mut self, from: usize, kind: usize, open: u8, close: u8) -> Option<usize> {
        if from < self.dead_until[kind] {
            return None;
        }
        let limit = (from + MAX_FORMULA).min(self.bytes.len());
        let nest = self.wasted <= 4 * self.bytes.len();
        let (mut at, mut depth, mut nested, mut seen) = (from, 0i64, 0usize, false);
        while at < limit {
            match self.bytes[at] {
                b'\\' => {
                    let next = self.bytes.get(at + 1).copied();
                    if next == Some(close) {
                        if nested == 0 {
                            return Some(at);
                        }
                        nested -= 1;
                        seen = true;
                    } else if next == Some(open) {
                        if depth > 0 && nest {
                            nested += 1;
                        } else {
                            self.wasted += at - from;
                            return None;
                        }
                    }
                    at += 1;
                }
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b'\n' if kind == 0 && self.blank_line(at) => break,
                _ => {}
            }
            at += 1;
        }
        self.wasted += at - from;
        if !seen {
            self.dead_until[kind] = at;
        }
        None
    }

    /// Position of the next `$$`.
    fn dollars(&mut self, from: usize) -> Option<usize> {
        if from < self.dead_until[2] {
            return None;
        }
        let limit = (from + MAX_FORMULA).min(self.bytes.len());
        let mut at = from;
        while at < limit {
            match self.bytes[at] {
                b'\\' => at += 1,
                b'$' if self.bytes.get(at + 1) == Some(&b'$') => return Some(at),
                _ => {}
            }
            at += 1;
        }
        self.dead_until[2] = at;
        None
    }

    /// Position of the `$` that closes: the next one, if what is between looks like a formula. Money does not: its dollars have a
    /// blank on one side only, and no command, script or equation between them.
    fn dollar(&mut self, from: usize) -> Option<usize> {
        if from < self.dead_until[3] {
            return None;
        }
        let limit = (from + MAX_FORMULA).min(self.bytes.len());
        let mut at = from;
        while at < limit {
            match self.bytes[at] {
                b'\\' => at += 1,
                b'`' => break,
                b'\n' if self.blank_line(at) => break,
                b'$' => {
                    let inside = &self.text[from..at];
                    let blanks =
                        [inside.starts_with(char::is_whitespace), inside.ends_with(char::is_whitespace)];
                    let digit = self.bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
                    let letters =
                        |word: &str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_lowercase());
                    let formula = match blanks {
                        _ if inside.contains(['\\', '^', '_', '=']) => true,
                        [false, false] => !digit,
                        [true, true] => !digit && !inside.split_whitespace().any(letters),
                        _ => false,
                    };
                    return (formula && !inside.trim().is_empty()).then_some(at);
                }
                _ => {}
            }
            at += 1;
        }
        self.dead_until[3] = at;
        None
    }

    /// The score at the end of an evaluation, `\boxed{0.5}`, which stands there without delimiters.
    fn boxed(&self, at: usize) -> Option<(Formula<'a>, usize)> {
        let rest = &self.text[at..];
        let inside = rest.strip_prefix("\\boxed{")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-./ ".contains(&byte);
        let length = inside.bytes().take(20).take_while(|byte| plain(*byte)).count();
        if inside.as_bytes().get(length) != Some(&b'}') || inside[..length].trim().is_empty() {
            return None;
        }
        let source = &rest[.."\\boxed{".len() + length + 1];
        Some((Formula { source, latex: source, display: false }, at + source.len()))
    }

    /// `\begin{align} … \end{align}` as a formula of its own.
    fn environment(&mut self, at: usize) -> Option<(Formula<'a>, usize)> {
        let rest = &self.text[at..];
        let name = rest.strip_prefix("\\begin{")?.split_once('}')?.0;
        if !ENVIRONMENTS.contains(&name.trim_end_matches('*')) {
            return None;
        }
        let closing = format!("\\end{{{name}}}");
        let mut window = rest.len().min(MAX_FORMULA);
        while !rest.is_char_boundary(window) {
            window -= 1;
        }
        if self.wasted > 4 * self.bytes.len() + (1 << 20) {
            return None;
        }
        let Some(end) = rest[..window].find(&closing) else {
            self.wasted += window;
            return None;
        };
        let source = &rest[..end + closing.len()];
        // Where the environment only says that a formula stands alone, its inside is the formula.
        let inside = rest[name.len() + 8..end].trim();
        let alone = matches!(name.trim_end_matches('*'), "equation" | "displaymath");
        Some((
            Formula { source, latex: if alone { inside } else { source }, display: true },
            at + source.len(),
        ))
    }

    /// Whether the line after the line break at `at` is blank.
    fn blank_line(&self, at: usize) -> bool {
        let line = self.bytes[at + 1..].iter().find(|&&byte| byte == b'\n' || !byte.is_ascii_whitespace());
        line.is_none_or(|&byte| byte == b'\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Formulas as `⟨latex⟩` inline and `⟦latex⟧` displayed, within the text.
    fn marked(text: &str) -> String {
        split(text)
            .into_iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.to_owned(),
                Piece::Formula(Formula { latex, display: true, .. }) => format!("⟦{latex}⟧"),
                Piece::Formula(Formula { latex, .. }) => format!("⟨{latex}⟩"),
            })
            .collect()
    }

    #[test]
    fn delimiters_are_found() {
        for (text, wanted) in [
            ("a \\( x \\) b", "a ⟨x⟩ b"),
            ("\\[\nx\\\\[4pt]y\n\\]", "⟦x\\\\[4pt]y⟧"),
            ("x\\\\[4pt] y \\]", "x\\\\[4pt] y \\]"),
            ("$a$ and $$b$$", "⟨a⟩ and ⟦b⟧"),
            ("$5 and $6, \\$7", "$5 and $6, \\$7"),
            ("it costs $5, or 6$", "it costs ⟨5, or 6⟩"),
            ("lines $ AI $, $c_1, c_2 $", "lines ⟨AI⟩, ⟨c_1, c_2⟩"),
            ("from $5 and $x$", "from $5 and ⟨x⟩"),
            ("\\(a", "\\(a"),
            ("\\(a \\(b\\)", "\\(a ⟨b⟩"),
            ("\\(a\n\nb\\)", "\\(a\n\nb\\)"),
            ("\\[a\n\nb\\]", "⟦a\n\nb⟧"),
            ("\\(\\text{if \\(x\\)}\\)", "⟨\\text{if \\(x\\)}⟩"),
            ("\\(\\{a\\) \\(b\\}\\)", "⟨\\{a⟩ ⟨b\\}⟩"),
            ("\\(\\) x", "\\(\\) x"),
            ("\\begin{align*}a&=b\\end{align*}", "⟦\\begin{align*}a&=b\\end{align*}⟧"),
            ("\\begin{equation} a \\end{equation}", "⟦a⟧"),
            ("\\begin{align}a", "\\begin{align}a"),
            ("So\n\\boxed{0.5}", "So\n⟨\\boxed{0.5}⟩"),
            ("\\boxed{\\frac12} \\boxed{} \\boxed{1", "\\boxed{\\frac12} \\boxed{} \\boxed{1"),
            ("\\(\\boxed{1}\\)", "⟨\\boxed{1}⟩"),
            ("é\\", "é\\"),
            ("\\é\\(x\\)", "\\é⟨x⟩"),
        ] {
            assert_eq!(marked(text), wanted, "from {text:?}");
        }
    }
}
