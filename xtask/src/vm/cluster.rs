//! Virtual machines with a whole Debian, each with an RNIC, and commands that tests run in them.
//!
//! The file `qemu-configs/debian.sh` says how QEMU is started. Two RNICs are two processes over a
//! link; of more, all are functions of one process, whose switch joins them, and which may be one
//! physical function and virtual ones. The guests' ordinary
//! interfaces (virtio-net) are on one network as well: a hub in the first machine's QEMU. A second
//! machine without an RNIC, for Soft-RoCE, has its ordinary interface on the wire of the first one's.
//!
//! In a guest's system the RNIC is at 10.78.0.N, and the other interface at 10.79.0.N, of guest
//! number N from 1 on. A guest is up when its first command has ended, which [`Cluster::boot`]
//! waits for.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::Prepared;
use super::control::{Control, Output, Running};
use super::machine::{Event, Machine};
use super::nic::Nic;
use super::qmp::Qmp;
use super::scenario::name;
use super::scenarios::{WIRE, links, wire};
use super::session::RunDir;
use crate::debian::Debian;
use crate::debian::kernel::Kernel;
use crate::paths;

/// What to boot.
pub(crate) struct Plan {
    /// Name of the run and of its folder.
    pub name: &'static str,
    /// Kernel of the machines.
    pub kernel: Kernel,
    /// Number of machines, 1 to 8.
    pub vms: usize,
    /// Time after which every wait has failed.
    pub bound: Duration,
    /// All RNICs are functions of one process, also of two machines.
    pub one_process: bool,
    /// The second of two machines has no RNIC, but its ordinary interface on the wire of the first
    /// one's.
    pub softroce: bool,
    /// Virtual functions of the only RNIC. The only machine has all in its slot; of several, the
    /// first has the physical function and each other one a virtual one.
    pub vfs: u16,
    /// Further arguments of each `vrnic serve`.
    pub nic: Vec<String>,
    /// Further arguments of each QEMU.
    pub qemu: Vec<String>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            name: "cluster",
            kernel: Kernel::Stable,
            vms: 2,
            bound: Duration::from_secs(300),
            one_process: false,
            softroce: false,
            vfs: 0,
            nic: Vec::new(),
            qemu: Vec::new(),
        }
    }
}

/// Running machines; whatever still runs when it is dropped is killed.
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    /// None where it was killed.
    nics: RefCell<Vec<Option<Nic>>>,
    dir: RunDir,
    events: Receiver<Event>,
    deadline: Instant,
}

/// One running machine.
pub(crate) struct Node {
    /// Its name, which is its host name, too.
    pub name: &'static str,
    /// Address of its RNIC.
    pub address: String,
    machine: RefCell<Machine>,
    control: Control,
    /// Socket of QEMU's own.
    monitor: PathBuf,
    fate: Cell<Fate>,
    deadline: Instant,
}

/// What has become of a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing: it ends without a complaint.
    Well,
    /// Its RNIC was killed, of which QEMU complains.
    Bereft,
    /// Its QEMU has ended.
    Gone,
}

impl Node {
    /// Connects to its QEMU.
    ///
    /// # Errors
    /// That is gone.
    pub(crate) fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.monitor, self.deadline)
    }

    /// Runs a command to its end; it has to succeed.
    ///
    /// # Errors
    /// It fails or takes too long, or the guest is gone.
    pub(crate) fn run(&self, command: &str) -> Result<Output> {
        self.control.run(command, self.deadline)
    }

    /// Starts a command.
    ///
    /// # Errors
    /// The guest is gone.
    pub(crate) fn start(&self, command: &str) -> Result<Running> {
        self.control.start(command, self.deadline)
    }

    /// What the kernel has said.
    ///
    /// # Errors
    /// The guest is gone.
    pub(crate) fn dmesg(&self, arguments: &str) -> Result<String> {
        Ok(self.run(&format!("dmesg {arguments}"))?.text)
    }

    /// The kernel has complained of nothing but what contains one of `expected`; what it has said
    /// is forgotten.
    ///
    /// # Errors
    /// It has complained of something else, or the guest is gone.
    pub(crate) fn forgive(&self, expected: &[&str]) -> Result<()> {
        let words = self.dmesg("--read-clear --level=emerg,alert,crit,err,warn")?;
        let complaints: Vec<_> = words
            .lines()
            .filter(|line| is_complaint(line) && !expected.iter().any(|text| line.contains(text)))
            .collect();
        ensure!(
            complaints.is_empty(),
            "guest {}: the kernel complains: {}",
            self.name,
            complaints.join("\n")
        );
        Ok(())
    }
}

