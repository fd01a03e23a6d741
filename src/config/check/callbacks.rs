//! Owns the checks of the settings of callbacks: hosts as URLs have them, and for each of them something to sign with that no other receiver knows.

use crate::{
    config::{Callbacks, ConfigError, is_listable},
    secret::Secret,
};
use kiln_contract::name::{NAME_RULE, is_name};
use std::collections::{BTreeMap, BTreeSet};

/// Hosts and receivers that may be listed, and the longest name of a host, in bytes.
const MAX_HOSTS: usize = 64;
const MAX_HOST_BYTES: usize = 260;
/// Characters of a secret that signs.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 32..=256;

fn refuse(name: &'static str, problem: impl Into<String>) -> Result<(), ConfigError> {
    let problem = problem.into();
    Err(ConfigError::OutOfRange { name, problem })
}

pub(super) fn check(callbacks: &Callbacks) -> Result<(), ConfigError> {
    for (name, listed) in [
        ("callbacks.hosts", &callbacks.hosts),
        ("callbacks.private_hosts", &callbacks.private_hosts),
    ] {
        if listed.len() > MAX_HOSTS {
            return refuse(name, format!("expected at most {MAX_HOSTS}"));
        }
        let is_bad = |host: &&String| host.len() > MAX_HOST_BYTES || !is_listable(host);
        if let Some(host) = listed.iter().find(is_bad) {
            let expected = "expected a host as URLs have it, such as hooks.example, hooks.example:8443 or [::1]: lower case, no scheme, no path, no `*`";
            return refuse(name, format!("`{host}`: {expected}"));
        }
    }
    receivers(callbacks)?;
    no_two_are_equal(callbacks)?;
    match &callbacks.secret {
        Some(secret) => good("callbacks.secret", secret),
        None => match callbacks
            .listed()
            .find(|host| callbacks.secret_of(host).is_none())
        {
            Some(host) => refuse(
                "callbacks.secret",
                format!("missing: callbacks to `{host}` are signed, and no receiver has it"),
            ),
            None => Ok(()),
        },
    }
}

fn receivers(callbacks: &Callbacks) -> Result<(), ConfigError> {
    let name = "callbacks.receivers";
    if callbacks.receivers.len() > MAX_HOSTS {
        return refuse(name, format!("expected at most {MAX_HOSTS}"));
    }
    let listed: BTreeSet<&str> = callbacks.listed().collect();
    let mut taken = BTreeSet::new();
    for (receiver, own) in &callbacks.receivers {
        if !is_name(receiver) {
            return refuse(name, format!("`{receiver}` is no name: {NAME_RULE}"));
        }
        for host in &own.hosts {
            if !listed.contains(host.as_str()) {
                let problem = format!(
                    "`{receiver}`: `{host}` is listed neither in callbacks.hosts nor in callbacks.private_hosts"
                );
                return refuse(name, problem);
            }
            if !taken.insert(host) {
                return refuse(name, format!("`{host}` has two secrets"));
            }
        }
        good("callbacks.receivers.*.secret", &own.secret)?;
    }
    Ok(())
}

/// Who knows a secret signs as everybody who has the same.
fn no_two_are_equal(callbacks: &Callbacks) -> Result<(), ConfigError> {
    let common = callbacks.secret.iter();
    let common = common.map(|secret| ("callbacks.secret".to_owned(), secret));
    let own = callbacks.receivers.iter().map(|(receiver, own)| {
        let field = format!("callbacks.receivers.{receiver}.secret");
        (field, &own.secret)
    });
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    for (field, secret) in common.chain(own) {
        if let Some(other) = fields.get(secret.expose()) {
            let problem = format!("{other} and {field} are equal: each receiver has its own");
            return refuse("callbacks.receivers.*.secret", problem);
        }
        fields.insert(secret.expose(), field);
    }
    Ok(())
}

/// What looks like a URL would be shown as one.
fn good(name: &'static str, secret: &Secret) -> Result<(), ConfigError> {
    let secret = secret.expose();
    if SECRET_BYTES.contains(&secret.len()) && !secret.contains("://") {
        return Ok(());
    }
    refuse(name, "expected 32 to 256 characters without `://`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CallbackReceiver;

    fn receiver(hosts: &[&str], secret: char) -> CallbackReceiver {
        CallbackReceiver {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            secret: Secret::new(secret.to_string().repeat(32)),
        }
    }

    #[test]
    fn every_listed_host_has_one_secret_its_own_or_the_common_one() {
        let mut callbacks = Callbacks {
            hosts: vec!["a.example".into(), "b.example".into()],
            private_hosts: vec!["c:80".into()],
            ..Callbacks::default()
        };
        let said = |callbacks: &Callbacks| check(callbacks).expect_err("refused").to_string();
        assert!(
            said(&callbacks).contains("`a.example`"),
            "{}",
            said(&callbacks)
        );
        callbacks.receivers = [("crm".to_owned(), receiver(&["a.example", "c:80"], 'x'))].into();
        assert!(said(&callbacks).contains("`b.example`"));
        callbacks.secret = Some(Secret::new("y".repeat(32)));
        check(&callbacks).expect("each has one");
        let of = |host: &str| callbacks.secret_of(host).map(|one| one.expose().to_owned());
        assert_eq!(of("c:80"), Some("x".repeat(32)));
        assert_eq!(of("b.example"), Some("y".repeat(32)));

        let mut two = callbacks.clone();
        two.receivers
            .insert("shop".into(), receiver(&["c:80"], 'z'));
        assert!(said(&two).contains("two secrets"));
        let mut unlisted = callbacks.clone();
        unlisted
            .receivers
            .insert("shop".into(), receiver(&["d.example"], 'z'));
        assert!(said(&unlisted).contains("`d.example` is listed neither"));
        let mut short = callbacks.clone();
        short.receivers.insert(
            "shop".into(),
            CallbackReceiver {
                hosts: Vec::new(),
                secret: Secret::new("hunter2"),
            },
        );
        assert!(said(&short).contains("32 to 256") && !said(&short).contains("hunter2"));
        for (secret, other) in [
            ('x', "callbacks.receivers.crm.secret"),
            ('y', "callbacks.secret"),
        ] {
            let mut equal = callbacks.clone();
            equal.receivers.insert("shop".into(), receiver(&[], secret));
            let said = said(&equal);
            let both = format!("{other} and callbacks.receivers.shop.secret are equal");
            assert!(said.contains(&both), "{said}");
            assert!(!said.contains(&secret.to_string().repeat(4)), "{said}");
        }
        let mut odd = callbacks;
        odd.receivers.insert("a b".into(), receiver(&[], 'z'));
        assert!(said(&odd).contains("`a b` is no name"));
    }
}
