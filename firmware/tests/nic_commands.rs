//! Registers, the admin queue, and every command with good and bad arguments.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use core::mem::offset_of;

use bytemuck::{Pod, bytes_of};
use nic_bench::*;
use vrnic_abi::admin::{
    AdminOpcode, Buffer, CreateCq, CreateEq, CreateMr, CreateQp, ModifyCq, ModifyPort, ModifyQp,
    ObjectOutput, ObjectReference, OutputBuffer, ResizeCq, SetGid, Status,
};
use vrnic_abi::counter::Counter;
use vrnic_abi::doorbell;
use vrnic_abi::object::{
    CqAttributes, DeviceAttributes, GidEntry, MrAttributes, PortAttributes, QpAttributes, QpMask,
    QpState,
};
use vrnic_abi::registers as reg;

/// Refused argument: offset in the body.
fn at(offset: usize) -> u32 {
    offset as u32 + 8
}

/// Refused attribute of a queue pair.
fn attribute(offset: usize) -> u32 {
    offset as u32 + 0x100
}

#[track_caller]
fn refused<T: Pod>(
    node: &mut Node,
    bench: &mut Bench,
    opcode: AdminOpcode,
    body: &T,
    (status, syndrome): (Status, u32),
) {
    let completion = node.driver.command(bench, opcode, body);
    let got = (Status::from_raw(completion.status), completion.syndrome);
    assert_eq!(got, (Some(status), syndrome), "{opcode:?}");
    assert_eq!((completion.result0, completion.result1), (0, 0));
}

/// Numbers of objects and slots in use, which a refused command must not change.
fn usage(node: &Node, bench: &Bench) -> [u32; 8] {
    let function = bench.nic.function(node.driver.id).unwrap();
    let objects = &function.objects;
    [
        objects.pds.len(),
        objects.keys.regions() + objects.keys.windows(),
        objects.cqs.len(),
        objects.eqs.len(),
        function.qps.len(),
        objects.page_entries,
        objects.doorbells.in_use().len() as u32,
        (doorbell::FIRST_SLOT..doorbell::END_SLOT)
            .filter(|slot| objects.doorbells.owner(0, *slot).is_some())
            .count() as u32,
    ]
}

mod registers {
    use super::*;

    #[test]
    fn identity_is_published_before_anything_is_written() {
        let mut bench = Bench::default();
        let driver = Driver::add(&mut bench, 3);
        let hw = &driver.hw;
        assert_eq!(hw.register(&reg::MAGIC), reg::MAGIC_VALUE);
        assert_eq!(hw.register(&reg::INTERFACE_VERSION) >> 16, 1);
        assert_eq!(hw.register(&reg::CAPABILITIES) & 1, 1);
        assert_eq!(hw.register(&reg::FUNCTION), 0x1_0003);
        let limits = hw.register(&reg::LIMITS);
        assert_eq!(reg::limits::DOORBELL_PAGES.get(limits), doorbell::PAGES);
        assert_eq!(driver.state(), 0);
    }

    #[test]
    fn unacceptable_admin_queues_are_an_error_that_reset_clears() {
        let cases: [&[(vrnic_abi::Register, u32)]; 6] = [
            &[(reg::ADMIN_QUEUE, 0)],
            &[(reg::ADMIN_QUEUE, 11)],
            &[(reg::ADMIN_QUEUE, 4 | 64 << 4 | 1 << 16)],
            &[(reg::ADMIN_QUEUE, 4), (reg::ADMIN_SUBMISSION_BASE, 64)],
            &[(reg::ADMIN_QUEUE, 4), (reg::ADMIN_COMPLETION_BASE, 0x800)],
            &[
                (reg::ADMIN_QUEUE, 6),
                (reg::ADMIN_COMPLETION_BASE, 0xffff_f000),
                (reg::ADMIN_COMPLETION_BASE_HIGH, 0xffff_ffff),
            ],
        ];
        for (number, case) in (1u32..).zip(cases) {
            let mut bench = Bench::default();
            let mut driver = Driver::add(&mut bench, 1);
            for (register, value) in case {
                driver.write_register(&mut bench, register, *value);
            }
            driver.write_register(&mut bench, &reg::DEVICE_CONTROL, 1);
            assert_eq!(driver.state(), 2, "case {number}");
            let code = driver.hw.register(&reg::HEALTH_CODE);
            assert_eq!(code, u32::from(reg::HealthCode::BadAdminQueue.raw()));
            driver.write_register(&mut bench, &reg::RESET, 1);
            assert_eq!(driver.state(), 2);
            driver.write_register(&mut bench, &reg::RESET, reg::RESET_VALUE);
            assert_eq!(driver.state(), 0);
            assert_eq!(driver.hw.register(&reg::HEALTH_CODE), 0);
            driver.enable(&mut bench);
        }
    }

