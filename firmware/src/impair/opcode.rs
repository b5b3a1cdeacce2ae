//! Names of BTH opcodes (IBTA volume 1, 9.2.1, table "OpCode field"; A19 for FLUSH and ATOMIC WRITE)
//! as people write them in events: `rc_send_only`, `read_response_last`, `ack`, `cnp`.
//!
//! The transport stands first, and is RC if it is left out; `rdma_` may stand before `write` and
//! `read`. Numbers stand for every other opcode.

/// The operations: name, and lower 5 bits of the opcode.
const OPERATIONS: [(&str, u8); 25] = [
    ("send_first", 0x00),
    ("send_middle", 0x01),
    ("send_last", 0x02),
    ("send_last_immediate", 0x03),
    ("send_only", 0x04),
    ("send_only_immediate", 0x05),
    ("write_first", 0x06),
    ("write_middle", 0x07),
    ("write_last", 0x08),
    ("write_last_immediate", 0x09),
    ("write_only", 0x0a),
    ("write_only_immediate", 0x0b),
    ("read_request", 0x0c),
    ("read_response_first", 0x0d),
    ("read_response_middle", 0x0e),
    ("read_response_last", 0x0f),
    ("read_response_only", 0x10),
    ("ack", 0x11),
    ("atomic_ack", 0x12),
    ("compare_swap", 0x13),
    ("fetch_add", 0x14),
    ("send_last_invalidate", 0x16),
    ("send_only_invalidate", 0x17),
    ("flush", 0x1c),
    ("atomic_write", 0x1d),
];

/// The transports: name, upper 3 bits of the opcode, and bit n for operation n.
const TRANSPORTS: [(&str, u8, u32); 4] = [
    ("rc_", 0x00, u32::MAX),
    ("uc_", 0x20, 0x0000_0fff),
    ("ud_", 0x60, 0x0000_0030),
    ("xrc_", 0xa0, u32::MAX),
];

/// Congestion notification packet (IBTA A17.9).
const CNP: u8 = 0x81;

/// The opcode called `name`.
pub(super) fn by_name(name: &str) -> Option<u8> {
    if name == "cnp" {
        return Some(CNP);
    }
    let mut transports = TRANSPORTS.iter();
    let found = transports.find_map(|row| Some((row, name.strip_prefix(row.0)?)));
    let (&(_, transport, has), operation) = found.unwrap_or((&TRANSPORTS[0], name));
    let operation = operation.strip_prefix("rdma_").unwrap_or(operation);
    let mut operations = OPERATIONS.iter();
    let (_, number) = operations.find(|(known, _)| *known == operation)?;
    (has >> number & 1 != 0).then_some(transport | number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_specification_s() {
        for (name, code) in [
            ("rc_send_only", Some(0x04)),
            ("send_only", Some(0x04)),
            ("rdma_write_first", Some(0x06)),
            ("rc_rdma_read_request", Some(0x0c)),
            ("read_response_last", Some(0x0f)),
            ("ack", Some(0x11)),
            ("fetch_add", Some(0x14)),
            ("send_last_invalidate", Some(0x16)),
            ("send_only_invalidate", Some(0x17)),
            ("flush", Some(0x1c)),
            ("xrc_atomic_write", Some(0xbd)),
            ("uc_write_only", Some(0x2a)),
            ("ud_send_only_immediate", Some(0x65)),
            ("xrc_ack", Some(0xb1)),
            ("cnp", Some(0x81)),
            ("uc_ack", None),
            ("uc_flush", None),
            ("ud_send_first", None),
            ("rc_", None),
            ("", None),
            ("rc_cnp", None),
        ] {
            assert_eq!(by_name(name), code, "{name}");
        }
    }
}
