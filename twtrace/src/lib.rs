//! twtrace explains why TIME_WAIT sockets pile up.
//!
//! Data flows one way, and a module uses only what stands above it here:
//!
//! | layer | modules |
//! |---|---|
//! | values | [`units`], [`event`] |
//! | rules | [`path`] |
//! | state | [`peer`], [`track`] |
//! | which sockets | [`filter`] |
//! | state, folded | [`aggregate`] |
//! | facts of the host | [`host`] |
//! | what to make of it all | [`diagnose`] |
//! | the read model | [`summary`], [`agent`] |
//! | what people and programs read | [`view`] |
//! | the kernel, the only users of aya | [`kernel`] |
//! | settings of the daemon | [`config`] |
//! | what flows in, and its files | [`feed`], [`recording`] |
//! | one run | [`pipeline`], [`session`], [`daemon`], [`cli`], [`manual`] |
//!
//! A view never reads the kernel, and only `kernel` and the lowest calls of `host` need privileges:
//! everything else is reached by tests with records made up or recorded.
#![deny(unsafe_code)]

pub mod agent;
pub mod aggregate;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod diagnose;
pub mod event;
pub mod feed;
pub mod filter;
pub mod host;
pub mod kernel;
pub mod manual;
pub mod path;
pub mod peer;
pub mod pipeline;
pub mod recording;
pub mod session;
pub mod summary;
pub mod track;
pub mod units;
pub mod view;
