//! Queue pairs.
//!
//! Creation, the state machine (InfiniBand Architecture volume 1, 10.3.1) and destruction are
//! commands, in sleepable context. Posting writes a descriptor into the ring and rings the
//! doorbell, in atomic context, without locks or allocation.
//!
//! Counters of the send queue count basic blocks, those of the receive queue entries. They start
//! at 0 when the queue pair is created and again when it is reset.

use alloc::sync::Arc;

use vrnic_abi::admin::{AccessFlags, AdminOpcode, CreateQp, ModifyQp, QpFlags, QpType};
use vrnic_abi::doorbell;
use vrnic_abi::object::{AddressVector, PathMtu, QpAttributes, QpMask, QpState};
use vrnic_abi::wqe::{BASIC_BLOCK, END_OF_LIST, MAX_BLOCKS, SEGMENT};

use crate::cq::CompletionQueue;
use crate::device::Driver;
use crate::doorbell::{Doorbell, is_page};
use crate::error::{Error, PostError};
use crate::event::contiguous;
use crate::memory::{Handle, ProtectionDomain, RegionMemory};
use crate::platform::{DmaBuffer, Platform};
use crate::ring::RingSize;
use crate::tables::{CqTable, QpTables};
use crate::work::{Descriptor, DescriptorLimits, ReceiveRequest, SendRequest, Sge, data_segment};

/// How to create a queue pair.
#[derive(Clone, Copy, Debug)]
pub struct QpConfig {
    /// Transport service.
    pub qp_type: QpType,
    /// Send work requests of the largest kind in flight.
    pub send_requests: u32,
    /// Receive work requests in flight.
    pub receive_requests: u32,
    /// Data segments of a send work request, at most 28.
    pub send_segments: u32,
    /// Data segments of a receive work request, at most 16.
    pub receive_segments: u32,
    /// Bytes of inline data, at most 448.
    pub inline: u32,
    /// Every send work request completes with an entry.
    pub signal_all: bool,
    /// The reserved local key is allowed.
    pub privileged: bool,
    /// Doorbell page.
    pub doorbell_page: u32,
}

impl Default for QpConfig {
    fn default() -> Self {
        Self {
            qp_type: QpType::Rc,
            send_requests: 64,
            receive_requests: 64,
            send_segments: 2,
            receive_segments: 2,
            inline: 32,
            signal_all: false,
            privileged: false,
            doorbell_page: doorbell::KERNEL_PAGE,
        }
    }
}

/// Sizes of both rings.
#[derive(Clone, Copy, Debug)]
struct Shape {
    send: RingSize,
    receive: RingSize,
    /// Data segments of a receive entry, as a power of two.
    log_receive_segments: u8,
    /// Offset of the send queue in the buffer, in bytes.
    send_offset: usize,
}

impl Shape {
    fn new(config: &QpConfig) -> Option<Self> {
        let overhead = match config.qp_type {
            QpType::Ud | QpType::Gsi => 4 * SEGMENT as u32,
            _ => 2 * SEGMENT as u32,
        };
        let data = config.send_segments.checked_mul(SEGMENT as u32)?;
        let data = data.max(config.inline).checked_add(overhead)?;
        // An atomic operation takes four segments.
        let blocks = data.div_ceil(BASIC_BLOCK as u32);
        if blocks > MAX_BLOCKS as u32 || config.receive_segments > 16 {
            return None;
        }
        let send = RingSize::at_least(config.send_requests.checked_mul(blocks)?)?;
        let receive = RingSize::at_least(config.receive_requests)?;
        let segments = RingSize::at_least(config.receive_segments)?;
        let stride = SEGMENT << segments.log();
        let bytes = (receive.entries() as usize).checked_mul(stride)?;
        Some(Self {
            send,
            receive,
            log_receive_segments: segments.log(),
            send_offset: bytes.checked_next_multiple_of(BASIC_BLOCK)?,
        })
    }

    fn length(&self) -> Option<usize> {
        let send = (self.send.entries() as usize).checked_mul(BASIC_BLOCK)?;
        self.send_offset.checked_add(send)
    }
}

