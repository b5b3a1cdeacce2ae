//! A private apt: resolves and downloads Debian packages without root and without touching this
//! machine's package state.
//!
//! In: a [`Request`]. Out: the files of the packages it takes, in a folder of its own. apt gets
//! its own state, cache, sources and an empty package database; of the machine's configuration
//! only the `Acquire` settings (proxies) are kept. Signatures are checked by apt with Debian's
//! keyring, this machine's or a newer one fetched through the machine's own apt.
//!
//! A package database that is not quite empty is how packages are left out: what a request calls
//! `provided` is entered as installed, so that apt takes neither it nor what only it needs.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::mirror;
use crate::process::{self, Background};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];

/// Packages wanted in one private root.
pub(crate) struct Request {
    /// Name of the root, and of this request in messages.
    pub name: &'static str,
    /// Suite that all packages come from where it has them.
    pub suite: &'static str,
    /// The packages.
    pub packages: &'static [&'static str],
    /// Packages that are not needed though others depend on them.
    pub provided: &'static [&'static str],
}

/// Files in one folder.
pub(crate) struct Downloaded {
    /// Where the files are.
    pub dir: PathBuf,
    /// Their names.
    pub files: Vec<String>,
}

/// The private apt, its package lists up to date.
pub(crate) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Sets it up in `dir` and fetches the package lists.
    ///
    /// # Errors
    /// This is not a Debian-like machine, no mirror is known or reachable, or its signature is
    /// not good.
    pub(crate) fn new(dir: &Path) -> Result<Apt> {
        for program in ["apt-get", "dpkg-deb"] {
            if !process::exists(program) {
                bail!(
                    "{program} is needed to get what is missing; on a machine without it install \
                     QEMU 10.1 or later (with vfio-user-pci), and use a Debian or Ubuntu for the rest"
                );
            }
        }
        let apt = Apt {
            dir: dir.to_path_buf(),
        };
        let mirror = mirror::find()?;
        println!("package lists: {} from {mirror}", SUITES.join(", "));
        apt.configure()?;
        apt.write_sources(&mirror, Path::new(KEYRING))?;
        let updated = apt.update();
        if updated.as_ref().is_err_and(is_about_keys) {
            // A machine older than the suites may have an older keyring; its own apt vouches for
            // a newer one.
            let keyring = apt.fetch_keyring()?;
            apt.write_sources(&mirror, &keyring)?;
            apt.update()?;
        } else {
            updated?;
        }
        Ok(apt)
    }

    /// Downloads what a request takes. What an earlier, interrupted call fetched is kept.
    ///
    /// # Errors
    /// A package does not exist or cannot be fetched.
    pub(crate) fn download(&self, request: &Request) -> Result<Downloaded> {
        self.download_over(&installed(request.provided), request)
    }

    /// The same for a system that has the packages of a database.
    ///
    /// # Errors
    /// As [`Apt::download`].
    pub(crate) fn download_over(&self, database: &str, request: &Request) -> Result<Downloaded> {
        fs::write(self.dir.join("status"), database)?;
        let dir = self.dir.join("archives").join(request.name);
        fs::create_dir_all(dir.join("partial"))?;
        let plan = process::output(self.install(request, &dir).arg("--simulate"))?;
        let files = planned_files(&plan);
        let uris = process::output(self.install(request, &dir).arg("--print-uris"))?;
        let bytes = total_size(&uris);
        println!(
            "{}: {} packages, {} MB to download",
            request.name,
            files.len(),
            mb(bytes)
        );
        self.watch(
            self.install(request, &dir).arg("--download-only"),
            &dir,
            bytes,
        )?;
        if let Some(file) = files.iter().find(|file| !dir.join(file).is_file()) {
            bail!("{}: apt did not download {file}", request.name);
        }
        Ok(Downloaded { dir, files })
    }

    /// The line of `sources.list` for a suite.
    ///
    /// # Errors
    /// There is none for it.
    pub(crate) fn source(&self, suite: &str) -> Result<String> {
        let lines = fs::read_to_string(self.dir.join("sources.list"))?;
        let line = lines
            .lines()
            .find(|line| line.contains(&format!(" {suite} ")));
        line.map(str::to_owned)
            .with_context(|| format!("no source for {suite}"))
    }

    /// Settings that another apt needs to get the same packages.
    ///
    /// # Errors
    /// This machine's settings cannot be read.
    pub(crate) fn network_options(&self) -> Result<Vec<String>> {
        let machine = process::output(Command::new("apt-config").arg("dump"))?;
        let valid = "Acquire::Check-Valid-Until \"false\";";
        Ok(network(&machine)
            .chain([valid])
            .map(str::to_owned)
            .collect())
    }

    /// An `apt-get install` that everything but the last step is told to.
    fn install(&self, request: &Request, archives: &Path) -> Command {
        let mut apt = self.apt_get();
        apt.arg("-o")
            .arg(format!("Dir::Cache::archives={}", archives.display()));
        apt.args([
            "install",
            "-y",
            "--no-install-recommends",
            "-t",
            request.suite,
        ]);
        apt.args(request.packages);
        apt
    }

    fn apt_get(&self) -> Command {
        let mut apt = Command::new("apt-get");
        apt.env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C");
        apt
    }

    fn update(&self) -> Result<()> {
        process::output(self.apt_get().args(["update", "--error-on=any"])).map(drop)
    }

    fn configure(&self) -> Result<()> {
        for dir in ["lists/partial", "archives", "parts"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        fs::write(self.dir.join("status"), "")?;
        let machine = process::output(Command::new("apt-config").arg("dump"))?;
        fs::write(
            self.dir.join("apt.conf"),
            configuration(&machine, &self.dir),
        )?;
        Ok(())
    }

    fn write_sources(&self, mirror: &str, keyring: &Path) -> Result<()> {
        let line = |suite| {
            format!(
                "deb [signed-by={}] {mirror} {suite} main\n",
                keyring.display()
            )
        };
        let text: String = SUITES.iter().map(line).collect();
        fs::write(self.dir.join("sources.list"), text)?;
        Ok(())
    }

    /// The current Debian keyring as this machine's own apt, with its own keys, delivers it.
    fn fetch_keyring(&self) -> Result<PathBuf> {
        println!("getting a newer keyring of the Debian archive");
        let dir = self.dir.join("keyring");
        fs::create_dir_all(&dir)?;
        let mut apt = Command::new("apt-get");
        process::output(
            apt.args(["download", "debian-archive-keyring"])
                .current_dir(&dir),
        )?;
        for deb in files_ending(&dir, ".deb")? {
            unpack(&dir.join(deb), &dir)?;
        }
        Ok(dir.join(KEYRING.trim_start_matches('/')))
    }

    /// Runs a download with its progress shown.
    fn watch(&self, apt: &mut Command, archives: &Path, bytes: u64) -> Result<()> {
        let log = self.dir.join("download.log");
        let file = File::create(&log)?;
        apt.stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let before = size_of(archives);
        let mut child = Background::start(apt)?;
        let status = loop {
            if let Some(status) = child.ended() {
                break status;
            }
            if std::io::stdout().is_terminal() {
                let done = size_of(archives).saturating_sub(before);
                print!("\r  {} of {} MB", mb(done), mb(bytes));
                std::io::stdout().flush()?;
            }
            // Only the pace of the display: the loop ends with the child.
            std::thread::sleep(Duration::from_millis(100));
        };
        if std::io::stdout().is_terminal() {
            println!();
        }
        if !status.success() {
            let words = fs::read_to_string(&log).unwrap_or_default();
            let errors: Vec<_> = words
                .lines()
                .filter(|line| line.starts_with("E:"))
                .collect();
            bail!(
                "download failed: {} (all of it: {})",
                errors.join(" "),
                log.display()
            );
        }
        Ok(())
    }
}

