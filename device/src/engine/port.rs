//! The NIC's port: frames go to the link and come from it, past what the user put in between.
//!
//! Without a capture and without an impairment, frames are built in the link's own memory, and one
//! look at an `Option` is what that costs. Otherwise they take a [`Detour`]. From the NIC outwards:
//!
//! ```text
//! NIC ── capture ── cut ── impairment ── link
//! ```
//!
//! The impairment is a part of the wire, so a capture shows what this NIC sent, lost frames too,
//! and what it got. A port that was switched off cuts the wire: what is on it then is lost. Frames
//! between functions of this NIC do not reach the wire; a capture shows them, and nothing impairs
//! them. A capture of functions is on their side of the NIC, which hands it frames while it sends and
//! while it receives.
//!
//! All of it can change between two steps of the engine. A wire that replaces another one takes over
//! the frames that are on that, so they arrive when they would have.

use vrnic_firmware::host::{MirrorSide, Wire};
use vrnic_firmware::impair::{self, Impairment};
use vrnic_firmware::nic::FunctionId;
use vrnic_firmware::types::Time;

use super::recording::Recording;
use crate::capture::Direction;
use crate::link::{Link, MAX_FRAME};

/// Frames that leave an impairment in one call: more than one step of the engine lets in.
const BUDGET: usize = 1024;

/// Takes a frame that has arrived, and what to send with meanwhile.
pub(super) type Deliver<'a> = dyn FnMut(&[u8], &mut NoWire<'_>) + 'a;

/// The transmit side of the port during one step.
pub(super) struct Port<'a> {
    link: &'a mut dyn Link,
    detour: Option<&'a mut Detour>,
    now: Time,
}

/// What stands between the NIC and its link.
pub(super) struct Detour {
    recording: Option<Recording>,
    transmit: Option<Impairment>,
    receive: Option<Impairment>,
    /// Where a frame is built, because it must be seen once more after that.
    staging: Vec<u8>,
    /// A frame is due that the link had no room for.
    blocked: bool,
    /// Nothing passes, in either direction.
    cut: bool,
    /// Frames that were lost by that.
    cut_off: u64,
}

impl Detour {
    /// The way past a capture and a bad wire; `None` if there is neither.
    pub(super) fn new(recording: Option<Recording>, wire: &impair::Spec) -> Option<Self> {
        let mut detour = Self::straight();
        detour.record(recording);
        detour.impair(wire);
        (!detour.is_straight()).then_some(detour)
    }

    /// A way with nothing in between yet.
    pub(super) fn straight() -> Self {
        Self {
            recording: None,
            transmit: None,
            receive: None,
            staging: vec![0; MAX_FRAME],
            blocked: false,
            cut: false,
            cut_off: 0,
        }
    }

    /// Whether there is nothing in between, so that frames can as well go without it.
    pub(super) fn is_straight(&self) -> bool {
        let impaired = self.transmit.is_some() || self.receive.is_some();
        self.recording.is_none() && !impaired && !self.cut
    }

    /// Changes what is recorded, and returns what was before.
    pub(super) fn record(&mut self, recording: Option<Recording>) -> Option<Recording> {
        std::mem::replace(&mut self.recording, recording)
    }

    /// Changes what happens to frames that enter the wire from now on.
    pub(super) fn impair(&mut self, wire: &impair::Spec) {
        for direction in [impair::Direction::Transmit, impair::Direction::Receive] {
            let slot = self.wire_mut(direction);
            let (old, mut new) = (slot.take(), wire.build(direction));
            if let Some(old) = old {
                report(direction, &old);
                let nothing = || Impairment::new(direction, impair::Profile::default(), &[]);
                new.get_or_insert_with(nothing).take_over(old);
            }
            *slot = new.filter(|new| !new.is_over());
        }
    }

    /// What impairs frames in a direction.
    pub(super) fn wire(&self, direction: impair::Direction) -> Option<&Impairment> {
        match direction {
            impair::Direction::Transmit => self.transmit.as_ref(),
            impair::Direction::Receive => self.receive.as_ref(),
        }
    }

    fn wire_mut(&mut self, direction: impair::Direction) -> &mut Option<Impairment> {
        match direction {
            impair::Direction::Transmit => &mut self.transmit,
            impair::Direction::Receive => &mut self.receive,
        }
    }

    /// Cuts the wire, or joins it again.
    pub(super) fn set_cut(&mut self, cut: bool) {
        self.cut = cut;
    }

    /// Frames that were lost because the wire was cut.
    pub(super) fn cut_off(&self) -> u64 {
        self.cut_off
    }

    /// Leaves out a wire that has nothing to do any more.
    fn tidy(&mut self, direction: impair::Direction) {
        let wire = self.wire_mut(direction);
        if wire.as_ref().is_some_and(Impairment::is_over) {
            *wire = None;
        }
    }

