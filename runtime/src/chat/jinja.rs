//! The template engine, set up so that a template writes what Hugging Face's renderer (Python's Jinja2) makes of it.
//!
//! The engine is a faithful one, and knows Python's way of writing constants; what is here are the places where it answers
//! otherwise than Jinja2, and the tags and functions that Hugging Face adds.

use std::cmp::Ordering;
use std::time::SystemTime;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, Value};

use super::dates::strftime;
use super::json::to_json;
use super::translate::GENERATION;
use super::{operations, python};

/// Steps a template may take; the real ones need some tens for each message.
const FUEL: u64 = 10_000_000;

/// Jinja as Hugging Face sets it up.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    minijinja_contrib::add_to_environment(&mut environment);
    environment.set_unknown_method_callback(python::method);
    operations::add_to(&mut environment);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |reason: String| -> Result<Value, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(reason)))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
    environment.add_function(GENERATION, |state: &State, options: Kwargs| -> Result<Value, JinjaError> {
        let body: Value = options.get("caller")?;
        body.call(state, &[])
    });

    // What Python calls a sequence has a length and items by number: texts and mappings are two of them.
    environment.add_test("sequence", |value: &Value| {
        use ValueKind::{Bytes, Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | Map | String | Bytes | Undefined)
    });
    // An undefined value is an empty list there, none is not.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    // Functions, macros and the like.
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    // True and False are numbers of their own.
    environment
        .add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("lower", |value: &Value| {
        python::has_case(&python::text(value), char::is_lowercase, char::is_uppercase)
    });
    environment.add_test("upper", |value: &Value| {
        python::has_case(&python::text(value), char::is_uppercase, char::is_lowercase)
    });
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| -> Result<usize, JinjaError> {
            match value.len() {
                Some(length) => Ok(length),
                None if value.is_undefined() => Ok(0),
                None => {
                    let reason = format!("a value of type {} has no length", value.kind());
                    Err(JinjaError::new(ErrorKind::InvalidOperation, reason))
                }
            }
        });
    }
    environment.add_filter("items", |value: &Value| -> Result<Vec<Value>, JinjaError> {
        if value.is_undefined() { Ok(Vec::new()) } else { python::pairs(value) }
    });
    environment.add_filter("dictsort", |value: &Value, options: Kwargs| -> Result<Vec<Value>, JinjaError> {
        let pairs = minijinja::filters::dictsort(value, options)?;
        pairs.try_iter()?.map(|pair| Ok(operations::tuple(pair.try_iter()?.collect()))).collect()
    });
    environment.add_filter("sum", sum);
    environment
        .add_filter("min", |values: &Value, options: Kwargs| extreme(values, &options, Ordering::Less));
    environment
        .add_filter("max", |values: &Value, options: Kwargs| extreme(values, &options, Ordering::Greater));
    environment.add_filter("replace", |text: &Value, old: &Value, new: &Value, count: Option<usize>| {
        let (text, old, new) = (python::text(text), python::text(old), python::text(new));
        let grown = text.len() + text.matches(&old).count().min(count.unwrap_or(usize::MAX)) * new.len();
        operations::ensure_length(grown, operations::LONGEST)?;
        Ok(match count {
            Some(count) => text.replacen(&old, &new, count),
            None => text.replace(&old, &new),
        })
    });
    environment.add_filter("center", |text: &Value, width: Option<usize>| {
        python::padded(&python::text(text), "center", width.unwrap_or(80).min(python::WIDEST), None)
    });
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("int", python::int);
    environment.add_filter("float", python::float);
    environment.add_filter("wordcount", |text: &Value| {
        let text = python::text(text);
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("round", python::round);
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("title", |text: &Value| python::title_of_words(&python::text(text)));
    environment.set_formatter(|out, state, value| {
        let text = match value.kind() {
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Number => python::text(value),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                ensure_written(state, text.len())?;
                return Ok(out.write_str(text)?);
            }
            _ => return minijinja::escape_formatter(out, state, value),
        };
        ensure_written(state, text.len())?;
        Ok(out.write_str(&text)?)
    });
    environment
}

