//! Linux Soft-RoCE, driven through the distribution's unmodified `libibverbs`.
//!
//! [`setup`] brings the device up; [`library`] loads the library, whose structures `vrnic_ibverbs`
//! declares; [`memory`] is what is registered. Objects other than queue pairs live as long as the
//! process, with which the kernel destroys them.

mod library;
mod memory;
pub(crate) mod setup;

use std::ffi::{CStr, c_int};
use std::mem::offset_of;
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use vrnic_driver::{Operation as Verb, Remote};
use vrnic_ibverbs::*;

use self::library::Verbs;
use self::memory::Memory;
use crate::rnic::{
    Completion, DEPTH, MAX_QPS, MEMORY, Place, QKEY, Queue, READS, RNR_TIMER, Request, Rnic,
    timeout,
};
use crate::step::{Connection, Family, Service};
use crate::talk::{Identity, QpEnd};
use crate::vrnic::first_psn;

/// The one port.
const PORT: u8 = 1;
/// Entries of the GID table that are looked at.
const GID_ENTRIES: c_int = 32;
/// Accesses that the other end may have.
const REMOTE_ACCESS: u32 = access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC;
/// That a receive request invalidated a key, with the bit that `rdma_rxe` sets for it: the kernel's
/// own number, which the provider hands on, and which in user space is about a checksum.
const WITH_INV: u32 = wc_flag::WITH_INV | wc_flag::IP_CSUM_OK;
/// Time for what involves no other end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A queue pair, and for a datagram one where it sends to.
struct QueuePair {
    qp: *mut ibv_qp,
    end: QpEnd,
    destination: Option<Destination>,
}

/// Where datagrams go.
#[derive(Clone, Copy)]
struct Destination {
    ah: *mut ibv_ah,
    qpn: u32,
}

/// The Soft-RoCE device.
pub(crate) struct Rxe {
    verbs: Verbs,
    context: *mut ibv_context,
    pd: *mut ibv_pd,
    mr: *mut ibv_mr,
    send_cq: *mut ibv_cq,
    receive_cq: *mut ibv_cq,
    memory: Memory,
    mac: [u8; 6],
    /// Places of our IPv4 and IPv6 GIDs in the device's table.
    gid_indexes: [u8; 2],
    qps: Vec<QueuePair>,
    windows: Vec<*mut ibv_mw>,
    made: u64,
}

/// A pointer that the library returned, or its error.
fn object<T>(pointer: *mut T, what: &str) -> Result<*mut T> {
    match pointer.is_null() {
        false => Ok(pointer),
        true => {
            let error = std::io::Error::last_os_error();
            Err(error).with_context(|| format!("cannot get {what}"))
        }
    }
}

/// A result of the library's that is 0 or an error number.
fn checked(result: c_int, what: &str) -> Result<()> {
    match result {
        0 => Ok(()),
        error => {
            let error = std::io::Error::from_raw_os_error(error.abs());
            Err(error).with_context(|| format!("cannot {what}"))
        }
    }
}

impl Rxe {
    /// Opens the device that [`setup`] has made.
    pub(crate) fn open(netdev: &str) -> Result<Self> {
        let mac = setup::mac_of(netdev)?;
        let verbs = Verbs::load()?;
        let context = open_device(&verbs, setup::DEVICE)?;
        let memory = Memory::new(MEMORY)?;
        let entries = (DEPTH * MAX_QPS) as c_int;
        let cq = || {
            // SAFETY: The context is open; there is no completion channel.
            let cq =
                unsafe { (verbs.create_cq)(context, entries, ptr::null_mut(), ptr::null_mut(), 0) };
            object(cq, "a completion queue")
        };
        let (send_cq, receive_cq) = (cq()?, cq()?);
        // SAFETY: The context is open.
        let pd = object(unsafe { (verbs.alloc_pd)(context) }, "a protection domain")?;
        let access = access::LOCAL_WRITE | REMOTE_ACCESS | access::MW_BIND;
        let access = access as c_int;
        // SAFETY: The memory stays mapped for as long as the region is there.
        let mr = unsafe { (verbs.reg_mr)(pd, memory.start(), memory.length(), access) };
        let mr = object(mr, "a memory region")?;
        let mut gid_indexes = [0; 2];
        for (index, gid) in gid_indexes.iter_mut().zip(&setup::OWN_GIDS) {
            *index = gid_index(&verbs, context, gid)?;
        }
        Ok(Self {
            verbs,
            context,
            pd,
            mr,
            send_cq,
            receive_cq,
            memory,
            mac,
            gid_indexes,
            qps: Vec::new(),
            windows: Vec::new(),
            made: 0,
        })
    }

