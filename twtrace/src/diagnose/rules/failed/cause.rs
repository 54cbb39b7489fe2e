//! Why calls failed, by what holds the ports they wanted, and what helps against that.

use twtrace_common::PortChoice;

use crate::{
    diagnose::pressure::{AT_ONCE_S, Holder, Pressure, SOME, Stamps},
    failures::{Cause, Place},
    host::{facts::NamespaceFacts, open::Stage},
    text::counted,
    units::PerSecond,
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

/// A `tcp_fin_timeout`, in seconds, that is short and still leaves a slow peer time.
const SHORT_FIN_TIMEOUT_S: f64 = 10.0;
/// What helps whatever holds the ports.
const POOL: &str = "Keep connections open and reuse them (keep-alive, a pool)";

/// Explains calls that wanted a port of a space; `None` where nothing is known to hold any.
pub fn of_space(ports: &Pressure, facts: &NamespaceFacts) -> Option<Explained> {
    if ports.usable == 0 {
        return Some(nothing_to_choose(ports));
    }
    // Of those that came back at that time nothing is known but that they were held.
    let unknown = ports.usable as f64 - ports.used() - ports.back_since as f64;
    // Before calls fail the others are free.
    let is_unseen = ports.space.chosen == PortChoice::Connect
        && ports.failing()
        && is_of_now(ports)
        && unknown > SOME * ports.usable as f64;
    // What is in use by others bars nobody's way but where bind() took it.
    let by_others = is_unseen && ports.elsewhere as f64 >= 0.9 * unknown;
    if by_others && unknown > 0.5 * ports.usable as f64 {
        return Some(bound_and_open(ports));
    }
    let Some(holder) = ports.holder() else {
        if ports.space.chosen == PortChoice::Program && ports.failing() {
            return Some(named_by_program(ports));
        }
        return (is_unseen && ports.open.is_some()).then(|| bound_and_no_more(ports));
    };
    let mut explained = held_by(holder, ports, facts);
    let second = ports.second_holder(holder).filter(|_| {
        ports.space.chosen == PortChoice::Connect && is_of_now(ports) && holder != Holder::Young
    });
    if let Some(second) = second {
        // What others bound is theirs to give back; then these are the figures.
        let (whose, after) = match holder {
            Holder::Bound => (&ports.without_bound(second), ", once the first is mended"),
            _ => (ports, ""),
        };
        let second = held_by(second, whose, facts);
        // What one must not do for the one may help against the other.
        explained = Explained {
            why: format!("{}; besides, {}", explained.why, second.why),
            remedy: format!("{} Against the second{after}: {}", explained.remedy, second.remedy),
            dont: "",
        };
    }
    if is_unseen && holder != Holder::Young {
        explained.why.push_str(&if by_others {
            format!(
                "; the other {unknown:.0} are in use by open connections to others, which must have \
                 taken theirs with bind() before connect()"
            )
        } else {
            format!(
                "; what holds the other {unknown:.0} is not seen (sockets that are bound and \
                 neither connected nor listen are in no list)"
            )
        });
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

/// Explains what one kind of holder does.
fn held_by(holder: Holder, ports: &Pressure, facts: &NamespaceFacts) -> Explained {
    match (ports.space.chosen, holder) {
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
    }
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
    let erases = format!(
        "what erases the timestamps between here and {} (a load balancer, NAT, proxy or firewall), or \
         net.ipv4.tcp_timestamps=0 on the peer",
        ports.peer
    );
    let (here, find) = match (facts.timestamps, ports.stamps) {
        (Some(0), _) => (
            "TCP timestamps are off on this end (tcp_timestamps=0)",
            "Set net.ipv4.tcp_timestamps=1".to_owned(),
        ),
        (_, Stamps::NotFromPeer) => ("the peer sent no TCP timestamps", format!("Find {erases}")),
        (_, Stamps::NotOffered) => (
            "TCP timestamps were off on this end (tcp_timestamps=0) when they were made, and have been \
             turned on since",
            format!("Wait, they come back {}; new connections have timestamps", back(ports)),
        ),
        (_, Stamps::Unknown) => (
            "they had no TCP timestamps, and since twtrace began none was closed that would tell \
             whether the peer sends any now",
            format!("{} {erases}", wait_or_find(ports)),
        ),
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
             have run out. Until then: {}; {}.{}",
            PerSecond(ports.what_if.takeover),
            PerSecond(ports.highest_rate()),
            POOL.to_lowercase(),
            ports.room(),
            too_few(ports, ports.what_if.takeover)
        ),
        dont: "Do not expect tcp_tw_reuse or tcp_fin_timeout to help without timestamps.",
    }
}

/// That a remedy alone is not enough for the calls that are made; empty if it is.
fn too_few(ports: &Pressure, fits: f64) -> String {
    // A retry is a call as well, so that it has to be a good deal less.
    if !ports.failing() || ports.wanted <= 1.1 * fits {
        return String::new();
    }
    format!(
        " By itself that is too few for the {:.0} calls/s that are made now, retries among them: more \
         than one of these is needed.",
        ports.wanted
    )
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
             and {:.0} connections/s fit instead of {:.1}. Or: {}; {}.{}",
            if wanted == 2 { " (the default; on loopback it is enough)" } else { "" },
            PerSecond(ports.what_if.takeover),
            PerSecond(ports.highest_rate()),
            POOL.to_lowercase(),
            ports.room(),
            too_few(ports, ports.what_if.takeover)
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
            PerSecond(ports.highest_rate())
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
             CLOSE_WAIT). {} Or: {}; {}.",
            until_then(ports),
            POOL.to_lowercase(),
            ports.room()
        ),
        dont,
    }
}

