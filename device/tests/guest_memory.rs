//! Guest memory over memfds and over a client that answers messages.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex};
use std::thread;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vrnic::dma::{
    Backing, CopyError, DmaError, FileError, FileLimits, FileTable, GuestMemory, MapError,
    MapUpdate, Prot, RemoteMemory,
};

const PAGE: u64 = 4096;
const BOTH: Prot = Prot::READ.union(Prot::WRITE);

/// A client's file of `pages` pages, each byte of which tells its offset.
#[track_caller]
fn memfd(pages: u64) -> OwnedFd {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, pages * PAGE).unwrap();
    put(&fd, 0, &pattern(0, (pages * PAGE) as usize));
    fd
}

fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset..)
        .take(len)
        .map(|at| (at * 7 + (at >> 8)) as u8)
        .collect()
}

/// The client looks at its file.
#[track_caller]
fn get(fd: &OwnedFd, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xa5; len];
    assert_eq!(rustix::io::pread(fd, &mut data, offset), Ok(len));
    data
}

/// The client changes its file.
#[track_caller]
fn put(fd: &OwnedFd, offset: u64, data: &[u8]) {
    assert_eq!(rustix::io::pwrite(fd, data, offset), Ok(data.len()));
}

/// A function whose client maps pages of its file, each `(iova page, file page)`.
#[track_caller]
fn guest(fd: &OwnedFd, pages: &[(u64, u64)]) -> GuestMemory {
    let mut files = FileTable::new(FileLimits::default());
    let mut memory = GuestMemory::default();
    for &(iova, page) in pages {
        let file = files
            .map(fd.try_clone().unwrap(), page * PAGE, PAGE, true)
            .unwrap();
        let backing = Backing::File {
            file,
            offset: page * PAGE,
        };
        memory.map(iova * PAGE, PAGE, BOTH, backing).unwrap();
    }
    assert!(files.len() <= 1, "one file, one mapping");
    memory
}

/// Memory of a client that shares none, from IOVA 0.
#[derive(Clone, Default)]
struct Messages {
    bytes: Arc<Mutex<Vec<u8>>>,
    writes: Arc<Mutex<Vec<(u64, usize)>>>,
}

impl RemoteMemory for Messages {
    fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let bytes = self.bytes.lock().unwrap();
        let range = iova as usize..iova as usize + buffer.len();
        buffer.copy_from_slice(bytes.get(range).ok_or(DmaError::Remote(iova))?);
        Ok(())
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut bytes = self.bytes.lock().unwrap();
        let range = iova as usize..iova as usize + data.len();
        bytes
            .get_mut(range)
            .ok_or(DmaError::Remote(iova))?
            .copy_from_slice(data);
        self.writes.lock().unwrap().push((iova, data.len()));
        Ok(())
    }
}

/// A function whose client shares nothing; its memory reads as the pattern.
#[track_caller]
fn remote_guest(pages: u64) -> (GuestMemory, Messages) {
    let messages = Messages::default();
    *messages.bytes.lock().unwrap() = pattern(0, (pages * PAGE) as usize);
    let mut memory = GuestMemory::default();
    memory
        .apply(MapUpdate::Remote(Some(Box::new(messages.clone()))))
        .unwrap();
    memory.map(0, pages * PAGE, BOTH, Backing::Remote).unwrap();
    (memory, messages)
}

// reading and writing

#[test]
fn an_access_crosses_mappings() {
    let fd = memfd(8);
    let memory = guest(&fd, &[(10, 5), (11, 2), (12, 7)]);
    let mut data = vec![0xa5; 2 * PAGE as usize];
    memory.read(10 * PAGE + 0x800, &mut data).unwrap();
    let expected = [
        pattern(5 * PAGE + 0x800, 0x800),
        pattern(2 * PAGE, 0x1000),
        pattern(7 * PAGE, 0x800),
    ];
    assert_eq!(data, expected.concat());

    memory.write(11 * PAGE - 3, b"abcdef").unwrap();
    assert_eq!(get(&fd, 6 * PAGE - 3, 3), b"abc");
    assert_eq!(
        get(&fd, 2 * PAGE, 4),
        [b"def", &pattern(2 * PAGE + 3, 1)[..]].concat()
    );
}

