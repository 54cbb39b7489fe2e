//! Which scenarios are run on which kernels, and how twtrace is attached for each.

use crate::lab::{Backend, Object, Way};
use crate::scenario::{ALL, Asks, Scenario};

/// The kernel that is here, without a virtual machine.
pub const HOST: &str = "host";

/// A kernel that scenarios are run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it is called: [`HOST`], or the series of a virtual machine's.
    pub label: String,
    /// Ways to attach there.
    pub ways: Vec<Way>,
}

impl Kernel {
    /// That of this name: whether a host has more than the tracepoints is not counted on.
    pub fn named(label: &str) -> Self {
        let ways = if label == HOST {
            Way::among(&[Backend::Tracepoint], &[Object::RingBuf])
        } else {
            Way::ALL.to_vec()
        };
        Self { label: label.to_owned(), ways }
    }

    fn is_machine(&self) -> bool {
        self.label != HOST
    }
}

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What asks of everything once, and of each kernel what may differ there.
    Covering,
    /// Everything that can be answered anywhere.
    All,
    /// The core of the kernel side.
    Core,
}

/// A scenario to be run in one place.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// Where.
    pub kernel: &'a Kernel,
    /// How twtrace is attached.
    pub way: Way,
}

/// Selects what is run on these kernels, the machines' oldest first; one way after the other, and
/// of each what takes longest first.
///
/// Agents are asked on the host. Covering, the kernel side is asked
/// - what is its core: on each kernel in each way;
/// - all else: on the host, and in each way that the host lacks, beginning with the oldest and the
///   newest kernel, on as many others as there are ways left.
///
/// Machines are asked on the newest. Which way falls to which kernel depends on the scenario's name
/// alone, so that another scenario moves none.
pub fn select(kernels: &[Kernel], extent: Extent) -> Vec<Case<'_>> {
    let mut cases: Vec<_> =
        ALL.iter().flat_map(|scenario| places(scenario, kernels, extent)).collect();
    cases.sort_by_key(|case| {
        (Way::ALL.iter().position(|way| *way == case.way), case.scenario.weight)
    });
    cases
}

fn places<'a>(scenario: &'static Scenario, kernels: &'a [Kernel], extent: Extent) -> Vec<Case<'a>> {
    let case = |(kernel, way)| Case { scenario, kernel, way };
    let (machines, hosts): (Vec<_>, Vec<_>) = kernels.iter().partition(|it| it.is_machine());
    let places = match (scenario.asks, extent) {
        (Asks::Agent | Asks::Machine | Asks::Kernel(_), Extent::Core) => Vec::new(),
        (Asks::Agent, _) => first_ways(&hosts),
        (Asks::Machine, Extent::All) => first_ways(&machines),
        (Asks::Machine, Extent::Covering) => {
            first_ways(machines.last().map_or(&[], |it| std::slice::from_ref(it)))
        }
        (Asks::Core(seen), _) | (Asks::Kernel(seen), Extent::All) => kernels
            .iter()
            .flat_map(|kernel| kernel.ways.iter().map(move |way| (kernel, *way)))
            .filter(|(_, way)| seen.includes(*way))
            .collect(),
        (Asks::Kernel(seen), Extent::Covering) => {
            let here = hosts.iter().flat_map(|host| host.ways.iter().map(move |way| (*host, *way)));
            let here: Vec<_> = here.filter(|(_, way)| seen.includes(*way)).collect();
            let turn = scenario.name.bytes().map(usize::from).sum();
            let lacking = |way: &Way| seen.includes(*way) && here.iter().all(|(_, it)| it != way);
            here.iter().copied().chain(in_turn(&machines, lacking, turn)).collect()
        }
    };
    places.into_iter().map(case).collect()
}

fn first_ways<'a>(kernels: &[&'a Kernel]) -> Vec<(&'a Kernel, Way)> {
    kernels.iter().filter_map(|kernel| Some((*kernel, *kernel.ways.first()?))).collect()
}

