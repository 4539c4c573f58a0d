use std::path::Path;
use std::time::Duration;

use porism_prover::check::Told;
use porism_prover::complete::Request;
use porism_prover::parse::Score;
use porism_prover::pool::{End, State};
use porism_prover::roles::{Key, Role};
use porism_prover::search::Event;
use porism_prover::store::Spent;

use super::super::view::{Budget, View};
use super::*;

/// The picture as text, blanks at the ends of lines left out.
fn picture(view: &View, width: usize, height: usize) -> String {
    let lines = lines(view, width, height);
    assert_eq!(lines.len(), height);
    assert!(lines.iter().all(|line| line.width() <= width), "{width}x{height}");
    let text = |line: &Line| line.painted(false).trim_end().to_owned();
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// `PORISM_WRITE_DOCS=1 cargo test -p porism` writes the pictures anew; look at them before they are committed.
fn compare(name: &str, picture: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/live/pictures").join(name);
    if std::env::var_os("PORISM_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{picture}\n")).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(format!("{picture}\n"), wanted, "{name} is another picture; is the new one better?");
}

/// The picture in docs/prover.md, between the line that announces it and the next line of three backticks.
fn compare_with_docs(picture: &str) {
    const BEFORE: &str = "\nThe live view, twelve seconds into a search:\n\n```text\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/prover.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let start = page.find(BEFORE).expect("docs/prover.md announces the picture") + BEFORE.len();
    let end = start + page[start..].find("\n```").expect("it ends");
    if std::env::var_os("PORISM_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{picture}{}", &page[..start], &page[end..])).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page.contains(&format!("{BEFORE}{picture}\n```")), "docs/prover.md shows another picture");
}

/// Tells a view what a search would tell it. Rounds, proofs and readings count from 1.
struct Teller {
    view: View,
    name: &'static str,
    tokens: u64,
    completions: u64,
}

impl Teller {
    fn new(problems: &[(&str, &str)], budget: Budget) -> Self {
        let problems = problems.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let mut view = View::new("prove", problems, budget);
        view.event(&Event::Start {
            folder: "runs/2026-11-24-gcd",
            problems: 1,
            seed: 1,
            resumed: 0,
            domain: None,
        });
        Self { view, name: "gcd", tokens: 0, completions: 0 }
    }

    fn ask(&mut self, ticket: u64, at: u64, role: Role, place: [u32; 4]) {
        let [problem, round, proof, reading] = place.map(|from_one| from_one.saturating_sub(1));
        let key = Key { problem, round, proof, role, reading };
        let request = Request {
            ticket,
            key,
            prompt: String::new(),
            seed: 0,
            max_tokens: 100,
            temperature: 1.0,
            top_p: 1.0,
        };
        self.view.asked(Duration::from_secs(at), &request);
    }

    fn completed(&mut self, role: &'static str, place: [u32; 3], tokens: u64, score: Result<Score, &str>) {
        let [round_idx, proof, reading] = place;
        self.tokens += tokens;
        self.completions += 1;
        self.view.event(&Event::Completion {
            problem_idx: self.name,
            role,
            round_idx,
            proof,
            reading,
            score: score.ok(),
            problem: score.err(),
            tokens,
            seconds: 1.0,
            spent: Spent { completions: self.completions, tokens: self.tokens, ..Spent::default() },
        });
    }

    fn settled(
        &mut self,
        proof_id: u32,
        round_idx: u32,
        state: &State,
        meanscore: Option<f64>,
        readings: usize,
    ) {
        let problem_idx = self.name;
        self.view.event(&Event::Proof {
            problem_idx,
            proof_id,
            round_idx,
            state,
            meanscore,
            readings,
            again: None,
            recomputed: None,
        });
    }

    fn chosen(&mut self, end: End, proof_id: Option<u32>) {
        let problem_idx = self.name;
        let (proof, meanscore) = (None, None);
        self.view.event(&Event::Chosen {
            problem_idx,
            end,
            proof_id,
            proof,
            meanscore,
            readings: 0,
            recomputed: None,
            falsehood: None,
            outside_domain: false,
        });
    }
}

