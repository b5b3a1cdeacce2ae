//! Each command: what succeeds, what fails with which errno, and the layout of
//! the replies.

use std::os::fd::{AsFd, OwnedFd};

use crate::common::command::*;
use crate::common::*;
use vrnic_vfio_user::{DmaUnmap, Errno};

// --- VERSION

#[test]
fn version_agrees_on_the_lower_minor_and_values() {
    for (proposed, agreed) in [(0_u16, 0_u16), (1, 1), (9, 1)] {
        let harness = Harness::start(1);
        let mut client = Client::connect(harness.path());
        client.send(&version(proposed, CAPABILITIES));
        let reply = client.receive();
        assert_eq!(reply.flags, REPLY);
        assert_eq!(reply.body[..4], body!(0_u16, agreed));
        let json = std::str::from_utf8(&reply.body[4..]).unwrap();
        assert!(json.contains(r#""max_msg_fds":16"#), "{json}");
        assert!(json.ends_with("}}\0"), "{json}");
        let Event::Attached(_, caps) = harness.socket().event() else {
            panic!("not attached");
        };
        assert_eq!((caps.minor, caps.write_multiple), (agreed, true));
    }
}

#[test]
fn version_fails_with_an_error_and_the_end() {
    let harness = Harness::start(1);
    let wrong_major = message(5, VERSION, 0, 0, &body!(1_u16, 0_u16));
    for request in [wrong_major, version(1, "{"), message(5, VERSION, 0, 0, &[])] {
        let mut client = Client::connect(harness.path());
        client.send(&request);
        let reply = client.receive();
        assert_eq!((reply.flags, reply.errno), (REPLY | ERROR, 22));
        client.is_closed();
    }
    harness.client().is_served();
}

#[test]
fn version_comes_first_and_once() {
    let harness = Harness::start(1);
    for flags in [0, NO_REPLY, REPLY, REPLY | ERROR] {
        let mut client = Client::connect(harness.path());
        client.send(&message(1, GET_INFO, flags, 0, &[0; 16]));
        client.is_closed();
    }
    let mut client = harness.client();
    assert_eq!(client.fails(VERSION, &body!(0_u16, 1_u16)), Errno::INVAL);
    client.is_served();
}

// --- DEVICE_GET_INFO, GET_IRQ_INFO

#[test]
fn info_of_the_device_and_its_interrupts() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    for argsz in [16_u32, 4096] {
        let reply = client.ok(GET_INFO, &body!(argsz, 0_u32, 0_u32, 0_u32));
        assert_eq!(reply.body, body!(16_u32, 3_u32, NUM_REGIONS, NUM_IRQS));
        let reply = client.ok(GET_IRQ_INFO, &body!(argsz, 0_u32, MSIX, 0_u32));
        assert_eq!(reply.body, body!(16_u32, 9_u32, MSIX, VECTORS));
    }
    let fails = [
        (GET_INFO, body!(15_u32, 0_u32, 0_u32, 0_u32)),
        (GET_INFO, body!(16_u32, 0_u32, 0_u32)),
        (GET_IRQ_INFO, body!(15_u32, 0_u32, 0_u32, 0_u32)),
        (GET_IRQ_INFO, body!(16_u32, 0_u32, NUM_IRQS, 0_u32)),
        (GET_IRQ_INFO, body!(16_u32, 0_u32, u32::MAX, 0_u32)),
    ];
    for (command, body) in fails {
        assert_eq!(client.fails(command, &body), Errno::INVAL, "{body:?}");
    }
}

// --- DEVICE_GET_REGION_INFO

fn region_info(argsz: u32, index: u32) -> Vec<u8> {
    body!(argsz, 0_u32, index, 0_u32, 0_u64, 0_u64)
}

#[test]
fn region_info_has_the_areas_if_there_is_room() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let full = 32 + 16 + 2 * 16;
    for argsz in [32, 48, full - 1, full, 65536] {
        let reply = client.ok(GET_REGION_INFO, &region_info(argsz, SPARSE));
        assert_eq!(
            reply.body[..32],
            body!(full, 0xf_u32, SPARSE, 32_u32, REGION_SIZE, PAGE)
        );
        assert_eq!(reply.fds.len(), 1);
        assert!(same_file(&reply.fds[0], &harness.socket().file));
        let areas = body!(
            1_u16,
            1_u16,
            0_u32,
            2_u32,
            0_u32,
            0_u64,
            PAGE,
            3 * PAGE,
            2 * PAGE,
        );
        let expected = if argsz >= full { &areas[..] } else { &[] };
        assert_eq!(&reply.body[32..], expected, "argsz {argsz}");
    }
}

