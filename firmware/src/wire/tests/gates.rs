//! Well-formed damage: each frame is dropped for the reason that fits.

use vrnic_abi::counter::Counter;

use super::*;

const SEND: Body = Body::Send {
    place: Place::Only,
    tail: SendTail::None,
};

/// What becomes of a frame of 20 bytes of payload after a change, with right checksums.
#[track_caller]
fn after(path: Path, body: Body, change: impl FnOnce(&mut [u8])) -> Option<DropReason> {
    after_in(Service::Reliable, path, body, change)
}

#[track_caller]
fn after_in(
    service: Service,
    path: Path,
    body: Body,
    change: impl FnOnce(&mut [u8]),
) -> Option<DropReason> {
    let length = if has_payload(&body) { 20 } else { 0 };
    let mut frame = frame(&path, &pdu_of(service, body, length));
    change(&mut frame[network(&path)..]);
    sign(&path, &mut frame);
    parse(&frame).err()
}

#[test]
fn what_is_not_roce_is_left_to_others() {
    let not_roce = Some(DropReason::NotRoce);
    assert_eq!(after(path_v4(), SEND, |ip| ip[9] = 6), not_roce);
    assert_eq!(after(path_v6(), SEND, |ip| ip[6] = 58), not_roce);
    assert_eq!(after(path_v4(), SEND, |ip| ip[6] = 0x20), not_roce);
    assert_eq!(after(path_v4(), SEND, |ip| ip[7] = 1), not_roce);
    assert_eq!(after(path_v4(), SEND, |ip| ip[20 + 3] ^= 1), not_roce);
    assert_eq!(after(path_v6(), SEND, |ip| ip[40 + 3] ^= 1), not_roce);
    let mut arp = frame(&path_v4(), &pdu(SEND, 0));
    arp[13] = 6;
    assert_eq!(parse(&arp), Err(DropReason::NotRoce));
    assert_eq!(DropReason::NotRoce.counter(), None);
}

#[test]
fn fragments_may_be_allowed_but_not_made() {
    assert_eq!(after(path_v4(), SEND, |ip| ip[6] = 0), None);
}

#[test]
fn ip_headers_must_be_sound() {
    let header = Some(DropReason::IpHeader);
    assert_eq!(after(path_v6(), SEND, |ip| ip[0] = 0x50), header);
    let mut bad = frame(&path_v4(), &pdu(SEND, 0));
    bad[14] = 0x55;
    assert_eq!(parse(&bad).err(), header);
    bad[14] = 0x44;
    assert_eq!(parse(&bad).err(), header);
    bad[14] = 0x45;
    bad[14 + 10] ^= 0x80;
    assert_eq!(parse(&bad).err(), header);
}

#[test]
fn ip_options_are_skipped() {
    let pdu = pdu(SEND, 20);
    let mut frame = frame(&path_v4(), &pdu);
    frame.splice(34..34, [1, 1, 1, 1, 1, 1, 1, 0]);
    frame[14] = 0x47;
    frame[14 + 3] += 8;
    sign(&path_v4(), &mut frame);
    assert_received(&parse(&frame).unwrap(), &path_v4(), &pdu);
    frame[36] = 0;
    assert_eq!(parse(&frame), Err(DropReason::IpHeader));
}

#[test]
fn priority_tags_belong_to_no_vlan() {
    let path = Path {
        vlan: 1,
        ..path_v4()
    };
    let mut frame = frame(&path, &pdu(SEND, 4));
    frame[15] = 0;
    let received = parse(&frame).unwrap();
    assert_eq!((received.vlan, received.priority), (0, 3));
}

#[test]
fn lengths_must_agree() {
    let length = Some(DropReason::Length);
    assert_eq!(after(path_v4(), SEND, |ip| ip[20 + 5] -= 4), length);
    assert_eq!(after(path_v6(), SEND, |ip| ip[40 + 5] += 4), length);
    for missing in 1..4 {
        // The pad count does not say so.
        let shorten = |ip: &mut [u8]| {
            ip[3] -= missing;
            ip[20 + 5] -= missing;
        };
        assert_eq!(after(path_v4(), SEND, shorten), length);
    }
}

#[test]
fn padding_must_be_there() {
    for pad in 0..4 {
        let flags = 0x40 | pad << 4;
        assert_eq!(after(path_v4(), SEND, |ip| ip[29] = flags), None);
    }
    let mut empty = frame(&path_v4(), &pdu(SEND, 0));
    empty[14 + 29] = 0x50;
    sign(&path_v4(), &mut empty);
    assert_eq!(parse(&empty), Err(DropReason::Length));
}

#[test]
fn transport_headers_have_one_version() {
    let result = after(path_v4(), SEND, |ip| ip[29] |= 1);
    assert_eq!(result, Some(DropReason::TransportVersion));
}

