//! The catalogue.

mod arrivals;
mod buckets;
mod egress;
mod failed;
mod inherited;
mod lifetimes;
mod ports;
mod reuse;
mod settings;
mod surroundings;
mod timestamps;

use super::Rule;
use super::finding::{
    FAILED, rounded,
    source::{COMPUTED, COUNTED, NETSTAT, SOCKSTAT},
};

/// Unit of rates.
const PER_S: &str = "connections/s";

/// All rules. Causes stand before their effects, which decides between findings equally bad.
/// Identifiers are never given to another rule.
pub const RULES: &[Rule] = &[
    Rule {
        id: "TW001",
        title: "the peer sends no timestamps though we offer them",
        check: timestamps::none_from_peer,
    },
    Rule { id: "TW002", title: "timestamps are off on this end", check: timestamps::off_here },
    Rule {
        id: "TW003",
        title: "tcp_tw_reuse is off or for loopback only while ports run short",
        check: reuse::off_or_loopback_only,
    },
    Rule { id: "TW004", title: "tcp_tw_reuse would help", check: reuse::would_help },
    Rule {
        id: "TW005",
        title: "the ports towards a peer are exhausted or about to be",
        check: ports::exhausted,
    },
    Rule {
        id: "TW006",
        title: "a fixed local port meets its own TIME_WAIT",
        check: ports::fixed_local_port,
    },
    Rule { id: "TW007", title: "this end closes first", check: ports::closes_first },
    Rule {
        id: "TW008",
        title: "TIME_WAIT sockets overflow tcp_max_tw_buckets",
        check: buckets::overflow,
    },
    Rule { id: "TW009", title: "the peer never sends its FIN", check: lifetimes::no_fin },
    Rule { id: "TW010", title: "TIME_WAIT is armed again and again", check: lifetimes::rearmed },
    Rule { id: "TW011", title: "RSTs end TIME_WAIT early", check: lifetimes::assassinated },
    Rule { id: "TW012", title: "TIME_WAIT refuses segments of the peer", check: arrivals::refused },
    Rule {
        id: "TW013",
        title: "recycling takes longer than 2MSL",
        check: settings::slow_recycling,
    },
    Rule {
        id: "TW014",
        title: "tcp_tw_recycle is configured",
        check: settings::recycle_configured,
    },
    Rule {
        id: "TW015",
        title: "tcp_fin_timeout was changed, which does not shorten TIME_WAIT",
        check: settings::fin_timeout,
    },
    Rule { id: "TW016", title: "short connections over loopback", check: surroundings::loopback },
    Rule {
        id: "TW017",
        title: "connection tracking keeps its own TIME_WAIT",
        check: surroundings::conntrack,
    },
    Rule { id: "TW018", title: "data was lost", check: surroundings::lost },
    Rule {
        id: FAILED,
        title: "connect() or bind() fails for want of a port",
        check: failed::calls,
    },
    Rule {
        id: "TW020",
        title: "the ports of a shared address are exhausted or about to be",
        check: egress::exhausted,
    },
    Rule {
        id: "TW021",
        title: "a program has most of the files open that it may",
        check: surroundings::descriptors,
    },
];
