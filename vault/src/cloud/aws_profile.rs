//! The files of the AWS command line: `~/.aws/credentials` and `~/.aws/config`, by profile. Read again when they change, so keys that are
//! replaced while a stage runs count from the next request on; a `credential_process` is run again when its keys expire.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use farshore_changelog::clock;
use ini::{Ini, ParseOption};
use jiff::Timestamp;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use serde::Deserialize;

use super::Variables;

/// Keys that expire are asked for anew this long before.
const RENEW_BEFORE: jiff::SignedDuration = jiff::SignedDuration::from_secs(120);
const STORE: &str = "S3";
/// Keys of a profile whose credentials the command line fetches from another service.
const ELSEWHERE: [&str; 4] = ["role_arn", "sso_session", "sso_start_url", "login_session"];

/// Completes what the variables have left open, where there is a profile: keys, region, endpoint. One that is named and not there is an
/// error; without a name the profile `default` counts, where it has keys.
///
/// # Errors
/// When a file cannot be read, or has no such profile.
pub(super) fn fill(builder: AmazonS3Builder, variables: &Variables) -> object_store::Result<AmazonS3Builder> {
    if builder.get_config_value(&AmazonS3ConfigKey::AccessKeyId).is_some() {
        return Ok(builder);
    }
    let Some(files) = Files::of(variables) else { return Ok(builder) };
    let profile = match files.read() {
        Ok(profile) => profile,
        Err(_) if !files.named => return Ok(builder),
        Err(what) => return Err(failed(what)),
    };
    let mut builder = builder;
    for (key, value) in
        [(AmazonS3ConfigKey::Region, &profile.region), (AmazonS3ConfigKey::S3Endpoint, &profile.endpoint)]
    {
        if let (None, Some(value)) = (builder.get_config_value(&key), value) {
            builder = builder.with_config(key, value.clone());
        }
    }
    match profile.keys {
        Keys::Fixed(_) | Keys::Process(_) => {}
        // The role of the machine, perhaps, as for the command line; but not in place of one that was asked for.
        Keys::None if profile.needs_more => return Err(failed(files.needs_more())),
        Keys::None => return Ok(builder),
    }
    Ok(builder.with_credentials(Arc::new(Provider { files, last: Mutex::new(None) })))
}

fn failed(what: String) -> object_store::Error {
    object_store::Error::Generic { store: STORE, source: what.into() }
}

/// Where a profile is looked for.
#[derive(Debug, Clone)]
struct Files {
    credentials: PathBuf,
    config: PathBuf,
    profile: String,
    /// The profile was asked for.
    named: bool,
}

impl Files {
    /// `None` where there is no home either.
    fn of(variables: &Variables) -> Option<Self> {
        let set = |name: &str| variables.get(name);
        let home = set("HOME").map(|home| PathBuf::from(home).join(".aws"));
        let file =
            |name: &str, default: &str| set(name).map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(default)));
        let profile = set("AWS_PROFILE").or_else(|| set("AWS_DEFAULT_PROFILE"));
        Some(Self {
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
            config: file("AWS_CONFIG_FILE", "config")?,
            named: profile.is_some(),
            profile: profile.unwrap_or("default").to_owned(),
        })
    }

    /// Its profile, the credentials file first. In words: what is wrong. No value is named.
    fn read(&self) -> Result<Profile, String> {
        let of_config =
            if self.profile == "default" { self.profile.clone() } else { format!("profile {}", self.profile) };
        let places = [(&self.credentials, self.profile.as_str()), (&self.config, of_config.as_str())];
        let (mut found, mut profile) = (false, Profile::default());
        for (path, section) in places {
            let Some(section) = section_of(path, section)? else { continue };
            found = true;
            profile.take(&|key| section.get(key).map(|value| value.trim().to_owned()));
        }
        if found { Ok(profile) } else { Err(self.absent()) }
    }

    fn absent(&self) -> String {
        let (profile, credentials, config) = (&self.profile, self.credentials.display(), self.config.display());
        format!("neither {credentials} nor {config} has the profile {profile}; see AWS_PROFILE")
    }

    fn needs_more(&self) -> String {
        format!(
            "the profile {} takes its keys from a role or a sign-on, which is not read here; let its credential_process print them: \
             aws configure export-credentials --profile {} --format process",
            self.profile, self.profile
        )
    }

    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.credentials, &self.config].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
    }
}

