//! A device that records what reaches it, a server loop in a thread, and a
//! client that writes messages by hand.
#![allow(dead_code, reason = "the leak test uses a part of it")]

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use vrnic_vfio_user::{
    ClientHandle, Deferred, Device, DeviceInfo, DmaMap, DmaUnmap, Errno, IrqAction, IrqData,
    IrqInfo, Listener, NegotiatedCaps, RegionInfo, RegionMmap, Server, SetIrqs, SparseArea,
};

/// Nothing in these tests takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const PAGE: u64 = 4096;

/// The device's regions.
pub(crate) const TRAPPED: u32 = 0;
pub(crate) const READ_ONLY: u32 = 1;
pub(crate) const SPARSE: u32 = 2;
pub(crate) const WRITE_ONLY: u32 = 3;
pub(crate) const WHOLE: u32 = 4;
pub(crate) const NUM_REGIONS: u32 = 9;
pub(crate) const REGION_SIZE: u64 = 2 << 20;
/// Reads and writes of this offset of [`TRAPPED`] fail with `EIO`.
pub(crate) const BAD_OFFSET: u64 = 0x800;

/// The device's interrupt types.
pub(crate) const INTX: u32 = 0;
pub(crate) const MSIX: u32 = 2;
pub(crate) const NUM_IRQS: u32 = 5;
pub(crate) const VECTORS: u32 = 64;

/// What happened to a device.
#[derive(Debug)]
pub(crate) enum Event {
    Attached(ClientHandle, NegotiatedCaps),
    Detached,
    Unmap(DmaUnmap, Option<Deferred>),
    Reset(Option<Deferred>),
    Irqs(String),
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) memory: Vec<u8>,
    pub(crate) maps: BTreeMap<u64, (u64, Option<OwnedFd>)>,
    pub(crate) vectors: BTreeMap<(u32, u32), OwnedFd>,
    pub(crate) writes: Vec<(u32, u64, Vec<u8>)>,
    /// The process behind each connection, in the order they came.
    pub(crate) peers: Vec<i32>,
    /// Hand replies to the test instead of answering at once.
    pub(crate) defer: bool,
}

pub(crate) struct TestDevice {
    state: Arc<Mutex<State>>,
    events: Sender<Event>,
    file: Arc<OwnedFd>,
}

