//! When a connection goes, and how an answer is handed over.

use super::*;
use crate::http::permits::{self, Permit, Permits, seated};
use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;

const LIMITS: Limits = Limits {
    idle: Duration::from_secs(5),
    unread: Duration::from_secs(10),
    is_for_one: false,
};

fn after(seconds: u64, now: Instant) -> Instant {
    now + Duration::from_secs(seconds)
}

impl State {
    fn ask(&mut self) -> u64 {
        let begun = self.begin(LIMITS, CancellationToken::new());
        begun.expect("it takes requests")
    }

    fn ask_of(&mut self, limits: Limits) -> Option<u64> {
        self.begin(limits, CancellationToken::new())
    }
}

fn streams(permits: &Permits, own: Permit, limits: Limits) -> Arc<Streams> {
    let seats = Seats::new(own, permits.clone());
    Streams::new(seats, limits, CancellationToken::new())
}

#[test]
fn a_connection_without_requests_goes_and_one_that_takes_its_time_to_go_is_cut() {
    let now = Instant::now();
    let mut state = State::new(now);
    let judge = |state: &State, seconds| state.judge(LIMITS, false, after(seconds, now));
    assert_eq!(judge(&state, 4), Verdict::Stay);
    assert_eq!(judge(&state, 5), Verdict::Leave);
    let key = state.ask();
    assert_eq!(judge(&state, 500), Verdict::Stay, "it is asked");
    state.end(key, true, after(600, now));
    assert_eq!(judge(&state, 604), Verdict::Stay);
    assert_eq!(judge(&state, 605), Verdict::Leave);
    state.leaving = Some(after(605, now));
    assert_eq!(
        judge(&state, 609),
        Verdict::Stay,
        "the end of it may be taken slowly"
    );
    assert_eq!(judge(&state, 610), Verdict::Cut);
    let (last, sending) = (after(610, now), |at| state.judge(LIMITS, true, at));
    assert_eq!(sending(last), Verdict::Stay, "something is on its way");
    assert_eq!(sending(last + SENDING), Verdict::Cut, "but not for ever");
    state.leaving = Some(after(700, now));
    assert_eq!(judge(&state, 700), Verdict::Stay);
    assert_eq!(judge(&state, 701), Verdict::Cut, "nothing was, lately");
}

#[test]
fn what_is_asked_of_a_connection_that_is_to_end_is_refused_and_keeps_nobody() {
    let now = Instant::now();
    let mut state = State::new(now);
    let first = state.ask();
    state.leaving = Some(now);
    assert_eq!(state.ask_of(LIMITS), None);
    let judge = |state: &State, seconds| state.judge(LIMITS, false, after(seconds, now));
    assert_eq!(judge(&state, 500), Verdict::Stay, "one is under way");
    state.end(first, false, after(500, now));
    assert_eq!(state.ask_of(LIMITS), None);
    assert_eq!(judge(&state, 501), Verdict::Cut);

    let one = Limits {
        is_for_one: true,
        ..LIMITS
    };
    let mut state = State::new(now);
    let key = state.ask_of(one).expect("the first");
    assert_eq!(state.ask_of(one), None, "it is for one");
    assert_eq!(state.judge(one, false, after(500, now)), Verdict::Stay);
    state.end(key, false, now);
    assert_eq!(state.ask_of(one), None);
    assert_eq!(state.judge(one, false, now), Verdict::Leave);
}

#[test]
fn an_answer_that_its_client_does_not_take_ends_and_no_other() {
    let now = Instant::now();
    let mut state = State::new(now);
    let (slow, other) = (state.ask(), state.ask());
    let due = |state: &State, seconds| state.overdue(LIMITS, after(seconds, now)).count();
    assert_eq!(due(&state, 60), 0, "it is being made");
    let stall = |state: &mut State, taken, at| {
        let request = state.open.get_mut(&slow).expect("it is open");
        let stall = request.stall.get_or_insert_with(|| Stall::new(now));
        stall.took(taken, after(at, now));
    };
    stall(&mut state, 0, 0);
    assert_eq!(due(&state, 9), 0);
    assert_eq!(due(&state, 10), 1);
    stall(&mut state, 1 << 20, 9);
    assert_eq!(due(&state, 18), 0);
    state.end(other, true, now);
    assert_eq!(due(&state, 19), 1, "whatever else was answered");
    let verdict = state.judge(LIMITS, true, after(19, now));
    assert_eq!(verdict, Verdict::Stay, "the others may go on");
}

#[test]
fn who_gives_up_more_than_it_takes_is_told_to_go() {
    let now = Instant::now();
    let mut state = State::new(now);
    let mut ends = |is_answered: bool, is_begun: bool, count: u64| {
        for _each in 0..count {
            let key = state.ask();
            let request = state.open.get_mut(&key).expect("it is open");
            request.is_begun = is_begun;
            state.end(key, is_answered, now);
        }
        state.judge(LIMITS, false, now)
    };
    assert_eq!(ends(false, false, MAX_GIVEN_UP), Verdict::Stay);
    assert_eq!(ends(true, true, 10), Verdict::Stay);
    assert_eq!(ends(false, false, 10), Verdict::Stay);
    assert_eq!(ends(false, true, 100), Verdict::Stay, "it had begun");
    assert_eq!(ends(false, false, 1), Verdict::Leave);
}

