//! Expressions over a row, which stands for many sockets: `Maybe` means that it may hold some that
//! match.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{EntryState, Expr, Op, Side, Term, Verdict, named};
use crate::{
    event::{Role, ip},
    owner::Owner,
    path::Block,
    peer::{Counts, Group, History, history::Ports},
};

/// What a row knows of its sockets.
#[derive(Clone, Copy, Debug)]
pub struct RowFacts<'a> {
    /// What it stands for.
    pub group: &'a Group,
    /// Its counts.
    pub counts: &'a Counts,
    /// Its past.
    pub history: &'a History,
    /// Whose all its sockets are, if that is known.
    pub owner: Option<&'a Owner>,
}

/// What a filter leaves open of several rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Rows that may hold sockets that do not match.
    pub rows: usize,
    /// The words of the conditions that leave it open.
    pub words: BTreeSet<&'static str>,
}

impl Expr {
    /// Whether a row's sockets match: all, some or perhaps some, or none.
    pub fn matches_row(&self, row: RowFacts<'_>) -> Verdict {
        self.decide(&|condition| term(&row, condition))
    }

    /// Whether a row may hold sockets that match, which is why it is shown.
    pub fn may_match_row(&self, row: RowFacts<'_>) -> bool {
        self.matches_row(row) != Verdict::No
    }

    /// What is open of rows that may match.
    pub fn open_for_rows<'a>(&self, rows: impl IntoIterator<Item = RowFacts<'a>>) -> Open {
        let mut open = Open::default();
        let each = rows.into_iter().map(|row| self.open_for_row(row));
        for words in each.filter(|words| !words.is_empty()) {
            open.rows += 1;
            open.words.extend(words);
        }
        open
    }

    /// The word of a condition that no row can answer whose sockets share a peer and nothing else:
    /// whose they are is known of each socket alone.
    pub fn beyond_peers(&self) -> Option<&'static str> {
        let beyond = |term: &&Term| matches!(term, Term::Uid(_) | Term::Cgroup(_) | Term::Owner(_));
        self.terms().into_iter().find(beyond).map(Term::word)
    }

    /// The words of the conditions that leave a row's verdict open: of its sockets some match and
    /// some do not, or a row does not tell. None where the verdict is clear.
    fn open_for_row(&self, row: RowFacts<'_>) -> BTreeSet<&'static str> {
        let open = RefCell::new(BTreeSet::new());
        let verdict = self.decide(&|condition| {
            let verdict = term(&row, condition);
            if verdict == Verdict::Maybe {
                open.borrow_mut().insert(condition.word());
            }
            verdict
        });
        if verdict == Verdict::Maybe { open.into_inner() } else { BTreeSet::new() }
    }
}

fn term(row: &RowFacts<'_>, term: &Term) -> Verdict {
    let counts = row.counts;
    match term {
        Term::Host(Side::Remote, wanted) => remote(row.group, wanted),
        Term::Host(Side::Local, wanted) => local(row, wanted),
        Term::Port(Side::Remote, op, bound) => remote_port(row, *op, *bound),
        Term::Port(Side::Local, op, bound) => match row.history.ports {
            Ports::Same(local, _) => Verdict::of(Some(op.holds(local, *bound))),
            Ports::None | Ports::Many => Verdict::Maybe,
        },
        Term::Timestamps => {
            let known = counts.with_timestamps + counts.without_timestamps;
            share(
                counts.with_timestamps,
                known,
                counts.entered.saturating_sub(known) + counts.present,
            )
        }
        Term::Eligible => {
            // Who is not is told by why.
            let without = [Block::NoPeerTimestamps, Block::TimestampsOff];
            let not = without.into_iter().map(|reason| counts.blocked(reason)).sum::<u64>();
            let known = counts.eligible + not;
            share(counts.eligible, known, counts.entered.saturating_sub(known) + counts.present)
        }
        Term::Failed => share(counts.failed.total(), counts.failed.total() + counts.came(), 0),
        Term::Autobound => share(row.history.autobound, counts.entered + counts.present, 0),
        Term::Role(role) => Verdict::of(row.group.role().map(|known| known == *role)),
        Term::State(EntryState::FinWait2) => {
            share(counts.fin_wait2, counts.entered, counts.present)
        }
        Term::State(EntryState::TimeWait) => {
            !share(counts.fin_wait2, counts.entered, counts.present)
        }
        Term::Blocked(reason) => {
            // FIN_WAIT2 blocks are known at the end only and are no part of the question.
            let blocked = match reason {
                Some(reason) => counts.blocked(*reason),
                None => counts.blocked_at_entry(),
            };
            let known = counts.allowed + counts.blocked_at_entry();
            share(blocked, known, counts.entered.saturating_sub(known) + counts.present)
        }
        Term::Netns(name) => named(name, row.group.netns().map(u64::from)),
        Term::Uid(uid) => match *row.group {
            Group::Uid(known) => Verdict::of(Some(known == *uid)),
            _ => Verdict::Maybe,
        },
        Term::Cgroup(name) => match *row.group {
            Group::Cgroup(known) => named(name, Some(known)),
            _ => Verdict::Maybe,
        },
        Term::Owner(name) => Verdict::of(row.owner.map(|owner| owner.is(name))),
    }
}

