//! The `--link` argument: `KIND[:KEY=VALUE[,KEY=VALUE]…]`.
//!
//! Every key is given at most once, none is guessed; what is wrong is said in
//! one line that names the part and the right form. A path cannot hold a comma.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::rendezvous::Address;

/// How long a connecting link waits for its listener unless told otherwise.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10);

/// The longest path a UNIX socket address holds, in bytes (`sun_path` and its
/// terminator).
const MAX_PATH: usize = 107;

/// What `--link` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkSpec {
    /// `none`
    None,
    /// `shm:listen=PATH`
    ShmListen {
        /// Our UNIX socket.
        path: PathBuf,
    },
    /// `shm:connect=PATH[,wait=SECONDS]`
    ShmConnect {
        /// The listener's UNIX socket.
        path: PathBuf,
        /// How long to wait for it; zero starts without.
        wait: Duration,
    },
    /// `dgram:local=PATH,remote=PATH`
    Dgram {
        /// Our UNIX socket.
        local: PathBuf,
        /// The peer's UNIX socket.
        remote: PathBuf,
    },
    /// `udp:local=IP:PORT,remote=IP:PORT`
    Udp {
        /// Our address.
        local: SocketAddr,
        /// The peer's address.
        remote: SocketAddr,
    },
    /// `stream:listen=PATH` or `tcp:listen=IP:PORT`
    StreamListen {
        /// Our address.
        at: Address,
    },
    /// `stream:connect=PATH[,wait=SECONDS]` or `tcp:connect=IP:PORT[,wait=…]`
    StreamConnect {
        /// The listener's address.
        at: Address,
        /// How long to wait for it; zero starts without.
        wait: Duration,
    },
}

/// The shortest text that asks for it.
impl std::fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = |at: &Address| match at {
            Address::Unix(_) => "stream",
            Address::Tcp(_) => "tcp",
        };
        let wait = match self {
            Self::None => return f.write_str("none"),
            Self::ShmListen { path } => return write!(f, "shm:listen={}", path.display()),
            Self::StreamListen { at } => return write!(f, "{}:listen={at}", kind(at)),
            Self::Dgram { local, remote } => {
                let (local, remote) = (local.display(), remote.display());
                return write!(f, "dgram:local={local},remote={remote}");
            }
            Self::Udp { local, remote } => return write!(f, "udp:local={local},remote={remote}"),
            Self::ShmConnect { path, wait } => {
                write!(f, "shm:connect={}", path.display())?;
                wait
            }
            Self::StreamConnect { at, wait } => {
                write!(f, "{}:connect={at}", kind(at))?;
                wait
            }
        };
        if *wait == DEFAULT_WAIT {
            return Ok(());
        }
        write!(f, ",wait={}", wait.as_secs())
    }
}

/// What is wrong with a `--link` argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecError {
    /// No link of this kind exists.
    Kind(String),
    /// A part is not `KEY=VALUE`.
    NotKeyValue(String),
    /// The kind has no such key.
    UnknownKey(&'static str, String),
    /// A key is given twice.
    Twice(String),
    /// The keys given do not make a link of this kind.
    Incomplete(&'static str),
    /// A path is empty or longer than a socket address holds.
    Path(String),
    /// Both ends of a datagram link have the same address.
    SameEnds(String),
    /// Not an IP address and port, or a remote one that cannot be reached.
    Address(String),
    /// Not a number of seconds.
    Seconds(String),
}

/// The right forms of each kind, for messages.
fn form(kind: &'static str) -> &'static str {
    match kind {
        "shm" => "shm:listen=PATH or shm:connect=PATH[,wait=SECONDS]",
        "stream" => "stream:listen=PATH or stream:connect=PATH[,wait=SECONDS]",
        "tcp" => "tcp:listen=IP:PORT or tcp:connect=IP:PORT[,wait=SECONDS]",
        "dgram" => "dgram:local=PATH,remote=PATH",
        "udp" => "udp:local=IP:PORT,remote=IP:PORT",
        _ => "none",
    }
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SpecError::Kind(kind) => write!(
                f,
                "there is no link kind '{kind}'; use none, shm, dgram, udp, stream or tcp"
            ),
            SpecError::NotKeyValue(part) => write!(f, "'{part}' is not KEY=VALUE"),
            SpecError::UnknownKey(kind, key) => {
                write!(f, "a {kind} link has no option '{key}'; use {}", form(kind))
            }
            SpecError::Twice(key) => write!(f, "'{key}' is given twice"),
            SpecError::Incomplete(kind) => write!(f, "use {}", form(kind)),
            SpecError::Path(path) => write!(
                f,
                "'{path}' cannot name a socket; a socket path has 1 to {MAX_PATH} bytes"
            ),
            SpecError::SameEnds(end) => {
                write!(
                    f,
                    "local and remote are both '{end}'; the peer needs its own address"
                )
            }
            SpecError::Address(text) => {
                write!(
                    f,
                    "'{text}' is not an address and port such as 127.0.0.1:7000"
                )
            }
            SpecError::Seconds(text) => write!(f, "'{text}' is not a whole number of seconds"),
        }
    }
}

