//! One function under the driver, with one queue pair and one memory region, ready to be connected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vrnic_driver::abi::admin::AccessFlags;
use vrnic_driver::abi::object::{AddressVector, PathMtu, PortState};
use vrnic_driver::memory::{MrConfig, RegionMemory};
use vrnic_driver::{
    CompletionQueue, Config, Connection, CqConfig, DmaBuffer as _, Driver, MemoryRegion,
    ProtectionDomain, QpConfig, QueuePair, Remote, Sge,
};
use vrnic_driver_vfio::{DmaMemory, HostPlatform, Options};

use crate::cores::{self, Pinned};
use crate::nic::{self, Nic};

/// Largest Ethernet payload: path MTU 4096 and its headers fit.
const ETHERNET_MTU: u32 = 9000;
/// Send work requests in flight that a queue pair is made for.
pub(crate) const DEPTH: usize = 256;
/// What memory holds that nobody wrote to.
pub(crate) const UNWRITTEN: u8 = 0xa5;
/// Bytes after the end of the memory that is written to, which must stay as they were.
const GUARD: usize = 4096;
/// Time for a link to come up.
const LINK: Duration = Duration::from_secs(10);

/// A function and what the measurements need of it.
pub(crate) struct Function {
    pub(crate) qp: QueuePair<HostPlatform>,
    pub(crate) cq: CompletionQueue<HostPlatform>,
    pub(crate) memory: Arc<DmaMemory>,
    length: usize,
    region: MemoryRegion<HostPlatform>,
    _pd: ProtectionDomain<HostPlatform>,
    pub(crate) driver: Driver<HostPlatform>,
}

impl Function {
    /// Brings the function up and creates its objects, with `length` bytes of memory.
    pub(crate) fn new(platform: HostPlatform, length: usize) -> Result<Self> {
        let driver = Driver::probe(platform, Config::default()).context("cannot bring it up")?;
        let pd = driver.create_pd()?;
        let cq = driver.create_cq(CqConfig {
            entries: 2 * DEPTH as u32,
            ..CqConfig::default()
        })?;
        let config = QpConfig {
            send_requests: DEPTH as u32,
            receive_requests: 4,
            send_segments: 1,
            receive_segments: 1,
            ..QpConfig::default()
        };
        let qp = driver.create_qp(&pd, &cq, &cq, config)?;
        let memory = driver.allocate(length + GUARD)?;
        memory.write(0, &vec![UNWRITTEN; length + GUARD]);
        let config = MrConfig {
            offset: 0,
            length: memory.len() as u64,
            start: memory.device_address(),
            access: AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_WRITE,
            variant: 1,
        };
        let region = RegionMemory::Dma(Arc::clone(&memory));
        let region = driver.create_mr(&pd, region, config)?;
        Ok(Self {
            qp,
            cq,
            memory,
            length,
            region,
            _pd: pd,
            driver,
        })
    }

    /// All of the memory, for a local request.
    pub(crate) fn local(&self) -> Sge {
        Sge {
            address: self.region.start(),
            length: self.length as u32,
            lkey: self.region.key(),
        }
    }

    /// The start of the memory, for the peer.
    pub(crate) fn remote(&self) -> Remote {
        Remote {
            address: self.region.start(),
            rkey: self.region.key(),
        }
    }

    /// Fails unless the memory holds `expected`, and nothing behind it was written.
    pub(crate) fn verify(&self, expected: &[u8]) -> Result<()> {
        let mut found = vec![0; self.memory.len()];
        self.memory.read(0, &mut found);
        let (data, guard) = found.split_at(self.length);
        let wrong = data.iter().zip(expected).position(|(a, b)| a != b);
        ensure!(
            data.len() == expected.len(),
            "the pattern has the wrong length"
        );
        if let Some(offset) = wrong {
            anyhow::bail!("the data that arrived is wrong from byte {offset} on");
        }
        ensure!(
            guard.iter().all(|byte| *byte == UNWRITTEN),
            "bytes behind the data were written"
        );
        Ok(())
    }

    fn path_to(&self, gid: [u8; 16]) -> Result<AddressVector> {
        Ok(AddressVector {
            gid,
            mac: self.driver.query_port()?.mac,
            ..AddressVector::default()
        })
    }