/// How to connect a reliable or unreliable connected queue pair.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The peer's queue pair number.
    pub remote_qpn: u32,
    /// Where the peer is; `mac`, `gid` and `sgid_index` are what matters.
    pub path: AddressVector,
    /// Path MTU.
    pub mtu: PathMtu,
    /// Sequence number of the first request to send, 24 bits.
    pub send_psn: u32,
    /// Sequence number of the first request expected, 24 bits.
    pub receive_psn: u32,
    /// READ and atomic operations answered at a time.
    pub responder_resources: u8,
    /// READ and atomic operations in flight.
    pub initiator_depth: u8,
    /// RNR NAK timer code to send, 0 to 31.
    pub min_rnr_timer: u8,
    /// Local ack timeout: 4.096 µs times 2 to this power.
    pub timeout: u8,
    /// Retries after timeouts, 0 to 7.
    pub retry_count: u8,
    /// Retries after RNR NAKs, 0 to 7; 7 is without limit.
    pub rnr_retry: u8,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            remote_qpn: 0,
            path: AddressVector::default(),
            mtu: PathMtu::Mtu1024,
            send_psn: 0,
            receive_psn: 0,
            responder_resources: 4,
            initiator_depth: 4,
            min_rnr_timer: 12,
            timeout: 17,
            retry_count: 7,
            rnr_retry: 7,
        }
    }
}

/// A queue pair. Posting to its two queues and commands are each used by one context at a time.
pub struct QueuePair<P: Platform> {
    handle: Handle<P>,
    buffer: Arc<P::Dma>,
    send_cq: Arc<CqTable<P>>,
    receive_cq: Arc<CqTable<P>>,
    sizes: (RingSize, RingSize),
    send: SendQueue<P>,
    receive: ReceiveQueue<P>,
}

/// The send queue of a queue pair.
pub struct SendQueue<P: Platform> {
    queue: Queue<P>,
    /// Offset in the buffer.
    base: usize,
    limits: DescriptorLimits,
}

/// The receive queue of a queue pair.
pub struct ReceiveQueue<P: Platform> {
    queue: Queue<P>,
    /// Data segments of an entry.
    segments: usize,
}

/// What both queues have.
struct Queue<P: Platform> {
    handle: Handle<P>,
    buffer: Arc<P::Dma>,
    tables: Arc<QpTables>,
    doorbell: Doorbell,
    head: u32,
}

impl<P: Platform> Queue<P> {
    #[inline]
    fn check(&self) -> Result<(), PostError> {
        self.handle.check().map_err(|_| PostError::Stale)
    }

    fn restart(&mut self, tables: &Arc<QpTables>) {
        self.tables = Arc::clone(tables);
        self.head = 0;
    }
}

impl<P: Platform> SendQueue<P> {
    /// Posts a work request and tells the device. Atomic context.
    #[inline]
    pub fn post(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        self.queue.check()?;
        self.write(request)?;
        self.ring();
        Ok(())
    }

