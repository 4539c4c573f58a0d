//! A template as the engine understands it like Jinja2 does. Lines, and marks of white space, stay where they are.

use super::expression::Reader;
use super::literal::length_of_text;

/// The function that stands for `generation` blocks.
pub(super) const GENERATION: &str = "__generation__";

/// The function that lets a macro take more than it names.
pub(super) const MACRO: &str = "__macro__";

/// Rewrites what the engine reads otherwise than Jinja2, or not at all:
///
/// - expressions, as [`super::expression`] has it;
/// - `{% generation %} … {% endgeneration %}`, which marks what a model is trained on; when prompts are written, Hugging Face
///   makes a call block of it: its body is rendered, and what is set in it stays in it;
/// - macros that use `varargs` or `kwargs`, which get them as two more arguments, and a function around them that fills these;
/// - ends of lines, which are all `\n`.
pub(super) fn translated(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut is_raw = false;
    // Of every macro that is open what is written after its end.
    let mut macros: Vec<Option<String>> = Vec::new();
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
        rest = after;
        match (second, name) {
            (Some(b'%'), Some("endraw")) if is_raw => {
                is_raw = false;
                out.push_str(code);
            }
            _ if is_raw => out.push_str(code),
            (Some(b'%'), Some("raw")) => {
                is_raw = true;
                out.push_str(code);
            }
            (Some(b'%'), Some("macro")) => {
                let (tag, end) = macro_tag(code, after);
                macros.push(end);
                out.push_str(&tag);
            }
            (Some(b'%'), Some("endmacro")) => match (macros.pop().flatten(), Tag::new(code)) {
                (Some(end), Some(tag)) => {
                    out.push_str(&format!("{{%{} endmacro %}}{{% {end} {}", tag.before, tag.after));
                }
                _ => out.push_str(code),
            },
            (Some(b'%'), Some(name @ "generation")) => {
                out.push_str(&code.replacen(name, &format!("call {GENERATION}()"), 1));
            }
            (Some(b'%'), Some(name @ "endgeneration")) => out.push_str(&code.replacen(name, "endcall", 1)),
            (Some(b'%' | b'{'), _) => out.push_str(&rewritten(code)),
            _ => out.push_str(code),
        }
    }
    out.push_str(rest);
    out
}

/// A tag taken apart: `{%-` or `{{`, what is inside, and the end.
struct Tag<'a> {
    /// The mark of white space after the opening.
    before: &'a str,
    /// What is inside.
    inside: &'a str,
    /// The end with its mark of white space.
    after: &'a str,
}

impl<'a> Tag<'a> {
    fn new(code: &'a str) -> Option<Self> {
        let body = code.get(2..)?;
        let body = body.strip_suffix("%}").or_else(|| body.strip_suffix("}}"))?;
        let before = body.get(..1).filter(|mark| matches!(*mark, "-" | "+")).unwrap_or("");
        let body = &body[before.len()..];
        let inside = body.strip_suffix(['-', '+']).unwrap_or(body);
        Some(Self { before, inside, after: &code[code.len() - 2 - (body.len() - inside.len())..] })
    }

    /// The tag with something else inside, as many lines long as it was.
    fn with(&self, open: &str, inside: &str) -> String {
        let lines = "\n".repeat(self.inside.matches('\n').count());
        format!("{open}{} {inside} {lines}{}", self.before, self.after)
    }
}

/// A block or an expression with its expressions rewritten; as it was where it is not understood.
fn rewritten(code: &str) -> String {
    let open = &code[..2];
    let new = Tag::new(code).and_then(|tag| {
        let inside = if open == "{{" {
            whole(tag.inside, |reader| reader.tuple(true))?
        } else {
            statement(tag.inside)?
        };
        Some(tag.with(open, &inside))
    });
    new.unwrap_or_else(|| code.to_owned())
}

