//! Owns where Redis is, as the settings say: one server, several of which one takes writes, or Sentinels that say which.

use crate::secret::Secret;

/// The port of a Sentinel that is named without one.
const SENTINEL_PORT: &str = "26379";
/// What a URL of Sentinels has between its scheme's name and its end.
const SENTINEL: &str = "+sentinel";

/// Where the server is that takes writes, or who knows.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// One server, whatever it is.
    One(Secret),
    /// The one of these that takes writes; if they are of a cluster, any of them.
    Several(Vec<Secret>),
    /// The one that these say.
    Sentinel(Sentinels),
    /// A server of a cluster that is known.
    Node(Secret),
}

/// Sentinels, and whom they watch.
#[derive(Debug, Clone)]
pub(super) struct Sentinels {
    pub all: Vec<Secret>,
    /// The name of the primary.
    pub name: String,
    /// As the primary's URL, of another host.
    like: Secret,
    path: String,
}

impl Sentinels {
    /// The URL of a server that they name.
    pub fn server(&self, host: &str, port: &str) -> Secret {
        let scheme = self.like.parts().map_or("redis", |(scheme, ..)| scheme);
        self.like.at(scheme, &join(host, port), &self.path)
    }
}

/// A host with its port.
pub(super) fn join(host: &str, port: &str) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

impl Source {
    /// What a URL means.
    pub fn read(url: &Secret) -> Result<Self, String> {
        let mut addresses = url.addresses();
        let is_sentinel = |one: &Secret| {
            let scheme = one.parts().map_or("", |(scheme, ..)| scheme);
            scheme.ends_with(SENTINEL)
        };
        match addresses.as_slice() {
            [] => Err("expected redis://host:port/database".to_owned()),
            all if all.iter().all(is_sentinel) => sentinels(all).map(Self::Sentinel),
            all if all.iter().any(is_sentinel) => {
                Err("expected Sentinels alone, or servers alone".to_owned())
            }
            [_] => Ok(Self::One(addresses.remove(0))),
            _ => Ok(Self::Several(addresses)),
        }
    }

    /// Whether there is more than one server to choose from.
    pub fn follows(&self) -> bool {
        matches!(self, Self::Several(_) | Self::Sentinel(_))
    }

    /// Every URL that is connected to first.
    pub fn first(&self) -> &[Secret] {
        match self {
            Self::One(url) | Self::Node(url) => std::slice::from_ref(url),
            Self::Several(all) => all,
            Self::Sentinel(sentinels) => &sentinels.all,
        }
    }
}

fn sentinels(urls: &[Secret]) -> Result<Sentinels, String> {
    let expected = || {
        let form = "redis+sentinel://host:26379,host:26379/NAME/database";
        format!("expected {form}, where NAME is the primary's for its Sentinels")
    };
    let first = urls.first().ok_or_else(expected)?;
    let (scheme, _, path) = first.parts().ok_or_else(expected)?;
    let scheme = scheme.strip_suffix(SENTINEL).unwrap_or(scheme);
    let path = path.trim_matches('/');
    let (name, database) = path.split_once('/').unwrap_or((path, ""));
    if name.is_empty() {
        return Err(expected());
    }
    let plain = |url: &Secret| {
        let (_, host, _) = url.parts()?;
        let port = host.rsplit_once(':').map(|(_, port)| port);
        let has_port = port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        let host = match has_port {
            true => host.to_owned(),
            false => format!("{host}:{SENTINEL_PORT}"),
        };
        Some(url.at(scheme, &host, ""))
    };
    let all: Option<Vec<Secret>> = urls.iter().map(plain).collect();
    let all = all.ok_or_else(expected)?;
    Ok(Sentinels {
        like: all.first().cloned().ok_or_else(expected)?,
        all,
        name: name.to_owned(),
        path: format!("/{database}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_what_there_is_to_choose_from() {
        let read = |url: &str| Source::read(&Secret::new(url));
        assert!(matches!(read("redis://a/0"), Ok(Source::One(_))));
        let several = read("redis://:x@a,b:1/0").expect("servers");
        assert!(several.follows() && several.first().len() == 2);
        for wrong in ["redis+sentinel://a,b", "redis://a,redis+sentinel://b/x", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sentinels_are_asked_and_name_a_server_with_the_users_password() {
        let url = Secret::new("rediss+sentinel://kiln:p@a,[::1]:5,b:6/main/3");
        let Ok(Source::Sentinel(sentinels)) = Source::read(&url) else {
            panic!("they are Sentinels")
        };
        let asked: Vec<&str> = sentinels.all.iter().map(Secret::expose).collect();
        assert_eq!(
            asked,
            [
                "rediss://kiln:p@a:26379",
                "rediss://kiln:p@[::1]:5",
                "rediss://kiln:p@b:6"
            ]
        );
        assert_eq!(sentinels.name, "main");
        let server = sentinels.server("10.0.0.7", "6379");
        assert_eq!(server.expose(), "rediss://kiln:p@10.0.0.7:6379/3");
        let server = sentinels.server("::7", "6379");
        assert_eq!(server.host(), "rediss://[::7]:6379/3");
    }
}
