//! `/set` in the chat: what can be changed between two answers.

use porism_runtime::sample::SamplingParams;

use crate::settings;

/// What holds for the answers to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub sampling: SamplingParams,
    /// Tokens of an answer; `None` as many as the context leaves.
    pub max_tokens: Option<u32>,
    pub seed: u64,
    pub think: bool,
    /// What stands before the conversation.
    pub system: Option<String>,
}

/// What came of a `/set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The answers to come.
    Answers,
    /// What stands before the conversation: it begins anew.
    System,
}

/// Names of the settings, and what may be said instead.
const NAMES: [(&str, &[&str]); 9] = [
    ("temp", &["temperature"]),
    ("top-p", &[]),
    ("top-k", &[]),
    ("min-p", &[]),
    ("repetition-penalty", &["repeat-penalty"]),
    ("max-tokens", &["n", "num-predict", "predict", "n-predict"]),
    ("seed", &["s"]),
    ("think", &["thinking"]),
    ("system", &["system-prompt"]),
];

impl Settings {
    /// All values, one to a line, as `/set` takes them.
    pub fn list(&self) -> String {
        let sampling = &self.sampling;
        let values = [
            format!("{}   0 takes the likeliest token", sampling.temperature),
            format!("{}   above 0, up to 1, which keeps all", sampling.top_p),
            format!("{}   0 keeps all", sampling.top_k),
            format!("{}   from 0, which keeps all, to 1", sampling.min_p),
            format!("{}   1 changes nothing", sampling.repetition_penalty),
            self.max_tokens
                .map_or("none   as many as the context leaves".to_owned(), |tokens| tokens.to_string()),
            format!("{}   one more for each answer", self.seed),
            if self.think { "on" } else { "off" }.to_owned(),
            self.system.as_deref().unwrap_or("none").to_owned(),
        ];
        let lines = NAMES.iter().zip(values).map(|((name, _), value)| format!("/set {name:<18} {value}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Does what stands after `/set`.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn set(&mut self, words: &str) -> Result<Changed, String> {
        // Some programs want this word.
        let words = words.trim();
        let words = words.strip_prefix("parameter ").unwrap_or(words).trim();
        let (typed, value) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        let value = value.trim();
        let name = typed.trim_start_matches('-').to_lowercase().replace('_', "-");
        if matches!(name.as_str(), "nothink" | "no-think") {
            self.think = false;
            return Ok(Changed::Answers);
        }
        if matches!(name.as_str(), "ctx-size" | "num-ctx" | "c" | "context" | "max-model-len") {
            return Err(
                "the context is as large as it was when the model was loaded; begin anew with `-c N`"
                    .to_owned(),
            );
        }
        let Some((name, _)) =
            NAMES.iter().find(|(known, others)| *known == name || others.contains(&name.as_str()))
        else {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(format!("`{typed}` cannot be set; what can be is {}", known.join(", ")));
        };
        if value.is_empty() && *name != "think" {
            return Err(format!("give a value, as in `/set {name} {}`", self.example(name)));
        }
        let wrong = |reason: String| format!("{name} cannot be `{value}`: {reason}");
        match *name {
            "temp" => self.sampling.temperature = settings::temperature(value).map_err(wrong)?,
            "top-p" => self.sampling.top_p = settings::top_p(value).map_err(wrong)?,
            "min-p" => self.sampling.min_p = settings::min_p(value).map_err(wrong)?,
            "repetition-penalty" => {
                self.sampling.repetition_penalty = settings::repetition_penalty(value).map_err(wrong)?;
            }
            "top-k" => {
                self.sampling.top_k = value
                    .parse()
                    .map_err(|_| wrong("it must be a whole number from 0, which keeps all".to_owned()))?;
            }
            "seed" => {
                self.seed =
                    value.parse().map_err(|_| wrong("it must be a whole number from 0".to_owned()))?;
            }
            "max-tokens" if value == "none" => self.max_tokens = None,
            "max-tokens" => {
                let tokens = value.parse().ok().filter(|tokens| *tokens > 0);
                let wanted = || wrong("it must be a whole number from 1, or `none`".to_owned());
                self.max_tokens = Some(tokens.ok_or_else(wanted)?);
            }
            "think" => {
                self.think = match value {
                    "" | "on" | "true" | "yes" => true,
                    "off" | "false" | "no" => false,
                    _ => return Err(wrong("it must be `on` or `off`".to_owned())),
                };
            }
            _ => {
                let text = value.trim_matches('"');
                self.system = (text != "none" && !text.is_empty()).then(|| text.to_owned());
                return Ok(Changed::System);
            }
        }
        Ok(Changed::Answers)
    }

    fn example(&self, name: &str) -> &'static str {
        match name {
            "temp" => "0.7",
            "top-p" => "0.95",
            "top-k" => "40",
            "min-p" => "0.05",
            "repetition-penalty" => "1.1",
            "max-tokens" => "500",
            "seed" => "1",
            _ => "Answer in one sentence.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { sampling: SamplingParams::default(), max_tokens: None, seed: 7, think: true, system: None }
    }

    #[test]
    fn every_setting_is_listed_and_can_be_set() {
        let mut set = settings();
        for (words, wanted) in [
            ("temp 0.5", "/set temp               0.5"),
            ("parameter temperature 0.25", "/set temp               0.25"),
            ("top_p 0.9", "/set top-p              0.9"),
            ("--top-k 40", "/set top-k              40"),
            ("min-p 0.05", "/set min-p              0.05"),
            ("repeat-penalty 1.1", "/set repetition-penalty 1.1"),
            ("n 100", "/set max-tokens         100"),
            ("seed 3", "/set seed               3"),
            ("nothink", "/set think              off"),
            ("think", "/set think              on"),
            ("system \"Be brief.\"", "/set system             Be brief."),
            ("system none", "/set system             none"),
        ] {
            set.set(words).unwrap_or_else(|reason| panic!("{words}: {reason}"));
            assert!(set.list().lines().any(|line| line.starts_with(wanted)), "{words}: {}", set.list());
        }
        assert_eq!(set.list().lines().count(), NAMES.len());
    }

    #[test]
    fn what_cannot_be_set_says_what_can_be() {
        for (words, wanted) in [
            ("temp -1", "temp cannot be `-1`: it must be 0 (greedy), or from 0.0001 to 100"),
            ("temp NaN", "temp cannot be `NaN`"),
            ("temp hot", "`hot` is no number"),
            ("top-p 2", "above 0 and at most 1"),
            ("repetition-penalty 1e38", "from 0.01 to 100"),
            ("top-k -1", "a whole number from 0"),
            ("max-tokens 0", "a whole number from 1"),
            ("seed -4", "a whole number from 0"),
            ("think maybe", "`on` or `off`"),
            ("temp", "`/set temp 0.7`"),
            ("ctx-size 100", "`-c N`"),
            ("colour red", "temp, top-p, top-k, min-p, repetition-penalty, max-tokens, seed, think, system"),
        ] {
            let mut set = settings();
            let reason = set.set(words).unwrap_err();
            assert!(reason.contains(wanted), "{words}: {reason}");
            assert_eq!(set, settings(), "{words}");
        }
    }
}
