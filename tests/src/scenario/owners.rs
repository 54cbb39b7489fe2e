//! Sockets by whose they are: real control groups and network namespaces, named as systemd, the container
//! runtimes and the kubelet name theirs. A pod's log directories are a copy of the kubelet's layout.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cgroup::Cgroup;
use crate::daemon::Daemon;
use crate::equation::settled;
use crate::expect;
use crate::http;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::summary::Summary;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server, close_first};
use crate::twtrace::{Running, Tracer};

/// A container's id that no other scenario has.
fn id(tail: u8) -> String {
    // Its first digits are what tools show.
    format!("{tail:02x}{:08x}{:054x}", std::process::id(), 0)
}

/// A pod's UID that no other scenario has.
fn uid(tail: u8) -> String {
    format!("{:08x}-0000-4000-8000-0000000000{tail:02x}", std::process::id())
}

/// A pod's log directories as the kubelet lays them out, removed when dropped.
struct PodLogs(PathBuf);

impl PodLogs {
    fn new(namespace: &str, pod: &str, uid: &str, container: &str) -> Result<Self> {
        let directory = Path::new("/var/log/pods").join(format!("{namespace}_{pod}_{uid}"));
        fs::create_dir_all(directory.join(container)).context("a pod's log directories")?;
        Ok(Self(directory))
    }
}

impl Drop for PodLogs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Entries by owner.
pub fn by_owner(summary: &Summary) -> Result<BTreeMap<String, u64>> {
    let row = |row: &Value| {
        let name = row["peer"].as_str().context("a row has no name")?.to_owned();
        Ok((name, row["entered"].as_u64().context("a row has no entries")?))
    };
    summary.peers()?.iter().map(row).collect()
}

