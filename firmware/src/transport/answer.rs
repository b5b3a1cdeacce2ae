//! The receiving half of a queue pair: what it answers.
//!
//! Answers wait in the order of sequence numbers: acknowledgements, which are merged, READ
//! responses, which are read from memory when they are sent, atomic responses, and at most one
//! negative acknowledgement, the last. Their number is bounded by the responder resources.

use vrnic_abi::counter::Counter;

use super::congestion::{Half, Pace};
use super::gather::gather;
use super::modify::Attributes;
use super::responder::Responder;
use super::{Broken, Env, Payload, Poll, QpEvent, Transmit};
use crate::pdu::{Acknowledge, Body, NakCode, Pdu, Place, RemoteRange, Service, Syndrome};
use crate::types::{Access, Msn, Psn, Sge};

/// Credit code for "credits are not used" (IBTA volume 1, 9.7.7.2).
const NO_CREDITS: u8 = 31;

/// Something to say to the requester.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// Sequence number that it names.
    psn: Psn,
    /// Messages completed when it was queued.
    msn: Msn,
    kind: AnswerKind,
    /// It answers a duplicate.
    again: bool,
}

impl Answer {
    /// Whether a sequence number is one of the response.
    fn includes(&self, psn: Psn) -> bool {
        let packets = match self.kind {
            AnswerKind::Read { packets, .. } => packets,
            _ => 1,
        };
        !psn.before(self.psn) && psn.before(self.psn.plus(packets))
    }

    /// Whether the packet of the response with one of its sequence numbers has not been sent.
    fn is_to_be_sent(&self, psn: Psn) -> bool {
        match self.kind {
            AnswerKind::Read { sent, .. } => !psn.before(self.psn.plus(sent)),
            _ => true,
        }
    }
}

/// What to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerKind {
    /// Everything up to the sequence number arrived.
    Ack,
    /// Data.
    Read {
        /// The request's service: the data is read in its name.
        service: Service,
        /// What is read.
        source: RemoteRange,
        /// Packets of the response.
        packets: u32,
        /// Packets sent.
        sent: u32,
    },
    /// The result of an atomic operation.
    Atomic {
        /// What was there.
        original: u64,
    },
    /// An atomic write or a flush was carried out.
    Done,
    /// The request was not carried out.
    Nak(Syndrome),
}

impl AnswerKind {
    /// The response to a READ.
    pub(super) const fn read(service: Service, source: RemoteRange, packets: u32) -> Self {
        Self::Read {
            service,
            source,
            packets,
            sent: 0,
        }
    }

    /// Whether it takes responder resources.
    const fn is_response(&self) -> bool {
        matches!(self, Self::Read { .. } | Self::Atomic { .. } | Self::Done)
    }
}

/// What became of the next part of a READ response.
enum Progress {
    Sent(Part),
    /// Nobody waits for it.
    Dropped,
    /// There is no room on the wire.
    NoRoom,
}

/// Packets of a READ response that are sent as one PDU.
struct Part {
    packets: u32,
    offset: u32,
    length: u32,
    place: Place,
}

impl Responder {
    /// Queues an answer. It makes an acknowledgement before it superfluous unless it is a response,
    /// and a request to retransmit what has arrived meanwhile.
    pub(super) fn answer(&mut self, psn: Psn, kind: AnswerKind) {
        while let Some(last) = self.answers.back() {
            let superfluous = match last.kind {
                AnswerKind::Ack => true,
                AnswerKind::Nak(_) => !psn.before(last.psn),
                _ => false,
            };
            if !superfluous {
                break;
            }
            self.answers.pop_back();
        }
        if matches!(self.answers.back(), Some(last) if psn.before(last.psn)) {
            return;
        }
        self.due += u32::from(kind.is_response());
        let msn = self.msn;
        self.answers.push_back(Answer {
            psn,
            msn,
            kind,
            again: false,
        });
    }

    /// Queues the acknowledgement of all that has arrived.
    pub(super) fn acknowledge(&mut self) {
        self.answer(self.expected.plus(0xff_ffff), AnswerKind::Ack);
    }