#[test]
fn region_info_of_other_regions() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    for (index, flags, size, offset, fds) in [
        (TRAPPED, 3_u32, REGION_SIZE, 0, 0),
        (WHOLE, 7, REGION_SIZE, PAGE, 1),
        (NUM_REGIONS - 1, 0, 0, 0, 0),
    ] {
        let reply = client.ok(GET_REGION_INFO, &region_info(32, index));
        assert_eq!(reply.body, body!(32_u32, flags, index, 0_u32, size, offset));
        assert_eq!(reply.fds.len(), fds);
    }
    for (argsz, index) in [(31, 0), (0, 0), (32, NUM_REGIONS), (32, u32::MAX)] {
        let body = region_info(argsz, index);
        assert_eq!(client.fails(GET_REGION_INFO, &body), Errno::INVAL);
    }
    assert_eq!(client.fails(GET_REGION_INFO, &[0; 31]), Errno::INVAL);
}

#[test]
fn a_client_that_takes_no_descriptors_is_offered_none() {
    let harness = Harness::start(1);
    let json = r#"{"capabilities":{"max_msg_fds":0}}"#;
    let mut client = Client::with_capabilities(harness.path(), 1, json);
    let reply = client.ok(GET_REGION_INFO, &region_info(32, SPARSE));
    assert_eq!((reply.fds.len(), reply.u32(4)), (0, 3));
}

// --- REGION_READ, REGION_WRITE, REGION_WRITE_MULTI

#[test]
fn accesses_of_all_sizes() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    for count in [0_u32, 1, 2, 3, 4, 8, 4096, 1 << 20] {
        let data: Vec<u8> = (0..count).map(|n| (n % 251) as u8 ^ 0x5a).collect();
        let mut body = body!(0x1003_u64, TRAPPED, count);
        body.extend_from_slice(&data);
        let reply = client.ok(REGION_WRITE, &body);
        assert_eq!(reply.body, body!(0x1003_u64, TRAPPED, count));
        assert_eq!(client.read(TRAPPED, 0x1003, count), data);
    }
}

#[test]
fn accesses_that_fail() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let end = REGION_SIZE;
    for (region, offset, count, errno) in [
        (TRAPPED, end, 1_u32, Errno::INVAL),
        (TRAPPED, end - 3, 4, Errno::INVAL),
        (TRAPPED, u64::MAX, 4, Errno::INVAL),
        (TRAPPED, u64::MAX - 3, 4, Errno::INVAL),
        (TRAPPED, 0, (1 << 20) + 1, Errno::INVAL),
        (TRAPPED, 0, u32::MAX, Errno::INVAL),
        (NUM_REGIONS - 1, 0, 1, Errno::INVAL),
        (NUM_REGIONS, 0, 1, Errno::INVAL),
        (u32::MAX, 0, 1, Errno::INVAL),
        (WRITE_ONLY, 0, 1, Errno::INVAL),
        (TRAPPED, BAD_OFFSET, 4, Errno::IO),
    ] {
        let body = body!(offset, region, count);
        assert_eq!(client.fails(REGION_READ, &body), errno, "{body:?}");
    }
    for (region, offset, count, data, errno) in [
        (TRAPPED, end, 1_u32, 1, Errno::INVAL),
        (TRAPPED, 0, 5, 4, Errno::INVAL),
        (TRAPPED, 0, u32::MAX, 4, Errno::INVAL),
        (READ_ONLY, 0, 4, 4, Errno::INVAL),
        (TRAPPED, BAD_OFFSET, 4, 4, Errno::IO),
    ] {
        let mut body = body!(offset, region, count);
        body.resize(16 + data, 0xcc);
        assert_eq!(client.fails(REGION_WRITE, &body), errno, "{body:?}");
    }
    assert!(harness.socket().state().writes.is_empty());
    client.is_served();
}

fn small_write(offset: u64, region: u32, count: u32) -> Vec<u8> {
    let mut body = body!(offset, region, count);
    body.extend_from_slice(&[0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7]);
    body
}

#[test]
fn several_writes_in_one_message() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let mut body = body!(3_u64);
    body.extend(small_write(0x20, TRAPPED, 8));
    body.extend(small_write(0x30, WRITE_ONLY, 1));
    body.extend(small_write(0x40, TRAPPED, 3));
    assert_eq!(client.ok(WRITE_MULTI, &body).body, body!(3_u64));
    let writes = std::mem::take(&mut harness.socket().state().writes);
    assert_eq!(
        writes,
        [
            (TRAPPED, 0x20, (0xc0..0xc8).collect()),
            (WRITE_ONLY, 0x30, vec![0xc0]),
            (TRAPPED, 0x40, vec![0xc0, 0xc1, 0xc2]),
        ]
    );
}

