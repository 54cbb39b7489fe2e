//! Where clients come in, and that there is one daemon to a host.

use std::{
    fs::{self, File},
    io::{self, Seek, Write},
    net::{SocketAddr, TcpListener},
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use crate::{config::DaemonConfig, files, text::visible};
use rustix::{
    fs::{FlockOperation, Mode, fchmod, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};

/// What gives the unit a network.
const DROP_IN: &str = "packaging/twtrace-listen.conf";
/// Connections the kernel keeps until they are taken.
const BACKLOG: i32 = 128;

/// Why clients cannot come in.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon runs on this host.
    #[error(
        "a twtrace daemon runs on this host already: {holder} holds {path}; stop it, or ask it \
         (twtrace watch --daemon always)"
    )]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who holds it, in words.
        holder: String,
    },
    /// Somebody listens on the socket.
    #[error("{holder} listens on {path}; stop it, or name another socket with --socket")]
    Live {
        /// The socket.
        path: PathBuf,
        /// Who listens, in words.
        holder: String,
    },
    /// Something else has the socket's name.
    #[error("{path} is there and is no socket; it is left as it is: name another with --socket")]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// The socket's group does not exist.
    #[error("no group {group} on this host; see socket_group")]
    NoGroup {
        /// What the configuration says.
        group: String,
    },
    /// The TCP socket's family is not to be had.
    #[error(
        "cannot listen on {address}: {source}; the unit has no network: copy its drop-in \
         {DROP_IN} to /etc/systemd/system/twtrace.service.d/, then systemctl daemon-reload{}",
        if .address.is_ipv6() { " (or this host has no IPv6: listen on an IPv4 address)" } else { "" }
    )]
    NoFamily {
        /// Where clients were to come in.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// A step failed.
    #[error("cannot {step} {what}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// On what.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(
    step: &'static str,
    what: impl ToString,
) -> impl FnOnce(E) -> SocketError {
    let what = what.to_string();
    move |error| SocketError::Step { step, what, source: error.into() }
}

/// The right to be this host's daemon, given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it.
    ///
    /// The lock is the file's (`flock`), so that it is gone with its holder however that ends; the
    /// file itself stays.
    ///
    /// # Errors
    /// [`SocketError::Held`], naming who has it.
    pub fn take(path: &Path) -> Result<Self, SocketError> {
        make_directory(path)?;
        let mut file = files::keep(path).map_err(failed("open", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            // Who cannot be told is unknown.
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            let inode = file.metadata().map_err(failed("look at", path.display()))?.ino();
            let holder = process(holder(&locks, inode).unwrap_or_default());
            return Err(SocketError::Held { path: path.to_owned(), holder });
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed("write", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// The process that has the lock of a file, as the kernel says: what the file itself says may be what
/// one wrote that is no more.
///
/// # Source
/// `lock_get_status()`, fs/locks.c: number, `FLOCK`, kind, mode, process, device and inode, range.
fn holder(locks: &str, inode: u64) -> Option<&str> {
    let of_file = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        words.nth(1) == Some("FLOCK")
            && words.nth(3).and_then(|file| file.rsplit(':').next()?.parse().ok()) == Some(inode)
    };
    let line = locks.lines().find(of_file)?;
    line.split_ascii_whitespace().nth(4).filter(|pid| pid.parse::<u32>().is_ok_and(|pid| pid > 0))
}

/// A process for people: its number and what it was started as.
fn process(pid: &str) -> String {
    if pid.is_empty() {
        return "an unknown process".into();
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    if words.is_empty() {
        format!("process {pid}")
    } else {
        format!("process {pid} ({})", visible(&words.join(" ")))
    }
}

/// The socket of the local API; its file is removed when this is dropped.
#[derive(Debug)]
pub struct LocalSocket {
    /// Takes connections, and does not block.
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file made, so that nobody else's is removed.
    identity: (u64, u64),
}

impl LocalSocket {
    /// Makes it, with the mode and group asked for from its first moment on. The file of a dead
    /// daemon is replaced.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(config: &DaemonConfig) -> Result<Self, SocketError> {
        let path = &config.socket;
        make_directory(path)?;
        remove_stale(path)?;
        let what = path.display().to_string();
        let what = what.as_str();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed("make a socket for", what))?;
        // The file takes the socket's own mode (unix_bind(), net/unix/af_unix.c): nobody may
        // connect before its group is right.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("set the mode of", what))?;
        let address = SocketAddrUnix::new(path).map_err(failed("use the name", what))?;
        bind(&socket, &address).map_err(failed("make the socket", what))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at", what))?;
        let made = Removal { path, identity: (metadata.dev(), metadata.ino()) };
        if let Some(group) = &config.socket_group {
            let gid = group_id(group)?;
            std::os::unix::fs::chown(path, None, Some(gid))
                .map_err(failed("give the socket's group to", what))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(config.socket_mode.0))
            .map_err(failed("set the mode of", what))?;
        listen(&socket, BACKLOG).map_err(failed("listen on", what))?;
        let identity = made.keep();
        Ok(Self { listener: socket.into(), path: path.clone(), identity })
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        drop(Removal { path: &self.path, identity: self.identity });
    }
}

/// Removes a socket's file unless it became somebody else's.
struct Removal<'a> {
    path: &'a Path,
    identity: (u64, u64),
}

impl Removal<'_> {
    fn keep(self) -> (u64, u64) {
        let identity = self.identity;
        std::mem::forget(self);
        identity
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(self.path).map(|file| (file.dev(), file.ino()));
        if now.is_ok_and(|identity| identity == self.identity) {
            // Gone by itself is as good.
            let _ = fs::remove_file(self.path);
        }
    }
}

