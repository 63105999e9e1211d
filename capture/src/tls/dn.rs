//! A distinguished name as text, by RFC 4514: the last part first, `CN=host7,OU=VMs,O=Example,C=DE`. It is what
//! `openssl x509 -noout -subject -nameopt RFC2253` and GnuTLS print, and what QEMU and libvirt are configured with.

use std::fmt::Write;

/// Most bytes of a name that is read; a longer one has no text and so is on no list.
pub const NAME_MAX_BYTES: usize = 8 << 10;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const BMP_STRING: u8 = 0x1e;

/// Attribute types that have a keyword (RFC 4514, section 3, and what OpenSSL and GnuTLS name beyond it), by their identifiers in DER.
const KEYWORDS: [(&[u8], &str); 12] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// A name as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// All of it.
    pub text: String,
    /// Its common name, with `CN=` before it. `None` when it has none, or several: nobody could say which of them counts.
    pub common_name: Option<String>,
}

/// The name given as the content of its `SEQUENCE`; `None` when it is malformed or longer than [`NAME_MAX_BYTES`].
#[must_use]
pub fn read(name: &[u8]) -> Option<Name> {
    if name.len() > NAME_MAX_BYTES {
        return None;
    }
    let (mut rest, mut parts) = (name, Vec::new());
    while !rest.is_empty() {
        parts.push(relative(expect(&mut rest, SET)?)?);
    }
    parts.reverse();
    let mut common = parts.iter().flatten().filter(|attribute| attribute.starts_with("CN="));
    let common_name = common.next().filter(|_| common.next().is_none()).cloned();
    let parts: Vec<String> = parts.iter().map(|attributes| attributes.join("+")).collect();
    Some(Name { text: parts.join(","), common_name })
}

/// One part, of one attribute or several: `OU=VMs` or `CN=host7+UID=7`.
fn relative(mut set: &[u8]) -> Option<Vec<String>> {
    let mut attributes = Vec::new();
    while !set.is_empty() {
        let mut attribute = expect(&mut set, SEQUENCE)?;
        let kind = expect(&mut attribute, OBJECT_IDENTIFIER)?;
        let whole = attribute;
        let (tag, value) = element(&mut attribute)?;
        if !attribute.is_empty() {
            return None;
        }
        let value = string(tag, value).map_or_else(|| hex(whole), |text| escaped(&text));
        attributes.push(format!("{}={value}", keyword(kind)?));
    }
    (!attributes.is_empty()).then_some(attributes)
}

fn keyword(kind: &[u8]) -> Option<String> {
    match KEYWORDS.iter().find(|(known, _)| *known == kind) {
        Some((_, word)) => Some((*word).to_owned()),
        None => dotted(kind),
    }
}

/// An identifier as numbers with dots between them (X.690, section 8.19).
fn dotted(kind: &[u8]) -> Option<String> {
    let (mut arcs, mut arc) = (Vec::new(), 0_u64);
    for byte in kind {
        arc = arc.checked_mul(128)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            arcs.push(std::mem::take(&mut arc));
        }
    }
    // The last arc must be whole.
    if kind.last()? & 0x80 != 0 {
        return None;
    }
    let (first, rest) = arcs.split_first()?;
    // The first two arcs share a number, and only the third root has more than 40 below it.
    let root = (first / 40).min(2);
    let mut text = format!("{root}.{}", first - root * 40);
    rest.iter().for_each(|arc| text.push_str(&format!(".{arc}")));
    Some(text)
}

/// The text of a value; `None` for a type that is no text, or is not what its type says.
fn string(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING => std::str::from_utf8(value).ok().map(str::to_owned),
        PRINTABLE_STRING | IA5_STRING | NUMERIC_STRING if value.is_ascii() => {
            std::str::from_utf8(value).ok().map(str::to_owned)
        }
        BMP_STRING => {
            let (units, []) = value.as_chunks::<2>() else { return None };
            String::from_utf16(&units.iter().map(|unit| u16::from_be_bytes(*unit)).collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// A value as RFC 4514 section 2.4 writes it. Control characters too are escaped: the text goes into logs.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (n, c) in value.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', c]),
            ' ' if n == 0 || n == last => text.push_str("\\ "),
            '#' if n == 0 => text.push_str("\\#"),
            c if c.is_control() => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| {
                // Writing into a string does not fail.
                let _ = write!(text, "\\{b:02X}");
            }),
            c => text.push(c),
        }
    }
    text
}

/// `#` and the DER of the value.
fn hex(der: &[u8]) -> String {
    der.iter().fold("#".to_owned(), |mut text, b| {
        let _ = write!(text, "{b:02X}");
        text
    })
}

/// Takes an element of a known type.
fn expect<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, content) = element(rest)?;
    (found == tag).then_some(content)
}