    /// Takes a frame from the link; calls `deliver` at once if nothing impairs it.
    pub(super) fn receive(&mut self, now: Time, frame: &[u8], deliver: &mut Deliver<'_>) {
        if self.cut {
            self.cut_off += 1;
            return;
        }
        match &mut self.receive {
            Some(impairment) => impairment.handle(now, frame),
            None => arrive(&mut self.recording, frame, deliver),
        }
    }

    /// Calls `deliver` with the frames that have come through the impairment; returns whether there
    /// were any.
    pub(super) fn deliver_due(&mut self, now: Time, deliver: &mut Deliver<'_>) -> bool {
        let Some(impairment) = &mut self.receive else {
            return false;
        };
        for count in 0..BUDGET {
            let Some(frame) = impairment.peek(now) else {
                self.tidy(impair::Direction::Receive);
                return count != 0;
            };
            if self.cut {
                self.cut_off += 1;
            } else {
                arrive(&mut self.recording, frame, deliver);
            }
            impairment.pop();
        }
        true
    }

    /// Hands the frames that have come through the impairment to the link, as far as that has room;
    /// returns whether there were any.
    pub(super) fn send_due(&mut self, now: Time, link: &mut dyn Link) -> bool {
        let Some(impairment) = &mut self.transmit else {
            return false;
        };
        self.blocked = false;
        for count in 0..BUDGET {
            let Some(frame) = impairment.peek(now) else {
                self.tidy(impair::Direction::Transmit);
                return count != 0;
            };
            if self.cut {
                self.cut_off += 1;
                impairment.pop();
                continue;
            }
            let Some(room) = link.reserve(frame.len()) else {
                self.blocked = true;
                return count != 0;
            };
            room[..frame.len()].copy_from_slice(frame);
            link.commit(frame.len());
            impairment.pop();
        }
        true
    }

    /// When the next frame comes through. One that waits for the link is woken for by the link.
    pub(super) fn next_timeout(&self) -> Option<Time> {
        let transmit = self.transmit.as_ref().filter(|_| !self.blocked);
        let both = transmit.into_iter().chain(&self.receive);
        both.filter_map(Impairment::next_timeout).min()
    }

    /// Hands what the capture has to the file.
    pub(super) fn flush(&mut self) {
        if let Some(recording) = &mut self.recording {
            recording.flush();
        }
    }

    fn reserve(&mut self, link: &mut dyn Link, length: usize) -> Option<&mut [u8]> {
        let room = match self.transmit {
            _ if self.cut => length <= link.max_frame(),
            // Frames that are on their way count as gone; those that are stuck do not.
            Some(_) => !self.blocked && length <= link.max_frame(),
            None => link.reserve(length).is_some(),
        };
        self.staging.get_mut(..length).filter(|_| room)
    }

    fn commit(&mut self, link: &mut dyn Link, now: Time, length: usize) {
        let frame = self.staging.get(..length).unwrap_or_default();
        crossed(&mut self.recording, Direction::Sent, frame);
        if self.cut {
            self.cut_off += 1;
            return;
        }
        if let Some(impairment) = &mut self.transmit {
            impairment.handle(now, frame);
            return;
        }
        // The room was there when the frame was begun, and nothing else has been sent since.
        if let Some(room) = link.reserve(length) {
            room[..frame.len()].copy_from_slice(frame);
        }
        link.commit(length);
    }
}

fn crossed(recording: &mut Option<Recording>, direction: Direction, frame: &[u8]) {
    if let Some(recording) = recording {
        recording.crossed(direction, frame);
    }
}

/// A frame has arrived.
fn arrive(recording: &mut Option<Recording>, frame: &[u8], deliver: &mut Deliver<'_>) {
    crossed(recording, Direction::Received, frame);
    deliver(frame, &mut NoWire(recording.as_mut()));
}

impl Drop for Detour {
    /// Says what the user could not see otherwise.
    fn drop(&mut self) {
        let lost = self.recording.as_ref().map_or(0, Recording::lost);
        if lost != 0 {
            log::warn!("the capture lacks {lost} frames: the disk was too slow");
        }
        for direction in [impair::Direction::Transmit, impair::Direction::Receive] {
            if let Some(impairment) = self.wire(direction) {
                report(direction, impairment);
            }
        }
    }
}

/// Says what a wire did, and what it was to do and did not.
fn report(direction: impair::Direction, impairment: &Impairment) {
    let name = match direction {
        impair::Direction::Transmit => "tx",
        impair::Direction::Receive => "rx",
    };
    if impairment.profile().does_nothing() && impairment.events().next().is_none() {
        return;
    }
    let (seed, counters) = (impairment.profile().seed, impairment.counters());
    log::info!("impaired {name}, seed {seed}: {counters}");
    for event in impairment.idle_events() {
        log::warn!("no {name} packet was hit by the event '{event}'");
    }
}

