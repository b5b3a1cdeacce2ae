//! A long random history of registrations, bindings, invalidations and accesses, with keys that are
//! good, stale or never were, against a model that says what must succeed and which bytes change.

use std::collections::BTreeMap;

use crate::world::*;
use vrnic_abi::admin::{AccessFlags, AdminOpcode, Status, WindowType};
use vrnic_abi::wqe::{BindSegment, FastRegisterSegment};

const WRITE: AccessFlags = AccessFlags::REMOTE_WRITE;
const READ: AccessFlags = AccessFlags::REMOTE_READ;

/// Memory that a region has, as the model sees it.
#[derive(Clone, Debug)]
struct Memory {
    start: u64,
    length: u64,
    access: AccessFlags,
    pages: Vec<u64>,
}

impl Memory {
    /// Where in the place each of the bytes lies, if all are in the region.
    fn bytes(&self, address: u64, length: u64) -> Option<Vec<usize>> {
        let offset = if self.access.contains(AccessFlags::ZERO_BASED) {
            address
        } else {
            address.checked_sub(self.start)?
        };
        if offset.checked_add(length)? > self.length {
            return None;
        }
        let first = self.start % PAGE + offset;
        let at = |n: u64| self.pages[(n / PAGE) as usize] * PAGE + n % PAGE;
        Some((first..first + length).map(|n| at(n) as usize).collect())
    }
}

#[derive(Clone, Debug)]
struct Binding {
    request: BindSegment,
    qp: Option<usize>,
}

#[derive(Clone, Debug)]
enum Object {
    Region(Memory),
    Fast(Option<Memory>),
    Window(WindowType, Option<Binding>),
}

/// Everything by its key as it is now.
#[derive(Default)]
struct Model {
    keys: BTreeMap<u32, Object>,
    /// Keys that there have been.
    seen: Vec<u32>,
}

impl Model {
    fn add(&mut self, key: u32, object: Object) {
        self.keys.insert(key, object);
        self.seen.push(key);
    }

    fn memory(&self, key: u32) -> Option<&Memory> {
        match self.keys.get(&key)? {
            Object::Region(memory) => Some(memory),
            Object::Fast(memory) => memory.as_ref(),
            Object::Window(..) => None,
        }
    }

    /// The bytes of the place that a peer reaches so.
    fn reach(
        &self,
        qp: usize,
        key: u32,
        access: AccessFlags,
        address: u64,
        length: u64,
    ) -> Option<Vec<usize>> {
        if let Object::Window(_, binding) = self.keys.get(&key)? {
            let Binding { request, qp: owner } = binding.as_ref()?;
            let flags = AccessFlags::from_bits(request.access)?;
            let offset = if flags.contains(AccessFlags::ZERO_BASED) {
                address
            } else {
                address.checked_sub(request.start)?
            };
            let inside = offset.checked_add(length)? <= request.length;
            if !inside || !flags.contains(access) || owner.is_some_and(|owner| owner != qp) {
                return None;
            }
            let region = self.memory(request.region).expect("it stays");
            return region.bytes(request.start + offset, length);
        }
        let memory = self.memory(key)?;
        memory
            .bytes(address, length)
            .filter(|_| memory.access.contains(access))
    }

    fn windows_of(&self, region: u32) -> usize {
        let bound = |object: &&Object| matches!(object, Object::Window(_, Some(binding)) if binding.request.region == region);
        self.keys.values().filter(bound).count()
    }

    /// Whether a fast registration succeeds; it has then.
    fn register(&mut self, request: &FastRegisterSegment, pages: &[u64]) -> bool {
        let same = |key: &u32| key >> 8 == request.key >> 8;
        let old = self.keys.keys().copied().find(same);
        let Some(old) = old.filter(|old| matches!(self.keys[old], Object::Fast(None))) else {
            return false;
        };
        let access = AccessFlags::from_bits_truncate(request.access);
        let room = pages.len() as u64 * PAGE - request.start % PAGE;
        if request.length == 0
            || request.length > room
            || access.intersects(WRITE) && !access.contains(AccessFlags::LOCAL_WRITE)
        {
            return false;
        }
        self.keys.remove(&old);
        let memory = Memory {
            start: request.start,
            length: request.length,
            access,
            pages: pages.to_vec(),
        };
        self.add(request.key, Object::Fast(Some(memory)));
        true
    }

