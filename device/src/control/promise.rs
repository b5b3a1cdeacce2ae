//! Answers that come later, from other threads.
//!
//! A [`Promise`] is the duty to answer one request. It is kept by answering, on whatever thread; one
//! that is dropped, because the engine ended and its messages with it, answers with an error. What a
//! thread found out becomes JSON only when the answer is taken, on the control thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::protocol::{Error, Outcome};
use crate::engine::{EngineHandle, Inside};

/// Which connection a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientId {
    pub(crate) slot: usize,
    pub(crate) generation: u64,
}

type Answer = Box<dyn FnOnce() -> Outcome + Send>;

/// The duty to answer a request.
pub(crate) struct Promise {
    client: ClientId,
    answers: Sender<(ClientId, Answer)>,
    wake: Arc<dyn Fn() + Send + Sync>,
    open: bool,
}

impl Promise {
    /// Answers.
    pub(crate) fn answer(self, outcome: Outcome) {
        self.answer_with(move || outcome);
    }

    /// Answers with what `make` returns when it is called on the control thread.
    pub(crate) fn answer_with(mut self, make: impl FnOnce() -> Outcome + Send + 'static) {
        self.send(Box::new(make));
    }

    /// Has the engine asked, and answers with what `make` makes of what that says.
    pub(crate) fn ask<T: Send + 'static>(
        self,
        engine: &EngineHandle,
        question: impl FnOnce(&mut Inside<'_>) -> T + Send + 'static,
        make: impl FnOnce(T) -> Outcome + Send + 'static,
    ) {
        engine.ask(move |inside| {
            let found = question(inside);
            self.answer_with(move || make(found));
        });
    }

    fn send(&mut self, answer: Answer) {
        self.open = false;
        let _ = self.answers.send((self.client, answer));
        (self.wake)();
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.open {
            self.send(Box::new(|| Err(Error::generic("the engine has ended"))));
        }
    }
}

/// Where answers arrive.
pub(crate) struct Promises {
    answers: Receiver<(ClientId, Answer)>,
    sender: Sender<(ClientId, Answer)>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Promises {
    /// `wake` is called when an answer is there.
    pub(crate) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let (sender, answers) = channel();
        Self {
            answers,
            sender,
            wake,
        }
    }

    /// The duty to answer a request of `client`.
    pub(crate) fn promise(&self, client: ClientId) -> Promise {
        Promise {
            client,
            answers: self.sender.clone(),
            wake: Arc::clone(&self.wake),
            open: true,
        }
    }

    /// The next answer. There are no more than requests under way.
    pub(crate) fn take(&self) -> Option<(ClientId, Outcome)> {
        let (client, answer) = self.answers.try_recv().ok()?;
        Some((client, answer()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Reply;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_promise_is_answered_once() {
        let woken = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&woken);
        let promises = Promises::new(Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        }));
        let client = |slot| ClientId {
            slot,
            generation: 7,
        };
        promises.promise(client(1)).answer(Reply::of(&5));
        drop(promises.promise(client(2)));
        let (who, outcome) = promises.take().unwrap();
        assert_eq!((who, outcome.unwrap().text()), (client(1), "5"));
        let (who, outcome) = promises.take().unwrap();
        assert_eq!(who, client(2));
        assert_eq!(outcome.unwrap_err(), Error::generic("the engine has ended"));
        assert!(promises.take().is_none());
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }
}
