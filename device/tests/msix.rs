//! MSI-X: masking, pending bits, and interrupts raised while eventfds are replaced.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use vrnic::pci::{Msix, MsixControl, MsixError, MsixLayout};

const LAYOUT: MsixLayout = MsixLayout {
    vectors: 70,
    bar: 4,
    table_offset: 0x100,
    pba_offset: 0x1000,
};
const TABLE: u64 = 0x100;
const PBA: u64 = 0x1000;
const MASK_ALL: MsixControl = MsixControl {
    enabled: true,
    function_masked: true,
};
const UNMASK_ALL: MsixControl = MsixControl {
    enabled: true,
    function_masked: false,
};

/// An eventfd and the client's copy of it.
#[track_caller]
fn eventfd_pair() -> (OwnedFd, OwnedFd) {
    let ours = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let theirs = ours.try_clone().unwrap();
    (ours, theirs)
}

/// What the client reads: the interrupts since it last looked.
#[track_caller]
fn signals(fd: &OwnedFd) -> u64 {
    let mut data = [0xa5; 8];
    match rustix::io::read(fd, &mut data) {
        Ok(8) => u64::from_ne_bytes(data),
        Err(Errno::AGAIN) => 0,
        other => panic!("eventfd: {other:?}"),
    }
}

#[track_caller]
fn connect(msix: &mut Msix, vector: u32) -> OwnedFd {
    let (ours, theirs) = eventfd_pair();
    msix.set_eventfd(vector, Some(theirs)).unwrap();
    ours
}

fn pending(msix: &Msix) -> [u64; 2] {
    let mut words = [0; 2];
    for (index, word) in words.iter_mut().enumerate() {
        let mut data = [0xa5; 8];
        msix.read(PBA + 8 * index as u64, &mut data);
        *word = u64::from_le_bytes(data);
    }
    words
}

fn write_control(msix: &mut Msix, vector: u64, value: u32) {
    msix.write(TABLE + 16 * vector + 12, &value.to_le_bytes());
}

// how many there are

#[test]
fn a_client_finds_the_number_that_was_set_before_it_came() {
    let mut msix = Msix::new(LAYOUT);
    let handle = msix.handle();
    assert_eq!(msix.vectors(), 70);
    assert!(!handle.set_vectors(0) && !handle.set_vectors(71));
    assert!(handle.set_vectors(2));
    assert_eq!(msix.attach(), 2);
    assert!(!handle.set_vectors(3), "it has seen them");
    let fd = connect(&mut msix, 1);
    handle.raise(1);
    assert_eq!(signals(&fd), 1);
    let (_ours, theirs) = eventfd_pair();
    let beyond = msix.set_eventfd(2, Some(theirs));
    assert_eq!(beyond, Err(MsixError::NoSuchVector));
    assert_eq!(msix.set_masked(2, true), Err(MsixError::NoSuchVector));
    // The table ends after them.
    msix.write(TABLE, &[0xff; 48]);
    let mut entries = [0xa5; 48];
    msix.read(TABLE, &mut entries);
    assert_eq!(entries[16..20], [0xfc, 0xff, 0xff, 0xff]);
    assert_eq!(entries[32..], [0; 16]);
    msix.detach();
    assert!(handle.set_vectors(70));
    assert_eq!(msix.attach(), 70);
    msix.read(TABLE, &mut entries);
    assert_eq!(entries[44..], [1, 0, 0, 0], "as after a reset");
}

// table

#[test]
fn the_table_is_memory_with_reserved_bits() {
    let mut msix = Msix::new(LAYOUT);
    let mut entry = [0xa5; 16];
    msix.read(TABLE + 16 * 69, &mut entry);
    assert_eq!(
        entry,
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        "masked after reset"
    );
    msix.write(TABLE + 16 * 69, &[0xff; 16]);
    msix.read(TABLE + 16 * 69, &mut entry);
    assert_eq!(
        entry[..12],
        [
            0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
        ]
    );
    assert_eq!(entry[12..], [1, 0, 0, 0]);
}

