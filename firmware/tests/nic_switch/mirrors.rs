//! Frames of mirrored functions, as somebody who captures at their port would see them.

use vrnic_abi::admin::FilterType;
use vrnic_abi::counter::Counter;
use vrnic_abi::wqe::WqeFlags;
use vrnic_firmware::host::MirrorSide;
use vrnic_firmware::pdu::Body;
use vrnic_firmware::types::Mac;
use vrnic_firmware::wire::{Received, parse};

use super::nic_bench::net::Way;
use super::nic_bench::{Bench, gid, mac};
use super::rules::*;
use super::support::*;

/// What was shown at node `index`, in order.
fn shown(connection: &mut Connection, index: usize, side: MirrorSide) -> Vec<Vec<u8>> {
    let id = connection.nodes[index].driver.id;
    let all = &mut connection.net.of(index).wire.mirrored;
    let of_it = |frame: &&(_, _, Vec<u8>)| (frame.0, frame.1) == (id, side);
    let frames = all.iter().filter(of_it);
    let frames = frames.map(|(_, _, frame)| frame.clone()).collect();
    all.retain(|frame| (frame.0, frame.1) != (id, side));
    frames
}

/// Requests and acknowledgements of a WRITE are shown on each way at both ends, with the data, in the
/// VLAN of the network, and no more when that is over.
#[test]
fn rdma_of_a_mirrored_function_is_shown_as_frames() {
    for mut connection in Connection::each() {
        connection.set(0, access(100, 3));
        connection.set(1, access(100, 0));
        let ids = [0, 1].map(|index| connection.nodes[index].driver.id);
        for index in [0, 1] {
            assert!(connection.net.of(index).nic.set_mirror(ids[index], true));
            assert!(connection.net.of(index).nic.is_mirrored(ids[index]));
        }
        let (at, bytes) = connection.post(0, 3000);
        connection.net.run();
        assert_eq!(
            connection.nodes[0].poll().map(|entry| entry.status),
            Some(0)
        );
        assert_eq!(connection.nodes[1].hw().bytes(at, 3000), bytes);
        let way = connection.way;
        let requests = shown(&mut connection, 0, MirrorSide::Sent);
        assert_eq!(shown(&mut connection, 1, MirrorSide::Received), requests);
        let answers = shown(&mut connection, 1, MirrorSide::Sent);
        assert_eq!(shown(&mut connection, 0, MirrorSide::Received), answers);
        let packets: Vec<Received<'_>> = requests.iter().map(|f| parse(f).unwrap()).collect();
        assert_eq!(packets.len(), 3, "{way:?}");
        let data: Vec<u8> = packets.iter().flat_map(|p| p.payload.to_vec()).collect();
        assert!(data == bytes, "{way:?}");
        for packet in packets {
            assert_eq!((packet.vlan, packet.priority), (100, 3));
            assert_eq!((packet.source, packet.source_mac), (gid(1), mac(1)));
        }
        let last = parse(answers.last().unwrap()).unwrap();
        assert!(matches!(last.pdu.body, Body::Acknowledge(_)), "{way:?}");
        assert_eq!((last.vlan, last.source), (100, gid(2)));
        let local = connection.counter(0, Counter::LocalBytes);
        assert_eq!(local, if way == Way::Direct { 3000 } else { 0 });
        for index in [0, 1] {
            assert!(connection.net.of(index).nic.set_mirror(ids[index], false));
        }
        connection.works(0);
        for index in [0, 1] {
            assert!(connection.net.of(index).wire.mirrored.is_empty());
        }
    }
}

/// Only one end is mirrored: what it sends, what it gets, and nothing of others.
#[test]
fn a_mirror_shows_its_function_only() {
    for mirrored in [0, 1] {
        for mut connection in Connection::each() {
            let id = connection.nodes[mirrored].driver.id;
            connection.net.of(mirrored).nic.set_mirror(id, true);
            connection.works(0);
            let sent = shown(&mut connection, mirrored, MirrorSide::Sent);
            let received = shown(&mut connection, mirrored, MirrorSide::Received);
            let requests = [&sent, &received][mirrored];
            let answers = [&received, &sent][mirrored];
            assert_eq!(requests.len(), 3, "{:?}", connection.way);
            assert!(!answers.is_empty(), "{:?}", connection.way);
            for index in [0, 1] {
                assert!(connection.net.of(index).wire.mirrored.is_empty());
            }
        }
    }
}

#[test]
fn raw_frames_of_a_mirrored_function_are_shown() {
    let none = WqeFlags::empty();
    let mut bench = Bench::default();
    let mut one = Station::listening(&mut bench, 1);
    one.listen(&mut bench, FilterType::Broadcast, mac(0));
    one.listen(&mut bench, FilterType::Promiscuous, mac(0));
    let mut two = Station::listening(&mut bench, 2);
    set(&mut bench, one.driver.id, access(7, 0));
    assert!(bench.nic.set_mirror(one.driver.id, true));
    let frame = |to, from| ethernet(to, from, 0x88b5, &[0x17; 70]);
    let mut expected = Vec::new();
    // To a neighbour, out, to all, without a link; forged ones are not shown.
    for to in [mac(2), STRANGER, Mac::BROADCAST] {
        one.transmit(&mut bench, &frame(to, mac(1)), none, 0);
        expected.push((MirrorSide::Sent, tagged(&frame(to, mac(1)), 7)));
    }
    one.transmit(&mut bench, &tagged(&frame(mac(2), mac(1)), 5), none, 0);
    bench.nic.set_link(false);
    one.transmit(&mut bench, &frame(STRANGER, mac(1)), none, 0);
    expected.push((MirrorSide::Sent, tagged(&frame(STRANGER, mac(1)), 7)));
    bench.nic.set_link(true);
    // What it gets, once, with the tag; and nothing of what it does not get.
    for to in [mac(1), Mac::BROADCAST] {
        arrive(&mut bench, &tagged(&frame(to, STRANGER), 7));
        arrive(&mut bench, &frame(to, STRANGER));
        expected.push((MirrorSide::Received, tagged(&frame(to, STRANGER), 7)));
    }
    while two.received().is_some() {}
    two.transmit(&mut bench, &frame(STRANGER, mac(2)), none, 0);
    let shown: Vec<_> = bench.wire.mirrored.drain(..).collect();
    assert!(shown.iter().all(|(id, _, _)| *id == one.driver.id));
    let shown: Vec<_> = shown.into_iter().map(|(_, side, f)| (side, f)).collect();
    assert_eq!(shown, expected);
    let id = one.driver.id;
    bench.nic.remove_function(id);
    assert!(!bench.nic.set_mirror(id, true) && !bench.nic.is_mirrored(id));
}
