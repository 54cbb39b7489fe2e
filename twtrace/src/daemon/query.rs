//! What a request asks for, read from its path and query.

use std::{fmt::Display, str::FromStr, time::Duration};

use clap::ValueEnum;
use percent_encoding::percent_decode_str;

use crate::{
    filter::{Expr, PeerAddress},
    host::cgroup,
    kernel::find_known_namespace,
    summary::{RowChoice, SortKey},
};

/// Rows of a page when the client does not say.
const ROWS: usize = 100;
/// Most rows of a page.
pub const MAX_ROWS: usize = 1000;
/// Most conditions of a filter: on rows it is asked of each, by the thread that counts.
const MAX_CONDITIONS: usize = 64;
/// Shortest time between two summaries of a stream.
const MIN_INTERVAL: Duration = Duration::from_millis(250);

/// A request that cannot be understood; the message says what can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuery(pub String);

/// The parameters of a query, each of them known to whoever reads it.
#[derive(Debug)]
pub struct Query<'a> {
    pairs: Vec<(String, String)>,
    known: &'a [&'a str],
}

impl<'a> Query<'a> {
    /// Reads a query that may hold each of the `known` parameters once.
    ///
    /// # Errors
    /// [`BadQuery`] for others, and for one that is given twice.
    pub fn read(query: Option<&str>, known: &'a [&'a str]) -> Result<Self, BadQuery> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let may = match known {
                    [] => "this takes none".to_owned(),
                    known => format!("known are {}", known.join(", ")),
                };
                return Err(BadQuery(format!("unknown parameter {name}: {may}")));
            }
            if pairs.iter().any(|(given, _)| *given == name) {
                return Err(BadQuery(format!("{name} is given twice")));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { pairs, known })
    }

    /// A parameter's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(self.known.contains(&name), "{name} is not among the known");
        self.pairs.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// A parameter, if it is given.
    ///
    /// # Errors
    /// [`BadQuery`], saying what its type wants.
    pub fn value<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, BadQuery> {
        let read = |text: &str| {
            text.parse().map_err(|error| BadQuery(format!("{name}={text} is not usable: {error}")))
        };
        self.text(name).map(read).transpose()
    }

    /// Which rows are wanted: `sort`, `top`, `skip`, `peer`, `filter`.
    ///
    /// # Errors
    /// [`BadQuery`].
    pub fn rows(&self) -> Result<RowChoice, BadQuery> {
        let top = self.value::<usize>("top")?.unwrap_or(ROWS);
        if top > MAX_ROWS {
            return Err(BadQuery(format!(
                "top={top} is too many: at most {MAX_ROWS} rows come at once, the others with skip"
            )));
        }
        let peer = self.value::<PeerAddress>("peer")?;
        Ok(RowChoice {
            peer,
            filter: self.row_filter()?,
            skip: self.value::<usize>("skip")?.unwrap_or(0),
            top: Some(top),
            sort: self.sort()?,
            with_past: peer.is_some(),
            by: None,
        })
    }

    fn sort(&self) -> Result<SortKey, BadQuery> {
        let Some(text) = self.text("sort") else { return Ok(SortKey::default()) };
        SortKey::from_str(text, false).map_err(|_| {
            let values = SortKey::value_variants().iter().filter_map(SortKey::to_possible_value);
            let names: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
            BadQuery(format!("sort={text} is not known: it is one of {}", names.join(", ")))
        })
    }

    /// Which sockets are wanted: `filter`, in the syntax of `watch`.
    ///
    /// # Errors
    /// [`BadQuery`].
    pub fn filter(&self) -> Result<Expr, BadQuery> {
        let filter = self.value::<Expr>("filter")?.unwrap_or(Expr::ANY);
        let conditions = filter.terms().len();
        if conditions > MAX_CONDITIONS {
            return Err(BadQuery(format!(
                "filter has {conditions} conditions: at most {MAX_CONDITIONS} are taken"
            )));
        }
        let netns = |name: &str| {
            let found = find_known_namespace(name).map(u64::from);
            found.map_err(|_| {
                format!("no network namespace {name}: give its name for ip netns, or its number")
            })
        };
        let cgroup = |path: &str| cgroup::id(path).map_err(|error| error.to_string());
        filter.bind(&netns, &cgroup).map_err(|error| BadQuery(error.to_string()))
    }

    /// The same for rows, which stand for peers.
    fn row_filter(&self) -> Result<Expr, BadQuery> {
        let filter = self.filter()?;
        match filter.beyond_peers() {
            None => Ok(filter),
            Some(word) => Err(BadQuery(format!(
                "filter: {word} is known of each socket and not of a peer's row, which adds up \
                 sockets of all; /v1/events takes it"
            ))),
        }
    }

    /// Time between two documents of a stream.
    ///
    /// # Errors
    /// [`BadQuery`].
    pub fn interval(&self) -> Result<Duration, BadQuery> {
        let Some(text) = self.text("interval") else { return Ok(Duration::from_secs(1)) };
        let interval = humantime::parse_duration(text)
            .map_err(|_| BadQuery(format!("interval={text} is no time such as 1s or 5m")))?;
        if interval < MIN_INTERVAL {
            return Err(BadQuery("interval is at least 250ms".into()));
        }
        Ok(interval)
    }
}

