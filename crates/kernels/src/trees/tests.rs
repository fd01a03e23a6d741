//! What is fast gives the same bits as what is plain: random ensembles of every kind of split, in every size of batch.

use super::*;

/// Numbers that are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Often a threshold of others, sometimes none at all.
    fn number(&mut self) -> f32 {
        match self.below(12) {
            0 => 0.0,
            1 => f32::from_bits(self.next() as u32 % 3),
            2 => -(self.below(5) as f32),
            _ => (self.below(4001) as f32 - 2000.0) / 64.0,
        }
    }
}

#[derive(Clone, Copy)]
struct Kind {
    leaves: usize,
    features: usize,
    outputs: usize,
    categories: bool,
    special: bool,
}

const PLAIN: Kind = Kind {
    leaves: 63,
    features: 7,
    outputs: 1,
    categories: false,
    special: false,
};

fn side(random: &mut Random) -> Side {
    Side::left_if(random.below(2) == 0)
}

fn rule(random: &mut Random, kind: Kind, words: &mut Vec<u32>) -> Rule {
    if kind.categories && random.below(3) == 0 {
        let from = words.len() as u32;
        words.extend((0..1 + random.below(2)).map(|_| random.next() as u32));
        return Rule::Category {
            words: from..words.len() as u32,
            members: side(random),
            missing: side(random),
        };
    }
    let special = kind.special;
    Rule::Number {
        max: match random.below(40) {
            0 if special => f32::INFINITY,
            1 if special => f32::NEG_INFINITY,
            _ => random.number(),
        },
        missing: match random.below(3) {
            0 if special => Missing::IsZero,
            _ => Missing::Goes(side(random)),
        },
        zero: (special && random.below(3) == 0).then(|| side(random)),
    }
}

/// A tree that grows by splitting any of its leaves.
fn tree(random: &mut Random, kind: Kind, output: u32) -> Tree<f64> {
    let mut tree = Tree {
        splits: Vec::new(),
        leaves: vec![0.0],
        words: Vec::new(),
        output,
    };
    let mut places: Vec<Option<(usize, Side)>> = vec![None];
    let leaves = 1 + random.below(kind.leaves);
    while tree.leaves.len() < leaves {
        let leaf = random.below(tree.leaves.len());
        let number = tree.splits.len();
        if let Some((parent, side)) = places[leaf] {
            let next = Next::Split(number as u32);
            match side {
                Side::Left => tree.splits[parent].left = next,
                Side::Right => tree.splits[parent].right = next,
            }
        }
        let rule = rule(random, kind, &mut tree.words);
        tree.splits.push(Split {
            feature: random.below(kind.features) as u32,
            rule,
            left: Next::Leaf(leaf as u32),
            right: Next::Leaf(tree.leaves.len() as u32),
        });
        places[leaf] = Some((number, Side::Left));
        places.push(Some((number, Side::Right)));
        tree.leaves.push(0.0);
    }
    for leaf in &mut tree.leaves {
        *leaf = (random.next() as u32 as f64 / 1e9 - 2.0) / 3.0;
    }
    tree
}

fn shape(kind: Kind) -> Shape<f64> {
    Shape {
        features: kind.features,
        start: (0..kind.outputs).map(|i| i as f64 / 3.0).collect(),
        zero: if kind.special { 1e-35 } else { 0.0 },
        truncates: kind.special,
    }
}

fn rows(random: &mut Random, kind: Kind, count: usize) -> Vec<f32> {
    let number = |_| match random.below(15) {
        0 => f32::NAN,
        1 => 1e-36,
        2 => -0.5,
        3 if kind.categories => 3e9,
        _ if kind.categories => random.below(70) as f32 + 0.25,
        _ => random.number(),
    };
    (0..count * kind.features).map(number).collect()
}

fn plainly(shape: &Shape<f64>, trees: &[Tree<f64>], rows: &[f32]) -> Vec<f64> {
    let each = rows.chunks(shape.features).flat_map(|row| {
        let mut sums = shape.start.clone();
        for tree in trees {
            let leaf = tree.leaf(row, shape.zero, shape.truncates);
            sums[tree.output as usize] += tree.leaves[leaf];
        }
        sums
    });
    each.collect()
}

