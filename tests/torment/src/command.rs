//! Commands of the kernel's uverbs interface, put together byte by byte.
//!
//! A command is its number, the kernel's own request and the driver's, and room for two answers. It
//! goes to the kernel as the old interface has it, by `write`, or wrapped into the new one, by
//! `ioctl`; both reach the same code by different ways. Layouts are those of `rdma/ib_user_verbs.h`
//! and `rdma/rdma_user_ioctl_cmds.h`.

use std::io;
use std::os::fd::RawFd;

/// Number of the `ioctl` that carries everything.
pub(crate) const RDMA_VERBS_IOCTL: libc::c_ulong = 0xc018_1b01;
/// Attribute flag: whoever does not know the attribute must refuse.
pub(crate) const MANDATORY: u16 = 1;
/// Method of the device: a command of the old interface.
const INVOKE_WRITE: u16 = 0;
/// Attributes of that.
const CORE_IN: u16 = 0;
const CORE_OUT: u16 = 1;
const WRITE_CMD: u16 = 2;
const DRIVER_IN: u16 = 0x1000;
const DRIVER_OUT: u16 = 0x1001;

/// Bytes that are appended to.
#[derive(Clone, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub(crate) fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }
}

/// How a command reaches the kernel.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Write,
    Ioctl,
}

/// A command.
#[derive(Clone)]
pub(crate) struct Command {
    pub(crate) number: u32,
    /// The kernel's part, without the address of the answer that precedes it if there is one.
    pub(crate) body: Bytes,
    /// The driver's part.
    pub(crate) own: Bytes,
    /// Bytes of the kernel's answer.
    pub(crate) answer: usize,
    /// Bytes of the driver's.
    pub(crate) own_answer: usize,
}

/// What the kernel has answered: its own part and the driver's.
pub(crate) struct Answer {
    bytes: Vec<u64>,
    split: usize,
}

impl Answer {
    fn bytes(&self) -> Vec<u8> {
        self.bytes
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    fn word<const N: usize>(&self, offset: usize) -> [u8; N] {
        let bytes = self.bytes();
        let found = bytes
            .get(offset..offset + N)
            .and_then(|found| found.try_into().ok());
        found.unwrap_or([0; N])
    }

    /// A word of the kernel's part.
    pub(crate) fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.word(offset))
    }

    /// A word of the driver's part.
    pub(crate) fn own_u32(&self, offset: usize) -> u32 {
        self.u32(self.split + offset)
    }

    /// A double word of the driver's part.
    pub(crate) fn own_u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.word(self.split + offset))
    }
}

/// An attribute of the new interface.
pub(crate) struct Attribute {
    pub(crate) id: u16,
    pub(crate) length: u16,
    pub(crate) flags: u16,
    pub(crate) data: u64,
}

/// A request of the new interface.
pub(crate) fn request(object: u16, method: u16, attributes: &[Attribute]) -> Vec<u64> {
    let length = 24 + 16 * attributes.len();
    let head = u64::from(length as u16)
        | u64::from(object) << 16
        | u64::from(method) << 32
        | (attributes.len() as u64 & 0xffff) << 48;
    let mut words = vec![head, 0, 0];
    for attribute in attributes {
        words.push(
            u64::from(attribute.id)
                | u64::from(attribute.length) << 16
                | u64::from(attribute.flags) << 32,
        );
        words.push(attribute.data);
    }
    words
}

/// Sends a request of the new interface.
pub(crate) fn ioctl(fd: RawFd, request: &mut [u64]) -> io::Result<()> {
    // SAFETY: the kernel reads and writes the request, and what addresses in it lead to: that is
    // memory of this process which is meant for it, or none at all.
    let result = unsafe { libc::ioctl(fd, RDMA_VERBS_IOCTL, request.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Command {
    /// A command of the kernel's part alone.
    pub(crate) fn new(number: u32, body: Bytes, answer: usize) -> Self {
        Self {
            number,
            body,
            own: Bytes::default(),
            answer,
            own_answer: 0,
        }
    }

    /// The same with parts of the driver's.
    pub(crate) fn with(mut self, own: Bytes, own_answer: usize) -> Self {
        (self.own, self.own_answer) = (own, own_answer);
        self
    }

    /// The kernel's part.
    fn core(&self, answer: u64) -> Bytes {
        let start = Bytes::default();
        let start = if self.answer > 0 {
            start.u64(answer)
        } else {
            start
        };
        start.bytes(&self.body.0)
    }

    /// As the old interface has it.
    pub(crate) fn written(&self, answer: u64) -> Vec<u8> {
        let core = self.core(answer);
        let words = (8 + core.0.len() + self.own.0.len()) / 4;
        let room = (self.answer + self.own_answer) / 4;
        let head = Bytes::default()
            .u32(self.number)
            .u16(words as u16)
            .u16(room as u16);
        head.bytes(&core.0).bytes(&self.own.0).0
    }

    /// Sends the command.
    pub(crate) fn send(&self, fd: RawFd, way: Way) -> io::Result<Answer> {
        let mut bytes = vec![0u64; (self.answer + self.own_answer).div_ceil(8) + 1];
        let place = bytes.as_mut_ptr() as u64;
        match way {
            Way::Write => write(fd, &self.written(place))?,
            Way::Ioctl => self.invoke(fd, place)?,
        }
        Ok(Answer {
            bytes,
            split: self.answer,
        })
    }

    fn invoke(&self, fd: RawFd, place: u64) -> io::Result<()> {
        let core = self.core(place).0;
        let own_place = place + self.answer as u64;
        let parts = [
            (CORE_IN, core.len(), input(&core)),
            (CORE_OUT, self.answer, place),
            (WRITE_CMD, 8, u64::from(self.number)),
            (DRIVER_IN, self.own.0.len(), input(&self.own.0)),
            (DRIVER_OUT, self.own_answer, own_place),
        ];
        let attributes: Vec<Attribute> = parts
            .into_iter()
            .filter(|part| part.1 > 0)
            .map(|(id, length, data)| Attribute {
                id,
                length: length as u16,
                flags: if id < DRIVER_IN { MANDATORY } else { 0 },
                data,
            })
            .collect();
        ioctl(fd, &mut request(0, INVOKE_WRITE, &attributes))
    }
}

/// The data of an attribute that is an input: itself if it is short, or where it is.
fn input(bytes: &[u8]) -> u64 {
    if bytes.len() > 8 {
        return bytes.as_ptr() as u64;
    }
    let mut word = [0; 8];
    word.iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(word)
}

/// Sends a command of the old interface as it is.
pub(crate) fn write(fd: RawFd, command: &[u8]) -> io::Result<()> {
    // SAFETY: as for `ioctl`.
    let result = unsafe { libc::write(fd, command.as_ptr().cast(), command.len()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
