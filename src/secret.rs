//! Owns values that must never be shown: connection URLs and the passwords in them.
//!
//! Promises that neither `Debug`, `Display` nor serialisation of a [`Secret`] gives its value away. Refuses
//! to hand it out except through [`Secret::expose`], so that every use can be found.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// What is printed in place of a password.
const HIDDEN: &str = "***";

/// A connection URL with credentials.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
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

    /// Where the URL points, without user, password and query: `amqp://host:port/vhost`.
    pub fn host(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return HIDDEN.to_owned();
        };
        // A password may hold '@' or '/' unescaped: everything up to the last '@' counts as credentials.
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let host = host.split(['?', '#']).next().unwrap_or_default();
        format!("{scheme}://{host}")
    }

    /// The password between `user:` and `@`, if there is one.
    fn password(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        let (user, _) = rest.rsplit_once('@')?;
        user.split_once(':')
            .map(|(_, password)| password)
            .filter(|p| !p.is_empty())
    }

    /// Takes this URL and its password out of a text, such as an error of a client library.
    pub fn scrub(&self, text: &str) -> String {
        let text = text.replace(&self.0, &self.host());
        match self.password() {
            Some(password) => text.replace(password, HIDDEN),
            None => text,
        }
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
}
