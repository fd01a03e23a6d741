//! Few rows, or trees that blocks of bits can't hold: from the root down, several trees at a time, so that the processor has other
//! nodes to fetch while it waits for one.

use super::columns::{MISSING, NO_CATEGORY};
use super::{Forest, Number, Placed, Side, has_bit};

/// Trees that are walked together.
const TOGETHER: usize = 8;
/// Steps between two looks at whether all have arrived.
const STEPS: usize = 4;

/// What a node looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Number,
    Category,
}

/// A node: a row goes to `child`, or to the node after it where its rank exceeds the threshold. A leaf leads to itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Node {
    pub child: u32,
    pub column: u16,
    pub threshold: u8,
    pub kind: Kind,
}

impl Node {
    /// No rank exceeds its threshold.
    pub fn leaf(at: u32) -> Self {
        Self {
            child: at,
            column: 0,
            threshold: u8::MAX,
            kind: Kind::Number,
        }
    }
}

#[derive(Debug)]
struct Set {
    /// Which of the row's categories it looks at.
    index: u32,
    from: u32,
    to: u32,
    members: Side,
    missing: Side,
}

/// The categories of all splits that have some.
#[derive(Debug, Default)]
pub(super) struct Sets {
    sets: Vec<Set>,
    words: Vec<u32>,
}

impl Sets {
    pub fn add(&mut self, index: u32, words: &[u32], members: Side, missing: Side) {
        let from = self.words.len() as u32;
        self.words.extend_from_slice(words);
        self.sets.push(Set {
            index,
            from,
            to: self.words.len() as u32,
            members,
            missing,
        });
    }

    /// The number of the set that was added last.
    pub fn last(&self) -> u32 {
        self.sets.len().saturating_sub(1) as u32
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self.sets.as_slice()) + size_of_val(self.words.as_slice())
    }

    /// Whether the row goes right.
    fn goes_right(&self, set: u32, categories: &[u32]) -> bool {
        let set = &self.sets[set as usize];
        let side = match categories[set.index as usize] {
            MISSING => set.missing,
            category => {
                let words = &self.words[set.from as usize..set.to as usize];
                let is_member = category != NO_CATEGORY && has_bit(words, category);
                Side::left_if(is_member == (set.members == Side::Left))
            }
        };
        side == Side::Right
    }
}

impl<N: Number> Forest<N> {
    /// Adds to the sums of some rows.
    pub(super) fn walk(&self, rows: &[f32], sums: &mut [N]) {
        let (width, count) = (self.shape.features, self.columns.count().max(1));
        let mut ranks = vec![0u8; rows.len() / width * count];
        self.columns.rank(rows, width, |column, row, rank| {
            ranks[row * count + column] = rank;
        });
        let categories: Vec<Vec<u32>> = match self.columns.has_categories() {
            true => rows
                .chunks_exact(width)
                .map(|row| self.columns.categories(row).collect())
                .collect(),
            false => Vec::new(),
        };
        // A group of trees for all rows: its nodes stay near.
        for group in self.trees.chunks(TOGETHER) {
            let each = ranks
                .chunks_exact(count)
                .zip(sums.chunks_exact_mut(self.outputs()));
            for (row, (ranks, sums)) in each.enumerate() {
                let at = match categories.get(row) {
                    None => self.arrive(group, ranks),
                    Some(categories) => self.arrive_by_categories(group, ranks, categories),
                };
                for (tree, at) in group.iter().zip(at) {
                    let leaf = self.leaf_of[at as usize];
                    sums[tree.output as usize] += self.leaves[leaf as usize];
                }
            }
        }
    }

    /// The nodes at which a row ends.
    #[inline(always)]
    fn arrive(&self, group: &[Placed], ranks: &[u8]) -> [u32; TOGETHER] {
        let mut at = [group[0].root; TOGETHER];
        for (at, tree) in at.iter_mut().zip(group) {
            *at = tree.root;
        }
        loop {
            let before = at;
            for _ in 0..STEPS {
                for at in &mut at {
                    let node = self.nodes[*at as usize];
                    let exceeds = ranks[usize::from(node.column)] > node.threshold;
                    *at = node.child + u32::from(exceeds);
                }
            }
            if at == before {
                return at;
            }
        }
    }

    /// The same where some splits look at categories.
    fn arrive_by_categories(
        &self,
        group: &[Placed],
        ranks: &[u8],
        categories: &[u32],
    ) -> [u32; TOGETHER] {
        let mut at = [group[0].root; TOGETHER];
        for (at, tree) in at.iter_mut().zip(group) {
            *at = tree.root;
        }
        loop {
            let before = at;
            for at in &mut at {
                let node = self.nodes[*at as usize];
                let right = match node.kind {
                    Kind::Number => ranks[usize::from(node.column)] > node.threshold,
                    Kind::Category => self.sets.goes_right(self.leaf_of[*at as usize], categories),
                };
                *at = node.child + u32::from(right);
            }
            if at == before {
                return at;
            }
        }
    }
}
