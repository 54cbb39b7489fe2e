//! From text to expression.
//!
//! The grammar is that of ss(8), section EXPRESSION, as far as it is about what a TIME_WAIT socket
//! has, with terms of our own beside it. It never needs to go back: the first word of a term
//! decides, and what does not fit after it is an error right there.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;
use winnow::{
    ModalResult, Parser, Stateful,
    ascii::multispace0,
    combinator::{alt, eof, opt, peek},
    error::{ContextError, ErrMode, StrContext, StrContextValue},
    stream::Stream,
    token::take_while,
};

use super::{EntryState, Expr, FilterError, Name, Op, Side, Term};
use crate::{event::Role, path::Block};

/// Deepest nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 64;

/// The terms, for help texts.
pub const GRAMMAR: &str = "\
dst, src [=|!=] ADDRESS[/PREFIX][:PORT]  the other end, this end
dport, sport [OP] [:]PORT      OP is one of = != > < >= <= eq ne gt lt ge le
timestamps, eligible           the peer sent them; the fast path could take it
blocked [REASON]               fast path closed at entry: no-peer-timestamps,
                               timestamps-off, reuse-off, reuse-loopback-only
role client|server             which end this host was
autobound                      connect() chose the local port
failed                         a connect() or bind() that got no port
state time-wait|fin-wait-2     state in which it entered
netns NAME|INODE, uid N, cgroup PATH|ID  where, and whose
owner NAME                     its unit, container or pod (NAMESPACE/POD)
and or not ( )                 also & | !; terms side by side mean and";

type Input<'a> = Stateful<&'a str, usize>;

const A_TERM: &str = "a term (dst, src, dport, sport, timestamps, eligible, blocked, role, autobound, \
                      failed, state, netns, uid, cgroup, owner), not or (";

impl FromStr for Expr {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let input = Stateful { input: text, state: 0 };
        whole.parse(input).map_err(|error| {
            let expected = error.inner().context().find_map(|context| match context {
                StrContext::Expected(StrContextValue::Description(what)) => Some(*what),
                _ => None,
            });
            FilterError::at(text, error.offset(), expected.unwrap_or(A_TERM))
        })
    }
}

fn whole(input: &mut Input<'_>) -> ModalResult<Expr> {
    space(input)?;
    if peek(opt(eof)).parse_next(input)?.is_some() {
        return Ok(Expr::ANY);
    }
    let expr = disjunction(input)?;
    space(input)?;
    match peek(opt(eof)).parse_next(input)? {
        Some(_) => Ok(expr),
        None => expected("and, or, another term, or the end"),
    }
}

fn disjunction(input: &mut Input<'_>) -> ModalResult<Expr> {
    let mut parts = vec![conjunction(input)?];
    while operator(input, "or", &["||", "|"])? {
        parts.push(conjunction(input)?);
    }
    Ok(Expr::any(parts))
}

fn conjunction(input: &mut Input<'_>) -> ModalResult<Expr> {
    let mut parts = vec![factor(input)?];
    loop {
        let and = operator(input, "and", &["&&", "&"])?;
        if !and && ends_conjunction(input)? {
            return Ok(Expr::all(parts));
        }
        parts.push(factor(input)?);
    }
}

/// Whether what follows belongs to whoever called: the end, a parenthesis, `or`.
fn ends_conjunction(input: &mut Input<'_>) -> ModalResult<bool> {
    space(input)?;
    let start = input.checkpoint();
    let ends = peek(opt(alt((eof, ")")))).parse_next(input)?.is_some()
        || operator(input, "or", &["||", "|"])?;
    input.reset(&start);
    Ok(ends)
}

fn factor(input: &mut Input<'_>) -> ModalResult<Expr> {
    if operator(input, "not", &["!"])? {
        return nested(input, |input| Ok(Expr::Not(Box::new(factor(input)?))));
    }
    if opt("(").parse_next(input)?.is_none() {
        return term(input);
    }
    nested(input, |input| {
        let inner = disjunction(input)?;
        space(input)?;
        match opt(")").parse_next(input)? {
            Some(_) => Ok(inner),
            None => expected("and, or, another term, or )"),
        }
    })
}

