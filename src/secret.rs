//! Owns values that must never be shown: connection URLs and the passwords in them.
//!
//! Promises that neither `Debug`, `Display` nor serialisation of a [`Secret`] gives its value away. Refuses
//! to hand it out except through [`Secret::expose`], so that every use can be found.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What is printed in place of a password.
const HIDDEN: &str = "***";

/// A connection URL with credentials. It may name several hosts, `amqp://user:password@a:5672,b/vhost`, or be several URLs with commas
/// between them; a list in a settings file is the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value that must not be shown.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the client that connects with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A URL for each host, in the order in which they are given: each has the user, the password, the path and the query that it was given
    /// with. An empty host stays in the list, for the check of the settings to refuse.
    pub fn addresses(&self) -> Vec<Self> {
        urls(&self.0).flat_map(Url::each).map(Self).collect()
    }

    /// The parts of the first URL that say how to speak to which hosts, and of what: scheme, hosts, path.
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let url = urls(&self.0).next()?;
        Some((url.scheme, url.hosts, url.path))
    }

    /// The URL of another host for the same user, with the first one's password and query.
    pub fn at(&self, scheme: &str, host: &str, path: &str) -> Self {
        let url = urls(&self.0).next();
        let user = url.as_ref().and_then(|url| url.user);
        let user = user.map(|user| format!("{user}@")).unwrap_or_default();
        let query = url.map_or("", |url| url.query);
        Self(format!("{scheme}://{user}{host}{path}{query}"))
    }

    /// The same URL without user and password.
    pub fn anonymous(&self) -> Self {
        let url = urls(&self.0).next();
        Self(url.map_or_else(String::new, |url| {
            format!("{}://{}{}{}", url.scheme, url.hosts, url.path, url.query)
        }))
    }

    /// Where the URL points, without user, password and query: `amqp://host:port/vhost`.
    pub fn host(&self) -> String {
        let shown = |url: Url<'_>| format!("{}://{}{}", url.scheme, url.hosts, url.path);
        let all: Vec<String> = urls(&self.0).map(shown).collect();
        match all.is_empty() {
            true => HIDDEN.to_owned(),
            false => all.join(","),
        }
    }

    /// Takes this URL, that of each address, and the passwords in them out of a text, such as an error of a client library.
    pub fn scrub(&self, text: &str) -> String {
        let mut text = text.replace(&self.0, &self.host());
        for one in self.addresses() {
            text = text.replace(&one.0, &one.host());
        }
        for password in urls(&self.0).flat_map(|url| url.passwords()) {
            text = text.replace(password, HIDDEN);
        }
        text
    }
}

/// The parts of a URL that may name several hosts.
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Url<'a> {
    /// A password may hold '@', ',' or '/' unescaped: everything up to the last '@' counts as credentials.
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let (hosts, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some(Self {
            scheme,
            user,
            hosts,
            path,
            query,
        })
    }

    /// Its user's password, and what its query has of the kind.
    fn passwords(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let user = self.user.and_then(|user| user.split_once(':'));
        let query = self.query.split(['?', '#', '&']);
        let query = query.filter_map(|pair| pair.split_once('='));
        let query = query.filter(|(name, _)| name.ends_with("password"));
        let all = user.into_iter().chain(query);
        all.map(|(_, word)| word).filter(|word| !word.is_empty())
    }

    fn each(self) -> impl Iterator<Item = String> {
        let user = self.user.map(|user| format!("{user}@"));
        let user = user.unwrap_or_default();
        self.hosts.split(',').map(move |host| {
            let (scheme, path, query) = (self.scheme, self.path, self.query);
            format!("{scheme}://{user}{host}{path}{query}")
        })
    }
}