#[test]
fn what_is_neither_table_nor_pending_bits_reads_zero() {
    let mut msix = Msix::new(LAYOUT);
    for offset in [
        0,
        0xf8,
        TABLE + 16 * 70,
        PBA - 8,
        PBA,
        PBA + 8,
        PBA + 16,
        u64::MAX - 20,
    ] {
        msix.write(offset, &[0xff; 8]);
        let mut data = [0xa5; 8];
        msix.read(offset, &mut data);
        assert_eq!(data, [0; 8], "offset {offset:#x}");
    }
}

#[test]
fn a_table_write_may_come_in_any_pieces() {
    let (mut whole, mut bytes) = (Msix::new(LAYOUT), Msix::new(LAYOUT));
    let data: Vec<u8> = (0..64).collect();
    whole.write(TABLE + 3, &data);
    for (at, byte) in (TABLE + 3..).zip(&data) {
        bytes.write(at, &[*byte]);
    }
    assert_eq!(whole.save(), bytes.save());
}

// delivery and masking

#[test]
fn a_client_of_set_irqs_alone_gets_its_interrupts() {
    let mut msix = Msix::new(LAYOUT);
    let fd = connect(&mut msix, 3);
    let handle = msix.handle();
    handle.raise(3);
    handle.raise(3);
    assert_eq!(signals(&fd), 2);
    assert_eq!(pending(&msix), [0, 0]);
}

#[test]
fn a_vector_without_eventfd_pends_until_it_gets_one() {
    let mut msix = Msix::new(LAYOUT);
    let handle = msix.handle();
    handle.raise(65);
    handle.raise(65);
    assert_eq!(pending(&msix), [0, 2]);
    let fd = connect(&mut msix, 65);
    assert_eq!(signals(&fd), 1, "one pending bit, one interrupt");
    assert_eq!(pending(&msix), [0, 0]);
}

#[test]
fn the_mask_bit_pends_and_unmasking_delivers() {
    let mut msix = Msix::new(LAYOUT);
    let fd = connect(&mut msix, 1);
    let handle = msix.handle();
    write_control(&mut msix, 1, 1);
    handle.raise(1);
    assert_eq!((signals(&fd), pending(&msix)), (0, [2, 0]));
    write_control(&mut msix, 1, 0);
    assert_eq!((signals(&fd), pending(&msix)), (1, [0, 0]));
    write_control(&mut msix, 1, 0);
    assert_eq!(signals(&fd), 0);
}

#[test]
fn the_function_mask_pends_all_and_delivers_all() {
    let mut msix = Msix::new(LAYOUT);
    let (a, b, c) = (
        connect(&mut msix, 0),
        connect(&mut msix, 63),
        connect(&mut msix, 64),
    );
    let handle = msix.handle();
    write_control(&mut msix, 63, 1);
    msix.set_control(MASK_ALL);
    for vector in [0, 63, 64] {
        handle.raise(vector);
    }
    assert_eq!(pending(&msix), [1 | (1 << 63), 1]);
    msix.set_control(UNMASK_ALL);
    assert_eq!((signals(&a), signals(&b), signals(&c)), (1, 0, 1));
    assert_eq!(pending(&msix), [1 << 63, 0], "its own mask bit still holds");
    msix.set_masked(63, false).unwrap();
    assert_eq!(signals(&b), 1);
}

#[test]
fn disabling_all_vectors_to_enable_more_loses_nothing() {
    let mut msix = Msix::new(LAYOUT);
    let first = connect(&mut msix, 0);
    let handle = msix.handle();
    msix.clear_eventfds();
    handle.raise(0);
    handle.raise(1);
    msix.set_eventfd(0, Some(first.try_clone().unwrap()))
        .unwrap();
    let second = connect(&mut msix, 1);
    assert_eq!((signals(&first), signals(&second)), (1, 1));
}

