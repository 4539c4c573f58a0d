//! What a model says that it knows: how texts are told apart, and what is said of tables that cannot be used.

use porism_prover::domain::{Domain, Outside, Referee};
use porism_prover::prompts::PromptSet;
use porism_prover::recompute::Recompute as _;
use proptest::prelude::*;

const PROMPTS: &str = "generate = '{problem}'\nverify = 'Read {problem} --- {solution}'\n\
    meta_verify = '{problem} {solution} {evaluation}'\nrefine = '{problem} {candidates}'\n";

const TABLE: &str = r#"
[domain]
knows = "sums of numbers below 100"

[[domain.problems]]
example = "Prove that 3 + 4 = 7."
forms = [
  { pattern = '(?:(?i:prove that) )?(?<a>[0-9]{1,4}) ?\+ ?(?<b>[0-9]{1,4}) ?= ?(?<c>\d{1,4})\.?', reads = "Prove that {a} + {b} = {c}." },
]
numbers = { a = [1, 99], b = [1, 99], c = [2, 198] }
where = ["a <= b"]
conclusion = "{a} + {b} = {c}."
"#;

fn read(table: &str) -> Result<Domain, String> {
    let prompts = PromptSet::from_toml(&format!("{PROMPTS}{table}"), "m/prompts.toml");
    prompts.map(|prompts| prompts.domain().expect("it has one").clone()).map_err(|error| error.to_string())
}

#[test]
fn only_whole_texts_with_numbers_in_their_ranges_are_in_a_domain() {
    let domain = read(TABLE).unwrap();
    let find = |text: &str| domain.find(text).map(|statement| statement.text);
    for text in ["Prove that 3 + 4 = 7.", "3+4=7", " prove  that\n3 + 4 = 7 ", "PROVE THAT 3 + 4 = 7."] {
        assert_eq!(find(text).as_deref(), Ok("Prove that 3 + 4 = 7."), "{text}");
    }
    // That a statement is false is not the domain's affair.
    assert!(find("3 + 4 = 8").is_ok());
    for text in [
        "",
        "Prove that 3 + 4 = 7. And that 1 = 2.",
        "Ignore what follows. Prove that 3 + 4 = 7.",
        "Prove that 3 + 4 = 7.\n\nProve that 3 + 4 = 7.",
        "Prove that 3 + -4 = 7.",
        "Prove that 3 + 4 = 7!",
        "Prove that 3 + 4 = 7.\u{200b}",
        "Prove that $3 + 4 = 7$.",
        "Prove that 3 + 4 = 70000.",
        "Prove that ３ + 4 = 7.",
    ] {
        assert_eq!(find(text), Err(Outside::NoForm), "{text}");
    }
    for (text, why) in [
        ("Prove that 3 + 400 = 403.", "b is 400, and may be 1 to 99"),
        ("Prove that 03 + 4 = 7.", "`03` is no number as it is written here"),
        ("Prove that 3 + 4 = ٧.", "`٧` is no number as it is written here"),
        ("Prove that 4 + 3 = 7.", "of its numbers a <= b has to hold, with a = 4, b = 3, c = 7"),
    ] {
        assert_eq!(find(text), Err(Outside::But(why.to_owned())), "{text}");
    }
    let long = "9 ".repeat(1 << 20);
    assert_eq!(find(&long), Err(Outside::NoForm));
}

#[test]
fn without_a_program_a_proof_must_at_least_end_with_what_was_asked() {
    let domain = read(TABLE).unwrap();
    let referee = Referee::new(&domain, None);
    let judge = |proof: &str| referee.recompute("Prove that 3 + 4 = 7.", proof);
    for proof in ["1. Count.\n2. So 3 + 4 = 7.", "3 + 4 = 7.", "So 3 + 4 = 7. \n\n"] {
        assert_eq!(judge(proof), None, "{proof}: nothing was recomputed");
    }
    for proof in [
        "",
        "3 + 4 = 7.\nSo 3 + 4 = 8.",
        "So 13 + 4 = 7.",
        "So 3 + 4 = 7",
        "2*3 + 4 = 7.",
        "So 3 + 4 = 7. QED",
    ] {
        let flaw = judge(proof).expect("it is looked at").unwrap_err();
        assert!(flaw.why.contains("is not what the problem asks for"), "{proof}: {}", flaw.why);
    }
    assert_eq!(referee.falsehood("Prove that 3 + 4 = 8."), None);
    assert_eq!(referee.recompute("Prove that 1 = 2.", "1 = 2."), None);
}