    #[test]
    fn rings_that_cannot_be_reached_are_fatal_for_the_function_only() {
        let mut bench = Bench::default();
        let mut driver = Driver::ready(&mut bench, 1);
        let other = Driver::ready(&mut bench, 2);
        *driver.hw.ram.hole.borrow_mut() = Some(BASE..BASE + 4096);
        let before = driver.hw.interrupts.borrow()[0];
        driver.write_register(&mut bench, &reg::ADMIN_DOORBELL, 5);
        bench.run();
        assert_eq!(driver.state(), 2);
        let code = driver.hw.register(&reg::HEALTH_CODE);
        assert_eq!(code, u32::from(reg::HealthCode::AdminDmaFailed.raw()));
        assert_eq!(driver.hw.register(&reg::HEALTH_ADDRESS_HIGH), 1);
        assert!(driver.hw.interrupts.borrow()[0] > before);
        assert_eq!(other.state(), 1);
        *driver.hw.ram.hole.borrow_mut() = None;
        driver.write_register(&mut bench, &reg::RESET, reg::RESET_VALUE);
        driver.enable(&mut bench);
        driver.ok(&mut bench, AdminOpcode::Nop, &0u64);
    }

    #[test]
    fn more_commands_than_the_ring_holds_are_fatal() {
        let mut bench = Bench::default();
        let driver = Driver::ready(&mut bench, 1);
        driver.write_register(&mut bench, &reg::ADMIN_DOORBELL, 1 + 17);
        assert_eq!(driver.state(), 2);
        let code = driver.hw.register(&reg::HEALTH_CODE);
        assert_eq!(code, u32::from(reg::HealthCode::AdminRingOverrun.raw()));
    }

    #[test]
    fn the_heart_beats_while_there_is_work() {
        let mut bench = Bench::default();
        let driver = Driver::ready(&mut bench, 1);
        let before = driver.hw.register(&reg::HEARTBEAT);
        for _ in 0..3 {
            bench.now.0 += 200_000_000;
            bench.step();
        }
        assert_eq!(driver.hw.register(&reg::HEARTBEAT), before + 3);
    }
}

mod rings {
    use super::*;

    #[test]
    fn completions_wait_for_room() {
        let mut bench = Bench::default();
        let mut driver = Driver::ready(&mut bench, 1);
        for _ in 0..16 {
            driver.put(0, &[]);
        }
        driver.announce(&mut bench);
        bench.run();
        // The ring is full of completions that nobody took; further commands stay where they are.
        for _ in 0..4 {
            driver.put(0, &[]);
        }
        driver.announce(&mut bench);
        bench.run();
        assert_eq!(driver.state(), 1);
        let mut taken = 0;
        for _ in 0..100 {
            while driver.take(&mut bench).is_some() {
                taken += 1;
            }
            bench.step();
        }
        assert_eq!(taken, 20);
        for _ in 0..200 {
            driver.ok(&mut bench, AdminOpcode::Nop, &0u64);
        }
    }

    #[test]
    fn a_waiting_completion_raises_the_vector_again() {
        let mut bench = Bench::default();
        let mut driver = Driver::ready(&mut bench, 1);
        driver.put(0, &[]);
        driver.put(0, &[]);
        driver.announce(&mut bench);
        bench.run();
        let before = driver.hw.interrupts.borrow()[0];
        driver.take(&mut bench).unwrap();
        assert_eq!(driver.hw.interrupts.borrow()[0], before + 1);
        driver.take(&mut bench).unwrap();
        assert_eq!(driver.hw.interrupts.borrow()[0], before + 1);
    }

    #[test]
    fn a_long_page_list_does_not_hold_up_others() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let pages = 0x20_0000 / 8 / 4;
        let list = node.driver.memory(u64::from(pages) * 8, true);
        for page in 0..u64::from(pages) {
            let address = BASE + (page % 7) * 4096;
            node.hw().write(list + page * 8, &address);
        }
        let body = CreateMr {
            pd: node.pd,
            length: u64::from(pages) * 4096,
            buffer: Buffer {
                address: list,
                pages,
                page_shift: 12,
                list: 1,
                reserved: 0,
            },
            ..CreateMr::default()
        };
        let slow = node
            .driver
            .put(AdminOpcode::CreateMr.raw(), bytes_of(&body));
        let fast = node.driver.put(AdminOpcode::Nop.raw(), &[]);
        node.driver.announce(&mut bench);
        let mut order = Vec::new();
        for _ in 0..pages {
            bench.step();
            order.extend(node.driver.take(&mut bench).map(|c| (c.id, c.result0)));
            if order.len() == 2 {
                break;
            }
        }
        assert_eq!(order[0].0, fast);
        assert_eq!(order[1].0, slow);
        assert_ne!(order[1].1, 0);
        let before = usage(&node, &bench);
        let key = order[1].1 as u32;
        node.driver.destroy(&mut bench, AdminOpcode::DestroyMr, key);
        assert_eq!(usage(&node, &bench)[5], before[5] - pages);
    }
}

mod queries {
    use super::*;

