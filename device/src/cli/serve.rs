//! `vrnic serve`: one process, one NIC.
//!
//! The control thread runs one `mio` loop for all vfio-user sockets, the control socket and signals;
//! the engine thread does the rest. Which functions there are is for [`super::functions`]. Files that this process
//! made (sockets, links, a complete capture) are in order again when it ends, however it is told to end.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{TryRecvError, channel};

use anyhow::{Context, Error, anyhow};
use clap::Args;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use vrnic_firmware::impair::{self, Directed, Event, Settings};
use vrnic_firmware::nic::NicConfig;
use vrnic_vfio_user::{Listener, Server};

use super::functions::{FunctionArguments, Plan};
use crate::capture::Tap;
use crate::control::{self, Control, Recorder, Roster, World};
use crate::engine::{Cable, EngineThread, Message, Observer};
use crate::function::Function;
use crate::link::{self, Link, LinkSpec};
use crate::slots::Slots;

/// Arguments of `vrnic serve`.
#[derive(Args, Debug)]
pub struct ServeArguments {
    #[command(flatten)]
    functions: FunctionArguments,

    /// What the port is plugged into:
    /// none;
    /// shm:listen=PATH or shm:connect=PATH (another vrnic on this host, fastest);
    /// stream:listen=PATH or stream:connect=PATH (QEMU's -netdev stream);
    /// tcp:listen=IP:PORT or tcp:connect=IP:PORT (the same over TCP);
    /// dgram:local=PATH,remote=PATH (QEMU's -netdev dgram);
    /// udp:local=IP:PORT,remote=IP:PORT.
    /// With connect=…, wait=SECONDS is how long to wait for the listening side, 10 by default.
    #[arg(
        long,
        value_name = "SPEC",
        default_value = "none",
        verbatim_doc_comment
    )]
    link: LinkSpec,

    /// Write every frame that crosses the port to a pcapng file, which is replaced.
    #[arg(long, value_name = "FILE.pcapng")]
    capture: Option<PathBuf>,

    /// Socket for `vrnic ctl` and programs that speak JSON (docs/control.md); only its owner can
    /// connect.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// What goes wrong on the link by chance, as in drop=1%,delay=10us or tx:rate=10G:
    /// drop=, dup=, reorder=, corrupt=, ecn= and a chance such as 1% or 0.001;
    /// delay=, jitter= and a time such as 10us or 1ms, at most 10s;
    /// rate= and bits per second such as 500M or 10G;
    /// seed= and a number: the same seed and the same frames give the same run.
    /// tx: is what the port sends, rx: what it receives, without either it is both. Can be given
    /// more than once. A capture shows what the NIC sent before, and received after this. Frames
    /// between functions of this process are not on the link, and not impaired.
    #[arg(long, value_name = "IMPAIRMENT", verbatim_doc_comment)]
    impair: Vec<Directed<Settings>>,

    /// What happens to certain RoCEv2 packets on the link, as in "tx:drop psn=5 of qp 17 once":
    /// drop, dup, reorder, mark (ECN), corrupt or delay=TIME;
    /// any of psn=N, psn=A..B, qp=N (the destination), opcode=NAME (rc_send_only, ack, …) or
    /// opcode=NUMBER, nth=N (the Nth such packet);
    /// once (the default), N times or always.
    /// Without tx: or rx: in both directions, each for itself. Can be given more than once.
    #[arg(long, value_name = "EVENT", verbatim_doc_comment)]
    impair_event: Vec<Directed<Event>>,

    /// Send frames through the port even between two functions of this process, so that a capture
    /// shows them.
    #[arg(long)]
    no_direct: bool,

    /// Let clients access doorbell pages by messages only, as if they could not map them (slow; to
    /// test drivers).
    #[arg(long)]
    trap_doorbells: bool,
}

/// Why serving ended.
pub(super) enum Failure {
    /// The user can mend it.
    Usage(Error),
    /// The host refused something.
    Host(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Host(error)
    }
}

