use proptest::prelude::*;

use super::*;
use crate::nbd::wire::Put;

const SIZE: u64 = 100 << 20;
const MAX: u32 = 32 << 20;

fn info(read_only: bool, fast_zero: bool) -> DeviceInfo {
    let name = "vda".into();
    DeviceInfo { name, size_bytes: SIZE, preferred_block_bytes: 4096, max_request_bytes: MAX, read_only, fast_zero }
}

const FULL: Agreed = Agreed { structured: true, allocation: true };
const PLAIN: Agreed = Agreed { structured: false, allocation: false };

fn header(command: u16, flags: u16, offset: u64, len: u32) -> Header {
    Header { flags, command, handle: 9, offset, len }
}

fn error(checked: Checked) -> Option<u32> {
    if let Checked::Refuse(refusal) = checked { Some(refusal.error) } else { None }
}

#[test]
fn the_header_is_read_field_by_field() {
    let mut bytes = Vec::new();
    bytes.u32(REQUEST_MAGIC);
    bytes.u16(CMD_FLAG_FUA);
    bytes.u16(CMD_WRITE);
    bytes.u64(0x0102_0304_0506_0708);
    bytes.u64(4096);
    bytes.u32(512);
    let bytes: [u8; REQUEST_BYTES] = bytes.try_into().unwrap();
    let expected = Header { flags: 1, command: 1, handle: 0x0102_0304_0506_0708, offset: 4096, len: 512 };
    assert_eq!(Header::parse(&bytes), Some(expected));
    let mut wrong = bytes;
    wrong[3] ^= 1;
    assert_eq!(Header::parse(&wrong), None);
}

#[test]
fn good_requests_become_the_devices() {
    let info = info(false, true);
    let run = |command, flags, offset, len| match check(&header(command, flags, offset, len), &info, FULL) {
        Checked::Run(request) => request,
        other => panic!("{other:?}"),
    };
    assert_eq!(run(CMD_READ, CMD_FLAG_DF, 1, 2), Request::Read { offset: 1, len: 2 });
    assert_eq!(run(CMD_WRITE, CMD_FLAG_FUA, SIZE - 5, 5), Request::Write { offset: SIZE - 5, len: 5, fua: true });
    assert_eq!(run(CMD_FLUSH, CMD_FLAG_FUA, 0, 0), Request::Flush);
    assert_eq!(run(CMD_TRIM, 0, 7, 8), Request::Trim { offset: 7, len: 8, fua: false });
    assert_eq!(run(CMD_CACHE, 0, 0, SIZE as u32), Request::Cache { offset: 0, len: SIZE });
    assert_eq!(
        run(CMD_WRITE_ZEROES, CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO, 0, SIZE as u32),
        Request::WriteZeroes { offset: 0, len: SIZE, fua: false, no_hole: true, fast: true }
    );
    assert_eq!(run(CMD_BLOCK_STATUS, CMD_FLAG_REQ_ONE, 3, 4), Request::BlockStatus { offset: 3, len: 4, one: true });
    assert_eq!(check(&header(CMD_DISC, 0, 0, 0), &info, PLAIN), Checked::Disconnect);
}