    /// Posts work requests and tells the device once. Returns how many were posted, and why the
    /// next one was not. Atomic context.
    pub fn post_list(&mut self, requests: &[SendRequest<'_>]) -> (usize, Result<(), PostError>) {
        if let Err(error) = self.queue.check() {
            return (0, Err(error));
        }
        let mut posted = 0;
        let mut result = Ok(());
        for request in requests {
            result = self.write(request);
            if result.is_err() {
                break;
            }
            posted += 1;
        }
        if posted > 0 {
            self.ring();
        }
        (posted, result)
    }

    /// Basic blocks of 64 bytes that are free.
    #[must_use]
    pub fn free_blocks(&self) -> u32 {
        self.queue.tables.send.free()
    }

    #[inline]
    fn write(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        let head = self.queue.head;
        let descriptor = Descriptor::new(request, self.limits)?;
        let blocks = descriptor.blocks();
        let table = &self.queue.tables.send;
        if blocks > table.free() {
            return Err(PostError::QueueFull);
        }
        let end = table.size().entries() as usize * BASIC_BLOCK;
        let mut offset = table.size().position(head) * BASIC_BLOCK;
        descriptor.emit(request, head, |[first, second]| {
            self.queue.buffer.store(self.base + offset, first);
            self.queue.buffer.store(self.base + offset + 8, second);
            offset += SEGMENT;
            if offset == end {
                offset = 0;
            }
        });
        table.push(head, blocks, request.operation.opcode(), request.wr_id);
        self.queue.head = head.wrapping_add(blocks);
        Ok(())
    }

    #[inline]
    fn ring(&self) {
        let queue = &self.queue;
        let value = doorbell::send_queue(queue.head, queue.handle.number);
        queue.doorbell.ring(&queue.handle.shared.platform, value);
    }
}

impl<P: Platform> ReceiveQueue<P> {
    /// Posts a receive work request. Atomic context.
    #[inline]
    pub fn post(&mut self, request: &ReceiveRequest<'_>) -> Result<(), PostError> {
        self.queue.check()?;
        if request.sges.len() > self.segments {
            return Err(PostError::TooLarge);
        }
        let head = self.queue.head;
        let table = &self.queue.tables.receive;
        if table.is_full() {
            return Err(PostError::QueueFull);
        }
        let base = table.size().position(head) * self.segments * SEGMENT;
        for (index, sge) in request.sges.iter().enumerate() {
            self.store(base + index * SEGMENT, sge);
        }
        if request.sges.len() < self.segments {
            let end = Sge {
                address: 0,
                length: 0,
                lkey: END_OF_LIST,
            };
            self.store(base + request.sges.len() * SEGMENT, &end);
        }
        table.push(head, request.wr_id);
        self.queue.head = head.wrapping_add(1);
        let value = doorbell::receive_queue(self.queue.head);
        let platform = &self.queue.handle.shared.platform;
        self.queue.doorbell.publish(platform, value);
        self.queue.tables.announce_receive(platform);
        Ok(())
    }

    #[inline]
    fn store(&self, offset: usize, sge: &Sge) {
        let [first, second] = data_segment(sge);
        self.queue.buffer.store(offset, first);
        self.queue.buffer.store(offset + 8, second);
    }
}

impl<P: Platform> QueuePair<P> {
    /// Number of the queue pair.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.handle.number
    }

    /// Both queues, for posting from two contexts.
    pub fn queues(&mut self) -> (&mut SendQueue<P>, &mut ReceiveQueue<P>) {
        (&mut self.send, &mut self.receive)
    }

    /// Posts a send work request and tells the device. Atomic context.
    #[inline]
    pub fn post_send(&mut self, request: &SendRequest<'_>) -> Result<(), PostError> {
        self.send.post(request)
    }

    /// Posts a receive work request. Atomic context.
    #[inline]
    pub fn post_receive(&mut self, request: &ReceiveRequest<'_>) -> Result<(), PostError> {
        self.receive.post(request)
    }

    /// Changes attributes and state. A queue pair that goes to RESET loses its work requests, and
    /// the completions that were not polled yet. Sleepable context.
    pub fn modify(&mut self, attributes: &QpAttributes, mask: QpMask) -> Result<(), Error> {
        self.handle.check()?;
        let shared = &self.handle.shared;
        let memory = Arc::new(shared.platform.allocate_dma(QpAttributes::SIZE)?);
        memory.write(0, bytemuck::bytes_of(attributes));
        let body = ModifyQp {
            qp: self.number(),
            mask: mask.bits(),
            attributes: memory.device_address(),
            ..ModifyQp::default()
        };
        let generation = self.handle.generation;
        shared.execute(generation, AdminOpcode::ModifyQp, &body, Some(memory))?;
        match QpState::from_raw(attributes.state) {
            Some(QpState::Reset) if mask.contains(QpMask::STATE) => self.restart(),
            Some(QpState::Error) if mask.contains(QpMask::STATE) => {
                let platform = &self.handle.shared.platform;
                self.send.queue.tables.set_failed(platform);
            }
            _ => {}
        }
        Ok(())
    }

    /// Changes the state only.
    pub fn modify_state(&mut self, state: QpState) -> Result<(), Error> {
        let attributes = QpAttributes {
            state: state.raw(),
            ..QpAttributes::default()
        };
        self.modify(&attributes, QpMask::STATE)
    }