const SIGNALS: Token = Token(0);
const WAKER: Token = Token(1);
/// The first of the control socket's tokens.
const CONTROL: usize = 2;
/// The server's tokens.
const SERVER: Range<usize> = CONTROL + control::TOKENS..usize::MAX;

/// Serves until a signal ends it.
pub(super) fn run(arguments: &ServeArguments) -> Result<(), Failure> {
    let impairment = impairment(arguments)?;
    // Signals come first: from here on they find somebody who removes the files that follow.
    let mut poll = Poll::new().context("cannot create an event loop")?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot catch signals")?;
    poll.registry()
        .register(&mut signals, SIGNALS, Interest::READABLE)
        .context("cannot watch for signals")?;
    let waker = Waker::new(poll.registry(), WAKER).context("cannot create a waker")?;
    let waker = Arc::new(waker);
    allow_many_files();
    let plan = Plan::new(&arguments.functions, !arguments.trap_doorbells)?;
    let listeners = plan.listen()?;
    let control = open_control(arguments, &poll, &waker)?;
    let (recorder, tap) = match arguments.capture.as_deref().map(create_capture) {
        None => (Recorder::default(), None),
        Some(capture) => capture.map(|(recorder, tap)| (recorder, Some(tap)))?,
    };
    let Some(link) = open_link(&arguments.link, &mut poll, &mut signals, &waker)? else {
        return Ok(());
    };
    let config = NicConfig {
        direct: !arguments.no_direct,
        link_up: false,
        ..NicConfig::default()
    };
    let ended = Arc::clone(&waker);
    let cable = Cable {
        link,
        tap,
        impairment,
    };
    let engine = EngineThread::start(config, cable, move || {
        let _ = ended.wake();
    })
    .context("cannot start an engine")?;
    let control = control.map(|(control, observer)| {
        engine.handle().send(Message::Observe(observer));
        control
    });
    let server = Server::new(poll.registry(), waker, SERVER).context("cannot create a server")?;
    let mut serving = Serving {
        engine,
        server,
        roster: Roster::default(),
        slots: None,
        recorder,
        control,
    };
    let sockets = plan.summary().to_owned();
    serving.add(plan, listeners)?;
    log::info!("serving {sockets}");
    let result = serving.wait(&mut poll, &mut signals, &arguments.link);
    serving.end()?;
    result
}

/// What is to happen on the link.
fn impairment(arguments: &ServeArguments) -> Result<impair::Spec, Failure> {
    let asked = !arguments.impair.is_empty() || !arguments.impair_event.is_empty();
    if asked && arguments.link == LinkSpec::None {
        return Err(Failure::Usage(anyhow!(
            "--impair and --impair-event act on a link, and there is none; give --link, too"
        )));
    }
    let mut spec = impair::Spec::default();
    for settings in &arguments.impair {
        let set = spec.set(settings);
        set.map_err(|error| Failure::Usage(anyhow!("--impair: {error}")))?;
    }
    for event in &arguments.impair_event {
        spec.add(event);
    }
    Ok(spec)
}

/// Raises the limit on descriptors as far as the host lets it: each client of a function can give one
/// for each of its interrupt vectors.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit on open files stays: {error}");
    }
}

/// The control socket, if one is wanted, and who is to observe the engine for it.
fn open_control(
    arguments: &ServeArguments,
    poll: &Poll,
    waker: &Arc<Waker>,
) -> Result<Option<(Control, Observer)>, Failure> {
    let Some(path) = &arguments.control else {
        return Ok(None);
    };
    let listener = Control::bind(path);
    let listener = listener.map_err(|error| Failure::Usage(anyhow!("--control {error}")))?;
    let control = Control::new(listener, poll.registry(), Arc::clone(waker), CONTROL);
    Ok(Some(control.context("cannot serve the control socket")?))
}

