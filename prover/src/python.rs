//! The strings of a Python file by the names they are bound to, read and never executed: `name = "…"`, `name["key"] = "…"`,
//! `name += "…"`, `{"key": "…"}`, `f(key="…")`. Strings side by side or with `+` between them are one; `.strip()` and its
//! sisters, `textwrap.dedent` and `inspect.cleandoc` are heeded. What only a program could know, such as an f-string, is said.

use std::collections::BTreeMap;

/// A string, or why its value cannot be told without executing the file.
pub type Value = Result<String, String>;

/// All strings that are bound to a name. Where a name is bound twice the later one counts.
///
/// # Errors
/// A string that is not closed, with its line.
pub fn strings(text: &str) -> Result<BTreeMap<String, Value>, String> {
    // As Python reads files.
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let tokens = tokens(&text)?;
    let mut found: BTreeMap<String, Value> = BTreeMap::new();
    let mut at = 0;
    while at < tokens.len() {
        let Some(binding) = binding(&tokens[at..]) else {
            at += 1;
            continue;
        };
        let mut reader = Reader { tokens: &tokens, at: at + binding.length };
        let Some(value) = reader.expression() else {
            at += binding.length;
            continue;
        };
        let value = match (value, binding.adds) {
            (value, false) => value,
            (Ok(more), true) => match found.get(&binding.name) {
                Some(Ok(before)) => Ok(format!("{before}{more}")),
                Some(Err(why)) => Err(why.clone()),
                None => Err(format!("line {}: is added to something unknown", tokens[at].line)),
            },
            (Err(why), true) => Err(why),
        };
        found.insert(binding.name, value);
        at = reader.at.max(at + 1);
    }
    Ok(found)
}

struct Binding {
    name: String,
    /// Tokens up to the value.
    length: usize,
    adds: bool,
}

