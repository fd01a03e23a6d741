//! Owns how the messages that may be unacknowledged are shared among the queues that a worker takes jobs from.
//!
//! Pure. Promises that all queues of jobs together get no more than one queue would, but for one message of each and a sixteenth for the
//! shards that are left over; and that what any queue has is bounded in bytes as well, but for its first few messages.

/// Messages that may be unacknowledged whatever their size.
pub(super) const FEW: u16 = 16;
/// Of the bytes that may be in hand, one part in so many is for bodies that were delivered and wait to be taken.
const PART: usize = 4;
/// Of what one queue could get, the part of `kiln.jobs` beside shards, and that of all shards together which are left over from more of them.
const JOBS_PART: usize = 4;
const LEFT_OVER_PART: usize = 16;
/// Of the bytes that may be in hand, the part of a queue of what isn't producers' jobs.
const BESIDE_PART: usize = 16;
/// Messages of such a queue, and of all queues of a lane together, that may be unacknowledged whatever their size.
const FEW_BESIDE: u16 = 2;
const FEW_OF_A_LANE: u16 = 8;

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
    /// That of a queue beside those of jobs.
    pub fn beside(prefetch: u16, max_bytes_in_hand: usize) -> Self {
        Self {
            few: FEW_BESIDE.min(prefetch),
            max: prefetch,
            bytes: max_bytes_in_hand / BESIDE_PART,
        }
    }

    /// That of one of so many queues of a lane, which may have so many bytes in hand. Each has one message at least.
    pub fn lane(prefetch: u16, max_bytes_in_hand: usize, queues: usize) -> Self {
        let queues = queues.max(1);
        Self {
            few: (usize::from(FEW_OF_A_LANE).div_ceil(queues) as u16).min(prefetch),
            max: prefetch,
            bytes: max_bytes_in_hand / PART / queues,
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
    fn a_lane_and_what_is_no_job_have_a_part_of_the_bytes_and_a_few_messages() {
        let lane = Share {
            few: 2,
            max: 32,
            bytes: 4 << 20,
        };
        assert_eq!(Share::lane(32, 64 << 20, 4), lane);
        for queues in [0, 1, 3, 8, 64, 1_000] {
            let one = Share::lane(32, BYTES, queues);
            let few = usize::from(one.few);
            assert!(
                few >= 1 && queues * few <= 8 + queues,
                "{queues} times {few}"
            );
            assert!(queues * one.bytes <= BYTES / 4, "{queues}");
        }
        assert_eq!(Share::lane(2, BYTES, 1).few, 2, "no more than it may have");
        let beside = Share::beside(64, BYTES);
        let expected = Share {
            few: 2,
            max: 64,
            bytes: 16 << 20,
        };
        assert_eq!(beside, expected);
        assert_eq!(Share::beside(1, BYTES).few, 1);
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
