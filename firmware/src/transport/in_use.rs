//! The receive work request that a queue pair has in use.
//!
//! It is taken when a message first needs it, stays for the parts that follow, and, where messages
//! can be lost, for the next message; it ends exactly once.

use super::gather::total;
use super::{Env, NoReceive, ReceiveCompletion, ReceiveKind, ReceiveWork};
use crate::types::Outcome;

/// The request in use, if there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct InUse(Option<ReceiveWork>);

/// Why there is no request to receive into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unready {
    /// There is none.
    None(NoReceive),
    /// The front end could not accept it; it is in use and has to end so.
    Invalid(Outcome),
}

impl InUse {
    /// Makes sure that there is one, and returns the bytes that it can take. `srqn` is as for
    /// [`Env::next_receive`].
    pub(super) fn hold<E: Env>(&mut self, env: &mut E, srqn: Option<u32>) -> Result<u64, Unready> {
        if self.0.is_none() {
            self.0 = Some(env.next_receive(srqn).map_err(Unready::None)?);
        }
        match &self.0 {
            Some(ReceiveWork {
                invalid: Some(outcome),
                ..
            }) => Err(Unready::Invalid(*outcome)),
            Some(work) => Ok(total(&work.sges)),
            None => Err(Unready::None(NoReceive::Empty)),
        }
    }

    /// The request.
    pub(super) const fn work(&self) -> Option<&ReceiveWork> {
        self.0.as_ref()
    }

    /// Ends it with data.
    pub(super) fn complete<E: Env>(
        &mut self,
        env: &mut E,
        bytes: u32,
        kind: ReceiveKind,
        solicited: bool,
    ) {
        if let Some(work) = self.0.take() {
            env.complete_receive(ReceiveCompletion {
                cookie: work.cookie,
                outcome: Outcome::Success,
                bytes,
                kind,
                solicited,
            });
        }
    }

    /// Ends it without data.
    pub(super) fn end<E: Env>(&mut self, env: &mut E, outcome: Outcome) {
        if let Some(work) = self.0.take() {
            env.complete_receive(ReceiveCompletion::without_data(work.cookie, outcome));
        }
    }
}
