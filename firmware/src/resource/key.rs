//! The keys of a function: everything that an lkey or rkey can name, in one table.
//!
//! Bits 31:8 of a key are the table's number and name the region or window; bits 7:0 are the
//! driver's, and a key whose bits are not those that the object has now names nothing. Regions of
//! CreateMr keep theirs, also when they are registered again; fast registration and binding give new
//! ones (InfiniBand Architecture volume 1, 10.6.6 and 10.6.7.2).
//!
//! Invariant: a window that is bound names a region that is registered. A region knows how many
//! windows are bound to it, and neither goes nor loses its memory while there are any. So an access
//! costs one look into the table through a region and two through a window, and nothing is kept
//! from one access to the next: an invalidation holds from the next look on.
//!
//! Not here: page lists in guest memory, and how refusals are told.

use super::window::Links;
use super::{
    Binding, FastRegion, Numbering, Region, RegionOptions, Table, Window, WindowKind, WindowList,
    limits,
};
use crate::transport::Bind;
use crate::types::{Access, AccessError, Chunks};

/// Numbers of keys: 64 generations of 2^18 indices. The last number, which the reserved key has, is
/// beyond the limits.
const NUMBERS: Numbering = Numbering {
    first: 1,
    index_bits: 18,
    generation_bits: 6,
};

/// In whose name a key is used: it has to belong to the protection domain, and a window of type 2
/// to the queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUser {
    /// Protection domain.
    pub pd: u32,
    /// Queue pair number.
    pub qp: u32,
}

/// Why a key cannot be registered, bound, invalidated or given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It names nothing of the wanted kind, or something of another protection domain.
    Missing,
    /// What it names is not in the state for that: in use, or not in use.
    State,
    /// The region does not allow a binding with these rights.
    Rights,
    /// The range leaves the region, or contradicts the kind of the window.
    Range,
}

/// What a key names.
#[derive(Clone, Debug)]
pub enum MemoryKey {
    /// A region that is registered until it is destroyed.
    Region(Region),
    /// A region for fast registration.
    Fast(FastRegion),
    /// A memory window.
    Window(Window),
}

impl MemoryKey {
    /// The key that it has now.
    #[must_use]
    pub const fn key(&self) -> u32 {
        match self {
            Self::Region(region) => region.key,
            Self::Fast(fast) => fast.key,
            Self::Window(window) => window.key,
        }
    }

    /// The region, if it is one that has memory.
    #[must_use]
    pub const fn region(&self) -> Option<&Region> {
        match self {
            Self::Region(region) => Some(region),
            Self::Fast(fast) => fast.region.as_ref(),
            Self::Window(_) => None,
        }
    }
}

/// The keys of a function.
#[derive(Clone, Debug)]
pub struct Keys {
    table: Table<MemoryKey>,
    windows: u32,
    /// How many regions there may be.
    region_limit: u32,
    /// How many windows there may be.
    window_limit: u32,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            table: Table::new(NUMBERS, limits::REGIONS + limits::WINDOWS),
            windows: 0,
            region_limit: limits::REGIONS,
            window_limit: limits::WINDOWS,
        }
    }
}

/// Number of the region or window that `key` names.
const fn number(key: u32) -> u32 {
    key >> 8
}

impl Keys {
    /// Changes how many regions and windows there may be, at most [`limits::REGIONS`] and
    /// [`limits::WINDOWS`]. Those beyond stay.
    pub const fn set_limits(&mut self, regions: u32, windows: u32) {
        self.region_limit = regions;
        self.window_limit = windows;
    }

    /// Number of regions.
    #[must_use]
    pub const fn regions(&self) -> u32 {
        self.table.len().saturating_sub(self.windows)
    }

    /// Number of windows.
    #[must_use]
    pub const fn windows(&self) -> u32 {
        self.windows
    }

    /// As [`Table::dismantle`].
    pub fn dismantle(&mut self, slots: usize, gone: impl FnMut(MemoryKey)) -> usize {
        self.table.dismantle(slots, gone)
    }

    /// Regions and windows by their numbers, which are bits 31:8 of their keys.
    #[must_use]
    pub const fn table(&self) -> &Table<MemoryKey> {
        &self.table
    }

