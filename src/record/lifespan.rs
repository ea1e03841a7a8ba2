//! The timeouts that apply to a session.

/// What ends a session that nobody deletes. It is chosen when the session is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifespan {
    /// The idle timeout and the absolute timeout of the configuration.
    #[default]
    Ordinary,
    /// The timeouts of "remember me".
    Remembered,
    /// A deadline of its own, which use does not extend. The absolute timeout applies as well.
    Fixed,
}

impl Lifespan {
    /// Returns the byte that stands for it in a record.
    pub(crate) fn code(self) -> u8 {
        match self {
            Lifespan::Ordinary => 0,
            Lifespan::Remembered => 1,
            Lifespan::Fixed => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Lifespan::Ordinary, Lifespan::Remembered, Lifespan::Fixed]
            .into_iter()
            .find(|lifespan| lifespan.code() == code)
    }
}
