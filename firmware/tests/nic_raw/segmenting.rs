//! TCP segments that the device cuts into frames, compared byte by byte with frames that are built
//! here.

use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionStatus};
use vrnic_abi::object::QpState;
use vrnic_abi::wqe::{ControlSegment, DataSegment, SegmentationSegment, WqeFlags, WqeOpcode};
use vrnic_firmware::host::Memory;
use vrnic_firmware::types::Mac;

use super::nic_bench::{Bench, PATTERN, Random, data, mac, pair};
use super::support::*;

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
const CWR: u8 = 128;

/// A TCP segment of any length.
#[derive(Clone, Debug)]
struct Long {
    to: Mac,
    v6: bool,
    tag: Option<u16>,
    /// 32-bit words of options.
    ip_options: usize,
    tcp_options: usize,
    identification: u16,
    sequence: u32,
    flags: u8,
    data: Vec<u8>,
}

impl Long {
    fn random(random: &mut Random, length: usize) -> Self {
        let mut data = vec![0; length];
        random.fill(&mut data);
        let v6 = random.below(2) == 0;
        Self {
            to: STRANGER,
            v6,
            tag: (random.below(3) == 0).then_some(random.next() as u16),
            ip_options: if v6 { 0 } else { random.below(11) as usize },
            tcp_options: random.below(11) as usize,
            identification: random.next() as u16,
            sequence: random.next() as u32,
            flags: random.next() as u8,
            data,
        }
    }

    fn addresses(&self) -> Vec<u8> {
        if self.v6 {
            (1..=32).collect()
        } else {
            vec![10, 9, 8, 7, 6, 5, 4, 3]
        }
    }

    fn internet_length(&self) -> usize {
        if self.v6 {
            40
        } else {
            20 + 4 * self.ip_options
        }
    }

    fn header_length(&self) -> usize {
        let tag = if self.tag.is_some() { 4 } else { 0 };
        14 + tag + self.internet_length() + 20 + 4 * self.tcp_options
    }

