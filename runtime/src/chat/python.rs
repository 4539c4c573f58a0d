//! What Python's texts, lists and numbers do in a template.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error as JinjaError, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::operations::{LONGEST, ensure_length, is_tuple, tuple};

/// `str(value)`: lists and mappings as Python shows them, everything else as the engine does.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => shown(value),
        ValueKind::Number if !value.is_integer() => float_text(value),
        _ => value.to_string(),
    }
}

/// `repr(value)`
pub(super) fn shown(value: &Value) -> String {
    let mut out = String::new();
    show(value, 0, &mut out);
    out
}

/// Deeper nesting than any data of a conversation has.
const DEEPEST: usize = 100;

/// `repr(value)`
fn show(value: &Value, depth: usize, out: &mut String) {
    let items = value.try_iter().ok().filter(|_| depth < DEEPEST);
    match (value.kind(), items) {
        (ValueKind::Seq | ValueKind::Iterable, Some(items)) => {
            let is_tuple = is_tuple(value);
            out.push(if is_tuple { '(' } else { '[' });
            for (index, item) in items.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                show(&item, depth + 1, out);
            }
            if is_tuple && value.len() == Some(1) {
                out.push(',');
            }
            out.push(if is_tuple { ')' } else { ']' });
        }
        (ValueKind::Map, Some(keys)) => {
            out.push('{');
            for (index, key) in keys.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                show(&key, depth + 1, out);
                out.push_str(": ");
                show(&value.get_item(&key).unwrap_or_default(), depth + 1, out);
            }
            out.push('}');
        }
        (ValueKind::String, _) => quote(value.as_str().unwrap_or_default(), out),
        (ValueKind::Undefined, _) => out.push_str("Undefined"),
        (ValueKind::Number, _) if !value.is_integer() => out.push_str(&float_text(value)),
        _ => out.push_str(&value.to_string()),
    }
}

/// A text in quotes: single ones, unless it has single and no double ones in it.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == mark => out.extend(['\\', c]),
            c if c.is_control() && (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            // Python escapes what it cannot print: separators other than the blank, and marks without a shape.
            '\u{2028}'
            | '\u{2029}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{2000}'..='\u{200a}'
            | '\u{202f}'
            | '\u{205f}'
            | '\u{3000}'
            | '\u{1680}' => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            '\u{a0}' | '\u{ad}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(mark);
}

/// `repr` of a float: the shortest digits that read back, with an exponent where Python writes one.
pub(super) fn float_text(value: &Value) -> String {
    let Ok(number) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = number.to_string();
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// The filter `int(default=0, base=10)`.
pub(super) fn int(
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, JinjaError> {
    let default = default.or(options.get("default")?);
    let base = base.or(options.get("base")?);
    options.assert_all_used()?;
    let default = || default.unwrap_or_else(|| Value::from(0));
    let base = base.unwrap_or(10);
    if !(2..=36).contains(&base) {
        return Ok(default());
    }
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if number.is_finite() && number.abs() < 1e18 => Value::from(number.trunc() as i64),
            _ => default(),
        },
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim().replace('_', "");
            let whole = i64::from_str_radix(text.strip_prefix('+').unwrap_or(&text), base).ok();
            let float = || text.parse::<f64>().ok().filter(|n| n.is_finite() && n.abs() < 1e18);
            whole.or_else(|| float().map(|n| n.trunc() as i64)).map_or_else(default, Value::from)
        }
        _ => default(),
    })
}

/// The filter `float(default=0.0)`.
pub(super) fn float(value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, JinjaError> {
    let default = default.or(options.get("default")?);
    options.assert_all_used()?;
    let default = || default.unwrap_or_else(|| Value::from(0.0));
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).map_or_else(|_| default(), Value::from),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            text.trim().parse::<f64>().map_or_else(|_| default(), Value::from)
        }
        _ => default(),
    })
}

