//! Owns the jobs of a simulation: what is posted, and what must come of it.

use crate::{
    simulated::{Chance, output},
    store::simulated::REFUSED,
};
use lapin::BasicProperties;
use serde_json::{Value, json};
use std::time::Duration;

/// Where jobs are posted to.
pub const QUEUE: &str = "kiln.jobs";
/// Where rejected jobs go.
pub const DEAD: &str = "kiln.dead";
/// Where replies go that are to arrive.
pub const REPLIES: &str = "replies";
/// The model of all jobs.
pub const MODEL: &str = "fault";
/// Its only version.
pub const VERSION: &str = "1";
/// A text on which the model fails.
pub const BROKEN: &str = "panic";

/// The key of every ranking, and how many items it has at the most.
pub const RANKING: &str = "ranking";
const TOP: usize = 2;

/// Keys that readers know, and texts: few, so that jobs meet.
const KEYS: usize = 3;
pub const TEXTS: usize = 6;

/// An input: its key, and its text unless it removes what stands under that.
#[derive(Debug, Clone)]
pub struct Input {
    pub key: String,
    pub text: Option<String>,
}

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: String,
    pub inputs: Vec<Input>,
    pub named: bool,
    /// It keeps a ranking, under a key of that name.
    pub ranks: bool,
    pub as_of: Option<u64>,
    /// It has a field that no job has.
    pub is_invalid: bool,
}

impl Job {
    /// A job as new as `as_of` says, if it says so.
    pub fn draw(chance: &Chance, name: String, as_of: Option<usize>) -> Self {
        let named = chance.below(3) > 0;
        let mut inputs: Vec<Input> = Vec::new();
        for number in 0..1 + chance.below(4) {
            let key = match named {
                true => format!("key-{}", chance.below(KEYS)),
                false => format!("own-{number}"),
            };
            // A key that came before would have two words.
            if inputs.iter().any(|input| input.key == key) {
                continue;
            }
            let text = match chance.below(40) {
                0 => BROKEN.to_owned(),
                _ => format!("text {}", chance.below(TEXTS)),
            };
            let is_removal = named && chance.below(8) == 0;
            inputs.push(Input {
                key,
                text: (!is_removal).then_some(text),
            });
        }
        let is_refused = chance.below(30) == 0;
        Self {
            id: match is_refused {
                true => format!("{name}-{REFUSED}"),
                false => name,
            },
            inputs,
            named,
            ranks: chance.below(4) == 0,
            as_of: as_of.map(|number| 1_000 + number as u64),
            is_invalid: chance.below(30) == 0,
        }
    }

    /// Whether it can't succeed, however often it is tried.
    pub fn is_hopeless(&self) -> bool {
        let is_broken = |input: &Input| input.text.as_deref() == Some(BROKEN);
        self.is_invalid || self.id.contains(REFUSED) || self.inputs.iter().any(is_broken)
    }

    pub fn body(&self) -> Vec<u8> {
        let inputs = self.inputs.iter().map(|input| match &input.text {
            Some(text) => json!({"key": input.key, "text": text}),
            None => json!({"key": input.key, "remove": true}),
        });
        let mut body = json!({
            "job_id": self.id, "model": MODEL, "inputs": inputs.collect::<Vec<Value>>(), "named": self.named, "ttl_seconds": 600,
        });
        if let Some(as_of) = self.as_of {
            body["as_of"] = as_of.into();
        }
        if self.ranks {
            body["rank"] = json!({"key": RANKING, "top": TOP});
        }
        if self.is_invalid {
            body["nonsense"] = true.into();
        }
        body.to_string().into_bytes()
    }

    /// What its ranking says: scores, the highest first.
    pub fn ranking(&self) -> Vec<(&str, f32)> {
        let scored = self.inputs.iter();
        let scored = scored.filter_map(|input| Some((&*input.key, self.score(&input.key)?)));
        let mut ranked: Vec<(&str, f32)> = scored.collect();
        ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        ranked.truncate(TOP);
        ranked
    }

    /// What the model gives for an input.
    pub fn score(&self, key: &str) -> Option<f32> {
        let input = self.inputs.iter().find(|input| input.key == key)?;
        Some(output(MODEL, VERSION, input.text.as_deref()?))
    }
}

/// A message with a job.
#[derive(Debug, Clone)]
pub struct Posting {
    pub number: usize,
    /// Which job.
    pub job: usize,
    /// Since the one before.
    pub after: Duration,
    pub reply_to: Option<&'static str>,
    /// The job's id with another body.
    pub is_changed: bool,
}

impl Posting {
    pub fn job_id<'a>(&self, jobs: &'a [Job]) -> &'a str {
        jobs.get(self.job).map_or("", |job| &job.id)
    }

    /// The job as this message has it.
    pub fn as_posted(&self, jobs: &[Job]) -> Job {
        let mut job = jobs[self.job].clone();
        if self.is_changed {
            job.inputs.push(Input {
                key: "changed".to_owned(),
                text: Some(format!("text {}", self.number)),
            });
        }
        job
    }

    pub fn message(&self, jobs: &[Job]) -> (Vec<u8>, BasicProperties) {
        let number = format!("{}", self.number);
        let mut properties = BasicProperties::default().with_correlation_id(number.into());
        if let Some(queue) = self.reply_to {
            properties = properties.with_reply_to(queue.into());
        }
        (self.as_posted(jobs).body(), properties)
    }
}
