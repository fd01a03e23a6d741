//! Owns what a callback is signed with: `t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 (RFC 2104) of `SECONDS.DELIVERY.BODY`. Pure.
//!
//! Promises that the moment and the delivery's id are signed as well, so that a receiver can refuse what is old and tell repeats.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The value of `Kiln-Signature`, at a moment in seconds since 1970.
pub(super) fn signature(
    secret: &[u8],
    seconds: i64,
    delivery: &str,
    body: &[u8],
) -> Result<String, &'static str> {
    let mac = Hmac::<Sha256>::new_from_slice(secret);
    let mut mac = mac.map_err(|_| "its secret can't sign")?;
    mac.update(format!("{seconds}.{delivery}.").as_bytes());
    mac.update(body);
    let signed = hex::encode(mac.finalize().into_bytes());
    Ok(format!("t={seconds},v1={signed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf '1700000000.00ff.{"a":1}' | openssl dgst -sha256 -hmac SECRET`.
    #[test]
    fn it_is_what_other_tools_compute() {
        let secret = b"0123456789abcdef0123456789abcdef";
        let signed = signature(secret, 1_700_000_000, "00ff", br#"{"a":1}"#).expect("a secret");
        assert_eq!(
            signed,
            "t=1700000000,v1=75fd32b62d626001100302c56a3c87e699ccae543711154196bdd9002c8551ba"
        );
    }
}