    fn create_qp(&mut self, service: Service) -> Result<QueuePair> {
        let cap = ibv_qp_cap {
            max_send_wr: DEPTH,
            max_recv_wr: DEPTH,
            max_send_sge: 1,
            max_recv_sge: 1,
            max_inline_data: 0,
        };
        let qp = match service {
            Service::Rc => self.create_extended(cap)?,
            Service::Uc => self.create_plain(cap, qp_type::UC)?,
            Service::Ud => self.create_plain(cap, qp_type::UD)?,
        };
        self.made += 1;
        // SAFETY: The queue pair was just made.
        let qpn = unsafe { (*qp).qp_num };
        Ok(QueuePair {
            qp,
            end: QpEnd {
                qpn,
                psn: first_psn(self.made),
            },
            destination: None,
        })
    }

    fn create_plain(&self, cap: ibv_qp_cap, qp_type: u32) -> Result<*mut ibv_qp> {
        let mut attributes = ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: self.send_cq,
            recv_cq: self.receive_cq,
            srq: ptr::null_mut(),
            cap,
            qp_type,
            sq_sig_all: 0,
        };
        // SAFETY: The protection domain and the queues exist.
        let qp = unsafe { (self.verbs.create_qp)(self.pd, &raw mut attributes) };
        object(qp, "a queue pair")
    }

    /// A queue pair that also has the operations which only the extended interface offers.
    fn create_extended(&self, cap: ibv_qp_cap) -> Result<*mut ibv_qp> {
        let mut attributes = ibv_qp_init_attr_ex {
            qp_context: ptr::null_mut(),
            send_cq: self.send_cq,
            recv_cq: self.receive_cq,
            srq: ptr::null_mut(),
            cap,
            qp_type: qp_type::RC,
            sq_sig_all: 0,
            comp_mask: qp_attr::PD | qp_attr::SEND_OPS_FLAGS,
            pd: self.pd,
            xrcd: ptr::null_mut(),
            create_flags: 0,
            max_tso_header: 0,
            rwq_ind_tbl: ptr::null_mut(),
            rx_hash_conf: [0; 3],
            source_qpn: 0,
            send_ops_flags: qp_ex::ATOMIC_WRITE,
        };
        let before = offset_of!(verbs_context, context);
        // SAFETY: Every context since version 1.1 of the interface is a part of this structure.
        let context = unsafe { self.context.byte_sub(before).cast::<verbs_context>() };
        // SAFETY: As above; the size says whether the library is new enough to have the function.
        let create = unsafe {
            let size = (*context).sz;
            ensure!(size >= size_of::<verbs_context>(), "the library is too old");
            (*context).create_qp_ex
        };
        let create = create.context("the library cannot make extended queue pairs")?;
        // SAFETY: The protection domain and the queues exist.
        object(
            unsafe { create(self.context, &raw mut attributes) },
            "a queue pair",
        )
    }

    fn modify(&self, qp: *mut ibv_qp, mut attributes: ibv_qp_attr, mask: c_int) -> Result<()> {
        // SAFETY: The queue pair exists until it is destroyed, when it is forgotten.
        let result = unsafe { (self.verbs.modify_qp)(qp, &raw mut attributes, mask) };
        let state = attributes.qp_state;
        checked(result, &format!("take a queue pair to state {state}"))
    }

    fn to_init(&self, qp: *mut ibv_qp, service: Service) -> Result<()> {
        let attributes = ibv_qp_attr {
            qp_state: qp_state::INIT,
            port_num: PORT,
            qkey: QKEY,
            qp_access_flags: access::LOCAL_WRITE | REMOTE_ACCESS,
            ..ibv_qp_attr::default()
        };
        let last = match service {
            Service::Ud => qp_mask::QKEY,
            Service::Rc | Service::Uc => qp_mask::ACCESS_FLAGS,
        };
        self.modify(
            qp,
            attributes,
            qp_mask::STATE | qp_mask::PKEY_INDEX | qp_mask::PORT | last,
        )
    }

    fn route(&self, connection: &Connection, peer: &Identity) -> ibv_ah_attr {
        let ([gid, _], [index, _]) = match connection.family {
            Family::V4 => (peer.gids, self.gid_indexes),
            Family::V6 => {
                let ([v4, v6], [four, six]) = (peer.gids, self.gid_indexes);
                ([v6, v4], [six, four])
            }
        };
        ibv_ah_attr {
            grh: ibv_global_route {
                dgid: ibv_gid { raw: gid },
                sgid_index: index,
                hop_limit: 64,
                ..ibv_global_route::default()
            },
            is_global: 1,
            port_num: PORT,
            ..ibv_ah_attr::default()
        }
    }

    /// To RTR and RTS.
    fn connect_one(
        &self,
        connection: &Connection,
        (near, far): (&QueuePair, &QpEnd),
        route: ibv_ah_attr,
    ) -> Result<()> {
        let attributes = ibv_qp_attr {
            qp_state: qp_state::RTR,
            path_mtu: connection.mtu.trailing_zeros().saturating_sub(7),
            rq_psn: far.psn,
            dest_qp_num: far.qpn,
            ah_attr: route,
            max_dest_rd_atomic: READS,
            min_rnr_timer: RNR_TIMER,
            ..ibv_qp_attr::default()
        };
        let connected = qp_mask::AV | qp_mask::PATH_MTU | qp_mask::DEST_QPN | qp_mask::RQ_PSN;
        let reliable = qp_mask::MAX_DEST_RD_ATOMIC | qp_mask::MIN_RNR_TIMER;
        let (to_rtr, to_rts) = match connection.service {
            Service::Rc => (
                connected | reliable,
                qp_mask::TIMEOUT
                    | qp_mask::RETRY_CNT
                    | qp_mask::RNR_RETRY
                    | qp_mask::MAX_QP_RD_ATOMIC,
            ),
            Service::Uc => (connected, 0),
            Service::Ud => (0, 0),
        };
        self.modify(near.qp, attributes, qp_mask::STATE | to_rtr)?;
        let attributes = ibv_qp_attr {
            qp_state: qp_state::RTS,
            sq_psn: near.end.psn,
            max_rd_atomic: READS,
            timeout: timeout(connection),
            retry_cnt: 7,
            rnr_retry: 7,
            ..ibv_qp_attr::default()
        };
        self.modify(
            near.qp,
            attributes,
            qp_mask::STATE | qp_mask::SQ_PSN | to_rts,
        )
    }

    /// Posts an atomic write, for which there is only the extended interface.
    fn post_atomic_write(
        &self,
        qp: *mut ibv_qp,
        id: u64,
        remote: Remote,
        value: u64,
    ) -> Result<()> {
        // SAFETY: The queue pair was made with the extended interface.
        let qp = unsafe { (self.verbs.qp_to_qp_ex)(qp) };
        // SAFETY: As above.
        let functions = unsafe { ((*qp).wr_start, (*qp).wr_atomic_write, (*qp).wr_complete) };
        let (Some(start), Some(atomic_write), Some(complete)) = functions else {
            bail!("the library cannot post an atomic write");
        };
        // SAFETY: As above; between start and complete nothing else uses the queue pair, and the
        // value is copied by the call that names it.
        let result = unsafe {
            start(qp);
            (*qp).wr_id = id;
            (*qp).wr_flags = send_flag::SIGNALED;
            let value = (&raw const value).cast();
            atomic_write(qp, remote.rkey, remote.address, value);
            complete(qp)
        };
        checked(result, "post an atomic write")
    }

    fn sge(&self, place: Place) -> ibv_sge {
        ibv_sge {
            address: self.memory.start() as u64 + place.offset as u64,
            length: place.length,
            // SAFETY: The region exists as long as this value.
            lkey: unsafe { (*self.mr).lkey },
        }
    }

    fn poll(&self, queue: Queue) -> Result<Option<Completion>> {
        let cq = match queue {
            Queue::Send => self.send_cq,
            Queue::Receive => self.receive_cq,
        };
        let mut wc = ibv_wc::default();
        // SAFETY: The context and the queue exist, and there is room for one completion.
        let count = unsafe {
            let poll = (*self.context).ops.poll_cq;
            poll.context("no function to poll")?(cq, 1, &raw mut wc)
        };
        ensure!(count >= 0, "cannot poll a completion queue");
        if count == 0 {
            return Ok(None);
        }
        if wc.status != 0 {
            // SAFETY: The library knows a name for every status, and for every other number.
            let name = unsafe { CStr::from_ptr((self.verbs.wc_status_str)(wc.status)) };
            bail!("a work request failed, {}: {wc:?}", name.to_string_lossy());
        }
        let immediate = wc.wc_flags & wc_flag::WITH_IMM != 0;
        Ok(Some(Completion {
            id: wc.wr_id,
            length: wc.byte_len,
            immediate: immediate.then(|| u32::from_be(wc.imm_data)),
            invalidated: (wc.wc_flags & WITH_INV != 0).then_some(wc.imm_data),
            written: wc.opcode == wc_opcode::RECV_RDMA_WITH_IMM,
        }))
    }
}