    /// Whether another region may come.
    #[must_use]
    pub const fn has_room_for_region(&self) -> bool {
        self.regions() < self.region_limit
    }

    /// Adds the region that `make` makes for its key, which ends with `variant`, and returns the
    /// key; `None` if there is no room.
    pub fn add_region(&mut self, variant: u8, make: impl FnOnce(u32) -> MemoryKey) -> Option<u32> {
        if !self.has_room_for_region() {
            return None;
        }
        let key = |number| number << 8 | u32::from(variant);
        self.table.insert_with(|number| make(key(number))).map(key)
    }

    /// Adds a window that is not bound, and returns its key; `None` if there is no room.
    pub fn add_window(&mut self, variant: u8, pd: u32, kind: WindowKind) -> Option<u32> {
        if self.windows >= self.window_limit {
            return None;
        }
        let key = |number| number << 8 | u32::from(variant);
        let added = self.table.insert_with(|number| {
            MemoryKey::Window(Window {
                key: key(number),
                pd,
                kind,
                binding: None,
            })
        })?;
        self.windows += 1;
        Some(key(added))
    }

    /// What `key` names.
    #[must_use]
    #[inline]
    pub fn get(&self, key: u32) -> Option<&MemoryKey> {
        self.table
            .get(number(key))
            .filter(|object| object.key() == key)
    }

    /// Removes a region.
    ///
    /// # Errors
    /// If there is none, or windows are bound to it.
    pub fn remove_region(&mut self, key: u32) -> Result<MemoryKey, KeyError> {
        let object = self.get(key).ok_or(KeyError::Missing)?;
        if matches!(object, MemoryKey::Window(_)) {
            return Err(KeyError::Missing);
        }
        if object.region().is_some_and(|region| region.windows > 0) {
            return Err(KeyError::State);
        }
        self.table.remove(number(key)).ok_or(KeyError::Missing)
    }

    /// A region of CreateMr that no windows are bound to.
    ///
    /// # Errors
    /// If there is none, or windows are bound to it.
    pub fn plain_region(&self, key: u32) -> Result<&Region, KeyError> {
        match self.get(key) {
            Some(MemoryKey::Region(region)) if region.windows == 0 => Ok(region),
            Some(MemoryKey::Region(_)) => Err(KeyError::State),
            _ => Err(KeyError::Missing),
        }
    }

    /// Puts a region in the place of the one with its key, and returns that.
    ///
    /// # Errors
    /// As [`Self::plain_region`].
    pub fn replace_region(&mut self, new: Region) -> Result<Region, KeyError> {
        self.plain_region(new.key)?;
        match self.table.get_mut(number(new.key)) {
            Some(MemoryKey::Region(region)) => Ok(core::mem::replace(region, new)),
            _ => Err(KeyError::Missing),
        }
    }

    /// Removes a window, bound or not. If it is bound to a queue pair, `list` is that one's.
    ///
    /// # Errors
    /// If there is none.
    pub fn remove_window(&mut self, key: u32, list: &mut WindowList) -> Result<Window, KeyError> {
        self.window(key).ok_or(KeyError::Missing)?;
        self.unbind(number(key), list);
        match self.table.remove(number(key)) {
            Some(MemoryKey::Window(window)) => {
                self.windows = self.windows.saturating_sub(1);
                Ok(window)
            }
            _ => Err(KeyError::Missing),
        }
    }

    /// The window that `key` names.
    #[must_use]
    pub fn window(&self, key: u32) -> Option<&Window> {
        match self.get(key)? {
            MemoryKey::Window(window) => Some(window),
            _ => None,
        }
    }

