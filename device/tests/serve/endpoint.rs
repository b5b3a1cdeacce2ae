//! Functions and connected queue pairs, by the driver, and data that is compared.

use std::net::Ipv4Addr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use rand::Rng;
use rand::rngs::SmallRng;
use vrnic_abi::admin::AccessFlags;
use vrnic_abi::cqe::{CompletionOpcode, CompletionStatus};
use vrnic_abi::object::{AddressVector, PathMtu, QpState};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{
    Completion, CompletionQueue, Config, Connection, CqConfig, Data, DmaBuffer, Driver, Error,
    Health, MemoryRegion, MrConfig, Operation, Platform, PostError, ProtectionDomain, QpConfig,
    QueuePair, ReceiveRequest, RegionMemory, Remote, SendRequest, Sge, Work,
};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::process::PATIENCE;

/// Virtual address at which all regions start; not a DMA address, so that a confusion shows.
pub(crate) const START: u64 = 0x5a00_0000_0000;
/// Bytes of an endpoint's memory.
pub(crate) const ROOM: usize = 512 << 10;
/// The sequence number of the first packet of a connection, in both directions.
pub(crate) const FIRST_PSN: u32 = 0xff_fff0;
/// What memory holds that nobody wrote.
const PATTERN: u8 = 0xa5;
/// Bytes before and after data that must stay as they were.
const GUARD: usize = 96;
/// Nanoseconds of a sleep without looking at the device.
const NAP: u64 = 50_000_000;

/// How long a requester waits for a peer that is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Retries {
    /// Longer than any machine is busy.
    Long,
    /// Half a second in all.
    Short,
}

/// Brings up the function on `socket`, with an address made from `number`.
#[track_caller]
pub(crate) fn open(socket: &Path, number: u8) -> Arc<Driver<HostPlatform>> {
    open_with(socket, number, Options::default())
}

#[track_caller]
pub(crate) fn open_with(socket: &Path, number: u8, options: Options) -> Arc<Driver<HostPlatform>> {
    probe(HostPlatform::open_socket(socket, options).unwrap(), number)
}

#[track_caller]
pub(crate) fn probe<P: Platform>(platform: P, number: u8) -> Arc<Driver<P>> {
    probe_at(platform, address(number))
}

/// Brings up the function of `platform`, with an address that others than [`configure`] chose.
#[track_caller]
pub(crate) fn probe_at<P: Platform>(platform: P, address: Ipv4Addr) -> Arc<Driver<P>> {
    let config = Config {
        check_period: NAP,
        ..Config::default()
    };
    let driver = Driver::probe(platform, config).unwrap();
    set_address(&driver, address);
    Arc::new(driver)
}

/// Sets the address made from `number`.
#[track_caller]
pub(crate) fn configure<P: Platform>(driver: &Driver<P>, number: u8) {
    set_address(driver, address(number));
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, number)
}

#[track_caller]
fn set_address<P: Platform>(driver: &Driver<P>, address: Ipv4Addr) {
    let gid = address.to_ipv6_mapped().octets();
    driver.set_gid(0, gid, 0).unwrap();
}

/// What a peer must know, also as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) qpn: u32,
    pub(crate) rkey: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) gid: [u8; 16],
}

impl Identity {
    pub(crate) fn text(&self) -> String {
        let mac = u64::from_be_bytes([&[0, 0], &self.mac[..]].concat().try_into().unwrap());
        let gid = u128::from_be_bytes(self.gid);
        format!("{} {} {mac} {gid}", self.qpn, self.rkey)
    }

    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        fn number<T: FromStr>(word: Option<&str>) -> T {
            word.and_then(|word| word.parse().ok()).unwrap()
        }
        let mut words = text.split_whitespace();
        let (qpn, rkey) = (number(words.next()), number(words.next()));
        let mac: u64 = number(words.next());
        let gid: u128 = number(words.next());
        Self {
            qpn,
            rkey,
            mac: mac.to_be_bytes()[2..].try_into().unwrap(),
            gid: gid.to_be_bytes(),
        }
    }

    pub(crate) fn remote(&self, offset: usize) -> Remote {
        Remote {
            address: START + offset as u64,
            rkey: self.rkey,
        }
    }
}