/// The filter `round(precision=0, method='common')`: halves go to the even neighbour, whole numbers stay whole.
pub(super) fn round(
    value: &Value,
    precision: Option<i32>,
    method: Option<String>,
    options: Kwargs,
) -> Result<Value, JinjaError> {
    let precision = precision.or(options.get("precision")?).unwrap_or(0);
    let method = method.or(options.get("method")?).unwrap_or_else(|| "common".to_owned());
    options.assert_all_used()?;
    if value.is_integer() && precision >= 0 && method == "common" {
        return Ok(value.clone());
    }
    let number = f64::try_from(value.clone())?;
    let scale = 10f64.powi(precision);
    Ok(Value::from(match method.as_str() {
        "common" => match usize::try_from(precision) {
            // The nearest decimal number, as Python has it.
            Ok(places) if places <= 20 => format!("{number:.places$}").parse().unwrap_or(number),
            Ok(_) => number,
            Err(_) => (number * scale).round_ties_even() / scale,
        },
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        other => return Err(wrong(format!("round: the method is `{other}`, not common, ceil or floor"))),
    }))
}

/// The filter `title`: a capital after white space, a hyphen or an opening bracket, small letters elsewhere.
pub(super) fn title_of_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        begins = c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

/// The letter as it stands at the beginning of a title: of `ß` that is `Ss`.
fn capital(c: char, out: &mut String) {
    let mut letters = c.to_uppercase();
    let first = letters.next().unwrap_or(c);
    out.push(first);
    for letter in letters {
        if first.is_uppercase() { out.extend(letter.to_lowercase()) } else { out.push(letter) }
    }
}

