//! Attributes of a queue pair and the transitions between its states.
//!
//! Which attributes a transition requires and allows is IBTA volume 1, 11.2.5.2 (table 91). A request is checked completely before anything changes. Automatic path migration
//! and rate limits are not attributes yet; the front end refuses them.

use bitflags::bitflags;

use super::{Kind, Path, QpConfig};
use crate::types::{Access, Mtu, Psn, Qpn, State};

/// Entry of the P_Key table that a queue pair uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pkey {
    /// Index in the table.
    pub index: u16,
    /// The key found there.
    pub key: u16,
}

/// Attributes of a connection, as a query returns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What the peer may do.
    pub access: Access,
    /// Partition.
    pub pkey: Pkey,
    /// Port number, from 1.
    pub port: u8,
    /// Queue key of datagrams.
    pub qkey: u32,
    /// Primary path; its P_Key is that of `pkey`.
    pub path: Path,
    /// Path MTU.
    pub path_mtu: Mtu,
    /// The peer's queue pair.
    pub remote_qpn: Qpn,
    /// Sequence number of the first request sent.
    pub send_psn: Psn,
    /// Sequence number of the first request expected.
    pub receive_psn: Psn,
    /// READ and atomic operations in flight as initiator.
    pub initiator_depth: u8,
    /// READ and atomic operations answered at a time.
    pub responder_resources: u8,
    /// RNR NAK timer code to send, 0 to 31.
    pub min_rnr_timer: u8,
    /// Local ack timeout code, 0 to 31; 0 is none.
    pub timeout: u8,
    /// Retries after timeouts and sequence errors, 0 to 7.
    pub retry_count: u8,
    /// Retries after RNR NAKs, 0 to 7; 7 is without limit.
    pub rnr_retry: u8,
}

impl Default for Attributes {
    fn default() -> Self {
        Self {
            access: Access::empty(),
            pkey: Pkey::default(),
            port: 0,
            qkey: 0,
            path: Path::default(),
            path_mtu: Mtu::B256,
            remote_qpn: Qpn::default(),
            send_psn: Psn::default(),
            receive_psn: Psn::default(),
            initiator_depth: 0,
            responder_resources: 0,
            min_rnr_timer: 0,
            timeout: 0,
            retry_count: 0,
            rnr_retry: 0,
        }
    }
}

/// A request to change attributes: those that are `Some`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modify {
    /// State to go to; without it, the state stays.
    pub state: Option<State>,
    /// State that the requester of the change takes to be the current one.
    pub current_state: Option<State>,
    /// To SQD: report when the send queue has drained.
    pub sqd_notify: Option<bool>,
    /// What the peer may do; local flags are ignored.
    pub access: Option<Access>,
    /// Partition.
    pub pkey: Option<Pkey>,
    /// Port number, from 1.
    pub port: Option<u8>,
    /// Queue key of datagrams.
    pub qkey: Option<u32>,
    /// Primary path, resolved; its P_Key is ignored.
    pub path: Option<Path>,
    /// Path MTU.
    pub path_mtu: Option<Mtu>,
    /// The peer's queue pair.
    pub remote_qpn: Option<Qpn>,
    /// Sequence number of the first request to send.
    pub send_psn: Option<Psn>,
    /// Sequence number of the first request to expect.
    pub receive_psn: Option<Psn>,
    /// READ and atomic operations in flight as initiator.
    pub initiator_depth: Option<u8>,
    /// READ and atomic operations answered at a time.
    pub responder_resources: Option<u8>,
    /// RNR NAK timer code to send, 0 to 31.
    pub min_rnr_timer: Option<u8>,
    /// Local ack timeout code, 0 to 31.
    pub timeout: Option<u8>,
    /// Retries after timeouts and sequence errors, 0 to 7.
    pub retry_count: Option<u8>,
    /// Retries after RNR NAKs, 0 to 7.
    pub rnr_retry: Option<u8>,
}

bitflags! {
    /// Names of the fields of [`Modify`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct AttributeSet: u32 {
        /// `state`.
        const STATE = 1 << 0;
        /// `current_state`.
        const CURRENT_STATE = 1 << 1;
        /// `sqd_notify`.
        const SQD_NOTIFY = 1 << 2;
        /// `access`.
        const ACCESS = 1 << 3;
        /// `pkey`.
        const PKEY = 1 << 4;
        /// `port`.
        const PORT = 1 << 5;
        /// `path`.
        const PATH = 1 << 6;
        /// `path_mtu`.
        const PATH_MTU = 1 << 7;
        /// `remote_qpn`.
        const REMOTE_QPN = 1 << 8;
        /// `send_psn`.
        const SEND_PSN = 1 << 9;
        /// `receive_psn`.
        const RECEIVE_PSN = 1 << 10;
        /// `initiator_depth`.
        const INITIATOR_DEPTH = 1 << 11;
        /// `responder_resources`.
        const RESPONDER_RESOURCES = 1 << 12;
        /// `min_rnr_timer`.
        const MIN_RNR_TIMER = 1 << 13;
        /// `timeout`.
        const TIMEOUT = 1 << 14;
        /// `retry_count`.
        const RETRY_COUNT = 1 << 15;
        /// `rnr_retry`.
        const RNR_RETRY = 1 << 16;
        /// `qkey`.
        const QKEY = 1 << 17;
    }
}

