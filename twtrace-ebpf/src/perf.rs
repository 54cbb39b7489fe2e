//! Kernel programs of twtrace for kernels without ring buffers, Linux 4.4 to 5.7.
//!
//! The same bodies as in `ringbuf.rs`, with kprobes as their only entry points. What a verifier of
//! 4.4 asks for is written in `platform/perf.rs`, and a test of the library follows its rules
//! through every path of this object.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "programs and maps are named after the kernel's own functions")]

mod connecting;
mod end;
mod enter;
mod fail;
mod hooks;
mod learn;
mod maps;
#[path = "platform/perf.rs"]
mod platform;
mod probes;
mod read;
mod refuse;