#[test]
fn a_vector_that_does_not_exist_is_counted() {
    let mut msix = Msix::new(LAYOUT);
    let handle = msix.handle();
    for vector in [70, 127, 2048, u32::MAX] {
        handle.raise(vector);
        assert_eq!(msix.set_eventfd(vector, None), Err(MsixError::NoSuchVector));
        assert_eq!(msix.set_masked(vector, true), Err(MsixError::NoSuchVector));
    }
    assert_eq!(handle.counters().no_such_vector, 4);
    assert_eq!(pending(&msix), [0, 0]);
}

// eventfds

#[test]
fn only_an_eventfd_is_accepted() {
    let mut msix = Msix::new(LAYOUT);
    let fd = connect(&mut msix, 0);
    let (pipe, _write_end) = rustix::pipe::pipe().unwrap();
    assert_eq!(msix.set_eventfd(0, Some(pipe)), Err(MsixError::NotEventfd));
    msix.handle().raise(0);
    assert_eq!(signals(&fd), 1, "the old one stays");
}

#[test]
fn a_full_eventfd_never_stops_the_engine() {
    for made in [EventfdFlags::empty(), EventfdFlags::NONBLOCK] {
        let theirs = eventfd(0, made | EventfdFlags::CLOEXEC).unwrap();
        let mut msix = Msix::new(LAYOUT);
        msix.set_eventfd(0, Some(theirs.try_clone().unwrap()))
            .unwrap();
        // The client can do this at any time, whatever the flag was when we got the eventfd.
        rustix::fs::fcntl_setfl(&theirs, rustix::fs::OFlags::RDWR).unwrap();
        rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let (engine, (done, returned)) = (msix.handle(), std::sync::mpsc::channel());
        thread::spawn(move || {
            (0..100).for_each(|_| engine.raise(0));
            done.send(()).unwrap();
        });
        let hang = std::time::Duration::from_secs(10);
        returned
            .recv_timeout(hang)
            .expect("a client has stopped us");
        let counters = msix.counters();
        assert_eq!(counters.delivered + counters.failed, 100);
    }
}

#[test]
fn every_interrupt_is_counted_by_the_eventfd() {
    let mut msix = Msix::new(LAYOUT);
    let ours = connect(&mut msix, 3);
    (0..1000).for_each(|_| msix.handle().raise(3));
    assert_eq!((signals(&ours), msix.counters().delivered), (1000, 1000));
}

#[test]
fn detaching_closes_every_eventfd() {
    let mut msix = Msix::new(LAYOUT);
    let (one, two) = (connect(&mut msix, 5), connect(&mut msix, 6));
    assert_eq!((copies(&one), copies(&two)), (2, 2));
    msix.detach();
    assert_eq!((copies(&one), copies(&two)), (1, 1));
}

/// How many descriptors of this process are this eventfd.
#[track_caller]
fn copies(eventfd: &OwnedFd) -> usize {
    let id = |path: &std::path::Path| {
        let info = std::fs::read_to_string(path).ok()?;
        info.lines()
            .find(|line| line.starts_with("eventfd-id:"))
            .map(str::to_owned)
    };
    let wanted = id(format!("/proc/self/fdinfo/{}", eventfd.as_raw_fd()).as_ref());
    assert!(wanted.is_some(), "the kernel numbers eventfds");
    let all = std::fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .filter_map(Result::ok);
    all.filter(|entry| id(&entry.path()) == wanted).count()
}

// reset and saving

#[test]
fn reset_clears_the_table_but_not_the_wiring() {
    let mut msix = Msix::new(LAYOUT);
    let fd = connect(&mut msix, 2);
    let handle = msix.handle();
    write_control(&mut msix, 2, 1);
    msix.set_control(MASK_ALL);
    handle.raise(2);
    msix.reset();
    assert_eq!(pending(&msix), [0, 0]);
    assert_eq!(msix.save(), Msix::new(LAYOUT).save());
    handle.raise(2);
    assert_eq!(signals(&fd), 1);
}

