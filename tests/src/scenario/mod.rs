//! The scenarios: each makes one situation in namespaces of its own and asserts exact counts.

mod capabilities;
mod clock;
mod closing;
mod counting;
mod daemon;
mod diagnosis;
mod diagnosis_catalogue;
mod entry;
mod events;
mod expiry;
mod fields;
mod filters;
mod fin_wait2;
pub mod full_screen;
mod killed;
mod lab;
mod limits;
mod manual;
mod offsets;
mod old_kernels;
mod overflow;
mod present;
mod prometheus;
mod purged;
mod rearmed;
mod recording;
mod refusal;
mod replaced;
mod reset;
mod reuse;
pub mod session;
mod startup;
mod stripped;
mod unit;

use anyhow::{Context, Result};

use crate::equation::Ledger;
use crate::expect;
use crate::guest;
use crate::lab::{Backend, Lab, Object};
use crate::netns::Netns;
use crate::summary::{Summary, Totals};
use crate::twtrace::Tracer;

/// A named test.
pub struct Scenario {
    /// Name, after that of the backend.
    pub name: &'static str,
    /// Backends it can be run with.
    pub on: On,
    /// The test itself.
    pub run: fn(&Lab) -> Result<()>,
}

/// Backends that a scenario asks something of which they can answer.
#[derive(Clone, Copy, Debug)]
pub enum On {
    /// All of them.
    Every,
    /// Those that see function calls; the tracepoints do not show what is asked here.
    Functions,
    /// Not through kprobes with ring buffers: what is asked is of the process, and fentry in the
    /// machines, the tracepoints of the host and the object for old kernels are enough.
    Agent,
    /// The object for old kernels.
    Old,
    /// The tracepoints, hence this host: a rule sees the same counts whatever the backend, so once
    /// is enough.
    Tracepoints,
    /// The tracepoints, and with `--once` fentry and the object for old kernels: the host and one
    /// machine are enough for what takes long.
    Once,
    /// The same, with no other scenario at the same time: what it does takes too long beside others.
    OnceAlone,
    /// Fentry in every virtual machine and nowhere else: the machine itself is put to the test.
    Machine,
    /// The same, with no other scenario at the same time, since it disturbs them.
    MachineAlone,
}

impl Scenario {
    /// Whether it asks something that can be answered this way, `once` telling that this is the one
    /// machine.
    pub fn applies(&self, backend: Backend, object: Object, once: bool) -> bool {
        let backend_fits = match self.on {
            On::Every => true,
            On::Agent => object == Object::Perf || backend != Backend::Kprobe,
            On::Old => object == Object::Perf,
            On::Functions => backend.sees_functions(),
            On::Tracepoints => !backend.sees_functions(),
            On::Once | On::OnceAlone => {
                let in_machine = backend == Backend::Fentry || object == Object::Perf;
                !backend.sees_functions() || (once && in_machine)
            }
            On::Machine | On::MachineAlone => {
                object == Object::RingBuf && backend == Backend::Fentry && guest::is_here()
            }
        };
        backend_fits && object.attaches(backend)
    }

    /// Whether no other may run at the same time.
    pub fn is_alone(&self) -> bool {
        matches!(self.on, On::OnceAlone | On::MachineAlone)
    }
}

const fn every(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, on: On::Every, run }
}

const fn functions(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, on: On::Functions, run }
}

const fn agent(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, on: On::Agent, run }
}

const fn old(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, on: On::Old, run }
}

const fn tracepoints(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, on: On::Tracepoints, run }
}

const fn once(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, on: On::Once, run }
}

const fn machine(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario { name, on: On::Machine, run }
}

