//! Settings of a node: one struct, from a TOML file, from the command line on top of it. Read by `node`'s starters in `cli` only;
//! lower rooms get plain values.

use crate::base::ErrorKind;
use crate::base::limits;
use crate::base::text::harmless;
use crate::base::text::shown;
use crate::client::failure;
use crate::client::files::io_failure;
use crate::proto::event::Failure;
use crate::proto::link_text::ADDRS_MAX;
use crate::proto::memory::Memory;
use core::net::SocketAddr;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error as _;
use std::path::Path;
use std::path::PathBuf;

/// Name of everything of ours in the user's directories.
const APP: &str = "onionskin";
/// Name of the local API's socket.
const SOCKET: &str = "api.sock";
/// Longest settings file: a page of text has room for everything.
const FILE_MAX: u64 = 1 << 20;
/// Least quota of a relay: less has no room for the shares of a single document.
const QUOTA_MIN: u64 = 1 << 20;

/// Everything that can be set. Unknown fields in a file are errors: a misspelt setting that does nothing is worse than none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the node keeps its identity, guards, view and shares. Unset: `onionskin` in the user's data directory.
    pub data_dir: Option<PathBuf>,
    /// Where a relay accepts links. All IPv4 addresses by default; a port that no other service of note has and that needs no
    /// privilege.
    pub listen: SocketAddr,
    /// Where others reach this relay, IPv4 first. Empty: the listening address, if it is a definite one.
    pub advertise: Vec<SocketAddr>,
    /// Links of relays to start from. Empty: those that an earlier run was given.
    pub bootstrap: Vec<String>,
    /// Links of other relays that the same people run. No path goes over two relays that name each other so.
    pub family: Vec<String>,
    /// Accept loopback and private addresses and lift the waiting time of hosts. Off: on the open internet both let one machine
    /// pretend to be many.
    pub local_network: bool,
    /// Most bytes of others' shares on this disk: enough to matter, little enough that nobody notices it missing. As a number, or
    /// text such as "20 GiB".
    #[serde(deserialize_with = "size_field")]
    pub quota: u64,
    /// Most bytes that a relay holds in memory for others, shared out among them (see [`Memory`]).
    #[serde(deserialize_with = "memory_field")]
    pub memory: u64,
    /// Days that a publication asks hosts for.
    #[serde(deserialize_with = "lease_field")]
    pub lease_days: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: None,
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            advertise: Vec::new(),
            bootstrap: Vec::new(),
            family: Vec::new(),
            local_network: false,
            quota: 10 << 30,
            memory: Memory::USUAL as u64,
            lease_days: limits::LEASE_DAYS,
        }
    }
}

impl Config {
    /// Reads a settings file.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let meta = std::fs::metadata(path).map_err(|e| as_usage(io_failure("read", path, &e)))?;
        if meta.len() > FILE_MAX {
            return Err(wrong(path, "it is too long for a settings file"));
        }
        let text = std::fs::read_to_string(path).map_err(|e| as_usage(io_failure("read", path, &e)))?;
        Self::parse(&text).map_err(|why| wrong(path, &why))
    }

    /// Settings from TOML text. The error is one line for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| {
            let line = e.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
            let what = harmless(&e.message().replace('\n', " "));
            line.map_or_else(|| what.clone(), |line| format!("line {line}: {what}"))
        })
    }

    /// [`Config::memory`] as it is divided.
    pub fn budget(&self) -> Memory {
        Memory::of(usize::try_from(self.memory).unwrap_or(usize::MAX))
    }

    /// Where this node keeps its files: a directory, or nothing yet.
    pub fn data_dir(&self) -> Result<PathBuf, Failure> {
        let dir = self.data_dir_named()?;
        // The first of the path that is there must be a directory.
        match dir.ancestors().find(|path| path.exists()) {
            Some(there) if !there.is_dir() => Err(failure(
                ErrorKind::Usage,
                format!("the node's files go into a directory, and {} is none", shown(there)),
                "Nothing was changed.",
                "Name a directory with --data-dir.",
            )),
            _ => Ok(dir),
        }
    }

    fn data_dir_named(&self) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        let home = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        home("XDG_DATA_HOME").or_else(|| Some(home("HOME")?.join(".local/share"))).map(|base| base.join(APP)).ok_or_else(|| {
            failure(ErrorKind::Usage, "there is no home directory to keep the node's files in", "", "Name a place with --data-dir.")
        })
    }

    /// Where the local API is: beside the data if its place was named, so that several nodes of one user do not meet; else in the
    /// user's runtime directory, if there is one.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
        match (&self.data_dir, runtime) {
            (None, Some(runtime)) => Ok(runtime.join(APP).join(SOCKET)),
            _ => Ok(self.data_dir()?.join(SOCKET)),
        }
    }

    /// The addresses that a relay tells others.
    pub fn advertised(&self) -> Result<Vec<SocketAddr>, Failure> {
        if self.advertise.len() > ADDRS_MAX {
            return Err(failure(
                ErrorKind::Usage,
                format!("a relay can tell others {ADDRS_MAX} addresses, and {} are to be advertised", self.advertise.len()),
                "",
                "Name fewer with --advertise, or in the settings.",
            ));
        }
        if !self.advertise.is_empty() {
            return Ok(self.advertise.clone());
        }
        if self.listen.ip().is_unspecified() {
            return Err(failure(
                ErrorKind::Usage,
                "a relay must know the address under which others reach it",
                "",
                "Name it with --advertise IP:PORT, or listen on that very address with --listen IP:PORT.",
            ));
        }
        Ok(vec![self.listen])
    }
}

