//! Names of owners that files of the host tell: a process's control group, a pod's name.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::owner::{MAX_NAME, Owner, Place, of_cgroup_file};

/// Where the kubelet keeps the logs of pods: `NAMESPACE_NAME_UID/CONTAINER/` (`BuildPodLogsDirectory`,
/// pkg/kubelet/kuberuntime/helpers.go).
const POD_LOGS: &str = "var/log/pods";
/// Where it has a link for each container, `POD_NAMESPACE_CONTAINER-ID.log` (`LogSymlink`,
/// pkg/kubelet/kuberuntime/legacy.go).
const CONTAINER_LOGS: &str = "var/log/containers";
/// Most entries of either looked through.
const MOST_ENTRIES: usize = 16_384;
/// Most bytes of a process's list of control groups.
const MOST_BYTES: u64 = 16 << 10;

/// Who a process is, by its control groups; `None` if it is nobody's, or gone.
pub fn of_process(proc: &Path, pid: u32) -> Option<Place> {
    let file = fs::File::open(proc.join(pid.to_string()).join("cgroup")).ok()?;
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    of_cgroup_file(&text)
}

/// The owner of a place, with the names that the kubelet's directories below `root` have for it. What
/// they do not tell is not known.
pub fn named(root: &Path, place: &Place) -> Owner {
    let mut owner = place.owner();
    let Place::Pod { uid, container } = place else { return owner };
    let Some((directory, namespace, pod)) = pod(root, uid) else { return owner };
    let containers = || entries(&directory);
    let by_id = container.as_ref().and_then(|id| by_link(root, &namespace, &pod, id));
    let only = || match containers().as_slice() {
        [only] => Some(only.clone()),
        _ => None,
    };
    if container.is_some()
        && let Some(name) = by_id.or_else(only)
    {
        owner.container = Some(name);
    }
    owner.name = format!("{namespace}/{pod}");
    owner.namespace = Some(namespace);
    owner.pod = Some(pod);
    owner
}

/// The directory of a pod's logs, its Kubernetes namespace and its name; neither of the two has a `_`.
fn pod(root: &Path, uid: &str) -> Option<(PathBuf, String, String)> {
    let logs = root.join(POD_LOGS);
    entries(&logs).into_iter().find_map(|entry| {
        let (namespace, pod) = entry.strip_suffix(uid)?.strip_suffix('_')?.split_once('_')?;
        let fits = |name: &str| !name.is_empty() && name.len() <= MAX_NAME && is_label(name);
        (fits(namespace) && fits(pod))
            .then(|| (logs.join(&entry), namespace.to_owned(), pod.to_owned()))
    })
}

/// The name of the container with that id, by its link.
fn by_link(root: &Path, namespace: &str, pod: &str, id: &str) -> Option<String> {
    let before = format!("{pod}_{namespace}_");
    entries(&root.join(CONTAINER_LOGS)).into_iter().find_map(|entry| {
        let name = entry.strip_suffix(".log")?.strip_suffix(id)?.strip_suffix('-')?;
        let name = name.strip_prefix(&before)?;
        is_label(name).then(|| name.to_owned())
    })
}

/// Whether a name has only what names of Kubernetes have (RFC 1123).
fn is_label(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

fn entries(directory: &Path) -> Vec<String> {
    let read = fs::read_dir(directory).into_iter().flatten().take(MOST_ENTRIES);
    read.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::of_path;

    const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn owner(root: &Path) -> Owner {
        named(root, &of_path(&format!("/kubepods/burstable/pod{UID}/{ID}")).unwrap())
    }

    #[test]
    fn a_pod_is_named_by_the_directories_of_its_logs() {
        let root = tempfile::tempdir().unwrap();
        let unknown = owner(root.path());
        assert_eq!((unknown.name, unknown.pod), (format!("pod:{UID}"), None));
        let logs = root.path().join(POD_LOGS);
        fs::create_dir_all(logs.join(format!("kube-system_dns-1_{}", UID.replace('0', "1"))))
            .unwrap();
        let pod = logs.join(format!("default_web-0_{UID}"));
        fs::create_dir_all(pod.join("nginx")).unwrap();
        let one = owner(root.path());
        assert_eq!((one.name.as_str(), one.container.as_deref()), ("default/web-0", Some("nginx")));
        assert_eq!(
            (one.namespace.as_deref(), one.pod.as_deref()),
            (Some("default"), Some("web-0"))
        );
        // Of two it is not known which, until a link tells.
        fs::create_dir(pod.join("log-shipper")).unwrap();
        assert_eq!(owner(root.path()).container.as_deref(), Some("0123456789abc"));
        let links = root.path().join(CONTAINER_LOGS);
        fs::create_dir_all(&links).unwrap();
        fs::write(links.join(format!("web-0_default_log-shipper-{ID}.log")), "").unwrap();
        assert_eq!(owner(root.path()).container.as_deref(), Some("log-shipper"));
    }

    #[test]
    fn a_name_that_no_kubelet_makes_is_no_name() {
        let root = tempfile::tempdir().unwrap();
        let logs = root.path().join(POD_LOGS);
        for bad in [format!("a b_web_{UID}"), format!("_web_{UID}"), format!("x_\x1b[2J_{UID}")] {
            fs::create_dir_all(logs.join(bad)).unwrap();
        }
        assert_eq!(owner(root.path()).name, format!("pod:{UID}"));
    }

    #[test]
    fn a_process_is_of_its_own_control_group() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("7")).unwrap();
        fs::write(proc.path().join("7/cgroup"), "0::/system.slice/a.service\n").unwrap();
        let place = of_process(proc.path(), 7).unwrap();
        assert_eq!(place.owner().name, "a.service");
        assert_eq!(of_process(proc.path(), 8), None);
    }
}
