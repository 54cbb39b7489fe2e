//! Per-peer state: what it is keyed by, what is counted, and how it stays bounded.

mod address;
mod counts;
mod group;
pub mod history;
mod lifetimes;
pub mod minutes;
mod past;
pub mod rates;
mod table;

pub use address::{NoPeer, PeerAddress};
pub use counts::{Counts, Refused, Tally};
pub use group::{Group, GroupBy, Prefixes};
pub use history::History;
pub use lifetimes::{LifetimeSummary, Lifetimes};
pub use past::Past;
pub use table::{OTHER, Peer, PeerTable};