pub(crate) fn memfd(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

impl TestDevice {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn mmap(&self, areas: Vec<SparseArea>) -> Option<RegionMmap> {
        Some(RegionMmap {
            fd: Arc::clone(&self.file),
            offset: PAGE,
            areas,
        })
    }
}

impl Device for TestDevice {
    fn connected(&mut self, socket: BorrowedFd<'_>) {
        let peer = rustix::net::sockopt::socket_peercred(socket).unwrap();
        self.state().peers.push(peer.pid.as_raw_nonzero().get());
    }

    fn attached(&mut self, client: ClientHandle, caps: &NegotiatedCaps) {
        let _ = self.events.send(Event::Attached(client, *caps));
    }

    fn detached(&mut self) {
        self.state().maps.clear();
        self.state().vectors.clear();
        let _ = self.events.send(Event::Detached);
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            pci: true,
            resettable: true,
            num_regions: NUM_REGIONS,
            num_irqs: NUM_IRQS,
        }
    }

    fn region(&self, index: u32) -> RegionInfo {
        let area = |page: u64, pages: u64| SparseArea {
            offset: page * PAGE,
            size: pages * PAGE,
        };
        let mmap = match index {
            SPARSE => self.mmap(vec![area(0, 1), area(3, 2)]),
            WHOLE => self.mmap(vec![]),
            _ => None,
        };
        RegionInfo {
            size: if index <= WHOLE { REGION_SIZE } else { 0 },
            readable: index <= WHOLE && index != WRITE_ONLY,
            writable: index <= WHOLE && index != READ_ONLY,
            mmap,
        }
    }

    fn irq(&self, index: u32) -> IrqInfo {
        let count = match index {
            INTX => 1,
            MSIX => VECTORS,
            _ => 0,
        };
        IrqInfo { count, flags: 0x9 }
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        if (region, offset) == (TRAPPED, BAD_OFFSET) {
            return Err(Errno::IO);
        }
        let offset = offset as usize;
        data.copy_from_slice(&self.state().memory[offset..offset + data.len()]);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if (region, offset) == (TRAPPED, BAD_OFFSET) {
            return Err(Errno::IO);
        }
        let mut state = self.state();
        state.writes.push((region, offset, data.to_vec()));
        let offset = offset as usize;
        state.memory[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap) -> Result<(), Errno> {
        self.state().maps.insert(map.iova, (map.size, map.fd));
        Ok(())
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap, reply: Deferred) {
        let mut state = self.state();
        match unmap {
            DmaUnmap::All => state.maps.clear(),
            DmaUnmap::Range { iova, size } => {
                let inside = |start: u64| start >= iova && start - iova < size;
                state.maps.retain(|start, _| !inside(*start));
            }
        }
        let reply = if state.defer {
            Some(reply)
        } else {
            reply.complete(Ok(()));
            None
        };
        let _ = self.events.send(Event::Unmap(unmap, reply));
    }

    fn set_irqs(&mut self, set: SetIrqs) -> Result<(), Errno> {
        let kind = match &set.data {
            IrqData::None => "none".to_owned(),
            IrqData::Bool(bools) => format!("{bools:?}"),
            IrqData::Assign(fds) => format!("{} eventfds", fds.len()),
            IrqData::Deassign => "deassign".to_owned(),
        };
        let SetIrqs {
            index,
            start,
            count,
            action,
            data,
        } = set;
        let mut state = self.state();
        match (action, data) {
            (IrqAction::Trigger, IrqData::Assign(fds)) => {
                let vectors = (start..).map(|vector| (index, vector)).zip(fds);
                state.vectors.extend(vectors);
            }
            (IrqAction::Trigger, IrqData::None) if count == 0 => {
                state.vectors.retain(|(i, _), _| *i != index);
            }
            (IrqAction::Trigger, IrqData::Deassign) => {
                for vector in start..start + count {
                    state.vectors.remove(&(index, vector));
                }
            }
            _ => {}
        }
        let text = format!("{action:?} {index}[{start}+{count}] {kind}");
        let _ = self.events.send(Event::Irqs(text));
        Ok(())
    }

    fn reset(&mut self, reply: Deferred) {
        let reply = if self.state().defer {
            Some(reply)
        } else {
            reply.complete(Ok(()));
            None
        };
        let _ = self.events.send(Event::Reset(reply));
    }
}

/// One socket of a [`Harness`].
pub(crate) struct Socket {
    pub(crate) path: PathBuf,
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) events: Receiver<Event>,
    pub(crate) file: Arc<OwnedFd>,
}

