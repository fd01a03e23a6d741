//! Owns what probably comes next in the namespaces that are followed: from what is asked for, until somebody takes it to have it ready.
//!
//! Promises bounded memory, and that namespaces which nobody follows cost a look at a flag. Refuses to decide whether it is ready already.

use super::{HeatScope, follow::Follow};
use ahash::RandomState;
use kiln_contract::key::{self, InputHash};
use rand::{SeedableRng, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Scopes that are followed at once: what each knows takes up to eight mebibytes.
pub const MAX_SCOPES: usize = 16;
/// What waits to be taken of one scope.
const MAX_WANTED: usize = 512;
/// Inputs of one batch whose order counts; the next ones are asked for at the same time.
const MAX_ASKED: usize = 64;
/// Bytes that what follows names may take, beside the names.
const NAMES_BYTES: usize = 2 << 20;
/// Names that are held of one scope.
const MAX_NAMES: usize = 16_384;

/// What probably comes next in one scope, each of it once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    pub inputs: HashSet<InputHash>,
    /// Keys that readers probably read next.
    pub names: HashSet<String>,
}

impl Next {
    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.names.is_empty()
    }

    /// Keeps no more than so many of each.
    pub fn truncate(&mut self, max: usize) {
        let (mut inputs, mut names) = (0, 0);
        self.inputs.retain(|_| {
            inputs += 1;
            inputs <= max
        });
        self.names.retain(|_| {
            names += 1;
            names <= max
        });
    }

    fn has_room(&self) -> bool {
        self.inputs.len() + self.names.len() < MAX_WANTED
    }
}

/// What follows what, where it is followed.
#[derive(Debug)]
pub struct Ahead {
    is_on: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    scopes: BTreeMap<HeatScope, Scope>,
    /// Followers that there was no room for.
    dropped: u64,
    rng: SmallRng,
    hasher: RandomState,
}

#[derive(Debug)]
struct Scope {
    inputs: Follow,
    names: Follow,
    by_hash: HashMap<InputHash, String>,
    next: Next,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            inputs: Follow::default(),
            names: Follow::new(NAMES_BYTES),
            by_hash: HashMap::new(),
            next: Next::default(),
        }
    }
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                scopes: BTreeMap::new(),
                dropped: 0,
                rng: SmallRng::from_os_rng(),
                hasher: RandomState::new(),
            }),
        }
    }
}

impl Ahead {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // Sound after a panic elsewhere: no change is left half done by the code inside.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows these, and forgets what was known of others. Says how many there is no room for.
    pub fn follow(&self, wanted: &BTreeSet<HeatScope>) -> usize {
        if wanted.is_empty() && !self.is_on.load(Ordering::Relaxed) {
            return 0;
        }
        self.with(|inner| {
            inner.scopes.retain(|scope, _| wanted.contains(scope));
            for scope in wanted {
                if inner.scopes.len() < MAX_SCOPES && !inner.scopes.contains_key(scope) {
                    inner.scopes.insert(scope.clone(), Scope::default());
                }
            }
            self.is_on
                .store(!inner.scopes.is_empty(), Ordering::Relaxed);
            wanted.len() - inner.scopes.len()
        })
    }

    /// Notes what jobs ask for, in their order.
    pub fn asked(&self, scope: &HeatScope, inputs: impl Iterator<Item = InputHash>) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        self.with(|inner| {
            let (rng, dropped) = (&mut inner.rng, &mut inner.dropped);
            let Some(known) = inner.scopes.get_mut(scope) else {
                return;
            };
            for input in inputs.take(MAX_ASKED) {
                for follower in known.inputs.asked(&input, None, rng) {
                    if known.next.has_room() {
                        known.next.inputs.insert(follower.input);
                    } else {
                        *dropped += 1;
                    }
                }
            }
        });
    }

    /// Notes what readers read, in their order; `session` says whose reads those are, where that is known.
    pub fn read<'a>(
        &self,
        namespace: &str,
        session: Option<&str>,
        names: impl Iterator<Item = &'a str> + Clone,
    ) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        self.with(|inner| {
            let session = session.map(|session| inner.hasher.hash_one(session));
            let (rng, dropped) = (&mut inner.rng, &mut inner.dropped);
            let scopes = inner.scopes.iter_mut();
            for (_, known) in scopes.filter(|(scope, _)| scope.namespace == namespace) {
                for name in names.clone() {
                    known.read(name, session, rng, dropped);
                }
            }
        });
    }

    /// What probably comes next since this was asked last, and how much of it there was no room for.
    pub fn take(&self) -> (Vec<(HeatScope, Next)>, u64) {
        if !self.is_on.load(Ordering::Relaxed) {
            return (Vec::new(), 0);
        }
        self.with(|inner| {
            let scopes = inner.scopes.iter_mut();
            let some = scopes.filter(|(_, known)| !known.next.is_empty());
            let taken = some.map(|(scope, known)| (scope.clone(), std::mem::take(&mut known.next)));
            (taken.collect(), std::mem::take(&mut inner.dropped))
        })
    }
}

