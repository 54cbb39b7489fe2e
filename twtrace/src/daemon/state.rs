//! What survives a restart: the past of each peer, in a file.
//!
//! The file is a recording without events, so that it has the same checks, and can be looked at
//! with `--replay`. It is written beside its place and moved there; what cannot be read is moved
//! aside and never a reason not to start.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    feed::boot_id,
    files,
    kernel::find_namespace,
    origin::{Input, Moment, Origin},
    peer::{Past, history::Span, minutes::Minute},
    recording::{ReadError, Reader, Recorder, WriteError},
    units::Clock,
};

/// This process's own namespace, which has the same number in every boot of a host.
const OWN: &str = "/proc/self/ns/net";

/// What a state file told.
#[derive(Debug, Default)]
pub struct Restored {
    /// The peers, their times in this boot's `CLOCK_MONOTONIC`.
    pub peers: Vec<Past>,
    /// Peers left out: those of other namespaces, if the host was booted since.
    pub forgotten: usize,
    /// When it was written.
    pub written: Option<SystemTime>,
}

/// Why a state file was not used, and where it is now.
#[derive(Debug, thiserror::Error)]
#[error("the state {path} cannot be used: {error}; it is kept as {aside}, and the history is new")]
pub struct SetAside {
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    error: ReadError,
    /// Its new name.
    aside: PathBuf,
}

/// How much of a state is taken, whatever the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Peers.
    pub peers: usize,
    /// Minutes of all peers together.
    pub minutes: usize,
    /// Bytes of the file, unpacked: one that has more was not written by a daemon like this one.
    pub bytes: u64,
}

/// Reads the state. No file is an empty state.
///
/// # Errors
/// [`SetAside`]; the file has been moved.
pub fn load(path: &Path, now: Clock, most: Most) -> Result<Restored, SetAside> {
    let file = match files::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Restored::default()),
        Err(source) => return Err(set_aside(path, ReadError::Unopened { source })),
    };
    read(io::BufReader::new(file), now, most).map_err(|error| set_aside(path, error))
}

fn set_aside(path: &Path, error: ReadError) -> SetAside {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".unusable");
    let aside = PathBuf::from(aside);
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(%error, path = %path.display(), "cannot move the state aside");
    }
    SetAside { path: path.to_owned(), error, aside }
}

/// Takes the peers out of a state, turned into this boot's times.
///
/// # Errors
/// [`ReadError`].
pub fn read(source: impl io::Read, now: Clock, most: Most) -> Result<Restored, ReadError> {
    let (mut reader, origin) = Reader::open(source)?;
    reader.limit(most.bytes);
    let mut peers: Vec<Past> = Vec::new();
    let mut minutes = 0;
    let mut then = None;
    while let Some(input) = reader.next_input()? {
        match input {
            Input::Past(mut some) => {
                some.truncate(most.peers - peers.len());
                some.retain(|peer| {
                    minutes += peer.minutes.len();
                    minutes <= most.minutes
                });
                peers.extend(some);
            }
            Input::Moment(moment) => then = Some(moment.clock),
            _ => {}
        }
    }
    let Some(then) = then else { return Ok(Restored::default()) };
    let all = peers.len();
    if origin.boot_id != boot_id() {
        let own = find_namespace(OWN).unwrap_or(0);
        peers.retain(|peer| peer.netns == own);
        let shift = minutes_between(then, now);
        peers.iter_mut().for_each(|peer| move_to_this_boot(peer, shift));
    }
    Ok(Restored { forgotten: all - peers.len(), peers, written: Some(then.wall) })
}

/// What to add to a minute of the boot of `then` to have it in that of `now`.
///
/// A clock that was set back meanwhile would put the past into the future: then no time is taken
/// to have passed.
fn minutes_between(then: Clock, now: Clock) -> i32 {
    let passed = now.wall.duration_since(then.wall).unwrap_or_default();
    let mono = |clock: Clock| i64::try_from(clock.mono_ns).unwrap_or(i64::MAX);
    let passed = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
    Minute::at(mono(now).saturating_sub(passed)) - Minute::at(mono(then))
}

/// Keeps the minutes, which are known to be so long ago, and lets go of the moments, which this
/// boot's clock cannot name.
fn move_to_this_boot(peer: &mut Past, shift: i32) {
    peer.with = Span::default();
    peer.without = Span::default();
    peer.changes.clear();
    for minute in &mut peer.minutes {
        minute.minute = minute.minute.saturating_add(shift);
    }
}

