use proptest::prelude::*;

use super::*;
use crate::nbd::wire::Reader;

#[test]
fn simple_replies_are_sixteen_bytes() {
    let mut out = Vec::new();
    simple(&mut out, 0x0102, EIO);
    assert_eq!(out, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn chunks_say_their_length() {
    let mut out = Vec::new();
    data_head(&mut out, 3, 4096, 512);
    assert_eq!(out.len(), STRUCTURED_REPLY_BYTES + 8);
    let mut fields = Reader::new(&out);
    assert_eq!((fields.u32(), fields.u16(), fields.u16()), (Some(STRUCTURED_REPLY_MAGIC), Some(1), Some(1)));
    assert_eq!((fields.u64(), fields.u32(), fields.u64()), (Some(3), Some(520), Some(4096)));
    out.clear();
    none(&mut out, 3);
    assert_eq!((out.len(), &out[6..8], &out[16..]), (20, &[0, 0][..], &[0, 0, 0, 0][..]));
}

#[test]
fn long_messages_are_cut_between_characters() {
    let mut out = Vec::new();
    error(&mut out, 3, EIO, &"ä".repeat(300));
    let mut fields = Reader::new(&out[STRUCTURED_REPLY_BYTES..]);
    assert_eq!((fields.u32(), fields.u16()), (Some(EIO), Some(512)));
    assert_eq!(std::str::from_utf8(fields.take(512).unwrap()).unwrap().chars().count(), 256);
    error(&mut out, 3, EIO, &format!("x{}", "ä".repeat(300)));
}

#[test]
fn errors_of_the_system_become_those_of_the_protocol() {
    for (system, value) in [
        (libc::EPERM, EPERM),
        (libc::EROFS, EPERM),
        (libc::EIO, EIO),
        (libc::ENXIO, EIO),
        (libc::EINVAL, EINVAL),
        (libc::ENOSPC, ENOSPC),
        (libc::EDQUOT, ENOSPC),
        (libc::EFBIG, ENOSPC),
        (libc::ESHUTDOWN, ESHUTDOWN),
    ] {
        assert_eq!(error_value(&io::Error::from_raw_os_error(system), false), value, "errno {system}");
    }
    let unsupported = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    assert_eq!((error_value(&unsupported, true), error_value(&unsupported, false)), (ENOTSUP, EINVAL));
    assert_eq!(error_value(&io::Error::other("torn"), false), EIO);
    assert_eq!(error_value(&io::ErrorKind::StorageFull.into(), false), ENOSPC);
}

proptest! {
    /// Descriptors are never empty, never pass the request, and say what the extents say.
    #[test]
    fn block_status_keeps_to_the_request(
        extents in prop::collection::vec((0_u64..200, any::<bool>(), any::<bool>()), 0..20),
        len in 1_u32..1000,
        one in any::<bool>(),
    ) {
        let extents: Vec<Extent> = extents.into_iter().map(|(len, hole, zero)| Extent { len, hole, zero }).collect();
        let mut out = Vec::new();
        block_status(&mut out, 1, &extents, len, one);
        let mut fields = Reader::new(&out[STRUCTURED_REPLY_BYTES + 4..]);
        let found: Vec<(u32, u32)> = std::iter::from_fn(|| Some((fields.u32()?, fields.u32()?))).collect();
        prop_assert!(!found.is_empty() && (!one || found.len() == 1));
        prop_assert!(found.iter().all(|(bytes, _)| *bytes > 0));
        prop_assert!(found.iter().map(|(bytes, _)| u64::from(*bytes)).sum::<u64>() <= u64::from(len));
        let bytes = |list: &mut dyn Iterator<Item = (u64, u32)>| -> Vec<u32> {
            list.flat_map(|(n, state)| std::iter::repeat_n(state, n as usize)).collect()
        };
        let said = bytes(&mut found.iter().map(|(n, s)| (u64::from(*n), *s)));
        let meant = bytes(&mut extents.iter().map(|e| (e.len, u32::from(e.hole) | u32::from(e.zero) << 1)));
        if meant.is_empty() {
            prop_assert_eq!(found, vec![(len, 0)]);
        } else {
            prop_assert_eq!(&said[..], &meant[..said.len()]);
            prop_assert!(one || said.len() == meant.len().min(len as usize));
        }
    }
}
