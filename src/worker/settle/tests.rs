//! What each end of a job leaves in which queue, and when its delivery is settled.

use super::*;
use crate::{
    amqp::{
        ack::Acks,
        delivery::Parts,
        publisher::simulated::{Line, publishers},
        simulated::{SimulatedBroker, SimulatedChannel},
        topology::Origin,
    },
    config::Settings,
    pipeline::LaneQueue,
    simulated::{Chance, World},
};
use lapin::{BasicProperties, types::AMQPValue};
use tokio_util::sync::CancellationToken;

const JOBS: &str = "kiln.jobs";
const DEAD: &str = "kiln.dead";
const REPLIES: &str = "replies";

/// A settler over a broker that never fails.
struct Bench {
    broker: SimulatedBroker,
    channel: SimulatedChannel,
    acks: Arc<Acks>,
    settler: Settler,
    _world: World,
}

impl Bench {
    fn new() -> Self {
        let chance = Chance::new(1);
        chance.calm();
        let world = World::begin(1, None, chance.apart());
        let broker = SimulatedBroker::new(&chance, Box::new(|_| {}));
        let line = Line {
            broker: broker.clone(),
            chance,
            gone: CancellationToken::new(),
        };
        let (settings, metrics) = (Settings::default(), Metrics::new());
        let (publisher, replies) = publishers(&line, &metrics);
        let topology = Arc::new(Topology::new(&settings.queues, &settings.retry));
        let channel = broker.open(JOBS, 10);
        Self {
            settler: Settler::new(publisher, replies, 1 << 20, topology, metrics),
            acks: Acks::simulated(channel.clone()),
            channel,
            broker,
            _world: world,
        }
    }

    async fn delivery(&self, id: &str) -> Delivery {
        let properties = BasicProperties::default()
            .with_message_id(id.into())
            .with_reply_to(REPLIES.into());
        self.broker.publish(JOBS, b"{}".to_vec(), properties);
        let (tag, message) = self.channel.next().await;
        Delivery::from(Parts {
            body: message.body,
            properties: message.properties,
            origin: Origin::Jobs,
            received: clock::received(),
            accepted: None,
            guard: self.acks.guard(tag),
        })
    }

    async fn settle(&self, outcomes: Vec<(&str, Outcome)>) {
        let mut jobs = Vec::new();
        for (id, outcome) in outcomes {
            jobs.push((self.delivery(id).await, outcome, ()));
        }
        self.settler.settle(jobs).await;
    }

    /// Until the broker has so many deliveries that aren't settled.
    async fn unsettled(&self, count: usize) {
        let heard = async {
            while self.channel.unsettled() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), heard).await;
        assert_eq!(
            in_time,
            Ok(()),
            "{} aren't settled",
            self.channel.unsettled()
        );
    }

    fn waiting(&self) -> [usize; 4] {
        [JOBS, DEAD, REPLIES, "kiln.lane.slow"].map(|queue| self.broker.waiting(queue))
    }
}

fn rejected(code: Code) -> Outcome {
    Outcome::Rejected {
        job_id: None,
        rejection: Rejection::new(code, "model", "so"),
    }
}

fn done() -> Outcome {
    let result = Finished {
        model: "m".into(),
        version: "1".into(),
        namespace: "n".into(),
        results: "[]".into(),
        hits: 0,
        misses: 0,
        elapsed_ms: 1.0,
        finished_at: Default::default(),
    };
    Outcome::Done {
        job_id: "done".into(),
        result: result.into(),
        repeated: false,
    }
}

#[test]
fn a_size_that_the_broker_takes_again_is_no_obstacle_any_more() {
    let unmovable = Unmovable(Arc::new(AtomicUsize::new(usize::MAX)));
    unmovable.note(500, true);
    assert!(!unmovable.is(usize::MAX - 1));
    unmovable.note(500, false);
    unmovable.note(900, false);
    unmovable.note(400, true);
    assert!(unmovable.is(500) && !unmovable.is(499));
    unmovable.note(600, true);
    assert!(!unmovable.is(900));
}

#[tokio::test(start_paused = true)]
async fn each_end_of_a_job_leaves_what_follows_from_it_and_is_acknowledged() {
    let bench = Bench::new();
    bench
        .settle(vec![
            ("done", done()),
            ("bad", rejected(Code::UnknownModel)),
            ("cancelled", rejected(Code::Cancelled)),
        ])
        .await;
    bench.unsettled(0).await;
    assert_eq!(bench.waiting(), [0, 1, 3, 0], "what is cancelled is gone");
    let (_, letter) = bench.broker.open(DEAD, 1).next().await;
    let headers = letter.properties.headers().clone().unwrap_or_default();
    let code = headers.inner().get("kiln-error-code").cloned();
    assert_eq!(code, Some(AMQPValue::LongString("unknown_model".into())));
    let listed = bench.settler.rejected().list();
    let listed: Vec<_> = listed
        .iter()
        .map(|one| (one.job_id.as_str(), one.rejection.code))
        .collect();
    let newest_first = [("cancelled", Code::Cancelled), ("bad", Code::UnknownModel)];
    assert_eq!(listed, newest_first);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_did_not_end_here_is_moved_or_goes_back() {
    let bench = Bench::new();
    let slow = LaneQueue {
        lane: "slow".to_owned(),
        number: 0,
    };
    bench
        .settle(vec![
            ("moved", Outcome::Moved(slow)),
            ("left", Outcome::Abandoned),
        ])
        .await;
    bench.unsettled(1).await;
    assert_eq!(bench.waiting(), [0, 0, 0, 1]);
    bench.acks.flush(true).await;
    bench.unsettled(0).await;
    assert_eq!(bench.waiting(), [1, 0, 0, 1], "it went back to its queue");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_to_be_tried_again_waits_elsewhere_and_has_no_reply() {
    let reason = || "so".to_owned();
    let again = Outcome::Retry {
        job_id: None,
        reason: reason(),
    };
    let later = Outcome::Postponed { reason: reason() };
    for outcome in [again, later] {
        let bench = Bench::new();
        bench.settle(vec![("again", outcome)]).await;
        bench.unsettled(0).await;
        let (_, message) = bench.channel.next().await;
        let id = message.properties.message_id().clone();
        assert_eq!(id.as_ref().map(|id| id.as_str()), Some("again"));
        assert_eq!(bench.waiting(), [0; 4]);
    }
}