/// The URLs of a text that has commas between them. A comma between two hosts of one URL parts nothing: no scheme follows it.
fn urls(text: &str) -> impl Iterator<Item = Url<'_>> {
    let mut rest = Some(text.trim());
    std::iter::from_fn(move || {
        let text = rest?;
        let commas = text.match_indices(',').map(|(at, _)| at);
        let end = commas.into_iter().find(|at| starts_url(&text[at + 1..]));
        rest = end.map(|end| &text[end + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
    .filter_map(Url::parse)
}

fn starts_url(text: &str) -> bool {
    let scheme = text
        .split_once("://")
        .map(|(scheme, _)| scheme.trim_start());
    let is_of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+';
    scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.bytes().all(is_of_scheme))
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a URL, or a list of URLs")]
        enum Given {
            One(String),
            Several(Vec<String>),
        }
        Ok(match Given::deserialize(deserializer)? {
            Given::One(url) => Self(url),
            Given::Several(urls) => Self(urls.join(",")),
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.host())
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_the_host_and_never_the_credentials() {
        let url = Secret::new("amqp://kiln:p@ss/word@broker:5672/%2f?heartbeat=5");
        assert_eq!(url.host(), "amqp://broker:5672/%2f");
        assert_eq!(format!("{url:?}"), "amqp://broker:5672/%2f");
        assert_eq!(
            serde_json::to_string(&url).ok().as_deref(),
            Some("\"amqp://broker:5672/%2f\"")
        );
        assert_eq!(Secret::new("hunter2").host(), HIDDEN);
    }

    #[test]
    fn scrubs_url_and_password_from_foreign_errors() {
        let url = Secret::new("postgres://kiln:hunter2@db/kiln");
        assert_eq!(
            url.scrub("cannot reach postgres://kiln:hunter2@db/kiln (hunter2)"),
            "cannot reach postgres://db/kiln (***)"
        );
    }

    #[test]
    fn gives_each_host_with_what_they_share() {
        let each = |text: &str| -> Vec<String> {
            let addresses = Secret::new(text).addresses();
            addresses.into_iter().map(|one| one.0).collect()
        };
        assert_eq!(
            each("amqp://kiln:p,@ss@a:5672,b,[::1]:5673/v?heartbeat=5"),
            [
                "amqp://kiln:p,@ss@a:5672/v?heartbeat=5",
                "amqp://kiln:p,@ss@b/v?heartbeat=5",
                "amqp://kiln:p,@ss@[::1]:5673/v?heartbeat=5"
            ]
        );
        assert_eq!(
            each("redis://:one@a/0,redis://:two@b,c/1"),
            ["redis://:one@a/0", "redis://:two@b/1", "redis://:two@c/1"]
        );
        assert_eq!(each("redis://a"), ["redis://a"]);
        assert_eq!(each("redis://a,,b"), ["redis://a", "redis://", "redis://b"]);
        assert_eq!(each("nothing"), [""; 0]);
    }

    #[test]
    fn another_host_has_the_same_user_and_query() {
        let url = Secret::new("redis+sentinel://kiln:p@ss@a:1,b:2/main/3?x=1");
        let parts = ("redis+sentinel", "a:1,b:2", "/main/3");
        assert_eq!(url.parts(), Some(parts));
        let other = url.at("redis", "c:6379", "/3");
        assert_eq!(other.0, "redis://kiln:p@ss@c:6379/3?x=1");
        assert_eq!(other.anonymous().0, "redis://c:6379/3?x=1");
    }

    #[test]
    fn a_list_is_one_secret_of_which_nothing_is_shown() {
        let given = r#"["amqp://kiln:one@a/v", "amqp://kiln:two@b/v"]"#;
        let url: Secret = serde_json::from_str(given).expect("a list of URLs");
        assert_eq!(url.host(), "amqp://a/v,amqp://b/v");
        assert_eq!(
            url.scrub("amqp://kiln:two@b/v: refused, one"),
            "amqp://b/v: refused, ***"
        );
    }

    #[test]
    fn scrubs_each_of_several_addresses_with_its_user_and_query() {
        let url = Secret::new("postgres://kiln:one@a,b:5433/kiln?sslmode=require&password=two");
        let said = "postgres://kiln:one@b:5433/kiln?sslmode=require&password=two: refused, two";
        assert_eq!(url.scrub(said), "postgres://b:5433/kiln: refused, ***");
    }
}
