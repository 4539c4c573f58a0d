//! What Python's operators do where the engine's do something else, and the types that only Python has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind, from_args};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, Value};

use super::python;
use super::translate::MACRO;

/// Bytes that a text may have in all, and items a list may; a template that doubles one again and again ends here.
pub(super) const LONGEST: usize = 64 << 20;
const MOST: usize = 1 << 20;

/// Adds what [`super::translate`] writes into templates.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_function("__tuple__", |items: Rest<Value>| tuple(items.0));
    environment.add_function("__add__", add);
    environment.add_function("__mod__", modulo);
    environment.add_function("__mul__", multiply);
    environment.add_function("__floordiv__", floor_divide);
    environment.add_function("__pow__", power);
    environment.add_function("__compare__", compare);
    environment.add_function("__each__", |value: &Value| {
        if value.is_none() { Err(wrong("none is no list of anything".to_owned())) } else { Ok(value.clone()) }
    });
    environment.add_function("range", range);
    environment.add_function("cycler", |items: Rest<Value>| {
        if items.is_empty() {
            return Err(wrong("cycler: at least one value is needed".to_owned()));
        }
        Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
    });
    environment.add_function("dict", dict);
    environment.add_function("__concat__", |values: Rest<Value>| {
        let mut out = String::new();
        for value in values.iter() {
            out.push_str(&python::text(value));
            ensure_length(out.len(), LONGEST)?;
        }
        Ok(Value::from(out))
    });
    environment.add_function("__slice__", |value: &Value, start: &Value, stop: &Value, step: &Value| {
        slice(value, bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1))
    });
    environment.add_function(
        MACRO,
        |inner: &Value, positional: bool, by_name: bool| -> Result<Value, JinjaError> {
            let names = inner.get_attr("arguments")?.try_iter()?.map(|name| python::text(&name));
            let name = python::text(&inner.get_attr("name")?);
            let names = names.filter(|name| name != "varargs" && name != "kwargs").collect();
            Ok(Value::from_object(Macro { inner: inner.clone(), name, names, positional, by_name }))
        },
    );
}

fn wrong(reason: String) -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, reason)
}

pub(super) fn ensure_length(length: usize, most: usize) -> Result<(), JinjaError> {
    if length <= most {
        Ok(())
    } else {
        Err(wrong(format!("a value of {length} pieces is longer than {most}")))
    }
}

/// A list that cannot be changed, and is shown in round brackets.
#[derive(Debug)]
pub(super) struct Tuple(Vec<Value>);

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// A tuple of these items.
pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Tuple(items))
}

/// Whether the value is a tuple.
pub(super) fn is_tuple(value: &Value) -> bool {
    value.downcast_object_ref::<Tuple>().is_some()
}

/// Whether it is what Python calls a list or a tuple.
fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// A whole number; of a truth value 1 or 0.
fn whole(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// Any number.
fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => whole(value).map(|whole| whole as f64),
    }
}

/// `a + b`: numbers are added, texts and lists put one after the other.
pub(super) fn add(a: &Value, b: &Value) -> Result<Value, JinjaError> {
    let impossible = || {
        let what = |value: &Value| {
            if value.is_undefined() { "what is not defined".to_owned() } else { value.kind().to_string() }
        };
        wrong(format!("{} and {} cannot be added", what(a), what(b)))
    };
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        ensure_length(a.len() + b.len(), LONGEST)?;
        return Ok(Value::from([a, b].concat()));
    }
    if is_list(a) && is_list(b) {
        if is_tuple(a) != is_tuple(b) {
            return Err(wrong("a list and a tuple cannot be added".to_owned()));
        }
        ensure_length(a.len().unwrap_or(0) + b.len().unwrap_or(0), MOST)?;
        let items: Vec<Value> = a.try_iter()?.chain(b.try_iter()?).collect();
        return Ok(if is_tuple(a) { tuple(items) } else { Value::from(items) });
    }
    match (whole(a), whole(b)) {
        (Some(x), Some(y)) => x.checked_add(y).map(of_whole).ok_or_else(impossible),
        _ => Ok(Value::from(number(a).ok_or_else(impossible)? + number(b).ok_or_else(impossible)?)),
    }
}

/// A whole number in the smallest type that holds it, as the engine makes them.
fn of_whole(whole: i128) -> Value {
    i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from)
}

