//! The driver on the newer kernel that Debian 13's backports have.
//!
//! What differs from the kernel of the release is the interface that the module is compiled
//! against, so each part of that is used once: the Ethernet interface, the RDMA device with and
//! without the connection manager, and the module's coming and going. The tests on the kernel of
//! the release look at each part more closely.

use anyhow::{Result, ensure};

use super::cluster::{Node, Plan};
use super::{Prepared, life, stock, stock_tools};
use crate::debian::kernel::Kernel;

/// Two guests with that kernel use what there is.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "backports",
        kernel: Kernel::Backports,
        ..Plan::default()
    };
    stock::on(prepared, &plan, |cluster| {
        for node in cluster.nodes() {
            is_of_backports(node)?;
        }
        stock::check_device(cluster)?;
        stock_tools::one_of_each(cluster)?;
        life::reload(cluster)
    })
}

/// The kernel that runs is a package of the backports, and the module is DKMS's for it.
fn is_of_backports(node: &Node) -> Result<()> {
    let said = node.run(
        "release=$(uname -r); dpkg-query -W -f '${Version}\\n' linux-image-$release; \
         dkms status -m vrnic -k $release; modinfo -F filename vrnic; echo $release",
    )?;
    let lines: Vec<_> = said.text.lines().collect();
    let right = match lines.as_slice() {
        [package, dkms, file, release] => {
            println!("  guest {}: {dkms}", node.name);
            package.contains("~bpo13")
                && dkms.contains(&format!(", {release}, "))
                && dkms.ends_with(": installed")
                && file.starts_with(&format!("/lib/modules/{release}/updates/dkms/"))
        }
        _ => false,
    };
    ensure!(right, "guest {}: {}", node.name, said.text);
    Ok(())
}
