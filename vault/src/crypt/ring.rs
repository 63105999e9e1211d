//! What a process holds of keys, and how they are written down: a text with one key a line, the newest first, Bech32m (BIP 350), whose
//! checksum tells a mistyped key from another one.

use bech32::{Bech32m, Hrp};
use farshore_changelog::ids::GroupName;
use zeroize::Zeroizing;

use crate::crypt::keys::{Fingerprint, SourceKey, VaultKey};
use crate::crypt::secret::Secret;
use crate::objects::Nonce;

/// Largest text of keys, in bytes.
pub const KEYS_MAX_BYTES: u64 = 64 << 10;
/// Most keys of one text: one a group on a host, or one a year of rotation, and far more.
const KEYS_MAX: usize = 256;
const VAULT: &str = "farshore-vault-key-";
const SOURCE: &str = "farshore-source-key-";
/// Bytes of a source's key before the group's name.
const SOURCE_FIXED: usize = 16 + 32 + 32 + 32;

/// Keys, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    /// Keys of vaults.
    pub vault: Vec<VaultKey>,
    /// Keys of sources.
    pub source: Vec<SourceKey>,
}

impl KeyRing {
    /// With this one key.
    #[must_use]
    pub fn of(key: VaultKey) -> Self {
        Self { vault: vec![key], source: Vec::new() }
    }

    /// With this one key of a source.
    #[must_use]
    pub fn of_source(key: SourceKey) -> Self {
        Self { vault: Vec::new(), source: vec![key] }
    }

    /// Reads a text. Empty lines and what begins with `#` say nothing.
    ///
    /// # Errors
    /// The line and what is wrong with it; never what it says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ring = Self::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |what: String| format!("line {}: {what}", n + 1);
            let (hrp, bytes) = read(line).map_err(at)?;
            let bytes = Zeroizing::new(bytes);
            match hrp.as_str() {
                VAULT => {
                    let secret =
                        bytes.as_slice().try_into().map_err(|_| at("a vault's key has 32 bytes".to_owned()))?;
                    ring.vault.push(VaultKey(Secret::new(secret)));
                }
                SOURCE => ring.source.push(source(&bytes).map_err(at)?),
                other => {
                    return Err(at(format!(
                        "a key begins with {VAULT} or {SOURCE}, and this with {}",
                        other.chars().take(24).collect::<String>()
                    )));
                }
            }
            if ring.vault.len() + ring.source.len() > KEYS_MAX {
                return Err(at(format!("there are more than {KEYS_MAX} keys")));
            }
        }
        if ring.vault.is_empty() && ring.source.is_empty() {
            return Err("there is no key in it".to_owned());
        }
        Ok(ring)
    }

    /// The fingerprints, for a message.
    pub(crate) fn prints(&self) -> String {
        let vault = self.vault.iter().map(|k| k.fingerprint().to_string());
        let source = self.source.iter().map(|k| format!("{} (a source's, of group {})", k.fingerprint(), k.group));
        vault.chain(source).collect::<Vec<_>>().join(", ")
    }

    /// The vault key with this fingerprint.
    pub(crate) fn vault_key(&self, fingerprint: Fingerprint) -> Option<&VaultKey> {
        self.vault.iter().find(|key| key.fingerprint() == fingerprint)
    }
}

impl VaultKey {
    /// The line that stands for it.
    #[must_use]
    pub fn to_line(&self) -> Zeroizing<String> {
        written(VAULT, self.0.bytes())
    }
}

impl SourceKey {
    /// The line that stands for it.
    #[must_use]
    pub fn to_line(&self) -> Zeroizing<String> {
        let all = [
            self.vault.0.as_slice(),
            &self.public,
            self.group_key.bytes(),
            self.object_key.bytes(),
            self.group.as_str().as_bytes(),
        ];
        written(SOURCE, &Zeroizing::new(all.concat()))
    }
}

fn source(bytes: &[u8]) -> Result<SourceKey, String> {
    let Some((fixed, name)) = bytes.split_at_checked(SOURCE_FIXED) else {
        return Err(format!("a source's key has more than {SOURCE_FIXED} bytes"));
    };
    let part = |from: usize| -> [u8; 32] { std::array::from_fn(|i| fixed[from + i]) };
    let name = std::str::from_utf8(name).ok().and_then(|name| GroupName::new(name).ok());
    Ok(SourceKey {
        vault: Nonce(std::array::from_fn(|i| fixed[i])),
        public: part(16),
        group_key: Secret::new(part(48)),
        object_key: Secret::new(part(80)),
        group: name.ok_or("a source's key ends with the name of its group")?,
    })
}

fn written(hrp: &'static str, bytes: &[u8]) -> Zeroizing<String> {
    let hrp = Hrp::parse(hrp).expect("it is lower-case ASCII");
    Zeroizing::new(bech32::encode::<Bech32m>(hrp, bytes).expect("a key is far below 1023 characters"))
}

fn read(line: &str) -> Result<(Hrp, Vec<u8>), String> {
    // bech32::decode takes the older checksum too.
    let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(line)
        .map_err(|_| "it is no key, or was mistyped (its checksum is not right)".to_owned())?;
    Ok((checked.hrp(), checked.byte_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_text() {
        let (old, new) = (VaultKey::generate(), VaultKey::generate());
        let group = GroupName::new("web01").unwrap();
        let source = new.source_key(Nonce([3; 16]), &group, &old);
        let text = format!("# newest first\n{}\n\n  {}  \n{}\n", *new.to_line(), *old.to_line(), *source.to_line());
        let ring = KeyRing::parse(&text).unwrap();
        assert_eq!(ring, KeyRing { vault: vec![new, old.clone()], source: vec![source] });
        assert_eq!(ring.vault_key(old.fingerprint()), Some(&old));
        let longest = GroupName::new("g".repeat(64)).unwrap();
        let source = old.source_key(Nonce([3; 16]), &longest, &old);
        assert_eq!(KeyRing::parse(&source.to_line()).unwrap().source, [source]);
    }

    #[test]
    fn a_mistyped_key_is_never_another_key() {
        let line = VaultKey::generate().to_line();
        for at in VAULT.len() + 1..line.len() {
            let mut bad = line.as_bytes().to_vec();
            bad[at] = if bad[at] == b'q' { b'p' } else { b'q' };
            let error = KeyRing::parse(std::str::from_utf8(&bad).unwrap()).unwrap_err();
            assert!(error.contains("mistyped") && error.contains("line 1"), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let foreign = bech32::encode::<Bech32m>(Hrp::parse("age-secret-key-").unwrap(), &[7; 32]).unwrap();
        let short = written(VAULT, &[7; 31]);
        let nameless = written(SOURCE, &[7; SOURCE_FIXED]);
        for (text, word) in [
            ("# nothing", "no key"),
            ("hunter2", "mistyped"),
            (foreign.as_str(), "age-secret-key-"),
            (short.as_str(), "32 bytes"),
            (nameless.as_str(), "name"),
        ] {
            let error = KeyRing::parse(text).unwrap_err();
            assert!(error.contains(word), "{error}");
            assert!(!error.contains("hunter2") && !error.contains(&foreign[20..]), "{error}");
        }
    }
}