/// Whether an update failed for want of a key, by apt's words (in the locale C).
fn is_about_keys(error: &anyhow::Error) -> bool {
    let words = error.to_string();
    ["NO_PUBKEY", "Missing key", "No such file", "is not signed"]
        .iter()
        .any(|word| words.contains(word))
}

/// Unpacks one package.
///
/// # Errors
/// It is damaged, or there is no room.
pub(crate) fn unpack(deb: &Path, root: &Path) -> Result<()> {
    process::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(root)).map(drop)
}

/// apt's configuration: the machine's way to the network, everything else in `dir`.
fn configuration(machine: &str, dir: &Path) -> String {
    let mut text: String = network(machine).flat_map(|line| [line, "\n"]).collect();
    let dir = dir.display();
    // The parts folders exist and are empty: nothing of the machine's own configuration is read
    // (its hooks may delete downloads).
    let _ = write!(
        text,
        "Dir::State \"{dir}\";\nDir::State::status \"{dir}/status\";\n\
         Dir::State::lists \"{dir}/lists\";\nDir::State::extended_states \"{dir}/extended\";\n\
         Dir::Cache \"{dir}\";\nDir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n\
         Dir::Etc::main \"/dev/null\";\nDir::Etc::parts \"{dir}/parts\";\n\
         Dir::Etc::sourcelist \"{dir}/sources.list\";\nDir::Etc::sourceparts \"{dir}/parts\";\n\
         Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"{dir}/parts\";\n\
         APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\n\
         APT::Sandbox::User \"root\";\nDebug::NoLocking \"true\";\n\
         Acquire::Languages \"none\";\nAcquire::Check-Valid-Until \"false\";\n"
    );
    text
}

