//! How the protocol names what the interface and the firmware have as codes.
//!
//! Names are the field's: `RC`, `RTS`, `remote_access`. What the interface defines keeps its name, in
//! the usual spelling of the place where it stands.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vrnic_abi::counter::Counter;
use vrnic_abi::registers::{DeviceState, HealthCode};
use vrnic_firmware::frontend::env::Trouble;
use vrnic_firmware::transport::{Kind, QpEvent};
use vrnic_firmware::types::{Access, Gid, Mac, Outcome, State};

/// `CamelCase` as `snake_case`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 8);
    for (at, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// A counter, as RNICs' drivers spell it.
pub(crate) fn counter(counter: Counter) -> String {
    snake(&format!("{counter:?}"))
}

/// Why a function failed.
pub(crate) fn health(code: u32) -> String {
    let known = u8::try_from(code).ok().and_then(HealthCode::from_raw);
    known.map_or_else(
        || format!("code_{code}"),
        |code| snake(&format!("{code:?}")),
    )
}

/// State of a function.
pub(crate) const fn device_state(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Reset => "RESET",
        DeviceState::Ready => "READY",
        DeviceState::Error => "ERROR",
        DeviceState::Resetting => "RESETTING",
    }
}

/// Type of a queue pair.
pub(crate) const fn qp_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Rc => "RC",
        Kind::Uc => "UC",
        Kind::Ud => "UD",
        Kind::Gsi => "GSI",
        Kind::Raw => "RAW_PACKET",
        Kind::XrcInitiator => "XRC_INI",
        Kind::XrcTarget => "XRC_TGT",
    }
}

/// State of a queue pair (IBTA volume 1, 10.3.1), as verbs spell it.
pub(crate) const fn qp_state(state: State) -> &'static str {
    match state {
        State::Reset => "RESET",
        State::Init => "INIT",
        State::Rtr => "RTR",
        State::Rts => "RTS",
        State::Sqd => "SQD",
        State::Sqe => "SQE",
        State::Error => "ERR",
    }
}

/// What went wrong with a queue pair.
pub(crate) const fn trouble(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Completion(outcome) => outcome_name(outcome),
        Trouble::Event(event) => match event {
            QpEvent::CommunicationEstablished => "communication_established",
            QpEvent::SendQueueDrained => "send_queue_drained",
            QpEvent::Fatal => "qp_fatal",
            QpEvent::RequestError => "qp_request_error",
            QpEvent::AccessError => "qp_access_error",
            QpEvent::LastWqeReached => "last_wqe_reached",
        },
    }
}

const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::LocalLength => "local_length",
        Outcome::LocalQpOperation => "local_qp_operation",
        Outcome::LocalProtection => "local_protection",
        Outcome::Flushed => "flushed",
        Outcome::MemoryWindowBind => "memory_window_bind",
        Outcome::BadResponse => "bad_response",
        Outcome::LocalAccess => "local_access",
        Outcome::RemoteInvalidRequest => "remote_invalid_request",
        Outcome::RemoteAccess => "remote_access",
        Outcome::RemoteOperation => "remote_operation",
        Outcome::RetryExceeded => "retry_exceeded",
        Outcome::RnrRetryExceeded => "rnr_retry_exceeded",
    }
}

/// A value whose text is made when the answer is written, and read when a request is, and not on the
/// engine's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<T>(pub(crate) T);

impl Serialize for Text<Mac> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&MacText(self.0))
    }
}

impl Display for Text<Mac> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        MacText(self.0).fmt(f)
    }
}

struct MacText(Mac);

impl Display for MacText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Text<Mac> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not an Ethernet address such as 02:00:00:00:00:01");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            // A sign would be a number to Rust, too.
            let two_digits = |part: &&str| part.len() == 2 && !part.starts_with('+');
            let part = parts.next().filter(two_digits);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(wrong)?;
        }
        match parts.next() {
            None => Ok(Self(Mac(bytes))),
            Some(_) => Err(wrong()),
        }
    }
}

/// A GID is read as the IP address that it is made of.
impl FromStr for Text<Gid> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(IpAddr::V4(address)) => Ok(Self(Gid::from_v4(address.octets()))),
            Ok(IpAddr::V6(address)) => Ok(Self(Gid(address.octets()))),
            Err(_) => Err(format!("'{text}' is not an IP address")),
        }
    }
}

impl<'de, T> Deserialize<'de> for Text<T>
where
    Self: FromStr<Err = String>,
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Text<Gid> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Ipv6Addr::from(self.0.0))
    }
}

impl Serialize for Text<Access> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(
            self.0
                .iter_names()
                .map(|(name, _)| name.to_ascii_lowercase()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_field() {
        assert_eq!(counter(Counter::PortXmitData), "port_xmit_data");
        assert_eq!(counter(Counter::RxIcrcEncapsulated), "rx_icrc_encapsulated");
        assert_eq!(health(1), "bad_admin_queue");
        assert_eq!(health(77), "code_77");
        assert_eq!(health(u32::MAX), "code_4294967295");
    }

    #[test]
    fn addresses_are_written_as_people_read_them() {
        assert_eq!(
            json(&Text(Mac([2, 0, 0, 0, 0xab, 1]))),
            "\"02:00:00:00:ab:01\""
        );
        assert_eq!(
            json(&Text(Gid::from_v4([10, 0, 0, 7]))),
            "\"::ffff:10.0.0.7\""
        );
        assert_eq!(
            "::ffff:10.0.0.7".parse(),
            "10.0.0.7".parse::<Text<Gid>>(),
            "both are the address"
        );
        assert!("10.0.0".parse::<Text<Gid>>().is_err());
        let access = Access::REMOTE_READ | Access::LOCAL_WRITE;
        assert_eq!(json(&Text(access)), "[\"local_write\",\"remote_read\"]");
    }

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }
}
