//! Names for peers, for whoever looks at them: out of files of addresses and names, and of reverse DNS.
//!
//! They are asked for where something is shown, of what is shown, and kept nowhere else: no recording,
//! no feed and no metric has them. Whatever they are made of, they are text of others.

mod file;
mod reverse;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use file::NameFile;
use reverse::Reverse;

use crate::{filter::PeerAddress, peer::Group};

/// Peers of one view that are given names, the first that it shows.
const MOST_PEERS: usize = 1024;
/// Names of this host.
const HOSTS: &str = "/etc/hosts";

/// Where names are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `/etc/hosts`.
    Hosts,
    /// Reverse DNS.
    Dns,
    /// A file of lines `address[:port] name`.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "hosts" => Self::Hosts,
            "dns" => Self::Dns,
            path => Self::File(path.into()),
        })
    }
}

/// A file of names that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--names {}: {source}", crate::text::visible(&path.display().to_string()))]
pub struct Unreadable {
    path: PathBuf,
    source: io::Error,
}

/// The names known at one moment, of the peers that a view shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(HashMap<PeerAddress, String>);

impl Names {
    /// The name of a row's peer.
    pub fn of_group(&self, group: &Group) -> Option<&str> {
        self.of(&PeerAddress::of(group)?)
    }

    /// The name of a peer.
    pub fn of(&self, peer: &PeerAddress) -> Option<&str> {
        self.0.get(peer).map(String::as_str)
    }
}

/// Something that may know a name.
enum Oracle {
    File(NameFile),
    Reverse(Reverse),
}

/// What gives names: the first source that knows one.
pub struct Namer(Vec<Oracle>);

impl Namer {
    /// One that asks these sources, in this order; none if there are none.
    ///
    /// # Errors
    /// [`Unreadable`]: a file that the user named. That there is no `/etc/hosts` is no fault.
    pub fn of(sources: &[Source]) -> Result<Option<Self>, Unreadable> {
        let mut oracles = Vec::new();
        for source in sources {
            oracles.push(match source {
                Source::Dns => Oracle::Reverse(Reverse::begin()),
                Source::Hosts => Oracle::File(NameFile::of(HOSTS.into())),
                Source::File(path) => {
                    let mut file = NameFile::of(path.clone());
                    file.refresh().map_err(|source| Unreadable { path: path.clone(), source })?;
                    Oracle::File(file)
                }
            });
        }
        Ok((!oracles.is_empty()).then_some(Self(oracles)))
    }

    /// The names of these peers as far as they are known when `patience` has passed, or all are; what
    /// is not known by then is asked for all the same, for the next time.
    pub fn names(&mut self, peers: &[PeerAddress], patience: Duration) -> Names {
        let until = Instant::now() + patience;
        let peers = &peers[..peers.len().min(MOST_PEERS)];
        for oracle in &mut self.0 {
            if let Oracle::File(file) = oracle {
                // One that is being replaced is not there for a moment: what it said holds.
                let _ = file.refresh();
            }
        }
        loop {
            let mut names = Names::default();
            let mut open = false;
            for peer in peers {
                let (name, waits) = self.of_peer(peer, Instant::now());
                open |= waits;
                if let Some(name) = name {
                    names.0.insert(*peer, name);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if !open || left.is_zero() {
                return names;
            }
            for oracle in &mut self.0 {
                if let Oracle::Reverse(reverse) = oracle {
                    reverse.await_answer(left);
                }
            }
        }
    }

    /// The name of one, and whether an answer is yet to come.
    fn of_peer(&mut self, peer: &PeerAddress, now: Instant) -> (Option<String>, bool) {
        let mut waits = false;
        for oracle in &mut self.0 {
            let known = match oracle {
                Oracle::File(file) => file.name(peer),
                Oracle::Reverse(reverse) => {
                    let (known, is_open) = reverse.name(peer.ip, now);
                    waits |= is_open;
                    known
                }
            };
            if let Some(name) = known {
                return (Some(name.to_owned()), waits);
            }
        }
        (None, waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_source_that_knows_a_name_gives_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string().parse::<Source>().unwrap()
        };
        let sources = [
            file("services", "10.2.0.2:443 shop"),
            file("hosts", "10.2.0.2 db.example db\n10.2.0.3 cache.example"),
        ];
        let mut namer = Namer::of(&sources).unwrap().unwrap();
        let peers = ["10.2.0.2:443", "10.2.0.2:80", "10.2.0.3", "10.2.0.4"];
        let peers = peers.map(|text| text.parse::<PeerAddress>().unwrap());
        let names = namer.names(&peers, Duration::ZERO);
        let told = peers.each_ref().map(|peer| names.of(peer));
        assert_eq!(told, [Some("shop"), Some("db.example"), Some("cache.example"), None]);
    }

    #[test]
    fn a_file_that_is_not_there_is_told_and_none_is_no_namer() {
        assert!(Namer::of(&[]).unwrap().is_none());
        let error = Namer::of(&["/nowhere/names".parse().unwrap()]).err().unwrap();
        assert!(error.to_string().starts_with("--names /nowhere/names: No such file"), "{error}");
    }
}
