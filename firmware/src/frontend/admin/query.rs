//! Admin commands that write a description into guest memory.

use bytemuck::Pod;
use vrnic_abi::admin::{GidType, ObjectOutput, OutputBuffer, SrqType, Status};
use vrnic_abi::object::{
    CqAttributes, DeviceAttributes, EqAttributes, GidEntry, PathMtu, PortAttributes, PortState,
    QpAttributes, SrqAttributes,
};
use vrnic_abi::wqe::{MAX_INLINE, MAX_MESSAGE, MAX_SGE};

use super::Context;
use super::command::{Refusal, Reply, argument, bad, no_such};
use super::modify::{mtu_code, state_code};
use super::queue_pairs::type_code;
use crate::frontend::completion::CompletionQueue;
use crate::frontend::function::Function;
use crate::frontend::keys::{access_flags, describe};
use crate::frontend::objects::COUNTERS;
use crate::frontend::registers::FIRMWARE_VERSION;
use crate::frontend::ring::{ReceiveRing, SendRing};
use crate::host::{Host, Memory};
use crate::resource::limits;
use crate::transport::Rate;
use crate::types::{Mac, Mtu, Time};

/// Time to answer a request: 4.096 µs times 2 to this power.
const LOCAL_ACK_DELAY: u8 = 15;

impl Function {
    pub(super) fn query_device<H: Host>(
        &self,
        host: &H,
        output: &OutputBuffer,
    ) -> Result<Reply, Refusal> {
        let quota = self.quota();
        let attributes = DeviceAttributes {
            node_guid: guid(self.identity.mac),
            capabilities: self.registers.capabilities().bits(),
            firmware_version: FIRMWARE_VERSION,
            ports: 1,
            max_qp: quota.queue_pairs,
            log_max_send_blocks: limits::LOG_SEND_BLOCKS,
            log_max_receive_entries: limits::LOG_RECEIVE_ENTRIES,
            log_max_cq_entries: *limits::LOG_CQ_ENTRIES.end(),
            log_max_eq_entries: *limits::LOG_EQ_ENTRIES.end(),
            max_sge: MAX_SGE as u32,
            max_inline: MAX_INLINE as u32,
            max_cq: quota.completion_queues,
            max_eq: quota.event_queues,
            max_pd: quota.protection_domains,
            max_mr: quota.regions,
            max_mw: quota.windows,
            max_fast_pages: limits::FAST_PAGES.min(quota.pages),
            max_mr_size: limits::REGION_BYTES,
            page_sizes: (limits::MIN_PAGE_SHIFT..=limits::MAX_PAGE_SHIFT)
                .fold(0, |bits, shift| bits | 1 << shift),
            // One page is never in a list.
            max_pages: limits::PAGES.min(quota.pages).max(1),
            max_doorbell_pages: quota.doorbell_pages,
            max_responder_resources: limits::READ_DEPTH.into(),
            max_initiator_depth: limits::READ_DEPTH.into(),
            max_srq: quota.shared_receive_queues,
            log_max_srq_entries: limits::LOG_SHARED_ENTRIES,
            max_xrcd: quota.xrc_domains,
            max_ah: quota.address_handles,
            max_multicast_groups: limits::MULTICAST_GROUPS as u32,
            max_multicast_attachments: limits::MULTICAST_ATTACHMENTS as u32,
            max_filters: limits::FILTERS,
            max_message: MAX_MESSAGE,
            vectors: quota.vectors,
            local_ack_delay: LOCAL_ACK_DELAY,
            max_vf: self.registers.max_vf().into(),
            ..DeviceAttributes::default()
        };
        write_at(host, output, 0, &attributes)
    }

    pub(super) fn query_port<H: Host>(
        &self,
        cx: &Context<'_, H>,
        output: &OutputBuffer,
    ) -> Result<Reply, Refusal> {
        let state = if cx.link_up {
            PortState::Active
        } else {
            PortState::Down
        };
        let attributes = PortAttributes {
            state: state.raw(),
            max_mtu: PathMtu::Mtu4096.raw(),
            active_mtu: self.active_mtu().raw(),
            gid_entries: limits::GIDS,
            speed: cx.speed,
            mtu: self.mtu,
            mac: self.identity.mac.0,
            pkey_entries: limits::PKEYS,
            ..PortAttributes::default()
        };
        write_at(cx.host, output, 0, &attributes)
    }

