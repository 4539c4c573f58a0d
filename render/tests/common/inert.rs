//! What nothing that a model wrote can bring into a page.

/// Texts that try.
pub const HOSTILE: [&str; 14] = [
    "<script>alert(1)</script>",
    "\\(x\\)<script>alert(1)</script>\\[y\\]",
    "[x](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "<javascript:alert(1)> <http://evil.example> http://evil.example",
    "[x]: http://evil.example \"t\"\n\n[x] and [^1]\n\n[^1]: note",
    "<img src=x onerror=alert(1)><svg onload=alert(1)><iframe src=http://evil.example>",
    "\\(\\operatorname{<script>alert(1)</script>}\\) \\(\\text{</math><script>alert(1)</script>}\\)",
    "\\(\\href{javascript:alert(1)}{x}\\) \\(\\url{http://evil.example}\\)",
    "</article></main></body></html><style>*{display:none}</style>",
    "<!-- <div> \\[ <b> \\( $ $$ ``` <![CDATA[",
    "\u{e000}0\u{e001} \u{e002}script\u{e002} \u{e003}x](y) \u{e000}99999999999999999999\u{e001}",
    "&lt;script&gt; &#60;script&#62; &amp;lt; &quot; onload=&quot;x",
    "> > > <script>\n1. <script>\n\t<script>\n| <script> |\n|---|\n| <script> |",
    "```html\n<script>alert(1)</script>\n```\n`<script>`",
];

/// Tags in our pages; anything else in one came out of a text.
const TAGS: &str = " html head meta title style body header main section article aside footer h1 h2 h3 h4 h5 h6 p br hr div span \
    strong em a ul ol li pre code blockquote table thead tbody tr th td details summary svg g line circle text title math mrow \
    mi mn mo mtext mspace msub msup msubsup munder mover munderover mfrac msqrt mroot mtable mtr mtd ";

/// Fails on an unknown or unbalanced element, on an attribute that could act or point outside.
pub fn assert_inert(html: &str, of: &str) {
    let mut open = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if rest.starts_with("!DOCTYPE html>") {
            continue;
        }
        let end = rest.find('>').unwrap_or_else(|| panic!("a tag never ends, of {of}"));
        let tag = &rest[..end];
        rest = &rest[end..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "unbalanced, of {of}");
            continue;
        }
        let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let name = tag.split_whitespace().next().unwrap_or_default();
        assert!(TAGS.contains(&format!(" {name} ")), "<{tag}> of {of}");
        for attribute in tag.split_whitespace().skip(1) {
            assert!(!attribute.starts_with("on") && !attribute.starts_with("src"), "<{tag}> of {of}");
            assert!(!attribute.starts_with("href") || attribute.starts_with("href=\"#"), "<{tag}> of {of}");
        }
        if !empty && !matches!(name, "meta" | "br" | "hr") {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} stay open, of {of}");
}