#[test]
fn each_mistake_gets_the_error_the_text_names() {
    let (plain, read_only) = (info(false, false), info(true, false));
    for (what, header, info, agreed, expected) in [
        ("unknown command", header(8, 0, 0, 0), &plain, FULL, EINVAL),
        ("unknown command", header(u16::MAX, 0, 0, 1), &plain, FULL, EINVAL),
        ("unknown flag", header(CMD_READ, 1 << 5, 0, 1), &plain, FULL, EINVAL),
        ("DF without structured replies", header(CMD_READ, CMD_FLAG_DF, 0, 1), &plain, PLAIN, EINVAL),
        ("DF of a write", header(CMD_WRITE, CMD_FLAG_DF, 0, 1), &plain, FULL, EINVAL),
        ("NO_HOLE of a write", header(CMD_WRITE, CMD_FLAG_NO_HOLE, 0, 1), &plain, FULL, EINVAL),
        ("flag of a cache", header(CMD_CACHE, CMD_FLAG_REQ_ONE, 0, 1), &plain, FULL, EINVAL),
        ("flush of a range", header(CMD_FLUSH, 0, 0, 1), &plain, FULL, EINVAL),
        ("flush at an offset", header(CMD_FLUSH, 0, 1, 0), &plain, FULL, EINVAL),
        ("read beyond the end", header(CMD_READ, 0, SIZE - 1, 2), &plain, FULL, EINVAL),
        ("read past 2^64", header(CMD_READ, 0, u64::MAX, 2), &plain, FULL, EINVAL),
        ("write beyond the end", header(CMD_WRITE, 0, SIZE, 1), &plain, FULL, ENOSPC),
        ("zeroes beyond the end", header(CMD_WRITE_ZEROES, 0, SIZE, 1), &plain, FULL, ENOSPC),
        ("trim beyond the end", header(CMD_TRIM, 0, SIZE, 1), &plain, FULL, EINVAL),
        ("cache beyond the end", header(CMD_CACHE, 0, SIZE, 1), &plain, FULL, EINVAL),
        ("status beyond the end", header(CMD_BLOCK_STATUS, 0, SIZE, 1), &plain, FULL, EINVAL),
        ("write to read-only", header(CMD_WRITE, 0, 0, 1), &read_only, FULL, EPERM),
        ("trim of read-only", header(CMD_TRIM, 0, 0, 1), &read_only, FULL, EPERM),
        ("zeroes to read-only", header(CMD_WRITE_ZEROES, 0, 0, 1), &read_only, FULL, EPERM),
        ("read too long", header(CMD_READ, 0, 0, MAX + 1), &plain, FULL, EINVAL),
        ("unfragmented read too long", header(CMD_READ, CMD_FLAG_DF, 0, MAX + 1), &plain, FULL, EOVERFLOW),
        ("write too long", header(CMD_WRITE, 0, 0, MAX + 1), &plain, FULL, EINVAL),
        ("status without context", header(CMD_BLOCK_STATUS, 0, 0, 1), &plain, PLAIN, EINVAL),
        ("status of nothing", header(CMD_BLOCK_STATUS, 0, 0, 0), &plain, FULL, EINVAL),
        ("fast zero where it is not", header(CMD_WRITE_ZEROES, CMD_FLAG_FAST_ZERO, 0, 1), &plain, FULL, ENOTSUP),
    ] {
        assert_eq!(error(check(&header, info, agreed)), Some(expected), "{what}");
    }
}

#[test]
fn requests_about_no_byte_succeed() {
    for command in [CMD_READ, CMD_WRITE, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES] {
        assert_eq!(check(&header(command, 0, SIZE, 0), &info(false, false), PLAIN), Checked::Nothing);
        assert!(error(check(&header(command, 0, SIZE + 1, 0), &info(false, false), PLAIN)).is_some());
    }
}

proptest! {
    /// Whatever comes, what reaches the device lies on the device, is no longer than it takes, and changes nothing that is
    /// read-only.
    #[test]
    fn nothing_unchecked_reaches_the_device(
        bytes in prop::array::uniform28(any::<u8>()),
        command in 0_u16..10,
        flags in prop_oneof![Just(0_u16), 0_u16..64],
        offset in prop_oneof![0..SIZE + 100, any::<u64>()],
        len in prop_oneof![0_u32..100, any::<u32>()],
        read_only in any::<bool>(),
        agreed in prop_oneof![Just(FULL), Just(PLAIN)],
    ) {
        let info = info(read_only, false);
        let foreign = Header::parse(&bytes);
        for header in foreign.into_iter().chain([header(command, flags, offset, len)]) {
            let Checked::Run(request) = check(&header, &info, agreed) else { continue };
            let (start, bytes, limit, changes) = match request {
                Request::Read { offset, len } => (offset, u64::from(len), u64::from(MAX), false),
                Request::Write { offset, len, .. } => (offset, u64::from(len), u64::from(MAX), true),
                Request::WriteZeroes { offset, len, fast, .. } => {
                    prop_assert!(!fast);
                    (offset, len, u64::MAX, true)
                }
                Request::Trim { offset, len, .. } => (offset, len, u64::MAX, true),
                Request::Cache { offset, len } => (offset, len, u64::MAX, false),
                Request::BlockStatus { offset, len, .. } => (offset, len, u64::MAX, false),
                Request::Flush => continue,
            };
            prop_assert!(bytes > 0 && bytes <= limit && start + bytes <= SIZE);
            prop_assert!(!(changes && read_only));
        }
    }
}
