//! The image run by a real runtime, without a daemon of its own: umoci unpacks it, runc runs it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::chown, net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::source::Source;
use crate::process::{self, print};

/// The container's name.
const NAME: &str = "twtrace-try";
/// Somebody with no right of his own.
const NOBODY: u32 = 65_534;
/// How long the daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rights as the chart gives them, and that of the tracepoint way, with and without those that lead
/// into other network namespaces.
const WITH: [&str; 5] = ["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"];
const WITHOUT: [&str; 3] = ["CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"];

/// Runs the daemon as nobody on a root that cannot be written to, asks it, and stops it.
pub fn run(source: &Source, image: &Path) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let layout = directory.path().join("layout");
    fs::create_dir(&layout)?;
    process::run(Command::new("tar").arg("-xf").arg(image).arg("-C").arg(&layout))?;
    for capabilities in [&WITH[..], &WITHOUT[..]] {
        let bundle = directory.path().join(format!("bundle-{}", capabilities.len()));
        let name = format!("{}:{}", layout.display(), source.version);
        process::run(Command::new("umoci").args(["unpack", "--image", &name]).arg(&bundle))?;
        let shared = directory.path().join(format!("run-{}", capabilities.len()));
        fs::create_dir(&shared)?;
        chown(&shared, Some(NOBODY), Some(NOBODY))?;
        configure(&bundle.join("config.json"), &shared, capabilities)?;
        let mut container = Container::start(&bundle)?;
        let status = container.status(&shared.join("twtrace.sock"))?;
        let complete = status["limits"].as_array().is_some_and(Vec::is_empty);
        let all = capabilities.contains(&"CAP_SYS_ADMIN");
        ensure!(complete == all, "with {capabilities:?} it says: {:#}", status["limits"]);
        container.stop()?;
        print(&format!("run by runc as nobody with {}", capabilities.join(", ")));
    }
    Ok(())
}

/// What a pod of the chart has: the host's processes, a root that is read only, few capabilities.
/// Beside that nobody runs it, and it is in the host's network namespace.
fn configure(path: &Path, shared: &Path, capabilities: &[&str]) -> Result<()> {
    let mut config: Value = serde_json::from_slice(&fs::read(path)?)?;
    config["root"]["readonly"] = true.into();
    let process = &mut config["process"];
    process["terminal"] = false.into();
    process["noNewPrivileges"] = true.into();
    process["user"] = json!({"uid": NOBODY, "gid": NOBODY});
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        process["capabilities"][set] = json!(capabilities);
    }
    let namespaces = config["linux"]["namespaces"].as_array_mut().context("namespaces")?;
    namespaces.retain(|namespace| namespace["type"] == "mount" || namespace["type"] == "ipc");
    // Of namespaces that the container does not have.
    config["hostname"].take();
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    let options = ["nosuid", "nodev", "mode=0750", "uid=65534", "gid=65534"];
    mounts.push(json!({
        "destination": "/var/lib/twtrace", "type": "tmpfs", "source": "tmpfs", "options": options,
    }));
    // So that it can be asked from here.
    mounts.push(json!({
        "destination": "/run/twtrace", "type": "bind", "source": shared, "options": ["bind", "rw"],
    }));
    Ok(fs::write(path, serde_json::to_vec_pretty(&config)?)?)
}

/// A running container; ended with the value.
struct Container(Child);

impl Container {
    fn start(bundle: &Path) -> Result<Self> {
        let mut command = Command::new("runc");
        command.args(["run", "--bundle"]).arg(bundle).arg(NAME).stdin(Stdio::null());
        Ok(Self(command.spawn().context("cannot run runc")?))
    }

    /// The daemon's status, as soon as it answers at its socket.
    fn status(&mut self, socket: &Path) -> Result<Value> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                bail!("the container ended: {status}");
            }
            match ask(socket) {
                Ok(status) => return Ok(status),
                Err(error) if begun.elapsed() > PATIENCE => {
                    return Err(error).context("the daemon in the container does not answer");
                }
                Err(_) => thread::sleep(Duration::from_millis(250)),
            }
        }
    }

    fn stop(&mut self) -> Result<()> {
        process::run(Command::new("runc").args(["kill", NAME, "TERM"]))?;
        let status = self.0.wait()?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

/// Asks for the status in HTTP/1.0, which has no chunks.
fn ask(socket: &Path) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"GET /v1/status HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
    serde_json::from_str(body).with_context(|| answer.clone())
}

impl Drop for Container {
    fn drop(&mut self) {
        // After a failure it still runs; after stop() there is nothing to delete.
        let _ = Command::new("runc").args(["delete", "--force", NAME]).output();
        let _ = self.0.wait();
    }
}