/// `part` of `whole` sockets match, and `unknown` more may.
fn share(part: u64, whole: u64, unknown: u64) -> Verdict {
    match (part, whole + unknown) {
        (_, 0) => Verdict::Maybe,
        (0, _) if unknown == 0 => Verdict::No,
        (part, all) if part == all => Verdict::Yes,
        _ => Verdict::Maybe,
    }
}

fn remote(group: &Group, wanted: &IpNet) -> Verdict {
    match *group {
        Group::Peer { address, .. } | Group::Addr { address, .. } => {
            Verdict::of(Some(wanted.contains(&ip(address))))
        }
        Group::Subnet { network, .. } if wanted.contains(&network) => Verdict::Yes,
        Group::Subnet { network, .. } if !network.contains(wanted) => Verdict::No,
        _ => Verdict::Maybe,
    }
}

fn local(row: &RowFacts<'_>, wanted: &IpNet) -> Verdict {
    let inside = |address: &[u8; 16]| {
        let address: IpAddr = ip(*address);
        wanted.contains(&address)
    };
    let locals = row.history.locals();
    let matching = locals.iter().filter(|(address, _)| inside(address)).count();
    share(matching as u64, locals.len() as u64, row.history.other_locals())
}

fn remote_port(row: &RowFacts<'_>, op: Op, bound: u16) -> Verdict {
    let port = match (*row.group, row.history.ports) {
        (Group::Peer { role: Role::Client, port, .. }, _) => Some(port),
        (_, Ports::Same(_, remote)) => Some(remote),
        _ => None,
    };
    Verdict::of(port.map(|port| op.holds(port, bound)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, counts: &Counts) -> Verdict {
        let group = Group::peer(7, Role::Client, [0; 16], 443);
        let history = History::default();
        let expr: Expr = text.parse().unwrap();
        expr.matches_row(RowFacts { group: &group, counts, history: &history, owner: None })
    }

    #[test]
    fn what_was_not_known_of_its_sockets_a_row_does_not_answer() {
        let all_known = Counts {
            entered: 2,
            without_timestamps: 2,
            blocked: [2, 0, 0, 0, 0],
            ..Counts::default()
        };
        assert_eq!(verdict("timestamps", &all_known), Verdict::No);
        assert_eq!(verdict("blocked", &all_known), Verdict::Yes);
        // Without the kernel's types nobody sees timestamps or why the fast path is closed.
        let types_unknown = Counts { entered: 2, ..Counts::default() };
        for text in ["timestamps", "not timestamps", "blocked", "not blocked reuse-off"] {
            assert_eq!(verdict(text, &types_unknown), Verdict::Maybe, "{text}");
        }
        assert_eq!(verdict("state fin-wait-2", &types_unknown), Verdict::No);
        let one_unknown = Counts { entered: 3, ..all_known };
        assert_eq!(verdict("timestamps", &one_unknown), Verdict::Maybe);
    }

    #[test]
    fn whose_its_sockets_are_is_beyond_a_row_of_a_peer() {
        let beyond = |text: &str| text.parse::<Expr>().unwrap().beyond_peers();
        assert_eq!(beyond("dst 10.0.0.0/8 and not (role client or uid 0)"), Some("uid"));
        assert_eq!(beyond("cgroup /a or netns 7"), Some("cgroup"));
        assert_eq!(beyond("netns 7 and sport = 1 and blocked and state fin-wait-2"), None);
    }
}
