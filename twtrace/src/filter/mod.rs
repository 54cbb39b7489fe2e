//! Filter expressions, in the syntax of `ss`: `dst 10.0.0.0/8 and dport = :443 and not timestamps`.
//!
//! An expression says which *sockets* are meant, by what is known when they enter TIME_WAIT; the
//! end of a socket goes with its entry. What the kernel programs can compare is left to them
//! ([`Expr::push_down`]), the rest is decided here, exactly. What cannot be known (the owner of a
//! socket that was there before, say) is [`Verdict::Maybe`], never a guess.

mod error;
mod kernel;
mod parse;
mod peer_address;
mod print;
mod row;
mod socket;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use twtrace_common::{TCP_FIN_WAIT2, TCP_TIME_WAIT};

pub use error::{BindError, FilterError};
pub use parse::{GRAMMAR, MAX_DEPTH, canonical};
pub use peer_address::{NoPeer, PeerAddress};
pub use row::{Open, RowFacts};
pub use socket::Socket;

use crate::{event::Role, path::Block};

/// Whether something matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It does not.
    No,
    /// It is not known, or some of what a row stands for do and some do not.
    Maybe,
    /// It does.
    Yes,
}

impl Verdict {
    /// The verdict of a comparison both sides of which are known, [`Verdict::Maybe`] otherwise.
    pub fn of(known: Option<bool>) -> Self {
        match known {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Maybe,
        }
    }
}

impl std::ops::Not for Verdict {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This end: `src`, `sport`.
    Local,
    /// The other end: `dst`, `dport`.
    Remote,
}

/// How ports are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `=`, `==`, `eq`.
    Eq,
    /// `!=`, `ne`, `neq`.
    Ne,
    /// `>=`, `ge`, `geq`.
    Ge,
    /// `<=`, `le`, `leq`.
    Le,
    /// `>`, `gt`.
    Gt,
    /// `<`, `lt`.
    Lt,
}

impl Op {
    /// Compares.
    pub const fn holds(self, port: u16, bound: u16) -> bool {
        match self {
            Self::Eq => port == bound,
            Self::Ne => port != bound,
            Self::Ge => port >= bound,
            Self::Le => port <= bound,
            Self::Gt => port > bound,
            Self::Lt => port < bound,
        }
    }
}

/// State in which a socket enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryState {
    /// `time-wait`.
    TimeWait = TCP_TIME_WAIT,
    /// `fin-wait-2`: the peer had not closed yet.
    FinWait2 = TCP_FIN_WAIT2,
}

/// Something that has a number and perhaps a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// The number itself: the inode number of a namespace or of a control group's directory.
    Number(u64),
    /// A name whose number has to be looked up ([`Expr::bind`]).
    Text(String),
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// `dst`, `src`: the address is in the network (v4-mapped ones count as IPv4).
    Host(Side, IpNet),
    /// `dport`, `sport`.
    Port(Side, Op, u16),
    /// The peer sent timestamps on the connection (`tstamp_ok`).
    Timestamps,
    /// The fast path could take it (`ts_recent_stamp` is not 0).
    Eligible,
    /// `connect()` chose the local port.
    Autobound,
    /// It is no socket in TIME_WAIT but a call that got no port.
    Failed,
    /// Which end of the connection this host was.
    Role(Role),
    /// State at entry.
    State(EntryState),
    /// Network namespace, by inode number.
    Netns(Name),
    /// Owner.
    Uid(u32),
    /// Owner's control group, by the inode number of its directory.
    Cgroup(Name),
    /// Unit, container or pod that owns it, by name.
    Owner(String),
    /// The fast path is closed when it enters, for this reason or for any.
    Blocked(Option<Block>),
}

/// An expression. The empty [`Expr::And`] holds for every socket and is what an empty text means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Expr {
    /// One condition.
    Term(Term),
    /// Not so.
    Not(Box<Expr>),
    /// All of them; none of which is an `And` itself.
    And(Vec<Expr>),
    /// One of them at least; there are two or more, none of which is an `Or` itself.
    Or(Vec<Expr>),
}

impl Default for Expr {
    fn default() -> Self {
        Self::ANY
    }
}

impl TryFrom<String> for Expr {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<Expr> for String {
    fn from(expr: Expr) -> Self {
        expr.to_string()
    }
}

impl From<Term> for Expr {
    fn from(term: Term) -> Self {
        Self::Term(term)
    }
}

impl Expr {
    /// Every socket.
    pub const ANY: Self = Self::And(Vec::new());

    /// Whether every socket is meant.
    pub fn is_any(&self) -> bool {
        matches!(self, Self::And(parts) if parts.is_empty())
    }

