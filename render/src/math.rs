//! One LaTeX formula, as a model wrote it, to MathML that is safe to put into a page.
//!
//! LaTeX → [`prepare`] (what pulldown-latex does not know) → pulldown-latex → [`admit`] (only known tags and attributes, all
//! text escaped). A formula that fails anywhere is [`Rejected`]; the caller then shows its source.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pulldown_latex::config::{DisplayMode, RenderConfig};
use pulldown_latex::event::{ColorChange, ColorTarget, Content, Event, StateChange};
use pulldown_latex::{Parser, Storage, push_mathml};

use crate::admit::{MACRON, admit};
use crate::escape::push_escaped;
use crate::formula::Rejected;
use crate::prepare::{BOXED, prepare};

/// Most commands in a formula.
const MAX_COMMANDS: usize = 2_000;

/// Bytes of stack for a formula of [`MAX_COMMANDS`]: 32 kB for each.
const DEEP_STACK: usize = 64 << 20;

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
        push_escaped(&mut html, &inner);
    }
    Ok(html)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formula::MAX_FORMULA;

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
