//! Address handles, multicast, filters, congestion, queries, and devices that lack them.

use vrnic_driver::abi::admin::{
    AdminOpcode, CongestionFlags, FilterFlags, FilterType, MulticastGroup, QpType, SetFilter,
    Status, WindowType,
};
use vrnic_driver::abi::object::AddressVector;
use vrnic_driver::abi::registers::Capabilities;
use vrnic_driver::{
    Config, Congestion, CqConfig, Driver, Error, FilterConfig, Frames, Moderation, Operation,
    PostError, QpConfig, SendRequest, SrqConfig,
};

use crate::fake::{Device, World};
use crate::{Bench, up};

fn config(qp_type: QpType) -> QpConfig {
    QpConfig {
        qp_type,
        ..QpConfig::default()
    }
}

#[test]
fn address_handles_hold_a_path() {
    let bench = Bench::new(QpConfig::default());
    let vector = AddressVector {
        gid: [3; 16],
        hop_limit: 9,
        ..AddressVector::default()
    };
    let mut handle = bench.driver.create_ah(&bench.pd, vector).expect("AH");
    let found = handle.query().expect("query");
    assert_eq!((found.pd, found.vector), (bench.pd.number(), vector));
    handle.destroy().expect("destroy");
    assert_eq!(handle.query().err(), Some(Error::Stale));
    let opcode = AdminOpcode::CreateAh.raw();
    bench
        .world
        .with(|device| device.forged.insert(opcode, (0, 0)));
    let error = bench.driver.create_ah(&bench.pd, vector).err();
    assert!(matches!(error, Some(Error::BadAnswer(_))));
}