/// A queue pair, its completion queue, and memory.
pub(crate) struct Endpoint<P: Platform> {
    pub(crate) driver: Arc<Driver<P>>,
    pub(crate) memory: Arc<P::Dma>,
    pub(crate) qp: QueuePair<P>,
    pub(crate) cq: CompletionQueue<P>,
    mr: MemoryRegion<P>,
    pub(crate) pd: ProtectionDomain<P>,
    peer: Option<Identity>,
}

impl<P: Platform> Endpoint<P> {
    #[track_caller]
    pub(crate) fn new(driver: &Arc<Driver<P>>) -> Self {
        Self::over(driver, driver.allocate(ROOM).unwrap())
    }

    /// One whose memory, of [`ROOM`] bytes, is there already.
    #[track_caller]
    pub(crate) fn over(driver: &Arc<Driver<P>>, memory: Arc<P::Dma>) -> Self {
        Self::with(driver, memory, CqConfig::default(), QpConfig::default())
    }

    /// One that can have so many requests in flight.
    #[track_caller]
    pub(crate) fn deep(driver: &Arc<Driver<P>>, requests: u32) -> Self {
        let cq = CqConfig {
            entries: requests + 64,
            ..CqConfig::default()
        };
        let qp = QpConfig {
            send_requests: requests,
            ..QpConfig::default()
        };
        Self::with(driver, driver.allocate(ROOM).unwrap(), cq, qp)
    }

    #[track_caller]
    fn with(driver: &Arc<Driver<P>>, memory: Arc<P::Dma>, cq: CqConfig, qp: QpConfig) -> Self {
        let pd = driver.create_pd().unwrap();
        let access = AccessFlags::REMOTE_READ | AccessFlags::REMOTE_WRITE;
        let config = MrConfig {
            offset: 0,
            length: ROOM as u64,
            start: START,
            access: access | AccessFlags::LOCAL_WRITE,
            variant: 7,
        };
        let region = RegionMemory::Dma(Arc::clone(&memory));
        let mr = driver.create_mr(&pd, region, config).unwrap();
        let cq = driver.create_cq(cq).unwrap();
        let qp = driver.create_qp(&pd, &cq, &cq, qp);
        Self {
            driver: Arc::clone(driver),
            memory,
            qp: qp.unwrap(),
            cq,
            mr,
            pd,
            peer: None,
        }
    }

    #[track_caller]
    pub(crate) fn identity(&self) -> Identity {
        Identity {
            qpn: self.qp.number(),
            rkey: self.mr.key(),
            mac: self.driver.query_port().unwrap().mac,
            gid: self.driver.query_gid(0).unwrap().gid,
        }
    }

    /// Takes the queue pair from whatever state it is in to RTS.
    #[track_caller]
    pub(crate) fn connect(&mut self, peer: &Identity, retries: Retries) {
        let (timeout, retry_count) = match retries {
            Retries::Long => (18, 7),
            Retries::Short => (15, 3),
        };
        let port = self.driver.query_port().unwrap();
        let connection = Connection {
            remote_qpn: peer.qpn,
            path: AddressVector {
                gid: peer.gid,
                mac: peer.mac,
                hop_limit: 64,
                ..AddressVector::default()
            },
            mtu: PathMtu::from_raw(port.active_mtu).unwrap(),
            send_psn: FIRST_PSN,
            receive_psn: FIRST_PSN,
            timeout,
            retry_count,
            ..Connection::default()
        };
        self.qp.modify_state(QpState::Reset).unwrap();
        let access = AccessFlags::REMOTE_READ | AccessFlags::REMOTE_WRITE;
        self.qp.to_init(access).unwrap();
        self.qp.to_rtr(&connection).unwrap();
        self.qp.to_rts(&connection).unwrap();
        self.peer = Some(*peer);
    }

    #[track_caller]
    pub(crate) fn peer(&self) -> Identity {
        self.peer.unwrap()
    }

    fn sge(&self, offset: usize, length: usize) -> Sge {
        Sge {
            address: START + offset as u64,
            length: length as u32,
            lkey: self.mr.key(),
        }
    }

