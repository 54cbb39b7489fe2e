//! The daemon's API as its clients see it, good ones and bad ones.

mod documents;
mod hardship;
mod harness;
mod made_up;
mod metrics;
mod openapi;
mod owner;
mod streams;
