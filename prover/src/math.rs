//! One LaTeX formula, as a model wrote it, to MathML that is safe to put into a page.
//!
//! LaTeX → [`prepare`] (what pulldown-latex does not know) → pulldown-latex → [`admit`] (only known tags and attributes, all
//! text escaped). A formula that fails anywhere is [`Rejected`]; the caller then shows its source.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pulldown_latex::config::{DisplayMode, RenderConfig};
use pulldown_latex::event::{ColorChange, ColorTarget, Content, Event, StateChange};
use pulldown_latex::{Parser, Storage, push_mathml};

/// Longest formula, in bytes. The longest published one has 1.6 kB; longer ones are shown as source.
pub(crate) const MAX_FORMULA: usize = 20_000;

/// Deepest nesting of groups and environments in a formula; parsers and browsers recurse.
const MAX_DEPTH: usize = 60;

/// Most commands in a formula.
const MAX_COMMANDS: usize = 2_000;

/// Bytes of stack for a formula of [`MAX_COMMANDS`]: 32 kB for each.
const DEEP_STACK: usize = 64 << 20;

/// Deepest nesting of MathML elements; HTML parsers flatten what lies deeper than 512.
const MAX_ELEMENTS_DEEP: usize = 250;

/// Colour that [`prepare`] writes for `\boxed` and [`to_mathml`] turns into a border. Other colours are left out: they could
/// make text invisible, in the light or in the dark.
const BOXED: (u8, u8, u8) = (1, 2, 3);

/// Stands for `%` in the text of a formula, where pulldown-latex would begin a comment and keep the backslash of `\%`.
const PERCENT: &str = "\u{fe6a}";

/// The formula cannot be rendered; its source should be shown instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rejected;

/// Renders a formula: MathML, and the `\tag` that belongs beside it as HTML.
pub(crate) fn to_mathml(latex: &str, display: bool) -> Result<(String, Option<String>), Rejected> {
    let prepared = prepare(latex, display)?;
    let mathml = render(&prepared.latex, display)?;
    let tag = match prepared.tag {
        Some(tag) => Some(tag_html(&tag)?),
        None => None,
    };
    Ok((mathml, tag))
}

/// Renders prepared LaTeX.
fn render(latex: &str, display: bool) -> Result<String, Rejected> {
    let display_mode = if display { DisplayMode::Block } else { DisplayMode::Inline };
    let config = RenderConfig { display_mode, ..RenderConfig::default() };
    // An argument without braces (`\sqrt\sqrt x`) is a recursion in the parser, and many of them need a deep stack.
    match latex.matches('\\').count() {
        0..=60 => render_here(latex, config),
        61..=MAX_COMMANDS => std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(DEEP_STACK);
            let rendered = thread.spawn_scoped(scope, || render_here(latex, config)).map_err(|_| Rejected)?;
            rendered.join().unwrap_or(Err(Rejected))
        }),
        _ => Err(Rejected),
    }
}

fn render_here(latex: &str, config: RenderConfig<'_>) -> Result<String, Rejected> {
    // pulldown-latex says of some states that they are unreachable. Should a model's text reach one, that costs this formula
    // only; nothing that the closure touches is used afterwards.
    let mathml = catch_unwind(AssertUnwindSafe(|| {
        let storage = Storage::new();
        let mut events = Vec::new();
        for event in Parser::new(latex, &storage) {
            match event.map_err(|_| Rejected)? {
                Event::StateChange(StateChange::Color(change)) => {
                    if change.color == BOXED && change.target == ColorTarget::Text {
                        let change = ColorChange { color: BOXED, target: ColorTarget::Border };
                        events.push(Event::StateChange(StateChange::Color(change)));
                    }
                }
                Event::Content(Content::Ordinary { content, stretchy }) => {
                    let content = accent(content);
                    // A bar is as wide as what it stands on.
                    events.push(Event::Content(Content::Ordinary {
                        content,
                        stretchy: stretchy || content == MACRON,
                    }));
                }
                event => events.push(event),
            }
        }
        let mut mathml = String::new();
        push_mathml(&mut mathml, events.into_iter().map(Ok::<_, Infallible>), config)
            .map_err(|_| Rejected)?;
        Ok(mathml)
    }));
    admit(&mathml.map_err(|_| Rejected)??)
}

/// What a bar over letters is in [`ACCENTS`].
const MACRON: char = '\u{af}';

/// Accents over letters: acute, grave, circumflex, caron, breve, tilde, diaeresis, dot, ring and bar. Fonts draw them at the
/// height of small letters, and browsers lift them where it says `accent`.
const ACCENTS: [char; 10] =
    ['\u{b4}', '\u{2cb}', '\u{2c6}', '\u{2c7}', '\u{2d8}', '\u{2dc}', '\u{a8}', '\u{2d9}', '\u{2da}', MACRON];

