//! Flows: what a frame has in common with others that must stay in order, and its hash.
//!
//! The hash is the one that network adapters use for receive side scaling, Toeplitz over source
//! address, destination address, source port and destination port, in the byte order of the wire,
//! with the key of Microsoft's specification; without ports over the addresses. The two directions
//! of a connection have different hashes.

/// IP addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source.
        source: [u8; 4],
        /// Destination.
        destination: [u8; 4],
    },
    /// IPv6.
    V6 {
        /// Source.
        source: [u8; 16],
        /// Destination.
        destination: [u8; 16],
    },
}

/// Ports of a TCP segment or a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Source.
    pub source: u16,
    /// Destination.
    pub destination: u16,
}

/// What names a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// IP addresses.
    pub addresses: Addresses,
    /// Ports, unless the packet has none or hides them.
    pub ports: Option<Ports>,
}

impl Flow {
    /// The hash to spread flows by.
    #[must_use]
    pub fn hash(&self) -> u32 {
        let mut hash = Toeplitz::new();
        match &self.addresses {
            Addresses::V4 {
                source,
                destination,
            } => hash.bytes(source).bytes(destination),
            Addresses::V6 {
                source,
                destination,
            } => hash.bytes(source).bytes(destination),
        };
        if let Some(ports) = self.ports {
            hash.word(u32::from(ports.source) << 16 | u32::from(ports.destination));
        }
        hash.value
    }
}

/// The key: as many bits as the longest input has, and 32 more.
const KEY: [u32; 10] = [
    0x6d5a_56da,
    0x255b_0ec2,
    0x4167_253d,
    0x43a3_8fb0,
    0xd0ca_2bcb,
    0xae7b_30b4,
    0x77cb_2da3,
    0x8030_f20c,
    0x6a42_b73b,
    0xbeac_01fa,
];

/// A hash that is being made: for each bit of the input that is set, the 32 bits of the key that
/// start at the bit's place are added.
struct Toeplitz {
    value: u32,
    /// The key from the next word's place on.
    key: core::slice::Windows<'static, u32>,
}

impl Toeplitz {
    fn new() -> Self {
        Self {
            value: 0,
            key: KEY.windows(2),
        }
    }

    /// Adds bytes, whose number is a multiple of 4.
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for word in bytes.chunks_exact(4) {
            if let Some(word) = word.first_chunk::<4>() {
                self.word(u32::from_be_bytes(*word));
            }
        }
        self
    }

    /// Adds 32 bits; the key has room for 9 times that.
    fn word(&mut self, word: u32) {
        let Some([high, low]) = self.key.next() else {
            return;
        };
        let key = u64::from(*high) << 32 | u64::from(*low);
        for bit in 0..32 {
            let mask = (word >> (31 - bit) & 1).wrapping_neg();
            self.value ^= (key >> (32 - bit)) as u32 & mask;
        }
    }
}