    /// A TCP segment with the right checksum.
    fn segment(&self) -> Vec<u8> {
        let mut segment = vec![0x12, 0x34, 0, 80];
        segment.extend(self.sequence.to_be_bytes());
        segment.extend([9, 8, 7, 6, 0x50 + 0x10 * self.tcp_options as u8, self.flags]);
        segment.extend([1, 2, 0, 0, 3, 4]);
        segment.extend((0..4 * self.tcp_options).map(|n| n as u8 ^ 0x5a));
        segment.extend(&self.data);
        let length = (segment.len() as u32).to_be_bytes();
        let addresses = self.addresses();
        let sum = checksum(&[&addresses, &length, &[0, 0, 0, 6], &segment]);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    /// One frame with all of it.
    fn frame(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut packet = Vec::new();
        if self.v6 {
            packet.extend([0x61, 0x23, 0x45, 0x67]);
            packet.extend((segment.len() as u16).to_be_bytes());
            packet.extend([6, 63]);
            packet.extend(self.addresses());
        } else {
            let length = self.internet_length() + segment.len();
            packet.extend([0x45 + self.ip_options as u8, 0x2e]);
            packet.extend((length as u16).to_be_bytes());
            packet.extend(self.identification.to_be_bytes());
            packet.extend([0x40, 0, 61, 6, 0, 0]);
            packet.extend(self.addresses());
            packet.extend((0..4 * self.ip_options).map(|n| n as u8 | 1));
            let sum = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(segment);
        let ethertype = if self.v6 { 0x86dd } else { 0x0800 };
        let frame = ethernet(self.to, mac(1), ethertype, &packet);
        match self.tag {
            Some(control) => tagged(&frame, control),
            None => frame,
        }
    }

    /// What is handed to the device: lengths and checksums mean nothing.
    fn request(&self, random: &mut Random) -> Vec<u8> {
        let mut frame = self.frame();
        let internet = self.header_length() - 20 - 4 * self.tcp_options - self.internet_length();
        let transport = internet + self.internet_length();
        random.fill(&mut frame[transport + 16..transport + 18]);
        if self.v6 {
            random.fill(&mut frame[internet + 4..internet + 6]);
        } else {
            random.fill(&mut frame[internet + 2..internet + 4]);
            random.fill(&mut frame[internet + 10..internet + 12]);
        }
        frame
    }

    /// The frames that it is cut into, as a sender without any offload makes them.
    fn cut(&self, mss: usize) -> Vec<Vec<u8>> {
        let count = self.data.len().div_ceil(mss).max(1);
        let part = |index: usize| {
            let rest = &self.data[index * mss..];
            let mut flags = self.flags;
            if index > 0 {
                flags &= !CWR;
            }
            if index + 1 < count {
                flags &= !(FIN | PSH);
            }
            let part = Self {
                identification: self.identification.wrapping_add(index as u16),
                sequence: self.sequence.wrapping_add((index * mss) as u32),
                flags,
                data: rest[..rest.len().min(mss)].to_vec(),
                ..self.clone()
            };
            part.frame()
        };
        (0..count).map(part).collect()
    }
}

/// Posts bytes to be cut, in pieces that end at `ends`.
fn post(
    station: &mut Station,
    bytes: &[u8],
    cut: SegmentationSegment,
    tag: Option<u16>,
    ends: &[usize],
) {
    station.driver.hw.ram.write(station.memory, bytes).unwrap();
    let mut segments: Vec<DataSegment> = Vec::new();
    let mut at = 0;
    for end in ends.iter().copied().chain([bytes.len()]) {
        let address = station.memory + at as u64;
        segments.push(data(address, (end - at) as u32, station.key));
        at = end;
    }
    let mut flags = WqeFlags::SIGNALED;
    flags.set(WqeFlags::INSERT_VLAN, tag.is_some());
    let control = ControlSegment {
        opcode: WqeOpcode::SendSegmented.raw(),
        flags: flags.bits(),
        data_segments: segments.len() as u8,
        vlan_tag: tag.unwrap_or(0),
        ..ControlSegment::default()
    };
    let rest = [bytemuck::bytes_of(&cut), bytemuck::cast_slice(&segments)];
    station.queues[0]
        .qp
        .post(&station.driver.hw, control, &rest);
}

fn cut(mss: usize, header_length: usize) -> SegmentationSegment {
    SegmentationSegment {
        mss: mss as u16,
        header_length: header_length as u16,
        ..SegmentationSegment::default()
    }
}

/// Sends a segment and waits until it has completed.
#[track_caller]
fn transmit(
    bench: &mut Bench,
    station: &mut Station,
    bytes: &[u8],
    cut: SegmentationSegment,
) -> CompletionEntry {
    post(station, bytes, cut, None, &[]);
    bench.run();
    station.poll().expect("a completion")
}

#[test]
fn frames_are_those_of_a_sender_without_offload() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let mut station = Station::new(&mut bench, 1);
        let mss =
            [1 + random.below(40), 536, 1448, 1 + random.below(8000)][random.below(4) as usize];
        let mss = mss as usize;
        let frames = random.below(9) as usize;
        let length = frames * mss + random.below(mss as u64 + 1) as usize;
        let long = Long::random(&mut random, length.min(65536));
        let request = long.request(&mut random);
        let mut ends: Vec<usize> = (0..random.below(5))
            .map(|_| random.below(request.len() as u64 + 1) as usize)
            .collect();
        ends.sort_unstable();
        let tag = (random.below(3) == 0).then_some(random.next() as u16);
        let header_length = long.header_length();
        post(&mut station, &request, cut(mss, header_length), tag, &ends);
        bench.run();
        let entry = station.poll().unwrap();
        assert_eq!(entry.status, 0, "seed {seed}: {long:?}");
        assert_eq!(entry.byte_length as usize, request.len());
        let wanted: Vec<Vec<u8>> = long
            .cut(mss)
            .into_iter()
            .map(|frame| tag.map_or(frame.clone(), |control| tagged(&frame, control)))
            .map(padded)
            .collect();
        assert_eq!(bench.wire.sent, wanted, "seed {seed}, MSS {mss}");
        let sent = wanted.len() as u64;
        let octets = wanted
            .iter()
            .map(|frame| frame.len() as u64 / 4)
            .sum::<u64>();
        assert_eq!(station.counter(&bench, Counter::TxFrames), sent);
        assert_eq!(station.counter(&bench, Counter::PortXmitPackets), sent);
        assert_eq!(station.counter(&bench, Counter::PortXmitData), octets);
    }
}

