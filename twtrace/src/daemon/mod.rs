//! The host daemon around the one owner of the pipeline: who asks, and what they are told.
//!
//! The owner is a task of its own; everything here reaches it through the [`hub`] and nothing else.

pub mod answer;
pub mod api;
pub mod failure;
pub mod feeds;
pub mod hub;
pub mod life;
pub mod log;
pub mod names;
pub mod notify;
pub mod owner;
pub mod places;
pub mod query;
pub mod server;
pub mod socket;
pub mod state;
mod streams;