#[test]
fn what_carries_no_payload_may_not_have_any() {
    let unexpected = Some(DropReason::UnexpectedPayload);
    for (service, body) in packets() {
        if has_payload(&body) {
            continue;
        }
        let padded = after_in(service, path_v4(), body, |ip| ip[29] |= 0x10);
        assert_eq!(padded, unexpected);
        let mut frame = frame(&path_v4(), &pdu_of(service, body, 0));
        frame.truncate(usize::from(frame[17]) + 14);
        frame.extend_from_slice(&[0; 4]);
        frame[17] += 4;
        frame[39] += 4;
        sign(&path_v4(), &mut frame);
        assert_eq!(parse(&frame).err(), unexpected);
    }
}

#[test]
fn reserved_syndromes_are_dropped() {
    let body = Body::Acknowledge(acknowledge(Syndrome::Ack(0)));
    for syndrome in 0..=255 {
        let known = matches!(syndrome, 0..=0x3f | 0x60..=0x64);
        let expected = (!known).then_some(DropReason::Syndrome);
        assert_eq!(after(path_v4(), body, |ip| ip[40] = syndrome), expected);
    }
}

#[test]
fn every_opcode_is_known_or_refused() {
    for opcode in 0..=255 {
        // As much payload as the longest headers need.
        let mut frame = frame(&path_v6(), &pdu(SEND, 32));
        frame[14 + 48] = opcode;
        sign(&path_v6(), &mut frame);
        let unknown = matches!(
            opcode,
            0x15 | 0x18..=0x1b
                | 0x1e..=0x1f
                | 0x2c..=0x3f
                | 0x56..=0x5b
                | 0x5d..=0x5f
                | 0x80
                | 0x82..=0x9f
                | 0xb5
                | 0xb8..=0xbb
                | 0xbe..=0xff
        );
        let unsupported = !unknown && matches!(opcode, 0x40..=0x5f);
        let datagram = matches!(opcode, 0x60..=0x63 | 0x66..=0x7f);
        let result = parse(&frame).err();
        assert_eq!(result == Some(DropReason::UnknownOpcode), unknown);
        assert_eq!(result == Some(DropReason::UnsupportedOpcode), unsupported);
        assert_eq!(result == Some(DropReason::DatagramOperation), datagram);
    }
}

#[test]
fn reserved_bits_are_ignored() {
    let extended = Service::Extended { srqn: 5 };
    // Where the reserved byte of the service's own header stands, or one of the payload.
    for (service, reserved) in [
        (Service::Reliable, None),
        (DATAGRAM, Some(4)),
        (extended, Some(0)),
    ] {
        let pdu = pdu_of(service, SEND, 20);
        let mut frame = frame(&path_v4(), &pdu);
        frame[14 + 28 + 4] = 0x3f;
        frame[14 + 28 + 8] |= 0x7f;
        if let Some(reserved) = reserved {
            frame[14 + 28 + 12 + reserved] = 0xff;
        }
        sign(&path_v4(), &mut frame);
        assert_received(&parse(&frame).unwrap(), &path_v4(), &pdu);
    }
}

#[test]
fn flushes_ask_for_what_is_known() {
    let flush = flushes().next().unwrap();
    for bit in 0..32 {
        for low in 0..64_u32 {
            let bits = low | 1 << bit;
            let known = bits < 0x20 && matches!(bits & 0xf, 1..=3);
            let expected = (!known).then_some(DropReason::FlushHeader);
            let result = after(path_v4(), flush, |ip| {
                ip[40..44].copy_from_slice(&bits.to_be_bytes());
            });
            assert_eq!(result, expected, "{bits:#x}");
        }
    }
    let nothing = after(path_v4(), flush, |ip| ip[40..44].fill(0));
    assert_eq!(nothing, Some(DropReason::FlushHeader));
    assert_eq!(
        DropReason::FlushHeader.counter(),
        Some(Counter::RxReservedField)
    );
}

#[test]
fn atomic_writes_are_of_eight_bytes() {
    let body = Body::AtomicWrite {
        address: 8,
        rkey: 1,
        value: [7; 8],
    };
    for length in [0_u32, 1, 7, 9, 16, 0x0800_0000, u32::MAX] {
        let result = after(path_v6(), body, |ip| {
            ip[72..76].copy_from_slice(&length.to_be_bytes());
        });
        assert_eq!(result, Some(DropReason::AtomicWriteLength));
    }
    let mut short = frame(&path_v4(), &pdu(body, 0));
    short.truncate(short.len() - 4);
    short[17] -= 4;
    short[39] -= 4;
    sign(&path_v4(), &mut short);
    assert_eq!(parse(&short), Err(DropReason::Length));
}

#[test]
fn responses_name_no_shared_receive_queue() {
    let response = Body::Acknowledge(acknowledge(Syndrome::Ack(1)));
    let service = Service::Extended { srqn: 0 };
    let frame = frame(&path_v4(), &pdu_of(service, response, 0));
    assert_eq!(usize::from(frame[17]), 20 + 8 + 12 + 4 + 4);
}