    fn bind(&mut self, qp: usize, request: &BindSegment) -> bool {
        let Some(Object::Window(kind, binding)) = self.keys.get(&request.window).cloned() else {
            return false;
        };
        let flags = AccessFlags::from_bits_truncate(request.access);
        let allowed = request.key >> 8 == request.window >> 8
            && match kind {
                WindowType::Type1 => {
                    request.key != request.window && !flags.contains(AccessFlags::ZERO_BASED)
                }
                WindowType::Type2 => binding.is_none() && request.length > 0,
            };
        let region = self.memory(request.region).filter(|region| {
            region.access.contains(AccessFlags::WINDOW_BIND)
                && (region.access.contains(AccessFlags::LOCAL_WRITE) || !flags.contains(WRITE))
                && region.bytes(request.start, request.length).is_some()
        });
        if !allowed || request.length > 0 && region.is_none() {
            return false;
        }
        let binding = (request.length > 0).then_some(Binding {
            request: *request,
            qp: (kind == WindowType::Type2).then_some(qp),
        });
        self.keys.remove(&request.window);
        self.add(request.key, Object::Window(kind, binding));
        true
    }

    fn invalidate(&mut self, qp: usize, key: u32) -> bool {
        let windows = self.windows_of(key);
        match self.keys.get_mut(&key) {
            Some(Object::Fast(memory)) if windows == 0 => memory.take().is_some(),
            Some(Object::Window(_, binding)) => {
                let theirs = binding
                    .as_ref()
                    .is_some_and(|binding| binding.qp == Some(qp));
                if theirs {
                    *binding = None;
                }
                theirs
            }
            _ => false,
        }
    }

    /// A queue pair was reset.
    fn reset(&mut self, qp: usize) {
        for object in self.keys.values_mut() {
            if let Object::Window(_, binding) = object {
                if binding
                    .as_ref()
                    .is_some_and(|binding| binding.qp == Some(qp))
                {
                    *binding = None;
                }
            }
        }
    }
}

