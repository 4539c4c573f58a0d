//! A problem in a line: what a page is called after.

use crate::markdown::render;

/// Most characters of a heading. Longer statements are cut between two words, never within a formula.
const LONGEST: usize = 100;

/// The first paragraph of a statement on one line, with its formulas as they were written, and `…` where it goes on.
pub fn heading(statement: &str) -> String {
    let paragraph = statement.trim().split("\n\n").next().unwrap_or_default();
    let paragraph = paragraph.trim_start_matches(['#', '*', '>', ' ']);
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let line = words.join(" ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    let mut end = 0;
    for (count, (at, c)) in line.char_indices().enumerate() {
        if count >= LONGEST {
            break;
        }
        if c == ' ' && !within_formula(&line[..at]) {
            end = at;
        }
    }
    if end == 0 {
        // One long word, or a formula: as much of it as there is room for.
        end = line.char_indices().nth(LONGEST).map_or(line.len(), |(at, _)| at);
    }
    format!("{}…", line[..end].trim_end_matches([',', ';', ':', '.', ' ']))
}

/// The same without the delimiters of formulas, for a window's title.
pub fn plain(heading: &str) -> String {
    ["$$", "$", "\\(", "\\)", "\\[", "\\]"]
        .iter()
        .fold(heading.to_owned(), |text, mark| text.replace(mark, ""))
}

/// The same as HTML within an `<h1>`, and how many formulas that has. `None` where it is more than one paragraph of text, or
/// has a formula that cannot be rendered.
pub fn html(heading: &str) -> Option<(String, usize)> {
    let rendered = render(heading);
    let inner = rendered.html.trim_end().strip_prefix("<p>")?.strip_suffix("</p>")?;
    // A heading holds neither paragraphs nor blocks.
    let is_inline = !["<p", "<div", "<pre", "<ul", "<ol", "<table", "<h", "<code class=\"tex"]
        .iter()
        .any(|tag| inner.contains(tag));
    (is_inline && rendered.rejected.is_empty()).then(|| (inner.to_owned(), rendered.formulas))
}

/// Whether a formula is open at the end of a text.
fn within_formula(text: &str) -> bool {
    let dollars = text.replace("\\$", "").matches('$').count();
    let open = |begin: &str, end: &str| text.matches(begin).count() > text.matches(end).count();
    dollars % 2 == 1 || open("\\(", "\\)") || open("\\[", "\\]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_cut_between_words_and_outside_formulas() {
        assert_eq!(heading("Prove that gcd(84, 30) = 6.\n"), "Prove that gcd(84, 30) = 6.");
        assert_eq!(heading("# Problem 1\n\nLet $x$ be"), "Problem 1");
        assert_eq!(heading("Let\n $x$  be\na number."), "Let $x$ be a number.");
        let long = format!("A line is called sunny if $a {} z$ and so on, and so on", "+ b ".repeat(30));
        assert_eq!(heading(&long), "A line is called sunny if…");
        let many = "word, ".repeat(40);
        let cut = heading(&many);
        assert!(cut.ends_with("word…") && cut.chars().count() <= LONGEST + 1, "{cut}");
        assert_eq!(heading(&"x".repeat(500)).chars().count(), LONGEST + 1);
        assert_eq!(heading(&"ä".repeat(500)).chars().count(), LONGEST + 1);
        assert_eq!(heading(""), "");
    }

    #[test]
    fn a_title_has_no_delimiters_and_a_heading_its_formulas() {
        assert_eq!(
            plain("Prove that $\\sqrt{2}$ is \\(not\\) rational."),
            "Prove that \\sqrt{2} is not rational."
        );
        let (inner, formulas) = html("Prove that $\\sqrt{2}$ is irrational.").unwrap();
        assert!(inner.contains("<msqrt>") && formulas == 1, "{inner}");
        assert_eq!(html("- a list"), None);
        assert_eq!(html("$\\undefined$ here"), None);
    }
}
