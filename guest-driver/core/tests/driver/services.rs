//! Queue pairs of all types: what they need, what they can do, and what they are refused.

use vrnic_driver::abi::admin::{AccessFlags, AdminOpcode, CreateQp, ModifyQp, QpFlags, QpType};
use vrnic_driver::abi::cqe::CompletionStatus;
use vrnic_driver::abi::cqe::{CompletionEntry, CompletionFlags, CompletionOpcode};
use vrnic_driver::abi::object::{AddressVector, QpAttributes, QpMask, QpState};
use vrnic_driver::abi::registers::Capabilities;
use vrnic_driver::abi::wqe::WqeFlags;
use vrnic_driver::{
    Completion, Config, Connection, Datagram, DatagramPath, Driver, Error, Operation, PostError,
    QpConfig, QueuePair, ReceiveRequest, Remote, SendRequest, Target, Work,
};

use crate::Bench;
use crate::fake::{FakePlatform, World};

fn config(qp_type: QpType) -> QpConfig {
    QpConfig {
        qp_type,
        ..QpConfig::default()
    }
}

/// State and mask of the latest ModifyQp.
#[track_caller]
fn modified(bench: &Bench) -> (u8, QpMask) {
    bench.world.with(|device| {
        let body: ModifyQp = device.latest(AdminOpcode::ModifyQp);
        let attributes: QpAttributes = device.read_pod(body.attributes);
        (attributes.state, QpMask::from_bits_truncate(body.mask))
    })
}

#[track_caller]
fn assert_modified(bench: &Bench, state: QpState, mask: QpMask) {
    assert_eq!(modified(bench), (state.raw(), mask | QpMask::STATE));
}

const PATH: QpMask = QpMask::PRIMARY_PATH
    .union(QpMask::PATH_MTU)
    .union(QpMask::REMOTE_QPN)
    .union(QpMask::RECEIVE_PSN);
const INIT: QpMask = QpMask::PKEY_INDEX.union(QpMask::PORT);
const REQUESTER: QpMask = QpMask::SEND_PSN
    .union(QpMask::TIMEOUT)
    .union(QpMask::RETRY_COUNT)
    .union(QpMask::RNR_RETRY)
    .union(QpMask::INITIATOR_DEPTH);

#[test]
fn an_unreliable_connection_needs_no_timers() {
    let mut bench = Bench::new(config(QpType::Uc));
    bench.qp.to_init(AccessFlags::REMOTE_WRITE).expect("INIT");
    assert_modified(&bench, QpState::Init, INIT | QpMask::ACCESS);
    let connection = Connection::default();
    bench.qp.to_rtr(&connection).expect("RTR");
    assert_modified(&bench, QpState::Rtr, PATH);
    bench.qp.to_rts(&connection).expect("RTS");
    assert_modified(&bench, QpState::Rts, QpMask::SEND_PSN);
}

#[test]
fn datagram_queue_pairs_have_a_key() {
    for qp_type in [QpType::Ud, QpType::Gsi] {
        let mut bench = Bench::new(config(qp_type));
        bench.qp.to_init_datagram(0x1234).expect("INIT");
        let init = match qp_type {
            QpType::Gsi => {
                assert_eq!(bench.qp.number(), 1);
                QpMask::PKEY_INDEX
            }
            _ => INIT,
        };
        assert_modified(&bench, QpState::Init, init | QpMask::QKEY);
        bench.qp.to_rtr_datagram().expect("RTR");
        assert_modified(&bench, QpState::Rtr, QpMask::empty());
        bench.qp.to_rts_datagram(7).expect("RTS");
        assert_modified(&bench, QpState::Rts, QpMask::SEND_PSN);
        bench.qp.set_qkey(0x5678).expect("Q_Key");
        assert_eq!(modified(&bench).1, QpMask::QKEY);
    }
}

