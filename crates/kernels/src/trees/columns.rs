//! Ranks instead of numbers.
//!
//! A feature's thresholds are sorted, and a row's number is replaced once by its rank: how many of them it exceeds. It is at most the
//! threshold of that number exactly if its rank is at most the threshold's, so that splits compare bytes. A column holds the ranks of
//! up to 255 thresholds; a feature with more has several columns. What a split does with missing numbers and zeros becomes part of
//! a column, too: there the rank is the lowest or the highest, and the split needs to know no more.

use super::{Missing, Number, Rule, Shape, Side, TooManyColumns, Tree, category};
use std::collections::BTreeMap;

/// Thresholds that a column tells apart.
const RANKS: usize = 255;
/// Rows whose ranks are looked for together: their searches don't wait for each other.
const LANES: usize = 16;

/// What a column does with what isn't compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Treatment {
    missing: Missing,
    zero: Option<Side>,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// The rank below its first.
    base: u32,
    treatment: Treatment,
    /// The rank of zero in this column.
    zero_rank: u8,
}

/// The columns of one feature.
#[derive(Debug)]
struct Feature {
    feature: u32,
    thresholds: std::ops::Range<u32>,
    /// Its first column; the others follow.
    first: u32,
    count: u32,
}

/// How rows of numbers become rows of ranks and of categories.
#[derive(Debug, Default)]
pub(super) struct Columns {
    features: Vec<Feature>,
    thresholds: Vec<f32>,
    columns: Vec<Column>,
    index: BTreeMap<(u32, u32, Treatment), u16>,
    /// The features that have categories.
    categories: Vec<u32>,
    zero: f32,
    truncates: bool,
}

/// A category that is none.
pub(super) const NO_CATEGORY: u32 = u32::MAX - 1;
/// A missing category.
pub(super) const MISSING: u32 = u32::MAX;

impl Columns {
    pub fn of<N: Number>(shape: &Shape<N>, trees: &[Tree<N>]) -> Result<Self, TooManyColumns> {
        let mut found: BTreeMap<u32, Vec<(Treatment, f32)>> = BTreeMap::new();
        let mut categories = Vec::new();
        for split in trees.iter().flat_map(|tree| &tree.splits) {
            assert!((split.feature as usize) < shape.features, "no such feature");
            match split.rule {
                Rule::Number { max, missing, zero } => {
                    assert!(!max.is_nan(), "a threshold that is NaN");
                    let treatment = Treatment { missing, zero };
                    let feature = found.entry(split.feature).or_default();
                    feature.push((treatment, max + 0.0));
                }
                Rule::Category { .. } => categories.push(split.feature),
            }
        }
        categories.sort_unstable();
        categories.dedup();
        let mut all = Self {
            categories,
            zero: shape.zero,
            truncates: shape.truncates,
            ..Self::default()
        };
        for (feature, used) in found {
            let mut thresholds: Vec<f32> = used.iter().map(|(_, max)| *max).collect();
            thresholds.sort_unstable_by(f32::total_cmp);
            thresholds.dedup();
            all.add(feature, &thresholds, used)?;
        }
        Ok(all)
    }

    fn add(
        &mut self,
        feature: u32,
        thresholds: &[f32],
        used: Vec<(Treatment, f32)>,
    ) -> Result<(), TooManyColumns> {
        let rank = |x: f32| thresholds.partition_point(|max| *max < x);
        let chunk = |max: f32| (rank(max) / RANKS) as u32;
        let mut wanted: Vec<_> = used
            .into_iter()
            .map(|(treatment, max)| (chunk(max), treatment))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let first = self.columns.len() as u32;
        for (chunk, treatment) in wanted {
            let column = u16::try_from(self.columns.len()).map_err(|_| TooManyColumns)?;
            let base = chunk as usize * RANKS;
            self.index.insert((feature, chunk, treatment), column);
            self.columns.push(Column {
                base: base as u32,
                treatment,
                zero_rank: rank(0.0).saturating_sub(base).min(RANKS) as u8,
            });
        }
        let from = self.thresholds.len() as u32;
        self.thresholds.extend_from_slice(thresholds);
        self.features.push(Feature {
            feature,
            thresholds: from..self.thresholds.len() as u32,
            first,
            count: self.columns.len() as u32 - first,
        });
        Ok(())
    }