#[test]
fn a_refused_write_changes_nothing() {
    let fd = memfd(4);
    let memory = guest(&fd, &[(0, 0), (1, 2)]);
    assert_eq!(
        memory.write(PAGE - 8, &[0xff; 5000]),
        Err(DmaError::Unmapped(2 * PAGE))
    );
    assert_eq!(
        memory.write_publish(PAGE - 8, &[0xff; 5000]),
        Err(DmaError::Unmapped(2 * PAGE))
    );
    let refused = memory.copy_to(0, &memory, PAGE + 8, PAGE as usize);
    assert_eq!(
        refused,
        Err(CopyError::Target(DmaError::Unmapped(2 * PAGE)))
    );
    let refused = memory.copy_to(PAGE + 8, &memory, 0, PAGE as usize);
    assert_eq!(
        refused,
        Err(CopyError::Source(DmaError::Unmapped(2 * PAGE)))
    );
    assert_eq!(
        get(&fd, 0, 4 * PAGE as usize),
        pattern(0, 4 * PAGE as usize)
    );
}

#[test]
fn protection_is_checked() {
    let fd = memfd(2);
    let file = FileTable::new(FileLimits::default())
        .map(fd.try_clone().unwrap(), 0, PAGE, false)
        .unwrap();
    let mut memory = GuestMemory::default();
    let backing = |offset| Backing::File {
        file: Arc::clone(&file),
        offset,
    };
    memory.map(0, PAGE, Prot::READ, backing(0)).unwrap();
    memory.map(PAGE, PAGE, Prot::WRITE, backing(PAGE)).unwrap();
    assert_eq!(
        memory.write(PAGE - 1, &[0]),
        Err(DmaError::Denied(PAGE - 1))
    );
    assert_eq!(
        memory.read(PAGE - 1, &mut [0; 2]),
        Err(DmaError::Denied(PAGE))
    );
    assert_eq!(memory.fetch_add(0, 1), Err(DmaError::Denied(0)));
    assert_eq!(memory.fetch_add(PAGE, 1), Err(DmaError::Denied(PAGE)));
    assert_eq!(memory.read(0, &mut [0; 8]), Ok(()));
    assert_eq!(memory.write(PAGE, &[0; 8]), Ok(()));
}

#[test]
fn nothing_reaches_what_is_unmapped() {
    let fd = memfd(4);
    let mut memory = guest(&fd, &[(0, 0), (1, 1), (2, 2), (3, 3)]);
    assert_eq!(memory.mappings(), 1);
    memory.read(PAGE, &mut [0; 8]).unwrap();
    assert_eq!(memory.unmap(PAGE, 2 * PAGE), Ok(2 * PAGE));
    assert_eq!(
        memory.read(PAGE, &mut [0; 8]),
        Err(DmaError::Unmapped(PAGE))
    );
    assert_eq!(
        memory.read(3 * PAGE - 1, &mut [0; 8]),
        Err(DmaError::Unmapped(3 * PAGE - 1))
    );
    assert_eq!(memory.unmap(0x100 * PAGE, PAGE), Ok(0), "holds nothing");
    let mut data = [0xa5; 8];
    memory.read(3 * PAGE, &mut data).unwrap();
    assert_eq!(data[..], pattern(3 * PAGE, 8));
    assert_eq!(memory.apply(MapUpdate::UnmapAll), Ok(2 * PAGE));
    assert_eq!(memory.read(0, &mut data), Err(DmaError::Unmapped(0)));
}

