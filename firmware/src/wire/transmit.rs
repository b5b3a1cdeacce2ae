//! PDUs to frames.
//!
//! In three steps, so that the payload can be copied straight from guest memory to its place in the
//! frame: [`emit_headers`], the copy into [`Headers::payload`], [`Headers::finish`]. [`emit`] does
//! all three. Nothing in the frame is left as it was found.

use core::ops::Range;

use super::network::{self, Network};
use super::opcode::{CONGESTION_RESERVED, Operation};
use super::{
    aeth, atomicacketh, atomiceth, atomicwrite, bth, deth, ethernet, feth, icrc, ieth, immdt, ipv4,
    ipv6, reth, udp, xrceth,
};
use crate::pdu::{AtomicOperation, Body, Pdu, Place, SendTail, Service};
use crate::transport::Path;

/// Why a PDU cannot be sent along a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitError {
    /// One end of the path has an IPv4 address, the other one an IPv6 address.
    AddressFamily,
    /// No packet says what the PDU says: it stands for several packets, its parts do not fit its
    /// place in the message, or its transport service has no such operation. Congestion
    /// notifications belong to no service, which is told by the default one.
    NoSuchPacket,
    /// The packet would be longer than IP allows.
    TooLong,
    /// The frame has another length than [`frame_length`].
    FrameLength,
}

/// Length of the frame that carries a PDU, with padding to the shortest frame of Ethernet.
#[inline]
#[must_use]
pub fn frame_length(path: &Path, pdu: &Pdu) -> usize {
    padded(network_length(path).saturating_add(datagram_length(pdu)))
}

/// Length of all frames that a PDU stands for; the headers of an operation count once.
#[must_use]
pub fn burst_length(path: &Path, pdu: &Pdu) -> usize {
    let first = frame_length(path, pdu);
    let more = pdu.packets.saturating_sub(1) as usize;
    if more == 0 {
        return first;
    }
    let of_service = Operation::of(&pdu.body).service_extension(&pdu.service);
    let headers = network_length(path) + udp::LENGTH + bth::LENGTH + of_service + icrc::LENGTH;
    first.saturating_add(more.saturating_mul(headers))
}

fn padded(length: usize) -> usize {
    length.max(ethernet::SHORTEST_FRAME)
}

/// Length of the Ethernet and IP headers.
fn network_length(path: &Path) -> usize {
    let ip = match path.destination.to_v4() {
        Some(_) => ipv4::LENGTH,
        None => ipv6::LENGTH,
    };
    ethernet::Repr::length(path.vlan) + ip
}

/// Length from the UDP header to the ICRC.
pub(super) fn datagram_length(pdu: &Pdu) -> usize {
    let extension = Operation::of(&pdu.body).extension(&pdu.service);
    let headers = udp::LENGTH + bth::LENGTH + extension + usize::from(pad(pdu.length));
    (pdu.length as usize).saturating_add(headers + icrc::LENGTH)
}

/// Bytes that fill a payload up to a multiple of 4.
const fn pad(length: u32) -> u8 {
    (length.wrapping_neg() & 3) as u8
}

/// A frame with headers, that still lacks payload, padding and ICRC.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the frame lacks payload and ICRC"]
pub struct Headers {
    /// Where the IP header starts.
    network: usize,
    /// Where the UDP header starts.
    datagram: usize,
    payload: Range<usize>,
    /// Where the ICRC starts.
    icrc: usize,
}

