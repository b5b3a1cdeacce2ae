//! Bytes of the headers; what is refused.

use super::*;

#[track_caller]
fn refused(path: &Path, pdu: &Pdu) -> EmitError {
    let mut frame = vec![0; frame_length(path, pdu).min(1 << 20)];
    emit_headers(path, pdu, 0, &mut frame).unwrap_err()
}

#[test]
fn keys_are_numbers_and_immediate_data_are_bytes() {
    let place = Place::Only;
    let bytes = [1, 2, 3, 4];
    for tail in [
        SendTail::Immediate(u32::from_ne_bytes(bytes)),
        SendTail::Invalidate(u32::from_be_bytes(bytes)),
    ] {
        let frame = frame(&path_v4(), &pdu(Body::Send { place, tail }, 0));
        assert_eq!(frame[54..58], bytes);
    }
}

/// The bytes between the base transport header and the ICRC.
#[track_caller]
fn extension(body: Body) -> Vec<u8> {
    let mut frame = frame(&path_v4(), &pdu(body, 0));
    frame.truncate(14 + usize::from(frame[17]) - 4);
    frame.split_off(14 + 20 + 8 + 12)
}

#[test]
fn base_transport_headers_stand_as_specified() {
    let body = Body::Send {
        place: Place::Last,
        tail: SendTail::Invalidate(0),
    };
    let path = Path {
        pkey: 0x8abc,
        ..path_v4()
    };
    for (solicited, flags) in [(false, 0x50), (true, 0xd0)] {
        let pdu = Pdu {
            solicited,
            ..pdu(body, 3)
        };
        let header = [
            0x16, flags, 0x8a, 0xbc, 0x00, 0x12, 0x34, 0x56, 0x80, 0xfe, 0xdc, 0xba,
        ];
        assert_eq!(frame(&path, &pdu)[42..54], header);
    }
}

#[test]
fn extended_transport_headers_stand_as_specified() {
    let range = [
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, // virtual address
        0xfe, 0xdc, 0xba, 0x98, // remote key
    ];
    let length = [0x76, 0x54, 0x32, 0x10];
    let swap = [0x55, 0x55, 0x66, 0x66, 0x77, 0x77, 0x88, 0x88];
    let compare = [0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44];
    let atomic = |operation| Body::Atomic {
        address: RANGE.address,
        rkey: RANGE.rkey,
        operation,
    };
    let read = Body::Read { source: RANGE };
    assert_eq!(extension(read), [&range[..], &length].concat());
    let write = Body::Write {
        place: Place::Only,
        target: Some(RANGE),
        immediate: Some(u32::from_ne_bytes([1, 2, 3, 4])),
    };
    let immediate = [1, 2, 3, 4];
    let expected = [&range[..], &length, &immediate].concat();
    assert_eq!(extension(write), expected);
    let compare_swap = atomic(AtomicOperation::CompareSwap {
        compare: u64::from_be_bytes(compare),
        swap: u64::from_be_bytes(swap),
    });
    let expected = [&range[..], &swap, &compare].concat();
    assert_eq!(extension(compare_swap), expected);
    let fetch_add = atomic(AtomicOperation::FetchAdd(u64::from_be_bytes(swap)));
    let expected = [&range[..], &swap, &[0; 8]].concat();
    assert_eq!(extension(fetch_add), expected);
    let response = Body::AtomicResponse {
        acknowledge: acknowledge(Syndrome::Nak(NakCode::RemoteAccess)),
        original: u64::from_be_bytes(compare),
    };
    let expected = [&[0x62, 0xab, 0xcd, 0xef][..], &compare].concat();
    assert_eq!(extension(response), expected);
    let not_ready = Body::Acknowledge(acknowledge(Syndrome::RnrNak(12)));
    assert_eq!(extension(not_ready), [0x2c, 0xab, 0xcd, 0xef]);
}

