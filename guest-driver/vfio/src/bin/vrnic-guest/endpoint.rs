//! One side of a connection: a queue pair, its completion queues, and a memory region.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use vrnic_abi::admin::AccessFlags;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::object::QpState;
use vrnic_driver::{
    Completion, CompletionQueue, Connection, CqConfig, Driver, Error, MemoryRegion, MrConfig,
    ProtectionDomain, QpConfig, QueuePair, RegionMemory,
};
use vrnic_driver_vfio::{DmaMemory, HostPlatform};

use crate::report::{say, timed};

/// Work requests of either kind that a queue pair takes.
pub(crate) const DEPTH: u32 = 64;
/// Data segments of a work request.
const SEGMENTS: u32 = 16;
/// Where the regions start for work requests; not a DMA address, so that a confusion of the two
/// shows.
const START: u64 = 0x5a00_0000_0000;
/// Time of polling before sleeping: other programs need the processors, too.
const SPIN: Duration = Duration::from_micros(20);
/// Polls between looks at the clock.
const POLLS: u32 = 16;
/// Longest sleep without looking at the device.
const NAP: Duration = Duration::from_millis(500);

/// Which completion queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Send,
    Receive,
}

pub(crate) struct Endpoint {
    pub(crate) driver: Arc<Driver<HostPlatform>>,
    pub(crate) memory: Arc<DmaMemory>,
    pub(crate) qp: QueuePair<HostPlatform>,
    mr: MemoryRegion<HostPlatform>,
    send_cq: CompletionQueue<HostPlatform>,
    receive_cq: CompletionQueue<HostPlatform>,
    pd: ProtectionDomain<HostPlatform>,
}

impl Endpoint {
    /// Creates everything, the queue pair in INIT. `vector` chooses the event queue.
    pub(crate) fn create(
        side: &str,
        driver: &Arc<Driver<HostPlatform>>,
        vector: u16,
        memory_size: u64,
    ) -> anyhow::Result<Self> {
        let pd = timed(side, "protection domain", || Ok(driver.create_pd()?))?;
        let (memory, mr) = timed(side, "memory region", || region(driver, &pd, memory_size))?;
        let cq = || {
            driver.create_cq(CqConfig {
                entries: 2 * DEPTH,
                completion_vector: vector,
                ..CqConfig::default()
            })
        };
        let (send_cq, receive_cq) = timed(side, "completion queues", || Ok((cq()?, cq()?)))?;
        let qp = timed(side, "queue pair, to INIT", || {
            let config = QpConfig {
                send_requests: DEPTH,
                receive_requests: DEPTH,
                send_segments: SEGMENTS,
                receive_segments: SEGMENTS,
                inline: 64,
                ..QpConfig::default()
            };
            let mut qp = driver.create_qp(&pd, &send_cq, &receive_cq, config)?;
            qp.to_init(AccessFlags::REMOTE_READ | AccessFlags::REMOTE_WRITE)?;
            Ok(qp)
        })?;
        Ok(Self {
            driver: Arc::clone(driver),
            memory,
            qp,
            mr,
            send_cq,
            receive_cq,
            pd,
        })
    }

    /// Virtual address of byte `offset` of the memory.
    pub(crate) fn address(&self, offset: u64) -> u64 {
        self.mr.start() + offset
    }

    /// Key of the memory, local and remote.
    pub(crate) fn key(&self) -> u32 {
        self.mr.key()
    }

    pub(crate) fn connect(&mut self, side: &str, connection: &Connection) -> anyhow::Result<()> {
        timed(side, "queue pair, to RTR and RTS", || {
            self.qp.to_rtr(connection)?;
            self.qp.to_rts(connection)?;
            let state = self.qp.query()?.state;
            ensure!(
                state == QpState::Rts.raw(),
                "the queue pair is in state {state}"
            );
            Ok(())
        })
    }

    /// Waits for the next completion; an error of the work request is an error here.
    pub(crate) fn wait(&mut self, side: Side, timeout: Duration) -> anyhow::Result<Completion> {
        let completion = self.wait_any(side, timeout)?;
        ensure!(
            completion.status == CompletionStatus::Success,
            "a work request failed: {completion:?}"
        );
        Ok(completion)
    }

    fn wait_any(&mut self, side: Side, timeout: Duration) -> anyhow::Result<Completion> {
        let deadline = Instant::now() + timeout;
        let cq = match side {
            Side::Send => &mut self.send_cq,
            Side::Receive => &mut self.receive_cq,
        };
        let mut completions = [Completion::default()];
        loop {
            let spin = Instant::now() + SPIN;
            while Instant::now() < spin {
                for _ in 0..POLLS {
                    if cq.poll(&mut completions)? > 0 {
                        let [completion] = completions;
                        return Ok(completion);
                    }
                    std::hint::spin_loop();
                }
            }
            if cq.arm(false)? {
                continue;
            }
            let platform = self.driver.platform();
            platform.wait_interrupt(cq.vector(), NAP)?;
            self.driver.handle_interrupt(cq.vector());
            check(&self.driver)?;
            if Instant::now() >= deadline {
                bail!("no completion within {} s", timeout.as_secs());
            }
        }
    }

    /// Destroys everything in order, so that the device can complain.
    pub(crate) fn destroy(mut self) -> anyhow::Result<()> {
        self.qp.destroy().context("destroying the queue pair")?;
        self.send_cq
            .destroy()
            .context("destroying a completion queue")?;
        self.receive_cq
            .destroy()
            .context("destroying a completion queue")?;
        self.mr.destroy().context("destroying the memory region")?;
        self.pd.destroy().context("freeing the protection domain")
    }
}

fn region(
    driver: &Driver<HostPlatform>,
    pd: &ProtectionDomain<HostPlatform>,
    size: u64,
) -> anyhow::Result<(Arc<DmaMemory>, MemoryRegion<HostPlatform>)> {
    let memory = driver.allocate(size as usize)?;
    let config = MrConfig {
        offset: 0,
        length: size,
        start: START,
        access: AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_READ | AccessFlags::REMOTE_WRITE,
        variant: 0x11,
    };
    let mr = driver.create_mr(pd, RegionMemory::Dma(Arc::clone(&memory)), config)?;
    Ok((memory, mr))
}

/// Fails if the device reports trouble.
fn check(driver: &Driver<HostPlatform>) -> anyhow::Result<()> {
    use vrnic_abi::eqe::EventType;
    driver.handle_interrupt(0);
    while let Some(event) = driver.poll_event() {
        match event.event {
            EventType::PortUp | EventType::PortDown | EventType::GidChange => {
                say!("event {:?} of {:#x}", event.event, event.object);
            }
            EventType::CommunicationEstablished => {}
            // The flushed work requests say the same, but not why.
            _ => say!(
                "event {:?} of {:#x}: {:#x}",
                event.event,
                event.object,
                event.detail
            ),
        }
    }
    match driver.health() {
        vrnic_driver::Health::Good(_) => Ok(()),
        vrnic_driver::Health::Failed(error) => Err(error.into()),
        vrnic_driver::Health::Gone => Err(Error::DeviceLost.into()),
    }
}
