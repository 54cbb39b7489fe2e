//! Why calls failed, by what holds the ports they wanted, and what helps against that.

use twtrace_common::PortChoice;

use crate::{
    diagnose::pressure::{Holder, Pressure},
    failures::{Cause, Place},
    host::facts::NamespaceFacts,
    text::counted,
};

/// What there is to say of a failure: why, and what to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// Why, as the end of a sentence.
    pub why: String,
    /// What to do.
    pub remedy: String,
    /// What not to do; empty if nothing suggests itself.
    pub dont: &'static str,
}

/// Seconds within which what holds ports does not change much.
const AT_ONCE_S: f64 = 2.0;
/// What helps whatever holds the ports.
const POOL: &str = "Keep connections open and reuse them (keep-alive, a pool)";

/// Explains calls that wanted a port of a space; `None` where nothing is known to hold any.
pub fn of_space(ports: &Pressure, facts: &NamespaceFacts) -> Option<Explained> {
    if ports.usable == 0 {
        return Some(nothing_to_choose(ports));
    }
    let holder = ports.holder()?;
    let mut explained = match (ports.space.chosen, holder) {
        (PortChoice::Program, _) => named_by_program(ports),
        (PortChoice::Bind, Holder::Open) => open_to_all(ports),
        (PortChoice::Bind, _) => bound_first(ports, facts),
        (_, Holder::NoTimestamps) => no_timestamps(ports, facts),
        (_, Holder::Forbidden) => forbidden(ports, facts),
        (_, Holder::Young) => young(ports, facts),
        (_, Holder::FinWait2) => fin_wait2(ports, facts),
        (_, Holder::Bound) => bound_by_others(ports),
        (_, Holder::Open) => open(ports, facts),
        (_, Holder::Assumed | Holder::TimeWait) => assumed(ports),
    };
    let unknown = ports.usable as f64 - ports.used();
    if ports.space.chosen == PortChoice::Connect
        && is_of_now(ports)
        && unknown > 0.1 * ports.usable as f64
        && holder != Holder::Young
    {
        explained.why.push_str(&format!(
            "; what holds the other {unknown:.0} is not seen (sockets that are bound and neither \
             connected nor listen are in no list)"
        ));
    }
    if ports.space.own_range {
        explained.remedy.push_str(
            " The program limits itself to these ports (IP_LOCAL_PORT_RANGE): without that option \
             it has the whole range.",
        );
    } else if ports.reserved > ports.usable / 2 && ports.space.chosen != PortChoice::Program {
        explained.remedy.push_str(&format!(
            " ip_local_reserved_ports takes {} ports out of the range: give back what nobody \
             needs.",
            ports.reserved
        ));
    }
    Some(explained)
}

/// Explains a failure in a namespace of which nothing is known any more.
pub fn of_the_past(place: &Place) -> Explained {
    let Explained { why, remedy, dont } = of_place(place);
    let asked = why.split_once("; ").map_or(why.as_str(), |(asked, _)| asked);
    let why = format!("{asked}; its network namespace is gone, or cannot be read");
    Explained { why, remedy, dont }
}

/// Explains a failure of which no more is known than what the kernel answered.
pub fn of_place(place: &Place) -> Explained {
    let why = match (place.cause, place.local.port(), place.ports) {
        (Cause::NoPort, _, Some((low, high))) => {
            format!("no port of {low} to {high} was free for it; what holds them is not seen")
        }
        (Cause::NoPort, _, None) => {
            "no port was free for it; what holds them is not seen".to_owned()
        }
        (Cause::PortBusy, port, _) => {
            format!("port {port}, bound beforehand, is held by another connection to that peer")
        }
        (Cause::AddressInUse, 0, _) => {
            "no port was free to bind; what holds them is not seen".to_owned()
        }
        (Cause::AddressInUse, port, _) => format!("port {port} is held by another socket"),
    };
    let remedy = format!(
        "{POOL}. If the program binds its address first, set IP_BIND_ADDRESS_NO_PORT so that \
         connect() chooses the port. `ss -tan` lists who has the ports."
    );
    Explained { why, remedy, dont: "" }
}

