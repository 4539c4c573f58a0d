//! What a model knows, where that is written down, and what is done about problems that it does not know.

use anyhow::Result;
use porism_checker::Checker;
use porism_prover::domain::{Domain, Outside, Referee, Statement};
use porism_prover::parse;
use porism_prover::problem::Problem;
use porism_prover::prompts::PromptSet;
use porism_prover::recompute::{Flaw, Recompute};
use porism_prover::store::Known;

use crate::failure::Failure;
use crate::model::Model;
use crate::ui::Ui;

/// Problems of a set that a refusal names.
const NAMED: usize = 8;

/// The programs that a domain may name.
const PROGRAMS: [&dyn Recompute; 1] = [&Checker];

/// The domains of all models that write or read here.
pub struct Bounds {
    models: Vec<(String, PromptSet)>,
}

impl Bounds {
    /// Those of these models that have one.
    pub fn of<'a>(models: impl IntoIterator<Item = &'a Model>) -> Result<Self> {
        let mut bounds = Self { models: Vec::new() };
        for model in models {
            if let Some(prompts) = model.prompts()? {
                bounds.add(model, prompts)?;
            }
        }
        Ok(bounds)
    }

    fn add(&mut self, model: &Model, prompts: PromptSet) -> Result<()> {
        let Some(domain) = prompts.domain() else { return Ok(()) };
        if let Some(name) = domain.program()
            && program(name).is_none()
        {
            let known: Vec<&str> = PROGRAMS.iter().map(|program| program.name()).collect();
            let message = format!(
                "{}: domain.program is `{name}`, and this porism has {}",
                prompts.source(),
                known.join(", ")
            );
            return Err(Failure::model(message).into());
        }
        self.models.push((model.label(), prompts));
        Ok(())
    }

    fn domains(&self) -> impl Iterator<Item = (&str, &Domain)> {
        self.models.iter().filter_map(|(label, prompts)| Some((label.as_str(), prompts.domain()?)))
    }

    /// What these models know, for a greeting or a warning.
    pub fn known(&self) -> Option<Known> {
        let (mut model, mut knows) = (Vec::new(), Vec::new());
        for (label, domain) in self.domains() {
            model.push(label);
            knows.push(domain.knows());
        }
        let program = self.domains().find_map(|(_, domain)| domain.program()).map(str::to_owned);
        (!model.is_empty()).then(|| Known {
            model: model.join(" and "),
            knows: knows.join("; "),
            program,
            outside: Vec::new(),
        })
    }

    /// The problem of a text as all of these models read it.
    fn find(&self, text: &str) -> Result<Option<Statement>, (&str, &Domain, Outside)> {
        let mut found: Option<Statement> = None;
        for (label, domain) in self.domains() {
            let text = found.as_ref().map_or(text, |statement| &statement.text);
            found = Some(domain.find(text).map_err(|why| (label, domain, why))?);
        }
        Ok(found)
    }

    /// Brings problems into the form that the models know. Problems that they do not know are refused, or with `allowed` named.
    pub fn place(&self, problems: &mut [Problem], allowed: bool, ui: &Ui) -> Result<Vec<String>> {
        let mut outside = Vec::new();
        let several = problems.len() > 1;
        for problem in problems.iter_mut() {
            match self.find(&problem.question) {
                Ok(None) => {}
                Ok(Some(statement)) => {
                    if problem.question != statement.text {
                        let name = if several { format!("{}: ", problem.problem_idx) } else { String::new() };
                        ui.aside(&format!("{name}read as: {}", statement.text));
                        // Typed problems are named after their text, and the same problem has the same name.
                        if !several && problem.source == "problem" {
                            *problem = Problem::from_text(&statement.text, "problem")?;
                        }
                        problem.question = statement.text;
                    }
                }
                Err((label, domain, why)) => outside.push((problem.problem_idx.clone(), label, domain, why)),
            }
        }
        if let Some((_, label, domain, why)) = outside.first().filter(|_| !allowed) {
            return Err(if several {
                let named = outside.iter().take(NAMED);
                let named: Vec<String> = named.map(|(name, _, _, why)| format!("{name} ({why})")).collect();
                let more = if outside.len() > NAMED { ", …" } else { "" };
                let (count, all) = (outside.len(), problems.len());
                let what = format!("does not know {count} of {all} problems: {}{more}", named.join(", "));
                refusal(label, domain, &what)
            } else {
                refusal(label, domain, &of_one(why))
            }
            .into());
        }
        Ok(outside.into_iter().map(|(name, ..)| name).collect())
    }

    /// A question to a model that is asked directly, as the model reads it; the prompt of a role is taken as it is when its
    /// problem is one that the model knows. `None` for one that the model does not know, where that is `allowed`.
    pub fn question(&self, text: &str, allowed: bool) -> Result<Option<String>> {
        let is_known = |problem| self.find(problem).ok().flatten().is_some_and(|found| found.text == problem);
        let of_a_role = self.models.iter().any(|(_, prompts)| prompts.problems_of(text).any(is_known));
        if of_a_role {
            return Ok(Some(text.to_owned()));
        }
        match self.find(text) {
            Ok(None) => Ok(Some(text.to_owned())),
            Ok(Some(statement)) => Ok(Some(statement.text)),
            Err(_) if allowed => Ok(None),
            Err((label, domain, why)) => Err(refusal(label, domain, &of_one(&why)).into()),
        }
    }

    /// What a program finds in an answer to a question, if it has a proof in it and the program can tell.
    pub fn judge(&self, question: &str, answer: &str) -> Option<Result<(), Flaw>> {
        // An answer that was cut off has no opinion of itself at its end.
        let attempt = parse::attempt(answer).filter(|attempt| attempt.self_score.is_some())?;
        self.referee()?.recompute(question, &attempt.proof)
    }

    /// What is known of their problems without asking a model.
    pub fn referee(&self) -> Option<Referee<'_>> {
        let mut domains = self.domains().map(|(_, domain)| domain);
        let has_program = |domain: &&Domain| domain.program().is_some();
        let domain = domains.find(has_program).or_else(|| self.domains().next().map(|(_, domain)| domain))?;
        Some(Referee::new(domain, domain.program().and_then(program)))
    }
}

fn program(name: &str) -> Option<&'static dyn Recompute> {
    PROGRAMS.into_iter().find(|program| program.name() == name)
}

fn of_one(why: &Outside) -> String {
    match why {
        Outside::NoForm => "does not know such problems".to_owned(),
        Outside::But(why) => format!("does not know such problems with these numbers: {why}"),
    }
}

fn refusal(label: &str, domain: &Domain, what: &str) -> Failure {
    let example = domain.examples().next().unwrap_or_default();
    let message = format!("{label} {what}. It knows {}; for example `{example}`", domain.knows());
    Failure::usage(message).hint(
        "for other problems use a real model: --model DIR for one on this machine, or `porism prove … --endpoint URL \
         --endpoint-model NAME` for one elsewhere; --outside-domain lets this one try, and nothing of that counts",
    )
}
