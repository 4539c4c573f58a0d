//! The font of the formulas.

use base64::prelude::{BASE64_STANDARD, Engine as _};

/// The rule of CSS that brings the font `Porism Math` into a page: a subset of STIX Two Math, so that formulas stand right where
/// no font for mathematics is installed. `fonts/make.py` makes it. It is larger than many a page without formulas.
pub fn font_face() -> String {
    let font = BASE64_STANDARD.encode(include_bytes!("../fonts/porism-math.woff2"));
    format!(
        "@font-face {{ font-family: \"Porism Math\"; src: url(data:font/woff2;base64,{font}) format(\"woff2\"); }}"
    )
}
