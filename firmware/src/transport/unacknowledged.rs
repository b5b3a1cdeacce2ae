//! The sending half of a queue pair whose requests nobody acknowledges: connected without
//! reliability, datagrams, raw frames (IBTA volume 1, 9.8).
//!
//! One request at a time is taken from the work queue, checked, sent, and complete when its last
//! packet is on its way. On the wire its data has been copied by then. Between two queue pairs of
//! one process it is copied when the PDU is handled, after this call, so that such requests wait
//! for the next one to complete, or to fail.
//!
//! Sequence numbers only let a receiver find losses; nothing is sent twice.

use alloc::collections::VecDeque;

use super::congestion::{Half, Pace};
use super::failure::count_request;
use super::gather::{gather, total};
use super::message::{MAX_LENGTH, Message, Run};
use super::modify::Attributes;
use super::requester::distance;
use super::{
    Broken, Env, Kind, Offload, Path, Payload, Poll, QpConfig, Remote, Segmentation, SendOperation,
    SendWork, Transmit, segmented,
};
use crate::pdu::{SendTail, Service};
use crate::types::{Access, Chunks, Outcome, Psn, Qpn};

/// A queue key with this bit stands for that of the queue pair (IBTA volume 1, 10.2.5).
const OWN_QKEY: u32 = 1 << 31;
/// Shortest frame: an Ethernet header.
const MIN_FRAME: u32 = 14;

/// State of the sending half.
#[derive(Clone, Debug, Default)]
pub(super) struct Unacknowledged {
    /// The request that is being sent, and where to.
    current: Option<(Message, Target)>,
    /// Requests that are sent, whose data may still be read.
    sent: VecDeque<Sent>,
    /// The request that failed, after those.
    failed: Option<(SendWork, Outcome)>,
    /// Requests that were sent behind it, which do not count.
    void: VecDeque<SendWork>,
    /// Sequence number of the next packet.
    pub(super) next: Psn,
    /// The work queue may have more.
    more: bool,
    /// Scratch.
    chunks: Chunks,
}

/// A request that is sent.
#[derive(Clone, Debug)]
struct Sent {
    work: SendWork,
    /// Its length.
    bytes: u32,
    /// Its sequence numbers.
    first: Psn,
    packets: u32,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Nowhere: it is done when its turn comes.
    Nobody,
    /// To the peer of the connection.
    Peer,
    /// To a queue pair along a path of its own.
    Datagram(Path, Qpn),
    /// Out of the port as it is.
    Frame(Offload),
    /// Out of the port, cut into frames.
    Segmented(Offload, Segmentation),
}

impl Unacknowledged {
    /// Starts in RTS with the sequence number agreed on.
    pub(super) fn start_at(&mut self, link: &Attributes) {
        self.next = link.send_psn;
        self.more = true;
    }

    /// The work queue may have got more.
    pub(super) fn post_notify(&mut self) {
        self.more = true;
    }

    /// Whether no request that was taken is incomplete.
    pub(super) fn drained(&self) -> bool {
        self.current.is_none() && self.is_settled() && self.failed.is_none()
    }

    /// Whether the data of all requests that are sent has been read.
    pub(super) fn is_settled(&self) -> bool {
        self.sent.is_empty()
    }

    /// Whether [`Self::poll`] would find something to do.
    pub(super) fn has_work(&self, pace: &Pace, may_start: bool) -> bool {
        let can_send = self.current.is_some() || may_start && self.more;
        !self.is_settled() || self.failed.is_some() || can_send && !pace.waits()
    }

    /// Sends until nothing can be sent or `budget` PDUs are spent.
    pub(super) fn poll<E: Env>(
        &mut self,
        env: &mut E,
        config: &QpConfig,
        link: &Attributes,
        pace: &mut Pace,
        may_start: bool,
        budget: &mut u32,
    ) -> Result<Poll, Broken> {
        self.complete_sent(env);
        self.find_way_again(env, link);
        while *budget > 0 && self.failed.is_none() {
            let something = self.current.is_some() || may_start && self.pull(env, config, link);
            if !something || !pace.admits(env) {
                break;
            }
            if !self.send(env, link, pace) {
                return Ok(Poll::Blocked);
            }
            env.spend(budget);
        }
        if !self.is_settled() {
            return Ok(Poll::More);
        }
        self.complete_failed(env)?;
        Ok(if *budget == 0 { Poll::More } else { Poll::Idle })
    }

