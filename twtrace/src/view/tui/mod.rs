//! The full screen of `twtrace watch`.
//!
//! Summaries and events go into a [`State`], keys become an [`Effect`] and change it, and [`draw`]
//! is a function of nothing else: the same state is the same screen, whether it is fed by a kernel,
//! by a recording or by a test.

mod draw;
mod keys;
mod line;
mod series;
mod state;

pub use draw::draw;
pub use keys::{Effect, effect};
pub use state::{Request, State, View};