/// Counts the bytes that a template has written so far, and ends it when they are more than any prompt has.
fn ensure_written(state: &State<'_, '_>, more: usize) -> Result<(), JinjaError> {
    const WRITTEN: &str = "__written__";
    let written = state.get_temp(WRITTEN).and_then(|written| written.as_usize()).unwrap_or(0) + more;
    state.set_temp(WRITTEN, Value::from(written));
    operations::ensure_length(written, 4 * operations::LONGEST)
}

/// What `attribute` names of a value, `a.b` or a number; the value itself where nothing is named.
fn attribute_of(value: Value, attribute: Option<&Value>) -> Result<Value, JinjaError> {
    match attribute.filter(|name| !name.is_none()).map(|name| (name, name.as_str())) {
        None => Ok(value),
        Some((_, Some(path))) => path.split('.').try_fold(value, |value, name| match name.parse::<usize>() {
            Ok(place) => value.get_item(&Value::from(place)),
            Err(_) => value.get_attr(name),
        }),
        Some((place, None)) => value.get_item(place),
    }
}

/// `sum(attribute=None, start=0)`
fn sum(values: &Value, options: Kwargs) -> Result<Value, JinjaError> {
    let attribute: Option<Value> = options.get("attribute")?;
    let start: Option<Value> = options.get("start")?;
    options.assert_all_used()?;
    values.try_iter()?.try_fold(start.unwrap_or_else(|| Value::from(0)), |sum, value| {
        operations::add(&sum, &attribute_of(value, attribute.as_ref())?)
    })
}

/// `min` and `max(case_sensitive=False, attribute=None)`: of equal ones the first.
fn extreme(values: &Value, options: &Kwargs, wanted: Ordering) -> Result<Value, JinjaError> {
    let is_exact = options.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    let attribute: Option<Value> = options.get("attribute")?;
    options.assert_all_used()?;
    let mut best: Option<(Value, Value)> = None;
    for value in values.try_iter()? {
        let key = attribute_of(value.clone(), attribute.as_ref())?;
        let key = match key.as_str() {
            Some(text) if !is_exact => Value::from(text.to_lowercase()),
            _ => key,
        };
        if best.as_ref().is_none_or(|(best, _)| key.cmp(best) == wanted) {
            best = Some((key, value));
        }
    }
    Ok(best.map_or(Value::UNDEFINED, |(_, value)| value))
}

/// `join(d='', attribute=None)`
fn join(values: &Value, separator: Option<Value>, options: Kwargs) -> Result<String, JinjaError> {
    let separator = match separator {
        Some(separator) => Some(separator),
        None => options.get::<Option<Value>>("d")?,
    };
    let separator = separator.map_or_else(String::new, |value| python::text(&value));
    let attribute: Option<Value> = options.get("attribute")?;
    options.assert_all_used()?;
    let mut parts = Vec::new();
    for value in values.try_iter()? {
        parts.push(python::text(&attribute_of(value, attribute.as_ref())?));
    }
    let length: usize = parts.iter().map(|part| part.len() + separator.len()).sum();
    operations::ensure_length(length, operations::LONGEST)?;
    Ok(parts.join(&separator))
}

/// `indent(width=4, first=False, blank=False)`; the width may be a text that stands before each line.
fn indent(
    text: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, JinjaError> {
    const WIDEST: usize = 1000;
    let width = match width {
        Some(width) => Some(width),
        None => options.get::<Option<Value>>("width")?,
    };
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = blank.or(options.get("blank")?).unwrap_or(false);
    options.assert_all_used()?;
    let indention = match &width {
        Some(text) if text.as_str().is_some() => python::text(text),
        Some(width) => " ".repeat(usize::try_from(width.clone())?.min(WIDEST)),
        None => " ".repeat(4),
    };
    // With a line more the last newline stays.
    let text = format!("{}\n", python::text(text));
    let mut out = String::with_capacity(text.len());
    for (number, line) in python::lines(&text, false).into_iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        if if number == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// The words of a template's `raise_exception`, carried through the engine's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

/// The template's own words, where it is the template that refused.
pub(super) fn refusal(error: &JinjaError) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Refusal(reason)) = error.downcast_ref::<Refusal>() {
            return Some(reason.clone());
        }
        cause = error.source();
    }
    None
}

/// An engine's error on one line.
pub(super) fn describe(error: &JinjaError) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
