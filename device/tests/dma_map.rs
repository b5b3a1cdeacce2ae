//! The interval map against a model that knows every page.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use vrnic::dma::DmaError;
use vrnic::dma::map::{Backing, IovaMap, MapError, Prot};

const READ: Prot = Prot::READ;
const BOTH: Prot = Prot::READ.union(Prot::WRITE);

/// A place in one of several files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    file: u8,
    offset: u64,
}

impl Backing for Place {
    fn advance(&self, bytes: u64) -> Self {
        Self {
            offset: self.offset + bytes,
            ..*self
        }
    }

    fn continues(&self, bytes: u64, next: &Self) -> bool {
        self.advance(bytes) == *next
    }
}

fn place(file: u8, offset: u64) -> Place {
    Place { file, offset }
}

/// First and last address, and place, of every interval.
fn intervals(map: &IovaMap<Place>) -> Vec<(u64, u64, u64)> {
    map.mappings()
        .iter()
        .map(|mapping| (mapping.first, mapping.last, mapping.backing.offset))
        .collect()
}

// insertion

#[test]
fn neighbours_that_continue_each_other_become_one() {
    let mut map = IovaMap::new(100);
    for page in [0, 2, 4, 3, 1] {
        map.insert(
            0x1000 * page,
            0x1000,
            BOTH,
            place(0, 0x1000 * page + 0x5000),
        )
        .unwrap();
    }
    assert_eq!(intervals(&map), [(0, 0x4fff, 0x5000)]);
}

#[test]
fn neighbours_that_differ_stay_apart() {
    let mut map = IovaMap::new(100);
    map.insert(0x1000, 0x1000, BOTH, place(0, 0x1000)).unwrap();
    map.insert(0x2000, 0x1000, READ, place(0, 0x2000)).unwrap();
    map.insert(0x3000, 0x1000, READ, place(1, 0x3000)).unwrap();
    map.insert(0x0000, 0x1000, BOTH, place(0, 0x1000)).unwrap();
    assert_eq!(map.mappings().len(), 4);
}

#[test]
fn an_overlap_is_refused_and_changes_nothing() {
    let mut map = IovaMap::new(100);
    map.insert(0x2000, 0x2000, BOTH, place(0, 0)).unwrap();
    for (iova, len) in [
        (0x2000, 0x2000),
        (0x1000, 0x1001),
        (0x3fff, 1),
        (0, u64::MAX),
        (0x2800, 0x10),
    ] {
        assert_eq!(
            map.insert(iova, len, BOTH, place(0, 0)),
            Err(MapError::Exists),
            "{iova:#x} {len:#x}"
        );
    }
    assert_eq!(intervals(&map), [(0x2000, 0x3fff, 0)]);
}

#[test]
fn ranges_that_are_none_are_refused() {
    let mut map = IovaMap::new(100);
    for (iova, len, prot) in [
        (0, 0, BOTH),
        (u64::MAX, 2, BOTH),
        (2, u64::MAX, BOTH),
        (0, 1, Prot::empty()),
    ] {
        assert_eq!(
            map.insert(iova, len, prot, place(0, 0)),
            Err(MapError::Invalid)
        );
    }
    assert_eq!(map.remove(0, 0), Err(MapError::Invalid));
    assert_eq!(map.remove(u64::MAX, 2), Err(MapError::Invalid));
}

#[test]
fn the_last_address_can_be_mapped() {
    let mut map = IovaMap::new(100);
    map.insert(u64::MAX - 0xfff, 0x1000, BOTH, place(0, 0))
        .unwrap();
    assert_eq!(map.check(u64::MAX - 0xfff, 0x1000, BOTH), Ok(()));
    assert_eq!(map.check(u64::MAX, 2, BOTH), Err(DmaError::Unmapped(0)));
    assert_eq!(map.piece(u64::MAX, 100, BOTH).unwrap().len, 1);
    assert_eq!(map.remove(u64::MAX, 1), Ok(1));
    assert_eq!(intervals(&map), [(u64::MAX - 0xfff, u64::MAX - 1, 0)]);
}