#[test]
fn raw_packet_queue_pairs_need_a_port_only() {
    let mut bench = Bench::new(QpConfig {
        strip_vlan: true,
        ..config(QpType::RawPacket)
    });
    let body: CreateQp = bench
        .world
        .with(|device| device.latest(AdminOpcode::CreateQp));
    assert_eq!(body.flags, QpFlags::STRIP_VLAN.bits());
    bench.qp.to_rts_raw().expect("RTS");
    assert_modified(&bench, QpState::Rts, QpMask::empty());
    let state = bench.qp.query().expect("query").state;
    assert_eq!(state, QpState::Rts.raw());
}

#[test]
fn xrc_queue_pairs_have_one_half_each() {
    let bench = Bench::new(QpConfig::default());
    let (driver, pd, cq) = (&bench.driver, &bench.pd, &bench.cq);
    let connection = Connection::default();
    bench.world.with(|device| device.next_qpn = 0x200);
    let initiator = driver.create_xrc_initiator(pd, cq, QpConfig::default());
    let mut initiator = initiator.expect("initiator");
    initiator.to_init(AccessFlags::empty()).expect("INIT");
    initiator.to_rtr(&connection).expect("RTR");
    assert_modified(&bench, QpState::Rtr, PATH);
    initiator.to_rts(&connection).expect("RTS");
    assert_modified(&bench, QpState::Rts, REQUESTER);
    let refused = initiator.post_receive(&ReceiveRequest::default());
    assert_eq!(refused, Err(PostError::Unsupported));
    let mut xrcd = driver.create_xrcd().expect("XRCD");
    bench.world.with(|device| device.next_qpn = 0x300);
    let mut target = driver
        .create_xrc_target(Some(pd), &xrcd, 0)
        .expect("target");
    let body: CreateQp = bench
        .world
        .with(|device| device.latest(AdminOpcode::CreateQp));
    assert_eq!((body.xrcd, body.pd), (xrcd.number(), pd.number()));
    target.to_init(AccessFlags::REMOTE_WRITE).expect("INIT");
    target.to_rtr(&connection).expect("RTR");
    let responder = QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER;
    assert_modified(&bench, QpState::Rtr, PATH | responder);
    target.to_rts(&connection).expect("RTS");
    assert_modified(&bench, QpState::Rts, QpMask::SEND_PSN | QpMask::TIMEOUT);
    assert_eq!(target.query().expect("query").state, QpState::Rts.raw());
    target.destroy().expect("destroy");
    assert_eq!(target.query().err(), Some(Error::Stale));
    xrcd.destroy().expect("free");
    assert_eq!(
        driver.create_xrc_target(Some(pd), &xrcd, 0).err(),
        Some(Error::Stale)
    );
    for qp_type in [QpType::XrcInitiator, QpType::XrcTarget] {
        let error = driver.create_qp(pd, cq, cq, config(qp_type)).err();
        assert!(matches!(error, Some(Error::BadArgument(_))));
    }
}

#[test]
fn transitions_of_another_type_are_refused_before_the_device_sees_them() {
    let bad = |result: Result<(), Error>| assert!(matches!(result, Err(Error::BadArgument(_))));
    for qp_type in [
        QpType::Rc,
        QpType::Uc,
        QpType::Ud,
        QpType::Gsi,
        QpType::RawPacket,
    ] {
        let mut bench = Bench::new(config(qp_type));
        let commands = |bench: &Bench| bench.world.with(|device| device.commands_seen.len());
        let before = commands(&bench);
        let connected = matches!(qp_type, QpType::Rc | QpType::Uc);
        let datagram = matches!(qp_type, QpType::Ud | QpType::Gsi);
        let connection = Connection::default();
        if !connected {
            bad(bench.qp.to_init(AccessFlags::empty()));
            bad(bench.qp.to_rtr(&connection));
            bad(bench.qp.to_rts(&connection));
        }
        if !datagram {
            bad(bench.qp.to_init_datagram(1));
            bad(bench.qp.to_rtr_datagram());
            bad(bench.qp.to_rts_datagram(0));
            bad(bench.qp.set_qkey(1));
            bad(bench.qp.attach_multicast([0xff; 16], 0));
        }
        if qp_type != QpType::RawPacket {
            bad(bench.qp.to_rts_raw());
        }
        if qp_type == QpType::Rc {
            bad(bench.qp.recover_send_queue());
        }
        assert_eq!(commands(&bench), before, "{qp_type:?}");
    }
}