/// What the value after these tokens would be bound to.
fn binding(tokens: &[Token]) -> Option<Binding> {
    use Kind::{Mark, Name, Text};
    let kind = |index: usize| tokens.get(index).map(|token| &token.kind);
    let ends = |name: &String, from: usize| match (kind(from), kind(from + 1)) {
        // A comparison.
        (Some(Mark('=')), Some(Mark('='))) => None,
        (Some(Mark('=')), _) => Some(Binding { name: name.clone(), length: from + 1, adds: false }),
        (Some(Mark('+')), Some(Mark('='))) => {
            Some(Binding { name: name.clone(), length: from + 2, adds: true })
        }
        _ => None,
    };
    match (kind(0)?, kind(1)?) {
        (Mark('['), Text(key)) if matches!(kind(2), Some(Mark(']'))) => ends(key, 3),
        (Text(key), Mark(':')) => Some(Binding { name: key.clone(), length: 2, adds: false }),
        // `name: str = "…"`; the annotation may have brackets.
        (Name(name), Mark(':')) => {
            let equals =
                (2..10).find(|index| !matches!(kind(*index), Some(Name(_) | Mark('.' | '[' | ']' | '|'))));
            equals.and_then(|from| ends(name, from)).filter(|binding| !binding.adds && binding.length > 3)
        }
        (Name(name), _) => ends(name, 1),
        _ => None,
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn eat(&mut self, mark: char) -> bool {
        let found = matches!(self.peek(), Some(Kind::Mark(found)) if *found == mark);
        self.at += usize::from(found);
        found
    }

    fn executed(&self, what: &str) -> Value {
        let line = self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line);
        Err(format!("line {line}: {what} would have to be executed; give the text itself"))
    }

    /// A sum of strings up to the end of the statement or the item; `None` where no string begins.
    fn expression(&mut self) -> Option<Value> {
        let value = self.sum()?;
        if value.is_ok()
            && !matches!(self.peek(), None | Some(Kind::End | Kind::Mark(',' | '}' | ')' | ']' | ';')))
        {
            let what = match self.peek() {
                Some(Kind::Name(name)) => format!("`{name}` after a string"),
                Some(Kind::Mark(mark)) => format!("`{mark}` after a string"),
                _ => "what follows a string".to_owned(),
            };
            return Some(self.executed(&what));
        }
        Some(value)
    }

    fn sum(&mut self) -> Option<Value> {
        let mut value = self.part()?;
        while value.is_ok() && self.eat('+') {
            match self.part() {
                Some(Ok(more)) => value = value.map(|value| value + &more),
                Some(Err(why)) => value = Err(why),
                None => value = self.executed("a sum with something that is no string"),
            }
        }
        Some(value)
    }

    /// Strings side by side, or something in brackets, with the methods that follow.
    fn part(&mut self) -> Option<Value> {
        let before = self.at;
        let mut value = match self.peek()? {
            Kind::Mark('(') => {
                self.at += 1;
                let Some(value) = self.sum() else {
                    self.at = before;
                    return None;
                };
                if value.is_ok() && !self.eat(')') {
                    return Some(self.executed("what follows a string"));
                }
                value
            }
            Kind::Name(_) => {
                let Some(value) = self.dedented() else {
                    self.at = before;
                    return None;
                };
                value
            }
            Kind::Text(_) | Kind::Executed(_) => {
                let mut value = Ok(String::new());
                loop {
                    match self.peek() {
                        Some(Kind::Text(text)) => {
                            let text = text.clone();
                            value = value.map(|value| value + &text);
                        }
                        Some(Kind::Executed(prefix)) if value.is_ok() => {
                            value = self.executed(&format!("a string with the prefix {prefix}"));
                        }
                        Some(Kind::Executed(_)) => {}
                        _ => break,
                    }
                    self.at += 1;
                }
                value
            }
            _ => return None,
        };
        while value.is_ok() && self.eat('.') {
            let method = match self.peek() {
                Some(Kind::Name(method)) => method.clone(),
                _ => String::new(),
            };
            let strip = |text: &str, stripped: &dyn Fn(char) -> bool| match method.as_str() {
                "strip" => text.trim_matches(stripped).to_owned(),
                "lstrip" => text.trim_start_matches(stripped).to_owned(),
                _ => text.trim_end_matches(stripped).to_owned(),
            };
            if !matches!(method.as_str(), "strip" | "lstrip" | "rstrip") {
                value = self.executed(&format!("`.{method}` of a string"));
                break;
            }
            self.at += 1;
            let kinds = [0, 1, 2].map(|index| self.tokens.get(self.at + index).map(|token| &token.kind));
            match kinds {
                [Some(Kind::Mark('(')), Some(Kind::Mark(')')), _] => {
                    self.at += 2;
                    value = value.map(|text| strip(&text, &char::is_whitespace));
                }
                [Some(Kind::Mark('(')), Some(Kind::Text(set)), Some(Kind::Mark(')'))] => {
                    let set = set.clone();
                    self.at += 3;
                    value = value.map(|text| strip(&text, &|c| set.contains(c)));
                }
                _ => value = self.executed(&format!("`.{method}` of a string")),
            }
        }
        Some(value)
    }

    /// `dedent("…")`, `textwrap.dedent("…")`, `inspect.cleandoc("…")`.
    fn dedented(&mut self) -> Option<Value> {
        let mut function = None;
        while let Some(Kind::Name(name)) = self.peek() {
            function = Some(name.clone());
            self.at += 1;
            if !self.eat('.') {
                break;
            }
        }
        let function = function?;
        if !matches!(function.as_str(), "dedent" | "cleandoc") || !self.eat('(') {
            return None;
        }
        let value = self.sum()?;
        if value.is_ok() && !self.eat(')') {
            return Some(self.executed("what follows a string"));
        }
        Some(value.map(|text| if function == "dedent" { dedent(&text) } else { cleandoc(&text) }))
    }
}

/// Without the blanks that all lines begin with; lines of blanks become empty.
fn dedent(text: &str) -> String {
    let blank = |line: &str| line.trim().is_empty();
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let least = text.lines().filter(|line| !blank(line)).map(indent).min().unwrap_or(0);
    let lines: Vec<&str> =
        text.split('\n').map(|line| if blank(line) { "" } else { &line[least..] }).collect();
    lines.join("\n")
}

