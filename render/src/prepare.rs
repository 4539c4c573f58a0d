//! A formula as models write it, in the LaTeX that pulldown-latex knows.

use crate::formula::{MAX_FORMULA, Rejected};

/// Deepest nesting of groups and environments in a formula; parsers and browsers recurse.
const MAX_DEPTH: usize = 60;

/// Colour that [`prepare`] writes for `\boxed` and the renderer turns into a border. Other colours are left out: they could
/// make text invisible, in the light or in the dark.
pub(crate) const BOXED: (u8, u8, u8) = (1, 2, 3);

/// Stands for `%` in the text of a formula, where pulldown-latex would begin a comment and keep the backslash of `\%`.
pub(crate) const PERCENT: &str = "\u{fe6a}";

/// A formula in the LaTeX that pulldown-latex knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub latex: String,
    /// Content of a `\tag` that stands outside all environments.
    pub tag: Option<String>,
}

/// Lifts `\tag`, turns `\boxed` into a border, splits `\text{if \(x\)}` into text and mathematics, drops `\label` and the like,
/// and wraps bare `&` and `\\` into an environment.
pub(crate) fn prepare(latex: &str, display: bool) -> Result<Prepared, Rejected> {
    if latex.len() > MAX_FORMULA {
        return Err(Rejected);
    }
    let mut writer =
        Preparing { out: String::new(), tag: None, display, align: false, rows: false, lefts: 0 };
    writer.walk(latex, 0, &mut 0)?;
    let Preparing { mut out, tag, align, rows, .. } = writer;
    if align || rows {
        let environment = if align { "aligned" } else { "gathered" };
        out =
            format!("\\begin{{{environment}}}{}\\end{{{environment}}}", out.trim().trim_end_matches("\\\\"));
    }
    Ok(Prepared { latex: out, tag })
}

struct Preparing {
    out: String,
    tag: Option<String>,
    display: bool,
    /// A `&` stands outside all environments and groups.
    align: bool,
    /// A `\\` does.
    rows: bool,
    /// `\left`s still open.
    lefts: usize,
}

impl Preparing {
    /// `depth` counts groups around `latex`, `environments` the environments open.
    fn walk(&mut self, latex: &str, depth: usize, environments: &mut usize) -> Result<(), Rejected> {
        if depth > MAX_DEPTH {
            return Err(Rejected);
        }
        let mut groups = depth;
        let mut rest = latex;
        let mut digit = false;
        while let Some(c) = rest.chars().next() {
            if c != '\\' {
                match c {
                    '{' => groups += 1,
                    '}' => groups = groups.saturating_sub(1),
                    '&' if groups == 0 && *environments == 0 => self.align = true,
                    _ => {}
                }
                if groups + *environments > MAX_DEPTH {
                    return Err(Rejected);
                }
                self.push(c);
                rest = &rest[c.len_utf8()..];
                // `(0,0)` has two numbers; a thousand is written `1{,}000`.
                if c == ',' && digit && rest.starts_with(|c: char| c.is_ascii_digit()) {
                    self.out.push_str("{}");
                }
                digit = c.is_ascii_digit();
                continue;
            }
            let (name, after) = command(rest);
            if self.lefts + groups + *environments > MAX_DEPTH {
                return Err(Rejected);
            }
            match name {
                "begin" => *environments += 1,
                "end" => *environments = environments.saturating_sub(1),
                "\\" if groups == 0 && *environments == 0 => self.rows = true,
                "left" => self.lefts += 1,
                "right" => self.lefts = self.lefts.saturating_sub(1),
                // What a formula defines could be anything, endless included.
                "def"
                | "gdef"
                | "edef"
                | "xdef"
                | "let"
                | "newcommand"
                | "renewcommand"
                | "providecommand"
                | "DeclareMathOperator"
                | "newenvironment" => return Err(Rejected),
                "nonumber" | "notag" | "allowbreak" | "nobreak" | "relax" => {
                    // A command ends where a letter cannot join it.
                    self.out.push(' ');
                    rest = after;
                    continue;
                }
                "label" => {
                    if let Some((_, after)) = group(after)? {
                        rest = after;
                        continue;
                    }
                }
                "tag" => {
                    let starred = after.starts_with('*');
                    if let Some((tag, after)) = group(after.trim_start_matches('*'))? {
                        let words = if starred { tag.to_owned() } else { format!("({tag})") };
                        if self.display && groups == 0 && *environments == 0 && self.tag.is_none() {
                            self.tag = Some(words);
                        } else {
                            self.out.push_str("\\qquad");
                            self.text("text", &words, groups, environments)?;
                        }
                        rest = after;
                        continue;
                    }
                }
                "boxed" | "fbox" | "framebox" => {
                    if let Some((inner, after)) = group(after)? {
                        let (red, green, blue) = BOXED;
                        self.out.push_str(&format!("{{\\color{{#{red:02x}{green:02x}{blue:02x}}}"));
                        if name == "boxed" {
                            self.walk(inner, groups + 1, environments)?;
                        } else {
                            self.text("text", inner, groups, environments)?;
                        }
                        self.out.push('}');
                        rest = after;
                        continue;
                    }
                }
                "text" | "textrm" | "textup" | "textnormal" | "textit" | "textbf" | "textsf" | "texttt"
                | "mbox" | "hbox" => {
                    if let Some((inner, after)) = group(after)? {
                        let name = if matches!(name, "textbf" | "textit" | "texttt") { name } else { "text" };
                        self.text(name, inner, groups, environments)?;
                        rest = after;
                        continue;
                    }
                }
                "operatorname" => {
                    if let Some((inner, next)) = group(after.trim_start_matches('*'))? {
                        // Printed as it stands, so it must be a word.
                        let inner = inner.replace("\\,", "\u{2009}").replace(['~'], " ").replace("\\!", "");
                        let plain = |c: char| c.is_alphanumeric() || " \u{2009}-'".contains(c);
                        if inner.chars().all(plain) {
                            self.out.push_str(&format!("\\operatorname{{{inner}}}"));
                        } else {
                            self.out.push_str("\\mathrm{");
                            self.walk(&inner, groups + 1, environments)?;
                            self.out.push('}');
                        }
                        rest = next;
                        continue;
                    }
                }
                _ => {}
            }
            self.out.push_str(&rest[..rest.len() - after.len()]);
            rest = after;
        }
        Ok(())
    }

