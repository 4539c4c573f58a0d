//! Texts and numbers as Python writes them.

/// A text in quotes that `code` begins with: its value, and how many bytes it takes. `None` where it does not end, or is
/// none that Python would read.
pub(super) fn text(code: &str) -> Option<(String, usize)> {
    let length = length_of_text(code)?;
    let mut rest = code[1..length - 1].chars();
    let mut value = String::with_capacity(length);
    while let Some(c) = rest.next() {
        if c != '\\' {
            value.push(c);
            continue;
        }
        let escaped = rest.next()?;
        let digits = |rest: &mut std::str::Chars<'_>, count: usize| {
            let digits: String = rest.by_ref().take(count).collect();
            let all = digits.len() == count && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            all.then(|| u32::from_str_radix(&digits, 16).ok()).flatten()
        };
        match escaped {
            '\n' => {}
            '\\' | '\'' | '"' => value.push(escaped),
            'a' => value.push('\u{7}'),
            'b' => value.push('\u{8}'),
            'f' => value.push('\u{c}'),
            'n' => value.push('\n'),
            'r' => value.push('\r'),
            't' => value.push('\t'),
            'v' => value.push('\u{b}'),
            'x' => value.push(char::from_u32(digits(&mut rest, 2)?)?),
            'u' => value.push(char::from_u32(digits(&mut rest, 4)?)?),
            'U' => value.push(char::from_u32(digits(&mut rest, 8)?)?),
            '0'..='7' => {
                let mut code = escaped.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = rest.clone().next().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    rest.next();
                }
                value.push(char::from_u32(code)?);
            }
            'N' => return None,
            other => value.extend(['\\', other]),
        }
    }
    Some((value, length))
}

/// Bytes of a text in quotes that `code` begins with, the quotes among them; `None` where it does not end.
pub(super) fn length_of_text(code: &str) -> Option<usize> {
    let quote = code.chars().next()?;
    let mut is_escaped = true;
    for (at, c) in code.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// A number that `code` begins with, in decimal notation without underscores, and how many bytes it takes.
pub(super) fn number(code: &str) -> Option<(String, usize)> {
    let bytes = code.as_bytes();
    let run = |from: usize, is: fn(&u8) -> bool| {
        let mut end = from;
        while bytes.get(end).is_some_and(|byte| is(byte) || (*byte == b'_' && end > from)) {
            end += 1;
        }
        end
    };
    let plain = |from: usize, to: usize| code[from..to].replace('_', "");
    if bytes.first() == Some(&b'0')
        && let Some(radix) = bytes.get(1).and_then(|mark| match mark.to_ascii_lowercase() {
            b'x' => Some(16),
            b'o' => Some(8),
            b'b' => Some(2),
            _ => None,
        })
    {
        let end = run(2, u8::is_ascii_hexdigit);
        return Some((i128::from_str_radix(&plain(2, end), radix).ok()?.to_string(), end));
    }
    let mut end = run(0, u8::is_ascii_digit);
    let mut is_whole = true;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = run(end + 1, u8::is_ascii_digit);
        is_whole = false;
    }
    if bytes.get(end).is_some_and(|byte| byte.eq_ignore_ascii_case(&b'e')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end = run(end + 1 + sign, u8::is_ascii_digit);
            is_whole = false;
        }
    }
    let digits = plain(0, end);
    // Zeros before a number are no sign of an octal one, and the engine takes none.
    let digits = match digits.trim_start_matches('0') {
        trimmed if trimmed.starts_with(|c: char| c.is_ascii_digit()) => trimmed.to_owned(),
        trimmed => format!("0{trimmed}"),
    };
    Some((if is_whole { digits } else { float(&digits)? }, end))
}

/// A float in a notation with a point, which the engine needs to take it for one.
fn float(digits: &str) -> Option<String> {
    let value: f64 = digits.parse().ok()?;
    let text = format!("{value:?}");
    Some(match text.split_once('e') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0e{exponent}"),
        _ => text,
    })
}
