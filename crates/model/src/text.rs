//! How a model's manifest wants its texts: the rules, and the pure function that applies them.
//!
//! Promises that applying the rules twice gives what applying them once gave, and that a text they would not change
//! is handed back without a copy.

use std::borrow::Cow;

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;

/// Which of Unicode's normal forms a text is brought into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnicodeForm {
    /// Canonical composition: the same characters, written one way.
    Nfc,
    /// Compatibility composition: also folds ligatures, full-width letters and the like.
    Nfkc,
    /// Left as it came.
    #[default]
    None,
}

/// The manifest's rules for texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextRules {
    /// The Unicode normal form.
    pub unicode: UnicodeForm,
    /// Whether letters become small letters.
    pub lowercase: bool,
    /// Whether runs of whitespace become one space, and none is left at the ends.
    pub collapse_whitespace: bool,
}

/// Rounds after which a text counts as stable. One round is enough for nearly every text; small letters that compose again,
/// or a compatibility form that begins with a space, take a second.
const MAX_ROUNDS: usize = 8;

impl TextRules {
    /// The text by these rules.
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if text.is_ascii() && self.leaves_ascii(text) {
            return Cow::Borrowed(text);
        }
        let mut settled = Cow::Borrowed(text);
        for _ in 0..MAX_ROUNDS {
            let next = self.round(&settled);
            if next == settled {
                break;
            }
            settled = Cow::Owned(next);
        }
        settled
    }

    fn round(&self, text: &str) -> String {
        let formed: String = match self.unicode {
            UnicodeForm::Nfc => text.nfc().collect(),
            UnicodeForm::Nfkc => text.nfkc().collect(),
            UnicodeForm::None => text.to_owned(),
        };
        let cased = if self.lowercase {
            formed.to_lowercase()
        } else {
            formed
        };
        if self.collapse_whitespace {
            collapse(&cased)
        } else {
            cased
        }
    }

    fn leaves_ascii(&self, text: &str) -> bool {
        if self.lowercase && text.bytes().any(|b| b.is_ascii_uppercase()) {
            return false;
        }
        if !self.collapse_whitespace {
            return true;
        }
        let mut after_space = true;
        for c in text.chars() {
            let space = c.is_whitespace();
            if space && (after_space || c != ' ') {
                return false;
            }
            after_space = space;
        }
        text.is_empty() || !after_space
    }
}

fn collapse(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: TextRules = TextRules {
        unicode: UnicodeForm::Nfkc,
        lowercase: true,
        collapse_whitespace: true,
    };

    fn every_rule_set() -> Vec<TextRules> {
        let mut sets = Vec::new();
        for unicode in [UnicodeForm::Nfc, UnicodeForm::Nfkc, UnicodeForm::None] {
            for (lowercase, collapse_whitespace) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                sets.push(TextRules {
                    unicode,
                    lowercase,
                    collapse_whitespace,
                });
            }
        }
        sets
    }

    #[test]
    fn folds_form_case_and_whitespace() {
        assert_eq!(
            ALL.apply("  Ｌove\u{a0}\t the ﬁt!\n"),
            "love the fit!".to_owned()
        );
        assert_eq!(ALL.apply("e\u{301}"), "é");
        assert_eq!(TextRules::default().apply(" As\tIs "), " As\tIs ");
    }

    #[test]
    fn borrows_what_it_would_not_change() {
        for text in ["", "plain words, once", "déjà vu 東京"] {
            let applied = ALL.apply(text);
            assert_eq!(applied, text);
            if text.is_ascii() {
                assert!(matches!(applied, Cow::Borrowed(_)), "{text:?} was copied");
            }
        }
    }

    #[test]
    fn every_character_settles() {
        for rules in every_rule_set() {
            for c in '\0'..=char::MAX {
                let text = format!("a{c}B {c}");
                let once = rules.apply(&text).into_owned();
                assert_eq!(
                    rules.apply(&once),
                    once,
                    "U+{:04X} under {rules:?}",
                    c as u32
                );
            }
        }
    }

    proptest! {
        #[test]
        fn twice_is_once(text in "\\PC{0,24}|[ \\t\\nA-Zaσς İΣ\u{300}-\u{310}ﬁ¨ﷺ]{0,16}") {
            for rules in every_rule_set() {
                let once = rules.apply(&text).into_owned();
                prop_assert_eq!(&rules.apply(&once), &once);
            }
        }
    }
}