/// How many ports there are to choose from, and whose range that is.
fn choice(ports: &Pressure) -> String {
    if ports.space.own_range {
        let (low, high) = ports.space.range;
        format!("{} of the socket's own range {low}-{high}", counted(ports.usable, "ports"))
    } else {
        counted(ports.usable, "ports")
    }
}

/// So many of how many ports; what was held when calls failed may have come back since.
fn share(ports: &Pressure, holder: Holder) -> String {
    let held = ports.holders.of(holder).min(ports.usable as f64);
    if is_of_now(ports) || held * 2.0 >= ports.usable as f64 {
        format!("{held:.0} of its {}", choice(ports))
    } else {
        format!("its {} ({held:.0} of them by now)", choice(ports))
    }
}

/// Whether what holds the ports now is what holds them from whoever wants one.
fn is_of_now(ports: &Pressure) -> bool {
    ports.failed_ago.is_none_or(|seconds| seconds < AT_ONCE_S)
}

fn nothing_to_choose(ports: &Pressure) -> Explained {
    let (low, high) = ports.space.range;
    let whose = if ports.space.own_range { "the socket's own range" } else { "the range" };
    Explained {
        why: format!("there is no port to choose from: all of {whose} {low}-{high} are reserved"),
        remedy: "Change net.ipv4.ip_local_reserved_ports or net.ipv4.ip_local_port_range so that \
                 some ports are in the one and not in the other."
            .to_owned(),
        dont: "",
    }
}

fn no_timestamps(ports: &Pressure, facts: &NamespaceFacts) -> Explained {
    let (here, find) = if facts.timestamps == Some(0) {
        (
            "TCP timestamps are off on this end (tcp_timestamps=0)",
            "Set net.ipv4.tcp_timestamps=1".to_owned(),
        )
    } else {
        (
            "the peer sent no TCP timestamps",
            format!(
                "Find what erases the timestamps between here and {} (a load balancer, NAT, proxy \
                 or firewall), or net.ipv4.tcp_timestamps=0 on the peer",
                ports.peer
            ),
        )
    };
    let reuse = if ports.may_take_over(facts) {
        String::new()
    } else {
        format!(" and set net.ipv4.tcp_tw_reuse={} as well", ports.reuse_wanted())
    };
    Explained {
        why: format!(
            "{} are in TIME_WAIT for {:.0} s, and none can be taken over: {here}",
            share(ports, Holder::NoTimestamps),
            ports.seconds
        ),
        remedy: format!(
            "{find}{reuse}: {:.0} connections/s fit then instead of {:.1}, once the old sockets \
             have run out. Until then: {}; {}.",
            ports.what_if.takeover,
            ports.highest_rate(),
            POOL.to_lowercase(),
            ports.room()
        ),
        dont: "Do not expect tcp_tw_reuse or tcp_fin_timeout to help without timestamps.",
    }
}

fn forbidden(ports: &Pressure, facts: &NamespaceFacts) -> Explained {
    let wanted = ports.reuse_wanted();
    let forbids = match facts.tw_reuse {
        Some(2) => "tcp_tw_reuse=2, loopback only, does not let connect() take them over".into(),
        Some(setting) => {
            format!("tcp_tw_reuse={setting}, off, does not let connect() take them over")
        }
        None => "tcp_tw_reuse, which cannot be read here, did not let connect() take them over \
                 when they were closed"
            .to_owned(),
    };
    Explained {
        why: format!(
            "{} are in TIME_WAIT for {:.0} s; they have timestamps, but {forbids}",
            share(ports, Holder::Forbidden),
            ports.seconds
        ),
        remedy: format!(
            "Set net.ipv4.tcp_tw_reuse={wanted}{}: it works at once, for those in TIME_WAIT too, \
             and {:.0} connections/s fit instead of {:.1}. Or: {}; {}.",
            if wanted == 2 { " (the default; on loopback it is enough)" } else { "" },
            ports.what_if.takeover,
            ports.highest_rate(),
            POOL.to_lowercase(),
            ports.room()
        ),
        dont: "Do not lower tcp_fin_timeout or tcp_max_tw_buckets for it.",
    }
}