#[test]
fn mappings_are_checked() {
    let fd = memfd(2);
    let file = FileTable::new(FileLimits::default())
        .map(fd, 0, PAGE, true)
        .unwrap();
    let mut memory = GuestMemory::default();
    for (iova, len, offset, error) in [
        (0, 0, 0, MapError::Invalid),
        (1, PAGE, 0, MapError::Invalid),
        (0, PAGE + 1, 0, MapError::Invalid),
        (0, PAGE, 8, MapError::Invalid),
        (0u64.wrapping_sub(PAGE), 2 * PAGE, 0, MapError::Invalid),
        (0, 3 * PAGE, 0, MapError::NotInFile),
        (0, PAGE, 2 * PAGE, MapError::NotInFile),
        (0, PAGE, 0u64.wrapping_sub(PAGE), MapError::NotInFile),
    ] {
        let backing = Backing::File {
            file: Arc::clone(&file),
            offset,
        };
        assert_eq!(
            memory.map(iova, len, BOTH, backing),
            Err(error),
            "{iova:#x} {len:#x} {offset:#x}"
        );
    }
    assert_eq!(memory.mappings(), 0);
}

#[test]
fn publishing_writes_everything_at_every_alignment() {
    let fd = memfd(2);
    let memory = guest(&fd, &[(0, 1), (1, 0)]);
    for start in PAGE - 20..PAGE + 4 {
        for len in 0..24usize {
            let data: Vec<u8> = (0..len).map(|n| 0xc0 + n as u8).collect();
            put(&fd, 0, &[0xee; 64]);
            put(&fd, 2 * PAGE - 64, &[0xee; 64]);
            memory.write_publish(start, &data).unwrap();
            let seen = [get(&fd, 2 * PAGE - 64, 64), get(&fd, 0, 64)].concat();
            let at = (start - (PAGE - 64)) as usize;
            let mut expected = vec![0xee; 128];
            expected[at..at + len].copy_from_slice(&data);
            assert_eq!(seen, expected, "{len} bytes at {start:#x}");
        }
    }
}

#[test]
fn a_poller_that_sees_the_last_word_sees_the_entry() {
    const ENTRIES: u64 = 5_000;
    let fd = memfd(1);
    put(&fd, 0, &[0; 64]);
    let (memory, poller) = (guest(&fd, &[(0, 0)]), guest(&fd, &[(0, 0)]));
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 1..=ENTRIES {
                let entry: Vec<u8> = [number; 8]
                    .iter()
                    .flat_map(|word| word.to_ne_bytes())
                    .collect();
                memory.write_publish(0, &entry).unwrap();
                while memory.read_u64_acquire(64).unwrap() != number {
                    thread::yield_now();
                }
            }
        });
        poller.write(64, &[0; 8]).unwrap();
        for number in 1..=ENTRIES {
            while poller.read_u64_acquire(56).unwrap() != number {
                thread::yield_now();
            }
            let mut entry = [0; 64];
            poller.read(0, &mut entry).unwrap();
            assert!(
                entry.chunks(8).all(|word| word == number.to_ne_bytes()),
                "entry {number}"
            );
            poller.write_publish(64, &number.to_ne_bytes()).unwrap();
        }
    });
}

// atomic operations

#[test]
fn atomic_operations_return_what_was() {
    let fd = memfd(2);
    put(&fd, PAGE + 8, &5u64.to_ne_bytes());
    let (remote, messages) = remote_guest(1);
    messages.bytes.lock().unwrap()[8..16].copy_from_slice(&5u64.to_ne_bytes());
    for memory in [guest(&fd, &[(0, 1)]), remote] {
        assert_eq!(memory.fetch_add(8, 3), Ok(5));
        assert_eq!(memory.compare_swap(8, 7, 100), Ok(8), "not equal");
        assert_eq!(memory.read_u64_acquire(8), Ok(8));
        assert_eq!(memory.compare_swap(8, 8, u64::MAX), Ok(8));
        assert_eq!(memory.fetch_add(8, 2), Ok(u64::MAX), "wraps around");
        assert_eq!(memory.read_u32_acquire(8), Ok(1));
        assert_eq!(memory.read_u32_acquire(10), Err(DmaError::Misaligned(10)));
        assert_eq!(memory.fetch_add(12, 1), Err(DmaError::Misaligned(12)));
        assert_eq!(
            memory.compare_swap(PAGE, 0, 0),
            Err(DmaError::Unmapped(PAGE))
        );
    }
}

