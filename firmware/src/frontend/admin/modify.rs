//! ModifyQp: from the driver's attributes to the transport's.
//!
//! Attributes are refused here if they make no sense whatever the state is; which of them a
//! transition needs and allows is [`crate::transport`]'s to say.

use vrnic_abi::admin::{AccessFlags, ModifyQp, Status};
use vrnic_abi::object::{AddressVector, PathMtu, QpAttributes, QpMask, QpState};

use super::command::{ATTRIBUTE, Refusal, Reply, argument, bad, no_such};
use crate::frontend::address::{BadVector, DEFAULT_PKEY, resolve, udp_source};
use crate::frontend::env::{Incoming, NoPort};
use crate::frontend::function::Function;
use crate::frontend::keys::key_access;
use crate::frontend::work::vector;
use crate::host::{Host, Memory};
use crate::transport::{AttributeSet, Modify, ModifyError, Path, Pkey};
use crate::types::{Access, Mtu, Psn, Qpn, State, Time};

/// Syndrome that names a field of [`QpAttributes`].
macro_rules! attribute {
    ($($field:tt).+) => {{
        const OFFSET: usize = core::mem::offset_of!(QpAttributes, $($field).+);
        ATTRIBUTE + OFFSET as u32
    }};
}

/// Attributes of queue pairs that this firmware does not have.
const UNSUPPORTED: QpMask = QpMask::ALTERNATE_PATH
    .union(QpMask::MIGRATION_STATE)
    .union(QpMask::RATE_LIMIT);

