//! Tests of the kernel's own users of RDMA between stock guests: NFS over RDMA (RFC 8166, RFC
//! 8267) and NVMe over Fabrics with its RDMA transport.
//!
//! Guest b serves memory, guest a writes to it, forgets what it has cached, and reads it back. What
//! is compared with are files of the distribution that both guests have from their images, so that
//! neither end has to be believed about the other. In contrast to the programs of the other stock
//! tests, these register their memory by work requests (fast registration), have the peer's keys
//! invalidated, and use a physical key for what they do not register.
//!
//! A test ends when both devices are left with the objects they had before it.

use anyhow::{Result, ensure};

use super::Prepared;
use super::cluster::{Node, Plan};
use super::stock::on;

/// Some hundred small files, and a few of many MiB.
const FILES: &str = "usr/lib/gcc usr/lib/x86_64-linux-gnu/perl-base";

/// What a device has, without its completion queues: the kernel keeps those for its next user.
const OBJECTS: &str = "rdma resource | sed 's/ cq [0-9]*//'";

/// A guest's caches are emptied of all that is also elsewhere.
const FORGET: &str = "sync && echo 3 > /proc/sys/vm/drop_caches";

/// Remembers what the device has, for [`nothing_left`].
fn remember(node: &Node) -> Result<()> {
    node.run(&format!("{OBJECTS} > /tmp/objects && test -s /tmp/objects"))?;
    Ok(())
}

/// Waits until the device has what it had: connections are taken down after their user has gone.
fn nothing_left(node: &Node) -> Result<()> {
    node.run(&format!(
        "until {OBJECTS} | cmp -s - /tmp/objects; do :; done"
    ))?;
    Ok(())
}

/// Starts a server of a file system in memory, for version 4 alone: the others need a port mapper.
const NFS_SERVER: &str = "set -e
    modprobe nfsd
    modprobe rpcrdma
    mkdir -p /srv/memory /var/lib/nfs/v4recovery
    mount -t tmpfs memory /srv/memory
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    echo '/srv/memory *(rw,fsid=0,no_root_squash,insecure,no_subtree_check)' > /etc/exports
    touch /var/lib/nfs/etab /var/lib/nfs/rmtab
    exportfs -ra
    rpc.mountd -N 2 -N 3
    cd /proc/fs/nfsd
    echo -3 > versions
    echo rdma 20049 > portlist
    echo 4 > threads
    echo y > v4_end_grace";

/// A tree of files is written to a file system that the other guest serves, and is the same when
/// it is read back and on the server.
pub(crate) fn nfs(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "stock-nfs",
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let (a, b) = cluster.pair()?;
        a.run("modprobe rpcrdma")?;
        [a, b].into_iter().try_for_each(remember)?;
        b.run(NFS_SERVER)?;
        a.run(&format!(
            "mkdir -p /mnt/nfs && mount -t nfs -o rdma,port=20049,vers=4.2 {}:/ /mnt/nfs",
            b.address
        ))?;
        let mounts = a.run("grep /mnt/nfs /proc/mounts")?.text;
        ensure!(mounts.contains("proto=rdma"), "not over RDMA: {mounts}");

        a.run(&format!(
            "cd / && cp -a --parents {FILES} /mnt/nfs && {FORGET}"
        ))?;
        for (node, copy) in [(a, "/mnt/nfs"), (b, "/srv/memory")] {
            same_files(node, copy)?;
        }
        a.run("umount /mnt/nfs")?;
        b.run("echo 0 > /proc/fs/nfsd/threads")?;
        [a, b].into_iter().try_for_each(nothing_left)
    })
}

/// The copies of [`FILES`] in a folder are as the guest's own image has them.
fn same_files(node: &Node, copy: &str) -> Result<()> {
    node.run(&format!(
        "cd / && for tree in {FILES}; do \
             diff -r --no-dereference $tree {copy}/$tree || exit 1; done"
    ))?;
    let count = node.run(&format!("find {copy} -type f | wc -l"))?.text;
    println!("  guest {}: {} files are the same", node.name, count.trim());
    Ok(())
}

/// Serves a disk in memory; `ADDRESS` is to be replaced.
const NVME_TARGET: &str = "set -e
    modprobe nvmet-rdma
    modprobe loop
    mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
    mkdir -p /srv/memory
    mount -t tmpfs memory /srv/memory
    truncate -s 96M /srv/memory/disk
    disk=$(losetup -f --show /srv/memory/disk)
    cd /sys/kernel/config/nvmet/subsystems
    mkdir memory
    echo 1 > memory/attr_allow_any_host
    mkdir memory/namespaces/1
    echo -n $disk > memory/namespaces/1/device_path
    echo 1 > memory/namespaces/1/enable
    mkdir ../ports/1
    cd ../ports/1
    echo rdma > addr_trtype
    echo ipv4 > addr_adrfam
    echo ADDRESS > addr_traddr
    echo 4420 > addr_trsvcid
    ln -s /sys/kernel/config/nvmet/subsystems/memory subsystems/memory";

/// Waits for the namespace, writes an archive to it, and reads that back from where it went.
const NVME_HOST: &str = "set -e
    disk=/dev/nvme0n1
    until [ -b $disk ]; do :; done
    tar -C / -c -b 2048 -f $disk FILES
    sync
    echo 3 > /proc/sys/vm/drop_caches
    tar -C / -d -b 2048 -f $disk
    dd if=$disk bs=1M iflag=direct status=none | sha256sum";

/// An archive is written to a disk that the other guest serves; it holds what the files do when it
/// is read back, and the whole disk is the same at both ends.
pub(crate) fn nvme(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "stock-nvme",
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let (a, b) = cluster.pair()?;
        a.run("modprobe nvme-rdma")?;
        [a, b].into_iter().try_for_each(remember)?;
        b.run(&NVME_TARGET.replace("ADDRESS", &b.address))?;
        a.run(&format!(
            "nvme connect -t rdma -a {} -s 4420 -n memory",
            b.address
        ))?;
        let read = a.run(&NVME_HOST.replace("FILES", FILES))?.text;
        let kept = b.run("sync && sha256sum < /srv/memory/disk")?.text;
        ensure!(read == kept, "guest a reads {read}, guest b has {kept}");
        let blank = b.run("head -c 96M /dev/zero | sha256sum")?.text;
        ensure!(kept != blank, "nothing was written");
        println!("  96 MiB are the same at both ends: {}", kept.trim());

        a.run("nvme disconnect -n memory")?;
        b.run("rm /sys/kernel/config/nvmet/ports/1/subsystems/memory")?;
        [a, b].into_iter().try_for_each(nothing_left)
    })
}