/// `str.splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let length = match &rest[at..] {
            end if end.starts_with("\r\n") => 2,
            end => end.chars().next().map_or(0, char::len_utf8),
        };
        found.push(&rest[..if keep_ends { at + length } else { at }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

/// Methods of Python's types that the engine does not have, or has otherwise.
pub(super) fn method(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, JinjaError> {
    let own = match value.kind() {
        // The engine's own, with lists as Python shows them.
        ValueKind::String if method == "format" => {
            let format = value.as_str().unwrap_or_default();
            let args: Vec<Value> = args
                .iter()
                .map(|arg| match arg.kind() {
                    ValueKind::Seq | ValueKind::Iterable if !format.contains('[') => Value::from(text(arg)),
                    _ => arg.clone(),
                })
                .collect();
            let longest = args.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0);
            ensure_length(format.len() + format.matches('{').count() * longest, LONGEST)?;
            return pycompat::unknown_method_callback(state, value, method, &args);
        }
        ValueKind::String => of_text(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()),
        ValueKind::Map if method == "items" => {
            let () = from_args(args)?;
            Some(Value::from(pairs(value)?))
        }
        ValueKind::Seq if method == "copy" => Some(value.clone()),
        ValueKind::Seq if method == "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == wanted);
            Some(Value::from(place.ok_or_else(|| wrong(format!("{wanted} is not in the list")))?))
        }
        _ => None,
    };
    match own {
        Some(value) => Ok(value),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Keys and values of a mapping, as tuples.
pub(super) fn pairs(value: &Value) -> Result<Vec<Value>, JinjaError> {
    value.try_iter()?.map(|key| Ok(tuple(vec![key.clone(), value.get_item(&key)?]))).collect()
}

fn wrong(reason: String) -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, reason)
}

/// The widest text that padding makes.
pub(super) const WIDEST: usize = 100_000;

fn of_text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, JinjaError> {
    // At least one character, and all of this kind.
    let all = |is: fn(char) -> bool| Some(Value::from(!text.is_empty() && text.chars().all(is)));
    Ok(match method {
        "find" | "rfind" | "index" | "rindex" => {
            let (part, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = place_of(text, part, start, end, method.starts_with('r'));
            match found {
                None if method.ends_with("index") => {
                    return Err(wrong(format!("`{part}` is not in the text")));
                }
                found => Some(Value::from(found.map_or(-1, |place| place as i64))),
            }
        }
        "startswith" | "endswith" => {
            let (part, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            let parts: Vec<Value> = if is_tuple(&part) { part.try_iter()?.collect() } else { vec![part] };
            let within = within(text, start, end).unwrap_or_default();
            let mut found = false;
            for part in &parts {
                let Some(part) = part.as_str() else {
                    return Err(wrong(format!("{method}: {} is no text", part.kind())));
                };
                found |=
                    if method == "startswith" { within.starts_with(part) } else { within.ends_with(part) };
            }
            Some(Value::from(found))
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
            // A negative number is no limit.
            let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
            let places = text.matches(old).count().min(count);
            ensure_length(places.saturating_mul(new.len()).saturating_add(text.len()), LONGEST)?;
            Some(Value::from(text.replacen(old, new, count)))
        }
        "join" => {
            let (parts,): (Value,) = from_args(args)?;
            let mut out = String::new();
            for (index, part) in parts.try_iter()?.enumerate() {
                let Some(part) = part.as_str() else {
                    return Err(wrong(format!("join: item {index} is {}, no text", part.kind())));
                };
                out.push_str(if index > 0 { text } else { "" });
                out.push_str(part);
                ensure_length(out.len(), LONGEST)?;
            }
            Some(Value::from(out))
        }
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(args)?;
            Some(Value::from(without_tabs(text, size.unwrap_or(8).min(WIDEST))))
        }
        "count" => {
            let (part,): (&str,) = from_args(args)?;
            let count = if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() };
            Some(Value::from(count))
        }
        "split" | "rsplit" => {
            let (separator, most, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = match separator {
                Some(separator) => Some(separator),
                None => options.get::<Option<Value>>("sep")?,
            };
            let most = most.or(options.get("maxsplit")?).unwrap_or(-1);
            options.assert_all_used()?;
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let separator = separator.filter(|separator| !separator.is_none());
            let separator = separator.as_ref().map(|separator| separator.as_str().unwrap_or_default());
            Some(Value::from(split(text, separator, most, method == "rsplit")?))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(wrong("partition: the separator is empty".to_owned()));
            }
            let last = method == "rpartition";
            let parts = if last { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match parts {
                Some((before, after)) => [before, separator, after],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Some(tuple(parts.into_iter().map(Value::from).collect()))
        }
        "splitlines" => {
            let (keep, options): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(options.get("keepends")?).unwrap_or(false);
            Some(lines(text, keep).into_iter().map(Value::from).collect())
        }
        "removeprefix" => {
            let (part,): (&str,) = from_args(args)?;
            Some(Value::from(text.strip_prefix(part).unwrap_or(text)))
        }
        "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            Some(Value::from(text.strip_suffix(part).unwrap_or(text)))
        }
        "zfill" | "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            Some(Value::from(padded(text, method, width.min(WIDEST), fill)?))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
            }
            Some(Value::from(out))
        }
        "casefold" => {
            let () = from_args(args)?;
            Some(Value::from(text.to_lowercase().replace('ß', "ss")))
        }
        // A capital wherever letters begin, as in `Don'T`.
        "title" => {
            let () = from_args(args)?;
            let mut out = String::with_capacity(text.len());
            let mut inside = false;
            for c in text.chars() {
                if inside {
                    out.extend(c.to_lowercase())
                } else {
                    capital(c, &mut out)
                }
                inside = c.is_alphabetic();
            }
            Some(Value::from(out))
        }
        "islower" => Some(Value::from(has_case(text, char::is_lowercase, char::is_uppercase))),
        "isupper" => Some(Value::from(has_case(text, char::is_uppercase, char::is_lowercase))),
        "istitle" => {
            let (mut is_inside, mut any, mut right) = (false, false, true);
            for c in text.chars() {
                right &= if c.is_uppercase() { !is_inside } else { !c.is_lowercase() || is_inside };
                is_inside = c.is_uppercase() || c.is_lowercase();
                any |= is_inside;
            }
            Some(Value::from(any && right))
        }
        "isidentifier" => {
            let begins = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
            Some(Value::from(begins && text.chars().all(|c| c.is_alphanumeric() || c == '_')))
        }
        "isprintable" => Some(Value::from(text.chars().all(|c| {
            let mut shown = String::new();
            quote(&c.to_string(), &mut shown);
            !shown.contains('\\') || c == '\\'
        }))),
        "isspace" => all(char::is_whitespace),
        "isdigit" | "isdecimal" => all(|c| c.is_ascii_digit() || is_other_digit(c)),
        "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        _ => None,
    })
}