/// `a * b`, where one may be a text or a list that is repeated.
fn multiply(a: &Value, b: &Value) -> Result<Value, JinjaError> {
    let impossible = || wrong(format!("{} and {} cannot be multiplied", a.kind(), b.kind()));
    let repeated = |value: &Value| value.as_str().is_some() || is_list(value);
    if repeated(a) || repeated(b) {
        let (value, times) = if repeated(a) { (a, b) } else { (b, a) };
        let times = whole(times).ok_or_else(impossible)?.clamp(0, LONGEST as i128) as usize;
        if let Some(text) = value.as_str() {
            ensure_length(text.len().saturating_mul(times), LONGEST)?;
            return Ok(Value::from(text.repeat(times)));
        }
        let items: Vec<Value> = value.try_iter()?.collect();
        ensure_length(items.len().saturating_mul(times), MOST)?;
        let items: Vec<Value> = std::iter::repeat_n(items, times).flatten().collect();
        return Ok(if is_tuple(value) { tuple(items) } else { Value::from(items) });
    }
    match (whole(a), whole(b)) {
        (Some(x), Some(y)) => x.checked_mul(y).map(of_whole).ok_or_else(impossible),
        _ => Ok(Value::from(number(a).ok_or_else(impossible)? * number(b).ok_or_else(impossible)?)),
    }
}

/// `a // b`, rounded down.
fn floor_divide(a: &Value, b: &Value) -> Result<Value, JinjaError> {
    let impossible = || wrong(format!("{} and {} cannot be divided", a.kind(), b.kind()));
    match (whole(a), whole(b)) {
        (Some(_), Some(0)) => Err(wrong("// by zero".to_owned())),
        (Some(x), Some(y)) => {
            let quotient = x.checked_div(y).ok_or_else(impossible)?;
            let is_below = x.checked_rem(y).ok_or_else(impossible)? != 0 && (x < 0) != (y < 0);
            Ok(of_whole(quotient - i128::from(is_below)))
        }
        _ => match (number(a).ok_or_else(impossible)?, number(b).ok_or_else(impossible)?) {
            (_, 0.0) => Err(wrong("// by zero".to_owned())),
            (x, y) => Ok(Value::from((x / y).floor())),
        },
    }
}

/// `a ** b`
fn power(a: &Value, b: &Value) -> Result<Value, JinjaError> {
    let impossible = || wrong(format!("{} and {} have no power", a.kind(), b.kind()));
    if let (Some(x), Some(y @ 0..)) = (whole(a), whole(b)) {
        let y = u32::try_from(y).map_err(|_| impossible())?;
        return x.checked_pow(y).map(of_whole).ok_or_else(impossible);
    }
    let (x, y) = (number(a).ok_or_else(impossible)?, number(b).ok_or_else(impossible)?);
    let result = x.powf(y);
    if result.is_finite() { Ok(Value::from(result)) } else { Err(impossible()) }
}

/// `a < b` and the like. What has no order, as a text and a number, is an error; only equal or not they may be.
fn compare(sign: &str, a: &Value, b: &Value) -> Result<bool, JinjaError> {
    if let "==" | "!=" = sign {
        let differ = is_list(a) && is_list(b) && is_tuple(a) != is_tuple(b);
        return Ok((!differ && a == b) == (sign == "=="));
    }
    let ordered = (a.as_str().is_some() && b.as_str().is_some())
        || (number(a).is_some() && number(b).is_some())
        || (is_list(a) && is_list(b) && is_tuple(a) == is_tuple(b));
    if !ordered {
        return Err(wrong(format!("{} and {} have no order", a.kind(), b.kind())));
    }
    Ok(match sign {
        "<" => a < b,
        "<=" => a <= b,
        ">" => a > b,
        _ => a >= b,
    })
}

/// The numbers from `start` to before `stop`.
fn range(start: i64, stop: Option<i64>, step: Option<i64>) -> Result<Value, JinjaError> {
    // As many as the reference renderer's sandbox allows.
    const MOST_NUMBERS: usize = 100_000;
    let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(wrong("range: the step is zero".to_owned()));
    }
    let mut numbers = Vec::new();
    let mut at = i128::from(start);
    while if step > 0 { at < i128::from(stop) } else { at > i128::from(stop) } {
        if numbers.len() == MOST_NUMBERS {
            return Err(wrong(format!("range: more than {MOST_NUMBERS} numbers")));
        }
        numbers.push(of_whole(at));
        at += i128::from(step);
    }
    Ok(Value::from(numbers))
}