    /// The largest path MTU whose packets fit into the port's frames.
    pub(super) fn active_mtu(&self) -> PathMtu {
        mtu_code(Mtu::fitting(self.mtu))
    }

    pub(super) fn query_counters<H: Host>(
        &self,
        host: &H,
        output: &OutputBuffer,
    ) -> Result<Reply, Refusal> {
        let room = check_output(output, 0)? / 8;
        let counters = self.objects.counters.get(..room.min(COUNTERS));
        let counters = counters.unwrap_or(&self.objects.counters);
        write_bytes(host, output, 0, bytemuck::cast_slice(counters))?;
        Ok(Reply::number(u32::try_from(counters.len()).unwrap_or(0)))
    }

    pub(super) fn query_gid<H: Host>(
        &self,
        host: &H,
        body: &ObjectOutput,
    ) -> Result<Reply, Refusal> {
        if !self.objects.gids.contains(body.object) {
            return Err(bad(argument!(ObjectOutput, object)));
        }
        let entry = self.objects.gids.get(body.object);
        let entry = entry.map_or_else(GidEntry::default, |entry| GidEntry {
            gid: entry.gid.0,
            mac: entry.mac.0,
            vlan: entry.vlan,
            gid_type: GidType::RoceV2.raw(),
            ..GidEntry::default()
        });
        write(host, body, &entry)
    }

    pub(super) fn query_mr<H: Host>(
        &self,
        host: &H,
        body: &ObjectOutput,
    ) -> Result<Reply, Refusal> {
        let key = self.objects.keys.get(body.object);
        let key = key.ok_or(no_such(argument!(ObjectOutput, object)))?;
        write(host, body, &describe(key))
    }

    pub(super) fn query_eq<H: Host>(
        &self,
        host: &H,
        body: &ObjectOutput,
    ) -> Result<Reply, Refusal> {
        let eq = self.objects.eqs.get(body.object);
        let eq = eq.ok_or(no_such(argument!(ObjectOutput, object)))?;
        let attributes = EqAttributes {
            entries: 1 << eq.ring.log_entries,
            producer: eq.ring.producer(),
            consumer: eq.ring.consumer(),
            vector: eq.vector,
            armed: eq.is_armed().into(),
            held: u32::try_from(eq.held()).unwrap_or(u32::MAX),
            users: eq.users,
            ..EqAttributes::default()
        };
        write(host, body, &attributes)
    }

    pub(super) fn query_cq<H: Host>(
        &self,
        host: &H,
        body: &ObjectOutput,
    ) -> Result<Reply, Refusal> {
        let cq = self.objects.cqs.get(body.object);
        let cq = cq.ok_or(no_such(argument!(ObjectOutput, object)))?;
        let moderation = cq.notifier().moderation();
        let attributes = CqAttributes {
            eq: cq.eq,
            entries: 1 << cq.ring.log_entries,
            producer: cq.ring.producer(),
            consumer: cq.ring.consumer(),
            armed: cq.notifier().is_armed().into(),
            failed: cq.has_failed().into(),
            moderation_period: moderation.period,
            moderation_count: moderation.count,
            base: cq.ring.base(),
            ..CqAttributes::default()
        };
        write(host, body, &attributes)
    }

    pub(super) fn query_srq<H: Host>(
        &self,
        host: &H,
        body: &ObjectOutput,
    ) -> Result<Reply, Refusal> {
        let srq = self.objects.srqs.get(body.object);
        let srq = srq.ok_or(no_such(argument!(ObjectOutput, object)))?;
        let srq_type = match srq.extended {
            Some(_) => SrqType::Xrc,
            None => SrqType::Basic,
        };
        let cq = srq.extended.and_then(|of| self.objects.cqs.get(of.cq));
        let failed = srq.has_failed() || cq.is_some_and(CompletionQueue::has_failed);
        let attributes = SrqAttributes {
            pd: srq.domain.pd,
            entries: srq.ring.entries(),
            segments: u32::try_from(srq.ring.segments()).unwrap_or(u32::MAX),
            limit: srq.limit(),
            producer: srq.ring.producer(),
            consumer: srq.ring.consumer(),
            srq_type: srq_type.raw(),
            failed: failed.into(),
            xrcd: srq.extended.map_or(0, |of| of.xrcd),
            cq: srq.extended.map_or(0, |of| of.cq),
            users: srq.users,
            ..SrqAttributes::default()
        };
        write(host, body, &attributes)
    }