/// Why the state could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the state {path}: {source}; the one before, if any, is untouched")]
pub struct Unsaved {
    /// The file.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// Writes the state.
///
/// # Errors
/// [`Unsaved`].
pub fn save(
    path: &Path,
    origin: &Origin,
    past: impl Iterator<Item = Past>,
    now: Clock,
) -> Result<(), Unsaved> {
    let beside = files::beside(path);
    // What a crash left, or whatever else has the name.
    let _ = fs::remove_file(&beside);
    let written = write(&beside, origin, past, now).and_then(|()| {
        let moved = fs::rename(&beside, path).and_then(|()| match path.parent() {
            // The name is safe once its directory is.
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        });
        moved.map_err(|error| WriteError { path: path.to_owned(), error })
    });
    if written.is_err() {
        // It may be what filled the disk.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(|error| Unsaved { path: path.to_owned(), source: error.error })
}

fn write(
    path: &Path,
    origin: &Origin,
    past: impl Iterator<Item = Past>,
    now: Clock,
) -> Result<(), WriteError> {
    let mut recorder = Recorder::create(path, origin, None)?;
    for part in Past::parts(past) {
        recorder.write(&Input::Past(part))?;
    }
    recorder.write(&Input::Moment(Box::new(Moment::bare(now))))?;
    recorder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{attached::Backend, event::Role, units::Hz};
    use std::time::Duration;

    const MOST: Most = Most { peers: 100, minutes: 1000, bytes: 1 << 20 };

    fn origin(boot_id: &str) -> Origin {
        let clock = Clock { mono_ns: 1, wall: std::time::SystemTime::UNIX_EPOCH };
        Origin { boot_id: boot_id.into(), ..Origin::bare(Backend::Fentry, clock, Hz::new(250)) }
    }

    fn peer(netns: u32) -> Past {
        let minute = Minute { minute: 90, entered: 7, ..Minute::default() };
        Past {
            netns,
            role: Role::Client,
            address: "10.2.0.2".parse().unwrap(),
            port: 443,
            with: Span { first_ns: 5, last_ns: 9 },
            without: Span::default(),
            changes: Vec::new(),
            changes_seen: 0,
            minutes: vec![minute],
        }
    }

    fn clock(mono_minutes: u64, wall_minutes: u64) -> Clock {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(wall_minutes * 60);
        Clock { mono_ns: mono_minutes * 60_000_000_000, wall }
    }

    #[test]
    fn within_one_boot_the_past_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert!(load(&path, clock(1, 1), MOST).unwrap().peers.is_empty(), "no file, no past");
        save(&path, &origin(&boot_id()), [peer(1), peer(2)].into_iter(), clock(100, 1000)).unwrap();
        let restored = load(&path, clock(130, 10), MOST).unwrap();
        assert_eq!(restored.peers, [peer(1), peer(2)], "a clock set back changes nothing");
        assert_eq!(restored.written, Some(clock(100, 1000).wall));
    }

    #[test]
    fn after_a_boot_minutes_keep_their_time_of_day_and_moments_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let own = find_namespace(OWN).unwrap();
        let peers = [peer(own), peer(own + 1)];
        save(&path, &origin("another boot"), peers.into_iter(), clock(100, 1000)).unwrap();
        // Five minutes off, three up: the minute 90 was 18 minutes ago.
        let restored = load(&path, clock(3, 1008), MOST).unwrap();
        assert_eq!((restored.peers.len(), restored.forgotten), (1, 1));
        assert_eq!(restored.peers[0].minutes[0].minute, 3 - 18);
        assert_eq!(restored.peers[0].with, Span::default());
        let set_back = load(&path, clock(3, 500), MOST).unwrap();
        assert_eq!(set_back.peers[0].minutes[0].minute, 3 - 10, "no time seems to have passed");
    }

    #[test]
    fn a_state_that_cannot_be_used_is_moved_aside_with_a_message() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        save(&path, &origin("b"), [peer(1)].into_iter(), clock(1, 1)).unwrap();
        let whole = fs::read(&path).unwrap();
        for bytes in [&b"garbage"[..], &whole[..whole.len() - 1], &whole[..20], b""] {
            fs::write(&path, bytes).unwrap();
            let message = load(&path, clock(1, 1), MOST).unwrap_err().to_string();
            assert!(message.contains("state.unusable"), "{message}");
            assert!(!path.exists());
            assert_eq!(fs::read(directory.path().join("state.unusable")).unwrap(), bytes);
        }
    }

    #[test]
    fn a_state_that_cannot_be_written_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("no/such/directory/state");
        let error =
            save(&missing, &origin("b"), std::iter::empty(), clock(1, 1)).unwrap_err().to_string();
        assert!(error.contains("no/such/directory"), "{error}");
    }

    #[test]
    fn no_more_is_taken_of_a_state_than_there_is_room_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let save_some = || {
            save(&path, &origin(&boot_id()), (1..=50).map(peer), clock(100, 1000)).unwrap();
        };
        save_some();
        let few = load(&path, clock(130, 10), Most { peers: 7, ..MOST }).unwrap();
        assert_eq!(few.peers.len(), 7);
        let minutes = load(&path, clock(130, 10), Most { minutes: 9, ..MOST }).unwrap();
        assert_eq!(minutes.peers.len(), 9, "each has one");
        let message =
            load(&path, clock(1, 1), Most { bytes: 900, ..MOST }).unwrap_err().to_string();
        assert!(message.contains("unpacks to more than 900 bytes"), "{message}");
        save_some();
    }

    #[test]
    fn a_state_that_is_no_file_is_moved_aside_and_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let pipe = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).unwrap();
        let message = load(&path, clock(1, 1), MOST).unwrap_err().to_string();
        assert!(message.contains("no ordinary file"), "{message}");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(load(&path, clock(1, 1), MOST).is_err(), "a link leads anywhere");
    }
}
