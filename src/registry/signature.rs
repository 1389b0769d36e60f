//! Pure: the signature of a webhook: HMAC-SHA256 over the time and the body.
//!
//! `X-AIWG-Signature: t=<seconds since 1970>,v1=<hex>`, where the hex is the HMAC of `<seconds>.<body>`. A receiver computes it anew,
//! compares in constant time, and refuses an old time, so that a captured request cannot be sent again later.

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// The header that carries the signature.
pub const HEADER: &str = "x-aiwg-signature";

const BLOCK: usize = 64;

/// Computes HMAC-SHA256 (RFC 2104).
pub fn hmac_sha256(key: &[u8], message: &[&[u8]]) -> [u8; 32] {
    let mut block = [0_u8; BLOCK];
    let short: [u8; 32];
    let key = if key.len() > BLOCK {
        short = Sha256::digest(key).into();
        &short[..]
    } else {
        key
    };
    for (place, byte) in block.iter_mut().zip(key) {
        *place = *byte;
    }
    let mut inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36));
    for part in message {
        inner.update(part);
    }
    let outer = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

/// Returns the header's value for a body that is sent at this time.
pub fn sign(secret: &[u8], seconds: i64, body: &[u8]) -> String {
    let time = seconds.to_string();
    let mut value = format!("t={time},v1=");
    for byte in hmac_sha256(secret, &[time.as_bytes(), b".", body]) {
        // Writing to a String cannot fail.
        write!(value, "{byte:02x}").ok();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    #[test]
    fn the_vectors_of_rfc_4231_hold() {
        assert_eq!(
            hex(hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(hmac_sha256(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"])),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn the_time_is_part_of_what_is_signed() {
        assert!(sign(b"k", 7, b"{}").starts_with("t=7,v1="));
        assert_ne!(sign(b"k", 7, b"{}")[6..], sign(b"k", 8, b"{}")[6..]);
    }
}
