//! A stream of RDMA WRITEs with a window of requests in flight.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vrnic_driver::abi::cqe::CompletionStatus;
use vrnic_driver::abi::wqe::WqeFlags;
use vrnic_driver::{Completion, Data, Operation, Remote, SendRequest, Sge};

use crate::function::Function;

/// Time without a completion after which a stream has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Polls without a completion between two looks at the clock.
const POLLS: u32 = 1 << 14;

/// How to wait for completions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Poll all the time.
    Spin,
    /// Arm the completion queue and sleep until the interrupt, which leaves the processor to the
    /// engines.
    Interrupt,
}

/// A stream's shape.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    /// Requests that are posted with one doorbell; the last one is signaled.
    pub(crate) list: usize,
    /// Lists in flight.
    pub(crate) lists: usize,
    pub(crate) wait: Wait,
}

impl Stream {
    /// Writes `source` to `target`, `lists` times a list; returns when the last is complete.
    pub(crate) fn run(
        self,
        from: &mut Function,
        source: Sge,
        target: Remote,
        lists: usize,
    ) -> Result<Duration> {
        let sges = [source];
        let mut requests = vec![write(&sges, target); self.list];
        if let Some(last) = requests.last_mut() {
            last.flags = WqeFlags::SIGNALED;
        }
        let start = Instant::now();
        let (mut posted, mut done) = (0, 0);
        while done < lists {
            while posted < lists && posted - done < self.lists {
                let (count, result) = from.qp.queues().0.post_list(&requests);
                result?;
                ensure!(count == requests.len(), "a part of a list was not posted");
                posted += 1;
            }
            done += self.wait(from)?;
        }
        Ok(start.elapsed())
    }

    /// Waits for completions and counts them.
    fn wait(self, from: &mut Function) -> Result<usize> {
        let mut completions = [Completion::default(); 16];
        let mut since = None;
        loop {
            for _ in 0..POLLS {
                let count = from.cq.poll(&mut completions)?;
                if count > 0 {
                    check(completions.get(..count).unwrap_or_default())?;
                    return Ok(count);
                }
                if self.wait == Wait::Interrupt {
                    sleep(from)?;
                    break;
                }
                spin_loop();
            }
            let since = since.get_or_insert_with(Instant::now);
            ensure!(since.elapsed() < PATIENCE, "no completion for {PATIENCE:?}");
        }
    }
}

/// Sleeps until there may be a completion.
fn sleep(from: &mut Function) -> Result<()> {
    if from.cq.arm(false)? {
        return Ok(());
    }
    let vector = from.cq.vector();
    if from.driver.platform().wait_interrupt(vector, PATIENCE)? {
        from.driver.handle_interrupt(vector);
    }
    Ok(())
}

/// An unsignaled WRITE.
pub(crate) fn write(source: &[Sge], target: Remote) -> SendRequest<'_> {
    SendRequest {
        wr_id: 0,
        operation: Operation::Write(target),
        data: Data::Sges(source),
        flags: WqeFlags::empty(),
        ..SendRequest::default()
    }
}

/// Fails if a request did.
pub(crate) fn check(completions: &[Completion]) -> Result<()> {
    for completion in completions {
        let status = completion.status;
        ensure!(
            status == CompletionStatus::Success,
            "a request failed: {status:?}"
        );
    }
    Ok(())
}