/// Reads all of a piece of code, or nothing.
fn whole(code: &str, read: impl FnOnce(&mut Reader<'_>) -> Option<String>) -> Option<String> {
    let mut reader = Reader::new(code)?;
    let out = read(&mut reader)?;
    reader.is_at_end().then_some(out)
}

fn statement(code: &str) -> Option<String> {
    whole(code, |reader| {
        let name = reader.name()?;
        let rest = match name {
            "if" | "elif" => reader.tuple(false)?,
            "for" => {
                let target = reader.target(&["in"])?;
                reader.skip_name("in");
                let mut out = format!("{target} in __each__({})", reader.tuple(false)?);
                if reader.skip_name("if") {
                    out = format!("{out} if {}", reader.expression()?);
                }
                if reader.skip_name("recursive") {
                    out.push_str(" recursive");
                }
                out
            }
            "set" => {
                let target = reader.target(&["="])?;
                reader.skip_sign("=");
                format!("{target} = {}", reader.tuple(true)?)
            }
            "call" => {
                let arguments =
                    if reader.skip_sign("(") { format!("({}) ", parameters(reader)?) } else { String::new() };
                format!("{arguments}{}", reader.expression()?)
            }
            "filter" => {
                let first = reader.filter()?;
                reader.filters(first)?
            }
            "with" => {
                let mut out = Vec::new();
                while !reader.is_at_end() {
                    let target = reader.target(&["="])?;
                    reader.skip_sign("=");
                    out.push(format!("{target} = {}", reader.expression()?));
                    if !reader.is_at_end() && !reader.skip_sign(",") {
                        return None;
                    }
                }
                out.join(", ")
            }
            _ => return None,
        };
        Some(format!("{name} {rest}"))
    })
}

/// Names and what they are where nothing is given, up to the closing bracket.
fn parameters(reader: &mut Reader<'_>) -> Option<String> {
    let mut out = Vec::new();
    while !reader.skip_sign(")") {
        if !out.is_empty() && !reader.skip_sign(",") {
            return None;
        }
        if reader.skip_sign(")") {
            break;
        }
        let name = reader.name()?;
        let default =
            if reader.skip_sign("=") { format!("={}", reader.expression()?) } else { String::new() };
        out.push(format!("{name}{default}"));
    }
    Some(out.join(", "))
}

/// The tag that opens a macro, and what is written after the end of it: nothing, unless it takes more than it names.
fn macro_tag(code: &str, after: &str) -> (String, Option<String>) {
    let open = |tag: &Tag<'_>| {
        let mut reader = Reader::new(tag.inside)?;
        reader.skip_name("macro");
        let name = reader.name()?;
        let parameters = reader.skip_sign("(").then(|| parameters(&mut reader))??;
        let named = |name: &str| parameters.split(", ").any(|one| one.split('=').next() == Some(name));
        let body = &after[..end_of_macro(after)];
        let uses = |name: &str| !named(name) && has_word(body, name);
        let (positional, by_name) = (uses("varargs"), uses("kwargs"));
        let mut all: Vec<&str> = Vec::from_iter((!parameters.is_empty()).then_some(parameters.as_str()));
        if !positional && !by_name {
            return Some((tag.with("{%", &format!("macro {name}({parameters})")), None));
        }
        // Where nothing is given before a parameter with a default, all after it need one.
        all.extend((!named("varargs")).then_some("varargs=none"));
        all.extend((!named("kwargs")).then_some("kwargs=none"));
        let end = format!("set {name} = {MACRO}({name}, {positional}, {by_name})");
        Some((tag.with("{%", &format!("macro {name}({})", all.join(", "))), Some(end)))
    };
    Tag::new(code).and_then(|tag| open(&tag)).unwrap_or_else(|| (code.to_owned(), None))
}

