//! Jobs that fail, or are rejected: how often they are tried, and which of them were finished before.

use super::*;
use kiln_contract::failure::Rejection;

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_job_is_tried_as_often_as_the_settings_say() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
    let mut settings = Settings::default();
    settings.retry.max_tries = 4;
    let (engine, _folder) = engine_with(models, settings).await;
    let bodies = ["second", "third", "fourth"].map(|id| job(id, "fault", &["nan"], ""));
    let tried = |number: usize, source: JobSource| source.with_tries(number as u32 + 1);
    let (outcomes, _) = run_with(&engine, &bodies, tried).await;
    let [second, third, fourth] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    for again in [second, third] {
        assert!(matches!(again, Outcome::Retry { .. }), "{again:?}");
    }
    assert_eq!(code(fourth), Code::Exhausted);
    let Outcome::Rejected { rejection, .. } = fourth else {
        panic!("{fourth:?}");
    };
    let said = &rejection.message;
    assert!(
        said.starts_with("given up after 4 tries; the last one: "),
        "{said}"
    );
}

fn given_up(_number: usize, source: JobSource) -> JobSource {
    source.given_up(Some(Rejection::new(
        Code::Exhausted,
        "",
        "it killed workers",
    )))
}

#[tokio::test]
async fn a_job_that_was_finished_before_is_not_rejected() {
    let (engine, folder) = engine(SHIPPED).await;
    let text = "a long one ".repeat(20);
    let long = job("long", "sentiment", &[&text], "");
    let short = job("short", "sentiment", &["great"], "");
    let (first, _) = run(&engine, &[short.clone(), long.clone()]).await;
    let other = job("short", "sentiment", &["awful"], "");
    let never = job("never", "sentiment", &["great"], "");
    let bodies = [short.clone(), other, never];
    let (outcomes, _) = run_with(&engine, &bodies, given_up).await;
    let done_before = |outcome: &Outcome, first: &Outcome| {
        assert_eq!(results(outcome), results(first));
        assert!(matches!(outcome, Outcome::Done { repeated: true, .. }));
    };
    done_before(&outcomes[0], &first[0]);
    assert_eq!(code(&outcomes[1]), Code::Exhausted, "another body's id");
    assert_eq!(code(&outcomes[2]), Code::Exhausted);
    drop(engine);

    // Once less is taken, the body of a finished job may be too large to be read.
    let mut settings = Settings::default();
    settings.intake.max_body_bytes = short.len() + 50;
    let engine = engine_over(SHIPPED, settings, &folder).await;
    let unknown = job("unknown", "sentiment", &[&text], "");
    let (outcomes, _) = run_with(&engine, &[long, short, unknown], given_up).await;
    done_before(&outcomes[0], &first[1]);
    done_before(&outcomes[1], &first[0]);
    assert_eq!(code(&outcomes[2]), Code::TooLarge);
}