    fn wait_for_link(&self) -> Result<()> {
        let deadline = Instant::now() + LINK;
        while self.driver.query_port()?.state != PortState::Active.raw() {
            ensure!(Instant::now() < deadline, "the link does not come up");
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn connect(&mut self, remote_qpn: u32, path: AddressVector) -> Result<()> {
        let connection = Connection {
            remote_qpn,
            path,
            mtu: PathMtu::Mtu4096,
            send_psn: 0xff_fff0,
            receive_psn: 0xff_fff0,
            ..Connection::default()
        };
        self.qp.to_init(AccessFlags::REMOTE_WRITE)?;
        self.qp.to_rtr(&connection)?;
        self.qp.to_rts(&connection)?;
        Ok(())
    }
}

/// An address for function `number`: 10.0.0.1 and so on, as a GID.
fn gid(number: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, number]
}

/// Two connected functions and the processes that serve them.
pub(crate) struct Pair {
    pub(crate) a: Function,
    pub(crate) b: Function,
    nics: Vec<Nic>,
    /// Two cores: the first has the engine of `a`.
    pub(crate) cores: (usize, usize),
    client_core: Option<Pinned>,
}

impl Pair {
    /// Two functions of one process, with `length` bytes of memory each. The engine has a core and
    /// this thread, their client, another.
    pub(crate) fn local(length: usize) -> Result<Self> {
        let cores = cores::two()?;
        let mut nic = Nic::start(2, "none")?;
        let platforms = nic.open(Options::default())?;
        cores::pin_engines(nic.pid(), cores.0)?;
        let mut pair = Self::new(platforms, vec![nic], cores, length)?;
        pair.client_core = Some(Pinned::to(cores.1)?);
        Ok(pair)
    }

    /// Two processes joined by shared memory. Each engine has a core.
    pub(crate) fn wire(length: usize) -> Result<Self> {
        let cores = cores::two()?;
        let directory = tempfile::tempdir()?;
        let meeting = directory.path().join("wire");
        let meeting = meeting.display();
        let mut first = Nic::start(1, &format!("shm:listen={meeting}"))?;
        let mut platforms = first.open(Options::default())?;
        let mut second = Nic::start(1, &format!("shm:connect={meeting}"))?;
        platforms.extend(second.open(Options::default())?);
        cores::pin_engines(first.pid(), cores.0)?;
        cores::pin_engines(second.pid(), cores.1)?;
        let pair = Self::new(platforms, vec![first, second], cores, length)?;
        let up = pair.a.wait_for_link().and_then(|()| pair.b.wait_for_link());
        pair.explain(up)?;
        Ok(pair)
    }

    fn new(
        platforms: Vec<HostPlatform>,
        nics: Vec<Nic>,
        cores: (usize, usize),
        length: usize,
    ) -> Result<Self> {
        let functions = platforms
            .into_iter()
            .map(|platform| Function::new(platform, length));
        let functions: Result<Vec<_>> = functions.collect();
        let (a, b) = nic::explain(&nics, functions.and_then(connect_both))?;
        Ok(Self {
            a,
            b,
            nics,
            cores,
            client_core: None,
        })
    }

    /// Adds what the processes said to an error.
    pub(crate) fn explain<T>(&self, result: Result<T>) -> Result<T> {
        nic::explain(&self.nics, result)
    }
}

fn connect_both(functions: Vec<Function>) -> Result<(Function, Function)> {
    let [mut a, mut b]: [Function; 2] = functions.try_into().ok().context("not two functions")?;
    for (function, number) in [(&a, 1), (&b, 2)] {
        function.driver.set_mtu(ETHERNET_MTU)?;
        function.driver.set_gid(0, gid(number), 0)?;
    }
    let (to_a, to_b) = (a.path_to(gid(1))?, b.path_to(gid(2))?);
    let (qp_a, qp_b) = (a.qp.number(), b.qp.number());
    a.connect(qp_b, to_b).context("cannot connect")?;
    b.connect(qp_a, to_a).context("cannot connect")?;
    Ok((a, b))
}