/// The oldest and the newest kernel, and as many of the others as it takes for every way that is
/// `wanted`; each has the next way.
fn in_turn<'a>(
    kernels: &[&'a Kernel],
    wanted: impl Fn(&Way) -> bool,
    turn: usize,
) -> Vec<(&'a Kernel, Way)> {
    let [oldest, between @ .., newest] = kernels else {
        return kernels
            .iter()
            .flat_map(|kernel| kernel.ways.iter().map(move |way| (*kernel, *way)))
            .filter(|(_, way)| wanted(way))
            .collect();
    };
    let mut between = between.to_vec();
    let first = turn % between.len().max(1);
    between.rotate_left(first);
    let order = [*oldest, *newest].into_iter().chain(between);
    let mut places = Vec::new();
    for (at, kernel) in order.enumerate() {
        let ways: Vec<_> = kernel.ways.iter().filter(|way| wanted(way)).collect();
        if at < ways.len().max(2) && !ways.is_empty() {
            places.push((kernel, *ways[(turn + at) % ways.len()]));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::SeenBy;

    /// What nothing may leave out: six peers, every end, the story, overflow, what is present at the
    /// start, refusals, fields.
    const CORE: [&str; 14] = [
        "expiry_is_two_msl",
        "counts_over_six_peers",
        "stripped_timestamps_story",
        "offsets_are_those_known",
        "event_fields_match_the_socket",
        "reused_by_an_ephemeral_connect",
        "refused_behind_a_stripping_router",
        "refused_for_each_reason",
        "replaced_by_a_syn",
        "killed_by_rst_unless_rfc1337",
        "purged_with_its_namespace",
        "fin_wait2_timed_out",
        "overflow_of_buckets",
        "present_at_start",
    ];

    fn kernels() -> Vec<Kernel> {
        [HOST, "5.10", "6.1", "6.12", "7.2"].map(Kernel::named).to_vec()
    }

    /// Where a scenario is run: the kernel's place in the list, and the way.
    fn run(cases: &[Case<'_>], name: &str) -> Vec<(String, Way)> {
        let of_name = cases.iter().filter(|case| case.scenario.name == name);
        of_name.map(|case| (case.kernel.label.clone(), case.way)).collect()
    }

    fn asks_kernel(scenario: &Scenario) -> Option<SeenBy> {
        match scenario.asks {
            Asks::Core(seen) | Asks::Kernel(seen) => Some(seen),
            Asks::Agent | Asks::Machine => None,
        }
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_is_run_at_least_once() {
        let names: BTreeSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        let kernels = kernels();
        let cases = select(&kernels, Extent::Covering);
        let selected: BTreeSet<_> = cases.iter().map(|case| case.scenario.name).collect();
        assert_eq!(selected, names);
    }

    #[test]
    fn the_core_alone_is_the_core_in_every_way_and_nothing_else() {
        let kernels = [Kernel::named("6.12-arm64-16k")];
        let cases = select(&kernels, Extent::Core);
        let selected: BTreeSet<_> = cases.iter().map(|case| case.scenario.name).collect();
        assert_eq!(selected, BTreeSet::from(CORE));
        let ways: BTreeSet<_> = cases.iter().map(|case| case.way.name()).collect();
        assert_eq!(ways.len(), kernels[0].ways.len());
    }

    #[test]
    fn the_core_is_run_on_every_kernel_in_every_way_that_sees_it() {
        let core = ALL.iter().filter(|scenario| matches!(scenario.asks, Asks::Core(_)));
        let core: BTreeSet<_> = core.map(|scenario| scenario.name).collect();
        assert_eq!(core, BTreeSet::from(CORE));
        let kernels = kernels();
        let cases = select(&kernels, Extent::Covering);
        for kernel in &kernels {
            for way in &kernel.ways {
                for scenario in ALL.iter().filter(|scenario| CORE.contains(&scenario.name)) {
                    let times = usize::from(asks_kernel(scenario).unwrap().includes(*way));
                    let place = (kernel.label.clone(), *way);
                    let found = run(&cases, scenario.name).into_iter().filter(|it| *it == place);
                    assert_eq!(found.count(), times, "{}::{}", way.name(), scenario.name);
                }
            }
        }
    }

    #[test]
    fn what_asks_the_kernel_side_is_run_on_the_oldest_and_the_newest_and_once_in_every_way() {
        let kernels = kernels();
        let cases = select(&kernels, Extent::Covering);
        for scenario in ALL {
            let Some(seen) = asks_kernel(scenario) else { continue };
            let places = run(&cases, scenario.name);
            for label in ["5.10", "7.2"] {
                assert!(places.iter().any(|(it, _)| it == label), "{} {label}", scenario.name);
            }
            for way in Way::ALL.into_iter().filter(|way| seen.includes(*way)) {
                let found = places.iter().any(|(_, it)| *it == way);
                assert!(found, "{}::{}", way.name(), scenario.name);
            }
        }
    }

    #[test]
    fn what_asks_no_kernel_is_run_once() {
        let kernels = kernels();
        let cases = select(&kernels, Extent::Covering);
        for scenario in ALL.iter().filter(|scenario| asks_kernel(scenario).is_none()) {
            let places = run(&cases, scenario.name);
            let here = if scenario.asks == Asks::Machine { "7.2" } else { HOST };
            assert_eq!(places.len(), 1, "{}", scenario.name);
            assert_eq!(places[0].0, here, "{}", scenario.name);
        }
    }

    #[test]
    fn everything_holds_what_covers_and_nothing_is_run_twice() {
        let kernels = kernels();
        let place = |case: &Case<'_>| {
            format!("{}/{}::{}", case.kernel.label, case.way.name(), case.scenario.name)
        };
        let [covering, all] = [Extent::Covering, Extent::All].map(|extent| {
            let cases = select(&kernels, extent);
            let places: BTreeSet<_> = cases.iter().map(place).collect();
            assert_eq!(places.len(), cases.len());
            places
        });
        assert!(covering.is_subset(&all));
    }
}
