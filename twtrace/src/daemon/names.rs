//! What a client over TCP may call this host.
//!
//! A browser asks whoever a name leads to. Somebody who has a page open in one and lets the page's own
//! name lead to this host would read the metrics with it (DNS rebinding); the name is then his, in the
//! header `Host`. An address cannot be made to lead elsewhere.

use std::net::IpAddr;

use hyper::{Request, header::HOST, http::uri::Authority};

/// The names by which clients may ask, beside addresses and `localhost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNames(Vec<String>);

impl OwnNames {
    /// These, and the name that this host has for itself.
    pub fn with_own(listed: &[String]) -> Self {
        let uname = rustix::system::uname();
        let own = uname.nodename().to_string_lossy().into_owned();
        Self(listed.iter().cloned().chain([own]).collect())
    }

    /// Whether the request calls this host by a name that is its own.
    ///
    /// A request that names nobody is no browser's: HTTP/1.1 wants a name.
    ///
    /// # Errors
    /// A sentence for whoever asked.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), String> {
        let header = request.headers().get(HOST).map(|value| value.as_bytes());
        let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        let given = [header, target];
        let foreign = given.into_iter().flatten().find(|name| !self.has(name));
        foreign.map_or(Ok(()), |name| {
            Err(format!(
                "this host is not known as {}: ask by its address, or add the name to listen_names",
                String::from_utf8_lossy(name)
            ))
        })
    }

    fn has(&self, given: &[u8]) -> bool {
        let Ok(authority) = Authority::try_from(given) else { return false };
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = host.strip_suffix('.').unwrap_or(host);
        let same = |own: &str| own.eq_ignore_ascii_case(name);
        bare.parse::<IpAddr>().is_ok() || same("localhost") || self.0.iter().any(|own| same(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: Option<&str>, target: &str) -> Result<(), String> {
        let mut request = Request::get(target);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        OwnNames(vec!["db1.example.com".into()]).check(&request.body(()).unwrap())
    }

    #[test]
    fn a_host_is_called_by_its_addresses_and_its_own_names() {
        for host in [
            "127.0.0.1",
            "192.0.2.1:9464",
            "[::1]:9464",
            "[2001:db8::1]",
            "localhost:9464",
            "LocalHost",
            "db1.example.com:9464",
            "DB1.example.com.",
        ] {
            assert_eq!(asked(Some(host), "/metrics"), Ok(()), "{host}");
        }
        assert_eq!(asked(None, "/metrics"), Ok(()));
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let request = Request::get("/metrics").header(HOST, &own).body(()).unwrap();
        assert_eq!(OwnNames::with_own(&[]).check(&request), Ok(()));
    }

    #[test]
    fn a_name_that_leads_here_and_is_another_s_is_refused() {
        for host in [
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example@127.0.0.1.x",
            "db1",
            "",
            "a b",
            "2130706433",
        ] {
            assert!(asked(Some(host), "/metrics").is_err(), "{host}");
        }
        let refusal = asked(Some("127.0.0.1"), "http://evil.example/metrics").unwrap_err();
        assert!(refusal.contains("not known as evil.example"), "{refusal}");
        assert!(refusal.contains("listen_names"), "{refusal}");
    }
}
