//! What failed: for programs, and a line a place for people.

use std::time::Duration;

use serde_json::{Value, json};

use crate::failures::{Binds, Cause, FailedPlaces, Place};
use crate::owner::Owners;
use crate::text::visible;

/// `connect()` calls that got no port, as JSON.
pub fn connects(failed: &FailedPlaces, owners: &Owners) -> Vec<Value> {
    let of = |(place, tried): &(Place, Option<u64>)| {
        let mut value = document(place, failed.now_ns, owners);
        value["remote"] = json!(place.remote);
        value["tried"] = json!(tried);
        value
    };
    failed.connects.iter().map(of).collect()
}

/// `bind()` calls that were refused, as JSON.
pub fn binds(failed: &FailedPlaces, owners: &Owners) -> Vec<Value> {
    let of = |(place, binds): &(Place, Binds)| {
        let mut value = document(place, failed.now_ns, owners);
        value["program_binds"] = json!({
            "refused": binds.refused,
            "unanswered": binds.unanswered_at(failed.now_ns),
            "bound": binds.bound,
        });
        value["inferred"] = json!(place.inferred);
        value
    };
    failed.binds.iter().map(of).collect()
}

fn document(place: &Place, now_ns: u64, owners: &Owners) -> Value {
    json!({
        "netns": place.netns,
        "reason": place.cause.key(),
        "local": place.local,
        "pid": place.program.pid,
        "comm": place.program.name(),
        "kernel_thread": place.program.kernel_thread,
        "uid": place.program.uid,
        "cgroup": place.program.cgroup,
        "owner": place.owner(owners).map(|owner| &owner.name),
        "port_range": place.ports.map(|(low, high)| [low, high]),
        "own_range": place.own_range,
        "count": place.count,
        "last_minute": place.last_minute(now_ns),
        "first_ns": place.first_ns,
        "last_ns": place.last_ns,
    })
}

/// A line for each place, those that failed last first, and how long ago.
pub fn lines(failed: &FailedPlaces, owners: &Owners) -> Vec<String> {
    let connects = failed.connects.iter().map(|(place, tried)| {
        let of = tried.map_or_else(String::new, |tried| format!(" of {}", tried.max(place.count)));
        (place, format!("{}{of} connect()", place.count))
    });
    let binds = failed.binds.iter().map(|(place, _)| (place, format!("{} bind()", place.count)));
    let mut all: Vec<_> = connects.chain(binds).collect();
    all.sort_by_key(|(place, _)| std::cmp::Reverse(place.last_ns));
    let line = |(place, calls): (&Place, String)| {
        let ago = Duration::from_nanos(failed.now_ns.saturating_sub(place.last_ns)).as_secs();
        let what = match (place.cause, place.remote) {
            (Cause::NoPort, Some(remote)) => format!("to {remote} found no port"),
            (Cause::PortBusy, Some(remote)) => {
                format!("from port {} to {remote} found it busy", place.local.port())
            }
            _ if place.local.port() == 0 => format!("of {} found no port", place.local.ip()),
            _ => format!("of {} was refused", place.local),
        };
        let owner = place.owner(owners).map(|owner| format!(" of {}", owner.name));
        let who = format!("{}{}", place.program, owner.unwrap_or_default());
        format!("{calls} {what}: {}, last {ago} s ago", visible(&who))
    };
    all.into_iter().map(line).collect()
}