    /// Appends the pieces of memory that `key` names.
    ///
    /// # Errors
    /// Why the access is not allowed; `chunks` is unchanged then.
    #[inline]
    pub fn translate(
        &self,
        user: KeyUser,
        key: u32,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError> {
        match self.table.get(number(key)) {
            Some(MemoryKey::Region(region)) if region.key == key && region.pd == user.pd => {
                region.translate(access, address, length, chunks)
            }
            Some(object) if object.key() == key => {
                self.translate_other(object, user, access, address, length, chunks)
            }
            _ => Err(AccessError::Key),
        }
    }

    /// The rest of [`Self::translate`], apart so that plain regions are not held up by it.
    #[inline(never)]
    fn translate_other(
        &self,
        object: &MemoryKey,
        user: KeyUser,
        access: Access,
        address: u64,
        length: u32,
        chunks: &mut Chunks,
    ) -> Result<(), AccessError> {
        match object {
            MemoryKey::Fast(fast) if fast.pd == user.pd => {
                let region = fast.region.as_ref().ok_or(AccessError::Key)?;
                region.translate(access, address, length, chunks)
            }
            MemoryKey::Window(window) if window.pd == user.pd => {
                let binding = window.binding.as_ref().ok_or(AccessError::Key)?;
                let address = binding.resolve(user.qp, access, address, length)?;
                let region = self.get(binding.region).and_then(MemoryKey::region);
                let region = region.ok_or(AccessError::Key)?;
                region.pieces(address, length, chunks)
            }
            _ => Err(AccessError::Key),
        }
    }

    /// Checks that `key` allows `access` to something.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, user: KeyUser, key: u32, access: Access) -> Result<(), AccessError> {
        let object = self.get(key).ok_or(AccessError::Key)?;
        if let MemoryKey::Window(window) = object {
            let binding = window.binding.as_ref().filter(|_| window.pd == user.pd);
            return binding.ok_or(AccessError::Key)?.permit(user.qp, access);
        }
        let region = object.region().filter(|region| region.pd == user.pd);
        if region.ok_or(AccessError::Key)?.access.contains(access) {
            Ok(())
        } else {
            Err(AccessError::Permission)
        }
    }

    /// The region for fast registration that has no memory and is to have the key `key`.
    ///
    /// # Errors
    /// If there is none in the protection domain, or it has memory.
    pub fn free_region(&mut self, pd: u32, key: u32) -> Result<&mut FastRegion, KeyError> {
        match self.table.get_mut(number(key)) {
            Some(MemoryKey::Fast(fast)) if fast.pd == pd => match fast.region {
                None => Ok(fast),
                Some(_) => Err(KeyError::State),
            },
            _ => Err(KeyError::Missing),
        }
    }

    /// Invalidates a region for fast registration, or a window of type 2 that is bound to the queue
    /// pair, whose windows are `list`.
    ///
    /// # Errors
    /// If the key names neither, or gives no access as it is, or windows are bound to the region.
    pub fn invalidate(
        &mut self,
        user: KeyUser,
        list: &mut WindowList,
        key: u32,
    ) -> Result<(), KeyError> {
        match self.table.get_mut(number(key)) {
            Some(MemoryKey::Fast(fast)) if fast.key == key && fast.pd == user.pd => {
                match &fast.region {
                    Some(region) if region.windows == 0 => fast.invalidate(),
                    _ => return Err(KeyError::State),
                }
            }
            Some(MemoryKey::Window(window)) if window.key == key && window.pd == user.pd => {
                let binding = window.binding.as_ref().ok_or(KeyError::State)?;
                if binding.qp != Some(user.qp) {
                    return Err(KeyError::Missing);
                }
                self.unbind(number(key), list);
            }
            _ => return Err(KeyError::Missing),
        }
        Ok(())
    }