impl Function {
    pub(super) fn modify_qp<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        body: &ModifyQp,
    ) -> Result<Reply, Refusal> {
        let qpn = body.qp;
        if self.qps.get(qpn).is_none() {
            return Err(no_such(argument!(ModifyQp, qp)));
        }
        let mask = QpMask::from_bits(body.mask).ok_or(bad(argument!(ModifyQp, mask)))?;
        let at = argument!(ModifyQp, attributes);
        if body.attributes % 8 != 0 {
            return Err(bad(at));
        }
        let mut given = QpAttributes::default();
        host.memory()
            .read(body.attributes, bytemuck::bytes_of_mut(&mut given))
            .map_err(|_| Refusal::new(Status::DmaFailed, at))?;
        let change = self.change(qpn, mask, &given)?;

        let mut result = Ok(());
        let incoming = Incoming::none();
        self.call(host, now, qpn, &mut NoPort, incoming, |qp, env| {
            result = qp.modify(env, &change);
        });
        result.map_err(refusal)?;
        self.modified(host, qpn, mask, &given);
        self.after_call(host, now, qpn);
        Ok(Reply::default())
    }

    /// What follows from a change that was made.
    fn modified<H: Host>(&mut self, host: &H, qpn: u32, mask: QpMask, given: &QpAttributes) {
        let Some(qp) = self.qps.get_mut(qpn) else {
            return;
        };
        let reset = qp.transport.state() == State::Reset;
        if reset {
            self.objects.keys.unbind_all(&mut qp.queues.windows);
            if let Some(send) = &mut qp.queues.send {
                send.reset();
            }
            if let Some(receive) = &mut qp.queues.receive {
                receive.reset();
            }
            qp.queues.held = None;
            qp.queues.trouble = None;
            for (page, slot) in qp.queues.doorbells() {
                host.clear_slot(page, slot);
            }
        }
        if reset || mask.contains(QpMask::PRIMARY_PATH) {
            if let Some(old) = qp.gid.take() {
                self.objects.gids.release(old);
            }
            qp.primary = AddressVector::default();
        }
        if !reset && mask.contains(QpMask::PRIMARY_PATH) {
            qp.gid = Some(given.primary.sgid_index);
            qp.primary = given.primary;
            self.objects.gids.hold(given.primary.sgid_index);
        }
        // Requests may have been posted before the state let them start.
        qp.transport.post_notify();
        self.schedule(qpn);
    }

    /// The change that the driver asks for.
    fn change(&self, qpn: u32, mask: QpMask, given: &QpAttributes) -> Result<Modify, Refusal> {
        let extra = mask & UNSUPPORTED;
        if !extra.is_empty() {
            return Err(Refusal::new(Status::BadState, unsupported_at(extra)));
        }
        let has = |bit| mask.contains(bit);
        let state = |raw, at| QpState::from_raw(raw).map(state_of).ok_or(bad(at));
        let mut change = Modify {
            sqd_notify: has(QpMask::EN_SQD_ASYNC_NOTIFY).then_some(given.sqd_notify != 0),
            qkey: has(QpMask::QKEY).then_some(given.qkey),
            port: has(QpMask::PORT).then_some(given.port),
            send_psn: has(QpMask::SEND_PSN).then_some(Psn::new(given.send_psn)),
            receive_psn: has(QpMask::RECEIVE_PSN).then_some(Psn::new(given.receive_psn)),
            initiator_depth: has(QpMask::INITIATOR_DEPTH).then_some(given.initiator_depth),
            responder_resources: has(QpMask::RESPONDER_RESOURCES)
                .then_some(given.responder_resources),
            min_rnr_timer: has(QpMask::MIN_RNR_TIMER).then_some(given.min_rnr_timer),
            timeout: has(QpMask::TIMEOUT).then_some(given.timeout),
            retry_count: has(QpMask::RETRY_COUNT).then_some(given.retry_count),
            rnr_retry: has(QpMask::RNR_RETRY).then_some(given.rnr_retry),
            ..Modify::default()
        };
        if has(QpMask::STATE) {
            change.state = Some(state(given.state, attribute!(state))?);
        }
        if has(QpMask::CURRENT_STATE) {
            change.current_state = Some(state(given.current_state, attribute!(current_state))?);
        }
        if has(QpMask::ACCESS) {
            change.access = Some(qp_access(given.access)?);
        }
        if has(QpMask::PKEY_INDEX) {
            change.pkey = Some(pkey(given.pkey_index)?);
        }
        if has(QpMask::PATH_MTU) {
            change.path_mtu = Some(self.path_mtu(given.path_mtu)?);
        }
        if has(QpMask::REMOTE_QPN) {
            if given.remote_qpn >> 24 != 0 {
                return Err(bad(attribute!(remote_qpn)));
            }
            change.remote_qpn = Some(Qpn::new(given.remote_qpn));
        }
        if has(QpMask::SEND_PSN) && given.send_psn >> 24 != 0 {
            return Err(bad(attribute!(send_psn)));
        }
        if has(QpMask::RECEIVE_PSN) && given.receive_psn >> 24 != 0 {
            return Err(bad(attribute!(receive_psn)));
        }
        if has(QpMask::PRIMARY_PATH) {
            let current = self.qps.get(qpn).map(|qp| qp.transport.attributes());
            let remote = change.remote_qpn.or(current.map(|c| c.remote_qpn));
            change.path = Some(self.path(qpn, remote.unwrap_or_default(), given)?);
        }
        Ok(change)
    }

    fn path_mtu(&self, raw: u8) -> Result<Mtu, Refusal> {
        let at = attribute!(path_mtu);
        let mtu = PathMtu::from_raw(raw).ok_or(bad(at))?;
        if mtu > self.active_mtu() {
            return Err(bad(at));
        }
        Ok(mtu_of(mtu))
    }

    /// Resolves the primary path.
    fn path(&self, qpn: u32, remote: Qpn, given: &QpAttributes) -> Result<Path, Refusal> {
        let vector = vector(&given.primary);
        let path = resolve(&self.objects.gids, &vector, false);
        let mut path = path.map_err(|wrong| match wrong {
            BadVector::SourceIndex => no_such(attribute!(primary.sgid_index)),
            BadVector::Gid => bad(attribute!(primary.gid)),
            BadVector::Mac => bad(attribute!(primary.mac)),
            BadVector::FlowLabel => bad(attribute!(primary.flow_label)),
            BadVector::ServiceLevel => bad(attribute!(primary.service_level)),
        })?;
        path.udp_source = udp_source(vector.flow_label, qpn, remote.get());
        Ok(path)
    }
}

