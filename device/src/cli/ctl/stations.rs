//! Arguments of `vrnic ctl station`: a station and its port, as the protocol names them.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub(super) enum StationCommand {
    /// Put a station behind a port: it is not learned elsewhere, and no function takes its address.
    Add {
        #[command(flatten)]
        station: Station,
        #[command(flatten)]
        port: Port,
    },
    /// End that.
    Remove {
        #[command(flatten)]
        station: Station,
    },
}

/// What names a station.
#[derive(Args, Debug)]
pub(super) struct Station {
    /// Its Ethernet address.
    mac: String,
    /// Its VLAN in the network; 0 is that of frames without a tag.
    #[arg(long, default_value_t = 0)]
    vlan: u16,
}

/// A port of the switch.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Port {
    /// Behind this function.
    #[arg(long, value_name = "N")]
    function: Option<u16>,
    /// Beyond the link.
    #[arg(long)]
    link: bool,
}

impl StationCommand {
    /// The command of the protocol, and its arguments.
    pub(super) fn request(&self) -> (&'static str, Value) {
        match self {
            Self::Add {
                station: Station { mac, vlan },
                port,
            } => {
                let port = match port.function {
                    Some(number) => json!({"function": number}),
                    None => json!("link"),
                };
                let arguments = json!({"mac": mac, "vlan": vlan, "port": port});
                ("add-station", arguments)
            }
            Self::Remove {
                station: Station { mac, vlan },
            } => ("remove-station", json!({"mac": mac, "vlan": vlan})),
        }
    }
}
