//! Who a client is, by the certificate that it has shown, and which exports are for whom.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::dn;

/// Who a client is: the subject of a certificate that was proved to be of the authority and the client's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(dn::Name);

impl Identity {
    /// Reads a certificate's subject; `None` when that cannot be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        dn::read(certificate.subject()).map(Self)
    }
}

impl fmt::Display for Identity {
    /// As it may be copied into a list.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// One entry of a list: a whole subject as RFC 4514 writes it, or its common name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientName(String);

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no client: write CN=host7, or a whole subject as `openssl x509 -noout -subject -nameopt RFC2253` prints it"
)]
pub struct NotAClient(String);

impl FromStr for ClientName {
    type Err = NotAClient;

    /// What could be meant as a pattern, or is written as other tools print it, would let nobody in: it is refused.
    fn from_str(text: &str) -> Result<Self, NotAClient> {
        let good = text.contains('=') && !text.contains(['*', '\n']) && !text.contains(" = ");
        let spaced = text.match_indices(", ").any(|(at, _)| !text[..at].ends_with('\\'));
        if good && !spaced && !text.ends_with('=') {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAClient(text.to_owned()))
        }
    }
}

/// Whom an export is for, when it is served over TLS. An empty list lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients(pub Vec<ClientName>);

impl Clients {
    /// Whether it has an entry for this client.
    #[must_use]
    pub fn has(&self, client: &Identity) -> bool {
        let Identity(dn::Name { text, common_name }) = client;
        self.0.iter().any(|ClientName(entry)| entry == text || Some(entry) == common_name.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn identity() -> Identity {
        let mut params = CertificateParams::new(vec!["host8".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
        params.distinguished_name.push(DnType::CommonName, "host7");
        let key = KeyPair::generate().unwrap();
        Identity::of(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn a_client_is_meant_by_its_whole_subject_or_its_common_name() {
        let client = identity();
        assert_eq!(client.to_string(), "CN=host7,O=Example\\, Inc.", "what a log says can be copied into a list");
        let has = |entry: &str| Clients(vec![entry.parse().unwrap()]).has(&client);
        for entry in ["CN=host7,O=Example\\, Inc.", "CN=host7"] {
            assert!(has(entry), "{entry} means {client}");
        }
        for entry in ["O=Example\\, Inc.,CN=host7", "O=Example\\, Inc.", "cn=host7", "CN=host", "CN=host77", "CN=host8"]
        {
            assert!(!has(entry), "{entry} does not mean {client}");
        }
        assert!(!Clients(Vec::new()).has(&client), "an empty list lets nobody in");
    }

    #[test]
    fn entries_that_would_let_nobody_in_are_refused() {
        for entry in
            ["", "host7", "*", "CN=*", "CN=host*,O=Example", "CN=", "CN=host7, O=Example", "CN = host7", "CN=a\n"]
        {
            assert!(entry.parse::<ClientName>().is_err(), "{entry:?} was taken");
        }
    }

    #[test]
    fn what_is_no_certificate_is_nobody() {
        assert_eq!(Identity::of(&CertificateDer::from(vec![0x30, 0x03, 1, 1, 0])), None);
    }
}