fn young(ports: &Pressure, facts: &NamespaceFacts) -> Explained {
    let sooner = match facts.tw_reuse_delay_ms {
        Some(_) => {
            " A lower net.ipv4.tcp_tw_reuse_delay lets more through, as long as it is above the \
             round trip and the clock of the peer's timestamps."
        }
        None => "",
    };
    Explained {
        why: format!(
            "ports are taken over, but only {:.1} s after they were closed: with its {} no more \
             than {:.0} connections/s fit",
            ports.delay,
            choice(ports),
            ports.highest_rate()
        ),
        remedy: format!("{POOL}, or make fewer; {}.{sooner}", ports.room()),
        dont: "Do not look for missing timestamps: taking ports over works here, it is the rate.",
    }
}

fn fin_wait2(ports: &Pressure, facts: &NamespaceFacts) -> Explained {
    // That calls fail with the setting at 1 shows it; otherwise it is what kernels do since 6.12.
    let (does_not, dont) = if facts.tw_reuse == Some(1) && ports.failing() {
        (
            "does not take such sockets over, with or without tcp_tw_reuse",
            "Do not expect tcp_tw_reuse or timestamps to help: these sockets are not in TIME_WAIT.",
        )
    } else {
        ("is assumed not to take such sockets over (Linux since 6.12)", "")
    };
    Explained {
        why: format!(
            "{} are in FIN_WAIT2: the peer does not close its end, and connect() {does_not}",
            share(ports, Holder::FinWait2)
        ),
        remedy: format!(
            "Let the peer close its end when ours is closed (look there for connections in \
             CLOSE_WAIT). Until then lower net.ipv4.tcp_fin_timeout, now {:.0} s: each of these \
             holds its port so long, so {:.1} connections/s fit, and with 10 s {:.1}. Or: {}; {}.",
            ports.fin_seconds,
            ports.highest_rate(),
            ports.highest_rate() * ports.fin_seconds / 10.0,
            POOL.to_lowercase(),
            ports.room()
        ),
        dont,
    }
}

fn bound_first(ports: &Pressure, facts: &NamespaceFacts) -> Explained {
    let as_well = if ports.may_take_over(facts) {
        String::new()
    } else {
        let wanted = ports.reuse_wanted();
        format!(", and net.ipv4.tcp_tw_reuse={wanted}, so that they are taken over as well")
    };
    Explained {
        why: format!(
            "the program binds its address before it connects, so each port is held for all peers \
             together: {} are in TIME_WAIT for {:.0} s, whatever timestamps and tcp_tw_reuse say",
            share(ports, Holder::TimeWait),
            ports.seconds
        ),
        remedy: format!(
            "Set IP_BIND_ADDRESS_NO_PORT on the socket before bind(), so that connect() chooses \
             the port, for each peer anew{as_well}; what is bound already comes back {}. Otherwise \
             {:.1} connections/s fit, to all peers together; {}.",
            back(ports),
            ports.highest_rate(),
            ports.room()
        ),
        dont: "Do not expect tcp_tw_reuse, timestamps or SO_REUSEADDR to help while bind() chooses \
               the port.",
    }
}

fn open_to_all(ports: &Pressure) -> Explained {
    Explained {
        why: format!(
            "who binds an address before he connects needs a port that is free for all peers \
             together, and {} are held by open connections and listeners",
            share(ports, Holder::Open)
        ),
        remedy: "Set IP_BIND_ADDRESS_NO_PORT on the socket before bind(), so that connect() \
                 chooses the port, for each peer anew; or close connections that are not needed."
            .to_owned(),
        dont: "Do not look for TIME_WAIT: most of these connections are open.",
    }
}