/// Takes one element: its tag and content (X.690, section 8.1; names need tags of one byte and lengths below 64 KiB).
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, after) = rest.split_first()?;
    let (&first, after) = after.split_first()?;
    let (len, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81 => after.split_first().map(|(len, after)| (usize::from(*len), after))?,
        0x82 => after.split_first_chunk().map(|(len, after)| (usize::from(u16::from_be_bytes(*len)), after))?,
        _ => return None,
    };
    let (content, after) = after.split_at_checked(len)?;
    *rest = after;
    Some((tag, content))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(name: &[u8]) -> Option<String> {
        read(name).map(|name| name.text)
    }

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = content.len();
        let mut out = vec![tag];
        match len {
            0..=0x7f => out.push(len as u8),
            0x80..=0xff => out.extend([0x81, len as u8]),
            _ => out.extend([0x82, (len >> 8) as u8, len as u8]),
        }
        out.extend(content);
        out
    }

    fn attribute(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &[der(OBJECT_IDENTIFIER, kind), der(tag, value)].concat())
    }

    fn one(kind: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(SET, &attribute(kind, tag, value))
    }

    #[test]
    fn the_last_part_comes_first() {
        let name = [
            one(&[0x55, 4, 6], PRINTABLE_STRING, b"DE"),
            one(&[0x55, 4, 10], UTF8_STRING, "Größe, AG".as_bytes()),
            one(&[0x55, 4, 3], UTF8_STRING, b"host7"),
        ];
        assert_eq!(text(&name.concat()).unwrap(), "CN=host7,O=Größe\\, AG,C=DE");
        assert_eq!(text(&[]).unwrap(), "");
    }

    #[test]
    fn several_attributes_unknown_types_and_odd_values_have_a_text_too() {
        let both =
            [attribute(&[0x55, 4, 3], UTF8_STRING, b" a#b "), attribute(&[0x55, 4, 5], IA5_STRING, b"#7")].concat();
        assert_eq!(text(&der(SET, &both)).unwrap(), "CN=\\ a#b\\ +serialNumber=\\#7");
        assert_eq!(text(&one(&[0x55, 4, 99], UTF8_STRING, b"x")).unwrap(), "2.5.4.99=x");
        assert_eq!(text(&one(&[0x55, 4, 3], 0x03, &[0, 255])).unwrap(), "CN=#030200FF");
        assert_eq!(text(&one(&[0x55, 4, 3], BMP_STRING, &[0, b'h', 0x20, 0xac])).unwrap(), "CN=h€");
        assert_eq!(text(&one(&[0x55, 4, 3], UTF8_STRING, b"a\nb\0")).unwrap(), "CN=a\\0Ab\\00");
        let mail = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        assert_eq!(text(&one(&mail, IA5_STRING, b"a@b")).unwrap(), "emailAddress=a@b");
        assert_eq!(
            text(&one(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 9], UTF8_STRING, b"")).unwrap(),
            "1.2.840.113549.9="
        );
    }

    #[test]
    fn a_common_name_counts_when_there_is_one() {
        let (cn, o) =
            (|v: &str| one(&[0x55, 4, 3], UTF8_STRING, v.as_bytes()), one(&[0x55, 4, 10], UTF8_STRING, b"Ex"));
        let common = |name: &[u8]| read(name).unwrap().common_name;
        assert_eq!(common(&[o.clone(), cn("host7")].concat()).as_deref(), Some("CN=host7"));
        assert_eq!(common(&[cn("host7,O=Other"), o.clone()].concat()).as_deref(), Some("CN=host7\\,O=Other"));
        assert_eq!(common(&[cn("host7"), cn("host8")].concat()), None, "several");
        assert_eq!(common(&o), None, "none");
    }

    #[test]
    fn names_that_do_not_add_up_have_none() {
        let good = one(&[0x55, 4, 3], UTF8_STRING, b"host7");
        for cut in 1..good.len() {
            assert_eq!(text(&good[..cut]), None, "cut after {cut} bytes");
        }
        assert_eq!(text(&der(SET, &[])), None, "a part without an attribute");
        assert_eq!(text(&one(&[0x80], UTF8_STRING, b"x")), None, "half an identifier");
        assert_eq!(text(&[SET, 0x80, 0, 0]), None, "an indefinite length");
        assert_eq!(text(&good.repeat(NAME_MAX_BYTES / good.len() + 1)), None, "too long");
    }

    proptest! {
        /// No two values have one text: a list that names one of them lets nobody else in.
        #[test]
        fn different_values_have_different_texts(a in "[a ,+=#\\\\\"\n]{0,6}", b in "[a ,+=#\\\\\"\n]{0,6}") {
            let named = |value: &str| text(&[one(&[0x55, 4, 10], UTF8_STRING, value.as_bytes()), one(&[0x55, 4, 3], UTF8_STRING, b"h")].concat());
            prop_assert_eq!(a == b, named(&a) == named(&b));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = text(&bytes);
        }
    }
}
