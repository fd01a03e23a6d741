//! Owns what must hold of a simulation, checked as it happens: see the list above.

use super::{
    jobs::{Job, MODEL, Posting, RANKING, REPLIES, TEXTS, VERSION},
    locked,
    plan::Plan,
};
use crate::{
    amqp::simulated::{Event, HeldMessage, Watch as BrokerWatch},
    cache::{Space, simulated::Watch as RedisWatch},
    clock,
    simulated::{log, output},
    store::simulated::{JobState, SimulatedStore},
};
use kiln_contract::{
    key::{self, InputHash, hash_body, hash_text},
    reader,
    result::Finished,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

/// What a retry queue's name has.
const RETRY: &str = ".retry.";

/// What is known of one key of readers.
#[derive(Debug, Default)]
struct Standing {
    /// Whose word stands there, and whose removal.
    entry: Option<String>,
    removal: Option<String>,
}

/// Everything that must hold, and what didn't.
pub struct Checks {
    jobs: Vec<Job>,
    calls: Vec<Job>,
    postings: Vec<Posting>,
    has_order: bool,
    store: SimulatedStore,
    space: Space,
    problems: Vec<String>,
    /// Of messages, by their numbers: which had a reply, a dead letter, messages for further tries, and their end.
    replied: BTreeSet<usize>,
    dead: BTreeSet<usize>,
    retried: BTreeMap<usize, usize>,
    ended: BTreeSet<usize>,
    /// When a job was first accepted, as workers know it, by the key of that; and all such keys.
    accepted: BTreeMap<Vec<u8>, u64>,
    acceptances: BTreeSet<Vec<u8>>,
    /// What readers' keys, and those of what was removed, are called in Redis.
    names: BTreeMap<Vec<u8>, (String, bool)>,
    standing: BTreeMap<String, Standing>,
}

/// Hears what Redis holds.
pub fn watch_redis(checks: &Arc<Mutex<Checks>>) -> RedisWatch {
    let checks = checks.clone();
    Box::new(move |key, value| locked(&checks).redis(key, value))
}

/// Hears what the broker saw.
pub fn watch_broker(checks: &Arc<Mutex<Checks>>) -> BrokerWatch {
    let checks = checks.clone();
    Box::new(move |event| locked(&checks).broker(event))
}

fn number_of(message: &HeldMessage) -> Option<usize> {
    let number = message.properties.correlation_id().as_ref()?;
    number.as_str().parse().ok()
}

fn is_close(value: &Value, expected: f32) -> bool {
    value
        .as_f64()
        .is_some_and(|found| (found - f64::from(expected)).abs() < 1e-6)
}

impl Checks {
    pub fn new(plan: &Plan, store: SimulatedStore, space: Space) -> Arc<Mutex<Self>> {
        let jobs = plan.jobs.iter().chain(&plan.calls);
        let keys = jobs.clone().flat_map(|job| &job.inputs);
        let keys = keys.map(|input| input.key.as_str()).chain([RANKING]);
        let names = keys.flat_map(|known| {
            let entry = key::named(MODEL, known);
            let removed = key::removed(&entry);
            [(entry, false), (removed, true)]
                .map(|(name, is_removal)| (name.into_bytes(), (known.to_owned(), is_removal)))
        });
        let names = names.collect();
        let acceptances = jobs.map(|job| key::accepted(&job.id)).collect();
        Arc::new(Mutex::new(Self {
            names,
            acceptances,
            jobs: plan.jobs.clone(),
            calls: plan.calls.clone(),
            postings: plan.postings.clone(),
            has_order: plan.redis_works || plan.jobs.iter().any(|job| job.as_of.is_some()),
            store,
            space,
            problems: Vec::new(),
            replied: BTreeSet::new(),
            dead: BTreeSet::new(),
            retried: BTreeMap::new(),
            ended: BTreeSet::new(),
            accepted: BTreeMap::new(),
            standing: BTreeMap::new(),
        }))
    }

    /// Notes what doesn't hold.
    pub fn wrong(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        log(|| format!("WRONG: {problem}"));
        self.problems.push(problem);
    }

    /// The job with this id and this body, as it was posted.
    fn posted(&self, job_id: &str, body_sha256: &[u8; 32]) -> Option<Job> {
        let posted = self
            .postings
            .iter()
            .map(|posting| posting.as_posted(&self.jobs));
        let mut all = posted.chain(self.calls.iter().cloned());
        all.find(|job| job.id == job_id && &hash_body(&job.body()) == body_sha256)
    }

    /// A job that has its row, with that row.
    fn done(&self, job_id: &str) -> Option<(Job, Box<Finished>)> {
        let row = self.store.job(job_id)?;
        let JobState::Done(done) = row.state else {
            return None;
        };
        Some((self.posted(job_id, &row.body_sha256)?, done))
    }

    fn broker(&mut self, event: &Event<'_>) {
        match event {
            Event::Wrong(what) => self.wrong(what.clone()),
            Event::Acknowledged { message } => self.acknowledged(message),
            Event::Taken { queue, message } => {
                let Some(number) = number_of(message) else {
                    return;
                };
                if *queue == REPLIES {
                    self.reply(number, message);
                } else if *queue == super::jobs::DEAD {
                    self.dead.insert(number);
                } else if queue.contains(RETRY) {
                    *self.retried.entry(number).or_default() += 1;
                }
            }
        }
    }

    fn acknowledged(&mut self, message: &HeldMessage) {
        let number = number_of(message);
        let Some((number, posting)) =
            number.and_then(|number| Some((number, self.postings.get(number)?.clone())))
        else {
            return self.wrong("acknowledged, and never posted");
        };
        let job = posting.as_posted(&self.jobs);
        let done = self.done(&job.id);
        let is_done = done.is_some_and(|(done, _)| done.body() == job.body());
        let is_replied = posting.reply_to != Some(REPLIES) || self.replied.contains(&number);
        if (is_done || self.dead.contains(&number)) && is_replied {
            if is_done {
                self.has_scores(&job);
            }
            self.ended.insert(number);
            return;
        }
        match self.retried.get_mut(&number) {
            Some(tries) if *tries > 0 => *tries -= 1,
            _ => self.wrong(format!(
                "{number}, {}: acknowledged, done {is_done}, dead {}, replied {is_replied}",
                job.id,
                self.dead.contains(&number)
            )),
        }
    }

    fn has_scores(&mut self, job: &Job) {
        let scores = self.store.scores();
        for text in job.inputs.iter().filter_map(|input| input.text.as_deref()) {
            let key = (hash_text(text, None), MODEL.to_owned(), VERSION.to_owned());
            if !scores.contains_key(&key) {
                self.wrong(format!("{}: done, and {text:?} has no row", job.id));
            }
        }
    }

    fn reply(&mut self, number: usize, message: &HeldMessage) {
        let reply: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let job_id = reply["job_id"].as_str().unwrap_or_default().to_owned();
        let posting = self.postings.get(number).cloned();
        let Some(job) = posting.map(|posting| posting.as_posted(&self.jobs)) else {
            return self.wrong(format!("a reply to {number}, which was never posted"));
        };
        self.replied.insert(number);
        if reply["status"] != "ok" {
            let code = reply["error"]["code"].as_str().unwrap_or_default();
            return self.rejected(&job, code);
        }
        match self.done(&job_id) {
            Some((done, row)) if done.body() == job.body() => self.is_of_row(&job, &reply, &row),
            _ => self.wrong(format!("{number}, {job_id}: a reply, and no row of it")),
        }
    }

    fn is_of_row(&mut self, job: &Job, reply: &Value, row: &Finished) {
        let results: Value = serde_json::from_str(&row.results).unwrap_or_default();
        let finished_at = clock::rfc3339(row.finished_at);
        if reply["results"] != results || reply["finished_at"] != finished_at.as_str() {
            self.wrong(format!(
                "{}: the reply {reply} isn't its row {row:?}",
                job.id
            ));
        }
        self.are_own(job, &reply["results"]);
    }

    /// Whether results are those of their own inputs.
    pub fn are_own(&mut self, job: &Job, results: &Value) {
        let results = results.as_array().cloned().unwrap_or_default();
        if results.len() != job.inputs.len() {
            self.wrong(format!("{}: {} results", job.id, results.len()));
        }
        for (result, input) in results.iter().zip(&job.inputs) {
            let score = job.score(&input.key);
            let is_own = score.is_none_or(|score| is_close(&result["score"], score));
            if result["key"] != input.key.as_str() || !is_own {
                self.wrong(format!("{}: {result} of {input:?}", job.id));
            }
        }
    }

    fn rejected(&mut self, job: &Job, code: &str) {
        let done = self.done(&job.id);
        let is_done = done.is_some_and(|(done, _)| done.body() == job.body());
        if is_done && code != "exhausted" {
            self.wrong(format!("{}: rejected as {code}, and done", job.id));
        }
        if !job.is_hopeless() && !["exhausted", "conflict"].contains(&code) {
            self.wrong(format!("{}: rejected as {code}", job.id));
        }
    }

    fn redis(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some((known, is_removal)) = self.names.get(key).cloned() {
            return self.word(&known, is_removal, value);
        }
        if let (Some(value), Some((_, _, input))) = (value, key::read_entry(key)) {
            return self.entry(&input, value);
        }
        if let Some(at) = value.filter(|_| self.acceptances.contains(key)) {
            let at = std::str::from_utf8(at).ok().and_then(|at| at.parse().ok());
            let first = self.accepted.entry(key.to_vec());
            first.or_insert(at.unwrap_or_default());
        }
    }

    /// An entry of Kiln's own comes.
    fn entry(&mut self, input: &InputHash, value: &[u8]) {
        let row = self.space.row(input, value);
        let texts = self.texts();
        let expected = texts.get(input).map(|text| output(MODEL, VERSION, text));
        if expected.is_none() || row.as_deref() != expected.as_ref().map(std::slice::from_ref) {
            self.wrong(format!("an entry has {row:?}, its input {expected:?}"));
        }
    }

    /// Every text that may be scored, by its hash.
    fn texts(&self) -> BTreeMap<InputHash, String> {
        let texts = (0..TEXTS.max(self.postings.len())).map(|number| format!("text {number}"));
        texts.map(|text| (hash_text(&text, None), text)).collect()
    }

    /// A word comes to a reader's key, or leaves it.
    fn word(&mut self, key: &str, is_removal: bool, value: Option<&[u8]>) {
        let job_id = value.and_then(reader::job_of);
        if let (Some(value), Some(job_id)) = (value, job_id.as_deref()) {
            self.is_right(key, is_removal, value, job_id);
            let standing = self.standing.get(key);
            let standing = standing.and_then(|one| one.entry.as_ref().or(one.removal.as_ref()));
            if let Some(standing) = standing.cloned() {
                self.is_as_new(key, job_id, &standing);
            }
        }
        let standing = self.standing.entry(key.to_owned()).or_default();
        match is_removal {
            true => standing.removal = job_id,
            false => standing.entry = job_id,
        }
    }

    fn is_right(&mut self, key: &str, is_removal: bool, value: &[u8], job_id: &str) {
        let Some((job, _)) = self.done(job_id) else {
            return self.wrong(format!("{key}: a word of {job_id}, which isn't done"));
        };
        let value: Value = serde_json::from_slice(value).unwrap_or_default();
        let items = || value["items"].as_array().cloned().unwrap_or_default();
        let is_item = |(item, (key, score)): (&Value, &(&str, f32))| {
            item["key"] == *key && is_close(&item["score"], *score)
        };
        let is_own = match job.score(key) {
            _ if key == RANKING => {
                let (found, ranking) = (items(), job.ranking());
                found.len() == ranking.len() && found.iter().zip(&ranking).all(is_item)
            }
            Some(score) => !is_removal && is_close(&value["score"], score),
            None => is_removal,
        };
        if !is_own {
            self.wrong(format!("{key}: {value} of {job_id}"));
        }
    }

    /// How new a job's word is, where that is known for certain.
    fn age(&self, job_id: &str) -> Option<u64> {
        let mut jobs = self.jobs.iter().chain(&self.calls);
        let job = jobs.find(|job| job.id == job_id)?;
        let accepted = || self.accepted.get(&key::accepted(job_id)).copied();
        job.as_of.or_else(accepted)
    }

    fn is_as_new(&mut self, key: &str, job_id: &str, standing: &str) {
        if !self.has_order {
            return;
        }
        let (new, old) = (self.age(job_id), self.age(standing));
        if let (Some(new), Some(old)) = (new, old)
            && new < old
        {
            self.wrong(format!(
                "{key}: {job_id} ({new}) replaces {standing} ({old}), which is newer"
            ));
        }
    }

    /// What must hold at the end; gives all that didn't.
    pub fn conclude(&mut self) -> Vec<String> {
        for number in 0..self.postings.len() {
            if !self.ended.contains(&number) {
                self.wrong(format!("{number} has no end"));
            }
        }
        let texts = self.texts();
        for ((input, model, version), outputs) in self.store.scores() {
            let text = texts.get(&input);
            let expected = text.map(|text| output(&model, &version, text));
            if expected.is_none() || outputs.first().copied() != expected || outputs.len() != 1 {
                self.wrong(format!("the row of {text:?} has {outputs:?}"));
            }
        }
        for job in self.jobs.clone() {
            if let Some((done, row)) = self.done(&job.id) {
                let results = serde_json::from_str(&row.results).unwrap_or_default();
                self.are_own(&done, &results);
                if done.is_hopeless() {
                    self.wrong(format!("{}: done, which it can't be", job.id));
                }
            }
        }
        std::mem::take(&mut self.problems)
    }
}
