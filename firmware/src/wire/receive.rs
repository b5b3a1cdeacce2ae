//! Frames to PDUs.
//!
//! A frame passes three gates. What is not visibly RoCEv2 is [`DropReason::NotRoce`], for others to
//! receive, however odd it may be. What is, but whose checksums fail, was damaged on the way. What
//! passes both and still makes no sense was sent that way. Everything that needs no queue pair's
//! state is checked here (IBTA volume 1, 9.6.1), lengths against the path MTU are not.

use vrnic_abi::counter::Counter;

use super::network::{Network, ROUTE_HEADER_LENGTH};
use super::opcode::{CONGESTION_RESERVED, Operation, Tail, Transport};
use super::{
    aeth, atomicacketh, atomiceth, atomicwrite, bth, deth, ethernet, feth, icrc, ieth, immdt, ipv4,
    ipv6, reth, udp, xrceth,
};
use crate::pdu::{AtomicOperation, Body, Pdu, Place, SendTail, Service};
use crate::types::{Gid, Mac};

/// Why a frame is not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The frame is not a RoCEv2 packet: other receivers may want it.
    NotRoce,
    /// The frame ends before its headers do, or before their lengths say.
    Truncated,
    /// The IP header's version, header length or checksum is wrong.
    IpHeader,
    /// The lengths in the headers contradict each other or the operation.
    Length,
    /// The ICRC is wrong.
    Icrc,
    /// The transport headers have an unknown version.
    TransportVersion,
    /// The opcode is reserved.
    UnknownOpcode,
    /// The opcode belongs to a transport that this device does not speak.
    UnsupportedOpcode,
    /// A datagram is something else than a SEND of one packet.
    DatagramOperation,
    /// The packet carries payload or padding that its operation has no room for.
    UnexpectedPayload,
    /// The acknowledgement's syndrome is reserved.
    Syndrome,
    /// A flush has reserved bits or no placement type.
    FlushHeader,
    /// An atomic write is not one of 8 bytes.
    AtomicWriteLength,
}

impl DropReason {
    /// The counter that counts it; frames of others have none.
    #[must_use]
    pub const fn counter(self) -> Option<Counter> {
        match self {
            Self::NotRoce => None,
            Self::Icrc => Some(Counter::RxIcrcEncapsulated),
            Self::Truncated => Some(Counter::RxTruncated),
            Self::IpHeader => Some(Counter::RxIpHeader),
            Self::Length | Self::AtomicWriteLength => Some(Counter::RxLength),
            Self::TransportVersion => Some(Counter::RxTransportVersion),
            Self::UnknownOpcode | Self::UnsupportedOpcode | Self::DatagramOperation => {
                Some(Counter::RxUnknownOpcode)
            }
            Self::UnexpectedPayload => Some(Counter::RxUnexpectedPayload),
            Self::Syndrome | Self::FlushHeader => Some(Counter::RxReservedField),
        }
    }

    /// Whether the packet is malformed, which has a counter of its own for all reasons together.
    #[must_use]
    pub const fn is_malformed(self) -> bool {
        !matches!(self, Self::NotRoce | Self::Icrc)
    }
}

/// A received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Source Ethernet address.
    pub source_mac: Mac,
    /// Destination Ethernet address.
    pub destination_mac: Mac,
    /// VLAN identifier, or 0 if the frame belongs to no VLAN.
    pub vlan: u16,
    /// Priority in the VLAN tag, 0 to 7; 0 without tag.
    pub priority: u8,
    /// Source IP address.
    pub source: Gid,
    /// Destination IP address.
    pub destination: Gid,
    /// Traffic class: DSCP and ECN bits. Over IPv6 it may have changed on the way unnoticed.
    pub traffic_class: u8,
    /// Hop limit or time to live.
    pub hop_limit: u8,
    /// Flow label, 20 bits; 0 over IPv4.
    pub flow_label: u32,
    /// UDP source port.
    pub udp_source: u16,
    /// Partition key.
    pub pkey: u16,
    /// Migration state: the packet came along the sender's current path.
    pub migrated: bool,
    /// Forward congestion notification in the transport header.
    pub fecn: bool,
    /// Backward congestion notification in the transport header.
    pub becn: bool,
    /// What the packet says; one packet, its payload's length.
    pub pdu: Pdu,
    /// Payload without padding.
    pub payload: &'a [u8],
    /// The IP header as it was received.
    pub(super) network: Network<'a>,
}