/// A segment whose headers do not depend on its length.
fn plain(length: usize) -> Long {
    let mut random = Random(7);
    let head = Long::random(&mut random, 0);
    let mut data = vec![0; length];
    random.fill(&mut data);
    Long {
        tag: None,
        flags: FIN | PSH | ACK | CWR,
        data,
        ..head
    }
}

#[test]
fn the_longest_segment_and_the_shortest() {
    for (length, mss, count) in [
        (65536, 536, 123),
        (65536, 65535, 0),
        (0, 1448, 1),
        (1, 1, 1),
    ] {
        let mut bench = Bench::default();
        let mut station = Station::new(&mut bench, 1);
        let long = plain(length);
        let request = long.request(&mut Random(1));
        let entry = transmit(
            &mut bench,
            &mut station,
            &request,
            cut(mss, long.header_length()),
        );
        if count == 0 {
            // No frame is that long.
            assert_eq!(entry.status, CompletionStatus::LocalLength.raw());
            assert!(bench.wire.sent.is_empty());
            continue;
        }
        assert_eq!(entry.status, 0);
        let wanted: Vec<_> = long.cut(mss).into_iter().map(padded).collect();
        assert_eq!(wanted.len(), count);
        assert_eq!(bench.wire.sent, wanted);
    }
}

#[test]
fn headers_can_stand_in_the_request_with_their_data() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let long = plain(300);
    let request = long.request(&mut Random(1));
    let control = ControlSegment {
        opcode: WqeOpcode::SendSegmented.raw(),
        flags: (WqeFlags::SIGNALED | WqeFlags::INLINE).bits(),
        inline_length: request.len() as u16,
        ..ControlSegment::default()
    };
    let segment = cut(100, long.header_length());
    let rest = [bytemuck::bytes_of(&segment), &request];
    station.queues[0]
        .qp
        .post(&station.driver.hw, control, &rest);
    bench.run();
    assert_eq!(station.poll().unwrap().status, 0);
    let wanted: Vec<_> = long.cut(100).into_iter().map(padded).collect();
    assert_eq!(bench.wire.sent, wanted);
}

#[test]
fn a_long_segment_lets_others_go_between() {
    let mut bench = Bench::default();
    let mut one = Station::new(&mut bench, 1);
    let mut two = Station::new(&mut bench, 2);
    let long = plain(60000);
    let request = long.request(&mut Random(1));
    post(
        &mut one,
        &request,
        cut(100, long.header_length()),
        None,
        &[],
    );
    let frame = ethernet(STRANGER, mac(2), 0x88b5, &[0x42; 100]);
    two.send(&frame, WqeFlags::empty(), 0);
    bench.run();
    let at = bench.wire.sent.iter().position(|sent| *sent == frame);
    assert!(
        at.is_some_and(|at| at <= 128),
        "it waited for {at:?} frames"
    );
    bench.wire.sent.retain(|sent| *sent != frame);
    assert_eq!(bench.wire.sent, long.cut(100));
    assert_eq!(
        (one.poll().unwrap().status, two.poll().unwrap().status),
        (0, 0)
    );
}

#[test]
fn a_segment_waits_for_room_in_the_middle() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let long = plain(5000);
    let request = long.request(&mut Random(1));
    bench.wire.limit = Some(0);
    post(
        &mut station,
        &request,
        cut(700, long.header_length()),
        None,
        &[],
    );
    for _ in 0..5 {
        bench.step();
    }
    // The headers have been read: a guest that changes them now changes nothing.
    let headers = vec![PATTERN; long.header_length()];
    station.hw().ram.write(station.memory, &headers).unwrap();
    let wanted = long.cut(700);
    for sent in 1..=wanted.len() {
        assert!(station.poll().is_none());
        bench.wire.limit = Some(sent);
        bench.run();
        assert_eq!(bench.wire.sent, &wanted[..sent]);
    }
    assert_eq!(station.poll().unwrap().status, 0);
    let waits = wanted.len() as u64;
    assert_eq!(station.counter(&bench, Counter::PortXmitWait), waits);
}