fn open_device(verbs: &Verbs, name: &str) -> Result<*mut ibv_context> {
    let mut count = 0;
    // SAFETY: The list holds `count` devices and is given back below.
    let list = object(
        unsafe { (verbs.get_device_list)(&raw mut count) },
        "the list of devices",
    )?;
    let mut found = Err(anyhow!("there is no RDMA device {name}"));
    for index in 0..usize::try_from(count).unwrap_or_default() {
        // SAFETY: The list is that long, and its entries are devices with names.
        let device = unsafe { *list.add(index) };
        // SAFETY: As above.
        let its_name = unsafe { CStr::from_ptr((verbs.get_device_name)(device)) };
        if its_name.to_bytes() == name.as_bytes() {
            // SAFETY: An open device outlives the list.
            found = object(unsafe { (verbs.open_device)(device) }, "the device");
        }
    }
    // SAFETY: It came from the library, and nothing of it is used any more.
    unsafe { (verbs.free_device_list)(list) };
    found
}

fn gid_index(verbs: &Verbs, context: *mut ibv_context, gid: &[u8; 16]) -> Result<u8> {
    for index in 0..GID_ENTRIES {
        let mut entry = ibv_gid::default();
        // SAFETY: The context is open, and there is room for a GID.
        let result = unsafe { (verbs.query_gid)(context, PORT, index, &raw mut entry) };
        if result == 0 && entry.raw == *gid {
            return Ok(u8::try_from(index)?);
        }
    }
    bail!("the GID table lacks {gid:02x?}")
}

