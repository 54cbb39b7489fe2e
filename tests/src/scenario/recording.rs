//! Recordings as files: rotated, cut off, on a full disk, and queried.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::equation::Ledger;
use crate::expect;
use crate::lab::Lab;
use crate::summary::{Summary, Totals};
use crate::topology::{self, Pair, ROUTED, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{self, Running};
use crate::wait;

/// Names a Python that has the modules `duckdb` and `chdb`.
const PYTHON: &str = "TWTRACE_PYTHON";

/// Where the query that users are given is.
const DOCUMENT: &str = include_str!("../../../docs/RECORDING.md");

/// A directory, and a recording to be written in it.
fn place() -> Result<(TempDir, String)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("r.twtrace").to_str().context("a path")?.to_owned();
    Ok((directory, file))
}

fn record(lab: &Lab, file: &str, net: &Pair, args: &[&str]) -> Result<Running> {
    let netns = ["--netns", net.client.name()];
    Running::start(lab, &[&["record", file][..], &netns, &twtrace::SMALL, args].concat())
}

/// What a recording says in the end, and what is said of it on standard error.
fn replayed(lab: &Lab, file: &str) -> Result<(Summary, String)> {
    let output = twtrace::run(lab, &["watch", "--replay", file, "-o", "json"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // One that lacks its end is answered as far as it goes, and is a failure all the same.
    let whole = !said.contains("cut off");
    expect::equal("exit status", &Some(i32::from(!whole)), &output.status.code())?;
    Ok((Summary::amid_traffic(&text, lab.backend.name())?, said))
}

/// Each file replays by itself, begins with the sockets that lived when the one before ended, and
/// together they have every entry once.
pub fn in_several_files(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    client.short_connections(server.addr(), 7)?;
    let (_directory, file) = place()?;
    let ledger = Ledger::open(&net.client)?;
    let recording = record(lab, &file, &net, &["--rotate", "8KiB", "--keep", "30"])?;
    let name = |number: usize| match number {
        0 => file.clone(),
        _ => format!("{file}.{number}"),
    };
    let mut connected = 0;
    wait::until("four files", wait::SOON, || {
        client.short_connections(server.addr(), 50)?;
        connected += 50;
        Ok(Path::new(&name(3)).exists().then_some(()))
    })?;
    recording.stop()?;
    let want = Totals { entered: connected, live: 7 + connected, ..Totals::default() };
    ledger.agrees_with(&want).context("what the scenario itself set out to make happen")?;

    let files = (0..).take_while(|number| Path::new(&name(*number)).exists()).count();
    let mut sum = 0;
    let mut lived = 7;
    for number in (0..files).rev() {
        let (summary, said) = replayed(lab, &name(number))?;
        let whole = !said.contains("cut off") && !said.contains("damaged");
        expect::that(whole, || format!("file {number} is not whole: {said}"))?;
        let totals = summary.totals()?;
        let what = format!("present at the start of file {number} of {files}");
        expect::equal(&what, &lived, &totals.present_at_start)?;
        lived = totals.live;
        sum += totals.entered;
    }
    expect::equal("entered in all files", &connected, &sum)
}

/// A file system of its own, gone with the value.
struct Disk(TempDir);

impl Disk {
    fn of(size: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let options = CString::new(format!("size={size}"))?;
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), options.as_c_str())
            .context("mounting a small file system")?;
        Ok(Self(directory))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// A full disk ends `record` with one message; what is there replays up to where it was full.
pub fn on_a_full_disk(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let client = Client::new(&net.client);
    let disk = Disk::of("96k")?;
    let file = disk.0.path().join("r.twtrace").to_str().context("a path")?.to_owned();
    let mut recording = record(lab, &file, &net, &[])?;
    wait::until("the disk to be full", wait::SOON, || {
        client.short_connections(server.addr(), 20)?;
        recording.has_ended()
    })?;
    let (status, _, stderr) = recording.ended()?;
    expect::equal("exit status", &Some(1), &status.code())?;
    let complaints: Vec<_> = stderr.lines().filter(|line| line.contains("space")).collect();
    let [complaint] = complaints[..] else { bail!("not one complaint:\n{stderr}") };
    expect::equal("times the cause is named", &1, &complaint.matches("os error").count())?;
    expect::that(complaint.contains(&file), || format!("the file is not named: {complaint}"))?;
    expect::equal("the complaint's place", &stderr.lines().last(), &Some(complaint))?;

    let (summary, said) = replayed(lab, &file)?;
    expect::that(said.contains("cut off"), || format!("it is not said to be cut off: {said}"))?;
    expect::that(summary.totals()?.entered > 0, || "nothing is in the file".to_owned())
}

/// A file that is being written can be read, and so can one whose writer was killed.
pub fn killed_in_the_middle(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let server = Server::start(&net.server, "10.1.0.2:8080", Behaviour::AnswersEof)?;
    let (_directory, file) = place()?;
    let recording = record(lab, &file, &net, &[])?;
    Client::new(&net.client).short_connections(server.addr(), 20)?;
    wait::until("the second to be written", wait::SOON, || {
        let (summary, _) = replayed(lab, &file)?;
        Ok((summary.totals()?.entered == 20).then_some(()))
    })?;
    recording.signal(Signal::KILL)?;
    recording.ended()?;
    let (summary, said) = replayed(lab, &file)?;
    expect::that(said.contains("cut off"), || format!("it is not said to be cut off: {said}"))?;
    let want = Totals { entered: 20, live: 20, ..Totals::default() };
    expect::equal("totals", &want, &summary.totals()?)
}

/// The documented query names the peer behind the router that strips timestamps, and only it, be it
/// asked of DuckDB or, of the same file, of ClickHouse.
pub fn export_is_queried(lab: &Lab) -> Result<()> {
    let python = std::env::var(PYTHON).with_context(|| {
        format!("{PYTHON} names no Python with DuckDB; `cargo xtask test` makes one and names it")
    })?;
    let net = topology::routed()?;
    topology::strip_timestamps(&net.router)?;
    let direct = Server::start(&net.direct, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let behind = Server::start(&net.behind, &format!("{ROUTED}:8080"), Behaviour::AnswersEof)?;
    let (directory, file) = place()?;
    let args = ["record", &file, "--netns", net.client.name()];
    let recording = Running::start(lab, &[&args[..], &twtrace::SMALL].concat())?;
    let client = Client::new(&net.client);
    client.short_connections(direct.addr(), 30)?;
    client.short_connections(behind.addr(), 20)?;
    recording.stop()?;

    // Two files stand for two hosts: the same rows twice.
    let exported = exported(lab, &file, directory.path(), "parquet", "one.parquet")?;
    fs::copy(&exported, exported.with_file_name("two.parquet"))?;
    let query = document_query()?;
    let rows = duckdb(&python, directory.path(), &query)?;
    let found: Vec<_> = rows.iter().map(|row| (&row[1], &row[2])).collect();
    expect::equal("peers found", &vec![(&json!("10.2.0.2:8080"), &json!(40))], &found)?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    expect::equal("host", &json!(host.trim()), &rows[0][0])?;
    let of_clickhouse = clickhouse(&python, directory.path(), &for_clickhouse(&query))?;
    let found: Vec<_> = of_clickhouse.iter().map(|row| (&row[0], &row[1], &row[2])).collect();
    expect::equal("by ClickHouse", &vec![(&rows[0][0], &rows[0][1], &rows[0][2])], &found)?;

    // The three forms have the same rows.
    let ndjson = exported_text(lab, &file, directory.path(), "ndjson")?;
    let csv = exported_text(lab, &file, directory.path(), "csv")?;
    let count =
        "SELECT count(*), count(DISTINCT mono_ns), min(time)::VARCHAR, sum(mono_ns)::VARCHAR
                 FROM 'recordings/one.parquet'";
    let parquet = duckdb(&python, directory.path(), count)?;
    both_read_the_same(&python, directory.path())?;
    let from = |name: &str| count.replace("one.parquet", name);
    for (name, lines) in [("ndjson.ndjson", ndjson), ("csv.csv", csv - 1)] {
        let rows = duckdb(&python, directory.path(), &from(name))?;
        expect::equal(name, &parquet[0], &rows[0])?;
        expect::equal(name, &json!(lines), &rows[0][0])?;
    }
    expect::that(parquet[0][0].as_u64() >= Some(50), || format!("too few rows: {parquet:?}"))
}

/// Every column has as many values, as many different ones, and the same least and greatest one, to
/// DuckDB and to ClickHouse.
fn both_read_the_same(python: &str, directory: &Path) -> Result<()> {
    let file = "'recordings/one.parquet'";
    let columns = duckdb(python, directory, &format!("DESCRIBE SELECT * FROM {file}"))?;
    let names: Vec<_> = columns.iter().filter_map(|column| column[0].as_str()).collect();
    let words = names.iter().map(|name| match *name {
        // Each writes a time in a way of its own.
        "time" => "count(time), count(DISTINCT time)".to_owned(),
        name => format!("count({name}), count(DISTINCT {name}), min({name}), max({name})"),
    });
    let asked = format!("SELECT {} FROM {file}", words.collect::<Vec<_>>().join(", "));
    let by_duckdb = duckdb(python, directory, &asked)?;
    let by_clickhouse = clickhouse(python, directory, &for_clickhouse(&asked))?;
    expect::that(names.len() > 40, || format!("too few columns: {names:?}"))?;
    expect::equal(&format!("what ClickHouse reads of {names:?}"), &by_duckdb, &by_clickhouse)
}

/// Exports into the folder that the query looks into.
fn exported(lab: &Lab, file: &str, directory: &Path, form: &str, name: &str) -> Result<PathBuf> {
    let folder = directory.join("recordings");
    fs::create_dir_all(&folder)?;
    let out = folder.join(name);
    let to = out.to_str().context("a path")?;
    let output = twtrace::run(lab, &["export", file, "--format", form, "-o", to])?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    Ok(out)
}

/// Exports as text; gives the number of lines.
fn exported_text(lab: &Lab, file: &str, directory: &Path, form: &str) -> Result<usize> {
    let path = exported(lab, file, directory, form, &format!("{form}.{form}"))?;
    Ok(fs::read_to_string(path)?.lines().count())
}

/// The first query of the document.
fn document_query() -> Result<String> {
    let (_, behind) = DOCUMENT.split_once("```sql\n").context("no query in the document")?;
    let (query, _) = behind.split_once("```").context("the query has no end")?;
    Ok(query.trim_end().trim_end_matches(';').to_owned())
}

/// The query as ClickHouse has it, whose files are behind the name of a function.
fn for_clickhouse(query: &str) -> String {
    let mut parts = query.split("'recordings/");
    let before = parts.next().unwrap_or_default().to_owned();
    parts.fold(before, |text, rest| text + "file('recordings/" + &rest.replacen('\'', "')", 1))
}

/// The rows of DuckDB's answer to a query.
fn duckdb(python: &str, directory: &Path, query: &str) -> Result<Vec<Vec<Value>>> {
    let program = "import duckdb, json, sys; \
                   print(json.dumps(duckdb.sql(sys.argv[1]).fetchall(), default=str))";
    let answer = asked(python, program, directory, query)?;
    serde_json::from_slice(&answer).context("DuckDB's answer")
}

/// The rows of ClickHouse's.
fn clickhouse(python: &str, directory: &Path, query: &str) -> Result<Vec<Vec<Value>>> {
    let program = "import chdb, sys; \
                   sys.stdout.write(str(chdb.query(sys.argv[1], 'JSONCompactEachRow')))";
    let answer = asked(python, program, directory, query)?;
    let rows = String::from_utf8(answer)?;
    rows.lines().map(|row| serde_json::from_str(row).context("ClickHouse's answer")).collect()
}

/// What a program in Python prints of a query, in a directory.
fn asked(python: &str, program: &str, directory: &Path, query: &str) -> Result<Vec<u8>> {
    let mut command = Command::new(python);
    let output = twtrace::finished(command.args(["-c", program, query]).current_dir(directory))?;
    expect::that(output.status.success(), || twtrace::shown(&output))?;
    Ok(output.stdout)
}