/// What `tcp_fin_timeout` does for ports in FIN_WAIT2; of those that are there it is as it was when they
/// were closed.
fn until_then(ports: &Pressure) -> String {
    let (timeout, fits) = (ports.fin_seconds, PerSecond(ports.highest_rate()));
    if let Some((_, last)) = ports.free_in
        && last > timeout + AT_ONCE_S
    {
        return format!(
            "net.ipv4.tcp_fin_timeout, now {timeout:.0} s, was longer when these were closed: they come \
             back {}. Those closed since hold their port for {timeout:.0} s, so {fits:.1} connections/s \
             fit.",
            back(ports)
        );
    }
    let lower = if timeout > SHORT_FIN_TIMEOUT_S {
        let fits = PerSecond(fits.0 * timeout / SHORT_FIN_TIMEOUT_S);
        format!(", and with {SHORT_FIN_TIMEOUT_S:.0} s {fits:.1}")
    } else {
        String::new()
    };
    format!(
        "Until then lower net.ipv4.tcp_fin_timeout, now {timeout:.0} s: each of these holds its port so \
         long, so {fits:.1} connections/s fit{lower}; it counts for those closed from then on."
    )
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
            PerSecond(ports.highest_rate()),
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
    let open = facts.open.as_ref();
    let (stage, count) =
        open.map_or((Stage::Open, 0), |open| open.most_are(space.local, space.remote));
    let held = share(ports, Holder::Open);
    let (low, high) = space.range;
    let listening = open.map_or(0, |open| open.listeners.range(low..=high).count());
    if listening as f64 > ports.holders.of(Holder::Open) / 2.0 {
        return listened_on(ports, &held, listening);
    }
    match stage {
        Stage::Connecting => unanswered_syns(ports, &held, count),
        Stage::LeftOpen => left_open(ports, &held, count),
        Stage::Unanswered => unanswered(ports, &held, count),
        Stage::HalfClosed => half_closed(ports, facts, &held, count),
        Stage::ShutDown => shut_down(ports, &held, count),
        Stage::Open => Explained {
            why: format!("{held} are held by connections that are open"),
            remedy: format!(
                "See whether the program closes what it no longer needs (a leak, a pool without a \
                 limit): `ss -tnp dst {}` lists them. If it needs as many, {}.",
                ports.peer,
                ports.more_ports()
            ),
            dont: "Do not look for TIME_WAIT, tcp_tw_reuse or timestamps: these connections are \
                   open.",
        },
    }
}

fn unanswered_syns(ports: &Pressure, held: &str, connecting: u64) -> Explained {
    Explained {
        why: format!(
            "{held} are held by connections that are not established: {connecting} wait for an answer \
             of the peer (SYN_SENT)"
        ),
        remedy: format!(
            "Find out why {} does not answer (is it down, does a firewall drop the SYNs?). A shorter \
             timeout for connect() in the program, or a lower net.ipv4.tcp_syn_retries, gives the ports \
             back sooner.",
            ports.peer
        ),
        dont: "Do not look for TIME_WAIT: none of these was ever connected.",
    }
}

/// The peer has closed them, the program has not.
fn left_open(ports: &Pressure, held: &str, count: u64) -> Explained {
    Explained {
        why: format!(
            "{held} are held by connections that the peer has closed and the program has not: \
             {count} are in CLOSE_WAIT"
        ),
        remedy: format!(
            "The program has to close what the peer has closed (a read that answers 0 bytes): `ss \
             -tnp state close-wait dst {}` lists them with their process. They last until it does, \
             or ends.",
            ports.peer
        ),
        dont: "Do not look for TIME_WAIT, tcp_tw_reuse, timestamps or tcp_fin_timeout: CLOSE_WAIT has \
               no timer.",
    }
}

/// The program has closed them, and the peer says nothing.
fn unanswered(ports: &Pressure, held: &str, count: u64) -> Explained {
    Explained {
        why: format!(
            "{held} are held by connections that the program has closed and the peer does not answer: \
             {count} wait for the ACK of their FIN (FIN_WAIT1, LAST_ACK)"
        ),
        remedy: format!(
            "Find out why {} no longer answers (is it gone, does a firewall or NAT not know these \
             connections any more?). Each is given up after net.ipv4.tcp_orphan_retries \
             retransmissions (0 stands for 8); a lower number gives the ports back sooner, those of \
             now too. Or {}.",
            ports.peer,
            ports.more_ports()
        ),
        dont: "Do not look for a leak in the program: it has closed them. None of them is in TIME_WAIT.",
    }
}

