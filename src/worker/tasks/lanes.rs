//! Owns looking after the lanes: what waited in them for too long, and showing in metrics how they are.
//!
//! Promises that what nobody waits for any more leaves its lane whether there is a broker or not; that a lane or a namespace which has nothing any
//! more is shown with 0, and that producers add no labels.

use super::namespaces::{Known, OTHERS};
use crate::{
    pipeline::{Engine, LaneFigures},
    telemetry::metrics::{LaneGauges, Metrics},
    worker::supervisor::Supervisor,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the lanes are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How often lanes are looked through for jobs that have no time left, or no owner.
const SWEEP: Duration = Duration::from_millis(500);

/// Adds the tasks. `named` are the namespaces of the settings.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    engine: &Arc<Engine>,
    metrics: &Metrics,
    named: BTreeSet<String>,
) {
    let sweeping = engine.clone();
    tasks.add_droppable("jobs too long in hand", move || sweep(sweeping.clone()));
    let (engine, metrics) = (engine.clone(), metrics.clone());
    tasks.add_droppable("lanes", move || {
        show(engine.clone(), metrics.clone(), named.clone())
    });
}

/// Gives back what was in hand for too long, and forgets what nobody waits for.
async fn sweep(engine: Arc<Engine>) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        engine.sweep();
    }
}

/// A lane and what a metric calls a namespace in it.
type Waiting = (String, String);

/// Shows the lanes. `named` are the namespaces of the settings.
async fn show(
    engine: Arc<Engine>,
    metrics: Metrics,
    named: BTreeSet<String>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(LOOK);
    let mut shown = BTreeSet::new();
    loop {
        tick.tick().await;
        metrics.bytes_in_hand(engine.budget().taken());
        let lanes = engine.lanes();
        for lane in &lanes {
            metrics.lane(&lane.name, gauges(lane));
        }
        let known = Known::new(&named, engine.registry());
        let waits = longest_waits(&lanes, |name| known.label(name), Instant::now());
        // So that the series is there before anything waits.
        shown.extend(
            lanes
                .iter()
                .map(|lane| (lane.name.clone(), OTHERS.to_owned())),
        );
        for ((lane, namespace), seconds) in waits_to_show(waits, &mut shown) {
            metrics.lane_wait(&lane, &namespace, seconds);
        }
    }
}

fn gauges(lane: &LaneFigures) -> LaneGauges {
    LaneGauges {
        jobs: lane.jobs,
        waiting_inputs: lane.waiting.iter().map(|depth| depth.items).sum(),
        model_seconds: lane.seconds_in_hand,
        bytes: lane.bytes_in_hand,
        batches: lane.batches_in_flight,
        moved: lane.moved,
        seconds_per_input: lane.seconds_per_input.unwrap_or_default(),
        is_expensive: lane.is_expensive,
    }
}

/// For how long the oldest input of each namespace waits, under the name that metrics have for it.
fn longest_waits<'l>(
    lanes: &'l [LaneFigures],
    label: impl Fn(&'l str) -> &'l str,
    now: Instant,
) -> BTreeMap<Waiting, f64> {
    let mut waits: BTreeMap<Waiting, f64> = BTreeMap::new();
    for lane in lanes {
        for depth in &lane.waiting {
            let seconds = now.saturating_duration_since(depth.oldest).as_secs_f64();
            let waiting = (lane.name.clone(), label(&depth.namespace).to_owned());
            let longest = waits.entry(waiting).or_default();
            *longest = longest.max(seconds);
        }
    }
    waits
}

/// The waits, and 0 for what was shown before and waits no more.
fn waits_to_show(
    mut waits: BTreeMap<Waiting, f64>,
    shown: &mut BTreeSet<Waiting>,
) -> BTreeMap<Waiting, f64> {
    for over in shown.iter() {
        waits.entry(over.clone()).or_default();
    }
    shown.extend(waits.keys().cloned());
    waits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Depth;

    #[test]
    fn the_oldest_of_a_label_counts_and_what_waits_no_more_is_zero() {
        let now = Instant::now();
        let depth = |namespace: &str, seconds: u64| Depth {
            namespace: namespace.into(),
            items: 1,
            seconds: 0.1,
            oldest: now.checked_sub(Duration::from_secs(seconds)).expect("then"),
        };
        let lanes = [LaneFigures {
            name: "encoder".into(),
            waiting: vec![depth("shop", 1), depth("made-up", 7), depth("another", 3)],
            ..LaneFigures::default()
        }];
        let label = |name| if name == "shop" { name } else { "other" };
        let key = |namespace: &str| ("encoder".to_owned(), namespace.to_owned());
        let waits = longest_waits(&lanes, label, now);
        assert_eq!(
            waits,
            BTreeMap::from([(key("shop"), 1.0), (key("other"), 7.0)])
        );
        let mut shown = BTreeSet::new();
        assert_eq!(waits_to_show(waits.clone(), &mut shown), waits);
        let later = BTreeMap::from([(key("shop"), 2.0)]);
        let expected = BTreeMap::from([(key("shop"), 2.0), (key("other"), 0.0)]);
        assert_eq!(waits_to_show(later, &mut shown), expected);
    }
}