/// Opcode, immediate data and operands of a work request.
fn encode(verb: Verb, destination: Option<Destination>) -> Result<(u32, u32, ibv_wr_operands)> {
    let rdma = |to: Remote| ibv_wr_operands {
        rdma: ibv_rdma_wr {
            remote_addr: to.address,
            rkey: to.rkey,
        },
    };
    let atomic = |remote: Remote, compare_add, swap| ibv_wr_operands {
        atomic: ibv_atomic_wr {
            remote_addr: remote.address,
            compare_add,
            swap,
            rkey: remote.rkey,
        },
    };
    let way = destination.map_or(NO_OPERANDS, |Destination { ah, qpn }| ibv_wr_operands {
        ud: ibv_ud_wr {
            ah,
            remote_qpn: qpn,
            remote_qkey: QKEY,
        },
    });
    Ok(match verb {
        Verb::Send => (wr_opcode::SEND, 0, way),
        Verb::SendImmediate(immediate) => (wr_opcode::SEND_WITH_IMM, immediate.to_be(), way),
        Verb::SendInvalidate(key) => (wr_opcode::SEND_WITH_INV, key, way),
        Verb::Write(to) => (wr_opcode::RDMA_WRITE, 0, rdma(to)),
        Verb::WriteImmediate(to, immediate) => {
            (wr_opcode::RDMA_WRITE_WITH_IMM, immediate.to_be(), rdma(to))
        }
        Verb::Read(from) => (wr_opcode::RDMA_READ, 0, rdma(from)),
        Verb::CompareSwap {
            remote,
            compare,
            swap,
        } => {
            let operands = atomic(remote, compare, swap);
            (wr_opcode::ATOMIC_CMP_AND_SWP, 0, operands)
        }
        Verb::FetchAdd { remote, add } => {
            let operands = atomic(remote, add, 0);
            (wr_opcode::ATOMIC_FETCH_AND_ADD, 0, operands)
        }
        other => bail!("{other:?} is not a part of this test"),
    })
}

