//! One value of a table that programs read, and how each format writes it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

use crate::failures::comm_text;

/// One value. It owns nothing, and what it looks like is written where it is wanted: there are
/// millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not known.
    Null,
    /// A word of a small vocabulary.
    Word(&'static str),
    /// Any text.
    Text(&'a str),
    /// Name of a process, padded with zeroes.
    Comm([u8; 16]),
    /// An address.
    Address(IpAddr),
    /// An address and a port.
    Endpoint(SocketAddr),
    /// A kernel address.
    Pointer(u64),
    /// A number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// First and last port of a range.
    Ports(u16, u16),
    /// A time of day, microseconds since 1970.
    Time(i64),
}

/// A number; none is as large as what does not fit.
pub fn number(number: impl TryInto<i64>) -> Field<'static> {
    Field::Number(number.try_into().unwrap_or(i64::MAX))
}

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Word(word) => serializer.serialize_str(word),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::Ports(low, high) => [low, high].serialize(serializer),
            Self::Comm(_)
            | Self::Address(_)
            | Self::Endpoint(_)
            | Self::Pointer(_)
            | Self::Time(_) => serializer.collect_str(self),
        }
    }
}

/// The text of a field outside JSON.
impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Word(word) => f.write_str(word),
            Self::Text(text) => f.write_str(text),
            Self::Comm(comm) => f.write_str(&comm_text(comm)),
            Self::Address(address) => address.fmt(f),
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Pointer(pointer) => write!(f, "{pointer:#x}"),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::Ports(low, high) => write!(f, "{low}-{high}"),
            Self::Time(micros) => {
                let since = Duration::from_micros(u64::try_from(*micros).unwrap_or(0));
                match SystemTime::UNIX_EPOCH.checked_add(since) {
                    // Beyond the year 9999 there is no such notation.
                    Some(time) if since.as_secs() < 253_402_300_800 => {
                        humantime::format_rfc3339_micros(time).fmt(f)
                    }
                    _ => micros.fmt(f),
                }
            }
        }
    }
}