#[test]
fn fetch_add_is_atomic_towards_other_processors() {
    const ROUNDS: u64 = 50_000;
    let fd = memfd(1);
    put(&fd, 0, &[0; 8]);
    thread::scope(|scope| {
        for _ in 0..2 {
            let memory = guest(&fd, &[(0, 0)]);
            scope.spawn(move || (0..ROUNDS).for_each(|_| assert!(memory.fetch_add(0, 1).is_ok())));
        }
    });
    assert_eq!(get(&fd, 0, 8), (2 * ROUNDS).to_ne_bytes());
}

// copies between guests

#[test]
fn copies_at_every_alignment() {
    let (from, to) = (memfd(3), memfd(3));
    let source = guest(&from, &[(0, 2), (1, 0)]);
    let target = guest(&to, &[(0, 1), (1, 2)]);
    let source_bytes = [pattern(2 * PAGE, PAGE as usize), pattern(0, PAGE as usize)].concat();
    for src in (0..16).map(|n| PAGE - 16 + n) {
        for dst in (0..16).map(|n| PAGE - 9 + n) {
            for len in [0usize, 1, 7, 8, 9, 15, 64] {
                put(&to, 0, &vec![0xee; 3 * PAGE as usize]);
                source.copy_to(src, &target, dst, len).unwrap();
                let mut expected = vec![0xee; 2 * PAGE as usize];
                expected[dst as usize..dst as usize + len]
                    .copy_from_slice(&source_bytes[src as usize..src as usize + len]);
                assert!(
                    get(&to, PAGE, 2 * PAGE as usize) == expected,
                    "{len} bytes from {src:#x} to {dst:#x}"
                );
            }
        }
    }
}

