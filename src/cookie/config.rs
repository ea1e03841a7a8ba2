//! Configuration of the session cookie.

use crate::error::ConfigError;

/// The `SameSite` attribute: whether browsers send the cookie with requests that another site
/// caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SameSite {
    /// Never sent. A visitor who follows a link from another site arrives logged out, and so does
    /// one who returns from an OAuth provider.
    Strict,
    /// Sent only when the visitor navigates to the site. The default.
    #[default]
    Lax,
    /// Always sent. Requires a `Secure` cookie, and separate protection against cross-site request
    /// forgery.
    None,
}

/// The session cookie's name and attributes.
///
/// The default is `__Host-session; HttpOnly; SameSite=Lax; Secure; Path=/`. The prefix makes
/// browsers refuse such a cookie from a sibling domain or over plain HTTP (RFC 6265bis, section
/// 4.1.3). The cookie has neither `Max-Age` nor `Expires`, unless it is made
/// [persistent](Self::persistent): browsers delete it when they end their own session. A login ends
/// with the server-side timeout in any case.
///
/// ```
/// use clustered_sessions::{CookieConfig, SameSite};
///
/// let cookie = CookieConfig::new().name("__Host-id").same_site(SameSite::Strict);
/// # let _ = cookie;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CookieConfig {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) domain: Option<String>,
    pub(crate) secure: bool,
    pub(crate) same_site: SameSite,
    pub(crate) persistent: bool,
    pub(crate) partitioned: bool,
    /// Paths and domains of cookies that are removed.
    pub(crate) former: Vec<(String, Option<String>)>,
}

impl CookieConfig {
    /// Creates the default configuration, as described above.
    pub fn new() -> Self {
        CookieConfig {
            name: "__Host-session".to_owned(),
            path: "/".to_owned(),
            domain: None,
            secure: true,
            same_site: SameSite::Lax,
            persistent: false,
            partitioned: false,
            former: Vec::new(),
        }
    }

    /// Sets the cookie's name, 1 to 128 token characters (RFC 6265). Defaults to `__Host-session`.
    /// Names are compared byte for byte, and signatures are bound to the name.
    ///
    /// # Risk
    ///
    /// Changing the name logs all users out. Without the `__Host-` prefix, a sibling domain can set
    /// cookies of the same name. Of several that verify, the one whose session exists is used; if
    /// several sessions exist, the request has none until a login or a logout ends all of them.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the path below which browsers send the cookie. Defaults to `/`. Any other path excludes
    /// the prefix `__Host-`.
    ///
    /// After a change, browsers keep the cookie of the old path and send both. Name the old one
    /// with [`former`](Self::former), so that it is removed.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Sets the `Domain` attribute: browsers also send the cookie to its subdomains. Unset by
    /// default, which limits the cookie to the exact host. Excludes the prefix `__Host-`.
    ///
    /// # Risk
    ///
    /// Each host below the domain receives the credential. After a change, browsers keep the cookie
    /// of the old domain and send both. Name the old one with [`former`](Self::former), so that it
    /// is removed.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Sets whether browsers send the cookie over HTTPS only. Defaults to `true`.
    ///
    /// # Risk
    ///
    /// With `false`, anyone who listens on the network can take over the session. Use it only for
    /// development over plain HTTP.
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Sets the `SameSite` attribute. Defaults to [`SameSite::Lax`].
    ///
    /// # Risk
    ///
    /// [`SameSite::None`] lets other sites act in the visitor's name unless something else prevents
    /// it.
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Sets whether browsers keep the cookie when they are closed. Defaults to `false`, a session
    /// cookie.
    ///
    /// A persistent cookie has a `Max-Age`: what remains of the session's [absolute timeout], or
    /// 400 days, the longest that browsers accept (RFC 6265bis, section 5.5). It is not renewed
    /// while the session is in use, because a late response that carries a cookie could undo a
    /// login. A login ends with the server-side timeout in any case, as NIST SP 800-63B-4 requires:
    /// a cookie that outlives its session has no effect.
    ///
    /// # Risk
    ///
    /// The next user of the device, or anyone who reads its disk, has the session until its
    /// timeout. OWASP's Session Management Cheat Sheet advises against it.
    ///
    /// [absolute timeout]: crate::SessionConfigBuilder::absolute_timeout
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    /// Sets whether browsers keep the cookie apart for each site that embeds this one (CHIPS).
    /// Defaults to `false`. Requires a `Secure` cookie, and is of use only with [`SameSite::None`].
    ///
    /// Browsers keep a cookie from before a change of this until it expires, beside the new one.
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.partitioned = partitioned;
        self
    }

    /// Names a path and a domain that this cookie had before, so that browsers remove what is left
    /// of it. Can be called several times. Excludes the prefix `__Host-`, under which there is only
    /// one path and no domain.
    ///
    /// The removal is sent with each response that sets or removes the cookie, but not with a
    /// header of [`SessionLayer::set_cookie`](crate::SessionLayer::set_cookie). Until then, a
    /// browser may send both cookies: the one whose session exists is used. Keep the call until all
    /// sessions from before the change have expired.
    ///
    /// ```
    /// # use clustered_sessions::CookieConfig;
    /// // Was limited to the exact host before.
    /// let cookie = CookieConfig::new().name("id").domain("example.com").former("/", None);
    /// # let _ = cookie;
    /// ```
    pub fn former(mut self, path: impl Into<String>, domain: Option<&str>) -> Self {
        self.former.push((path.into(), domain.map(str::to_owned)));
        self
    }

    /// Checks for what browsers would refuse or misread.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let is_token_char = |c: u8| c.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&c);
        if self.name.is_empty() || self.name.len() > 128 || !self.name.bytes().all(is_token_char) {
            return Err(ConfigError::CookieName);
        }
        check_location(&self.path, self.domain.as_deref())?;
        for (path, domain) in &self.former {
            check_location(path, domain.as_deref())?;
            let location = |domain: &Option<String>| {
                domain.as_ref().map(|name| name.trim_start_matches('.').to_ascii_lowercase())
            };
            if *path == self.path && location(domain) == location(&self.domain) {
                return Err(ConfigError::FormerCookie);
            }
        }
        // Browsers compare the prefixes case-insensitively, so the same rules apply to `__host-`.
        let name = self.name.to_ascii_lowercase();
        let is_elsewhere = self.domain.is_some() || self.path != "/" || !self.former.is_empty();
        if name.starts_with("__host-") && is_elsewhere {
            return Err(ConfigError::HostPrefix);
        }
        let demands_secure = ["__host-", "__secure-", "__http-"];
        if !self.secure && demands_secure.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(ConfigError::PrefixWithoutSecure);
        }
        if !self.secure && self.same_site == SameSite::None {
            return Err(ConfigError::SameSiteNoneWithoutSecure);
        }
        if !self.secure && self.partitioned {
            return Err(ConfigError::PartitionedWithoutSecure);
        }
        Ok(())
    }
}

