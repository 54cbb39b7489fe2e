//! From expression to text, in the spelling that is read back as the same expression.

use std::fmt;

use super::parse::op_of_word;
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
            // A bare `eq` would be read as a comparison whose name is missing.
            Self::Text(text) if !text.chars().all(is_plain) || op_of_word(text).is_some() => {
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

impl Term {
    /// The word that a condition begins with.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Host(Side::Remote, _) => "dst",
            Self::Host(Side::Local, _) => "src",
            Self::Port(Side::Remote, ..) => "dport",
            Self::Port(Side::Local, ..) => "sport",
            Self::Timestamps => "timestamps",
            Self::Eligible => "eligible",
            Self::Autobound => "autobound",
            Self::Failed => "failed",
            Self::Role(_) => "role",
            Self::State(_) => "state",
            Self::Netns(_) => "netns",
            Self::Uid(_) => "uid",
            Self::Cgroup(_) => "cgroup",
            Self::Owner(_) => "owner",
            Self::Blocked(_) => "blocked",
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::Host(_, network) if network.prefix_len() == network.max_prefix_len() => {
                write!(f, " {}", network.addr())
            }
            Self::Host(_, network) => write!(f, " {network}"),
            Self::Port(_, op, port) => write!(f, " {op} :{port}"),
            Self::Timestamps
            | Self::Eligible
            | Self::Autobound
            | Self::Failed
            | Self::Blocked(None) => Ok(()),
            Self::Role(role) => write!(f, " {}", role.as_str()),
            Self::State(EntryState::TimeWait) => f.write_str(" time-wait"),
            Self::State(EntryState::FinWait2) => f.write_str(" fin-wait-2"),
            Self::Netns(name) | Self::Cgroup(name) => write!(f, " {name}"),
            Self::Owner(name) => write!(f, " {}", Name::Text(name.clone())),
            Self::Uid(uid) => write!(f, " {uid}"),
            Self::Blocked(Some(block)) => write!(f, " {}", block.key().replace('_', "-")),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Term(term) => term.fmt(f),
            Self::Not(inner) => match **inner {
                Self::Term(_) | Self::Not(_) => write!(f, "not {inner}"),
                _ if **inner == Self::ANY => write!(f, "not {ANY_WITHIN}"),
                _ => write!(f, "not ({inner})"),
            },
            Self::And(parts) => list(f, parts, " and ", |part| matches!(part, Self::Or(_))),
            Self::Or(parts) => list(f, parts, " or ", |_| false),
        }
    }
}

/// Every socket, where an empty text would leave a hole.
const ANY_WITHIN: &str = "dst *";

fn list(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    between: &str,
    needs_parentheses: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        f.write_str(if index > 0 { between } else { "" })?;
        if *part == Expr::ANY {
            f.write_str(ANY_WITHIN)?;
        } else if needs_parentheses(part) {
            write!(f, "({part})")?;
        } else {
            write!(f, "{part}")?;
        }
    }
    Ok(())
}