    pub(crate) fn post(
        &mut self,
        wr_id: u64,
        operation: Operation,
        (offset, length): (usize, usize),
    ) -> Result<(), PostError> {
        self.post_from(wr_id, operation, self.sge(offset, length))
    }

    /// Posts with a data segment that need not be this endpoint's.
    pub(crate) fn post_from(
        &mut self,
        wr_id: u64,
        operation: Operation,
        sge: Sge,
    ) -> Result<(), PostError> {
        let sges = [sge];
        self.qp.post_send(&SendRequest {
            wr_id,
            operation,
            data: Data::Sges(&sges),
            flags: WqeFlags::SIGNALED,
            ..SendRequest::default()
        })
    }

    #[track_caller]
    pub(crate) fn post_receive(&mut self, wr_id: u64, offset: usize, length: usize) {
        self.post_receive_to(wr_id, self.sge(offset, length));
    }

    /// Posts a receive with a data segment that need not be this endpoint's.
    #[track_caller]
    pub(crate) fn post_receive_to(&mut self, wr_id: u64, sge: Sge) {
        let sges = [sge];
        let request = ReceiveRequest { wr_id, sges: &sges };
        self.qp.post_receive(&request).unwrap();
    }

    /// Waits for a completion or until `over`.
    pub(crate) fn wait_or(
        &mut self,
        mut over: impl FnMut() -> bool,
    ) -> Result<Option<Completion>, Error> {
        let mut found = [Completion::default()];
        loop {
            if self.cq.poll(&mut found)? > 0 {
                return Ok(Some(found[0]));
            }
            if over() {
                return Ok(None);
            }
            if self.cq.arm(false)? {
                continue;
            }
            let platform = self.driver.platform();
            platform.relax(Some(self.cq.vector()), platform.now() + NAP);
            self.driver.handle_interrupt(self.cq.vector());
        }
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        let found = self.wait_or(|| Instant::now() > deadline).unwrap();
        found.expect("no completion")
    }

    #[track_caller]
    pub(crate) fn wait_success(&mut self) -> Completion {
        let completion = self.wait();
        assert_eq!(
            completion.status,
            CompletionStatus::Success,
            "{completion:?}"
        );
        completion
    }

    /// Fills memory around `length` bytes at `offset` with the pattern.
    fn guard(&self, offset: usize, length: usize) {
        let pattern = vec![PATTERN; length + 2 * GUARD];
        self.memory.write(offset - GUARD, &pattern);
    }

    /// Compares, and looks whether anything around was touched.
    #[track_caller]
    fn check(&self, offset: usize, expected: &[u8]) {
        let mut found = vec![0; expected.len() + 2 * GUARD];
        self.memory.read(offset - GUARD, &mut found);
        let (before, rest) = found.split_at(GUARD);
        let (data, after) = rest.split_at(expected.len());
        let wrong = data.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "first wrong byte of {}", expected.len());
        assert_eq!(before, [PATTERN; GUARD], "before the data");
        assert_eq!(after, [PATTERN; GUARD], "after the data");
    }

    #[track_caller]
    pub(crate) fn assert_good(&self) {
        let health = self.driver.health();
        assert!(matches!(health, Health::Good(_)), "{health:?}");
    }
}

/// Connects two endpoints with each other.
#[track_caller]
pub(crate) fn connect<A: Platform, B: Platform>(
    a: &mut Endpoint<A>,
    b: &mut Endpoint<B>,
    retries: Retries,
) {
    let (first, second) = (a.identity(), b.identity());
    a.connect(&second, retries);
    b.connect(&first, retries);
}

/// Two new endpoints, connected.
#[track_caller]
pub(crate) fn pair<A: Platform, B: Platform>(
    a: &Arc<Driver<A>>,
    b: &Arc<Driver<B>>,
    retries: Retries,
) -> (Endpoint<A>, Endpoint<B>) {
    let (mut a, mut b) = (Endpoint::new(a), Endpoint::new(b));
    connect(&mut a, &mut b, retries);
    (a, b)
}

/// The operations of a reliable connection that move data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Send,
    SendImmediate,
    Write,
    WriteImmediate,
    Read,
}