impl Scope {
    fn read(&mut self, name: &str, session: Option<u64>, rng: &mut SmallRng, dropped: &mut u64) {
        let hash = key::hash_body(name.as_bytes());
        for follower in self.names.asked(&hash, session, rng) {
            let Some(next) = self.by_hash.get(&follower.input) else {
                continue;
            };
            if self.next.has_room() {
                self.next.names.insert(next.clone());
            } else {
                *dropped += 1;
            }
        }
        if self.by_hash.len() >= MAX_NAMES {
            let held = &self.names;
            self.by_hash.retain(|hash, _| held.holds(hash));
        }
        if self.by_hash.len() < MAX_NAMES {
            self.by_hash.entry(hash).or_insert_with(|| name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::key::hash_text;

    fn scope(namespace: &str) -> HeatScope {
        HeatScope {
            namespace: namespace.to_owned(),
            model: "m".to_owned(),
        }
    }

    fn inputs(numbers: &[usize]) -> impl Iterator<Item = InputHash> + use<'_> {
        numbers.iter().map(|n| hash_text(&n.to_string(), None))
    }

    #[test]
    fn what_follows_is_taken_once_and_only_where_it_is_followed() {
        let ahead = Ahead::default();
        let both = |n: usize| {
            for namespace in ["a", "b"] {
                ahead.asked(&scope(namespace), inputs(&[1, 2, 100 + 3 * n, 101 + 3 * n]));
                let (other, more) = (format!("x{n}"), format!("y{n}"));
                let names = ["one", "two", &other, &more];
                ahead.read(namespace, Some("s"), names.into_iter());
                // Somebody else's reads come between.
                ahead.read(namespace, Some(&other), ["three"].into_iter());
            }
        };
        both(0);
        assert_eq!(ahead.take(), (Vec::new(), 0), "nothing is followed");
        assert_eq!(ahead.follow(&BTreeSet::from([scope("a")])), 0);
        (1..20).for_each(both);
        let (taken, dropped) = ahead.take();
        assert_eq!((taken.len(), dropped), (1, 0));
        let (of, next) = taken.first().expect("one");
        assert_eq!(of, &scope("a"));
        assert_eq!(next.inputs, inputs(&[2]).collect());
        assert_eq!(next.names, HashSet::from(["two".to_owned()]));
        assert_eq!(ahead.take(), (Vec::new(), 0), "it was taken");
        ahead.follow(&BTreeSet::new());
        both(20);
        assert_eq!(ahead.take(), (Vec::new(), 0), "it was forgotten");
    }

    #[test]
    fn it_holds_so_many_scopes_and_followers_and_no_more() {
        let ahead = Ahead::default();
        let many: BTreeSet<HeatScope> = (0..MAX_SCOPES + 3)
            .map(|n| scope(&format!("{n:02}")))
            .collect();
        assert_eq!(ahead.follow(&many), 3);
        let pairs = MAX_WANTED + 10;
        for _ in 0..8 {
            for n in 0..pairs {
                ahead.asked(&scope("00"), inputs(&[10 * n, 10 * n + 1]));
                let names = [format!("a{n}"), format!("b{n}")];
                ahead.read("01", None, names.iter().map(String::as_str));
            }
            for n in 0..2 * MAX_NAMES {
                ahead.read("02", None, [format!("{n}").as_str()].into_iter());
            }
        }
        let (taken, dropped) = ahead.take();
        let counts = taken.iter();
        let counts: Vec<usize> = counts
            .map(|(_, next)| next.inputs.len() + next.names.len())
            .collect();
        assert_eq!(counts[..2], [MAX_WANTED, MAX_WANTED]);
        assert!(counts.iter().all(|count| *count <= MAX_WANTED));
        assert!(dropped >= 20, "{dropped}");
        ahead.with(|inner| {
            let names = inner.scopes.values().map(|known| known.by_hash.len());
            assert!(names.max() <= Some(MAX_NAMES));
        });
    }
}
