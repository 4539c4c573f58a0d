//! A model's text to HTML: Markdown with LaTeX formulas, as proofs and evaluations are written.
//!
//! The text is untrusted. What comes out has no script, no link, no image and no attribute that the text chose; whatever is no
//! Markdown of ours stays visible as text. Formulas stand between `\( \)`, `\[ \]`, `$ $`, `$$ $$` or in a bare
//! `\begin{align}…\end{align}` (and its siblings) and become MathML; one that cannot be rendered is shown as code, never dropped.
//! Any text is rendered: nothing fails or panics, and the time is in proportion to the length.
//!
//! ```text
//! text → formula (where the formulas are) → markdown → HTML
//!           └→ math: prepare (LaTeX that pulldown-latex knows) → pulldown-latex → admit (known elements only) → MathML
//! ```
//!
//! ```
//! let rendered = porism_render::render("So \\( x<1 \\), **done**.");
//! assert_eq!((rendered.formulas, rendered.rejected.len()), (1, 0));
//! assert!(rendered.html.starts_with("<p>So <math display=\"inline\">"));
//! assert!(rendered.html.ends_with("<strong>done</strong>.</p>\n"));
//! ```

mod admit;
mod escape;
mod font;
mod formula;
pub mod heading;
mod markdown;
mod math;
mod prepare;

pub use escape::escape;
pub use font::font_face;
pub use markdown::{Rendered, render};
