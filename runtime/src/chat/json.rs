//! `tojson` as Hugging Face's renderer has it: Python's `json.dumps`.

use minijinja::value::Kwargs;
use minijinja::{Error as JinjaError, ErrorKind, Value};

/// Python's `json.dumps`, which Hugging Face's `tojson` is; the engine's own escapes for HTML.
pub(super) fn to_json(value: Value, options: Kwargs) -> Result<String, JinjaError> {
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|error| JinjaError::new(ErrorKind::BadSerialization, "tojson").with_source(error))?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => {
            return Err(JinjaError::new(ErrorKind::InvalidOperation, "tojson: separators are two strings"));
        }
        None => (if indent.is_some() { "," } else { ", " }, ": "),
    };
    if indent.is_some_and(|indent| indent > 64) {
        return Err(JinjaError::new(ErrorKind::InvalidOperation, "tojson: indent is at most 64"));
    }
    let style = JsonStyle { ascii: ascii == Some(true), indent, sort: sort == Some(true), item, key };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
}

struct JsonStyle<'a> {
    ascii: bool,
    indent: Option<usize>,
    sort: bool,
    item: &'a str,
    key: &'a str,
}

impl JsonStyle<'_> {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::String(text) => self.write_string(text, out),
            serde_json::Value::Array(list) if !list.is_empty() => {
                out.push('[');
                for (index, value) in list.iter().enumerate() {
                    self.separate(index, depth + 1, out);
                    self.write(value, depth + 1, out);
                }
                self.new_line(depth, out);
                out.push(']');
            }
            serde_json::Value::Object(map) if !map.is_empty() => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort {
                    entries.sort_by_key(|entry| entry.0);
                }
                out.push('{');
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.separate(index, depth + 1, out);
                    self.write_string(key, out);
                    out.push_str(self.key);
                    self.write(value, depth + 1, out);
                }
                self.new_line(depth, out);
                out.push('}');
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn separate(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(self.item);
        }
        self.new_line(depth, out);
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
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
