//! What may be tried: settings that would have been others, and what a prediction of each rests on.

use std::{fmt, time::Duration};

/// Narrowest and widest that `ip_local_port_range` is set to.
const WIDEST: (u16, u16) = (1024, 65_535);

/// What would have been different; nothing, unless set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remedy {
    /// `tcp_tw_reuse`.
    pub tw_reuse: Option<u8>,
    /// The peer's timestamps would have arrived.
    pub timestamps: bool,
    /// `ip_local_port_range`.
    pub range: Option<(u16, u16)>,
    /// Source addresses that connections take turns with.
    pub sources: Option<u16>,
    /// Programs that bind their address before they connect would have set
    /// `IP_BIND_ADDRESS_NO_PORT`.
    pub bind_address_no_port: bool,
    /// The peer would have closed first.
    pub peer_closes_first: bool,
    /// Connections would have been used again for this long.
    pub keep: Option<Duration>,
}

/// Settings that are understood, each with an example.
pub const EXAMPLES: &str = "tcp_tw_reuse=1, timestamps=1, ip_local_port_range=1024-65535, \
                            source_addresses=2, bind_address_no_port=1, peer_closes_first=1, keep=30s";

impl Remedy {
    /// Takes in one setting, as a user writes it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| format!("{text}: give NAME=VALUE: {EXAMPLES}"))?;
        let wrong = |wanted: &str| format!("{name}={value}: give {wanted}");
        let yes = |wanted: &str| if value == "1" { Ok(true) } else { Err(wrong(wanted)) };
        match name.strip_prefix("net.ipv4.").unwrap_or(name) {
            "tcp_tw_reuse" => {
                let number = value.parse().ok().filter(|number| *number <= 2);
                self.tw_reuse = Some(number.ok_or_else(|| wrong("0, 1 or 2"))?);
            }
            "ip_local_port_range" => {
                let ends = value.split_once(['-', ' ', ',']).and_then(|(low, high)| {
                    Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
                });
                let range = ends.filter(|(low, high)| *low > 0 && low <= high);
                self.range = Some(range.ok_or_else(|| wrong("two ports, such as 1024-65535"))?);
            }
            "source_addresses" => {
                let number = value.parse().ok().filter(|number| (1..=256).contains(number));
                self.sources = Some(number.ok_or_else(|| wrong("a number from 1 to 256"))?);
            }
            "keep" => {
                let time = humantime::parse_duration(value).ok();
                let time = time.filter(|time| (1..=86_400).contains(&time.as_secs()));
                self.keep = Some(time.ok_or_else(|| wrong("a time from 1s to 1day"))?);
            }
            "timestamps" => self.timestamps = yes("1: the peer's timestamps arrive")?,
            "bind_address_no_port" => self.bind_address_no_port = yes("1")?,
            "peer_closes_first" => self.peer_closes_first = yes("1")?,
            _ => return Err(format!("{name} is none that can be tried; there are {EXAMPLES}")),
        }
        Ok(())
    }

    /// Nothing different, then what is worth a try on any host.
    pub fn usual() -> Vec<Self> {
        let none = Self::default;
        vec![
            none(),
            Self { tw_reuse: Some(1), ..none() },
            Self { timestamps: true, ..none() },
            Self { timestamps: true, tw_reuse: Some(1), ..none() },
            Self { range: Some(WIDEST), ..none() },
            Self { sources: Some(2), ..none() },
            Self { bind_address_no_port: true, ..none() },
            Self { bind_address_no_port: true, tw_reuse: Some(1), ..none() },
            Self { peer_closes_first: true, ..none() },
            Self { keep: Some(Duration::from_secs(30)), ..none() },
        ]
    }

    /// Whether nothing is different.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Each part by its name and value.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = Vec::new();
        let mut add = |name, value: Option<String>| {
            settings.extend(value.map(|value| (name, value)));
        };
        let yes = |set: bool| set.then(|| "1".to_owned());
        add("tcp_tw_reuse", self.tw_reuse.map(|value| value.to_string()));
        add("timestamps", yes(self.timestamps));
        add("ip_local_port_range", self.range.map(|(low, high)| format!("{low}-{high}")));
        add("source_addresses", self.sources.map(|number| number.to_string()));
        add("bind_address_no_port", yes(self.bind_address_no_port));
        add("peer_closes_first", yes(self.peer_closes_first));
        add("keep", self.keep.map(|time| humantime::format_duration(time).to_string()));
        settings
    }

    /// What its prediction takes for granted or does not know, a sentence each.
    pub fn caveats(&self) -> Vec<&'static str> {
        let all = [
            (
                self.tw_reuse.is_some(),
                "tcp_tw_reuse: of sockets whose timestamps were not known at the entry it is taken that \
                 there were none.",
            ),
            (
                self.timestamps,
                "timestamps: takes it that every peer would send them, and that whatever strips them can \
                 be told not to.",
            ),
            (
                self.range.is_some(),
                "ip_local_port_range: programs that set a range of their own are left as they are; \
                 whether a listener sits in the new range is not known.",
            ),
            (
                self.sources.is_some(),
                "source_addresses: takes it that connections take turns evenly; the kernel does not do \
                 that by itself, the program or its proxy has to.",
            ),
            (
                self.bind_address_no_port,
                "bind_address_no_port: for programs that bind an address without a port; a refused bind() \
                 tells no peer, so it is taken to be one of the last that ports were bound for, in turn.",
            ),
            (
                self.peer_closes_first,
                "peer_closes_first: the peer has the TIME_WAIT sockets then; whether it has room for them \
                 is not known.",
            ),
            (
                self.keep.is_some(),
                "keep: how long each connection was in use is not known; as many are taken to be in use at \
                 once as were open when that was looked at, and one at least.",
            ),
        ];
        all.into_iter().filter(|(set, _)| *set).map(|(_, sentence)| sentence).collect()
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("as it was");
        }
        for (index, (name, value)) in self.settings().into_iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// What every prediction rests on, and what none of them knows.
