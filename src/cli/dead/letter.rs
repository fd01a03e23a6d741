//! Owns which letters a filter of the command line means. Pure.

use crate::amqp::letter::Letter;
use chrono::{DateTime, Utc};
use clap::Args;
use kiln_contract::failure::Code;
use std::time::Duration;

/// Characters of a pattern that are noted.
const NAMED: usize = 100;

/// Which letters are meant; without any of it, all.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Only letters with this code.
    #[arg(long, value_parser = code)]
    pub(super) code: Option<Code>,
    /// Only letters of these jobs: a pattern with * and ?, or else a prefix of the id.
    #[arg(long, value_name = "PATTERN")]
    pub(super) job_id: Option<String>,
    /// Only letters older than this: a number with s, m, h or d.
    #[arg(long, value_name = "AGE", value_parser = crate::cli::age::age)]
    pub(super) older_than: Option<Duration>,
    /// At most this many letters.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
}

impl Filter {
    /// Whether it leaves any letter out.
    pub(super) fn is_any(&self) -> bool {
        self.code.is_none()
            && self.job_id.is_none()
            && self.older_than.is_none()
            && self.limit.is_none()
    }

    /// Which letters are meant, in a few words.
    pub(super) fn words(&self) -> String {
        let cut = |pattern: &String| pattern.chars().take(NAMED).collect::<String>();
        let job_id = self.job_id.as_ref().map(cut);
        let said = [
            job_id.map(|pattern| format!("job id {pattern}")),
            self.code.map(|code| format!("code {}", code.as_str())),
            self.older_than
                .map(|age| format!("older than {} s", age.as_secs())),
            self.limit.map(|limit| format!("at most {limit}")),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        match said.is_empty() {
            true => "all".to_owned(),
            false => said.join(", "),
        }
    }

    /// Whether a letter is meant. One that doesn't say when it failed is older than nothing.
    pub(super) fn means(&self, letter: &Letter, now: DateTime<Utc>) -> bool {
        let old = |age: Duration| {
            letter
                .time()
                .is_some_and(|at| (now - at).to_std().is_ok_and(|passed| passed > age))
        };
        let named = |pattern: &String| letter.job_id.as_deref().is_some_and(|id| fits(pattern, id));
        self.code
            .is_none_or(|code| letter.code.as_deref() == Some(code.as_str()))
            && self.job_id.as_ref().is_none_or(named)
            && self.older_than.is_none_or(old)
    }
}

fn code(text: &str) -> Result<Code, String> {
    let known = Code::ALL.into_iter().find(|code| code.as_str() == text);
    known.ok_or_else(|| {
        let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", all.join(", "))
    })
}

/// Whether a text fits a pattern in which `*` stands for anything and `?` for one character. A pattern with
/// neither stands for every text that starts with it.
fn fits(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return text.starts_with(pattern);
    }
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // Where the last star stood, and the text that it has not swallowed yet.
    let mut star: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        match (pattern.next(), text.clone().next()) {
            (Some('*'), _) => star = Some((pattern.clone(), text.clone())),
            (None, None) => return true,
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                text.next();
            }
            _ => {
                let Some((after, swallowed)) = &mut star else {
                    return false;
                };
                if swallowed.next().is_none() {
                    return false;
                }
                (pattern, text) = (after.clone(), swallowed.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_shells_mean_and_plain_text_is_a_start() {
        for (pattern, text, expected) in [
            ("job-", "job-1", true),
            ("job-1", "job-10", true),
            ("", "anything", true),
            ("job-1", "my-job-1", false),
            ("job-?", "job-1", true),
            ("job-?", "job-10", false),
            ("*-1", "job-1", true),
            ("*-1", "job-1-1", true),
            ("*-1", "job-12", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*", "", true),
            ("?", "", false),
            ("*é?", "caféx", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} on {text}");
        }
    }

    proptest! {
        #[test]
        fn a_star_anywhere_still_means_the_text(text in "[ab*?]{0,12}", at in any::<prop::sample::Index>()) {
            let at = at.index(text.len() + 1);
            let pattern = format!("{}*{}", &text[..at], &text[at..]);
            prop_assert!(fits(&pattern, &text));
        }
    }

    #[test]
    fn a_filter_looks_at_code_id_and_age() {
        let now = Utc::now();
        let letter = Letter {
            failed_at: Some(crate::clock::rfc3339(now - chrono::TimeDelta::hours(2))),
            job_id: Some("reviews-7".into()),
            code: Some("invalid".into()),
            ..Letter::default()
        };
        let all = Filter::default();
        assert!(all.is_any() && all.means(&letter, now));
        assert_eq!(all.words(), "all");
        let filter = |code, job_id: Option<&str>, hours: Option<u64>| Filter {
            code,
            job_id: job_id.map(str::to_owned),
            older_than: hours.map(|h| Duration::from_secs(h * 3_600)),
            limit: None,
        };
        assert!(filter(Some(Code::Invalid), Some("reviews-*"), Some(1)).means(&letter, now));
        assert!(!filter(Some(Code::Expired), None, None).means(&letter, now));
        let words = filter(Some(Code::Invalid), Some("reviews-*"), Some(1)).words();
        assert_eq!(words, "job id reviews-*, code invalid, older than 3600 s");
        assert!(!filter(None, Some("x"), None).means(&letter, now));
        assert!(!filter(None, None, Some(3)).means(&letter, now));
        // A message that says nothing is meant only by a filter that asks for nothing.
        let foreign = Letter::default();
        assert!(all.means(&foreign, now));
        assert!(!filter(None, Some("*"), None).means(&foreign, now));
        assert!(!filter(None, None, Some(0)).means(&foreign, now));
    }

    #[test]
    fn codes_are_the_contracts() {
        assert_eq!(code("too_large"), Ok(Code::TooLarge));
        assert!(code("bad").is_err_and(|e| e.contains("unknown_model")));
    }
}
