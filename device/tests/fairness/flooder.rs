//! A function with an admin queue made by hand, which is never empty if one wants.

use std::path::Path;

use bytemuck::{Pod, bytes_of, pod_read_unaligned};
use vrnic_abi::admin::{AdminOpcode, Command, CommandHeader, Completion, Status};
use vrnic_abi::registers::{self, DeviceState, device_status};
use vrnic_driver::{DmaBuffer, Platform};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::process::until;

pub(super) type Dma = <HostPlatform as Platform>::Dma;

/// Entries of the admin rings, as a power of two: the most there are.
const LOG_ENTRIES: u32 = 10;
const ENTRIES: u16 = 1 << LOG_ENTRIES;

pub(super) struct Flooder {
    pub(super) platform: HostPlatform,
    submission: Dma,
    completion: Dma,
    submitted: u16,
    announced: u16,
    completed: u16,
    acknowledged: u16,
}

impl Flooder {
    #[track_caller]
    pub(super) fn open(socket: &Path) -> Self {
        let platform = HostPlatform::open_socket(socket, Options::default()).unwrap();
        let submission = platform.allocate_dma(64 << LOG_ENTRIES).unwrap();
        let completion = platform.allocate_dma(32 << LOG_ENTRIES).unwrap();
        let flooder = Self {
            platform,
            submission,
            completion,
            submitted: 0,
            announced: 0,
            completed: 0,
            acknowledged: 0,
        };
        flooder.enable();
        flooder
    }

    #[track_caller]
    fn enable(&self) {
        let low = |memory: &Dma| memory.device_address() as u32;
        let high = |memory: &Dma| (memory.device_address() >> 32) as u32;
        for (register, value) in [
            (&registers::ADMIN_SUBMISSION_BASE, low(&self.submission)),
            (
                &registers::ADMIN_SUBMISSION_BASE_HIGH,
                high(&self.submission),
            ),
            (&registers::ADMIN_COMPLETION_BASE, low(&self.completion)),
            (
                &registers::ADMIN_COMPLETION_BASE_HIGH,
                high(&self.completion),
            ),
            (&registers::ADMIN_QUEUE, LOG_ENTRIES),
            (&registers::DEVICE_CONTROL, 1),
        ] {
            self.platform.write_register(register.offset, value);
        }
        until("the flooder is ready", || {
            let status = self.platform.read_register(registers::DEVICE_STATUS.offset);
            let ready = u32::from(DeviceState::Ready.raw());
            (device_status::STATE.get(status) == ready).then_some(())
        });
    }

    #[track_caller]
    pub(super) fn memory(&self, length: usize) -> Dma {
        self.platform.allocate_dma(length).unwrap()
    }

    /// Commands that were submitted and whose completions were not taken.
    pub(super) fn outstanding(&self) -> u16 {
        self.submitted.wrapping_sub(self.completed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.outstanding() < ENTRIES
    }

    /// Puts a command into the ring. `id` comes back with its completion.
    pub(super) fn submit(&mut self, id: u16, opcode: AdminOpcode, body: &impl Pod) {
        assert!(self.has_room());
        let mut raw = [0u8; 56];
        let bytes = bytes_of(body);
        raw[..bytes.len()].copy_from_slice(bytes);
        let command = Command {
            header: CommandHeader {
                opcode: opcode.raw(),
                id,
                reserved: 0,
            },
            body: pod_read_unaligned(&raw),
        };
        let at = usize::from(self.submitted % ENTRIES) * 64;
        self.submission.write(at, bytes_of(&command));
        self.submitted = self.submitted.wrapping_add(1);
    }

    /// Tells the device of everything that was submitted, and of the completions that were taken.
    /// Where there is nothing new, nothing is written: the process would handle it in the time of a
    /// sample.
    pub(super) fn announce(&mut self) {
        if self.acknowledged != self.completed {
            self.acknowledged = self.completed;
            self.platform.write_register(
                registers::ADMIN_COMPLETION_DOORBELL.offset,
                self.completed.into(),
            );
        }
        if self.announced != self.submitted {
            self.announced = self.submitted;
            self.platform
                .write_register(registers::ADMIN_DOORBELL.offset, self.submitted.into());
        }
    }

    fn peek(&self, index: u16) -> Option<Completion> {
        let mut bytes = [0; 32];
        self.completion
            .read(usize::from(index % ENTRIES) * 32, &mut bytes);
        let entry: Completion = pod_read_unaligned(&bytes);
        let pass = index >> LOG_ENTRIES & 1;
        (u16::from(entry.owner & 1) != pass).then_some(entry)
    }

    /// Takes the next completion.
    pub(super) fn take(&mut self) -> Option<Completion> {
        if self.outstanding() == 0 {
            return None;
        }
        let entry = self.peek(self.completed)?;
        self.completed = self.completed.wrapping_add(1);
        Some(entry)
    }

    /// Commands that have not completed.
    pub(super) fn waiting(&self) -> u16 {
        let outstanding = self.outstanding();
        // Completions are in the ring in the order in which they were written.
        let (mut done, mut end) = (0, outstanding);
        while done < end {
            let middle = done + (end - done) / 2;
            match self.peek(self.completed.wrapping_add(middle)) {
                Some(_) => done = middle + 1,
                None => end = middle,
            }
        }
        outstanding - done
    }

    /// Carries out one command.
    #[track_caller]
    pub(super) fn call(&mut self, opcode: AdminOpcode, body: &impl Pod) -> Completion {
        assert_eq!(self.outstanding(), 0);
        self.submit(0, opcode, body);
        self.announce();
        let done = until("a command completes", || self.take());
        assert_eq!(done.status, Status::Success.raw(), "{opcode:?} {done:?}");
        done
    }
}