#[tokio::test]
async fn further_requests_on_a_connection_need_a_permit_until_their_answers_are_gone() {
    let permits = Permits::new(2);
    let first = permits.next().await.expect("a client's");
    let streams = streams(&permits, first, LIMITS);
    let ask = |path| streams.begin(path).expect("it takes requests");
    let is_served = |path| ask(path).held().is_some();
    let one = ask("/v1/score");
    assert!(one.held().is_some(), "on the connection's own");
    let two = ask("/v1/score");
    assert!(two.held().is_some());
    assert!(!is_served("/v1/score"), "there are two");
    assert!(permits.next().await.is_some_and(|next| next.is_probe()));
    let body = Pieces::new(Body::from("answer"), two);
    assert!(!is_served("/v1/score"));
    let taken = body.collect().await.expect("bytes").to_bytes();
    assert_eq!(taken, "answer");
    assert!(is_served("/v1/score"), "its permit is free");
    drop(one);
    assert!(is_served("/v1/score"), "so is the connection's own");
    assert!(streams.state().open.is_empty());
    assert_eq!(streams.state().answered, 1);
}

#[tokio::test]
async fn work_that_goes_on_holds_what_its_request_held() {
    let permits = Permits::new(2);
    let first = permits.next().await.expect("a client's");
    let streams = streams(&permits, first, LIMITS);
    let ask = |path| streams.begin(path).expect("it takes requests");
    for _each in 0..2 {
        let (own, further) = (ask("/v1/jobs"), ask("/v1/jobs"));
        let going_on = [own.held(), further.held()].map(|held| async move {
            let held = held.expect("room");
            seated(held, async { seat_of_work() }).await
        });
        let [own_work, further_work] = going_on;
        let work = (own_work.await, further_work.await);
        // Both are given up.
        drop((own, further));
        assert!(ask("/v1/jobs").held().is_none(), "they are at work");
        drop(work.0);
        assert!(ask("/v1/jobs").held().is_some());
        drop(work.1);
    }
    assert!(permits::held().is_none(), "nothing is served here");
}

fn seat_of_work() -> Seat {
    permits::held().expect("one that is served")
}

#[tokio::test]
async fn a_few_probes_are_served_on_a_connection_whoever_has_the_permits() {
    let permits = Permits::new(1);
    let first = permits.next().await.expect("a client's");
    let streams = streams(&permits, first, LIMITS);
    let ask = |path| streams.begin(path).expect("it takes requests");
    let _own = ask("/v1/live");
    assert!(ask("/version").held().is_none());
    let probes: Vec<Open> = (0..MAX_UNSEATED).map(|_| ask("/livez")).collect();
    assert!(probes.iter().all(|probe| probe.held().is_some()));
    assert!(ask("/livez").held().is_none(), "only a few");
    drop(probes);
    assert!(ask("/livez").held().is_some());
}

#[tokio::test]
async fn a_request_whose_answer_is_not_taken_is_ended_by_itself() {
    let permits = Permits::new(2);
    let first = permits.next().await.expect("a client's");
    let limits = Limits {
        unread: Duration::ZERO,
        ..LIMITS
    };
    let streams = streams(&permits, first, limits);
    let ask = |path| streams.begin(path).expect("it takes requests");
    let (slow, other) = (ask("/"), ask("/"));
    let (slow_ends, other_ends) = (slow.cut(), other.cut());
    let mut body = Pieces::new(Body::from(vec![0; PIECE_BYTES]), slow);
    body.frame().await.expect("a piece").expect("bytes");
    assert_eq!(streams.judge(false), Verdict::Stay);
    assert!(slow_ends.is_cancelled() && !other_ends.is_cancelled());
    streams.alive.cancel();
    assert!(other_ends.is_cancelled(), "with the connection");
}

#[tokio::test]
async fn an_answer_is_handed_over_in_pieces_that_are_waited_for_by_themselves() {
    let permits = Permits::new(1);
    let first = permits.next().await.expect("a client's");
    let streams = streams(&permits, first, LIMITS);
    let ask = |path| streams.begin(path).expect("it takes requests");
    let whole = vec![7; 3 * PIECE_BYTES];
    let open = ask("/");
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
        let is_last = taken.len() == whole.len();
        assert!(!is_last || data.len() == 1, "the last byte is by itself");
        assert_eq!(pieces.is_end_stream(), taken.len() == whole.len());
    }
    assert_eq!(taken, whole);
    drop(pieces);
    assert_eq!((waits(), streams.state().answered), (None, 1));

    // What the server itself waits for is nobody's fault.
    let open = ask("/");
    let endless = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let mut pieces = Pieces::new(Body::from_stream(endless), open);
    let polled = futures_util::poll!(pieces.frame());
    assert!(polled.is_pending());
    assert_eq!(waits(), Some((false, 0)));
    drop(pieces);
    assert_eq!(streams.state().answered, 1, "it wasn't taken to its end");
}
