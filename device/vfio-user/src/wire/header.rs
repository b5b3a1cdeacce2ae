//! The 16-byte header of every message (vfio-user, "Header").

use super::{Put, Reader};

/// The message's purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Negotiates the version and the capabilities; always the first.
    Version,
    /// Adds a range of the client's memory.
    DmaMap,
    /// Takes ranges of the client's memory away.
    DmaUnmap,
    /// Asks for the device's type and the number of regions and IRQs.
    DeviceGetInfo,
    /// Asks for one region's size, access and mapping.
    DeviceGetRegionInfo,
    /// Asks for ioeventfds and ioregionfds of a region.
    DeviceGetRegionIoFds,
    /// Asks for one interrupt type's properties.
    DeviceGetIrqInfo,
    /// Sets how interrupts are signalled, masks and triggers them.
    DeviceSetIrqs,
    /// Reads from a region.
    RegionRead,
    /// Writes to a region.
    RegionWrite,
    /// Reads from the client's memory (server to client).
    DmaRead,
    /// Writes to the client's memory (server to client).
    DmaWrite,
    /// Resets the device.
    DeviceReset,
    /// Dirty-page tracking of early protocol versions.
    UserDirtyPages,
    /// Several small region writes in one message.
    RegionWriteMulti,
    /// Gets, sets or probes a feature (migration).
    DeviceFeature,
    /// Reads migration data.
    MigDataRead,
    /// Writes migration data.
    MigDataWrite,
    /// A number that this library does not know.
    Unknown(u16),
}

const COMMANDS: [(u16, Command); 18] = [
    (1, Command::Version),
    (2, Command::DmaMap),
    (3, Command::DmaUnmap),
    (4, Command::DeviceGetInfo),
    (5, Command::DeviceGetRegionInfo),
    (6, Command::DeviceGetRegionIoFds),
    (7, Command::DeviceGetIrqInfo),
    (8, Command::DeviceSetIrqs),
    (9, Command::RegionRead),
    (10, Command::RegionWrite),
    (11, Command::DmaRead),
    (12, Command::DmaWrite),
    (13, Command::DeviceReset),
    (14, Command::UserDirtyPages),
    (15, Command::RegionWriteMulti),
    (16, Command::DeviceFeature),
    (17, Command::MigDataRead),
    (18, Command::MigDataWrite),
];

impl Command {
    /// The command of a wire number; unknown ones keep it.
    pub fn from_wire(number: u16) -> Self {
        let known = COMMANDS.iter().find(|(n, _)| *n == number);
        known.map_or(Self::Unknown(number), |(_, command)| *command)
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u16 {
        if let Self::Unknown(number) = self {
            return number;
        }
        let known = COMMANDS.iter().find(|(_, command)| *command == self);
        known.map_or(0, |(number, _)| *number)
    }
}

/// The direction of a message: bits 0 to 3 of the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command, with the No_reply flag.
    Command {
        /// The sender wants no reply, not even an error.
        no_reply: bool,
    },
    /// The answer to a command with the same message ID.
    Reply,
    /// The answer to a command that failed, with an errno (which may be 0).
    Error(u32),
}

const TYPE_MASK: u32 = 0xf;
const TYPE_COMMAND: u32 = 0;
const TYPE_REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// What is wrong with a header. All of them end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The size is smaller than the header itself.
    #[error("message size {0} is smaller than its header")]
    Short(u32),
    /// The type is neither command nor reply.
    #[error("message type {0} is neither command nor reply")]
    Type(u32),
    /// Flag bits are set that the protocol reserves for this type.
    #[error("message flags {0:#x} have reserved bits set")]
    Flags(u32),
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the sender of a command, echoed in the reply; means nothing
    /// to the receiver.
    pub id: u16,
    /// What is asked or answered.
    pub command: Command,
    /// Bytes that follow the header.
    pub body: u32,
    /// Command, reply or error.
    pub kind: Kind,
}