/// The accent for what pulldown-latex writes in its place: characters of ASCII, which stand somewhere else.
fn accent(c: char) -> char {
    match c {
        '^' => '\u{2c6}',
        '~' => '\u{2dc}',
        '`' => '\u{2cb}',
        '\u{203e}' => MACRON,
        c => c,
    }
}

/// A tag as HTML.
fn tag_html(tag: &str) -> Result<String, Rejected> {
    // `\tag{$\ast$}`: a tag is text, this page's is a formula where it has commands.
    let inner = tag.trim().replace("\\(", "").replace("\\)", "").replace('$', "");
    let mut html = String::new();
    if inner.contains(['\\', '^', '_']) {
        html.push_str(&render(&inner, false)?);
    } else {
        escape(&mut html, &inner);
    }
    Ok(html)
}

/// A formula in the LaTeX that pulldown-latex knows.
#[derive(Debug, PartialEq, Eq)]
struct Prepared {
    latex: String,
    /// Content of a `\tag` that stands outside all environments.
    tag: Option<String>,
}

/// Lifts `\tag`, turns `\boxed` into a border, splits `\text{if \(x\)}` into text and mathematics, drops `\label` and the like,
/// and wraps bare `&` and `\\` into an environment.
fn prepare(latex: &str, display: bool) -> Result<Prepared, Rejected> {
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

/// Appends text with everything HTML reads escaped, and control characters replaced.
pub(crate) fn escape(html: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            '\n' | '\t' => html.push(c),
            // Direction overrides could make a proof read differently from what it says.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => html.push('\u{fffd}'),
            c if c.is_control() => html.push('\u{fffd}'),
            c => html.push(c),
        }
    }
}

const TAGS: [&str; 22] = [
    "math",
    "mrow",
    "mi",
    "mn",
    "mo",
    "mtext",
    "mspace",
    "msub",
    "msup",
    "msubsup",
    "munder",
    "mover",
    "munderover",
    "mfrac",
    "msqrt",
    "mroot",
    "mtable",
    "mtr",
    "mtd",
    "mpadded",
    "mphantom",
    "mstyle",
];

const ATTRIBUTES: [&str; 17] = [
    "display",
    "displaystyle",
    "scriptlevel",
    "class",
    "stretchy",
    "symmetric",
    "minsize",
    "maxsize",
    "largeop",
    "movablelimits",
    "mathvariant",
    "width",
    "height",
    "depth",
    "linethickness",
    "accent",
    "accentunder",
];

/// Copies MathML, admitting known elements and attributes only and escaping all text anew. pulldown-latex does not escape
/// everything (`<` as a relation, the argument of `\operatorname`), so what it writes is not trusted either.
fn admit(mathml: &str) -> Result<String, Rejected> {
    let mut out = String::with_capacity(mathml.len() + 64);
    // The elements that are open, and where the name of each ends in `out`.
    let mut open: Vec<(&str, usize)> = Vec::new();
    let mut rest = mathml;
    while let Some(c) = rest.chars().next() {
        let next = rest.as_bytes().get(1).copied().unwrap_or(b' ');
        if c == '<' && (next == b'/' || next.is_ascii_alphabetic()) {
            let end = rest.find('>').ok_or(Rejected)?;
            let tag = &rest[1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                let Some((_, at)) = open.pop().filter(|(opened, _)| *opened == name) else {
                    return Err(Rejected);
                };
                let over =
                    out.strip_suffix("</mi>").or_else(|| out.strip_suffix("</mo>")).unwrap_or_default();
                if name == "mover" && over.ends_with(ACCENTS) && over.trim_end_matches(ACCENTS).ends_with('>')
                {
                    out.insert_str(at, " accent=\"true\"");
                }
                out.push_str(&format!("</{name}>"));
                continue;
            }
            let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let name = tag.split_ascii_whitespace().next().unwrap_or_default();
            // The only <math> is the outermost element, and there is one.
            if !TAGS.contains(&name) || (name == "math") != (open.is_empty() && out.is_empty()) {
                return Err(Rejected);
            }
            out.push('<');
            out.push_str(name);
            let named = out.len();
            admit_attributes(&mut out, &tag[name.len()..])?;
            out.push('>');
            if empty {
                out.push_str(&format!("</{name}>"));
            } else {
                open.push((name, named));
                if open.len() > MAX_ELEMENTS_DEEP {
                    return Err(Rejected);
                }
            }
            continue;
        }
        if open.is_empty() {
            return Err(Rejected);
        }
        let entity = [
            ("&amp;nbsp;", "\u{a0}"),
            ("&amp;", "&"),
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&nbsp;", "\u{a0}"),
            (PERCENT, "%"),
        ]
        .into_iter()
        .find(|(entity, _)| rest.starts_with(entity));
        let (text, length) =
            entity.map_or((&rest[..c.len_utf8()], c.len_utf8()), |(entity, text)| (text, entity.len()));
        escape(&mut out, text);
        rest = &rest[length..];
    }
    if open.is_empty() && !out.is_empty() { Ok(out) } else { Err(Rejected) }
}

