//! Texts that nobody thought of, by every model's rules.

use super::*;
use kiln_contract::key::hash_text;
use kiln_fuzz::Target;

#[test]
fn fuzz_text_rules() {
    let pieces = [
        "A",
        "a",
        " ",
        "\u{a0}",
        "\u{130}",
        "i\u{307}",
        "\u{3a3}",
        "\u{df}",
        "\u{1e9e}",
        "\u{fb01}",
        "e\u{301}",
        "\u{345}",
        "\u{344}",
        "\u{1f88}",
        "\u{fdfa}",
        "\u{2126}",
        "\u{212b}",
        "\u{1100}",
        "\u{1161}",
        "\u{11a8}",
        "\u{ac00}",
        "\u{0f73}",
        "\u{3000}",
        "\u{85}",
        "\u{200b}",
        "\u{feff}",
        "\u{ff21}",
        "\u{1d160}",
        "\u{34f}",
        "\n",
        "\u{2f800}",
        "\u{c5}",
        "\u{149}",
        "\u{1f0}",
        "\u{587}",
        "\u{1e96}",
        "\u{10400}",
        "\u{13a0}",
        "\u{fe00}",
        "\u{0}",
    ];
    Target::new("text_rules").memory(64 << 10, 256).run(|case| {
        let rules = TextRules {
            unicode: *case.pick(&[UnicodeForm::Nfc, UnicodeForm::Nfkc, UnicodeForm::None]),
            lowercase: case.one_in(2),
            collapse_whitespace: case.one_in(2),
        };
        let mut text = String::new();
        while case.goes_on() && text.len() < 4_096 {
            text.push_str(case.pick::<&str>(&pieces));
        }
        let once = case.bounded(text.len(), || rules.apply(&text).into_owned());
        assert_eq!(rules.apply(&once), once, "of {text:?} by {rules:?}");
        assert_eq!(hash_text(&once, None), hash_text(&rules.apply(&once), None));
        case.saw(if once == text { "as it was" } else { "changed" });
    });
}
