//! The scenarios: each makes one situation in namespaces of its own and asserts exact counts.

mod adopted;
mod behind;
mod capabilities;
mod clock;
mod closing;
mod counting;
mod daemon;
mod diagnosis;
mod diagnosis_catalogue;
mod diagnosis_failed;
mod diagnosis_forecasts;
mod egress;
mod egress_runs_out;
mod entry;
mod events;
mod expiry;
mod failed;
mod fields;
mod filters;
mod fin_wait2;
pub mod full_screen;
mod killed;
mod lab;
mod limits;
mod manual;
mod names;
mod offsets;
mod old_kernels;
mod overflow;
pub mod owners;
mod present;
mod processors;
mod prometheus;
mod purged;
mod rearmed;
mod recording;
mod refusal;
mod replaced;
mod report;
mod reset;
mod reuse;
pub mod session;
mod startup;
mod stripped;
mod support;
mod time_namespace;
mod unit;
mod what_if;

use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::equation::Ledger;
use crate::expect;
use crate::lab::{Lab, Object, Way};
use crate::netns::Netns;
use crate::summary::{Summary, Totals};
use crate::twtrace::Tracer;

/// A named test, with what it asks something of and what it weighs.
pub struct Scenario {
    /// Name, after that of the way to attach.
    pub name: &'static str,
    /// What can answer.
    pub asks: Asks,
    /// What it takes from the others.
    pub weight: Weight,
    /// The test itself.
    pub run: fn(&Lab) -> Result<()>,
}

/// What a scenario asks something of, and with it where it has to be run: see [`crate::select`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The kernel side, something without which nothing else is worth asking.
    Core(SeenBy),
    /// The kernel side.
    Kernel(SeenBy),
    /// The process and the programs it works with: the same whatever the kernel side.
    Agent,
    /// The machine itself, which has to be the scenarios' own.
    Machine,
}

/// Ways to attach that see what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenBy {
    /// Every one.
    All,
    /// Those that see function calls, hence not the tracepoints.
    Functions,
    /// Those of the object for old kernels.
    Perf,
}

impl SeenBy {
    /// Whether that way is among them.
    pub fn includes(self, way: Way) -> bool {
        match self {
            Self::All => true,
            Self::Functions => way.backend.sees_functions(),
            Self::Perf => way.object == Object::Perf,
        }
    }
}

/// What a scenario takes from the others that run beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Time alone: it waits for a minute or more and does little meanwhile. Begun first.
    LongWait,
    /// Its share of the processors.
    Ordinary,
    /// Everything: no other may run at the same time. Begun last.
    Alone,
}

impl Scenario {
    const fn new(name: &'static str, asks: Asks, run: fn(&Lab) -> Result<()>) -> Self {
        Self { name, asks, weight: Weight::Ordinary, run }
    }

    /// What it asks only function backends see.
    const fn of_functions(mut self) -> Self {
        self.asks = self.asks.seen_by(SeenBy::Functions);
        self
    }

    /// It asks the object for old kernels.
    const fn of_perf(mut self) -> Self {
        self.asks = self.asks.seen_by(SeenBy::Perf);
        self
    }

    /// It waits for a minute or more.
    const fn waits_long(mut self) -> Self {
        self.weight = Weight::LongWait;
        self
    }

    /// Nothing may run beside it.
    const fn alone(mut self) -> Self {
        self.weight = Weight::Alone;
        self
    }
}

impl Asks {
    const fn seen_by(self, ways: SeenBy) -> Self {
        match self {
            Self::Core(_) => Self::Core(ways),
            Self::Kernel(_) => Self::Kernel(ways),
            other => other,
        }
    }
}

/// Asks the kernel side something without which nothing else is worth asking.
const fn core(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario::new(name, Asks::Core(SeenBy::All), run)
}

/// Asks the kernel side.
const fn kernel(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario::new(name, Asks::Kernel(SeenBy::All), run)
}

/// Asks the process, its terminal, its files or its interface.
const fn agent(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario::new(name, Asks::Agent, run)
}