    #[test]
    fn tell_what_was_set() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let driver = &mut node.driver;
        let device: DeviceAttributes = output(driver, &mut bench, AdminOpcode::QueryDevice);
        assert_eq!(
            (device.max_qp, device.ports, device.vectors),
            (16384, 1, 64)
        );
        let port: PortAttributes = output(driver, &mut bench, AdminOpcode::QueryPort);
        assert_eq!((port.state, port.active_mtu, port.mac), (4, 5, mac(1).0));
        driver.ok(
            &mut bench,
            AdminOpcode::ModifyPort,
            &ModifyPort {
                mtu: 1500,
                reserved: 0,
            },
        );
        let port: PortAttributes = output(driver, &mut bench, AdminOpcode::QueryPort);
        assert_eq!((port.active_mtu, port.mtu), (3, 1500));
        let entry: GidEntry = driver.query(&mut bench, AdminOpcode::QueryGid, 0);
        assert_eq!((entry.gid, entry.gid_type), (gid(1).0, 1));
        assert_eq!(entry.mac, mac(1).0);
        let region: MrAttributes = driver.query(&mut bench, AdminOpcode::QueryMr, node.key);
        assert_eq!(
            (region.key, region.length, region.access),
            (node.key, BUFFER, 0xf)
        );
        let cq: CqAttributes = driver.query(&mut bench, AdminOpcode::QueryCq, node.cq.number);
        assert_eq!((cq.eq, cq.entries, cq.failed), (node.eq.number, 256, 0));
    }

    fn output<T: Pod>(driver: &mut Driver, bench: &mut Bench, opcode: AdminOpcode) -> T {
        let address = driver.memory(size_of::<T>() as u64, false);
        let body = OutputBuffer {
            address,
            length: size_of::<T>() as u32,
            reserved: 0,
        };
        driver.ok(bench, opcode, &body);
        driver.hw.read(address)
    }

    #[test]
    fn counters_are_written_as_far_as_there_is_room() {
        let mut bench = Bench::default();
        let mut driver = Driver::ready(&mut bench, 1);
        let address = driver.memory(4096, false);
        for (length, count) in [(8, 1), (23, 2), (4096, Counter::ALL.len() as u64)] {
            let body = OutputBuffer {
                address,
                length,
                reserved: 0,
            };
            assert_eq!(
                driver.ok(&mut bench, AdminOpcode::QueryCounters, &body),
                count
            );
        }
        assert_eq!(
            driver.hw.bytes(address + Counter::ALL.len() as u64 * 8, 1),
            [PATTERN]
        );
    }

    #[test]
    fn a_queue_pair_tells_its_attributes() {
        let mut bench = Bench::default();
        let (mut a, b) = pair(&mut bench);
        let qp: QpAttributes = a
            .driver
            .query(&mut bench, AdminOpcode::QueryQp, a.qp.number);
        assert_eq!(qp.state, QpState::Rts.raw());
        assert_eq!((qp.path_mtu, qp.remote_qpn), (3, b.qp.number));
        assert_eq!((qp.send_psn, qp.receive_psn), (0xff_fff0, 0xff_fff0));
        assert_eq!((qp.timeout, qp.retry_count, qp.rnr_retry), (10, 7, 7));
        assert_eq!(qp.primary.gid, gid(2).0);
        assert_eq!(qp.access, 0xe);
    }
}

mod bad_arguments {
    use super::*;
    use AdminOpcode as Op;
    use Status::{BadArgument, Busy, NoSuchObject, Unsupported};

    /// Bench and node, and the usage that must not change.
    fn start() -> (Bench, Node, [u32; 8]) {
        let mut bench = Bench::default();
        let node = Node::new(&mut bench, 1);
        let usage = usage(&node, &bench);
        (bench, node, usage)
    }

    #[test]
    fn unknown_and_reserved_opcodes() {
        let (mut bench, mut node, _) = start();
        for opcode in 0..0x200u16 {
            let known = AdminOpcode::from_raw(opcode);
            let wanted = match known {
                None => Status::BadOpcode,
                Some(Op::SetVfQuota) => Unsupported,
                Some(_) => continue,
            };
            let completion = node.driver.raw(&mut bench, opcode, &[]);
            assert_eq!(
                Status::from_raw(completion.status),
                Some(wanted),
                "{opcode:#x}"
            );
        }
    }