pub(crate) const KINDS: [Kind; 5] = [
    Kind::Send,
    Kind::SendImmediate,
    Kind::Write,
    Kind::WriteImmediate,
    Kind::Read,
];

impl Kind {
    fn operation(self, remote: Remote, immediate: u32) -> Operation {
        match self {
            Self::Send => Operation::Send,
            Self::SendImmediate => Operation::SendImmediate(immediate),
            Self::Write => Operation::Write(remote),
            Self::WriteImmediate => Operation::WriteImmediate(remote, immediate),
            Self::Read => Operation::Read(remote),
        }
    }

    fn receives(self) -> Option<CompletionOpcode> {
        match self {
            Self::Send => Some(CompletionOpcode::Receive),
            Self::SendImmediate => Some(CompletionOpcode::ReceiveImmediate),
            Self::WriteImmediate => Some(CompletionOpcode::ReceiveWriteImmediate),
            Self::Write | Self::Read => None,
        }
    }
}

/// Moves `length` random bytes between `a` and `b` and compares them; `a` is the requester.
#[track_caller]
pub(crate) fn transfer<A: Platform, B: Platform>(
    a: &mut Endpoint<A>,
    b: &mut Endpoint<B>,
    kind: Kind,
    length: usize,
    rng: &mut SmallRng,
) {
    Transfer::start(a, b, kind, length, rng).finish(a, b);
}

/// A transfer that was posted.
pub(crate) struct Transfer {
    kind: Kind,
    data: Vec<u8>,
    /// Where the data is, or is to be, at the requester and at the responder.
    near: usize,
    far: usize,
    wr_id: u64,
    immediate: u32,
}

impl Transfer {
    /// Posts a transfer of `length` random bytes; `a` is the requester.
    #[track_caller]
    pub(crate) fn start<A: Platform, B: Platform>(
        a: &mut Endpoint<A>,
        b: &mut Endpoint<B>,
        kind: Kind,
        length: usize,
        rng: &mut SmallRng,
    ) -> Self {
        let mut data = vec![0; length];
        rng.fill(&mut data[..]);
        let offset = |rng: &mut SmallRng| rng.random_range(GUARD..ROOM - length - GUARD);
        let (near, far) = (offset(rng), offset(rng));
        let (immediate, wr_id) = (rng.random(), rng.random());
        if kind == Kind::Read {
            a.guard(near, length);
            b.memory.write(far, &data);
        } else {
            a.memory.write(near, &data);
            b.guard(far, length);
        }
        if kind.receives().is_some() {
            let room = if kind == Kind::WriteImmediate {
                0
            } else {
                length
            };
            b.post_receive(wr_id, far, room);
        }
        let operation = kind.operation(a.peer().remote(far), immediate);
        a.post(wr_id, operation, (near, length)).unwrap();
        Self {
            kind,
            data,
            near,
            far,
            wr_id,
            immediate,
        }
    }

    /// Waits for its end, and compares.
    #[track_caller]
    pub(crate) fn finish<A: Platform, B: Platform>(self, a: &mut Endpoint<A>, b: &mut Endpoint<B>) {
        let completion = a.wait_success();
        assert_eq!(completion.wr_id, self.wr_id);
        if let Some(opcode) = self.kind.receives() {
            let completion = b.wait_success();
            assert_eq!(completion.wr_id, self.wr_id);
            assert_eq!(completion.work, Work::Receive(opcode));
            assert_eq!(completion.byte_length as usize, self.data.len());
            if self.kind != Kind::Send {
                assert_eq!(completion.immediate, self.immediate);
            }
        }
        match self.kind {
            Kind::Read => a.check(self.near, &self.data),
            _ => b.check(self.far, &self.data),
        }
    }
}

/// Every kind once, in both directions, with a size that takes several packets and an odd end.
#[track_caller]
pub(crate) fn exchange<A: Platform, B: Platform>(
    a: &mut Endpoint<A>,
    b: &mut Endpoint<B>,
    rng: &mut SmallRng,
) {
    for kind in KINDS {
        let length = rng.random_range(1..40_000);
        transfer(a, b, kind, length, rng);
        transfer(b, a, kind, length, rng);
    }
}
