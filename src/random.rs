//! Access to the operating system's random generator.

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
