//! The `Cookie` headers of a request.

use http::{HeaderMap, HeaderValue, header};

/// The `Cookie` headers of a request, which are looked at when its session is needed. Keeping one
/// copies nothing.
///
/// There is no `Debug`: they hold the token.
pub(crate) enum CookieHeaders {
    None,
    One(HeaderValue),
    /// HTTP/2 allows several.
    Several(Vec<HeaderValue>),
}

impl CookieHeaders {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::COOKIE).into_iter();
        let Some(first) = values.next() else { return CookieHeaders::None };
        match values.next() {
            None => CookieHeaders::One(first.clone()),
            Some(second) => {
                CookieHeaders::Several([first, second].into_iter().chain(values).cloned().collect())
            }
        }
    }

    /// Returns the values of all cookies of this name, which is compared byte for byte.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let headers = match self {
            CookieHeaders::None => &[],
            CookieHeaders::One(header) => std::slice::from_ref(header),
            CookieHeaders::Several(headers) => &headers[..],
        };
        headers
            .iter()
            .flat_map(|header| Pairs(Some(header.as_bytes())))
            .filter_map(|pair| {
                pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"=")
            })
            .map(<[u8]>::trim_ascii_end)
    }
}

/// The parts of a `Cookie` header between its semicolons.
struct Pairs<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Pairs<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        match memchr::memchr(b';', rest) {
            Some(end) => {
                self.0 = Some(&rest[end + 1..]);
                Some(&rest[..end])
            }
            None => self.0.take(),
        }
    }
}
