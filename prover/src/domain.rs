//! What a model knows, where that is little: the `[domain]` table of its `prompts.toml`.
//!
//! ```toml
//! [domain]
//! knows = "gcd(a, b) with a up to 120 and b from 4 to 40"
//! program = "porism-tiny"                  # recomputes its proofs; may be left out
//!
//! [[domain.problems]]
//! example = "Prove that gcd(84, 30) = 6."
//! forms = [
//!     { pattern = '(?i:prove that )?gcd\((?<a>[0-9]{1,3}), ?(?<b>[0-9]{1,3})\) = (?<g>[0-9]{1,3})\.?', reads = "Prove that gcd({a}, {b}) = {g}." },
//! ]
//! numbers = { a = [5, 120], b = [4, 40], g = [1, 120] }
//! where = ["b < a", "a < 10*b"]            # sums and products of the named numbers; may be left out
//! conclusion = "gcd({a}, {b}) = {g}."      # how a proof of it ends; may be left out
//! ```
//!
//! A problem is in the domain when its whole text, white space at the ends left out and taken for one space elsewhere, matches
//! a pattern, its named numbers lie in their ranges, without leading zeros, and all of `where` holds. The model is then given
//! the text of `reads`: the wording that it was trained on. Patterns are matched in linear time, and each has a longest match.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use regex::{Captures, Regex, RegexBuilder};
use regex_syntax::hir::{Hir, Look};
use serde::Deserialize;
use toml::Spanned;

use self::relation::Relation;
use crate::recompute::{Flaw, Recompute, excerpt};

mod relation;

/// The longest problem that a pattern may match, in bytes.
const LONGEST: usize = 4096;
/// Wordings of all problems together: each compiled pattern takes up to [`PATTERN_BYTES`].
const MOST_FORMS: usize = 64;
/// Bytes of a pattern, compiled.
const PATTERN_BYTES: usize = 1 << 20;
/// The largest number of a range: 15 digits, so that products of two are far from the end of what is computed with.
const LARGEST: u64 = 999_999_999_999_999;

/// What a model knows.
#[derive(Clone, Debug)]
pub struct Domain {
    knows: String,
    program: Option<String>,
    families: Vec<Family>,
}

#[derive(Clone, Debug)]
struct Family {
    example: String,
    forms: Vec<Form>,
    numbers: BTreeMap<String, [u64; 2]>,
    relations: Vec<Relation>,
    conclusion: Option<Wording>,
}

#[derive(Clone, Debug)]
struct Form {
    regex: Regex,
    reads: Option<Wording>,
}

/// A problem of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As the model was trained to read it.
    pub text: String,
    /// What a proof of it ends with, where the domain says so: a pattern for the end of the last line.
    conclusion: Option<String>,
}

/// Why a problem is none of the domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// No pattern matches.
    NoForm,
    /// One matches but for this.
    But(String),
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outside::NoForm => f.write_str("of no kind that it knows"),
            Outside::But(why) => f.write_str(why),
        }
    }
}

impl Domain {
    /// What it is about, for people: the rest of a sentence that begins with "knows".
    pub fn knows(&self) -> &str {
        &self.knows
    }

    /// The program that recomputes proofs of its problems.
    pub fn program(&self) -> Option<&str> {
        self.program.as_deref()
    }

    /// A problem of each kind.
    pub fn examples(&self) -> impl Iterator<Item = &str> {
        self.families.iter().map(|family| family.example.as_str())
    }

    /// Finds the problem of a text.
    ///
    /// # Errors
    /// [`Outside`], with the reason of the pattern that comes nearest.
    pub fn find(&self, text: &str) -> Result<Statement, Outside> {
        let mut outside = Outside::NoForm;
        if text.trim().len() > 2 * LONGEST {
            return Err(outside);
        }
        // Some editors mark a file of text so.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        for family in &self.families {
            for form in &family.forms {
                let Some(captures) = form.regex.captures(&text) else { continue };
                match family.statement(form, &text, &captures) {
                    Ok(statement) => return Ok(statement),
                    Err(why) if outside == Outside::NoForm => outside = Outside::But(why),
                    Err(_) => {}
                }
            }
        }
        Err(outside)
    }
}

