//! A model's text to HTML: Markdown with LaTeX formulas, as proofs and evaluations are written.
//!
//! The text is untrusted. What comes out has no script, no link, no image and no attribute that the text chose; whatever is no
//! Markdown of ours stays visible as text. Formulas stand between `\( \)`, `\[ \]`, `$ $`, `$$ $$` or in a bare
//! `\begin{align}…\end{align}` (and its siblings) and become MathML; one that cannot be rendered is shown as code, never dropped.
//!
//! ```
//! let rendered = porism_prover::markdown::render("So \\( x<1 \\), **done**.");
//! assert_eq!((rendered.formulas, rendered.rejected.len()), (1, 0));
//! assert!(rendered.html.starts_with("<p>So <math display=\"inline\">"));
//! assert!(rendered.html.ends_with("<strong>done</strong>.</p>\n"));
//! ```

use pulldown_cmark::{
    Alignment, CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd, TextMergeStream,
};

use crate::math::{MAX_FORMULA, escape, to_mathml};

/// Deepest nesting of lists and quotations that is shown as such; browsers and readers give up about there.
const MAX_DEPTH: usize = 40;

/// Characters that stand for something while Markdown is parsed. They are private-use characters and are replaced where the text
/// itself contains them.
const FORMULA_START: char = '\u{e000}';
const FORMULA_END: char = '\u{e001}';
/// `<`, so that no HTML and no automatic link is seen.
const LESS: char = '\u{e002}';
/// `[`, so that no link, image, footnote or link definition is seen: the last would vanish from the text.
const BRACKET: char = '\u{e003}';
/// `*` between two factors, so that no emphasis is seen in `2*30 = 60` and `1*24 = 24`.
const STAR: char = '\u{e004}';

/// HTML of a text, with what became of its formulas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// HTML of the whole text: paragraphs, lists, tables.
    pub html: String,
    /// Formulas found, in code blocks not counted.
    pub formulas: usize,
    /// Sources of the formulas that are shown as code because they could not be rendered.
    pub rejected: Vec<String>,
}

/// Renders a text. Any text: this neither fails nor panics, and takes time in proportion to its length.
pub fn render(text: &str) -> Rendered {
    let pieces = split(text);
    let mut markdown = String::with_capacity(text.len() + 64);
    let mut formulas = Vec::new();
    for piece in &pieces {
        match *piece {
            Piece::Text(text) => markdown.extend(text.chars().map(|c| match c {
                '<' => LESS,
                '[' => BRACKET,
                FORMULA_START..=STAR => char::REPLACEMENT_CHARACTER,
                c => c,
            })),
            Piece::Formula(formula) => {
                markdown.push(FORMULA_START);
                markdown.push_str(&formulas.len().to_string());
                markdown.push(FORMULA_END);
                formulas.push(formula);
            }
        }
    }
    let markdown = latex_text(&products(&markdown));
    let mut writer = Writer {
        formulas: &formulas,
        rendered: Rendered::default(),
        open: Vec::new(),
        columns: Vec::new(),
        column: 0,
        head: false,
        block: None,
    };
    for event in TextMergeStream::new(Parser::new_ext(&markdown, Options::ENABLE_TABLES)) {
        writer.event(event);
    }
    writer.rendered
}

/// A formula between its delimiters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Formula<'a> {
    /// With delimiters, as written.
    source: &'a str,
    /// Without, blanks at both ends trimmed.
    latex: &'a str,
    display: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Formula(Formula<'a>),
}

/// Environments that are formulas without any delimiters.
const ENVIRONMENTS: [&str; 7] =
    ["equation", "align", "gather", "multline", "alignat", "eqnarray", "displaymath"];

/// Cuts a text at its formulas. A delimiter without its other half stays text.
fn split(text: &str) -> Vec<Piece<'_>> {
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