#[test]
fn the_number_of_intervals_is_bounded() {
    let mut map = IovaMap::new(2);
    map.insert(0x10_0000, 0x3000, BOTH, place(0, 0)).unwrap();
    map.insert(0x20_0000, 0x1000, BOTH, place(0, 0)).unwrap();
    assert_eq!(
        map.insert(0x30_0000, 0x1000, BOTH, place(0, 0)),
        Err(MapError::TooMany)
    );
    assert_eq!(
        map.insert(0x20_1000, 0x1000, BOTH, place(0, 0x1000)),
        Ok(()),
        "joins one that exists"
    );
    assert_eq!(
        map.remove(0x10_1000, 0x1000),
        Err(MapError::TooMany),
        "would split"
    );
    assert_eq!(map.check(0x10_0000, 0x3000, BOTH), Ok(()));
    assert_eq!(map.remove(0x10_2000, 0x1000), Ok(0x1000));
    assert_eq!(map.mappings().len(), 2);
}

// removal

#[test]
fn removal_meets_none_several_or_parts() {
    let mut map = IovaMap::new(100);
    for iova in [0x1000, 0x3000, 0x5000] {
        map.insert(iova, 0x1000, BOTH, place(0, iova)).unwrap();
    }
    assert_eq!(map.remove(0x2000, 0x1000), Ok(0));
    assert_eq!(map.remove(0x6000, u64::MAX - 0x6000), Ok(0));
    assert_eq!(map.remove(0x1800, 0x4000), Ok(0x800 + 0x1000 + 0x800));
    assert_eq!(
        intervals(&map),
        [(0x1000, 0x17ff, 0x1000), (0x5800, 0x5fff, 0x5800)]
    );
    assert_eq!(map.remove(0x1400, 0x100), Ok(0x100));
    assert_eq!(
        intervals(&map),
        [
            (0x1000, 0x13ff, 0x1000),
            (0x1500, 0x17ff, 0x1500),
            (0x5800, 0x5fff, 0x5800)
        ]
    );
    assert_eq!(map.remove(0, u64::MAX), Ok(0x400 + 0x300 + 0x800));
}

// lookup

#[test]
fn the_first_address_that_fails_is_named() {
    let mut map = IovaMap::new(100);
    map.insert(0x1000, 0x1000, BOTH, place(0, 0x1000)).unwrap();
    map.insert(0x2000, 0x1000, READ, place(0, 0x2000)).unwrap();
    assert_eq!(map.check(0x1800, 0x1800, READ), Ok(()));
    assert_eq!(
        map.check(0x1800, 0x1800, BOTH),
        Err(DmaError::Denied(0x2000))
    );
    assert_eq!(
        map.check(0x1800, 0x1801, READ),
        Err(DmaError::Unmapped(0x3000))
    );
    assert_eq!(map.check(0x0fff, 2, READ), Err(DmaError::Unmapped(0x0fff)));
    assert_eq!(map.check(0x9000, 0, READ), Ok(()));
}

#[test]
fn pieces_can_be_had_from_the_end() {
    let mut map = IovaMap::new(100);
    map.insert(0x1000, 0x1000, BOTH, place(0, 0x7000)).unwrap();
    let all = map.piece_ending(0x1fff, 0x5000, READ).unwrap();
    assert_eq!((all.skip, all.len), (0, 0x1000));
    let some = map.piece_ending(0x1800, 0x10, READ).unwrap();
    assert_eq!((some.skip, some.len), (0x7f1, 0x10));
    assert_eq!(
        map.piece_ending(0x2000, 1, READ).unwrap_err(),
        DmaError::Unmapped(0x2000)
    );
}

// everything, against the model

/// Every mapped page: protection and place.
type Model = BTreeMap<u64, (Prot, Place)>;

