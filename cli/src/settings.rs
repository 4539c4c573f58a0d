//! What was typed → what it means.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use porism_runtime::options::Heat;
use porism_runtime::sample::{SampleError, SamplingParams};
use porism_runtime::{DeviceId, DeviceSpec};

use porism_loader::ModelConfig;

use crate::failure::Failure;
use crate::model::Model;
use crate::names;

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
        Some((name, budget)) => (name, Some(budget)),
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
    let budget = budget.map(parse_size).transpose()?;
    Ok(DeviceSpec { index, budget })
}

/// Units of sizes; the last ends the others' names.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// `8GiB`, `512 MiB`, `1.5GB` → bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let wrong = || format!("`{text}` is no size: give a number and a unit, as in `8GiB` or `500MB`");
    let (number, unit) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((lower.strip_suffix(&unit.to_ascii_lowercase())?, *factor)))
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

/// A size that [`parse_size`] reads as the same bytes, in the largest unit that has no fraction.
pub fn exact_size(bytes: u64) -> String {
    let whole = UNITS.iter().filter(|(_, factor)| bytes.is_multiple_of(*factor));
    let (unit, factor) = whole.max_by_key(|(_, factor)| *factor).expect("a byte has no fraction");
    format!("{}{unit}", bytes / factor)
}

/// A whole number within a range, for options such as `-n`.
pub fn whole<N>(low: u64, high: u64) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: TryFrom<u64> + Send + Sync + 'static,
{
    move |text| {
        let number = text.trim().parse::<u64>().ok().filter(|number| (low..=high).contains(number));
        number.and_then(|number| N::try_from(number).ok()).ok_or_else(|| match high {
            u64::MAX => format!("it must be a whole number from {low}"),
            _ => format!("it must be a whole number from {low} to {high}"),
        })
    }
}

/// The value of `--temp`.
pub fn temperature(text: &str) -> Result<f32, String> {
    sampling_number(text, |params| &mut params.temperature)
}

/// The value of `--top-p`.
pub fn top_p(text: &str) -> Result<f32, String> {
    sampling_number(text, |params| &mut params.top_p)
}

/// The value of `--min-p`.
pub fn min_p(text: &str) -> Result<f32, String> {
    sampling_number(text, |params| &mut params.min_p)
}

/// The value of `--repetition-penalty`.
pub fn repetition_penalty(text: &str) -> Result<f32, String> {
    sampling_number(text, |params| &mut params.repetition_penalty)
}

/// A number that can be this one of the sampling parameters.
fn sampling_number(text: &str, of: impl Fn(&mut SamplingParams) -> &mut f32) -> Result<f32, String> {
    let number: f32 = text.trim().parse().map_err(|_| format!("`{text}` is no number"))?;
    let mut params = SamplingParams::default();
    *of(&mut params) = number;
    match params.validate() {
        Ok(()) => Ok(number),
        Err(SampleError::Parameter { wanted, .. }) => Err(format!("it must be {wanted}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The value of `--sure`.
pub fn share(text: &str) -> Result<f64, String> {
    let inside = |share: &f64| *share > 0.0 && *share < 1.0;
    text.trim()
        .parse()
        .ok()
        .filter(inside)
        .ok_or_else(|| "it must be between 0 and 1, as in `0.9`".to_owned())
}

/// The value of `--heat`, for a model of this kind.
pub fn read_heat(path: &Path, config: &ModelConfig) -> Result<Heat> {
    let heat: Heat = serde_json::from_slice(&read_input(path)?).map_err(|error| {
        Failure::usage(format!("{}: no heat statistics: {error}", path.display()))
            .hint("`porism run --heat-out FILE` writes them")
    })?;
    heat.check(config).map_err(|reason| {
        Failure::usage(format!("{}: of another model: {reason}", path.display()))
            .hint("record them with this model: `porism run MODEL --heat-out FILE`")
    })?;
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
            Err(Failure::usage("the model is given twice: as an argument and with --model")
                .hint("name it once")
                .into())
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
            // A model's name, and no word of a prompt.
            Err(error) if names::is_known(&only) => Err(error.into()),
            Err(porism_loader::Error::NoModel { as_directory, as_name, .. }) => {
                let message = format!(
                    "`{only}` is no model (as a folder, {as_directory}; as a name in the Hugging Face cache, {as_name}) \
                     and no prompt for the embedded model (it has no white space)"
                );
                let alike = names::similar(&only);
                let model = if alike.is_empty() {
                    "for a model, check its path;".to_owned()
                } else {
                    names::did_you_mean(&alike)
                };
                let hint = format!("{model} for a prompt, write `porism run -p \"{only}\"`");
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
        .hint("give less, or name the file that was meant")
        .into());
    }
    Ok(bytes)
}

/// The same as text.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_input(path)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage(format!("{} is not UTF-8 text: byte {at} begins no character", input_name(path)))
            .hint("save it as UTF-8, as `iconv -f latin1 -t utf-8` does with older texts")
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
    fn sizes_are_written_as_they_are_read() {
        for (bytes, text) in [(6_000_000_000, "6GB"), (8 << 30, "8GiB"), (1 << 16, "64KiB"), (1001, "1001B")]
        {
            assert_eq!((exact_size(bytes).as_str(), parse_size(text)), (text, Ok(bytes)));
        }
    }

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
    fn sampling_numbers_are_within_their_ranges() {
        assert_eq!((temperature("0"), temperature(" 0.7")), (Ok(0.0), Ok(0.7)));
        assert_eq!((top_p("1"), min_p("0"), repetition_penalty("1.1")), (Ok(1.0), Ok(0.0), Ok(1.1)));
        for wild in ["nan", "inf", "-inf", "-1", "1e38", "1e39", "-1e38", "", "x", "1,5", "0x1"] {
            for parse in [temperature, top_p, min_p, repetition_penalty] {
                assert!(parse(wild).is_err(), "{wild}");
            }
            assert!(share(wild).is_err(), "{wild}");
        }
        assert_eq!((share("0.9"), share("1").is_err()), (Ok(0.9), true));
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
