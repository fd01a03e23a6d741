//! Owns the versions that score beside the active ones: which inputs of live jobs they get, and how their scores differ.
//!
//! Promises that nothing ever waits for them: what finds no room is dropped and counted, and what they give goes into figures alone, never
//! into a reply, an entry or a row. Refuses to judge the differences: whoever shows them does.

mod compared;
mod run;
mod waiting;

pub use compared::ShadowFigures;
pub(super) use run::run;
pub(super) use waiting::ShadowInputs;

use super::{render::InputRow, source::JobSource};
use crate::clock;
use compared::{Compared, Trouble};
use kiln_contract::job::{Content, Job};
use kiln_contract::result::Reading;
use kiln_model::Model;
use rand::Rng;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use waiting::{ShadowInput, Value, Waiting};

/// The shadow versions of one worker, by model.
#[derive(Debug)]
pub struct Shadows {
    by_model: BTreeMap<String, Arc<Shadow>>,
}

impl Shadows {
    /// Those that the settings name, if there are any.
    pub fn new(settings: &BTreeMap<String, kiln_model::Shadow>) -> Option<Arc<Self>> {
        let shadow = |(model, own): (&String, &kiln_model::Shadow)| {
            let shadow = Shadow {
                model: model.clone(),
                version: own.version.clone(),
                share: own.share,
                state: Mutex::default(),
                arrived: Notify::new(),
            };
            (model.clone(), Arc::new(shadow))
        };
        let by_model: BTreeMap<_, _> = settings.iter().map(shadow).collect();
        (!by_model.is_empty()).then(|| Arc::new(Self { by_model }))
    }

    /// What is known of each.
    pub fn figures(&self) -> Vec<ShadowFigures> {
        let shadows = self.by_model.values();
        shadows.map(|shadow| shadow.figures()).collect()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Shadow>> {
        self.by_model.values()
    }

    /// Takes a share of what a finished job asked for, with what the active version gave for it. Jobs that pin a version and those that warm
    /// are left alone, and so are inputs that went to another version.
    pub(super) fn take<'r>(
        &self,
        (job, source): (&Job<'_>, &JobSource),
        active: &Arc<Model>,
        rows: &impl Fn(usize) -> Option<InputRow<'r>>,
    ) -> Option<ShadowInputs> {
        let info = active.info();
        let shadow = self.by_model.get(&info.name)?;
        if source.refreshes_ttl() || job.model.contains('@') || !shadow.is_open() {
            return None;
        }
        let mut random = clock::rng();
        let mut taken = ShadowInputs::new(shadow.clone(), &info.version);
        for (number, input) in job.inputs.iter().enumerate() {
            if !random.random_bool(shadow.share.clamp(0.0, 1.0)) {
                continue;
            }
            let value = || match &input.content {
                Content::Features(range) => Some(Value::Features(job.features_of(range).into())),
                Content::Text { text, pair } => Some(Value::Text {
                    text: text.as_ref().into(),
                    pair: pair.as_deref().map(Into::into),
                }),
                Content::Bad(_) | Content::Removal | Content::Named(_) => None,
            };
            let row = rows(number).filter(|row| Arc::ptr_eq(row.model, active));
            let Some(row) = row else { continue };
            let reading = Reading::of(info, row.row);
            if let Some(score) = reading.score() {
                let label = reading.label().map(str::to_owned);
                taken.add(value, score, label);
            }
        }
        source.held.grow(taken.bytes());
        (!taken.is_empty()).then_some(taken)
    }
}

/// One model's shadow version.
#[derive(Debug)]
pub(super) struct Shadow {
    model: String,
    version: String,
    /// The share of inputs that it scores.
    share: f64,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: Waiting,
    compared: Compared,
}

impl Shadow {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock runs outside code.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn figures(&self) -> ShadowFigures {
        let figures = ShadowFigures {
            model: self.model.clone(),
            version: self.version.clone(),
            share: self.share,
            ..ShadowFigures::default()
        };
        self.state().compared.fill(figures)
    }

    /// Whether it can score what comes.
    fn is_open(&self) -> bool {
        self.state().compared.is_open()
    }

    /// Takes inputs in; those that find no room are dropped.
    fn enter(&self, inputs: Vec<ShadowInput>) {
        let mut state = self.state();
        let all = inputs.len();
        let kept = state.waiting.enter(inputs);
        state.compared.drop_inputs(all - kept);
        drop(state);
        self.arrived.notify_one();
    }
}
