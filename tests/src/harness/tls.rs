//! A certificate authority of the suite's own, which lives as long as its folder.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tempfile::TempDir;

/// Every name under this domain has a certificate.
pub const DOMAIN: &str = "miku.test";

/// The names that the certificate is for.
const NAMES: [&str; 9] = [
    "*.miku.test",
    "miku.test",
    "discord.com",
    "*.discord.com",
    "discord.gg",
    "*.discord.gg",
    "*.discord.media",
    "localhost",
    "127.0.0.1",
];

/// An authority that clients are told to trust, and one certificate of it that serves all names of the suite.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// When keys cannot be made, or the files not written.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, "the suite's own authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);

        let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
        params.distinguished_name.push(DnType::CommonName, DOMAIN);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // From 3.13 on, Python asks for this.
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &issuer)?;

        let authority = Self { folder: tempfile::tempdir().context("a folder")? };
        for (path, text) in [
            (authority.root(), root.pem()),
            (authority.certificate(), leaf.pem()),
            (authority.key(), key.serialize_pem()),
        ] {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(authority)
    }

    /// What clients are to trust, in PEM.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// What servers show, in PEM.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// The private key behind [`Authority::certificate`], in PEM.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
