//! Which addresses may be connected to where somebody else names the host: those that anybody on the internet has, and those that the settings list. Pure.

use super::Network;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address may be connected to. `listed` are the networks of the settings.
pub fn is_reachable(address: IpAddr, listed: &[Network]) -> bool {
    let address = address.to_canonical();
    listed.iter().any(|network| network.has(address)) || is_public(address)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// All but what the registry of special addresses (RFC 6890) keeps from the internet.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_kept = match (a, b) {
        // This host, private networks, loopback; then multicast, reserved and broadcast.
        (0 | 10 | 127, _) | (224.., _) => true,
        (172, 16..=31) | (192, 168) | (169, 254) => true,
        // Between providers and their customers; for measurements.
        (100, 64..=127) | (198, 18 | 19) => true,
        // For protocols, documents, and 6to4 relays.
        (192, 0) => matches!(c, 0 | 2),
        (192, 88) => c == 99,
        (198, 51) => c == 100,
        (203, 0) => c == 113,
        _ => false,
    };
    !is_kept
}

/// Only what is given out (2000::/3), without what carries an address of IPv4 to somewhere else.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, ..] = address.segments();
    let embedded = |high: u16, low: u16| {
        let bits = u32::from(high) << 16 | u32::from(low);
        is_public_v4(Ipv4Addr::from_bits(bits))
    };
    match (a, b) {
        // Teredo and other protocols, documents.
        (0x2001, 0..=0x01ff | 0x0db8) | (0x3fff, _) => false,
        // 6to4.
        (0x2002, _) => embedded(b, c),
        (0x2000..=0x3fff, _) => true,
        // A translator's, to IPv4 (RFC 6052).
        (0x64, 0xff9b) if c == 0 && d == 0 => {
            let [.., high, low] = address.segments();
            embedded(high, low)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_internet_cannot_reach_is_refused_unless_it_is_listed() {
        let allowed = |text: &str, listed: &[&str]| {
            let listed: Vec<Network> = listed.iter().map(|one| one.parse().expect(one)).collect();
            is_reachable(text.parse().expect(text), &listed)
        };
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "192.0.3.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(allowed(public, &[]), "{public}");
        }
        for private in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
        ] {
            assert!(!allowed(private, &[]), "{private}");
        }
        assert!(allowed("127.0.0.1", &["10.0.0.0/8", "127.0.0.1"]));
        assert!(allowed("::ffff:127.0.0.1", &["127.0.0.1"]));
        assert!(!allowed("127.0.0.2", &["127.0.0.1"]));
        assert!(allowed("fd12::1", &["fd12::/16"]));
    }
}