    /// Completes what was sent before this call.
    fn complete_sent<E: Env>(&mut self, env: &mut E) {
        while let Some(Sent { work, bytes, .. }) = self.sent.pop_front() {
            env.complete_send(&work, Outcome::Success, bytes);
        }
    }

    /// Completes the request that failed, which breaks the sending half.
    fn complete_failed<E: Env>(&mut self, env: &mut E) -> Result<(), Broken> {
        let Some((work, outcome)) = self.failed.take() else {
            return Ok(());
        };
        count_request(env, outcome);
        env.complete_send(&work, outcome, 0);
        Err(Broken)
    }

    /// A datagram has waited for room. Its way may have changed hands meanwhile: the address that it
    /// was to be sent from may be another function's by now.
    fn find_way_again<E: Env>(&mut self, env: &mut E, link: &Attributes) {
        let Some((message, Target::Datagram(path, _))) = &mut self.current else {
            return;
        };
        let Remote::Datagram(target) = &message.work.remote else {
            return;
        };
        match env.route(target) {
            Ok(found) => {
                *path = found;
                path.pkey = link.pkey.key;
            }
            Err(outcome) => {
                let failed = self.current.take();
                self.failed = failed.map(|(message, _)| (message.work, outcome));
            }
        }
    }

    /// Takes the next request from the work queue; returns whether there was one.
    fn pull<E: Env>(&mut self, env: &mut E, config: &QpConfig, link: &Attributes) -> bool {
        let Some(work) = env.next_send() else {
            self.more = false;
            return false;
        };
        let mut message = Message::new(work);
        message.first = self.next;
        match admit(env, config, link, &mut message, &mut self.chunks) {
            Ok(target) => {
                self.next = self.next.plus(message.packets);
                self.current = Some((message, target));
            }
            Err(outcome) => self.failed = Some((message.work, outcome)),
        }
        true
    }

    /// Sends the next run of packets of the current request; returns whether there was room.
    fn send<E: Env>(&mut self, env: &mut E, link: &Attributes, pace: &mut Pace) -> bool {
        let Some((message, target)) = &self.current else {
            return true;
        };
        let path = match target {
            Target::Nobody => {
                self.finish(env, true);
                return true;
            }
            Target::Datagram(path, _) => path,
            Target::Peer | Target::Frame(_) | Target::Segmented(..) => &link.path,
        };
        let burst = match target {
            Target::Peer => env.burst(path, link.path_mtu).max(1),
            _ => 1,
        };
        let copied = match target {
            Target::Frame(_) | Target::Segmented(..) => true,
            _ => !env.defers(path),
        };
        let run = match target {
            Target::Peer => message.run(message.acked, burst, link.path_mtu),
            Target::Segmented(_, segmentation) => segmented::run(message, segmentation),
            _ => message.whole(),
        };
        match transmit(env, link, message, target, &run, &mut self.chunks) {
            Transmit::NoRoom => return false,
            Transmit::BadMemory => {
                let failed = self.current.take();
                self.failed = failed.map(|(message, _)| (message.work, Outcome::LocalProtection));
            }
            Transmit::Sent => {
                pace.sent(env, Half::Requests, run.packets, run.length);
                if run.ends {
                    self.finish(env, copied);
                } else if let Some((message, _)) = &mut self.current {
                    message.acked += run.packets;
                }
            }
        }
        true
    }

    /// The current request is sent. If its data was `copied`, it is complete.
    fn finish<E: Env>(&mut self, env: &mut E, copied: bool) {
        if let Some((message, _)) = self.current.take() {
            if copied && self.is_settled() {
                env.complete_send(&message.work, Outcome::Success, message.length);
            } else {
                self.sent.push_back(Sent {
                    work: message.work,
                    bytes: message.length,
                    first: message.first,
                    packets: message.packets,
                });
            }
        }
    }

    /// Ends what was taken from the work queue: as flushed if it was not sent completely. Must not
    /// be called in the call in which it was sent.
    pub(super) fn flush<E: Env>(&mut self, env: &mut E) {
        self.complete_sent(env);
        let failed = self.failed.take().map(|(work, _)| work);
        let current = self.current.take().map(|(message, _)| message.work);
        let void = core::mem::take(&mut self.void);
        for work in failed.into_iter().chain(void).chain(current) {
            env.complete_send(&work, Outcome::Flushed, 0);
        }
    }

