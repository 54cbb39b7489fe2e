//! The object for old kernels, and what it can say without the kernel's types.

use std::fs;
use std::path::Path;

use ::twtrace::kernel::{BtfIndex, resolve_layout};
use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::equation::{Ledger, settled};
use crate::expect;
use crate::lab::{Lab, Object};
use crate::summary::Totals;
use crate::topology::{self, SERVER};
use crate::traffic::{Behaviour, Client, Server, abandon};
use crate::twtrace;

/// The running kernel's types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The document names it.
pub fn object_is_named(lab: &Lab) -> Result<()> {
    let net = topology::pair()?;
    let document = super::watch(lab, &net.client)?.finish()?;
    let named = |key: &str| document.at(key).cloned();
    expect::equal("object", &json!("perf"), &named("/object")?)?;
    expect::equal("types", &json!("known"), &named("/types")?)?;
    let blind = named("/blind_spots")?.to_string();
    expect::that(blind.contains("present at the start"), || format!("blind spots: {blind}"))
}

/// Peers, paths and lifetimes are known from what the hooked functions are called with; the rest is
/// null.
pub fn without_types(lab: &Lab) -> Result<()> {
    let lab = lab.with_btf("none");
    let net = topology::pair()?;
    net.client.set("ipv4/tcp_tw_reuse", "1")?;
    net.client.set("ipv4/tcp_fin_timeout", "2")?;
    let client = Client::new(&net.client);
    let answering = Server::start(&net.server, &format!("{SERVER}:8080"), Behaviour::AnswersEof)?;
    let over_v6 = Server::start(&net.server, "[fd01::2]:8082", Behaviour::AnswersEof)?;
    client.short_connections(answering.addr(), 4)?;
    client.short_connections(over_v6.addr(), 3)?;
    settled(&net.client, 7)?;
    let ledger = Ledger::open(&net.client)?;
    let tracer = super::watch(&lab, &net.client)?;
    client.short_connections(answering.addr(), 20)?;
    client.short_connections(over_v6.addr(), 5)?;
    settled(&net.client, 32)?;

    // Mini-sockets: five that time out, and five whose peer closes in time.
    let holding = Server::start(&net.server, &format!("{SERVER}:8081"), Behaviour::Holds)?;
    let timing_out = client.open_many(holding.addr(), 5)?;
    let held = holding.take(5)?;
    timing_out.into_iter().try_for_each(abandon)?;
    settled(&net.client, 37)?;
    settled(&net.client, 32)?;
    net.client.set("ipv4/tcp_fin_timeout", "60")?;
    let promoted = client.open_many(holding.addr(), 5)?;
    let closing = holding.take(5)?;
    promoted.into_iter().try_for_each(abandon)?;
    settled(&net.client, 37)?;
    let ports: Vec<_> = closing.iter().flat_map(|stream| stream.peer_addr()).collect();
    drop(closing);
    for port in ports {
        crate::ss::in_state(&net.client, port.port(), "TIME-WAIT")?;
    }

    let want = Totals {
        present_at_start: 7,
        entered: 35,
        fin_wait2: 10,
        fin_wait2_timeout: 5,
        live: 37,
        ..Totals::default()
    };
    let summary = super::totals_are(tracer, &ledger, want)?;
    drop(held);
    expect::equal("types", &json!("unknown"), summary.at("/types")?)?;
    for (peer, entered) in [("10.1.0.2:8080", 20), ("10.1.0.2:8081", 10), ("[fd01::2]:8082", 5)] {
        let row = summary.peer(net.client.inum(), peer)?;
        expect::equal(peer, &entered, &row.totals()?.entered)?;
        expect::equal("role", &json!("client"), &row.0["role"])?;
        for unknown in ["timestamps", "eligible", "allowed", "blocked", "refused"] {
            expect::equal(&format!("{unknown} of {peer}"), &Value::Null, &row.0[unknown])?;
        }
        expect::equal("rto_ms", &Value::Null, &row.0["rto_ms"]["last"])?;
    }
    let armed = summary.peer(net.client.inum(), "10.1.0.2:8080")?.number("/scheduled_ms/last")?;
    expect::equal("the timer of a TIME_WAIT socket", &60_000, &armed)
}

/// Without types a failed `connect()` is told by its return: by nothing else that ends one.
pub fn failed_calls_without_types(lab: &Lab) -> Result<()> {
    let lab = lab.with_btf("none");
    super::failed::other_ends_of_a_connect_are_none(&lab)?;
    super::failed::connects_with_a_busy_port(&lab)
}

/// A file of another kernel: here this kernel's with one member moved.
pub fn a_wrong_btf_file_is_noticed(lab: &Lab) -> Result<()> {
    let mut bytes = fs::read(VMLINUX).context(VMLINUX)?;
    let layout = resolve_layout(&BtfIndex::from_file(Path::new(VMLINUX))?)?;
    move_member(&mut bytes, "icsk_rto", layout.icsk_rto.offset * 8, 64)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("other.btf");
    fs::write(&path, bytes)?;
    let path = path.to_str().context("a path that is no text")?;

    let lab = lab.with_btf(path);
    let args = [&["watch", "--for", "1s"], &lab.attach()[..]].concat();
    let output = twtrace::run(&lab, &args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let field = if lab.object == Object::Perf { "the RTO" } else { "icsk_rto" };
    let told = stderr.contains("not of this kernel") && stderr.contains(field);
    expect::that(output.status.code() == Some(1) && told && stderr.contains(path), || {
        twtrace::shown(&output)
    })
}

/// Moves a member in type information: its entry is its name's place, its type, and its offset in
/// bits.
fn move_member(btf: &mut [u8], name: &str, bits: u32, by: u32) -> Result<()> {
    let word = |at: usize| {
        let bytes = btf.get(at..at + 4).context("cut short")?;
        anyhow::Ok(u32::from_ne_bytes(bytes.try_into()?))
    };
    let header = word(4)?;
    let strings = (header + word(16)?) as usize;
    let wanted = [&[0], name.as_bytes(), &[0]].concat();
    let found = btf[strings..].windows(wanted.len()).position(|window| window == wanted);
    let name_at = found.context("no such name")? as u32 + 1;
    let types = (header + word(8)?) as usize..strings;
    let entry = types.step_by(4).find(|at| {
        word(*at).is_ok_and(|it| it == name_at) && word(at + 8).is_ok_and(|it| it == bits)
    });
    let at = entry.context("no such member")? + 8;
    btf[at..at + 4].copy_from_slice(&(bits + by).to_ne_bytes());
    Ok(())
}