fn section_of(path: &Path, section: &str) -> Result<Option<ini::Properties>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("{} cannot be read: {e}", path.display())),
    };
    let options = ParseOption { enabled_escape: false, enabled_quote: false, ..ParseOption::default() };
    // What the parser says of a line may hold a key.
    let file = Ini::load_from_str_opt(&text, options)
        .map_err(|e| format!("{} is not of the form of these files, at line {}", path.display(), e.line))?;
    Ok(file.section(Some(section)).cloned())
}

/// What a profile says.
#[derive(Default)]
struct Profile {
    keys: Keys,
    region: Option<String>,
    endpoint: Option<String>,
    /// Its keys are to come from a role or a sign-on, which is not done here.
    needs_more: bool,
}

#[derive(Default)]
enum Keys {
    #[default]
    None,
    Fixed(AwsCredential),
    /// A command that prints them.
    Process(String),
}

impl Profile {
    /// Takes what it has not got yet.
    fn take(&mut self, get: &dyn Fn(&str) -> Option<String>) {
        if matches!(self.keys, Keys::None) {
            let fixed = get("aws_access_key_id").zip(get("aws_secret_access_key"));
            self.keys = match (fixed, get("credential_process")) {
                (Some((key_id, secret_key)), _) => {
                    Keys::Fixed(AwsCredential { key_id, secret_key, token: get("aws_session_token") })
                }
                (None, Some(command)) => Keys::Process(command),
                (None, None) => Keys::None,
            };
        }
        self.needs_more |= ELSEWHERE.iter().any(|key| get(key).is_some());
        self.region = self.region.take().or_else(|| get("region"));
        self.endpoint = self.endpoint.take().or_else(|| get("endpoint_url"));
    }
}

/// Keys that were found.
#[derive(Debug, Clone)]
struct Known {
    credential: Arc<AwsCredential>,
    /// When the files were last written.
    changed: [Option<SystemTime>; 2],
    expires: Option<Timestamp>,
}

#[derive(Debug)]
struct Provider {
    files: Files,
    last: Mutex<Option<Known>>,
}

impl Provider {
    fn known(&self) -> Option<Known> {
        let known = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let now = clock::wall().timestamp();
        let fresh = known.expires.is_none_or(|expires| now + RENEW_BEFORE < expires);
        (fresh && known.changed == self.files.changed()).then_some(known)
    }
}

#[async_trait]
impl CredentialProvider for Provider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        if let Some(known) = self.known() {
            return Ok(known.credential);
        }
        let files = self.files.clone();
        let found = tokio::task::spawn_blocking(move || find(&files)).await;
        let found = found.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
        let credential = Arc::clone(&found.credential);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(credential)
    }
}

fn find(files: &Files) -> Result<Known, String> {
    let changed = files.changed();
    let (credential, expires) = match files.read()?.keys {
        Keys::None => return Err(format!("the profile {} has no keys any more", files.profile)),
        Keys::Fixed(credential) => (credential, None),
        Keys::Process(command) => printed(&command)?,
    };
    Ok(Known { credential: Arc::new(credential), changed, expires })
}

/// What a `credential_process` prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<Timestamp>,
}