/// RNICs of a number of machines, in a folder, each machine's at the socket `nic-NAME.sock`; one with
/// virtual functions as `vrnic serve --vfs` names them.
///
/// # Errors
/// One does not come up.
pub(crate) fn start_nics(
    prepared: &Prepared,
    plan: &Plan,
    dir: &Path,
    deadline: Instant,
) -> Result<Vec<Nic>> {
    let vrnic = &prepared.programs.vrnic;
    if plan.vfs > 0 {
        ensure!(
            plan.vms <= usize::from(plan.vfs) + 1,
            "each machine has a function"
        );
        let name = format!("nic-{}", name(0));
        let nic = Nic::start_family(vrnic, (&name, plan.vfs), &plan.nic, dir, deadline)?;
        return Ok(vec![nic]);
    }
    let processes = match plan.vms {
        _ if plan.softroce => vec![wire()],
        0..=2 if !plan.one_process => links(plan.vms),
        count => {
            let more = |index| ["--socket".to_owned(), format!("nic-{}.sock", name(index))];
            vec![(1..count).flat_map(more).collect()]
        }
    };
    let mut nics = Vec::new();
    for (index, mut arguments) in processes.into_iter().enumerate() {
        arguments.extend(plan.nic.iter().cloned());
        let name = format!("nic-{}", name(index));
        nics.push(Nic::start(vrnic, &name, &arguments, dir, deadline)?);
    }
    Ok(nics)
}

/// The command that starts one of the machines, its console still to be said.
pub(crate) fn command(
    prepared: &Prepared,
    debian: &Debian,
    plan: &Plan,
    index: usize,
    dir: &Path,
) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .arg(paths::scenarios().join("debian.sh"))
        .arg(name(index));
    command
        .args(netdev(plan.vms, index))
        .args(&plan.qemu)
        .current_dir(dir);
    command
        .envs(prepared.environment())
        .envs(debian.environment());
    command.env("RUN", ".").env("SOCKET", socket(plan, index));
    match index {
        _ if plan.vfs > 0 && plan.vms == 1 => command
            .env_remove("SOCKET")
            .env("DIR", ".")
            .env("VFS", plan.vfs.to_string()),
        0 if plan.vms > 2 => command.env("NETDEV", "hubport,hubid=0"),
        1 if plan.softroce => command
            .env_remove("SOCKET")
            .env("NETDEV", connected_to(WIRE)),
        1.. if plan.vms > 2 => {
            let socket = format!("net-{}.sock", name(index));
            command.env("NETDEV", connected_to(&socket))
        }
        _ => &mut command,
    };
    command
}

/// The socket of a machine's function.
fn socket(plan: &Plan, index: usize) -> String {
    match index.checked_sub(1) {
        _ if plan.vfs == 0 => format!("nic-{}.sock", name(index)),
        None => "pf0.sock".to_owned(),
        Some(number) => format!("vf{number}.sock"),
    }
}

/// What an ordinary interface is plugged into, if that is at the other end of a socket.
fn connected_to(socket: &str) -> String {
    format!("stream,server=off,addr.type=unix,addr.path={socket}")
}

/// What joins the first machine's interface with those of more than one other.
fn netdev(vms: usize, index: usize) -> Vec<String> {
    let others = if vms > 2 && index == 0 { 1..vms } else { 0..0 };
    let port = |other| {
        let other = name(other);
        [
            "-netdev".to_owned(),
            format!("stream,id=to-{other},server=on,addr.type=unix,addr.path=net-{other}.sock"),
            "-netdev".to_owned(),
            format!("hubport,id=port-{other},hubid=0,netdev=to-{other}"),
        ]
    };
    others.flat_map(port).collect()
}

