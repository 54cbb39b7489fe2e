//! What a key's value may be, and how it is read from text.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use clap::ValueEnum;

use super::choice::{Attach, WhichObject};
use crate::{attached::TypesFrom, diagnose::egress::Egress};

/// How the file writes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In quotes.
    Text,
    /// A whole number.
    Number,
    /// In quotes with its unit, or a whole number of MiB.
    Size,
    /// A table each; as text the keys of one with `=` and their values, several with `;` between.
    Tables,
}

/// A type of values.
pub trait Value: Sized {
    /// What stands for it in help texts.
    const NAME: &'static str;
    /// How the file writes it.
    const SHAPE: Shape = Shape::Text;

    /// Reads it.
    ///
    /// # Errors
    /// What is wanted instead, as the end of a sentence.
    fn read(text: &str) -> Result<Self, String>;

    /// Writes it as it can be read again, in the precision people want.
    fn show(&self) -> String;
}

/// Refuses a value outside of a range.
pub fn within<T: Value + PartialOrd>(value: &T, range: &RangeInclusive<T>) -> Result<(), String> {
    if range.contains(value) {
        return Ok(());
    }
    Err(format!("must be from {} to {}", range.start().show(), range.end().show()))
}

/// A value that may be absent: the word `none`.
impl<T: Value> Value for Option<T> {
    const NAME: &'static str = T::NAME;
    const SHAPE: Shape = T::SHAPE;

    fn read(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(None) } else { T::read(text).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".into(), T::show)
    }
}

impl Value for String {
    const NAME: &'static str = "NAME";

    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".into()) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// Addresses that connections leave through, one or several with `;` between.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Egresses(pub Vec<Egress>);

impl Value for Egresses {
    const NAME: &'static str = "DESCRIPTION";
    const SHAPE: Shape = Shape::Tables;

    fn read(text: &str) -> Result<Self, String> {
        text.split(';').map(str::parse).collect::<Result<_, _>>().map(Self)
    }

