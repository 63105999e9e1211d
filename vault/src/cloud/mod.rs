//! Buckets: what an `s3://`, `az://` or `gs://` URL names, and how it is opened. Who the bucket belongs to, and with which rights it is
//! opened, comes from the variables, files and metadata services that users of each cloud know; a URL holds no secret.
//!
//! - [`http`]: the answers that must be told apart
//! - `variables`: the environment, or what stands for it
//! - `aws_profile`: the files of the AWS command line, which `object_store` does not read

mod aws_profile;
pub mod http;
mod variables;

pub use variables::Variables;

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::error::VaultError;
use http::{Connector, Rules};

/// Variables that name a file of further certificate authorities, in the order in which the first that is set counts. `SSL_CERT_FILE`
/// and `SSL_CERT_DIR` replace those of the system.
const CA_BUNDLES: [&str; 3] = ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];

/// Whose API a bucket has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon S3, and whatever speaks like it.
    S3,
    /// Azure Blob Storage: a container.
    Azure,
    /// Google Cloud Storage.
    Google,
}

/// A bucket, and a prefix in it. Nothing is asked of it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    cloud: Cloud,
    /// Without a slash at the end.
    url: Url,
    prefix: Path,
}

impl Bucket {
    /// The bucket of a URL with this scheme.
    ///
    /// # Errors
    /// In words: what is wrong with it.
    pub fn parse(cloud: Cloud, text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|e| e.to_string())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL holds no name and no key; give them by the environment".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() || url.port().is_some() {
            return Err("it holds more than a bucket and a prefix; an endpoint comes from the environment".to_owned());
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it names no bucket".to_owned());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let prefix = Path::from_url_path(&path).map_err(|e| e.to_string())?;
        url.set_path(&path);
        Ok(Self { cloud, url, prefix })
    }

    /// The URL in one form.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_owned()
    }

    /// Opens it. Nothing is asked of the store.
    ///
    /// # Errors
    /// [`VaultError::Refused`] when the environment does not say enough, or something that cannot be used.
    pub fn open(&self, variables: &Variables) -> Result<Arc<dyn ObjectStore>, VaultError> {
        let refused = |source: Box<dyn std::error::Error + Send + Sync>| VaultError::Refused {
            what: format!("open {}", self.url()),
            source,
        };
        let options = client_options(variables).map_err(refused)?;
        let store = match self.cloud {
            Cloud::S3 => self.s3(options, variables),
            Cloud::Azure => self.azure(options, variables),
            Cloud::Google => self.google(options, variables),
        };
        let store = store.map_err(|e| refused(Box::new(e)))?;
        Ok(if self.prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, self.prefix.clone())) })
    }

    /// The bucket alone, as the builders take it.
    fn root(&self) -> String {
        self.url[..url::Position::BeforePath].to_owned()
    }

    fn s3(&self, mut client: ClientOptions, variables: &Variables) -> object_store::Result<Arc<dyn ObjectStore>> {
        // Object lock asks for a checksum of every put.
        let mut builder = AmazonS3Builder::new().with_url(self.root()).with_checksum_algorithm(Checksum::SHA256);
        for (name, value) in variables.beginning_with("AWS_") {
            match name.parse() {
                Ok(AmazonS3ConfigKey::Client(key)) => client = client.with_config(key, value),
                Ok(key) => builder = builder.with_config(key, value),
                Err(_) => {}
            }
        }
        builder = aws_profile::fill(builder, variables)?;
        let rules = Rules { conflict_is_undecided: true };
        let builder = builder.with_client_options(client).with_retry(no_retry()).with_http_connector(Connector(rules));
        Ok(Arc::new(builder.build()?))
    }

    fn azure(&self, mut client: ClientOptions, variables: &Variables) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = MicrosoftAzureBuilder::new().with_url(self.root());
        for (name, value) in variables.beginning_with("AZURE_") {
            match name.parse() {
                Ok(AzureConfigKey::Client(key)) => client = client.with_config(key, value),
                Ok(key) => builder = builder.with_config(key, value),
                Err(_) => {}
            }
        }
        let rules = Rules { conflict_is_undecided: false };
        let builder = builder.with_client_options(client).with_retry(no_retry()).with_http_connector(Connector(rules));
        Ok(Arc::new(builder.build()?))
    }

    fn google(&self, mut client: ClientOptions, variables: &Variables) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = GoogleCloudStorageBuilder::new().with_url(self.root());
        for (name, value) in variables.beginning_with("GOOGLE_") {
            match name.parse() {
                Ok(GoogleConfigKey::Client(key)) => client = client.with_config(key, value),
                Ok(key) => builder = builder.with_config(key, value),
                Err(_) => {}
            }
        }
        let rules = Rules { conflict_is_undecided: false };
        let builder = builder.with_client_options(client).with_retry(no_retry()).with_http_connector(Connector(rules));
        Ok(Arc::new(builder.build()?))
    }
}

/// Every wait has a limit of its own here (`store`), by the size of what is transferred, so the client has none for a whole request.
fn client_options(variables: &Variables) -> Result<ClientOptions, Box<dyn std::error::Error + Send + Sync>> {
    let mut options = ClientOptions::new().with_timeout_disabled();
    let set = CA_BUNDLES.iter().find_map(|name| Some((name, PathBuf::from(variables.get(name)?))));
    if let Some((name, path)) = set {
        let bad = |e: String| format!("{name} names {}: {e}", path.display());
        let pem = std::fs::read(&path).map_err(|e| bad(e.to_string()))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|e| bad(e.to_string()))? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// What may pass is tried again by whoever asks, who knows how long it is worth.
fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_one_form() {
        for text in ["s3://bucket/a/b", "s3://bucket/a/b/", "s3://bucket/a/b//"] {
            let bucket = Bucket::parse(Cloud::S3, text).unwrap();
            assert_eq!((bucket.url().as_str(), bucket.prefix.as_ref()), ("s3://bucket/a/b", "a/b"), "{text}");
        }
        assert_eq!(Bucket::parse(Cloud::Azure, "az://container").unwrap().url(), "az://container");
        assert_eq!(Bucket::parse(Cloud::Google, "gs://bucket/").unwrap().url(), "gs://bucket");
    }

    #[test]
    fn secrets_and_endpoints_do_not_belong_into_a_url() {
        for (text, word) in [
            ("s3://key:secret@bucket/a", "environment"),
            ("s3://bucket/a?region=x", "environment"),
            ("s3://bucket:9000/a", "environment"),
            ("s3:///a", "bucket"),
        ] {
            let what = Bucket::parse(Cloud::S3, text).unwrap_err();
            assert!(what.contains(word) && !what.contains("secret"), "{text}: {what}");
        }
    }
}
