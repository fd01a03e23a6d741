//! Texts of different lengths as rows of one: in groups, so that short ones aren't all padded to the longest.
//!
//! A graphics processor gets sizes of few kinds: kernels are compiled for each kind, and buffers of a size are used again.

/// Padding that is saved by a group of its own, in tokens: a pass costs a graphics processor as much by itself.
const WORTH_A_PASS: usize = 4096;
/// Maximum of tokens in a group, padding included, unless one text alone has more: it bounds the memory.
const MAX_SLOTS: usize = 65_536;
/// Maximum of numbers in a group's scores, likewise: texts · heads · length². 1 GiB, of which a pass holds several.
const MAX_SCORES: usize = 1 << 28;

/// How sizes are rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    AsTheyAre,
    OfFewKinds,
}

impl Sizes {
    fn length(self, length: usize) -> usize {
        match self {
            Self::AsTheyAre => length,
            Self::OfFewKinds if length <= 64 => length.next_multiple_of(16),
            Self::OfFewKinds if length <= 128 => length.next_multiple_of(32),
            Self::OfFewKinds => length.next_multiple_of(64),
        }
    }

    /// Every length that texts of up to that many tokens are padded to, where there are few.
    pub fn lengths(self, longest: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        while self == Self::OfFewKinds && lengths.last().is_none_or(|&last| last < longest) {
            let next = lengths.last().map_or(1, |last| last + 1);
            lengths.push(self.length(next));
        }
        lengths
    }

    /// Texts of `length` tokens, rounded up by as many as cost less than a pass.
    fn texts(self, texts: usize, length: usize, heads: usize) -> usize {
        let steps: &[usize] = match self {
            Self::AsTheyAre => &[],
            Self::OfFewKinds => &[8, 4, 2],
        };
        steps
            .iter()
            .map(|&step| texts.next_multiple_of(step))
            .find(|&rounded| {
                (rounded - texts) * length < WORTH_A_PASS && is_bounded(rounded, length, heads)
            })
            .unwrap_or(texts)
    }
}

/// Whether that many texts of `length` tokens fit in a group.
fn is_bounded(texts: usize, length: usize, heads: usize) -> bool {
    let slots = texts.saturating_mul(length);
    let scores = slots.saturating_mul(length).saturating_mul(heads);
    slots <= MAX_SLOTS && scores <= MAX_SCORES
}

/// Texts that are padded to one length, by where each stands among all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub texts: Vec<usize>,
    longest: usize,
    /// What `longest` is padded to.
    length: usize,
    /// How many texts they are filled up to.
    rows: usize,
}

/// Cuts texts into groups, longest first, for an attention of so many heads.
pub(super) fn groups(lengths: &[usize], sizes: Sizes, heads: usize) -> Vec<Group> {
    let mut order: Vec<(usize, usize)> = lengths.iter().copied().enumerate().collect();
    order.sort_by_key(|&(text, length)| (std::cmp::Reverse(length), text));
    let mut groups: Vec<Group> = Vec::new();
    for (done, (text, length)) in order.into_iter().enumerate() {
        let fits = |group: &&mut Group| {
            let left = lengths.len() - done;
            let saved = left * (group.longest - length);
            let is_worth_it = length * 2 <= group.longest && saved >= WORTH_A_PASS;
            !is_worth_it && is_bounded(group.texts.len() + 1, group.length, heads)
        };
        match groups.last_mut().filter(fits) {
            Some(group) => group.texts.push(text),
            None => groups.push(Group {
                texts: vec![text],
                longest: length,
                length: sizes.length(length),
                rows: 1,
            }),
        }
    }
    for group in &mut groups {
        group.rows = sizes.texts(group.texts.len(), group.length, heads);
    }
    groups
}

/// A group's texts filled up to one length, `[texts, longest]`.
pub(super) struct Padded {
    pub texts: usize,
    pub longest: usize,
    pub words: Vec<i32>,
    pub kinds: Vec<i32>,
    pub positions: Vec<i32>,
    /// 1 for a token, 0 for padding.
    pub real: Vec<f32>,
}

impl Padded {
    /// `texts` are all texts' tokens with their kinds. Rows that are filled up with have one token.
    pub fn new(group: &Group, texts: &[(&[u32], &[u32])], offset: usize) -> Self {
        let (count, longest) = (group.rows, group.length);
        let slots = count * longest;
        let mut padded = Self {
            texts: count,
            longest,
            words: Vec::with_capacity(slots),
            kinds: Vec::with_capacity(slots),
            positions: Vec::with_capacity(slots),
            real: Vec::with_capacity(slots),
        };
        let rows = group.texts.iter().filter_map(|&text| texts.get(text));
        for (row, (ids, types)) in rows.enumerate() {
            let mut position = offset;
            for (&id, &kind) in ids.iter().zip(*types) {
                // The row before the first belongs to a padding token, which isn't counted.
                let is_padding = id as usize + 1 == offset;
                let at = if is_padding { offset - 1 } else { position };
                position += usize::from(!is_padding);
                padded.push(id as i32, kind as i32, at as i32, 1.0);
            }
            padded.fill((row + 1) * longest, offset);
        }
        for row in group.texts.len()..count {
            padded.push(0, 0, offset as i32, 1.0);
            padded.fill((row + 1) * longest, offset);
        }
        padded
    }