/// All scenarios, those that wait for 2MSL first so that the others run beside them.
pub const ALL: &[Scenario] = &[
    once("diagnosis_of_the_story", diagnosis::of_the_story),
    every("expiry_is_two_msl", expiry::expiry_is_two_msl),
    every("a_present_socket_expires", expiry::a_present_socket_expires),
    every("counts_over_six_peers", counting::counts_over_six_peers),
    every("stripped_timestamps_story", stripped::stripped_timestamps_story),
    every("offsets_are_those_known", offsets::offsets_are_those_known),
    every("event_fields_match_the_socket", fields::event_fields_match_the_socket),
    old("without_types_the_headline_remains", old_kernels::without_types),
    every("a_wrong_btf_file_is_noticed", old_kernels::a_wrong_btf_file_is_noticed),
    old("old_object_is_named", old_kernels::object_is_named),
    every("reset_is_not_an_entry", reset::reset_is_not_an_entry),
    every("reset_while_closing_is_not_an_entry", reset::reset_while_closing_is_not_an_entry),
    every("filters", filters::filters),
    tracepoints("filters_by_names_of_the_time", filters::by_names_of_the_time),
    every("filters_in_userspace_against_the_kernel", filters::in_userspace),
    every("why_a_socket_is_blocked", entry::why_a_socket_is_blocked),
    every("no_ends_counts_the_same", limits::no_ends_counts_the_same),
    every("cap_of_peers_folds_into_other", limits::cap_of_peers_folds_into_other),
    every("recording_in_several_files", recording::in_several_files),
    tracepoints("recording_on_a_full_disk", recording::on_a_full_disk),
    tracepoints("recording_killed_in_the_middle", recording::killed_in_the_middle),
    tracepoints("export_is_queried_by_duckdb", recording::export_is_queried_by_duckdb),
    every("command_mode", session::command_mode),
    every("count_ends_the_session", session::count_ends_the_session),
    every("duration_ends_the_session", session::duration_ends_the_session),
    every("events_ndjson", events::events_ndjson),
    every("without_root_it_says_what_is_missing", startup::without_root),
    every("missing_btf_is_named", startup::missing_btf_is_named),
    every("wrong_flags_are_a_usage_error", startup::wrong_flags_are_a_usage_error),
    every("reused_by_an_ephemeral_connect", reuse::by_an_ephemeral_connect),
    every("reused_on_loopback_by_default", reuse::on_loopback_by_default),
    every("reused_by_a_bound_connect", reuse::by_a_bound_connect),
    functions("refused_behind_a_stripping_router", refusal::behind_a_stripping_router),
    functions("refused_for_each_reason", refusal::for_each_reason),
    every("replaced_by_a_syn", replaced::replaced_by_a_syn),
    every("killed_by_rst_unless_rfc1337", killed::by_rst_unless_rfc1337),
    every("killed_mini_socket", killed::mini_socket),
    every("killed_by_an_administrator", killed::by_an_administrator),
    every("purged_with_its_namespace", purged::purged_with_its_namespace),
    every("fin_wait2_promoted", fin_wait2::promoted),
    every("fin_wait2_timed_out", fin_wait2::timed_out),
    every("fin_wait2_by_the_keepalive_timer", fin_wait2::by_the_keepalive_timer),
    every("simultaneous_close", closing::simultaneous_close),
    functions("overflow_of_buckets", overflow::overflow_of_buckets),
    every("rearmed_by_a_retransmitted_fin", rearmed::by_a_retransmitted_fin),
    every("rearmed_by_promotion", rearmed::by_promotion),
    every("present_at_start", present::present_at_start),
    agent("daemon_answers_like_a_session_of_its_own", daemon::answers_like_a_session),
    agent("daemon_reloads_and_loses_nothing", daemon::reloads_and_loses_nothing),
    agent("daemon_keeps_its_history_over_a_restart", daemon::keeps_its_history),
    agent("daemon_killed_leaves_nothing_attached", daemon::killed_leaves_nothing),
    agent("daemon_ignores_clients_that_misbehave", daemon::ignores_clients_that_misbehave),
    tracepoints("daemon_in_a_crowd", daemon::in_a_crowd),
    tracepoints("daemon_tells_of_a_full_disk", daemon::tells_of_a_full_disk),
    agent("capabilities_of_the_unit_are_enough", capabilities::of_the_unit_are_enough),
    agent("capabilities_that_are_missing_are_named", capabilities::that_are_missing_are_named),
    machine("unit_counts_reloads_and_stops", unit::counts_reloads_and_stops),
    machine("unit_is_started_again_by_the_watchdog", unit::is_started_again),
    tracepoints("unit_is_exposed_little", unit::is_exposed_little),
    tracepoints("prometheus_scrapes_the_counts", prometheus::prometheus_scrapes_the_counts),
    tracepoints("lab_twice_in_a_row_leaves_nothing", lab::twice_in_a_row),
    tracepoints("full_screen", full_screen::full_screen),
    tracepoints("full_screen_gives_the_terminal_back", full_screen::gives_the_terminal_back),
    tracepoints("full_screen_stops_and_goes_on", full_screen::stops_and_goes_on),
    tracepoints("man_pages_are_without_fault", manual::pages_are_without_fault),
    tracepoints("completions_work_in_each_shell", manual::completions_work_in_each_shell),
    tracepoints("diagnosis_of_a_healthy_host", diagnosis::of_a_healthy_host),
    tracepoints("check_is_a_monitoring_plugin", diagnosis::check_is_a_monitoring_plugin),
    tracepoints("diagnosis_tw002_timestamps_off", diagnosis_catalogue::timestamps_off),
    tracepoints("diagnosis_tw003_to_tw007_and_tw015_reuse_off", diagnosis_catalogue::reuse_off),
    tracepoints("diagnosis_tw005_exhausted", diagnosis_catalogue::exhausted),
    tracepoints("diagnosis_tw005_open_connections", diagnosis_catalogue::open_connections),
    functions("diagnosis_tw006_fixed_port", diagnosis_catalogue::fixed_port),
    tracepoints("diagnosis_tw007_tw008_full_buckets", diagnosis_catalogue::full_buckets),
    tracepoints("diagnosis_tw008_filling_buckets", diagnosis::of_filling_buckets),
    every("diagnosis_tw008_overflow", diagnosis_catalogue::overflow),
    tracepoints("diagnosis_tw009_no_fin", diagnosis_catalogue::no_fin),
    tracepoints("diagnosis_tw010_rearmed", diagnosis_catalogue::rearmed),
    tracepoints("diagnosis_tw011_assassinated", diagnosis_catalogue::assassinated),
    tracepoints("diagnosis_tw012_refused_segments", diagnosis_catalogue::refused_segments),
    tracepoints("diagnosis_tw014_recycle_configured", diagnosis_catalogue::recycle_configured),
    tracepoints("diagnosis_tw016_loopback", diagnosis_catalogue::loopback),
    tracepoints("diagnosis_tw017_conntrack", diagnosis_catalogue::conntrack),
    tracepoints("diagnosis_tw018_lost", diagnosis_catalogue::lost),
    // Last, as they wait for all others to end.
    Scenario {
        name: "lost_events_are_found_missing",
        on: On::OnceAlone,
        run: limits::lost_events_are_found_missing,
    },
    Scenario {
        name: "daemon_while_the_clock_is_set",
        on: On::MachineAlone,
        run: clock::set_back_and_forward,
    },
];

/// What a scenario says when the kernel's own counters are not what it set out to cause: a matter
/// of timing on a busy machine, which says nothing about twtrace.
pub const SPOILT: &str = "the scenario did not do what it says";

/// Ends the run and asserts that the kernel's counters and twtrace's totals are both as `want`.
fn totals_are(tracer: Tracer, ledger: &Ledger, want: Totals) -> Result<Summary> {
    ledger.agrees_with(&want).context(SPOILT)?;
    let summary = tracer.finish()?;
    expect::equal("totals", &want, &summary.totals()?)
        .with_context(|| format!("twtrace said:\n{:#}", summary.document()))?;
    Ok(summary)
}

/// Traces one namespace.
fn watch(lab: &Lab, netns: &Netns) -> Result<Tracer> {
    Tracer::watch(lab, &["--netns", netns.name()])
}
