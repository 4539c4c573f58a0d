//! The page of a run: what it says, and that hostile text in it stays text.

use std::fs;
use std::time::{Duration, Instant};

use porism_prover::markdown::render;
use porism_prover::report::{self, Evaluation, PooledProof, ProblemReport, Report, ReportError};
use proptest::prelude::*;
use serde_json::json;

#[path = "common/font.rs"]
mod font;

const HOSTILE: [&str; 14] = [
    "<script>alert(1)</script>",
    "\\(x\\)<script>alert(1)</script>\\[y\\]",
    "[x](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "<javascript:alert(1)> <http://evil.example> http://evil.example",
    "[x]: http://evil.example \"t\"\n\n[x] and [^1]\n\n[^1]: note",
    "<img src=x onerror=alert(1)><svg onload=alert(1)><iframe src=http://evil.example>",
    "\\(\\operatorname{<script>alert(1)</script>}\\) \\(\\text{</math><script>alert(1)</script>}\\)",
    "\\(\\href{javascript:alert(1)}{x}\\) \\(\\url{http://evil.example}\\)",
    "</article></main></body></html><style>*{display:none}</style>",
    "<!-- <div> \\[ <b> \\( $ $$ ``` <![CDATA[",
    "\u{e000}0\u{e001} \u{e002}script\u{e002} \u{e003}x](y) \u{e000}99999999999999999999\u{e001}",
    "&lt;script&gt; &#60;script&#62; &amp;lt; &quot; onload=&quot;x",
    "> > > <script>\n1. <script>\n\t<script>\n| <script> |\n|---|\n| <script> |",
    "```html\n<script>alert(1)</script>\n```\n`<script>`",
];

/// Tags in our pages; anything else in one came out of a text.
const TAGS: &str = " html head meta title style body header main section article aside footer h1 h2 h3 h4 h5 h6 p br hr div span \
    strong em a ul ol li pre code blockquote table thead tbody tr th td details summary svg g line circle text title math mrow \
    mi mn mo mtext mspace msub msup msubsup munder mover munderover mfrac msqrt mroot mtable mtr mtd ";

/// Fails on an unknown or unbalanced element, on an attribute that could act or point outside.
fn assert_inert(html: &str, of: &str) {
    let mut open = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if rest.starts_with("!DOCTYPE html>") {
            continue;
        }
        let end = rest.find('>').unwrap_or_else(|| panic!("a tag never ends, of {of}"));
        let tag = &rest[..end];
        rest = &rest[end..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "unbalanced, of {of}");
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let name = tag.split_whitespace().next().unwrap_or_default();
        assert!(TAGS.contains(&format!(" {name} ")), "<{tag}> of {of}");
        for attribute in tag.split_whitespace().skip(1) {
            assert!(!attribute.starts_with("on") && !attribute.starts_with("src"), "<{tag}> of {of}");
            assert!(!attribute.starts_with("href") || attribute.starts_with("href=\"#"), "<{tag}> of {of}");
        }
        if !empty && !matches!(name, "meta" | "br" | "hr") {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open, of {of}");
}

fn evaluation(score: f64, text: &str) -> Evaluation {
    Evaluation { score, weight: 1.0, text: text.to_owned(), quality: vec![(1.0, text.to_owned())] }
}

fn proof(proof_id: u64, round_idx: u64, from: &[u64], scores: &[f64], text: &str) -> PooledProof {
    PooledProof {
        proof_id,
        round_idx,
        dep_proof_ids: from.to_vec(),
        proof: text.to_owned(),
        self_eval: text.to_owned(),
        self_eval_score: Some(1.0),
        meanscore: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64),
        state: "done".to_owned(),
        evaluations: scores.iter().map(|&score| evaluation(score, text)).collect(),
        ..PooledProof::default()
    }
}

fn report(text: &str) -> Report {
    let pool = vec![
        proof(1, 1, &[], &[0.0, 0.5], text),
        proof(2, 1, &[], &[], text),
        proof(3, 2, &[1], &[0.5, 1.0], text),
        proof(4, 3, &[3, 2], &[1.0; 8], text),
    ];
    Report {
        title: text.to_owned(),
        problems: vec![ProblemReport {
            source: text.to_owned(),
            problem_idx: text.to_owned(),
            question: text.to_owned(),
            chosen: Some(4),
            passed: true,
            unfinished: None,
            pool,
            ..ProblemReport::default()
        }],
        settings: vec![(text.to_owned(), text.to_owned())],
        rerun: text.to_owned(),
        contest: true,
        notes: vec![text.to_owned()],
        ..Report::default()
    }
}

