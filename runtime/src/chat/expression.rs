//! Expressions of a template: read by Jinja2's grammar, written as the engine has to be told to compute what Jinja2 does.
//!
//! | Jinja2 | the engine |
//! |---|---|
//! | `(a, b)` and `a, b`, a tuple | `__tuple__(a, b)` |
//! | `a % b`, which also fills in texts | `__mod__(a, b)` |
//! | `a + b`, `a ~ b`, `a * b`, `a // b`, `a ** b` | `__add__(a, b)`, `__concat__(a, b)`, `__mul__(a, b)` and so on |
//! | `a < b < c` and the like | `(__compare__("<", a, b) and __compare__("<", b, c))` |
//! | `a and b` | `(b if a else a)` |
//! | `a[b:c:d]` | `__slice__(a, b, c, d)` |
//! | `-a.b`, minus of the attribute | `(-(a.b))` |
//! | escapes in texts, texts side by side, numbers in all of Python's notations | one text or number in plain notation |
//!
//! Everything else is written as it was read. What is not an expression stays as it is: the engine says what is wrong with it.

use super::literal::{number, text};

/// Deeper nesting than any template has; the engine has a limit of the same size.
const DEEPEST: usize = 120;

/// Bytes of a left side of `and` that is written twice.
const LONGEST_TWICE: usize = 200;

/// One piece of an expression; of texts and numbers their value.
#[derive(Debug, Clone, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Number(String),
    Text(String),
    Sign(&'a str),
}

/// Signs, the longest first.
const SIGNS: [&str; 25] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", ".", ",", ":", "|", "(",
    ")", "[", "]", "{", "}",
];

/// Filters of which the engine takes these parameters only by name.
const NAMED: [(&str, &[&str]); 9] = [
    ("dictsort", &["case_sensitive", "by", "reverse"]),
    ("groupby", &["attribute", "default", "case_sensitive"]),
    ("max", &["case_sensitive", "attribute"]),
    ("min", &["case_sensitive", "attribute"]),
    ("sort", &["reverse", "case_sensitive", "attribute"]),
    ("sum", &["attribute", "start"]),
    ("tojson", &["ensure_ascii", "indent", "separators", "sort_keys"]),
    ("truncate", &["length", "killwords", "end", "leeway"]),
    ("unique", &["case_sensitive", "attribute"]),
];

/// An argument of a call, with its name or its stars.
struct Argument {
    is_named: bool,
    text: String,
}