    fn show(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl Value for PathBuf {
    const NAME: &'static str = "FILE";

    fn read(text: &str) -> Result<Self, String> {
        let path = Self::from(text);
        if path.is_absolute() { Ok(path) } else { Err("must be a path that begins with /".into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// Whole numbers.
macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl Value for $type {
            const NAME: &'static str = "N";
            const SHAPE: Shape = Shape::Number;

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("must be a whole number up to {}", Self::MAX))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
numbers!(u32, usize);

impl Value for Duration {
    const NAME: &'static str = "TIME";

    fn read(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map_err(|_| "must be a time such as 500ms, 30s or 6h".into())
    }

    fn show(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

impl Value for ByteSize {
    const NAME: &'static str = "SIZE";
    const SHAPE: Shape = Shape::Size;

    fn read(text: &str) -> Result<Self, String> {
        let alone = text.parse::<u64>().ok();
        let read = match alone {
            Some(mib) => mib.checked_mul(1 << 20).map(Self::b),
            None => text.parse().ok(),
        };
        read.ok_or_else(|| "must be a size such as 512KiB or 8MiB; a number alone is MiB".into())
    }

    fn show(&self) -> String {
        self.display().iec().to_string()
    }
}

impl Value for TypesFrom {
    const NAME: &'static str = "FILE";

    fn read(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Kernel),
            "none" => Ok(Self::Nowhere),
            path => PathBuf::read(path)
                .map(Self::File)
                .map_err(|error| format!("{error}, auto or none")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Kernel => "auto".into(),
            Self::Nowhere => "none".into(),
            Self::File(path) => path.show(),
        }
    }
}

/// Values that are one of a few words.
macro_rules! words {
    ($($type:ty),+) => {$(
        impl Value for $type {
            const NAME: &'static str = "WHICH";

            fn read(text: &str) -> Result<Self, String> {
                <$type as ValueEnum>::from_str(text, false)
                    .map_err(|_| format!("must be one of {}", possible::<$type>()))
            }

            fn show(&self) -> String {
                self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
            }
        }
    )+};
}
words!(Attach, WhichObject, LogLevel);

/// The words a value may be.
fn possible<T: ValueEnum>() -> String {
    let values = T::value_variants().iter().filter_map(T::to_possible_value);
    values.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(", ")
}

/// Access mode of a file, at most 0777.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Value for Mode {
    const NAME: &'static str = "MODE";

    fn read(text: &str) -> Result<Self, String> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| digits && *mode <= 0o777)
            .map(Self)
            .ok_or_else(|| "must be an octal mode such as 0660".into())
    }

    fn show(&self) -> String {
        format!("{:04o}", self.0)
    }
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Value for Listen {
    const NAME: &'static str = "[ADDR:]PORT";

    fn read(text: &str) -> Result<Self, String> {
        let on_loopback = |port: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let address = text.parse().ok().or_else(|| text.parse().ok().map(on_loopback));
        address.map(Self).ok_or_else(|| {
            "must be a port, or an address and port such as 127.0.0.1:9464 or [::1]:9464".into()
        })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Names of this host, one after the other with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNames(pub Vec<String>);

impl Value for HostNames {
    const NAME: &'static str = "NAME[,NAME]";

    fn read(text: &str) -> Result<Self, String> {
        let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let is_name = |name: &String| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !name.is_empty() && name.bytes().all(known)
        };
        if names.iter().all(is_name) {
            return Ok(Self(names));
        }
        Err("must be names such as db1.example.com, with commas between them and no port".into())
    }

    fn show(&self) -> String {
        self.0.join(",")
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what is amiss.
    Warn,
    /// And what an operator wants to know: start, reload, stop.
    Info,
    /// And what helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level as the logger knows it.
    pub const fn filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<T: Value + PartialEq + std::fmt::Debug>(text: &str) -> T {
        let value = T::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(T::read(&value.show()).as_ref(), Ok(&value), "{text} shown and read again");
        value
    }

    #[test]
    fn values_are_read_as_people_write_them_and_survive_being_shown() {
        assert_eq!(again::<ByteSize>("8MiB").as_u64(), 8 << 20);
        assert_eq!(again::<ByteSize>("8 MiB").as_u64(), 8 << 20);
        assert_eq!(again::<ByteSize>("8").as_u64(), 8 << 20, "a number alone is MiB");
        assert_eq!(again::<TypesFrom>("auto"), TypesFrom::Kernel);
        assert_eq!(again::<TypesFrom>("none"), TypesFrom::Nowhere);
        assert_eq!(again::<TypesFrom>("/a"), TypesFrom::File("/a".into()));
        assert_eq!(again::<Duration>("1h 30m").as_secs(), 5400);
        assert_eq!(again::<Mode>("0660"), Mode(0o660));
        assert_eq!(again::<Mode>("600"), Mode(0o600));
        assert_eq!(again::<Listen>("9464").0.to_string(), "127.0.0.1:9464");
        assert_eq!(again::<Listen>("[::1]:1").0.to_string(), "[::1]:1");
        assert_eq!(again::<HostNames>("db1, db1.example.com").0, ["db1", "db1.example.com"]);
        assert_eq!(again::<Option<String>>("none"), None);
        assert_eq!(again::<Option<String>>("adm").as_deref(), Some("adm"));
        assert_eq!(again::<Attach>("kprobe"), Attach::Kprobe);
        assert_eq!(again::<WhichObject>("perf"), WhichObject::Perf);
        assert_eq!(again::<LogLevel>("debug"), LogLevel::Debug);
    }

    #[test]
    fn a_refusal_says_what_is_wanted() {
        let refusals = [
            Mode::read("0999").unwrap_err(),
            Mode::read("+660").unwrap_err(),
            Mode::read("01777").unwrap_err(),
            Listen::read("localhost:80").unwrap_err(),
            HostNames::read("db1:9464").unwrap_err(),
            HostNames::read("db1,").unwrap_err(),
            Duration::read("soon").unwrap_err(),
            ByteSize::read("much").unwrap_err(),
            ByteSize::read("99999999999999999").unwrap_err(),
            TypesFrom::read("vmlinux").unwrap_err(),
            Attach::read("uprobe").unwrap_err(),
            PathBuf::read("twtrace.sock").unwrap_err(),
            u32::read("-1").unwrap_err(),
        ];
        assert!(refusals.iter().all(|text| text.starts_with("must be ")), "{refusals:#?}");
        assert_eq!(refusals[10], "must be one of auto, fentry, kprobe, tracepoint");
    }
}