impl std::error::Error for SpecError {}

impl FromStr for LinkSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "none" => Options::parse("none", &[], rest).map(|_| LinkSpec::None),
            "shm" => parse_shm(rest),
            "dgram" => parse_dgram(rest),
            "udp" => parse_udp(rest),
            "stream" => parse_stream("stream", rest, |p| path(p).map(Address::Unix)),
            "tcp" => parse_stream("tcp", rest, |a| address(a).map(Address::Tcp)),
            other => Err(SpecError::Kind(other.to_owned())),
        }
    }
}

fn parse_shm(rest: &str) -> Result<LinkSpec, SpecError> {
    let options = Options::parse("shm", &["listen", "connect", "wait"], rest)?;
    match options.end()? {
        End::Listen(at) => Ok(LinkSpec::ShmListen { path: path(at)? }),
        End::Connect(at, wait) => Ok(LinkSpec::ShmConnect {
            path: path(at)?,
            wait,
        }),
    }
}

fn parse_stream(
    kind: &'static str,
    rest: &str,
    parse: impl Fn(&str) -> Result<Address, SpecError>,
) -> Result<LinkSpec, SpecError> {
    let options = Options::parse(kind, &["listen", "connect", "wait"], rest)?;
    match options.end()? {
        End::Listen(at) => Ok(LinkSpec::StreamListen { at: parse(at)? }),
        End::Connect(at, wait) => Ok(LinkSpec::StreamConnect {
            at: parse(at)?,
            wait,
        }),
    }
}

fn parse_dgram(rest: &str) -> Result<LinkSpec, SpecError> {
    let (local, remote) = Options::parse("dgram", &["local", "remote"], rest)?.two_ends()?;
    Ok(LinkSpec::Dgram {
        local: path(local)?,
        remote: path(remote)?,
    })
}

fn parse_udp(rest: &str) -> Result<LinkSpec, SpecError> {
    let (local, remote) = Options::parse("udp", &["local", "remote"], rest)?.two_ends()?;
    let (near, far) = (address(local)?, address(remote)?);
    if far.port() == 0 || far.ip().is_unspecified() || near.is_ipv4() != far.is_ipv4() {
        return Err(SpecError::Address(remote.to_owned()));
    }
    Ok(LinkSpec::Udp {
        local: near,
        remote: far,
    })
}

fn path(text: &str) -> Result<PathBuf, SpecError> {
    if text.is_empty() || text.len() > MAX_PATH || text.contains('\0') {
        return Err(SpecError::Path(text.to_owned()));
    }
    Ok(PathBuf::from(text))
}

fn address(text: &str) -> Result<SocketAddr, SpecError> {
    text.parse()
        .map_err(|_| SpecError::Address(text.to_owned()))
}

