//! A physical function and its virtual functions: a socket each, one port, one process.
//!
//! The clients of this process stand for a VM that has several functions; a child process is another
//! one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use vrnic_abi::registers::{self, device_status, function};
use vrnic_driver::{Driver, Health, Platform};
use vrnic_driver_vfio::{HostPlatform, Options};

use crate::endpoint::{Endpoint, Identity, Retries, configure, exchange, open, pair};
use crate::lifecycle::{Reset, reset};
use crate::process::{Nic, directory, until};
use crate::traffic::Shuttle;

/// Offsets in the SR-IOV capability (PCI Express 6.0, 9.3.3).
const CONTROL: u64 = 0x08;
const TOTAL_VFS: u64 = 0x0e;
const NUM_VFS: u64 = 0x10;
const VF_ENABLE: u16 = 1;

type Function = Arc<Driver<HostPlatform>>;

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(9)
}

fn read<const N: usize>(platform: &HostPlatform, at: u64) -> [u8; N] {
    let mut data = [0xa5; N];
    platform.read_config(at, &mut data).unwrap();
    data
}

fn ids(platform: &HostPlatform) -> u32 {
    u32::from_le_bytes(read(platform, 0))
}

fn read16(platform: &HostPlatform, at: u64) -> u16 {
    u16::from_le_bytes(read(platform, at))
}

fn write16(platform: &HostPlatform, at: u64, value: u16) {
    platform.write_config(at, &value.to_le_bytes()).unwrap();
}

/// Where the SR-IOV capability of a physical function is.
#[track_caller]
fn sriov(platform: &HostPlatform) -> u64 {
    let mut at = 0x100;
    while at != 0 {
        let header = u32::from_le_bytes(read(platform, at));
        if header & 0xffff == 0x10 {
            return at;
        }
        at = u64::from(header >> 20);
    }
    panic!("no SR-IOV capability");
}

/// Enables the first `count` virtual functions, or disables all with 0, as Linux does.
#[track_caller]
fn enable_vfs(pf: &HostPlatform, count: u16) {
    let at = sriov(pf);
    if count == 0 {
        write16(pf, at + CONTROL, 0);
    } else {
        write16(pf, at + NUM_VFS, count);
        write16(pf, at + CONTROL, VF_ENABLE | 1 << 3);
    }
}

fn resets<P: Platform>(driver: &Driver<P>) -> u32 {
    let status = driver
        .platform()
        .read_register(registers::DEVICE_STATUS.offset);
    device_status::RESET_COUNT.get(status)
}

/// Brings a function up again whose driver did not ask for its reset.
#[track_caller]
fn bring_back(driver: &Function, number: u8) {
    assert!(matches!(driver.health(), Health::Failed(_)));
    assert!(driver.platform().reset_function(), "bus mastering");
    driver.recover().unwrap();
    configure(driver, number);
}

/// Opens the first functions: the physical one, then virtual ones.
#[track_caller]
fn open_all(nic: &Nic, count: u8) -> Vec<Function> {
    let functions = (0..count).map(|n| open(nic.socket(n.into()), n + 1));
    functions.collect()
}

// --- what is served

#[test]
fn sockets_and_addresses_count_up() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 3, &["--mac", "02:00:00:00:00:fe"]);
    let names: Vec<_> = (0..4)
        .map(|n| nic.socket(n).file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["pf0.sock", "vf0.sock", "vf1.sock", "vf2.sock"]);
    for (n, driver) in (0..).zip(open_all(&nic, 4)) {
        let at = registers::FUNCTION.offset;
        let value = driver.platform().read_register(at);
        assert_eq!(function::NUMBER.get(value), n);
        assert_eq!(function::VIRTUAL.get(value), u32::from(n != 0));
        let [.., high, low] = driver.query_port().unwrap().mac;
        assert_eq!(u32::from(high) << 8 | u32::from(low), 0xfe + n);
    }
    nic.stop();
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing but the log is left"
    );
}