pub const BASIS: [&str; 5] = [
    "Every entry that was seen is replayed at its time, and every connect() that failed is taken for a \
     connection that was wanted then: a program that tried again and again counts each time. Of more than a few \
     that failed within a second only the number is known, and they are taken to have come evenly.",
    "A connection takes its port when its socket enters TIME_WAIT; how long it was open before is not \
     known. Open connections count as they were when that was looked at.",
    "Ports are counted, not named: what a listener or a bound port takes out of the range beyond that is \
     not in it. Programs that name their own ports are left out.",
    "FIN_WAIT2 mini-sockets count as TIME_WAIT from their entry on. tcp_tw_recycle is left as it was.",
    "The row `as it was` is the same model with nothing changed: how near it is to what was recorded tells \
     how far to trust the others.",
];

/// The same where refused `bind()` calls are not seen.
pub const UNSEEN: &str = "Refused bind() calls were not seen, as through tracepoints: who failed by \
                          them is none of the calls.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_sets_is_what_is_told() {
        let mut remedy = Remedy::default();
        assert_eq!(remedy.to_string(), "as it was");
        for setting in EXAMPLES.split(", ") {
            remedy.set(setting).unwrap();
        }
        assert_eq!(remedy.to_string(), EXAMPLES.replace(", ", " "));
        assert_eq!(remedy.caveats().len(), 7);
        remedy.set("net.ipv4.tcp_tw_reuse=0").unwrap();
        assert_eq!(remedy.tw_reuse, Some(0));
    }

    #[test]
    fn what_cannot_be_tried_is_told_with_what_can() {
        let wrong = |text: &str| Remedy::default().set(text).unwrap_err();
        for text in ["tcp_tw_reuse=3", "ip_local_port_range=9-8", "keep=0s", "timestamps=yes"] {
            assert!(wrong(text).contains("give"), "{}", wrong(text));
        }
        assert!(wrong("tcp_tw_recycle=1").contains("keep=30s"));
        assert!(wrong("tcp_tw_reuse").contains("NAME=VALUE"));
    }
}
