//! `VERSION`: the first message, with capabilities in JSON.
//!
//! [`negotiate`] turns the client's proposal into what holds for the session
//! and the body of the reply. A reply names only capabilities that the
//! proposal named, with values that take no more digits, so it is never longer
//! than the proposal; QEMU's client discards a longer one. Twin sockets and
//! migration are never accepted.

use serde_json::{Map, Value};

use super::{Put, Reader};
use crate::limits::{MAX_DATA_XFER, MAX_DMA_MAPS, MAX_MSG_FDS, PAGE_SIZES};

const MAJOR: u16 = 0;
const MINOR: u16 = 1;

// What a client means when it leaves a capability out.
const DEFAULT_MSG_FDS: u64 = 1;
const DEFAULT_DATA_XFER: u64 = 1 << 20;
const DEFAULT_DMA_MAPS: u64 = 65_535;
const DEFAULT_PAGE_SIZES: u64 = 4096;

/// What a session runs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NegotiatedCaps {
    /// Minor version of the protocol; the major version is 0.
    pub minor: u16,
    /// Descriptors the client takes in one message; 0 forbids mapping regions.
    pub max_msg_fds: u32,
    /// Data bytes in one region or DMA access; at least 1.
    pub max_data_xfer_size: u32,
    /// DMA mappings that can exist at once.
    pub max_dma_maps: u32,
    /// Page sizes of DMA mappings, or'ed; never 0.
    pub pgsizes: u64,
    /// The client may send `REGION_WRITE_MULTI`.
    pub write_multiple: bool,
}

/// Why no session can be set up. All of them end the connection.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The body is shorter than the version numbers.
    #[error("the version message is too short")]
    Short,
    /// The major version is not ours.
    #[error("the client speaks major version {0}, this server {MAJOR}")]
    Major(u16),
    /// The JSON does not end with a NUL byte.
    #[error("the version data does not end with NUL")]
    NotTerminated,
    /// The JSON cannot be read, or a value has the wrong type.
    #[error("the version data is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// A capability's value leaves nothing to work with.
    #[error("the client's {0} cannot be used")]
    Unusable(&'static str),
}

/// The capabilities of a proposal that mean something here, or of our reply.
#[derive(Debug, Default)]
struct Capabilities {
    max_msg_fds: Option<u64>,
    max_data_xfer_size: Option<u64>,
    max_dma_maps: Option<u64>,
    pgsizes: Option<u64>,
    write_multiple: Option<bool>,
}

impl Capabilities {
    fn from_json(json: &Map<String, Value>) -> Result<Self, VersionError> {
        let number = |key: &'static str| match json.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(value) => Ok(Some(value)),
                None => Err(VersionError::Unusable(key)),
            },
        };
        Ok(Self {
            max_msg_fds: number("max_msg_fds")?,
            max_data_xfer_size: number("max_data_xfer_size")?,
            max_dma_maps: number("max_dma_maps")?,
            pgsizes: number("pgsizes")?,
            write_multiple: match json.get("write_multiple") {
                None => None,
                Some(Value::Bool(value)) => Some(*value),
                Some(_) => return Err(VersionError::Unusable("write_multiple")),
            },
        })
    }

    fn to_json(&self) -> String {
        let members = [
            self.max_msg_fds.map(|v| format!("\"max_msg_fds\":{v}")),
            self.max_data_xfer_size
                .map(|v| format!("\"max_data_xfer_size\":{v}")),
            self.max_dma_maps.map(|v| format!("\"max_dma_maps\":{v}")),
            self.pgsizes.map(|v| format!("\"pgsizes\":{v}")),
            self.write_multiple
                .map(|v| format!("\"write_multiple\":{v}")),
        ];
        let members: Vec<_> = members.into_iter().flatten().collect();
        format!("{{\"capabilities\":{{{}}}}}", members.join(","))
    }
}

/// Answers a client's proposal: the session's values and the reply's body.
pub fn negotiate(body: &[u8]) -> Result<(NegotiatedCaps, Vec<u8>), VersionError> {
    let mut r = Reader::new(body);
    let (Some(major), Some(minor)) = (r.u16(), r.u16()) else {
        return Err(VersionError::Short);
    };
    if major != MAJOR {
        return Err(VersionError::Major(major));
    }
    let data = r.rest();
    let proposed = parse_data(data)?;
    let caps = settle(
        minor.min(MINOR),
        proposed.as_ref().unwrap_or(&Capabilities::default()),
    )?;

    let mut reply = Vec::with_capacity(256);
    reply.put_u16(MAJOR);
    reply.put_u16(caps.minor);
    if let Some(proposed) = proposed {
        reply.extend_from_slice(accepted(&caps, &proposed).to_json().as_bytes());
        reply.push(0);
    }
    Ok((caps, reply))
}

fn parse_data(data: &[u8]) -> Result<Option<Capabilities>, VersionError> {
    let json = match data.split_last() {
        None => return Ok(None),
        Some((0, json)) => json,
        Some(_) => return Err(VersionError::NotTerminated),
    };
    let Value::Object(members) = serde_json::from_slice(json)? else {
        return Err(VersionError::Unusable("version data"));
    };
    match members.get("capabilities") {
        None => Ok(None),
        Some(Value::Object(capabilities)) => Capabilities::from_json(capabilities).map(Some),
        Some(_) => Err(VersionError::Unusable("capabilities")),
    }
}