#[test]
fn several_writes_of_which_one_fails() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    for bad in [
        small_write(0, TRAPPED, 9),
        small_write(BAD_OFFSET, TRAPPED, 1),
        small_write(0, READ_ONLY, 1),
    ] {
        let mut body = body!(3_u64);
        body.extend(small_write(0x20, TRAPPED, 8));
        body.extend(&bad);
        body.extend(small_write(0x40, TRAPPED, 8));
        assert_eq!(client.ok(WRITE_MULTI, &body).body, body!(1_u64));
        let mut body = body!(1_u64);
        body.extend(&bad);
        client.fails(WRITE_MULTI, &body);
    }
    assert_eq!(harness.socket().state().writes.len(), 3);
    let mut short = body!(2_u64);
    short.extend(small_write(0x20, TRAPPED, 8));
    assert_eq!(client.fails(WRITE_MULTI, &short), Errno::INVAL);
    assert_eq!(client.fails(WRITE_MULTI, &body!(u64::MAX)), Errno::INVAL);
    assert_eq!(client.ok(WRITE_MULTI, &body!(0_u64)).body, body!(0_u64));
}

#[test]
fn several_writes_without_having_agreed_on_them() {
    let harness = Harness::start(1);
    let json = r#"{"capabilities":{"write_multiple":false}}"#;
    let mut client = Client::with_capabilities(harness.path(), 1, json);
    assert_eq!(client.fails(WRITE_MULTI, &body!(0_u64)), Errno::NOTSUP);
}

#[test]
fn without_reply_neither_success_nor_failure_is_answered() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let mut body = body!(0x20_u64, TRAPPED, 1_u32);
    body.push(0x77);
    client.send(&message(7, REGION_WRITE, NO_REPLY, 0, &body));
    client.send(&message(7, REGION_WRITE, NO_REPLY, 0, &body[..8]));
    client.send(&message(7, 999, NO_REPLY, 0, &[]));
    client.send(&message(7, RESET, NO_REPLY, 0, &[]));
    client.send(&message(
        7,
        REGION_READ,
        NO_REPLY,
        0,
        &body!(0_u64, 0_u32, 4_u32),
    ));
    let unmap = body!(24_u32, 0_u32, 0_u64, PAGE);
    client.send(&message(7, DMA_UNMAP, NO_REPLY, 0, &unmap));
    // Requests are done in order: this is the first reply, and sees the write.
    assert_eq!(client.read(TRAPPED, 0x20, 1), [0x77]);
}

// --- DMA_MAP, DMA_UNMAP

fn map(flags: u32, offset: u64, iova: u64, size: u64) -> Vec<u8> {
    body!(32_u32, flags, offset, iova, size)
}

fn unmap(flags: u32, iova: u64, size: u64) -> Vec<u8> {
    body!(24_u32, flags, iova, size)
}

#[test]
fn mappings_come_with_and_without_memory() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    let memory = memfd(8 * PAGE);
    let reply = client.ok_with(DMA_MAP, &map(3, PAGE, 0, 4 * PAGE), &[memory.as_fd()]);
    assert!(reply.body.is_empty());
    client.ok(DMA_MAP, &map(1, 0, u64::MAX - PAGE + 1, PAGE));
    let state = harness.socket().state();
    assert!(same_file(state.maps[&0].1.as_ref().unwrap(), &memory));
    assert!(state.maps[&(u64::MAX - PAGE + 1)].1.is_none());
}

#[test]
fn mappings_that_fail() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    let memory = memfd(8 * PAGE);
    client.map(0x10000, 4 * PAGE);
    for (body, errno) in [
        (map(3, 0, 0x10000, PAGE), Errno::EXIST),
        (map(3, 0, 0xf000, 8 * PAGE), Errno::EXIST),
        (map(3, 0, 0, 0), Errno::INVAL),
        (map(0, 0, 0, PAGE), Errno::INVAL),
        (map(4, 0, 0, PAGE), Errno::INVAL),
        (map(3, 0, 0, PAGE + 1), Errno::INVAL),
        (map(3, 0, 0x800, PAGE), Errno::INVAL),
        (map(3, 0, u64::MAX - PAGE + 1, 2 * PAGE), Errno::INVAL),
        (map(3, 0x800, 0, PAGE), Errno::INVAL),
        (map(3, u64::MAX - PAGE + 1, 0, PAGE), Errno::INVAL),
        (
            map(3, i64::MAX as u64 - PAGE + 1, 0, 2 * PAGE),
            Errno::INVAL,
        ),
        (map(3, 0, 0, PAGE)[..31].to_vec(), Errno::INVAL),
        (body!(31_u32, 3_u32, 0_u64, 0_u64, PAGE), Errno::INVAL),
    ] {
        let reply = client.call(DMA_MAP, &body, &[memory.as_fd()]);
        assert_eq!(reply.flags, REPLY | ERROR, "{body:?}");
        assert_eq!(reply.errno as i32, errno.raw_os_error(), "{body:?}");
    }
    assert_eq!(harness.socket().state().maps.len(), 1);
    client.is_served();
}

