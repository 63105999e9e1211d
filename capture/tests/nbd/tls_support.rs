//! Certificates, a server over TLS, and clients that speak it as they like.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore_capture::access::Access;
use farshore_capture::engine::EngineKind;
use farshore_capture::listen::Listen;
use farshore_capture::nbd::consts::*;
use farshore_capture::server::{ExportPlan, Server, ServerBuilder};
use farshore_capture::sync_device::SyncDevice;
use farshore_capture::tls::files::TlsServer;
use farshore_capture::tls::identity::Clients;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::memory::Memory;
use crate::support::{Raw, lane};

/// An authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate, the authority's own behind it, and its key.
pub struct Certified {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub cert_pem: String,
    pub key_pem: String,
}

pub fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub fn new() -> Self {
        let mut params = params("Test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certify(&self, params: CertificateParams) -> Certified {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        let (cert_pem, key_pem) = (cert.pem(), key.serialize_pem());
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
        Certified { chain: vec![cert.der().clone()], key, cert_pem, key_pem }
    }

    pub fn of(&self, name: &str) -> Certified {
        self.certify(params(name))
    }

    /// The PEM of a list that revokes one serial number.
    pub fn revoking(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4096, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// Writes a server's folder.
    pub fn write_server(&self, dir: &Path) {
        let server = self.of("localhost");
        fs::write(dir.join("ca-cert.pem"), self.0.pem()).unwrap();
        fs::write(dir.join("server-cert.pem"), server.cert_pem).unwrap();
        let key = dir.join("server-key.pem");
        fs::write(&key, server.key_pem).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// A server of the disks `vda`, for whoever is of the authority, and `vdb`, for `CN=alice` alone.
pub struct TlsFixture {
    pub server: Server<SyncDevice<Memory>>,
    pub authority: Authority,
    pub memory: Arc<Memory>,
    pub address: String,
    pub dir: TempDir,
}

impl TlsFixture {
    pub fn new(kind: EngineKind, size: usize) -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        authority.write_server(dir.path());
        let access = Access { tls: Some(Arc::new(TlsServer::open(dir.path()).unwrap())), ..Access::default() };
        let plan = |place, clients| ExportPlan {
            listen: Listen::Tcp("127.0.0.1:0".into()),
            place,
            description: String::new(),
            clients,
        };
        let memory = Arc::new(Memory::new(size));
        let alice = Clients(vec!["CN=alice".parse().unwrap()]);
        let disks = vec![
            ("vda", Arc::clone(&memory), plan(0, None)),
            ("vdb", Arc::new(Memory::new(size)), plan(1, Some(alice))),
        ];
        let server = lane(ServerBuilder::new(), kind, disks).access(access).start().unwrap();
        let [Listen::Tcp(address)] = server.listening() else { panic!("{:?}", server.listening()) };
        let address = address.clone();
        Self { server, authority, memory, address, dir }
    }

    /// A connection on which nothing has been said.
    pub fn raw(&self) -> Raw<TcpStream> {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Raw(stream)
    }

    /// A connection that was told to begin TLS.
    pub fn asked(&self) -> Raw<TcpStream> {
        let mut raw = self.raw();
        raw.greeting(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES);
        raw.option(OPT_STARTTLS, &[]);
        assert_eq!(raw.option_reply(OPT_STARTTLS), (REP_ACK, vec![]));
        raw
    }

    /// A connection within TLS, with this certificate. Whether the server takes that, the first answer shows.
    pub fn secured(&self, client: Option<&Certified>) -> Raw<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match client {
            Some(Certified { chain, key, .. }) => config.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
            None => config.with_no_client_auth(),
        };
        let tls = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        Raw(StreamOwned::new(tls, self.asked().0))
    }

    /// The server does what it should for a good client.
    pub fn still_serves(&self) {
        let mut client = self.secured(Some(&self.authority.of("bob")));
        client.open("vda");
        client.request(CMD_WRITE, 0, 1, 0, 4);
        client.send(&[b"abcd"]);
        assert_eq!(client.reply(), (0, 1));
        client.request(CMD_READ, 0, 2, 0, 4);
        assert_eq!(client.reply(), (0, 2));
        assert_eq!(client.get(4), b"abcd");
        client.request(CMD_DISC, 0, 3, 0, 0);
        client.assert_closed(0);
    }

    pub fn stop(self) {
        self.server.stop().unwrap();
    }
}

impl<S: std::io::Read + std::io::Write> Raw<S> {
    pub fn option(&mut self, option: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.send(&[b"IHAVEOPT", &option.to_be_bytes(), &len.to_be_bytes(), data]);
    }

    /// A reply's type and data.
    pub fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        let head = self.get(20);
        assert_eq!(head[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        assert_eq!(head[8..12], option.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(head[at..][..4].try_into().unwrap());
        (number(12), self.get(number(16) as usize))
    }

    /// Opens an export, within a negotiation that has begun.
    pub fn open(&mut self, name: &str) {
        self.option(OPT_EXPORT_NAME, name.as_bytes());
        self.get(10);
    }

    /// What `GO` is answered last.
    pub fn go(&mut self, name: &str) -> u32 {
        let len = u32::try_from(name.len()).unwrap();
        self.option(OPT_GO, &[&len.to_be_bytes(), name.as_bytes(), &[0, 0]].concat());
        loop {
            match self.option_reply(OPT_GO).0 {
                REP_INFO => {}
                last => return last,
            }
        }
    }
}
