//! The template engine, set up so that a template writes what Hugging Face's renderer (Python's Jinja2) makes of it.
//!
//! The engine is a faithful one, and knows Python's way of writing constants; what is here are the places where it answers
//! otherwise than Jinja2, and the tags and functions that Hugging Face adds.

use std::time::SystemTime;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, Value};

use super::dates::strftime;
use super::json::to_json;
use super::python;

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
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Number => {
            Ok(out.write_str(&python::text(value))?)
        }
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment
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
        parts.push(match attribute.as_ref().map(|name| (name, name.as_str())) {
            None => python::text(&value),
            Some((_, Some(path))) => {
                let found = path.split('.').try_fold(value, |value, name| value.get_attr(name))?;
                python::text(&found)
            }
            Some((index, None)) => python::text(&value.get_item(index)?),
        });
    }
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

/// The function that stands for `generation` blocks.
const GENERATION: &str = "__generation__";

/// A template as the engine understands it like Jinja2 does. Lines, and marks of white space, stay where they are.
///
/// `{% generation %} … {% endgeneration %}` marks what a model is trained on; when prompts are written, Hugging Face makes a
/// call block of it: its body is rendered, and what is set in it stays in it. `[::-1]` becomes a method.
pub(super) fn translated(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut is_raw = false;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let second = rest.as_bytes().get(1).copied();
        let length = match second {
            Some(b'#') if !is_raw => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') if !is_raw => length_of_code(rest, "}}"),
            Some(b'%') if !is_raw => length_of_code(rest, "%}"),
            Some(b'%') => 2,
            _ => 1,
        };
        let name = if second == Some(b'%') { name_of_tag(rest) } else { None };
        let (code, after) = rest.split_at(length);
        match (second, name) {
            (Some(b'%'), Some("endraw")) if is_raw => {
                is_raw = false;
                out.push_str(code);
            }
            _ if is_raw => out.push_str(code),
            (Some(b'%'), Some(name @ "generation")) => {
                out.push_str(&code.replacen(name, &format!("call {GENERATION}()"), 1));
            }
            (Some(b'%'), Some(name @ "endgeneration")) => out.push_str(&code.replacen(name, "endcall", 1)),
            (Some(b'%' | b'{'), _) => {
                is_raw = name == Some("raw");
                push_code(code, &mut out);
            }
            _ => out.push_str(code),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A block or an expression, with `[::-1]` as a method.
fn push_code(code: &str, out: &mut String) {
    let mut rest = code;
    while let Some(at) = rest.find(['[', '"', '\'']) {
        let (before, here) = rest.split_at(at);
        out.push_str(before);
        let length = match here.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.split_once(']').map_or("", |(inner, _)| inner);
                if inner.chars().filter(|c| !c.is_whitespace()).eq("::-1".chars()) {
                    out.push_str(&format!(".{}()", python::REVERSED));
                    rest = &here[inner.len() + 2..];
                    continue;
                }
                1
            }
            None => length_of_text(here),
        };
        out.push_str(&here[..length]);
        rest = &here[length..];
    }
    out.push_str(rest);
}

/// Bytes of a text in quotes that `code` begins with.
fn length_of_text(code: &str) -> usize {
    let quote = code.chars().next().unwrap_or('"');
    let mut is_escaped = true;
    for (at, c) in code.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    code.len()
}

/// The first word of a block that `tag` begins with.
fn name_of_tag(tag: &str) -> Option<&str> {
    let inner = tag.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    let end = inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len());
    (end > 0).then(|| &inner[..end])
}

/// Bytes of a block or an expression to its end, texts in quotes and braces within it skipped.
fn length_of_code(code: &str, end: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 2;
    while let Some(found) = code.get(at..).and_then(|rest| rest.find(['"', '\'', '{', '}', '%'])) {
        at += found;
        let here = &code[at..];
        if depth == 0 && here.starts_with(end) {
            return at + end.len();
        }
        match here.as_bytes()[0] {
            b'"' | b'\'' => at += length_of_text(here) - 1,
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_for_training_are_found_where_they_are_tags() {
        let same = [
            "",
            "{",
            "{%",
            "{{",
            "{#",
            "generation",
            "{# {% generation %} #}",
            "{{ '{% generation %}' }}",
            "{% raw %}{% generation %}{{ x }}{% endraw %}",
            "{% set x = {'a': {'}}': '%}'}} %}",
            "{{ {'a': {}} }}{% if generation %}{% endif %}",
        ];
        for source in same {
            assert_eq!(translated(source), source);
        }
        assert_eq!(
            translated("{{ a [ :: -1 ] }}{% for x in y[::-1] %}{{ '[::-1]' }}[::-1]{{ y[0:2] }}"),
            "{{ a .__reversed__() }}{% for x in y.__reversed__() %}{{ '[::-1]' }}[::-1]{{ y[0:2] }}"
        );
        assert_eq!(
            translated("a{%- generation -%}\n{{ '}}' }}{% raw %}{{{% endraw %}\n{%+endgeneration%}b"),
            "a{%- call __generation__() -%}\n{{ '}}' }}{% raw %}{{{% endraw %}\n{%+endcall%}b"
        );
    }
}