    fn fill(&mut self, slots: usize, offset: usize) {
        while self.words.len() < slots {
            self.push(0, 0, offset as i32, 0.0);
        }
    }

    fn push(&mut self, word: i32, kind: i32, position: i32, real: f32) {
        self.words.push(word);
        self.kinds.push(kind);
        self.positions.push(position);
        self.real.push(real);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(lengths: &[usize]) -> Vec<(usize, Vec<usize>)> {
        let groups = groups(lengths, Sizes::AsTheyAre, 12);
        groups.into_iter().map(|g| (g.longest, g.texts)).collect()
    }

    #[test]
    fn few_texts_stay_together_and_many_short_ones_beside_a_long_one_do_not() {
        assert_eq!(cut(&[]), []);
        assert_eq!(cut(&[3, 200, 7]), [(200, vec![1, 2, 0])]);
        let mut lengths = vec![10; 100];
        lengths[40] = 200;
        let found = cut(&lengths);
        assert_eq!(found[0], (200, vec![40]));
        assert_eq!((found[1].0, found[1].1.len(), found.len()), (10, 99, 2));
    }

    #[test]
    fn a_group_is_bounded_and_no_text_is_lost() {
        let lengths: Vec<usize> = (0..1000).map(|i| 1 + i * 7919 % 512).collect();
        let groups = groups(&lengths, Sizes::AsTheyAre, 12);
        let mut seen: Vec<usize> = groups.iter().flat_map(|g| g.texts.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        for group in &groups {
            assert!(group.texts.len() * group.longest <= MAX_SLOTS, "{group:?}");
            assert!(
                group
                    .texts
                    .iter()
                    .all(|&text| lengths[text] <= group.longest)
            );
        }
        assert_eq!(cut(&[100_000]), [(100_000, vec![0])]);
    }

    #[test]
    fn sizes_are_of_few_kinds_on_a_graphics_processor() {
        let group = |sizes: Sizes| groups(&[1, 3], sizes, 12).remove(0);
        let texts: [(&[u32], &[u32]); 2] = [(&[5], &[0]), (&[6, 7, 8], &[0, 0, 1])];
        let bare = Padded::new(&group(Sizes::AsTheyAre), &texts, 0);
        assert_eq!((bare.texts, bare.longest), (2, 3));
        assert_eq!(bare.words, [6, 7, 8, 5, 0, 0]);
        assert_eq!(bare.real, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(bare.positions, [0, 1, 2, 0, 0, 0]);
        let filled = Padded::new(&group(Sizes::OfFewKinds), &texts, 0);
        assert_eq!((filled.texts, filled.longest), (8, 16));
        assert_eq!(
            (filled.words.len(), filled.real.iter().sum::<f32>()),
            (128, 10.0)
        );
        assert_eq!(Sizes::OfFewKinds.length(65), 96);
        assert_eq!(
            Sizes::OfFewKinds.lengths(200),
            [16, 32, 48, 64, 96, 128, 192, 256]
        );
        assert!(Sizes::AsTheyAre.lengths(200).is_empty());
    }

    fn sizes(lengths: &[usize], heads: usize) -> Vec<(usize, usize)> {
        let groups = groups(lengths, Sizes::OfFewKinds, heads);
        groups.iter().map(|g| (g.rows, g.length)).collect()
    }

    #[test]
    fn few_long_texts_are_not_filled_up_to_many() {
        for (length, rows) in [(1, 8), (512, 8), (1024, 4), (2048, 2), (4096, 1), (8192, 1)] {
            assert_eq!(sizes(&[length], 16), [(rows, length.max(16))]);
        }
        // As many as a pass of 16,384 tokens has.
        assert_eq!(sizes(&[38; 431], 12), [(432, 48)]);
        assert_eq!(sizes(&[500; 33], 12), [(40, 512)]);
    }

    #[test]
    fn a_groups_scores_are_bounded_as_they_are_padded() {
        for (length, texts) in [
            (30, 5000),
            (65, 1000),
            (500, 300),
            (1000, 50),
            (3000, 9),
            (8192, 3),
        ] {
            let found = sizes(&vec![length; texts], 16);
            assert!(found.iter().map(|(rows, _)| rows).sum::<usize>() >= texts);
            for (rows, length) in found {
                let is_alone = rows == 1;
                assert!(rows * length <= MAX_SLOTS, "{rows} of {length}");
                assert!(
                    is_alone || rows * length * length * 16 <= MAX_SCORES,
                    "{rows} of {length}"
                );
            }
        }
    }
}
