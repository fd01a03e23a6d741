//! The cases of Redis: words of every kind and order under a few keys, entries, leases, acceptances, and what becomes of each.

use crate::{
    cache::{Cache, Leases, MemoryCache, RedisCache, Word, WordKind, Words},
    config::Redis,
    secret::Secret,
    telemetry::metrics::Metrics,
};
use kiln_contract::{
    key,
    order::{AsOf, Moment, Order},
    reader::{self, Provenance},
};
use std::{borrow::Cow, collections::BTreeMap, fmt::Write, time::Duration};

const KEYS: [&str; 2] = ["a", "b"];
const MINUTE_MS: u64 = 60_000;
/// Words that come one after the other.
const WORDS: u64 = 400;

/// A number that follows from the one before, the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn word(numbers: &mut Numbers, job: &str) -> Word {
    let accepted = Moment::from_micros(1_000_000 + numbers.below(12) as i64);
    let as_of = match numbers.below(4) {
        0 => Some(AsOf::Sequence(numbers.below(6))),
        1 => AsOf::moment(Moment::from_micros(999_990 + numbers.below(20) as i64).rfc3339()),
        _ => None,
    };
    let said = Provenance {
        job_id: Some(job),
        as_of: as_of.as_ref(),
        order: Order::new(as_of.as_ref(), accepted),
    };
    let kind = match numbers.below(6) {
        0 | 1 => WordKind::Removal,
        2 => WordKind::Refresh,
        _ => WordKind::Entry,
    };
    let name = KEYS.get(numbers.below(2) as usize).copied();
    Word {
        key: key::named("n", name.unwrap_or_default()),
        value: reader::removal(&said),
        ttl_ms: MINUTE_MS,
        kind,
        may_be_old: kind != WordKind::Removal && numbers.below(3) == 0,
    }
}

fn text(value: Option<Vec<u8>>) -> String {
    value.map_or_else(
        || "-".to_owned(),
        |value| String::from_utf8_lossy(&value).into_owned(),
    )
}

/// Runs every case on a Redis without keys, and gives what came of it.
pub async fn redis(url: &str) -> String {
    let mut lines = String::new();
    let (url, metrics) = (Secret::new(url), Metrics::new());
    let Ok(redis) = RedisCache::new(&url, &Redis::default(), metrics.clone()) else {
        return "no URL".to_owned();
    };
    let cache = Cache::redis(redis, MemoryCache::new(1), metrics);
    words(&cache, &mut lines).await;
    if let Some(redis) = cache.server() {
        entries(redis, &mut lines).await;
        leases(redis, &mut lines).await;
    }
    acceptances(&cache, &mut lines).await;
    lines
}

async fn words(cache: &Cache, lines: &mut String) {
    let mut numbers = Numbers(7);
    let names = KEYS.map(|name| key::named("n", name));
    for number in 0..WORDS {
        // From an earlier release, which wrote no order; only where nothing stands.
        if let Some(redis) = cache.server().filter(|_| number % 5 == 0) {
            let names = names.clone().map(String::into_bytes);
            let life = Duration::from_millis(MINUTE_MS);
            let set = redis.set_new(&names, "{\"score\":0.5}", life).await;
            let _written = writeln!(lines, "{number}: earlier {set:?}");
        }
        let job = format!("job-{number}");
        let count = 1 + numbers.below(3);
        let some = (0..count).map(|_| Cow::Owned(word(&mut numbers, &job)));
        let words = Words {
            all: BTreeMap::from([("n", some.collect::<Vec<Cow<'_, Word>>>())]),
            jobs: vec![&job],
            stamp: 0,
        };
        let published = cache.publish(&words).await;
        let standing = cache.standing(&names).await;
        let standing: Vec<String> = standing.into_iter().map(text).collect();
        let published = published.map(|one| (one.older, one.unwritten, one.standing));
        // Writing to a text doesn't fail.
        let _written = writeln!(lines, "{number}: {published:?} {}", standing.join(" "));
    }
}

async fn entries(redis: &RedisCache, lines: &mut String) {
    let [x, y, z, none] = ["x", "y", "z", "none"].map(|key| key.as_bytes().to_vec());
    let life = Duration::from_secs(60);
    let first = redis.set_new(&[x.clone(), y.clone()], "one", life).await;
    let second = redis.set_new(&[y.clone(), z.clone()], "two", life).await;
    let keys = [x, y, z, none];
    let found = redis.get(&keys, |_| 8).await;
    let found = found.map(|found| found.into_iter().map(text).collect::<Vec<_>>());
    let ttls = redis.ttls(&keys).await;
    let near = |ttl: Option<u64>| ttl.map(|ttl| ttl > 50_000 && ttl <= 60_000);
    let ttls = ttls.map(|ttls| ttls.into_iter().map(near).collect::<Vec<_>>());
    let _written = writeln!(
        lines,
        "set {first:?} {second:?}, found {found:?}, live {ttls:?}"
    );
}

async fn leases(redis: &RedisCache, lines: &mut String) {
    let [one, two] = ["l", "m"].map(|key| key.as_bytes().to_vec());
    let (one, both) = (vec![one.clone()], vec![one, two]);
    let life = Duration::from_secs(60);
    let (holder, other) = (Leases::new(redis, life), Leases::new(redis, life));
    let asked = [holder.ask(&one).await, other.ask(&both).await];
    // Nobody gives back what isn't his.
    other.give_back(&one).await;
    let kept = other.ask(&one).await;
    holder.give_back(&both).await;
    let given = other.ask(&both).await;
    let _written = writeln!(lines, "leases {asked:?}, kept {kept:?}, given {given:?}");
}

async fn acceptances(cache: &Cache, lines: &mut String) {
    let key = |job: &str| key::accepted(job);
    let at = |micros| Moment::from_micros(micros);
    let life = Duration::from_secs(60);
    let first = cache
        .accept(&[(key("p"), at(5)), (key("q"), at(6))], life)
        .await;
    let again = cache
        .accept(&[(key("q"), at(3)), (key("r"), at(9))], life)
        .await;
    cache
        .prolong(&[(key("p"), 120_000), (key("q"), 1_000), (key("s"), 1_000)])
        .await;
    let known = cache
        .accepted(&[key("p"), key("q"), key("r"), key("s")])
        .await;
    let _written = writeln!(
        lines,
        "accepted {first:?}, again {again:?}, known {known:?}"
    );
    if let Some(redis) = cache.server() {
        let ttls = redis.ttls(&[key("p"), key("q"), key("s")]).await;
        let long = |ttl: Option<u64>| ttl.map(|ttl| ttl / 50_000);
        let ttls = ttls.map(|ttls| ttls.into_iter().map(long).collect::<Vec<_>>());
        let _written = writeln!(lines, "prolonged {ttls:?}");
    }
}