/// `dict(mapping or pairs, name=value, …)`
fn dict(from: Option<Value>, options: Kwargs) -> Result<Value, JinjaError> {
    let mut entries = Vec::new();
    if let Some(from) = from {
        let pairs =
            if from.kind() == ValueKind::Map { python::pairs(&from)? } else { from.try_iter()?.collect() };
        for pair in pairs {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            let [key, value] = pair.as_slice() else {
                return Err(wrong(format!("dict: a pair has two values, not {}", pair.len())));
            };
            entries.push((key.clone(), value.clone()));
        }
    }
    for name in options.args() {
        entries.push((Value::from(name), options.get(name)?));
    }
    Ok(entries.into_iter().collect())
}

/// `a % b`: what is left of a division, with the sign of `b`; of a text the text with `b` filled in.
fn modulo(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, JinjaError> {
    if let Some(format) = a.as_str() {
        return filled(state, format, b);
    }
    let impossible = || wrong(format!("% of {} and {}", a.kind(), b.kind()));
    match (whole(a), whole(b)) {
        (Some(_), Some(0)) => Err(wrong("% by zero".to_owned())),
        (Some(x), Some(y)) => {
            let left = x.checked_rem(y).ok_or_else(impossible)?;
            Ok(of_whole(if left != 0 && (left < 0) != (y < 0) { left + y } else { left }))
        }
        _ => {
            let (x, y) = (number(a).ok_or_else(impossible)?, number(b).ok_or_else(impossible)?);
            if y == 0.0 {
                return Err(wrong("% by zero".to_owned()));
            }
            let left = x % y;
            Ok(Value::from(if left != 0.0 && (left < 0.0) != (y < 0.0) { left + y } else { left }))
        }
    }
}

/// `format % value`. The engine's filter writes numbers and texts; widths that are given as values, and values as Python
/// shows them (`%r`), are put into what it gets.
fn filled(state: &State<'_, '_>, format: &str, value: &Value) -> Result<Value, JinjaError> {
    const WIDEST: i128 = 10_000;
    let is_mapping = value.kind() == ValueKind::Map;
    let mut values =
        if is_tuple(value) { value.try_iter()?.collect() } else { vec![value.clone()] }.into_iter();
    let mut next = || values.next().ok_or_else(|| wrong(format!("`{format}` has more places than values")));
    let (mut plain, mut args, mut rest) = (String::new(), Vec::new(), format);
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            named = Some(value.get_item(&Value::from(name))?);
            rest = after;
        }
        let mut width = 0;
        let kind = loop {
            let mut characters = rest.chars();
            let c = characters.next().ok_or_else(|| wrong(format!("`{format}` ends within a place")))?;
            rest = characters.as_str();
            width = match c {
                '*' => {
                    let given = next()?;
                    let given = whole(&given)
                        .ok_or_else(|| wrong(format!("a width in `{format}` is {}", given.kind())))?;
                    plain.push_str(&given.to_string());
                    given.abs()
                }
                '0'..='9' => {
                    plain.push(c);
                    width * 10 + i128::from(c as u8 - b'0')
                }
                '-' | '+' | ' ' | '#' | '.' => {
                    plain.push(c);
                    0
                }
                'l' | 'h' | 'L' => width,
                kind => break kind,
            };
            if width > WIDEST {
                return Err(wrong(format!("`{format}` has a place wider than {WIDEST}")));
            }
        };
        if kind == '%' {
            plain.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        let (kind, value) = match kind {
            'r' | 'a' => ('s', Value::from(python::shown(&value))),
            's' => ('s', Value::from(python::text(&value))),
            'd' | 'i' | 'u' => match number(&value) {
                Some(float) if whole(&value).is_none() && float.abs() < 1e18 => {
                    ('d', Value::from(float.trunc() as i64))
                }
                _ => ('d', whole(&value).map_or(value, of_whole)),
            },
            kind => (kind, value),
        };
        plain.push(kind);
        args.push(value);
    }
    plain.push_str(rest);
    if !is_mapping && values.next().is_some() {
        return Err(wrong(format!("`{format}` has fewer places than values")));
    }
    ensure_length(plain.len() + args.iter().filter_map(Value::as_str).map(str::len).sum::<usize>(), LONGEST)?;
    args.insert(0, Value::from(plain));
    state.apply_filter("format", &args)
}

