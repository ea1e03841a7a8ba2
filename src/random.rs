//! Access to the operating system's random generator.

use std::cell::RefCell;

/// Returns bytes from the operating system's random generator.
///
/// # Panics
///
/// Panics if the operating system cannot provide any, since no token would be secure then.
#[expect(
    clippy::expect_used,
    reason = "no session may be created without randomness, and no caller could recover"
)]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random generator failed");
    bytes
}

/// Returns 64 random bits that need not be secret: those of a revision.
///
/// They come from the operating system's generator as well, but many at a time: a system call for
/// each would be a noticeable part of a write. Tokens, keys and nonces take [`random_bytes`], so
/// that none is in memory before it is needed.
pub(crate) fn random_u64() -> u64 {
    const DRAWN_AT_A_TIME: usize = 256;
    thread_local! {
        static UNUSED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    UNUSED.with_borrow_mut(|unused| {
        loop {
            if let Some(bits) = unused.pop() {
                return bits;
            }
            let drawn = random_bytes::<DRAWN_AT_A_TIME>();
            unused.extend(drawn.as_chunks().0.iter().map(|bits| u64::from_ne_bytes(*bits)));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn random_bits_are_drawn_again_when_all_are_used() {
        let drawn: HashSet<u64> = (0..1000).map(|_| random_u64()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