    /// RESET to INIT of a connected queue pair; `access` is what the peer may do.
    pub fn to_init(&mut self, access: AccessFlags) -> Result<(), Error> {
        let attributes = QpAttributes {
            state: QpState::Init.raw(),
            port: 1,
            access: access.bits(),
            ..QpAttributes::default()
        };
        let mask = QpMask::STATE | QpMask::PORT | QpMask::PKEY_INDEX | QpMask::ACCESS;
        self.modify(&attributes, mask)
    }

    /// INIT to RTR of a reliable connected queue pair.
    pub fn to_rtr(&mut self, connection: &Connection) -> Result<(), Error> {
        let attributes = QpAttributes {
            state: QpState::Rtr.raw(),
            path_mtu: connection.mtu.raw(),
            remote_qpn: connection.remote_qpn,
            receive_psn: connection.receive_psn,
            responder_resources: connection.responder_resources,
            min_rnr_timer: connection.min_rnr_timer,
            primary: connection.path,
            ..QpAttributes::default()
        };
        let mask = QpMask::STATE
            | QpMask::PRIMARY_PATH
            | QpMask::PATH_MTU
            | QpMask::REMOTE_QPN
            | QpMask::RECEIVE_PSN
            | QpMask::RESPONDER_RESOURCES
            | QpMask::MIN_RNR_TIMER;
        self.modify(&attributes, mask)
    }

    /// RTR to RTS of a reliable connected queue pair.
    pub fn to_rts(&mut self, connection: &Connection) -> Result<(), Error> {
        let attributes = QpAttributes {
            state: QpState::Rts.raw(),
            send_psn: connection.send_psn,
            initiator_depth: connection.initiator_depth,
            timeout: connection.timeout,
            retry_count: connection.retry_count,
            rnr_retry: connection.rnr_retry,
            ..QpAttributes::default()
        };
        let mask = QpMask::STATE
            | QpMask::SEND_PSN
            | QpMask::INITIATOR_DEPTH
            | QpMask::TIMEOUT
            | QpMask::RETRY_COUNT
            | QpMask::RNR_RETRY;
        self.modify(&attributes, mask)
    }

    /// Attributes and state as the device has them. Sleepable context.
    pub fn query(&self) -> Result<QpAttributes, Error> {
        self.handle.check()?;
        let shared = &self.handle.shared;
        shared.query_object(self.handle.generation, AdminOpcode::QueryQp, self.number())
    }

    /// Destroys the queue pair; its completions that were not polled yet are dropped. Sleepable
    /// context.
    pub fn destroy(&mut self) -> Result<(), Error> {
        // In RESET the device writes no more completions, and the number is still ours: only now
        // can old completions be told from those of a later queue pair of the same number.
        if self.handle.check().is_ok() {
            self.modify_state(QpState::Reset)?;
            self.detach();
        }
        self.handle.destroy(AdminOpcode::DestroyQp)?;
        for queue in [&mut self.send.queue, &mut self.receive.queue] {
            queue.handle.generation = self.handle.generation;
        }
        Ok(())
    }

    fn detach(&self) {
        for cq in [&self.send_cq, &self.receive_cq] {
            cq.detach(self.number());
        }
        self.handle.shared.qps.remove(self.number());
    }

    fn attach(&self, tables: &Arc<QpTables>) {
        for cq in [&self.send_cq, &self.receive_cq] {
            cq.attach(tables);
        }
        self.handle
            .shared
            .qps
            .insert(tables.qpn, Arc::clone(tables));
    }

    /// Forgets all work requests, as the device did.
    fn restart(&mut self) {
        self.detach();
        let doorbell = self.receive.queue.doorbell;
        let tables = Arc::new(QpTables::new(self.number(), self.sizes, doorbell));
        self.attach(&tables);
        self.send.queue.restart(&tables);
        self.receive.queue.restart(&tables);
        let platform = &self.handle.shared.platform;
        let value = doorbell::send_queue(0, self.number());
        self.send.queue.doorbell.publish(platform, value);
        let value = doorbell::receive_queue(0);
        self.receive.queue.doorbell.publish(platform, value);
    }
}

impl<P: Platform> Drop for QueuePair<P> {
    fn drop(&mut self) {
        let memory = RegionMemory::Dma(Arc::clone(&self.buffer));
        self.handle
            .shared
            .quarantine(self.handle.generation, memory);
    }
}

