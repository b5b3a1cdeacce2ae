//! Damaged and random frames: noticed, or without effect.

use super::*;

fn samples() -> impl Iterator<Item = (Path, Pdu)> {
    paths().into_iter().flat_map(|path| {
        packets().into_iter().map(move |(service, body)| {
            let length = if has_payload(&body) { 6 } else { 0 };
            (path, pdu_of(service, body, length))
        })
    })
}

#[test]
fn truncation_is_noticed() {
    for (path, pdu) in samples() {
        let frame = frame(&path, &pdu);
        let udp = datagram(&path);
        let end = udp + usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
        for length in 0..end {
            assert_eq!(parse(&frame[..length]), Err(DropReason::Truncated));
        }
        assert_received(&parse(&frame[..end]).unwrap(), &path, &pdu);
    }
}

/// Whether a bit may change on the way, or means nothing to the receiver.
fn is_variant(path: &Path, byte: usize, mask: u8, end: usize) -> bool {
    let network = network(path);
    let udp = datagram(path);
    let ethernet = byte < 12 || (path.vlan != 0 && (14..16).contains(&byte));
    let class_or_flow = (byte == network && mask < 0x10)
        || (network + 1..network + 4).contains(&byte)
        || byte == network + 7;
    let checksum = (udp + 6..udp + 8).contains(&byte);
    let congestion = byte == udp + 8 + 4;
    ethernet || (!is_v4(path) && class_or_flow) || checksum || congestion || byte >= end
}

#[test]
fn single_bits_are_noticed_unless_variant() {
    for (path, pdu) in samples() {
        let mut frame = frame(&path, &pdu);
        let udp = datagram(&path);
        let end = udp + usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
        for bit in 0..frame.len() * 8 {
            let (byte, mask) = (bit / 8, 1 << (bit % 8));
            frame[byte] ^= mask;
            let result = parse(&frame);
            let variant = is_variant(&path, byte, mask, end);
            assert_eq!(result.is_ok(), variant, "byte {byte} of {pdu:?}");
            if let Ok(received) = result {
                assert_eq!(received.pdu, pdu);
                assert_eq!(received.payload, pattern(pdu.length as usize));
                assert_eq!(received.source, path.source);
                assert_eq!(received.destination, path.destination);
            }
            frame[byte] ^= mask;
        }
    }
}

#[test]
fn invariant_bits_count_as_icrc_errors() {
    let body = Body::Send {
        place: Place::Only,
        tail: SendTail::None,
    };
    for path in paths() {
        let mut frame = frame(&path, &pdu(body, 64));
        let bth = datagram(&path) + 8;
        for byte in (bth..frame.len()).filter(|byte| *byte != bth + 4) {
            frame[byte] ^= 0x10;
            assert_eq!(parse(&frame), Err(DropReason::Icrc), "byte {byte}");
            frame[byte] ^= 0x10;
        }
    }
}

#[test]
fn noise_is_harmless() {
    for seed in 1..=20_000 {
        let mut random = Random(seed);
        let noise: Vec<u8> = (0..random.below(120))
            .map(|_| random.next() as u8)
            .collect();
        assert!(parse(&noise).is_err(), "seed {seed}");
    }
}

#[test]
fn signed_noise_is_harmless() {
    let samples: Vec<_> = samples().collect();
    for seed in 1..=20_000 {
        let mut random = Random(seed);
        let (path, pdu) = &samples[random.below(samples.len())];
        let mut frame = frame(path, pdu);
        let from = datagram(path) + 8;
        for _ in 0..=random.below(6) {
            let at = from + random.below(frame.len() - from);
            frame[at] = random.next() as u8;
        }
        sign(path, &mut frame);
        let result = parse(&frame);
        assert_ne!(result, Err(DropReason::Icrc), "seed {seed}");
        assert_ne!(result, Err(DropReason::NotRoce), "seed {seed}");
        if let Ok(received) = result {
            assert_eq!(received.pdu.length as usize, received.payload.len());
        }
    }
}
