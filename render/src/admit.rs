//! MathML of which every element and every attribute is known.

use crate::escape::push_escaped;
use crate::formula::Rejected;
use crate::prepare::PERCENT;

/// Deepest nesting of MathML elements; HTML parsers flatten what lies deeper than 512.
const MAX_ELEMENTS_DEEP: usize = 250;

/// What a bar over letters is in [`ACCENTS`].
pub(crate) const MACRON: char = '\u{af}';

/// Accents over letters: acute, grave, circumflex, caron, breve, tilde, diaeresis, dot, ring and bar. Fonts draw them at the
/// height of small letters, and browsers lift them where it says `accent`.
const ACCENTS: [char; 10] =
    ['\u{b4}', '\u{2cb}', '\u{2c6}', '\u{2c7}', '\u{2d8}', '\u{2dc}', '\u{a8}', '\u{2d9}', '\u{2da}', MACRON];

const TAGS: &str = "math mrow mi mn mo mtext mspace msub msup msubsup munder mover munderover mfrac msqrt mroot mtable mtr mtd \
    mpadded mphantom mstyle";

const ATTRIBUTES: &str = "display displaystyle scriptlevel class stretchy symmetric minsize maxsize largeop movablelimits mathvariant \
    width height depth linethickness accent accentunder";

fn is_among(words: &str, name: &str) -> bool {
    words.split(' ').any(|word| word == name)
}

/// Copies MathML, admitting known elements and attributes only and escaping all text anew. pulldown-latex does not escape
/// everything (`<` as a relation, the argument of `\operatorname`), so what it writes is not trusted either.
pub(crate) fn admit(mathml: &str) -> Result<String, Rejected> {
    let mut out = String::with_capacity(mathml.len() + 64);
    // The elements that are open, and where the name of each ends in `out`.
    let mut open: Vec<(&str, usize)> = Vec::new();
    let mut rest = mathml;
    while let Some(c) = rest.chars().next() {
        let next = rest.as_bytes().get(1).copied().unwrap_or(b' ');
        if c == '<' && (next == b'/' || next.is_ascii_alphabetic()) {
            let end = rest.find('>').ok_or(Rejected)?;
            let tag = &rest[1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                let Some((_, at)) = open.pop().filter(|(opened, _)| *opened == name) else {
                    return Err(Rejected);
                };
                let over =
                    out.strip_suffix("</mi>").or_else(|| out.strip_suffix("</mo>")).unwrap_or_default();
                if name == "mover" && over.ends_with(ACCENTS) && over.trim_end_matches(ACCENTS).ends_with('>')
                {
                    out.insert_str(at, " accent=\"true\"");
                }
                out.push_str(&format!("</{name}>"));
                continue;
            }
            let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let name = tag.split_ascii_whitespace().next().unwrap_or_default();
            // The only <math> is the outermost element, and there is one.
            if !is_among(TAGS, name) || (name == "math") != (open.is_empty() && out.is_empty()) {
                return Err(Rejected);
            }
            out.push('<');
            out.push_str(name);
            let named = out.len();
            admit_attributes(&mut out, &tag[name.len()..])?;
            out.push('>');
            if empty {
                out.push_str(&format!("</{name}>"));
            } else {
                open.push((name, named));
                if open.len() > MAX_ELEMENTS_DEEP {
                    return Err(Rejected);
                }
            }
            continue;
        }
        if open.is_empty() {
            return Err(Rejected);
        }
        let entity = [
            ("&amp;nbsp;", "\u{a0}"),
            ("&amp;", "&"),
            ("&lt;", "<"),
            ("&gt;", ">"),
            ("&nbsp;", "\u{a0}"),
            (PERCENT, "%"),
        ]
        .into_iter()
        .find(|(entity, _)| rest.starts_with(entity));
        let (text, length) =
            entity.map_or((&rest[..c.len_utf8()], c.len_utf8()), |(entity, text)| (text, entity.len()));
        push_escaped(&mut out, text);
        rest = &rest[length..];
    }
    if open.is_empty() && !out.is_empty() { Ok(out) } else { Err(Rejected) }
}

/// ` name="value"…`: names from the list, values of lengths, numbers and words.
fn admit_attributes(out: &mut String, attributes: &str) -> Result<(), Rejected> {
    let mut rest = attributes.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").ok_or(Rejected)?;
        let (value, after) = after.split_once('"').ok_or(Rejected)?;
        rest = after.trim_start();
        let plain = |c: char| c.is_ascii_alphanumeric() || " .-+%_#:;()".contains(c);
        if !value.chars().all(plain) {
            return Err(Rejected);
        }
        if name == "style" {
            if value.contains("border:") {
                out.push_str(" class=\"boxed\"");
            } else if let Some((property @ ("height" | "margin-left"), length)) =
                value.split_once(':').map(|(property, length)| (property, length.trim()))
            {
                out.push_str(&format!(" style=\"{property}: {length}\""));
            }
        } else if is_among(ATTRIBUTES, name) {
            out.push_str(&format!(" {name}=\"{value}\""));
        } else {
            return Err(Rejected);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_admitted() {
        assert_eq!(admit("<math><script>x</script></math>"), Err(Rejected));
        assert_eq!(admit("<math><mi onclick=\"x\">x</mi></math>"), Err(Rejected));
        assert_eq!(admit("<math><mi>x</math>"), Err(Rejected));
        assert_eq!(admit("<math></math><math></math>"), Err(Rejected));
        assert_eq!(admit("<math><mo><</mo></math>").unwrap(), "<math><mo>&lt;</mo></math>");
    }
}