/// Marks the asterisks that multiply. CommonMark lets one between two words open or close emphasis; proofs mean a product by it.
fn products(text: &str) -> String {
    if !text.contains('*') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut before = None;
    let mut rest = text;
    while let Some(at) = rest.find('*') {
        out.push_str(&rest[..at]);
        before = rest[..at].chars().next_back().or(before);
        rest = &rest[at..];
        let length = rest.bytes().take_while(|byte| *byte == b'*').count();
        let (stars, after) = rest.split_at(length);
        let mut next = after.chars();
        let factors = (before, next.next(), next.next());
        let multiplies = match stars {
            "*" => is_product(factors),
            "**" => is_power(factors),
            _ => false,
        };
        if multiplies {
            out.extend(std::iter::repeat_n(STAR, length));
        } else {
            out.push_str(stars);
        }
        before = Some('*');
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `2*3`, `a*b`, `2*(1 + 1)`, `(1 + 1)*2`, `\(a\)*b`. Letters of other scripts are written without blanks between words, so for
/// them an asterisk may well be emphasis.
fn is_product((before, next, _): (Option<char>, Option<char>, Option<char>)) -> bool {
    let (Some(before), Some(next)) = (before, next) else {
        return false;
    };
    let left = before.is_ascii_alphanumeric() || matches!(before, ')' | FORMULA_END);
    let right = next.is_ascii_alphanumeric() || next == FORMULA_START;
    left && right || next == '(' && (before.is_ascii_digit() || before == ')')
}

/// `x**2`, `2**n`; not the end of `**Case 1**We`.
fn is_power((before, next, beyond): (Option<char>, Option<char>, Option<char>)) -> bool {
    let (Some(before), Some(next)) = (before, next) else {
        return false;
    };
    let base = before.is_ascii_alphanumeric() || before == ')';
    let one_letter = next.is_ascii_alphabetic() && !beyond.is_some_and(|c| c.is_ascii_alphanumeric());
    base && next.is_ascii_digit() || before.is_ascii_digit() && one_letter
}

/// The few LaTeX commands that problem statements use outside formulas, as Markdown.
fn latex_text(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let lists = text.contains("\\begin{itemize}") || text.contains("\\begin{enumerate}");
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    'text: while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        for (command, mark) in
            [("\\emph{", "*"), ("\\textit{", "*"), ("\\textbf{", "**"), ("\\text{", ""), ("\\mbox{", "")]
        {
            let Some(inner) = rest.strip_prefix(command) else { continue };
            // A word or a line, without groups of its own.
            let Some((end, b'}')) =
                inner.bytes().enumerate().take(500).find(|(_, byte)| b"{}\n\\".contains(byte))
            else {
                continue;
            };
            let words = &inner[..end];
            if !words.is_empty() && words.trim() == words {
                out.push_str(&format!("{mark}{words}{mark}"));
                rest = &inner[end + 1..];
                continue 'text;
            }
        }
        let replaced: &[(&str, &str)] = &[
            ("\\begin{itemize}", "\n\n"),
            ("\\end{itemize}", "\n\n"),
            ("\\begin{enumerate}", "\n\n"),
            ("\\end{enumerate}", "\n\n"),
            ("\\item", "\n- "),
        ];
        for (command, markdown) in replaced.iter().filter(|_| lists).chain([&("\\noindent", "")]) {
            if let Some(after) = rest.strip_prefix(command) {
                out.push_str(markdown);
                rest = if markdown.is_empty() { after.trim_start_matches(' ') } else { after.trim_start() };
                continue 'text;
            }
        }
        // The backslash and what it may escape.
        let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Writes HTML from Markdown's events.
struct Writer<'a> {
    formulas: &'a [Formula<'a>],
    rendered: Rendered,
    /// Closing tags of what is open; empty where it is too deep to show.
    open: Vec<&'static str>,
    columns: Vec<Alignment>,
    column: usize,
    head: bool,
    /// Inside a code block: whether it is a fenced one. Indented text is what proofs have; nobody means code by it.
    block: Option<bool>,
}

impl Writer<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.block == Some(true) => self.source(&text),
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::Code(text) => {
                self.push("<code>");
                self.source(&text);
                self.push("</code>");
            }
            Event::SoftBreak if self.ends_a_sentence() => self.push("<br>\n"),
            Event::SoftBreak => self.push("\n"),
            Event::HardBreak => self.push("<br>\n"),
            Event::Rule => self.push("<hr>\n"),
            // Not asked for in the options, so they do not come.
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => {
                self.text(&text)
            }
            Event::TaskListMarker(_) => {}
        }
    }

    fn push(&mut self, html: &str) {
        self.rendered.html.push_str(html);
    }

    /// Whether the line that ends here ends a sentence. Then its end was meant: evaluations write a line per step, while text
    /// that was broken to fit a width is broken anywhere.
    fn ends_a_sentence(&self) -> bool {
        let mut html = self.rendered.html.trim_end();
        for closing in ["</strong>", "</em>"] {
            html = html.strip_suffix(closing).unwrap_or(html);
        }
        html.ends_with(['.', '!', '?'])
    }

    fn start(&mut self, tag: Tag<'_>) {
        if let Tag::Table(columns) = &tag {
            self.columns.clone_from(columns);
        }
        if let Tag::CodeBlock(kind) = &tag {
            self.block = Some(matches!(kind, CodeBlockKind::Fenced(_)));
        }
        if matches!(tag, Tag::TableHead | Tag::TableRow) {
            self.column = 0;
            self.head = matches!(tag, Tag::TableHead);
        }
        let (opening, closing) = match tag {
            Tag::Paragraph => ("<p>", "</p>\n"),
            Tag::Heading { level, .. } => match level {
                // Above them stand the headings of the page.
                HeadingLevel::H1 => ("<h4>", "</h4>\n"),
                HeadingLevel::H2 => ("<h5>", "</h5>\n"),
                _ => ("<h6>", "</h6>\n"),
            },
            Tag::BlockQuote(_) => ("<blockquote>", "</blockquote>\n"),
            Tag::CodeBlock(CodeBlockKind::Fenced(_)) => ("<pre><code>", "</code></pre>\n"),
            Tag::CodeBlock(CodeBlockKind::Indented) => ("<p class=\"lines\">", "</p>\n"),
            Tag::List(None) => ("<ul>\n", "</ul>\n"),
            Tag::List(Some(first)) => {
                if self.open.len() < MAX_DEPTH {
                    self.push(&format!("<ol start=\"{first}\">\n"));
                    self.open.push("</ol>\n");
                } else {
                    self.open.push("");
                }
                return;
            }
            Tag::Item => ("<li>", "</li>\n"),
            Tag::Table(_) => ("<div class=\"wide\"><table>\n", "</tbody></table></div>\n"),
            Tag::TableHead => ("<thead><tr>", "</tr></thead>\n<tbody>"),
            Tag::TableRow => ("<tr>", "</tr>\n"),
            Tag::TableCell => {
                let side = self.columns.get(self.column);
                self.column += 1;
                let closing = if self.head { "</th>" } else { "</td>" };
                let opening = match (self.head, side) {
                    (true, _) => "<th>",
                    (false, Some(Alignment::Right)) => "<td class=\"right\">",
                    (false, Some(Alignment::Center)) => "<td class=\"centre\">",
                    (false, _) => "<td>",
                };
                (opening, closing)
            }
            Tag::Emphasis => ("<em>", "</em>"),
            Tag::Strong => ("<strong>", "</strong>"),
            // Links, images and HTML are never seen, other kinds not asked for: what is inside is text.
            _ => ("", ""),
        };
        if self.open.len() < MAX_DEPTH {
            self.push(opening);
            self.open.push(closing);
        } else {
            self.open.push("");
        }
    }

    fn end(&mut self, tag: TagEnd) {
        if tag == TagEnd::CodeBlock {
            self.block = None;
        }
        if let Some(closing) = self.open.pop() {
            self.push(closing);
        }
    }

    /// Text with its formulas rendered.
    fn text(&mut self, text: &str) {
        self.write(text, true);
    }

    /// Text with its formulas as they were written.
    fn source(&mut self, text: &str) {
        self.write(text, false);
    }

    fn write(&mut self, text: &str, render: bool) {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| (FORMULA_START..=STAR).contains(c)) {
            escape(&mut self.rendered.html, &rest[..at]);
            rest = &rest[at + c.len_utf8()..];
            match c {
                LESS => self.push("&lt;"),
                BRACKET => self.push("["),
                STAR => self.push("*"),
                FORMULA_START => {
                    let (number, after) = rest.split_once(FORMULA_END).unwrap_or((rest, ""));
                    rest = after;
                    if let Some(&formula) =
                        number.parse().ok().and_then(|number: usize| self.formulas.get(number))
                    {
                        if render {
                            self.formula(formula);
                        } else {
                            escape(&mut self.rendered.html, formula.source);
                        }
                    }
                }
                _ => {}
            }
        }
        escape(&mut self.rendered.html, rest);
    }

    fn formula(&mut self, formula: Formula<'_>) {
        self.rendered.formulas += 1;
        let Formula { source, latex, display } = formula;
        match to_mathml(latex, display) {
            Ok((mathml, tag)) if display => {
                self.push("<span class=\"display\">");
                self.push(&mathml);
                if let Some(tag) = tag {
                    self.push(&format!("<span class=\"tag\">{tag}</span>"));
                }
                self.push("</span>");
            }
            // A phone is narrower than some formulas, which do not break: these get a box of their own that scrolls.
            Ok((mathml, _)) if mathml.matches("</m").count() > 24 => {
                self.push(&format!("<span class=\"long\">{mathml}</span>"));
            }
            Ok((mathml, _)) => self.push(&mathml),
            Err(_) => {
                let class = if display { "tex display" } else { "tex" };
                self.push(&format!("<code class=\"{class}\">"));
                escape(&mut self.rendered.html, source);
                self.push("</code>");
                self.rendered.rejected.push(source.to_owned());
            }
        }
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

    #[test]
    fn markdown_does_not_reach_into_formulas() {
        let rendered = render("a \\(x_1*y*z_2\\)\n\n| n | v |\n|---|---:|\n| 1 | \\(|x|\\) |\n");
        assert_eq!((rendered.formulas, rendered.rejected.len()), (2, 0));
        assert!(!rendered.html.contains("<em>"), "{}", rendered.html);
        assert!(rendered.html.contains("<td class=\"right\"><math"), "{}", rendered.html);
    }

    #[test]
    fn products_are_no_emphasis() {
        for text in [
            "84 - 2*30 = 84 - 60 = 24, 30 - 1*24 = 6.",
            "a*b and c*d",
            "2*(1 + 2) = (1 + 1)*3 = (1)*(6)",
            "x**2 + y**2, 2**n + 3**m",
            "Check: 7*5 - 3 = 32; then 4*8 = 32, *",
        ] {
            let html = render(text).html;
            assert_eq!(html, format!("<p>{text}</p>\n"));
        }
        let formulas = render("\\(a\\)*\\(b\\) = \\(c\\)*\\(d\\)").html;
        assert!(!formulas.contains("<em>") && formulas.matches('*').count() == 2, "{formulas}");
        // In lists, tables and code as well.
        let html = render("1. 2*3, 4*5\n\n| 2*3 | 4*5 |\n|---|---|\n| 6*7 | 8*9 |\n\n`2*3*4`\n").html;
        assert!(!html.contains("<em>") && html.contains("<code>2*3*4</code>"), "{html}");
    }

    #[test]
    fn a_line_per_step_stays_a_line_per_step() {
        let html = render("Step 1: 2*30 = 60? 2*30 = 60, ok.\nStep 2: *so*.\nAll steps\nhold.\nEnd").html;
        let lines =
            "Step 1: 2*30 = 60? 2*30 = 60, ok.<br>\nStep 2: <em>so</em>.<br>\nAll steps\nhold.<br>\nEnd";
        assert_eq!(html, format!("<p>{lines}</p>\n"));
    }

    #[test]
    fn emphasis_is_still_seen() {
        for (text, html) in [
            ("*so* it is", "<em>so</em> it is"),
            ("**Case 1.** We", "<strong>Case 1.</strong> We"),
            ("**Case 1**(a)", "<strong>Case 1</strong>(a)"),
            ("**Case 1**We", "<strong>Case 1</strong>We"),
            ("(*proof*)", "(<em>proof</em>)"),
            ("*2*3* = 6", "<em>2*3</em> = 6"),
            ("证明**完毕**了", "证明<strong>完毕</strong>了"),
            ("***both***", "<em><strong>both</strong></em>"),
        ] {
            assert_eq!(render(text).html, format!("<p>{html}</p>\n"), "of {text:?}");
        }
    }

    #[test]
    fn code_shows_formulas_as_written() {
        let rendered = render("`\\(x\\)` and\n\n```\n\\[y<1\\]\n```\n");
        assert_eq!(rendered.formulas, 0);
        assert!(rendered.html.contains("<code>\\(x\\)</code>"), "{}", rendered.html);
        assert!(rendered.html.contains("<pre><code>\\[y&lt;1\\]\n</code></pre>"), "{}", rendered.html);
    }

    #[test]
    fn indented_text_is_no_code() {
        let rendered = render("a\n\n    so \\(x\\)\n");
        assert_eq!(rendered.formulas, 1);
        assert!(rendered.html.contains("<math"), "{}", rendered.html);
    }

    #[test]
    fn statements_in_latex_are_readable() {
        let html = render(
            "Call it \\emph{sunny}. \\begin{itemize} \\item one \\item $x$ \\end{itemize} \\noindent End",
        )
        .html;
        assert!(html.contains("<em>sunny</em>"), "{html}");
        assert_eq!(html.matches("<li>").count(), 2, "{html}");
        assert!(html.contains("<p>End</p>"), "{html}");
    }
}