impl Received<'_> {
    /// Explicit congestion notification bits (RFC 3168): 3 means that congestion was met.
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }

    /// Differentiated services code point, 6 bits.
    #[must_use]
    pub const fn dscp(&self) -> u8 {
        self.traffic_class >> 2
    }

    /// The IP header as it was received, in the form in which it stands in front of a datagram in
    /// the receiver's memory (IBTA A17.4.5.2): an IPv6 header, or 20 zeros and an IPv4 header
    /// without options.
    #[must_use]
    pub fn route_header(&self) -> [u8; ROUTE_HEADER_LENGTH] {
        self.network.route_header()
    }
}

/// Reads a frame.
///
/// # Errors
/// Why it is not received.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Received<'_>, DropReason> {
    let (ethernet, packet) = ethernet::Repr::parse(frame)?;
    match ethernet.ethertype {
        ethernet::IPV4 => parse_v4(&ethernet, packet),
        ethernet::IPV6 => parse_v6(&ethernet, packet),
        _ => Err(DropReason::NotRoce),
    }
}

fn parse_v4<'a>(ethernet: &ethernet::Repr, packet: &'a [u8]) -> Result<Received<'a>, DropReason> {
    let ip = ipv4::Parts::parse(packet)?;
    let (udp, _) = udp::Repr::parse(ip.datagram)?;
    if !ip.checksum_holds() {
        return Err(DropReason::IpHeader);
    }
    let network = Network::V4(ip.header);
    let transport = parse_transport(network, ip.options, ip.datagram)?;
    Ok(Received {
        source: Gid::from_v4(ip.repr.source),
        destination: Gid::from_v4(ip.repr.destination),
        traffic_class: ip.repr.traffic_class,
        hop_limit: ip.repr.time_to_live,
        flow_label: 0,
        ..received(ethernet, network, &udp, transport)
    })
}

fn parse_v6<'a>(ethernet: &ethernet::Repr, packet: &'a [u8]) -> Result<Received<'a>, DropReason> {
    let ip = ipv6::Parts::parse(packet)?;
    let (udp, _) = udp::Repr::parse(ip.datagram)?;
    let network = Network::V6(ip.header);
    let transport = parse_transport(network, &[], ip.datagram)?;
    Ok(Received {
        source: Gid(ip.repr.source),
        destination: Gid(ip.repr.destination),
        traffic_class: ip.repr.traffic_class,
        hop_limit: ip.repr.hop_limit,
        flow_label: ip.repr.flow_label,
        ..received(ethernet, network, &udp, transport)
    })
}

/// All but what the IP header says.
fn received<'a>(
    ethernet: &ethernet::Repr,
    network: Network<'a>,
    udp: &udp::Repr,
    (bth, pdu, payload): (bth::Repr, Pdu, &'a [u8]),
) -> Received<'a> {
    Received {
        source_mac: ethernet.source,
        destination_mac: ethernet.destination,
        vlan: ethernet.vlan,
        priority: ethernet.priority,
        source: Gid::default(),
        destination: Gid::default(),
        traffic_class: 0,
        hop_limit: 0,
        flow_label: 0,
        udp_source: udp.source,
        pkey: bth.pkey,
        migrated: bth.migrated,
        fecn: bth.fecn,
        becn: bth.becn,
        pdu,
        payload,
        network,
    }
}

/// Reads a datagram from the base transport header on.
fn parse_transport<'a>(
    network: Network<'_>,
    options: &[u8],
    datagram: &'a [u8],
) -> Result<(bth::Repr, Pdu, &'a [u8]), DropReason> {
    let (covered, icrc) = datagram
        .split_last_chunk::<{ icrc::LENGTH }>()
        .ok_or(DropReason::Length)?;
    if icrc::compute(network, options, covered).ok_or(DropReason::Length)? != *icrc {
        return Err(DropReason::Icrc);
    }
    let mut reader = Reader(covered);
    let _udp: &[u8; udp::LENGTH] = reader.take()?;
    let bth = bth::Repr::parse(reader.take()?)?;
    let (transport, operation) = Operation::decode(bth.opcode)?;
    let service = parse_service(transport, operation, &mut reader)?;
    let body = parse_body(operation, &mut reader)?;
    let payload = parse_payload(operation, usize::from(bth.pad), reader.0)?;
    let pdu = Pdu {
        destination: bth.destination,
        service,
        psn: bth.psn,
        packets: 1,
        length: payload.len() as u32,
        ack_request: bth.ack_request,
        solicited: bth.solicited,
        body,
    };
    Ok((bth, pdu, payload))
}