    pub(super) fn query_qp<H: Host>(
        &self,
        host: &H,
        now: Time,
        body: &ObjectOutput,
    ) -> Result<Reply, Refusal> {
        let qp = self.qps.get(body.object);
        let qp = qp.ok_or(no_such(argument!(ObjectOutput, object)))?;
        let state = state_code(qp.transport.state()).raw();
        let current = qp.transport.attributes();
        let rate = qp.transport.current_rate(now, &self.objects.congestion);
        let (send, receive) = (qp.queues.send.as_ref(), qp.queues.receive.as_ref());
        let attributes = QpAttributes {
            state,
            current_state: state,
            path_mtu: mtu_code(current.path_mtu).raw(),
            remote_qpn: current.remote_qpn.get(),
            send_psn: current.send_psn.get(),
            receive_psn: current.receive_psn.get(),
            access: access_flags(current.access).bits(),
            pkey_index: current.pkey.index,
            port: current.port,
            initiator_depth: current.initiator_depth,
            responder_resources: current.responder_resources,
            min_rnr_timer: current.min_rnr_timer,
            timeout: current.timeout,
            retry_count: current.retry_count,
            rnr_retry: current.rnr_retry,
            sq_draining: qp.transport.is_draining().into(),
            primary: qp.primary,
            qkey: current.qkey,
            send_producer: send.map_or(0, SendRing::producer),
            send_consumer: send.map_or(0, SendRing::consumer),
            receive_consumer: receive.map_or(0, ReceiveRing::consumer),
            qp_type: type_code(qp.transport.kind()).raw().into(),
            pd: qp.queues.pd,
            send_cq: qp.queues.send_cq,
            receive_cq: qp.queues.receive_cq,
            srq: qp.queues.srq.unwrap_or(0),
            xrcd: qp.queues.xrcd.unwrap_or(0),
            current_rate: rate.map_or(0, Rate::to_megabits),
            ..QpAttributes::default()
        };
        write(host, body, &attributes)
    }
}

/// An EUI-64 made of an Ethernet address (IEEE 802, with the universal bit inverted as in IPv6).
fn guid(mac: Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// Writes the description of an object.
pub(super) fn write<H: Host, T: Pod>(
    host: &H,
    body: &ObjectOutput,
    value: &T,
) -> Result<Reply, Refusal> {
    const AT: u32 = argument!(ObjectOutput, output) - argument!(ObjectOutput, object);
    write_at(host, &body.output, AT, value)
}

/// Writes a description, as much as fits; the output buffer stands `at` bytes into the body.
pub(super) fn write_at<H: Host, T: Pod>(
    host: &H,
    output: &OutputBuffer,
    at: u32,
    value: &T,
) -> Result<Reply, Refusal> {
    let room = check_output(output, at)?;
    let bytes = bytemuck::bytes_of(value);
    // A driver built for an older interface knows only the start.
    write_bytes(host, output, at, bytes.get(..room).unwrap_or(bytes))?;
    Ok(Reply::default())
}

/// The bytes that may be written.
fn check_output(output: &OutputBuffer, at: u32) -> Result<usize, Refusal> {
    if output.address % 8 != 0 {
        return Err(bad(at + argument!(OutputBuffer, address)));
    }
    if output.length < 8 {
        let at = at + argument!(OutputBuffer, length);
        return Err(Refusal::new(Status::BufferTooSmall, at));
    }
    Ok(usize::try_from(output.length).unwrap_or(usize::MAX))
}

fn write_bytes<H: Host>(
    host: &H,
    output: &OutputBuffer,
    at: u32,
    bytes: &[u8],
) -> Result<(), Refusal> {
    let at = at + argument!(OutputBuffer, address);
    host.memory()
        .write(output.address, bytes)
        .map_err(|_| Refusal::new(Status::DmaFailed, at))
}