impl Family {
    fn statement(&self, form: &Form, text: &str, captures: &Captures<'_>) -> Result<Statement, String> {
        let mut values = BTreeMap::new();
        for (name, [least, most]) in &self.numbers {
            let Some(found) = captures.name(name) else {
                return Err(format!("it does not say what {name} is"));
            };
            let found = found.as_str();
            let value: Option<u64> = found.parse().ok().filter(|value: &u64| value.to_string() == found);
            match value {
                Some(value) if (*least..=*most).contains(&value) => drop(values.insert(name.as_str(), value)),
                Some(_) => return Err(format!("{name} is {found}, and may be {least} to {most}")),
                None => return Err(format!("`{found}` is no number as it is written here")),
            }
        }
        for relation in &self.relations {
            if !relation.holds(&values) {
                let numbers: Vec<String> =
                    values.iter().map(|(name, value)| format!("{name} = {value}")).collect();
                return Err(format!("of its numbers {} has to hold, with {}", relation, numbers.join(", ")));
            }
        }
        let word = |name: &str| captures.name(name).map(|word| word.as_str());
        let text = form.reads.as_ref().map_or_else(|| text.to_owned(), |reads| reads.fill(word));
        let conclusion = self.conclusion.as_ref().map(|conclusion| conclusion.pattern(word));
        Ok(Statement { text, conclusion })
    }
}

/// Text with `{name}` for what a pattern calls so, and `{}` for any number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wording(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Named(String),
    Number,
}

impl Wording {
    /// Other braces stand for themselves.
    fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let name = rest.split('}').next().filter(|name| name.len() < rest.len()).unwrap_or("{");
            if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
                pieces.push(if name.is_empty() { Piece::Number } else { Piece::Named(name.to_owned()) });
                rest = &rest[name.len() + 1..];
            } else {
                literal.push('{');
            }
        }
        literal.push_str(rest);
        pieces.push(Piece::Text(literal));
        Self(pieces)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Named(name) => Some(name.as_str()),
            Piece::Text(_) | Piece::Number => None,
        })
    }

    fn fill<'a>(&self, word: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Named(name) => text.push_str(word(name).unwrap_or_default()),
                Piece::Number => text.push_str("{}"),
            }
        }
        text
    }

    /// A pattern of texts that end so, after nothing or something that is no part of a number or word.
    fn pattern<'a>(&self, word: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut pattern = String::from(r"(?:^|[^0-9A-Za-z_.,*+/^-])");
        for piece in &self.0 {
            match piece {
                Piece::Text(literal) => pattern.push_str(&regex::escape(literal)),
                Piece::Named(name) => pattern.push_str(&regex::escape(word(name).unwrap_or_default())),
                Piece::Number => pattern.push_str("-?[0-9]{1,40}"),
            }
        }
        pattern.push('$');
        pattern
    }
}

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    knows: Spanned<String>,
    program: Option<Spanned<String>>,
    problems: Spanned<Vec<FamilyTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FamilyTable {
    example: Spanned<String>,
    forms: Spanned<Vec<FormTable>>,
    #[serde(default)]
    numbers: BTreeMap<String, Spanned<[u64; 2]>>,
    #[serde(default, rename = "where")]
    relations: Vec<Spanned<String>>,
    conclusion: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FormTable {
    pattern: Spanned<String>,
    reads: Option<Spanned<String>>,
}

/// What is wrong with a table: the bytes it is about, the key, and why.
pub(crate) type Fault = (Range<usize>, String, String);

impl Table {
    /// Checks everything, down to the examples.
    pub(crate) fn read(self) -> Result<Domain, Fault> {
        let knows = wanted(&self.knows, "domain.knows")?;
        let program = self.program.as_ref().map(|program| wanted(program, "domain.program")).transpose()?;
        let span = self.problems.span();
        let tables = self.problems.into_inner();
        if tables.is_empty() {
            return Err((
                span,
                "domain.problems".to_owned(),
                "is empty: a model without a domain has no such table".to_owned(),
            ));
        }
        let forms: usize = tables.iter().map(|table| table.forms.as_ref().len()).sum();
        if forms > MOST_FORMS {
            return Err((
                span,
                "domain.problems".to_owned(),
                format!("has {forms} forms, and may have {MOST_FORMS}"),
            ));
        }
        let mut families = Vec::new();
        let mut examples = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            let key = format!("domain.problems[{index}]");
            examples.push((table.example.span(), format!("{key}.example")));
            families.push(table.read(&key)?);
        }
        let domain = Domain { knows, program, families };
        for ((span, key), example) in examples.into_iter().zip(domain.examples()) {
            match domain.find(example) {
                Ok(statement) if statement.text == example => {}
                Ok(statement) => {
                    return Err((
                        span,
                        key,
                        format!("is given to the model as `{}`: write it so", statement.text),
                    ));
                }
                Err(why) => return Err((span, key, format!("is not in the domain: {why}"))),
            }
        }
        Ok(domain)
    }
}