impl<P: Platform> Driver<P> {
    /// Creates a queue pair in state RESET.
    pub fn create_qp(
        &self,
        pd: &ProtectionDomain<P>,
        send_cq: &CompletionQueue<P>,
        receive_cq: &CompletionQueue<P>,
        config: QpConfig,
    ) -> Result<QueuePair<P>, Error> {
        for handle in [&pd.handle, &send_cq.handle, &receive_cq.handle] {
            handle.check()?;
        }
        let shape = self.shape(&config)?;
        let length = shape
            .length()
            .ok_or(Error::BadArgument("size of the queues"))?;
        let buffer = self.allocate(length)?;
        let mut flags = QpFlags::empty();
        flags.set(QpFlags::SIGNAL_ALL, config.signal_all);
        flags.set(QpFlags::PRIVILEGED, config.privileged);
        let body = CreateQp {
            pd: pd.number(),
            send_cq: send_cq.number(),
            receive_cq: receive_cq.number(),
            buffer: contiguous(&*buffer),
            doorbell_page: config.doorbell_page,
            qp_type: config.qp_type.raw(),
            log_send_blocks: shape.send.log(),
            log_receive_entries: shape.receive.log(),
            log_receive_segments: shape.log_receive_segments,
            flags: flags.bits(),
            ..CreateQp::default()
        };
        let keep = Some(Arc::clone(&buffer));
        let generation = pd.handle.generation;
        let memory = RegionMemory::Dma(Arc::clone(&buffer));
        let created = self
            .shared
            .execute(generation, AdminOpcode::CreateQp, &body, keep)
            .and_then(|answer| {
                let results = (answer.result0, answer.result1);
                let handle = |number| Handle::new(&self.shared, generation, number);
                let cqs = (&send_cq.table, &receive_cq.table);
                assemble(handle, results, &shape, &config, buffer, cqs)
            });
        self.shared
            .keep_unless_refused(generation, &memory, created)
    }

    fn shape(&self, config: &QpConfig) -> Result<Shape, Error> {
        if !is_page(config.doorbell_page) {
            return Err(Error::BadArgument("doorbell page"));
        }
        let limits = self.attributes();
        let shape = Shape::new(config).ok_or(Error::BadArgument("size of a work request"))?;
        if config.send_segments > limits.max_sge || config.inline > limits.max_inline {
            return Err(Error::BadArgument("size of a work request"));
        }
        if shape.send.log() > limits.log_max_send_blocks
            || shape.receive.log() > limits.log_max_receive_entries
        {
            return Err(Error::BadArgument("number of work requests"));
        }
        Ok(shape)
    }
}

/// Makes the queue pair from the device's answer; `handle` makes handles from its number.
fn assemble<P: Platform>(
    handle: impl Fn(u64) -> Result<Handle<P>, Error>,
    (number, slots): (u64, u64),
    shape: &Shape,
    config: &QpConfig,
    buffer: Arc<P::Dma>,
    (send_cq, receive_cq): (&Arc<CqTable<P>>, &Arc<CqTable<P>>),
) -> Result<QueuePair<P>, Error> {
    let own = handle(number)?;
    let doorbell = |slot: u64| Doorbell::new(config.doorbell_page, slot & 0xffff);
    let sizes = (shape.send, shape.receive);
    let tables = QpTables::new(own.number, sizes, doorbell(slots >> 16)?);
    let tables = Arc::new(tables);
    let queue = |slot: u64| -> Result<Queue<P>, Error> {
        Ok(Queue {
            handle: handle(number)?,
            buffer: Arc::clone(&buffer),
            tables: Arc::clone(&tables),
            doorbell: doorbell(slot)?,
            head: 0,
        })
    };
    let send = SendQueue {
        queue: queue(slots)?,
        base: shape.send_offset,
        limits: DescriptorLimits {
            segments: config.send_segments,
            inline: config.inline,
        },
    };
    let receive = ReceiveQueue {
        queue: queue(slots >> 16)?,
        segments: 1 << shape.log_receive_segments,
    };
    let qp = QueuePair {
        handle: own,
        buffer,
        send_cq: Arc::clone(send_cq),
        receive_cq: Arc::clone(receive_cq),
        sizes,
        send,
        receive,
    };
    qp.attach(&tables);
    Ok(qp)
}
