//! A PCI device with one page of memory, for QEMU's `vfio-user-pci`.
//!
//! ```text
//! cargo run -p vrnic-vfio-user --example scratch /tmp/scratch.sock
//! qemu-system-x86_64 … -device \
//!     '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/scratch.sock"}}'
//! ```
//!
//! A 4-byte write of N to offset 0 of its BAR copies N bytes from guest address
//! 0x1000 to 0x2000 by DMA messages; the result is in offset 4.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vrnic_vfio_user::{
    ClientHandle, Deferred, Device, DeviceInfo, DmaMap, DmaUnmap, Errno, IrqInfo, Listener,
    NegotiatedCaps, RegionInfo, Server, SetIrqs,
};

const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const SOURCE: u64 = 0x1000;
const DESTINATION: u64 = 0x2000;

struct Scratch {
    config: [u8; 256],
    bar: [u8; 4096],
    result: Arc<AtomicU32>,
    client: Option<ClientHandle>,
}

impl Scratch {
    fn new() -> Self {
        let mut config = [0; 256];
        // Vendor, device, no command and status, class "other".
        config[..4].copy_from_slice(&[0x36, 0x1b, 0xff, 0x11]);
        config[11] = 0xff;
        Self {
            config,
            bar: [0; 4096],
            result: Arc::default(),
            client: None,
        }
    }

    fn copy(&self, bytes: usize) {
        let Some(client) = self.client.clone() else {
            return;
        };
        let result = Arc::clone(&self.result);
        result.store(0, Ordering::Release);
        client
            .clone()
            .dma_read(SOURCE, bytes, move |read| match read {
                Err(error) => {
                    eprintln!("read: {error}");
                    result.store(2, Ordering::Release);
                }
                Ok(data) => client.dma_write(DESTINATION, data, move |written| {
                    eprintln!("copied {bytes} bytes: {written:?}");
                    result.store(if written.is_ok() { 1 } else { 3 }, Ordering::Release);
                }),
            });
    }
}

impl Device for Scratch {
    fn attached(&mut self, client: ClientHandle, caps: &NegotiatedCaps) {
        eprintln!("attached: {caps:?}");
        self.client = Some(client);
    }

    fn detached(&mut self) {
        eprintln!("detached");
        self.client = None;
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            pci: true,
            resettable: true,
            num_regions: 9,
            num_irqs: 5,
        }
    }

    fn region(&self, index: u32) -> RegionInfo {
        let size = match index {
            BAR0 => 4096,
            CONFIG => 256,
            _ => 0,
        };
        RegionInfo {
            size,
            readable: size > 0,
            writable: size > 0,
            mmap: None,
        }
    }

    fn irq(&self, _index: u32) -> IrqInfo {
        IrqInfo::default()
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let result = self.result.load(Ordering::Acquire).to_ne_bytes();
        self.bar[4..8].copy_from_slice(&result);
        let bytes = if region == BAR0 {
            &self.bar[..]
        } else {
            &self.config[..]
        };
        let from = bytes.get(offset as usize..).ok_or(Errno::INVAL)?;
        data.copy_from_slice(from.get(..data.len()).ok_or(Errno::INVAL)?);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        match (region, offset, data) {
            (CONFIG, 0x10, [_, _, c, d]) => {
                self.config[0x10..0x14].copy_from_slice(&[0, 0, *c, *d]);
                // A 4 KiB BAR: the low 12 bits are fixed.
                self.config[0x11] = data[1] & 0xf0;
            }
            (CONFIG, 0x04, [low, ..]) => self.config[4] = low & 0x07,
            (BAR0, 0, [a, b, _, _]) => self.copy(usize::from(u16::from_ne_bytes([*a, *b]))),
            _ => {}
        }
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap) -> Result<(), Errno> {
        eprintln!("{map:x?}");
        Ok(())
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap, reply: Deferred) {
        eprintln!("{unmap:x?}");
        reply.complete(Ok(()));
    }

    fn set_irqs(&mut self, set: SetIrqs) -> Result<(), Errno> {
        eprintln!("{set:?}");
        Ok(())
    }

    fn reset(&mut self, reply: Deferred) {
        eprintln!("reset");
        reply.complete(Ok(()));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: scratch SOCKET")?;
    let mut poll = mio::Poll::new()?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0))?);
    let mut server = Server::new(poll.registry(), waker, 1..3)?;
    server.add(Listener::bind(&path)?, Scratch::new())?;
    let mut events = mio::Events::with_capacity(8);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            server.handle_event(event);
        }
        server.turn();
    }
}
