//! Finds which followers aren't ready, and what they are: at most five statements, and one more where two versions share a model's inputs, however
//! many followers there are.
//!
//! Promises that a name gets no other input than readers were served last under it, at an age at which everything that was accepted since is newer;
//! and that what its namespace has invalidated, or nobody vouches for any more, isn't brought back.

use super::{
    due::{Due, WITHIN_SECONDS},
    looked_at::LookedAt,
};
use crate::{
    clock,
    store::{KnownInput, ServedPast, WordOrder},
    warm::{
        carry::{Carrier, Stopped},
        gather::{
            age::Ages,
            versions::{Seen, Versions},
        },
        known,
        schedule::{Keep, Schedule},
        source::RowContent,
    },
};
use chrono::{DateTime, Utc};
use kiln_contract::{
    key::{self, InputHash},
    order::{AsOf, Moment, Order},
    reader,
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

/// What is expected of a named entry, in bytes.
const ENTRY_BYTES: usize = 512;
/// Assumed cost of an input of which nothing is known, in seconds.
const UNKNOWN_COST: f64 = 0.001;

/// An input that isn't ready, before it is known what it holds.
struct Wanted {
    key: Option<String>,
    hash: InputHash,
    accepted: Moment,
    as_of: Option<AsOf<'static>>,
    ttl_seconds: u64,
}

/// A look at what comes next of one schedule.
pub(super) struct Looking<'a> {
    carrier: &'a Carrier,
    schedule: &'a Schedule,
    pub versions: Versions,
    now: (DateTime<Utc>, Instant),
    ages: Ages,
    grace: f64,
}

impl<'a> Looking<'a> {
    pub fn new(carrier: &'a Carrier, schedule: &'a Schedule) -> Result<Self, Stopped> {
        let registry = carrier.engine.registry();
        let serving = registry.serving(&schedule.model);
        let serving = serving.map_err(|error| Stopped::Later(error.to_string()))?;
        let (settings, namespace) = (&carrier.settings, schedule.namespace());
        let own = serving.model.info().ttl_seconds;
        let ttl = settings.ttl_seconds(schedule.ttl_seconds, namespace, own);
        let now = clock::now();
        Ok(Self {
            ages: Ages::new(settings, namespace, ttl, now),
            grace: settings.grace_seconds(namespace) as f64,
            now: (now, Instant::now()),
            carrier,
            schedule,
            versions: Versions::new(serving),
        })
    }

    /// Those of these that aren't ready and can be had so.
    pub async fn due(
        &self,
        next: crate::heat::ahead::Next,
        looked_at: &mut LookedAt,
    ) -> Result<Vec<Due>, Stopped> {
        let namespace = self.schedule.namespace();
        let redis = self.carrier.engine.cache().server().ok_or_else(unheard)?;
        let mark = redis.mark(namespace).await.ok_or_else(unheard)?;
        let is_named = self.is_named();
        let inputs: Vec<InputHash> = next.inputs.iter().copied().collect();
        // The names under which inputs were scored, with the inputs that led there.
        let mut names: BTreeMap<String, Vec<InputHash>> = BTreeMap::new();
        let mut unnamed = Vec::new();
        if is_named {
            names.extend(next.names.into_iter().map(|name| (name, Vec::new())));
        }
        // Jobs choose between two versions by an input's key, named or not.
        let known = match is_named || self.versions.are_two() {
            true => self.inputs(&inputs).await?,
            false => HashMap::new(),
        };
        for input in inputs {
            match known.get(input.as_slice()).and_then(|one| one.key.clone()) {
                Some(key) if is_named => names.entry(key).or_default().push(input),
                key => unnamed.push((input, key)),
            }
        }
        // Inputs may lead to a name that was looked at by itself.
        names.retain(|name, _| looked_at.is_due(name.as_bytes(), self.now.1));
        let shown = |name: &String| key::named(namespace, name).into_bytes();
        let keys = names.keys().map(shown);
        let entry = |(input, key): &(InputHash, Option<String>)| {
            let content = known.get(input.as_slice()).cloned().and_then(content);
            self.entry(*input, key.as_deref(), content.as_ref())
        };
        let keys = keys.chain(unnamed.iter().map(entry));
        let keys: Vec<Vec<u8>> = keys.collect();
        let lives = redis.ttls_since(&keys, mark).await;
        let lives = lives.ok_or_else(unheard)?;
        let mut lives = lives.into_iter().map(|ms| ms.map(|ms| ms as f64 / 1e3));
        let now = self.now.1;
        let mut gone = Vec::new();
        for (name, leading) in names {
            let left = lives.next().flatten().map(|left| left - self.grace);
            let whats = leading.iter().map(<[u8; 32]>::as_slice);
            let whats: Vec<&[u8]> = whats.chain([name.as_bytes()]).collect();
            match left.filter(|left| *left > WITHIN_SECONDS) {
                Some(left) => whats
                    .iter()
                    .for_each(|what| looked_at.lives(what, left, now)),
                None => gone.push(name),
            }
        }
        let mut wanted = self.served(gone, looked_at).await?;
        for (input, key) in unnamed {
            match lives.next().flatten().filter(|left| *left > WITHIN_SECONDS) {
                Some(left) => looked_at.lives(&input, left, now),
                None => wanted.push(Wanted {
                    key,
                    hash: input,
                    accepted: Moment::of(self.now.0),
                    as_of: None,
                    ttl_seconds: self.ages.ttl(),
                }),
            }
        }
        self.contents(wanted, known, mark, looked_at).await
    }