/// Parses one level deeper, down to [`MAX_DEPTH`].
fn nested(
    input: &mut Input<'_>,
    inner: impl FnOnce(&mut Input<'_>) -> ModalResult<Expr>,
) -> ModalResult<Expr> {
    if input.state == MAX_DEPTH {
        return expected("no more than 64 levels of parentheses and not");
    }
    input.state += 1;
    let expr = inner(input)?;
    input.state -= 1;
    Ok(expr)
}

fn term(input: &mut Input<'_>) -> ModalResult<Expr> {
    let start = input.checkpoint();
    Ok(match opt(bare).parse_next(input)? {
        Some("dst") => host(input, Side::Remote)?,
        Some("src") => host(input, Side::Local)?,
        Some("dport") => port(input, Side::Remote)?,
        Some("sport") => port(input, Side::Local)?,
        Some("timestamps") => Term::Timestamps.into(),
        Some("eligible") => Term::Eligible.into(),
        Some("autobound") => Term::Autobound.into(),
        Some("failed") => Term::Failed.into(),
        Some("blocked") => Term::Blocked(reason(input)?).into(),
        Some("role") => compared(input, "client or server", |word| match word {
            "client" => Some(Term::Role(Role::Client)),
            "server" => Some(Term::Role(Role::Server)),
            _ => None,
        })?,
        Some("state") => compared(input, "time-wait or fin-wait-2", |word| match word {
            "time-wait" => Some(Term::State(EntryState::TimeWait)),
            "fin-wait-2" => Some(Term::State(EntryState::FinWait2)),
            _ => None,
        })?,
        Some("netns") => compared(input, "a network namespace, by name or inode number", |word| {
            Some(Term::Netns(name(word)))
        })?,
        Some("uid") => {
            compared(input, "a uid, such as 1000", |word| Some(Term::Uid(word.parse().ok()?)))?
        }
        Some("cgroup") => compared(input, "a control group, by path or inode number", |word| {
            Some(Term::Cgroup(name(word)))
        })?,
        Some("owner") => compared(input, "an owner, such as nginx.service", |word| {
            Some(Term::Owner(word.to_owned()))
        })?,
        _ => {
            input.reset(&start);
            return expected(A_TERM);
        }
    })
}

/// `[=|!=] WORD`, where the word makes a term.
fn compared(
    input: &mut Input<'_>,
    what: &'static str,
    make: impl Fn(&str) -> Option<Term>,
) -> ModalResult<Expr> {
    let op = equality(input)?;
    argument(input, what, |word| Some(op(make(word)?.into())))
}

/// An optional `=` or `!=`, as what it does to the condition behind it.
fn equality(input: &mut Input<'_>) -> ModalResult<fn(Expr) -> Expr> {
    space(input)?;
    let start = input.checkpoint();
    match comparison(input)? {
        Some(Op::Eq) | None => Ok(|expr| expr),
        Some(Op::Ne) => Ok(|expr| Expr::Not(Box::new(expr))),
        Some(_) => {
            input.reset(&start);
            expected("= or !=, or a value")
        }
    }
}

fn host(input: &mut Input<'_>, side: Side) -> ModalResult<Expr> {
    let op = equality(input)?;
    argument(input, "an address or a network, such as 10.2.0.0/16 or [2001:db8::2]:443", |word| {
        let (network, port) = split_host(word)?;
        let network = network.map(|network| Term::Host(side, network).into());
        let port = port.map(|port| Term::Port(side, Op::Eq, port).into());
        Some(op(Expr::all(network.into_iter().chain(port))))
    })
}

fn port(input: &mut Input<'_>, side: Side) -> ModalResult<Expr> {
    let op = comparison(input)?.unwrap_or(Op::Eq);
    argument(input, "a port, such as :443", |word| {
        let digits = word.strip_prefix("*:").or(word.strip_prefix(':')).unwrap_or(word);
        Some(Term::Port(side, op, digits.parse().ok()?).into())
    })
}

/// The reason behind `blocked`, if there is one.
fn reason(input: &mut Input<'_>) -> ModalResult<Option<Block>> {
    space(input)?;
    let start = input.checkpoint();
    let word = opt(bare).parse_next(input)?.unwrap_or("").replace('-', "_");
    // What the peer never closed is known at its end only: `state fin-wait-2` is what there is.
    let known = Block::ALL.iter().find(|block| block.key() == word && **block != Block::FinWait2);
    if known.is_none() {
        input.reset(&start);
    }
    Ok(known.copied())
}

/// A comparison, by sign or by word.
fn comparison(input: &mut Input<'_>) -> ModalResult<Option<Op>> {
    space(input)?;
    let sign = alt((
        "==".value(Op::Eq),
        "=".value(Op::Eq),
        "!=".value(Op::Ne),
        ">=".value(Op::Ge),
        "<=".value(Op::Le),
        ">".value(Op::Gt),
        "<".value(Op::Lt),
    ));
    if let Some(op) = opt(sign).parse_next(input)? {
        return Ok(Some(op));
    }
    let start = input.checkpoint();
    let op = opt(bare).parse_next(input)?.and_then(op_of_word);
    if op.is_none() {
        input.reset(&start);
    }
    Ok(op)
}

/// The comparison that a word stands for, as in `ss`.
pub(super) fn op_of_word(word: &str) -> Option<Op> {
    Some(match word {
        "eq" => Op::Eq,
        "ne" | "neq" => Op::Ne,
        "ge" | "geq" => Op::Ge,
        "le" | "leq" => Op::Le,
        "gt" => Op::Gt,
        "lt" => Op::Lt,
        _ => return None,
    })
}

/// A word that has to make sense.
fn argument<T>(
    input: &mut Input<'_>,
    what: &'static str,
    make: impl Fn(&str) -> Option<T>,
) -> ModalResult<T> {
    space(input)?;
    let start = input.checkpoint();
    let quoted = ('"', take_while(1.., |char| char != '"'), '"').map(|(_, text, _)| text);
    match opt(alt((quoted, bare))).parse_next(input)?.and_then(make) {
        Some(made) => Ok(made),
        None => {
            input.reset(&start);
            expected(what)
        }
    }
}

/// Takes an operator, given as a word or as a sign. `!` of `!=` is none.
fn operator(input: &mut Input<'_>, word: &str, signs: &[&'static str]) -> ModalResult<bool> {
    space(input)?;
    let start = input.checkpoint();
    if opt(bare).parse_next(input)? == Some(word) {
        return Ok(true);
    }
    input.reset(&start);
    for sign in signs {
        if opt(*sign).parse_next(input)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Characters up to a blank or a sign.
fn bare<'a>(input: &mut Input<'a>) -> ModalResult<&'a str> {
    take_while(1.., |char: char| !char.is_whitespace() && !"()!&|<>=\"".contains(char))
        .parse_next(input)
}

