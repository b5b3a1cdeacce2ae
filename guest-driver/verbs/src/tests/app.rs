//! An application: memory, queue pairs that are connected to each other, and work for them.

use core::ffi::{c_int, c_void};

use vrnic_abi::admin::AccessFlags;
use vrnic_abi::object::{PathMtu, QpAttributes, QpMask, QpState};
use vrnic_ibverbs::*;

use super::device::pages;
use super::kernel;
use crate::context;
use crate::ffi::provider::*;
use crate::qp;

/// Bytes of the application's memory.
pub(super) const SIZE: usize = 64 * 1024;
/// What memory holds that nobody has written.
pub(super) const POISON: u8 = 0xd5;
/// Q_Key of all datagram queue pairs.
pub(super) const QKEY: u32 = 0x1234;

/// All rights but those to windows that count from zero.
const ALL_RIGHTS: c_int = 0x1f;

/// An open device, a protection domain, a completion queue and memory.
pub(super) struct App {
    pub(super) context: *mut ibv_context,
    pub(super) pd: *mut ibv_pd,
    pub(super) cq: *mut ibv_cq,
    pub(super) mr: *mut ibv_mr,
    pub(super) memory: u64,
}

/// The provider's functions.
pub(super) fn ops() -> &'static verbs_context_ops {
    unsafe { &*kernel::with(|kernel| kernel.operations) }
}

/// Opens the device; null if that fails.
pub(super) fn open() -> *mut ibv_context {
    let device: Box<ibv_device> = unsafe { Box::new(core::mem::zeroed()) };
    let file = kernel::with(|kernel| kernel.device.shared.file);
    let opened = unsafe { context::open(&kernel::LIBRARY, Box::leak(device), file) };
    if opened.is_null() {
        return core::ptr::null_mut();
    }
    unsafe { &raw mut (*opened).context }
}

pub(super) fn zeroed<T>() -> T {
    unsafe { core::mem::zeroed() }
}

impl App {
    pub(super) fn new() -> Self {
        let context = open();
        assert!(!context.is_null());
        let memory = pages(SIZE);
        unsafe {
            core::ptr::write_bytes(memory as *mut u8, POISON, SIZE);
            let pd = ops().alloc_pd.unwrap()(context);
            let cq = ops().create_cq.unwrap()(context, 64, core::ptr::null_mut(), 0);
            let start = memory as *mut c_void;
            let mr = ops().reg_mr.unwrap()(pd, start, SIZE, memory, ALL_RIGHTS);
            assert!(!pd.is_null() && !cq.is_null() && !mr.is_null());
            Self {
                context,
                pd,
                cq,
                mr,
                memory,
            }
        }
    }

    /// What a queue pair is created with by default.
    pub(super) fn attributes(&self, qp_type: u32) -> ibv_qp_init_attr {
        ibv_qp_init_attr {
            send_cq: self.cq,
            recv_cq: self.cq,
            cap: ibv_qp_cap {
                max_send_wr: 16,
                max_recv_wr: 16,
                max_send_sge: 4,
                max_recv_sge: 4,
                max_inline_data: 64,
            },
            qp_type,
            ..zeroed()
        }
    }

    #[track_caller]
    pub(super) fn qp(&self, qp_type: u32) -> *mut ibv_qp {
        let mut attributes = self.attributes(qp_type);
        let qp = unsafe { ops().create_qp.unwrap()(self.pd, &raw mut attributes) };
        assert!(!qp.is_null());
        qp
    }

    /// Two queue pairs that are connected to each other.
    #[track_caller]
    pub(super) fn pair(&self, qp_type: u32) -> (*mut ibv_qp, *mut ibv_qp) {
        let (a, b) = (self.qp(qp_type), self.qp(qp_type));
        connect(a, b);
        connect(b, a);
        (a, b)
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= SIZE);
        let place = (self.memory + offset as u64) as *mut u8;
        unsafe { place.copy_from(bytes.as_ptr(), bytes.len()) };
    }

    pub(super) fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= SIZE);
        let place = (self.memory + offset as u64) as *const u8;
        unsafe { core::slice::from_raw_parts(place, length) }.to_vec()
    }

    pub(super) fn word(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.read(offset, 8).try_into().unwrap())
    }

    pub(super) fn sge(&self, offset: usize, length: u32) -> ibv_sge {
        ibv_sge {
            address: self.memory + offset as u64,
            length,
            lkey: unsafe { (*self.mr).lkey },
        }
    }

    pub(super) fn rkey(&self) -> u32 {
        unsafe { (*self.mr).rkey }
    }

    /// Posts a send request with one piece of data.
    #[track_caller]
    pub(super) fn send(&self, qp: *mut ibv_qp, request: Send, sge: Option<ibv_sge>) {
        assert_eq!(self.try_send(qp, request, sge), 0);
    }

    /// The same; the answer is `errno`, or 0.
    pub(super) fn try_send(
        &self,
        qp: *mut ibv_qp,
        mut request: Send,
        sge: Option<ibv_sge>,
    ) -> c_int {
        let mut sges: Vec<ibv_sge> = sge.into_iter().collect();
        request.sg_list = sges.as_mut_ptr();
        request.num_sge = sges.len() as c_int;
        let mut bad = core::ptr::null_mut();
        let error = unsafe { ops().post_send.unwrap()(qp, &raw mut request, &raw mut bad) };
        assert_eq!(bad.is_null(), error == 0);
        error
    }

    #[track_caller]
    pub(super) fn receive(&self, qp: *mut ibv_qp, wr_id: u64, sge: ibv_sge) {
        assert_eq!(self.try_receive(qp, wr_id, sge), 0);
    }

    pub(super) fn try_receive(&self, qp: *mut ibv_qp, wr_id: u64, mut sge: ibv_sge) -> c_int {
        let mut request = ibv_recv_wr {
            wr_id,
            next: core::ptr::null_mut(),
            sg_list: &raw mut sge,
            num_sge: 1,
        };
        let mut bad = core::ptr::null_mut();
        unsafe { ops().post_recv.unwrap()(qp, &raw mut request, &raw mut bad) }
    }

    /// All completions that there are, after the device had its time.
    pub(super) fn poll(&self) -> Vec<ibv_wc> {
        poll(self.cq)
    }

    /// The only completion, which is a good one.
    #[track_caller]
    pub(super) fn one(&self) -> ibv_wc {
        let [wc] = self.poll()[..] else {
            panic!("not one completion");
        };
        assert_eq!(wc.status, wc_status::SUCCESS, "{wc:?}");
        wc
    }

    /// The completions in the order of their wr_ids; all good.
    #[track_caller]
    pub(super) fn sorted(&self) -> Vec<ibv_wc> {
        let mut all = self.poll();
        all.sort_by_key(|wc| wc.wr_id);
        assert!(
            all.iter().all(|wc| wc.status == wc_status::SUCCESS),
            "{all:?}"
        );
        all
    }
}