fn unsupported_at(mask: QpMask) -> u32 {
    if mask.contains(QpMask::ALTERNATE_PATH) {
        attribute!(alternate)
    } else if mask.contains(QpMask::MIGRATION_STATE) {
        attribute!(migration_state)
    } else {
        attribute!(rate_limit)
    }
}

fn qp_access(raw: u32) -> Result<Access, Refusal> {
    let flags = AccessFlags::from_bits(raw).ok_or(bad(attribute!(access)))?;
    Ok(key_access(flags))
}

fn pkey(index: u16) -> Result<Pkey, Refusal> {
    if index != 0 {
        return Err(bad(attribute!(pkey_index)));
    }
    Ok(Pkey {
        index,
        key: DEFAULT_PKEY,
    })
}

/// How a refusal of the transport is told.
fn refusal(error: ModifyError) -> Refusal {
    match error {
        ModifyError::Transition => Refusal::new(Status::BadState, attribute!(state)),
        ModifyError::CurrentState => Refusal::new(Status::BadState, attribute!(current_state)),
        ModifyError::Missing(set) | ModifyError::NotAllowed(set) => {
            Refusal::new(Status::BadState, first_at(set))
        }
        ModifyError::OutOfRange(set) => bad(first_at(set)),
        ModifyError::Draining => Refusal::new(Status::BadState, attribute!(sq_draining)),
    }
}

/// Where the first attribute of a set stands.
fn first_at(set: AttributeSet) -> u32 {
    use AttributeSet as A;
    let places = [
        (A::STATE, attribute!(state)),
        (A::CURRENT_STATE, attribute!(current_state)),
        (A::SQD_NOTIFY, attribute!(sqd_notify)),
        (A::ACCESS, attribute!(access)),
        (A::PKEY, attribute!(pkey_index)),
        (A::PORT, attribute!(port)),
        (A::QKEY, attribute!(qkey)),
        (A::PATH, attribute!(primary)),
        (A::PATH_MTU, attribute!(path_mtu)),
        (A::REMOTE_QPN, attribute!(remote_qpn)),
        (A::SEND_PSN, attribute!(send_psn)),
        (A::RECEIVE_PSN, attribute!(receive_psn)),
        (A::INITIATOR_DEPTH, attribute!(initiator_depth)),
        (A::RESPONDER_RESOURCES, attribute!(responder_resources)),
        (A::MIN_RNR_TIMER, attribute!(min_rnr_timer)),
        (A::TIMEOUT, attribute!(timeout)),
        (A::RETRY_COUNT, attribute!(retry_count)),
        (A::RNR_RETRY, attribute!(rnr_retry)),
    ];
    let found = places.iter().find(|(bit, _)| set.contains(*bit));
    found.map_or(0, |(_, at)| *at)
}

const fn state_of(state: QpState) -> State {
    match state {
        QpState::Reset => State::Reset,
        QpState::Init => State::Init,
        QpState::Rtr => State::Rtr,
        QpState::Rts => State::Rts,
        QpState::Sqd => State::Sqd,
        QpState::Sqe => State::Sqe,
        QpState::Error => State::Error,
    }
}

pub(super) const fn state_code(state: State) -> QpState {
    match state {
        State::Reset => QpState::Reset,
        State::Init => QpState::Init,
        State::Rtr => QpState::Rtr,
        State::Rts => QpState::Rts,
        State::Sqd => QpState::Sqd,
        State::Sqe => QpState::Sqe,
        State::Error => QpState::Error,
    }
}

const fn mtu_of(mtu: PathMtu) -> Mtu {
    match mtu {
        PathMtu::Mtu256 => Mtu::B256,
        PathMtu::Mtu512 => Mtu::B512,
        PathMtu::Mtu1024 => Mtu::B1024,
        PathMtu::Mtu2048 => Mtu::B2048,
        PathMtu::Mtu4096 => Mtu::B4096,
    }
}

pub(super) const fn mtu_code(mtu: Mtu) -> PathMtu {
    match mtu {
        Mtu::B256 => PathMtu::Mtu256,
        Mtu::B512 => PathMtu::Mtu512,
        Mtu::B1024 => PathMtu::Mtu1024,
        Mtu::B2048 => PathMtu::Mtu2048,
        Mtu::B4096 => PathMtu::Mtu4096,
    }
}
