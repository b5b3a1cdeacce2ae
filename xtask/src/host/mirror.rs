//! Where Debian packages come from.
//!
//! In this order: `VRNIC_DEBIAN_MIRROR`; the archive that this machine's own apt uses, if the
//! machine is a Debian; the default that a Debian derivative (Ubuntu) carries in the templates of
//! python-apt. The project itself names no host.

use std::process::Command;
use std::{env, fs};

use anyhow::{Result, bail};

use crate::process;

const TEMPLATE: &str = "/usr/share/python-apt/templates/Debian.info";

/// URI of a Debian archive, without the slash at its end.
///
/// # Errors
/// None is known; the error says what to set.
pub(crate) fn find() -> Result<String> {
    let named = env::var("VRNIC_DEBIAN_MIRROR").unwrap_or_default();
    if let Some(uri) = Some(named).filter(|uri| !uri.is_empty()) {
        return Ok(uri.trim_end_matches('/').to_owned());
    }
    let from_apt = apt_archives().ok().and_then(|list| {
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        choose(
            &list,
            field(&os, "ID") == "debian",
            field(&os, "VERSION_CODENAME"),
        )
    });
    if let Some(uri) = from_apt.or_else(|| template(&fs::read_to_string(TEMPLATE).ok()?)) {
        return Ok(uri);
    }
    bail!("no Debian mirror is known on this machine; set VRNIC_DEBIAN_MIRROR to the URL of one")
}

/// One archive a line: suite, component, origin (empty before the first `apt-get update`), URI.
fn apt_archives() -> Result<String> {
    let format = "$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)\t$(REPO_URI)";
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", format, "Created-By: Packages"]);
    process::output(&mut apt)
}

/// The archive to use: Debian's main, best the entry of this machine's own release.
fn choose(archives: &str, on_debian: bool, codename: &str) -> Option<String> {
    let mut fallback = None;
    for line in archives.lines() {
        let mut fields = line.split('\t');
        let (suite, component) = (fields.next()?, fields.next()?);
        let (origin, uri) = (
            fields.next()?,
            fields.next()?.trim_end_matches('/').to_owned(),
        );
        let debian = origin == "Debian" || (origin.is_empty() && on_debian);
        if !debian || component != "main" || suite.contains("security") {
            continue;
        }
        if suite == codename {
            return Some(uri);
        }
        fallback = fallback.or(Some(uri));
    }
    fallback
}

/// The archive named by a template of python-apt.
fn template(text: &str) -> Option<String> {
    let uri = text
        .lines()
        .find_map(|line| line.strip_prefix("BaseURI:"))?;
    Some(uri.trim().trim_end_matches('/').to_owned())
}

/// A field of `/etc/os-release`, or nothing.
fn field<'a>(os_release: &'a str, name: &str) -> &'a str {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "stable\tmain\tElse\thttp://else.example/x/\n\
        bookworm-security\tmain\tDebian\thttp://one.example/debian-security/\n\
        bookworm-updates\tmain\tDebian\thttp://two.example/debian/\n\
        bookworm\tcontrib\tDebian\thttp://three.example/debian/\n\
        bookworm\tmain\tDebian\thttp://four.example/debian/\n";

    #[test]
    fn own_release_is_preferred() {
        let uri = choose(LIST, true, "bookworm");
        assert_eq!(uri.as_deref(), Some("http://four.example/debian"));
    }

    #[test]
    fn another_suite_of_debian_will_do() {
        assert_eq!(
            choose(LIST, true, "sid").as_deref(),
            Some("http://two.example/debian")
        );
    }

    #[test]
    fn archives_of_unknown_origin_count_on_debian_only() {
        let list = "noble\tmain\t\thttp://else.example/ubuntu/\n";
        assert_eq!(choose(list, false, "noble"), None);
        assert_eq!(
            choose(list, true, "noble").as_deref(),
            Some("http://else.example/ubuntu")
        );
    }

    #[test]
    fn template_and_os_release() {
        let text = "ChangelogURI: x\nSuite: sid\nBaseURI: https://m.example/debian/\n";
        assert_eq!(template(text).as_deref(), Some("https://m.example/debian"));
        assert_eq!(field("VERSION_ID=\"12\"\nID=debian\n", "ID"), "debian");
    }
}
