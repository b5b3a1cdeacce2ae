//! What the function says about itself.

use anyhow::anyhow;
use serde_json::json;
use std::sync::Arc;
use vrnic_abi::object::{DeviceAttributes, PathMtu, PortAttributes, PortState};
use vrnic_abi::registers::Capabilities;

use crate::cli::InfoArguments;
use crate::peer::bring_up;
use crate::report::{result, say, timed};

pub(crate) fn run(arguments: &InfoArguments) -> anyhow::Result<()> {
    let driver = bring_up("-", &arguments.target)?;
    print_device(driver.attributes());
    print_capabilities(driver.capabilities());
    say!("doorbell pages         {}", driver.doorbell_pages());
    let mapped = driver.platform().doorbells_mapped();
    say!(
        "doorbells              {}",
        if mapped { "mapped" } else { "trapped" }
    );
    print_port(&driver.query_port()?);
    let driver = Arc::try_unwrap(driver).map_err(|_| anyhow!("the driver is still in use"))?;
    timed("-", "remove", || Ok(driver.remove()?))
}

fn print_device(device: &DeviceAttributes) {
    let guid: Vec<_> = device
        .node_guid
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let version = device.firmware_version;
    let (major, minor, patch) = (version >> 24, version >> 16 & 0xff, version & 0xffff);
    say!("node GUID              {}", guid.join(":"));
    say!("firmware               {major}.{minor}.{patch}");
    say!("queue pairs            {}", device.max_qp);
    say!("completion queues      {}", device.max_cq);
    say!("event queues           {}", device.max_eq);
    say!("memory regions         {}", device.max_mr);
    say!("protection domains     {}", device.max_pd);
    say!("largest region         {:#x}", device.max_mr_size);
    say!("page sizes             {:#x}", device.page_sizes);
    say!(
        "segments, inline bytes {}, {}",
        device.max_sge,
        device.max_inline
    );
    say!("MSI-X vectors          {}", device.vectors);
    for (name, limit) in objects(device) {
        say!("{name:<22} {limit}");
    }
    let limits: serde_json::Map<_, _> = objects(device)
        .into_iter()
        .map(|(name, limit)| (name.replace(' ', "_").to_lowercase(), limit.into()))
        .collect();
    result(&json!({
        "step": "device", "ok": true, "limits": limits, "node_guid": guid.join(":"), "max_qp": device.max_qp,
        "max_cq": device.max_cq, "max_mr": device.max_mr, "vectors": device.vectors,
        "capabilities": device.capabilities, "firmware": format!("{major}.{minor}.{patch}"),
    }));
}

/// Limits of objects that few programs use.
fn objects(device: &DeviceAttributes) -> [(&'static str, u32); 10] {
    [
        ("shared receive queues", device.max_srq),
        ("SRQ entries", entries(device.log_max_srq_entries)),
        ("address handles", device.max_ah),
        ("memory windows", device.max_mw),
        ("fast registered pages", device.max_fast_pages),
        ("multicast groups", device.max_multicast_groups),
        ("multicast attachments", device.max_multicast_attachments),
        ("XRC domains", device.max_xrcd),
        ("frame filters", device.max_filters),
        ("largest message", device.max_message),
    ]
}

fn entries(log: u8) -> u32 {
    1u32.checked_shl(log.into()).unwrap_or(u32::MAX)
}

fn print_capabilities(capabilities: Capabilities) {
    let names: Vec<_> = capabilities.iter_names().map(|(name, _)| name).collect();
    say!("capabilities           {}", names.join(", "));
    result(&json!({"step": "capabilities", "ok": true, "names": names}));
}

fn print_port(port: &PortAttributes) {
    let mac: Vec<_> = port.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let state = PortState::from_raw(port.state);
    let mtu = PathMtu::from_raw(port.active_mtu).map_or(0, PathMtu::bytes);
    say!("port                   {state:?}, {} Mbit/s", port.speed);
    say!("Ethernet address, MTU  {}, {}", mac.join(":"), port.mtu);
    say!("path MTU, GIDs         {mtu}, {}", port.gid_entries);
    result(&json!({
        "step": "port", "ok": true, "mac": mac.join(":"), "mtu": port.mtu, "path_mtu": mtu,
        "active": state == Some(PortState::Active), "gids": port.gid_entries,
    }));
}