#[test]
fn unmaps_of_several_one_or_no_mappings_succeed() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    for page in [0, 1, 2, 8, 9] {
        client.map(page * PAGE, PAGE);
    }
    for (iova, size, left) in [
        (16 * PAGE, PAGE, 5),
        (0, PAGE, 4),
        (0, 9 * PAGE, 1),
        (0, 1 << 40, 0),
        (0, u64::MAX, 0),
        (1 << 63, 1 << 63, 0),
    ] {
        let body = unmap(0, iova, size);
        assert_eq!(client.ok(DMA_UNMAP, &body).body, body);
        let Event::Unmap(seen, None) = harness.socket().event() else {
            panic!("no unmap");
        };
        assert_eq!(seen, DmaUnmap::Range { iova, size });
        assert_eq!(harness.socket().state().maps.len(), left, "{iova:#x}");
    }
}

#[test]
fn unmap_all_needs_no_range() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    client.map(0, PAGE);
    client.map(8 * PAGE, PAGE);
    assert_eq!(client.fails(DMA_UNMAP, &unmap(2, 0, PAGE)), Errno::INVAL);
    client.ok(DMA_UNMAP, &unmap(2, 0, 0));
    assert!(matches!(
        harness.socket().event(),
        Event::Unmap(DmaUnmap::All, None)
    ));
    client.map(0, 16 * PAGE);
}

#[test]
fn unmaps_that_fail_change_nothing() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    client.map(4 * PAGE, 4 * PAGE);
    for (body, errno) in [
        (unmap(0, 4 * PAGE, PAGE), Errno::INVAL),
        (unmap(0, 0, 5 * PAGE), Errno::INVAL),
        (unmap(0, 0, 0), Errno::INVAL),
        (unmap(0, u64::MAX, 2), Errno::INVAL),
        (unmap(1, 4 * PAGE, 4 * PAGE), Errno::NOTSUP),
        (unmap(4, 4 * PAGE, 4 * PAGE), Errno::INVAL),
        (body!(23_u32, 0_u32, 4 * PAGE, 4 * PAGE), Errno::INVAL),
        (unmap(0, 4 * PAGE, 4 * PAGE)[..23].to_vec(), Errno::INVAL),
    ] {
        assert_eq!(client.fails(DMA_UNMAP, &body), errno, "{body:?}");
    }
    assert_eq!(harness.socket().state().maps.len(), 1);
}

#[test]
fn there_are_no_more_mappings_than_agreed() {
    let harness = Harness::start(1);
    let json = r#"{"capabilities":{"max_dma_maps":2}}"#;
    let mut client = Client::with_capabilities(harness.path(), 1, json);
    client.map(0, PAGE);
    client.map(PAGE, PAGE);
    assert_eq!(
        client.fails(DMA_MAP, &map(3, 0, 2 * PAGE, PAGE)),
        Errno::NOSPC
    );
    client.ok(DMA_UNMAP, &unmap(0, 0, PAGE));
    client.map(2 * PAGE, PAGE);
}

// --- DEVICE_SET_IRQS

fn set_irqs(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    body!(20_u32, flags, index, start, count)
}

const NONE: u32 = 1;
const BOOL: u32 = 2;
const EVENTFD: u32 = 4;
const MASK: u32 = 8;
const UNMASK: u32 = 16;
const TRIGGER: u32 = 32;

