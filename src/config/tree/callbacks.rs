//! Owns the settings of callbacks, and which `callback_url` they allow.
//!
//! Promises that a host is allowed as it is listed and no other way: a port that isn't the scheme's own is listed with it. Refuses to look names up.

use super::StoredJobs;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use url::Url;

/// How jobs' ends are posted to whoever asked for that by `callback_url`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    /// Hosts that a job's `callback_url` may name, such as `hooks.example`, or `hooks.example:8443` for another port than the scheme's own; by `https`
    /// alone. At private addresses they aren't reached. None here and in `private_hosts`: every `callback_url` is refused.
    pub hosts: Vec<String>,
    /// The same for hosts that may be at private addresses, and asked by `http` as well: of this machine, of a local network.
    pub private_hosts: Vec<String>,
    /// What callbacks are signed with, 32 to 256 characters; needed where a host is listed that no receiver below has.
    pub secret: Option<Secret>,
    /// Receivers with a secret of their own, by name.
    pub receivers: BTreeMap<String, CallbackReceiver>,
    /// Longest time for one callback, from looking up the host's name to the answer, in milliseconds.
    pub timeout_ms: u64,
    /// Callbacks that this worker posts at the same time.
    pub at_once: usize,
    /// The same to one host.
    pub at_once_per_host: usize,
    /// Wait before the second try, in milliseconds; each further one is twice as long, up to an hour, less a random part.
    pub first_wait_ms: u64,
    /// Tries of a callback before it is given up.
    pub max_tries: u32,
    /// Time after a job's end at which its callback is given up, in seconds.
    pub max_age_seconds: u64,
    /// Callbacks that may wait, of all workers; the oldest beyond are given up.
    pub max_waiting: u32,
}

/// A receiver of callbacks whose secret no other receiver knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallbackReceiver {
    /// Hosts of `hosts` and `private_hosts` that are this receiver's, as they are listed there.
    pub hosts: Vec<String>,
    /// What callbacks to them are signed with, 32 to 256 characters.
    pub secret: Secret,
}

impl Default for Callbacks {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            private_hosts: Vec::new(),
            secret: None,
            receivers: BTreeMap::new(),
            timeout_ms: 10_000,
            at_once: 16,
            at_once_per_host: 4,
            first_wait_ms: 5_000,
            max_tries: 45,
            max_age_seconds: 86_400,
            max_waiting: 100_000,
        }
    }
}

impl Callbacks {
    /// Whether there are any.
    pub fn are_on(&self) -> bool {
        self.listed().next().is_some()
    }

    /// Every host that may be posted to.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        let all = self.hosts.iter().chain(&self.private_hosts);
        all.map(String::as_str)
    }

    /// What callbacks to a listed host are signed with: its receiver's secret, or else the common one.
    pub fn secret_of(&self, host: &str) -> Option<&Secret> {
        let mut receivers = self.receivers.values();
        let own = receivers.find(|one| one.hosts.iter().any(|listed| listed == host));
        own.map(|one| &one.secret).or(self.secret.as_ref())
    }

    /// Whether a listed host may be at a private address.
    pub fn may_be_private(&self, host: &str) -> bool {
        self.private_hosts.iter().any(|listed| listed == host)
    }

    /// The host of a URL, as it is listed. An error is why nothing is posted there, and says nothing of the URL.
    pub fn host_of(&self, url: &str, jobs: StoredJobs) -> Result<&str, &'static str> {
        if !self.are_on() {
            return Err("callbacks are off here: the settings list no host for them");
        }
        if jobs == StoredJobs::Ledger {
            return Err(
                "there are no callbacks here: store.jobs = \"ledger\" keeps no results to post",
            );
        }
        let url = Url::parse(url).map_err(|_| "expected http:// or https:// with a host")?;
        let host = host(&url);
        let mut listed = self.listed();
        let found = host.and_then(|host| listed.find(|one| *one == host));
        let found = found.ok_or("expected a host that callbacks.hosts or callbacks.private_hosts lists, with its port where that is another one than its scheme's")?;
        match url.scheme() == "https" || self.may_be_private(found) {
            true => Ok(found),
            false => Err("expected https:// for a host of callbacks.hosts"),
        }
    }
}

/// How the host of a URL is listed: with its port, where that isn't the scheme's own.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// Whether a text is a host as it is to be listed: what a URL of that host has.
pub(in crate::config) fn is_listable(text: &str) -> bool {
    let url = |scheme: &str| Url::parse(&format!("{scheme}://{text}/")).ok();
    let is_whole =
        |url: &Url| url.path() == "/" && url.username().is_empty() && url.password().is_none();
    // A star is a letter of a host's name to URLs, and would be taken for any name by whoever lists it.
    !text.contains('*')
        && [url("http"), url("https")]
            .iter()
            .flatten()
            .any(|url| is_whole(url) && host(url).as_deref() == Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_allowed_as_it_is_listed_and_no_other_way() {
        let settings = Callbacks {
            hosts: vec!["hooks.example".into(), "hooks.example:8443".into()],
            private_hosts: vec!["127.0.0.1:9000".into(), "[::1]".into()],
            ..Callbacks::default()
        };
        let of = |url: &str| settings.host_of(url, StoredJobs::All);
        for (url, host) in [
            ("https://hooks.example/a?b", "hooks.example"),
            ("https://HOOKS.example:443", "hooks.example"),
            ("https://hooks.example:8443/", "hooks.example:8443"),
            ("http://0x7f.1:9000/", "127.0.0.1:9000"),
            ("https://[0:0::1]/", "[::1]"),
        ] {
            assert_eq!(of(url), Ok(host), "{url}");
        }
        for url in [
            "https://hooks.example.evil/",
            "https://evil.hooks.example/",
            "https://hooks.example./",
            "http://hooks.example/",
            "http://hooks.example:8443/",
            "https://hooks.example:444/",
            "http://hooks.example:443/",
            "http://127.0.0.1/",
            "https://evil/hooks.example",
            "https://evil?hooks.example",
            "nothing",
        ] {
            assert!(of(url).is_err(), "{url}");
        }
        assert!(settings.may_be_private("[::1]") && !settings.may_be_private("hooks.example"));
        let url = "https://hooks.example/";
        let kept = settings.host_of(url, StoredJobs::Ledger);
        assert!(kept.is_err_and(|why| why.contains("store.jobs")));
        let off = Callbacks::default();
        let off = off.host_of(url, StoredJobs::All);
        assert!(off.is_err_and(|why| why.contains("off")));
    }

    #[test]
    fn a_host_is_listed_as_urls_have_it() {
        for good in ["a", "a.example:8443", "127.0.0.1:80", "[::1]", "a:443"] {
            assert!(is_listable(good), "{good}");
        }
        for bad in [
            "",
            "A.example",
            "https://a",
            "a/",
            "a/b",
            "*.a",
            "a b",
            "u@a",
            "a:",
            "a:x",
            "::1",
            "0x7f.1",
            "a?b",
        ] {
            assert!(!is_listable(bad), "{bad}");
        }
    }
}
