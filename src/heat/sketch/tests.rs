//! The sketch finds what is asked for most, within its bounds.

use super::*;
use drawing::Zipf;
use kiln_contract::key::hash_text;
use rand::{SeedableRng, rngs::StdRng};

/// Keys by rank, each drawn with a probability of 1 over its rank.
mod drawing {
    use rand::Rng;

    pub struct Zipf(Vec<f64>);

    impl Zipf {
        pub fn new(keys: usize) -> Self {
            let mut sum = 0.0;
            Self(
                (1..=keys)
                    .map(|rank| {
                        sum += 1.0 / rank as f64;
                        sum
                    })
                    .collect(),
            )
        }

        pub fn draw(&self, rng: &mut impl Rng) -> usize {
            let all = self.0.last().copied().unwrap_or(1.0);
            let at = rng.random::<f64>() * all;
            self.0.partition_point(|sum| *sum < at)
        }
    }
}

fn key(n: usize) -> InputHash {
    hash_text(&n.to_string(), None)
}

#[test]
fn the_hundred_hottest_of_a_million_are_found_within_a_megabyte() {
    let mut rng = StdRng::seed_from_u64(1);
    let zipf = Zipf::new(1_000_000);
    let keys: Vec<InputHash> = (0..1_000_000).map(key).collect();
    let mut sketch = Sketch::new(CAPACITY);
    for n in 0..10_000_000 {
        let drawn = zipf.draw(&mut rng);
        // A thousand requests a second.
        sketch.add(
            &keys[drawn.min(keys.len() - 1)],
            1.0,
            1.0,
            n as f64 / 1_000.0,
            &mut rng,
        );
    }
    assert!(sketch.bytes() <= 1 << 20, "{} bytes", sketch.bytes());
    let hot = sketch.hot(10_000.0);
    let found = (0..100)
        .filter(|rank| hot.iter().take(100).any(|(k, _)| *k == keys[*rank]))
        .count();
    assert!(found >= 98, "{found} of the hundred hottest");
    // The hottest is asked for 1000 / 14.39 times a second.
    assert!((hot[0].1 / 69.5 - 1.0).abs() < 0.1, "{} a second", hot[0].1);
}

#[test]
fn yesterdays_trend_goes_within_its_half_life_and_a_new_one_is_seen() {
    let mut rng = StdRng::seed_from_u64(2);
    let (old, new, steady) = (key(1), key(2), key(3));
    let mut sketch = Sketch::new(100);
    let rate = |sketch: &Sketch, key: &InputHash, now: f64| {
        sketch
            .hot(now)
            .into_iter()
            .find(|(k, _)| k == key)
            .map_or(0.0, |(_, rate)| rate)
    };
    for second in 0..14_400 {
        let now = f64::from(second);
        if second % 10 == 0 {
            sketch.add(&steady, 1.0, 1.0, now, &mut rng);
        }
        if second < 7_200 {
            sketch.add(&old, 1.0, 1.0, now, &mut rng);
        } else {
            sketch.add(&new, 1.0, 1.0, now, &mut rng);
        }
        if second == 7_500 {
            let (old, new) = (rate(&sketch, &old, now), rate(&sketch, &new, now));
            assert!(
                new > 0.5 && old < 0.5,
                "after five minutes: old {old}, new {new}"
            );
        }
        if second == 9_000 {
            let (old, new) = (rate(&sketch, &old, now), rate(&sketch, &new, now));
            assert!(
                old < 0.02 && new > 0.9,
                "after half an hour: old {old}, new {new}"
            );
        }
    }
    let steady = rate(&sketch, &steady, 14_400.0);
    assert!((steady / 0.1 - 1.0).abs() < 0.15, "{steady}");
}

#[test]
fn a_sketch_that_lives_for_years_keeps_its_order() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut sketch = Sketch::new(8);
    for day in 0..2_000 {
        for n in 0..6 {
            for _ in 0..=n {
                sketch.add(&key(n), 1.0, 1.0, f64::from(day) * 86_400.0, &mut rng);
            }
        }
    }
    let hot = sketch.hot(2_000.0 * 86_400.0);
    assert_eq!(hot.first().map(|(k, _)| *k), Some(key(5)));
    assert!(hot.iter().all(|(_, rate)| rate.is_finite()));
}

#[test]
fn more_keys_than_places_stay_within_the_places() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut sketch = Sketch::new(16);
    for n in 0..10_000 {
        sketch.add(&key(n % 7), 1.0, 1.0, n as f64, &mut rng);
        sketch.add(&key(n), 1.0, 1.0, n as f64, &mut rng);
    }
    assert_eq!(
        (sketch.len(), sketch.by_key.len(), sketch.heap.len()),
        (16, 16, 16)
    );
    for (index, entry) in sketch.entries.iter().enumerate() {
        assert_eq!(sketch.heap[entry.heap_index as usize] as usize, index);
        let hash = sketch.hasher.hash_one(entry.key);
        assert_eq!(sketch.index_of(&entry.key, hash), Some(index as u32));
    }
    for index in 1..16 {
        assert!(sketch.count_at((index - 1) / 2) <= sketch.count_at(index));
    }
}