/// Writes the headers of a frame. `frame` has the length that [`frame_length`] says;
/// `identification` is the IPv4 header's and should differ from packet to packet.
///
/// # Errors
/// Why not; the frame's contents are unspecified then.
#[inline]
pub fn emit_headers(
    path: &Path,
    pdu: &Pdu,
    identification: u16,
    frame: &mut [u8],
) -> Result<Headers, EmitError> {
    let operation = Operation::of(&pdu.body);
    let opcode = operation
        .code(&pdu.service)
        .ok_or(EmitError::NoSuchPacket)?;
    if pdu.packets != 1 || (pdu.length != 0 && !operation.carries_payload()) {
        return Err(EmitError::NoSuchPacket);
    }
    let (datagram, length) = (network_length(path), datagram_length(pdu));
    if frame.len() != padded(datagram.saturating_add(length)) {
        return Err(EmitError::FrameLength);
    }
    let length = u16::try_from(length).map_err(|_| EmitError::TooLong)?;

    let room = emit_network(path, length, identification, frame)?;
    let udp = udp::Repr {
        source: path.udp_source,
        length,
    };
    let mut writer = Writer(udp.emit(room).ok_or(EmitError::FrameLength)?);
    base(path, pdu, opcode).emit(writer.next()?);
    emit_service(&pdu.service, operation, &mut writer)?;
    emit_body(&pdu.body, &mut writer)?;

    let payload = datagram + udp::LENGTH + bth::LENGTH + operation.extension(&pdu.service);
    Ok(Headers {
        network: ethernet::Repr::length(path.vlan),
        datagram,
        payload: payload..payload + pdu.length as usize,
        icrc: datagram + usize::from(length) - icrc::LENGTH,
    })
}

impl Headers {
    /// Where in the frame the payload goes.
    #[must_use]
    pub fn payload(&self) -> Range<usize> {
        self.payload.clone()
    }

    /// Completes the frame, whose payload is in its place by now.
    ///
    /// # Errors
    /// If it is not the frame that the headers were written to.
    #[inline]
    pub fn finish(self, frame: &mut [u8]) -> Result<(), EmitError> {
        let wrong = EmitError::FrameLength;
        let (packet, tail) = frame.split_at_mut_checked(self.icrc).ok_or(wrong)?;
        packet.get_mut(self.payload.end..).ok_or(wrong)?.fill(0);

        let (network, datagram) = packet.split_at_checked(self.datagram).ok_or(wrong)?;
        let network = network.get(self.network..).ok_or(wrong)?;
        let network = match (network.first_chunk(), network.first_chunk()) {
            (_, Some(header)) => Network::V6(header),
            (Some(header), None) => Network::V4(header),
            (None, None) => return Err(wrong),
        };
        let (icrc, padding) = tail.split_first_chunk_mut().ok_or(wrong)?;
        *icrc = icrc::compute(network, &[], datagram).ok_or(wrong)?;
        padding.fill(0);
        Ok(())
    }
}

/// Writes a whole frame of the length that [`frame_length`] says.
///
/// # Errors
/// Why not, also if `payload` has another length than the PDU says; the frame's contents are
/// unspecified then.
pub fn emit(
    path: &Path,
    pdu: &Pdu,
    identification: u16,
    payload: &[u8],
    frame: &mut [u8],
) -> Result<(), EmitError> {
    let headers = emit_headers(path, pdu, identification, frame)?;
    let room = frame
        .get_mut(headers.payload())
        .filter(|room| room.len() == payload.len())
        .ok_or(EmitError::FrameLength)?;
    room.copy_from_slice(payload);
    headers.finish(frame)
}

/// Writes Ethernet and IP headers for a datagram of `length` bytes and returns the room behind.
fn emit_network<'a>(
    path: &Path,
    length: u16,
    identification: u16,
    frame: &'a mut [u8],
) -> Result<&'a mut [u8], EmitError> {
    let ends = (path.source.to_v4(), path.destination.to_v4());
    let ethernet = ethernet::Repr {
        destination: path.destination_mac,
        source: path.source_mac,
        vlan: path.vlan,
        priority: path.service_level,
        ethertype: match ends {
            (Some(_), Some(_)) => ethernet::IPV4,
            (None, None) => ethernet::IPV6,
            _ => return Err(EmitError::AddressFamily),
        },
    };
    let packet = ethernet.emit(frame).ok_or(EmitError::FrameLength)?;
    let room = if let (Some(source), Some(destination)) = ends {
        network::v4(path, source, destination, length, identification).emit(packet)
    } else {
        network::v6(path, length).emit(packet)
    };
    room.ok_or(EmitError::TooLong)
}

