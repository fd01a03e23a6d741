//! Owns how the messages that may be unacknowledged are shared among the queues that a worker takes jobs from.
//!
//! Pure. Promises that all queues of jobs together get no more than one queue would, but for one message of each and a sixteenth for the
//! shards that are left over.

/// Messages that may be unacknowledged whatever their size.
pub(super) const FEW: u16 = 16;
/// Of the bytes that may be in hand, one part in so many is for bodies that were delivered and wait to be taken.
const PART: usize = 4;
/// Of what one queue could get, the part of `kiln.jobs` beside shards, and that of all shards together which are left over from more of them.
const JOBS_PART: usize = 4;
const LEFT_OVER_PART: usize = 16;

/// What one queue may have unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Messages of whatever size.
    pub few: u16,
    /// Messages, as far as their bytes allow.
    pub max: u16,
    /// Bytes of the messages beyond the first few.
    pub bytes: usize,
}

impl Share {
    /// So many messages, whatever their size.
    pub fn fixed(prefetch: u16) -> Self {
        Self {
            few: prefetch,
            max: prefetch,
            bytes: 0,
        }
    }

    /// That of `kiln.jobs` beside so many shards: all of it where there are none.
    pub fn jobs(prefetch: u16, max_bytes_in_hand: usize, shards: usize) -> Self {
        let max = jobs_max(prefetch, shards);
        Self::part(prefetch, max_bytes_in_hand, shards + 1, max)
    }

    /// That of one shard of so many that are wanted.
    pub fn shard(prefetch: u16, max_bytes_in_hand: usize, shards: usize) -> Self {
        let left = usize::from(prefetch.saturating_sub(jobs_max(prefetch, shards)));
        let max = (left / shards.max(1)) as u16;
        Self::part(prefetch, max_bytes_in_hand, shards + 1, max.max(1))
    }

    /// That of one shard of so many that are there beyond those that are wanted.
    pub fn left_over(prefetch: u16, max_bytes_in_hand: usize, shards: usize) -> Self {
        let queues = LEFT_OVER_PART * shards.max(1);
        let max = (usize::from(prefetch) / queues) as u16;
        Self::part(prefetch, max_bytes_in_hand, queues, max.max(1))
    }

    fn part(prefetch: u16, max_bytes_in_hand: usize, queues: usize, max: u16) -> Self {
        let all = max_bytes_in_hand / PART;
        Self {
            few: (usize::from(FEW).div_ceil(queues) as u16).min(max),
            max,
            bytes: all.saturating_mul(max.into()) / usize::from(prefetch.max(1)),
        }
    }
}

/// Producers that know of no shards get a quarter at least.
fn jobs_max(prefetch: u16, shards: usize) -> u16 {
    let equal = usize::from(prefetch) / (shards + 1);
    let quarter = usize::from(prefetch) / JOBS_PART;
    let max = if shards == 0 {
        equal
    } else {
        equal.max(quarter)
    };
    (max as u16).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 256 << 20;

    #[test]
    fn without_shards_the_queue_of_jobs_has_all() {
        let all = Share {
            few: 16,
            max: 1_000,
            bytes: 64 << 20,
        };
        assert_eq!(Share::jobs(1_000, BYTES, 0), all);
        assert_eq!(Share::jobs(8, BYTES, 0).few, 8);
    }

    #[test]
    fn all_queues_together_have_what_one_had() {
        for prefetch in [1, 8, 100, 1_000, 2_000] {
            for shards in 1..=32_usize {
                let jobs = Share::jobs(prefetch, BYTES, shards);
                let shard = Share::shard(prefetch, BYTES, shards);
                let max = usize::from(jobs.max) + shards * usize::from(shard.max);
                let bytes = jobs.bytes + shards * shard.bytes;
                assert!(max <= usize::from(prefetch) + shards, "{prefetch} {shards}");
                let beyond = (shards + 1) * (BYTES / 4) / usize::from(prefetch);
                assert!(bytes <= BYTES / 4 + beyond, "{prefetch} {shards}");
                let few = usize::from(jobs.few) + shards * usize::from(shard.few);
                assert!(few <= 16 + shards, "{prefetch} {shards}");
            }
        }
        let shard = Share::shard(1_000, BYTES, 8);
        assert_eq!((shard.few, shard.max), (2, 93));
        assert_eq!(Share::jobs(1_000, BYTES, 8).max, 250);
    }

    #[test]
    fn shards_that_are_left_over_share_a_sixteenth() {
        for prefetch in [1, 100, 1_000] {
            for shards in 1..=32_usize {
                let one = Share::left_over(prefetch, BYTES, shards);
                let max = shards * usize::from(one.max);
                assert!(max <= usize::from(prefetch) / 16 + shards, "{prefetch}");
                let beyond = shards * (BYTES / 4) / usize::from(prefetch);
                assert!(shards * one.bytes <= BYTES / 64 + beyond, "{prefetch}");
                assert!(shards * usize::from(one.few) <= 1 + shards);
            }
        }
        assert_eq!(Share::left_over(1_000, BYTES, 1).max, 62);
    }
}