#[test]
fn datagram_queue_pairs_join_and_leave_groups() {
    let mut bench = Bench::new(config(QpType::Ud));
    let gid = [0xff, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    bench.qp.attach_multicast(gid, 5).expect("attach");
    bench.qp.detach_multicast(gid, 5).expect("detach");
    for opcode in [AdminOpcode::AttachMulticast, AdminOpcode::DetachMulticast] {
        let body: MulticastGroup = bench.world.with(|device| device.latest(opcode));
        assert_eq!((body.qp, body.vlan, body.gid), (bench.qp.number(), 5, gid));
    }
}

#[test]
fn groups_are_joined_where_the_function_has_addresses() {
    let bench = Bench::new(config(QpType::Ud));
    let number = bench.qp.number();
    let (mut control, _send, _receive) = bench.qp.split();
    let vlans = |gid: [u8; 16]| -> Vec<u16> {
        let of = |member: &&(u32, [u8; 16], u16)| (member.0, member.1) == (number, gid);
        let look = |device: &mut Device| device.members.iter().filter(of).map(|m| m.2).collect();
        bench.world.with(look)
    };
    let driver = &bench.driver;
    let (one, two) = ([0xfd; 16], [0xff; 16]);
    control.join_group(one).expect("join");
    assert_eq!(vlans(one), [0], "no address is in a VLAN");

    for (index, vlan) in [(0, 0), (1, 5), (2, 4094), (3, 5)] {
        driver.set_gid(index, [index as u8; 16], vlan).expect("set");
    }
    assert_eq!(vlans(one), [0], "it was joined before");
    control.join_group(one).expect("join");
    assert_eq!(vlans(one), [0, 5, 4094]);

    // An address that goes, or changes its VLAN, takes nobody out of a group.
    driver.clear_gid(2).expect("clear");
    driver.set_gid(1, [9; 16], 6).expect("set");
    assert_eq!(vlans(one), [0, 5, 4094]);
    control.join_group(two).expect("join");
    assert_eq!(vlans(two), [0, 5, 6], "entry 3 is still in VLAN 5");

    // All or nothing: there is no room for another one.
    control.leave_group(two).expect("leave");
    assert_eq!((vlans(one), vlans(two)), (vec![0, 5, 4094], vec![]));
    driver.set_gid(4, [4; 16], 7).expect("set");
    let refused = |error| match error {
        Some(Error::Command { status, .. }) => Some(status),
        _ => None,
    };
    let error = control.join_group(two).err();
    assert_eq!(refused(error), Some(Status::NoResources));
    assert_eq!((vlans(one), vlans(two)), (vec![0, 5, 4094], vec![]));

    control.leave_group(one).expect("leave");
    assert_eq!(vlans(one), []);
    let error = control.leave_group(one).err();
    assert_eq!(refused(error), Some(Status::NoSuchObject));
    control.join_group(two).expect("join");
    assert_eq!(vlans(two), [0, 5, 6, 7]);
}

#[test]
fn groups_of_a_life_before_are_forgotten() {
    let bench = Bench::new(config(QpType::Ud));
    bench.driver.set_gid(0, [1; 16], 5).expect("set");
    bench.driver.recover().expect("recover");
    let driver = &bench.driver;
    let pd = driver.create_pd().expect("PD");
    let cq = driver.create_cq(CqConfig::default()).expect("CQ");
    let qp = driver.create_qp(&pd, &cq, &cq, config(QpType::Ud));
    let (mut control, _send, _receive) = qp.expect("QP").split();
    control.join_group([0xff; 16]).expect("join");
    let members = bench.world.with(|device| device.members.clone());
    assert_eq!(Vec::from_iter(members), [(control.number(), [0xff; 16], 0)]);
}

#[test]
fn filters_say_which_frames_a_raw_packet_queue_pair_receives() {
    let bench = Bench::new(config(QpType::RawPacket));
    let mac = [2, 0, 0, 0, 0, 9];
    let both = FilterFlags::VLAN | FilterFlags::SPREAD;
    let filters = [
        (
            Frames::Address(mac),
            Some(5),
            true,
            FilterType::Address,
            both,
        ),
        (
            Frames::Broadcast,
            None,
            false,
            FilterType::Broadcast,
            FilterFlags::empty(),
        ),
        (
            Frames::AllMulticast,
            Some(0),
            false,
            FilterType::AllMulticast,
            FilterFlags::VLAN,
        ),
        (
            Frames::All,
            None,
            true,
            FilterType::Promiscuous,
            FilterFlags::SPREAD,
        ),
    ];
    for (frames, vlan, spread, filter_type, flags) in filters {
        let config = FilterConfig {
            frames,
            vlan,
            spread,
        };
        let mut filter = bench
            .driver
            .create_filter(&bench.qp, config)
            .expect("filter");
        let body: SetFilter = bench
            .world
            .with(|device| device.latest(AdminOpcode::SetFilter));
        assert_eq!(
            (body.filter_type, body.flags),
            (filter_type.raw(), flags.bits())
        );
        let wanted = if filter_type == FilterType::Address {
            mac
        } else {
            [0; 6]
        };
        assert_eq!((body.vlan, body.mac), (vlan.unwrap_or(0), wanted));
        assert_eq!(body.qp, bench.qp.number());
        filter.destroy().expect("clear");
    }
    let other = Bench::new(QpConfig::default());
    let config = FilterConfig {
        frames: Frames::All,
        vlan: None,
        spread: false,
    };
    let error = other.driver.create_filter(&other.qp, config).err();
    assert!(matches!(error, Some(Error::BadArgument(_))));
}

#[test]
fn congestion_control_is_set_and_read_back() {
    let (_world, driver) = up();
    let congestion = Congestion {
        flags: CongestionFlags::CAPABLE | CongestionFlags::REACT,
        notification_interval: 50,
        notification_dscp: 48,
        minimum_rate: 10,
    };
    driver.set_congestion(congestion).expect("set");
    assert_eq!(driver.query_congestion(), Ok(congestion));
}

#[test]
fn device_and_event_queues_are_queried() {
    let (_world, driver) = up();
    assert_eq!(driver.query_device().as_ref(), Ok(driver.attributes()));
    for index in 0..=driver.completion_vectors() {
        assert_eq!(driver.query_eq(index).map(|eq| eq.entries), Ok(256));
    }
    let beyond = driver.query_eq(driver.completion_vectors() + 1);
    assert!(matches!(beyond, Err(Error::BadArgument(_))));
}

#[test]
fn a_device_that_can_do_nothing_more_is_not_asked_to() {
    let world = World::new();
    world.with(|device| device.capabilities = Capabilities::RC);
    let driver = Driver::probe(world.platform(), Config::default()).expect("probe");
    let pd = driver.create_pd().expect("PD");
    let mut cq = driver.create_cq(CqConfig::default()).expect("CQ");
    let qp = driver.create_qp(&pd, &cq, &cq, QpConfig::default());
    let mut qp = qp.expect("QP");
    let commands = world.with(|device| device.commands_seen.len());
    let config = SrqConfig::default();
    let vector = AddressVector::default();
    let moderation = Moderation {
        period: 1,
        count: 1,
    };
    let moderated = CqConfig {
        moderation,
        ..CqConfig::default()
    };
    let filter = FilterConfig {
        frames: Frames::All,
        vlan: None,
        spread: false,
    };
    let errors = [
        driver.create_srq(&pd, config).err(),
        driver.create_xrcd().err(),
        driver
            .create_xrc_initiator(&pd, &cq, QpConfig::default())
            .err(),
        driver.create_ah(&pd, vector).err(),
        driver.create_mw(&pd, WindowType::Type1, 0).err(),
        driver.create_fast_region(&pd, 4, 0).err(),
        driver.create_cq(moderated).err(),
        driver.create_filter(&qp, filter).err(),
        driver.set_congestion(Congestion::default()).err(),
        driver.query_congestion().err(),
        cq.set_moderation(moderation).err(),
        cq.resize(64).err(),
        qp.attach_multicast([0xff; 16], 0).err(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        assert!(
            matches!(error, Some(Error::Unsupported(_))),
            "{number}: {error:?}"
        );
    }
    assert_eq!(world.with(|device| device.commands_seen.len()), commands);
    let invalidate = SendRequest {
        operation: Operation::LocalInvalidate(1),
        ..SendRequest::default()
    };
    assert_eq!(qp.post_send(&invalidate), Err(PostError::Unsupported));
}
