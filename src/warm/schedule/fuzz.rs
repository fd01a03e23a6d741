//! Schedule files that nobody thought of: each mistake has its place in the file, and what is taken makes sense.

use super::*;
use kiln_contract::{job, name};
use kiln_fuzz::Target;
use std::path::Path;

#[test]
fn fuzz_schedule() {
    Target::new("schedule")
        .memory(1 << 20, 1_024)
        .runs(10_000)
        .words(&[
            "[source]\n",
            "[rank]\n",
            "[budget]\n",
            "kind = ",
            "cron = ",
            "model = ",
            "time_zone = ",
            "rows = [",
            "ttl_seconds = ",
            "model_seconds = nan",
            "keep = \"rank\"",
            "\"\"\"",
            "'''",
            "source.kind = ",
        ])
        .run(|case| {
            let text = String::from_utf8_lossy(case.bytes()).into_owned();
            let file = Path::new("folder/one.toml");
            match case.bounded(text.len(), || parse(file, &text)) {
                Ok(schedule) => {
                    case.saw("a schedule");
                    assert!(name::is_name(&schedule.name) && name::is_name(schedule.namespace()));
                    let ttl = schedule.ttl_seconds.unwrap_or(1);
                    assert!((1..=job::MAX_TTL_SECONDS).contains(&ttl));
                    assert!(
                        schedule
                            .budget
                            .model_seconds
                            .is_none_or(|s| s > 0.0 && s.is_finite())
                    );
                    assert!(schedule.follows() || !schedule.cron.as_str().is_empty());
                }
                Err(mistakes) => {
                    assert!(!mistakes.is_empty(), "refused without a mistake");
                    for mistake in &mistakes {
                        if let Some(at) = mistake.at {
                            let lines = text.split('\n').count();
                            assert!((1..=lines).contains(&at.line), "{mistake}");
                        }
                        case.refused(&mistake.to_string());
                    }
                }
            }
        });
}
