//! Randomness.

/// Bytes from the operating system's random generator.
///
/// # Panics
///
/// If the operating system has none to give: nothing secure can be done then.
#[expect(
    clippy::expect_used,
    reason = "no session may be made without randomness, and no caller can mend it"
)]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random generator failed");
    bytes
}