fn base(path: &Path, pdu: &Pdu, opcode: u8) -> bth::Repr {
    let congestion = matches!(pdu.body, Body::Congestion);
    bth::Repr {
        opcode,
        solicited: pdu.solicited,
        migrated: !congestion && !path.armed,
        pad: pad(pdu.length),
        pkey: path.pkey,
        fecn: false,
        becn: congestion,
        destination: pdu.destination,
        ack_request: pdu.ack_request,
        psn: pdu.psn,
    }
}

/// The room for headers that have not been written yet.
struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    /// Room for the next header.
    fn next<const N: usize>(&mut self) -> Result<&'a mut [u8; N], EmitError> {
        let (header, rest) = core::mem::take(&mut self.0)
            .split_first_chunk_mut::<N>()
            .ok_or(EmitError::FrameLength)?;
        self.0 = rest;
        Ok(header)
    }
}

/// Writes the header of the transport service.
fn emit_service(
    service: &Service,
    operation: Operation,
    writer: &mut Writer<'_>,
) -> Result<(), EmitError> {
    match *service {
        Service::Reliable | Service::Unreliable => {}
        Service::Datagram { qkey, source } => deth::Repr { qkey, source }.emit(writer.next()?),
        Service::Extended { srqn } if operation.is_request() && srqn <= xrceth::LARGEST => {
            xrceth::emit(srqn, writer.next()?);
        }
        Service::Extended { srqn: 0 } => {}
        Service::Extended { .. } => return Err(EmitError::NoSuchPacket),
    }
    Ok(())
}

fn emit_body(body: &Body, writer: &mut Writer<'_>) -> Result<(), EmitError> {
    match *body {
        Body::Send { tail, .. } => match tail {
            SendTail::None => {}
            SendTail::Immediate(immediate) => immdt::emit(immediate, writer.next()?),
            SendTail::Invalidate(rkey) => ieth::emit(rkey, writer.next()?),
        },
        Body::Write {
            place,
            target,
            immediate,
        } => {
            match target {
                Some(range) if place.starts() => reth::emit(&range, writer.next()?),
                None if !place.starts() => {}
                _ => return Err(EmitError::NoSuchPacket),
            }
            if let Some(immediate) = immediate {
                immdt::emit(immediate, writer.next()?);
            }
        }
        Body::Read { source } => reth::emit(&source, writer.next()?),
        Body::Atomic {
            address,
            rkey,
            operation,
        } => atomic(address, rkey, operation).emit(writer.next()?),
        Body::ReadResponse { place, acknowledge } => match (place, acknowledge) {
            (Place::Middle, None) => {}
            (Place::First | Place::Last | Place::Only, Some(acknowledge)) => {
                aeth::emit(&acknowledge, writer.next()?);
            }
            _ => return Err(EmitError::NoSuchPacket),
        },
        Body::AtomicResponse {
            acknowledge,
            original,
        } => {
            aeth::emit(&acknowledge, writer.next()?);
            atomicacketh::emit(original, writer.next()?);
        }
        Body::Acknowledge(acknowledge) => aeth::emit(&acknowledge, writer.next()?),
        Body::AtomicWrite {
            address,
            rkey,
            value,
        } => {
            let write = atomicwrite::Repr {
                address,
                rkey,
                value,
            };
            write.emit(writer.next()?);
        }
        Body::Flush {
            target,
            extent,
            placement,
        } => {
            let header = feth::Repr { extent, placement };
            header.emit(writer.next()?).ok_or(EmitError::NoSuchPacket)?;
            reth::emit(&target, writer.next()?);
        }
        Body::Congestion => *writer.next()? = [0; CONGESTION_RESERVED],
    }
    Ok(())
}

const fn atomic(address: u64, rkey: u32, operation: AtomicOperation) -> atomiceth::Repr {
    let (swap_or_add, compare) = match operation {
        AtomicOperation::CompareSwap { compare, swap } => (swap, compare),
        AtomicOperation::FetchAdd(value) => (value, 0),
    };
    atomiceth::Repr {
        address,
        rkey,
        swap_or_add,
        compare,
    }
}