    #[test]
    fn objects_that_do_not_exist() {
        let (mut bench, mut node, before) = start();
        let object = at(offset_of!(ObjectReference, object));
        for opcode in [
            Op::FreeDoorbellPage,
            Op::FreePd,
            Op::DestroyMr,
            Op::DestroyEq,
            Op::SetAsyncEq,
            Op::DestroyCq,
            Op::DestroySrq,
            Op::FreeXrcd,
            Op::DestroyQp,
        ] {
            for number in [77, u32::MAX] {
                let body = ObjectReference {
                    object: number,
                    reserved: 0,
                };
                refused(&mut node, &mut bench, opcode, &body, (NoSuchObject, object));
            }
        }
        // A key with another variant is another key.
        let body = ObjectReference {
            object: node.key ^ 1,
            reserved: 0,
        };
        refused(
            &mut node,
            &mut bench,
            Op::DestroyMr,
            &body,
            (NoSuchObject, object),
        );
        let body = ObjectReference::default();
        refused(
            &mut node,
            &mut bench,
            Op::FreeDoorbellPage,
            &body,
            (NoSuchObject, object),
        );
        for opcode in [Op::QueryMr, Op::QueryCq, Op::QueryQp] {
            let body = ObjectOutput {
                object: 0x7777,
                ..ObjectOutput::default()
            };
            refused(&mut node, &mut bench, opcode, &body, (NoSuchObject, at(0)));
        }
        assert_eq!(usage(&node, &bench), before);
    }

    #[test]
    fn objects_in_use() {
        let (mut bench, mut node, before) = start();
        for (opcode, object) in [
            (Op::FreePd, node.pd),
            (Op::DestroyEq, node.eq.number),
            (Op::DestroyCq, node.cq.number),
        ] {
            let body = ObjectReference {
                object,
                reserved: 0,
            };
            refused(&mut node, &mut bench, opcode, &body, (Busy, at(0)));
        }
        assert_eq!(usage(&node, &bench), before);
    }

    #[test]
    fn output_buffers() {
        let (mut bench, mut node, _) = start();
        let good = node.driver.memory(4096, false);
        let cases = [
            (good + 4, 4096, BadArgument, 0),
            (good, 0, Status::BufferTooSmall, 8),
            (good, 7, Status::BufferTooSmall, 8),
            (0x1000, 4096, Status::DmaFailed, 0),
            (u64::MAX - 7, 4096, Status::DmaFailed, 0),
        ];
        for (address, length, status, offset) in cases {
            let output = OutputBuffer {
                address,
                length,
                reserved: 0,
            };
            for opcode in [Op::QueryDevice, Op::QueryPort, Op::QueryCounters] {
                refused(&mut node, &mut bench, opcode, &output, (status, at(offset)));
            }
            for (opcode, object) in [
                (Op::QueryGid, 0),
                (Op::QueryMr, node.key),
                (Op::QueryCq, node.cq.number),
                (Op::QueryQp, node.qp.number),
            ] {
                let body = ObjectOutput {
                    object,
                    reserved: 0,
                    output,
                };
                let syndrome = at(offset_of!(ObjectOutput, output) + offset);
                refused(&mut node, &mut bench, opcode, &body, (status, syndrome));
            }
        }
        let body = ObjectOutput {
            object: 256,
            ..ObjectOutput::default()
        };
        refused(
            &mut node,
            &mut bench,
            Op::QueryGid,
            &body,
            (BadArgument, at(0)),
        );
    }

    #[test]
    fn port_and_gids() {
        let (mut bench, mut node, _) = start();
        for mtu in [0, 575, 9001, u32::MAX] {
            let body = ModifyPort { mtu, reserved: 0 };
            refused(
                &mut node,
                &mut bench,
                Op::ModifyPort,
                &body,
                (BadArgument, at(0)),
            );
        }
        let good = SetGid {
            index: 1,
            gid_type: 1,
            gid: gid(33).0,
            ..SetGid::default()
        };
        type Change = fn(&mut SetGid);
        let cases: [(Change, usize); 9] = [
            (|g| g.index = 256, offset_of!(SetGid, index)),
            (|g| g.index = u32::MAX, offset_of!(SetGid, index)),
            (|g| g.gid_type = 2, offset_of!(SetGid, gid_type)),
            (|g| g.vlan = 4095, offset_of!(SetGid, vlan)),
            (|g| g.gid = [0; 16], offset_of!(SetGid, gid)),
            (|g| g.gid[0] = 0xff, offset_of!(SetGid, gid)),
            (|g| g.gid[12] = 224, offset_of!(SetGid, gid)),
            (|g| g.gid[12] = 0, offset_of!(SetGid, gid)),
            (|g| g.mac[0] = 1, offset_of!(SetGid, mac)),
        ];
        for (change, offset) in cases {
            let mut body = good;
            change(&mut body);
            refused(
                &mut node,
                &mut bench,
                Op::SetGid,
                &body,
                (BadArgument, at(offset)),
            );
        }
        let taken = SetGid {
            gid: gid(1).0,
            ..good
        };
        let syndrome = at(offset_of!(SetGid, gid));
        refused(&mut node, &mut bench, Op::SetGid, &taken, (Busy, syndrome));
        let other = Driver::ready(&mut bench, 2);
        let taken = SetGid {
            gid: gid(other.n).0,
            ..good
        };
        refused(&mut node, &mut bench, Op::SetGid, &taken, (Busy, syndrome));
        let entry: GidEntry = node.driver.query(&mut bench, Op::QueryGid, 1);
        assert_eq!(entry, GidEntry::default());
        node.driver.ok(&mut bench, Op::SetGid, &good);
        let clear = SetGid {
            index: 1,
            ..SetGid::default()
        };
        node.driver.ok(&mut bench, Op::SetGid, &clear);
        let entry: GidEntry = node.driver.query(&mut bench, Op::QueryGid, 1);
        assert_eq!(entry, GidEntry::default());
    }