    /// Queues the response to a duplicate in its place. What answers later requests stays: if the
    /// requester has gone back it will ask for that again and get it once, and if the network has
    /// doubled a packet it will not ask. A response that is still to be sent is not started again.
    pub(super) fn answer_again(&mut self, link: &Attributes, psn: Psn, kind: AnswerKind) {
        // What the requester sends now may fill a gap. It does not bring a receive buffer.
        let gap = AnswerKind::Nak(Syndrome::Nak(NakCode::PsnSequence));
        if self.answers.back().is_some_and(|last| last.kind == gap) {
            self.gap_reported = false;
            self.answers.pop_back();
        }
        let mut answers = self.answers.iter();
        let same = answers.position(|answer| answer.kind.is_response() && answer.includes(psn));
        if let Some(at) = same {
            if self
                .answers
                .get(at)
                .is_some_and(|same| same.is_to_be_sent(psn))
            {
                return;
            }
            self.answers.remove(at);
            self.due = self.due.saturating_sub(1);
        }
        if !self.has_room(link) {
            return;
        }
        let at = self.answers.iter().position(|later| !later.psn.before(psn));
        let answer = Answer {
            psn,
            msn: self.msn,
            kind,
            again: true,
        };
        self.answers
            .insert(at.unwrap_or(self.answers.len()), answer);
        self.due += 1;
    }

    /// Whether the responder resources suffice for the response to one more new request.
    ///
    /// A requester that keeps to them has the response to its oldest operation when it sends a new
    /// request. If an answer to a duplicate of that operation is what takes the room, the first
    /// response has come through after all, and nobody waits for another.
    pub(super) fn has_room(&mut self, link: &Attributes) -> bool {
        let most = u32::from(link.responder_resources);
        if self.due >= most {
            let mut answers = self.answers.iter();
            let oldest = answers.position(|answer| answer.kind.is_response());
            let oldest = oldest.filter(|n| self.answers.get(*n).is_some_and(|oldest| oldest.again));
            if oldest.and_then(|n| self.answers.remove(n)).is_some() {
                self.due -= 1;
            }
        }
        self.due < most
    }

    /// Whether there is something to say now: of what waits for its time, the rest waits too.
    pub(super) fn has_work(&self, pace: &Pace) -> bool {
        self.answers
            .front()
            .is_some_and(|answer| !(pace.waits() && matches!(answer.kind, AnswerKind::Read { .. })))
    }

    /// Forgets what there was to say.
    pub(super) fn silence(&mut self) {
        self.answers.clear();
        self.due = 0;
    }

