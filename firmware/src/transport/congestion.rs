//! What a queue pair does about congestion (RFC 3168; IBTA volume 1, annex A17.9).
//!
//! A switch marks packets that met a queue. The receiving end of a connection is the notification
//! point: a [`Notifier`] says when to tell the sender, with a congestion notification packet. The
//! sending end is the reaction point: a [`Pace`] holds data packets back so that they keep to the
//! rate that [`super::rate`] allows. Data are the parts of SEND and WRITE, and those of READ
//! responses: both halves of a queue pair share its rate, and take turns when both wait.
//! Acknowledgements, READ requests and other packets without data are never held back.
//!
//! A queue pair that was never notified has no limiter and pays a test of a pointer for each packet.
//! One that waits is idle: [`Pace::deadline`] is when it goes on, and until [`Pace::expire`] was
//! called [`Pace::waits`] tells not to poll what waits.
//!
//! How packets are marked as ECN-capable and how marks are read is left to the front end.

use alloc::boxed::Box;
use core::time::Duration;

use vrnic_abi::counter::Counter;

use super::modify::Attributes;
use super::rate::{Bounds, Rate, ReactionPoint};
use super::{Env, Payload, Transmit};
use crate::pdu::{Body, Pdu, Service};
use crate::types::{Psn, Time};

/// Bytes that a queue pair may send ahead of its rate, after it was late or idle: an engine looks
/// at its timers every few microseconds.
const BURST: u32 = 16 << 10;
/// Bytes of a packet besides its payload, on the line: preamble, Ethernet, IPv4 or IPv6, UDP,
/// transport header, ICRC, frame check sequence, gap.
const OVERHEAD: u32 = 82;

/// What a function's port does about congestion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congestion {
    /// Packets of queue pairs leave as ECN-capable.
    pub capable: bool,
    /// Marked packets are answered with notifications.
    pub notify: bool,
    /// Notifications lower the rate.
    pub react: bool,
    /// Differentiated services code point of notifications.
    pub dscp: u8,
    /// Least time between two notifications of a queue pair.
    pub interval: Duration,
    /// Limits of the rate.
    pub bounds: Bounds,
}

impl Congestion {
    /// Least time between two notifications unless told otherwise, as in DCQCN.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_micros(50);
    /// Least rate unless told otherwise, in Mbit/s.
    pub const DEFAULT_MINIMUM: u32 = 100;

    /// Nothing.
    pub const OFF: Self = Self {
        capable: false,
        notify: false,
        react: false,
        dscp: 0,
        interval: Self::DEFAULT_INTERVAL,
        bounds: Bounds {
            line: Rate::megabits(u32::MAX),
            minimum: Rate::megabits(Self::DEFAULT_MINIMUM),
        },
    };
}

/// The notification point of a queue pair.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notifier {
    /// There is a notification to be sent.
    due: bool,
    /// When the last one was.
    last: Option<Time>,
}

impl Notifier {
    /// A marked packet arrived. A mark too soon after a notification says nothing new.
    pub(super) fn marked<E: Env>(&mut self, env: &E) {
        let settings = env.congestion();
        let next = self.last.map(|last| last.after(settings.interval));
        self.due |= settings.notify && next.is_none_or(|next| next <= env.now());
    }

    /// Whether [`Self::poll`] has something to do.
    pub(super) const fn has_work(&self) -> bool {
        self.due
    }

    /// Tells the peer that its packets meet congestion, if it is to be told. Returns whether there
    /// was room.
    pub(super) fn poll<E: Env>(&mut self, env: &mut E, link: &Attributes) -> bool {
        if !self.due {
            return true;
        }
        let mut path = link.path;
        path.traffic_class = env.congestion().dscp << 2;
        let pdu = Pdu {
            destination: link.remote_qpn,
            // Of all connections, whatever their service.
            service: Service::Reliable,
            psn: Psn::new(0),
            packets: 1,
            length: 0,
            ack_request: false,
            solicited: false,
            body: Body::Congestion,
        };
        if env.transmit(&path, &pdu, Payload::Chunks(&[])) == Transmit::NoRoom {
            return false;
        }
        env.count(Counter::NpCnpSent, 1);
        self.due = false;
        self.last = Some(env.now());
        true
    }
}

/// The halves of a queue pair, as senders of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// SEND and WRITE.
    Requests,
    /// READ responses.
    Answers,
}

/// The limiter of a queue pair, if it has one.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    limiter: Option<Box<Limiter>>,
    /// A data packet waits until then.
    waiting: Option<Time>,
}

