//! A flood of sockets and peers takes bounded memory. Alone in its file: the memory measured is
//! that of the whole process.

use twtrace::{
    aggregate::{Aggregate, Settings},
    event::Event,
};
use twtrace_common::{EndReason, Ended, Entered, Flow, Header, Kind, TCP_TIME_WAIT, entered_flags};

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs is mounted");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("statm");
    pages * 4096
}

#[test]
fn a_million_sockets_of_a_million_peers_take_bounded_memory() {
    let (max_peers, max_live) = (4096, 16_384);
    let mut aggregate = Aggregate::new(Settings { max_peers, max_live, ..Settings::default() });
    let mut after_warm_up = 0;
    for id in 1..=1_000_000_u64 {
        let [_, a, b, c, ..] = (id as u32).to_be_bytes();
        let remote = std::net::Ipv4Addr::new(10, a, b, c).to_ipv6_mapped().octets();
        let flow = Flow { remote, local_port: 40_000, remote_port: 80, ..Flow::default() };
        let header = Header {
            kind: Kind::Entered as u8,
            state: TCP_TIME_WAIT,
            flags: entered_flags::FOLLOWED,
            netns: 1,
        };
        let entered = Entered { header, mono_ns: id, tw: id * 64, flow, ..Entered::default() };
        aggregate.apply(&Event::Entered(entered));
        // All but the last few thousand end, so that the cap on live sockets is reached as well.
        if let Some(gone) = id.checked_sub(20_000).filter(|gone| *gone > 0) {
            let header = Header { kind: Kind::Ended as u8, flags: 0, ..header };
            let [_, a, b, c, ..] = (gone as u32).to_be_bytes();
            let remote = std::net::Ipv4Addr::new(10, a, b, c).to_ipv6_mapped().octets();
            let flow = Flow { remote, ..flow };
            let ended = Ended {
                header,
                mono_ns: id,
                tw: gone * 64,
                entered_ns: gone,
                flow,
                reason: EndReason::Expired as u8,
                ..Ended::default()
            };
            aggregate.apply(&Event::Ended(ended));
        }
        if id == 100_000 {
            after_warm_up = resident();
        }
    }
    assert!(aggregate.conservation().holds(), "{:?}", aggregate.conservation());
    assert_eq!(aggregate.table().sum().counts().entered, 1_000_000);
    assert_eq!(aggregate.table().sum().counts().live(), 20_000);
    assert!(aggregate.table().rows().len() <= max_peers);
    assert!(aggregate.followed() <= max_live);
    let grown = resident().saturating_sub(after_warm_up);
    assert!(grown < 8 << 20, "{grown} bytes more after 900,000 further peers");
}
