//! What a function had that is gone, until its memory is freed.
//!
//! One command can end a region with a list of a million pages, and a reset ends everything at once. To
//! free as much takes milliseconds that are others'. So it is brought here, out of the reach of
//! everything, and freed a little in each step.
//!
//! Invariant: a step frees more than a step's commands can make, so nothing piles up here however
//! fast a driver makes things and drops them.
//!
//! Left to others: what has to happen at the end of an object, which has happened when it gets here.

use alloc::vec::Vec;

use super::function::Function;
use crate::resource::{MemoryKey, PageMap, Segment};

/// Slots of tables that are taken apart in one step.
const SLOTS_A_STEP: usize = 4;
/// Segments of page lists that are freed in one step.
const SEGMENTS_A_STEP: usize = 2;

/// What is to be freed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remains {
    /// Lives of functions that resets and removals have ended.
    lives: Vec<Function>,
    lists: Vec<Vec<Segment>>,
}

impl Remains {
    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.lives.is_empty() && self.lists.is_empty()
    }

    /// Takes segments of a page list.
    pub(super) fn add_segments(&mut self, segments: Vec<Segment>) {
        if !segments.is_empty() {
            self.lists.push(segments);
        }
    }

    /// Takes what a reset or a removal has left of a function, with its own remains.
    pub(crate) fn add_life(&mut self, mut life: Function) {
        self.lives.append(&mut life.remains.lives);
        self.lists.append(&mut life.remains.lists);
        if life.has_objects() {
            self.lives.push(life);
        }
    }

    /// Frees a little; returns whether there was anything.
    pub(crate) fn step(&mut self) -> bool {
        let any = !self.is_empty();
        for _ in 0..SEGMENTS_A_STEP {
            let Some(list) = self.lists.last_mut() else {
                break;
            };
            list.pop();
            if list.is_empty() {
                self.lists.pop();
            }
        }
        if let Some(life) = self.lives.last_mut() {
            life.dismantle(&mut self.lists);
            if !life.has_objects() {
                self.lives.pop();
            }
        }
        any
    }
}

impl Function {
    /// Whether the driver has made nothing that others could have heard of, since the last reset.
    pub(crate) fn is_blank(&self) -> bool {
        self.objects.gids.iter().next().is_none() && !self.has_objects()
    }

    /// Whether there is something to be taken apart.
    fn has_objects(&self) -> bool {
        let objects = &self.objects;
        let tables = [
            self.qps.table().slots(),
            objects.keys.table().slots(),
            objects.srqs.slots(),
            objects.cqs.slots(),
            objects.eqs.slots(),
            objects.handles.slots(),
            objects.pds.slots(),
            objects.xrcds.slots(),
        ];
        !self.creating.is_empty() || tables.iter().any(|slots| *slots > 0)
    }

    /// Takes apart a little of a function that is reached by nothing any more. Segments of page lists
    /// go to `lists`.
    fn dismantle(&mut self, lists: &mut Vec<Vec<Segment>>) {
        if let Some(mut pending) = self.creating.pop_front() {
            lists.push(pending.clear());
            return;
        }
        let mut keep = |pages: PageMap| {
            let segments = pages.into_segments();
            if !segments.is_empty() {
                lists.push(segments);
            }
        };
        let objects = &mut self.objects;
        let slots = SLOTS_A_STEP;
        self.qps.dismantle(slots, |qp| keep(qp.queues.pages));
        objects.keys.dismantle(slots, |key| {
            if let MemoryKey::Region(region) = key {
                keep(region.pages);
            }
        });
        objects.srqs.dismantle(slots, |srq| keep(srq.pages));
        objects.cqs.dismantle(slots, |cq| keep(cq.ring.pages));
        objects.eqs.dismantle(slots, |eq| keep(eq.ring.pages));
        objects.handles.dismantle(slots, drop);
        objects.pds.dismantle(slots, drop);
        objects.xrcds.dismantle(slots, drop);
    }
}
