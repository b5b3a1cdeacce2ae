//! Data that moves in the background while a test does something terrible.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_driver::{Completion, Operation, Platform};

use crate::endpoint::{Endpoint, exchange};
use crate::process::PATIENCE;

/// Requests that a pump keeps in flight.
const DEPTH: u64 = 16;
/// Bytes of each.
const SIZE: usize = 16 << 10;

/// How far a thread has come, and whether it is to go on.
#[derive(Default)]
struct Progress {
    count: Mutex<u64>,
    grown: Condvar,
    stop: AtomicBool,
}

impl Progress {
    fn step(&self) {
        *self.count.lock().unwrap() += 1;
        self.grown.notify_all();
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits for `more` further steps.
    #[track_caller]
    fn wait(&self, more: u64, ended: impl Fn() -> bool) {
        let count = self.count.lock().unwrap();
        let goal = *count + more;
        let waiting = |count: &mut u64| *count < goal && !ended();
        let (count, _) = self
            .grown
            .wait_timeout_while(count, PATIENCE, waiting)
            .unwrap();
        assert!(*count >= goal, "traffic stands still");
    }
}

/// How a pump ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// A work request failed.
    Failed(CompletionStatus),
    /// The driver refused, because of a reset.
    Refused,
}

/// A thread that WRITEs to the peer without end.
pub(crate) struct Pump<P: Platform> {
    progress: Arc<Progress>,
    thread: JoinHandle<(Endpoint<P>, End)>,
}

impl<P: Platform + 'static> Pump<P>
where
    Endpoint<P>: Send,
{
    pub(crate) fn start(mut endpoint: Endpoint<P>) -> Self {
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let thread = std::thread::spawn(move || {
            let end = pour(&mut endpoint, &shared);
            (endpoint, end)
        });
        Self { progress, thread }
    }

    /// Waits until data flows.
    #[track_caller]
    pub(crate) fn flows(&self) {
        self.progress.wait(3 * DEPTH, || self.thread.is_finished());
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn ends(self) -> (Endpoint<P>, End) {
        self.thread.join().unwrap()
    }

    #[track_caller]
    pub(crate) fn stop(self) -> (Endpoint<P>, End) {
        self.progress.stop.store(true, Ordering::Relaxed);
        self.ends()
    }
}

/// Returns why it ended.
fn pour<P: Platform>(endpoint: &mut Endpoint<P>, progress: &Progress) -> End {
    let operation = Operation::Write(endpoint.peer().remote(0));
    for number in 0.. {
        if number >= DEPTH {
            match endpoint.wait_or(|| progress.stopped()) {
                Ok(Some(Completion {
                    status: CompletionStatus::Success,
                    ..
                })) => {}
                Ok(Some(failed)) => return End::Failed(failed.status),
                Ok(None) => return End::Stopped,
                Err(_) => return End::Refused,
            }
            progress.step();
        }
        if endpoint.post(number, operation, (0, SIZE)).is_err() {
            return End::Refused;
        }
    }
    End::Stopped
}

/// A thread that moves verified data of all kinds between two endpoints without end.
pub(crate) struct Shuttle<P: Platform> {
    progress: Arc<Progress>,
    thread: JoinHandle<(Endpoint<P>, Endpoint<P>)>,
}

impl<P: Platform + 'static> Shuttle<P>
where
    Endpoint<P>: Send,
{
    pub(crate) fn start((mut a, mut b): (Endpoint<P>, Endpoint<P>)) -> Self {
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        let thread = std::thread::spawn(move || {
            let mut rng = SmallRng::seed_from_u64(1);
            while !shared.stopped() {
                exchange(&mut a, &mut b, &mut rng);
                shared.step();
            }
            (a, b)
        });
        Self { progress, thread }
    }

    /// Waits until data has moved that was posted after now.
    #[track_caller]
    pub(crate) fn moves(&self) {
        self.progress.wait(2, || self.thread.is_finished());
    }

    /// Waits until more data has moved, and ends.
    #[track_caller]
    pub(crate) fn stop(self) -> (Endpoint<P>, Endpoint<P>) {
        self.moves();
        self.progress.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the data was wrong")
    }
}