#[test]
fn the_physical_function_announces_its_vfs() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 256, &[]);
    let pf = HostPlatform::open_socket(nic.socket(0), Options::default()).unwrap();
    let at = sriov(&pf);
    assert_eq!(read16(&pf, at + TOTAL_VFS), 256);
    assert_eq!(ids(&pf), 0x0001_5652);
    let last = HostPlatform::open_socket(nic.socket(256), Options::default()).unwrap();
    let number = last.read_register(registers::FUNCTION.offset);
    assert_eq!(function::NUMBER.get(number), 256);
    drop((pf, last));
    nic.stop();
    // Of those that there can be, only some are served.
    let nic = Nic::start_family(dir.path(), 2, &["--max-vfs", "9"]);
    let pf = HostPlatform::open_socket(nic.socket(0), Options::default()).unwrap();
    assert_eq!(read16(&pf, at + TOTAL_VFS), 9);
    let initial = at + TOTAL_VFS - 2;
    assert_eq!(read16(&pf, initial), 9, "there is no VF migration");
    nic.stop();
}

// --- data

#[test]
fn virtual_and_physical_functions_move_data() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 2, &[]);
    let all = open_all(&nic, 3);
    let mut rng = rng();
    for (a, b) in [(1, 2), (0, 1), (2, 0), (1, 1)] {
        let (mut a, mut b) = pair(&all[a], &all[b], Retries::Long);
        exchange(&mut a, &mut b, &mut rng);
    }
    nic.stop();
}

#[test]
fn sixty_four_functions_move_data_in_a_ring() {
    const COUNT: u8 = 64;
    let dir = directory();
    let nic = Nic::start_family(dir.path(), COUNT.into(), &[]);
    let all = open_all(&nic, COUNT + 1);
    let mut rng = rng();
    for (n, function) in all.iter().enumerate() {
        let next = &all[(n + 1) % all.len()];
        let (mut a, mut b) = pair(function, next, Retries::Long);
        exchange(&mut a, &mut b, &mut rng);
    }
    nic.stop();
}

// --- one function's misfortune is its own

#[test]
fn every_reset_of_a_vf_leaves_the_others_alone() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 3, &[]);
    let all = open_all(&nic, 4);
    let shuttles = [(0, 2), (2, 3)];
    let shuttles = shuttles.map(|(a, b)| Shuttle::start(pair(&all[a], &all[b], Retries::Long)));
    let before: Vec<_> = all.iter().map(|f| resets(f)).collect();
    for how in [Reset::FunctionLevel, Reset::VfioUser, Reset::Register] {
        reset(&all[1], how);
        shuttles.iter().for_each(Shuttle::moves);
        bring_back(&all[1], 2);
        let (mut a, mut b) = pair(&all[1], &all[0], Retries::Long);
        exchange(&mut a, &mut b, &mut rng());
    }
    for n in [0, 2, 3] {
        assert_eq!(resets(&all[n]), before[n], "function {n}");
        assert!(matches!(all[n].health(), Health::Good(_)));
    }
    shuttles.into_iter().for_each(|shuttle| {
        shuttle.stop();
    });
    nic.stop();
}

/// A process with one function, which exchanges data with this one when it is told to.
struct Other {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

const CHILD_SOCKET: &str = "VRNIC_SERVE_TEST_OTHER_SOCKET";

/// Not a test: another client. It says what it finds, and connects with whom it is told to.
#[test]
#[ignore = "run by other tests"]
fn another_client() {
    let Some(socket) = std::env::var_os(CHILD_SOCKET) else {
        return;
    };
    let driver = open(Path::new(&socket), 200);
    println!("\nids {}", ids(driver.platform()));
    let mut endpoint = Endpoint::new(&driver);
    println!("identity {}", endpoint.identity().text());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        match line.strip_prefix("connect ") {
            Some(peer) => endpoint.connect(&Identity::parse(peer), Retries::Long),
            None => println!("resets {}", resets(&driver)),
        }
        println!("done");
    }
}

