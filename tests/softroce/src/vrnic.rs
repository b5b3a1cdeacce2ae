//! A vrnic, driven by our driver on the socket of `vrnic serve`, without a virtual machine.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use vrnic_abi::admin::{AccessFlags, QpType, WindowType};
use vrnic_abi::cqe::{CompletionOpcode, CompletionStatus};
use vrnic_abi::object::{AddressVector, PathMtu};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    self as driver, AddressHandle, BindConfig, CompletionQueue, Config, CqConfig, Data, Datagram,
    DatagramPath, DmaBuffer, Driver, Health, MemoryRegion, MemoryWindow, MrConfig, Operation,
    ProtectionDomain, QpConfig, ReceiveRequest, RegionMemory, SendRequest, Sge, Target, Work,
};
use vrnic_driver_vfio::{DmaMemory, HostPlatform, Options};

use crate::rnic::{
    Completion, DEPTH, MAX_QPS, MEMORY, Place, QKEY, Queue, READS, RNR_TIMER, Request, Rnic,
    timeout,
};
use crate::step::{Connection, Family, Service, mix};
use crate::talk::{Identity, QpEnd};

/// Addresses of this end, as GIDs: 10.77.0.1 and fd77::1.
pub(crate) const GIDS: [[u8; 16]; 2] = [
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 1],
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
];
/// Where the region starts for the other end; not a DMA address, so that a confusion shows.
const START: u64 = 0x5a00_0000_0000;
/// Longest sleep without a look at the device's health.
const NAP: Duration = Duration::from_millis(100);

/// Time for what involves no other end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A queue pair, the first sequence number that it sends, and whom it sends to.
struct QueuePair {
    qp: driver::QueuePair<HostPlatform>,
    psn: u32,
    target: Target,
}

/// A function of a vrnic.
pub(crate) struct Vrnic {
    qps: Vec<QueuePair>,
    handles: Vec<AddressHandle<HostPlatform>>,
    windows: Vec<MemoryWindow<HostPlatform>>,
    region: MemoryRegion<HostPlatform>,
    memory: Arc<DmaMemory>,
    send_cq: CompletionQueue<HostPlatform>,
    receive_cq: CompletionQueue<HostPlatform>,
    pd: ProtectionDomain<HostPlatform>,
    driver: Driver<HostPlatform>,
    identity: Identity,
    /// Differs for each queue pair that was ever made.
    made: u64,
}

impl Vrnic {
    /// Brings the function up.
    pub(crate) fn open(socket: &Path) -> Result<Self> {
        let platform = HostPlatform::open_socket(socket, Options::default())?;
        let driver = Driver::probe(platform, Config::default())?;
        for (index, gid) in (0..).zip(GIDS) {
            driver.set_gid(index, gid, 0)?;
        }
        let pd = driver.create_pd()?;
        let memory = driver.allocate(MEMORY)?;
        let access = AccessFlags::LOCAL_WRITE | REMOTE_ACCESS | AccessFlags::WINDOW_BIND;
        let config = MrConfig {
            offset: 0,
            length: MEMORY as u64,
            start: START,
            access,
            variant: 0x5c,
        };
        let region = driver.create_mr(&pd, RegionMemory::Dma(Arc::clone(&memory)), config)?;
        let cq = || {
            driver.create_cq(CqConfig {
                entries: DEPTH * MAX_QPS,
                ..CqConfig::default()
            })
        };
        let (send_cq, receive_cq) = (cq()?, cq()?);
        let identity = Identity {
            mac: driver.query_port()?.mac,
            gids: GIDS,
            address: region.start(),
            rkey: region.key(),
        };
        Ok(Self {
            qps: Vec::new(),
            handles: Vec::new(),
            windows: Vec::new(),
            region,
            memory,
            send_cq,
            receive_cq,
            pd,
            driver,
            identity,
            made: 0,
        })
    }

    /// Destroys everything in order, so that the device can complain.
    pub(crate) fn close(mut self) -> Result<()> {
        self.destroy()?;
        self.send_cq.destroy()?;
        self.receive_cq.destroy()?;
        self.region.destroy()?;
        self.pd.destroy()?;
        Ok(self.driver.remove()?)
    }