#[test]
fn contents_move_to_another_process() {
    let mut msix = Msix::new(LAYOUT);
    write_control(&mut msix, 7, 1);
    msix.write(TABLE + 16 * 7, &0xfee0_0000u64.to_le_bytes());
    msix.handle().raise(7);
    msix.handle().raise(8);
    let state = msix.save();

    let mut other = Msix::new(LAYOUT);
    let (masked, unmasked) = (connect(&mut other, 7), connect(&mut other, 8));
    other.restore(&state).unwrap();
    assert_eq!(
        (signals(&masked), signals(&unmasked)),
        (0, 1),
        "what pended is delivered"
    );
    other.set_masked(7, false).unwrap();
    assert_eq!(signals(&masked), 1);

    let mut wrong = state.clone();
    wrong.pending.push(0);
    assert_eq!(other.restore(&wrong), Err(MsixError::Incompatible));
    wrong = state.clone();
    wrong.version += 1;
    assert_eq!(other.restore(&wrong), Err(MsixError::Incompatible));
    wrong = state;
    wrong.pending[1] = u64::MAX;
    other.restore(&wrong).unwrap();
    assert_eq!(
        pending(&other)[1],
        0x3f,
        "no pending bits beyond the last vector"
    );
}

// threads

#[test]
fn no_interrupt_is_lost_while_masks_and_eventfds_change() {
    const ROUNDS: u64 = 20_000;
    let mut msix = Msix::new(LAYOUT);
    let handle = msix.handle();
    let done = AtomicBool::new(false);
    let (one, two) = (eventfd_pair(), eventfd_pair());
    thread::scope(|scope| {
        let engine = scope.spawn(|| {
            for _ in 0..ROUNDS {
                handle.raise(0);
            }
            done.store(true, Ordering::Release);
        });
        let mut round = 0u32;
        while !done.load(Ordering::Acquire) {
            let (masked, which) = (round % 3 == 0, if round % 2 == 0 { &one.1 } else { &two.1 });
            match round % 5 {
                0 => msix.clear_eventfds(),
                1 => msix.set_control(if masked { MASK_ALL } else { UNMASK_ALL }),
                2 => write_control(&mut msix, 0, masked.into()),
                _ => msix
                    .set_eventfd(0, Some(which.try_clone().unwrap()))
                    .unwrap(),
            }
            round += 1;
        }
        engine.join().unwrap();
    });
    msix.set_control(UNMASK_ALL);
    write_control(&mut msix, 0, 0);
    msix.set_eventfd(0, Some(one.1.try_clone().unwrap()))
        .unwrap();
    let counters = msix.counters();
    assert_eq!(signals(&one.0) + signals(&two.0), counters.delivered);
    assert_eq!(pending(&msix), [0, 0]);
    assert_eq!(counters.failed, 0);
}

/// Each interrupt is raised only after the client saw the one before: a lost one stops the test.
#[test]
fn ping_pong_with_a_client_that_masks_like_an_old_kernel() {
    const ROUNDS: u32 = 5_000;
    let mut msix = Msix::new(LAYOUT);
    let handle = msix.handle();
    let fd = connect(&mut msix, 0);
    let (go, start) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            while start.recv().is_ok() {
                handle.raise(0)
            }
        });
        for _ in 0..ROUNDS {
            write_control(&mut msix, 0, 1);
            go.send(()).unwrap();
            write_control(&mut msix, 0, 0);
            let mut fds = [rustix::event::PollFd::new(
                &fd,
                rustix::event::PollFlags::IN,
            )];
            let limit = rustix::time::Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            assert_eq!(
                rustix::event::poll(&mut fds, Some(&limit)),
                Ok(1),
                "interrupt lost"
            );
            assert_eq!(signals(&fd), 1);
        }
        drop(go);
    });
}
