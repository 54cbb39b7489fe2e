//! `twtrace.status/1`: how the daemon is.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::json::audit;
use crate::{agent::Agent, attached::blind_spots};

/// Name and version of the document.
pub const SCHEMA: &str = "twtrace.status/1";

/// The document.
pub fn document(agent: &Agent) -> Value {
    let status = &agent.status;
    let process = &agent.process;
    json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": process.pid,
        "since": stamp(status.since()),
        "backend": status.backend.as_str(),
        "backends_refused": status.refused_backends.iter().map(|refusal| json!({
            "backend": refusal.backend.as_str(),
            "reason": refusal.reason,
        })).collect::<Vec<_>>(),
        "object": status.object.as_str(),
        "types": status.types.as_str(),
        "blind_spots": blind_spots(
            status.backend,
            status.object,
            status.types,
            !status.sees_binds,
        ),
        "audit": status.audit.as_ref().map(|known| audit(known, &status.netns_names)),
        "limits": status.limits,
        "restart_needed": status.restart_needed,
        "state": {
            "saved": status.state_saved.map(stamp),
            "fault": status.state_fault,
        },
        "cost": {
            "cpu_s": (process.cpu_seconds * 1000.0).round() / 1000.0,
            "resident_bytes": process.resident_bytes,
            "open_fds": process.open_fds,
            "programs": status.programs.iter().map(|program| json!({
                "program": program.name,
                "runs": program.runs.map(|(count, _)| count),
                "run_ns": program.runs.map(|(_, nanoseconds)| nanoseconds),
            })).collect::<Vec<_>>(),
        },
        "clients": {
            "connected": agent.clients.connected,
            "requests": agent.clients.requests,
            "refused": agent.clients.refused,
            "dropped": agent.clients.dropped,
        },
    })
}

fn stamp(moment: SystemTime) -> String {
    humantime::format_rfc3339_millis(moment).to_string()
}
