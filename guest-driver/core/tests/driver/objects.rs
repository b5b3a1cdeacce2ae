//! Address handles, multicast, filters, congestion, queries, and devices that lack them.

use vrnic_driver::abi::admin::{
    AdminOpcode, CongestionFlags, FilterFlags, FilterType, MulticastGroup, QpType, SetFilter,
    WindowType,
};
use vrnic_driver::abi::object::AddressVector;
use vrnic_driver::abi::registers::Capabilities;
use vrnic_driver::{
    Config, Congestion, CqConfig, Driver, Error, FilterConfig, Frames, Moderation, Operation,
    PostError, QpConfig, SendRequest, SrqConfig,
};

use crate::fake::World;
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