    fn push(&mut self, c: char) {
        match c {
            // What models write by typographic habit; TeX has no names for these.
            '\u{2011}' | '\u{2010}' => self.out.push('-'),
            '\u{a0}' | '\u{202f}' | '\u{2003}' | '\u{2002}' | '\u{2009}' => self.out.push_str("\\ "),
            '%' => self.out.push_str("\\%"),
            c => self.out.push(c),
        }
    }

    /// Text with formulas in it: `\text{if \(x\) or $y$}` → `\text{if }{x}\text{ or }{y}`.
    fn text(
        &mut self,
        name: &str,
        inner: &str,
        depth: usize,
        environments: &mut usize,
    ) -> Result<(), Rejected> {
        if depth > MAX_DEPTH {
            return Err(Rejected);
        }
        let mut plain = String::new();
        let mut rest = inner;
        let mut formulas = true;
        while let Some(c) = rest.chars().next() {
            if formulas && (c == '$' || rest.starts_with("\\(")) {
                // A delimiter without its other half stays what it is, and so do all after it.
                let Some((formula, after)) = formula_in_text(rest) else {
                    formulas = false;
                    continue;
                };
                self.flush_text(name, &mut plain);
                self.out.push('{');
                self.walk(formula, depth + 1, environments)?;
                self.out.push('}');
                rest = after;
                continue;
            }
            match c {
                '\\' => {
                    let (command, after) = command(rest);
                    match command {
                        "quad" => plain.push('\u{2003}'),
                        "qquad" => plain.push_str("\u{2003}\u{2003}"),
                        "ldots" | "dots" => plain.push('…'),
                        "," | ";" | ":" | " " | "\\" => plain.push(' '),
                        "%" | "&" | "_" | "#" | "$" => plain.push_str(command),
                        "{" | "}" | "!" | "/" | "-" => {}
                        "emph" | "textit" | "textbf" | "textrm" | "text" | "mbox" => {
                            self.flush_text(name, &mut plain);
                            let Some((argument, next)) = group(after)? else { return Err(Rejected) };
                            let name = if command == "textbf" { "textbf" } else { "textit" };
                            self.text(name, argument, depth + 1, environments)?;
                            rest = next;
                            continue;
                        }
                        command if command.chars().all(char::is_alphabetic) => {
                            // A command in text, such as \emph or \pmod: let the mathematics parser have it.
                            self.flush_text(name, &mut plain);
                            self.walk(&rest[..rest.len() - after.len()], depth, environments)?;
                            if let Some((argument, next)) = group(after)? {
                                self.out.push('{');
                                self.text(name, argument, depth + 1, environments)?;
                                self.out.push('}');
                                rest = next;
                                continue;
                            }
                        }
                        command => plain.push_str(command),
                    }
                    rest = after;
                    continue;
                }
                '~' => plain.push('\u{a0}'),
                '{' | '}' => {}
                c => plain.push(c),
            }
            rest = &rest[c.len_utf8()..];
        }
        self.flush_text(name, &mut plain);
        Ok(())
    }