/// Socket on which a machine waits for that of the ordinary network's other end.
pub(crate) fn net_socket(vms: usize, index: usize) -> PathBuf {
    match vms {
        0..=2 => PathBuf::from("net.sock"),
        _ => PathBuf::from(format!("net-{}.sock", name(index))),
    }
}

impl Cluster {
    /// Starts RNICs and machines, and returns when all guests are up.
    ///
    /// # Errors
    /// One does not come up.
    pub(crate) fn boot(prepared: &Prepared, debian: &Debian, plan: &Plan) -> Result<Cluster> {
        let dir = RunDir::new(plan.name)?;
        let path = dir.path.clone();
        let booted = Cluster::boot_in(prepared, debian, plan, dir);
        booted.with_context(|| format!("{} failed (logs: {})", plan.name, path.display()))
    }

    fn boot_in(prepared: &Prepared, debian: &Debian, plan: &Plan, dir: RunDir) -> Result<Cluster> {
        let deadline = Instant::now() + plan.bound;
        let (sender, events) = channel();
        let mut cluster = Cluster {
            nodes: Vec::new(),
            nics: RefCell::default(),
            dir,
            events,
            deadline,
        };
        let nics = start_nics(prepared, plan, &cluster.dir.path, deadline)?;
        cluster.nics = RefCell::new(nics.into_iter().map(Some).collect());
        for index in 0..plan.vms {
            let command = command(prepared, debian, plan, index, &cluster.dir.path);
            cluster.add(plan, index, command, &sender)?;
        }
        let start = Instant::now();
        for node in &cluster.nodes {
            let up = node.run("true");
            up.with_context(|| cluster.last_words(node))?;
        }
        println!(
            "  {} guests up after {:.1} s",
            plan.vms,
            start.elapsed().as_secs_f64()
        );
        Ok(cluster)
    }

    fn add(
        &mut self,
        plan: &Plan,
        index: usize,
        mut command: Command,
        events: &Sender<Event>,
    ) -> Result<()> {
        let (name, dir) = (name(index), self.dir.path.clone());
        command
            .env("CONSOLE", "stdio,signal=off")
            .env("APPEND", "guest.system=agent");
        let mut machine = Machine::start((index, name), &mut command, &dir, events.clone())?;
        // QEMU makes the sockets of its command line in order, the one for the control last.
        let socket = dir.join(format!("{name}.control"));
        let control = machine.connect(&socket, self.deadline)?;
        if plan.vms > 1 && index == 0 {
            for other in 1..plan.vms {
                machine.wait_for_socket(&dir.join(net_socket(plan.vms, other)), self.deadline)?;
            }
        }
        let log = dir.join(format!("{name}.commands"));
        self.nodes.push(Node {
            name,
            address: format!("10.78.0.{}", index + 1),
            machine: RefCell::new(machine),
            control: Control::over(name, control, &log)?,
            monitor: dir.join(format!("{name}.qmp")),
            fate: Cell::new(Fate::Well),
            deadline: self.deadline,
        });
        Ok(())
    }

    /// The machines.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first two machines.
    ///
    /// # Errors
    /// There are fewer.
    pub(crate) fn pair(&self) -> Result<(&Node, &Node)> {
        match self.nodes.as_slice() {
            [a, b, ..] => Ok((a, b)),
            _ => bail!("the cluster has no two machines"),
        }
    }

    /// Where logs, captures and consoles are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// Sends a signal to the RNIC with a number.
    ///
    /// # Errors
    /// It is gone.
    pub(crate) fn signal_nic(&self, number: usize, signal: Signal) -> Result<()> {
        let mut nics = self.nics.borrow_mut();
        let nic = nics.get_mut(number).and_then(Option::as_mut);
        nic.context("there is such an RNIC")?.signal(signal)
    }