/// The reaction point, and what it makes of packets.
#[derive(Clone, Copy, Debug)]
struct Limiter {
    point: ReactionPoint,
    /// No data packet leaves before.
    next: Time,
    /// Who sent last.
    last: Half,
}

impl Pace {
    /// Whether a data packet may leave now. If not, there is a deadline.
    #[inline]
    pub(super) fn admits<E: Env>(&mut self, env: &E) -> bool {
        self.limiter.is_none() || self.is_time(env)
    }

    fn is_time<E: Env>(&mut self, env: &E) -> bool {
        let (now, settings) = (env.now(), env.congestion());
        self.waiting = None;
        let Some(limiter) = &mut self.limiter else {
            return true;
        };
        limiter.point.advance(now, &settings.bounds);
        if !settings.react || limiter.point.recovered(&settings.bounds) {
            self.limiter = None;
            return true;
        }
        if limiter.next <= now {
            return true;
        }
        self.waiting = Some(limiter.next);
        false
    }

    /// A PDU with data was sent.
    #[inline]
    pub(super) fn sent<E: Env>(&mut self, env: &E, half: Half, packets: u32, length: u32) {
        if let Some(limiter) = &mut self.limiter {
            let bytes = on_the_line(packets, length);
            limiter.sent(env.now(), &env.congestion().bounds, half, bytes);
        }
    }

    /// A notification arrived.
    pub(super) fn notified<E: Env>(&mut self, env: &mut E) {
        let (now, settings) = (env.now(), *env.congestion());
        if !settings.react {
            env.count(Counter::RpCnpIgnored, 1);
            return;
        }
        env.count(Counter::RpCnpHandled, 1);
        match &mut self.limiter {
            Some(limiter) => limiter.point.notified(now, &settings.bounds),
            None => {
                self.limiter = Some(Box::new(Limiter {
                    point: ReactionPoint::new(now, &settings.bounds),
                    next: now,
                    last: Half::Answers,
                }));
            }
        }
    }

    /// Whether data waits for its time.
    #[inline]
    pub(super) const fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// When [`Self::expire`] is to be called.
    pub(super) const fn deadline(&self) -> Option<Time> {
        self.waiting
    }

    /// Ends the wait if it is time.
    pub(super) fn expire(&mut self, now: Time) {
        self.waiting = self.waiting.filter(|at| *at > now);
    }

    /// Whether both halves share a rate and the requests go first now.
    #[inline]
    pub(super) fn favours_requests(&self) -> bool {
        let limiter = self.limiter.as_ref();
        limiter.is_some_and(|limiter| limiter.last == Half::Answers)
    }

    /// Whether so many packets of `length` bytes take a good part of `timeout`.
    #[inline]
    pub(super) fn is_slow(&self, packets: u32, length: u32, timeout: Option<Duration>) -> bool {
        let (Some(limiter), Some(timeout)) = (&self.limiter, timeout) else {
            return false;
        };
        let bytes = on_the_line(packets, packets.saturating_mul(length));
        let time = Duration::from_nanos(limiter.point.rate().nanoseconds(bytes));
        time >= timeout / 4
    }

    /// The rate that the queue pair is limited to.
    pub(super) fn rate(&self, now: Time, settings: &Congestion) -> Option<Rate> {
        let mut point = self.limiter.as_ref()?.point;
        point.advance(now, &settings.bounds);
        let limited = settings.react && !point.recovered(&settings.bounds);
        limited.then(|| point.rate())
    }

    /// Whether there is a limiter.
    pub(super) const fn is_limited(&self) -> bool {
        self.limiter.is_some()
    }

    /// Takes other settings into account at once.
    pub(super) fn reconsider(&mut self, now: Time, settings: &Congestion) {
        self.waiting = None;
        if !settings.react {
            self.limiter = None;
        }
        if let Some(limiter) = &mut self.limiter {
            limiter.next = limiter.next.min(now);
        }
    }
}

impl Limiter {
    fn sent(&mut self, now: Time, bounds: &Bounds, half: Half, bytes: u32) {
        let rate = self.point.rate();
        let ahead = Time(now.0.saturating_sub(rate.nanoseconds(BURST)));
        let start = self.next.max(ahead);
        self.next = start.after(Duration::from_nanos(rate.nanoseconds(bytes)));
        self.last = half;
        self.point.sent(bytes, bounds);
    }
}

/// Bytes that packets take on the line.
const fn on_the_line(packets: u32, length: u32) -> u32 {
    packets.saturating_mul(OVERHEAD).saturating_add(length)
}