    /// Sends answers until there are none or `budget` PDUs are spent.
    pub(super) fn poll<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pace: &mut Pace,
        budget: &mut u32,
    ) -> Result<Poll, Broken> {
        while let Some(answer) = self.answers.front().copied() {
            if *budget == 0 {
                return Ok(Poll::More);
            }
            let sent = match answer.kind {
                AnswerKind::Read { .. } if !pace.admits(env) => return Ok(Poll::Idle),
                AnswerKind::Read {
                    service,
                    source,
                    packets,
                    sent,
                } => {
                    env.act_for(service);
                    match self.send_part(env, link, &answer, source, packets, sent)? {
                        Progress::Sent(part) => {
                            pace.sent(env, Half::Answers, part.packets, part.length);
                            true
                        }
                        Progress::Dropped => true,
                        Progress::NoRoom => false,
                    }
                }
                _ => self.send_whole(env, link, &answer),
            };
            if !sent {
                return Ok(Poll::Blocked);
            }
            env.spend(budget);
        }
        Ok(Poll::Idle)
    }

    /// Sends the front of the queue, which is no READ response. Returns whether there was room.
    fn send_whole<E: Env>(&mut self, env: &mut E, link: &Attributes, answer: &Answer) -> bool {
        let ack = |syndrome| Acknowledge {
            syndrome,
            msn: answer.msn,
        };
        let body = match answer.kind {
            AnswerKind::Atomic { original } => Body::AtomicResponse {
                acknowledge: ack(Syndrome::Ack(NO_CREDITS)),
                original,
            },
            AnswerKind::Done => Body::ReadResponse {
                place: Place::Only,
                acknowledge: Some(ack(Syndrome::Ack(NO_CREDITS))),
            },
            AnswerKind::Nak(syndrome) => Body::Acknowledge(ack(syndrome)),
            _ => Body::Acknowledge(ack(Syndrome::Ack(NO_CREDITS))),
        };
        let pdu = Pdu {
            destination: link.remote_qpn,
            service: self.service,
            psn: answer.psn,
            packets: 1,
            length: 0,
            ack_request: false,
            solicited: false,
            body,
        };
        if env.transmit(&link.path, &pdu, Payload::Chunks(&[])) == Transmit::NoRoom {
            return false;
        }
        match answer.kind {
            AnswerKind::Nak(Syndrome::RnrNak(_)) => env.count(Counter::TxRnrNak, 1),
            AnswerKind::Nak(Syndrome::Nak(NakCode::PsnSequence)) => {
                env.count(Counter::TxSeqNak, 1);
            }
            _ => {}
        }
        self.pop_answer();
        true
    }

    /// Sends the next part of the READ response at the front of the queue. That to a duplicate is
    /// dropped when its memory has gone, as the duplicate would have been.
    fn send_part<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        answer: &Answer,
        source: RemoteRange,
        packets: u32,
        sent: u32,
    ) -> Result<Progress, Broken> {
        let part = next_part(env, link, source, packets, sent);
        let acknowledge = Acknowledge {
            syndrome: Syndrome::Ack(NO_CREDITS),
            msn: answer.msn,
        };
        let pdu = Pdu {
            destination: link.remote_qpn,
            service: self.service,
            psn: answer.psn.plus(sent),
            packets: part.packets,
            length: part.length,
            ack_request: false,
            solicited: false,
            body: Body::ReadResponse {
                place: part.place,
                acknowledge: Some(acknowledge).filter(|_| part.place != Place::Middle),
            },
        };
        let range = [Sge {
            address: source.address,
            length: source.length,
            lkey: source.rkey,
        }];
        let (offset, length, chunks) = (part.offset, part.length, &mut self.chunks);
        let domain = env.domain();
        if gather(
            env,
            domain,
            &range,
            Access::REMOTE_READ,
            offset,
            length,
            chunks,
        )
        .is_err()
        {
            if answer.again {
                self.pop_answer();
                return Ok(Progress::Dropped);
            }
            env.count(Counter::RespRemoteAccessErrors, 1);
            let (code, event) = (NakCode::RemoteAccess, QpEvent::AccessError);
            return Err(self.fail_read(env, pdu.psn, code, event));
        }
        match env.transmit(&link.path, &pdu, Payload::Chunks(chunks)) {
            Transmit::NoRoom => return Ok(Progress::NoRoom),
            Transmit::BadMemory => return Err(self.unreadable(env, pdu.psn)),
            Transmit::Sent => {}
        }
        if part.place.ends() {
            self.pop_answer();
        } else if let Some(Answer {
            kind: AnswerKind::Read { sent, .. },
            ..
        }) = self.answers.front_mut()
        {
            *sent += part.packets;
        }
        Ok(Progress::Sent(part))
    }

    /// The data of the response with sequence number `psn`, which was sent, cannot be read.
    pub(super) fn unreadable<E: Env>(&mut self, env: &mut E, psn: Psn) -> Broken {
        env.count(Counter::RespLocalOperationErrors, 1);
        self.fail_read(env, psn, NakCode::RemoteOperational, QpEvent::Fatal)
    }

    /// The memory of a READ has gone while it was being answered.
    fn fail_read<E: Env>(
        &mut self,
        env: &mut E,
        psn: Psn,
        code: NakCode,
        event: QpEvent,
    ) -> Broken {
        self.silence();
        self.answer(psn, AnswerKind::Nak(Syndrome::Nak(code)));
        env.event(event);
        Broken
    }

    fn pop_answer(&mut self) {
        if let Some(answer) = self.answers.pop_front() {
            self.due -= u32::from(answer.kind.is_response()).min(self.due);
        }
    }
}

/// What to send next of a READ response.
fn next_part<E: Env>(
    env: &E,
    link: &Attributes,
    source: RemoteRange,
    packets: u32,
    sent: u32,
) -> Part {
    let left = packets.saturating_sub(sent);
    let count = left.min(env.burst(&link.path, link.path_mtu).max(1));
    let mtu = link.path_mtu.bytes();
    let offset = sent.saturating_mul(mtu);
    let rest = source.length.saturating_sub(offset);
    Part {
        packets: count,
        offset,
        length: count.saturating_mul(mtu).min(rest),
        place: Place::new(sent == 0, count == left),
    }
}