    /// The key of an input's entry, of the version that its jobs go to.
    fn entry(&self, hash: InputHash, key: Option<&str>, content: Option<&RowContent>) -> Vec<u8> {
        let seen = match content {
            Some(content) => self.versions.content(None, key, content),
            None => self.versions.known(key, hash),
        };
        self.versions.entry(&seen)
    }

    /// Whether readers find what is had ready.
    fn is_named(&self) -> bool {
        self.schedule.keep == Keep::Named
    }

    async fn inputs(&self, hashes: &[InputHash]) -> Result<HashMap<Vec<u8>, KnownInput>, Stopped> {
        if hashes.is_empty() {
            return Ok(HashMap::new());
        }
        let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
        let model = &self.versions.active().info().name;
        Ok(self.carrier.store.inputs(model, &hashes).await?)
    }

    /// What readers were served last under these names, where somebody still vouches for it.
    async fn served(
        &self,
        names: Vec<String>,
        looked_at: &mut LookedAt,
    ) -> Result<Vec<Wanted>, Stopped> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let (store, namespace) = (&self.carrier.store, self.schedule.namespace());
        let asked: Vec<(&str, &str)> = names.iter().map(|name| (namespace, &**name)).collect();
        // A word's row is written before the word: what stands has its row by the time that the rows are read.
        let standing = self.standing(&names).await?;
        let served = store.last_served(&asked).await?;
        let said = match self.ages.is_bounded() {
            true => store.last_said(&asked).await?,
            false => vec![None; names.len()],
        };
        let mut wanted = Vec::new();
        let rows = names.into_iter().zip(served).zip(said).zip(standing);
        for (((name, past), said), standing) in rows {
            let found = past.as_ref().and_then(|past| {
                let hash = input_of(past, &self.versions.active().info().name)?;
                // What somebody said of another input vouches for nothing; neither does nobody, where that counts.
                let said = said.filter(|said| said.input == hash);
                let said_ms = said.map(|said| said.at.timestamp_millis());
                let life = match self.ages.is_bounded() {
                    true => self.ages.life(Some(said_ms?))?,
                    false => self.ages.ttl(),
                };
                let accepted = after(past, standing.as_deref())?;
                Some(Wanted {
                    key: Some(name.clone()),
                    hash,
                    accepted,
                    as_of: as_of(past.order),
                    ttl_seconds: life,
                })
            });
            match found {
                Some(one) => wanted.push(one),
                None => looked_at.useless(name.as_bytes(), self.now.1),
            }
        }
        Ok(wanted)
    }

    /// The entries that stand under these names: what is left of a removed one is none.
    async fn standing(&self, names: &[String]) -> Result<Vec<Option<Vec<u8>>>, Stopped> {
        let namespace = self.schedule.namespace();
        let keys = names
            .iter()
            .map(|name| key::named(namespace, name).into_bytes());
        let keys: Vec<Vec<u8>> = keys.collect();
        let found = match self.carrier.engine.cache().server() {
            Some(redis) => redis.get(&keys, |_| ENTRY_BYTES).await,
            None => None,
        };
        found.ok_or_else(unheard)
    }

    /// What these inputs hold, of which some are known already, and whether their scores are known.
    async fn contents(
        &self,
        wanted: Vec<Wanted>,
        mut known: HashMap<Vec<u8>, KnownInput>,
        mark: u64,
        looked_at: &mut LookedAt,
    ) -> Result<Vec<Due>, Stopped> {
        let (settings, info) = (&self.carrier.settings, self.versions.active().info());
        let unknown = wanted.iter().map(|one| one.hash);
        let unknown = unknown.filter(|hash| !known.contains_key(hash.as_slice()));
        let unknown: Vec<InputHash> = unknown.collect();
        known.extend(self.inputs(&unknown).await?);
        let namespace = self.schedule.namespace();
        let keeps_all = known::keeps_all(settings, namespace, &info.name);
        let (mut due, mut seen) = (Vec::new(), Vec::new());
        for one in wanted {
            // Several names may have one input.
            let content = known.get(one.hash.as_slice()).cloned().and_then(content);
            let name = one.key.as_ref().filter(|_| self.is_named());
            // A score by itself isn't kept where it may cost less than a look-up.
            let Some(content) = content.filter(|_| keeps_all || name.is_some()) else {
                let what = name.map_or(&one.hash[..], |name| name.as_bytes());
                looked_at.useless(what, self.now.1);
                continue;
            };
            let its = self.versions.content(None, one.key.as_deref(), &content);
            let expected = self.versions.expected(&its, &content);
            due.push(Due {
                key: one.key,
                hash: one.hash,
                content,
                accepted: one.accepted,
                as_of: one.as_of,
                ttl_seconds: one.ttl_seconds,
                computes: true,
                cost: expected.unwrap_or(UNKNOWN_COST),
                is_measured: self.versions.has_measured(&its),
            });
            seen.push(its);
        }
        let are_known = self.are_known(&seen, mark).await?;
        for (one, is_known) in due.iter_mut().zip(are_known) {
            one.computes = !is_known;
        }
        Ok(due)
    }

    /// Whether the score of each is in Redis or in the table of scores.
    async fn are_known(&self, inputs: &[Seen], mark: u64) -> Result<Vec<bool>, Stopped> {
        let (settings, info) = (&self.carrier.settings, self.versions.active().info());
        let mut are_known = vec![false; inputs.len()];
        if inputs.is_empty() || !known::are_kept(settings, self.schedule.namespace(), &info.name) {
            return Ok(are_known);
        }
        let keys = inputs.iter().map(|input| self.versions.entry(input));
        let keys: Vec<Vec<u8>> = keys.collect();
        let redis = self.carrier.engine.cache().server();
        let lives = match redis {
            Some(redis) => redis.ttls_since(&keys, mark).await,
            None => None,
        };
        let lives = lives.unwrap_or_default().into_iter();
        for (is_known, life) in are_known.iter_mut().zip(lives) {
            *is_known = life.is_some();
        }
        let unknown = inputs.iter().zip(&are_known);
        let unknown = unknown.filter_map(|(input, is_known)| (!is_known).then_some(*input));
        let unknown: Vec<Seen> = unknown.collect();
        if unknown.is_empty() {
            return Ok(are_known);
        }
        let rows = self
            .versions
            .scored_at(&self.carrier.store, &unknown)
            .await?;
        let missing = are_known.iter_mut().filter(|is_known| !**is_known);
        for (is_known, at) in missing.zip(rows) {
            *is_known = at.is_some_and(|at| known::is_after(at, mark, settings));
        }
        Ok(are_known)
    }
}

