//! Names for peers: out of a file, of /etc/hosts and of a name server that answers over the real protocol,
//! in a network namespace that has no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result};

use crate::daemon::Daemon;
use crate::equation::settled;
use crate::expect;
use crate::http;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::recordings::{self, Traffic};
use crate::summary::Summary;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server};
use crate::twtrace::{self, Running, Tracer};

/// The name of each row's peer, if it has one.
fn names(summary: &Summary) -> Result<BTreeMap<String, Option<String>>> {
    let row = |row: &serde_json::Value| {
        let peer = row["peer"].as_str().context("a row has no peer")?.to_owned();
        Ok((peer, row["name"].as_str().map(str::to_owned)))
    };
    summary.peers()?.iter().map(row).collect()
}

/// The name of a port and that of the rest of its address, in a session of one's own, in its replay and
/// through a daemon, whose metrics have none.
pub fn out_of_a_file(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("services");
    fs::write(&path, format!("{SERVER}:8080 shop\x1b[2J\n{SERVER} server.example\n"))?;
    let path = path.to_str().context("a path")?;
    let only = ["--netns", net.client.name(), "--names", path];
    let daemon = Daemon::start(lab, &[])?;
    let tracer = Tracer::watch(lab, &only)?;
    let through = Running::asking(lab, &daemon, "watch", &only)?;
    let events = Tracer::events(lab, &only)?;
    let rows = Running::start(lab, &[&["watch", "-o", "csv"], &only[..]].concat())?;
    let mut want = BTreeMap::new();
    for (port, name) in [(8080, "shop\x1b[2J"), (8081, "server.example")] {
        let to = format!("{SERVER}:{port}");
        let server = Server::start(&net.server, &to, Behaviour::AnswersEof)?;
        Client::new(&net.client).short_connections(server.addr(), 3)?;
        want.insert(to, Some(name.to_owned()));
    }
    settled(&net.client, 6)?;
    let events = events.finish_events()?;
    let entered = events.iter().filter(|event| event["event"] == "entered");
    let told = entered.filter_map(|event| event["name"].as_str()).collect::<Vec<_>>();
    let all = [["shop\x1b[2J"; 3], ["server.example"; 3]].concat();
    expect::equal("names of the events", &all, &told)?;
    let (text, _) = rows.stop()?;
    let mut lines = text.lines().map(|line| line.rsplit(',').next().unwrap_or_default());
    expect::equal("the last column", &Some("name"), &lines.next())?;
    let told: BTreeSet<_> = lines.collect();
    expect::equal("names of the rows", &["shop\\u{1b}[2J", "server.example"].into(), &told)?;
    let (text, _) = through.stop()?;
    let through = Summary::parse(&text, lab.backend.name())?;
    expect::equal("names, through the daemon", &want, &names(&through)?)?;
    let metrics = http::local(&daemon.socket(), "/metrics")?;
    let told = metrics.contains("shop") || metrics.contains("server.example");
    expect::that(!told, || format!("a metric has a name:\n{metrics}"))?;
    expect::equal("names", &want, &names(&tracer.finish()?)?)
}

/// Peers of the recording that names are asked for.
const PEERS: u64 = 300;
/// Most that may be asked for while the last answer waits: three seconds at twenty each, and the first.
const MOST_ASKED: usize = 61;

/// A recording of many peers, in a namespace whose only name server answers all but one of them.
pub fn of_a_name_server(lab: &Lab) -> Result<()> {
    let netns = Netns::new("names")?;
    let place = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = place.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    // One that does not answer is waited for five times this long, and longer than a test waits.
    let resolv = file("resolv.conf", "nameserver 127.0.0.53\noptions timeout:30 attempts:5\n")?;
    let hosts = file("hosts", "10.0.0.1 known.example\n")?;
    let recording = place.path().join("recording.twtrace");
    let traffic = Traffic { seconds: 1, rate: PEERS, peers: PEERS, faults: false };
    recordings::record(&recording, &recordings::origin("host"), &traffic);

    let socket = netns.run(|| Ok(UdpSocket::bind("127.0.0.53:53")?))?;
    let (asked, questions) = channel();
    std::thread::spawn(move || answer(&socket, &asked));

    let program = lab.twtrace.canonicalize()?;
    let replay = |peers: &[&str]| -> Result<Summary> {
        let inside = format!(
            "mount --bind {resolv} /etc/resolv.conf && mount --bind {hosts} /etc/hosts && \
             exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &inside, "sh"]);
        command.arg(&program).arg("replay").arg(&recording).args(["-o", "json"]).args(peers);
        let output = netns.run(|| twtrace::finished(&mut command))?;
        expect::that(output.status.success(), || twtrace::shown(&output))?;
        Summary::parse(&String::from_utf8_lossy(&output.stdout), "tracepoint")
    };

    // Nobody is asked unless that is wanted.
    let none = replay(&["--names", "hosts"])?;
    let known = names(&none)?.into_values().flatten().collect::<Vec<_>>();
    expect::equal("names of /etc/hosts", &vec!["known.example".to_owned()], &known)?;
    expect::equal("questions", &BTreeSet::new(), &all(&questions))?;

    // The answer to one never comes; those of the others do, and so does the view.
    let few = replay(&["--names", "hosts,dns", "--peer", "10.0.0.0/30"])?;
    let told: Vec<_> = names(&few)?.into_values().collect();
    let name = |name: &str| Some(name.to_owned());
    let want = vec![name("host-0.example"), name("known.example"), name("host-2.example"), None];
    expect::equal("names of four", &want, &told)?;
    let want = ["0", "2", SILENT].map(str::to_owned).into();
    expect::equal("questions", &want, &all(&questions))?;

    let many = names(&replay(&["--names", "dns"])?)?.into_values().flatten().count();
    let asked = all(&questions).len();
    expect::that((2..=MOST_ASKED).contains(&asked) && (1..asked).contains(&many), || {
        format!("{asked} questions of {PEERS} peers, {many} names")
    })
}

/// The last number of the address that nothing is said of.
const SILENT: &str = "3";

/// The last numbers of the addresses asked for since the last time.
fn all(questions: &Receiver<String>) -> BTreeSet<String> {
    questions.try_iter().collect()
}

/// Answers what asks for the name of an address (RFC 1035), in the order it comes.
fn answer(socket: &UdpSocket, asked: &Sender<String>) -> Option<()> {
    let mut packet = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut packet).ok()?;
        let question = packet.get(12..length)?;
        // Labels up to an empty one; type and class. What stands behind it is of no matter here.
        let end = question.iter().position(|byte| *byte == 0)?;
        let length = usize::from(*question.first()?);
        let last = std::str::from_utf8(question.get(1..=length)?).ok()?.to_owned();
        asked.send(last.clone()).ok()?;
        if last == SILENT {
            continue;
        }
        let name = format!("host-{last}");
        let mut reply = packet.get(..2)?.to_vec();
        // An answer, recursion available; one question, one answer.
        reply.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        reply.extend(question.get(..end + 5)?);
        let mut data = vec![u8::try_from(name.len()).ok()?];
        data.extend(name.bytes());
        data.push(7);
        data.extend(b"example\0");
        // Of the name in the question: PTR, IN, a minute, as long as it is.
        reply.extend([0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).ok()?]);
        reply.extend(data);
        socket.send_to(&reply, from).ok()?;
    }
}
