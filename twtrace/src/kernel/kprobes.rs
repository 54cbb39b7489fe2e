//! Attaches kprobes: by the address of their function where the kernel is slow to find it by name.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    programs::{KProbe, ProbeKind, ProgramError},
    sys::SyscallError,
    util::KernelVersion,
};
use perf_event::{Builder, Counter, events::Dynamic};

use super::{hooks, preflight, symbols::Kallsyms};

/// Attaches kprobes, and holds those that it attached by address until they are detached.
#[derive(Debug, Default)]
pub struct Kprobes {
    addresses: HashMap<&'static str, u64>,
    open: Vec<(&'static str, Counter)>,
}

impl Kprobes {
    /// Those of a kernel with these functions: by address where that is quicker and they are shown.
    pub fn new(kallsyms: &Kallsyms) -> Self {
        let address = |name| Some((name, kallsyms.address(name)?));
        let addresses = if names_are_slow() {
            hooks::functions().filter_map(address).collect()
        } else {
            HashMap::new()
        };
        Self { addresses, open: Vec::new() }
    }

    /// Attaches a program that is loaded.
    ///
    /// # Errors
    /// Whatever the kernel refuses it with.
    pub fn attach(
        &mut self,
        name: &'static str,
        program: &mut KProbe,
        function: &str,
    ) -> Result<(), ProgramError> {
        let Some(&address) = self.addresses.get(function) else {
            return program.attach(function, 0).map(drop);
        };
        let counter = at(address, program).map_err(|io_error| {
            ProgramError::from(SyscallError { call: "perf_event_open", io_error })
        })?;
        self.open.push((name, counter));
        Ok(())
    }

    /// Detaches a program, if it was attached by address.
    pub fn detach(&mut self, name: &str) {
        self.open.retain(|(open, _)| *open != name);
    }
}

/// Whether the kernel looks for a name in all its symbols, and does so two to four times for each
/// kprobe: up to Linux 6.1 (`kallsyms_lookup_name()`, kernel/kallsyms.c). Before 4.17 kprobes have
/// no address either.
pub fn names_are_slow() -> bool {
    let old = KernelVersion::current().is_ok_and(|running| running < KernelVersion::new(6, 2, 0));
    preflight::has_kprobes() && old
}

/// Attaches a program at an address (`perf_kprobe_init()`, kernel/trace/trace_event_perf.c).
fn at(address: u64, program: &KProbe) -> io::Result<Counter> {
    let returns = u64::from(matches!(program.kind(), ProbeKind::Return));
    let mut event = Dynamic::builder("kprobe")?;
    event.field("retprobe", returns).map_err(io::Error::other)?;
    let mut builder = Builder::new(event.build().map_err(io::Error::other)?);
    builder.attrs_mut().config2 = address;
    // What is counted does not matter: a program runs on every processor, whoever runs there.
    let mut counter = builder.any_pid().one_cpu(0).build()?;
    let fd = program.fd().map_err(io::Error::other)?;
    counter.set_bpf(fd.as_fd().as_raw_fd())?;
    counter.enable()?;
    Ok(counter)
}