fn unheard() -> Stopped {
    Stopped::Later("redis doesn't answer".to_owned())
}

/// The input that a name was made of last by this model; nothing of a ranking, of one that was removed, or of another model's.
fn input_of(past: &ServedPast, model: &str) -> Option<InputHash> {
    let hash = past.input.as_deref()?;
    let is_own = past.items.is_none() && !past.is_removed && past.model == model;
    InputHash::try_from(hash).ok().filter(|_| is_own)
}

/// What its producer said of how new it is, where that isn't when it was accepted.
fn as_of(order: WordOrder) -> Option<AsOf<'static>> {
    match order.kind {
        's' => AsOf::sequence(u64::try_from(order.value).ok()?),
        _ if order.value == order.accepted_us => None,
        _ => AsOf::moment(Moment::from_micros(order.value).rfc3339()),
    }
}

/// Right after a word was accepted, and after the entry that stands, where that is the same word or its renewal: what was accepted since is newer.
/// Nothing where another word stands.
fn after(past: &ServedPast, standing: Option<&[u8]>) -> Option<Moment> {
    let mut last = past.order.accepted_us;
    if let Some(entry) = standing {
        let job = reader::job_of(entry)?;
        if job != past.job_id && !job.starts_with("warm-") {
            return None;
        }
        let stands = Order::of_entry(entry).map_or(0, |order| order.accepted().micros());
        last = last.max(i64::try_from(stands).unwrap_or_default());
    }
    Some(Moment::from_micros(last.saturating_add(1)))
}

fn content(known: KnownInput) -> Option<RowContent> {
    match (known.text, known.features) {
        (Some(text), _) => Some(RowContent::Text {
            text,
            pair: known.text_pair,
        }),
        (None, Some(features)) => Some(RowContent::Features(features)),
        // Scored while inputs weren't stored.
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests;
