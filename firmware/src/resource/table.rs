//! Numbered objects.
//!
//! A number is an index into the table and a generation, so that a number that was given up comes
//! back only after its index has been reused as often as there are generations, and a stale number
//! finds nothing.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

/// How a table forms its numbers: `generation << index_bits | index`.
#[derive(Clone, Copy, Debug)]
pub struct Numbering {
    /// The lowest index.
    pub first: u32,
    /// Bits of the index.
    pub index_bits: u32,
    /// Bits of the generation; together with the index at most 32.
    pub generation_bits: u32,
}

impl Numbering {
    /// Small numbers from 1 on, reused.
    pub const PLAIN: Self = Self {
        first: 1,
        index_bits: 32,
        generation_bits: 0,
    };

    fn number(&self, index: u32, generation: u32) -> u32 {
        if self.generation_bits == 0 {
            return index;
        }
        let mask = u32::MAX >> (32 - self.generation_bits);
        (generation & mask) << self.index_bits | index
    }

    fn index(&self, number: u32) -> u32 {
        if self.index_bits >= 32 {
            return number;
        }
        number & (u32::MAX >> (32 - self.index_bits))
    }
}

/// A bounded table of objects.
#[derive(Clone, Debug)]
pub struct Table<T> {
    numbering: Numbering,
    limit: u32,
    entries: Vec<Entry<T>>,
    /// Positions of empty entries, the one that has been empty longest first.
    free: VecDeque<u32>,
    len: u32,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    /// An empty table for at most `limit` objects.
    #[must_use]
    pub const fn new(numbering: Numbering, limit: u32) -> Self {
        Self {
            numbering,
            limit,
            entries: Vec::new(),
            free: VecDeque::new(),
            len: 0,
        }
    }

