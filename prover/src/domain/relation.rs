//! Comparisons of sums and products: `b < a`, `a + b <= c`, `c + 4 <= u*v`.

use std::collections::BTreeMap;
use std::fmt;

/// Symbols of a comparison at most.
const LONGEST: usize = 200;

/// `left < right`, or `left <= right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    text: String,
    left: Sum,
    right: Sum,
    or_equal: bool,
}

/// Products with their signs.
type Sum = Vec<(bool, Vec<Factor>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Factor {
    Number(i128),
    Name(String),
}

impl Relation {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("has {} bytes, and may have {LONGEST}", text.len()));
        }
        let (left, right) = text
            .split_once('<')
            .ok_or_else(|| format!("`{text}` is no comparison: write it as in `b < a` or `a + b <= 2*c`"))?;
        let (right, or_equal) = right.strip_prefix('=').map_or((right, false), |right| (right, true));
        Ok(Self { text: text.trim().to_owned(), left: sum(left)?, right: sum(right)?, or_equal })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let factors = self.left.iter().chain(&self.right).flat_map(|(_, factors)| factors);
        factors.filter_map(|factor| match factor {
            Factor::Name(name) => Some(name.as_str()),
            Factor::Number(_) => None,
        })
    }

    /// False as well where the numbers are too large to be computed with.
    pub(super) fn holds(&self, values: &BTreeMap<&str, u64>) -> bool {
        match (value(&self.left, values), value(&self.right, values)) {
            (Some(left), Some(right)) => left < right || self.or_equal && left == right,
            _ => false,
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn value(sum: &Sum, values: &BTreeMap<&str, u64>) -> Option<i128> {
    let mut total = 0i128;
    for (minus, factors) in sum {
        let mut product = 1i128;
        for factor in factors {
            let factor = match factor {
                Factor::Number(number) => *number,
                Factor::Name(name) => i128::from(*values.get(name.as_str())?),
            };
            product = product.checked_mul(factor)?;
        }
        total = if *minus { total.checked_sub(product)? } else { total.checked_add(product)? };
    }
    Some(total)
}

/// `a + 2*b - 3`.
fn sum(text: &str) -> Result<Sum, String> {
    let mut terms = Vec::new();
    let mut minus = false;
    let mut rest = text;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let product = rest[..end].split('*').map(factor).collect::<Result<Vec<_>, _>>()?;
        terms.push((minus, product));
        let Some(sign) = rest[end..].chars().next() else { return Ok(terms) };
        minus = sign == '-';
        rest = &rest[end + 1..];
    }
}

fn factor(text: &str) -> Result<Factor, String> {
    let text = text.trim();
    let is_word = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_word {
        return Err(format!("`{text}` is neither a number nor the name of one"));
    }
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(Factor::Name(text.to_owned()));
    }
    let number = text.parse::<u32>().map_err(|_| format!("`{text}` is no number below 4294967296"))?;
    Ok(Factor::Number(number.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_of_sums_and_products() {
        let holds = |text: &str, numbers: &[(&'static str, u64)]| {
            Relation::parse(text).unwrap().holds(&numbers.iter().copied().collect())
        };
        assert!(holds("b < a", &[("a", 2), ("b", 1)]) && !holds("b < a", &[("a", 1), ("b", 1)]));
        assert!(holds("2*a*b - 3 <= 1 + c", &[("a", 2), ("b", 3), ("c", 8)]));
        assert!(!holds("2*a*b - 3 <= 1 + c", &[("a", 2), ("b", 3), ("c", 7)]));
        // a difference below zero, and a product that cannot be computed
        assert!(holds("a - b < 0", &[("a", 1), ("b", 2)]));
        assert!(!holds("0 < a*a*a*a", &[("a", u64::MAX)]));
        for bad in [
            "",
            "a",
            "a > b",
            "a <",
            "< a",
            "a << b",
            "a < b < c",
            "a < -b",
            "a < b()",
            "a < 99999999999",
            "a < é",
        ] {
            assert!(Relation::parse(bad).is_err(), "{bad}");
        }
    }
}