#[test]
fn readings_of_the_same_text_in_other_rounds_are_told_and_count() {
    let mut report = report("x");
    let problem = &mut report.problems[0];
    for (proof, text) in problem.pool.iter_mut().zip(["a", "b", "c", "c"]) {
        proof.proof = text.to_owned();
    }
    problem.pool[3].again = Some(3);
    let words = "Passed 8 of 8 readings in round 3, 1 of 2 in round 2, as proof 3. All together: Passed 9 of 10 readings";
    let solution = problem.solution(false);
    assert!(solution.contains(words) && solution.contains("60\u{a0}% to 98\u{a0}%"), "{solution}");
    let html = report.html().html;
    assert!(html.contains(words) && html.contains("passed 8 of 8 readings, 9 of 10 in all rounds"), "{html}");
    assert!(html.contains("the text of proof 3 again"), "{html}");
}

#[test]
fn hostile_text_stays_text() {
    for text in HOSTILE {
        assert_inert(&render(text).html, text);
        assert_inert(&report(text).html().html, text);
    }
    let html = render(HOSTILE[0]).html;
    assert_eq!(html, "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n");
    // What Markdown would swallow is still there.
    assert!(render(HOSTILE[4]).html.contains("[x]: http://evil.example"));
}

#[test]
fn a_line_of_ten_megabytes_stays_text() {
    let unit = "<script>alert(1)</script> [x](javascript:alert(1)) 2*3 = 6, ";
    let count = (10 << 20) / unit.len();
    let mut report = report("short");
    report.problems[0].pool[3].proof = unit.repeat(count);
    let html = report.html().html;
    assert_inert(&html, "ten megabytes");
    for whole in ["&lt;script&gt;alert(1)&lt;/script&gt;", "[x](javascript:alert(1))", "2*3 = 6,"] {
        assert_eq!(html.matches(whole).count(), count, "{whole}");
    }
}

#[test]
fn the_page_has_no_script_and_points_nowhere() {
    let html = report("Let \\(x<1\\).").html().html;
    assert_inert(&html, "a report");
    for absent in ["<script", "http://", "https://", "@import", "javascript:"] {
        assert!(!html.contains(absent), "{absent} is in the page");
    }
    // The font is in the page itself.
    assert_eq!(html.matches("url(").count(), 1);
    assert!(html.contains("url(data:font/woff2;base64,d09GMg"), "no WOFF2 file is in the page");
    assert!(html.contains("default-src 'none'") && html.contains("font-src data:"));
}

