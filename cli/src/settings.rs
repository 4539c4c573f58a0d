//! What was typed → what it means.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use porism_runtime::options::Heat;
use porism_runtime::{DeviceId, DeviceSpec};

use porism_loader::ModelConfig;

use crate::failure::Failure;
use crate::model::Model;

/// The most that is read of a prompt, a conversation or a list of ids.
const INPUT_LIMIT: u64 = 64 << 20;

/// `90s`, `10m`, `2h`, `1.5h` → time.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration: give a number and a unit, as in `90s`, `10m`, `2h`");
    let text = text.trim();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - 1];
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * factor;
    // A hundred years.
    if seconds > 0.0 && seconds < 3.2e9 { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// The value of `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceList(pub Vec<DeviceSpec>);

impl FromStr for DeviceList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(|part| parse_device(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_device(text: &str) -> Result<DeviceSpec, String> {
    let (name, budget) = match text.split_once(':') {
        Some((name, budget)) => (name, Some(parse_size(budget)?)),
        None => (text, None),
    };
    let index = if name.eq_ignore_ascii_case("host") {
        DeviceId::Host
    } else {
        let parsed = name.parse::<u16>().map_err(|_| {
            format!("`{name}` is no device: give an index from `porism devices`, or `host`, as in `0`, `0:8GiB`, `host`")
        })?;
        DeviceId::Adapter(parsed.into())
    };
    Ok(DeviceSpec { index, budget })
}

/// `8GiB`, `512 MiB`, `1.5GB` → bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("b", 1),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let wrong = || format!("`{text}` is no size: give a number and a unit, as in `8GiB` or `500MB`");
    let (number, unit) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, *factor)))
        .ok_or_else(wrong)?;
    let number = number.trim_end();
    // No exponents, signs or names of numbers.
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(unit),
        Err(_) => {
            let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
            (bytes < 2f64.powi(63)).then_some(bytes as u64)
        }
    };
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| format!("`{text}` is not between 1 byte and 8 million TB"))
}

/// The value of `--heat`, for a model of this kind.
pub fn read_heat(path: &Path, config: &ModelConfig) -> Result<Heat> {
    let heat: Heat = serde_json::from_slice(&read_input(path)?).map_err(|error| {
        Failure::usage(format!("{}: no heat statistics: {error}", path.display()))
            .hint("`porism run --heat-out FILE` writes them")
    })?;
    heat.check(config)
        .map_err(|reason| Failure::usage(format!("{}: of another model: {reason}", path.display())))?;
    Ok(heat)
}

/// `--schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleArg {
    Prefill,
    Chunks(u32),
    Steps,
}

impl FromStr for ScheduleArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prefill" => Ok(Self::Prefill),
            "steps" => Ok(Self::Steps),
            _ => match text.strip_prefix("chunks:").map(str::parse) {
                Some(Ok(tokens)) if tokens > 0 => Ok(Self::Chunks(tokens)),
                _ => Err("give `prefill`, `chunks:N` with N from 1, or `steps`".to_owned()),
            },
        }
    }
}

/// What the positional arguments of `run` turned out to be.
#[derive(Debug)]
pub struct ModelAndPrompt {
    pub model: Model,
    pub prompt: Option<String>,
}

/// Which of the positional arguments is the model and which the prompt. `other_prompt`: the prompt comes from elsewhere
/// (`--prompt`, `--file`, `--ids`), so a single argument can only be the model.
pub fn model_and_prompt(
    named_model: Option<&str>,
    first: Option<String>,
    second: Option<String>,
    other_prompt: bool,
) -> Result<ModelAndPrompt> {
    let too_many = |which: &str| {
        Failure::usage(format!("the prompt is given twice: as an argument and {which}"))
            .hint("quote a prompt of several words, and give it once")
    };
    match (named_model, first, second) {
        (Some(_), Some(_), Some(_)) => {
            Err(Failure::usage("the model is given twice: as an argument and with --model").into())
        }
        (Some(_), Some(_), None) if other_prompt => Err(too_many("with a flag").into()),
        (Some(name), prompt, None) => Ok(ModelAndPrompt { model: Model::find(name)?, prompt }),
        (Some(_), None, Some(_)) | (None, None, Some(_)) => unreachable!("positionals are filled in order"),
        (None, Some(_), Some(_)) if other_prompt => Err(too_many("with a flag").into()),
        (None, Some(name), Some(prompt)) => {
            Ok(ModelAndPrompt { model: Model::find(&name)?, prompt: Some(prompt) })
        }
        (None, None, None) => Ok(ModelAndPrompt { model: Model::Embedded, prompt: None }),
        (None, Some(only), None) if only.trim().is_empty() => Err(porism_runtime::Error::EmptyPrompt.into()),
        (None, Some(only), None) => match Model::find(&only) {
            Ok(model) => Ok(ModelAndPrompt { model, prompt: None }),
            Err(_) if other_prompt && only.contains(char::is_whitespace) => {
                Err(too_many("with a flag").into())
            }
            Err(error) if other_prompt => Err(error.into()),
            Err(_) if only.contains(char::is_whitespace) => {
                Ok(ModelAndPrompt { model: Model::Embedded, prompt: Some(only) })
            }
            Err(porism_loader::Error::NoModel { as_directory, as_name, .. }) => {
                let message = format!(
                    "`{only}` is no model (as a folder, {as_directory}; as a name in the Hugging Face cache, {as_name}) \
                     and no prompt for the embedded model (it has no white space)"
                );
                let hint =
                    format!("for a model, check its path; for a prompt, write `porism run -p \"{only}\"`");
                Err(Failure::model(message).hint(hint).into())
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// The bytes of a file, or of stdin for `-`.
pub fn read_input(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(INPUT_LIMIT + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(INPUT_LIMIT + 1).read_to_end(&mut bytes))
    };
    let name = input_name(path);
    read.with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > INPUT_LIMIT {
        return Err(Failure::usage(format!(
            "{name} has more than {INPUT_LIMIT} bytes, the most that is read"
        ))
        .into());
    }
    Ok(bytes)
}

/// The same as text.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_input(path)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!("{} is not UTF-8 text: byte {at} begins no character", input_name(path)))
            .into()
    })
}

