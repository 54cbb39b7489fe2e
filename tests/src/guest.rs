//! The scenarios as the first process of a virtual machine.
//!
//! `cargo xtask vm` puts this program into the initramfs as `/init`. It makes an ordinary
//! Linux of the bare kernel, runs itself again as a child with the arguments xtask left,
//! reports the child's exit code and powers off. Results go to the second serial port;
//! the first is the kernel's.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::{CWD, Mode},
    io::Errno,
    mount::{MountFlags, mount},
    process::{Pid, WaitOptions, WaitStatus},
    system::{RebootCommand, finit_module, reboot, sethostname, uname},
};

/// Arguments for the scenarios, one a line.
const ARGS: &str = "/etc/twtrace-tests.args";

/// Modules to load, each after those it needs: a line has a path, perhaps parameters.
const MODULES: &str = "/etc/modules.list";

/// Source, target, file system type and options of what every Linux has mounted.
const MOUNTS: [(&str, &str, &str); 10] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/run", "mode=0755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// The machine's host name.
const NAME: &str = "twtrace-guest";

/// Whether this is such a machine: its first process is this program, and it has its name.
pub fn is_here() -> bool {
    let program = |process: &str| fs::read_link(format!("/proc/{process}/exe")).ok();
    let own = program("self");
    own.is_some() && own == program("1") && uname().nodename().to_bytes() == NAME.as_bytes()
}

/// Runs the machine from its first process to power-off.
pub fn init() -> ! {
    let notes = set_up();
    let args = arguments();
    let shell = args.iter().any(|arg| arg == "--shell");
    // The kernel hands on what it does not know of its command line.
    let told = std::env::var("TWTRACE_PORT").unwrap_or_else(|_| "/dev/ttyS1".to_owned());
    let port = if shell { "/dev/console" } else { told.as_str() };
    match open(port).or_else(|_| open("/dev/console")) {
        Ok(mut console) => {
            say(&mut console, "start");
            for note in notes {
                say(&mut console, &note);
            }
            let code = if shell { prompt(&console) } else { scenarios(&console, &args) };
            match code {
                Ok(code) => say(&mut console, &format!("exit {code}")),
                Err(error) => say(&mut console, &format!("cannot run the scenarios: {error}")),
            }
            // Closing the port waits until all of it has gone out.
        }
        Err(error) => eprintln!("no console: {error}"),
    }
    power_off()
}

fn say(console: &mut impl Write, word: &str) {
    // There is nobody else to tell if the console fails.
    let _ = writeln!(console, "twtrace-guest: {word}");
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Mounts, modules, loopback; the answer is what did not work.
fn set_up() -> Vec<String> {
    let mut notes = Vec::new();
    for (kind, target, options) in MOUNTS {
        // Fails if the kernel's other file systems bring the directory along or lack it.
        let _ = fs::create_dir(target);
        let options = CString::new(options).unwrap_or_default();
        match mount(kind, target, kind, MountFlags::empty(), options.as_c_str()) {
            // The kernel may have mounted /dev itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => notes.push(format!("cannot mount {target}: {error}")),
        }
    }
    for line in fs::read_to_string(MODULES).unwrap_or_default().lines() {
        let (path, parameters) = line.split_once(' ').unwrap_or((line, ""));
        match load(path, parameters) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => notes.push(format!("cannot load {path}: {error}")),
        }
    }
    if let Err(error) = sethostname(NAME.as_bytes()) {
        notes.push(format!("cannot set the host name: {error}"));
    }
    // SAFETY: this process has a single thread, which is this one.
    unsafe {
        std::env::set_var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin");
        std::env::set_var("HOME", "/root");
    }
    match Command::new("ip").args(["link", "set", "lo", "up"]).status() {
        Ok(status) if status.success() => {}
        other => notes.push(format!("cannot set the loopback device up: {other:?}")),
    }
    notes
}

fn load(path: &str, parameters: &str) -> Result<(), Errno> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let parameters = CString::new(parameters).map_err(|_| Errno::INVAL)?;
    finit_module(&file, &parameters, 0)
}

fn arguments() -> Vec<String> {
    fs::read_to_string(ARGS).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Runs the scenarios in a child, whose process id is not 1.
fn scenarios(console: &File, args: &[String]) -> io::Result<i32> {
    let mut command = Command::new("/init");
    command.args(args).env("TWTRACE_BIN", "/usr/bin/twtrace").current_dir("/root");
    run(command.stdin(Stdio::null()), console)
}

/// A shell on the console, with busybox for the commands that no host tool was brought for.
fn prompt(console: &File) -> io::Result<i32> {
    let installed = Command::new("busybox").args(["--install", "-s", "/usr/local/bin"]).status();
    if !installed.is_ok_and(|status| status.success()) {
        return Err(io::Error::other("there is no busybox in this machine"));
    }
    // setsid makes the console the shell's controlling terminal, for Ctrl-C and job control.
    let mut command = Command::new("setsid");
    command.args(["-c", "bash", "--norc"]).env("TERM", "linux").env("PS1", "\\h:\\w\\$ ");
    command.current_dir("/root").stdin(console.try_clone()?);
    run(&mut command, console)
}

fn run(command: &mut Command, console: &File) -> io::Result<i32> {
    let child = command.stdout(console.try_clone()?).stderr(console.try_clone()?).spawn()?;
    wait_for(&child)
}

/// Waits for one child, and for every orphan that init inherits meanwhile.
fn wait_for(child: &Child) -> io::Result<i32> {
    let wanted = Pid::from_child(child);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == wanted => return Ok(exit_code(status)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The code as a shell gives it: 128 and the signal for a killed child.
fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| Some(128 + status.terminating_signal()?)).unwrap_or(-1)
}

fn power_off() -> ! {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("cannot power off: {error}");
    }
    // The kernel panics when its first process ends, which qemu takes as an end as well.
    std::process::exit(1)
}