/// The end of a connection that a specification asks us to be.
enum End<'a> {
    Listen(&'a str),
    Connect(&'a str, Duration),
}

/// The `KEY=VALUE` parts of one specification.
struct Options<'a> {
    kind: &'static str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    fn parse(kind: &'static str, known: &[&str], rest: &'a str) -> Result<Self, SpecError> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in rest.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| SpecError::NotKeyValue(part.to_owned()))?;
            if !known.contains(&key) {
                return Err(SpecError::UnknownKey(kind, key.to_owned()));
            }
            if pairs.iter().any(|(seen, _)| *seen == key) {
                return Err(SpecError::Twice(key.to_owned()));
            }
            pairs.push((key, value));
        }
        Ok(Options { kind, pairs })
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    fn end(&self) -> Result<End<'a>, SpecError> {
        match (self.get("listen"), self.get("connect"), self.get("wait")) {
            (Some(at), None, None) => Ok(End::Listen(at)),
            (None, Some(at), None) => Ok(End::Connect(at, DEFAULT_WAIT)),
            (None, Some(at), Some(wait)) => {
                let seconds: u32 = wait
                    .parse()
                    .map_err(|_| SpecError::Seconds(wait.to_owned()))?;
                Ok(End::Connect(at, Duration::from_secs(seconds.into())))
            }
            _ => Err(SpecError::Incomplete(self.kind)),
        }
    }

    fn two_ends(&self) -> Result<(&'a str, &'a str), SpecError> {
        match (self.get("local"), self.get("remote")) {
            (Some(local), Some(remote)) if local == remote => {
                Err(SpecError::SameEnds(local.to_owned()))
            }
            (Some(local), Some(remote)) => Ok((local, remote)),
            _ => Err(SpecError::Incomplete(self.kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        let p = |s: &str| PathBuf::from(s);
        let unix = |s: &str| Address::Unix(p(s));
        let local: SocketAddr = ([127, 0, 0, 1], 7000).into();
        let remote: SocketAddr = ([127, 0, 0, 1], 7001).into();
        let ten = DEFAULT_WAIT;
        let table = [
            ("none", LinkSpec::None),
            ("shm:listen=/a b", LinkSpec::ShmListen { path: p("/a b") }),
            (
                "shm:connect=x",
                LinkSpec::ShmConnect {
                    path: p("x"),
                    wait: ten,
                },
            ),
            (
                "shm:wait=0,connect=x=y",
                LinkSpec::ShmConnect {
                    path: p("x=y"),
                    wait: Duration::ZERO,
                },
            ),
            (
                "dgram:local=a,remote=b",
                LinkSpec::Dgram {
                    local: p("a"),
                    remote: p("b"),
                },
            ),
            (
                "udp:local=127.0.0.1:7000,remote=127.0.0.1:7001",
                LinkSpec::Udp { local, remote },
            ),
            ("stream:listen=s", LinkSpec::StreamListen { at: unix("s") }),
            (
                "stream:connect=s,wait=3",
                LinkSpec::StreamConnect {
                    at: unix("s"),
                    wait: Duration::from_secs(3),
                },
            ),
            (
                "tcp:listen=127.0.0.1:7000",
                LinkSpec::StreamListen {
                    at: Address::Tcp(local),
                },
            ),
        ];
        for (text, spec) in table {
            assert_eq!(text.parse(), Ok(spec.clone()), "{text}");
            assert_eq!(spec.to_string().parse(), Ok(spec), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_named() {
        let long = format!("shm:listen=/{}", "x".repeat(MAX_PATH));
        let table = [
            (
                "",
                "there is no link kind ''; use none, shm, dgram, udp, stream or tcp",
            ),
            ("none:x=1", "a none link has no option 'x'; use none"),
            (
                "shm",
                "use shm:listen=PATH or shm:connect=PATH[,wait=SECONDS]",
            ),
            ("shm:/tmp/x", "'/tmp/x' is not KEY=VALUE"),
            ("shm:listen=a,listen=b", "'listen' is given twice"),
            (
                "shm:listen=a,connect=b",
                "use shm:listen=PATH or shm:connect=PATH[,wait=SECONDS]",
            ),
            (
                "stream:listen=a,wait=1",
                "use stream:listen=PATH or stream:connect=PATH[,wait=SECONDS]",
            ),
            (
                "shm:connect=a,wait=1s",
                "'1s' is not a whole number of seconds",
            ),
            (
                "shm:listen=",
                "'' cannot name a socket; a socket path has 1 to 107 bytes",
            ),
            ("dgram:local=a", "use dgram:local=PATH,remote=PATH"),
            (
                "dgram:local=a,remote=a",
                "local and remote are both 'a'; the peer needs its own address",
            ),
            (
                "udp:local=1.2.3.4:5,remote=localhost:1",
                "'localhost:1' is not an address and port such as 127.0.0.1:7000",
            ),
            (
                "udp:local=1.2.3.4:5,remote=0.0.0.0:1",
                "'0.0.0.0:1' is not an address and port such as 127.0.0.1:7000",
            ),
            (
                "udp:local=1.2.3.4:5,remote=[::1]:1",
                "'[::1]:1' is not an address and port such as 127.0.0.1:7000",
            ),
        ];
        for (text, message) in table {
            let error = text.parse::<LinkSpec>().map_err(|e| e.to_string());
            assert_eq!(error, Err(message.to_owned()), "{text}");
        }
        assert!(matches!(long.parse::<LinkSpec>(), Err(SpecError::Path(_))));
    }
}
