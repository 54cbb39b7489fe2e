//! What the path of a control group says of who is in it.
//!
//! Each form is that of whoever makes the group: systemd (`systemd.slice(5)`, `systemd-cgls(1)`), the
//! kubelet (pkg/kubelet/cm/pod_container_manager_linux.go: `pod<UID>`, below a slice with `_` for `-`),
//! and the runtimes: `docker-ID.scope` or `/docker/ID`, `libpod-ID.scope`, `cri-containerd-ID.scope`,
//! `crio-ID.scope`, `nerdctl-ID.scope`.

use super::{MAX_NAME, Owner, OwnerKind};

/// Who runs a container, and how its own tools shorten its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// docker.
    Docker,
    /// podman.
    Podman,
    /// containerd.
    Containerd,
    /// CRI-O.
    CriO,
    /// Not known: the directory is named by the id alone.
    Unknown,
}

impl Runtime {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Unknown => "container",
        }
    }

    /// Digits of an id that its tools show: 12 by `docker ps`, `podman ps` and `nerdctl ps`; 13 by
    /// `crictl ps`, which is who speaks to CRI-O.
    const fn digits(self) -> usize {
        match self {
            Self::CriO => 13,
            _ => 12,
        }
    }
}

/// Where in a host a control group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a unit.
    Unit {
        /// Its name.
        name: String,
        /// Whose systemd runs it, if not the system's.
        uid: Option<u32>,
    },
    /// In a container of no pod.
    Container {
        /// Who runs it.
        runtime: Runtime,
        /// Its whole id.
        id: String,
    },
    /// In a pod.
    Pod {
        /// Its UID, with `-`.
        uid: String,
        /// The container's whole id, if it is in one.
        container: Option<String>,
    },
}

impl Place {
    /// The owner, without what only files know.
    pub fn owner(&self) -> Owner {
        let of = |kind, name| Owner { kind, name, pod: None, namespace: None, container: None };
        match self {
            Self::Unit { name, uid: None } => of(OwnerKind::Unit, name.clone()),
            Self::Unit { name, uid: Some(uid) } => {
                of(OwnerKind::UserUnit, format!("user-{uid}/{name}"))
            }
            Self::Container { runtime, id } => {
                let short = &id[..runtime.digits()];
                let name = format!("{}:{short}", runtime.as_str());
                Owner { container: Some(short.to_owned()), ..of(OwnerKind::Container, name) }
            }
            Self::Pod { uid, container } => {
                let container =
                    container.as_ref().map(|id| id[..Runtime::CriO.digits()].to_owned());
                Owner { container, ..of(OwnerKind::Pod, format!("pod:{uid}")) }
            }
        }
    }
}

/// Who is in the control group with that path from the root; `None` for the root, and for a path that
/// nobody known makes.
///
/// What is outermost counts: a unit that runs inside a container is the container's.
pub fn of_path(path: &str) -> Option<Place> {
    // Seen from within a control group namespace, others begin with as many steps up as it is deep.
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != "..");
    let parts: Vec<&str> = parts.collect();
    let pod = parts.iter().enumerate().find_map(|(at, part)| Some((at, pod_uid(part)?)));
    if let Some((at, uid)) = pod {
        let container = parts[at + 1..].iter().find_map(|part| container(part));
        return Some(Place::Pod { uid, container: container.map(|(_, id)| id) });
    }
    let contained = parts.iter().enumerate().find_map(|(at, part)| {
        let (runtime, id) = container(part)?;
        let parent = at.checked_sub(1).map(|parent| parts[parent]);
        let runtime = match (runtime, parent) {
            (Runtime::Unknown, Some("docker")) => Runtime::Docker,
            (Runtime::Unknown, Some("libpod_parent")) => Runtime::Podman,
            _ => runtime,
        };
        Some(Place::Container { runtime, id })
    });
    contained.or_else(|| unit(&parts))
}

/// Who a process is, by its `/proc/PID/cgroup`: one line a hierarchy. Where some say more than others,
/// as on hosts with both versions, a pod says more than a container, and that more than a unit.
pub fn of_cgroup_file(text: &str) -> Option<Place> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let places = paths.filter_map(of_path);
    places.min_by_key(|place| match place {
        Place::Pod { container: Some(_), .. } => 0,
        Place::Pod { container: None, .. } => 1,
        Place::Container { .. } => 2,
        Place::Unit { .. } => 3,
    })
}

/// The UID in the name of a pod's group: `pod<UID>`, or a slice that ends in `-pod<UID>.slice`.
fn pod_uid(part: &str) -> Option<String> {
    let name = match part.strip_suffix(".slice") {
        Some(slice) => {
            slice.rsplit_once("-pod").filter(|(before, _)| before.contains("kubepods"))?.1
        }
        None => part.strip_prefix("pod")?,
    };
    let uid = name.replace('_', "-");
    // A UUID, or the hash that a static pod has in its place.
    let digits = uid.chars().filter(char::is_ascii_hexdigit).count();
    let dashes = uid.chars().filter(|char| *char == '-').count();
    (digits == 32 && digits + dashes == uid.len() && matches!(dashes, 0 | 4)).then_some(uid)
}