/// Listens on a TCP address; the listener does not block.
///
/// # Errors
/// The address is taken or not this host's.
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, SocketError> {
    let bound = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(tcp_failed(address))
}

/// RestrictAddressFamilies= lets `socket()` fail as if the kernel did not know the family, by which
/// nobody would guess at the unit.
fn tcp_failed(address: SocketAddr) -> impl FnOnce(io::Error) -> SocketError {
    move |source| match source.raw_os_error() {
        Some(errno) if errno == Errno::AFNOSUPPORT.raw_os_error() => {
            SocketError::NoFamily { address, source }
        }
        _ => failed("listen on", address)(source),
    }
}

fn make_directory(path: &Path) -> Result<(), SocketError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    fs::create_dir_all(directory).map_err(failed("make the directory", directory.display()))
}

/// Removes the socket of a daemon that is no more.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path.display())(error)),
    };
    if !kind.is_socket() {
        return Err(SocketError::NoSocket { path: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(stream) => {
            // Of whoever called listen(): SO_PEERCRED, unix(7).
            let credentials = rustix::net::sockopt::socket_peercred(stream.as_fd());
            let pid = credentials.map_or_else(|_| String::new(), |ucred| ucred.pid.to_string());
            Err(SocketError::Live { path: path.to_owned(), holder: process(&pid) })
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a daemon that is gone");
            fs::remove_file(path).map_err(failed("remove the stale", path.display()))
        }
        Err(error) => Err(failed("try", path.display())(error)),
    }
}

/// The number of a group: its number, or as /etc/group has its name.
fn group_id(group: &str) -> Result<u32, SocketError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
        })
        .next()
        .ok_or_else(|| SocketError::NoGroup { group: group.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::Mode as SocketMode;

    fn config(directory: &Path) -> DaemonConfig {
        DaemonConfig {
            socket: directory.join("run/twtrace.sock"),
            socket_mode: SocketMode(0o640),
            ..DaemonConfig::default()
        }
    }

    #[test]
    fn a_second_daemon_is_told_who_is_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/lock");
        let first = Lock::take(&path).unwrap();
        let message = Lock::take(&path).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(first);
        Lock::take(&path).expect("the first one is gone");
    }

    #[test]
    fn under_the_unit_a_tcp_address_that_is_not_to_be_had_names_the_drop_in() {
        let told = |address: &str, errno: Errno| {
            tcp_failed(address.parse().unwrap())(errno.into()).to_string()
        };
        let message = told("127.0.0.1:9464", Errno::AFNOSUPPORT);
        assert!(
            message.starts_with("cannot listen on 127.0.0.1:9464: Address family"),
            "{message}"
        );
        assert!(message.contains(DROP_IN) && !message.contains("IPv6"), "{message}");
        assert!(told("[::1]:9464", Errno::AFNOSUPPORT).contains("has no IPv6"));
        assert!(!told("127.0.0.1:9464", Errno::ADDRINUSE).contains(DROP_IN));
        let drop_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(DROP_IN);
        assert!(fs::read_to_string(drop_in).unwrap().contains("RestrictAddressFamilies=AF_INET"));
    }

    #[test]
    fn the_socket_has_its_mode_and_goes_with_its_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let socket = LocalSocket::bind(&config).unwrap();
        let mode = fs::metadata(&config.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        drop(socket);
        assert!(!config.socket.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused_with_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        fs::create_dir_all(config.socket.parent().unwrap()).unwrap();
        let live = UnixListener::bind(&config.socket).unwrap();
        let message = LocalSocket::bind(&config).unwrap_err().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(live);
        assert!(config.socket.exists(), "the standard library leaves the file");
        LocalSocket::bind(&config).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        fs::create_dir_all(config.socket.parent().unwrap()).unwrap();
        fs::write(&config.socket, "precious").unwrap();
        let message = LocalSocket::bind(&config).unwrap_err().to_string();
        assert!(message.contains("is no socket"), "{message}");
        assert_eq!(fs::read_to_string(&config.socket).unwrap(), "precious");
    }

    #[test]
    fn a_socket_that_became_another_s_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let socket = LocalSocket::bind(&config).unwrap();
        fs::rename(&config.socket, directory.path().join("old")).unwrap();
        let _other = UnixListener::bind(&config.socket).unwrap();
        drop(socket);
        assert!(config.socket.exists());
    }

    #[test]
    fn the_lock_s_holder_is_the_one_the_kernel_names_and_not_what_the_file_says() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fd:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 fd:00:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 fd:00:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE -1 fd:00:79 0 EOF\n";
        assert_eq!(holder(locks, 77), Some("12"));
        assert_eq!(holder(locks, 78), None, "it waits for it");
        assert_eq!(holder(locks, 79), None, "of another PID namespace");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let _held = Lock::take(&path).unwrap();
        // As one left it that died, while another has the lock.
        fs::write(&path, "999999999\n").unwrap();
        let message = Lock::take(&path).unwrap_err().to_string();
        assert!(!message.contains("999999999"), "{message}");
        assert!(message.contains(&format!("process {} (", std::process::id())), "{message}");
    }

    #[test]
    fn the_lock_is_taken_through_no_link_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let (precious, link) = (directory.path().join("precious"), directory.path().join("lock"));
        fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &link).unwrap();
        assert!(Lock::take(&link).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        let own = directory.path().join("own");
        let _lock = Lock::take(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_group_is_a_name_or_a_number_and_an_unknown_one_leaves_no_socket_behind() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("4242").unwrap(), 4242);
        let directory = tempfile::tempdir().unwrap();
        let config =
            DaemonConfig { socket_group: Some("no-such-group".into()), ..config(directory.path()) };
        let message = LocalSocket::bind(&config).unwrap_err().to_string();
        assert!(message.contains("no group no-such-group"), "{message}");
        assert!(!config.socket.exists());
    }
}