#[test]
fn overlapping_copies_are_as_memmove() {
    // IOVA pages 0 to 7 lie in the file in another order, so that every copy is in pieces.
    let order = [3, 1, 7, 0, 5, 2, 6, 4];
    let pages: Vec<_> = (0..).zip(order).collect();
    for (src, dst, len) in [
        (0, 0x800, 0x6000),
        (0x800, 0, 0x6000),
        (0x10, 0x11, 0x7fef),
        (0x11, 0x10, 0x7fef),
        (0x1000, 0x1000, 0x3000),
        (0, 0x4000, 0x4000),
    ] {
        let fd = memfd(8);
        let memory = guest(&fd, &pages);
        let mut expected = vec![0xa5; 8 * PAGE as usize];
        memory.read(0, &mut expected).unwrap();
        expected.copy_within(src..src + len, dst);
        memory
            .copy_to(src as u64, &memory, dst as u64, len)
            .unwrap();
        let mut found = vec![0xa5; 8 * PAGE as usize];
        memory.read(0, &mut found).unwrap();
        assert!(
            found == expected,
            "{len:#x} bytes from {src:#x} to {dst:#x}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn copies_agree_with_a_model(
        from_order in Just((0u64..8).collect::<Vec<_>>()).prop_shuffle(),
        to_order in Just((0u64..8).collect::<Vec<_>>()).prop_shuffle(),
        remote in any::<[bool; 2]>(),
        src in 0usize..0x4000, dst in 0usize..0x4000, len in 0usize..0x4000,
    ) {
        let (from, to) = (memfd(8), memfd(8));
        let numbered = |order: &[u64]| (0..).zip(order.iter().copied()).collect::<Vec<_>>();
        let source = if remote[0] { remote_guest(8).0 } else { guest(&from, &numbered(&from_order)) };
        let target = if remote[1] { remote_guest(8).0 } else { guest(&to, &numbered(&to_order)) };
        let mut expected = vec![0xa5; 0x8000];
        let mut bytes = vec![0xa5; 0x8000];
        source.read(0, &mut bytes).unwrap();
        target.read(0, &mut expected).unwrap();
        expected[dst..dst + len].copy_from_slice(&bytes[src..src + len]);
        source.copy_to(src as u64, &target, dst as u64, len).unwrap();
        target.read(0, &mut bytes).unwrap();
        prop_assert!(bytes == expected);
    }
}

// memory that is not shared

#[test]
fn mixed_memory_is_one_memory() {
    let fd = memfd(2);
    let (mut memory, messages) = remote_guest(1);
    let file = FileTable::new(FileLimits::default())
        .map(fd.try_clone().unwrap(), 0, PAGE, true)
        .unwrap();
    memory
        .map(PAGE, PAGE, BOTH, Backing::File { file, offset: PAGE })
        .unwrap();
    let mut data = [0xa5; 8];
    memory.read(PAGE - 4, &mut data).unwrap();
    assert_eq!(data[..], [pattern(PAGE - 4, 4), pattern(PAGE, 4)].concat());
    memory.write(PAGE - 4, b"abcdefgh").unwrap();
    assert_eq!(
        messages.bytes.lock().unwrap()[PAGE as usize - 4..],
        *b"abcd"
    );
    assert_eq!(get(&fd, PAGE, 4), b"efgh");
}

#[test]
fn publishing_by_messages_sends_the_last_word_last() {
    let (memory, messages) = remote_guest(1);
    memory.write_publish(64, &[7; 64]).unwrap();
    assert_eq!(*messages.writes.lock().unwrap(), [(64, 56), (120, 8)]);
}

#[test]
fn long_copies_by_messages_are_bounded() {
    let (memory, messages) = remote_guest(64);
    let source = guest(&memfd(64), &(0..64).map(|n| (n, n)).collect::<Vec<_>>());
    source
        .copy_to(1, &memory, 0, 64 * PAGE as usize - 1)
        .unwrap();
    assert!(
        messages
            .writes
            .lock()
            .unwrap()
            .iter()
            .all(|&(_, len)| len <= 64 << 10)
    );
    assert_eq!(
        *messages.bytes.lock().unwrap(),
        [
            pattern(1, 64 * PAGE as usize - 1),
            pattern(64 * PAGE - 1, 1)
        ]
        .concat()
    );
}

#[test]
fn a_client_that_fails_is_an_error() {
    let (mut memory, messages) = remote_guest(2);
    messages.bytes.lock().unwrap().truncate(PAGE as usize);
    assert_eq!(memory.read(PAGE, &mut [0; 4]), Err(DmaError::Remote(PAGE)));
    assert_eq!(memory.write(PAGE, &[0; 4]), Err(DmaError::Remote(PAGE)));
    assert_eq!(memory.fetch_add(PAGE, 1), Err(DmaError::Remote(PAGE)));
    memory.apply(MapUpdate::Remote(None)).unwrap();
    assert_eq!(memory.read(0, &mut [0; 4]), Err(DmaError::Remote(0)));
}

// files

#[test]
fn a_file_is_mapped_once_and_again_when_it_has_grown() {
    let fd = memfd(2);
    let clone = || fd.try_clone().unwrap();
    let mut files = FileTable::new(FileLimits::default());
    let first = files.map(clone(), 0, PAGE, true).unwrap();
    assert!(Arc::ptr_eq(
        &first,
        &files.map(clone(), PAGE, PAGE, true).unwrap()
    ));
    assert_eq!(
        files.map(clone(), PAGE, 2 * PAGE, true).unwrap_err(),
        FileError::Range
    );
    ftruncate(&fd, 4 * PAGE).unwrap();
    let second = files.map(clone(), PAGE, 2 * PAGE, true).unwrap();
    assert_eq!(
        (first.len(), second.len(), files.len()),
        (2 * PAGE, 4 * PAGE, 2)
    );
    drop(first);
    files.trim();
    assert_eq!(files.len(), 1);
    assert!(Arc::ptr_eq(
        &second,
        &files.map(clone(), 0, PAGE, true).unwrap()
    ));
    drop(second);
    files.trim();
    assert!(files.is_empty());
}

#[test]
fn a_read_only_descriptor_gives_no_write_access() {
    let fd = memfd(1);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let open = |options: &mut std::fs::OpenOptions| OwnedFd::from(options.open(&path).unwrap());
    let read_only = || open(std::fs::OpenOptions::new().read(true));
    let mut files = FileTable::new(FileLimits::default());
    assert_eq!(
        files.map(read_only(), 0, PAGE, true).unwrap_err(),
        FileError::Access
    );
    let file = files.map(read_only(), 0, PAGE, false).unwrap();
    let backing = Backing::File {
        file: Arc::clone(&file),
        offset: 0,
    };
    let mut memory = GuestMemory::default();
    assert_eq!(
        memory.map(0, PAGE, BOTH, backing.clone()),
        Err(MapError::NotInFile)
    );
    memory.map(0, PAGE, Prot::READ, backing).unwrap();
    memory.read(0, &mut [0; 8]).unwrap();
    let write_only = open(std::fs::OpenOptions::new().write(true));
    assert_eq!(
        FileTable::new(FileLimits::default())
            .map(write_only, 0, PAGE, false)
            .unwrap_err(),
        FileError::Access
    );
    assert!(files.map(fd, 0, PAGE, true).unwrap().is_writable());
}

#[test]
fn only_memory_and_local_files_are_mapped() {
    let mut files = FileTable::new(FileLimits::default());
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let open = |path| OwnedFd::from(std::fs::File::open(path).unwrap());
    for fd in [
        pipe,
        open("/dev/zero"),
        open("/proc/self/maps"),
        open("/dev"),
    ] {
        assert_eq!(files.map(fd, 0, PAGE, false).unwrap_err(), FileError::Kind);
    }
}

#[test]
fn files_are_bounded_in_number_and_size() {
    let mut files = FileTable::new(FileLimits {
        files: 2,
        bytes: 8 * PAGE,
    });
    let held = [
        files.map(memfd(2), 0, PAGE, true).unwrap(),
        files.map(memfd(2), 0, PAGE, true).unwrap(),
    ];
    assert_eq!(
        files.map(memfd(1), 0, PAGE, true).unwrap_err(),
        FileError::Limit
    );
    drop(held);
    assert_eq!(
        files.map(memfd(9), 0, PAGE, true).unwrap_err(),
        FileError::Limit
    );
    assert!(
        files.map(memfd(8), 0, PAGE, true).is_ok(),
        "what nothing lies on makes room"
    );
}

#[test]
fn thousands_of_pages_come_and_go() {
    const PAGES: u64 = 4096;
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, PAGES * PAGE).unwrap();
    // An odd factor visits every page once, and no two neighbours continue each other.
    let pages: Vec<_> = (0..PAGES).map(|n| (n, n * 1531 % PAGES)).collect();
    let mut memory = guest(&fd, &pages);
    assert_eq!(memory.mappings() as u64, PAGES);
    for &(iova, page) in &pages {
        memory.write(iova * PAGE, &page.to_ne_bytes()).unwrap();
    }
    for page in 0..PAGES {
        assert_eq!(get(&fd, page * PAGE, 8), page.to_ne_bytes());
    }
    for &(_, iova) in &pages {
        assert_eq!(memory.unmap(iova * PAGE, PAGE), Ok(PAGE));
    }
    assert_eq!(memory.mappings(), 0);
}