fn check_location(path: &str, domain: Option<&str>) -> Result<(), ConfigError> {
    let is_attribute_char = |c: u8| (c.is_ascii_graphic() || c == b' ') && c != b';';
    if !path.starts_with('/') || !path.bytes().all(is_attribute_char) {
        return Err(ConfigError::CookiePath);
    }
    let is_label_char = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_label_char);
    match domain {
        // Browsers ignore a dot in front, and a dot at the end makes a name that no host matches.
        Some(domain) if !domain.trim_start_matches('.').split('.').all(is_label) => {
            Err(ConfigError::CookieDomain)
        }
        _ => Ok(()),
    }
}

impl Default for CookieConfig {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_would_drop_is_refused() {
        let new = CookieConfig::new;
        for (config, expected) in [
            (new(), Ok(())),
            (new().domain("example.com"), Err(ConfigError::HostPrefix)),
            (new().path("/app"), Err(ConfigError::HostPrefix)),
            (new().secure(false), Err(ConfigError::PrefixWithoutSecure)),
            (new().name("__host-x").secure(false), Err(ConfigError::PrefixWithoutSecure)),
            (new().name("__Http-x").secure(false), Err(ConfigError::PrefixWithoutSecure)),
            (
                new().name("id").secure(false).same_site(SameSite::None),
                Err(ConfigError::SameSiteNoneWithoutSecure),
            ),
            (new().name("id").secure(false).path("/app").domain(".example.com"), Ok(())),
            (new().name(""), Err(ConfigError::CookieName)),
            (new().name("a b"), Err(ConfigError::CookieName)),
            (new().name("a=b"), Err(ConfigError::CookieName)),
            (new().name("n".repeat(129)), Err(ConfigError::CookieName)),
            (new().name("id").path("app"), Err(ConfigError::CookiePath)),
            (new().name("id").path("/a;Domain=evil"), Err(ConfigError::CookiePath)),
            (new().name("id").domain(""), Err(ConfigError::CookieDomain)),
            (new().name("id").domain("a;b"), Err(ConfigError::CookieDomain)),
            (new().name("id").domain("example.com."), Err(ConfigError::CookieDomain)),
            (new().name("id").domain("example..com"), Err(ConfigError::CookieDomain)),
            (new().partitioned(true), Ok(())),
            (
                new().name("id").secure(false).partitioned(true),
                Err(ConfigError::PartitionedWithoutSecure),
            ),
            (new().former("/app", None), Err(ConfigError::HostPrefix)),
            (new().name("id").former("/app", None).former("/", Some("example.com")), Ok(())),
            (new().name("id").former("/", None), Err(ConfigError::FormerCookie)),
            (
                new().name("id").domain("Example.com").former("/", Some(".example.com")),
                Err(ConfigError::FormerCookie),
            ),
            (new().name("id").former("app", None), Err(ConfigError::CookiePath)),
            (new().name("id").former("/", Some("a;b")), Err(ConfigError::CookieDomain)),
        ] {
            assert_eq!(config.check(), expected, "{config:?}");
        }
    }
}
