//! TW012: segments that meet a TIME_WAIT socket and are refused.

use crate::{
    diagnose::{Finding, Scene, Severity, Subject},
    event::Role,
    host::facts::NamespaceFacts,
    path::Outcome,
};

/// Fewer than this are chance.
const SOME: u64 = 3;
/// Peers named.
const NAMED: usize = 3;

/// What was refused in a namespace in this session.
struct RefusedByKernel {
    /// As older than the last (PAWS). It has a counter of its own from 6.18 on (`PAWSTimewait`);
    /// before, it shares `PAWSEstab` with open connections, and says nothing of TIME_WAIT by itself.
    paws: u64,
    /// Without an answer, as so many were sent already.
    skipped: u64,
    /// Whether the counter is TIME_WAIT's own.
    own: bool,
}

impl RefusedByKernel {
    /// `None` where it is chance. `met` says whether sockets in TIME_WAIT are known to have been there.
    fn of(facts: &NamespaceFacts, met: bool) -> Option<Self> {
        let own = facts.counters.get("PAWSTimewait").is_some();
        let paws = facts.grown(if own { "PAWSTimewait" } else { "PAWSEstab" });
        let skipped = facts.grown("TCPACKSkippedTimeWait");
        (paws + skipped >= SOME && (own || met)).then_some(Self { paws, skipped, own })
    }

    fn all(&self) -> u64 {
        self.paws + self.skipped
    }
}

/// Whether refused segments are why sockets of a peer were armed again, or ended by a RST: a SYN that is
/// refused starts the 60 s anew and is answered with an ACK, which its sender resets
/// (`tcp_timewait_state_process()`, net/ipv4/tcp_minisocks.c).
pub fn explain(row: &Subject<'_>) -> bool {
    let history = &row.peer.history;
    let marked = history.rearmed.max(history.assassinated);
    RefusedByKernel::of(row.facts, true).is_some_and(|refused| refused.all() >= marked / 2)
}

/// TW012: a new SYN, or data, was taken for a segment of the old connection.
pub fn refused(scene: &Scene<'_>) -> Vec<Finding> {
    let found =
        |(netns, facts)| finding(scene, netns, facts).or_else(|| uncounted(scene, netns, facts));
    scene.namespaces().filter_map(found).collect()
}

fn finding(scene: &Scene<'_>, netns: u32, facts: &NamespaceFacts) -> Option<Finding> {
    let marked = marked(scene.in_namespace(netns));
    // Those that a RST ended have left, and their marks.
    let met = facts.time_wait.unwrap_or(0) > 0 || !marked.is_empty();
    let refused = RefusedByKernel::of(facts, met)?;
    let keeps_out = facts.rfc1337 == Some(1);
    let severity = if keeps_out { Severity::Critical } else { Severity::Warning };
    let where_counted =
        if refused.own { "" } else { " (or an open connection: it is one counter)" };
    let (of, peers) = match marked.as_slice() {
        [] => (String::new(), likely(scene.in_namespace(netns))),
        [(peer, _), ..] => (format!(" of {peer}"), named(&marked)),
    };
    let mut finding = Finding::new(
        severity,
        netns,
        format!(
            "{} segments{of} that met a TIME_WAIT socket{where_counted} were refused as older than \
             its last: most likely SYNs of clients that come again with the same port.",
            refused.all()
        ),
    )
    .with("paws_rejected", refused.paws, "segments", super::NETSTAT)
    .with("acks_rate_limited", refused.skipped, "segments", super::NETSTAT)
    .with("live_sockets", facts.time_wait, "sockets", super::SOCKSTAT)
    .with("tcp_rfc1337", facts.rfc1337, "", "net.ipv4.tcp_rfc1337");
    if !peers.is_empty() {
        let key = if marked.is_empty() { "peers_most_sockets" } else { "peers" };
        finding = finding.with(key, peers, "", super::COUNTED);
    }
    if let [(peer, _)] = marked.as_slice() {
        finding.peer = Some(peer.clone());
    }
    finding.consequence = if keeps_out {
        "With tcp_rfc1337=1 such a client gets no connection until TIME_WAIT is over: the RST by \
         which it would free the port is dropped, and each SYN starts the 60 s again."
    } else {
        "A refused SYN is answered with an ACK, and its sender resets that, which frees the port: \
         Linux from 5.7 on then gets through some 15 ms later, others try again after a second, \
         then two, then four. So do all where the ACK or the RST is lost on the way, as NAT may do."
    }
    .into();
    let rfc1337 = if keeps_out { "Set net.ipv4.tcp_rfc1337=0. Then find" } else { "Find" };
    finding.remedy = format!(
        "{rfc1337} who uses ports again within 60 s whose timestamps do not grow together: NAT \
         before several clients, or a balancer. It has to forget closed connections after 60 s \
         and not before (on Linux nf_conntrack_tcp_timeout_time_wait and _last_ack), and needs as \
         many ports or addresses as connections come in that time. Or let the clients close first."
    );
    finding.dont = "Do not turn tcp_timestamps off for it: without them a SYN is accepted on \
                    TIME_WAIT by its sequence number alone, and no port of this host can be taken \
                    over any more. Do not set tcp_rfc1337=1, which keeps such clients out."
        .into();
    Some(finding)
}