impl Socket {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    #[track_caller]
    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("no event came")
    }

    #[track_caller]
    pub(crate) fn attached(&self) -> ClientHandle {
        match self.event() {
            Event::Attached(client, _) => client,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn detached(&self) {
        match self.event() {
            Event::Detached => {}
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn irqs(&self) -> String {
        match self.event() {
            Event::Irqs(text) => text,
            other => panic!("{other:?}"),
        }
    }
}

/// A server in a thread of its own.
pub(crate) struct Harness {
    pub(crate) sockets: Vec<Socket>,
    stop: Arc<AtomicBool>,
    waker: Arc<mio::Waker>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Harness {
    pub(crate) fn start(sockets: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let tokens = 1..1 + 2 * sockets;
        let mut server = Server::new(poll.registry(), Arc::clone(&waker), tokens).unwrap();
        let sockets = (0..sockets)
            .map(|n| {
                let path = directory.path().join(n.to_string());
                let (sender, events) = mpsc::channel();
                let state = Arc::new(Mutex::new(State {
                    memory: (0..REGION_SIZE).map(|n| n as u8).collect(),
                    ..State::default()
                }));
                let file = Arc::new(memfd(REGION_SIZE + PAGE));
                let device = TestDevice {
                    state: Arc::clone(&state),
                    events: sender,
                    file: Arc::clone(&file),
                };
                server.add(Listener::bind(&path).unwrap(), device).unwrap();
                Socket {
                    path,
                    state,
                    events,
                    file,
                }
            })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut events = mio::Events::with_capacity(8);
            while !stopped.load(Ordering::Acquire) {
                poll.poll(&mut events, None).unwrap();
                for event in &events {
                    assert!(server.handle_event(event) || event.token() == mio::Token(0));
                }
                server.turn();
            }
        });
        Self {
            sockets,
            stop,
            waker,
            thread: Some(thread),
            _directory: directory,
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.sockets[0]
    }

    pub(crate) fn path(&self) -> &Path {
        &self.sockets[0].path
    }

    /// A client that has negotiated as QEMU's does, but for the version.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::negotiated(self.path())
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake().unwrap();
        let result = self.thread.take().unwrap().join();
        assert!(result.is_ok() || std::thread::panicking());
    }
}

pub(crate) mod command {
    pub(crate) const VERSION: u16 = 1;
    pub(crate) const DMA_MAP: u16 = 2;
    pub(crate) const DMA_UNMAP: u16 = 3;
    pub(crate) const GET_INFO: u16 = 4;
    pub(crate) const GET_REGION_INFO: u16 = 5;
    pub(crate) const GET_REGION_IO_FDS: u16 = 6;
    pub(crate) const GET_IRQ_INFO: u16 = 7;
    pub(crate) const SET_IRQS: u16 = 8;
    pub(crate) const REGION_READ: u16 = 9;
    pub(crate) const REGION_WRITE: u16 = 10;
    pub(crate) const DMA_READ: u16 = 11;
    pub(crate) const DMA_WRITE: u16 = 12;
    pub(crate) const RESET: u16 = 13;
    pub(crate) const DIRTY_PAGES: u16 = 14;
    pub(crate) const WRITE_MULTI: u16 = 15;
    pub(crate) const FEATURE: u16 = 16;
}

pub(crate) const REPLY: u32 = 1;
pub(crate) const NO_REPLY: u32 = 0x10;
pub(crate) const ERROR: u32 = 0x20;

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: u16,
    pub(crate) command: u16,
    pub(crate) flags: u32,
    pub(crate) errno: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Message {
    pub(crate) fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.body[offset..offset + 4].try_into().unwrap())
    }

    pub(crate) fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.body[offset..offset + 8].try_into().unwrap())
    }
}

/// Concatenates the fields of a body.
macro_rules! body {
    ($($field:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut body: Vec<u8> = Vec::new();
        $(body.extend_from_slice(&$field.to_ne_bytes());)*
        body
    }};
}
pub(crate) use body;

pub(crate) fn message(id: u16, command: u16, flags: u32, errno: u32, body: &[u8]) -> Vec<u8> {
    let size = 16 + body.len() as u32;
    let mut bytes = body!(id, command, size, flags, errno);
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) const CAPABILITIES: &str = r#"{"capabilities": {"max_msg_fds": 16,
    "max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535,
    "write_multiple": true}}"#;

pub(crate) fn version(minor: u16, json: &str) -> Vec<u8> {
    let mut body = body!(0_u16, minor);
    body.extend_from_slice(json.as_bytes());
    body.push(0);
    message(0, command::VERSION, 0, 0, &body)
}

