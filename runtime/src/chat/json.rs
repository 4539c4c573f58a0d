//! `tojson` as Hugging Face's renderer has it: Python's `json.dumps`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error as JinjaError, ErrorKind, Value};

use super::python;

/// Deeper nesting than any data of a conversation has.
const DEEPEST: usize = 100;

/// Python's `json.dumps`, which Hugging Face's `tojson` is; the engine's own escapes for HTML.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, JinjaError> {
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<Value> = options.get("indent")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    // A number of blanks, or the text itself.
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(text) if text.as_str().is_some() => Some(python::text(&text)),
        Some(width) => Some(" ".repeat(usize::try_from(width).unwrap_or(0).min(MOST_BLANKS + 1))),
    };
    if indent.as_ref().is_some_and(|indent| indent.len() > MOST_BLANKS) {
        return Err(wrong(format!("indent is at most {MOST_BLANKS}")));
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(wrong("separators are two strings".to_owned())),
        None => (if indent.is_some() { "," } else { ", " }, ": "),
    };
    let style = JsonStyle { ascii: ascii == Some(true), indent, sort: sort == Some(true), item, key };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

const MOST_BLANKS: usize = 64;

fn wrong(reason: String) -> JinjaError {
    JinjaError::new(ErrorKind::BadSerialization, format!("tojson: {reason}"))
}

struct JsonStyle<'a> {
    ascii: bool,
    indent: Option<String>,
    sort: bool,
    item: &'a str,
    key: &'a str,
}

impl JsonStyle<'_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), JinjaError> {
        if depth > DEEPEST {
            return Err(wrong(format!("more than {DEEPEST} lists within each other")));
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_all(('[', ']'), &items, depth, out, |item, out| self.write(item, depth + 1, out))
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    entries.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_all(('{', '}'), &entries, depth, out, |(key, value), out| {
                    self.write_string(key, out);
                    out.push_str(self.key);
                    self.write(value, depth + 1, out)
                })
            }
            ValueKind::String => {
                self.write_string(value.as_str().unwrap_or_default(), out);
                Ok(())
            }
            _ => {
                out.push_str(&plain(value)?);
                Ok(())
            }
        }
    }

    fn write_all<T>(
        &self,
        (open, close): (char, char),
        items: &[T],
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(&T, &mut String) -> Result<(), JinjaError>,
    ) -> Result<(), JinjaError> {
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            out.push_str(if index > 0 { self.item } else { "" });
            self.new_line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            self.new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        for character in quoted.chars() {
            if self.ascii && !character.is_ascii() {
                let mut units = [0u16; 2];
                for unit in character.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(character);
            }
        }
    }
}

/// Truth values, none and numbers.
fn plain(value: &Value) -> Result<String, JinjaError> {
    Ok(match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => if value.is_true() { "true" } else { "false" }.to_owned(),
        ValueKind::Number if value.is_integer() => value.to_string(),
        ValueKind::Number => match python::float_text(value).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            number => number.to_owned(),
        },
        kind => return Err(wrong(format!("a value of type {kind} cannot be written"))),
    })
}

/// A key: texts as they are, numbers and the like as JSON writes them.
fn key_text(key: &Value) -> Result<String, JinjaError> {
    key.as_str().map_or_else(|| plain(key), |text| Ok(text.to_owned()))
}