/// The same where the first line stands behind the quotes, and without empty lines at both ends.
fn cleandoc(text: &str) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!("{}\n{}", first.trim_start(), dedent(rest)).trim_matches('\n').to_owned()
}

struct Token {
    kind: Kind,
    line: usize,
}

enum Kind {
    Name(String),
    Text(String),
    /// A string with this prefix, whose value is made by a program.
    Executed(String),
    Mark(char),
    /// Of a line that is not within brackets.
    End,
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut rest = text;
    let (mut line, mut depth) = (1, 0usize);
    while let Some(c) = rest.chars().next() {
        let begin = rest;
        let kind = if c == '\n' {
            rest = &rest[1..];
            (depth == 0).then_some(Kind::End)
        } else if let Some(after) = rest.strip_prefix("\\\n") {
            rest = after;
            None
        } else if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
            None
        } else if c == '#' {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            None
        } else if c == '"' || c == '\'' {
            let (value, after) = string(rest, false).ok_or_else(|| unclosed(line))?;
            rest = after;
            Some(Kind::Text(value))
        } else if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            rest = after;
            if after.starts_with(['"', '\'']) {
                let prefix = name.to_ascii_lowercase();
                let raw = prefix.contains('r');
                let (value, after) = string(after, raw).ok_or_else(|| unclosed(line))?;
                rest = after;
                let plain = matches!(prefix.as_str(), "r" | "u");
                Some(if plain { Kind::Text(value) } else { Kind::Executed(name.to_owned()) })
            } else {
                Some(Kind::Name(name.to_owned()))
            }
        } else {
            match c {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            rest = &rest[c.len_utf8()..];
            Some(Kind::Mark(c))
        };
        tokens.extend(kind.map(|kind| Token { kind, line }));
        line += begin[..begin.len() - rest.len()].matches('\n').count();
    }
    Ok(tokens)
}

fn unclosed(line: usize) -> String {
    format!("line {line}: a string is not closed")
}

/// A string literal at the start of `text` → its value and what follows.
fn string(text: &str, raw: bool) -> Option<(String, &str)> {
    let quote = text.chars().next()?;
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let end = if text.starts_with(&triple) { triple } else { quote.to_string() };
    let mut value = String::new();
    let mut rest = &text[end.len()..];
    loop {
        if let Some(after) = rest.strip_prefix(end.as_str()) {
            return Some((value, after));
        }
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        if c == '\n' && end.len() == 1 {
            return None;
        }
        if c != '\\' {
            value.push(c);
            continue;
        }
        let escaped = rest.chars().next()?;
        rest = &rest[escaped.len_utf8()..];
        match escaped {
            _ if raw => value.extend(['\\', escaped]),
            '\n' => {}
            'n' => value.push('\n'),
            't' => value.push('\t'),
            '\\' | '"' | '\'' => value.push(escaped),
            'x' | 'u' | 'U' => match code_point(escaped, rest) {
                Some((c, after)) => {
                    value.push(c);
                    rest = after;
                }
                None => value.extend(['\\', escaped]),
            },
            // Python keeps unknown escapes as they are, `\d` for instance. The known rest does not occur in prompts, but
            // `\b` of `\boxed` does, by mistake, and its writer meant the letters.
            other => value.extend(['\\', other]),
        }
    }
}

