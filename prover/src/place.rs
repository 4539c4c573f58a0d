//! Where a TOML text is wrong, in a line.

use std::ops::Range;

/// Characters of a line that are quoted.
const QUOTED: usize = 60;

/// What is wrong with a text that is no TOML, or not the TOML that was expected: line, column, the line itself and the
/// parser's words, all on one line.
pub(crate) fn toml_error(text: &str, error: &toml::de::Error) -> String {
    let message: Vec<&str> = error.message().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let message = message.join("; ");
    match error.span() {
        Some(span) => format!("{}: {message}", place(text, &span)),
        None => message,
    }
}

/// `line 2, column 10 (`rounds = many`)` for a range of bytes; columns count characters.
pub(crate) fn place(text: &str, span: &Range<usize>) -> String {
    let at = (0..=span.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    // At the end of the text the last line is meant.
    let before = if at == text.len() { text.trim_end() } else { &text[..at] };
    let line = before.matches('\n').count() + 1;
    let begin = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[begin..].chars().count() + 1;
    let whole = text[begin..].lines().next().unwrap_or_default().trim();
    let mut quoted: String = whole.chars().filter(|c| !c.is_control()).take(QUOTED).collect();
    if whole.chars().count() > QUOTED {
        quoted.push('…');
    }
    if quoted.is_empty() {
        format!("line {line}, column {column}")
    } else {
        format!("line {line}, column {column} (`{quoted}`)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_with_a_place() {
        for (text, wanted) in [
            ("seed = 1\nrounds = many\n", "line 2, column 10 (`rounds = many`): "),
            ("a = 1\nb = \"x\n", "line 2, column "),
            ("a = 1\na = 2\n", "line 2, column 1 (`a = 2`): "),
            ("\u{e4} = 1\n", "line 1, column 1 "),
            ("x = [1, 2\n", "line 1, column "),
            ("= 1", "line 1, column 1 (`= 1`): "),
        ] {
            let error = text.parse::<toml::Table>().unwrap_err();
            let words = toml_error(text, &error);
            assert!(words.starts_with(wanted) && !words.contains('\n'), "{text:?}: {words}");
        }
        assert_eq!(place("", &(0..0)), "line 1, column 1");
        assert_eq!(place("ab\ncd", &(99..100)), "line 2, column 3 (`cd`)");
    }
}
