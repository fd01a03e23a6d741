//! Frames and outcomes that are written and read, cut short, and made up.

use super::*;
use kiln_contract::failure::Code;

fn done() -> Outcome {
    Outcome::Done {
        job_id: "a\"b".into(),
        result: Arc::new(Finished {
            model: "sentiment".into(),
            version: "1.0".into(),
            namespace: "shop".into(),
            results: "[{\"score\":0.1,\"cached\":false}]".into(),
            hits: 1,
            misses: 2,
            elapsed_ms: 0.1 + 0.2,
            finished_at: DateTime::from_timestamp(1_700_000_000, 123_456_789).expect("a time"),
        }),
        repeated: true,
    }
}

#[tokio::test]
async fn every_outcome_arrives_as_it_was_sent() {
    let counts = InputCounts {
        hits: 1,
        misses: 2,
        uncached: 1,
        coalesced: 3,
        skipped: 4,
        model_nanos: 0,
        stages: Stages {
            looked_up: Duration::from_nanos(5),
            scored: Duration::from_secs(6),
            stored: Duration::from_secs(7),
        },
    };
    let outcomes = [
        done(),
        Outcome::Rejected {
            job_id: Some("b".into()),
            rejection: Rejection::new(Code::Conflict, "job_id", "used before"),
        },
        Outcome::Rejected {
            job_id: None,
            rejection: Rejection::invalid("", "no"),
        },
        Outcome::Retry {
            job_id: Some("c".into()),
            reason: "busy".into(),
        },
        Outcome::Abandoned,
    ];
    // Smaller than a frame: writing and reading take turns.
    let (mut near, mut far) = tokio::io::duplex(16);
    for outcome in outcomes {
        let (ended, body) = Ended::of(outcome.clone(), counts);
        let said = Said::Ended(ended);
        let (sent, heard) = tokio::join!(write(&mut near, &said, &body), read::<Said>(&mut far));
        sent.expect("sent");
        let (Said::Ended(ended), body) = heard.expect("heard") else {
            panic!("another frame");
        };
        let arrived = ended.into_outcome(body).expect("an outcome");
        assert_eq!(arrived, (outcome, counts));
    }
}

#[tokio::test]
async fn a_request_and_its_body_arrive_one_after_the_other() {
    let request = Request {
        message_id: Some("m".into()),
        tries: 2,
        is_warming: true,
        waited_ms: 7,
        accepted_us: 8,
        posted_by: Some("shop".into()),
        active: BTreeMap::from([("a".into(), "1".into())]),
        splits: BTreeMap::from([("a".into(), ("2".into(), 100_000))]),
    };
    let (mut near, mut far) = tokio::io::duplex(1 << 16);
    for body in [b"{}".as_slice(), b""] {
        write(&mut near, &request, body).await.expect("sent");
    }
    drop(near);
    for body in [b"{}".as_slice(), b""] {
        let (heard, arrived) = read::<Request>(&mut far).await.expect("heard");
        assert_eq!((&heard, arrived.as_slice()), (&request, body));
    }
    let end = read::<Request>(&mut far).await;
    assert!(matches!(end, Err(FrameError::Gone)), "{end:?}");
}

#[tokio::test]
async fn what_is_cut_short_too_long_or_no_frame_is_refused() {
    let frame = |head: u32, body: u32, rest: &[u8]| {
        [&head.to_le_bytes(), &body.to_le_bytes(), rest].concat()
    };
    for bytes in [
        Vec::new(),
        vec![1, 0],
        frame(7, 0, b"\"Read"),
        frame(7, 5, b"\"Ready\"abc"),
    ] {
        let read = read::<Said>(&mut bytes.as_slice()).await;
        assert!(matches!(read, Err(FrameError::Gone)), "{bytes:?}: {read:?}");
    }
    for bytes in [
        frame(MAX_HEAD_BYTES + 1, 0, b""),
        frame(7, MAX_BODY_BYTES + 1, b"\"Ready\""),
    ] {
        let read = read::<Said>(&mut bytes.as_slice()).await;
        assert!(matches!(read, Err(FrameError::TooLarge { .. })), "{read:?}");
    }
    let strange = frame(8, 0, b"\"Unread\"");
    let read = read::<Said>(&mut strange.as_slice()).await;
    assert!(matches!(read, Err(FrameError::Malformed(_))), "{read:?}");
}

#[tokio::test]
async fn nothing_is_written_of_a_frame_that_is_too_large() {
    let mut written = Vec::new();
    let large = vec![0; MAX_BODY_BYTES as usize + 1];
    let sent = write(&mut written, &Said::Ready, &large).await;
    assert!(matches!(sent, Err(FrameError::TooLarge { .. })), "{sent:?}");
    assert!(written.is_empty());
}

#[test]
fn results_that_are_no_text_are_refused() {
    let (ended, _) = Ended::of(done(), InputCounts::default());
    assert!(ended.into_outcome(vec![0xff]).is_err());
}
