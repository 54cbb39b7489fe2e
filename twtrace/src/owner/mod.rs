//! Whose sockets they are, by the names that people use: a systemd unit, a container, a pod.
//!
//! A control group has a path, of which [`Place`] is made without asking anybody; a pod's name is
//! looked up by whoever reads files. What nobody could tell is unknown, and stays so.

mod known;
mod path;

pub use known::{Book, Known, OwnerId, Owners};
pub use path::{Place, Runtime, of_cgroup_file, of_path};

use serde::{Deserialize, Serialize};

/// Most bytes of a name; what is longer is nobody's. DNS names, which pods have, end at 253 and units
/// at 255 (`UNIT_NAME_MAX`, systemd).
pub const MAX_NAME: usize = 255;

/// What kind of owner it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKind {
    /// A unit of the system's systemd.
    Unit,
    /// A unit of a user's systemd.
    UserUnit,
    /// A container of no pod.
    Container,
    /// A pod.
    Pod,
}

impl OwnerKind {
    /// Its word in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::UserUnit => "user_unit",
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }
}

/// Who owns a socket. Two are the same owner if their names are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// What kind it is.
    pub kind: OwnerKind,
    /// `nginx.service`, `user-1000/app.service`, `docker:0123456789ab`, `default/web-0`; a pod whose
    /// name is not known is `pod:` and its UID.
    pub name: String,
    /// A pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// A pod's Kubernetes namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The container: its name in a pod, where that is known, else its runtime's short id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl Owner {
    /// Whether a user means it: by its name, or by that of one container of it,
    /// `default/web-0/nginx`.
    pub fn is(&self, asked: &str) -> bool {
        let rest = asked.strip_prefix(self.name.as_str());
        rest.is_some_and(|rest| match rest.strip_prefix('/') {
            Some(container) => self.container.as_deref() == Some(container),
            None => rest.is_empty(),
        })
    }

    /// The same without what only one of its control groups has.
    #[must_use]
    pub fn without_container(&self) -> Self {
        let container = self.container.clone().filter(|_| self.kind == OwnerKind::Container);
        Self { container, ..self.clone() }
    }
}

/// What an owner is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A control group, by identifier.
    Cgroup(u64),
    /// A network namespace, all of whose processes have that owner.
    Netns {
        /// Inode number.
        inum: u32,
        /// Cookie; 0 where the kernel does not tell.
        cookie: u64,
    },
}

/// What was found out of an owner, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Of what.
    pub of: Subject,
    /// The owner; `None` where nobody can tell.
    pub owner: Option<Owner>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_asked_for_by_its_name_or_by_one_of_its_containers() {
        let owner = Owner {
            kind: OwnerKind::Pod,
            name: "default/web-0".into(),
            pod: Some("web-0".into()),
            namespace: Some("default".into()),
            container: Some("nginx".into()),
        };
        assert!(owner.is("default/web-0") && owner.is("default/web-0/nginx"));
        for other in ["default/web", "default/web-01", "default/web-0/app", "web-0", ""] {
            assert!(!owner.is(other), "{other}");
        }
        assert!(!owner.without_container().is("default/web-0/nginx"));
    }
}
