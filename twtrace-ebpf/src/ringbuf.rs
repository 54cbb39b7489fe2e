//! Kernel programs of twtrace for kernels with ring buffers (5.8 on, or backported).
//!
//! One body per kind of event lives in a module of its own and does not know which entry point
//! called it (fentry, kprobe or tracepoint), where settings come from, or how its event leaves:
//! the latter is the `platform` module, which each of the two binaries has its own of.
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "programs and maps are named after the kernel's own functions")]

mod binding;
mod connecting;
mod end;
mod enter;
mod fail;
mod hooks;
mod maps;
#[path = "platform/ringbuf.rs"]
mod platform;
mod present;
mod probes;
mod read;
mod refuse;
mod timers;
mod trampolines;
