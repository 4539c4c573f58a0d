//! Styled text for a line of the terminal, and how many columns text takes.

use anstyle::Style;
use unicode_width::UnicodeWidthChar as _;

/// A piece of text in one style.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub text: String,
    pub style: Style,
}

/// A line of the terminal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line(pub Vec<Span>);

impl Span {
    pub fn plain(text: impl Into<String>) -> Self {
        Self::styled(text, Style::new())
    }

    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }

    pub fn width(&self) -> usize {
        width(&self.text)
    }
}

impl Line {
    pub fn plain(text: impl Into<String>) -> Self {
        Self(vec![Span::plain(text)])
    }

    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self(vec![Span::styled(text, style)])
    }

    #[cfg(test)]
    pub fn width(&self) -> usize {
        self.0.iter().map(Span::width).sum()
    }

    /// What fits into so many columns.
    #[must_use]
    pub fn fit(self, columns: usize) -> Self {
        let mut room = columns;
        let mut spans = Vec::with_capacity(self.0.len());
        for span in self.0 {
            let span = Span { text: cut(&span.text, room), ..span };
            room = room.saturating_sub(span.width());
            spans.push(span);
        }
        Self(spans)
    }

    /// As the terminal wants it; without colour, also without other styles, as everywhere.
    pub fn painted(&self, colour: bool) -> String {
        let paint = |span: &Span| {
            let style = span.style;
            if colour && !style.is_plain() {
                format!("{style}{}{style:#}", span.text)
            } else {
                span.text.clone()
            }
        };
        self.0.iter().map(paint).collect()
    }
}

/// Columns that clean text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// Whether a character would steer the terminal, or change how others look.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fe00}'..='\u{fe0f}')
}

/// What fits, without what would steer the terminal.
pub fn cut(text: &str, room: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    // Where it ends if the rest does not fit.
    let mut end = 0;
    let clean = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !steers(*c));
    for c in clean {
        let columns = columns(c);
        // Of marks that take no room, only so many: a terminal would have to store them all.
        if used + columns > room || out.len() > 8 * room + 8 {
            out.truncate(end);
            if room > 0 {
                out.push('…');
            }
            return out;
        }
        used += columns;
        out.push(c);
        if used < room {
            end = out.len();
        }
    }
    out
}

/// At most so many lines, broken between words.
pub fn wrap(text: &str, room: usize, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut line, mut used) = (String::new(), 0);
    for word in text.split_whitespace() {
        let columns = width(word);
        let joined = used + usize::from(used > 0) + columns;
        // The last line takes the rest, and is cut.
        if joined <= room || lines.len() + 1 >= most {
            if used > 0 {
                line.push(' ');
            }
            line.push_str(word);
            used = joined;
        } else {
            if used > 0 {
                lines.push(cut(&line, room));
            }
            word.clone_into(&mut line);
            used = columns;
        }
    }
    lines.push(cut(&line, room));
    lines
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("one two three four", 9, 4), ["one two", "three", "four"]);
        assert_eq!(wrap("one two three four", 9, 2), ["one two", "three fo…"]);
        assert_eq!(wrap("unbreakable", 5, 3), ["unbr…"]);
        assert_eq!(wrap(" ", 5, 3), [""]);
    }

    #[test]
    fn what_does_not_fit_is_cut_at_a_whole_character() {
        assert_eq!(cut("汉字汉", 5), "汉字…");
        assert_eq!(cut("汉字汉", 6), "汉字汉");
        assert_eq!((cut("abc", 0), cut("abc", 1), cut("", 0)), (String::new(), "…".into(), String::new()));
        assert_eq!(cut("a\t\u{1b}[2J\u{202e}b", 9), "a [2Jb");
        assert!(
            cut(&"e\u{301}".repeat(10_000), 4).len() < 50 && cut(&"\u{301}".repeat(10_000), 4).len() < 50
        );
        let line = Line(vec![Span::plain("one "), Span::plain("two")]);
        assert_eq!(line.clone().fit(5).painted(true), "one …");
        assert_eq!(line.fit(4).width(), 4);
    }

    #[test]
    fn without_colour_there_is_no_style() {
        let line = Line(vec![Span::plain("a"), Span::styled("b", AnsiColor::Red.on_default().bold())]);
        assert_eq!(line.painted(false), "ab");
        assert_eq!(line.painted(true), "a\u{1b}[1m\u{1b}[31mb\u{1b}[0m");
    }
}