/// Runs it. Its output is never repeated in a message.
fn printed(command: &str) -> Result<(AwsCredential, Option<Timestamp>), String> {
    let ran = Command::new("sh").args(["-c", command]).output();
    let ran = ran.map_err(|e| format!("the profile's credential_process cannot be run: {e}"))?;
    if !ran.status.success() {
        return Err(format!("the profile's credential_process failed: {}", ran.status));
    }
    let printed: Printed = serde_json::from_slice(&ran.stdout)
        .map_err(|e| format!("the profile's credential_process did not print keys (line {})", e.line()))?;
    if printed.version != 1 {
        return Err(format!("the profile's credential_process prints version {}, known is 1", printed.version));
    }
    let Printed { access_key_id: key_id, secret_access_key: secret_key, session_token: token, expiration, .. } =
        printed;
    Ok((AwsCredential { key_id, secret_key, token }, expiration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, profile: &str) -> Files {
        let (credentials, config) = (dir.join("credentials"), dir.join("config"));
        Files { credentials, config, profile: profile.to_owned(), named: true }
    }

    async fn key_of(provider: &Provider) -> String {
        provider.get_credential().await.unwrap().key_id.clone()
    }

    #[tokio::test]
    async fn keys_that_are_replaced_count_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), "work");
        let write = |key: &str| {
            let text = format!(
                "[default]\naws_access_key_id = no\naws_secret_access_key = no\n[work]\naws_access_key_id={key}\naws_secret_access_key = a/b+c=#;\n"
            );
            std::fs::write(&files.credentials, text).unwrap();
        };
        write("one");
        std::fs::write(&files.config, "[profile work]\nregion = eu-central-1\n").unwrap();
        let profile = files.read().unwrap();
        assert_eq!(profile.region.as_deref(), Some("eu-central-1"));
        let provider = Provider { files: files.clone(), last: Mutex::new(None) };
        assert_eq!(key_of(&provider).await, "one");
        assert_eq!(provider.get_credential().await.unwrap().secret_key, "a/b+c=#;");
        write("two");
        let later =
            std::fs::metadata(&files.credentials).unwrap().modified().unwrap() + std::time::Duration::from_secs(5);
        std::fs::File::open(&files.credentials).unwrap().set_modified(later).unwrap();
        assert_eq!(key_of(&provider).await, "two");
    }

    #[tokio::test]
    async fn a_process_is_asked_again_when_its_keys_expire() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), "default");
        let (count, reply) = (dir.path().join("count"), dir.path().join("reply"));
        let command = format!("echo x >> {}; cat {}", count.display(), reply.display());
        std::fs::write(&files.config, format!("[default]\ncredential_process = {command}\n")).unwrap();
        let answer = |key: &str, expires: Timestamp| {
            let text = format!(
                r#"{{"Version":1,"AccessKeyId":"{key}","SecretAccessKey":"s","SessionToken":"t","Expiration":"{expires}"}}"#
            );
            std::fs::write(&reply, text).unwrap();
        };
        let now = clock::wall().timestamp();
        answer("one", now + jiff::SignedDuration::from_secs(3600));
        let provider = Provider { files, last: Mutex::new(None) };
        assert_eq!((key_of(&provider).await.as_str(), key_of(&provider).await.as_str()), ("one", "one"));
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
        *provider.last.lock().unwrap() = None;
        answer("two", now + jiff::SignedDuration::from_secs(1));
        assert_eq!(key_of(&provider).await, "two");
        answer("three", now + jiff::SignedDuration::from_secs(3600));
        assert_eq!(key_of(&provider).await, "three");
    }

    #[test]
    fn a_role_that_is_asked_for_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (credentials, config) = (dir.path().join("credentials"), dir.path().join("config"));
        let filled = |text: &str| {
            std::fs::write(&config, text).unwrap();
            let set = [
                ("AWS_PROFILE", "work".to_owned()),
                ("AWS_SHARED_CREDENTIALS_FILE", credentials.display().to_string()),
                ("AWS_CONFIG_FILE", config.display().to_string()),
            ];
            let variables = set.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            fill(AmazonS3Builder::new(), &variables).map(drop)
        };
        filled("[profile work]\nregion = eu-central-1\n").unwrap();
        let refused = filled("[profile work]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = y\n").unwrap_err();
        assert!(refused.to_string().contains("credential_process"), "{refused}");
    }

    #[test]
    fn what_is_wrong_is_said_without_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path(), "work");
        let what = |files: &Files| files.read().map(|_| ()).unwrap_err();
        assert!(what(&files).contains("neither"), "{}", what(&files));
        std::fs::write(&files.credentials, "[work\naws_secret_access_key = planted-secret\n").unwrap();
        assert!(!what(&files).contains("planted-secret"), "{}", what(&files));
        let broken = printed("echo planted-secret; exit 3").map(|_| ()).unwrap_err();
        assert!(broken.contains("exit status: 3") && !broken.contains("planted"), "{broken}");
        let broken = printed("echo '{\"planted-secret\"'").map(|_| ()).unwrap_err();
        assert!(!broken.contains("planted"), "{broken}");
    }
}