/// SYNs that may be refused without a trace. Without timestamps one is by its sequence number, which the kernel
/// counts nowhere, and with `tcp_rfc1337` the RST to the answer ends no socket. What shows is that clients do
/// come again in TIME_WAIT: those that were accepted.
fn uncounted(scene: &Scene<'_>, netns: u32, facts: &NamespaceFacts) -> Option<Finding> {
    let without = |row: &&Subject<'_>| {
        row.role == Role::Server && row.peer.counts().without_timestamps >= SOME
    };
    let accepted = |row: &Subject<'_>| row.peer.counts().outcome(Outcome::Replaced);
    let rows = scene.in_namespace(netns).iter().filter(without);
    let peers = by_count(rows.map(|row| (row.peer.group.to_string(), accepted(row))));
    let all: u64 = peers.iter().map(|(_, count)| count).sum();
    if facts.rfc1337 != Some(1) || all < SOME {
        return None;
    }
    let mut finding = Finding::new(
        Severity::Notice,
        netns,
        format!(
            "{all} SYNs were accepted on sockets in TIME_WAIT, of clients that come again with the same \
             port and have no timestamps. Of others that were refused the kernel counts none, and \
             tcp_rfc1337=1 keeps their clients out."
        ),
    )
    .with("accepted", all, "sockets", super::COUNTED)
    .with("tcp_rfc1337", facts.rfc1337, "", "net.ipv4.tcp_rfc1337")
    .with("peers", named(&peers), "", super::COUNTED);
    finding.consequence = "Without timestamps a SYN is refused if its sequence number is not beyond the last \
                           one, as those of several clients behind one NAT address often are. Such a client \
                           gets no connection until TIME_WAIT is over: the RST by which it would free the \
                           port is dropped."
        .into();
    finding.remedy =
        "If connect() is slow or times out for clients of these, set net.ipv4.tcp_rfc1337=0."
            .into();
    Some(finding)
}