/// A search in its second round.
fn searching() -> View {
    let budget = Budget {
        rounds: 4,
        proofs: 4,
        readings: 8,
        tokens: Some(5_000),
        time: Some(Duration::from_secs(600)),
    };
    let mut teller = Teller::new(&[("gcd", "Prove that\n gcd(84, 30) = 6.")], budget);
    for proof in 1..=4 {
        teller.ask(proof.into(), 0, Role::Generate, [1, 1, proof, 1]);
        teller.view.answered(proof.into(), 90);
    }
    teller.completed("generate", [1, 1, 1], 92, Ok(Score::One));
    teller.completed("generate", [1, 2, 1], 88, Ok(Score::Half));
    teller.completed("generate", [1, 3, 1], 400, Err("ran out of tokens"));
    teller.completed("generate", [1, 4, 1], 92, Ok(Score::One));
    teller.settled(3, 1, &State::Failed("ran out of tokens".into()), None, 0);
    teller.settled(4, 1, &State::Duplicate(1), None, 0);
    for (reading, score) in [(1, Score::One), (2, Score::Zero), (3, Score::One), (4, Score::Half)] {
        teller.completed("verify", [1, 1, reading], 70, Ok(score));
    }
    teller.completed("meta_verify", [1, 1, 2], 30, Ok(Score::Zero));
    teller.completed("meta_verify", [1, 1, 4], 30, Ok(Score::One));
    teller.settled(1, 1, &State::Rejected, Some(2.5 / 3.0), 4);
    teller.completed("verify", [1, 2, 1], 64, Ok(Score::Zero));
    teller.completed("verify", [1, 2, 2], 66, Ok(Score::Zero));
    teller.settled(2, 1, &State::Rejected, Some(0.0), 2);
    teller.view.event(&Event::Notice { words: "http://127.0.0.1:8000/v1: 429, again in 2 s" });
    teller.completed("refine", [2, 1, 1], 95, Ok(Score::One));
    teller.completed("verify", [2, 1, 1], 70, Ok(Score::One));
    teller.completed("verify", [2, 1, 2], 71, Ok(Score::One));
    teller.ask(10, 8, Role::Verify, [1, 2, 1, 3]);
    teller.ask(11, 8, Role::Verify, [1, 2, 1, 4]);
    teller.ask(12, 10, Role::Refine, [1, 2, 2, 1]);
    teller.ask(13, 12, Role::Refine, [1, 2, 3, 1]);
    teller.ask(14, 8, Role::Refine, [1, 2, 4, 1]);
    let mut view = teller.view;
    view.progress(Duration::from_secs(10), &[(10, 20), (11, 22), (12, 0)]);
    view.progress(Duration::from_secs(12), &[(10, 60), (11, 61), (12, 40)]);
    view.elapsed = Duration::from_secs(12);
    view
}

/// Three problems, of which two are worked on.
fn several() -> View {
    let budget = Budget { rounds: 2, proofs: 2, readings: 20, ..Budget::default() };
    let problems = [
        ("gcd", "Prove that gcd(84, 30) = 6."),
        ("divides", "Prove that 4 divides 6*7 + 2."),
        ("linear", "Find the integer x with 3x + 5 = 26 and prove the answer is right."),
        ("later", "Prove it."),
    ];
    let mut teller = Teller::new(&problems, budget);
    teller.completed("generate", [1, 1, 1], 90, Ok(Score::One));
    teller.settled(1, 1, &State::Passed, Some(1.0), 20);
    teller.chosen(End::Passed, Some(1));
    teller.name = "divides";
    teller.completed("generate", [1, 1, 1], 90, Ok(Score::One));
    teller.completed("generate", [1, 2, 1], 90, Ok(Score::One));
    for reading in 1..=11 {
        let score = if reading == 3 { Score::Half } else { Score::One };
        teller.completed("verify", [1, 1, reading], 70, Ok(score));
    }
    teller.ask(1, 20, Role::MetaVerify, [2, 1, 1, 3]);
    teller.ask(2, 20, Role::Generate, [3, 1, 1, 1]);
    teller.ask(3, 20, Role::Compare, [2, 1, 1, 1]);
    teller.view.progress(Duration::from_secs(21), &[(1, 5), (2, 1)]);
    teller.view.elapsed = Duration::from_secs(21);
    teller.view
}

#[test]
fn a_usual_window_shows_everything() {
    compare("80x24.txt", &picture(&searching(), 80, 24));
}

#[test]
fn a_small_window_shows_what_matters() {
    compare("40x15.txt", &picture(&searching(), 40, 15));
}

#[test]
fn a_set_shows_the_problems_that_are_worked_on() {
    compare("set-80x24.txt", &picture(&several(), 80, 24));
    compare("set-40x15.txt", &picture(&several(), 40, 15));
}

#[test]
fn the_documentation_shows_the_view() {
    compare_with_docs(&picture(&searching(), 78, 21));
}

#[test]
fn a_check_is_one_proof() {
    let budget = Budget { rounds: 1, proofs: 1, readings: 8, ..Budget::default() };
    let mut teller = Teller::new(&[("p", "Prove it.")], budget);
    teller.view = View::new("check", vec![("p".into(), "Prove it.".into())], budget);
    teller.ask(1, 0, Role::Verify, [1, 1, 1, 1]);
    let mut view = teller.view;
    let reading = |number, role, score| Told::Reading { number, role, score };
    view.told(&reading(0, Role::Verify, Ok(Score::Half)));
    view.told(&reading(1, Role::Verify, Err("ran out of tokens")));
    view.told(&reading(2, Role::Verify, Ok(Score::Zero)));
    view.told(&reading(2, Role::MetaVerify, Ok(Score::Zero)));
    view.answered(9, 70);
    let picture = picture(&view, 80, 24);
    for part in [
        "porism check",
        "Prove it.",
        "▄▁······  0.50  reading 1",
        "reading 2: lost: ran out of tokens",
        "70 tokens",
    ] {
        assert!(picture.contains(part), "{part} is missing:\n{picture}");
    }
}