/// The character of `\xHH`, `\uHHHH` or `\UHHHHHHHH`, and what follows.
fn code_point(kind: char, rest: &str) -> Option<(char, &str)> {
    let digits = match kind {
        'x' => 2,
        'u' => 4,
        _ => 8,
    };
    let hex = rest.get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, &rest[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Value {
        strings(text).unwrap().remove("a").unwrap_or_else(|| Err("not found".to_owned()))
    }

    #[test]
    fn strings_have_the_values_that_python_gives_them() {
        for (text, value) in [
            ("a = 'x'", "x"),
            ("a = \"\"\"say \"hi\", 'ho', '''he''' \"\"\"", "say \"hi\", 'ho', '''he''' "),
            ("a = '''say \"\"\"hi\"\"\" it's'''", "say \"\"\"hi\"\"\" it's"),
            ("a = \"\"\"\"quoted\" at the start\"\"\"", "\"quoted\" at the start"),
            ("a = \"\"\"ends with \\\"\"\"\"", "ends with \""),
            ("a = '''\\\nx\n# no comment\n'''", "x\n# no comment\n"),
            ("a = r'\\boxed{1}\\n'", "\\boxed{1}\\n"),
            ("a = R'\\d' U'\\u00e9\\x41' 'é'", "\\déAé"),
            ("a = 'x' \"y\"", "xy"),
            ("a = ('x'  # one\n     'y'\n\n     'z')", "xyz"),
            ("a = 'x' + \"y\" + ('z' 'w')", "xyzw"),
            ("a = (\n  'x' +\n  'y'\n)", "xy"),
            ("a = 'x' \\\n 'y'", "xy"),
            ("a = 'x'\n'''a comment of its own'''", "x"),
            ("a = 'x'\na += 'y'\n", "xy"),
            ("d = {}\nd['a'] = 'x'\nd['a'] += 'y'", "xy"),
            ("d = {'a': 'x' 'y', 'b': 'z'}", "xy"),
            ("d = {\n    # the first\n    'a': '''x''',  # and more\n}", "x"),
            ("d = dict(a='x', b='y')", "x"),
            ("a: str = 'x'", "x"),
            ("a: Final[str] = 'x'; b = 'y'", "x"),
            ("a = 'x'\nif a == 'y':\n    pass", "x"),
            ("a = 'x'\na = 'y'", "y"),
            ("a = ' x\\n'.strip()", "x"),
            ("a = '\\n x '.lstrip('\\n').rstrip()", " x"),
            ("a = (' x ' ' y ').strip()", "x  y"),
            ("a = textwrap.dedent('''\n    x\n      y\n\n    z\n''').strip()", "x\n  y\n\nz"),
            ("a = dedent(\"\"\"\\\n  x\n  y\"\"\")", "x\ny"),
            ("a = inspect.cleandoc('''x\n    y\n      z\n    ''')", "x\ny\n  z"),
            ("class T:\n    a = '''x\n    y'''\n", "x\n    y"),
            ("\u{feff}a = '''x\r\ny'''\r\n", "x\ny"),
            ("import os\nprint(f'{os}')\na = 'x'", "x"),
        ] {
            assert_eq!(one(text), Ok(value.to_owned()), "of {text}");
        }
    }

    #[test]
    fn what_a_program_would_make_is_said() {
        for (text, what) in [
            ("a = f'{x}'", "line 1: a string with the prefix f would have to be executed"),
            ("\na = rf'''\n{x}'''", "line 2: a string with the prefix rf"),
            ("a = ('x'\n  F'{y}')", "line 2: a string with the prefix F"),
            ("a = b'x'", "a string with the prefix b"),
            ("a = 'x' + y", "a sum with something that is no string"),
            ("a = 'x'.format(y)", "`.format` of a string"),
            ("a = 'x'.strip(y)", "`.strip` of a string"),
            ("a = 'x' % y", "`%` after a string"),
            ("a = 'x' if y else 'z'", "`if` after a string"),
            ("a = 'x' * 3", "`*` after a string"),
            ("a += 'x'", "is added to something unknown"),
        ] {
            let why = one(text).unwrap_err();
            assert!(why.contains(what), "of {text}: {why}");
        }
        for text in ["a = x", "a = [1]", "a('x')", "a == 'x'", "a", "", "a = ()", "a = (", "a ="] {
            assert_eq!(one(text), Err("not found".to_owned()), "of {text}");
        }
        assert_eq!(strings("\n\na = 'x\n'").unwrap_err(), "line 3: a string is not closed");
        assert!(strings("a = '''x").is_err() && strings("a = 'x\\").is_err());
    }
}
