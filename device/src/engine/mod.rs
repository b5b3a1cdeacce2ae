//! The engine: one thread that owns functions, their queues, and a link, without locks.
//!
//! Everything that happens on the data path happens here, one step after the other: what arrived
//! on the link, doorbells, timers, queue pairs that have something to send. Other threads send
//! [`Message`]s (trapped register writes, resets, changes of memory mappings) and never share state
//! with it apart from registers, doorbell pages and interrupt vectors, which are made for that.
//!
//! While there is work the engine polls. After [`SPIN`] without any, or earlier where others wait for
//! its processor (`patience`), it announces to drivers, to the link's peer and to other threads that it sleeps,
//! looks at everything once more, and sleeps until one of them or a timer wakes it: an idle NIC uses
//! no processor time.

mod inbox;
mod inside;
mod notice;
mod patience;
mod port;
mod processors;
mod recording;
mod waker;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smallvec::SmallVec;
use vrnic_firmware::impair;
use vrnic_firmware::nic::{FunctionConfig, FunctionId, Nic, NicConfig, Progress};
use vrnic_firmware::resource::Quota;
use vrnic_firmware::types::Time;

use crate::capture::Tap;
use crate::host::FunctionHost;
use crate::link::Link;
use crate::memory::Applied;
use inbox::{Inbox, Lane};
pub use inside::{Inside, PortState};
pub use notice::{Notice, Notices, Observer, notices};
use patience::Patience;
pub use patience::SPIN;
use port::{Detour, NoWire, Port};
use processors::Processors;
pub use recording::Recording;
pub use waker::Waker;

/// Frames taken from the link in one step, whomever they are for.
const RECEIVE_BUDGET: usize = 16;

/// Messages handled in one step, if they take no longer than [`MESSAGE_TIME`].
const MESSAGE_BUDGET: usize = 16;

/// How long messages are handled in one step, all functions' together: a client can send many, and
/// others' packets wait meanwhile. A reset takes longer than that and is the only one of its step.
const MESSAGE_TIME: Duration = Duration::from_micros(1);

/// The longest time, in nanoseconds, for which messages wait because others took long.
const OTHERS_TIME: u64 = 1_000_000;

/// How soon after a change of the link's state another one is reported. Each is an event for every
/// driver, and a peer that comes and goes must not fill their queues.
const LINK_HOLD: Duration = Duration::from_millis(100);

/// Requests of one function that can wait for the engine.
const MAX_REQUESTS: usize = 1024;

/// Called on the engine's thread when a request is done.
pub type Done = Box<dyn FnOnce() + Send>;

/// What other threads ask of an engine.
///
/// Names of functions are chosen by whoever sends these messages, and given again when a function is
/// gone. All messages about functions come from one thread, and none passes the addition or the removal
/// of a function (`inbox`), so what was asked of a removed one comes before its removal, and never
/// reaches the next of that name.
pub enum Message {
    /// Serve a function from now on.
    AddFunction {
        /// The name by which other messages call it; nobody has it.
        function: FunctionId,
        /// Its surroundings.
        host: Box<FunctionHost>,
        /// Its identity.
        config: FunctionConfig,
        /// How much it may have.
        quota: Quota,
    },
    /// Serve a function no longer. Nothing of it is in flight afterwards, and its name is free.
    RemoveFunction {
        /// Function.
        function: FunctionId,
    },
    /// A register was written.
    WriteRegister {
        /// Function.
        function: FunctionId,
        /// Offset in BAR0, a multiple of 4.
        offset: u32,
        /// Value.
        value: u32,
        /// Dropped when it was handled.
        ticket: Ticket,
    },
    /// Changes of memory mappings wait in the function's memory.
    MemoryChanged {
        /// Function.
        function: FunctionId,
    },
    /// Reset the function; `done` when nothing of it is in flight any more.
    Reset {
        /// Function.
        function: FunctionId,
        /// Called then.
        done: Done,
    },
    /// Look inside, or change something that no client can: in bounded time, as everything waits.
    Ask(Box<dyn FnOnce(&mut Inside<'_>) + Send>),
    /// Tell somebody what happens, about functions that are added from now on.
    Observe(Observer),
    /// End the thread.
    Stop,
}

impl Lane for Message {
    fn function(&self) -> Option<usize> {
        match self {
            Self::WriteRegister { function, .. }
            | Self::MemoryChanged { function }
            | Self::Reset { function, .. } => Some(function.index().into()),
            // Whom these are about may be another one afterwards.
            Self::AddFunction { .. } | Self::RemoveFunction { .. } => None,
            Self::Ask(_) | Self::Observe(_) | Self::Stop => None,
        }
    }
}

/// Counts the requests of one function that wait for the engine. Clients can be faster than it is;
/// who queues requests of theirs looks first.
#[derive(Debug, Default)]
pub struct Tickets(Arc<()>);

/// One request; counts until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    _counted: Arc<()>,
}

impl Tickets {
    /// Whether as many requests wait as should.
    #[must_use]
    pub fn are_out(&self) -> bool {
        Arc::strong_count(&self.0) > MAX_REQUESTS
    }

