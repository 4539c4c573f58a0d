//! Numbers, lists, tables and verdicts as text, and text of others as it may be shown.

use std::borrow::Cow;

use porism_prover::pool::State;
use porism_prover::recompute::Recomputed;
use porism_runtime::units;

/// Whether a character would steer whoever shows it: a terminal (C0 and C1, among them what begins an escape sequence), or the
/// direction of all that follows.
pub fn steers(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// Text that is not ours, as it may be shown: what would steer a terminal becomes U+FFFD. Ends of lines may be those of Windows.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let lines = text.replace("\r\n", "\n");
    Cow::Owned(lines.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect())
}

/// `689.4 GB`
pub fn bytes(bytes: u64) -> String {
    units::size(bytes)
}

/// `12.3 GB/s`
pub fn bytes_per_second(rate: f64) -> String {
    let (value, unit) = units::scaled(rate);
    format!("{value:.1} {unit}/s")
}

/// `671,026,419,200`
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What came of a proof: `passed`, `is proof 3 again: rejected`. Of one that is still written or read, nothing.
pub fn verdict(state: &State, again: Option<u32>, recomputed: Option<&Recomputed>) -> Option<String> {
    let words = match state {
        State::Passed if recomputed.is_some() => "passed, and holds as a program recomputes it".to_owned(),
        State::Passed => "passed".to_owned(),
        State::Refuted => match recomputed.and_then(|found| found.why.as_deref()) {
            Some(why) => format!("refuted by a program: {why}"),
            None => "refuted by a program".to_owned(),
        },
        State::Rejected => "rejected".to_owned(),
        State::Undecided => "undecided".to_owned(),
        State::Failed(why) => format!("lost: {why}"),
        State::Duplicate(twin) => format!("the same as proof {twin}"),
        State::Writing | State::Reading => return None,
    };
    Some(match again {
        Some(twin) => format!("is proof {twin} again: {words}"),
        None => words,
    })
}

/// `1 tensor`, `2 tensors`
pub fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// `40 µs`, `12 s`, `4 min`, `2.3 h`: as exact as a prediction is.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 90.0 * 60.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{} days", count((s / 86400.0).round() as u64)),
    }
}

/// Lines of at most `room` columns, broken between words; a longer word has a line of its own.
pub fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Rows as aligned columns two spaces apart; columns named in `right` are aligned to the right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = widths[column];
                if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_steers_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\n"), "a\u{fffd}[2Jb\tc\n");
        assert_eq!(printable("\u{9b}2J\u{202e}cba\rd\r\n\u{7f}"), "\u{fffd}2J\u{fffd}cba\u{fffd}d\n\u{fffd}");
        assert_eq!(printable("plain, ∑ and אב"), "plain, ∑ and אב");
        assert!(!printable(&(0..0x3000).filter_map(char::from_u32).collect::<String>()).contains(steers));
    }

    #[test]
    fn sizes_are_written_with_one_decimal() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(689_400_000_000), "689.4 GB");
        assert_eq!(bytes_per_second(12.34e9), "12.3 GB/s");
        assert_eq!((count(0), count(1234567)), ("0".into(), "1,234,567".into()));
        assert_eq!((plural(1, "shard"), plural(163, "shard")), ("1 shard".into(), "163 shards".into()));
    }

    #[test]
    fn durations_are_as_exact_as_predictions() {
        let found = [4e-5, 0.25, 12.0, 225.0, 8280.0, 400_000.0].map(duration);
        assert_eq!(found, ["40 µs", "250 ms", "12 s", "4 min", "2.3 h", "5 days"]);
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("one two  three unbreakable", 9), ["one two", "three", "unbreakable"]);
        assert!(wrap(" ", 9).is_empty());
    }

    #[test]
    fn tables_align() {
        let rows = [vec!["a".into(), "1".into(), "x".into()], vec!["bcd".into(), "22".into(), String::new()]];
        assert_eq!(table(&rows, &[1]), ["a     1  x", "bcd  22"]);
    }
}
