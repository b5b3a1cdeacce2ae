//! What the driver of a physical function sets of the virtual ones, and what it does not.

use vrnic_abi::admin::{
    AdminOpcode, Completion, ConfigureVf, FilterType, ObjectOutput, OutputBuffer, Status, VfFlags,
    VfLink, VfSettings,
};
use vrnic_abi::counter::Counter;
use vrnic_abi::object::{DeviceAttributes, PortAttributes, VfAttributes};
use vrnic_abi::registers::{self as reg, Capabilities, DeviceState};
use vrnic_abi::wqe::WqeFlags;
use vrnic_firmware::nic::{LinkMode, Policy, SpoofChecks, VlanMode, Vlans};
use vrnic_firmware::types::Mac;

use super::nic_bench::{Bench, Driver, PATTERN, filter, mac};
use super::rules::*;
use super::support::*;

pub const CHOSEN: Mac = Mac([2, 0, 0, 0, 7, 7]);

/// A change of virtual function 1.
pub fn change(mask: VfSettings) -> ConfigureVf {
    ConfigureVf {
        vf: 1,
        mask: mask.bits(),
        ..ConfigureVf::default()
    }
}

pub fn assign(mac: Mac) -> ConfigureVf {
    ConfigureVf {
        mac: mac.0,
        ..change(VfSettings::MAC)
    }
}

fn vlan(vlan: u16, priority: u8) -> ConfigureVf {
    ConfigureVf {
        vlan,
        priority,
        ..change(VfSettings::VLAN)
    }
}

pub fn configure(bench: &mut Bench, pf: &mut Driver, body: &ConfigureVf) -> Completion {
    pf.command(bench, AdminOpcode::ConfigureVf, body)
}

#[track_caller]
pub fn configured(bench: &mut Bench, pf: &mut Driver, body: &ConfigureVf) {
    pf.ok(bench, AdminOpcode::ConfigureVf, body);
}

#[track_caller]
fn query(bench: &mut Bench, pf: &mut Driver, number: u32) -> VfAttributes {
    pf.query(bench, AdminOpcode::QueryVf, number)
}

/// The frames that went out on the link since the last look.
pub fn sent(bench: &mut Bench) -> Vec<Vec<u8>> {
    bench.wire.sent.drain(..).collect()
}

/// Status and syndrome.
pub fn refusal(completion: Completion) -> (Status, u32) {
    let status = Status::from_raw(completion.status).unwrap();
    (status, completion.syndrome)
}

#[track_caller]
pub fn port(bench: &mut Bench, driver: &mut Driver) -> PortAttributes {
    let address = driver.memory(128, false);
    let output = OutputBuffer {
        address,
        length: 128,
        reserved: 0,
    };
    driver.ok(bench, AdminOpcode::QueryPort, &output);
    driver.hw.read(address)
}

#[test]
fn a_physical_function_says_that_it_has_virtual_ones() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let has = |driver: &Driver| {
        let low = driver.hw.register(&reg::CAPABILITIES);
        Capabilities::from_bits_retain(low.into()).contains(Capabilities::SRIOV)
    };
    let max_vf = |bench: &mut Bench, pf: &mut Driver| {
        let address = pf.memory(256, false);
        let output = OutputBuffer {
            address,
            length: 256,
            reserved: 0,
        };
        pf.ok(bench, AdminOpcode::QueryDevice, &output);
        let found: DeviceAttributes = pf.hw.read(address);
        let capabilities = Capabilities::from_bits_retain(found.capabilities);
        assert_eq!(capabilities.contains(Capabilities::SRIOV), found.max_vf > 0);
        found.max_vf
    };
    assert!(!has(&pf));
    assert_eq!(max_vf(&mut bench, &mut pf), 0);
    let vfs = [1, 2].map(|n| Driver::ready(&mut bench, n));
    assert!(has(&pf) && !has(&vfs[0]));
    assert_eq!(max_vf(&mut bench, &mut pf), 2);
    bench.nic.reset(pf.id);
    assert!(has(&pf), "after a reset");
    pf.enable(&mut bench);
    bench.nic.remove_function(vfs[1].id).unwrap();
    assert!(has(&pf));
    assert_eq!(max_vf(&mut bench, &mut pf), 1);
    bench.nic.remove_function(vfs[0].id).unwrap();
    assert!(!has(&pf));
}

