//! Queue pairs of other types than RC, and how they come to send and receive.

use bytemuck::bytes_of;
use vrnic_abi::admin::{
    AdminOpcode, CreateQp, FilterFlags, FilterType, MulticastGroup, QpFlags, QpType, SetFilter,
};
use vrnic_abi::doorbell;
use vrnic_abi::object::{AddressVector, QpAttributes, QpMask, QpState};
use vrnic_abi::wqe::{ControlSegment, DataSegment, DatagramSegment};
use vrnic_firmware::types::{Gid, Mac};

use super::{Bench, Cq, Driver, Hardware, Qp};

impl Driver {
    /// A queue pair of any type, in state RESET, with queues as [`Driver::qp`] has them.
    #[track_caller]
    pub fn qp_of(
        &mut self,
        bench: &mut Bench,
        pd: u32,
        cq: &Cq,
        qp_type: QpType,
        flags: QpFlags,
    ) -> Qp {
        let buffer = self.buffer((64 << 6) + (64 << 6));
        let body = CreateQp {
            pd,
            send_cq: cq.number,
            receive_cq: cq.number,
            buffer,
            qp_type: qp_type.raw(),
            log_send_blocks: 6,
            log_receive_entries: 6,
            log_receive_segments: 2,
            doorbell_page: self.page,
            flags: flags.bits(),
            ..CreateQp::default()
        };
        let completion = self.command(bench, AdminOpcode::CreateQp, &body);
        assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
        let first = self.page * doorbell::END_SLOT;
        Qp {
            number: completion.result0 as u32,
            send_slot: first + (completion.result1 as u32 & 0xffff),
            receive_slot: first + (completion.result1 >> 16) as u32,
            receive_page: buffer.address,
            send_page: buffer.address + (64 << 6),
            posted: 0,
            received: 0,
        }
    }

    /// A raw packet queue pair that sends and receives.
    #[track_caller]
    pub fn raw_qp(&mut self, bench: &mut Bench, pd: u32, cq: &Cq, flags: QpFlags) -> Qp {
        let qp = self.qp_of(bench, pd, cq, QpType::RawPacket, flags);
        let given = QpAttributes {
            state: QpState::Init.raw(),
            port: 1,
            ..QpAttributes::default()
        };
        self.modify_ok(bench, qp.number, QpMask::STATE | QpMask::PORT, &given);
        self.set_state(bench, qp.number, QpState::Rtr);
        self.set_state(bench, qp.number, QpState::Rts);
        qp
    }

    /// A datagram queue pair, or the general services interface, that sends and receives.
    #[track_caller]
    pub fn datagram_qp(
        &mut self,
        bench: &mut Bench,
        pd: u32,
        cq: &Cq,
        qp_type: QpType,
        qkey: u32,
    ) -> Qp {
        let qp = self.qp_of(bench, pd, cq, qp_type, QpFlags::empty());
        let given = QpAttributes {
            state: QpState::Init.raw(),
            port: 1,
            qkey,
            ..QpAttributes::default()
        };
        let mut mask = QpMask::STATE | QpMask::PKEY_INDEX | QpMask::QKEY;
        if qp_type == QpType::Ud {
            mask |= QpMask::PORT;
        }
        self.modify_ok(bench, qp.number, mask, &given);
        self.set_state(bench, qp.number, QpState::Rtr);
        let given = QpAttributes {
            state: QpState::Rts.raw(),
            send_psn: 0xff_ffff,
            ..QpAttributes::default()
        };
        self.modify_ok(bench, qp.number, QpMask::STATE | QpMask::SEND_PSN, &given);
        qp
    }

    #[track_caller]
    pub fn filter(&mut self, bench: &mut Bench, body: &SetFilter) -> u32 {
        self.ok(bench, AdminOpcode::SetFilter, body) as u32
    }

    #[track_caller]
    pub fn attach(&mut self, bench: &mut Bench, body: &MulticastGroup) {
        self.ok(bench, AdminOpcode::AttachMulticast, body);
    }
}

/// A filter of one type without flags.
pub fn filter(qp: u32, filter_type: FilterType, mac: Mac) -> SetFilter {
    SetFilter {
        qp,
        filter_type: filter_type.raw(),
        mac: mac.0,
        ..SetFilter::default()
    }
}

pub fn with_flags(body: SetFilter, flags: FilterFlags, vlan: u16) -> SetFilter {
    SetFilter {
        flags: flags.bits(),
        vlan,
        ..body
    }
}

pub fn group(qp: u32, vlan: u16, gid: Gid) -> MulticastGroup {
    MulticastGroup {
        qp,
        vlan,
        gid: gid.0,
        ..MulticastGroup::default()
    }
}

/// Where a datagram goes, with the vector in the request.
pub fn datagram(qpn: u32, qkey: u32, gid: Gid, mac: Mac) -> DatagramSegment {
    DatagramSegment {
        remote_qpn: qpn,
        qkey,
        vector: AddressVector {
            gid: gid.0,
            mac: mac.0,
            ..AddressVector::default()
        },
        ..DatagramSegment::default()
    }
}

impl Qp {
    /// Posts a datagram.
    pub fn send_datagram(
        &mut self,
        hw: &Hardware,
        control: ControlSegment,
        to: &DatagramSegment,
        data: &[DataSegment],
    ) {
        let control = ControlSegment {
            data_segments: data.len() as u8,
            ..control
        };
        self.post(hw, control, &[bytes_of(to), bytemuck::cast_slice(data)]);
    }
}