fn as_usage(why: Failure) -> Failure {
    Failure { kind: ErrorKind::Usage, next: "Check the path given with --config.".into(), ..why }
}

fn wrong(path: &Path, why: &str) -> Failure {
    failure(ErrorKind::Usage, format!("the settings in {} cannot be used: {why}", shown(path)), "", "Correct the file.")
}

/// Bytes from text: `1048576`, `500M`, `20 GiB`. Units are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("`{}` is not a size such as 20GiB", harmless(text))),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{}` is not a size such as 20GiB", harmless(text)))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{}` is too much", harmless(text)))
}

/// A quota from text: a size of at least 1 MiB.
pub fn parse_quota(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(checked_quota)
}

fn checked_quota(bytes: u64) -> Result<u64, String> {
    if bytes < QUOTA_MIN { Err("a relay needs a quota of at least 1MiB".to_owned()) } else { Ok(bytes) }
}

/// A budget of memory from text: a size of at least [`Memory::LEAST`].
pub fn parse_memory(text: &str) -> Result<u64, String> {
    parse_size(text).and_then(checked_memory)
}

fn checked_memory(bytes: u64) -> Result<u64, String> {
    if bytes < Memory::LEAST as u64 {
        return Err(format!("a relay needs at least {}MiB of memory", Memory::LEAST >> 20));
    }
    Ok(bytes)
}

/// Days of a lease from text: at least one, and no more than hosts keep anything.
pub fn parse_lease(text: &str) -> Result<u16, String> {
    text.trim().parse().map_err(|_| format!("`{}` is not a number of days", harmless(text))).and_then(checked_lease)
}

fn checked_lease(days: u64) -> Result<u16, String> {
    let days = u16::try_from(days).ok().filter(|days| (1..=limits::LEASE_MAX_DAYS).contains(days));
    days.ok_or_else(|| {
        format!("hosts keep a document at least 1 day and at most {}; publish it again after that", limits::LEASE_MAX_DAYS)
    })
}

fn lease_field<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    u64::deserialize(d).and_then(|days| checked_lease(days).map_err(D::Error::custom))
}

fn size_field<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    checked_size(d, checked_quota)
}

fn memory_field<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    checked_size(d, checked_memory)
}

/// A number of bytes, or text.
fn checked_size<'de, D: Deserializer<'de>>(d: D, checked: fn(u64) -> Result<u64, String>) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(d)? {
        Size::Bytes(bytes) => checked(bytes),
        Size::Text(text) => parse_size(&text).and_then(checked),
    }
    .map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_reads() {
        let text = "data_dir = \"/srv/x\"\nlisten = \"127.1.0.1:0\"\nadvertise = [\"8.8.8.8:1\"]\nbootstrap = [\"a\", \"b\"]\n\
                    family = [\"c\"]\nlocal_network = true\nquota = \"20 GiB\"\nlease_days = 7\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.quota, 20 << 30);
        assert_eq!((config.bootstrap.len(), config.family.as_slice()), (2, ["c".to_owned()].as_slice()));
        assert_eq!(config.socket().unwrap(), Path::new("/srv/x/api.sock"));
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn mistakes_are_named() {
        let unknown = Config::parse("quota = 5\nqouta = 5\n").unwrap_err();
        assert!(unknown.contains("qouta") && unknown.starts_with("line 2"), "{unknown}");
        assert!(Config::parse("listen = \"here\"").is_err());
        assert!(Config::parse("quota = \"5 apples\"").is_err());
        assert!(Config::parse("quota = -1").is_err());
        assert!(Config::parse("quota = 1048575").is_err());
        assert!(Config::parse("quota = \"1023 KiB\"").is_err());
        assert!(Config::parse("quota = \"1 MiB\"").is_ok());
        assert!(Config::parse("memory = \"127 MiB\"").unwrap_err().contains("128MiB"));
        assert!(Config::parse("memory = \"128 MiB\"").is_ok());
        assert!(Config::parse("lease_days = 0").is_err());
        assert!(Config::parse("lease_days = 401").unwrap_err().contains("at most 400"));
        assert!(Config::parse("lease_days = 400").is_ok());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1048576"), Ok(1 << 20));
        assert_eq!(parse_size("500m"), Ok(500 << 20));
        assert_eq!(parse_size(" 2 GiB "), Ok(2 << 30));
        for bad in ["", "GiB", "1.5G", "-1", "99999999999999T", "1 XB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_relay_on_every_address_must_be_told_its_own() {
        assert_eq!(Config::default().advertised().unwrap_err().kind, ErrorKind::Usage);
        let many = vec!["8.8.8.8:1".parse().unwrap(); ADDRS_MAX + 1];
        assert_eq!(Config { advertise: many, ..Config::default() }.advertised().unwrap_err().kind, ErrorKind::Usage);
        let config = Config { listen: "127.1.0.1:7".parse().unwrap(), ..Config::default() };
        assert_eq!(config.advertised().unwrap(), vec![config.listen]);
    }
}
