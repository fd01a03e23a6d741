//! Owns the indices of the pipeline's own lists: a type each, so that an index of one list opens no other.
//!
//! Promises that an index which leads nowhere is never passed over in silence. It is a bug of the pipeline: an assertion in
//! tests, an error in the log and a missing item in production, where nothing panics.

use std::marker::PhantomData;

/// An index of one kind of list.
pub trait Index: Copy {
    /// What the list holds, for the log.
    const ITEM: &'static str;

    fn new(number: usize) -> Self;
    fn number(self) -> usize;
}

macro_rules! index {
    ($($(#[$doc:meta])+ $name:ident, $item:literal;)+) => {$(
        $(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(usize);

        impl Index for $name {
            const ITEM: &'static str = $item;

            fn new(number: usize) -> Self {
                Self(number)
            }

            fn number(self) -> usize {
                self.0
            }
        }
    )+};
}

index! {
    /// A job of the batch, as it came in.
    SourceIndex, "job of the batch";
    /// An admitted job, in its plan.
    JobIndex, "job of the plan";
    /// A distinct input of one model version.
    SlotIndex, "slot";
    /// A model version that the batch's jobs ask for.
    GroupIndex, "model version";
    /// A namespace of the batch.
    NamespaceIndex, "namespace";
    /// An output row of one model version.
    RowIndex, "output row";
}

/// A list that only its own kind of index opens.
#[derive(Debug)]
pub struct IndexVec<I, T> {
    items: Vec<T>,
    index: PhantomData<I>,
}

impl<I, T> Default for IndexVec<I, T> {
    fn default() -> Self {
        Self::from_vec(Vec::new())
    }
}

impl<I, T> IndexVec<I, T> {
    pub fn from_vec(items: Vec<T>) -> Self {
        Self {
            items,
            index: PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.items.iter()
    }

    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.items.iter_mut()
    }

    pub fn as_slice(&self) -> &[T] {
        &self.items
    }
}

impl<I: Index, T> IndexVec<I, T> {
    pub fn push(&mut self, item: T) -> I {
        self.items.push(item);
        I::new(self.items.len() - 1)
    }

    /// The index that the next item will have.
    pub fn next_index(&self) -> I {
        I::new(self.items.len())
    }

    /// Every item made into another.
    pub fn map_into<U>(self, item: impl FnMut(T) -> U) -> IndexVec<I, U> {
        IndexVec::from_vec(self.items.into_iter().map(item).collect())
    }

    pub fn indices(&self) -> impl Iterator<Item = I> + use<I, T> {
        (0..self.items.len()).map(I::new)
    }

    pub fn enumerate(&self) -> impl Iterator<Item = (I, &T)> {
        self.indices().zip(&self.items)
    }

    pub fn position(&self, is_it: impl FnMut(&T) -> bool) -> Option<I> {
        self.items.iter().position(is_it).map(I::new)
    }

    /// An item by its index; nothing only where the pipeline has a bug, which is reported.
    #[inline]
    pub fn get(&self, index: I) -> Option<&T> {
        let item = self.items.get(index.number());
        if item.is_none() {
            lost(index, self.items.len());
        }
        item
    }

    /// An item by its index, to change it; nothing only where the pipeline has a bug, which is reported.
    #[inline]
    pub fn get_mut(&mut self, index: I) -> Option<&mut T> {
        let items = self.items.len();
        let item = self.items.get_mut(index.number());
        if item.is_none() {
            lost(index, items);
        }
        item
    }
}

/// Reports an index that leads nowhere.
#[cold]
pub(super) fn lost<I: Index>(index: I, items: usize) {
    let number = index.number();
    bug(&format!("{} {number} of {items} doesn't exist", I::ITEM));
}

/// Reports that the pipeline broke a promise to itself: an assertion in tests, an error in the log otherwise.
#[cold]
pub(super) fn bug(what: &str) {
    tracing::error!(what, "a bug in the pipeline");
    // Tests run optimised: what only they build with is what tells.
    let tested = cfg!(any(test, debug_assertions, feature = "faults"));
    assert!(!tested, "a bug in the pipeline: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_opens_the_list_that_it_came_from() {
        let mut list: IndexVec<SlotIndex, &str> = IndexVec::default();
        let (first, second) = (list.push("a"), list.push("b"));
        assert_eq!(
            (list.get(first), list.get(second)),
            (Some(&"a"), Some(&"b"))
        );
        assert_eq!(list.enumerate().last(), Some((second, &"b")));
        let lengths = list.map_into(|item| item.len());
        assert_eq!(lengths.get(second), Some(&1));
    }

    #[test]
    #[should_panic(expected = "slot 0 of 0 doesn't exist")]
    fn an_index_that_leads_nowhere_is_a_bug() {
        let list: IndexVec<SlotIndex, &str> = IndexVec::default();
        list.get(SlotIndex::new(0));
    }
}