// truncation

#[test]
fn truncation_is_an_error_of_that_client_alone() {
    let (fd, other) = (memfd(8), memfd(1));
    let memory = guest(&fd, &(0..8).map(|n| (n, n)).collect::<Vec<_>>());
    let neighbour = guest(&other, &[(0, 0)]);
    ftruncate(&fd, 4 * PAGE).unwrap();
    let mut data = [0xa5; 16];
    memory.read(4 * PAGE - 16, &mut data).unwrap();
    assert_eq!(
        data[..],
        pattern(4 * PAGE - 16, 16),
        "what is left can be read"
    );
    assert_eq!(
        memory.read(6 * PAGE, &mut data),
        Err(DmaError::Lost(6 * PAGE))
    );
    assert_eq!(
        memory.read(0, &mut data),
        Err(DmaError::Lost(0)),
        "from now on nothing can"
    );
    assert_eq!(memory.write(0, &data), Err(DmaError::Lost(0)));
    let copied = neighbour.copy_to(0, &memory, 0, 16);
    assert_eq!(copied, Err(CopyError::Target(DmaError::Lost(0))));
    neighbour.read(0, &mut data).unwrap();
    assert_eq!(data[..], pattern(0, 16));
}

#[test]
fn truncation_during_writes_and_atomics_is_survived() {
    type Access = fn(&GuestMemory) -> Result<(), DmaError>;
    let accesses: [Access; 4] = [
        |memory| memory.write(PAGE + 5, &[1; 3000]),
        |memory| memory.write_publish(PAGE, &[1; 64]),
        |memory| memory.fetch_add(PAGE, 1).map(|_| ()),
        |memory| memory.read_u32_acquire(PAGE).map(|_| ()),
    ];
    for (index, access) in accesses.iter().enumerate() {
        let fd = memfd(2);
        let memory = guest(&fd, &[(0, 0), (1, 1)]);
        access(&memory).unwrap();
        ftruncate(&fd, PAGE).unwrap();
        assert!(
            matches!(access(&memory), Err(DmaError::Lost(_)) | Ok(())),
            "access {index}"
        );
        assert!(
            matches!(access(&memory), Err(DmaError::Lost(_))),
            "access {index}"
        );
    }
}

