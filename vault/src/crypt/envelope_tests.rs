use proptest::prelude::*;

use super::*;

const PRINT: Fingerprint = Fingerprint([9; 8]);

fn sealed(key: &Secret, place: &[u8], content: &[u8]) -> Bytes {
    seal(key, Under::Group, PRINT, None, place, blake3::hash(content).as_bytes(), content)
}

fn opened(key: &Secret, place: &[u8], bytes: &[u8]) -> Result<Bytes, Broken> {
    Envelope::parse(bytes)?.open(key, place)
}

proptest! {
    #[test]
    fn what_was_sealed_is_opened_at_its_place_with_its_key(content: Vec<u8>, place: Vec<u8>, key: [u8; 32], other: [u8; 32]) {
        prop_assume!(key != other);
        let key = Secret::new(key);
        let bytes = sealed(&key, &place, &content);
        prop_assert_eq!(opened(&key, &place, &bytes), Ok(Bytes::from(content.clone())));
        prop_assert_eq!(&sealed(&key, &place, &content), &bytes, "what is put again is the same bytes");
        prop_assert_eq!(opened(&Secret::new(other), &place, &bytes), Err(Broken::Tampered));
        prop_assert_eq!(opened(&key, &[place.as_slice(), b"x"].concat(), &bytes), Err(Broken::Tampered));
    }

    #[test]
    fn nothing_of_the_content_is_to_be_seen(content in proptest::collection::vec(any::<u8>(), 16..200)) {
        let bytes = sealed(&Secret::new([1; 32]), b"p", &content);
        prop_assert!(!bytes.windows(16).any(|w| content.windows(16).any(|c| c == w)));
        let digest = blake3::hash(&content);
        prop_assert!(!bytes.windows(16).any(|w| w == &digest.as_bytes()[..16]), "a hash of the content would tell whether one guessed it");
    }

    #[test]
    fn arbitrary_bytes_are_refused_and_nothing_panics(bytes: Vec<u8>) {
        prop_assert!(opened(&Secret::new([1; 32]), b"p", &bytes).is_err());
        let led = [MAGIC.as_slice(), &VERSION.to_le_bytes(), &bytes].concat();
        prop_assert!(opened(&Secret::new([1; 32]), b"p", &led).is_err());
    }
}

#[test]
fn every_flip_and_every_length_is_noticed() {
    let key = Secret::new([5; 32]);
    let data_key = [8; SEALED_KEY_BYTES];
    for attached in [None, Some(data_key.as_slice())] {
        let content = b"forty-two bytes of some content or other..";
        let bytes = seal(&key, Under::Data, PRINT, attached, b"place", blake3::hash(content).as_bytes(), content);
        assert_eq!(opened(&key, b"place", &bytes), Ok(Bytes::from_static(content)));
        assert_eq!(
            bytes.len() as u64 - content.len() as u64,
            OVERHEAD - if attached.is_some() { 0 } else { SEALED_KEY_BYTES as u64 }
        );
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&key, b"place", &bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(opened(&key, b"place", &bytes[..len]).is_err(), "length {len}");
        }
        assert!(opened(&key, b"place", &[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn two_contents_never_share_a_key() {
    let key = Secret::new([5; 32]);
    let salt = |place: &[u8], content: &[u8]| {
        let bytes = sealed(&key, place, content);
        bytes[32..64].to_vec()
    };
    assert_ne!(salt(b"a", b"one"), salt(b"a", b"two"));
    assert_ne!(salt(b"a", b"one"), salt(b"b", b"one"));
}

#[test]
fn what_is_wrong_is_said() {
    let key = Secret::new([5; 32]);
    let bytes = sealed(&key, b"p", b"content").to_vec();
    let with = |at: usize, value: u8| {
        let mut bad = bytes.clone();
        bad[at] = value;
        opened(&key, b"p", &bad).unwrap_err().to_string()
    };
    assert!(opened(&key, b"p", b"{}").unwrap_err().to_string().contains("not encrypted"));
    assert!(with(8, 7).contains("version 7"));
    assert!(with(10, 9).contains("suite 9"));
    assert!(with(11, 3).contains("kind 3"));
    assert!(with(13, 1).contains("reserved"));
    assert!(with(12, 1).contains("inside the sealed data key"));
    assert!(with(70, 0xff).contains("seal is broken"));
    assert!(opened(&key, b"p", &bytes[..70]).unwrap_err().to_string().contains("has 70 bytes"));
}
