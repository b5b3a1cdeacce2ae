//! Bring-up of one side, and the exchange of what each must know of the other.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use vrnic_abi::object::{AddressVector, PathMtu};
use vrnic_driver::{Config, Connection, Driver};
use vrnic_driver_vfio::HostPlatform;

use crate::channel::Channel;
use crate::cli::{PairArguments, Role, Target};
use crate::endpoint::Endpoint;
use crate::report::timed;

/// Time for an answer of a peer that is there.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// Memory beside the largest message, for gaps and offsets.
const SLACK: u64 = 64 << 10;

/// Probes the function.
pub(crate) fn bring_up(side: &str, target: &Target) -> anyhow::Result<Arc<Driver<HostPlatform>>> {
    let platform = timed(side, "open the device", || target.open())?;
    let config = Config {
        completion_eqs: 2,
        check_period: 50_000_000,
        ..Config::default()
    };
    let driver = timed(side, "probe", || Ok(Driver::probe(platform, config)?))?;
    Ok(Arc::new(driver))
}

/// The GID of an IP address.
pub(crate) fn gid(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Sets the port up: MTU and the first GID.
pub(crate) fn configure(
    side: &str,
    driver: &Driver<HostPlatform>,
    arguments: &PairArguments,
) -> anyhow::Result<()> {
    if let Some(mtu) = arguments.mtu {
        timed(side, "port MTU", || Ok(driver.set_mtu(mtu)?))?;
    }
    let host = if arguments.role == Role::B { 2 } else { 1 };
    let default = IpAddr::V4(Ipv4Addr::new(10, 77, 0, host));
    let address = arguments.ip.unwrap_or(default);
    timed(side, "GID table", || {
        driver.set_gid(0, gid(address), 0)?;
        let entry = driver.query_gid(0)?;
        ensure!(entry.gid == gid(address), "the GID table holds {entry:?}");
        Ok(())
    })
}

/// What a side tells the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    qpn: u32,
    psn: u32,
    mtu: u8,
    rkey: u32,
    address: u64,
    gid: [u8; 16],
    mac: [u8; 6],
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex<const N: usize>(text: &str) -> anyhow::Result<[u8; N]> {
    ensure!(
        text.len() == 2 * N && text.is_ascii(),
        "bad length of {text:?}"
    );
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * index..2 * index + 2).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16)?;
    }
    Ok(bytes)
}

impl Identity {
    fn text(&self) -> String {
        let Self {
            qpn,
            psn,
            mtu,
            rkey,
            address,
            gid,
            mac,
        } = self;
        let (gid, mac) = (hex(gid), hex(mac));
        format!("hello {qpn} {psn} {mtu} {rkey} {address} {gid} {mac}")
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let [qpn, psn, mtu, rkey, address, gid, mac] = words[..] else {
            anyhow::bail!("the other side introduced itself with {text:?}");
        };
        Ok(Self {
            qpn: qpn.parse()?,
            psn: psn.parse()?,
            mtu: mtu.parse()?,
            rkey: rkey.parse()?,
            address: address.parse()?,
            gid: from_hex(gid)?,
            mac: from_hex(mac)?,
        })
    }
}

/// A connected pair of endpoints, seen from one side.
pub(crate) struct Link {
    pub(crate) side: &'static str,
    pub(crate) endpoint: Endpoint,
    pub(crate) channel: Channel,
    /// Virtual address and key of the other side's memory.
    pub(crate) remote: (u64, u32),
    /// Time that one transfer may take.
    pub(crate) timeout: Duration,
}

impl Link {
    /// Creates the endpoint and connects it with the one at the other end of the channel.
    pub(crate) fn establish(
        side: &'static str,
        driver: &Arc<Driver<HostPlatform>>,
        mut channel: Channel,
        vector: u16,
        arguments: &PairArguments,
    ) -> anyhow::Result<Self> {
        let memory_size = arguments.max_size + SLACK;
        let mut endpoint = Endpoint::create(side, driver, vector, memory_size)?;
        let port = driver.query_port()?;
        let ours = Identity {
            qpn: endpoint.qp.number(),
            psn: (arguments.seed as u32).wrapping_mul(0x9e_3779) & 0xff_ffff,
            mtu: port.active_mtu,
            rkey: endpoint.key(),
            address: endpoint.address(0),
            gid: driver.query_gid(0)?.gid,
            mac: port.mac,
        };
        let patience = Duration::from_secs(arguments.peer_timeout);
        let theirs = timed(side, "exchange with the other side", || {
            channel.send(&ours.text(), patience)?;
            Identity::parse(&channel.expect("hello", patience)?)
        })?;
        endpoint.connect(side, &connection(&ours, &theirs)?)?;
        channel.send("ready", ANSWER)?;
        channel.expect("ready", ANSWER)?;
        Ok(Self {
            side,
            endpoint,
            channel,
            remote: (theirs.address, theirs.rkey),
            timeout: Duration::from_secs(arguments.transfer_timeout),
        })
    }
}

fn connection(ours: &Identity, theirs: &Identity) -> anyhow::Result<Connection> {
    let mtu = PathMtu::from_raw(ours.mtu.min(theirs.mtu));
    Ok(Connection {
        remote_qpn: theirs.qpn,
        path: AddressVector {
            gid: theirs.gid,
            mac: theirs.mac,
            hop_limit: 64,
            ..AddressVector::default()
        },
        mtu: mtu.context("bad path MTU")?,
        send_psn: ours.psn,
        receive_psn: theirs.psn,
        ..Connection::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_the_channel() {
        let identity = Identity {
            qpn: 0x12_3456,
            psn: 7,
            mtu: 5,
            rkey: u32::MAX,
            address: u64::MAX,
            gid: gid(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1))),
            mac: [2, 0, 0xfe, 1, 2, 3],
        };
        let text = identity.text();
        let rest = text.strip_prefix("hello ").expect("prefix");
        assert_eq!(Identity::parse(rest).expect("parses"), identity);
        assert!(Identity::parse("1 2 3").is_err());
        assert!(Identity::parse(&rest[..rest.len() - 1]).is_err());
    }
}
