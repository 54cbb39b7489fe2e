//! The capabilities of this process: what is missing, and giving up what only attaching needs.

use std::io;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

use super::namespaces::find;

/// What a process does once its programs are attached, as far as it takes rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads maps, and looks into the network namespaces of others.
    Everywhere,
    /// Reads maps, and looks into its own network namespace alone.
    AtHome,
    /// Nothing that takes any.
    Nothing,
}

impl Work {
    /// That of a session which watches this network namespace, 0 standing for all.
    pub fn of(netns: u32) -> Self {
        let own = find("/proc/self/ns/net").ok();
        if own == Some(netns) { Self::AtHome } else { Self::Everywhere }
    }

    /// What it takes: reading maps where BPF is for the privileged only (every command, before Linux
    /// 5.19; before CAP_BPF, 5.8, that is for CAP_SYS_ADMIN), entering network namespaces, and finding
    /// those of others.
    fn takes(self, supported: &CapsHashSet) -> CapsHashSet {
        use Capability::{CAP_BPF, CAP_SYS_ADMIN, CAP_SYS_PTRACE};
        match self {
            Self::Everywhere => [CAP_BPF, CAP_SYS_ADMIN, CAP_SYS_PTRACE].into(),
            Self::AtHome if supported.contains(&CAP_BPF) => [CAP_BPF].into(),
            Self::AtHome => [CAP_SYS_ADMIN].into(),
            Self::Nothing => CapsHashSet::new(),
        }
    }
}

/// What cannot be done for want of a capability, one sentence each.
pub fn missing(work: Work) -> Vec<String> {
    if work != Work::Everywhere {
        return Vec::new();
    }
    let Ok(effective) = caps::read(None, CapSet::Effective) else { return Vec::new() };
    consequences(&effective).into_iter().map(str::to_owned).collect()
}

/// Whether what keeps this process out of a namespace is a capability that [`missing`] tells of.
pub fn explain(error: &io::Error) -> bool {
    let holds = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
    error.kind() == io::ErrorKind::PermissionDenied && !holds(Capability::CAP_SYS_ADMIN)
}

fn consequences(effective: &CapsHashSet) -> Vec<&'static str> {
    [
        (
            Capability::CAP_SYS_ADMIN,
            "CAP_SYS_ADMIN is missing: network namespaces other than its own cannot be entered, so \
             their settings and the sockets in TIME_WAIT there at the start stay unknown, and \
             counts there are not compared with the kernel's own",
        ),
        (
            Capability::CAP_SYS_PTRACE,
            "CAP_SYS_PTRACE is missing: network namespaces that have no name and only processes \
             of other users are not found, as if they could not be entered",
        ),
    ]
    .into_iter()
    .filter_map(|(capability, sentence)| (!effective.contains(&capability)).then_some(sentence))
    .collect()
}

/// Gives up, for this thread and those it will start, whatever this work does not take, and the right
/// to have it back.
///
/// # Errors
/// The kernel refused, which it never should.
pub fn keep_for(work: Work) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let takes = work.takes(&caps::runtime::thread_all_supported());
    let kept = takes.intersection(&permitted).copied().collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set)?;
    }
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!(%error, "cannot rule out new privileges");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_what_it_means() {
        let told = consequences(&CapsHashSet::from([Capability::CAP_SYS_PTRACE]));
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("CAP_SYS_ADMIN is missing: network namespaces"));
        let all = Work::Everywhere.takes(&caps::all());
        assert!(consequences(&all).is_empty());
    }

    #[test]
    fn what_is_given_up_is_gone_for_good_and_the_rest_is_kept() {
        // In a thread of its own: capabilities are a thread's.
        std::thread::spawn(|| {
            for work in [Work::Everywhere, Work::AtHome, Work::Nothing] {
                let before = caps::read(None, CapSet::Permitted).unwrap();
                keep_for(work).unwrap();
                let after = caps::read(None, CapSet::Permitted).unwrap();
                let takes = work.takes(&caps::runtime::thread_all_supported());
                let kept = takes.intersection(&before).copied().collect();
                assert_eq!(after, kept, "{work:?}");
                assert_eq!(caps::read(None, CapSet::Effective).unwrap(), kept, "{work:?}");
                assert!(caps::raise(None, CapSet::Permitted, Capability::CAP_PERFMON).is_err());
            }
            assert!(caps::read(None, CapSet::Permitted).unwrap().is_empty());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn whoever_looks_into_no_namespace_but_its_own_keeps_no_right_to() {
        let new = caps::all();
        assert_eq!(Work::AtHome.takes(&new), [Capability::CAP_BPF].into());
        let mut old = new.clone();
        old.remove(&Capability::CAP_BPF);
        assert_eq!(Work::AtHome.takes(&old), [Capability::CAP_SYS_ADMIN].into());
        assert_eq!(Work::Everywhere.takes(&new).len(), 3);
    }
}