#[test]
fn a_send_queue_is_drained_resumed_and_recovered() {
    let mut bench = Bench::new(config(QpType::Ud));
    bench.qp.drain(true).expect("SQD");
    assert_modified(&bench, QpState::Sqd, QpMask::EN_SQD_ASYNC_NOTIFY);
    bench.qp.drain(false).expect("SQD");
    assert_modified(&bench, QpState::Sqd, QpMask::empty());
    bench.qp.resume().expect("RTS");
    assert_modified(&bench, QpState::Rts, QpMask::CURRENT_STATE);
    // A request fails; the receive queue is announced with every request until the recovery.
    let request = datagram(DatagramPath::Vector(AddressVector::default()));
    bench.qp.post_send(&request).expect("room");
    let qpn = bench.qp.number();
    bench.world.complete(qpn, CompletionStatus::LocalProtection);
    let mut completions = [Completion::default()];
    assert_eq!(bench.cq.poll(&mut completions), Ok(1));
    assert_eq!(completions[0].status, CompletionStatus::LocalProtection);
    bench.qp.recover_send_queue().expect("RTS");
    assert_modified(&bench, QpState::Rts, QpMask::CURRENT_STATE);
    let marks = bench.world.with(|device| device.marks);
    bench
        .qp
        .post_receive(&ReceiveRequest::default())
        .expect("room");
    assert_eq!(bench.world.with(|device| device.marks), marks);
}

fn datagram(path: DatagramPath) -> SendRequest<'static> {
    SendRequest {
        wr_id: 3,
        operation: Operation::Send,
        target: Target::Datagram(Datagram {
            remote_qpn: 9,
            qkey: 0x11,
            path,
        }),
        flags: WqeFlags::SIGNALED,
        ..SendRequest::default()
    }
}

#[test]
fn datagrams_name_a_live_address_handle() {
    let mut bench = Bench::new(config(QpType::Ud));
    let vector = AddressVector::default();
    let mut handle = bench.driver.create_ah(&bench.pd, vector).expect("AH");
    let request = datagram(DatagramPath::Handle(handle.number()));
    bench.qp.post_send(&request).expect("room");
    let qpn = bench.qp.number();
    let words: [u64; 4] = bench.world.with(|device| device.request(qpn, 0));
    assert_eq!(
        words[2..],
        [9 | 0x11 << 32, handle.number().number().into()]
    );
    handle.destroy().expect("destroy");
    let gone = datagram(DatagramPath::Handle(handle.number()));
    assert_eq!(bench.qp.post_send(&gone), Err(PostError::Stale));
    // A handle of before a reset is not mistaken for one of after it.
    let old = bench
        .driver
        .create_ah(&bench.pd, vector)
        .expect("AH")
        .number();
    bench.driver.recover().expect("recover");
    let pd = bench.driver.create_pd().expect("PD");
    let cq = bench
        .driver
        .create_cq(vrnic_driver::CqConfig::default())
        .expect("CQ");
    let qp = bench.driver.create_qp(&pd, &cq, &cq, config(QpType::Ud));
    let refused = qp
        .expect("QP")
        .post_send(&datagram(DatagramPath::Handle(old)));
    assert_eq!(refused, Err(PostError::Stale));
}

#[test]
fn the_largest_requests_fit_as_often_as_was_asked_for() {
    let sizes = [
        (QpType::Rc, 28, 448),
        (QpType::Uc, 0, 0),
        (QpType::Ud, 27, 432),
        (QpType::Ud, 1, 0),
        (QpType::Gsi, 3, 100),
        (QpType::RawPacket, 28, 448),
        (QpType::RawPacket, 0, 0),
        (QpType::XrcInitiator, 28, 448),
        (QpType::XrcInitiator, 0, 0),
    ];
    for (qp_type, segments, inline) in sizes {
        let bench = Bench::new(QpConfig::default());
        let config = QpConfig {
            send_requests: 3,
            send_segments: segments,
            inline,
            ..config(qp_type)
        };
        bench.world.with(|device| device.next_qpn = 0x200);
        let (driver, pd, cq) = (&bench.driver, &bench.pd, &bench.cq);
        let qp = match qp_type {
            QpType::XrcInitiator => driver.create_xrc_initiator(pd, cq, config),
            _ => driver.create_qp(pd, cq, cq, config),
        };
        let mut qp = qp.expect("QP");
        for number in 0..3 {
            post_largest(&mut qp, segments as usize, number);
        }
    }
}

