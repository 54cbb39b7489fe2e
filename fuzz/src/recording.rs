//! Recordings, and states, which are recordings too.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use twtrace::{
    aggregate::Settings,
    attached::Backend,
    daemon::state::{self, Most},
    feed::Core,
    origin::{Input, Origin},
    peer::{GroupBy, Prefixes, minutes::Memory},
    recording::{Encoder, Reader},
    summary::RowChoice,
    units::{Clock, Hz},
    view::{self, Format, events::EventWriter, style::Palette},
};

use super::assert_harmless;

/// What a recording begins with.
const MAGIC: &[u8] = b"TWTRACE\n";
/// Rows and sockets that are told apart: few, so that it is seen what happens beyond them.
const FEW: usize = 64;

fn clock(seconds: u64) -> Clock {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
    Clock { mono_ns: seconds * 1_000_000_000, wall }
}

/// The bytes of a file: as they are, or, where they do not begin as one, as the frames of a block
/// whose lengths and checksums are right, which chance does not find.
fn file(bytes: &[u8]) -> Cow<'_, [u8]> {
    if bytes.starts_with(MAGIC) {
        return Cow::Borrowed(bytes);
    }
    let origin = Origin::bare(Backend::Kprobe, clock(100), Hz::new(250));
    let (_, mut file) = Encoder::new(&origin).expect("a header that we made");
    let packed = zstd::bulk::compress(bytes, 1).expect("anything can be compressed");
    for number in [bytes.len() as u32, packed.len() as u32, crc32fast::hash(&packed)] {
        file.extend(number.to_le_bytes());
    }
    file.extend(packed);
    Cow::Owned(file)
}

fn settings(origin: &Origin) -> Settings {
    Settings {
        selection: origin.selection.clone(),
        group_by: GroupBy::Peer,
        also_by_owner: false,
        prefixes: Prefixes::default(),
        max_peers: FEW,
        max_live: FEW,
        memory: Memory::default(),
        hz: origin.hz,
        recycle_exists: origin.recycle_exists,
        follow_ends: true,
    }
}

/// A recording is refused or replayed, and whatever it holds is shown and not obeyed.
pub fn recording(bytes: &[u8]) {
    let file = file(bytes);
    let (mut reader, origin) = match Reader::open(&*file) {
        Ok(opened) => opened,
        Err(error) => return assert_harmless(&error.to_string()),
    };
    let (hz, recycle_exists) = (origin.hz, origin.recycle_exists);
    let settings = settings(&origin);
    let mut core = Core::new(origin, settings);
    let owners = core.aggregate().owners().clone();
    let writers = [Format::Table, Format::Ndjson, Format::Csv].map(|format| EventWriter {
        owners: owners.clone(),
        ..EventWriter::bare(format, hz, recycle_exists)
    });
    let mut lines = [(); 3].map(|()| Vec::new());
    loop {
        match reader.next_input() {
            Ok(Some(input)) => core.take(input, &mut |event| {
                for (writer, lines) in writers.iter().zip(&mut lines) {
                    writer.write(lines, event).expect("memory takes everything");
                }
            }),
            Ok(None) => break,
            Err(error) => {
                assert_harmless(&error.to_string());
                break;
            }
        }
    }
    assert_harmless(&text(&lines[0]));
    let choice = RowChoice { with_past: true, ..RowChoice::default() };
    let Ok(summary) = core.summary(&choice) else { return };
    let mut seen = Vec::new();
    view::table::write(&mut seen, &summary, Palette::PLAIN).expect("memory takes everything");
    view::diagnosis::write(&mut seen, &summary, Palette::PLAIN).expect("likewise");
    view::explain::write(&mut seen, &summary, Palette::PLAIN).expect("likewise");
    view::peer::write(&mut seen, &summary, Palette::PLAIN).expect("likewise");
    assert_harmless(&text(&seen));
    assert_harmless(&view::check::line(&summary, 70, 90).1);
    let mut programs = Vec::new();
    view::json::write_line(&mut programs, &summary).expect("likewise");
    view::diagnosis::write_json(&mut programs, &summary).expect("likewise");
    view::csv::write(&mut programs, &summary).expect("likewise");
    text(&programs);
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    Cow::Borrowed(std::str::from_utf8(bytes).expect("all that is written is UTF-8"))
}

/// Of a state no more is taken than may be.
pub fn state(bytes: &[u8]) {
    let most = Most { peers: FEW, minutes: 1000, bytes: 1 << 20 };
    match state::read(&*file(bytes), clock(1000), most) {
        Err(error) => assert_harmless(&error.to_string()),
        Ok(restored) => {
            let minutes: usize = restored.peers.iter().map(|peer| peer.minutes.len()).sum();
            assert!(restored.peers.len() <= most.peers && minutes <= most.minutes);
            let origin = Origin::bare(Backend::Kprobe, clock(1000), Hz::new(250));
            let mut core = Core::new(origin.clone(), settings(&origin));
            core.take(Input::Past(restored.peers), &mut |_| {});
        }
    }
}
