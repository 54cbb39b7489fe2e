//! Per-peer state: what it is keyed by, what is counted, and how it stays bounded.

mod counts;
mod group;
mod lifetimes;
mod table;

pub use counts::{Counts, Refused};
pub use group::{Group, GroupBy, Prefixes};
pub use lifetimes::{LifetimeSummary, Lifetimes};
pub use table::{OTHER, Peer, PeerTable};
