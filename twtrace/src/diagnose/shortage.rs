//! What there is to say of ports that run short: figures and sentences.

use twtrace_common::PortChoice;

use super::{
    arithmetic::Exhaustion,
    finding::{Finding, rounded, source},
    pressure::{Holder, Pressure, WhatIf},
};
use crate::units::PerSecond;

/// Unit of rates.
const PER_S: &str = "connections/s";

impl Pressure {
    /// Adds the figures that prove the shortage, and what would change it.
    pub fn prove(&self, finding: Finding, live: u64) -> Finding {
        let mut finding = self.hold(finding.with("live_sockets", live, "sockets", source::COUNTED));
        finding = finding
            .with("blocked_rate", rounded(self.blocked_rate), PER_S, source::COUNTED)
            .with("rate_window", rounded(self.window), "s", source::COUNTED)
            .with("lasting_rate", rounded(self.held_rate), PER_S, source::COUNTED)
            .with("time_wait", rounded(self.seconds), "s", self.seconds_source)
            .with("steady_state", self.steady().round() as u64, "ports", source::COMPUTED);
        let what_if = [
            ("highest_rate_with_takeover", self.what_if.takeover),
            ("highest_rate_two_sources", self.what_if.two_sources),
            ("highest_rate_widest_range", self.what_if.widest_range),
        ];
        for (key, rate) in what_if {
            finding = finding.with(key, rounded(rate), PER_S, source::COMPUTED);
        }
        if let Some(seconds) = self.exhaustion.seconds() {
            finding =
                finding.with("seconds_to_exhaustion", rounded(seconds), "s", source::COMPUTED);
        }
        if self.sources > 1 {
            finding = finding.with("sources", self.sources, "addresses", source::COUNTED);
        }
        finding
    }

    /// Adds the figures of what holds the ports, and how many connections fit all the same.
    pub fn hold(&self, finding: Finding) -> Finding {
        let mut finding = finding
            .with("triple", self.triple(), "", source::COUNTED)
            .with("usable_ports", self.usable, "ports", self.range_source())
            .with("ports_stuck", self.stuck.round() as u64, "ports", source::COUNTED);
        for (key, holder) in [
            ("ports_too_young", Holder::Young),
            ("ports_in_fin_wait2", Holder::FinWait2),
            ("ports_assumed_held", Holder::Assumed),
            ("ports_bound_by_others", Holder::Bound),
        ] {
            let ports = self.holders.of(holder);
            if ports > 0.0 {
                finding = finding.with(key, ports.round() as u64, "ports", source::COUNTED);
            }
        }
        finding =
            finding.with("ports_open", self.open.map(|open| open.ports), "ports", source::TCP);
        // On a crowded host they are not counted anew for each look.
        if let Some(open) = self.open.filter(|open| open.age >= 1.0) {
            finding = finding.with("ports_open_age", rounded(open.age), "s", source::TCP);
        }
        finding.with("highest_rate", rounded(self.highest_rate()), PER_S, source::COMPUTED)
    }

    /// What would make more connections fit, timestamps and settings aside.
    pub fn room(&self) -> String {
        let WhatIf { two_sources, widest_range, .. } = self.what_if;
        let wider = if widest_range > 1.01 * self.highest_rate() {
            format!(", {}/s with {}", PerSecond(widest_range), self.widest())
        } else {
            String::new()
        };
        let second = self.second();
        format!("{}/s fit with {second}{wider}", PerSecond(two_sources))
    }

    /// What gives more ports, whatever holds those there are.
    pub fn more_ports(&self) -> String {
        format!("give it {} or {}", self.second(), self.widest())
    }

    /// The same where they are held for everybody, whatever the addresses and the peer's port.
    pub fn more_for_all(&self) -> String {
        format!("give it {}", self.widest())
    }

    /// What has as many ports again.
    const fn second(&self) -> &'static str {
        match self.space.chosen {
            PortChoice::Bind => "a second source address",
            _ => "a second source address or peer port",
        }
    }

    /// What has as many ports as there can be.
    const fn widest(&self) -> &'static str {
        if self.space.own_range {
            "no IP_LOCAL_PORT_RANGE and the widest ip_local_port_range (1024-65535)"
        } else {
            "the widest ip_local_port_range (1024-65535)"
        }
    }

    /// What the shortage leads to, and when.
    pub fn consequence(&self) -> String {
        let fails = match self.space.chosen {
            PortChoice::Bind => "bind() fails with EADDRINUSE (\"Address already in use\")",
            PortChoice::Program => {
                "bind() fails with EADDRINUSE (\"Address already in use\"), or connect() with \
                 EADDRNOTAVAIL (\"Cannot assign requested address\")"
            }
            _ => "connect() fails with EADDRNOTAVAIL (\"Cannot assign requested address\")",
        };
        let (usable, triple, used) = (self.usable, self.triple(), self.used());
        let opened = if self.open_growth > 0.0 {
            format!(" and {:.1} more open ones a second", PerSecond(self.open_growth))
        } else {
            String::new()
        };
        let rate = format!(
            "{:.1} such connections/s (last {:.0} s){opened}",
            PerSecond(self.stuck_rate()),
            self.window
        );
        match self.exhaustion {
            Exhaustion::Now => {
                format!(
                    "{used:.0} of {usable} ports of {triple} are taken: {fails} until some run out."
                )
            }
            Exhaustion::In(seconds) => format!(
                "At {rate} the {usable} ports of {triple} are all taken in {seconds:.0} s; from \
                 then on {fails}."
            ),
            Exhaustion::Never if self.highest_rate().is_infinite() => {
                format!("The program that names the ports of {triple} takes its own over at once.")
            }
            Exhaustion::Never => format!(
                "At {rate} {:.0} of the {usable} ports of {triple} will be taken, {used:.0} are \
                 now; above {:.1}/s {fails}.",
                self.steady(),
                PerSecond(self.highest_rate())
            ),
        }
    }
}
