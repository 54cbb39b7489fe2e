//! Per-peer state: what it is keyed by, what is counted, and how it stays bounded.

mod counts;
pub mod entry;
mod group;
pub mod history;
mod lifetimes;
pub mod minutes;
mod netns;
mod past;
pub mod rates;
pub mod spaces;
mod table;

pub use counts::{Counts, Refused, Tally, sum};
pub use group::{Group, GroupBy, Prefixes};
pub use history::History;
pub use lifetimes::{LifetimeSummary, Lifetimes};
pub use netns::{Cookies, Netns};
pub use past::{Past, Pasts};
pub use table::{OTHER, Peer, PeerTable};
