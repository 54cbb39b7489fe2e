//! The capabilities of this process: what is missing, and giving up what only attaching needs.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// What is needed after attaching: reading maps where BPF is for the privileged only (every
/// command, before Linux 5.19), entering network namespaces, and finding those of others.
const KEPT: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE];

/// What cannot be done for want of a capability, one sentence each.
pub fn missing() -> Vec<String> {
    let Ok(effective) = caps::read(None, CapSet::Effective) else { return Vec::new() };
    consequences(&effective).into_iter().map(str::to_owned).collect()
}

fn consequences(effective: &CapsHashSet) -> Vec<&'static str> {
    [
        (
            Capability::CAP_SYS_ADMIN,
            "CAP_SYS_ADMIN is missing: network namespaces other than its own cannot be entered, so \
             their settings, and the sockets in TIME_WAIT there at the start, stay unknown",
        ),
        (
            Capability::CAP_SYS_PTRACE,
            "CAP_SYS_PTRACE is missing: network namespaces that have no name and only processes \
             of other users are not found",
        ),
    ]
    .into_iter()
    .filter_map(|(capability, sentence)| (!effective.contains(&capability)).then_some(sentence))
    .collect()
}

/// Gives up, for this thread and those it will start, whatever only attaching needs, and the right
/// to have it back.
///
/// # Errors
/// The kernel refused, which it never should.
pub fn give_up() -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = KEPT.into_iter().filter(|one| permitted.contains(one)).collect();
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
        assert!(consequences(&CapsHashSet::from(KEPT)).is_empty());
    }

    #[test]
    fn what_is_given_up_is_gone_for_good_and_the_rest_is_kept() {
        // In a thread of its own: capabilities are a thread's.
        std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            give_up().unwrap();
            let after = caps::read(None, CapSet::Permitted).unwrap();
            let kept = KEPT.into_iter().filter(|one| before.contains(one)).collect();
            assert_eq!(after, kept);
            assert_eq!(caps::read(None, CapSet::Effective).unwrap(), kept);
            assert!(caps::raise(None, CapSet::Permitted, Capability::CAP_PERFMON).is_err());
        })
        .join()
        .unwrap();
    }
}
