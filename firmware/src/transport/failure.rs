//! Which counters the end of a request in an error goes to.
//!
//! Every request that ends in an error is counted once in `ReqCqeError` or `RespCqeError`, and once
//! by its cause, where that has a counter. Flushed requests are the front end's to count, which
//! writes their completions; nothing failed in them.

use vrnic_abi::counter::Counter;

use super::Env;
use crate::types::Outcome;

/// Counts a send work request that ends with `outcome`, an error.
pub(super) fn count_request<E: Env>(env: &mut E, outcome: Outcome) {
    env.count(Counter::ReqCqeError, 1);
    let cause = match outcome {
        Outcome::LocalLength => Counter::ReqLocalLengthError,
        Outcome::LocalProtection => Counter::ReqLocalProtectionError,
        Outcome::BadResponse => Counter::ReqBadResponse,
        Outcome::RemoteInvalidRequest => Counter::ReqRemoteInvalidRequest,
        Outcome::RemoteAccess => Counter::ReqRemoteAccessErrors,
        Outcome::RemoteOperation => Counter::ReqRemoteOperationErrors,
        Outcome::RetryExceeded => Counter::ReqTransportRetriesExceeded,
        Outcome::RnrRetryExceeded => Counter::RnrNakRetryErr,
        _ => return,
    };
    env.count(cause, 1);
}

/// Counts a fault of the receiving half. `ends_receive` says whether a receive work request ends
/// with it, with `outcome` as its own result.
pub(super) fn count_receive<E: Env>(env: &mut E, outcome: Outcome, ends_receive: bool) {
    env.count(Counter::RespCqeError, u64::from(ends_receive));
    let cause = match outcome {
        Outcome::LocalLength => Counter::RespLocalLengthError,
        Outcome::LocalAccess => Counter::RespRemoteAccessErrors,
        Outcome::RemoteInvalidRequest => Counter::RespInvalidRequest,
        Outcome::LocalProtection | Outcome::LocalQpOperation => Counter::RespLocalOperationErrors,
        _ => return,
    };
    env.count(cause, 1);
}