/// The peers whose sockets bear the marks of it, those with the most first.
fn marked(rows: &[Subject<'_>]) -> Vec<(String, u64)> {
    let marks = |row: &Subject<'_>| row.peer.history.rearmed.max(row.peer.history.assassinated);
    by_count(rows.iter().map(|row| (row.peer.group.to_string(), marks(row))))
}

/// Those that may be meant where none does: clients with sockets in TIME_WAIT here.
fn likely(rows: &[Subject<'_>]) -> Vec<String> {
    let servers = rows.iter().filter(|row| row.role == Role::Server);
    named(&by_count(servers.map(|row| (row.peer.group.to_string(), row.peer.counts().live()))))
}

fn by_count(peers: impl Iterator<Item = (String, u64)>) -> Vec<(String, u64)> {
    let mut peers: Vec<_> = peers.filter(|(_, count)| *count > 0).collect();
    peers.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
    peers
}

/// The first, with their counts.
fn named(peers: &[(String, u64)]) -> Vec<String> {
    peers.iter().take(NAMED).map(|(peer, count)| format!("{peer}: {count}")).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        diagnose::{
            RULES, Severity,
            testing::{Client, case, facts, found, only},
        },
        host::{facts::HostFacts, netstat::TcpExt},
        path::Outcome,
        peer::Peer,
    };

    fn findings(counter: &str, grown: u64, live: u64) -> usize {
        let mut facts = facts();
        only(&mut facts).counters_before = TcpExt::default().with(counter, 5);
        only(&mut facts).counters = TcpExt::default().with(counter, 5 + grown);
        only(&mut facts).time_wait = Some(live);
        found(RULES, "TW012", &case(&[], &facts)).len()
    }

    #[test]
    fn three_refused_segments_are_no_chance() {
        assert_eq!(findings("PAWSTimewait", 2, 1), 0);
        assert_eq!(findings("PAWSTimewait", 3, 1), 1);
        assert_eq!(findings("PAWSTimewait", 3, 0), 1, "the socket may be gone since");
    }

    #[test]
    fn the_shared_counter_of_older_kernels_needs_a_time_wait_socket() {
        assert_eq!(findings("PAWSEstab", 3, 0), 0);
        assert_eq!(findings("PAWSEstab", 3, 1), 1);
        assert_eq!(findings("PAWSActive", 9, 9), 0, "that one is about SYN-SENT");
    }

    /// A host that refused so many, and the peer it has sockets of.
    fn refusing(refused: u64) -> (HostFacts, Peer) {
        counting("PAWSTimewait", refused)
    }

    /// The same with the counter that has them.
    fn counting(counter: &str, refused: u64) -> (HostFacts, Peer) {
        let mut facts = facts();
        only(&mut facts).counters = TcpExt::default().with(counter, refused);
        only(&mut facts).counters_before = TcpExt::default().with(counter, 0);
        let mut peer = Client::at("10.2.0.2", 0).of_server().live(90).peer();
        peer.tally.edit(|counts| counts.ended[Outcome::Killed as usize] = 40);
        (facts, peer)
    }

    #[test]
    fn sockets_that_left_by_a_reset_were_there_for_the_shared_counter_too() {
        let (mut facts, mut peer) = counting("PAWSEstab", 41);
        only(&mut facts).time_wait = Some(0);
        (peer.history.rearmed, peer.history.assassinated) = (38, 41);
        let peers = [peer];
        let ids = |id| found(RULES, id, &case(&peers, &facts)).len();
        assert_eq!((ids("TW012"), ids("TW010"), ids("TW011")), (1, 0, 0));
    }

    #[test]
    fn the_peer_whose_sockets_were_reset_is_named_and_nothing_else_is_said_of_it() {
        let (facts, mut peer) = refusing(41);
        (peer.history.rearmed, peer.history.assassinated) = (38, 41);
        let peers = [peer];
        let found = |id| found(RULES, id, &case(&peers, &facts));
        let finding = &found("TW012")[0];
        assert_eq!(finding.peer.as_deref(), Some("10.2.0.2"));
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!((found("TW010"), found("TW011")), (vec![], vec![]), "these are its marks");
    }

    #[test]
    fn few_refused_segments_do_not_explain_many_resets() {
        let (facts, mut peer) = refusing(5);
        peer.history.assassinated = 40;
        let peers = [peer];
        assert_eq!(found(RULES, "TW011", &case(&peers, &facts)).len(), 1);
    }

    #[test]
    fn syns_without_timestamps_are_refused_unseen_and_rfc1337_is_named() {
        let mut facts = facts();
        let findings = |facts: &_, client: Client, accepted| {
            let mut peer = client.of_server().live(90).peer();
            peer.tally.edit(|counts| counts.ended[Outcome::Replaced as usize] = accepted);
            found(RULES, "TW012", &case(&[peer], facts))
        };
        let client = Client::at("10.2.0.2", 0);
        let without = client.without_timestamps();
        assert_eq!(findings(&facts, without, 40), [], "a RST would end the socket, and show");
        only(&mut facts).rfc1337 = Some(1);
        let finding = findings(&facts, without, 40).remove(0);
        assert_eq!(finding.severity, Severity::Notice);
        assert_eq!(findings(&facts, without, 2), [], "hardly anybody comes again");
        assert_eq!(findings(&facts, client, 40), [], "those with timestamps are counted");
    }

    #[test]
    fn rfc1337_keeps_those_out_that_are_refused() {
        let (mut facts, peer) = refusing(5);
        only(&mut facts).rfc1337 = Some(1);
        let peers = [peer];
        let finding = &found(RULES, "TW012", &case(&peers, &facts))[0];
        assert_eq!(finding.severity, Severity::Critical);
        assert!(finding.remedy.starts_with("Set net.ipv4.tcp_rfc1337=0."));
        let likely = finding.figure("peers_most_sockets");
        assert_eq!(likely, Some(&serde_json::json!(["10.2.0.2: 50"])), "whose is not known");
    }
}