/// A run; says its seed when it fails.
struct Run {
    seed: u64,
    random: Random,
    world: World,
    model: Model,
    /// What the place holds.
    shadow: Vec<u8>,
    successes: [u32; 5],
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.seed);
        }
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed % 2 == 0);
        let mut model = Model::default();
        let start = world.place();
        for access in [ALL | AccessFlags::WINDOW_BIND, AccessFlags::WINDOW_BIND] {
            let key = world.region(world.owner.pd, access);
            let memory = Memory {
                start,
                length: PLACE,
                access,
                pages: (0..PLACE / PAGE).collect(),
            };
            model.add(key, Object::Region(memory));
        }
        for _ in 0..3 {
            let key = world.fast_region(world.owner.pd, 4);
            model.add(key, Object::Fast(None));
        }
        for kind in [WindowType::Type1, WindowType::Type2, WindowType::Type2] {
            let key = world.window(world.owner.pd, kind);
            model.add(key, Object::Window(kind, None));
        }
        let shadow = world.memory();
        Self {
            seed,
            random: Random(seed),
            world,
            model,
            shadow,
            successes: [0; 5],
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    /// A key that is, or was, or never has been.
    fn key(&mut self) -> u32 {
        if self.random.percent(80) {
            let n = self.below(self.model.keys.len() as u64) as usize;
            return *self.model.keys.keys().nth(n).unwrap();
        }
        if self.random.percent(80) {
            let n = self.below(self.model.seen.len() as u64) as usize;
            return self.model.seen[n];
        }
        self.below(1 << 32) as u32
    }

    /// Mostly a key for which `wanted` holds, if there is one.
    fn key_of(&mut self, wanted: fn(&Object) -> bool) -> u32 {
        let keys: Vec<u32> = self
            .model
            .keys
            .iter()
            .filter_map(|(key, object)| wanted(object).then_some(*key))
            .collect();
        if keys.is_empty() || self.random.percent(15) {
            return self.key();
        }
        keys[self.below(keys.len() as u64) as usize]
    }

    /// An address in or near what the key gives access to.
    fn target(&mut self, key: u32) -> (u64, u64) {
        let (start, length, zero_based) = match self.model.keys.get(&key) {
            Some(Object::Window(_, Some(Binding { request, .. }))) => {
                let zero_based = request.access & AccessFlags::ZERO_BASED.bits() != 0;
                (request.start, request.length, zero_based)
            }
            _ => match self.model.memory(key) {
                Some(memory) => {
                    let zero_based = memory.access.contains(AccessFlags::ZERO_BASED);
                    (memory.start, memory.length, zero_based)
                }
                None => (self.world.place(), PLACE, false),
            },
        };
        let size = 1 + self.below(64);
        let base = if zero_based { 0 } else { start };
        let offset = match self.below(4) {
            0 => 0,
            1 => length.saturating_sub(size),
            2 => length
                .wrapping_sub(size)
                .wrapping_add(self.below(3))
                .wrapping_sub(1),
            _ => self.below(length.saturating_sub(size) + 1),
        };
        (base.wrapping_add(offset), size)
    }

    fn flags(&mut self, choice: &[AccessFlags]) -> u32 {
        let mut flags = AccessFlags::empty();
        for flag in choice {
            flags.set(*flag, self.random.percent(60));
        }
        flags.bits()
    }

    /// Compares, and repairs the connection if it broke, as it must have.
    #[track_caller]
    fn check(&mut self, qp: usize, kind: usize, success: bool, got: Wc, otherwise: &[Wc]) {
        if success {
            assert_eq!(got, Wc::Success);
            self.successes[kind] += 1;
        } else {
            assert!(otherwise.contains(&got), "{got:?}");
            self.world.reconnect(qp);
            self.model.reset(qp);
        }
        assert!(self.world.memory() == self.shadow, "another byte changed");
    }

    fn write(&mut self, qp: usize) {
        let key = self.key();
        let (address, length) = self.target(key);
        let mut bytes = vec![0; length as usize];
        self.random.fill(&mut bytes);
        let reached = self.model.reach(qp, key, WRITE, address, length);
        for (at, byte) in reached.iter().flatten().zip(&bytes) {
            self.shadow[*at] = *byte;
        }
        let got = self.world.write(qp, (address, key), &bytes);
        self.check(qp, 0, reached.is_some(), got, &[Wc::RemoteAccess]);
    }

    fn read(&mut self, qp: usize) {
        let key = self.key();
        let (address, length) = self.target(key);
        let reached = self.model.reach(qp, key, READ, address, length);
        let (got, bytes) = self.world.read(qp, (address, key), length as u32);
        let expected = match &reached {
            Some(reached) => reached.iter().map(|at| self.shadow[*at]).collect(),
            None => vec![PATTERN; length as usize],
        };
        assert_eq!(bytes, expected);
        self.check(qp, 1, reached.is_some(), got, &[Wc::RemoteAccess]);
    }

    fn register(&mut self, qp: usize) {
        let count = 1 + self.below(4);
        let pages: Vec<u64> = (0..count).map(|_| self.below(PLACE / PAGE)).collect();
        let free = self.key_of(|object| matches!(object, Object::Fast(None)));
        let key = variant(free, self.random.next() as u8);
        let offset = self.below(PAGE);
        let choice = [
            AccessFlags::LOCAL_WRITE,
            AccessFlags::LOCAL_WRITE,
            WRITE,
            READ,
            AccessFlags::WINDOW_BIND,
            AccessFlags::ZERO_BASED,
        ];
        let request = FastRegisterSegment {
            access: self.flags(&choice),
            start: 0x1234_5000 + offset,
            length: self.below(count * PAGE - offset + 50),
            ..self.world.registration(key, &pages)
        };
        let success = self.model.register(&request, &pages);
        let got = self.world.register(qp, &request);
        let refusals = [Wc::LocalProtection, Wc::LocalQpOperation];
        self.check(qp, 2, success, got, &refusals);
    }

    fn bind(&mut self, qp: usize) {
        let free = |object: &Object| match object {
            Object::Window(kind, binding) => *kind == WindowType::Type1 || binding.is_none(),
            _ => false,
        };
        let window = self.key_of(free);
        let memory = |object: &Object| matches!(object, Object::Region(_) | Object::Fast(Some(_)));
        let region = self.key_of(memory);
        let (start, _) = self.target(region);
        let request = BindSegment {
            window,
            key: variant(window, self.random.next() as u8),
            region,
            access: self.flags(&[WRITE, READ, AccessFlags::ZERO_BASED]),
            start,
            length: self.below(600).saturating_sub(20),
            ..BindSegment::default()
        };
        let success = self.model.bind(qp, &request);
        let got = self.world.bind(qp, &request);
        self.check(qp, 3, success, got, &[Wc::MemoryWindowBind]);
    }

    fn invalidate(&mut self, qp: usize) {
        let key = self.key();
        let success = self.model.invalidate(qp, key);
        if self.random.percent(50) {
            let got = self.world.invalidate(qp, key);
            self.check(qp, 4, success, got, &[Wc::LocalProtection]);
        } else {
            let (got, received) = self.world.send_invalidate(qp, key);
            let expected = if success {
                Wc::Success
            } else {
                Wc::LocalAccess
            };
            assert_eq!(received.status, expected.raw());
            self.check(qp, 4, success, got, &[Wc::RemoteAccess]);
        }
    }

    /// Destroys something, and makes another one instead.
    fn replace(&mut self) {
        let key = self.key();
        let windows = self.model.windows_of(key);
        let object = self.model.keys.get(&key).cloned();
        let pd = self.world.owner.pd;
        match object {
            Some(Object::Fast(_)) => {
                let destroyed = self.world.destroy(AdminOpcode::DestroyMr, key);
                if windows > 0 {
                    assert_eq!(destroyed, Status::Busy);
                    return;
                }
                assert_eq!(destroyed, Status::Success);
                let new = self.world.fast_region(pd, 4);
                self.model.add(new, Object::Fast(None));
            }
            Some(Object::Window(kind, _)) => {
                assert_eq!(
                    self.world.destroy(AdminOpcode::FreeMw, key),
                    Status::Success
                );
                let new = self.world.window(pd, kind);
                self.model.add(new, Object::Window(kind, None));
            }
            Some(Object::Region(_)) => return,
            None => {
                for opcode in [AdminOpcode::DestroyMr, AdminOpcode::FreeMw] {
                    assert_eq!(self.world.destroy(opcode, key), Status::NoSuchObject);
                }
                return;
            }
        }
        self.model.keys.remove(&key);
    }

    fn step(&mut self) {
        let qp = self.below(2) as usize;
        match self.below(16) {
            0..=3 => self.write(qp),
            4..=6 => self.read(qp),
            7..=9 => self.register(qp),
            10..=12 => self.bind(qp),
            13..=14 => self.invalidate(qp),
            _ => self.replace(),
        }
    }
}

#[test]
fn a_model_says_what_succeeds() {
    let mut successes = [0; 5];
    for seed in 0..12 {
        let mut run = Run::new(seed);
        for _ in 0..800 {
            run.step();
        }
        for (sum, n) in successes.iter_mut().zip(run.successes) {
            *sum += n;
        }
    }
    // Of each operation, enough succeed for the test to mean something.
    assert!(successes.iter().all(|n| *n > 200), "{successes:?}");
}
