//! What a replay came to.

use std::net::{IpAddr, SocketAddr};

use super::remedy::Remedy;

/// What would have been with one set of settings.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The settings.
    pub remedy: Remedy,
    /// Calls that would have failed for want of a port.
    pub failed: u64,
    /// Connections that would have been opened.
    pub opened: u64,
    /// Calls that could not be tried.
    pub unplaced: u64,
    /// The fullest port spaces, the fullest first.
    pub spaces: Vec<Predicted>,
}

/// What would have been of one port space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predicted {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// The address of this end.
    pub local: IpAddr,
    /// The peer; `None` for ports of `bind(address, 0)`.
    pub remote: Option<SocketAddr>,
    /// Ports there are, for each source address.
    pub usable: u64,
    /// The most held at a time, of one source address.
    pub peak: u64,
    /// Calls that would have failed.
    pub failed: u64,
}

impl Predicted {
    /// The most held as a share of what there is.
    pub fn share(&self) -> f64 {
        if self.usable == 0 { 1.0 } else { self.peak as f64 / self.usable as f64 }
    }

    /// The space as people write it.
    pub fn name(&self) -> String {
        match self.remote {
            Some(remote) => format!("{} -> {remote}", self.local),
            None => format!("{} (bound first, all peers)", self.local),
        }
    }
}