/// Where the macro ends that the text is the body of.
fn end_of_macro(body: &str) -> usize {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(found) = body[at..].find("{%") {
        at += found;
        match name_of_tag(&body[at..]) {
            Some("macro") => depth += 1,
            Some("endmacro") if depth == 0 => return at,
            Some("endmacro") => depth -= 1,
            _ => {}
        }
        at += 2;
    }
    body.len()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
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
            b'"' | b'\'' => at += length_of_text(here).unwrap_or(here.len()) - 1,
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
    fn what_is_no_tag_stays_as_it_is() {
        let same = [
            "",
            "{",
            "{%",
            "{{",
            "{#",
            "generation a % b (1, 2)",
            "{# {% generation %} {{ a % b }} #}",
            "{% raw %}{% generation %}{{ a % b }}{% endraw %}",
            // What is no expression is for the engine to refuse.
            "{{ a % }}",
            "{% if %}",
            "{% for in x %}",
            "{{ 'not closed }}",
            "{% macro %}{% endmacro %}",
        ];
        for source in same {
            assert_eq!(translated(source), source);
        }
    }

    #[test]
    fn tags_keep_their_lines_and_their_marks_of_white_space() {
        assert_eq!(
            translated("a{%- generation -%}\n{{ '}}' }}{% raw %}{{{% endraw %}\n{%+endgeneration%}b"),
            "a{%- call __generation__() -%}\n{{ \"}}\" }}{% raw %}{{{% endraw %}\n{%+endcall%}b"
        );
        assert_eq!(translated("{{- '%s'\n  % x\n-}}"), "{{- __mod__(\"%s\", x) \n\n-}}");
        assert_eq!(translated("{%+ if a\n -%}\r\nx\ry"), "{%+ if a \n-%}\nx\ny");
    }

    #[test]
    fn expressions_are_read_by_the_grammar_of_jinja2() {
        let cases = [
            ("a % b * c", "__mul__(__mod__(a, b), c)"),
            ("'%s' % a|upper ~ b", "__concat__(__mod__(\"%s\", a|upper), b)"),
            ("-a.b|abs", "(-a.b)|abs"),
            ("2 ** 3 ** 2", "__pow__(__pow__(2, 3), 2)"),
            ("a, b", "__tuple__(a, b)"),
            ("(a,)", "(__tuple__(a))"),
            ("x[::-1][1:]", "__slice__(__slice__(x, none, none, (-1)), 1, none, none)"),
            ("m.0['k'].a(1, *b, c=d, **e)", "m[0][\"k\"].a(1, *b, c=d, **e)"),
            (
                "x is divisibleby 3 and y is defined",
                "((y is defined) if (x is divisibleby(3)) else x is divisibleby(3))",
            ),
            ("{'a': {}}", "{ \"a\": {  } }"),
            ("a if b is defined else c", "((a) if b is defined else c)"),
            ("x|sum('a', [])", "x|sum(attribute=\"a\", start=[])"),
            ("'a' \"b\\x41\\u00e9\"", "\"abAé\""),
            ("0x1F + 1_0.50 + 007", "__add__(__add__(31, 10.5), 7)"),
            ("a not in b", "a not in b"),
            ("not not a", "not not a"),
        ];
        for (source, expected) in cases {
            let found = translated(&format!("{{{{ {source} }}}}"));
            assert_eq!(found, format!("{{{{ {expected} }}}}"), "{source}");
        }
    }

    #[test]
    fn a_macro_that_uses_varargs_gets_them() {
        assert_eq!(
            translated("{% macro f(a, b=1) -%}{{ varargs }}{%- endmacro -%}"),
            "{% macro f(a, b=1, varargs=none, kwargs=none) -%}{{ varargs }}{%- endmacro %}\
             {% set f = __macro__(f, true, false) -%}"
        );
        let plain = "{% macro f(kwargs) %}{{ kwargs }}{% endmacro %}";
        assert_eq!(translated(plain), plain);
    }

    #[test]
    fn deep_nesting_is_left_to_the_engine() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
        assert_eq!(translated(&deep), deep);
        let deep = format!("{{{{ {}1 }}}}", "-".repeat(10_000));
        assert_eq!(translated(&deep), deep);
    }
}