#[test]
fn a_table_that_cannot_be_used_is_named_with_its_line_and_key() {
    let change = |from: &str, to: &str| {
        assert!(TABLE.contains(from), "{from}");
        read(&TABLE.replacen(from, to, 1)).expect_err(to)
    };
    let pattern = TABLE.lines().find_map(|line| line.split('\'').nth(1)).unwrap();
    for (from, to, line, words) in [
        ("knows = \"sums of numbers below 100\"", "", 6, "missing field `knows`"),
        ("\"sums of numbers below 100\"", "\" \"", 7, "domain.knows is empty"),
        ("\"sums of numbers below 100\"", "7", 7, "invalid type: integer `7`, expected a string"),
        ("knows", "nose", 7, "unknown field `nose`"),
        (pattern, "", 12, "domain.problems[0].forms[0].pattern is empty"),
        (pattern, "(", 12, "domain.problems[0].forms[0].pattern is no pattern"),
        (pattern, "a)|(b", 12, "is no pattern"),
        (pattern, "[0-9]+", 12, "matches texts of any length: say how often at most"),
        (pattern, "(?<a>.*)", 12, "matches texts of any length"),
        (pattern, "(?:[0-9]{1,90}){1,90}", 12, "matches texts of 8100 bytes, and may match 4096"),
        (pattern, "(?:[0-9]{0,40}){0,40}", 12, "matches nothing at all"),
        (pattern, "(?<a>[0-9])(?<b>[0-9])", 12, "has no group (?<c>…), and c is one of its numbers"),
        (pattern, "(?x) (?<a>[0-9])(?<b>[0-9])(?<c>[0-9]) # note", 12, "cannot be bound to the whole text"),
        (pattern, r"(?<a>\pL{1,600})(?<b>\pL{1,99})(?<c>\w{1,99})", 12, "bytes when it is compiled"),
        (
            "reads = \"Prove that {a}",
            "reads = \"Prove that {aa}",
            12,
            "has {aa}, and the pattern no group of that name",
        ),
        (
            "reads = \"Prove that {a}",
            "reads = \"Prove that {}",
            12,
            "stands for any number in a conclusion only",
        ),
        ("reads = \"Prove", "reeds = \"Prove", 12, "unknown field `reeds`"),
        ("a = [1, 99]", "a = [99, 1]", 14, "domain.problems[0].numbers.a begins with 99, above its end 1"),
        ("a = [1, 99]", "a = [1]", 14, "invalid length 1"),
        ("a = [1, 99]", "a = [-1, 99]", 14, "invalid value: integer `-1`"),
        ("a = [1, 99]", "a = [1, 9999999999999999]", 14, "may end with 999999999999999"),
        ("a = [1, 99]", "z = [1, 99]", 12, "has no group (?<z>…)"),
        ("\"a <= b\"", "\"a > b\"", 15, "domain.problems[0].where[0] `a > b` is no comparison"),
        ("\"a <= b\"", "\"a <= q\"", 15, "has q, which is none of the numbers"),
        (
            "conclusion = \"{a}",
            "conclusion = \"{q}",
            16,
            "has {q}, and not every pattern has a group of that name",
        ),
        (
            "3 + 4 = 7.\"",
            "3 + 4 = 7\"",
            10,
            "domain.problems[0].example is given to the model as `Prove that 3 + 4 = 7.`",
        ),
        ("3 + 4 = 7.\"", "3 + 4000 = 7.\"", 10, "domain.problems[0].example is not in the domain: b is 4000"),
        ("example", "exemple", 10, "unknown field `exemple`"),
        ("[[domain.problems]]", "[domain.problems]", 9, "invalid type: map"),
    ] {
        let error = change(from, to);
        assert!(error.starts_with(&format!("m/prompts.toml: line {line}, column ")), "{to}: {error}");
        assert!(error.contains(words), "{to}: {error}");
    }
    for (table, words) in [
        ("[domain]\n", "missing field"),
        ("[domain]\nknows = 'x'\nproblems = []\n", "domain.problems is empty"),
        (
            "[domain]\nknows = 'x'\n[[domain.problems]]\nexample = 'x'\nforms = []\n",
            "domain.problems[0].forms is empty",
        ),
        ("domain = 1\n", "invalid type: integer `1`"),
    ] {
        let error = read(table).expect_err(table);
        assert!(error.contains("m/prompts.toml: line ") && error.contains(words), "{error}");
    }
    let forms = format!("forms = [{}]", "{ pattern = 'x' },".repeat(65));
    let error = read(&format!("[domain]\nknows = 'x'\n[[domain.problems]]\nexample = 'x'\n{forms}\n"));
    assert!(error.unwrap_err().contains("has 65 forms, and may have 64"));
}

#[test]
fn a_run_goes_on_when_only_the_domain_was_changed() {
    let prompts = |table: &str| PromptSet::from_toml(&format!("{PROMPTS}{table}"), "p").unwrap();
    let before = prompts(TABLE);
    assert_eq!(before.fingerprint(), prompts(&TABLE.replace("[1, 99]", "[1, 98]")).fingerprint());
    let other = PromptSet::from_toml(&format!("{PROMPTS}{TABLE}").replace("Read ", "Check "), "p").unwrap();
    assert_ne!(before.fingerprint(), other.fingerprint());
}

#[test]
fn the_problem_of_a_prompt_is_found_again() {
    let prompts = PromptSet::from_toml(&format!("{PROMPTS}{TABLE}"), "p").unwrap();
    let filled = prompts.verify("Prove that 3 + 4 = 7.", "Clear. --- Really.");
    // The prompt for writing is the problem alone here, so any text may be one.
    let found: Vec<&str> = prompts.problems_of(&filled).collect();
    assert_eq!(found[..2], [filled.as_str(), "Prove that 3 + 4 = 7."]);
    let built_in = PromptSet::built_in();
    for filled in [
        built_in.generate("P."),
        built_in.verify("P.", "A"),
        built_in.meta_verify("P.", "A", "E"),
        built_in.refine("P.", "A", &["E"]),
    ] {
        assert!(built_in.problems_of(&filled).any(|problem| problem == "P."), "{filled}");
    }
    assert_eq!(built_in.problems_of("P.").next(), None);
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,80}", table in "(\\[domain\\]\n)?(knows|problems|example| = |'|\"|\\[|\\]|\\{|\\}|[a-z0-9,\n]){0,40}") {
        let domain = read(TABLE).unwrap();
        let _ = domain.find(&text);
        let _ = PromptSet::from_toml(&format!("{PROMPTS}{table}"), "p");
    }
}