/// The program has closed them, the peer has not, and `tcp_fin_timeout` is so long that they are full
/// sockets still.
///
/// Such a socket waits `tcp_fin_timeout` less 60 s, and then so long again as a mini-socket
/// (`tcp_keepalive_timer()`, net/ipv4/tcp_timer.c).
fn half_closed(ports: &Pressure, facts: &NamespaceFacts, held: &str, count: u64) -> Explained {
    let timeout = facts.fin_timeout.unwrap_or(60);
    let each = 2 * timeout.saturating_sub(60);
    let lower = if each > 0 {
        format!(
            " Until then lower net.ipv4.tcp_fin_timeout, now {timeout} s: each of these holds its port \
             for {each} s, and with 10 s those closed from then on for 10 s."
        )
    } else {
        String::new()
    };
    Explained {
        why: format!(
            "{held} are held by connections that the program has closed and the peer has not: {count} \
             are in FIN_WAIT2"
        ),
        remedy: format!(
            "Let the peer close its end when ours is closed (look there for connections in \
             CLOSE_WAIT).{lower} Or: {}; {}.",
            POOL.to_lowercase(),
            ports.more_ports()
        ),
        dont: "Do not look for a leak in the program here, for tcp_tw_reuse or for timestamps: it has \
               closed them, and they are not in TIME_WAIT.",
    }
}

/// The program has shut them down for sending and has them still, the peer has not closed them.
fn shut_down(ports: &Pressure, held: &str, count: u64) -> Explained {
    Explained {
        why: format!(
            "{held} are held by connections that the program has shut down and not closed, and the peer \
             does not close: {count} are in FIN_WAIT2"
        ),
        remedy: format!(
            "Let the peer close its end when ours is shut down (look there for connections in \
             CLOSE_WAIT), and the program here when it has waited long enough: they last until either \
             does, and where only the program does, for as long as net.ipv4.tcp_fin_timeout says beyond \
             that. `ss -tnp state fin-wait-2 dst {}` lists them with their process. If it needs as many, \
             {}.",
            ports.peer,
            ports.more_ports()
        ),
        dont: "Do not look for TIME_WAIT, tcp_tw_reuse or timestamps, and do not lower tcp_fin_timeout \
               alone: no timer runs while a program has them open.",
    }
}

/// Programs listen on them.
fn listened_on(ports: &Pressure, held: &str, listening: usize) -> Explained {
    Explained {
        why: format!(
            "{held} are not for connect() to choose: on {listening} of them programs listen, which holds \
             them for every peer"
        ),
        remedy: format!(
            "Let servers listen outside the range that connect() chooses from (`ss -tlnp` lists them), \
             or choose from another range (net.ipv4.ip_local_port_range). Or {}.",
            ports.more_for_all()
        ),
        dont: "Do not look for a leak, TIME_WAIT or timestamps: these ports are servers'.",
    }
}

/// Neither a connection nor a listener nor TIME_WAIT has them.
fn bound_and_no_more(ports: &Pressure) -> Explained {
    Explained {
        why: format!(
            "none of its {} is held by a connection to that peer, by a listener or in TIME_WAIT, so what \
             holds them has to be sockets that are bound, which holds a port for everybody, and neither \
             connected nor listen: those are in no list",
            choice(ports)
        ),
        remedy: format!(
            "Find the program that binds ports and keeps them: `ss -tnpB` lists such sockets from Linux \
             and iproute2 6.8 on; before, see who has many sockets open (`ls -l /proc/*/fd | grep -c \
             socket` for each process). Or {}.",
            ports.more_for_all()
        ),
        dont: "Do not look for TIME_WAIT, tcp_tw_reuse or timestamps: nothing of the kind is here.",
    }
}

/// Nothing else being there, whoever has the ports of the others took them by `bind()`.
fn bound_and_open(ports: &Pressure) -> Explained {
    let used = ports.used();
    let beside = if used >= 1.0 { format!(", {used:.0} by its own") } else { String::new() };
    Explained {
        why: format!(
            "{} of its {} are in use by open connections to others{beside}: those bar it only where \
             bind() took their ports before connect(), which holds them for everybody",
            ports.elsewhere,
            choice(ports)
        ),
        remedy: format!(
            "Find the program on this host that binds an address before it connects (`ss -tnp` lists \
             open connections with their process), and set IP_BIND_ADDRESS_NO_PORT on its sockets (or \
             let it not bind); or let it close what it does not need. Or {}.",
            ports.more_for_all()
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

/// The beginning of a remedy where it is not known whether timestamps were offered when sockets were made.
pub fn wait_or_find(ports: &Pressure) -> String {
    format!(
        "If tcp_timestamps was turned on here a moment ago, wait: they come back {}. Otherwise find",
        back(ports)
    )
}

/// When ports come back.
fn back(ports: &Pressure) -> String {
    match ports.free_in {
        Some((next, last)) if last - next < 1.0 => format!("in {last:.0} s"),
        Some((next, last)) => format!("in {next:.0} s (the last in {last:.0} s)"),
        None => "when they are closed".to_owned(),
    }
}