/// Reads the pieces of one tag from the left to the right. Every function returns what is to be written, or `None` where
/// this is no expression.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// The pieces of what stands within a tag.
    pub(super) fn new(code: &'a str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut rest = code.trim_start();
        while let Some(first) = rest.chars().next() {
            let length;
            if first == '"' || first == '\'' {
                let (value, bytes) = text(rest)?;
                tokens.push(Token::Text(value));
                length = bytes;
            } else if first.is_ascii_digit() && !matches!(tokens.last(), Some(Token::Sign("."))) {
                let (value, bytes) = number(rest)?;
                tokens.push(Token::Number(value));
                length = bytes;
            } else if first.is_alphanumeric() || first == '_' {
                length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                tokens.push(Token::Name(&rest[..length]));
            } else {
                let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign))?;
                tokens.push(Token::Sign(sign));
                length = sign.len();
            }
            rest = rest[length..].trim_start();
        }
        Some(Self { tokens, at: 0, depth: 0 })
    }

    /// Whether all has been read.
    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.tokens.len()
    }

    fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.at)
    }

    pub(super) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Token::Sign(found)) if *found == sign)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if *found == name)
    }

    pub(super) fn skip_sign(&mut self, sign: &str) -> bool {
        let is = self.is_sign(sign);
        self.at += usize::from(is);
        is
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        self.at += usize::from(is);
        is
    }

    pub(super) fn name(&mut self) -> Option<&'a str> {
        let Some(Token::Name(name)) = self.peek() else { return None };
        let name = *name;
        self.at += 1;
        Some(name)
    }

    /// What is assigned to, `a`, `a.b`, `a, (b, c)`: the signs and names before `end`, outside brackets.
    pub(super) fn target(&mut self, end: &[&str]) -> Option<String> {
        let (mut out, mut depth) = (String::new(), 0usize);
        loop {
            let piece = match self.peek()? {
                Token::Name(name) => *name,
                Token::Sign(sign @ ("(" | ")" | "," | ".")) => *sign,
                Token::Sign(sign) if end.contains(sign) => *sign,
                Token::Number(_) | Token::Text(_) | Token::Sign(_) => return None,
            };
            if depth == 0 && end.contains(&piece) {
                return (!out.is_empty()).then_some(out);
            }
            match piece {
                "(" => depth += 1,
                ")" => depth = depth.checked_sub(1)?,
                _ => {}
            }
            out.push_str(piece);
            if piece == "," {
                out.push(' ');
            }
            self.at += 1;
            if self.is_at_end() {
                return None;
            }
        }
    }

    /// `a`, or a tuple without brackets: `a, b`. With `is_whole` `a if b else c` is part of it.
    pub(super) fn tuple(&mut self, is_whole: bool) -> Option<String> {
        let mut items = vec![self.one(is_whole)?];
        let mut is_tuple = false;
        while self.skip_sign(",") {
            is_tuple = true;
            let ends = matches!(self.peek(), None | Some(Token::Sign(")" | "]" | "}" | "=")));
            if ends || self.is_name("in") || self.is_name("if") || self.is_name("recursive") {
                break;
            }
            items.push(self.one(is_whole)?);
        }
        if is_tuple { Some(format!("__tuple__({})", items.join(", "))) } else { items.pop() }
    }

    fn one(&mut self, is_whole: bool) -> Option<String> {
        if is_whole { self.expression() } else { self.or() }
    }

    /// `a if b else c`
    pub(super) fn expression(&mut self) -> Option<String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let mut value = self.or()?;
        while self.skip_name("if") {
            let condition = self.or()?;
            value = if self.skip_name("else") {
                format!("(({value}) if {condition} else {})", self.expression()?)
            } else {
                format!("(({value}) if {condition})")
            };
        }
        self.depth -= 1;
        Some(value)
    }

    fn or(&mut self) -> Option<String> {
        let mut value = self.and()?;
        while self.skip_name("or") {
            value = format!("{value} or {}", self.and()?);
        }
        Some(value)
    }

    fn and(&mut self) -> Option<String> {
        let mut value = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            // The engine's own gives false for every left side that is not true, Jinja2 that side itself.
            value = if value.len() <= LONGEST_TWICE {
                format!("(({right}) if ({value}) else {value})")
            } else {
                format!("({value} and {right})")
            };
        }
        Some(value)
    }

    fn not(&mut self) -> Option<String> {
        let mut nots = 0;
        while self.skip_name("not") {
            nots += 1;
        }
        Some("not ".repeat(nots % 2 + 2 * usize::from(nots > 1 && nots % 2 == 0)) + &self.comparison()?)
    }

    fn comparison(&mut self) -> Option<String> {
        let mut left = self.sum()?;
        let mut all = Vec::new();
        loop {
            let sign = match self.peek() {
                Some(Token::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">="))) => *sign,
                Some(Token::Name("in")) => "in",
                Some(Token::Name("not")) if self.tokens.get(self.at + 1) == Some(&Token::Name("in")) => {
                    self.at += 1;
                    "not in"
                }
                _ => break,
            };
            self.at += 1;
            let right = self.sum()?;
            all.push(match sign {
                "in" | "not in" => format!("{left} {sign} {right}"),
                _ => format!("__compare__(\"{sign}\", {left}, {right})"),
            });
            left = right;
        }
        Some(match all.as_slice() {
            [] => left,
            [one] => one.clone(),
            several => format!("({})", several.join(" and ")),
        })
    }

    fn sum(&mut self) -> Option<String> {
        let mut value = self.concatenation()?;
        while let Some(Token::Sign(sign @ ("+" | "-"))) = self.peek() {
            let sign = *sign;
            self.at += 1;
            let right = self.concatenation()?;
            value =
                if sign == "+" { format!("__add__({value}, {right})") } else { format!("{value} - {right}") };
        }
        Some(value)
    }

    fn concatenation(&mut self) -> Option<String> {
        let mut values = vec![self.product()?];
        while self.skip_sign("~") {
            values.push(self.product()?);
        }
        if values.len() == 1 { values.pop() } else { Some(format!("__concat__({})", values.join(", "))) }
    }

    fn product(&mut self) -> Option<String> {
        let mut value = self.power()?;
        while let Some(Token::Sign(sign @ ("*" | "/" | "//" | "%"))) = self.peek() {
            let sign = *sign;
            self.at += 1;
            let right = self.power()?;
            value = match sign {
                "%" => format!("__mod__({value}, {right})"),
                "*" => format!("__mul__({value}, {right})"),
                "//" => format!("__floordiv__({value}, {right})"),
                _ => format!("{value} {sign} {right}"),
            };
        }
        Some(value)
    }

    fn power(&mut self) -> Option<String> {
        let mut value = self.signed(true)?;
        while self.skip_sign("**") {
            value = format!("__pow__({value}, {})", self.signed(true)?);
        }
        Some(value)
    }

    fn signed(&mut self, with_filters: bool) -> Option<String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let value = if self.skip_sign("-") {
            format!("(-{})", self.signed(false)?)
        } else if self.skip_sign("+") {
            self.signed(false)?
        } else {
            let value = self.primary()?;
            self.postfix(value)?
        };
        let value = if with_filters { self.filters(value)? } else { value };
        self.depth -= 1;
        Some(value)
    }

    fn primary(&mut self) -> Option<String> {
        let token = self.peek()?.clone();
        self.at += 1;
        match token {
            Token::Name(name) => Some(name.to_owned()),
            Token::Number(number) => Some(number),
            Token::Text(mut value) => {
                while let Some(Token::Text(next)) = self.peek() {
                    value.push_str(next);
                    self.at += 1;
                }
                Some(in_quotes(&value))
            }
            Token::Sign("(") => {
                if self.skip_sign(")") {
                    return Some("__tuple__()".to_owned());
                }
                let value = self.tuple(true)?;
                self.skip_sign(")").then(|| format!("({value})"))
            }
            Token::Sign("[") => {
                let items = self.list("]", Self::expression)?;
                Some(format!("[{}]", items.join(", ")))
            }
            Token::Sign("{") => {
                let items = self.list("}", |reader| {
                    let key = reader.expression()?;
                    let value = reader.skip_sign(":").then(|| reader.expression())??;
                    Some(format!("{key}: {value}"))
                })?;
                // A space, since `{{` and `{%` begin a tag.
                Some(format!("{{ {} }}", items.join(", ")))
            }
            Token::Sign(_) => None,
        }
    }

    /// Items with commas between them, and perhaps after the last, up to the closing bracket.
    fn list<T>(&mut self, end: &str, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut items = Vec::new();
        while !self.skip_sign(end) {
            if !items.is_empty() {
                if !self.skip_sign(",") {
                    return None;
                }
                if self.skip_sign(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Some(items)
    }

    /// The arguments of a call, after its opening bracket.
    fn argument_list(&mut self) -> Option<Vec<Argument>> {
        self.list(")", |reader| {
            let before = if reader.skip_sign("**") {
                "**".to_owned()
            } else if reader.skip_sign("*") {
                "*".to_owned()
            } else if let (Some(Token::Name(name)), Some(Token::Sign("="))) =
                (reader.peek().cloned(), reader.tokens.get(reader.at + 1))
            {
                reader.at += 2;
                format!("{name}=")
            } else {
                String::new()
            };
            Some(Argument { is_named: !before.is_empty(), text: before + &reader.expression()? })
        })
    }

    fn arguments(&mut self) -> Option<String> {
        let arguments: Vec<String> =
            self.argument_list()?.into_iter().map(|argument| argument.text).collect();
        Some(arguments.join(", "))
    }

    fn postfix(&mut self, mut value: String) -> Option<String> {
        loop {
            if self.skip_sign(".") {
                let name = self.name()?;
                let is_place = name.chars().all(|c| c.is_ascii_digit());
                value = if is_place { format!("{value}[{name}]") } else { format!("{value}.{name}") };
            } else if self.skip_sign("[") {
                value = self.item_of(value)?;
            } else if self.skip_sign("(") {
                value = format!("{value}({})", self.arguments()?);
            } else {
                return Some(value);
            }
        }
    }

    /// `value[…]` after the opening bracket.
    fn item_of(&mut self, value: String) -> Option<String> {
        let mut bounds = Vec::new();
        loop {
            let is_empty = self.is_sign(":") || self.is_sign("]");
            bounds.push(if is_empty { None } else { Some(self.expression()?) });
            if bounds.len() == 3 || !self.skip_sign(":") {
                break;
            }
        }
        if !self.skip_sign("]") {
            return None;
        }
        if let [item] = bounds.as_slice() {
            return Some(format!("{value}[{}]", item.as_ref()?));
        }
        bounds.resize(3, None);
        let bounds: Vec<String> =
            bounds.into_iter().map(|bound| bound.unwrap_or_else(|| "none".to_owned())).collect();
        Some(format!("__slice__({value}, {})", bounds.join(", ")))
    }

    /// `|filter`, `is test` and calls of what they gave, in any number.
    pub(super) fn filters(&mut self, mut value: String) -> Option<String> {
        loop {
            if self.skip_sign("|") {
                value = format!("{value}|{}", self.filter()?);
            } else if self.skip_name("is") {
                let is = if self.skip_name("not") { "is not" } else { "is" };
                let name = self.dotted()?;
                let argument = if self.skip_sign("(") {
                    Some(self.arguments()?)
                } else if self.begins_argument() {
                    let argument = self.primary()?;
                    Some(self.postfix(argument)?)
                } else {
                    None
                };
                value = match argument {
                    Some(argument) => format!("{value} {is} {name}({argument})"),
                    None => format!("{value} {is} {name}"),
                };
            } else if self.skip_sign("(") {
                value = format!("({value})({})", self.arguments()?);
            } else {
                return Some(value);
            }
        }
    }

    /// A filter with its arguments, after the stroke.
    pub(super) fn filter(&mut self) -> Option<String> {
        let name = self.dotted()?;
        if !self.skip_sign("(") {
            return Some(name);
        }
        let mut arguments = self.argument_list()?;
        // The engine takes some only by their names.
        let names =
            NAMED.iter().find(|(filter, _)| *filter == name).map_or([].as_slice(), |(_, names)| names);
        for (argument, name) in arguments.iter_mut().zip(names) {
            if !argument.is_named {
                argument.text = format!("{name}={}", argument.text);
            }
        }
        let arguments: Vec<String> = arguments.into_iter().map(|argument| argument.text).collect();
        Some(format!("{name}({})", arguments.join(", ")))
    }

    fn dotted(&mut self) -> Option<String> {
        let mut name = self.name()?.to_owned();
        while self.skip_sign(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Some(name)
    }

    /// Whether what follows a test is its argument, written without brackets.
    fn begins_argument(&self) -> bool {
        match self.peek() {
            Some(Token::Name(name)) => {
                !matches!(*name, "else" | "or" | "and" | "if" | "is" | "in" | "not" | "recursive")
            }
            Some(Token::Number(_) | Token::Text(_)) => true,
            Some(Token::Sign(sign)) => matches!(*sign, "[" | "{"),
            None => false,
        }
    }
}

/// A text as the engine reads it.
fn in_quotes(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