#[derive(Clone, Debug)]
enum Step {
    Insert {
        page: u64,
        pages: u64,
        prot: Prot,
        place: Place,
    },
    Remove {
        page: u64,
        pages: u64,
    },
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let prot = prop_oneof![4 => Just(BOTH), 1 => Just(READ)];
    // Places that mostly continue each other, so that intervals join and split.
    let insert = (
        0u64..64,
        1u64..6,
        prot,
        0u8..2,
        prop_oneof![4 => Just(0u64), 1 => 0u64..4],
    )
        .prop_map(|(page, pages, prot, file, shift)| Step::Insert {
            page,
            pages,
            prot,
            place: place(file, page + shift),
        });
    let remove = (0u64..64, 1u64..20).prop_map(|(page, pages)| Step::Remove { page, pages });
    prop::collection::vec(
        prop_oneof![12 => insert, 6 => remove, 1 => Just(Step::Clear)],
        1..120,
    )
}

fn apply_to_model(model: &mut Model, step: &Step) -> Result<u64, MapError> {
    match *step {
        Step::Insert {
            page,
            pages,
            prot,
            place,
        } => {
            if model.range(page..page + pages).next().is_some() {
                return Err(MapError::Exists);
            }
            model.extend((0..pages).map(|n| (page + n, (prot, place.advance(n)))));
            Ok(0)
        }
        Step::Remove { page, pages } => {
            let before = model.len();
            model.retain(|at, _| !(page..page + pages).contains(at));
            Ok((before - model.len()) as u64)
        }
        Step::Clear => {
            model.clear();
            Ok(0)
        }
    }
}

fn apply_to_map(map: &mut IovaMap<Place>, step: &Step) -> Result<u64, MapError> {
    match *step {
        Step::Insert {
            page,
            pages,
            prot,
            place,
        } => map.insert(page, pages, prot, place).map(|()| 0),
        Step::Remove { page, pages } => map.remove(page, pages),
        Step::Clear => {
            map.clear();
            Ok(0)
        }
    }
}

/// The map as the model has it: one place for every address.
fn flatten(map: &IovaMap<Place>) -> Model {
    let pages = map.mappings().iter().flat_map(|mapping| {
        (mapping.first..=mapping.last).map(|page| {
            (
                page,
                (mapping.prot, mapping.backing.advance(page - mapping.first)),
            )
        })
    });
    pages.collect()
}

proptest! {
    #[test]
    fn the_map_agrees_with_a_model_that_knows_every_page(steps in steps(), probes in prop::collection::vec((0u64..80, 1usize..20), 8)) {
        let mut map = IovaMap::new(1000);
        let mut model = Model::new();
        for step in steps {
            prop_assert_eq!(apply_to_map(&mut map, &step), apply_to_model(&mut model, &step), "{:?}", step);
            prop_assert_eq!(&flatten(&map), &model, "{:?}", step);
            for pair in map.mappings().windows(2) {
                prop_assert!(pair[0].last < pair[1].first, "ordered and disjoint");
                let apart = pair[0].last + 1 != pair[1].first
                    || pair[0].prot != pair[1].prot
                    || !pair[0].backing.continues(pair[1].first - pair[0].first, &pair[1].backing);
                prop_assert!(apart, "neighbours are joined: {:?}", pair);
            }
            for &(at, len) in &probes {
                prop_assert_eq!(map.lookup(at).map(|m| m.backing.advance(at - m.first)), model.get(&at).map(|page| page.1));
                let first_hole = (at..at + len as u64).find(|page| !model.contains_key(page));
                let expected = first_hole.map_or(Ok(()), |page| Err(DmaError::Unmapped(page)));
                prop_assert_eq!(map.check(at, len, READ), expected);
                let pieces: usize = map.pieces(at, len, READ).map_while(Result::ok).map(|piece| piece.len).sum();
                prop_assert_eq!(pieces as u64, first_hole.unwrap_or(at + len as u64) - at);
            }
        }
    }
}
