//! Tells other workers what this one's models cost, and hears it from them.
//!
//! Promises that a worker whose costs stand still says so once an hour.

use crate::{
    health::{Health, Part},
    store::PostgresStore,
    warm::gather::share_costs,
    worker::supervisor::Supervisor,
};
use kiln_model::{LengthCost, Model, Registry};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often costs are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often those that stand still are told again: what nobody tells is forgotten after months.
const AGAIN: Duration = Duration::from_secs(3_600);
/// How soon others are asked again where nobody has measured anything yet, as far as it is known here.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(60);
/// By how much a cost must have moved to be reported.
const MOVED: f64 = 0.05;

/// What was reported of a model last, and when.
type Reported = (Vec<LengthCost>, Instant);

/// Adds the task.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    registry: &Arc<Registry>,
    store: &PostgresStore,
    health: &Health,
) {
    let (registry, store, health) = (registry.clone(), store.clone(), health.clone());
    tasks.add_droppable("model costs", move || {
        share(registry.clone(), store.clone(), health.clone())
    });
}

/// Tells what has changed, again and again.
async fn share(
    registry: Arc<Registry>,
    store: PostgresStore,
    health: Health,
) -> anyhow::Result<()> {
    let mut reported: BTreeMap<String, Reported> = BTreeMap::new();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !health.is_up(Part::Migrations) {
            continue;
        }
        let models = registry.list().into_iter();
        let names: Vec<String> = models
            .map(|model| format!("{}@{}", model.info.name, model.info.version))
            .collect();
        reported.retain(|name, _| names.contains(name));
        for name in names {
            let Ok(model) = registry.resolve(&name) else {
                continue;
            };
            if reported
                .get(&name)
                .is_some_and(|reported| !is_news(&model, reported))
            {
                continue;
            }
            let costs = model.costs();
            match share_costs(&store, &model, true).await {
                Ok(_) => {
                    reported.insert(name, (costs, Instant::now()));
                }
                // That the database is out of reach is told by its own check.
                Err(error) => tracing::debug!(model = name, %error, "costs can't be told now"),
            }
        }
    }
}

fn is_news(model: &Model, (costs, at): &Reported) -> bool {
    let again = if model.has_measured() {
        AGAIN
    } else {
        UNKNOWN_AGAIN
    };
    at.elapsed() > again || have_moved(costs, &model.costs())
}

fn have_moved(before: &[LengthCost], now: &[LengthCost]) -> bool {
    let moved = |(before, now): (&LengthCost, &LengthCost)| {
        let (a, b) = (before.seconds_per_unit, now.seconds_per_unit);
        before.class != now.class
            || before.is_measured != now.is_measured
            || (a - b).abs() > MOVED * a
    };
    before.len() != now.len() || before.iter().zip(now).any(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_told_once_they_have_moved() {
        let cost = |seconds_per_unit, is_measured| LengthCost {
            class: 3,
            seconds_per_unit,
            is_measured,
        };
        let before = [cost(0.1, true)];
        assert!(!have_moved(&before, &[cost(0.104, true)]));
        assert!(have_moved(&before, &[cost(0.106, true)]));
        assert!(have_moved(&before, &[cost(0.1, false)]));
        assert!(have_moved(&before, &[]));
    }
}