/// Why a queue pair was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModifyError {
    /// There is no such transition.
    Transition,
    /// `current_state` names another state.
    CurrentState,
    /// The transition requires these attributes too.
    Missing(AttributeSet),
    /// The transition does not allow these attributes.
    NotAllowed(AttributeSet),
    /// The values of these attributes are out of range.
    OutOfRange(AttributeSet),
    /// Attributes can change in SQD only after the send queue has drained.
    Draining,
}

/// What a transition requires, and what it allows besides.
#[derive(Clone, Copy, Debug)]
struct Rule {
    required: AttributeSet,
    optional: AttributeSet,
}

/// Attributes of the transition to INIT.
const fn init(kind: Kind) -> AttributeSet {
    use AttributeSet as A;
    match kind {
        Kind::Rc | Kind::Uc | Kind::XrcInitiator | Kind::XrcTarget => {
            A::PKEY.union(A::PORT).union(A::ACCESS)
        }
        Kind::Ud => A::PKEY.union(A::PORT).union(A::QKEY),
        Kind::Gsi => A::PKEY.union(A::QKEY),
        Kind::Raw => A::PORT,
    }
}

/// Attributes of the transition to RTR.
const fn ready_to_receive(kind: Kind) -> Rule {
    use AttributeSet as A;
    let connection = A::PATH
        .union(A::PATH_MTU)
        .union(A::REMOTE_QPN)
        .union(A::RECEIVE_PSN);
    let (required, optional) = match kind {
        Kind::Rc | Kind::XrcTarget => (
            connection
                .union(A::RESPONDER_RESOURCES)
                .union(A::MIN_RNR_TIMER),
            A::ACCESS.union(A::PKEY),
        ),
        Kind::Uc | Kind::XrcInitiator => (connection, A::ACCESS.union(A::PKEY)),
        Kind::Ud | Kind::Gsi => (A::empty(), A::PKEY.union(A::QKEY)),
        Kind::Raw => (A::empty(), A::empty()),
    };
    Rule { required, optional }
}

/// Attributes of the transition to RTS.
const fn ready_to_send(kind: Kind) -> AttributeSet {
    use AttributeSet as A;
    match kind {
        Kind::Rc | Kind::XrcInitiator => A::SEND_PSN.union(requester(kind)),
        Kind::XrcTarget => A::SEND_PSN.union(A::TIMEOUT),
        Kind::Uc | Kind::Ud | Kind::Gsi => A::SEND_PSN,
        Kind::Raw => A::empty(),
    }
}

/// Attributes of a requester that waits for acknowledgements.
const fn requester(kind: Kind) -> AttributeSet {
    use AttributeSet as A;
    match kind {
        Kind::Rc | Kind::XrcInitiator => A::TIMEOUT
            .union(A::RETRY_COUNT)
            .union(A::RNR_RETRY)
            .union(A::INITIATOR_DEPTH),
        _ => A::empty(),
    }
}

/// Attributes that may change whenever the queue pair can send.
const fn any_time(kind: Kind) -> AttributeSet {
    use AttributeSet as A;
    match kind {
        Kind::Rc | Kind::XrcTarget => A::ACCESS.union(A::MIN_RNR_TIMER),
        Kind::Uc | Kind::XrcInitiator => A::ACCESS,
        Kind::Ud | Kind::Gsi => A::QKEY,
        Kind::Raw => A::empty(),
    }
}

/// Attributes that may change besides while the send queue stands still.
fn drained(kind: Kind) -> AttributeSet {
    use AttributeSet as A;
    match kind {
        Kind::Rc | Kind::Uc | Kind::XrcInitiator | Kind::XrcTarget => {
            let responder = A::RESPONDER_RESOURCES | A::PORT | A::PATH | A::PKEY;
            let extra = match kind {
                Kind::Rc => responder,
                Kind::XrcTarget => responder | A::TIMEOUT,
                _ => A::PORT | A::PATH | A::PKEY,
            };
            extra | requester(kind)
        }
        Kind::Ud | Kind::Gsi => A::PKEY,
        Kind::Raw => A::empty(),
    }
}

/// Table 91, for each type of queue pair; XRC as annex A14 adds to it.
fn rule(kind: Kind, from: State, to: State) -> Option<Rule> {
    use AttributeSet as A;
    let (required, optional) = match (from, to) {
        (_, State::Reset | State::Error) => (A::empty(), A::empty()),
        (State::Reset, State::Init) => (init(kind), A::empty()),
        (State::Init, State::Init) => (A::empty(), init(kind)),
        (State::Init, State::Rtr) => return Some(ready_to_receive(kind)),
        (State::Rtr, State::Rts) => (ready_to_send(kind), any_time(kind)),
        (State::Rts | State::Sqd, State::Rts) => (A::empty(), any_time(kind)),
        (State::Rts, State::Sqd) => (A::empty(), A::SQD_NOTIFY),
        (State::Sqd, State::Sqd) => (A::empty(), any_time(kind) | drained(kind)),
        (State::Sqe, State::Rts) if !kind.is_reliable() => (A::empty(), any_time(kind)),
        _ => return None,
    };
    Some(Rule { required, optional })
}

