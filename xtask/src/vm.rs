//! `cargo xtask vm`: the scenarios under other kernels.

mod accel;
mod apt;
mod cache;
mod foreign;
mod initramfs;
mod kernel;
mod modules;
mod qemu;
mod sources;
mod tools;
pub mod tree;

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    architecture::Architecture,
    build::{self, Programs},
    events,
    process::{print, say},
    progress::Ongoing,
    report::{End, Failure, Progress, Tally},
    scenarios::HOST,
    setup,
};
use accel::Accel;
use cache::Cache;
use kernel::{Kernel, Series};
use qemu::{Limits, Machine};

/// Tells the scenarios which tracer to run; inside a machine it is the one on PATH.
pub const TRACER_VARIABLE: &str = "TWTRACE_BIN";

/// What the user asked for.
#[derive(clap::Args)]
pub struct Args {
    /// Kernel series: 5.10, 6.1, 6.12, 7.2 or all, which is these; 7.2-rt, 6.1-arm64,
    /// 6.12-arm64-16k.
    #[arg(long, value_name = "SERIES", value_parser = parse_series, default_value = "all")]
    kernel: SeriesList,
    /// A boot image of your own instead.
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    image: Option<PathBuf>,
    /// Directory of that image's modules, such as /lib/modules/RELEASE.
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    /// Ways to attach that the scenarios try, with commas between; all that the kernel has if not given.
    #[arg(long, value_name = "LIST")]
    attach: Option<String>,
    /// Only the core of the scenarios.
    #[arg(long)]
    core: bool,
    /// Kernel programs that the scenarios load, with a comma between.
    #[arg(long, value_name = "LIST", default_value = "ringbuf,perf")]
    object: String,
    /// Boot into a prompt instead of the scenarios.
    #[arg(long)]
    shell: bool,
    /// Start the remaining kernels even after one failed.
    #[arg(long)]
    keep_going: bool,
    /// Machines at the same time.
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Processors of each machine; two where it can have them.
    #[arg(long, value_name = "N")]
    processors: Option<u8>,
    /// Run instructions this way rather than the quickest that works.
    #[arg(long, value_name = "HOW")]
    accel: Option<Accel>,
    /// End a machine that says nothing for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 420)]
    silence: u64,
    /// End a machine after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2700)]
    timeout: u64,
    /// Only scenarios whose name contains this.
    filter: Option<String>,
    /// More arguments for the scenarios.
    #[arg(last = true)]
    options: Vec<String>,
}

/// How many of the scenarios are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Those that cover everything, over this host and all kernels together.
    Covering,
    /// All that can be.
    All,
}

impl Args {
    /// What all machines are of.
    fn architecture(&self) -> Result<Architecture> {
        if self.image.is_some() {
            return Ok(Architecture::here());
        }
        let mut all = self.kernel.0.iter().map(|series| series.architecture);
        let first = all.next().context("no kernel was asked for")?;
        ensure!(all.all(|other| other == first), "these kernels are of different processors");
        Ok(first)
    }
}

/// The core of the scenarios on 64-bit Arm, emulated.
pub fn arm() -> Result<Tally> {
    setup::cross(Architecture::Aarch64)?;
    let programs = build::programs_for(Architecture::Aarch64)?;
    core_of(&kernel::ARM, &programs)
}

/// The core of the scenarios on a kernel with PREEMPT_RT.
pub fn realtime(programs: &Programs) -> Result<Tally> {
    core_of(&[kernel::RT], programs)
}

fn core_of(series: &[Series], programs: &Programs) -> Result<Tally> {
    let args = Args { core: true, kernel: SeriesList(series.to_vec()), ..defaults(None)? };
    run(&args, Extent::All, programs, &nothing_else())
}

/// What `--kernel` stands for.
#[derive(Clone)]
struct SeriesList(Vec<Series>);

