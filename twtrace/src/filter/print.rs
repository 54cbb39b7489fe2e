//! From expression to text, in the spelling that is read back as the same expression.

use std::fmt;

use super::{EntryState, Expr, Name, Op, Side, Term};

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eq => "=",
            Self::Ne => "!=",
            Self::Ge => ">=",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Lt => "<",
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) if text.contains(|char: char| !is_plain(char)) => {
                write!(f, "\"{text}\"")
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Whether a character needs no quotes, here and in a shell.
fn is_plain(char: char) -> bool {
    char.is_ascii_alphanumeric() || "/._-:@%+,".contains(char)
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |side: &Side, remote, local| match side {
            Side::Remote => remote,
            Side::Local => local,
        };
        match self {
            Self::Host(side, network) => {
                let whole = network.prefix_len() == network.max_prefix_len();
                let word = word(side, "dst", "src");
                if whole {
                    write!(f, "{word} {}", network.addr())
                } else {
                    write!(f, "{word} {network}")
                }
            }
            Self::Port(side, op, port) => {
                write!(f, "{} {op} :{port}", word(side, "dport", "sport"))
            }
            Self::Timestamps => f.write_str("timestamps"),
            Self::Autobound => f.write_str("autobound"),
            Self::Role(role) => write!(f, "role {}", role.as_str()),
            Self::State(EntryState::TimeWait) => f.write_str("state time-wait"),
            Self::State(EntryState::FinWait2) => f.write_str("state fin-wait-2"),
            Self::Netns(name) => write!(f, "netns {name}"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Cgroup(name) => write!(f, "cgroup {name}"),
            Self::Blocked(None) => f.write_str("blocked"),
            Self::Blocked(Some(block)) => write!(f, "blocked {}", block.key().replace('_', "-")),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Term(term) => term.fmt(f),
            Self::Not(inner) => match **inner {
                Self::Term(_) | Self::Not(_) => write!(f, "not {inner}"),
                _ => write!(f, "not ({inner})"),
            },
            Self::And(parts) => list(f, parts, " and ", |part| matches!(part, Self::Or(_))),
            Self::Or(parts) => list(f, parts, " or ", |_| false),
        }
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    between: &str,
    needs_parentheses: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        f.write_str(if index > 0 { between } else { "" })?;
        if needs_parentheses(part) {
            write!(f, "({part})")?;
        } else {
            write!(f, "{part}")?;
        }
    }
    Ok(())
}