/// Posts the largest request that a queue pair takes, of each kind of data in turn.
#[track_caller]
fn post_largest(qp: &mut QueuePair<FakePlatform>, segments: usize, number: u64) {
    let sges = vec![vrnic_driver::Sge::default(); segments];
    let mut request = SendRequest {
        wr_id: number,
        data: vrnic_driver::Data::Sges(&sges),
        ..datagram(DatagramPath::Vector(AddressVector::default()))
    };
    match qp.qp_type() {
        QpType::Ud | QpType::Gsi => {}
        QpType::RawPacket => request.target = Target::Wire { vlan_tag: Some(5) },
        QpType::XrcInitiator => request.target = Target::SharedReceiveQueue(5),
        _ => request.target = Target::Peer,
    }
    if matches!(qp.qp_type(), QpType::Rc | QpType::Uc | QpType::XrcInitiator) {
        request.operation = Operation::Write(Remote::default());
    }
    assert_eq!(qp.post_send(&request), Ok(()), "{:?}", qp.qp_type());
}

#[test]
fn completions_say_where_a_datagram_came_from() {
    let mut bench = Bench::new(config(QpType::Ud));
    bench
        .qp
        .post_receive(&ReceiveRequest::default())
        .expect("room");
    let flags = CompletionFlags::GRH | CompletionFlags::VLAN | CompletionFlags::IPV4;
    let entry = CompletionEntry {
        qpn: bench.qp.number(),
        byte_length: 140,
        source_qpn: 0x54321,
        vlan: 0x0007_a00b,
        source_mac: [1, 2, 3, 4, 5, 6],
        hash: 0xdead_beef,
        opcode: CompletionOpcode::ReceiveImmediate.raw(),
        immediate: 0x0102_0304u32.to_be(),
        flags: flags.bits(),
        ..CompletionEntry::default()
    };
    bench.world.with(|device| device.write_completion(entry));
    let mut completions = [Completion::default()];
    assert_eq!(bench.cq.poll(&mut completions), Ok(1));
    let [found] = completions;
    assert_eq!(
        found.work,
        Work::Receive(CompletionOpcode::ReceiveImmediate)
    );
    assert_eq!((found.source_qpn, found.byte_length), (0x54321, 140));
    assert_eq!((found.pkey_index, found.vlan_tag), (7, 0xa00b));
    assert_eq!(found.source_mac, [1, 2, 3, 4, 5, 6]);
    assert_eq!((found.hash, found.immediate), (0xdead_beef, 0x0102_0304));
    assert_eq!((found.flags, found.srqn), (flags, 0));
}

#[test]
fn a_device_without_a_service_is_not_asked_for_it() {
    let types = [
        (QpType::Rc, Capabilities::RC),
        (QpType::Uc, Capabilities::UC),
        (QpType::Ud, Capabilities::UD),
        (QpType::Gsi, Capabilities::GSI),
        (QpType::RawPacket, Capabilities::RAW_PACKET),
    ];
    for (qp_type, capability) in types {
        let world = World::new();
        world.with(|device| device.capabilities = Capabilities::all() - capability);
        let driver = Driver::probe(world.platform(), Config::default()).expect("probe");
        let pd = driver.create_pd().expect("PD");
        let cq = driver
            .create_cq(vrnic_driver::CqConfig::default())
            .expect("CQ");
        let commands = world.with(|device| device.commands_seen.len());
        let error = driver.create_qp(&pd, &cq, &cq, config(qp_type)).err();
        assert!(matches!(error, Some(Error::Unsupported(_))), "{qp_type:?}");
        assert_eq!(world.with(|device| device.commands_seen.len()), commands);
    }
}