    /// The data of the packet with sequence number `psn`, sent in the last call, cannot be read: its
    /// request fails, and what was sent behind it with it.
    pub(super) fn unreadable(&mut self, psn: Psn) {
        let includes = |first: Psn, packets: u32| distance(first, psn) < packets;
        let sent = self.sent.iter();
        let at = sent.take_while(|sent| !includes(sent.first, sent.packets));
        let at = at.count();
        let mut behind = self.sent.split_off(at).into_iter().map(|sent| sent.work);
        let work = behind.next().or_else(|| {
            let (message, _) = self
                .current
                .take_if(|(message, _)| includes(message.first, message.packets))?;
            Some(message.work)
        });
        let Some(work) = work else {
            return;
        };
        let failed = self.failed.replace((work, Outcome::LocalProtection));
        let failed = failed.map(|(work, _)| work);
        let void = behind.chain(failed).chain(self.void.drain(..));
        self.void = void.collect();
    }
}

/// Sends one run of packets.
fn transmit<E: Env>(
    env: &mut E,
    link: &Attributes,
    message: &Message,
    target: &Target,
    run: &Run,
    chunks: &mut Chunks,
) -> Transmit {
    let payload = match message.inline_part(run) {
        Some(bytes) => Payload::Bytes(bytes),
        None => {
            let (domain, sges) = (env.domain(), &message.work.sges);
            let (offset, length) = (run.offset, run.length);
            match gather(
                env,
                domain,
                sges,
                Access::LOCAL_READ,
                offset,
                length,
                chunks,
            ) {
                Ok(()) => Payload::Chunks(chunks),
                Err(_) => return Transmit::BadMemory,
            }
        }
    };
    let (path, destination) = match target {
        Target::Datagram(path, qpn) => (path, *qpn),
        Target::Frame(offload) => return env.transmit_frame(*offload, run.length, payload),
        Target::Segmented(offload, segmentation) => {
            let part = segmented::part(run, segmentation);
            return env.transmit_part(*offload, &part, payload);
        }
        Target::Peer | Target::Nobody => (&link.path, link.remote_qpn),
    };
    env.transmit(path, &message.data_pdu(destination, run, false), payload)
}

/// Checks a request before anything of it is sent, computes its length and its packets, and finds
/// out where it goes.
fn admit<E: Env>(
    env: &mut E,
    config: &QpConfig,
    link: &Attributes,
    message: &mut Message,
    chunks: &mut Chunks,
) -> Result<Target, Outcome> {
    let work = &message.work;
    let inline = work.inline.len() as u64;
    let length = if inline > 0 {
        inline
    } else {
        total(&work.sges)
    };
    let length = u32::try_from(length).map_err(|_| Outcome::LocalLength)?;
    message.length = length;
    match (config.kind, work.operation, work.remote) {
        (_, SendOperation::Invalid(outcome), _) => Err(outcome),
        (_, SendOperation::Nop, _) => Ok(Target::Nobody),
        (Kind::Uc, SendOperation::Local(operation), _) => {
            env.local(&operation).map(|()| Target::Nobody)
        }
        (
            Kind::Uc,
            SendOperation::Write { .. }
            | SendOperation::Send(SendTail::None | SendTail::Immediate(_)),
            Remote::Peer,
        ) => {
            if length > MAX_LENGTH {
                return Err(Outcome::LocalLength);
            }
            message.service = Service::Unreliable;
            message.packets = link.path_mtu.packets(length);
            Ok(Target::Peer)
        }
        (
            Kind::Ud | Kind::Gsi,
            SendOperation::Send(SendTail::None | SendTail::Immediate(_)),
            Remote::Datagram(target),
        ) => {
            if length > env.port_mtu().bytes() {
                return Err(Outcome::LocalLength);
            }
            let mut path = env.route(&target)?;
            path.pkey = link.pkey.key;
            let own = target.qkey & OWN_QKEY != 0;
            message.service = Service::Datagram {
                qkey: if own { link.qkey } else { target.qkey },
                source: config.qpn,
            };
            message.packets = 1;
            Ok(Target::Datagram(path, target.qpn))
        }
        (Kind::Raw, SendOperation::Send(SendTail::None), Remote::Frame(offload)) => {
            if !(MIN_FRAME..=env.max_frame()).contains(&length) {
                return Err(Outcome::LocalLength);
            }
            message.packets = 1;
            Ok(Target::Frame(offload))
        }
        (Kind::Raw, SendOperation::SendSegmented(segmentation), Remote::Frame(offload)) => {
            segmented::admit(env, message, &segmentation, chunks)?;
            let offload = Offload {
                ip_checksum: true,
                transport_checksum: true,
                ..offload
            };
            Ok(Target::Segmented(offload, segmentation))
        }
        _ => Err(Outcome::LocalQpOperation),
    }
}