fn counts(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
    all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// A unit, a user's unit, a container and a pod have exactly their own sockets; two groups of one pod are
/// one owner, and so are two of one unit. What is in no group of theirs is nobody's.
pub fn by_control_group(lab: &Lab) -> Result<()> {
    let serial = std::process::id();
    let unit = format!("twt{serial}.service");
    let pod = format!("/kubepods/burstable/pod{}", uid(1));
    let _logs = PodLogs::new("default", &format!("web-{serial}"), &uid(1), "nginx")?;
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let only = ["--netns", net.client.name(), "--by", "owner"];
    let daemon = Daemon::start(lab, &[])?;
    let tracer = Tracer::watch(lab, &only)?;
    let filter = format!("owner default/web-{serial}/nginx or owner {unit}");
    let filtered = Tracer::watch(lab, &["--netns", net.client.name(), &filter])?;
    let through = Running::asking(lab, &daemon, "watch", &only)?;
    let events = Tracer::events(lab, &["--netns", net.client.name()])?;

    // Kept until all were told: one that is gone before is nobody's.
    let mut groups = Vec::new();
    let mut from = |path: &str, count: u64| -> Result<()> {
        let group = Cgroup::ending(path)?;
        group.connect(&net.client, server.addr(), count)?;
        groups.push(group);
        Ok(())
    };
    from(&format!("/system.slice/{unit}"), 7)?;
    from(&format!("/system.slice/{unit}"), 2)?;
    from(&format!("/user.slice/user-7.slice/user@7.service/app.slice/{unit}"), 5)?;
    from(&format!("/system.slice/docker-{}.scope", id(1)), 4)?;
    from(&format!("{pod}/{}", id(2)), 3)?;
    from(&format!("{pod}/{}", id(3)), 6)?;
    from(&format!("/twt{serial}-nobody"), 8)?;
    settled(&net.client, 35)?;

    let (user, docker) = (format!("user-7/{unit}"), format!("docker:{}", &id(1)[..12]));
    let web = format!("default/web-{serial}");
    let want = counts(&[(&unit, 9), (&user, 5), (&docker, 4), (&web, 9), ("(owner unknown)", 8)]);
    // The end of each asks the recording the same, and compares.
    expect::equal("entered by owner", &want, &by_owner(&tracer.finish()?)?)?;
    expect::equal("entered, filtered", &18, &filtered.finish()?.totals()?.entered)?;
    let (text, _) = through.stop()?;
    let through = Summary::parse(&text, lab.backend.name())?;
    expect::equal("entered by owner, through the daemon", &want, &by_owner(&through)?)?;
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for event in events.finish_events()?.iter().filter(|event| is_entry(event)) {
        let owner = event["owner"].as_str().unwrap_or("(owner unknown)");
        *told.entry(owner.to_owned()).or_default() += 1;
    }
    expect::equal("events by owner", &want, &told)
}

fn is_entry(event: &Value) -> bool {
    event["event"] == "entered"
}

/// A process that stays in a namespace, ended when dropped.
struct Resident(Child, Option<Cgroup>);

impl Resident {
    fn new(path: &str, netns: &Netns) -> Result<Self> {
        let group = Cgroup::ending(path)?;
        let words = ["ip", "netns", "exec", netns.name(), "sleep", "infinity"];
        let child = group.command(&words).stdout(Stdio::null()).spawn().context("a resident")?;
        let resident = Self(child, Some(group));
        let link = format!("/proc/{}/ns/net", resident.0.id());
        let inside = format!("net:[{}]", netns.inum());
        crate::wait::until("the resident to be inside", crate::wait::SOON, || {
            let is = fs::read_link(&link).is_ok_and(|link| link.to_string_lossy() == inside);
            Ok(is.then_some(()))
        })?;
        Ok(resident)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        drop(self.1.take());
    }
}

/// Where the group does not tell, as on hosts with the first version of control groups, the namespace
/// does if all its processes are one's; and a namespace that has the number of one that is gone is
/// another's.
pub fn by_network_namespace(lab: &Lab) -> Result<()> {
    let docker = format!("/system.slice/docker-{}.scope", id(5));
    let podman = format!("/machine.slice/libpod-{}.scope", id(6));
    let daemon = Daemon::start(lab, &[])?;
    let port_8080 = ["--by", "owner", "dport = :8080"];
    let through = Running::asking(lab, &daemon, "watch", &port_8080)?;
    let mut numbers = Vec::new();
    for (path, count) in [(&docker, 3_usize), (&podman, 4)] {
        let net = topology::pair()?;
        let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
        numbers.push(net.client.inum());
        let other = Server::start(&net.server, &format!("{SERVER}:8081"), Behaviour::AnswersEof)?;
        let resident = Resident::new(path, &net.client)?;
        let client = Client::new(&net.client);
        // It is met with this one; processes are not looked at as often as anybody may like.
        client.short_connections(other.addr(), 1)?;
        let info = told_of(&daemon, net.client.inum())?;
        let id = &path.rsplit_once('-').context("a path")?.1[..12];
        expect::that(info.contains(id), || format!("the metric of {path}: {info}"))?;
        client.short_connections(server.addr(), count)?;
        settled(&net.client, 1 + count as u64)?;
        drop((resident, server, other));
        net.client.delete()?;
        net.server.delete()?;
    }
    let (text, _) = through.stop()?;
    let rows = by_owner(&Summary::amid_traffic(&text, lab.backend.name())?)?;
    let got = |prefix: &str, tail| rows.get(&format!("{prefix}:{}", &id(tail)[..12])).copied();
    let told = (got("docker", 5), got("podman", 6));
    expect::equal(&format!("by owner, of namespaces {numbers:?}"), &(Some(3), Some(4)), &told)
}

/// The line of the metric that names a namespace, once a daemon has it.
fn told_of(daemon: &Daemon, inum: u64) -> Result<String> {
    let label = format!("netns=\"{inum}\"");
    crate::wait::until("the namespace's owner to be told", crate::wait::SOON, || {
        let text = http::local(&daemon.socket(), "/metrics")?;
        let mut lines = text.lines().filter(|line| line.starts_with("twtrace_netns_info{"));
        let found = lines.find(|line| line.contains(&label) && line.contains("owner=\""));
        Ok(found.filter(|line| !line.contains("owner=\"\"")).map(str::to_owned))
    })
}

/// A group that is gone before anybody could ask for its name is nobody's, and not that of whoever comes
/// next; the one that stays has its own.
pub fn gone_before_the_first_record(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = Tracer::watch(lab, &["--netns", net.client.name(), "--by", "owner"])?;
    let unit = |role: &str| format!("twt{}-{role}.service", std::process::id());
    let group = |role| Cgroup::ending(&format!("/system.slice/{}", unit(role)));
    // Records wait in the kernel meanwhile.
    tracer.signal(Signal::STOP)?;
    let gone = group("gone")?;
    gone.connect(&net.client, server.addr(), 3)?;
    gone.remove()?;
    let stays = group("stays")?;
    stays.connect(&net.client, server.addr(), 4)?;
    settled(&net.client, 7)?;
    tracer.signal(Signal::CONT)?;
    let want = counts(&[(&unit("stays"), 4), ("(owner unknown)", 3)]);
    expect::equal("entered by owner", &want, &by_owner(&tracer.finish()?)?)
}

/// Owners that come and go.
const CHURNED: usize = 500;

/// Each of hundreds of owners has its one socket.
pub fn churned(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let only = ["--netns", net.client.name(), "--by", "owner"];
    let tracer = Tracer::watch(lab, &only)?;
    let name = |n: usize| format!("twt{}-{n}.service", std::process::id());
    let path = |n: usize| format!("/system.slice/{}", name(n));
    let groups = (0..CHURNED).map(|n| Cgroup::ending(&path(n))).collect::<Result<Vec<_>>>()?;
    let own = std::env::current_exe()?;
    let to = server.addr().to_string();
    let mut command = std::process::Command::new(own);
    command.args([WORD, &to]).args(groups.iter().map(Cgroup::directory));
    // Not by `ip netns exec`, which mounts another /sys.
    let output = net.client.run(|| crate::twtrace::finished(&mut command))?;
    expect::that(output.status.success(), || crate::twtrace::shown(&output))?;
    let want: BTreeMap<String, u64> = (0..CHURNED).map(|n| (name(n), 1)).collect();
    expect::equal("entered by owner", &want, &by_owner(&tracer.finish()?)?)
}

/// The word that makes this program go from control group to control group.
pub const WORD: &str = "through-groups";

/// Makes one short connection from each of the control groups.
pub fn through_groups(args: &[String]) -> Result<()> {
    let (to, groups) = args.split_first().context("no address")?;
    let to: SocketAddr = to.parse()?;
    for group in groups {
        fs::write(Path::new(group).join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("joining {group}"))?;
        close_first(std::net::TcpStream::connect(to)?)?;
    }
    // A group in which a process is cannot be removed.
    let root = twtrace::host::cgroup::root().context("no control groups are mounted")?;
    fs::write(root.join("cgroup.procs"), std::process::id().to_string()).context("leaving")
}

/// In a container whose own /sys and /var/log are empty, everything is found below the place where the
/// host's root is mounted.
pub fn below_a_mounted_root(lab: &Lab) -> Result<()> {
    let serial = std::process::id();
    let _logs = PodLogs::new("default", &format!("root-{serial}"), &uid(9), "nginx")?;
    let place = tempfile::tempdir()?;
    let (host, script) = (place.path().join("host"), place.path().join("twtrace"));
    fs::create_dir(&host)?;
    let (host, program) = (host.display(), lab.twtrace.canonicalize()?);
    let inside = format!(
        "mount --rbind / {host} && mount -t tmpfs none /sys && mount -t tmpfs none /var/log && \
         exec {} --host-root {host} \"$@\"",
        program.display()
    );
    let text = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -c '{inside}' sh \"$@\"\n"
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let contained = Lab { twtrace: script, ..lab.clone() };

    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let netns = net.client.name();
    let events = Tracer::events(&contained, &["--netns", netns])?;
    let group = Cgroup::ending(&format!("/kubepods/pod{}/{}", uid(9), id(9)))?;
    group.connect(&net.client, server.addr(), 3)?;
    settled(&net.client, 3)?;
    let told = events.finish_events()?;
    let owners = told.iter().filter(|event| is_entry(event)).map(|event| {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        (text("owner"), text("container"))
    });
    let owners = owners.collect::<Vec<_>>();
    let web = (format!("default/root-{serial}"), "nginx".to_owned());
    expect::equal("owner and container of each", &vec![web; 3], &owners)
}

/// Sockets of a real container, run by runc in a network namespace of its own, where docker has it run
/// them.
pub fn of_a_container(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let tracer = Tracer::watch(lab, &["--netns", net.client.name(), "--by", "owner"])?;
    let bundle = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let beside = own.parent().context("the directory of this program")?;
    let bind = |source: &Path, to: &str| json!({ "destination": to, "type": "bind", "source": source, "options": ["rbind", "ro"] });
    let mut mounts = vec![json!({ "destination": "/proc", "type": "proc", "source": "proc" })];
    let host = ["/usr", "/bin", "/lib", "/lib64"].map(Path::new);
    mounts.extend(
        host.iter()
            .filter(|path| path.exists())
            .map(|path| bind(path, &path.display().to_string())),
    );
    mounts.push(bind(beside, "/tests"));
    let name = own.file_name().and_then(|name| name.to_str()).context("a name")?;
    // It stays until it is told to end: its group has to be there when its sockets are looked at.
    let script = format!("/tests/{name} traffic {} 6 && exec sleep infinity", server.addr());
    let id = id(0xc0);
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
        },
        "root": { "path": "rootfs" },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/docker/{id}"),
            "namespaces": [
                { "type": "pid" },
                { "type": "mount" },
                { "type": "ipc" },
                { "type": "network", "path": net.client.path() },
            ],
        },
    });
    fs::create_dir(bundle.path().join("rootfs"))?;
    fs::write(bundle.path().join("config.json"), config.to_string())?;
    let mut container = Container::run(bundle.path(), &id)?;
    let settled = settled(&net.client, 6);
    settled.with_context(|| format!("runc: {:?}", container.0.try_wait()))?;
    let rows = by_owner(&tracer.finish()?)?;
    drop(container);
    let want = counts(&[(&format!("docker:{}", &id[..12]), 6)]);
    expect::equal("entered by owner", &want, &rows)
}