/// Asks a virtual machine.
const fn machine(name: &'static str, run: fn(&Lab) -> Result<()>) -> Scenario {
    Scenario::new(name, Asks::Machine, run)
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    kernel("diagnosis_of_the_story", diagnosis::of_the_story),
    core("expiry_is_two_msl", expiry::expiry_is_two_msl).waits_long(),
    kernel("a_present_socket_expires", expiry::a_present_socket_expires).waits_long(),
    core("counts_over_six_peers", counting::counts_over_six_peers),
    core("stripped_timestamps_story", stripped::stripped_timestamps_story),
    core("offsets_are_those_known", offsets::offsets_are_those_known),
    core("event_fields_match_the_socket", fields::event_fields_match_the_socket),
    kernel("without_types_the_headline_remains", old_kernels::without_types).of_perf(),
    kernel("without_types_failed_calls_are_seen", old_kernels::failed_calls_without_types)
        .of_perf(),
    kernel("a_wrong_btf_file_is_noticed", old_kernels::a_wrong_btf_file_is_noticed),
    kernel("old_object_is_named", old_kernels::object_is_named).of_perf(),
    kernel("reset_is_not_an_entry", reset::reset_is_not_an_entry),
    kernel("reset_while_closing_is_not_an_entry", reset::reset_while_closing_is_not_an_entry),
    kernel("filters", filters::filters),
    agent("filters_by_expression", filters::by_expression),
    agent("filters_by_names_of_the_time", filters::by_names_of_the_time),
    agent("egress_of_a_shared_address", egress::shared_address),
    agent("egress_found_by_itself", egress::found_by_itself),
    agent("egress_found_and_not_understood", egress::found_and_not_understood),
    kernel("egress_runs_out_as_foretold", egress_runs_out::as_foretold).waits_long(),
    agent("egress_found_and_left_in_peace", egress::found_and_left_in_peace),
    agent("names_out_of_a_file", names::out_of_a_file),
    agent("names_of_a_name_server", names::of_a_name_server),
    agent("owners_by_control_group", owners::by_control_group),
    agent("owners_by_network_namespace", owners::by_network_namespace),
    agent("owners_below_a_mounted_root", owners::below_a_mounted_root),
    agent("owners_of_a_container", owners::of_a_container),
    agent("owners_of_podman", owners::of_podman),
    agent("owners_gone_before_the_first_record", owners::gone_before_the_first_record),
    agent("owners_churned", owners::churned),
    kernel("filters_in_userspace_against_the_kernel", filters::in_userspace),
    kernel("why_a_socket_is_blocked", entry::why_a_socket_is_blocked),
    kernel("no_ends_counts_the_same", limits::no_ends_counts_the_same),
    agent("cap_of_peers_folds_into_other", limits::cap_of_peers_folds_into_other),
    kernel("recording_in_several_files", recording::in_several_files),
    agent("recording_on_a_full_disk", recording::on_a_full_disk),
    agent("recording_killed_in_the_middle", recording::killed_in_the_middle),
    agent("export_is_queried", recording::export_is_queried),
    agent("report_in_a_browser", report::in_a_browser),
    agent("report_of_what_a_daemon_remembers", report::of_what_a_daemon_remembers),
    agent("what_if_foretells_what_then_happens", what_if::foretells_what_then_happens).alone(),
    kernel(
        "what_if_foretells_refused_binds_and_takeovers",
        what_if::foretells_refused_binds_and_takeovers,
    )
    .of_functions()
    .alone(),
    agent("in_a_time_namespace_a_day_ahead", time_namespace::a_day_ahead),
    agent("support_bundles_what_a_report_needs", support::bundles_what_a_report_needs),
    agent("support_without_rights_says_why", support::without_rights_says_why),
    agent("command_mode", session::command_mode),
    agent("count_ends_the_session", session::count_ends_the_session),
    agent("duration_ends_the_session", session::duration_ends_the_session),
    kernel("events_ndjson", events::events_ndjson),
    kernel("without_root_it_says_what_is_missing", startup::without_root),
    agent("missing_btf_is_named", startup::missing_btf_is_named),
    agent("wrong_flags_are_a_usage_error", startup::wrong_flags_are_a_usage_error),
    core("reused_by_an_ephemeral_connect", reuse::by_an_ephemeral_connect),
    kernel("reused_on_loopback_by_default", reuse::on_loopback_by_default),
    kernel("reused_by_a_bound_connect", reuse::by_a_bound_connect),
    core("refused_behind_a_stripping_router", refusal::behind_a_stripping_router).of_functions(),
    core("refused_for_each_reason", refusal::for_each_reason).of_functions(),
    kernel("failed_connects_without_a_port", failed::connects_without_a_port),
    kernel("failed_connects_with_a_busy_port", failed::connects_with_a_busy_port),
    kernel("failed_is_no_other_end_of_a_connect", failed::other_ends_of_a_connect_are_none),
    kernel("failed_binds", failed::refused_binds),
    kernel("failed_binds_are_of_ports_in_use", failed::refused_binds_and_others),
    kernel("failed_by_many_threads_at_once", failed::many_threads_fail_at_once),
    kernel("failed_binds_by_many_threads_at_once", failed::many_threads_are_refused_at_once),
    kernel("failed_many_at_once_in_few_events", failed::many_at_once_are_told_by_few_events),
    core("replaced_by_a_syn", replaced::replaced_by_a_syn),
    core("killed_by_rst_unless_rfc1337", killed::by_rst_unless_rfc1337),
    kernel("killed_mini_socket", killed::mini_socket),
    kernel("killed_by_an_administrator", killed::by_an_administrator),
    core("purged_with_its_namespace", purged::purged_with_its_namespace),
    kernel("purged_number_that_comes_back", purged::a_number_that_comes_back_is_another_namespace),
    kernel("fin_wait2_promoted", fin_wait2::promoted),
    core("fin_wait2_timed_out", fin_wait2::timed_out),
    kernel("fin_wait2_by_the_keepalive_timer", fin_wait2::by_the_keepalive_timer).waits_long(),
    kernel("simultaneous_close", closing::simultaneous_close),
    core("overflow_of_buckets", overflow::overflow_of_buckets).of_functions(),
    kernel("rearmed_by_a_retransmitted_fin", rearmed::by_a_retransmitted_fin),
    kernel("rearmed_by_promotion", rearmed::by_promotion),
    core("present_at_start", present::present_at_start),
    kernel("present_of_a_listener_inside_the_range", present::accepted_inside_the_range),
    kernel("present_of_ports_that_a_client_named", present::ports_that_a_client_named),
    kernel("daemon_answers_like_a_session_of_its_own", daemon::answers_like_a_session),
    agent(
        "daemon_is_not_asked_what_it_would_not_heed",
        daemon::is_not_asked_what_it_would_not_heed,
    ),
    agent("daemon_reloads_and_loses_nothing", daemon::reloads_and_loses_nothing),
    agent("daemon_keeps_its_history_over_a_restart", daemon::keeps_its_history),
    kernel("daemon_killed_leaves_nothing_attached", daemon::killed_leaves_nothing),
    agent("daemon_ignores_clients_that_misbehave", daemon::ignores_clients_that_misbehave),
    agent("daemon_in_a_crowd", daemon::in_a_crowd).alone(),
    agent("daemon_lets_many_listen", daemon::lets_many_listen).alone(),
    agent("daemon_tells_of_a_full_disk", daemon::tells_of_a_full_disk),
    kernel("capabilities_of_the_unit_are_enough", capabilities::of_the_unit_are_enough),
    kernel("capabilities_that_are_missing_are_named", capabilities::that_are_missing_are_named),
    machine("unit_counts_reloads_and_stops", unit::counts_reloads_and_stops),
    machine("unit_sockets_by_service", unit::sockets_by_service),
    machine("unit_is_started_again_by_the_watchdog", unit::is_started_again),
    agent("unit_is_exposed_little", unit::is_exposed_little),
    agent("prometheus_scrapes_the_counts", prometheus::prometheus_scrapes_the_counts),
    agent("prometheus_alerts_fire", prometheus::alerts_fire),
    agent("lab_twice_in_a_row_leaves_nothing", lab::twice_in_a_row),
    agent("full_screen", full_screen::full_screen),
    agent("full_screen_gives_the_terminal_back", full_screen::gives_the_terminal_back),
    agent("full_screen_stops_and_goes_on", full_screen::stops_and_goes_on),
    agent("man_pages_are_without_fault", manual::pages_are_without_fault),
    agent("completions_work_in_each_shell", manual::completions_work_in_each_shell),
    agent("diagnosis_of_a_healthy_host", diagnosis::of_a_healthy_host),
    agent("check_is_a_monitoring_plugin", diagnosis::check_is_a_monitoring_plugin),
    agent("diagnosis_tw001_inherited_timestamps", diagnosis_catalogue::inherited_timestamps),
    agent("diagnosis_tw002_timestamps_off", diagnosis_catalogue::timestamps_off),
    agent("diagnosis_tw003_to_tw007_and_tw015_reuse_off", diagnosis_catalogue::reuse_off),
    agent("diagnosis_tw005_exhausted", diagnosis_catalogue::exhausted),
    agent("diagnosis_tw005_open_connections", diagnosis_catalogue::open_connections),
    kernel("diagnosis_tw006_fixed_port", diagnosis_catalogue::fixed_port).of_functions(),
    kernel("diagnosis_tw019_reuse_off_on_loopback", diagnosis_failed::reuse_off_on_loopback),
    kernel("diagnosis_tw019_bound_first", diagnosis_failed::bound_first),
    kernel("diagnosis_tw019_bound_by_others", diagnosis_failed::bound_by_others),
    kernel("diagnosis_tw019_fin_wait2", diagnosis_failed::fin_wait2),
    kernel("diagnosis_tw019_too_young", diagnosis_failed::too_young),
    kernel("diagnosis_tw019_range_of_the_socket", diagnosis_failed::range_of_the_socket),
    kernel("diagnosis_tw019_named_by_the_program", diagnosis_failed::named_by_the_program),
    kernel("diagnosis_tw019_open_connections", diagnosis_failed::open_connections),
    kernel("diagnosis_tw019_bound_and_open", diagnosis_failed::bound_and_open),
    kernel("diagnosis_tw019_unanswered_connections", diagnosis_failed::unanswered_connections),
    kernel("diagnosis_tw019_restart_of_a_server", diagnosis_failed::restart_of_a_server),
    kernel("diagnosis_of_healthy_neighbours", diagnosis_failed::of_healthy_neighbours),
    agent("check_leads_with_the_failure", diagnosis_failed::check_leads_with_the_failure),
    agent("diagnosis_tw019_before_a_daemon_was_asked", diagnosis_failed::before_a_daemon_was_asked),
    agent("diagnosis_tw007_tw008_full_buckets", diagnosis_catalogue::full_buckets),
    agent("diagnosis_tw008_filling_buckets", diagnosis::of_filling_buckets),
    kernel("diagnosis_tw008_overflow", diagnosis_catalogue::overflow),
    agent("diagnosis_tw009_no_fin", diagnosis_catalogue::no_fin),
    agent("diagnosis_tw010_rearmed", diagnosis_catalogue::rearmed),
    agent("diagnosis_tw011_assassinated", diagnosis_catalogue::assassinated),
    agent("diagnosis_tw012_refused_segments", diagnosis_catalogue::refused_segments),
    kernel("diagnosis_tw012_refused_syns", diagnosis_catalogue::refused_syns),
    kernel("diagnosis_of_a_steady_server", diagnosis_catalogue::steady_server),
    agent("diagnosis_forecasts_at_half_way", diagnosis_forecasts::at_half_way),
    agent("diagnosis_tw014_recycle_configured", diagnosis_catalogue::recycle_configured),
    agent("diagnosis_tw016_loopback", diagnosis_catalogue::loopback),
    agent("diagnosis_tw017_conntrack", diagnosis_catalogue::conntrack),
    agent("diagnosis_tw017_conntrack_of_a_router", diagnosis_catalogue::conntrack_of_a_router),
    agent("diagnosis_tw021_descriptors", diagnosis_catalogue::descriptors),
    agent("diagnosis_tw018_lost", diagnosis_catalogue::lost),
    kernel("lost_events_are_found_missing", limits::lost_events_are_found_missing).alone(),
    machine("daemon_while_the_clock_is_set", clock::set_back_and_forward).alone(),
    machine("timers_of_a_processor_that_goes_offline", processors::timers_move).alone(),
    machine("missed_entries_are_adopted", adopted::found_among_those_that_live).alone(),
];