/// What a request has that needs no operands.
const NO_OPERANDS: ibv_wr_operands = ibv_wr_operands {
    atomic: ibv_atomic_wr {
        remote_addr: 0,
        compare_add: 0,
        swap: 0,
        rkey: 0,
    },
};

/// A signaled send request without contents.
fn empty_request() -> ibv_send_wr {
    ibv_send_wr {
        wr_id: 0,
        next: ptr::null_mut(),
        sg_list: ptr::null_mut(),
        num_sge: 0,
        opcode: wr_opcode::SEND,
        send_flags: send_flag::SIGNALED,
        imm_data: 0,
        wr: NO_OPERANDS,
        remote_srqn: 0,
        bind_mw: ibv_bind_mw_wr {
            mw: ptr::null_mut(),
            rkey: 0,
            bind_info: ibv_mw_bind_info {
                mr: ptr::null_mut(),
                addr: 0,
                length: 0,
                mw_access_flags: 0,
            },
        },
    }
}

/// Posts a send request to a queue pair that exists, about memory that is registered.
fn post(qp: *mut ibv_qp, mut request: ibv_send_wr) -> Result<()> {
    let mut bad = ptr::null_mut();
    // SAFETY: The queue pair and its context exist, and the library copies the request and its list.
    let result = unsafe {
        let post = (*(*qp).context).ops.post_send;
        post.context("no function to post")?(qp, &raw mut request, &raw mut bad)
    };
    checked(result, "post a send request")
}

impl Rnic for Rxe {
    fn identity(&self) -> Identity {
        Identity {
            // SAFETY: The region exists as long as this value.
            rkey: unsafe { (*self.mr).rkey },
            address: self.memory.start() as u64,
            gids: setup::OWN_GIDS,
            mac: self.mac,
        }
    }

    fn create(&mut self, connection: &Connection) -> Result<Vec<QpEnd>> {
        for _ in 0..connection.qps {
            let qp = self.create_qp(connection.service)?;
            self.to_init(qp.qp, connection.service)?;
            self.qps.push(qp);
        }
        Ok(self.qps.iter().map(|qp| qp.end).collect())
    }

    fn connect(&mut self, connection: &Connection, peer: &Identity, ends: &[QpEnd]) -> Result<()> {
        ensure!(ends.len() == self.qps.len(), "queue pairs without partner");
        let mut route = self.route(connection, peer);
        for (near, far) in self.qps.iter().zip(ends) {
            self.connect_one(connection, (near, far), route)?;
        }
        if connection.service == Service::Ud {
            for (near, far) in self.qps.iter_mut().zip(ends) {
                // SAFETY: The protection domain exists.
                let ah = unsafe { (self.verbs.create_ah)(self.pd, &raw mut route) };
                let ah = object(ah, "an address handle")?;
                near.destination = Some(Destination { ah, qpn: far.qpn });
            }
        }
        Ok(())
    }