    fn create_qp(&mut self, connection: &Connection) -> Result<QpEnd> {
        let config = QpConfig {
            qp_type: match connection.service {
                Service::Rc => QpType::Rc,
                Service::Uc => QpType::Uc,
                Service::Ud => QpType::Ud,
            },
            send_requests: DEPTH,
            receive_requests: DEPTH,
            send_segments: 1,
            receive_segments: 1,
            inline: 0,
            ..QpConfig::default()
        };
        let mut qp = self
            .driver
            .create_qp(&self.pd, &self.send_cq, &self.receive_cq, config)?;
        match connection.service {
            Service::Rc | Service::Uc => qp.to_init(REMOTE_ACCESS)?,
            Service::Ud => qp.to_init_datagram(QKEY)?,
        }
        self.made += 1;
        let psn = first_psn(self.made);
        let qpn = qp.number();
        self.qps.push(QueuePair {
            qp,
            psn,
            target: Target::Peer,
        });
        Ok(QpEnd { qpn, psn })
    }

    /// Where datagrams go: by an address handle, and in every other case as each request says.
    fn datagram(&mut self, path: AddressVector, end: &QpEnd) -> Result<Target> {
        let path = if end.qpn % 2 == 0 {
            let handle = self.driver.create_ah(&self.pd, path)?;
            let number = handle.number();
            self.handles.push(handle);
            DatagramPath::Handle(number)
        } else {
            DatagramPath::Vector(path)
        };
        Ok(Target::Datagram(Datagram {
            remote_qpn: end.qpn,
            qkey: QKEY,
            path,
        }))
    }

    /// One look, without waiting.
    fn poll(&mut self, queue: Queue) -> Result<Option<driver::Completion>> {
        let mut completions = [driver::Completion::default()];
        let cq = match queue {
            Queue::Send => &mut self.send_cq,
            Queue::Receive => &mut self.receive_cq,
        };
        let count = cq.poll(&mut completions)?;
        let [completion] = completions;
        Ok((count > 0).then_some(completion))
    }

    /// Waits for a completion, whatever it says.
    fn next(&mut self, queue: Queue, deadline: Instant) -> Result<Option<driver::Completion>> {
        loop {
            if let Some(completion) = self.poll(queue)? {
                return Ok(Some(completion));
            }
            let cq = match queue {
                Queue::Send => &mut self.send_cq,
                Queue::Receive => &mut self.receive_cq,
            };
            if cq.arm(false)? {
                continue;
            }
            let vector = cq.vector();
            let left = deadline.saturating_duration_since(Instant::now());
            self.driver
                .platform()
                .wait_interrupt(vector, left.min(NAP))?;
            self.driver.handle_interrupt(vector);
            self.check_health()?;
            if Instant::now() >= deadline {
                return self.poll(queue);
            }
        }
    }

    fn check_health(&self) -> Result<()> {
        while let Some(event) = self.driver.poll_event() {
            eprintln!("{event:?}");
        }
        match self.driver.health() {
            Health::Good(_) => Ok(()),
            Health::Failed(error) => Err(error.into()),
            Health::Gone => Err(anyhow!("the device is gone")),
        }
    }

    fn sge(&self, place: Place) -> Sge {
        Sge {
            address: self.region.start() + place.offset as u64,
            length: place.length,
            lkey: self.region.key(),
        }
    }
}

/// What the other end may do.
const REMOTE_ACCESS: AccessFlags = AccessFlags::REMOTE_READ
    .union(AccessFlags::REMOTE_WRITE)
    .union(AccessFlags::REMOTE_ATOMIC);

/// Sequence number of the first packet: of every other queue pair soon before the numbers wrap.
pub(crate) fn first_psn(number: u64) -> u32 {
    let random = mix(number, 0x24) as u32 & 0xff_ffff;
    if number % 2 == 0 {
        random
    } else {
        random | 0xff_fff0
    }
}

/// The way to the other end.
fn path(connection: &Connection, peer: &Identity) -> AddressVector {
    let [v4, v6] = peer.gids;
    let (gid, index) = match connection.family {
        Family::V4 => (v4, 0),
        Family::V6 => (v6, 1),
    };
    AddressVector {
        gid,
        mac: peer.mac,
        sgid_index: index,
        hop_limit: 64,
        ..AddressVector::default()
    }
}

/// What a completion of the driver's says in common terms.
fn translate(completion: &driver::Completion) -> Result<Completion> {
    ensure!(
        completion.status == CompletionStatus::Success,
        "a work request failed: {completion:?}"
    );
    let opcode = match completion.work {
        Work::Request(_) => None,
        Work::Receive(opcode) => Some(opcode),
    };
    let written = opcode == Some(CompletionOpcode::ReceiveWriteImmediate);
    let immediate = written || opcode == Some(CompletionOpcode::ReceiveImmediate);
    let invalidated = opcode == Some(CompletionOpcode::ReceiveInvalidate);
    Ok(Completion {
        id: completion.wr_id,
        length: completion.byte_length,
        immediate: immediate.then_some(completion.immediate),
        invalidated: invalidated.then_some(completion.immediate),
        written,
    })
}

