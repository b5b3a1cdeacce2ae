//! A process without a virtual machine does RDMA through a function of its own.
//!
//! It attaches to a socket of `vrnic serve`, a virtual function's for example, brings the function up,
//! tells another such process by a UNIX stream socket what it must know, and connects a reliable
//! queue pair with it. The connecting side then WRITEs into the other's memory, READs it back, and
//! SENDs what it found; both compare every byte.
//!
//! ```sh
//! vrnic serve --vfs 2 --dir /tmp/nic                      # three terminals
//! cargo run --example host_process -- /tmp/nic/vf0.sock 10.77.0.1 listen /tmp/peer.sock
//! cargo run --example host_process -- /tmp/nic/vf1.sock 10.77.0.2 connect /tmp/peer.sock
//! ```
//!
//! All that a container needs is the socket's file; docs/virtual-functions.md has more.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use vrnic_abi::admin::AccessFlags;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::object::{AddressVector, PathMtu};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    CompletionQueue, Config, Connection, CqConfig, Data, DmaBuffer, Driver, MemoryRegion, MrConfig,
    Operation, QpConfig, QueuePair, ReceiveRequest, RegionMemory, Remote, SendRequest, Sge,
};
use vrnic_driver_vfio::{DmaMemory, HostPlatform, Options};

/// Bytes of a message.
const MESSAGE: usize = 1 << 20;
/// Bytes of memory: room for two messages.
const MEMORY: usize = 2 * MESSAGE;
/// Where the memory starts for work requests, here and at the peer.
const START: u64 = 0x1000_0000;
/// Sequence number of the first packet, both ways.
const PSN: u32 = 1;
/// Longest wait for the device or the peer.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    let [socket, address, role, channel] = words[..] else {
        bail!("arguments: FUNCTION.sock IP listen|connect CHANNEL");
    };
    let platform = HostPlatform::open_socket(Path::new(socket), Options::default())?;
    let driver = Driver::probe(platform, Config::default()).context("bringing the function up")?;
    driver.set_gid(0, gid(address.parse()?), 0)?;
    let mut channel = match role {
        "listen" => accept(channel)?,
        "connect" => UnixStream::connect(channel).context("the other side has to listen first")?,
        other => bail!("{other} is neither listen nor connect"),
    };
    channel.set_read_timeout(Some(PATIENCE))?;
    let mut endpoint = Endpoint::create(&driver)?;
    let remote = endpoint.connect(&driver, &mut channel)?;
    if role == "connect" {
        initiate(&mut endpoint, &driver, remote)
    } else {
        respond(&mut endpoint, &driver)
    }
}

/// Waits for the other side, and removes the file by which it came.
fn accept(channel: &str) -> anyhow::Result<UnixStream> {
    let listener = UnixListener::bind(channel).context("cannot listen on the channel")?;
    let stream = listener.accept()?.0;
    std::fs::remove_file(channel)?;
    Ok(stream)
}

/// WRITEs a pattern, READs it back and SENDs it.
fn initiate(
    endpoint: &mut Endpoint,
    driver: &Driver<HostPlatform>,
    remote: Remote,
) -> anyhow::Result<()> {
    endpoint.memory.write(0, &pattern());
    let start = Instant::now();
    endpoint.post(0, Operation::Write(remote))?;
    endpoint.wait(driver).context("WRITE")?;
    println!("WRITE of {MESSAGE} bytes took {:?}", start.elapsed());
    endpoint.post(MESSAGE, Operation::Read(remote))?;
    endpoint.wait(driver).context("READ")?;
    endpoint.compare(MESSAGE)?;
    endpoint.post(MESSAGE, Operation::Send)?;
    endpoint.wait(driver).context("SEND")?;
    println!("wrote, read back, and sent: all bytes are right");
    Ok(())
}

/// Waits for the message, and compares it and what was written.
fn respond(endpoint: &mut Endpoint, driver: &Driver<HostPlatform>) -> anyhow::Result<()> {
    endpoint.wait(driver).context("the message")?;
    endpoint.compare(0).context("what was written")?;
    endpoint.compare(MESSAGE).context("what was sent")?;
    println!("was written to, and received: all bytes are right");
    Ok(())
}

/// A queue pair with its completion queue and memory.
struct Endpoint {
    memory: Arc<DmaMemory>,
    mr: MemoryRegion<HostPlatform>,
    cq: CompletionQueue<HostPlatform>,
    qp: QueuePair<HostPlatform>,
}

