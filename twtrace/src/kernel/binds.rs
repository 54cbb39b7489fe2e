//! Refused `bind()` calls where functions cannot be hooked: programs of the root control group see each
//! begin, and each that got its port.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::UdpSocket,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSock, Program, ProgramError},
};
use twtrace_common::{Failed, Kind, failed_flags};

use super::{Namespaces, kprobes::Kprobes, programs};
use crate::{
    event::{Event, ip},
    host::cgroup,
};

/// What tells that a call is over comes before what tells that one began.
const PROGRAMS: [&str; 5] = [
    "cgroup_post_bind4",
    "cgroup_post_bind6",
    "cgroup_sock_release",
    "cgroup_bind4",
    "cgroup_bind6",
];

/// Attaches them to all processes of this host; answers their names.
///
/// # Errors
/// There is no control group of version 2 that all processes are below, or the kernel refused one: one
/// line. None is attached then.
pub fn attach(ebpf: &mut Ebpf) -> Result<Vec<&'static str>, String> {
    let root = cgroup::root_of_all()?;
    let mut attached = Vec::new();
    for name in PROGRAMS {
        let program = ebpf.program_mut(name).ok_or("the embedded object lacks a program");
        let done = program
            .map_err(str::to_owned)
            .and_then(|program| attach_one(program, &root).map_err(|error| refusal(name, &error)));
        if let Err(reason) = done {
            programs::detach(ebpf, &mut Kprobes::default(), &attached);
            return Err(reason);
        }
        attached.push(name);
    }
    Ok(attached)
}

/// What the kernel said, in one line (`bpf_prog_load()`, kernel/bpf/syscall.c: EPERM).
fn refusal(name: &str, error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. }
            if io_error.raw_os_error() == Some(libc::EPERM) =>
        {
            "CAP_NET_ADMIN is missing".to_owned()
        }
        _ => format!("{name}: {}", programs::brief(error)),
    }
}

/// Beside whatever else is attached there (`cgroup_bpf_link_attach()`, kernel/bpf/cgroup.c, 5.7 on).
fn attach_one(program: &mut Program, root: &std::fs::File) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => {
            program.load()?;
            program.attach(root, CgroupAttachMode::Single).map(drop)
        }
        program => {
            let program: &mut CgroupSock = program.try_into()?;
            program.load()?;
            program.attach(root, CgroupAttachMode::Single).map(drop)
        }
    }
}

/// Which addresses are this host's: a `bind()` of another one is refused for that (EADDRNOTAVAIL), and
/// looks the same to these programs.
#[derive(Debug, Default)]
pub struct Locals {
    asked: HashMap<(u32, [u8; 16]), (Instant, bool)>,
}

impl Locals {
    /// How long an answer holds: addresses move from host to host.
    const FRESH: Duration = Duration::from_secs(1);
    /// Most answers kept.
    const MOST: usize = 1024;

    /// Whether a failed call with these flags failed for want of a port.
    pub fn counts(&mut self, flags: u16, netns: u32, address: [u8; 16]) -> bool {
        flags & failed_flags::INFERRED == 0 || self.is_local(netns, address)
    }

    /// The same of a wire record; true of all others.
    pub fn passes(&mut self, record: &[u8]) -> bool {
        if record.first() != Some(&(Kind::Failed as u8)) {
            return true;
        }
        let Ok(Event::Failed(Failed { header, flow, .. })) = Event::decode(record) else {
            return true;
        };
        self.counts(header.flags, header.netns, flow.local)
    }

    fn is_local(&mut self, netns: u32, address: [u8; 16]) -> bool {
        if ip(address).is_unspecified() {
            return true;
        }
        let now = Instant::now();
        if self.asked.len() >= Self::MOST {
            self.asked.clear();
        }
        let (asked, local) = self
            .asked
            .entry((netns, address))
            .or_insert_with(|| (now, may_be_bound(netns, address)));
        if now.duration_since(*asked) > Self::FRESH {
            (*asked, *local) = (now, may_be_bound(netns, address));
        }
        *local
    }
}

/// Whether a socket of ours can have the address, for which the kernel asks the same as for theirs: routes,
/// and `ip_nonlocal_bind` (`inet_addr_valid_or_nonlocal()`, include/net/inet_sock.h). True where nobody
/// can ask any more.
fn may_be_bound(netns: u32, address: [u8; 16]) -> bool {
    let bind = || UdpSocket::bind((ip(address), 0));
    let answer = match Namespaces::scan().get(netns) {
        Some(namespace) => namespace.run(bind),
        None => return true,
    };
    let refused = |error: &std::io::Error| error.kind() == ErrorKind::AddrNotAvailable;
    !answer.is_ok_and(|bound| bound.as_ref().is_err_and(refused))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::octets;

    #[test]
    fn an_address_of_somebody_else_is_no_port_in_use() {
        let own = std::fs::metadata("/proc/self/ns/net").unwrap();
        let netns = std::os::unix::fs::MetadataExt::ino(&own) as u32;
        let mut locals = Locals::default();
        let mut counts =
            |flags, address: &str| locals.counts(flags, netns, octets(address.parse().unwrap()));
        assert!(counts(failed_flags::INFERRED, "127.0.0.7"));
        assert!(counts(failed_flags::INFERRED, "0.0.0.0"));
        assert!(counts(failed_flags::INFERRED, "::1"));
        // Set apart for documents (RFC 5737).
        assert!(!counts(failed_flags::INFERRED, "192.0.2.7"));
        assert!(counts(0, "192.0.2.7"), "the kernel said so itself");
    }
}