/// The runtime and the id of a container's group.
fn container(part: &str) -> Option<(Runtime, String)> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let prefixes = [
        ("docker-", Runtime::Docker),
        ("libpod-", Runtime::Podman),
        ("cri-containerd-", Runtime::Containerd),
        ("nerdctl-", Runtime::Containerd),
        ("crio-", Runtime::CriO),
    ];
    let named = prefixes.iter().find_map(|(prefix, runtime)| {
        Some((*runtime, name.strip_prefix(prefix)?)).filter(|(_, id)| is_id(id))
    });
    // containerd with the driver `cgroupfs`: `system.slice:cri-containerd:ID`.
    let colons = || {
        let (before, id) = name.rsplit_once(':')?;
        let known = before.ends_with(":cri-containerd") && is_id(id);
        known.then_some((Runtime::Containerd, id))
    };
    let bare = || is_id(name).then_some((Runtime::Unknown, name));
    let (runtime, id) = named.or_else(colons).or_else(bare)?;
    Some((runtime, id.to_owned()))
}

/// Whether a text is a whole container id.
fn is_id(text: &str) -> bool {
    text.len() == 64
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// The unit that a path leads into: the first that is no slice, below a user's systemd one of its own.
fn unit(parts: &[&str]) -> Option<Place> {
    let is_unit = |part: &&&str| {
        let (name, kind) = part.rsplit_once('.').unwrap_or_default();
        let kinds = ["service", "scope", "socket", "mount", "swap"];
        !name.is_empty() && kinds.contains(&kind) && part.len() <= MAX_NAME
    };
    let at = parts.iter().position(|part| is_unit(&part))?;
    let manager = parts[at].strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
    let uid = manager.and_then(|uid| uid.parse().ok());
    if uid.is_some()
        && let Some(own) = parts[at + 1..].iter().find(|part| is_unit(part))
    {
        return Some(Place::Unit { name: (*own).to_owned(), uid });
    }
    Some(Place::Unit { name: parts[at].to_owned(), uid: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

    #[track_caller]
    fn names(path: &str, name: Option<&str>) {
        let path = path.replace("ID", ID).replace("UNDERSCORED", &UID.replace('-', "_"));
        let path = path.replace("DASHED", UID);
        let named = of_path(&path).map(|place| place.owner().name);
        assert_eq!(named.as_deref(), name, "{path}");
    }

    #[test]
    fn a_path_names_the_unit_that_systemd_made_it_for() {
        names("/system.slice/nginx.service", Some("nginx.service"));
        names("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service"));
        names("/system.slice/nginx.service/workers", Some("nginx.service"));
        names("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope"));
        let user = "/user.slice/user-1000.slice/user@1000.service";
        names(&format!("{user}/app.slice/web.service"), Some("user-1000/web.service"));
        names(&format!("{user}/init.scope"), Some("user-1000/init.scope"));
        names(user, Some("user@1000.service"));
        names("/init.scope", Some("init.scope"));
        names("/../../system.slice/cron.service", Some("cron.service"));
        for nobody in ["/", "", "/system.slice", "/mine", "/a.b/c", "/.service"] {
            names(nobody, None);
        }
    }

    #[test]
    fn a_path_names_the_container_and_shortens_its_id_as_its_tools_do() {
        names("/system.slice/docker-ID.scope", Some("docker:0123456789ab"));
        names("/docker/ID", Some("docker:0123456789ab"));
        names("/system.slice/docker-ID.scope/system.slice/x.service", Some("docker:0123456789ab"));
        names("/machine.slice/libpod-ID.scope/container", Some("podman:0123456789ab"));
        names("/libpod_parent/libpod-ID", Some("podman:0123456789ab"));
        let rootless = "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope";
        names(rootless, Some("podman:0123456789ab"));
        names("/system.slice/nerdctl-ID.scope", Some("containerd:0123456789ab"));
        names("/system.slice/crio-ID.scope", Some("cri-o:0123456789abc"));
        names("/default/ID", Some("container:0123456789ab"));
        names("/system.slice/docker-0123.scope", Some("docker-0123.scope"));
    }

    #[test]
    fn a_path_names_the_pod_by_either_driver_of_the_kubelet() {
        let pod = format!("pod:{UID}");
        let slice =
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUNDERSCORED.slice";
        names(&format!("{slice}/cri-containerd-ID.scope"), Some(&pod));
        names(&format!("{slice}/crio-ID.scope/container"), Some(&pod));
        names(slice, Some(&pod));
        names("/kubepods/burstable/podDASHED/ID", Some(&pod));
        names(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUNDERSCORED.slice",
            Some(&pod),
        );
        names("/x-podUNDERSCORED.slice", None);
        names("/podcast", None);
        let place = of_path(&format!("/kubepods/pod{UID}/{ID}")).unwrap();
        assert_eq!(place, Place::Pod { uid: UID.into(), container: Some(ID.into()) });
    }

    #[test]
    fn of_several_hierarchies_the_one_that_says_most_counts() {
        let text = format!("5:memory:/docker/{ID}\n1:name=systemd:/system.slice/a.service\n0::/\n");
        assert_eq!(of_cgroup_file(&text).unwrap().owner().name, "docker:0123456789ab");
        assert_eq!(of_cgroup_file("0::/\n"), None);
        let text = "1:name=systemd:/system.slice/a:b.service\n0::/\n";
        assert_eq!(of_cgroup_file(text).unwrap().owner().name, "a:b.service");
    }
}
