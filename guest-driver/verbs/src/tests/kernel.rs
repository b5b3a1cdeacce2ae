//! A kernel: what `libibverbs` has it do, carried out by the device's admin queue.
//!
//! Its state belongs to the thread, as the functions of `libibverbs` have no other place for it.

use core::ffi::{c_int, c_uint, c_void};
use std::cell::RefCell;

use vrnic_abi::admin::*;
use vrnic_abi::object::{AddressVector, DeviceAttributes, QpAttributes, QpMask, QpState};
use vrnic_abi::verbs::*;
use vrnic_abi::{doorbell, registers::Capabilities};
use vrnic_ibverbs::*;

use super::device::{Device, contiguous, pages};
use crate::ffi::command::{answer, request};
use crate::ffi::provider::*;
use crate::library::Library;

thread_local! {
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

pub(super) struct Kernel {
    pub(super) device: Device,
    pub(super) operations: *const verbs_context_ops,
    /// Version that the kernel says it has.
    pub(super) version: u32,
}

/// Runs `f` on this thread's kernel.
pub(super) fn with<T>(f: impl FnOnce(&mut Kernel) -> T) -> T {
    KERNEL.with(|kernel| {
        let mut kernel = kernel.borrow_mut();
        f(kernel.get_or_insert_with(|| Kernel {
            device: Device::new(),
            operations: core::ptr::null(),
            version: VERSION,
        }))
    })
}

/// Lets the device work.
pub(super) fn settle() {
    with(|kernel| kernel.device.settle());
}

fn errno<T>(result: Result<T, Status>) -> Result<T, c_int> {
    result.map_err(|status| match status {
        Status::Busy => libc::EBUSY,
        Status::NoResources => libc::ENOMEM,
        Status::Unsupported => libc::EOPNOTSUPP,
        _ => libc::EINVAL,
    })
}

fn command<T: bytemuck::Pod>(opcode: AdminOpcode, body: &T) -> Result<(u32, u32), c_int> {
    errno(with(|kernel| kernel.device.command(opcode, body)))
}

fn done<T>(result: Result<T, c_int>) -> c_int {
    result.err().unwrap_or(0)
}

fn destroy(opcode: AdminOpcode, object: u32) -> c_int {
    let body = ObjectReference {
        object,
        ..ObjectReference::default()
    };
    done(command(opcode, &body))
}

/// The provider's part of a request whose head has `words` 8-byte words.
unsafe fn own<T: Copy>(ask: *mut c_void, size: usize, words: usize) -> T {
    assert_eq!(size, words * 8 + size_of::<T>());
    unsafe { ask.byte_add(words * 8).cast::<T>().read_unaligned() }
}

/// Writes the driver's part of an answer whose head has `words` 4-byte words.
unsafe fn tell<T>(told: *mut c_void, size: usize, words: usize, value: T) {
    assert_eq!(size, words * 4 + size_of::<T>());
    unsafe { told.byte_add(words * 4).cast::<T>().write_unaligned(value) };
}

fn pin(start: u64, length: u64) {
    with(|kernel| kernel.device.shared.memory.pin(start, length));
}

/// Queues of even numbers are on one page, of odd ones on another, so that both are mapped.
fn page(number: u32) -> PageAnswer {
    PageAnswer {
        index: number % 2,
        doorbell: doorbell::page_offset(number % 2).into(),
        kick: doorbell::kick_offset(number % 2).into(),
        ..PageAnswer::default()
    }
}

/// Which page the next queue is on.
fn next_page() -> u32 {
    thread_local! {
        static NEXT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    NEXT.replace(NEXT.get() + 1) % 2
}

unsafe extern "C" fn register_driver(_ops: *const verbs_device_ops) {}

unsafe extern "C" fn init_and_alloc_context(
    device: *mut ibv_device,
    file: c_int,
    size: usize,
    _offset: *mut verbs_context,
    _driver: u32,
) -> *mut c_void {
    unsafe {
        let context = libc::calloc(1, size).cast::<verbs_context>();
        (*context).context.device = device;
        (*context).context.cmd_fd = file;
        context.cast()
    }
}

unsafe extern "C" fn uninit_context(_context: *mut verbs_context) {}

unsafe extern "C" fn set_ops(_context: *mut verbs_context, ops: *const verbs_context_ops) {
    with(|kernel| kernel.operations = ops);
}

unsafe extern "C" fn get_context(
    _context: *mut verbs_context,
    ask: *mut c_void,
    ask_size: usize,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    let asked: AllocContext = unsafe { own(ask, ask_size, request::GET_CONTEXT) };
    assert_eq!(asked.version, VERSION);
    let place = pages(4096);
    pin(place, 4096);
    let body = OutputBuffer {
        address: place,
        length: DeviceAttributes::SIZE as u32,
        ..OutputBuffer::default()
    };
    command(AdminOpcode::QueryDevice, &body).unwrap();
    let attributes = unsafe { (place as *const DeviceAttributes).read() };
    // The second page of a context.
    assert_eq!(
        command(AdminOpcode::AllocDoorbellPage, &[0u64; 7]),
        Ok((1, 0))
    );
    let value = ContextAnswer {
        version: with(|kernel| kernel.version),
        capabilities: attributes.capabilities,
        page: page(0),
        max_sge: attributes.max_sge,
        max_inline: attributes.max_inline,
        log_max_send_blocks: attributes.log_max_send_blocks,
        log_max_receive_entries: attributes.log_max_receive_entries,
        log_max_cq_entries: attributes.log_max_cq_entries,
        log_max_srq_entries: attributes.log_max_srq_entries,
        ..ContextAnswer::default()
    };
    assert!(Capabilities::from_bits_truncate(value.capabilities).contains(Capabilities::RC));
    unsafe { tell(told, told_size, answer::GET_CONTEXT, value) };
    0
}

unsafe extern "C" fn query_device(
    _context: *mut ibv_context,
    _input: *const ibv_query_device_ex_input,
    _attributes: *mut ibv_device_attr_ex,
    _size: usize,
    told: *mut c_void,
    told_size: *mut usize,
) -> c_int {
    unsafe {
        assert_eq!(*told_size, answer::QUERY_DEVICE_EX * 4);
        told.cast::<u64>().write(0x0102_0003);
    }
    0
}

unsafe extern "C" fn query_port(
    _context: *mut ibv_context,
    _port: u8,
    _attributes: *mut ibv_port_attr,
    _ask: *mut c_void,
    _size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn alloc_pd(
    _context: *mut ibv_context,
    pd: *mut ibv_pd,
    _ask: *mut c_void,
    _ask_size: usize,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    done(
        command(AdminOpcode::AllocPd, &[0u64; 7]).map(|(number, _)| unsafe {
            (*pd).handle = number;
            let value = PdAnswer {
                pd: number,
                ..PdAnswer::default()
            };
            tell(told, told_size, answer::ALLOC_PD, value);
        }),
    )
}

unsafe extern "C" fn dealloc_pd(pd: *mut ibv_pd) -> c_int {
    destroy(AdminOpcode::FreePd, unsafe { (*pd).handle })
}

unsafe extern "C" fn open_xrcd(
    context: *mut ibv_context,
    xrcd: *mut verbs_xrcd,
    _xrcd_size: c_int,
    _attributes: *mut ibv_xrcd_init_attr,
    _ask: *mut c_void,
    _ask_size: usize,
    _told: *mut c_void,
    _told_size: usize,
) -> c_int {
    done(
        command(AdminOpcode::AllocXrcd, &[0u64; 7]).map(|(number, _)| unsafe {
            (*xrcd).xrcd.context = context;
            (*xrcd).handle = number;
        }),
    )
}

unsafe extern "C" fn close_xrcd(xrcd: *mut verbs_xrcd) -> c_int {
    destroy(AdminOpcode::FreeXrcd, unsafe { (*xrcd).handle })
}

unsafe extern "C" fn reg_mr(
    pd: *mut ibv_pd,
    start: *mut c_void,
    length: usize,
    address: u64,
    access: c_int,
    mr: *mut verbs_mr,
    _ask: *mut c_void,
    _ask_size: usize,
    _told: *mut c_void,
    _told_size: usize,
) -> c_int {
    pin(start as u64, length as u64);
    let body = CreateMr {
        pd: unsafe { (*pd).handle },
        access: access as u32 & 0x3f,
        start: address,
        length: length as u64,
        buffer: contiguous(start as u64, length as u64),
        ..CreateMr::default()
    };
    done(
        command(AdminOpcode::CreateMr, &body).map(|(key, _)| unsafe {
            (*mr).ibv_mr = ibv_mr {
                context: (*pd).context,
                pd,
                addr: start,
                length,
                handle: key,
                lkey: key,
                rkey: key,
            };
        }),
    )
}

/// Changes rights and protection domain; memory stays what it is.
unsafe extern "C" fn rereg_mr(
    mr: *mut verbs_mr,
    flags: u32,
    _start: *mut c_void,
    _length: usize,
    _address: u64,
    access: c_int,
    pd: *mut ibv_pd,
    _ask: *mut c_void,
    _ask_size: usize,
    _told: *mut c_void,
    _told_size: usize,
) -> c_int {
    const PD: u32 = 1 << 1;
    const ACCESS: u32 = 1 << 2;
    if flags & ACCESS == 0 || flags & !(PD | ACCESS) != 0 {
        return libc::EOPNOTSUPP;
    }
    let old = unsafe { &mut (*mr).ibv_mr };
    if flags & PD != 0 {
        old.pd = pd;
    }
    let body = ReregisterMr {
        pd: unsafe { (*old.pd).handle },
        access: access as u32 & 0x3f,
        start: old.addr as u64,
        length: old.length as u64,
        buffer: contiguous(old.addr as u64, old.length as u64),
        key: old.handle,
        ..ReregisterMr::default()
    };
    done(command(AdminOpcode::ReregisterMr, &body).map(drop))
}

unsafe extern "C" fn dereg_mr(mr: *mut verbs_mr) -> c_int {
    unsafe {
        let mr = &(*mr).ibv_mr;
        with(|kernel| kernel.device.shared.memory.unpin(mr.addr as u64));
        destroy(AdminOpcode::DestroyMr, mr.handle)
    }
}

unsafe extern "C" fn alloc_mw(
    pd: *mut ibv_pd,
    mw_type: c_uint,
    mw: *mut ibv_mw,
    _ask: *mut c_void,
    _ask_size: usize,
    _told: *mut c_void,
    _told_size: usize,
) -> c_int {
    let body = AllocMw {
        pd: unsafe { (*pd).handle },
        window_type: mw_type as u8,
        ..AllocMw::default()
    };
    done(command(AdminOpcode::AllocMw, &body).map(|(key, _)| unsafe {
        *mw = ibv_mw {
            context: (*pd).context,
            pd,
            rkey: key,
            handle: key,
            mw_type,
        };
    }))
}

unsafe extern "C" fn dealloc_mw(mw: *mut ibv_mw) -> c_int {
    destroy(AdminOpcode::FreeMw, unsafe { (*mw).rkey })
}

unsafe extern "C" fn create_cq(
    context: *mut ibv_context,
    entries: c_int,
    _channel: *mut ibv_comp_channel,
    _vector: c_int,
    cq: *mut ibv_cq,
    ask: *mut c_void,
    ask_size: usize,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    let ring: CreateCqRequest = unsafe { own(ask, ask_size, request::CREATE_CQ) };
    assert_eq!(entries, 1 << ring.log_entries);
    let length = 64u64 << ring.log_entries;
    pin(ring.buffer, length);
    let doorbell_page = next_page();
    let body = CreateCq {
        buffer: contiguous(ring.buffer, length),
        doorbell_page,
        log_entries: ring.log_entries,
        eq: with(|kernel| kernel.device.eq),
        ..CreateCq::default()
    };
    done(
        command(AdminOpcode::CreateCq, &body).map(|(number, slot)| unsafe {
            (*cq).context = context;
            (*cq).handle = number;
            let value = CqAnswer {
                cq: number,
                slot,
                page: page(doorbell_page),
            };
            tell(told, told_size, answer::CREATE_CQ, value);
        }),
    )
}

unsafe extern "C" fn resize_cq(
    cq: *mut ibv_cq,
    _entries: c_int,
    ask: *mut c_void,
    ask_size: usize,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    let ring: CreateCqRequest = unsafe { own(ask, ask_size, request::RESIZE_CQ) };
    let length = 64u64 << ring.log_entries;
    pin(ring.buffer, length);
    let body = ResizeCq {
        cq: unsafe { (*cq).handle },
        log_entries: ring.log_entries,
        buffer: contiguous(ring.buffer, length),
        ..ResizeCq::default()
    };
    done(
        command(AdminOpcode::ResizeCq, &body).map(|(base, _)| unsafe {
            let value = ResizeCqAnswer {
                base,
                ..ResizeCqAnswer::default()
            };
            tell(told, told_size, answer::RESIZE_CQ, value);
        }),
    )
}

unsafe extern "C" fn modify_cq(
    _cq: *mut ibv_cq,
    _attributes: *mut ibv_modify_cq_attr,
    _ask: *mut c_void,
    _size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn destroy_cq(cq: *mut ibv_cq) -> c_int {
    destroy(AdminOpcode::DestroyCq, unsafe { (*cq).handle })
}

/// Creates a shared receive queue.
unsafe fn new_srq(
    srq: *mut ibv_srq,
    body: &CreateSrq,
    ring: &CreateSrqRequest,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    let length = 16u64 << ring.log_entries << ring.log_segments;
    pin(ring.buffer, length);
    let doorbell_page = next_page();
    let body = CreateSrq {
        doorbell_page,
        buffer: contiguous(ring.buffer, length),
        log_entries: ring.log_entries,
        log_segments: ring.log_segments,
        ..*body
    };
    done(
        command(AdminOpcode::CreateSrq, &body).map(|(number, slot)| unsafe {
            (*srq).handle = number;
            let value = SrqAnswer {
                srq: number,
                slot,
                page: page(doorbell_page),
            };
            tell(told, told_size, answer::CREATE_SRQ, value);
        }),
    )
}

unsafe extern "C" fn create_srq(
    pd: *mut ibv_pd,
    srq: *mut ibv_srq,
    _attributes: *mut ibv_srq_init_attr,
    ask: *mut c_void,
    ask_size: usize,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    unsafe {
        let ring: CreateSrqRequest = own(ask, ask_size, request::CREATE_SRQ);
        let body = CreateSrq {
            pd: (*pd).handle,
            ..CreateSrq::default()
        };
        (*srq).context = (*pd).context;
        new_srq(srq, &body, &ring, told, told_size)
    }
}

unsafe extern "C" fn create_srq_ex(
    context: *mut ibv_context,
    srq: *mut verbs_srq,
    attributes: *mut ibv_srq_init_attr_ex,
    ask: *mut c_void,
    ask_size: usize,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    unsafe {
        let ring: CreateSrqRequest = own(ask, ask_size, request::CREATE_XSRQ);
        let attributes = &*attributes;
        let body = CreateSrq {
            pd: (*attributes.pd).handle,
            srq_type: SrqType::Xrc.raw(),
            xrcd: (*attributes.xrcd.cast::<verbs_xrcd>()).handle,
            cq: (*attributes.cq).handle,
            ..CreateSrq::default()
        };
        (*srq).srq.context = context;
        new_srq(&raw mut (*srq).srq, &body, &ring, told, told_size)
    }
}

unsafe extern "C" fn modify_srq(
    _srq: *mut ibv_srq,
    _attributes: *mut ibv_srq_attr,
    _mask: c_int,
    _ask: *mut c_void,
    _size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn query_srq(
    _srq: *mut ibv_srq,
    _attributes: *mut ibv_srq_attr,
    _ask: *mut c_void,
    _size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn destroy_srq(srq: *mut ibv_srq) -> c_int {
    destroy(AdminOpcode::DestroySrq, unsafe { (*srq).handle })
}

const fn device_type(qp_type: u32) -> QpType {
    match qp_type {
        qp_type::UC => QpType::Uc,
        qp_type::UD => QpType::Ud,
        qp_type::RAW_PACKET => QpType::RawPacket,
        qp_type::XRC_SEND => QpType::XrcInitiator,
        qp_type::XRC_RECV => QpType::XrcTarget,
        _ => QpType::Rc,
    }
}

unsafe extern "C" fn create_qp(
    context: *mut ibv_context,
    qp: *mut verbs_qp,
    attributes: *mut ibv_qp_init_attr_ex,
    ask: *mut c_void,
    ask_size: usize,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    unsafe {
        let rings: CreateQpRequest = own(ask, ask_size, request::CREATE_QP);
        let attributes = &*attributes;
        let qp_type = device_type(attributes.qp_type);
        let target = qp_type == QpType::XrcTarget;
        let initiator = qp_type == QpType::XrcInitiator;
        let own_receive = attributes.srq.is_null() && !target && !initiator;
        let receive = 16u64 << rings.log_receive_entries << rings.log_receive_segments;
        let receive = if own_receive {
            receive.next_multiple_of(64)
        } else {
            0
        };
        let length = receive + (64 << rings.log_send_blocks);
        let doorbell_page = if target { 0 } else { next_page() };
        let number = |cq: *mut ibv_cq| if cq.is_null() { 0 } else { (*cq).handle };
        let mut body = CreateQp {
            pd: (*attributes.pd).handle,
            send_cq: number(attributes.send_cq),
            // An initiator receives nothing, whatever the application says.
            receive_cq: if initiator {
                0
            } else {
                number(attributes.recv_cq)
            },
            srq: if attributes.srq.is_null() {
                0
            } else {
                (*attributes.srq).handle
            },
            doorbell_page,
            qp_type: qp_type.raw(),
            log_send_blocks: rings.log_send_blocks,
            log_receive_entries: rings.log_receive_entries,
            log_receive_segments: rings.log_receive_segments,
            ..CreateQp::default()
        };
        if target {
            body.xrcd = (*attributes.xrcd.cast::<verbs_xrcd>()).handle;
        } else {
            pin(rings.buffer, length);
            body.buffer = contiguous(rings.buffer, length);
        }
        done(
            command(AdminOpcode::CreateQp, &body).map(|(number, slots)| {
                let ibv = &mut (*qp).qp_ex.base;
                ibv.context = context;
                ibv.pd = attributes.pd;
                ibv.qp_num = number;
                ibv.qp_type = attributes.qp_type;
                ibv.handle = number;
                let value = QpAnswer {
                    qp: number,
                    send_slot: slots & 0xffff,
                    receive_slot: slots >> 16,
                    page: page(doorbell_page),
                    ..QpAnswer::default()
                };
                tell(told, told_size, answer::CREATE_QP, value);
            }),
        )
    }
}

unsafe extern "C" fn create_qp_ex(
    _context: *mut ibv_context,
    _qp: *mut verbs_qp,
    _attributes: *mut ibv_qp_init_attr_ex,
    _ask: *mut c_void,
    _ask_size: usize,
    _told: *mut c_void,
    _told_size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn open_qp(
    _context: *mut ibv_context,
    _qp: *mut verbs_qp,
    _qp_size: c_int,
    _attributes: *mut ibv_qp_open_attr,
    _ask: *mut c_void,
    _ask_size: usize,
    _told: *mut c_void,
    _told_size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn query_qp(
    _qp: *mut ibv_qp,
    _attributes: *mut ibv_qp_attr,
    _mask: c_int,
    _init: *mut ibv_qp_init_attr,
    _ask: *mut c_void,
    _size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

/// Changes a queue pair as no application can say here: in the device's terms.
pub(super) fn modify(qp: u32, attributes: QpAttributes, mask: QpMask) -> Result<(), c_int> {
    let place = pages(4096);
    pin(place, 4096);
    unsafe { (place as *mut QpAttributes).write(attributes) };
    let body = ModifyQp {
        qp,
        mask: mask.bits(),
        attributes: place,
        ..ModifyQp::default()
    };
    command(AdminOpcode::ModifyQp, &body).map(drop)
}

unsafe extern "C" fn modify_qp(
    qp: *mut ibv_qp,
    attributes: *mut ibv_qp_attr,
    mask: c_int,
    _ask: *mut c_void,
    _size: usize,
) -> c_int {
    assert_eq!(mask, qp_mask::STATE, "this kernel changes states only");
    let attributes = QpAttributes {
        state: QpState::from_raw(unsafe { (*attributes).qp_state } as u8)
            .unwrap()
            .raw(),
        ..QpAttributes::default()
    };
    done(modify(unsafe { (*qp).qp_num }, attributes, QpMask::STATE))
}

unsafe extern "C" fn modify_qp_ex(
    _qp: *mut ibv_qp,
    _attributes: *mut ibv_qp_attr,
    _mask: c_int,
    _ask: *mut c_void,
    _ask_size: usize,
    _told: *mut c_void,
    _told_size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn destroy_qp(qp: *mut ibv_qp) -> c_int {
    destroy(AdminOpcode::DestroyQp, unsafe { (*qp).handle })
}

/// Where the function itself is.
pub(super) fn vector() -> AddressVector {
    with(|kernel| AddressVector {
        gid: kernel.device.gid,
        mac: kernel.device.mac,
        ..AddressVector::default()
    })
}

unsafe extern "C" fn create_ah(
    _pd: *mut ibv_pd,
    _ah: *mut ibv_ah,
    _attributes: *mut ibv_ah_attr,
    told: *mut c_void,
    told_size: usize,
) -> c_int {
    let value = AhAnswer { vector: vector() };
    unsafe { tell(told, told_size, answer::CREATE_AH, value) };
    0
}

unsafe extern "C" fn destroy_ah(_ah: *mut ibv_ah) -> c_int {
    0
}

unsafe extern "C" fn multicast(_qp: *mut ibv_qp, _gid: *const ibv_gid, _lid: u16) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn create_flow(
    _qp: *mut ibv_qp,
    _flow: *mut ibv_flow,
    _attributes: *mut ibv_flow_attr,
    _ask: *mut c_void,
    _size: usize,
) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn destroy_flow(_flow: *mut ibv_flow) -> c_int {
    libc::EOPNOTSUPP
}

unsafe extern "C" fn fork_range(_start: *mut c_void, _length: usize) -> c_int {
    0
}

pub(super) static LIBRARY: Library = Library {
    register_driver,
    init_and_alloc_context,
    uninit_context,
    set_ops,
    get_context,
    query_device,
    query_port,
    alloc_pd,
    dealloc_pd,
    open_xrcd,
    close_xrcd,
    reg_mr,
    rereg_mr,
    dereg_mr,
    alloc_mw,
    dealloc_mw,
    create_cq,
    resize_cq,
    modify_cq,
    destroy_cq,
    create_srq,
    create_srq_ex,
    modify_srq,
    query_srq,
    destroy_srq,
    create_qp,
    create_qp_ex,
    open_qp,
    query_qp,
    modify_qp,
    modify_qp_ex,
    destroy_qp,
    create_ah,
    destroy_ah,
    attach_mcast: multicast,
    detach_mcast: multicast,
    create_flow,
    destroy_flow,
    dontfork_range: fork_range,
    dofork_range: fork_range,
};
