//! Markdown's events to HTML, with what proofs mean by an asterisk, a line's end and LaTeX outside formulas.

use pulldown_cmark::{
    Alignment, CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd, TextMergeStream,
};

use crate::escape::push_escaped;
use crate::formula::{Formula, Piece, split};
use crate::math::to_mathml;

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
            push_escaped(&mut self.rendered.html, &rest[..at]);
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
                            push_escaped(&mut self.rendered.html, formula.source);
                        }
                    }
                }
                _ => {}
            }
        }
        push_escaped(&mut self.rendered.html, rest);
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
                push_escaped(&mut self.rendered.html, source);
                self.push("</code>");
                self.rendered.rejected.push(source.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