fn create_capture(path: &Path) -> Result<(Recorder, Tap), Failure> {
    let capture = Recorder::create(path);
    let capture = capture.with_context(|| format!("cannot create the capture {}", path.display()));
    capture.map_err(Failure::Usage)
}

/// Opens the link; `None` if a signal ended the wait for its peer.
fn open_link(
    spec: &LinkSpec,
    poll: &mut Poll,
    signals: &mut Signals,
    waker: &Arc<Waker>,
) -> Result<Option<Box<dyn Link>>, Failure> {
    let usage = |error| Failure::Usage(anyhow!("{error}"));
    if !matches!(
        spec,
        LinkSpec::ShmConnect { .. } | LinkSpec::StreamConnect { .. }
    ) {
        return link::open(spec).map(Some).map_err(usage);
    }
    // A thread waits for the peer, so that this one hears signals. The calling end of a link has
    // no file that a thread left alone could leave behind.
    let (sender, result) = channel();
    let (spec, waker) = (spec.clone(), Arc::clone(waker));
    let thread = std::thread::Builder::new().name("vrnic-link".into());
    let waiting = thread.spawn(move || {
        let _ = sender.send(link::open(&spec));
        let _ = waker.wake();
    });
    waiting.context("cannot start a thread")?;
    let mut events = Events::with_capacity(8);
    loop {
        poll_events(poll, &mut events)?;
        if ended_by_signal(&events, signals) {
            return Ok(None);
        }
        match result.try_recv() {
            Ok(link) => return link.map(Some).map_err(usage),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return Err(Failure::Host(anyhow!("the link failed")));
            }
        }
    }
}

/// A process that serves.
struct Serving {
    engine: EngineThread,
    server: Server<Function>,
    roster: Roster,
    slots: Option<Slots>,
    recorder: Recorder,
    control: Option<Control>,
}

impl Serving {
    /// Serves functions on their sockets.
    fn add(&mut self, plan: Plan, listeners: Vec<Listener>) -> Result<(), Error> {
        let Self {
            engine,
            server,
            roster,
            ..
        } = self;
        self.slots = plan.serve(engine, server, roster, listeners)?;
        Ok(())
    }

    fn wait(
        &mut self,
        poll: &mut Poll,
        signals: &mut Signals,
        link: &LinkSpec,
    ) -> Result<(), Failure> {
        let mut events = Events::with_capacity(256);
        loop {
            poll_events(poll, &mut events)?;
            if ended_by_signal(&events, signals) {
                return Ok(());
            }
            for event in &events {
                let control = self.control.as_mut();
                if !control.is_some_and(|control| control.handle_event(event)) {
                    self.server.handle_event(event);
                }
            }
            self.server.turn();
            self.operate(link);
            if self.engine.has_ended() {
                return Err(Failure::Host(anyhow!(
                    "the engine failed; its last words are above"
                )));
            }
        }
    }

    /// Gives clients of the control socket their turn.
    fn operate(&mut self, link: &LinkSpec) {
        if let Some(control) = &mut self.control {
            control.turn(&mut World {
                engine: self.engine.handle(),
                server: &mut self.server,
                roster: &mut self.roster,
                slots: self.slots.as_ref(),
                recorder: &mut self.recorder,
                link,
            });
        }
    }

    /// Ends everything; the capture's file is complete when the engine has dropped its tap.
    fn end(self) -> Result<(), Error> {
        drop((self.control, self.server, self.engine));
        let finished = self.recorder.finish();
        finished.context("cannot complete the capture")
    }
}

/// Waits for events; there may be none.
fn poll_events(poll: &mut Poll, events: &mut Events) -> Result<(), Failure> {
    match poll.poll(events, None) {
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => Ok(other.context("cannot wait for events")?),
    }
}

fn ended_by_signal(events: &Events, signals: &mut Signals) -> bool {
    if !events.iter().any(|event| event.token() == SIGNALS) {
        return false;
    }
    let signal = signals.pending().next();
    if let Some(signal) = signal {
        log::info!("ended by signal {signal}");
    }
    signal.is_some()
}