#[test]
fn truncation_under_copies_from_several_threads_is_survived() {
    for _ in 0..20 {
        let fd = memfd(64);
        let pages: Vec<_> = (0..64).map(|n| (n, n)).collect();
        thread::scope(|scope| {
            for _ in 0..2 {
                let memory = guest(&fd, &pages);
                scope.spawn(move || {
                    while memory
                        .copy_to(0, &memory, 32 * PAGE, 32 * PAGE as usize)
                        .is_ok()
                    {}
                });
            }
            ftruncate(&fd, 0).unwrap();
        });
    }
}

#[test]
fn a_file_that_came_back_is_mapped_anew() {
    let fd = memfd(2);
    let mut files = FileTable::new(FileLimits::default());
    let mut memory = GuestMemory::default();
    for round in 0..3 {
        let file = files
            .map(fd.try_clone().unwrap(), 0, 2 * PAGE, true)
            .unwrap();
        memory
            .map(0, 2 * PAGE, BOTH, Backing::File { file, offset: 0 })
            .unwrap();
        put(&fd, PAGE, &[round; 8]);
        let mut data = [0xa5; 8];
        memory.read(PAGE, &mut data).unwrap();
        assert_eq!(data, [round; 8]);
        ftruncate(&fd, 0).unwrap();
        assert_eq!(memory.read(PAGE, &mut data), Err(DmaError::Lost(PAGE)));
        memory.unmap_all();
        ftruncate(&fd, 2 * PAGE).unwrap();
    }
    assert_eq!(files.len(), 1);
}

/// Runs this test binary again for one test, with `VRNIC_CHILD` set.
#[track_caller]
fn run_child(test: &str) -> std::process::ExitStatus {
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    command
        .args(["--exact", test, "--nocapture"])
        .env("VRNIC_CHILD", "1");
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.status().unwrap()
}

#[test]
fn a_fault_elsewhere_still_ends_the_process() {
    use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};
    if std::env::var_os("VRNIC_CHILD").is_none() {
        assert_eq!(
            run_child("a_fault_elsewhere_still_ends_the_process").signal(),
            Some(7),
            "SIGBUS"
        );
        return;
    }
    let none = rustix::process::Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(rustix::process::Resource::Core, none).unwrap();
    let ours = guest(&memfd(1), &[(0, 0)]);
    ours.read(0, &mut [0; 8]).unwrap();
    let fd = memfd(1);
    let file = FileOffset::new(std::fs::File::from(fd.try_clone().unwrap()), 0);
    let foreign = MmapRegion::<()>::from_file(file, PAGE as usize).unwrap();
    ftruncate(&fd, 0).unwrap();
    let _ = foreign.as_volatile_slice().read_obj::<u64>(0);
    panic!("the fault went unnoticed");
}