#[test]
fn what_no_packet_can_say_is_refused() {
    let write = |place, target| Body::Write {
        place,
        target,
        immediate: None,
    };
    let response = |place, acknowledge| Body::ReadResponse { place, acknowledge };
    let ack = acknowledge(Syndrome::Ack(0));
    for body in [
        write(Place::First, None),
        write(Place::Middle, Some(RANGE)),
        response(Place::Middle, Some(ack)),
        response(Place::Last, None),
        Body::Send {
            place: Place::First,
            tail: SendTail::Immediate(1),
        },
    ] {
        assert_eq!(refused(&path_v4(), &pdu(body, 4)), EmitError::NoSuchPacket);
    }
    let nowhere = Body::Flush {
        target: RANGE,
        extent: FlushExtent::Range,
        placement: Placement {
            global: false,
            persistent: false,
        },
    };
    assert_eq!(
        refused(&path_v4(), &pdu(nowhere, 0)),
        EmitError::NoSuchPacket
    );
    let ack = pdu(Body::Acknowledge(ack), 4);
    assert_eq!(refused(&path_v6(), &ack), EmitError::NoSuchPacket);
    let mut run = pdu(write(Place::Only, Some(RANGE)), 4);
    run.packets = 2;
    assert_eq!(refused(&path_v6(), &run), EmitError::NoSuchPacket);
}

#[test]
fn what_a_service_does_not_have_is_refused() {
    let refuse = |service, body| {
        let error = refused(&path_v6(), &pdu_of(service, body, 0));
        assert_eq!(error, EmitError::NoSuchPacket, "{service:?} {body:?}");
    };
    for body in bodies() {
        for service in [Service::Unreliable, DATAGRAM, Service::Extended { srqn: 0 }] {
            if !belongs(service, &body) {
                refuse(service, body);
            }
        }
        if body != Body::Congestion {
            // Responses do not carry the number, and it has 24 bits.
            let first = if is_response(&body) { 1 } else { 1 << 24 };
            refuse(Service::Extended { srqn: first }, body);
            refuse(Service::Extended { srqn: u32::MAX }, body);
        }
    }
}

#[test]
fn paths_have_one_address_family() {
    let pdu = pdu(Body::Congestion, 0);
    for (source, destination) in [(path_v4(), path_v6()), (path_v6(), path_v4())] {
        let path = Path {
            destination: destination.destination,
            ..source
        };
        assert_eq!(refused(&path, &pdu), EmitError::AddressFamily);
    }
}

#[test]
fn packets_do_not_exceed_ip() {
    let body = Body::Send {
        place: Place::Middle,
        tail: SendTail::None,
    };
    for length in [65_535, 65_500, 100_000] {
        let pdu = pdu(body, length);
        assert_eq!(refused(&path_v4(), &pdu), EmitError::TooLong, "{length}");
    }
    for length in [u32::MAX, u32::MAX - 7] {
        assert_eq!(
            refused(&path_v6(), &pdu(body, length as usize)),
            EmitError::FrameLength
        );
    }
    for length in [65_480, 65_488] {
        let pdu = pdu(body, length);
        assert_received(&parse(&frame(&path_v4(), &pdu)).unwrap(), &path_v4(), &pdu);
    }
}

#[test]
fn the_room_has_the_right_length() {
    for path in paths() {
        let pdu = pdu(Body::Congestion, 0);
        for wrong in [0, 1, 13, 40, frame_length(&path, &pdu) - 1, 200] {
            let mut frame = vec![0; wrong];
            let result = emit_headers(&path, &pdu, 0, &mut frame);
            assert_eq!(result, Err(EmitError::FrameLength));
        }
        let mut frame = vec![0; frame_length(&path, &pdu)];
        let headers = emit_headers(&path, &pdu, 0, &mut frame).unwrap();
        let result = headers.finish(&mut frame[..50]);
        assert_eq!(result, Err(EmitError::FrameLength));
    }
}

#[test]
fn short_frames_are_padded() {
    let body = Body::Send {
        place: Place::Only,
        tail: SendTail::None,
    };
    let frame = frame(&path_v4(), &pdu(body, 0));
    assert_eq!(frame.len(), 60);
    assert_eq!(frame[58..], [0, 0]);
}
