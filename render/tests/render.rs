//! That hostile text stays text, formulas are never lost, and both in a time in proportion to the length.

use std::time::{Duration, Instant};

use porism_render::render;
use proptest::prelude::*;

#[path = "common/font.rs"]
mod font;
#[path = "common/inert.rs"]
mod inert;
use inert::{HOSTILE, assert_inert};

#[test]
fn hostile_text_stays_text() {
    for text in HOSTILE {
        assert_inert(&render(text).html, text);
    }
    let html = render(HOSTILE[0]).html;
    assert_eq!(html, "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n");
    // What Markdown would swallow is still there.
    assert!(render(HOSTILE[4]).html.contains("[x]: http://evil.example"));
}

#[test]
fn the_font_has_what_formulas_are_made_of() {
    let symbols = "\\alpha\\beta\\gamma\\delta\\epsilon\\varepsilon\\zeta\\eta\\theta\\vartheta\\iota\\kappa\\lambda\\mu\\nu\\xi\\pi\\rho\\sigma\\tau\\phi\\varphi\\chi\\psi\\omega\\Gamma\\Delta\\Theta\\Lambda\\Xi\\Pi\\Sigma\\Phi\\Psi\\Omega\\ell\\hbar\\imath\\jmath\\Re\\Im\\aleph\\partial\\nabla\\infty\\emptyset\\varnothing\\forall\\exists\\nexists\\neg\\land\\lor\\top\\bot\\vdash\\models\\in\\notin\\ni\\subset\\supset\\subseteq\\subsetneq\\supseteq\\cup\\cap\\setminus\\sqcup\\uplus\\pm\\mp\\times\\div\\cdot\\ast\\star\\circ\\bullet\\oplus\\otimes\\odot\\wedge\\vee\\dagger\\leq\\geq\\leqslant\\geqslant\\ll\\gg\\neq\\equiv\\not\\equiv\\approx\\cong\\sim\\simeq\\asymp\\propto\\mid\\nmid\\parallel\\perp\\angle\\triangle\\square\\blacksquare\\diamond\\prec\\succ\\preceq\\succeq\\to\\gets\\mapsto\\longmapsto\\leftarrow\\rightarrow\\leftrightarrow\\Leftarrow\\Rightarrow\\Leftrightarrow\\implies\\iff\\hookrightarrow\\twoheadrightarrow\\rightharpoonup\\uparrow\\downarrow\\nearrow\\ldots\\cdots\\vdots\\ddots\\sum\\prod\\coprod\\int\\iint\\iiint\\oint\\bigcup\\bigcap\\bigoplus\\bigotimes\\bigvee\\bigwedge\\lfloor\\rfloor\\lceil\\rceil\\langle\\rangle\\|\\prime\\checkmark\\sqrt[3]{x}x'y''\\hat x\\widehat{xy}\\tilde x\\widetilde{xy}\\bar x\\overline{xy}\\vec x\\dot x\\ddot x\\check x\\breve x\\acute x\\grave x\\mathring x\\underline{x}\\overrightarrow{AB}\\overbrace{x}\\underbrace{x}\\xrightarrow{f}\\%\\$\\&\\#\\_\\{\\}";
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = format!("\\({symbols}\\) \\({letters}+-=<>/()[]!?.,;:|*\\)");
    for alphabet in [
        "mathbf",
        "mathrm",
        "mathit",
        "mathcal",
        "mathbb",
        "mathfrak",
        "mathsf",
        "mathtt",
        "boldsymbol",
        "text",
    ] {
        text.push_str(&format!(" \\(\\{alphabet}{{{letters}}}\\)"));
    }
    let rendered = render(&text);
    assert_eq!((rendered.formulas, rendered.rejected.len()), (12, 0), "{:?}", rendered.rejected);
    assert_eq!(font::missing(&rendered.html), Default::default());
}

#[test]
fn formulas_are_counted_and_never_dropped() {
    let rendered = render("\\(a\\), $b$, \\[c\\\\[4pt]d\\], $$e$$, \\(\\nosuchcommand{x<y}\\), \\(f");
    assert_eq!((rendered.formulas, rendered.rejected.len()), (5, 1));
    assert_eq!(rendered.rejected, ["\\(\\nosuchcommand{x<y}\\)"]);
    assert!(
        rendered.html.contains("<code class=\"tex\">\\(\\nosuchcommand{x&lt;y}\\)</code>"),
        "{}",
        rendered.html
    );
    assert!(rendered.html.contains("\\(f") || rendered.html.contains("(f"), "{}", rendered.html);
}

