//! Frames, wires, and what comes through them.

use vrnic_firmware::impair::{Direction, Impairment, Spec};
use vrnic_firmware::types::Time;

pub(crate) const MICROSECOND: u64 = 1_000;
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// What a RoCEv2 packet is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) v6: bool,
    pub(crate) tagged: bool,
    pub(crate) ecn: u8,
    pub(crate) opcode: u8,
    pub(crate) qp: u32,
    pub(crate) psn: u32,
    pub(crate) payload: usize,
    pub(crate) udp_port: u16,
    pub(crate) fragment: u16,
}

pub(crate) const SHAPE: Shape = Shape {
    v6: false,
    tagged: false,
    ecn: 0,
    opcode: 0x04,
    qp: 17,
    psn: 5,
    payload: 64,
    udp_port: 4791,
    fragment: 0x4000,
};

impl Shape {
    /// Bytes of the Ethernet header.
    pub(crate) fn ethernet(&self) -> usize {
        if self.tagged { 18 } else { 14 }
    }

    /// Where the base transport header begins.
    pub(crate) fn bth(&self) -> usize {
        self.ethernet() + if self.v6 { 40 } else { 20 } + 8
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if self.tagged {
            frame.extend([0x81, 0x00, 0x20, 0x07]);
        }
        let udp_length = (8 + 12 + self.payload + 4) as u16;
        let protocol = 17;
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0x80 | self.ecn << 4, 0x12, 0x34]);
            frame.extend(udp_length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend([0xfd; 32]);
        } else {
            let mut header = vec![0x45, 0xb8 | self.ecn];
            header.extend((udp_length + 20).to_be_bytes());
            header.extend([0x12, 0x34]);
            header.extend(self.fragment.to_be_bytes());
            header.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = !ones_sum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend([0x08, 0x00]);
            frame.extend(header);
        }
        frame.extend(0xc000_u16.to_be_bytes());
        frame.extend(self.udp_port.to_be_bytes());
        frame.extend(udp_length.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend([self.opcode, 0, 0xff, 0xff, 0]);
        frame.extend(&self.qp.to_be_bytes()[1..]);
        frame.push(0);
        frame.extend(&self.psn.to_be_bytes()[1..]);
        frame.extend((0..self.payload + 4).map(|at| (at * 7) as u8));
        frame
    }
}

/// The ones' complement sum of a header: 0xffff if its checksum is right.
pub(crate) fn ones_sum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2);
    let sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A frame that is not IP and carries its number.
pub(crate) fn numbered(number: u64, length: usize) -> Vec<u8> {
    let mut frame = vec![0xa5; length.max(24)];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..22].copy_from_slice(&number.to_be_bytes());
    frame
}

pub(crate) fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[14..22].try_into().unwrap())
}

pub(crate) fn wire(text: &str) -> Impairment {
    spec(&[text], &[]).build(Direction::Transmit).unwrap()
}

pub(crate) fn wire_with(events: &[&str]) -> Impairment {
    spec(&[], events).build(Direction::Transmit).unwrap()
}

#[track_caller]
pub(crate) fn spec(settings: &[&str], events: &[&str]) -> Spec {
    let mut spec = Spec::default();
    for text in settings {
        spec.set(&text.parse().unwrap()).unwrap();
    }
    for text in events {
        spec.add(&text.parse().unwrap());
    }
    spec
}

/// Everything that has come through by `now`.
pub(crate) fn take(wire: &mut Impairment, now: Time) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(frame) = wire.peek(now) {
        frames.push(frame.to_vec());
        wire.pop();
    }
    frames
}

/// Everything that comes through until nothing is left, with the time at which it does.
pub(crate) fn drain(wire: &mut Impairment) -> Vec<(u64, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(at) = wire.next_timeout() {
        let found = take(wire, at);
        frames.extend(found.into_iter().map(|frame| (at.0, frame)));
    }
    assert_eq!(wire.in_flight(), 0);
    frames
}

/// Sends `count` numbered frames, `gap` nanoseconds apart, and returns what comes through and when.
pub(crate) fn run(wire: &mut Impairment, count: u64, gap: u64) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    for n in 0..count {
        let now = n * gap;
        while let Some(at) = wire.next_timeout().filter(|at| at.0 <= now) {
            out.extend(take(wire, at).into_iter().map(|frame| (at.0, frame)));
        }
        wire.handle(Time(now), &numbered(n, 100));
        out.extend(take(wire, Time(now)).into_iter().map(|frame| (now, frame)));
    }
    out.extend(drain(wire));
    out
}

pub(crate) fn numbers(out: &[(u64, Vec<u8>)]) -> Vec<u64> {
    out.iter().map(|(_, frame)| number(frame)).collect()
}

/// The frames that `f` says something about.
pub(crate) fn where_true(count: u64, mut f: impl FnMut(u64) -> bool) -> Vec<u64> {
    (0..count).filter(|n| f(*n)).collect()
}