    #[test]
    fn a_gid_in_use_stays() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        let clear = SetGid::default();
        refused(&mut a, &mut bench, Op::SetGid, &clear, (Busy, at(0)));
        let qpn = a.qp.number;
        a.driver.destroy(&mut bench, Op::DestroyQp, qpn);
        a.driver.ok(&mut bench, Op::SetGid, &clear);
    }

    /// Breaks the buffer of a command in every way.
    #[track_caller]
    fn buffers<T: Pod>(
        node: &mut Node,
        bench: &mut Bench,
        opcode: Op,
        body: &T,
        offset: usize,
        set: impl Fn(&mut T, Buffer),
    ) {
        let bad_list = node.driver.memory(4096, true);
        node.hw().write(bad_list, &(BASE + 4));
        let good = Buffer {
            address: BASE,
            pages: 2048,
            page_shift: 12,
            list: 0,
            reserved: 0,
        };
        let cases = [
            (
                Buffer {
                    page_shift: 11,
                    ..good
                },
                BadArgument,
                12,
            ),
            (
                Buffer {
                    page_shift: 31,
                    ..good
                },
                BadArgument,
                12,
            ),
            (
                Buffer {
                    page_shift: 255,
                    ..good
                },
                BadArgument,
                12,
            ),
            (Buffer { pages: 0, ..good }, BadArgument, 8),
            (
                Buffer {
                    pages: u32::MAX,
                    ..good
                },
                BadArgument,
                8,
            ),
            (
                Buffer {
                    address: BASE + 8,
                    ..good
                },
                BadArgument,
                0,
            ),
            (
                Buffer {
                    address: u64::MAX - 4095,
                    ..good
                },
                BadArgument,
                0,
            ),
            (Buffer { list: 2, ..good }, BadArgument, 13),
            (
                Buffer {
                    list: 1,
                    address: BASE + 4,
                    ..good
                },
                BadArgument,
                0,
            ),
            (
                Buffer {
                    list: 1,
                    address: u64::MAX - 7,
                    ..good
                },
                BadArgument,
                0,
            ),
            (
                Buffer {
                    list: 1,
                    address: 0x1000,
                    ..good
                },
                Status::DmaFailed,
                0,
            ),
            (
                Buffer {
                    list: 1,
                    address: bad_list,
                    ..good
                },
                BadArgument,
                0,
            ),
        ];
        for (buffer, status, within) in cases {
            let mut body = *body;
            set(&mut body, buffer);
            refused(node, bench, opcode, &body, (status, at(offset + within)));
        }
    }

    #[test]
    fn create_mr() {
        let (mut bench, mut node, before) = start();
        let good = CreateMr {
            pd: node.pd,
            access: 1,
            start: 0x1000,
            length: 4096,
            buffer: Buffer {
                address: BASE,
                pages: 1,
                page_shift: 12,
                ..Buffer::default()
            },
            ..CreateMr::default()
        };
        type Change = fn(&mut CreateMr);
        let cases: [(Change, Status, usize); 9] = [
            (|b| b.pd = 99, NoSuchObject, offset_of!(CreateMr, pd)),
            (
                |b| b.access = 1 << 9,
                BadArgument,
                offset_of!(CreateMr, access),
            ),
            (|b| b.access = 2, BadArgument, offset_of!(CreateMr, access)),
            (|b| b.access = 8, BadArgument, offset_of!(CreateMr, access)),
            (
                |b| b.access = 256,
                Unsupported,
                offset_of!(CreateMr, access),
            ),
            (|b| b.length = 0, BadArgument, offset_of!(CreateMr, length)),
            (
                |b| b.length = u64::MAX,
                BadArgument,
                offset_of!(CreateMr, length),
            ),
            (
                |b| b.start = u64::MAX - 5,
                BadArgument,
                offset_of!(CreateMr, length),
            ),
            (
                |b| b.start = 1,
                BadArgument,
                offset_of!(CreateMr, buffer.pages),
            ),
        ];
        for (change, status, offset) in cases {
            let mut body = good;
            change(&mut body);
            refused(
                &mut node,
                &mut bench,
                Op::CreateMr,
                &body,
                (status, at(offset)),
            );
        }
        let offset = offset_of!(CreateMr, buffer);
        buffers(
            &mut node,
            &mut bench,
            Op::CreateMr,
            &good,
            offset,
            |b, buffer| {
                b.buffer = buffer;
            },
        );
        assert_eq!(usage(&node, &bench), before);
    }

    #[test]
    fn create_queues() {
        let (mut bench, mut node, before) = start();
        let good_buffer = node.driver.buffer(65536);
        let eq = CreateEq {
            buffer: good_buffer,
            log_entries: 4,
            ..CreateEq::default()
        };
        type EqChange = fn(&mut CreateEq);
        let cases: [(EqChange, Status, usize); 6] = [
            (
                |b| b.doorbell_page = 1,
                NoSuchObject,
                offset_of!(CreateEq, doorbell_page),
            ),
            (
                |b| b.doorbell_page = 256,
                NoSuchObject,
                offset_of!(CreateEq, doorbell_page),
            ),
            (
                |b| b.log_entries = 3,
                BadArgument,
                offset_of!(CreateEq, log_entries),
            ),
            (
                |b| b.log_entries = 64,
                BadArgument,
                offset_of!(CreateEq, log_entries),
            ),
            (
                |b| b.log_entries = 12,
                BadArgument,
                offset_of!(CreateEq, buffer.pages),
            ),
            (|b| b.vector = 64, BadArgument, offset_of!(CreateEq, vector)),
        ];
        for (change, status, offset) in cases {
            let mut body = eq;
            change(&mut body);
            refused(
                &mut node,
                &mut bench,
                Op::CreateEq,
                &body,
                (status, at(offset)),
            );
        }
        buffers(&mut node, &mut bench, Op::CreateEq, &eq, 0, |b, buffer| {
            b.buffer = buffer
        });

        let cq = CreateCq {
            buffer: good_buffer,
            log_entries: 4,
            eq: node.eq.number,
            ..CreateCq::default()
        };
        type CqChange = fn(&mut CreateCq);
        let cases: [(CqChange, Status, usize); 4] = [
            (
                |b| b.doorbell_page = 9,
                NoSuchObject,
                offset_of!(CreateCq, doorbell_page),
            ),
            (
                |b| b.log_entries = 1,
                BadArgument,
                offset_of!(CreateCq, log_entries),
            ),
            (
                |b| b.log_entries = 21,
                BadArgument,
                offset_of!(CreateCq, log_entries),
            ),
            (|b| b.eq = 0, NoSuchObject, offset_of!(CreateCq, eq)),
        ];
        for (change, status, offset) in cases {
            let mut body = cq;
            change(&mut body);
            refused(
                &mut node,
                &mut bench,
                Op::CreateCq,
                &body,
                (status, at(offset)),
            );
        }
        buffers(&mut node, &mut bench, Op::CreateCq, &cq, 0, |b, buffer| {
            b.buffer = buffer
        });
        assert_eq!(usage(&node, &bench), before);
    }

    #[test]
    fn change_cq() {
        let (mut bench, mut node, before) = start();
        let good = ResizeCq {
            cq: node.cq.number,
            log_entries: 4,
            buffer: node.driver.buffer(64 << 4),
            ..ResizeCq::default()
        };
        type Change = fn(&mut ResizeCq);
        let cases: [(Change, Status, usize); 3] = [
            (|b| b.cq = 0, NoSuchObject, offset_of!(ResizeCq, cq)),
            (
                |b| b.log_entries = 1,
                BadArgument,
                offset_of!(ResizeCq, log_entries),
            ),
            (
                |b| b.log_entries = 21,
                BadArgument,
                offset_of!(ResizeCq, log_entries),
            ),
        ];
        for (change, status, offset) in cases {
            let mut body = good;
            change(&mut body);
            let expected = (status, at(offset));
            refused(&mut node, &mut bench, Op::ResizeCq, &body, expected);
        }
        buffers(
            &mut node,
            &mut bench,
            Op::ResizeCq,
            &good,
            8,
            |b, buffer| b.buffer = buffer,
        );
        let nobody = ModifyCq {
            cq: node.cq.number + 1,
            ..ModifyCq::default()
        };
        let expected = (NoSuchObject, at(offset_of!(ModifyCq, cq)));
        refused(&mut node, &mut bench, Op::ModifyCq, &nobody, expected);
        assert_eq!(usage(&node, &bench), before);
    }

    #[test]
    fn create_qp() {
        let (mut bench, mut node, before) = start();
        let good = CreateQp {
            pd: node.pd,
            send_cq: node.cq.number,
            receive_cq: node.cq.number,
            buffer: node.driver.buffer(65536),
            log_send_blocks: 4,
            log_receive_entries: 4,
            log_receive_segments: 0,
            ..CreateQp::default()
        };
        type Change = fn(&mut CreateQp);
        let cases: [(Change, Status, usize); 12] = [
            (|b| b.pd = 0, NoSuchObject, offset_of!(CreateQp, pd)),
            (
                |b| b.send_cq = 0,
                NoSuchObject,
                offset_of!(CreateQp, send_cq),
            ),
            (
                |b| b.receive_cq = 9,
                NoSuchObject,
                offset_of!(CreateQp, receive_cq),
            ),
            (|b| b.srq = 1, NoSuchObject, offset_of!(CreateQp, srq)),
            (
                |b| b.doorbell_page = 2,
                NoSuchObject,
                offset_of!(CreateQp, doorbell_page),
            ),
            (
                |b| b.qp_type = 7,
                BadArgument,
                offset_of!(CreateQp, qp_type),
            ),
            (
                |b| b.log_send_blocks = 16,
                BadArgument,
                offset_of!(CreateQp, log_send_blocks),
            ),
            (
                |b| b.log_receive_entries = 99,
                BadArgument,
                offset_of!(CreateQp, log_receive_entries),
            ),
            (
                |b| b.log_receive_segments = 5,
                BadArgument,
                offset_of!(CreateQp, log_receive_segments),
            ),
            (|b| b.flags = 8, BadArgument, offset_of!(CreateQp, flags)),
            (|b| b.flags = 4, BadArgument, offset_of!(CreateQp, flags)),
            (|b| b.xrcd = 1, BadArgument, offset_of!(CreateQp, xrcd)),
        ];
        for (change, status, offset) in cases {
            let mut body = good;
            change(&mut body);
            refused(
                &mut node,
                &mut bench,
                Op::CreateQp,
                &body,
                (status, at(offset)),
            );
        }
        let offset = offset_of!(CreateQp, buffer);
        buffers(
            &mut node,
            &mut bench,
            Op::CreateQp,
            &good,
            offset,
            |b, buffer| {
                b.buffer = buffer;
            },
        );
        assert_eq!(usage(&node, &bench), before);
    }

    #[test]
    fn modify_qp() {
        let (mut bench, mut node, _) = start();
        let qpn = node.qp.number;
        let body = ModifyQp::default();
        refused(
            &mut node,
            &mut bench,
            Op::ModifyQp,
            &body,
            (NoSuchObject, at(0)),
        );
        for (mask, attributes, wanted) in [
            (1 << 21, BASE, (BadArgument, at(offset_of!(ModifyQp, mask)))),
            (
                1,
                BASE + 4,
                (BadArgument, at(offset_of!(ModifyQp, attributes))),
            ),
            (
                1,
                0x1000,
                (Status::DmaFailed, at(offset_of!(ModifyQp, attributes))),
            ),
        ] {
            let body = ModifyQp {
                qp: qpn,
                mask,
                attributes,
                reserved: 0,
            };
            refused(&mut node, &mut bench, Op::ModifyQp, &body, wanted);
        }
        let (mask, good) = to_init();
        let mut bad = |mask: QpMask, given: &QpAttributes, status, offset| {
            let completion = node.driver.modify(&mut bench, qpn, mask, given);
            let got = (Status::from_raw(completion.status), completion.syndrome);
            assert_eq!(got, (Some(status), attribute(offset)));
        };
        let state = offset_of!(QpAttributes, state);
        bad(mask, &QpAttributes { state: 9, ..good }, BadArgument, state);
        bad(
            mask,
            &QpAttributes { state: 2, ..good },
            Status::BadState,
            state,
        );
        let port = offset_of!(QpAttributes, port);
        bad(mask, &QpAttributes { port: 2, ..good }, BadArgument, port);
        let pkey = offset_of!(QpAttributes, pkey_index);
        bad(
            mask,
            &QpAttributes {
                pkey_index: 1,
                ..good
            },
            BadArgument,
            pkey,
        );
        let access = offset_of!(QpAttributes, access);
        bad(
            mask,
            &QpAttributes {
                access: 1 << 9,
                ..good
            },
            BadArgument,
            access,
        );
        bad(mask - QpMask::ACCESS, &good, Status::BadState, access);
        let qkey = offset_of!(QpAttributes, qkey);
        bad(mask | QpMask::QKEY, &good, Status::BadState, qkey);
        node.driver.modify_ok(&mut bench, qpn, mask, &good);

        let (mask, good) = to_rtr(2, 0x99);
        type Change = fn(&mut QpAttributes);
        let cases: [(Change, Status, usize); 11] = [
            (
                |q| q.path_mtu = 0,
                BadArgument,
                offset_of!(QpAttributes, path_mtu),
            ),
            (
                |q| q.path_mtu = 6,
                BadArgument,
                offset_of!(QpAttributes, path_mtu),
            ),
            (
                |q| q.remote_qpn = 1 << 24,
                BadArgument,
                offset_of!(QpAttributes, remote_qpn),
            ),
            (
                |q| q.receive_psn = 1 << 24,
                BadArgument,
                offset_of!(QpAttributes, receive_psn),
            ),
            (
                |q| q.responder_resources = 65,
                BadArgument,
                offset_of!(QpAttributes, responder_resources),
            ),
            (
                |q| q.min_rnr_timer = 32,
                BadArgument,
                offset_of!(QpAttributes, min_rnr_timer),
            ),
            (
                |q| q.primary.sgid_index = 5,
                NoSuchObject,
                offset_of!(QpAttributes, primary.sgid_index),
            ),
            (
                |q| q.primary.gid = [0; 16],
                BadArgument,
                offset_of!(QpAttributes, primary.gid),
            ),
            (
                |q| q.primary.gid[0] = 0x20,
                BadArgument,
                offset_of!(QpAttributes, primary.gid),
            ),
            (
                |q| q.primary.mac = [1; 6],
                BadArgument,
                offset_of!(QpAttributes, primary.mac),
            ),
            (
                |q| q.primary.flow_label = 1 << 20,
                BadArgument,
                offset_of!(QpAttributes, primary.flow_label),
            ),
        ];
        for (change, status, offset) in cases {
            let mut given = good;
            change(&mut given);
            let completion = node.driver.modify(&mut bench, qpn, mask, &given);
            let got = (Status::from_raw(completion.status), completion.syndrome);
            assert_eq!(got, (Some(status), attribute(offset)));
        }
        let now: QpAttributes = node.driver.query(&mut bench, Op::QueryQp, qpn);
        assert_eq!((now.state, now.remote_qpn), (QpState::Init.raw(), 0));
        let function = bench.nic.function(node.driver.id).unwrap();
        assert!(
            !function.objects.gids.in_use(0),
            "a refused path is not held"
        );
        node.driver.modify_ok(&mut bench, qpn, mask, &good);
    }
}