impl FamilyTable {
    fn read(self, key: &str) -> Result<Family, Fault> {
        let example = wanted(&self.example, &format!("{key}.example"))?;
        if self.forms.as_ref().is_empty() {
            return Err((self.forms.span(), format!("{key}.forms"), "is empty".to_owned()));
        }
        let mut numbers = BTreeMap::new();
        for (name, range) in self.numbers {
            let key = format!("{key}.numbers.{name}");
            let [least, most] = *range.as_ref();
            if least > most {
                return Err((range.span(), key, format!("begins with {least}, above its end {most}")));
            }
            if most > LARGEST {
                return Err((range.span(), key, format!("ends with {most}, and may end with {LARGEST}")));
            }
            numbers.insert(name, [least, most]);
        }
        let mut forms = Vec::new();
        let mut common: Option<Vec<String>> = None;
        for (index, form) in self.forms.into_inner().into_iter().enumerate() {
            let key = format!("{key}.forms[{index}]");
            let pattern_key = format!("{key}.pattern");
            let regex = anchored(form.pattern.as_ref())
                .map_err(|why| (form.pattern.span(), pattern_key.clone(), why))?;
            let names: Vec<String> = regex.capture_names().flatten().map(str::to_owned).collect();
            if let Some(name) = numbers.keys().find(|name| !names.contains(name)) {
                let why = format!("has no group (?<{name}>…), and {name} is one of its numbers");
                return Err((form.pattern.span(), pattern_key, why));
            }
            let reads = form.reads.as_ref().map(|reads| {
                let key = format!("{key}.reads");
                let wording = Wording::new(&wanted(reads, &key)?);
                let missing =
                    wording.names().find(|name| !names.iter().any(|known| known == name)).map(str::to_owned);
                match missing {
                    Some(name) => Err((
                        reads.span(),
                        key,
                        format!("has {{{name}}}, and the pattern no group of that name"),
                    )),
                    None if wording.0.contains(&Piece::Number) => Err((
                        reads.span(),
                        key,
                        "has {}, which stands for any number in a conclusion only".to_owned(),
                    )),
                    None => Ok(wording),
                }
            });
            common = Some(match common {
                None => names,
                Some(common) => common.into_iter().filter(|name| names.contains(name)).collect(),
            });
            forms.push(Form { regex, reads: reads.transpose()? });
        }
        let mut relations = Vec::new();
        for (index, relation) in self.relations.iter().enumerate() {
            let fault = |why| (relation.span(), format!("{key}.where[{index}]"), why);
            let read = Relation::parse(relation.as_ref()).map_err(fault)?;
            if let Some(name) = read.names().find(|name| !numbers.contains_key(*name)) {
                return Err(fault(format!("has {name}, which is none of the numbers")));
            }
            relations.push(read);
        }
        let conclusion = self.conclusion.as_ref().map(|conclusion| {
            let key = format!("{key}.conclusion");
            let wording = Wording::new(&wanted(conclusion, &key)?);
            let common = common.unwrap_or_default();
            let missing =
                wording.names().find(|name| !common.iter().any(|known| known == name)).map(str::to_owned);
            match missing {
                Some(name) => Err((
                    conclusion.span(),
                    key,
                    format!("has {{{name}}}, and not every pattern has a group of that name"),
                )),
                None => Ok(wording),
            }
        });
        Ok(Family { example, forms, numbers, relations, conclusion: conclusion.transpose()? })
    }
}