fn bound_by_others(ports: &Pressure) -> Explained {
    Explained {
        why: format!(
            "{} are held by sockets in TIME_WAIT that took theirs with bind() before connect(): \
             those are held for everybody, whatever timestamps and tcp_tw_reuse say",
            share(ports, Holder::Bound)
        ),
        remedy: format!(
            "Find the program on this host that binds an address before it connects (`ss -tan \
             state time-wait` shows which), and set IP_BIND_ADDRESS_NO_PORT on its sockets (or let \
             it not bind): what it holds comes back within {:.0} s.",
            ports.seconds
        ),
        dont: "Do not expect tcp_tw_reuse or timestamps to help: they concern ports that \
               connect() chose.",
    }
}

fn open(ports: &Pressure, facts: &NamespaceFacts) -> Explained {
    let space = &ports.space;
    let connecting =
        facts.open.as_ref().map_or(0, |open| open.connecting(space.local, space.remote));
    if connecting as f64 > ports.holders.of(Holder::Open) / 2.0 {
        return Explained {
            why: format!(
                "{} are held by connections that are not established: {connecting} wait for an \
                 answer of the peer (SYN_SENT)",
                share(ports, Holder::Open)
            ),
            remedy: format!(
                "Find out why {} does not answer (is it down, does a firewall drop the SYNs?). A \
                 shorter timeout for connect() in the program, or a lower \
                 net.ipv4.tcp_syn_retries, gives the ports back sooner.",
                ports.peer
            ),
            dont: "Do not look for TIME_WAIT: none of these was ever connected.",
        };
    }
    Explained {
        why: format!("{} are held by connections that are open", share(ports, Holder::Open)),
        remedy: format!(
            "See whether the program closes what it no longer needs (a leak, a pool without a \
             limit): `ss -tnp dst {}` lists them. If it needs as many, {}.",
            ports.peer,
            ports.more_ports()
        ),
        dont: "Do not look for TIME_WAIT, tcp_tw_reuse or timestamps: these connections are open.",
    }
}

fn assumed(ports: &Pressure) -> Explained {
    Explained {
        why: format!(
            "{} are in TIME_WAIT, and whether they had timestamps cannot be seen on this kernel",
            share(ports, Holder::Assumed)
        ),
        remedy: format!(
            "{POOL}. See that net.ipv4.tcp_timestamps and net.ipv4.tcp_tw_reuse are 1 and that \
             the peer's timestamps arrive (`ss -ti`); {}.",
            ports.room()
        ),
        dont: "",
    }
}

fn named_by_program(ports: &Pressure) -> Explained {
    let list = ports.space.list();
    let fixed = ports.is_fixed();
    let held = ports.holders.of(Holder::TimeWait);
    let (which, more) = if fixed {
        (format!("the program always binds port {list}, and its last connection"), "")
    } else {
        (
            format!(
                "the program itself chooses among {} ports ({list}), and {held:.0} connections",
                ports.usable
            ),
            " Or give it more ports.",
        )
    };
    if held == 0.0 {
        return Explained {
            why: format!(
                "{} is held by another connection to that peer that is not in TIME_WAIT",
                if fixed { format!("port {list}") } else { format!("a port of {list}") }
            ),
            remedy: "Close that connection before the port is used again, or let connect() choose \
                     the port (bind none, or port 0 with IP_BIND_ADDRESS_NO_PORT)."
                .to_owned(),
            dont: "",
        };
    }
    Explained {
        why: format!(
            "{which} to that peer {} still in TIME_WAIT without timestamps; {} free {}",
            if fixed { "is" } else { "are" },
            if fixed { "it is" } else { "the next is" },
            back(ports)
        ),
        remedy: format!(
            "Let connect() choose the port (bind none, or port 0 with IP_BIND_ADDRESS_NO_PORT); \
             or let timestamps through: a socket bound with SO_REUSEADDR takes its own TIME_WAIT \
             over at once then.{more}"
        ),
        dont: "Do not count on tcp_tw_reuse or a wider ip_local_port_range: neither concerns \
               ports that a program names.",
    }
}

/// When ports come back.
pub fn back(ports: &Pressure) -> String {
    match ports.free_in {
        Some((next, last)) if last - next < 1.0 => format!("in {last:.0} s"),
        Some((next, last)) => format!("in {next:.0} s (the last in {last:.0} s)"),
        None => "when they are closed".to_owned(),
    }
}