#[test]
fn settings_become_rules_and_can_be_seen() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let vf = Driver::ready(&mut bench, 1);
    let before = query(&mut bench, &mut pf, 1);
    let flags = VfFlags::TRUST | VfFlags::ENABLED | VfFlags::LINK_UP;
    assert_eq!(before.flags, flags.bits());
    assert_eq!((before.mac, before.current_mac), (mac(1).0, mac(1).0));
    assert_eq!(before.state, DeviceState::Ready.raw());

    let all = VfSettings::VLAN | VfSettings::LINK | VfSettings::SPOOF_CHECK | VfSettings::TRUST;
    let body = ConfigureVf {
        vlan: 100,
        priority: 3,
        link: VfLink::Enabled.raw(),
        flags: VfFlags::SPOOF_CHECK.bits(),
        ..change(all)
    };
    configured(&mut bench, &mut pf, &body);
    let policy = Policy {
        vlan: VlanMode::Access {
            vlan: 100,
            priority: 3,
        },
        checks: SpoofChecks {
            mac: true,
            ..SpoofChecks::default()
        },
        trusted: false,
        link: LinkMode::Enabled,
        ..Policy::default()
    };
    assert_eq!(bench.nic.policy(vf.id), Some(&policy));
    let after = query(&mut bench, &mut pf, 1);
    let flags = VfFlags::SPOOF_CHECK | VfFlags::ENABLED | VfFlags::LINK_UP;
    assert_eq!(after.flags, flags.bits());
    let seen = (after.vlan, after.priority, after.link);
    assert_eq!(seen, (100, 3, VfLink::Enabled.raw()));

    // What is not named stays, whatever stands there.
    let body = ConfigureVf {
        mac: [0xff; 6],
        vlan: 0xffff,
        priority: 0xff,
        link: 0xff,
        flags: u32::MAX,
        ..change(VfSettings::TRUST)
    };
    configured(&mut bench, &mut pf, &body);
    let policy = Policy {
        trusted: true,
        ..policy
    };
    assert_eq!(bench.nic.policy(vf.id), Some(&policy));
    let body = ConfigureVf {
        max_rate: 5_000,
        weight: 200,
        ..change(VfSettings::MAX_RATE | VfSettings::WEIGHT)
    };
    configured(&mut bench, &mut pf, &body);
    let policy = Policy {
        max_rate: Some(5_000),
        weight: 200,
        ..policy
    };
    assert_eq!(bench.nic.policy(vf.id), Some(&policy));
    let seen = query(&mut bench, &mut pf, 1);
    assert_eq!((seen.max_rate, seen.weight), (5_000, 200));
    let without = change(VfSettings::MAX_RATE);
    configured(&mut bench, &mut pf, &without);
    assert_eq!(bench.nic.policy(vf.id).unwrap().max_rate, None);
    configured(&mut bench, &mut pf, &vlan(0, 0));
    let trunk = VlanMode::Trunk(Vlans::All);
    assert_eq!(bench.nic.policy(vf.id).unwrap().vlan, trunk);
}

#[test]
fn what_a_virtual_function_sends_obeys_and_is_counted() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let mut vf = Station::listening(&mut bench, 1);
    let frame = padded(ethernet(mac(9), mac(1), 0x88b5, b"from a virtual function"));
    vf.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
    assert_eq!(sent(&mut bench), std::slice::from_ref(&frame));

    configured(&mut bench, &mut pf, &vlan(100, 3));
    vf.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
    assert_eq!(sent(&mut bench), [tagged(&frame, 3 << 13 | 100)]);
    arrive(&mut bench, &ethernet(mac(1), mac(9), 0x88b5, &[5; 60]));
    assert!(vf.received().is_none(), "it is not in that VLAN");

    let on = ConfigureVf {
        flags: VfFlags::SPOOF_CHECK.bits(),
        ..change(VfSettings::SPOOF_CHECK)
    };
    configured(&mut bench, &mut pf, &on);
    let forged = padded(ethernet(mac(9), mac(8), 0x88b5, b"from somebody else"));
    vf.transmit(&mut bench, &forged, WqeFlags::empty(), 0);
    assert!(sent(&mut bench).is_empty());

    let seen = query(&mut bench, &mut pf, 1);
    let bytes = (2 * frame.len() + 4) as u64;
    assert_eq!((seen.tx_packets, seen.tx_bytes), (2, bytes / 4 * 4));
    assert_eq!((seen.tx_dropped, seen.rx_dropped), (1, 1));
    assert_eq!((seen.rx_packets, seen.rx_bytes), (0, 0));

    let down = ConfigureVf {
        link: VfLink::Disabled.raw(),
        ..change(VfSettings::LINK)
    };
    configured(&mut bench, &mut pf, &down);
    vf.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
    assert!(sent(&mut bench).is_empty());
    let seen = query(&mut bench, &mut pf, 1);
    assert_eq!(seen.tx_dropped, 2);
    assert_eq!(seen.flags & VfFlags::LINK_UP.bits(), 0);
}