/// ` name="value"…`: names from the list, values of lengths, numbers and words.
fn admit_attributes(out: &mut String, attributes: &str) -> Result<(), Rejected> {
    let mut rest = attributes.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").ok_or(Rejected)?;
        let (value, after) = after.split_once('"').ok_or(Rejected)?;
        rest = after.trim_start();
        let plain = |c: char| c.is_ascii_alphanumeric() || " .-+%_#:;()".contains(c);
        if !value.chars().all(plain) {
            return Err(Rejected);
        }
        if name == "style" {
            if value.contains("border:") {
                out.push_str(" class=\"boxed\"");
            } else if let Some((property @ ("height" | "margin-left"), length)) =
                value.split_once(':').map(|(property, length)| (property, length.trim()))
            {
                out.push_str(&format!(" style=\"{property}: {length}\""));
            }
        } else if ATTRIBUTES.contains(&name) {
            out.push_str(&format!(" {name}=\"{value}\""));
        } else {
            return Err(Rejected);
        }
    }
    Ok(())
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

    #[test]
    fn a_comma_ends_a_number() {
        let (mathml, _) = to_mathml("(0,12)+1.5+1{,}000", false).unwrap();
        for number in ["<mn>0</mn>", "<mn>12</mn>", "<mn>1.5</mn>"] {
            assert!(mathml.contains(number), "{mathml}");
        }
    }

    #[test]
    fn blanks_and_per_cent_signs_are_shown_as_such() {
        let (mathml, _) = to_mathml("a\\ b~c\\text{50% of \\emph{all}, 5\\%}", false).unwrap();
        assert!(!mathml.contains("nbsp") && !mathml.contains('\\'), "{mathml}");
        assert!(mathml.contains("50% of") && mathml.contains("5%"), "{mathml}");
    }

    #[test]
    fn accents_are_accents() {
        let (hat, _) = to_mathml("\\hat{x}+\\widehat{ABC}", false).unwrap();
        assert!(
            hat.contains("<mover accent=\"true\"><mrow><mi>x</mi></mrow><mi>\u{2c6}</mi></mover>"),
            "{hat}"
        );
        assert!(hat.contains("<mo stretchy=\"true\">\u{2c6}</mo></mover>"), "{hat}");
        let (bar, _) = to_mathml("\\overline{AB}", false).unwrap();
        assert!(bar.contains("<mo stretchy=\"true\">\u{af}</mo></mover>"), "{bar}");
        let (limit, _) = to_mathml("\\overset{a}{b}\\overrightarrow{AB}\\overbrace{a}^{b}", true).unwrap();
        assert!(!limit.contains("accent"), "{limit}");
    }

    #[test]
    fn a_box_is_a_border() {
        let (mathml, _) = to_mathml("\\boxed{x=1}", true).unwrap();
        assert!(mathml.contains("class=\"boxed\""), "{mathml}");
        assert!(!mathml.contains("style"), "{mathml}");
    }

    #[test]
    fn nothing_but_mathml_comes_out() {
        for hostile in [
            "\\operatorname{<script>alert(1)</script>}",
            "\\operatorname{<img src=x onerror=alert(1)>}",
            "\\text{<script>alert(1)</script>}",
            "\\text{</math><script>}",
            "a<script>b",
            "\\href{javascript:alert(1)}{x}",
            "\\color{red}x\\textcolor{white}{y}",
            "\\unicode{x}",
        ] {
            if let Ok((mathml, _)) = to_mathml(hostile, false) {
                for bad in ["<script", "<img", "style=", "rgb", "href"] {
                    assert!(!mathml.contains(bad), "{hostile} gave {mathml}");
                }
            }
        }
        assert_eq!(admit("<math><script>x</script></math>"), Err(Rejected));
        assert_eq!(admit("<math><mi onclick=\"x\">x</mi></math>"), Err(Rejected));
        assert_eq!(admit("<math><mi>x</math>"), Err(Rejected));
        assert_eq!(admit("<math></math><math></math>"), Err(Rejected));
        assert_eq!(admit("<math><mo><</mo></math>").unwrap(), "<math><mo>&lt;</mo></math>");
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = |n: usize| format!("{}x{}", "{".repeat(n), "}".repeat(n));
        assert!(to_mathml(&deep(20), false).is_ok());
        assert_eq!(to_mathml(&deep(5_000), false), Err(Rejected));
        assert_eq!(to_mathml(&"\\sqrt".repeat(3_000), false), Err(Rejected));
        assert_eq!(
            to_mathml(&format!("{}x{}", "\\left(".repeat(2_000), "\\right)".repeat(2_000)), false),
            Err(Rejected)
        );
        assert_eq!(to_mathml(&"x".repeat(MAX_FORMULA + 1), false), Err(Rejected));
        assert_eq!(to_mathml("\\def\\a{\\a\\a}\\a", false), Err(Rejected));
    }
}