impl Modify {
    /// A transition without attributes.
    #[must_use]
    pub fn to(state: State) -> Self {
        Self {
            state: Some(state),
            ..Self::default()
        }
    }

    /// Which attributes are given.
    #[must_use]
    pub fn given(&self) -> AttributeSet {
        use AttributeSet as A;
        let fields = [
            (A::STATE, self.state.is_some()),
            (A::CURRENT_STATE, self.current_state.is_some()),
            (A::SQD_NOTIFY, self.sqd_notify.is_some()),
            (A::ACCESS, self.access.is_some()),
            (A::PKEY, self.pkey.is_some()),
            (A::PORT, self.port.is_some()),
            (A::QKEY, self.qkey.is_some()),
            (A::PATH, self.path.is_some()),
            (A::PATH_MTU, self.path_mtu.is_some()),
            (A::REMOTE_QPN, self.remote_qpn.is_some()),
            (A::SEND_PSN, self.send_psn.is_some()),
            (A::RECEIVE_PSN, self.receive_psn.is_some()),
            (A::INITIATOR_DEPTH, self.initiator_depth.is_some()),
            (A::RESPONDER_RESOURCES, self.responder_resources.is_some()),
            (A::MIN_RNR_TIMER, self.min_rnr_timer.is_some()),
            (A::TIMEOUT, self.timeout.is_some()),
            (A::RETRY_COUNT, self.retry_count.is_some()),
            (A::RNR_RETRY, self.rnr_retry.is_some()),
        ];
        fields
            .into_iter()
            .filter_map(|(name, given)| given.then_some(name))
            .collect()
    }

    /// Attributes whose values no queue pair with the limits of `config` can have.
    fn out_of_range(&self, config: &QpConfig) -> AttributeSet {
        use AttributeSet as A;
        let fields = [
            (
                A::INITIATOR_DEPTH,
                self.initiator_depth,
                config.max_initiator_depth,
            ),
            (
                A::RESPONDER_RESOURCES,
                self.responder_resources,
                config.max_responder_resources,
            ),
            (A::MIN_RNR_TIMER, self.min_rnr_timer, 31),
            (A::TIMEOUT, self.timeout, 31),
            (A::RETRY_COUNT, self.retry_count, 7),
            (A::RNR_RETRY, self.rnr_retry, 7),
        ];
        let mut wrong: AttributeSet = fields
            .into_iter()
            .filter_map(|(name, value, limit)| value.is_some_and(|v| v > limit).then_some(name))
            .collect();
        wrong.set(A::PORT, self.port.is_some_and(|port| port != 1));
        wrong
    }

    /// Checks the request in the current state and returns the state to go to.
    pub(super) fn check(
        &self,
        config: &QpConfig,
        from: State,
        draining: bool,
    ) -> Result<State, ModifyError> {
        if self.current_state.is_some_and(|state| state != from) {
            return Err(ModifyError::CurrentState);
        }
        let to = self.state.unwrap_or(from);
        let rule = rule(config.kind, from, to).ok_or(ModifyError::Transition)?;
        let given = self.given() - (AttributeSet::STATE | AttributeSet::CURRENT_STATE);
        let missing = rule.required - given;
        if !missing.is_empty() {
            return Err(ModifyError::Missing(missing));
        }
        let extra = given - rule.required - rule.optional;
        if !extra.is_empty() {
            return Err(ModifyError::NotAllowed(extra));
        }
        let wrong = self.out_of_range(config);
        if !wrong.is_empty() {
            return Err(ModifyError::OutOfRange(wrong));
        }
        if draining && to == State::Sqd && !given.is_empty() {
            return Err(ModifyError::Draining);
        }
        Ok(to)
    }

    /// Stores what is given.
    pub(super) fn apply(&self, to: &mut Attributes) {
        fn set<T: Copy>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        set(&mut to.access, self.access);
        set(&mut to.pkey, self.pkey);
        set(&mut to.port, self.port);
        set(&mut to.qkey, self.qkey);
        set(&mut to.path, self.path);
        set(&mut to.path_mtu, self.path_mtu);
        set(&mut to.remote_qpn, self.remote_qpn);
        set(&mut to.send_psn, self.send_psn);
        set(&mut to.receive_psn, self.receive_psn);
        set(&mut to.initiator_depth, self.initiator_depth);
        set(&mut to.responder_resources, self.responder_resources);
        set(&mut to.min_rnr_timer, self.min_rnr_timer);
        set(&mut to.timeout, self.timeout);
        set(&mut to.retry_count, self.retry_count);
        set(&mut to.rnr_retry, self.rnr_retry);
        to.path.pkey = to.pkey.key;
    }
}