/// The settings of a machine that say how it reaches archives.
fn network(machine: &str) -> impl Iterator<Item = &str> {
    let names = [
        "Acquire::http",
        "Acquire::https",
        "Acquire::Retries",
        "Acquire::Check-Date",
    ];
    let kept = move |line: &&str| names.iter().any(|name| line.starts_with(name));
    machine.lines().filter(kept)
}

/// A package database with the named packages in it.
fn installed(names: &[&str]) -> String {
    let entry = |name: &&str| {
        format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\n\
             Multi-Arch: foreign\nVersion: 9999\nMaintainer: none\nDescription: not needed\n\n"
        )
    };
    names.iter().map(entry).collect()
}

/// Names of the package files that a simulated run would install.
fn planned_files(plan: &str) -> Vec<String> {
    plan.lines().filter_map(planned_file).collect()
}

/// `Inst NAME (VERSION ORIGIN… [ARCHITECTURE])`, and the name apt gives the file.
fn planned_file(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let inner = rest.split_once('(')?.1.split_once(')')?.0;
    let version = inner.split(' ').next()?.replace(':', "%3a");
    let architecture = inner.rsplit_once('[')?.1.strip_suffix(']')?;
    Some(format!("{name}_{version}_{architecture}.deb"))
}

/// Sum of the sizes in the output of `--print-uris`.
fn total_size(uris: &str) -> u64 {
    let lines = uris.lines().filter(|line| line.starts_with('\''));
    lines
        .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok())
        .sum()
}

fn mb(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

/// Bytes in the files of a folder and its folders.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn files_ending(dir: &Path, end: &str) -> Result<Vec<String>> {
    let names = fs::read_dir(dir)?.flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| OsStr::to_str(&name).map(str::to_owned));
    Ok(names.filter(|name| name.ends_with(end)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_as_apt_makes_them() {
        let plan = "Reading…\n\
            Inst libc6 (2.41-12+deb13u4 Debian:13/stable [amd64])\n\
            Inst pciutils (1:3.13.0-2 Debian:13/stable [amd64]) []\n\
            Conf libc6 (2.41-12+deb13u4 Debian:13/stable [amd64])\n";
        let files = planned_files(plan);
        assert_eq!(
            files,
            [
                "libc6_2.41-12+deb13u4_amd64.deb",
                "pciutils_1%3a3.13.0-2_amd64.deb"
            ]
        );
    }

    #[test]
    fn sizes_are_summed() {
        let uris = "Reading…\n'http://m.example/a.deb' a.deb 100 MD5Sum:0\n\
            'http://m.example/b.deb' b.deb 23 MD5Sum:0\n";
        assert_eq!(total_size(uris), 123);
    }

    #[test]
    fn only_network_settings_of_the_machine_are_kept() {
        let machine = "APT::Update::Post-Invoke:: \"rm x\";\nAcquire::http::Proxy \"p\";\n";
        let text = configuration(machine, Path::new("/d"));
        assert!(text.starts_with("Acquire::http::Proxy \"p\";\n"));
        assert!(!text.contains("rm x"));
        assert!(text.contains("Dir::State::status \"/d/status\";"));
    }
}