#[test]
fn only_pages_with_formulas_carry_the_font() {
    let html = report("Prove that 1 = 1.").html().html;
    assert!(!html.contains("@font-face") && html.len() < 30_000, "{} bytes", html.len());
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
fn the_page_tells_everything() {
    let page = report("Let \\(x=1\\).").html();
    let html = &page.html;
    // Heading, statement, four proofs (the chosen one once), 12 evaluations with their meta-verifications, self evaluations
    // of 4.
    assert_eq!((page.formulas, page.not_rendered), (2 + 4 + 2 * 12 + 4, 0));
    assert!(html.contains("<title>Let x=1. — Porism</title>"), "{}", &html[..400]);
    assert_eq!(html.matches("<math").count(), page.formulas);
    for part in [
        "passed 8 of 8 readings",
        "Passed 8 of 8 readings by the same verifier",
        "7 of those did not get full marks",
        "Proof 4 · round 3 · mean 1.00 · 8 of 8 readings · own score 1 · from proof 3, 2",
        "How to run it again",
        "Where the chosen proof came from",
        "prefers-color-scheme: dark",
        "@media print",
    ] {
        assert!(html.contains(part), "{part} is missing");
    }
    // 4 dots, the ring; lines 1→3, 3→4, 2→4 and the three of the grid.
    assert_eq!((html.matches("<circle").count(), html.matches("<line").count()), (5, 6));
    assert!(!html.contains("proved"), "the page claims too much");
}

#[test]
fn an_unfinished_search_is_called_so() {
    let mut report = report("x");
    report.problems[0].passed = false;
    report.problems[0].unfinished = Some("its time is over".to_owned());
    let html = report.html().html;
    assert!(html.contains("unfinished: no proof passed yet; the best has 8 of 8 readings"), "{html}");
    assert!(html.contains("Unfinished: its time is over."), "{html}");
    report.problems[0].pool.clear();
    assert!(report.html().html.contains("unfinished: no proof yet"));
}

#[test]
fn a_problem_without_proofs_has_a_page() {
    let empty = Report { problems: vec![ProblemReport::default()], ..Report::default() };
    let html = empty.html().html;
    assert_inert(&html, "an empty report");
    assert!(html.contains("No proof was written"));
    assert!(Report::default().html().html.contains("</html>"));
}

#[test]
fn wild_numbers_do_not_panic() {
    let mut report = report("x");
    let pool = &mut report.problems[0].pool;
    pool[0].round_idx = u64::MAX;
    pool[0].meanscore = Some(f64::NAN);
    pool[1].round_idx = 0;
    pool[3].dep_proof_ids = vec![4, 77, u64::MAX];
    pool[3].again = Some(4);
    pool[3].evaluations[0].score = f64::INFINITY;
    report.spent.seconds = f64::NAN;
    assert_inert(&report.html().html, "wild numbers");
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

#[test]
fn a_folder_becomes_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(matches!(report::write(path), Err(ReportError::NotARun { .. })));
    fs::write(
        path.join("run.toml"),
        "version = 1\nseed = 7\n[generator]\nname = \"a model's\"\n[settings]\nrounds = 2\nproofs = 3\n",
    )
    .unwrap();
    fs::write(path.join("problem.md"), "Show \\(1<2\\).").unwrap();
    fs::create_dir_all(path.join("pool/set")).unwrap();
    // The first line has the published fields only.
    let published = json!({
        "proof": "Clear.", "meanscore": 0.5, "proof_id": 1, "dep_proof_ids": [-1], "round_idx": 1,
        "score2ratings": {"0.5": [{"rating": "Hm.", "score": 0.5}]},
        "self_eval": {"self_eval": "null", "self_eval_score": 0},
    });
    let ours = json!({
        "proof": "By \\(2-1>0\\).", "meanscore": 1.0, "proof_id": 2, "dep_proof_ids": [1], "round_idx": 2, "state": "passed",
        "score2ratings": {"1": [{"rating": "Right.", "score": 1, "reading": 0, "weight": 1, "quality": []}]},
        "self_eval": {"self_eval": "Good.", "self_eval_score": 1}, "unreadable": 1, "tokens": 12,
    });
    fs::write(path.join("pool/set/p1.jsonl"), format!("{published}\n{ours}\n{{\"proof\": \"torn")).unwrap();
    let completion = json!({"event": "completion", "completion": {"tokens": 5, "prompt_tokens": 3}});
    let failed = json!({"event": "completion", "error": "timeout"});
    let end = json!({"event": "end", "seconds": 61.0});
    fs::write(path.join("events.jsonl"), format!("{completion}\n{failed}\n{completion}\n{end}\n")).unwrap();

    let unfinished = Report::from_folder(path).unwrap();
    assert_eq!(unfinished.problems[0].question, "Show \\(1<2\\).");
    assert_eq!((unfinished.problems[0].chosen, unfinished.problems[0].passed), (Some(2), false));
    assert!(unfinished.problems[0].unfinished.as_ref().unwrap().contains("has not ended"));

    let prediction = json!({
        "question": "Show \\(1<2\\).", "problem_idx": "p1", "source": "set", "passed": true, "proof_id": 2,
        "model_prediction": {"proof": "By \\(2-1>0\\).", "average_automatic_rating": 1.0},
    });
    fs::write(path.join("predictions.jsonl"), format!("{prediction}\n")).unwrap();
    let report = Report::from_folder(path).unwrap();
    assert_eq!(report.problems.len(), 1);
    let problem = &report.problems[0];
    assert_eq!((problem.pool.len(), problem.chosen, problem.passed), (2, Some(2), true));
    assert_eq!((report.spent.completions, report.spent.failed, report.spent.tokens), (2, 1, 10));
    assert_eq!(
        report.rerun,
        "porism prove problem.md --model 'a model'\\''s' --seed 7 --rounds 2 --proofs 3 --out again"
    );
    let solution = problem.solution(true);
    assert!(
        solution.contains("## Proof\n\nBy \\(2-1>0\\).") && solution.contains("Passed 1 of 1 reading"),
        "{solution}"
    );

    let written = fs::read_to_string(report::write(path).unwrap()).unwrap();
    assert_eq!(written, report.html().html);
    assert!(written.contains("1 min 1 s") && written.contains("1 more gave no score"));

    fs::write(path.join("predictions.jsonl"), "{\n").unwrap();
    match Report::from_folder(path) {
        Err(ReportError::Damaged { line: 1, .. }) => {}
        other => panic!("a damaged file gave {other:?}"),
    }
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