impl Header {
    /// Bytes on the wire.
    pub const SIZE: usize = 16;

    /// Reads a header. The *Error* field of a command is reserved: ignored.
    pub fn parse(bytes: &[u8; Self::SIZE]) -> Result<Self, HeaderError> {
        let mut r = Reader::new(bytes);
        let mut next16 = || r.u16().unwrap_or(0);
        let (id, command) = (next16(), Command::from_wire(next16()));
        let mut next32 = || r.u32().unwrap_or(0);
        let (size, flags, errno) = (next32(), next32(), next32());
        let body = size
            .checked_sub(Self::SIZE as u32)
            .ok_or(HeaderError::Short(size))?;
        let kind = Self::kind(flags, errno)?;
        Ok(Self {
            id,
            command,
            body,
            kind,
        })
    }

    fn kind(flags: u32, errno: u32) -> Result<Kind, HeaderError> {
        match (flags & TYPE_MASK, flags & !TYPE_MASK) {
            (TYPE_COMMAND, 0) => Ok(Kind::Command { no_reply: false }),
            (TYPE_COMMAND, NO_REPLY) => Ok(Kind::Command { no_reply: true }),
            (TYPE_REPLY, 0) => Ok(Kind::Reply),
            (TYPE_REPLY, ERROR) => Ok(Kind::Error(errno)),
            (TYPE_COMMAND | TYPE_REPLY, _) => Err(HeaderError::Flags(flags)),
            (other, _) => Err(HeaderError::Type(other)),
        }
    }

    /// Appends the header to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let (flags, errno) = match self.kind {
            Kind::Command { no_reply: false } => (TYPE_COMMAND, 0),
            Kind::Command { no_reply: true } => (TYPE_COMMAND | NO_REPLY, 0),
            Kind::Reply => (TYPE_REPLY, 0),
            Kind::Error(errno) => (TYPE_REPLY | ERROR, errno),
        };
        out.put_u16(self.id);
        out.put_u16(self.command.to_wire());
        out.put_u32(self.body.saturating_add(Self::SIZE as u32));
        out.put_u32(flags);
        out.put_u32(errno);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_keeps_its_number() {
        for number in 0..=u16::MAX {
            assert_eq!(Command::from_wire(number).to_wire(), number);
        }
    }

    #[test]
    fn every_flag_pattern_is_either_legal_or_refused() {
        for flags in 0..0x100_u32 {
            let mut bytes = [0; 16];
            bytes[4..8].copy_from_slice(&16_u32.to_ne_bytes());
            bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
            bytes[12..16].copy_from_slice(&22_u32.to_ne_bytes());
            let expected = match flags {
                0x00 => Ok(Kind::Command { no_reply: false }),
                0x10 => Ok(Kind::Command { no_reply: true }),
                0x01 => Ok(Kind::Reply),
                0x21 => Ok(Kind::Error(22)),
                f if f & 0xf > 1 => Err(HeaderError::Type(f & 0xf)),
                f => Err(HeaderError::Flags(f)),
            };
            assert_eq!(
                Header::parse(&bytes).map(|h| h.kind),
                expected,
                "{flags:#x}"
            );
        }
    }

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header {
            id: 0xbeef,
            command: Command::RegionWriteMulti,
            body: 24,
            kind: Kind::Error(95),
        };
        let mut bytes = Vec::new();
        header.emit(&mut bytes);
        let bytes: [u8; 16] = bytes.try_into().unwrap();
        assert_eq!(bytes[4..8], 40_u32.to_ne_bytes());
        assert_eq!(Header::parse(&bytes), Ok(header));
    }

    #[test]
    fn a_size_below_the_header_is_refused() {
        for size in 0..16_u32 {
            let mut bytes = [0; 16];
            bytes[4..8].copy_from_slice(&size.to_ne_bytes());
            assert_eq!(Header::parse(&bytes), Err(HeaderError::Short(size)));
        }
    }
}