    fn flush_text(&mut self, name: &str, plain: &mut String) {
        if !plain.is_empty() {
            // The group is read up to its brace and nothing in it is a command any more, `%` excepted.
            let words = plain.replace('%', PERCENT);
            self.out.push_str(&format!("\\{name}{{{words}}}"));
            plain.clear();
        }
    }
}

/// The name of the command at the start of `rest` (which starts with a backslash) and what follows it.
fn command(rest: &str) -> (&str, &str) {
    let body = &rest[1..];
    let letters = body.bytes().take_while(u8::is_ascii_alphabetic).count();
    let length = if letters > 0 { letters } else { body.chars().next().map_or(0, char::len_utf8) };
    body.split_at(length)
}

/// The inside of the braced group at the start of `rest` and what follows it; `None` where no group starts.
fn group(rest: &str) -> Result<Option<(&str, &str)>, Rejected> {
    let rest = rest.trim_start();
    if !rest.starts_with('{') {
        return Ok(None);
    }
    let (mut depth, mut escaped) = (0usize, false);
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some((&rest[1..at], &rest[at + 1..])));
                }
            }
            _ => {}
        }
    }
    // Never closed: no command that follows can be right either, and looking on for each would take long.
    Err(Rejected)
}

/// The formula in `\( \)` or `$ $` at the start of text and what follows it.
fn formula_in_text(rest: &str) -> Option<(&str, &str)> {
    let (open, close) = if rest.starts_with("\\(") { ("\\(", "\\)") } else { ("$", "$") };
    let rest = rest.strip_prefix(open)?;
    rest.find(close).map(|at| (&rest[..at], &rest[at + close.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(latex: &str) -> (String, Option<String>) {
        let Prepared { latex, tag } = prepare(latex, true).unwrap();
        (latex, tag)
    }

    #[test]
    fn tags_are_lifted_or_stay_in_their_row() {
        assert_eq!(prepared("x=1 \\tag{7}"), ("x=1 ".to_owned(), Some("(7)".to_owned())));
        assert_eq!(prepared("x\\tag*{A}").1.as_deref(), Some("A"));
        let (latex, tag) = prepared("\\begin{aligned}x&=1\\tag{1}\\\\y&=2\\tag{2}\\end{aligned}");
        assert_eq!(latex, "\\begin{aligned}x&=1\\qquad\\text{(1)}\\\\y&=2\\qquad\\text{(2)}\\end{aligned}");
        assert_eq!(tag, None);
    }

    #[test]
    fn bare_rows_and_columns_get_an_environment() {
        assert_eq!(prepared("a&=b\\\\[4pt]c&=d").0, "\\begin{aligned}a&=b\\\\[4pt]c&=d\\end{aligned}");
        assert_eq!(prepared("a\\\\b").0, "\\begin{gathered}a\\\\b\\end{gathered}");
        assert_eq!(prepared("\\substack{a\\\\b}").0, "\\substack{a\\\\b}");
        assert_eq!(prepared("\\{a\\&b\\}").0, "\\{a\\&b\\}");
    }

    #[test]
    fn text_is_split_around_its_formulas() {
        assert_eq!(prepared("\\text{if \\(x>0\\) or $y$}").0, "\\text{if }{x>0}\\text{ or }{y}");
        assert_eq!(prepared("\\mbox{a}").0, "\\text{a}");
    }
}