/// Decimal digits beyond ASCII, of the scripts whose digits stand in a row of ten.
fn is_other_digit(c: char) -> bool {
    c.is_numeric() && matches!(c as u32, 0x660..=0x669 | 0x6f0..=0x6f9 | 0x966..=0x96f | 0xff10..=0xff19)
}

/// `islower` and `isupper`: one letter of this case, and none of the other.
pub(super) fn has_case(text: &str, wanted: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    text.chars().any(wanted) && !text.chars().any(other)
}

/// Where a part begins, counted in characters; `start` and `end` are as in a slice.
fn place_of(text: &str, part: &str, start: Option<i64>, end: Option<i64>, last: bool) -> Option<usize> {
    let within = within(text, start, end)?;
    let at = if last { within.rfind(part)? } else { within.find(part)? };
    let before = within.as_ptr() as usize - text.as_ptr() as usize + at;
    Some(text[..before].chars().count())
}

/// The text from character `start` to before `end`, which are as in a slice; `None` where they are in the wrong order.
fn within(text: &str, start: Option<i64>, end: Option<i64>) -> Option<&str> {
    let length = text.chars().count() as i64;
    let bound =
        |bound: i64| if bound < 0 { bound.saturating_add(length).max(0) } else { bound.min(length) } as usize;
    let (from, to) = (bound(start.unwrap_or(0)), bound(end.unwrap_or(length)));
    let byte = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    text.get(byte(from)..byte(to))
}

/// `str.expandtabs`: blanks up to the next column that `size` divides.
fn without_tabs(text: &str, size: usize) -> String {
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let blanks = size - column % size;
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            c => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}

fn split(text: &str, separator: Option<&str>, most: usize, last: bool) -> Result<Vec<String>, JinjaError> {
    let owned = |parts: Vec<&str>| parts.into_iter().map(str::to_owned).collect::<Vec<_>>();
    if separator == Some("") {
        return Err(wrong("split: the separator is empty".to_owned()));
    }
    let parts = most.saturating_add(1);
    match (separator, last) {
        (Some(separator), false) => Ok(owned(text.splitn(parts, separator).collect())),
        (Some(separator), true) => {
            let mut found: Vec<&str> = text.rsplitn(parts, separator).collect();
            found.reverse();
            Ok(owned(found))
        }
        // Without one at runs of white space, and the ends are left out.
        (None, false) => {
            let (mut found, mut rest) = (Vec::new(), text.trim_start());
            while found.len() < most
                && let Some(at) = rest.find(char::is_whitespace)
            {
                found.push(&rest[..at]);
                rest = rest[at..].trim_start();
            }
            // After the last split the rest stays as it is, but for its end where all was split.
            let rest = if found.len() < most { rest.trim_end() } else { rest };
            found.extend((!rest.is_empty()).then_some(rest));
            Ok(owned(found))
        }
        (None, true) => {
            let (mut found, mut rest) = (Vec::new(), text.trim_end());
            while found.len() < most
                && let Some((at, c)) = rest.char_indices().rfind(|(_, c)| c.is_whitespace())
            {
                found.push(&rest[at + c.len_utf8()..]);
                rest = rest[..at].trim_end();
            }
            found.extend((!rest.is_empty()).then_some(rest));
            found.reverse();
            Ok(owned(found))
        }
    }
}

pub(super) fn padded(
    text: &str,
    method: &str,
    width: usize,
    fill: Option<&str>,
) -> Result<String, JinjaError> {
    let missing = width.saturating_sub(text.chars().count());
    if method == "zfill" {
        let (sign, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => text.split_at(text.len() - digits.len()),
            None => ("", text),
        };
        return Ok(format!("{sign}{}{digits}", "0".repeat(missing)));
    }
    let mut characters = fill.unwrap_or(" ").chars();
    let (Some(fill), None) = (characters.next(), characters.next()) else {
        return Err(wrong(format!("{method}: the text to fill with is one character")));
    };
    // Python puts the odd one on the left where the width is odd.
    let left = match method {
        "rjust" => missing,
        "center" => missing / 2 + (missing & width & 1),
        _ => 0,
    };
    let row = |count: usize| fill.to_string().repeat(count);
    Ok(format!("{}{text}{}", row(left), row(missing - left)))
}