    /// Changes how many objects the table is for. Those beyond stay.
    pub const fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Number of objects.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no object.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether no further object may come.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.len >= self.limit
    }

    /// Adds the object that `make` makes for its number; `None` if the table is full.
    pub fn insert_with(&mut self, make: impl FnOnce(u32) -> T) -> Option<u32> {
        let position = self.vacant()?;
        let index = position.checked_add(self.numbering.first)?;
        let entry = self.entries.get_mut(usize::try_from(position).ok()?)?;
        let number = self.numbering.number(index, entry.generation);
        entry.value = Some(make(number));
        self.len = self.len.saturating_add(1);
        Some(number)
    }

    /// The object with `number`.
    #[must_use]
    #[inline]
    pub fn get(&self, number: u32) -> Option<&T> {
        let (position, index) = self.position(number)?;
        let entry = self.entries.get(position)?;
        if self.numbering.number(index, entry.generation) != number {
            return None;
        }
        entry.value.as_ref()
    }

    /// The object with `number`.
    #[inline]
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (position, index) = self.position(number)?;
        let numbering = self.numbering;
        let entry = self.entries.get_mut(position)?;
        if numbering.number(index, entry.generation) != number {
            return None;
        }
        entry.value.as_mut()
    }

    /// Removes the object with `number`.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let value = {
            self.get(number)?;
            let (position, _) = self.position(number)?;
            let entry = self.entries.get_mut(position)?;
            entry.generation = entry.generation.wrapping_add(1);
            self.free.push_back(u32::try_from(position).ok()?);
            entry.value.take()
        };
        self.len = self.len.saturating_sub(1);
        value
    }

    /// Takes up to `slots` slots off a table that nobody uses any more, and hands their objects to
    /// `gone`. Returns how many there were; the memory goes with them.
    pub fn dismantle(&mut self, slots: usize, mut gone: impl FnMut(T)) -> usize {
        let rest = self.entries.len().saturating_sub(slots);
        let mut taken = 0;
        for entry in self.entries.drain(rest..) {
            taken += 1;
            if let Some(value) = entry.value {
                self.len = self.len.saturating_sub(1);
                gone(value);
            }
        }
        self.entries.shrink_to_fit();
        taken
    }

    /// All objects with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let numbering = self.numbering;
        (numbering.first..)
            .zip(&self.entries)
            .filter_map(move |(index, entry)| {
                let value = entry.value.as_ref()?;
                Some((numbering.number(index, entry.generation), value))
            })
    }

    /// Number of slots, those of objects that are gone included.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// The objects in a part of the slots, with their numbers: the time that it takes depends on the
    /// part, and not on how many objects there are.
    pub fn part(&self, slots: Range<u32>) -> impl Iterator<Item = (u32, &T)> {
        let numbering = self.numbering;
        let first = usize::try_from(slots.start).unwrap_or(usize::MAX);
        let entries = self.entries.iter().skip(first);
        slots.zip(entries).filter_map(move |(position, entry)| {
            let value = entry.value.as_ref()?;
            let index = position.checked_add(numbering.first)?;
            Some((numbering.number(index, entry.generation), value))
        })
    }

    fn position(&self, number: u32) -> Option<(usize, u32)> {
        let index = self.numbering.index(number);
        let position = index.checked_sub(self.numbering.first)?;
        Some((usize::try_from(position).ok()?, index))
    }

    fn vacant(&mut self) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        if let Some(position) = self.free.pop_front() {
            return Some(position);
        }
        let position = u32::try_from(self.entries.len()).ok()?;
        self.entries.push(Entry {
            generation: 0,
            value: None,
        });
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbering = Numbering {
        first: 0x10,
        index_bits: 15,
        generation_bits: 9,
    };

    #[test]
    fn numbers_start_at_the_first_and_find_their_object() {
        let mut table = Table::new(NUMBERS, 3);
        let numbers: Vec<u32> = (0..3)
            .map(|_| table.insert_with(|number| number).unwrap())
            .collect();
        assert_eq!(numbers, [0x10, 0x11, 0x12]);
        assert!(numbers.iter().all(|&n| table.get(n) == Some(&n)));
        assert_eq!(table.insert_with(|n| n), None);
        assert!(table.get(0).is_none() && table.get(u32::MAX).is_none());
    }

    #[test]
    fn a_number_comes_back_only_after_all_generations() {
        let mut table = Table::new(NUMBERS, 1);
        let first = table.insert_with(|_| ()).unwrap();
        table.remove(first).unwrap();
        for _ in 1..512 {
            let number = table.insert_with(|_| ()).unwrap();
            assert_ne!(number, first);
            assert!(number < 1 << 24 && number > 1);
            assert!(table.get(first).is_none());
            table.remove(number).unwrap();
        }
        assert_eq!(table.insert_with(|_| ()), Some(first));
    }

    #[test]
    fn a_lower_limit_leaves_what_is_there() {
        let mut table = Table::new(NUMBERS, 4);
        let numbers: Vec<u32> = (0..3)
            .map(|_| table.insert_with(|number| number).unwrap())
            .collect();
        table.set_limit(2);
        assert!(table.is_full());
        assert!(numbers.iter().all(|&n| table.get(n) == Some(&n)));
        table.remove(numbers[0]).unwrap();
        assert_eq!(table.insert_with(|n| n), None);
        table.remove(numbers[1]).unwrap();
        assert!(table.insert_with(|n| n).is_some() && table.is_full());
        table.set_limit(3);
        assert!(table.insert_with(|n| n).is_some() && table.is_full());
    }

    #[test]
    fn parts_together_are_all_and_a_part_is_bounded() {
        let mut table = Table::new(NUMBERS, 100);
        let numbers: Vec<u32> = (0..10)
            .map(|_| table.insert_with(|number| number).unwrap())
            .collect();
        for gone in [0, 4, 5, 9] {
            table.remove(numbers[gone]).unwrap();
        }
        assert_eq!(table.slots(), 10);
        let part = |slots| table.part(slots).map(|(n, &v)| (n, v)).collect::<Vec<_>>();
        let all: Vec<_> = table.iter().map(|(n, &v)| (n, v)).collect();
        assert_eq!(all.len(), 6);
        assert_eq!([part(0..3), part(3..6), part(6..99)].concat(), all);
        assert_eq!(part(4..6), []);
        assert_eq!(part(u32::MAX..u32::MAX), []);
        assert_eq!(part(10..u32::MAX), []);
    }

    #[test]
    fn a_table_is_dismantled_in_portions() {
        let mut table = Table::new(NUMBERS, 100);
        let numbers: Vec<u32> = (0..10)
            .map(|_| table.insert_with(|number| number).unwrap())
            .collect();
        table.remove(numbers[8]).unwrap();
        let mut gone = Vec::new();
        assert_eq!(table.dismantle(3, |number| gone.push(number)), 3);
        assert_eq!((gone.len(), table.len()), (2, 7));
        assert_eq!(table.dismantle(100, |number| gone.push(number)), 7);
        assert_eq!(table.dismantle(100, |number| gone.push(number)), 0);
        gone.sort_unstable();
        assert!(gone.iter().eq(numbers.iter().filter(|n| **n != numbers[8])));
        assert!(table.is_empty() && table.slots() == 0);
    }

    #[test]
    fn plain_numbers_start_at_one() {
        let mut table = Table::new(Numbering::PLAIN, 2);
        assert_eq!(table.insert_with(|_| 'a'), Some(1));
        assert_eq!(table.insert_with(|_| 'b'), Some(2));
        assert_eq!(table.remove(1), Some('a'));
        assert_eq!(table.remove(1), None);
        assert_eq!(table.insert_with(|_| 'c'), Some(1));
        assert_eq!(table.iter().count(), 2);
    }
}