/// Formulas in the ways that proofs write them.
#[test]
fn the_ways_of_proofs_are_rendered() {
    for formula in [
        "\\(\\ell_i(x)=\\tfrac12\\bigl(\\lfloor \\alpha x\\rfloor+\\binom{n}{k}\\bigr)\\)",
        "\\[\nf(x)=\\begin{cases}\n\\displaystyle x^2 & \\text{if \\(x\\ge 0\\),}\\\\[4pt]\n-x & \\text{otherwise}.\n\\end{cases}\n\\tag{$\\ast$}\n\\]",
        "\\[ x&=1\\\\ &<2 \\]",
        "\\[\\boxed{n\\equiv 3 \\pmod{4}}\\tag{12}\\]",
        "\\[\\sum_{\\substack{i<j\\\\ j\\mid n}} a_{ij}\\xrightarrow{n\\to\\infty}\\overline{AB}\\]",
        "\\(\\mathbb Z_{>0}\\setminus\\{0\\},\\ \\gcd(a,b)=1,\\ \\operatorname{lcm}(a,b),\\ \\operatorname*{argmax}_x f\\)",
        "\\[\\begin{array}{c|cc} n & 1 & 2\\\\ \\hline f & 3 & 4\\end{array}\\]",
        "\\begin{align*} a &= b \\tag{1}\\\\ &= c \\nonumber \\end{align*}",
        "\\[ S = \\{\\, x \\mid x \\not\\equiv 1,\\; 50\\%\\,\\}\\qquad(\\text{all } x)\\]",
        "\\(\\widehat{ABC} = 90^\\circ,\\ \\overrightarrow{AB}\\parallel CD,\\ \\triangle ABC\\sim\\triangle DEF\\)",
        "\\(\\left\\lceil \\frac{p^2}{q}\\right\\rceil \\ne \\sqrt[3]{x'}\\)",
        "\\(\\text{if $x$ is 50% of \\emph{y}}\\)",
    ] {
        let rendered = render(formula);
        assert_eq!((rendered.formulas, rendered.rejected.len()), (1, 0), "{formula}");
        assert_inert(&rendered.html, formula);
        assert!(!rendered.html.contains("merror"), "{formula}");
    }
}

#[test]
fn long_lines_take_time_in_proportion() {
    for unit in [
        "x",
        "\\(",
        "\\({",
        "\\[{",
        "$",
        "$a ",
        "$$",
        "\\begin{align}",
        "`",
        "*a",
        "> ",
        "- ",
        "<b ",
        "[a](",
        "&",
        "_a_ ",
        "|",
        "\\text{",
        "\\({\\(x\\)",
    ] {
        // The whole 10 MB where most is at stake; a tenth shows a square as well, in a debug build's patience.
        let size = if matches!(unit, "x" | "\\(" | "$a " | "<b ") { 10 << 20 } else { 1 << 20 };
        let line = unit.repeat(size / unit.len());
        let start = Instant::now();
        let rendered = render(&line);
        assert!(start.elapsed() < Duration::from_secs(60), "{unit:?} took {:?}", start.elapsed());
        assert!(!rendered.html.is_empty());
    }
    let line = "\\(x_1\\) and ".repeat(20_000);
    assert_eq!(render(&line).formulas, 20_000);
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\\("),
        Just("\\)"),
        Just("\\["),
        Just("\\]"),
        Just("$"),
        Just("$$"),
        Just("{"),
        Just("}"),
        Just("\\"),
        Just("\\\\"),
        Just("&"),
        Just("^"),
        Just("_"),
        Just("<"),
        Just(">"),
        Just("\n"),
        Just("\n\n"),
        Just("`"),
        Just("*"),
        Just("|"),
        Just("---"),
        Just("\\frac"),
        Just("\\sqrt"),
        Just("\\left("),
        Just("\\right)"),
        Just("\\begin{array}{c|c}"),
        Just("\\end{array}"),
        Just("\\begin{cases}"),
        Just("\\end{cases}"),
        Just("\\begin{aligned}"),
        Just("\\end{aligned}"),
        Just("\\hline"),
        Just("\\text"),
        Just("\\tag"),
        Just("\\boxed"),
        Just("\\operatorname"),
        Just("\\substack"),
        Just("\\not"),
        Just("\\limits"),
        Just("\\binom"),
        Just("\\mathbb"),
        Just("\\color"),
        Just("[4pt]"),
        Just("\\overset"),
        Just("\\hspace{1em}"),
        Just("x"),
        Just("1.5"),
        Just(" "),
        Just("é"),
        Just("\u{202e}"),
        Just("\u{e000}"),
        Just("'"),
        Just("%"),
        Just("#"),
        Just("~"),
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_inert(text in pieces()) {
        let rendered = render(&text);
        assert_inert(&rendered.html, &text);
        prop_assert!(rendered.rejected.len() <= rendered.formulas);
        // As one formula as well.
        assert_inert(&render(&format!("\\({text}\\)")).html, &text);
    }
}
