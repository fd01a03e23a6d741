//! From trees as they are said to a forest that is read fast.

use super::bits::Bits;
use super::columns::Columns;
use super::walk::{Kind, Node, Sets};
use super::{
    Forest, MAX_BLOCK_LEAVES, Next, Number, Placed, Rule, Shape, Split, TooManyColumns, Tree,
};

/// A step of the way through a tree, from left to right.
enum Step {
    /// To what lies behind a branch, whose node is at this place, so many splits down.
    Into(Next, usize, u32),
    /// Back from all that lies left of a split, with the number of its first leaf there.
    After(usize, usize),
}

pub(super) fn forest<N: Number>(
    shape: Shape<N>,
    trees: &[Tree<N>],
) -> Result<Forest<N>, TooManyColumns> {
    assert!(shape.features > 0, "rows without numbers");
    assert!(!shape.start.is_empty(), "no outputs");
    let mut forest = Forest {
        columns: Columns::of(&shape, trees)?,
        shape,
        trees: Vec::with_capacity(trees.len()),
        nodes: Vec::new(),
        leaf_of: Vec::new(),
        leaves: Vec::new(),
        sets: Sets::default(),
        bits: Bits::default(),
    };
    let small = |tree: &Tree<N>| tree.leaves.len() <= MAX_BLOCK_LEAVES;
    let has_bits = !forest.columns.has_categories() && trees.iter().all(small);
    for tree in trees {
        lay_out(&mut forest, tree, has_bits);
    }
    forest.columns.forget_splits();
    forest.nodes.shrink_to_fit();
    forest.leaf_of.shrink_to_fit();
    forest.leaves.shrink_to_fit();
    forest.bits.shrink();
    Ok(forest)
}

fn lay_out<N: Number>(forest: &mut Forest<N>, tree: &Tree<N>, has_bits: bool) {
    let (root, first_leaf) = (forest.nodes.len(), forest.leaves.len());
    assert!(
        (tree.output as usize) < forest.shape.start.len(),
        "no such output"
    );
    let begin = match tree.splits.is_empty() {
        true => Next::Leaf(0),
        false => Next::Split(0),
    };
    let mut seen = vec![false; tree.splits.len()];
    let mut deepest = 0;
    forest.nodes.push(Node::default());
    forest.leaf_of.push(0);
    forest.bits.begin();
    let mut steps = vec![Step::Into(begin, root, 0)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Into(Next::Leaf(leaf), at, depth) => {
                deepest = deepest.max(depth);
                forest.nodes[at] = Node::leaf(at as u32);
                forest.leaf_of[at] = forest.leaves.len() as u32;
                forest.leaves.push(tree.leaves[leaf as usize]);
            }
            Step::Into(Next::Split(split), at, depth) => {
                let number = split as usize;
                assert!(!seen[number], "a split that is reached twice");
                seen[number] = true;
                let child = forest.nodes.len();
                forest.nodes.extend([Node::default(); 2]);
                forest.leaf_of.extend([0; 2]);
                let split = &tree.splits[number];
                forest.nodes[at] = node(forest, tree, split, child as u32);
                forest.leaf_of[at] = forest.sets.last();
                steps.push(Step::Into(split.right, child + 1, depth + 1));
                steps.push(Step::After(at, forest.leaves.len() - first_leaf));
                steps.push(Step::Into(split.left, child, depth + 1));
            }
            Step::After(at, from) => {
                let removed = from..forest.leaves.len() - first_leaf;
                let node = &forest.nodes[at];
                if has_bits {
                    forest.bits.remove(removed, node.column, node.threshold);
                }
            }
        }
    }
    if has_bits {
        forest.bits.end(forest.leaves.len() - first_leaf);
    }
    forest.trees.push(Placed {
        root: root as u32,
        depth: deepest,
        leaf: first_leaf as u32,
        output: tree.output,
    });
}

fn node<N: Number>(forest: &mut Forest<N>, tree: &Tree<N>, split: &Split, child: u32) -> Node {
    match &split.rule {
        Rule::Number { max, missing, zero } => {
            let columns = &forest.columns;
            let (column, threshold) = columns.of_split(split.feature, *max, *missing, *zero);
            Node {
                child,
                column,
                threshold,
                kind: Kind::Number,
            }
        }
        Rule::Category {
            words,
            members,
            missing,
        } => {
            let words = &tree.words[words.start as usize..words.end as usize];
            let index = forest.columns.of_category(split.feature);
            forest.sets.add(index as u32, words, *members, *missing);
            Node {
                child,
                column: 0,
                threshold: 0,
                kind: Kind::Category,
            }
        }
    }
}