fn bound(value: &Value) -> Result<Option<i64>, JinjaError> {
    if value.is_none() {
        return Ok(None);
    }
    let whole = whole(value).ok_or_else(|| wrong(format!("the bound of a slice is {}", value.kind())))?;
    Ok(Some(i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })))
}

/// `value[start:stop:step]`
fn slice(value: &Value, start: Option<i64>, stop: Option<i64>, step: i64) -> Result<Value, JinjaError> {
    if step == 0 {
        return Err(wrong("the step of a slice is zero".to_owned()));
    }
    let chars: Vec<char> = value.as_str().unwrap_or_default().chars().collect();
    let items: Vec<Value> = match value.kind() {
        ValueKind::String => Vec::new(),
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.collect(),
        kind => return Err(wrong(format!("a value of type {kind} has no slices"))),
    };
    let places = places_of(chars.len().max(items.len()), start, stop, step);
    Ok(if value.kind() == ValueKind::String {
        Value::from(places.map(|place| chars[place]).collect::<String>())
    } else {
        let items: Vec<Value> = places.map(|place| items[place].clone()).collect();
        if is_tuple(value) { tuple(items) } else { Value::from(items) }
    })
}

/// The places that a slice of so many items takes, all within them.
fn places_of(length: usize, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let length = i128::try_from(length).unwrap_or(i128::MAX);
    let (start, stop, step) = (start.map(i128::from), stop.map(i128::from), i128::from(step));
    // The least and the greatest bound there is; backwards the bounds are those before the first and at the last.
    let (least, most) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: i128| (if bound < 0 { bound + length } else { bound }).clamp(least, most);
    let start = start.map_or(if step > 0 { least } else { most }, clamp);
    let stop = stop.map_or(if step > 0 { most } else { least }, clamp);
    let mut at = start;
    std::iter::from_fn(move || {
        let is_inside = if step > 0 { at < stop } else { at > stop };
        let place = is_inside.then(|| usize::try_from(at).ok()).flatten();
        at += step;
        place
    })
}

/// `cycler`: gives its values in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed);
        (key.as_str() == Some("current")).then(|| self.items[at % self.items.len()].clone())
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, JinjaError> {
        let () = from_args(args)?;
        match method {
            "next" => Ok(self.items[self.at.fetch_add(1, Ordering::Relaxed) % self.items.len()].clone()),
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(JinjaError::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// A macro that takes more arguments than it names.
#[derive(Debug)]
struct Macro {
    inner: Value,
    name: String,
    names: Vec<String>,
    positional: bool,
    by_name: bool,
}

impl Object for Macro {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "name" => Some(Value::from(self.name.as_str())),
            "arguments" => Some(tuple(self.names.iter().map(|name| Value::from(name.as_str())).collect())),
            "catch_varargs" => Some(Value::from(self.positional)),
            "catch_kwargs" => Some(Value::from(self.by_name)),
            _ => self.inner.get_attr(key.as_str()?).ok(),
        }
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value, JinjaError> {
        let (args, named) = match args.split_last() {
            Some((last, before)) if last.is_kwargs() => (before, Kwargs::try_from(last.clone())?),
            _ => (args, Kwargs::from_iter(Vec::<(String, Value)>::new())),
        };
        let (own, more) = args.split_at(args.len().min(self.names.len()));
        if !more.is_empty() && !self.positional {
            return Err(JinjaError::new(
                ErrorKind::TooManyArguments,
                format!(
                    "the macro `{}` takes at most {} arguments, not {}",
                    self.name,
                    self.names.len(),
                    args.len()
                ),
            ));
        }
        let (mut passed, mut rest) = (Vec::new(), Vec::new());
        for name in named.args() {
            let value: Value = named.get(name)?;
            if name == "caller" || self.names.iter().any(|own| own == name) {
                passed.push((name.to_owned(), value));
            } else if self.by_name {
                rest.push((name.to_owned(), value));
            } else {
                return Err(JinjaError::new(
                    ErrorKind::TooManyArguments,
                    format!("the macro `{}` takes no argument `{name}`", self.name),
                ));
            }
        }
        passed.push(("varargs".to_owned(), tuple(more.to_vec())));
        passed.push(("kwargs".to_owned(), rest.into_iter().collect()));
        let mut args = own.to_vec();
        args.push(Value::from(Kwargs::from_iter(passed)));
        self.inner.call(state, &args)
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<Macro '{}'>", self.name)
    }
}