fn settle(minor: u16, proposed: &Capabilities) -> Result<NegotiatedCaps, VersionError> {
    let at_most = |value: Option<u64>, default: u64, limit: u32| {
        let value = value.unwrap_or(default);
        u32::try_from(value).map_or(limit, |v| v.min(limit))
    };
    let caps = NegotiatedCaps {
        minor,
        max_msg_fds: at_most(proposed.max_msg_fds, DEFAULT_MSG_FDS, MAX_MSG_FDS as u32),
        max_data_xfer_size: at_most(
            proposed.max_data_xfer_size,
            DEFAULT_DATA_XFER,
            MAX_DATA_XFER,
        ),
        max_dma_maps: at_most(proposed.max_dma_maps, DEFAULT_DMA_MAPS, MAX_DMA_MAPS),
        pgsizes: proposed.pgsizes.unwrap_or(DEFAULT_PAGE_SIZES) & PAGE_SIZES,
        write_multiple: proposed.write_multiple.unwrap_or(false),
    };
    if caps.max_data_xfer_size == 0 {
        return Err(VersionError::Unusable("max_data_xfer_size"));
    }
    if caps.pgsizes == 0 {
        return Err(VersionError::Unusable("pgsizes"));
    }
    Ok(caps)
}

fn accepted(caps: &NegotiatedCaps, proposed: &Capabilities) -> Capabilities {
    // max_msg_fds is what *we* take in one message, whatever the client takes;
    // but a longer number could make the reply longer than the request.
    let ours = MAX_MSG_FDS as u64;
    Capabilities {
        max_msg_fds: proposed.max_msg_fds.map(|theirs| match theirs {
            0..=9 => ours.min(9),
            _ => ours,
        }),
        max_data_xfer_size: proposed
            .max_data_xfer_size
            .map(|_| u64::from(caps.max_data_xfer_size)),
        max_dma_maps: proposed.max_dma_maps.map(|_| u64::from(caps.max_dma_maps)),
        pgsizes: proposed.pgsizes.map(|_| caps.pgsizes),
        write_multiple: proposed.write_multiple.map(|_| caps.write_multiple),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(minor: u16, json: &str) -> Vec<u8> {
        let mut body = Vec::new();
        body.put_u16(0);
        body.put_u16(minor);
        body.extend_from_slice(json.as_bytes());
        body.push(0);
        body
    }

    #[track_caller]
    fn reply(minor: u16, json: &str) -> (NegotiatedCaps, String) {
        let request = proposal(minor, json);
        let (caps, reply) = negotiate(&request).unwrap();
        assert!(reply.len() <= request.len(), "longer than the request");
        assert_eq!(reply.last(), Some(&0));
        let json = &reply[4..reply.len() - 1];
        (caps, String::from_utf8(json.to_vec()).unwrap())
    }

    #[test]
    fn a_proposal_as_qemu_sends_it() {
        let (caps, json) = reply(
            0,
            r#"{"capabilities": {"migration": {"pgsize": 4096, "max_bitmap_size": 268435456},
                "max_msg_fds": 16, "max_data_xfer_size": 1048576, "pgsizes": 4096,
                "max_dma_maps": 65535, "write_multiple": true}}"#,
        );
        assert_eq!(caps.minor, 0);
        assert_eq!(caps.max_msg_fds, 16);
        assert!(caps.write_multiple);
        assert_eq!(
            json,
            r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096,"write_multiple":true}}"#
        );
    }

    #[test]
    fn a_reply_names_only_what_was_proposed() {
        let (caps, json) = reply(7, r#"{"capabilities":{"max_data_xfer_size":4096,"x":[]}}"#);
        assert_eq!(caps.minor, 1);
        assert_eq!(caps.max_data_xfer_size, 4096);
        assert_eq!(caps.max_msg_fds, 1);
        assert!(!caps.write_multiple);
        assert_eq!(json, r#"{"capabilities":{"max_data_xfer_size":4096}}"#);
        assert_eq!(
            reply(1, r#"{"capabilities":{}}"#).1,
            r#"{"capabilities":{}}"#
        );
    }

    #[test]
    fn no_data_means_the_defaults_and_no_data_back() {
        let (caps, reply) = negotiate(&[0, 0, 1, 0]).unwrap();
        assert_eq!(reply, [0, 0, 1, 0]);
        assert_eq!(caps.max_msg_fds, 1);
        assert_eq!(caps.max_data_xfer_size, 1 << 20);
        assert_eq!(caps.pgsizes, 4096);
    }

    #[test]
    fn data_without_capabilities_gets_no_data_back() {
        let (_, reply) = negotiate(&proposal(1, "{}")).unwrap();
        assert_eq!(reply.len(), 4);
    }

    #[test]
    fn huge_values_are_cut_to_ours() {
        let (caps, _) = reply(
            1,
            r#"{"capabilities":{"max_msg_fds":18446744073709551615,"max_data_xfer_size":4294967296}}"#,
        );
        assert_eq!(caps.max_msg_fds, MAX_MSG_FDS as u32);
        assert_eq!(caps.max_data_xfer_size, MAX_DATA_XFER);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let deep = format!(r#"{{"x":{}}}"#, "[".repeat(10_000));
        for json in [
            "",
            "{",
            "[]",
            "null",
            &deep,
            r#"{"capabilities":[]}"#,
            r#"{"capabilities":{"max_msg_fds":-1}}"#,
            r#"{"capabilities":{"max_msg_fds":1e99}}"#,
            r#"{"capabilities":{"max_msg_fds":"16"}}"#,
            r#"{"capabilities":{"write_multiple":1}}"#,
            r#"{"capabilities":{"max_data_xfer_size":0}}"#,
            r#"{"capabilities":{"pgsizes":65536}}"#,
            "{\"capabilities\":\"\u{0}\"}",
        ] {
            assert!(negotiate(&proposal(1, json)).is_err(), "{json:.60}");
        }
        assert!(negotiate(&[0, 0, 0]).is_err());
        assert!(negotiate(&[1, 0, 0, 0]).is_err());
        assert!(negotiate(b"\0\0\0\0{}").is_err());
    }
}
