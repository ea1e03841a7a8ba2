//! A certificate authority, and Redis servers with a TLS port.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::files::Files;
use crate::redis::{RedisServer, free_port};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

/// A certificate and its key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tests");
        let root = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), root }
    }

    /// Returns the root certificate in PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Signs a certificate for a DNS name or IP address.
    pub fn issue(&self, name: &str) -> Identity {
        self.issue_until(name, 2040)
    }

    /// Signs a certificate that expires at the beginning of a year.
    pub fn issue_until(&self, name: &str, year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// A Redis server with a TLS port beside the usual one, over which tests give it commands.
pub struct TlsServer {
    pub server: RedisServer,
    port: u16,
    _files: Files,
}

impl TlsServer {
    /// Starts a server with this certificate, which asks for none.
    pub fn start(authority: &Authority, identity: &Identity) -> Self {
        Self::with_clients("no", authority, identity)
    }

    /// Starts a server that serves only clients with a certificate of the authority.
    pub fn for_known_clients(authority: &Authority, identity: &Identity) -> Self {
        Self::with_clients("yes", authority, identity)
    }

    fn with_clients(auth_clients: &str, authority: &Authority, identity: &Identity) -> Self {
        let (files, port) = (Files::new(), free_port());
        let port_text = port.to_string();
        let certificates = certificates(&files, authority, identity);
        let mut args: Vec<_> = certificates.iter().map(String::as_str).collect();
        args.extend(["--tls-port", &port_text, "--tls-auth-clients", auth_clients]);
        let server = RedisServer::with_args(&args);
        TlsServer { server, port, _files: files }
    }

    /// Returns the TLS port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Writes the certificates of a server, and returns the arguments that name them.
pub(crate) fn certificates(
    files: &Files,
    authority: &Authority,
    identity: &Identity,
) -> Vec<String> {
    let file = |name: &str, text: &str| files.write(name, text);
    let [certificate, key, root] = [
        file("cert.pem", &identity.certificate),
        file("key.pem", &identity.key),
        file("ca.pem", authority.root()),
    ];
    ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &root]
        .map(str::to_owned)
        .into()
}