    /// Kills the RNIC of a machine, which has one of its own. The machine is stopped meanwhile, as
    /// QEMU ends when it waits for an answer just then (`qemu-configs/README.md`).
    ///
    /// # Errors
    /// It, or the machine, is gone.
    pub(crate) fn kill_nic(&self, number: usize) -> Result<()> {
        let node = self.nodes.get(number).context("there is such a machine")?;
        let mut qmp = node.qmp()?;
        qmp.execute("stop", &serde_json::json!({}))?;
        let nic = self
            .nics
            .borrow_mut()
            .get_mut(number)
            .and_then(Option::take);
        drop(nic.context("there is such an RNIC")?);
        node.fate.set(Fate::Bereft);
        qmp.execute("cont", &serde_json::json!({}))?;
        Ok(())
    }

    /// Waits until the machine's QEMU has ended, and returns its own words.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) fn bury(&self, node: &Node) -> Result<String> {
        self.wait_for_an_end()?;
        node.fate.set(Fate::Gone);
        Ok(node.machine.borrow().words())
    }

    /// Kills a machine as nothing can refuse.
    ///
    /// # Errors
    /// It has ended before.
    pub(crate) fn kill(&self, node: &Node) -> Result<()> {
        node.machine.borrow_mut().kill()?;
        self.bury(node).map(drop)
    }

    /// Looks at the kernels' complaints, powers the machines off, and stops the RNICs.
    ///
    /// # Errors
    /// A kernel complained about our module or about itself; a machine, QEMU or an RNIC did not
    /// end well.
    pub(crate) fn close(mut self) -> Result<()> {
        let mut last = Vec::new();
        for node in self
            .nodes
            .iter()
            .filter(|node| node.fate.get() != Fate::Gone)
        {
            node.forgive(&[])?;
            last.push(node.start("exec poweroff -ff")?);
        }
        for _ in 0..last.len() {
            self.wait_for_an_end()?;
        }
        drop(last);
        for node in std::mem::take(&mut self.nodes) {
            match node.fate.get() {
                Fate::Well => node.machine.into_inner().check_end()?,
                Fate::Bereft => node.machine.into_inner().check_status()?,
                Fate::Gone => {}
            }
        }
        let nics = self.nics.into_inner();
        nics.into_iter().flatten().try_for_each(Nic::stop)
    }

    fn wait_for_an_end(&self) -> Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left);
            match event.ok().context("a machine does not power off")? {
                Event::End(_) => return Ok(()),
                Event::Line(..) | Event::NicEnd(_) => {}
            }
        }
    }

    /// The end of a machine's console.
    fn last_words(&self, node: &Node) -> String {
        let console = self.dir().join(format!("{}.console", node.name));
        let console = fs::read_to_string(console).unwrap_or_default();
        let lines: Vec<_> = console.lines().rev().take(5).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        format!("guest {} did not come up: {}", node.name, lines.join("\n"))
    }
}

/// Whether a line of the kernel's, at level warning or above, is about our module or says that
/// something is broken. That a module is not the distribution's own is no complaint.
fn is_complaint(line: &&str) -> bool {
    let broken = [
        "BUG:",
        "WARNING:",
        "Oops",
        "Call Trace",
        "hung task",
        "rcu_preempt",
    ];
    let ours = line.contains("vrnic")
        && !line.contains("taints kernel")
        && !line.contains("tainting kernel");
    ours || broken.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_from_the_usual() {
        for line in [
            "[    1.0] vrnic 0000:01:00.0: command failed",
            "[    1.0] BUG: kernel NULL pointer dereference",
        ] {
            assert!(is_complaint(&line), "{line}");
        }
        for line in [
            "[    1.0] vrnic: loading out-of-tree module taints kernel.",
            "[    1.0] vrnic: module verification failed: signature and/or required key missing - tainting kernel",
            "[    1.0] evm: overlay not supported",
        ] {
            assert!(!is_complaint(&line), "{line}");
        }
    }

    #[test]
    fn more_than_two_machines_meet_at_the_first_one() {
        assert!(netdev(2, 0).is_empty() && netdev(3, 1).is_empty());
        let ports = netdev(3, 0).join(" ");
        assert!(ports.contains("net-b.sock") && ports.contains("hubport,id=port-c,hubid=0"));
    }
}