impl Rnic for Vrnic {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn create(&mut self, connection: &Connection) -> Result<Vec<QpEnd>> {
        (0..connection.qps)
            .map(|_| self.create_qp(connection))
            .collect()
    }

    fn connect(&mut self, connection: &Connection, peer: &Identity, ends: &[QpEnd]) -> Result<()> {
        ensure!(ends.len() == self.qps.len(), "queue pairs without partner");
        let path = path(connection, peer);
        if connection.service == Service::Ud {
            for (index, end) in ends.iter().enumerate() {
                let target = self.datagram(path, end)?;
                let near = self.qps.get_mut(index).context("no such queue pair")?;
                near.target = target;
                near.qp.to_rtr_datagram()?;
                near.qp.to_rts_datagram(near.psn)?;
            }
            return Ok(());
        }
        let mut mtus = PathMtu::ALL.iter();
        let mtu = mtus.find(|mtu| mtu.bytes() == connection.mtu);
        let mtu = *mtu.context("no such path MTU")?;
        for (near, end) in self.qps.iter_mut().zip(ends) {
            let connection = driver::Connection {
                remote_qpn: end.qpn,
                path,
                mtu,
                send_psn: near.psn,
                receive_psn: end.psn,
                responder_resources: READS,
                initiator_depth: READS,
                min_rnr_timer: RNR_TIMER,
                timeout: timeout(connection),
                retry_count: 7,
                rnr_retry: 7,
            };
            near.qp.to_rtr(&connection)?;
            near.qp.to_rts(&connection)?;
        }
        Ok(())
    }

    fn destroy(&mut self) -> Result<()> {
        for mut near in self.qps.drain(..) {
            near.qp.destroy()?;
        }
        for mut handle in self.handles.drain(..) {
            handle.destroy()?;
        }
        Ok(())
    }

    fn post_send(&mut self, qp: usize, request: &Request) -> Result<()> {
        let sges = [self.sge(request.place)];
        let near = self.qps.get_mut(qp).context("no such queue pair")?;
        let no_data = matches!(request.operation, Operation::AtomicWrite { .. });
        let request = SendRequest {
            wr_id: request.id,
            operation: request.operation,
            target: near.target,
            data: Data::Sges(if no_data { &[] } else { &sges }),
            flags: WqeFlags::SIGNALED,
        };
        Ok(near.qp.post_send(&request)?)
    }

    fn post_receive(&mut self, qp: usize, id: u64, place: Place) -> Result<()> {
        let sges = [self.sge(place)];
        let request = ReceiveRequest {
            wr_id: id,
            sges: &sges,
        };
        let near = self.qps.get_mut(qp).context("no such queue pair")?;
        Ok(near.qp.post_receive(&request)?)
    }

    fn bind(&mut self, qp: usize, place: Place) -> Result<u32> {
        let mut window = self.driver.create_mw(&self.pd, WindowType::Type2, 0)?;
        let config = BindConfig {
            start: self.region.start() + place.offset as u64,
            length: place.length.into(),
            access: REMOTE_ACCESS,
            variant: 1,
        };
        let bind = window.bind(&self.region, config);
        let request = SendRequest {
            operation: Operation::BindWindow(bind),
            flags: WqeFlags::SIGNALED,
            ..SendRequest::default()
        };
        let near = self.qps.get_mut(qp).context("no such queue pair")?;
        near.qp.post_send(&request)?;
        let completion = self.next(Queue::Send, Instant::now() + PATIENCE)?;
        let completion = completion.context("a memory window was not bound")?;
        ensure!(window.completed(&completion), "{completion:?}");
        let key = window.key();
        self.windows.push(window);
        Ok(key)
    }

    fn free_windows(&mut self) -> Result<()> {
        for mut window in self.windows.drain(..) {
            window.destroy()?;
        }
        Ok(())
    }

    fn wait(&mut self, queue: Queue, deadline: Instant) -> Result<Option<Completion>> {
        let completion = self.next(queue, deadline)?;
        completion.as_ref().map(translate).transpose()
    }
    fn write(&self, offset: usize, bytes: &[u8]) {
        self.memory.write(offset, bytes);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.memory.read(offset, bytes);
    }
}