    /// One more, whether or not they are out.
    #[must_use]
    pub fn take(&self) -> Ticket {
        let _counted = Arc::clone(&self.0);
        Ticket { _counted }
    }
}

/// How to reach an engine. Clones reach the same one.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    sender: Sender<Message>,
    waker: Arc<Waker>,
}

impl EngineHandle {
    /// Sends a message. It is lost if the engine has ended, as everything else is then.
    pub fn send(&self, message: Message) {
        let _ = self.sender.send(message);
        self.waker.wake();
    }

    /// A doorbell was stored by trapped access, or a kick page was written: the engine looks at its
    /// doorbells again before it sleeps.
    pub fn kick(&self) {
        self.waker.wake();
    }

    /// Has `question` called on the engine's thread; it is dropped if the engine has ended.
    pub fn ask(&self, question: impl FnOnce(&mut Inside<'_>) + Send + 'static) {
        self.send(Message::Ask(Box::new(question)));
    }

    /// Adds a function by a name that no other has.
    pub fn add_function(
        &self,
        function: FunctionId,
        host: FunctionHost,
        config: FunctionConfig,
        quota: Quota,
    ) {
        let host = Box::new(host);
        self.send(Message::AddFunction {
            function,
            host,
            config,
            quota,
        });
    }
}

/// What an engine's port is plugged into.
pub struct Cable {
    /// Where frames go and come from.
    pub link: Box<dyn Link>,
    /// Sees every frame that the NIC sends and gets.
    pub tap: Option<Tap>,
    /// What happens to frames on the way.
    pub impairment: impair::Spec,
}

/// A running engine; dropping it stops the thread.
#[derive(Debug)]
pub struct EngineThread {
    handle: EngineHandle,
    thread: Option<JoinHandle<()>>,
}

impl EngineThread {
    /// Starts an engine whose port is at the end of `cable`. `ended` is called when the thread ends,
    /// for whatever reason.
    ///
    /// # Errors
    /// If the host refuses a thread or a descriptor.
    pub fn start(
        config: NicConfig,
        cable: Cable,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let waker = Arc::new(Waker::new()?);
        let (sender, messages) = channel();
        let engine = Engine {
            nic: Nic::new(config),
            detour: Detour::new(cable.tap.map(Recording::of_port), &cable.impairment),
            link: cable.link,
            messages: Inbox::new(messages),
            others_until: Time(0),
            changing: VecDeque::new(),
            waker: Arc::clone(&waker),
            processors: Processors::of_host(),
            patience: Patience::default(),
            start: Instant::now(),
            link_up: false,
            enabled: true,
            cut_off: 0,
            observer: None,
            link_held_until: Time(0),
            link_violated: false,
            stopped: false,
        };
        let thread = std::thread::Builder::new().name("vrnic-engine".into());
        Ok(Self {
            thread: Some(thread.spawn(move || {
                let _ended = OnDrop(Some(ended));
                engine.run();
            })?),
            handle: EngineHandle { sender, waker },
        })
    }

    /// Whether the thread has ended: it does so by itself only if it panicked.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How to reach it.
    #[must_use]
    pub fn handle(&self) -> &EngineHandle {
        &self.handle
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        self.handle.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic was reported on standard error when it happened.
            let _ = thread.join();
        }
    }
}

/// Calls a function when it is dropped, also by a panic.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

