//! Owns how much memory Redis has, how much of it is in use, and what an entry takes of it.

use super::RedisCache;

/// About what Redis needs for an entry beside its key and value, in bytes: measured on Redis 7, with the part of its tables that is empty.
const OVERHEAD_BYTES: f64 = 136.0;
/// About how much more than their bytes key and value take, since memory is given in steps.
const ROUNDED_UP: f64 = 1.15;

/// About what an entry with a TTL fills of Redis's memory, in bytes.
pub fn memory_bytes(key: usize, value: usize) -> f64 {
    OVERHEAD_BYTES + ROUNDED_UP * (key + value) as f64
}

/// What Redis says of its memory; of a cluster, of all its primaries together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that it may use: its `maxmemory`, or where none is set all that its machine has.
    pub max: u64,
    /// Whether it makes room by itself where there is none.
    pub makes_room: bool,
    /// Keys that it has evicted since it started.
    pub evicted_keys: u64,
}

impl Capacity {
    /// From an answer to INFO; nothing where that doesn't say it.
    fn read(info_text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = info_text.lines();
            lines.find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
        };
        let number = |name| field(name)?.parse::<u64>().ok();
        let set = number("maxmemory").filter(|max| *max > 0);
        Some(Self {
            used: number("used_memory")?,
            max: set.or_else(|| number("total_system_memory"))?,
            makes_room: set.is_some() && field("maxmemory_policy") != Some("noeviction"),
            evicted_keys: number("evicted_keys").unwrap_or_default(),
        })
    }

    fn with(self, other: Self) -> Self {
        Self {
            used: self.used.saturating_add(other.used),
            max: self.max.saturating_add(other.max),
            makes_room: self.makes_room && other.makes_room,
            evicted_keys: self.evicted_keys.saturating_add(other.evicted_keys),
        }
    }
}

impl RedisCache {
    /// How much memory it has; nothing where it doesn't answer, or doesn't say.
    pub async fn capacity(&self) -> Option<Capacity> {
        let mut info = redis::cmd("INFO");
        info.arg("memory").arg("stats");
        if self.cluster().is_none() {
            let answer = self.any::<String>(info.clone()).await;
            if answer.is_ok() || self.cluster().is_none() {
                return Capacity::read(&answer.ok()?);
            }
        }
        let answers = self.each_primary(self.cluster()?, |_| vec![info.clone()]);
        let mut all: Option<Capacity> = None;
        for answer in answers.await.ok()? {
            let info_text = redis::from_redis_value::<String>(answer).ok()?;
            let one = Capacity::read(&info_text)?;
            all = Some(all.map_or(one, |all| all.with(one)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_may_use_is_its_own_bound_or_the_machines() {
        let info = |bound: &str| {
            format!(
                "# Memory\r\nused_memory:1000\r\ntotal_system_memory:9000\r\n{bound}\r\n# Stats\r\nevicted_keys:7\r\n"
            )
        };
        let read = |bound| Capacity::read(&info(bound)).expect("figures");
        let free = read("maxmemory:0\r\nmaxmemory_policy:allkeys-lru");
        assert_eq!(
            (free.used, free.max, free.makes_room),
            (1_000, 9_000, false)
        );
        let bound = read("maxmemory:4000\r\nmaxmemory_policy:allkeys-lru");
        assert_eq!(
            (bound.max, bound.makes_room, bound.evicted_keys),
            (4_000, true, 7)
        );
        assert!(!read("maxmemory:4000\r\nmaxmemory_policy:noeviction").makes_room);
        assert_eq!(bound.with(bound).max, 8_000);
        assert_eq!(Capacity::read("OK"), None);
    }
}