/// A text that must not be empty.
fn wanted(text: &Spanned<String>, key: &str) -> Result<String, Fault> {
    let trimmed = text.as_ref().trim();
    if trimmed.is_empty() {
        return Err((text.span(), key.to_owned(), "is empty".to_owned()));
    }
    if trimmed.len() > LONGEST {
        return Err((
            text.span(),
            key.to_owned(),
            format!("has {} bytes, and may have {LONGEST}", trimmed.len()),
        ));
    }
    Ok(trimmed.to_owned())
}

/// Compiles a pattern of whole texts.
fn anchored(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() {
        return Err("is empty".to_owned());
    }
    if pattern.len() > LONGEST {
        return Err(format!("has {} bytes, and may have {LONGEST}", pattern.len()));
    }
    let parse = |pattern: &str| -> Result<Hir, String> {
        regex_syntax::parse(pattern).map_err(|error| match error {
            regex_syntax::Error::Parse(error) => format!("is no pattern: {}", error.kind()),
            regex_syntax::Error::Translate(error) => format!("is no pattern: {}", error.kind()),
            _ => "is no pattern".to_owned(),
        })
    };
    // By itself first: what is put around it must not make a pattern of something that is none.
    let hir = parse(pattern)?;
    match hir.properties().maximum_len() {
        None => {
            return Err(
                "matches texts of any length: say how often at most, as in `[0-9]{1,3}` for `[0-9]+`"
                    .to_owned(),
            );
        }
        Some(longest) if longest > LONGEST => {
            return Err(format!("matches texts of {longest} bytes, and may match {LONGEST}"));
        }
        Some(_) => {}
    }
    if hir.properties().minimum_len() == Some(0) {
        return Err("matches nothing at all, an empty text".to_owned());
    }
    let whole = format!("^(?:{pattern})$");
    let unbound = || "cannot be bound to the whole text: write it without `(?x)` and `(?m)`".to_owned();
    let hir = parse(&whole).map_err(|_| unbound())?;
    let properties = hir.properties();
    if !properties.look_set_prefix().contains(Look::Start)
        || !properties.look_set_suffix().contains(Look::End)
    {
        return Err(unbound());
    }
    RegexBuilder::new(&whole)
        .size_limit(PATTERN_BYTES)
        .dfa_size_limit(PATTERN_BYTES)
        .build()
        .map_err(|_| format!("takes more than {PATTERN_BYTES} bytes when it is compiled: make it smaller"))
}

/// What is known of problems without asking a model: the program of the domain, and how its proofs end.
pub struct Referee<'a> {
    domain: &'a Domain,
    program: Option<&'a dyn Recompute>,
}

impl<'a> Referee<'a> {
    /// `program` is the one that the domain names.
    pub fn new(domain: &'a Domain, program: Option<&'a dyn Recompute>) -> Self {
        Self { domain, program }
    }
}

impl Recompute for Referee<'_> {
    fn name(&self) -> &str {
        self.program.map_or("the model's domain", Recompute::name)
    }

    fn falsehood(&self, question: &str) -> Option<String> {
        self.program?.falsehood(question)
    }

    fn recompute(&self, question: &str, proof: &str) -> Option<Result<(), Flaw>> {
        if let Some(found) = self.program.and_then(|program| program.recompute(question, proof)) {
            return Some(found);
        }
        let conclusion = self.domain.find(question).ok()?.conclusion?;
        let last = proof.trim().lines().last().unwrap_or_default().trim_end();
        let ends_so = Regex::new(&conclusion).is_ok_and(|pattern| pattern.is_match(last));
        // That it ends as it should makes no proof right.
        (!ends_so).then(|| {
            let why = format!("its last line, `{}`, is not what the problem asks for", excerpt(last));
            let evaluation = "The last line is not what the problem asks for.\n\\boxed{0}".to_owned();
            Err(Flaw { why, evaluation })
        })
    }
}