fn space(input: &mut Input<'_>) -> ModalResult<()> {
    multispace0.void().parse_next(input)
}

/// Fails for good, here.
fn expected<T>(what: &'static str) -> ModalResult<T> {
    let mut error = ContextError::new();
    error.push(StrContext::Expected(StrContextValue::Description(what)));
    Err(ErrMode::Cut(error))
}

/// A number, or a name that has one.
fn name(word: &str) -> Name {
    word.parse().map_or_else(|_| Name::Text(word.to_owned()), Name::Number)
}

/// `10.2.0.2`, `10.2.0.0/16`, `10.2.0.2:443`, `2001:db8::/32`, `[2001:db8::2]:443`, `:443`, `*`.
fn split_host(word: &str) -> Option<(Option<IpNet>, Option<u16>)> {
    if word == "*" {
        return Some((None, None));
    }
    if let Some(network) = network(word) {
        return Some((Some(network), None));
    }
    let (host, port) = match word.strip_prefix('[') {
        Some(bracketed) => {
            let (address, rest) = bracketed.split_once(']')?;
            let (prefix, port) = match rest.split_once(':') {
                Some((prefix, port)) => (prefix, Some(port)),
                None => (rest, None),
            };
            (format!("{address}{prefix}"), port)
        }
        None => {
            let (host, port) = word.rsplit_once(':')?;
            // `2001:db8::2:443` could be either.
            if host.contains(':') {
                return None;
            }
            (host.to_owned(), Some(port))
        }
    };
    let network = match host.as_str() {
        "" | "*" => None,
        host => Some(network(host)?),
    };
    let port = match port {
        Some("*") | None => None,
        Some(port) => Some(port.parse().ok()?),
    };
    Some((network, port))
}

/// A network or a single address; what is v4-mapped becomes IPv4.
fn network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    Some(canonical(text.parse().ok()?))
}