#[test]
fn an_address_is_the_functions_from_its_next_reset_on() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let mut vf = Driver::ready(&mut bench, 1);
    configured(&mut bench, &mut pf, &assign(CHOSEN));
    let seen = query(&mut bench, &mut pf, 1);
    assert_eq!((seen.mac, seen.current_mac), (CHOSEN.0, mac(1).0));
    assert_eq!(
        seen.flags & VfFlags::MAC_ASSIGNED.bits(),
        VfFlags::MAC_ASSIGNED.bits()
    );
    assert_eq!(port(&mut bench, &mut vf).mac, mac(1).0);
    bench.nic.reset(vf.id);
    vf.enable(&mut bench);
    assert_eq!(port(&mut bench, &mut vf).mac, CHOSEN.0);
    let seen = query(&mut bench, &mut pf, 1);
    assert_eq!((seen.mac, seen.current_mac), (CHOSEN.0, CHOSEN.0));

    // Taken back, likewise.
    configured(&mut bench, &mut pf, &assign(Mac([0; 6])));
    assert_eq!(port(&mut bench, &mut vf).mac, CHOSEN.0);
    bench.nic.reset(vf.id);
    vf.enable(&mut bench);
    assert_eq!(port(&mut bench, &mut vf).mac, mac(1).0);
    let seen = query(&mut bench, &mut pf, 1);
    assert_eq!(seen.flags & VfFlags::MAC_ASSIGNED.bits(), 0);

    // At once, if nobody uses the function.
    bench.nic.reset(vf.id);
    configured(&mut bench, &mut pf, &assign(CHOSEN));
    assert_eq!(query(&mut bench, &mut pf, 1).current_mac, CHOSEN.0);
    vf.enable(&mut bench);
    assert_eq!(port(&mut bench, &mut vf).mac, CHOSEN.0);
}

#[test]
fn frames_follow_the_address() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let mut vf = Driver::add(&mut bench, 1);
    configured(&mut bench, &mut pf, &assign(CHOSEN));
    vf.enable(&mut bench);
    let mut peer = Station::listening(&mut bench, 2);
    // Nobody else can have it, nor what the function was made with.
    for address in [CHOSEN, mac(1)] {
        let body = filter(peer.queues[0].qp.number, FilterType::Address, address);
        let refused = peer
            .driver
            .command(&mut bench, AdminOpcode::SetFilter, &body);
        assert_eq!(refusal(refused).0, Status::Busy, "{address:?}");
    }
    // A neighbour's frame to it does not leave, as it is known where it is.
    let frame = padded(ethernet(CHOSEN, mac(2), 0x88b5, b"to the address chosen"));
    peer.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
    assert!(sent(&mut bench).is_empty());
    let frame = padded(ethernet(mac(1), mac(2), 0x88b5, b"to the one before"));
    peer.transmit(&mut bench, &frame, WqeFlags::empty(), 0);
    assert_eq!(sent(&mut bench), [frame]);
}

#[test]
fn an_address_in_use_is_refused() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let vf = Driver::ready(&mut bench, 1);
    let mut peer = Station::listening(&mut bench, 2);
    peer.listen(&mut bench, FilterType::Address, mac(50));
    let listed = Policy {
        macs: vec![mac(51)],
        ..Policy::default()
    };
    set(&mut bench, peer.driver.id, listed);
    let to_second = ConfigureVf {
        vf: 2,
        ..assign(mac(52))
    };
    configured(&mut bench, &mut pf, &to_second);
    for taken in [0, 2, 50, 51, 52] {
        let body = ConfigureVf {
            flags: VfFlags::SPOOF_CHECK.bits(),
            mask: (VfSettings::MAC | VfSettings::SPOOF_CHECK).bits(),
            ..assign(mac(taken))
        };
        let refused = refusal(configure(&mut bench, &mut pf, &body));
        assert_eq!(refused, (Status::Busy, 0x10), "{taken}");
        assert_eq!(bench.nic.policy(vf.id), Some(&Policy::default()));
    }
    assert_eq!(query(&mut bench, &mut pf, 1).mac, mac(1).0);
}