    /// Binds a window, or unbinds one of type 1, on a queue pair whose windows are `list`.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn bind(
        &mut self,
        user: KeyUser,
        list: &mut WindowList,
        request: &Bind,
    ) -> Result<(), KeyError> {
        let kind = self.check_window(user, request)?;
        let mut binding = None;
        if request.length > 0 {
            self.check_region(user, request)?;
            binding = Some(Binding {
                region: request.region,
                start: request.start,
                length: request.length,
                access: request.access - Access::LOCAL_READ,
                zero_based: request.zero_based,
                qp: (kind == WindowKind::Type2).then_some(user.qp),
                links: Links::default(),
            });
        }
        let at = number(request.window);
        self.unbind(at, list);
        if let Some(binding) = &mut binding {
            if let Some(region) = self.region_mut(binding.region) {
                region.windows = region.windows.saturating_add(1);
            }
            if binding.qp.is_some() {
                binding.links = self.push(list, at);
            }
        }
        if let Some(window) = self.window_mut(at) {
            window.key = request.key;
            window.binding = binding;
        }
        Ok(())
    }

    /// Unbinds all windows of a queue pair.
    pub fn unbind_all(&mut self, list: &mut WindowList) {
        while list.first != 0 {
            let first = list.first;
            self.unbind(first, list);
            // Each of them is bound; the loop ends even if one were not.
            if list.first == first {
                list.first = 0;
            }
        }
    }

    /// Whether the window may be bound so (IBTA volume 1, 10.6.7.2): type 1 under another key than
    /// it has and not zero-based (o10-36.2.2), type 2 if it is free (o10-37.2.30) and to something
    /// (o10-37.2.40).
    fn check_window(&self, user: KeyUser, request: &Bind) -> Result<WindowKind, KeyError> {
        let window = self.window(request.window).ok_or(KeyError::Missing)?;
        if window.pd != user.pd || number(request.key) != number(request.window) {
            return Err(KeyError::Missing);
        }
        match window.kind {
            WindowKind::Type1 if request.key == request.window => Err(KeyError::State),
            WindowKind::Type1 if request.zero_based => Err(KeyError::Range),
            WindowKind::Type2 if window.binding.is_some() => Err(KeyError::State),
            WindowKind::Type2 if request.length == 0 => Err(KeyError::Range),
            kind => Ok(kind),
        }
    }

    /// Whether the region allows the binding (IBTA volume 1, C10-72 to C10-75).
    fn check_region(&self, user: KeyUser, request: &Bind) -> Result<(), KeyError> {
        let region = self.get(request.region).and_then(MemoryKey::region);
        let region = region
            .filter(|region| region.pd == user.pd)
            .ok_or(KeyError::Missing)?;
        if !region.options.contains(RegionOptions::WINDOW_BIND) {
            return Err(KeyError::Rights);
        }
        let writes = Access::REMOTE_WRITE | Access::REMOTE_ATOMIC;
        if request.access.intersects(writes) && !region.access.contains(Access::LOCAL_WRITE) {
            return Err(KeyError::Rights);
        }
        region
            .offset(request.start, request.length)
            .map(|_| ())
            .ok_or(KeyError::Range)
    }

    /// Unbinds the window with number `at`, if it is bound, and takes it out of its list.
    fn unbind(&mut self, at: u32, list: &mut WindowList) {
        let Some(binding) = self.window_mut(at).and_then(|window| window.binding.take()) else {
            return;
        };
        if let Some(region) = self.region_mut(binding.region) {
            region.windows = region.windows.saturating_sub(1);
        }
        if binding.qp.is_some() {
            let Links { before, after } = binding.links;
            if let Some(links) = self.links_mut(after) {
                links.before = before;
            }
            match self.links_mut(before) {
                Some(links) => links.after = after,
                None => list.first = after,
            }
        }
    }

    /// Puts the window with number `at` at the front of a list; returns the links that it gets.
    fn push(&mut self, list: &mut WindowList, at: u32) -> Links {
        let after = core::mem::replace(&mut list.first, at);
        if let Some(links) = self.links_mut(after) {
            links.before = at;
        }
        Links { before: 0, after }
    }

    fn links_mut(&mut self, at: u32) -> Option<&mut Links> {
        let binding = self.window_mut(at)?.binding.as_mut()?;
        Some(&mut binding.links)
    }

    fn window_mut(&mut self, at: u32) -> Option<&mut Window> {
        match self.table.get_mut(at)? {
            MemoryKey::Window(window) => Some(window),
            _ => None,
        }
    }

    fn region_mut(&mut self, key: u32) -> Option<&mut Region> {
        match self.table.get_mut(number(key))? {
            MemoryKey::Region(region) => Some(region),
            MemoryKey::Fast(fast) => fast.region.as_mut(),
            MemoryKey::Window(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::PageMap;
    use alloc::vec::Vec;

    const USER: KeyUser = KeyUser { pd: 1, qp: 7 };

    fn region(key: u32) -> MemoryKey {
        MemoryKey::Region(Region {
            key,
            pd: 1,
            start: 0,
            length: 0x1000,
            access: Access::LOCAL_READ,
            options: RegionOptions::WINDOW_BIND,
            page_shift: 12,
            windows: 0,
            pages: PageMap::contiguous(0x8000, 0x1000).unwrap(),
        })
    }

    fn bind(keys: &mut Keys, list: &mut WindowList, window: u32, region: u32) {
        let request = Bind {
            window,
            key: window,
            region,
            access: Access::LOCAL_READ | Access::REMOTE_READ,
            zero_based: false,
            start: 0x10,
            length: 0x20,
        };
        keys.bind(USER, list, &request).unwrap();
    }

    /// Windows of the list, the one bound last first; checks the links back.
    fn listed(keys: &Keys, list: &WindowList) -> Vec<u32> {
        let (mut at, mut before, mut found) = (list.first, 0, Vec::new());
        while at != 0 {
            let Some(MemoryKey::Window(window)) = keys.table.get(at) else {
                panic!("no window {at}");
            };
            let links = window.binding.unwrap().links;
            assert_eq!(links.before, before);
            found.push(window.key);
            (before, at) = (at, links.after);
        }
        found
    }

    #[test]
    fn a_queue_pair_knows_its_windows() {
        let (mut keys, mut list) = (Keys::default(), WindowList::default());
        let region = keys.add_region(0, region).unwrap();
        let windows: Vec<u32> = (0..5)
            .map(|n| keys.add_window(n, 1, WindowKind::Type2).unwrap())
            .collect();
        let [a, b, c, d, e] = windows[..] else {
            panic!("five windows");
        };
        for window in [a, b, c, d, e] {
            bind(&mut keys, &mut list, window, region);
        }
        assert_eq!(listed(&keys, &list), [e, d, c, b, a]);
        keys.invalidate(USER, &mut list, c).unwrap();
        keys.remove_window(e, &mut list).unwrap();
        keys.remove_window(a, &mut list).unwrap();
        assert_eq!(listed(&keys, &list), [d, b]);
        bind(&mut keys, &mut list, c, region);
        assert_eq!(listed(&keys, &list), [c, d, b]);
        assert_eq!(keys.remove_region(region).unwrap_err(), KeyError::State);
        keys.unbind_all(&mut list);
        assert!(list.is_empty() && keys.window(b).unwrap().binding.is_none());
        assert!(keys.remove_region(region).is_ok());
        assert_eq!((keys.regions(), keys.windows()), (0, 3));
    }

    #[test]
    fn the_reserved_key_is_nobodys() {
        let mut keys = Keys::default();
        let all = limits::REGIONS + limits::WINDOWS;
        // The highest number is that of the last index in its last generation.
        assert!(NUMBERS.first + all < 1 << NUMBERS.index_bits);
        assert_eq!(NUMBERS.index_bits + NUMBERS.generation_bits, 24);
        let key = keys.add_region(0xff, region).unwrap();
        assert_eq!(key, 0x1ff);
        for wrong in [0x1fe, 0xffff_ff00, 0, u32::MAX, 1 << 26 | 0x1ff] {
            assert!(keys.get(wrong).is_none());
        }
    }

    #[test]
    fn an_access_without_bytes_needs_rights_all_the_same() {
        let (mut keys, mut list) = (Keys::default(), WindowList::default());
        let region = keys.add_region(0, region).unwrap();
        let window = keys.add_window(0, 1, WindowKind::Type2).unwrap();
        let check = |keys: &Keys, key, access| keys.check(USER, key, access);
        let read = Access::REMOTE_READ;
        assert_eq!(check(&keys, window, read), Err(AccessError::Key));
        bind(&mut keys, &mut list, window, region);
        assert_eq!(check(&keys, window, read), Ok(()));
        let write = check(&keys, window, Access::REMOTE_WRITE);
        assert_eq!(write, Err(AccessError::Permission));
        assert_eq!(check(&keys, region, read), Err(AccessError::Permission));
        let stranger = KeyUser { pd: 2, qp: 7 };
        for key in [window, region] {
            assert_eq!(keys.check(stranger, key, read), Err(AccessError::Key));
        }
    }
}