/// Sockets of real containers of podman, without an image: each has exactly its own, by the short id that
/// podman shows.
pub fn of_podman(lab: &Lab) -> Result<()> {
    let (one, other) = (topology::pair()?, topology::pair()?);
    let start = |net: &topology::Pair| {
        Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)
    };
    let servers = (start(&one)?, start(&other)?);
    let tracer = Tracer::watch(lab, &["--by", "owner", "--top", "1000"])?;
    let podman = Podman::new()?;
    let till = podman.run(&one.client, servers.0.addr(), 5)?;
    let shop = podman.run(&other.client, servers.1.addr(), 9)?;
    settled(&one.client, 5).with_context(|| podman.said(&till))?;
    settled(&other.client, 9).with_context(|| podman.said(&shop))?;
    let rows = by_owner(&tracer.finish()?)?;
    for (id, count) in [(till, 5), (shop, 9)] {
        let name = format!("podman:{}", &id[..12]);
        expect::equal(&name, &Some(&count), &rows.get(&name))
            .with_context(|| format!("{rows:#?}"))?;
    }
    Ok(())
}

/// A podman of its own, with what it ran ended when dropped.
struct Podman(tempfile::TempDir);

impl Podman {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::create_dir(directory.path().join("rootfs"))?;
        Ok(Self(directory))
    }

    fn command(&self) -> std::process::Command {
        let mut podman = std::process::Command::new("podman");
        podman.arg("--root").arg(self.0.path().join("state"));
        podman.arg("--runroot").arg(self.0.path().join("run"));
        podman.args(["--storage-driver", "vfs", "--runtime", "runc"]);
        podman.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        podman.stdin(Stdio::null());
        podman
    }

    /// Runs a container that makes short connections in a namespace and stays; gives its id.
    fn run(&self, netns: &Netns, to: SocketAddr, count: u64) -> Result<String> {
        let own = std::env::current_exe()?;
        let name = own.file_name().and_then(|name| name.to_str()).context("a name")?;
        let beside = own.parent().context("the directory of this program")?;
        let script = format!("/tests/{name} traffic {to} {count} && exec sleep infinity");
        let mut podman = self.command();
        podman.args(["run", "--detach", "--network"]);
        podman.arg(format!("ns:{}", netns.path().display()));
        // Podman asks for as much as its configuration says, which a host may not give.
        podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        // What a host may not have has no say in whose the sockets are.
        podman.args(["--security-opt", "seccomp=unconfined"]);
        podman.args(["--security-opt", "apparmor=unconfined"]);
        for path in ["/usr", "/bin", "/lib", "/lib64"].iter().filter(|it| Path::new(it).exists()) {
            podman.args(["--volume", &format!("{path}:{path}:ro")]);
        }
        podman.args(["--volume", &format!("{}:/tests:ro", beside.display()), "--rootfs"]);
        podman.arg(self.0.path().join("rootfs")).args(["/bin/sh", "-c", &script]);
        let output =
            crate::twtrace::finished(&mut podman).context("podman, of the package podman")?;
        expect::that(output.status.success(), || crate::twtrace::shown(&output))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What a container said.
    fn said(&self, id: &str) -> String {
        let output = crate::twtrace::finished(self.command().args(["logs", id]));
        output.map_or_else(|error| format!("{error:#}"), |output| crate::twtrace::shown(&output))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command().args(["rm", "--all", "--force", "--time", "0"]).output();
        remove_parent("libpod_parent");
    }
}

/// A container that runc runs, ended when dropped.
struct Container(Child, PathBuf, String);

impl Container {
    fn run(bundle: &Path, id: &str) -> Result<Self> {
        let state = bundle.join("state");
        let mut runc = std::process::Command::new("runc");
        runc.arg("--root").arg(&state).args(["run", "--bundle"]).arg(bundle).arg(id);
        let child = runc.stdin(Stdio::null()).spawn().context("runc, of the package runc")?;
        Ok(Self(child, state, id.to_owned()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let mut runc = std::process::Command::new("runc");
        let _ = runc.arg("--root").arg(&self.1).args(["delete", "--force", &self.2]).status();
        let _ = self.0.wait();
        remove_parent("docker");
    }
}

/// Removes what a runtime made above its containers in each hierarchy, and leaves.
fn remove_parent(name: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let parent = hierarchy.path().join(name);
        // That of podman's own processes.
        let _ = fs::remove_dir(parent.join("conmon"));
        let _ = fs::remove_dir(parent);
    }
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(name));
}