impl<'a> Port<'a> {
    pub(super) fn new(link: &'a mut dyn Link, detour: Option<&'a mut Detour>, now: Time) -> Self {
        Self { link, detour, now }
    }
}

impl Wire for Port<'_> {
    fn reserve(&mut self, length: usize) -> Option<&mut [u8]> {
        match &mut self.detour {
            None => self.link.reserve(length),
            Some(detour) => detour.reserve(self.link, length),
        }
    }

    fn commit(&mut self, length: usize) {
        match &mut self.detour {
            None => self.link.commit(length),
            Some(detour) => detour.commit(self.link, self.now, length),
        }
    }

    fn looped(&mut self, frame: &[u8]) {
        if let Some(detour) = &mut self.detour {
            crossed(&mut detour.recording, Direction::Sent, frame);
        }
    }

    fn mirrored(&mut self, function: FunctionId, side: MirrorSide, frame: &[u8]) {
        if let Some(recording) = self.detour.as_mut().and_then(|d| d.recording.as_mut()) {
            recording.passed(function, side, frame);
        }
    }
}

/// No port: received frames are handled, and what they make necessary is sent in the next step. What
/// functions get meanwhile is recorded all the same.
#[derive(Default)]
pub(super) struct NoWire<'a>(Option<&'a mut Recording>);