/// The headers that have not been read yet, and what follows them.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next header.
    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], DropReason> {
        let (header, rest) = self.0.split_first_chunk::<N>().ok_or(DropReason::Length)?;
        self.0 = rest;
        Ok(header)
    }
}

/// The header of the transport service.
fn parse_service(
    transport: Transport,
    operation: Operation,
    reader: &mut Reader<'_>,
) -> Result<Service, DropReason> {
    // By far the most frequent one first.
    if transport == Transport::Reliable {
        return Ok(Service::Reliable);
    }
    Ok(match transport {
        Transport::Reliable | Transport::Congestion => Service::Reliable,
        Transport::Unreliable => Service::Unreliable,
        Transport::Datagram => {
            let header = deth::Repr::parse(reader.take()?);
            Service::Datagram {
                qkey: header.qkey,
                source: header.source,
            }
        }
        Transport::Extended => Service::Extended {
            srqn: if operation.is_request() {
                xrceth::parse(reader.take()?)
            } else {
                0
            },
        },
        Transport::ReliableDatagram => return Err(DropReason::UnsupportedOpcode),
    })
}

fn parse_body(operation: Operation, reader: &mut Reader<'_>) -> Result<Body, DropReason> {
    Ok(match operation {
        Operation::Send(place, tail) => Body::Send {
            place,
            tail: match tail {
                Tail::Nothing => SendTail::None,
                Tail::Immediate => SendTail::Immediate(immdt::parse(reader.take()?)),
                Tail::Invalidate => SendTail::Invalidate(ieth::parse(reader.take()?)),
            },
        },
        Operation::Write(place, tail) => Body::Write {
            place,
            target: if place.starts() {
                Some(reth::parse(reader.take()?))
            } else {
                None
            },
            immediate: match tail {
                Tail::Immediate => Some(immdt::parse(reader.take()?)),
                Tail::Nothing | Tail::Invalidate => None,
            },
        },
        Operation::ReadRequest => Body::Read {
            source: reth::parse(reader.take()?),
        },
        Operation::ReadResponse(place) => Body::ReadResponse {
            place,
            acknowledge: match place {
                Place::Middle => None,
                _ => Some(aeth::parse(reader.take()?)?),
            },
        },
        Operation::Acknowledge => Body::Acknowledge(aeth::parse(reader.take()?)?),
        Operation::AtomicAcknowledge => Body::AtomicResponse {
            acknowledge: aeth::parse(reader.take()?)?,
            original: atomicacketh::parse(reader.take()?),
        },
        Operation::CompareSwap | Operation::FetchAdd => parse_atomic(operation, reader)?,
        Operation::AtomicWrite => {
            let write = atomicwrite::Repr::parse(reader.take()?)?;
            Body::AtomicWrite {
                address: write.address,
                rkey: write.rkey,
                value: write.value,
            }
        }
        Operation::Flush => {
            let header = feth::Repr::parse(reader.take()?)?;
            Body::Flush {
                target: reth::parse(reader.take()?),
                extent: header.extent,
                placement: header.placement,
            }
        }
        Operation::Congestion => {
            let _reserved: &[u8; CONGESTION_RESERVED] = reader.take()?;
            Body::Congestion
        }
    })
}

fn parse_atomic(operation: Operation, reader: &mut Reader<'_>) -> Result<Body, DropReason> {
    let header = atomiceth::Repr::parse(reader.take()?);
    Ok(Body::Atomic {
        address: header.address,
        rkey: header.rkey,
        operation: match operation {
            Operation::CompareSwap => AtomicOperation::CompareSwap {
                compare: header.compare,
                swap: header.swap_or_add,
            },
            _ => AtomicOperation::FetchAdd(header.swap_or_add),
        },
    })
}

/// What follows the headers, without padding.
fn parse_payload(operation: Operation, pad: usize, padded: &[u8]) -> Result<&[u8], DropReason> {
    if !operation.carries_payload() && (pad != 0 || !padded.is_empty()) {
        return Err(DropReason::UnexpectedPayload);
    }
    if padded.len() % 4 != 0 {
        return Err(DropReason::Length);
    }
    let length = padded.len().checked_sub(pad).ok_or(DropReason::Length)?;
    padded.get(..length).ok_or(DropReason::Length)
}
