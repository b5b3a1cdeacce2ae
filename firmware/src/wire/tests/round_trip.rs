//! What is written is read back, with an ICRC that is the definition's.

use super::*;

#[test]
fn every_operation_of_every_service_on_every_kind_of_path() {
    for path in paths() {
        for (service, body) in packets() {
            let lengths = if has_payload(&body) { 0..=17 } else { 0..=0 };
            for length in lengths.chain(has_payload(&body).then_some(4096)) {
                let pdu = pdu_of(service, body, length);
                let frame = frame(&path, &pdu);
                assert_received(&parse(&frame).unwrap(), &path, &pdu);
            }
        }
    }
}

#[test]
fn every_length_up_to_the_largest_mtu() {
    let body = Body::Write {
        place: Place::Only,
        target: Some(RANGE),
        immediate: Some(9),
    };
    for path in paths() {
        for length in 0..=4096 {
            let pdu = pdu(body, length);
            assert_received(&parse(&frame(&path, &pdu)).unwrap(), &path, &pdu);
        }
    }
}

#[test]
fn random_values() {
    let packets = packets();
    for seed in 1..=2000 {
        let mut random = Random(seed);
        let mut path = paths()[random.below(4)];
        path.udp_source = random.next() as u16;
        path.hop_limit = random.next() as u8;
        path.traffic_class = random.next() as u8;
        path.service_level = random.next() as u8 & 7;
        path.pkey = random.next() as u16;
        if !is_v4(&path) {
            path.flow_label = random.next() as u32 & 0xf_ffff;
        }
        let (service, body) = packets[random.below(packets.len())];
        let length = if has_payload(&body) {
            random.below(4097)
        } else {
            0
        };
        let pdu = Pdu {
            destination: Qpn::new(random.next() as u32),
            psn: Psn::new(random.next() as u32),
            ack_request: random.below(2) == 0,
            solicited: random.below(2) == 0,
            ..pdu_of(service, body, length)
        };
        std::println!("seed {seed}");
        assert_received(&parse(&frame(&path, &pdu)).unwrap(), &path, &pdu);
    }
}

#[test]
fn icrc_is_the_definition() {
    for path in paths() {
        for (service, body) in packets() {
            let length = if has_payload(&body) { 13 } else { 0 };
            let frame = frame(&path, &pdu_of(service, body, length));
            let udp = datagram(&path);
            let end = udp + usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
            let reference = reference_icrc(&frame[network(&path)..end - 4]);
            assert_eq!(frame[end - 4..end], reference, "{body:?}");
            assert!(frame[end..].iter().all(|&byte| byte == 0), "{body:?}");
        }
    }
}