impl Endpoint {
    fn create(driver: &Driver<HostPlatform>) -> anyhow::Result<Self> {
        let pd = driver.create_pd()?;
        let memory = driver.allocate(MEMORY)?;
        memory.write(0, &vec![0xa5; MEMORY]);
        let access = AccessFlags::REMOTE_READ | AccessFlags::REMOTE_WRITE;
        let config = MrConfig {
            offset: 0,
            length: MEMORY as u64,
            start: START,
            access: access | AccessFlags::LOCAL_WRITE,
            variant: 0,
        };
        let mr = driver.create_mr(&pd, RegionMemory::Dma(Arc::clone(&memory)), config)?;
        let cq = driver.create_cq(CqConfig::default())?;
        let mut qp = driver.create_qp(&pd, &cq, &cq, QpConfig::default())?;
        qp.to_init(access)?;
        let endpoint = Self { memory, mr, cq, qp };
        Ok(endpoint)
    }

    /// Exchanges addresses over `channel`, connects, and says where the other side's memory is.
    /// A receive request is there before the other side can send.
    fn connect(
        &mut self,
        driver: &Driver<HostPlatform>,
        channel: &mut UnixStream,
    ) -> anyhow::Result<Remote> {
        let sges = [self.sge(MESSAGE)];
        let receive = ReceiveRequest {
            wr_id: 0,
            sges: &sges,
        };
        self.qp.post_receive(&receive)?;
        let port = driver.query_port()?;
        let mac = u64::from_be_bytes([&[0, 0], &port.mac[..]].concat().as_slice().try_into()?);
        let gid = u128::from_be_bytes(driver.query_gid(0)?.gid);
        let (qpn, key) = (self.qp.number(), self.mr.key());
        writeln!(channel, "{qpn} {key} {mac} {gid}")?;
        let mut lines = BufReader::new(channel.try_clone()?).lines();
        let line = lines.next().context("the other side is gone")??;
        let words: Vec<_> = line.split(' ').collect();
        let [qpn, key, mac, gid] = words[..] else {
            bail!("the other side said {line:?}");
        };
        let [_, _, mac @ ..] = mac.parse::<u64>()?.to_be_bytes();
        let connection = Connection {
            remote_qpn: qpn.parse()?,
            path: AddressVector {
                gid: gid.parse::<u128>()?.to_be_bytes(),
                mac,
                hop_limit: 64,
                ..AddressVector::default()
            },
            mtu: PathMtu::from_raw(port.active_mtu).context("path MTU")?,
            send_psn: PSN,
            receive_psn: PSN,
            ..Connection::default()
        };
        self.qp.to_rtr(&connection)?;
        self.qp.to_rts(&connection)?;
        // Nobody sends before both can receive.
        writeln!(channel, "ready")?;
        let ready = lines.next().context("the other side is gone")??;
        ensure!(ready == "ready", "the other side said {ready:?}");
        Ok(Remote {
            address: START,
            rkey: key.parse()?,
        })
    }

    fn sge(&self, offset: usize) -> Sge {
        Sge {
            address: START + offset as u64,
            length: MESSAGE as u32,
            lkey: self.mr.key(),
        }
    }

    fn post(&mut self, offset: usize, operation: Operation) -> anyhow::Result<()> {
        let sges = [self.sge(offset)];
        let request = SendRequest {
            operation,
            data: Data::Sges(&sges),
            flags: WqeFlags::SIGNALED,
            ..SendRequest::default()
        };
        Ok(self.qp.post_send(&request)?)
    }

    /// Waits for the next completion, by interrupt.
    fn wait(&mut self, driver: &Driver<HostPlatform>) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut completions = [Default::default()];
        while self.cq.poll(&mut completions)? == 0 {
            ensure!(Instant::now() < deadline, "nothing completed");
            if !self.cq.arm(false)? {
                let platform = driver.platform();
                platform.wait_interrupt(self.cq.vector(), Duration::from_millis(500))?;
                driver.handle_interrupt(self.cq.vector());
            }
        }
        let [completion] = &completions;
        ensure!(
            completion.status == CompletionStatus::Success,
            "failed: {completion:?}"
        );
        Ok(())
    }

    fn compare(&self, offset: usize) -> anyhow::Result<()> {
        let mut found = vec![0; MESSAGE];
        self.memory.read(offset, &mut found);
        let wrong = found.iter().zip(pattern()).position(|(a, b)| *a != b);
        ensure!(wrong.is_none(), "byte {wrong:?} is wrong");
        Ok(())
    }
}

/// What is sent: bytes that differ from their neighbours, page by page too.
fn pattern() -> Vec<u8> {
    (0..MESSAGE).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}

/// RoCEv2's GID of an IP address.
fn gid(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