/// The network as addresses are compared: truncated, and IPv4 if it is v4-mapped.
pub fn canonical(network: IpNet) -> IpNet {
    let canonical = match (network.addr().to_canonical(), network.prefix_len()) {
        (IpAddr::V4(v4), prefix @ 96..) if network.addr().is_ipv6() => {
            IpNet::new_assert(IpAddr::V4(v4), prefix - 96)
        }
        _ => network,
    };
    canonical.trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expression as it is printed, or the column and what was expected there.
    fn read(text: &str) -> Result<String, (usize, &'static str)> {
        let expr = text.parse::<Expr>();
        expr.map(|expr| expr.to_string()).map_err(|error| (error.column, error.expected))
    }

    #[track_caller]
    fn reads(text: &str, printed: &str) {
        assert_eq!(read(text), Ok(printed.to_owned()), "{text}");
    }

    #[track_caller]
    fn fails(text: &str, column: usize, expected: &str) {
        let (at, said) = read(text).unwrap_err();
        assert_eq!(at, column, "{text}: {said}");
        assert!(said.contains(expected), "{text}: {said}");
    }

    #[test]
    fn it_reads_what_users_of_ss_type() {
        reads(
            "dst 10.0.0.0/8 and dport = :443 and not timestamps",
            "dst 10.0.0.0/8 and dport = :443 and not timestamps",
        );
        reads("( dport = :80 or sport = :1 )", "dport = :80 or sport = :1");
        reads(
            "dport eq 22 or dport == 23 or dport :24",
            "dport = :22 or dport = :23 or dport = :24",
        );
        reads("sport >= :1024 & sport leq 2000", "sport >= :1024 and sport <= :2000");
        reads("dport gt 1 dport lt :9 dport ne 5", "dport > :1 and dport < :9 and dport != :5");
        reads("dst 10.2.0.2:8080", "dst 10.2.0.2 and dport = :8080");
        reads("dst [2001:db8::2]:443", "dst 2001:db8::2 and dport = :443");
        reads("dst [2001:db8::]/32:443", "dst 2001:db8::/32 and dport = :443");
        reads("src :22 | dst *:22", "sport = :22 or dport = :22");
        reads("src != 10.1.2.3/16", "not src 10.1.0.0/16");
        reads("dst ::ffff:10.0.0.0/104", "dst 10.0.0.0/8");
        reads("!timestamps autobound", "not timestamps and autobound");
        reads("failed and dport 443", "failed and dport = :443");
        reads("state time-wait role server", "state time-wait and role server");
    }

    #[test]
    fn it_reads_what_ss_cannot_know() {
        reads("blocked", "blocked");
        reads("blocked no-peer-timestamps", "blocked no-peer-timestamps");
        reads("blocked reuse_off", "blocked reuse-off");
        reads("blocked and uid 0", "blocked and uid 0");
        reads(
            "netns = web and cgroup /system.slice/x.service",
            "netns web and cgroup /system.slice/x.service",
        );
        reads(r#"cgroup "/a (b)" or netns 4026531840"#, r#"cgroup "/a (b)" or netns 4026531840"#);
    }

    #[test]
    fn not_binds_closer_than_and_and_and_closer_than_or() {
        reads("not uid 1 uid 2 or uid 3", "not uid 1 and uid 2 or uid 3");
        reads("not (uid 1 and (uid 2 or uid 3))", "not (uid 1 and (uid 2 or uid 3))");
        reads("(uid 1 or uid 2) and uid 3", "(uid 1 or uid 2) and uid 3");
        reads("((uid 1) and (uid 2 and uid 3))", "uid 1 and uid 2 and uid 3");
    }

    #[test]
    fn nothing_means_every_socket() {
        reads("", "");
        reads(" \t", "");
        reads("dst *", "");
        reads("! dst *", "not dst *");
        reads("dst * or uid 1", "dst * or uid 1");
    }

    #[test]
    fn an_error_is_at_the_first_character_that_does_not_fit() {
        fails("dport = 44x", 8, "a port, such as :443");
        fails("dport = :70000", 8, "a port");
        fails("dst 10.0.0.0/33", 4, "a network");
        fails("dst 10.0.0.1 and", 16, "a term");
        fails("dst 10.0.0.1 foo", 13, "a term");
        fails("(uid 1", 6, ")");
        fails("uid 1)", 5, "the end");
        fails("uid > 5", 4, "= or !=");
        fails("uid x", 4, "a uid");
        fails("state established", 6, "time-wait or fin-wait-2");
        fails("blocked fin-wait2", 8, "a term");
        fails("dst 2001:db8::2:443:1:2:3:4:5", 4, "an address");
        fails("dst é", 4, "an address");
        fails(&"(".repeat(100), 65, "64 levels");
    }

    #[test]
    fn the_grammar_has_every_word_that_is_expected() {
        let list = A_TERM.split(['(', ')']).nth(1).unwrap();
        let told: Vec<&str> = GRAMMAR.split([' ', ',', '\n']).collect();
        for word in list.split(", ") {
            assert!(told.contains(&word), "{word}");
        }
    }

    #[test]
    fn an_error_shows_the_place() {
        let error = "dst 10.0.0.0/8 and dport = 44x".parse::<Expr>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected a port, such as :443\n  dst 10.0.0.0/8 and dport = 44x\n  \
             \x20                          ^"
        );
    }
}