impl Wire for NoWire<'_> {
    fn reserve(&mut self, _length: usize) -> Option<&mut [u8]> {
        None
    }

    fn commit(&mut self, _length: usize) {}

    fn looped(&mut self, frame: &[u8]) {
        if let Some(recording) = &mut self.0 {
            recording.crossed(Direction::Sent, frame);
        }
    }

    fn mirrored(&mut self, function: FunctionId, side: MirrorSide, frame: &[u8]) {
        if let Some(recording) = &mut self.0 {
            recording.passed(function, side, frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::BorrowedFd;

    use super::*;
    use crate::link::LinkCounters;

    /// A link with room for some frames.
    #[derive(Default)]
    struct Narrow {
        room: usize,
        buffer: Vec<u8>,
        sent: Vec<Vec<u8>>,
    }

    impl Link for Narrow {
        fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
            self.buffer = vec![0xdd; len];
            (self.room > 0 && len <= self.max_frame()).then_some(&mut self.buffer)
        }

        fn commit(&mut self, len: usize) {
            self.room -= 1;
            self.sent.push(self.buffer[..len].to_vec());
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn receive(&mut self, _: usize, _: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
            Ok(0)
        }

        fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn prepare_sleep(&mut self) -> bool {
            true
        }

        fn wake(&mut self) {}

        fn is_up(&self) -> bool {
            true
        }

        fn max_frame(&self) -> usize {
            2000
        }

        fn counters(&self) -> LinkCounters {
            LinkCounters::default()
        }
    }

    fn detour(settings: &str) -> Detour {
        let mut spec = impair::Spec::default();
        spec.set(&settings.parse().unwrap()).unwrap();
        Detour::new(None, &spec).unwrap()
    }

    fn frame(n: u8) -> Vec<u8> {
        vec![n; 60 + usize::from(n)]
    }

    /// Sends a frame as the NIC does; says whether there was room.
    fn send(detour: &mut Detour, link: &mut Narrow, now: Time, n: u8) -> bool {
        let frame = frame(n);
        let mut port = Port::new(link, Some(detour), now);
        let Some(room) = port.reserve(frame.len()) else {
            return false;
        };
        room.copy_from_slice(&frame);
        port.commit(frame.len());
        true
    }

    #[test]
    fn nothing_in_between_is_no_detour() {
        assert!(Detour::new(None, &impair::Spec::default()).is_none());
    }

    #[test]
    fn a_full_link_stops_the_nic_and_loses_nothing() {
        let (mut detour, mut link) = (detour("tx:delay=1us"), Narrow::default());
        let (start, due) = (Time(0), Time(1000));
        for n in 0..4 {
            assert!(send(&mut detour, &mut link, start, n), "frame {n}");
        }
        assert!(!detour.send_due(start, &mut link), "too early");
        assert_eq!(detour.next_timeout(), Some(due));
        link.room = 2;
        assert!(detour.send_due(due, &mut link));
        assert_eq!(link.sent, [frame(0), frame(1)]);
        // The link wakes the engine now, and the NIC has to wait.
        assert_eq!(detour.next_timeout(), None);
        assert!(!send(&mut detour, &mut link, due, 4));
        assert!(!detour.send_due(due, &mut link));
        link.room = 9;
        assert!(detour.send_due(due, &mut link));
        assert!(send(&mut detour, &mut link, due, 4));
        assert!(detour.send_due(Time(2000), &mut link));
        assert_eq!(link.sent, [0, 1, 2, 3, 4].map(frame));
        assert_eq!(detour.next_timeout(), None);
    }

    #[test]
    fn a_frame_that_never_fits_is_refused_at_once() {
        let (mut detour, mut link) = (detour("tx:delay=1us"), Narrow::default());
        link.room = 9;
        let mut port = Port::new(&mut link, Some(&mut detour), Time(0));
        assert!(port.reserve(2001).is_none());
        assert!(port.reserve(2000).is_some());
    }

    #[test]
    fn received_frames_come_when_they_are_due() {
        let mut detour = detour("rx:delay=1us,dup=100%");
        let mut got = Vec::new();
        let mut deliver = |frame: &[u8], _: &mut NoWire<'_>| got.push(frame.to_vec());
        detour.receive(Time(0), &frame(1), &mut deliver);
        detour.receive(Time(5), &frame(2), &mut deliver);
        assert!(!detour.deliver_due(Time(999), &mut deliver));
        assert_eq!(detour.next_timeout(), Some(Time(1000)));
        assert!(detour.deliver_due(Time(1000), &mut deliver));
        assert!(detour.deliver_due(Time(1005), &mut deliver));
        assert!(!detour.deliver_due(Time(9999), &mut deliver));
        assert_eq!(got, [1, 1, 2, 2].map(frame));
    }

    #[test]
    fn one_direction_leaves_the_other_alone() {
        let (mut detour, mut link) = (detour("rx:drop=100%"), Narrow::default());
        assert!(!send(&mut detour, &mut link, Time(0), 1), "no room");
        link.room = 1;
        assert!(send(&mut detour, &mut link, Time(0), 1));
        assert_eq!(link.sent, [frame(1)]);
        let mut got = 0;
        detour.receive(Time(0), &frame(2), &mut |_, _| got += 1);
        assert!(!detour.deliver_due(Time(0), &mut |_, _| {}));
        assert_eq!(got, 0);
    }

    /// What `--impair` would make of `settings`.
    fn spec(settings: &str) -> impair::Spec {
        let mut spec = impair::Spec::default();
        spec.set(&settings.parse().unwrap()).unwrap();
        spec
    }

    #[test]
    fn frames_on_a_wire_that_is_replaced_arrive_when_they_would_have() {
        let (mut detour, mut link) = (detour("delay=1us"), Narrow::default());
        link.room = 9;
        let mut got = Vec::new();
        assert!(send(&mut detour, &mut link, Time(0), 1));
        detour.receive(Time(0), &frame(2), &mut |_, _| panic!("too early"));
        detour.impair(&spec("drop=100%"));
        assert!(send(&mut detour, &mut link, Time(1), 3));
        detour.impair(&impair::Spec::default());
        assert!(!detour.is_straight(), "frames are on their way");
        // From now on, nothing happens to frames.
        assert!(send(&mut detour, &mut link, Time(2), 4));
        assert!(detour.send_due(Time(2), &mut link));
        assert_eq!(link.sent, [frame(4)]);
        assert!(detour.send_due(Time(1000), &mut link));
        assert!(detour.deliver_due(Time(1000), &mut |frame, _| got.push(frame.to_vec())));
        assert_eq!(
            (&link.sent[1..], &got[..]),
            (&[frame(1)][..], &[frame(2)][..])
        );
        assert!(!detour.send_due(Time(1001), &mut link));
        assert!(!detour.deliver_due(Time(1001), &mut |_, _| {}));
        assert!(detour.is_straight());
    }

    #[test]
    fn nothing_passes_a_cut_wire_and_what_is_on_it_is_lost() {
        let (mut detour, mut link) = (detour("delay=1us"), Narrow::default());
        link.room = 9;
        assert!(send(&mut detour, &mut link, Time(0), 1));
        let mut lost = |_: &[u8], _: &mut NoWire<'_>| panic!("the wire is cut");
        detour.receive(Time(0), &frame(2), &mut lost);
        detour.set_cut(true);
        assert!(send(&mut detour, &mut link, Time(1), 3), "no back-pressure");
        detour.receive(Time(1), &frame(4), &mut lost);
        detour.send_due(Time(5000), &mut link);
        detour.deliver_due(Time(5000), &mut lost);
        assert_eq!((link.sent.len(), detour.cut_off()), (0, 4));
        detour.set_cut(false);
        assert!(send(&mut detour, &mut link, Time(6000), 5));
        assert!(detour.send_due(Time(7000), &mut link));
        assert_eq!(link.sent, [frame(5)]);
    }
}
