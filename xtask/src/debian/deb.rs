//! Debian binary packages, as `dpkg-deb` builds them of a folder (Debian policy, chapters 3 to 6).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::digest::files;
use crate::host::root;
use crate::{paths, process};

const MAINTAINER: &str = "The vrnic developers <developers@vrnic.invalid>";
const HOMEPAGE: &str = env!("CARGO_PKG_REPOSITORY");
/// Date of the one entry in `changelog.Debian`, which lists no changes: `CHANGELOG.md` does.
const DATE: &str = "Thu, 01 Jan 2026 00:00:00 +0000";

/// A package to be written.
pub(crate) struct Deb<'a> {
    /// Its name.
    pub name: &'a str,
    /// `amd64`, or `all`.
    pub architecture: &'a str,
    /// Section of the archive.
    pub section: &'a str,
    /// Fields about other packages, such as `Depends: a, b`.
    pub relations: &'a [String],
    /// One line, then paragraphs.
    pub description: (&'a str, &'a [&'a str]),
    /// Maintainer scripts: name and text.
    pub scripts: &'a [(&'a str, String)],
}

/// Version of the packages: ours, and the first packaging of it.
pub(crate) fn version() -> String {
    format!("{}-1", env!("CARGO_PKG_VERSION"))
}

impl Deb<'_> {
    /// Writes the package of the folder `contents`, which it completes and uses up; the answer is
    /// the package's file, in `to`.
    ///
    /// # Errors
    /// A file cannot be written, or `dpkg-deb` refuses something.
    pub(crate) fn write(&self, contents: &Path, to: &Path) -> Result<PathBuf> {
        self.add_documents(contents)?;
        let control = contents.join("DEBIAN");
        // Before there is a folder of control files, which have no checksums.
        let sums = checksums(contents)?;
        let configuration = configuration(contents)?;
        fs::create_dir_all(&control)?;
        fs::write(control.join("md5sums"), sums)?;
        if !configuration.is_empty() {
            fs::write(control.join("conffiles"), configuration)?;
        }
        fs::write(control.join("control"), self.control(contents)?)?;
        for (name, text) in self.scripts {
            let script = control.join(name);
            fs::write(&script, text)?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        }
        let file = to.join(format!(
            "{}_{}_{}.deb",
            self.name,
            version(),
            self.architecture
        ));
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.args(["--root-owner-group", "-Zxz", "--build"]);
        process::output(dpkg.arg(contents).arg(&file))?;
        root::remove(contents)?;
        Ok(file)
    }

    fn control(&self, contents: &Path) -> Result<String> {
        let mut kib = 0;
        for file in files(contents)? {
            kib += fs::symlink_metadata(contents.join(file))?
                .len()
                .div_ceil(1024);
        }
        let (line, paragraphs) = self.description;
        let relations: String = self
            .relations
            .iter()
            .flat_map(|line| [line, "\n"])
            .collect();
        Ok(format!(
            "Package: {}\nSource: vrnic\nVersion: {}\nArchitecture: {}\nMaintainer: {MAINTAINER}\n\
             Installed-Size: {kib}\n{relations}Section: {}\nPriority: optional\nHomepage: {HOMEPAGE}\n\
             Description: {line}\n {}\n",
            self.name,
            version(),
            self.architecture,
            self.section,
            paragraphs.join("\n .\n ")
        ))
    }

    /// What policy wants of every package.
    fn add_documents(&self, contents: &Path) -> Result<()> {
        let dir = contents.join("usr/share/doc").join(self.name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("copyright"), copyright()?)?;
        let change = format!(
            "vrnic ({}) trixie; urgency=medium\n\n  * See the changelog of the project.\n\n -- {MAINTAINER}  {DATE}\n",
            version()
        );
        compressed(&dir.join("changelog.Debian"), &change)?;
        let ours = fs::read_to_string(paths::checkout().join("CHANGELOG.md"))?;
        compressed(&dir.join("changelog"), &ours)
    }
}

/// In the machine-readable format 1.0.
fn copyright() -> Result<String> {
    let mit = fs::read_to_string(paths::checkout().join("LICENSE-MIT"))?;
    let holder = mit.lines().find(|line| line.starts_with("Copyright"));
    let holder = holder.unwrap_or("The vrnic developers");
    let indented: String = mit
        .lines()
        .map(|line| match line.trim() {
            "" => " .\n".to_owned(),
            line => format!(" {line}\n"),
        })
        .collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: vrnic\nSource: {HOMEPAGE}\n\nFiles: *\nCopyright: {holder}\n\
         License: Expat or Apache-2.0\n\nLicense: Expat\n{indented}\nLicense: Apache-2.0\n \
         On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0.\n"
    ))
}

fn compressed(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    process::output(Command::new("gzip").args(["-9n"]).arg(path)).map(drop)
}

/// The lines of `md5sums`.
fn checksums(contents: &Path) -> Result<String> {
    let mut md5sum = Command::new("md5sum");
    let names = files(contents)?;
    let names = names
        .iter()
        .filter(|file| !contents.join(file).is_symlink());
    process::output(md5sum.arg("--").args(names).current_dir(contents))
}

/// The lines of `conffiles`: everything in `/etc`.
fn configuration(contents: &Path) -> Result<String> {
    let mut lines = String::new();
    for file in files(contents)?
        .iter()
        .filter(|file| file.starts_with("etc"))
    {
        let name = file.to_str().context("names are text")?;
        lines += &format!("/{name}\n");
    }
    Ok(lines)
}