#[test]
fn interrupts_of_every_data_type_and_action() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    harness.socket().attached();
    let fds: Vec<OwnedFd> = (0..16).map(|_| eventfd()).collect();
    let fds = borrow(&fds);
    for (action, name) in [(MASK, "Mask"), (UNMASK, "Unmask"), (TRIGGER, "Trigger")] {
        client.ok(SET_IRQS, &set_irqs(NONE | action, MSIX, 3, 2));
        assert_eq!(harness.socket().irqs(), format!("{name} 2[3+2] none"));

        let mut body = body!(23_u32, BOOL | action, MSIX, 61_u32, 3_u32);
        body.extend_from_slice(&[1, 0, 0xff]);
        client.ok(SET_IRQS, &body);
        assert_eq!(
            harness.socket().irqs(),
            format!("{name} 2[61+3] [true, false, true]")
        );

        let body = set_irqs(EVENTFD | action, MSIX, 48, 16);
        assert!(client.ok_with(SET_IRQS, &body, &fds).body.is_empty());
        assert_eq!(
            harness.socket().irqs(),
            format!("{name} 2[48+16] 16 eventfds")
        );

        client.ok(SET_IRQS, &set_irqs(EVENTFD | action, MSIX, 0, 64));
        assert_eq!(harness.socket().irqs(), format!("{name} 2[0+64] deassign"));

        client.ok(SET_IRQS, &set_irqs(NONE | action, MSIX, 0, 0));
        assert_eq!(harness.socket().irqs(), format!("{name} 2[0+0] none"));
    }
}

#[test]
fn interrupts_that_fail() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    for body in [
        set_irqs(NONE | TRIGGER, NUM_IRQS, 0, 1),
        set_irqs(NONE | TRIGGER, u32::MAX, 0, 1),
        set_irqs(NONE | TRIGGER, MSIX, 64, 1),
        set_irqs(NONE | TRIGGER, MSIX, 63, 2),
        set_irqs(NONE | TRIGGER, MSIX, u32::MAX, 2),
        set_irqs(NONE | TRIGGER, MSIX, 64, 0),
        set_irqs(NONE | TRIGGER, 1, 0, 0),
        set_irqs(TRIGGER, MSIX, 0, 1),
        set_irqs(NONE, MSIX, 0, 1),
        set_irqs(NONE | BOOL | TRIGGER, MSIX, 0, 1),
        set_irqs(NONE | MASK | TRIGGER, MSIX, 0, 1),
        set_irqs(NONE | TRIGGER | 64, MSIX, 0, 1),
        set_irqs(BOOL | TRIGGER, MSIX, 0, 1),
        set_irqs(BOOL | TRIGGER, MSIX, 0, 0),
        set_irqs(BOOL | TRIGGER, MSIX, 0, u32::MAX),
        body!(24_u32, BOOL | TRIGGER, MSIX, 0_u32, 4_u32, 0_u8, 0_u8, 0_u8),
        body!(22_u32, BOOL | TRIGGER, MSIX, 0_u32, 3_u32, 0_u8, 0_u8, 0_u8),
        set_irqs(EVENTFD | TRIGGER, MSIX, 0, 0),
        body!(19_u32, NONE | TRIGGER, MSIX, 0_u32, 1_u32),
        set_irqs(NONE | TRIGGER, MSIX, 0, 1)[..19].to_vec(),
    ] {
        assert_eq!(client.fails(SET_IRQS, &body), Errno::INVAL, "{body:?}");
    }
    client.is_served();
}

// --- the others

#[test]
fn what_is_not_implemented_says_so() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    for (command, body, errno) in [
        (
            GET_REGION_IO_FDS,
            body!(16_u32, 0_u32, 0_u32, 0_u32),
            Errno::NOTSUP,
        ),
        (
            GET_REGION_IO_FDS,
            body!(16_u32, 0_u32, 9_u32, 0_u32),
            Errno::INVAL,
        ),
        (
            GET_REGION_IO_FDS,
            body!(15_u32, 0_u32, 0_u32, 0_u32),
            Errno::INVAL,
        ),
        (DIRTY_PAGES, vec![0; 24], Errno::NOTSUP),
        (FEATURE, vec![0; 8], Errno::NOTSUP),
        (17, vec![0; 8], Errno::NOTSUP),
        (18, vec![0; 8], Errno::NOTSUP),
        (DMA_READ, vec![0; 16], Errno::INVAL),
        (DMA_WRITE, vec![0; 16], Errno::INVAL),
        (0, vec![], Errno::NOSYS),
        (19, vec![1, 2, 3], Errno::NOSYS),
        (u16::MAX, vec![0; 100], Errno::NOSYS),
    ] {
        assert_eq!(client.fails(command, &body), errno, "command {command}");
    }
    client.is_served();
}

#[test]
fn reset_has_no_body() {
    let harness = Harness::start(1);
    let mut client = harness.client();
    assert!(client.ok(RESET, &[]).body.is_empty());
}