impl Other {
    #[track_caller]
    fn start(socket: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "family::another_client", "--ignored"])
            .arg("--nocapture")
            .env(CHILD_SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        Self {
            child,
            stdin,
            lines,
        }
    }

    /// The rest of the next line that starts with `word`.
    #[track_caller]
    fn says(&mut self, word: &str) -> String {
        let mut lines = self.lines.by_ref().map(Result::unwrap);
        let found = lines.find_map(|line| line.strip_prefix(word).map(str::to_owned));
        found.expect("the other process ended")
    }

    #[track_caller]
    fn resets(&mut self) -> String {
        writeln!(self.stdin, "resets").unwrap();
        self.says("resets")
    }

    /// Connects it with `peer`.
    #[track_caller]
    fn connect(&mut self, peer: &Endpoint<HostPlatform>) {
        writeln!(self.stdin, "connect {}", peer.identity().text()).unwrap();
        self.says("done");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// WRITEs into the memory of `theirs` and READs it back.
#[track_caller]
fn write_and_read_back(near: &mut Endpoint<HostPlatform>, theirs: &Identity, seed: u8) {
    use vrnic_driver::{DmaBuffer, Operation};
    let data: Vec<u8> = (0..20_000u32).map(|n| (n as u8) ^ seed).collect();
    near.memory.write(0, &data);
    near.memory.write(50_000, &vec![0x3c; data.len()]);
    let remote = theirs.remote(4_097);
    near.post(1, Operation::Write(remote), (0, data.len()))
        .unwrap();
    near.wait_success();
    near.post(2, Operation::Read(remote), (50_000, data.len()))
        .unwrap();
    near.wait_success();
    let mut found = vec![0; data.len()];
    near.memory.read(50_000, &mut found);
    assert!(found == data, "what came back differs");
}

#[test]
fn a_killed_client_of_a_vf_leaves_the_others_alone() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 3, &[]);
    let pf = open(nic.socket(0), 1);
    let (b, c) = (open(nic.socket(2), 3), open(nic.socket(3), 4));
    let shuttle = Shuttle::start(pair(&b, &c, Retries::Long));
    for round in 0..3 {
        let mut other = Other::start(nic.socket(1));
        let theirs = Identity::parse(&other.says("identity"));
        let mut near = Endpoint::new(&pf);
        other.connect(&near);
        near.connect(&theirs, Retries::Long);
        write_and_read_back(&mut near, &theirs, round);
        drop(other);
        shuttle.moves();
        near.assert_good();
    }
    shuttle.stop();
    nic.stop();
}

// --- SR-IOV: who enables what

/// Its own guest finds a VF by SR-IOV only, another one by its IDs; the PF may come later.
#[test]
fn ids_are_hidden_from_the_client_of_the_physical_function_only() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 2, &[]);
    let vf = HostPlatform::open_socket(nic.socket(1), Options::default()).unwrap();
    assert_eq!(ids(&vf), 0x0002_5652, "nobody has the physical function");
    let pf = HostPlatform::open_socket(nic.socket(0), Options::default()).unwrap();
    assert_eq!(ids(&vf), u32::MAX);
    let mut other = Other::start(nic.socket(2));
    assert_eq!(other.says("ids "), 0x0002_5652.to_string());
    drop(pf);
    until("the physical function is free", || {
        (ids(&vf) == 0x0002_5652).then_some(())
    });
    nic.stop();
}