/// Times a situation is made before the machine is given up as too slow for it.
const ATTEMPTS: usize = 3;

/// Makes the situation that a scenario is about, in namespaces of its own, until it is the one that
/// was meant. `attempt` answers nothing as long as its own traffic was not, by the clock or the
/// kernel's counters, and judges nothing before it was.
fn until_as_meant(mut attempt: impl FnMut() -> Result<Option<()>>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        if attempt()?.is_some() {
            return Ok(());
        }
    }
    bail!("this machine was {ATTEMPTS} times too slow to make what the scenario is about")
}

/// Ends of one scenario that may be unseen where the kernel shields a process, if twtrace says of each
/// that it was: see [`Summary::ends_told_unseen`].
const UNSEEN: u64 = 3;

/// Does something on one processor, with all threads that come of it.
fn on_processor<T: Send>(processor: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            let mut only = CpuSet::new();
            only.set(processor);
            sched_setaffinity(None, &only).context("sched_setaffinity")?;
            work()
        });
        pinned.join().map_err(|_| anyhow!("the thread on processor {processor} panicked"))?
    })
}

/// Ends the run and asserts that the kernel's counters and twtrace's totals are both as `want`.
fn totals_are(tracer: Tracer, ledger: &Ledger, want: Totals) -> Result<Summary> {
    ledger.agrees_with(&want).context("what the scenario itself set out to make happen")?;
    let summary = tracer.finish()?;
    let got = summary.totals()?;
    let unseen = summary.ends_told_unseen()?;
    if unseen <= UNSEEN && got.is_but_for_ends_unseen(unseen, &want) {
        return Ok(summary);
    }
    expect::equal("totals", &want, &got)
        .with_context(|| format!("twtrace said:\n{:#}", summary.document()))?;
    Ok(summary)
}

/// Traces one namespace.
fn watch(lab: &Lab, netns: &Netns) -> Result<Tracer> {
    Tracer::watch(lab, &["--netns", netns.name()])
}