/// A client that sends what it is told.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    next_id: u16,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, next_id: 1 }
    }

    #[track_caller]
    pub(crate) fn negotiated(path: &Path) -> Self {
        Self::with_capabilities(path, 1, CAPABILITIES)
    }

    #[track_caller]
    pub(crate) fn with_capabilities(path: &Path, minor: u16, json: &str) -> Self {
        let mut client = Self::connect(path);
        client.send(&version(minor, json));
        let reply = client.receive();
        assert_eq!((reply.command, reply.flags), (command::VERSION, REPLY));
        client
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    #[track_caller]
    pub(crate) fn send_with_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let iov = [IoSlice::new(bytes)];
        let sent = rustix::net::sendmsg(&self.stream, &iov, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(bytes.len()));
    }

    #[track_caller]
    pub(crate) fn receive(&mut self) -> Message {
        self.try_receive().expect("the server closed")
    }

    /// The next message, or `None` when the server has closed.
    #[track_caller]
    pub(crate) fn try_receive(&mut self) -> Option<Message> {
        let mut header = [0_u8; 16];
        let mut fds = Vec::new();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let iov = &mut [IoSliceMut::new(&mut header)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(&self.stream, iov, &mut control, flags) {
            // The server never tears a header apart.
            Ok(received) if received.bytes > 0 => assert_eq!(received.bytes, 16),
            Ok(_) | Err(Errno::CONNRESET) => return None,
            Err(error) => panic!("{error}"),
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let word = |n: usize| u32::from_ne_bytes(header[n..n + 4].try_into().unwrap());
        let half = |n: usize| u16::from_ne_bytes(header[n..n + 2].try_into().unwrap());
        let mut body = vec![0xa5; word(4) as usize - 16];
        self.stream.read_exact(&mut body).unwrap();
        Some(Message {
            id: half(0),
            command: half(2),
            flags: word(8),
            errno: word(12),
            body,
            fds,
        })
    }

    /// Sends a command and returns its reply, matched by ID.
    #[track_caller]
    pub(crate) fn call(&mut self, command: u16, body: &[u8], fds: &[BorrowedFd<'_>]) -> Message {
        let id = self.next_id;
        self.next_id += 1;
        self.send_with_fds(&message(id, command, 0, 0, body), fds);
        let reply = self.receive();
        assert_eq!((reply.id, reply.command), (id, command));
        assert_eq!(reply.flags & 0xf, REPLY);
        reply
    }

    /// A command that succeeds.
    #[track_caller]
    pub(crate) fn ok(&mut self, command: u16, body: &[u8]) -> Message {
        self.ok_with(command, body, &[])
    }

    #[track_caller]
    pub(crate) fn ok_with(&mut self, command: u16, body: &[u8], fds: &[BorrowedFd<'_>]) -> Message {
        let reply = self.call(command, body, fds);
        assert_eq!((reply.flags, reply.errno), (REPLY, 0));
        reply
    }

    /// A command that fails; returns the errno.
    #[track_caller]
    pub(crate) fn fails(&mut self, command: u16, body: &[u8]) -> Errno {
        let reply = self.call(command, body, &[]);
        assert_eq!(reply.flags, REPLY | ERROR);
        assert_eq!((reply.body.len(), reply.fds.len()), (0, 0));
        Errno::from_raw_os_error(reply.errno as i32)
    }

    #[track_caller]
    pub(crate) fn map(&mut self, iova: u64, size: u64) {
        self.ok(command::DMA_MAP, &body!(32_u32, 3_u32, 0_u64, iova, size));
    }

    #[track_caller]
    pub(crate) fn read(&mut self, region: u32, offset: u64, count: u32) -> Vec<u8> {
        let reply = self.ok(command::REGION_READ, &body!(offset, region, count));
        assert_eq!(reply.body[..16], body!(offset, region, count));
        reply.body[16..].to_vec()
    }

    /// The server still serves this connection.
    #[track_caller]
    pub(crate) fn is_served(&mut self) {
        assert_eq!(self.read(TRAPPED, 0x100, 4), [0, 1, 2, 3]);
    }

    /// The server closes this connection (after what it still says).
    #[track_caller]
    pub(crate) fn is_closed(&mut self) {
        while self.try_receive().is_some() {}
    }
}

pub(crate) fn eventfd() -> OwnedFd {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    rustix::event::eventfd(0, flags).unwrap()
}

pub(crate) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(|fd| fd.as_fd()).collect()
}

/// Whether two descriptors are of the same file.
pub(crate) fn same_file(a: impl AsFd, b: impl AsFd) -> bool {
    let (a, b) = (rustix::fs::fstat(a).unwrap(), rustix::fs::fstat(b).unwrap());
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

pub(crate) fn raw(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