/// VF Enable of 1 to 0 takes those away that it had given, from the client that had them.
#[test]
fn disabling_resets_the_vfs_that_were_enabled_and_no_other() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 4, &[]);
    let mut other = Other::start(nic.socket(1));
    let theirs = Identity::parse(&other.says("identity"));
    // The physical function, the second to the fourth virtual one.
    let own: Vec<_> = [0, 2, 3, 4]
        .map(|n| open(nic.socket(n), n as u8 + 1))
        .into();
    let shuttle = Shuttle::start(pair(&own[0], &own[3], Retries::Long));
    let mut near = Endpoint::new(&own[0]);
    other.connect(&near);
    near.connect(&theirs, Retries::Long);
    let before: Vec<_> = own.iter().map(|f| resets(f)).collect();
    let others_before = other.resets();
    let pf = own[0].platform();

    enable_vfs(pf, 3);
    let seen: Vec<_> = own.iter().map(|f| resets(f)).collect();
    assert_eq!(seen, before, "enabling resets nothing");
    enable_vfs(pf, 0);
    for n in [1, 2] {
        until("an enabled function is reset", || {
            (resets(&own[n]) != before[n]).then_some(())
        });
        let command = read16(own[n].platform(), 4);
        assert_eq!(command, 0, "no bus master after reset");
        bring_back(&own[n], n as u8 + 2);
    }
    for n in [0, 3] {
        assert_eq!(resets(&own[n]), before[n], "not enabled by it: {n}");
    }
    assert_eq!(other.resets(), others_before, "not of that client");
    shuttle.moves();
    write_and_read_back(&mut near, &theirs, 0x55);
    let (mut a, mut b) = pair(&own[1], &own[2], Retries::Long);
    exchange(&mut a, &mut b, &mut rng());
    shuttle.stop();
    nic.stop();
}

/// A reset of the physical function clears VF Enable (PCI Express 6.0, 9.3.3.3.1).
#[test]
fn a_reset_of_the_physical_function_takes_its_enabled_vfs_along() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 2, &[]);
    let all = open_all(&nic, 3);
    for how in [Reset::FunctionLevel, Reset::VfioUser] {
        enable_vfs(all[0].platform(), 1);
        let before: Vec<_> = all.iter().map(|f| resets(f)).collect();
        reset(&all[0], how);
        until("the enabled function is reset", || {
            (resets(&all[1]) != before[1]).then_some(())
        });
        assert_eq!(resets(&all[2]), before[2], "{how:?}: it was not enabled");
        let pf = all[0].platform();
        assert_eq!(read16(pf, sriov(pf) + CONTROL), 0);
        bring_back(&all[0], 1);
        bring_back(&all[1], 2);
        let (mut a, mut b) = pair(&all[0], &all[1], Retries::Long);
        exchange(&mut a, &mut b, &mut rng());
    }
    nic.stop();
}

/// The register of vrnic itself resets the function's queues, not its configuration space.
#[test]
fn the_reset_register_leaves_vf_enable_alone() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 1, &[]);
    let all = open_all(&nic, 2);
    enable_vfs(all[0].platform(), 1);
    let before = resets(&all[1]);
    reset(&all[0], Reset::Register);
    let pf = all[0].platform();
    assert_eq!(read16(pf, sriov(pf) + CONTROL) & VF_ENABLE, VF_ENABLE);
    assert_eq!(resets(&all[1]), before);
    nic.stop();
}

/// Nobody makes the engine's queue grow by enabling and disabling.
#[test]
fn enabling_and_disabling_without_end_is_bounded() {
    let dir = directory();
    let nic = Nic::start_family(dir.path(), 8, &[]);
    let all = open_all(&nic, 4);
    let pf = all[0].platform();
    let at = sriov(pf);
    let before = resets(&all[1]);
    write16(pf, at + NUM_VFS, 8);
    for _ in 0..5_000 {
        write16(pf, at + CONTROL, VF_ENABLE);
        // It is told to come again when too much waits.
        until("the device has room", || {
            pf.write_config(at + CONTROL, &[0, 0]).ok()
        });
    }
    // Answered when the engine has done all that it was asked before.
    assert!(pf.reset_function());
    let after = resets(&all[1]);
    assert_eq!(after, (before + 1) & 0xff, "nobody used it in between");
    for (n, function) in (2..).zip(&all[1..]) {
        until("its resets are done", || {
            function.platform().reset_function().then_some(())
        });
        let _ = function.health();
        function.recover().unwrap();
        configure(function, n);
    }
    let (mut a, mut b) = pair(&all[1], &all[3], Retries::Long);
    exchange(&mut a, &mut b, &mut rng());
    nic.stop();
}