#[test]
fn a_neighbour_gets_the_frames() {
    let mut bench = Bench::default();
    let mut one = Station::new(&mut bench, 1);
    let mut two = Station::listening(&mut bench, 2);
    let long = Long {
        to: mac(2),
        ..plain(40000)
    };
    let request = long.request(&mut Random(1));
    let entry = transmit(
        &mut bench,
        &mut one,
        &request,
        cut(1448, long.header_length()),
    );
    assert_eq!(entry.status, 0);
    let wanted = long.cut(1448);
    for frame in &wanted {
        let (_, received, entry) = two.received().expect("a frame");
        assert_eq!(received, *frame);
        let flags = CompletionFlags::from_bits_retain(entry.flags);
        assert!(flags.contains(CompletionFlags::CHECKSUM_TRANSPORT));
        assert_eq!(flags.contains(CompletionFlags::CHECKSUM_IP), !long.v6);
    }
    assert!(two.received().is_none() && bench.wire.sent.is_empty());
    assert_eq!(two.counter(&bench, Counter::RxFrames), wanted.len() as u64);
}

/// What is refused, with nothing sent, and how.
#[track_caller]
fn refused(bytes: &[u8], cut: SegmentationSegment, wanted: CompletionStatus) {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let entry = transmit(&mut bench, &mut station, bytes, cut);
    assert_eq!(entry.status, wanted.raw(), "{cut:?}");
    assert!(bench.wire.sent.is_empty());
    assert_eq!(station.counter(&bench, Counter::ReqCqeError), 1);
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let long = plain(3000);
    let request = long.request(&mut Random(1));
    let headers = long.header_length();
    for (mss, header_length, wanted) in [
        (0, headers, CompletionStatus::LocalQpOperation),
        (1000, 0, CompletionStatus::LocalQpOperation),
        (1000, headers - 1, CompletionStatus::LocalQpOperation),
        (1000, headers + 1, CompletionStatus::LocalQpOperation),
        (1000, 139, CompletionStatus::LocalQpOperation),
        (1000, request.len() + 1, CompletionStatus::LocalLength),
        (1000, 65535, CompletionStatus::LocalLength),
    ] {
        refused(&request, cut(mss, header_length), wanted);
    }
    let long = plain(9019 - headers);
    let request = long.request(&mut Random(1));
    refused(&request, cut(65535, headers), CompletionStatus::LocalLength);
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let cut_to_fit = cut(9018 - headers, headers);
    let entry = transmit(&mut bench, &mut station, &request, cut_to_fit);
    assert_eq!(entry.status, 0);
    assert_eq!(bench.wire.sent[0].len(), 9018);
    let long = plain(65537);
    let request = long.request(&mut Random(1));
    refused(&request, cut(1000, headers), CompletionStatus::LocalLength);
}

#[test]
fn what_is_no_tcp_segment_is_refused() {
    let v4 = Long {
        v6: false,
        ip_options: 1,
        tcp_options: 1,
        ..plain(3000)
    };
    let v6 = Long {
        v6: true,
        ip_options: 0,
        ..v4.clone()
    };
    // Place in the frame and what is put there: Ethertype, version and header length, fragment
    // fields, protocol, data offset.
    let changes: [(&Long, &[(usize, u8)]); 2] = [
        (
            &v4,
            &[
                (12, 0x07),
                (13, 0x06),
                (14, 0x45),
                (14, 0x66),
                (14, 0x44),
                (14, 0x4f),
                (20, 0x20),
                (21, 1),
                (23, 17),
                (50, 0x50),
                (50, 0x70),
                (50, 0x40),
            ],
        ),
        (
            &v6,
            &[
                (12, 0x08),
                (13, 0),
                (14, 0x41),
                (20, 17),
                (20, 0),
                (20, 44),
                (66, 0x50),
                (66, 0x70),
                (66, 0),
            ],
        ),
    ];
    for (long, changes) in changes {
        for (at, value) in changes {
            let mut request = long.request(&mut Random(1));
            assert_ne!(request[*at], *value, "byte {at}");
            request[*at] = *value;
            let cut = cut(1000, long.header_length());
            refused(&request, cut, CompletionStatus::LocalQpOperation);
        }
    }
}