    /// All of `parts` together, flat.
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::And(parts) => flat.extend(parts),
                part => flat.push(part),
            }
        }
        match flat.len() {
            1 => flat.remove(0),
            _ => Self::And(flat),
        }
    }

    /// The conditions all of which have to hold.
    fn parts(&self) -> &[Self] {
        match self {
            Self::And(parts) => parts,
            part => std::slice::from_ref(part),
        }
    }

    /// One of `parts` at least, flat; with no part, every socket.
    pub fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for part in parts {
            match part {
                Self::Or(parts) => flat.extend(parts),
                part => flat.push(part),
            }
        }
        match flat.len() {
            0 => Self::ANY,
            1 => flat.remove(0),
            _ => Self::Or(flat),
        }
    }

    /// Its conditions, in the order they are written.
    pub fn terms(&self) -> Vec<&Term> {
        match self {
            Self::Term(term) => vec![term],
            Self::Not(inner) => inner.terms(),
            Self::And(parts) | Self::Or(parts) => parts.iter().flat_map(Self::terms).collect(),
        }
    }

    /// Whether it is asked whose a socket is.
    pub fn asks_owner(&self) -> bool {
        self.terms().iter().any(|term| matches!(term, Term::Owner(_)))
    }

    /// Decides, asking `term` for each condition (Kleene's three-valued logic).
    pub fn decide(&self, term: &impl Fn(&Term) -> Verdict) -> Verdict {
        match self {
            Self::Term(condition) => term(condition),
            Self::Not(inner) => !inner.decide(term),
            Self::And(parts) => {
                parts.iter().map(|part| part.decide(term)).min().unwrap_or(Verdict::Yes)
            }
            Self::Or(parts) => {
                parts.iter().map(|part| part.decide(term)).max().unwrap_or(Verdict::No)
            }
        }
    }

    /// Puts numbers in the place of names.
    ///
    /// # Errors
    /// [`BindError`] for the first name that `netns` or `cgroup` does not know.
    pub fn bind(
        self,
        netns: &dyn Fn(&str) -> Result<u64, String>,
        cgroup: &dyn Fn(&str) -> Result<u64, String>,
    ) -> Result<Self, BindError> {
        let number = |what, name, look_up: &dyn Fn(&str) -> Result<u64, String>| match name {
            Name::Number(number) => Ok(Name::Number(number)),
            Name::Text(text) => match look_up(&text) {
                Ok(number) => Ok(Name::Number(number)),
                Err(why) => Err(BindError { what, name: text, why }),
            },
        };
        let each = |parts: Vec<Self>| {
            parts.into_iter().map(|part| part.bind(netns, cgroup)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match self {
            Self::Term(Term::Netns(name)) => Term::Netns(number("netns", name, netns)?).into(),
            Self::Term(Term::Cgroup(name)) => Term::Cgroup(number("cgroup", name, cgroup)?).into(),
            Self::Term(term) => term.into(),
            Self::Not(inner) => Self::Not(Box::new(inner.bind(netns, cgroup)?)),
            Self::And(parts) => Self::And(each(parts)?),
            Self::Or(parts) => Self::Or(each(parts)?),
        })
    }
}

/// An expression, and the part of it that is decided in userspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Which sockets are meant.
    pub whole: Expr,
    /// What the kernel programs do not see to, which is everything in a recording.
    pub here: Expr,
}

impl Selection {
    /// Leaves to the kernel programs what they can do.
    pub fn split(whole: Expr) -> (twtrace_common::Filter, Self) {
        let (filter, here) = whole.clone().push_down();
        (filter, Self { whole, here })
    }

    /// The part of what somebody selected that is meant here as well. What is selected already
    /// is not decided again: the same question gives the same answer.
    #[must_use]
    pub fn and(&self, part: &Expr) -> Self {
        let known = self.whole.parts();
        let more: Vec<Expr> =
            part.parts().iter().filter(|part| !known.contains(part)).cloned().collect();
        Self {
            whole: Expr::all([self.whole.clone()].into_iter().chain(more.clone())),
            here: Expr::all([self.here.clone()].into_iter().chain(more)),
        }
    }

    /// Inode number of the only network namespace that is meant, if it is one.
    pub fn netns(&self) -> Option<u32> {
        let number = |part: &Expr| match part {
            Expr::Term(Term::Netns(Name::Number(inum))) => u32::try_from(*inum).ok(),
            _ => None,
        };
        self.whole.parts().iter().find_map(number)
    }
}

/// Whether a number is the one named; not known as long as the name has none.
fn named(name: &Name, number: Option<u64>) -> Verdict {
    match name {
        Name::Number(wanted) => Verdict::of(number.map(|number| number == *wanted)),
        Name::Text(_) => Verdict::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_decides_nothing_that_is_known_otherwise() {
        let maybe = || Expr::from(Term::Uid(1));
        let yes = || Expr::from(Term::Timestamps);
        let decide = |expr: Expr| {
            expr.decide(&|term| match term {
                Term::Uid(_) => Verdict::Maybe,
                _ => Verdict::Yes,
            })
        };
        assert_eq!(decide(Expr::ANY), Verdict::Yes);
        assert_eq!(decide(Expr::all([yes(), maybe()])), Verdict::Maybe);
        assert_eq!(decide(Expr::any([yes(), maybe()])), Verdict::Yes);
        assert_eq!(decide(Expr::Not(Box::new(maybe()))), Verdict::Maybe);
        assert_eq!(decide(Expr::all([Expr::Not(Box::new(yes())), maybe()])), Verdict::No);
    }

    #[test]
    fn what_is_selected_already_is_not_decided_again() {
        let (_, first) = Selection::split("netns 7 and timestamps".parse().unwrap());
        assert_eq!(first.and(&first.whole), first);
        let narrower = first.and(&"timestamps and uid 3".parse().unwrap());
        assert_eq!(narrower.whole.to_string(), "netns 7 and timestamps and uid 3");
        assert_eq!(narrower.here, Expr::all([first.here, "uid 3".parse().unwrap()]));
    }

    #[test]
    fn names_are_looked_up_wherever_they_stand() {
        let expr: Expr = "not (netns web or uid 3) cgroup /a netns 7".parse().unwrap();
        let bound = expr.clone().bind(&|_| Ok(5), &|_| Ok(6)).unwrap();
        assert_eq!(bound.to_string(), "not (netns 5 or uid 3) and cgroup 6 and netns 7");
        let error = expr.bind(&|_| Err("there is none".into()), &|_| Ok(6)).unwrap_err();
        assert_eq!(error.to_string(), "netns web: there is none");
    }
}
