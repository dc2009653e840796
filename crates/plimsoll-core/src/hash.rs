//! A hash function that is the same in every process, on every machine and in every version.

/// Returns the FNV-1a hash (<http://www.isthe.com/chongo/tech/comp/fnv/>), mixed by the finalizer of MurmurHash3: FNV
/// alone maps short texts to close values.
pub const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    mix(hash)
}

/// Mixes the bits, so that every bit of the result depends on every bit of `x`.
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes() {
        assert_eq!((hash(b""), hash(b"device-1")), (0xefd0_1f60_ba99_2926, hash(b"device-1")));
        assert_ne!(hash(b"device-1"), hash(b"device-2"));
    }
}