struct Engine {
    nic: Nic<FunctionHost>,
    link: Box<dyn Link>,
    /// Something between the NIC and the link.
    detour: Option<Detour>,
    messages: Inbox<Message>,
    /// Until then, it is the turn of everything else: messages have taken as long before.
    others_until: Time,
    /// Functions with changes of memory mappings to apply.
    changing: VecDeque<FunctionId>,
    waker: Arc<Waker>,
    processors: Processors,
    patience: Patience,
    start: Instant,
    /// As it was reported.
    link_up: bool,
    /// The port is not switched off.
    enabled: bool,
    /// Frames lost at the port while it was, as far as they are not counted by the detour.
    cut_off: u64,
    observer: Option<Observer>,
    link_held_until: Time,
    /// A peer broke the framing, and the log says so.
    link_violated: bool,
    stopped: bool,
}

impl Engine {
    fn run(mut self) {
        let mut idle_since = None;
        while !self.stopped {
            let now = self.now();
            if self.step(now) {
                idle_since = None;
                continue;
            }
            let since = *idle_since.get_or_insert(now);
            let short = self.processors.are_short(now);
            if self.patience.lasts(since, now, short) || self.frame_is_due(now.after(SPIN)) {
                std::hint::spin_loop();
                continue;
            }
            self.sleep();
            self.patience.slept(now, self.now());
            idle_since = None;
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Does what there is to do, in bounded portions; says whether there was anything.
    fn step(&mut self, now: Time) -> bool {
        let mut busy = self.handle_messages(now);
        busy |= self.receive(now);
        self.watch_link(now);
        busy |= self.send_due(now);
        let mut port = Port::new(&mut *self.link, self.detour.as_mut(), now);
        busy |= self.nic.step(now, &mut port) == Progress::Busy;
        busy |= self.send_due(now);
        if let Err(error) = self.link.flush() {
            log::debug!("link: {error}");
        }
        busy
    }

    fn receive(&mut self, now: Time) -> bool {
        let Self {
            nic, link, detour, ..
        } = self;
        let mut deliver = |frame: &[u8], wire: &mut NoWire<'_>| nic.receive(now, frame, wire);
        let received = match detour {
            None => link.receive(RECEIVE_BUDGET, &mut |frame| {
                deliver(frame, &mut NoWire::default());
            }),
            Some(detour) => link.receive(RECEIVE_BUDGET, &mut |frame| {
                detour.receive(now, frame, &mut deliver);
            }),
        };
        let frames = received.unwrap_or_else(|error| {
            log::debug!("link: {error}");
            0
        });
        let due = detour
            .as_mut()
            .is_some_and(|detour| detour.deliver_due(now, &mut deliver));
        frames != 0 || due
    }

    /// Sends frames that were delayed until now.
    fn send_due(&mut self, now: Time) -> bool {
        let Some(detour) = &mut self.detour else {
            return false;
        };
        let any = detour.send_due(now, &mut *self.link);
        if detour.is_straight() {
            self.cut_off += detour.cut_off();
            self.detour = None;
        }
        any
    }

    /// Whether a delayed frame is due by `time`. The engine does not sleep then, because it would
    /// oversleep.
    fn frame_is_due(&self, time: Time) -> bool {
        let detour = self.detour.as_ref();
        detour
            .and_then(Detour::next_timeout)
            .is_some_and(|at| at <= time)
    }

    fn watch_link(&mut self, now: Time) {
        let up = self.has_link();
        if up != self.link_up && now >= self.link_held_until {
            self.link_up = up;
            self.link_held_until = Time(now.0.saturating_add(LINK_HOLD.as_nanos() as u64));
            log::info!("link is {}", if up { "up" } else { "down" });
            self.nic.set_link(up);
            if let Some(observer) = &self.observer {
                observer.notify(Notice::Link { up });
            }
            self.watch_framing();
        }
    }

    fn has_link(&self) -> bool {
        self.enabled && self.link.is_up()
    }

    /// Says it once if a peer broke the framing: most likely two kinds of link were joined.
    fn watch_framing(&mut self) {
        if !self.link_violated && self.link.counters().violations > 0 {
            self.link_violated = true;
            log::warn!("the link's peer broke its framing: is it a link of the same kind?");
        }
    }

    /// Handles messages and changes of memory mappings for a moment, and no more than half of the
    /// time. Returns whether there are any.
    fn handle_messages(&mut self, now: Time) -> bool {
        self.messages.sort();
        if self.messages.is_closed() {
            self.stopped = true;
            return true;
        }
        if self.messages.is_empty() && self.changing.is_empty() {
            return false;
        }
        if now >= self.others_until {
            self.take_messages(now);
            self.change_memory();
            let end = self.now();
            // One that waited long for a client's memory makes no other wait as long again.
            let others = end.0.saturating_sub(now.0).min(OTHERS_TIME);
            self.others_until = Time(end.0.saturating_add(others));
        }
        true
    }

    fn take_messages(&mut self, now: Time) {
        for _ in 0..MESSAGE_BUDGET {
            let Some(message) = self.messages.take() else {
                return;
            };
            self.handle(now, message);
            if self.now().0.saturating_sub(now.0) > MESSAGE_TIME.as_nanos() as u64 {
                return;
            }
        }
    }

    /// Applies a portion of the changes of one function's memory mappings.
    fn change_memory(&mut self) {
        let Some(function) = self.changing.pop_front() else {
            return;
        };
        let applied = self
            .nic
            .host(function)
            .map(FunctionHost::apply_memory_updates);
        if applied == Some(Applied::Some) {
            self.changing.push_back(function);
        }
    }

    fn handle(&mut self, now: Time, message: Message) {
        match message {
            Message::AddFunction {
                function,
                host,
                config,
                quota,
            } => self.add(function, *host, config, quota),
            Message::RemoveFunction { function } => self.remove(function),
            Message::WriteRegister {
                function,
                offset,
                value,
                ticket: _ticket,
            } => {
                self.nic.write_register(now, function, offset, value);
            }
            Message::MemoryChanged { function } => {
                if !self.changing.contains(&function) {
                    self.changing.push_back(function);
                }
            }
            Message::Reset { function, done } => {
                self.nic.reset(function);
                done();
            }
            Message::Ask(question) => question(&mut Inside {
                nic: &mut self.nic,
                link: &*self.link,
                detour: &mut self.detour,
                enabled: &mut self.enabled,
                cut_off: self.cut_off,
                now,
            }),
            Message::Observe(observer) => self.observer = Some(observer),
            Message::Stop => self.stopped = true,
        }
    }

    /// Adds a function, and has somebody told what happens to it.
    fn add(
        &mut self,
        function: FunctionId,
        mut host: FunctionHost,
        config: FunctionConfig,
        quota: Quota,
    ) {
        if let Some(observer) = &self.observer {
            host.observe(function, observer.clone());
            let number = config.number;
            observer.notify(Notice::Added { function, number });
        }
        if self.nic.add_function_as(function, host, config).is_err() {
            log::error!("two functions have the number {}", function.index());
        } else if let Err(error) = self.nic.set_quota(function, quota) {
            log::error!("function {} has no quota: {error}", function.index());
        }
    }

    /// Removes a function: its memory is not reachable any more when this returns.
    fn remove(&mut self, function: FunctionId) {
        self.changing.retain(|changing| *changing != function);
        let removed = self.nic.remove_function(function).is_some();
        if let Some(observer) = self.observer.as_ref().filter(|_| removed) {
            observer.notify(Notice::Removed { function });
        }
    }

    /// Sleeps until there is something to do, if nothing has come up by now.
    fn sleep(&mut self) {
        if let Some(detour) = &mut self.detour {
            detour.flush();
        }
        self.waker.announce_sleep();
        if self.nic.prepare_sleep()
            && self.link.prepare_sleep()
            && !self.handle_messages(self.now())
        {
            self.wait();
        }
        self.link.wake();
        self.nic.wake();
        self.waker.awake();
    }

    /// When to wake without being woken.
    fn next_timeout(&self) -> Option<Time> {
        let held = self.has_link() != self.link_up;
        let link = held.then_some(self.link_held_until);
        let delayed = self.detour.as_ref().and_then(Detour::next_timeout);
        // Early enough to be awake when it is due.
        let delayed = delayed.map(|at| Time(at.0.saturating_sub(SPIN.as_nanos() as u64)));
        let timeouts = [self.nic.next_timeout(), link, delayed];
        timeouts.into_iter().flatten().min()
    }

    fn wait(&mut self) {
        let timeout = self.next_timeout().map(|at| {
            let nanos = at.0.saturating_sub(self.now().0);
            let duration = Duration::from_nanos(nanos);
            Timespec {
                tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(duration.subsec_nanos()),
            }
        });
        let waker = self.waker.fd();
        let link = self.link.wake_fd();
        let fds = std::iter::once(&waker).chain(&link);
        let mut fds: SmallVec<[_; 2]> = fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        // Whatever ends the wait, an error included, the engine looks at everything again.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}