/// Parameters of everything that has rows.
pub const ROW_PARAMETERS: [&str; 5] = ["sort", "top", "skip", "peer", "filter"];

/// The parts of a path, each decoded.
///
/// # Errors
/// [`BadQuery`] for what is no UTF-8.
pub fn segments(path: &str) -> Result<Vec<String>, BadQuery> {
    path.trim_start_matches('/')
        .split('/')
        .map(|part| {
            percent_decode_str(part)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| BadQuery(format!("{part} is not UTF-8")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(query: &str) -> Result<RowChoice, String> {
        Query::read(Some(query), &ROW_PARAMETERS)
            .and_then(|query| query.rows())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn rows_are_chosen_as_on_the_command_line() {
        let choice = rows("sort=two-msl&top=5&skip=10&peer=%5B2001:db8::2%5D:443").unwrap();
        assert_eq!((choice.sort, choice.top, choice.skip), (SortKey::TwoMsl, Some(5), 10));
        assert_eq!(choice.peer, Some("[2001:db8::2]:443".parse().unwrap()));
        let filter = rows("filter=dst+10.2.0.0/16+and+not+timestamps").unwrap().filter;
        assert_eq!(filter, "dst 10.2.0.0/16 not timestamps".parse().unwrap());
        assert_eq!(rows("").unwrap(), RowChoice { top: Some(ROWS), ..RowChoice::default() });
    }

    #[test]
    fn what_cannot_be_understood_is_answered_with_what_can() {
        let known = "sort, top, skip, peer, filter";
        assert_eq!(
            rows("order=x").unwrap_err(),
            format!("unknown parameter order: known are {known}")
        );
        assert!(rows("sort=size").unwrap_err().contains("it is one of entered, live"));
        assert!(rows("top=5000").unwrap_err().contains("at most 1000"));
        assert!(rows("top=-1").unwrap_err().starts_with("top=-1 is not usable"));
        assert!(rows("peer=server").unwrap_err().contains("10.2.0.2:8080"));
        assert!(rows("filter=uid+0+or+role+client").unwrap_err().contains("/v1/events takes it"));
        let many = ["timestamps"; MAX_CONDITIONS + 1].join("+");
        assert!(rows(&format!("filter={many}")).unwrap_err().contains("65 conditions: at most 64"));
        assert_eq!(rows("top=1&top=2").unwrap_err(), "top is given twice");
    }

    #[test]
    fn a_filter_tells_of_no_file_of_this_host() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let there = file.path().to_str().unwrap();
        let told = |path: &str| {
            let text = form_urlencoded::Serializer::new(String::new())
                .append_pair("filter", &format!("netns {path}"))
                .finish();
            rows(&text).map(drop).unwrap_err().replace(path, "PATH")
        };
        assert_eq!(told(there), told("/no/such/file"));
        let own = told("/proc/self/ns/net");
        assert_eq!(own, told("/no/such/file"));
        assert!(own.contains("no network namespace PATH: give its name"), "{own}");
    }

    proptest! {
        #[test]
        fn no_query_and_no_path_makes_it_panic(text in ".{0,120}") {
            let _ = rows(&text);
            let filter = form_urlencoded::Serializer::new(String::new())
                .append_pair("filter", &text)
                .finish();
            let _ = Query::read(Some(&filter), &["filter"]).and_then(|query| query.filter());
            let _ = Query::read(Some(&text), &["interval"]).and_then(|query| query.interval());
            let _ = segments(&text);
        }

        #[test]
        fn every_page_asked_for_is_bounded(top in any::<u64>(), skip in any::<u64>()) {
            if let Ok(choice) = rows(&format!("top={top}&skip={skip}")) {
                prop_assert!(choice.top.is_some_and(|top| top <= MAX_ROWS));
            }
        }
    }
}