fn input_name(path: &Path) -> String {
    if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() }
}

/// A JSON array of token ids, each below `vocab_size`.
pub fn read_ids(path: &Path, vocab_size: u32) -> Result<Vec<u32>> {
    let name = input_name(path);
    let wrong = |found: String| {
        Failure::usage(format!("{name}: expected a JSON array of token ids, found {found}"))
            .hint("`porism tokenize` writes such arrays, for example `[0, 17, 256]`")
    };
    let values: Vec<serde_json::Value> = match serde_json::from_slice(&read_input(path)?) {
        Ok(serde_json::Value::Array(values)) => values,
        Ok(_) => return Err(wrong("another kind of JSON".to_owned()).into()),
        Err(error) => return Err(wrong(format!("something else ({error})")).into()),
    };
    let mut ids = Vec::with_capacity(values.len());
    for (position, value) in values.iter().enumerate() {
        let Some(id) = value.as_u64() else {
            return Err(wrong(format!("{} at position {position}", brief(value))).into());
        };
        match u32::try_from(id).ok().filter(|id| *id < vocab_size) {
            Some(id) => ids.push(id),
            None => return Err(porism_runtime::Error::TokenOutOfRange { id, position, vocab_size }.into()),
        }
    }
    if ids.is_empty() {
        return Err(porism_runtime::Error::EmptyPrompt.into());
    }
    Ok(ids)
}

fn brief(value: &serde_json::Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        text
    } else {
        format!("{}…", text.chars().take(40).collect::<String>())
    }
}

/// A seed that nobody chose; short enough to be typed again and exact in every JSON reader.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library seeds each map from the system's generator.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        for bad in ["", "s", "10", "-1s", "0m", "1e3s", "5d", "9999999999h", "1.2.3s", "½h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_are_parsed() {
        let list = |text: &str| text.parse::<DeviceList>();
        let adapter = |index, budget| DeviceSpec { index: DeviceId::Adapter(index), budget };
        assert_eq!(list("0").unwrap().0, [adapter(0, None)]);
        assert_eq!(list("2:2MiB").unwrap().0, [adapter(2, Some(2 << 20))]);
        let host = DeviceSpec { index: DeviceId::Host, budget: Some(64_000_000_000) };
        assert_eq!(list("0:1.5GiB, HOST:64GB").unwrap().0, [adapter(0, Some(3 << 29)), host]);
        for bad in [
            "",
            "x",
            "-1",
            "0,",
            "0:8",
            "0:GiB",
            "0:1e3GB",
            "0:-1GB",
            "0:0GB",
            "0:99999999999TB",
            "0:1.2.3GB",
        ] {
            assert!(list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn schedules_are_parsed() {
        assert_eq!("chunks:7".parse(), Ok(ScheduleArg::Chunks(7)));
        assert_eq!("steps".parse(), Ok(ScheduleArg::Steps));
        for bad in ["chunks:0", "chunks", "chunks:", "step", "chunks:-1", ""] {
            assert!(bad.parse::<ScheduleArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_single_argument_is_a_model_or_a_prompt() {
        let read = |first: &str, other| model_and_prompt(None, Some(first.into()), None, other);
        let folder = tempfile::Builder::new().prefix("a model ").tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert!(matches!(
            read(path, false).unwrap(),
            ModelAndPrompt { model: Model::Directory(_), prompt: None }
        ));
        let prompt = read("Prove it.", false).unwrap();
        assert!(matches!(prompt.model, Model::Embedded));
        assert_eq!(prompt.prompt.as_deref(), Some("Prove it."));
        // With the prompt from elsewhere it can only be a model.
        assert_eq!(crate::failure::code(&read("nosuchmodel", true).unwrap_err()), 3);
        assert!(read("Prove it.", true).unwrap_err().to_string().contains("given twice"));
        let neither = read("no-such-model", false).unwrap_err();
        assert_eq!(crate::failure::code(&neither), 3);
        assert!(neither.to_string().contains("no model") && neither.to_string().contains("no prompt"));
    }

    #[test]
    fn ids_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_ids(&path, 10)
        };
        assert_eq!(read("[0, 9]").unwrap(), [0, 9]);
        for bad in ["[]", "[10]", "[-1]", "[1.5]", "[\"1\"]", "{}", "1", "", "[1,", "[99999999999999999999]"]
        {
            assert_eq!(crate::failure::code(&read(bad).unwrap_err()), 2, "{bad}");
        }
    }
}