fn parse_series(text: &str) -> Result<SeriesList, String> {
    if text == "all" {
        return Ok(SeriesList(kernel::ALL.to_vec()));
    }
    let find = |name: &str| {
        let known = || kernel::ALL.into_iter().chain([kernel::RT]).chain(kernel::ARM);
        known().find(|series| series.name == name).ok_or_else(|| {
            let names: Vec<_> = known().map(|series| series.name).collect();
            format!("there is {} and all", names.join(", "))
        })
    };
    text.split(',').map(find).collect::<Result<_, _>>().map(SeriesList)
}

/// Installs, builds, boots, reports.
pub fn main(args: &Args) -> Result<ExitCode> {
    setup::ensure(setup::Purpose::Vm)?;
    let architecture = args.architecture()?;
    if architecture != Architecture::here() {
        setup::cross(architecture)?;
    }
    let programs = build::programs_for(architecture)?;
    if args.shell {
        return shell(args, &programs);
    }
    let tally = run(args, Extent::All, &programs, &nothing_else())?;
    if tally.passed + tally.ignored == 0 && tally.failed.is_empty() {
        bail!(
            "no scenario was run: {} a virtual machine is asked this way; those of the process and its \
             files are asked on the host alone: cargo xtask test",
            match &args.filter {
                Some(filter) => format!("none with {filter:?} in its name is one that"),
                None => "none is one that".to_owned(),
            }
        );
    }
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every kernel, as `test` runs them: one machine beside what this host does else, and more when that
/// is done and drops the sender.
pub fn matrix(
    programs: &Programs,
    extent: Extent,
    filter: Option<&str>,
    other_work: Receiver<()>,
) -> Result<Tally> {
    run(&defaults(filter)?, extent, programs, &Mutex::new(other_work))
}

/// This host has nothing else to do.
fn nothing_else() -> Mutex<Receiver<()>> {
    Mutex::new(mpsc::channel().1)
}

/// What `cargo xtask vm --keep-going` asks for.
fn defaults(filter: Option<&str>) -> Result<Args> {
    use clap::FromArgMatches as _;
    let command = <Args as clap::Args>::augment_args(clap::Command::new("vm"));
    let words = ["vm", "--keep-going"].into_iter().chain(filter);
    Ok(Args::from_arg_matches(&command.try_get_matches_from(words)?)?)
}

fn kernels(args: &Args, cache: &Cache, series: &[Series]) -> Result<Vec<Kernel>> {
    if let Some(image) = &args.image {
        return Ok(vec![kernel::from_image(image, args.modules.as_deref())?]);
    }
    series.iter().map(|&series| kernel::fetch(series, cache)).collect()
}

/// Runs every kernel, some side by side once the sender of `other_work` is dropped.
fn run(
    args: &Args,
    extent: Extent,
    programs: &Programs,
    other_work: &Mutex<Receiver<()>>,
) -> Result<Tally> {
    let cache = Cache::open()?;
    let kernels = kernels(args, &cache, &args.kernel.0)?;
    let first = kernels.first().context("no kernel was asked for")?;
    let accel = match args.accel {
        Some(accel) => accel,
        None => accel::choose(&cache, first)?,
    };
    let labels: Vec<_> = kernels.iter().map(|kernel| kernel.label.as_str()).collect();
    let covering = match extent {
        Extent::Covering => {
            ["--covering".to_owned(), format!("{HOST},{}", labels.join(","))].to_vec()
        }
        Extent::All => Vec::new(),
    };
    let started = Instant::now();
    let queue = Mutex::new(longest_first(kernels));
    let total = Mutex::new(Tally::default());
    let trouble = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in 0..args.jobs.max(1) {
            let (queue, covering, total, trouble) = (&queue, &covering, &total, &trouble);
            scope.spawn(move || {
                if worker > 0 {
                    // Nothing is ever sent: what it waits for is that nobody can any more.
                    let _ = locked(other_work).recv();
                }
                while let Some(kernel) = next(queue) {
                    match run_one(args, &kernel, covering, programs, accel) {
                        Ok(tally) => {
                            if !tally.failed.is_empty() && !args.keep_going {
                                locked(queue).clear();
                            }
                            locked(total).add(tally);
                        }
                        Err(error) => locked(trouble).push((kernel.label, error)),
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(|it| it.into_inner());
    for (label, error) in trouble.into_inner().unwrap_or_else(|it| it.into_inner()) {
        let (name, why) = (format!("{label}/(start)"), format!("{error:#}"));
        total.failed.push(Failure { name, log: why.clone(), why });
    }
    print(&total.closing(started.elapsed()));
    Ok(total)
}

/// The newest and the oldest have the most to run: begun first, all end at about the same time.
fn longest_first<T>(oldest_first: Vec<T>) -> VecDeque<T> {
    let mut queue = oldest_first;
    queue.reverse();
    if let Some(oldest) = queue.pop() {
        queue.insert(queue.len().min(1), oldest);
    }
    queue.into()
}

fn next(queue: &Mutex<VecDeque<Kernel>>) -> Option<Kernel> {
    locked(queue).pop_front()
}

/// What a mutex guards here stays whole even if a holder panicked.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Where a kernel's initramfs and logs go.
fn work_dir(kernel: &Kernel) -> Result<PathBuf> {
    let dir = build::target_dir().join("vm/machines").join(&kernel.label);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Runs scenarios under one kernel, printing each as it ends.
fn run_one(
    args: &Args,
    kernel: &Kernel,
    covering: &[String],
    programs: &Programs,
    accel: Accel,
) -> Result<Tally> {
    let started = Instant::now();
    let attach = args.attach.as_deref().unwrap_or(kernel.attach);
    let mut inside = ["--format", "json", "--attach", attach, "--object", &args.object]
        .map(str::to_owned)
        .to_vec();
    inside.extend(["--kernel".to_owned(), kernel.label.clone()]);
    inside.extend(args.core.then(|| "--core".to_owned()));
    if accel.has_own_clock() {
        // Waiting costs nothing there, and each tracer slows down what all others look at.
        inside.extend(["--test-threads".to_owned(), "1".to_owned()]);
    }
    inside.extend(covering.iter().chain(&args.filter).chain(&args.options).cloned());
    let dir = work_dir(kernel)?;
    let initramfs = initramfs::build(kernel, programs, &inside, &dir)?;
    let processors = args.processors.unwrap_or_else(|| accel.processors(&kernel.label));
    let (image, architecture) = (&kernel.image, kernel.architecture);
    let machine =
        Machine { image, architecture, initramfs: &initramfs, accel, dir: &dir, processors };
    let limits = Limits {
        silence: Duration::from_secs(args.silence),
        total: Duration::from_secs(args.timeout),
    };
    let ongoing = Ongoing::begin(format!("machine with kernel {}", kernel.label));
    let mut progress = Progress::new(&kernel.label);
    ongoing.tell(&progress.how_far());
    let mut booted = None;
    let end = machine.run(limits, |event| {
        if let events::Event::Started = event {
            booted = Some(started.elapsed());
        }
        if let Some(line) = progress.take(event) {
            if line.starts_with("test ") { print(&line) } else { say!("{line}") }
        }
        ongoing.tell(&progress.how_far());
    })?;
    drop(ongoing);
    let logs = [machine.console_log(), machine.results_log()];
    let (tally, line) = progress.finish(&end, &logs);
    if let Some(line) = line {
        print(&line);
    }
    say!(
        "{} took {:.1} s, {} of them to boot, under {accel:?}",
        kernel.label,
        started.elapsed().as_secs_f64(),
        booted.map_or_else(|| "all".to_owned(), |it| format!("{:.1}", it.as_secs_f64())),
    );
    Ok(tally)
}

/// Runs the guest's program with these arguments under one kernel, and answers the lines it
/// wrote; fails unless it ended well, with as much `work` by its own clock at most.
pub fn say_lines(
    series: &str,
    programs: &Programs,
    inside: &[String],
    work: Duration,
) -> Result<Vec<String>> {
    let (kernel, cache) = one_kernel(series)?;
    let initramfs = initramfs::build(&kernel, programs, inside, &work_dir(&kernel)?)?;
    listen(&kernel, &cache, &initramfs, work)
}

/// The same with an initramfs of one's own, which talks like the guest's program.
pub fn boot(series: &str, initramfs: &Path, work: Duration) -> Result<Vec<String>> {
    let (kernel, cache) = one_kernel(series)?;
    listen(&kernel, &cache, initramfs, work)
}

fn one_kernel(series: &str) -> Result<(Kernel, Cache)> {
    let list = parse_series(series).map_err(anyhow::Error::msg)?;
    let cache = Cache::open()?;
    let series = list.0.last().context("no kernel was asked for")?;
    Ok((kernel::fetch(*series, &cache)?, cache))
}

/// Boots a machine and answers the lines it wrote.
fn listen(kernel: &Kernel, cache: &Cache, initramfs: &Path, work: Duration) -> Result<Vec<String>> {
    let accel = accel::choose(cache, kernel)?;
    let dir = work_dir(kernel)?;
    let (image, architecture) = (&kernel.image, kernel.architecture);
    let processors = accel.processors(&kernel.label);
    let machine = Machine { image, architecture, initramfs, accel, dir: &dir, processors };
    let boot = Duration::from_secs(300);
    let limits = Limits { silence: boot, total: boot + work * accel.slowness() };
    let mut lines = Vec::new();
    let ongoing = Ongoing::begin(format!("machine with kernel {}", kernel.label));
    let end = machine.run(limits, |event| {
        if let events::Event::Text(line) = event {
            lines.push(line.clone());
            ongoing.tell(&format!("{} lines of results", lines.len()));
        }
    })?;
    drop(ongoing);
    match end {
        End::Exit(0) => Ok(lines),
        _ => bail!(
            "{}: the machine did not end well ({end:?}); see {}:\n{}",
            kernel.label,
            machine.console_log().display(),
            lines.join("\n")
        ),
    }
}

/// Boots one kernel with a prompt.
fn shell(args: &Args, programs: &Programs) -> Result<ExitCode> {
    let cache = Cache::open()?;
    // One prompt: of all that were asked for, the newest.
    let newest = args.kernel.0.last().map(std::slice::from_ref).unwrap_or_default();
    let kernel = kernels(args, &cache, newest)?.pop().context("no kernel was asked for")?;
    let accel = match args.accel {
        Some(accel) => accel,
        None => accel::choose(&cache, &kernel)?,
    };
    let dir = work_dir(&kernel)?;
    let initramfs = initramfs::build(&kernel, programs, &["--shell".to_owned()], &dir)?;
    let processors = args.processors.unwrap_or(2);
    let (image, architecture) = (&kernel.image, kernel.architecture);
    let machine =
        Machine { image, architecture, initramfs: &initramfs, accel, dir: &dir, processors };
    say!("{}: leave with `exit`, or end the machine with Ctrl-A X", kernel.label);
    let status = machine.interact()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_command_runs_every_kernel_to_the_end() {
        let args = defaults(Some("entry")).unwrap();
        assert_eq!(args.kernel.0, kernel::ALL);
        assert!(args.keep_going);
        assert_eq!(args.filter.as_deref(), Some("entry"));
    }

    #[test]
    fn the_newest_and_the_oldest_kernel_are_begun_first() {
        assert_eq!(longest_first(vec![5, 6, 7, 8]), [8, 5, 7, 6]);
        assert_eq!(longest_first(vec![5, 6]), [6, 5]);
        assert_eq!(longest_first(vec![5]), [5]);
    }

    #[test]
    fn kernels_can_be_listed_and_unknown_ones_are_refused() {
        let names: Vec<_> = parse_series("6.1,7.2").unwrap().0.iter().map(|it| it.name).collect();
        assert_eq!(names, ["6.1", "7.2"]);
        assert_eq!(
            parse_series("4.19").err().unwrap(),
            "there is 5.10, 6.1, 6.12, 7.2, 7.2-rt, 6.1-arm64, 6.12-arm64-16k and all"
        );
    }
}
