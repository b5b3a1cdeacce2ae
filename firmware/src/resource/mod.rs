//! What a function owns besides its queues: protection domains, memory regions and windows, GIDs,
//! doorbell pages, filters, multicast groups, and the tables that give all objects their numbers.
//!
//! Nothing here knows a guest-visible format or touches guest memory: a front end validates and
//! fetches, then asks for an entry. The invariants that others rely on:
//!
//! * looking up a number costs the same however many objects there are, and a number that was
//!   given up does not come back soon ([`Table`]);
//! * a range that [`Keys::translate`] or [`PageMap::translate`] accepts lies in the pages that the
//!   driver named, whatever the numbers were;
//! * every table is bounded ([`limits`], and by the function's [`Quota`]), so that a guest cannot
//!   make the process grow.

mod doorbell;
mod filter;
mod gid;
mod key;
pub mod limits;
mod membership;
mod pages;
mod quota;
mod region;
mod table;
mod window;

pub use doorbell::{DoorbellPages, GROUPS_A_STEP, Owner, PageError};
pub use filter::{Filter, Filters, Wanted};
pub use gid::{GidEntry, GidTable};
pub use key::{KeyError, KeyUser, Keys, MemoryKey};
pub use membership::{Group, Memberships};
pub use pages::{PageList, PageMap, SEGMENT, Segment, append};
pub use quota::{Quota, QuotaError, Resource};
pub use region::{FastRegion, Region, RegionOptions, Registration};
pub use table::{Numbering, Table};
pub use window::{Binding, Window, WindowKind, WindowList};