#[test]
fn the_operator_has_the_last_word() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let vf = Driver::add(&mut bench, 1);
    let fixed = Policy {
        pf_may_change: false,
        ..access(5, 0)
    };
    set(&mut bench, vf.id, fixed.clone());
    let attempts = [
        assign(CHOSEN),
        vlan(0, 0),
        change(VfSettings::TRUST),
        change(VfSettings::empty()),
    ];
    for (count, body) in (1..).zip(attempts) {
        let refused = refusal(configure(&mut bench, &mut pf, &body));
        assert_eq!(refused, (Status::NotPermitted, 0x08));
        assert_eq!(bench.nic.policy(vf.id), Some(&fixed));
        let refusals = bench.nic.function(pf.id).unwrap();
        let refusals = refusals.objects.counter(Counter::PolicyRefusals);
        assert_eq!(refusals, count);
    }
    let seen = query(&mut bench, &mut pf, 1);
    assert_eq!(seen.current_mac, mac(1).0);
    assert_eq!(
        (seen.vlan, seen.flags & VfFlags::FIXED.bits() != 0),
        (5, true)
    );
}

#[test]
fn a_function_is_taken_out_of_service_and_put_back() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let mut vf = Driver::ready(&mut bench, 1);
    let state = |driver: &Driver| DeviceState::from_raw(driver.state() as u8);
    let out = change(VfSettings::ENABLED);
    let back = ConfigureVf {
        flags: VfFlags::ENABLED.bits(),
        ..out
    };
    configured(&mut bench, &mut pf, &out);
    assert_eq!(state(&vf), Some(DeviceState::Error));
    assert_eq!(bench.nic.is_enabled(vf.id), Some(false));
    let seen = query(&mut bench, &mut pf, 1);
    assert_eq!(seen.flags & VfFlags::ENABLED.bits(), 0);
    assert_eq!(seen.state, DeviceState::Error.raw());
    // It gets its address with that.
    let body = ConfigureVf {
        mask: (VfSettings::MAC | VfSettings::ENABLED).bits(),
        mac: CHOSEN.0,
        ..back
    };
    configured(&mut bench, &mut pf, &body);
    assert_eq!(state(&vf), Some(DeviceState::Reset));
    vf.enable(&mut bench);
    assert_eq!(port(&mut bench, &mut vf).mac, CHOSEN.0);

    // The operator's word counts, also where he repeats it only.
    configured(&mut bench, &mut pf, &out);
    assert!(bench.nic.set_enabled(vf.id, false));
    let refused = refusal(configure(&mut bench, &mut pf, &back));
    assert_eq!(refused, (Status::NotPermitted, 0x08));
    configured(&mut bench, &mut pf, &out);
    let refused = refusal(configure(&mut bench, &mut pf, &back));
    assert_eq!(refused, (Status::NotPermitted, 0x08));
    assert_eq!(bench.nic.is_enabled(vf.id), Some(false));
    assert!(bench.nic.set_enabled(vf.id, true));
    configured(&mut bench, &mut pf, &back);
    assert_eq!(state(&vf), Some(DeviceState::Reset));
}

#[test]
fn nobody_else_administers() {
    let mut bench = Bench::default();
    let _pf = Driver::ready(&mut bench, 0);
    let mut vf = Driver::ready(&mut bench, 1);
    let other = Driver::ready(&mut bench, 2);
    for number in [0, 1, 2, 3] {
        let body = ConfigureVf {
            vf: number,
            ..change(VfSettings::TRUST)
        };
        let refused = refusal(configure(&mut bench, &mut vf, &body));
        assert_eq!(refused, (Status::NotPermitted, 0));
        let address = vf.memory(128, false);
        let output = OutputBuffer {
            address,
            length: 128,
            reserved: 0,
        };
        let body = ObjectOutput {
            object: number,
            reserved: 0,
            output,
        };
        let refused = refusal(vf.command(&mut bench, AdminOpcode::QueryVf, &body));
        assert_eq!(refused, (Status::NotPermitted, 0));
        assert_eq!(vf.hw.bytes(address, 128), [PATTERN; 128]);
    }
    for id in [vf.id, other.id] {
        assert_eq!(bench.nic.policy(id), Some(&Policy::default()));
    }
}