    fn destroy(&mut self) -> Result<()> {
        for qp in self.qps.drain(..) {
            // SAFETY: The queue pair exists, and nothing names it any more.
            let result = unsafe { (self.verbs.destroy_qp)(qp.qp) };
            checked(result, "destroy a queue pair")?;
            if let Some(destination) = qp.destination {
                // SAFETY: The same for the address handle.
                let result = unsafe { (self.verbs.destroy_ah)(destination.ah) };
                checked(result, "destroy an address handle")?;
            }
        }
        Ok(())
    }

    fn post_send(&mut self, qp: usize, request: &Request) -> Result<()> {
        let qp = self.qps.get(qp).context("no such queue pair")?;
        if let Verb::AtomicWrite { remote, value } = request.operation {
            return self.post_atomic_write(qp.qp, request.id, remote, value);
        }
        let (opcode, imm_data, wr) = encode(request.operation, qp.destination)?;
        let mut sge = self.sge(request.place);
        let request = ibv_send_wr {
            wr_id: request.id,
            sg_list: &raw mut sge,
            num_sge: 1,
            opcode,
            imm_data,
            wr,
            ..empty_request()
        };
        post(qp.qp, request)
    }

    fn bind(&mut self, qp: usize, place: Place) -> Result<u32> {
        // SAFETY: The context and the protection domain exist.
        let window = unsafe {
            let allocate = (*self.context).ops.alloc_mw;
            allocate.context("no function for windows")?(self.pd, MW_TYPE_2)
        };
        let window = object(window, "a memory window")?;
        self.windows.push(window);
        // SAFETY: The window was just made.
        let old = unsafe { (*window).rkey };
        // The lowest 8 bits are the consumer's to change.
        let rkey = old & !0xff | old.wrapping_add(1) & 0xff;
        let request = ibv_send_wr {
            opcode: wr_opcode::BIND_MW,
            bind_mw: ibv_bind_mw_wr {
                mw: window,
                rkey,
                bind_info: ibv_mw_bind_info {
                    mr: self.mr,
                    addr: self.memory.start() as u64 + place.offset as u64,
                    length: place.length.into(),
                    mw_access_flags: REMOTE_ACCESS,
                },
            },
            ..empty_request()
        };
        post(self.qps.get(qp).context("no such queue pair")?.qp, request)?;
        let completion = self.wait(Queue::Send, Instant::now() + PATIENCE)?;
        completion.context("a memory window was not bound")?;
        Ok(rkey)
    }

    fn free_windows(&mut self) -> Result<()> {
        for window in self.windows.drain(..) {
            // SAFETY: The window exists, and nothing names it any more.
            let result = unsafe {
                let free = (*self.context).ops.dealloc_mw;
                free.context("no function for windows")?(window)
            };
            checked(result, "free a memory window")?;
        }
        Ok(())
    }

    fn post_receive(&mut self, qp: usize, id: u64, place: Place) -> Result<()> {
        let qp = self.qps.get(qp).context("no such queue pair")?;
        let mut sge = self.sge(place);
        let mut request = ibv_recv_wr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: &raw mut sge,
            num_sge: 1,
        };
        let mut bad = ptr::null_mut();
        // SAFETY: As for send requests.
        let result = unsafe {
            let post = (*(*qp.qp).context).ops.post_recv;
            post.context("no function to post")?(qp.qp, &raw mut request, &raw mut bad)
        };
        checked(result, "post a receive request")
    }

    fn wait(&mut self, queue: Queue, deadline: Instant) -> Result<Option<Completion>> {
        loop {
            // The time first, so that the queue is looked at once more when it is up.
            let over = Instant::now() >= deadline;
            match self.poll(queue)? {
                None if !over => std::thread::yield_now(),
                found => return Ok(found),
            }
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.memory.write(offset, bytes);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.memory.read(offset, bytes);
    }
}