    /// The column and the rank of a split's threshold in it.
    pub fn of_split(
        &self,
        feature: u32,
        max: f32,
        missing: Missing,
        zero: Option<Side>,
    ) -> (u16, u8) {
        let at = self
            .features
            .partition_point(|known| known.feature < feature);
        let range = &self.features[at].thresholds;
        let thresholds = &self.thresholds[range.start as usize..range.end as usize];
        let rank = thresholds.partition_point(|known| *known < max);
        let key = (feature, (rank / RANKS) as u32, Treatment { missing, zero });
        (self.index[&key], (rank % RANKS) as u8)
    }

    /// The place of a feature among those with categories.
    pub fn of_category(&self, feature: u32) -> usize {
        self.categories.partition_point(|known| *known < feature)
    }

    /// What is looked up only while a forest is built.
    pub fn forget_splits(&mut self) {
        self.index = BTreeMap::new();
    }

    pub fn count(&self) -> usize {
        self.columns.len()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self.features.as_slice())
            + size_of_val(self.thresholds.as_slice())
            + size_of_val(self.columns.as_slice())
    }

    /// Calls `put` with a column, the row of a lane and its rank there, for all of them. Rows are `width` numbers.
    #[inline(always)]
    pub fn rank(&self, rows: &[f32], width: usize, mut put: impl FnMut(usize, usize, u8)) {
        for (piece, rows) in rows.chunks(LANES * width).enumerate() {
            let count = rows.len() / width;
            for feature in &self.features {
                let mut numbers = [0.0f32; LANES];
                let column = rows.iter().skip(feature.feature as usize).step_by(width);
                for (into, x) in numbers.iter_mut().zip(column) {
                    *into = if x.abs() <= self.zero { 0.0 } else { *x };
                }
                let range = &feature.thresholds;
                let thresholds = &self.thresholds[range.start as usize..range.end as usize];
                let ranks = match count {
                    1 => [search([numbers[0]], thresholds)[0]; LANES],
                    _ => search(numbers, thresholds),
                };
                let (from, to) = (feature.first as usize, feature.first + feature.count);
                for (at, column) in self.columns[from..to as usize].iter().enumerate() {
                    for (lane, (x, rank)) in numbers.iter().zip(ranks).take(count).enumerate() {
                        put(from + at, piece * LANES + lane, column.value(*x, rank));
                    }
                }
            }
        }
    }

    /// The categories of one row, a number for each feature that has them.
    pub fn categories<'a>(&'a self, row: &'a [f32]) -> impl Iterator<Item = u32> + 'a {
        self.categories.iter().map(|&feature| {
            let x = row[feature as usize];
            let x = if x.abs() <= self.zero { 0.0 } else { x };
            match category(x, self.truncates) {
                _ if x.is_nan() => MISSING,
                Some(category) => category,
                None => NO_CATEGORY,
            }
        })
    }

    pub fn has_categories(&self) -> bool {
        !self.categories.is_empty()
    }
}

impl Column {
    #[inline(always)]
    fn value(&self, x: f32, rank: u32) -> u8 {
        let end = |side| match side {
            Side::Left => 0,
            Side::Right => RANKS as u8,
        };
        if x.is_nan() {
            return match (self.treatment.missing, self.treatment.zero) {
                (Missing::Goes(side), _) | (Missing::IsZero, Some(side)) => end(side),
                (Missing::IsZero, None) => self.zero_rank,
            };
        }
        match self.treatment.zero {
            Some(side) if x == 0.0 => end(side),
            _ => rank.saturating_sub(self.base).min(RANKS as u32) as u8,
        }
    }
}

/// How many of the thresholds each number exceeds, by bisection in the same steps for all.
#[inline(always)]
fn search<const COUNT: usize>(numbers: [f32; COUNT], thresholds: &[f32]) -> [u32; COUNT] {
    let mut ranks = [0u32; COUNT];
    let mut left = thresholds.len();
    while left > 1 {
        let half = left / 2;
        for (rank, x) in ranks.iter_mut().zip(numbers) {
            let exceeds = thresholds[*rank as usize + half - 1] < x;
            *rank += if exceeds { half as u32 } else { 0 };
        }
        left -= half;
    }
    for (rank, x) in ranks.iter_mut().zip(numbers) {
        *rank += u32::from(thresholds[*rank as usize] < x);
    }
    ranks
}
