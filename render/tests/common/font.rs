//! Which characters of formulas the report's own font lacks.

use std::collections::BTreeSet;

/// What the font has, as `fonts/make.py` wrote it down.
fn characters() -> BTreeSet<char> {
    let list = include_str!("../../fonts/characters.txt");
    let read = |line: &str| u32::from_str_radix(line, 16).ok().and_then(char::from_u32);
    list.lines().map(|line| read(line).unwrap_or_else(|| panic!("`{line}` is no character"))).collect()
}

/// The letter that a browser draws for an identifier of one letter.
fn italic(c: char) -> char {
    let shifted = |first: char, start: u32| char::from_u32(c as u32 - first as u32 + start).unwrap_or(c);
    match c {
        'h' => 'ℎ',
        'A'..='Z' => shifted('A', 0x1d434),
        'a'..='z' => shifted('a', 0x1d44e),
        'Α'..='Ω' => shifted('Α', 0x1d6e2),
        'α'..='ω' => shifted('α', 0x1d6fc),
        c => c,
    }
}

/// Characters that the formulas of a page show and the font has not.
pub fn missing(html: &str) -> BTreeSet<char> {
    let known = characters();
    let mut missing = BTreeSet::new();
    for formula in html.split("<math").skip(1) {
        let formula = formula.split("</math>").next().unwrap_or_default();
        for element in formula.split('<').skip(1) {
            let (tag, text) = element.split_once('>').unwrap_or_default();
            let text =
                text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&#39;", "'");
            let is_identifier = tag == "mi" && text.chars().count() == 1;
            let shown = text.chars().map(|c| if is_identifier { italic(c) } else { c });
            missing.extend(shown.filter(|c| !known.contains(c)));
        }
    }
    missing
}
