//! When a connection goes, and how an answer is handed over.

use super::*;
use crate::http::permits::Permits;
use http_body_util::BodyExt;

const LIMITS: Limits = Limits {
    idle: Duration::from_secs(5),
    unread: Duration::from_secs(10),
    is_for_one: false,
};

fn after(seconds: u64, now: Instant) -> Instant {
    now + Duration::from_secs(seconds)
}

#[test]
fn a_connection_without_requests_goes_and_one_that_takes_its_time_to_go_is_cut() {
    let now = Instant::now();
    let mut state = State::new(now);
    let judge = |state: &State, leaving, seconds| {
        let sent = state.judge(LIMITS, leaving, false, after(seconds, now));
        let sending = state.judge(LIMITS, leaving, true, after(seconds, now));
        assert_eq!(sending, Verdict::Stay, "while something is on its way");
        sent
    };
    assert_eq!(judge(&state, None, 4), Verdict::Stay);
    assert_eq!(judge(&state, None, 5), Verdict::Leave);
    let key = state.begin();
    assert_eq!(judge(&state, None, 500), Verdict::Stay, "it is asked");
    assert_eq!(judge(&state, Some(now), 500), Verdict::Stay, "still");
    state.end(key, true, after(600, now));
    assert_eq!(judge(&state, None, 604), Verdict::Stay);
    assert_eq!(judge(&state, None, 605), Verdict::Leave);
    assert_eq!(judge(&state, Some(now), 600), Verdict::Stay);
    assert_eq!(judge(&state, Some(now), 601), Verdict::Cut);
    assert_eq!(judge(&state, Some(after(605, now)), 605), Verdict::Stay);
    let one = Limits {
        is_for_one: true,
        ..LIMITS
    };
    assert_eq!(
        state.judge(one, None, false, after(600, now)),
        Verdict::Leave
    );
}

#[test]
fn an_answer_that_its_client_does_not_take_cuts_the_connection() {
    let now = Instant::now();
    let mut state = State::new(now);
    let (slow, other) = (state.begin(), state.begin());
    let judge = |state: &State, seconds| state.judge(LIMITS, None, true, after(seconds, now));
    assert_eq!(judge(&state, 60), Verdict::Stay, "it is being made");
    let stall = |state: &mut State, taken, at| {
        let request = state.open.get_mut(&slow).expect("it is open");
        let stall = request.stall.get_or_insert_with(|| Stall::new(now));
        stall.took(taken, after(at, now));
    };
    stall(&mut state, 0, 0);
    assert_eq!(judge(&state, 9), Verdict::Stay);
    assert_eq!(judge(&state, 10), Verdict::Cut);
    stall(&mut state, 1 << 20, 9);
    assert_eq!(judge(&state, 18), Verdict::Stay);
    state.end(other, true, now);
    assert_eq!(
        judge(&state, 19),
        Verdict::Cut,
        "whatever else was answered"
    );
}

#[test]
fn who_gives_up_more_than_it_takes_is_cut() {
    let now = Instant::now();
    let mut state = State::new(now);
    let mut ends = |is_answered: bool, count: u64| {
        for _each in 0..count {
            let key = state.begin();
            state.end(key, is_answered, now);
        }
        state.judge(LIMITS, None, false, now)
    };
    assert_eq!(ends(false, MAX_GIVEN_UP), Verdict::Stay);
    assert_eq!(ends(true, 10), Verdict::Stay);
    assert_eq!(ends(false, 10), Verdict::Stay);
    assert_eq!(ends(false, 1), Verdict::Cut);
}

#[tokio::test]
async fn further_requests_on_a_connection_need_a_permit_until_their_answers_are_gone() {
    let permits = Permits::new(2);
    let first = permits.next().await.expect("a client's");
    let streams = Streams::new(Seats::new(first, permits.clone()));
    let (one, is_admitted) = streams.begin("/v1/score");
    assert!(is_admitted, "on the connection's own");
    let (two, is_admitted) = streams.begin("/v1/score");
    assert!(is_admitted);
    let (three, is_admitted) = streams.begin("/livez");
    assert!(!is_admitted, "there are two");
    assert!(permits.next().await.is_some_and(|next| next.is_probe()));
    drop(three);
    let body = Pieces::new(Body::from("answer"), two);
    assert!(!streams.begin("/v1/score").1);
    let taken = body.collect().await.expect("bytes").to_bytes();
    assert_eq!(taken, "answer");
    assert!(streams.begin("/v1/score").1, "its permit is free");
    drop(one);
    assert!(streams.begin("/v1/score").1, "so is the connection's own");
    let state = streams.state();
    assert_eq!((state.open.len(), state.answered), (0, 1));
}

#[tokio::test]
async fn an_answer_is_handed_over_in_pieces_that_are_waited_for_by_themselves() {
    let permits = Permits::new(1);
    let first = permits.next().await.expect("a client's");
    let streams = Streams::new(Seats::new(first, permits));
    let whole = vec![7; 3 * PIECE_BYTES + 1];
    let (open, _) = streams.begin("/");
    let mut pieces = Pieces::new(Body::from(whole.clone()), open);
    assert_eq!(pieces.size_hint().exact(), Some(whole.len() as u64));
    let mut taken = Vec::new();
    let waits = || {
        let state = streams.state();
        let mut open = state.open.values();
        open.next()
            .map(|request| (request.stall.is_some(), request.given))
    };
    while let Some(frame) = pieces.frame().await {
        let data = frame.expect("a frame").into_data().expect("data");
        assert!(data.len() <= PIECE_BYTES);
        assert_eq!(waits(), Some((true, data.len())), "for its client");
        taken.extend_from_slice(&data);
        assert_eq!(pieces.is_end_stream(), taken.len() == whole.len());
    }
    assert_eq!(taken, whole);
    drop(pieces);
    assert_eq!((waits(), streams.state().answered), (None, 1));

    // What the server itself waits for is nobody's fault.
    let (open, _) = streams.begin("/");
    let endless = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let mut pieces = Pieces::new(Body::from_stream(endless), open);
    let polled = futures_util::poll!(pieces.frame());
    assert!(polled.is_pending());
    assert_eq!(waits(), Some((false, 0)));
    drop(pieces);
    assert_eq!(streams.state().given_up, 1, "it wasn't taken to its end");
}