#[test]
fn what_is_not_sound_is_refused_and_changes_nothing() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let vf = Driver::ready(&mut bench, 1);
    let with_trust = |body: ConfigureVf| ConfigureVf {
        mask: body.mask | VfSettings::TRUST.bits(),
        ..body
    };
    let weight = change(VfSettings::WEIGHT);
    let link = ConfigureVf {
        link: 3,
        ..change(VfSettings::LINK)
    };
    let unknown = ConfigureVf {
        mask: 1 << 31,
        ..change(VfSettings::empty())
    };
    let attempts = [
        (assign(Mac::BROADCAST), 0x10),
        (assign(Mac([1, 0, 0x5e, 0, 0, 1])), 0x10),
        (vlan(4095, 0), 0x16),
        (vlan(0xffff, 0), 0x16),
        (vlan(100, 8), 0x18),
        (vlan(0, 1), 0x18),
        (link, 0x19),
        (weight, 0x1a),
        (unknown, 0x0c),
    ];
    for (body, at) in attempts {
        let refused = refusal(configure(&mut bench, &mut pf, &with_trust(body)));
        assert_eq!(refused, (Status::BadArgument, at), "{body:?}");
        assert_eq!(bench.nic.policy(vf.id), Some(&Policy::default()));
    }
    for number in [0, 2, 0x1_0001, u32::MAX] {
        let body = ConfigureVf {
            vf: number,
            ..change(VfSettings::TRUST)
        };
        let refused = refusal(configure(&mut bench, &mut pf, &body));
        assert_eq!(refused, (Status::NoSuchObject, 0x08), "{number:#x}");
    }
    for id in [pf.id, vf.id] {
        assert_eq!(bench.nic.policy(id), Some(&Policy::default()));
    }
}

#[test]
fn commands_take_effect_in_their_order() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let vf = Driver::ready(&mut bench, 1);
    let mut ids = Vec::new();
    for round in 1..=5u16 {
        let body = bytemuck::bytes_of(&vlan(round, 0)).to_vec();
        ids.push(pf.put(AdminOpcode::ConfigureVf.raw(), &body));
        ids.push(pf.put(AdminOpcode::Nop.raw(), &[]));
    }
    pf.announce(&mut bench);
    bench.run();
    let done: Vec<_> = std::iter::from_fn(|| pf.take(&mut bench)).collect();
    assert_eq!(done.iter().map(|c| c.id).collect::<Vec<_>>(), ids);
    assert!(done.iter().all(|c| c.status == 0));
    let last = VlanMode::Access {
        vlan: 5,
        priority: 0,
    };
    assert_eq!(bench.nic.policy(vf.id).unwrap().vlan, last);
}

#[test]
fn a_description_goes_where_there_is_room_for_it() {
    let mut bench = Bench::default();
    let mut pf = Driver::ready(&mut bench, 0);
    let _vf = Driver::ready(&mut bench, 1);
    let memory = pf.memory(4096, false);
    let query = |address, length| ObjectOutput {
        object: 1,
        reserved: 0,
        output: OutputBuffer {
            address,
            length,
            reserved: 0,
        },
    };
    let attempts = [
        (query(memory, 7), (Status::BufferTooSmall, 0x18)),
        (query(memory + 4, 128), (Status::BadArgument, 0x10)),
        (query(u64::MAX - 7, 128), (Status::DmaFailed, 0x10)),
    ];
    for (body, expected) in attempts {
        let refused = pf.command(&mut bench, AdminOpcode::QueryVf, &body);
        assert_eq!(refusal(refused), expected);
    }
    pf.ok(&mut bench, AdminOpcode::QueryVf, &query(memory, 16));
    let bytes = pf.hw.bytes(memory, 32);
    assert_eq!(bytes[8..14], mac(1).0);
    assert_eq!(bytes[16..], [PATTERN; 16]);
}
