//! TLS as links use it (D2): version 1.3 alone, one hybrid key exchange, no resumption, no names. The certificate proves nothing:
//! relays prove their identity above, over the exporter, and clients have none.

use crate::base::Rarely;
use crate::base::Time;
use crate::base::Wall;
use crate::node::env::Clock;
use core::time::Duration;
use rand::Rng as _;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::sync::{Arc, Mutex, PoisonError};

/// Label of the exporter that relays sign (RFC 8446 section 7.5, RFC 5705 section 4).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-onionskin-link-v1";
/// How long a certificate key lives.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Both sides' settings, and the certificate key that the listening side renews.
#[derive(Debug)]
pub struct Tls {
    /// For dialled links.
    pub client: Arc<ClientConfig>,
    /// For accepted links.
    pub server: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
    clock: Clock,
    failures: Mutex<Rarely>,
}

impl Tls {
    /// Settings with a fresh certificate key.
    ///
    /// # Errors
    /// What the cryptographic library says; not seen in practice.
    pub fn new(clock: Clock) -> Result<Self, rustls::Error> {
        let provider = Arc::new(provider());
        let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let verifier = Arc::new(AnyCertificate { provider: Arc::clone(&provider) });
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        client.alpn_protocols.clone_from(&alpn);
        // A ticket would be a pseudonym of the client, from link to link.
        client.resumption = Resumption::disabled();
        client.enable_sni = false;

        let certificate = Arc::new(Certificate::new(&provider, clock)?);
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificate>::clone(&certificate);
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        server.alpn_protocols = alpn;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;

        Ok(Self { client: Arc::new(client), server: Arc::new(server), certificate, clock, failures: Mutex::default() })
    }

    /// The name that rustls wants for a connection. An address is never sent as a server name.
    pub fn name(remote: core::net::IpAddr) -> ServerName<'static> {
        ServerName::IpAddress(remote.into())
    }

    /// Makes a new certificate key if the one in use is a week old. Called for each connection that comes in. A failure keeps the
    /// old one.
    pub fn renew_if_due(&self) {
        let now = self.clock.now();
        if self.certificate.is_due(now)
            && let Err(error) = self.certificate.renew(self.server.crypto_provider(), self.clock.wall(), now)
        {
            let times = self.failures.lock().unwrap_or_else(PoisonError::into_inner).again(now);
            if let Some(times) = times {
                tracing::warn!(%error, times, "the link certificate could not be renewed; the old one stays");
            }
        }
    }
}

/// Suites and groups. The hybrid group is the only one: a peer without it gets no link, rather than one that can be read later.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768],
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Takes any certificate, but checks that the other end holds its key: the handshake is then bound to one server, and the exporter
/// with it.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate in use. It lives in memory only, so each start makes a new one.
#[derive(Debug)]
struct Certificate {
    current: Mutex<(Time, Arc<CertifiedKey>)>,
}

impl Certificate {
    fn new(provider: &CryptoProvider, clock: Clock) -> Result<Self, rustls::Error> {
        Ok(Self { current: Mutex::new((clock.now(), Arc::new(certify(provider, clock.wall())?))) })
    }

    fn is_due(&self, now: Time) -> bool {
        now.since(self.current.lock().unwrap_or_else(PoisonError::into_inner).0) >= CERTIFICATE_LIFE
    }

    fn renew(&self, provider: &CryptoProvider, wall: Wall, now: Time) -> Result<(), rustls::Error> {
        let fresh = Arc::new(certify(provider, wall)?);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = (now, fresh);
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).1))
    }
}

/// A fresh key and a self-signed certificate for it that says as little as one can: a random host name, some days of the past as
/// its beginning, some months as its life.
fn certify(provider: &CryptoProvider, wall: Wall) -> Result<CertifiedKey, rustls::Error> {
    let failed = |e: rcgen::Error| rustls::Error::General(e.to_string());
    let mut rng = crate::node::env::os_rng();
    let name: String = (0..10).map(|_| char::from(b'a' + u8::try_from(rng.next_u32() % 26).unwrap_or(0))).collect();
    let name = format!("{name}.com");
    let days = |n: u64| Duration::from_secs(n * 86_400);

    let mut params = CertificateParams::new(vec![name.clone()]).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let today = rcgen::date_time_ymd(1970, 1, 1) + days(u64::from(wall.day()));
    params.not_before = today - days(1 + u64::from(rng.next_u32() % 20));
    params.not_after = today + days(60 + u64::from(rng.next_u32() % 20));

    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    CertifiedKey::from_der(vec![certificate.der().clone()], key, provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_key_is_renewed_after_a_week_and_not_before() {
        let clock = Clock::start();
        let provider = provider();
        let certificate = Certificate::new(&provider, clock).unwrap();
        let first = Arc::clone(&certificate.current.lock().unwrap().1);
        let week = clock.now() + CERTIFICATE_LIFE;
        assert!(!certificate.is_due(clock.now() + CERTIFICATE_LIFE / 2));
        assert!(certificate.is_due(week));
        certificate.renew(&provider, clock.wall(), week).unwrap();
        assert!(!certificate.is_due(week));
        assert_ne!(first.cert, certificate.current.lock().unwrap().1.cert);
    }

    #[test]
    fn certificates_say_nothing_of_this_program() {
        let made = certify(&provider(), Clock::start().wall()).unwrap();
        let der = made.cert.first().unwrap().to_vec();
        for word in ["rcgen", "onion", "self signed"] {
            assert!(!der.windows(word.len()).any(|w| w == word.as_bytes()), "{word}");
        }
    }
}