fn bits(sums: &[f64]) -> Vec<u64> {
    sums.iter().map(|x| x.to_bits()).collect()
}

fn hold(kind: Kind, trees: usize, seed: u64) {
    let random = &mut Random(seed);
    let shape = shape(kind);
    let trees: Vec<_> = (0..trees)
        .map(|i| tree(random, kind, (i % kind.outputs) as u32))
        .collect();
    let forest = Forest::new(shape.clone(), &trees).unwrap();
    let rows = rows(random, kind, 200);
    let expected = bits(&plainly(&shape, &trees, &rows));
    assert_eq!(bits(&forest.forward(&rows)), expected, "all together");
    if !forest.bits.is_empty() {
        let pieces = rows.chunks(bits::WIDE * kind.features);
        let found = pieces.flat_map(|rows| {
            let mut sums = shape.start.repeat(rows.len() / kind.features);
            forest.plain_block::<{ bits::GROUPS }>(rows, &mut sums);
            sums
        });
        let found: Vec<f64> = found.collect();
        assert_eq!(bits(&found), expected, "without vector instructions");
    }
    for size in [1, 2, 4, 5, 31, 32, 33, 63, 64, 65, 129] {
        let found = rows.chunks(size * kind.features);
        let found: Vec<f64> = found.flat_map(|rows| forest.forward(rows)).collect();
        assert_eq!(bits(&found), expected, "{size} rows together");
    }
}

#[test]
fn trees_of_numbers_give_the_plain_sums_in_any_batch() {
    hold(PLAIN, 40, 1);
    let several = Kind {
        outputs: 3,
        ..PLAIN
    };
    hold(several, 31, 2);
}

#[test]
fn missing_numbers_and_zeros_go_where_each_split_says() {
    let special = Kind {
        special: true,
        ..PLAIN
    };
    hold(special, 60, 3);
}

#[test]
fn categories_are_whole_parts_and_others_go_the_other_way() {
    let categories = Kind {
        categories: true,
        ..PLAIN
    };
    hold(categories, 30, 4);
    let truncated = Kind {
        special: true,
        ..categories
    };
    hold(truncated, 30, 5);
}

#[test]
fn large_trees_and_many_thresholds_of_a_feature() {
    let large = Kind {
        leaves: 256,
        features: 2,
        ..PLAIN
    };
    hold(large, 30, 6);
    let larger = Kind {
        leaves: 2000,
        features: 1,
        ..PLAIN
    };
    hold(larger, 5, 7);
}

#[test]
fn no_trees_and_trees_without_splits() {
    hold(Kind { leaves: 1, ..PLAIN }, 9, 8);
    let forest = Forest::<f64>::new(shape(PLAIN), &[]).unwrap();
    assert_eq!(forest.forward(&[0.0; 14]), [0.0, 0.0]);
}

#[test]
fn sums_of_32_bits_are_taken_in_32_bits() {
    let leaf = |value: f32| Tree {
        splits: Vec::new(),
        leaves: vec![value],
        words: Vec::new(),
        output: 0,
    };
    let shape = Shape {
        features: 1,
        start: vec![1e8],
        zero: 0.0,
        truncates: false,
    };
    let forest = Forest::new(shape, &[leaf(1.0), leaf(1.0), leaf(-1e8)]).unwrap();
    assert_eq!(forest.forward(&[0.0]), [0.0]);
}

#[test]
#[should_panic(expected = "reached twice")]
fn a_cycle_is_no_tree() {
    let split = Split {
        feature: 0,
        rule: Rule::Number {
            max: 0.0,
            missing: Missing::IsZero,
            zero: None,
        },
        left: Next::Split(0),
        right: Next::Leaf(0),
    };
    let tree = Tree {
        splits: vec![split],
        leaves: vec![0.0],
        words: Vec::new(),
        output: 0,
    };
    let _ = Forest::new(shape(PLAIN), &[tree]);
}