#[test]
fn what_is_under_way_stays_and_the_oldest_gives_way() {
    let budget = Budget { rounds: 9, proofs: 8, readings: 2, ..Budget::default() };
    let mut teller = Teller::new(&[("gcd", "Prove it.")], budget);
    teller.ask(1, 0, Role::Generate, [1, 1, 2, 1]);
    for id in (1..=64).filter(|id| *id != 2) {
        teller.settled(id, (id - 1) / 8 + 1, &State::Rejected, Some(0.0), 2);
    }
    let picture = picture(&teller.view, 80, 24);
    assert!(picture.contains("being written") && picture.contains("\n    64 "), "{picture}");
    assert!(!picture.contains("\n     1 ") && picture.contains(" of 64 are shown"), "{picture}");
}

#[test]
fn many_readings_share_cells() {
    let budget = Budget { rounds: 1, proofs: 1, readings: 64, ..Budget::default() };
    let mut teller = Teller::new(&[("gcd", "Prove it.")], budget);
    for reading in 1..=10 {
        let score = if reading <= 4 { Score::One } else { Score::Zero };
        teller.completed("verify", [1, 1, reading], 70, Ok(score));
    }
    let wide = picture(&teller.view, 80, 24);
    assert!(wide.contains("▇▁▁·············  10/64  0.40"), "{wide}");
    // A proof of an earlier session: its mean is all that is known.
    teller.settled(2, 1, &State::Rejected, Some(0.5), 16);
    let wide = picture(&teller.view, 80, 24);
    assert!(wide.contains("▄▄▄▄              16/64  0.50"), "{wide}");
}

#[test]
fn no_window_is_too_small_and_no_text_too_wild() {
    let wild = "\u{1b}[2J\u{202e}汉字\u{300}\u{200d}👩‍👩‍👧 ".repeat(300);
    let mut teller = Teller::new(&[("gcd", &wild), (&wild, "Prove it.")], Budget::default());
    teller.view.stopping = true;
    for id in 0..200 {
        let state = State::Failed(wild.clone());
        teller.settled(id, u32::MAX, &state, Some(f64::NAN), usize::MAX);
        teller.ask(u64::from(id) + 100, u64::MAX / 4, Role::Verify, [1, u32::MAX, u32::MAX, 7]);
        teller.view.progress(Duration::MAX, &[(u64::from(id) + 100, u64::MAX)]);
    }
    teller.view.event(&Event::Notice { words: &wild });
    teller.name = "unknown";
    teller.settled(7, 1, &State::Rejected, None, 0);
    teller.chosen(End::Tokens, None);
    let huge = Budget {
        rounds: u32::MAX,
        proofs: u32::MAX,
        readings: u32::MAX,
        tokens: Some(u64::MAX),
        time: Some(Duration::MAX),
    };
    for budget in [Budget::default(), huge] {
        teller.view.budget = budget;
        for width in [1, 2, 5, 17, 24, 40, 59, 60, 80, 200] {
            for height in [1, 2, 3, 4, 5, 6, 7, 10, 24, 60] {
                let picture = picture(&teller.view, width, height);
                assert!(!picture.contains(['\u{1b}', '\u{202e}', '\u{200d}']), "{width}x{height}");
            }
        }
    }
    assert!(picture(&teller.view, 80, 24).contains("everything is saved"));
}

#[test]
fn rates_are_of_late_and_never_negative() {
    let mut view = searching();
    // 42 tokens became 161 in two seconds.
    assert_eq!(view.rate(), Some(59.5));
    view.gone(10);
    view.progress(Duration::from_secs(13), &[(11, 61)]);
    assert!(view.rate().is_some_and(|rate| rate > 0.0));
    view.progress(Duration::from_secs(60), &[]);
    view.progress(Duration::from_secs(61), &[]);
    assert_eq!(view.rate(), Some(0.0));
}

#[test]
fn tokens_are_counted_once() {
    let budget = Budget { rounds: 1, proofs: 1, readings: 2, ..Budget::default() };
    let mut teller = Teller::new(&[("gcd", "Prove it.")], budget);
    teller.ask(1, 0, Role::Generate, [1, 1, 1, 1]);
    teller.view.progress(Duration::from_secs(1), &[(1, 50)]);
    assert_eq!(teller.view.tokens(), 50);
    teller.view.answered(1, 90);
    teller.view.progress(Duration::from_secs(2), &[]);
    assert_eq!(teller.view.tokens(), 90);
    teller.completed("generate", [1, 1, 1], 90, Ok(Score::One));
    assert_eq!(teller.view.tokens(), 90);
    assert_eq!(teller.view.rate(), Some(40.0));
}

#[test]
fn clocks_show_hours_when_there_are_some() {
    assert_eq!(clock(Duration::from_secs(75)), "1:15");
    assert_eq!(clock(Duration::from_secs(3675)), "1:01:15");
}