mod limits {
    use super::*;

    #[test]
    fn every_kind_of_object_has_one() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let page = node
            .driver
            .ok(&mut bench, AdminOpcode::AllocDoorbellPage, &0u64);
        assert_eq!(page, 1);
        let buffer = node.driver.buffer(4096);
        let body = CreateCq {
            buffer,
            log_entries: 4,
            eq: node.eq.number,
            doorbell_page: 1,
            ..CreateCq::default()
        };
        let mut cqs = Vec::new();
        let last = loop {
            let done = node
                .driver
                .command(&mut bench, AdminOpcode::CreateCq, &body);
            if done.status != 0 {
                break done.status;
            }
            cqs.push(done.result0 as u32);
        };
        assert_eq!(Status::from_raw(last), Some(Status::NoResources));
        assert_eq!(cqs.len(), 63 * 8, "one for each slot of the page");
        let page = ObjectReference {
            object: 1,
            reserved: 0,
        };
        let wanted = (Status::Busy, at(0));
        refused(
            &mut node,
            &mut bench,
            AdminOpcode::FreeDoorbellPage,
            &page,
            wanted,
        );
        for cqn in cqs {
            node.driver.destroy(&mut bench, AdminOpcode::DestroyCq, cqn);
        }
        node.driver
            .ok(&mut bench, AdminOpcode::FreeDoorbellPage, &page);
        let mut pages = 0;
        while node
            .driver
            .command(&mut bench, AdminOpcode::AllocDoorbellPage, &0u64)
            .status
            == 0
        {
            pages += 1;
        }
        assert_eq!(pages, 255);
        let mut pds = 0;
        while node
            .driver
            .command(&mut bench, AdminOpcode::AllocPd, &0u64)
            .status
            == 0
        {
            pds += 1;
        }
        assert_eq!(pds, 4095);
    }

    #[test]
    fn page_lists_share_a_quota() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let pages: u32 = 1 << 19;
        let list = node.driver.memory(u64::from(pages) * 8, true);
        let body = CreateMr {
            pd: node.pd,
            length: u64::from(pages) * 4096,
            buffer: Buffer {
                address: list,
                pages,
                page_shift: 12,
                list: 1,
                reserved: 0,
            },
            ..CreateMr::default()
        };
        let before = usage(&node, &bench)[5];
        let mut keys = Vec::new();
        let refused = loop {
            let done = node
                .driver
                .command(&mut bench, AdminOpcode::CreateMr, &body);
            if done.status != 0 {
                break done.status;
            }
            keys.push(done.result0 as u32);
        };
        assert_eq!(Status::from_raw(refused), Some(Status::NoResources));
        assert_eq!(keys.len(), 7);
        for key in keys {
            node.driver.destroy(&mut bench, AdminOpcode::DestroyMr, key);
        }
        assert_eq!(usage(&node, &bench)[5], before);
    }

    #[test]
    fn objects_come_and_go_without_a_trace() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let before = usage(&node, &bench);
        let mut numbers = Vec::new();
        for _ in 0..100 {
            let cq = node.driver.cq(&mut bench, &node.eq, 4);
            let qp = node.driver.qp(&mut bench, node.pd, &cq, &node.cq);
            let key = node.driver.mr(&mut bench, node.pd, BASE + 5, 100);
            numbers.push(qp.number);
            for (opcode, object) in [
                (AdminOpcode::DestroyQp, qp.number),
                (AdminOpcode::DestroyCq, cq.number),
                (AdminOpcode::DestroyMr, key),
            ] {
                node.driver.destroy(&mut bench, opcode, object);
            }
        }
        assert_eq!(usage(&node, &bench), before);
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(
            numbers.len(),
            100,
            "queue pair numbers are not reused at once"
        );
    }
}