pub(super) fn poll(cq: *mut ibv_cq) -> Vec<ibv_wc> {
    kernel::settle();
    let mut all = Vec::new();
    loop {
        let mut some = [ibv_wc::default(); 3];
        let count = unsafe { ops().poll_cq.unwrap()(cq, 3, some.as_mut_ptr()) };
        all.extend_from_slice(&some[..usize::try_from(count).unwrap()]);
        if count < 3 {
            return all;
        }
    }
}

/// A send request before it has data.
pub(super) type Send = ibv_send_wr;

/// A signaled request of `opcode`.
pub(super) fn signaled(wr_id: u64, opcode: u32) -> Send {
    ibv_send_wr {
        wr_id,
        opcode,
        send_flags: send_flag::SIGNALED,
        ..zeroed()
    }
}

/// Has the kernel change the state of `qp`.
#[track_caller]
fn transition(qp: *mut ibv_qp, attributes: QpAttributes, mask: QpMask) {
    let number = unsafe { (*qp).qp_num };
    assert_eq!(
        kernel::modify(number, attributes, QpMask::STATE | mask),
        Ok(())
    );
    unsafe { qp::note_state(qp, u32::from(attributes.state)) };
}

/// Takes a connected `qp` from RESET to INIT.
#[track_caller]
pub(super) fn initialize(qp: *mut ibv_qp) {
    let attributes = QpAttributes {
        state: QpState::Init.raw(),
        port: 1,
        ..QpAttributes::default()
    };
    let mask = QpMask::PKEY_INDEX | QpMask::PORT | QpMask::ACCESS;
    transition(qp, attributes, mask);
}

/// Takes `qp` from RESET to RTS, connected to `peer` if it is to be.
#[track_caller]
pub(super) fn connect(qp: *mut ibv_qp, peer: *mut ibv_qp) {
    let (qp_type, remote_qpn) = unsafe { ((*qp).qp_type, (*peer).qp_num) };
    let datagrams = qp_type == qp_type::UD;
    let reliable = matches!(qp_type, qp_type::RC | qp_type::XRC_SEND | qp_type::XRC_RECV);
    let state = |state: QpState| QpAttributes {
        state: state.raw(),
        port: 1,
        access: (AccessFlags::REMOTE_READ | AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_ATOMIC)
            .bits(),
        qkey: QKEY,
        path_mtu: PathMtu::Mtu1024.raw(),
        remote_qpn,
        primary: kernel::vector(),
        responder_resources: 4,
        initiator_depth: 4,
        min_rnr_timer: 1,
        timeout: 8,
        retry_count: 7,
        rnr_retry: 7,
        ..QpAttributes::default()
    };
    let common = QpMask::PKEY_INDEX | QpMask::PORT;
    if datagrams {
        transition(qp, state(QpState::Init), common | QpMask::QKEY);
        transition(qp, state(QpState::Rtr), QpMask::empty());
        transition(qp, state(QpState::Rts), QpMask::SEND_PSN);
        return;
    }
    transition(qp, state(QpState::Init), common | QpMask::ACCESS);
    let mut rtr =
        QpMask::PRIMARY_PATH | QpMask::PATH_MTU | QpMask::REMOTE_QPN | QpMask::RECEIVE_PSN;
    let mut rts = QpMask::SEND_PSN;
    if reliable && qp_type != qp_type::XRC_SEND {
        rtr |= QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER;
    }
    if reliable && qp_type != qp_type::XRC_RECV {
        rts |= QpMask::TIMEOUT | QpMask::RETRY_COUNT | QpMask::RNR_RETRY | QpMask::INITIATOR_DEPTH;
    } else if reliable {
        rts |= QpMask::TIMEOUT;
    }
    transition(qp, state(QpState::Rtr), rtr);
    transition(qp, state(QpState::Rts), rts);
}

/// Has the application change the state of `qp`.
#[track_caller]
pub(super) fn modify(qp: *mut ibv_qp, state: u32) {
    let mut attributes: ibv_qp_attr = zeroed();
    attributes.qp_state = state;
    let modify = ops().modify_qp.unwrap();
    assert_eq!(
        unsafe { modify(qp, &raw mut attributes, qp_mask::STATE) },
        0
    );
}

/// A pattern of `length` bytes that begins with `first`.
pub(super) fn pattern(first: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| first.wrapping_add(index as u8))
        .collect()
}