#[test]
fn memory_that_goes_away_ends_the_segment_where_it_is() {
    let mut bench = Bench::default();
    let mut station = Station::new(&mut bench, 1);
    let long = plain(3000);
    let request = long.request(&mut Random(1));
    let headers = long.header_length();
    // Data segments: the headers and 2000 bytes, then some that no key covers.
    station.hw().ram.write(station.memory, &request).unwrap();
    let segments = [
        data(station.memory, (headers + 2000) as u32, station.key),
        data(station.memory + (1 << 17) - 10, 1000, station.key),
    ];
    let control = ControlSegment {
        opcode: WqeOpcode::SendSegmented.raw(),
        flags: WqeFlags::SIGNALED.bits(),
        data_segments: 2,
        ..ControlSegment::default()
    };
    let segment = cut(600, headers);
    let rest = [
        bytemuck::bytes_of(&segment),
        bytemuck::cast_slice(&segments),
    ];
    station.queues[0]
        .qp
        .post(&station.driver.hw, control, &rest);
    bench.run();
    let entry = station.poll().unwrap();
    assert_eq!(entry.status, CompletionStatus::LocalProtection.raw());
    assert_eq!(bench.wire.sent, &long.cut(600)[..3]);
}

#[test]
fn connected_queue_pairs_do_not_cut() {
    let mut bench = Bench::default();
    let (mut one, _two) = pair(&mut bench);
    let control = ControlSegment {
        opcode: WqeOpcode::SendSegmented.raw(),
        flags: WqeFlags::SIGNALED.bits(),
        data_segments: 1,
        ..ControlSegment::default()
    };
    let (cut, segment) = (cut(100, 54), one.segment(0, 100));
    let rest = [bytemuck::bytes_of(&cut), bytemuck::bytes_of(&segment)];
    one.qp.post(&one.driver.hw, control, &rest);
    bench.run();
    let entry = one.poll().unwrap();
    assert_eq!(entry.status, CompletionStatus::LocalQpOperation.raw());
    assert!(bench.wire.sent.is_empty());
}

#[test]
fn segments_of_a_guest_that_means_no_good() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut bench = Bench::default();
        let mut one = Station::new(&mut bench, 1);
        let mut two = Station::listening(&mut bench, 2);
        let mut accepted = 0;
        for _ in 0..100 {
            let length = random.below(6000) as usize;
            let long = Long {
                to: [STRANGER, mac(2)][random.below(2) as usize],
                ..Long::random(&mut random, length)
            };
            let mut request = long.request(&mut random);
            for _ in 0..random.below(3) {
                let at = random.below(long.header_length() as u64) as usize;
                request[at] = random.next() as u8;
            }
            let mut header_length = long.header_length();
            if random.below(4) == 0 {
                header_length = random.below(200) as usize;
            }
            let mss = 64 + random.below(2000) as usize;
            let entry = transmit(&mut bench, &mut one, &request, cut(mss, header_length));
            accepted += usize::from(entry.status == 0);
            if entry.status != 0 {
                let number = one.queues[0].qp.number;
                one.driver.set_state(&mut bench, number, QpState::Rts);
            }
            assert!(
                bench.wire.sent.iter().all(|frame| frame.len() <= 9022),
                "seed {seed}"
            );
            bench.wire.sent.clear();
            while two.poll().is_some() {}
        }
        assert!((5..100).contains(&accepted), "seed {seed}: {accepted}");
    }
}
