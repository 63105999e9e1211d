use proptest::prelude::*;

use super::*;

fn entry(name: &str, kind: DiskKind) -> DiskEntry {
    let inode = if kind == DiskKind::File { 0x2222 } else { 0 };
    DiskEntry {
        name: DiskName::new(name).unwrap(),
        size_bytes: 10 << 30,
        identity: DiskIdentity { kind, device: 0x1111, inode },
        block_bytes: 4096,
    }
}

fn spec() -> RingSpec {
    RingSpec {
        group: GroupName::new("web01").unwrap(),
        epoch: Epoch(7),
        boot_id: *b"0123456789abcdef",
        lanes: 2,
        slots_per_lane: 128,
        payload_bytes_per_lane: 8 << 20,
        created: UnixMicros(1_700_000_000_000_000),
        disks: vec![entry("vda", DiskKind::File), entry("vdb", DiskKind::BlockDevice)],
    }
}

const FILE_BYTES: u64 = 4096 + 2 * (4096 + 128 * 64 + (8 << 20));

fn verify(page: &[u8]) -> Result<Verified, HeaderError> {
    Unverified::new(page).verify(FILE_BYTES)
}

/// The same page with a right checksum, so that what lies behind it is tried.
fn resealed(mut page: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    let crc = checksum(&page);
    put(&mut page, H_CRC, &crc.to_le_bytes());
    page
}

#[test]
fn the_fields_lie_where_the_format_says() {
    let page = encode(&spec());
    assert_eq!(page[..8], *b"FARSHRNG");
    assert_eq!(page[8..16], [2, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(page[16..22], *b"web01\0");
    assert_eq!(page[80..88], 7u64.to_le_bytes());
    assert_eq!(page[88..96], [128, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(page[96..104], (8u64 << 20).to_le_bytes());
    assert_eq!(page[104..120], *b"0123456789abcdef");
    assert_eq!(page[120..128], 1_700_000_000_000_000u64.to_le_bytes());
    for word in [256, 320, 384] {
        assert_eq!(page[word..word + 8], 1u64.to_le_bytes());
    }
    assert!(page[448..1024].iter().all(|b| *b == 0));
    let second = &page[1024 + 96..1024 + 192];
    assert_eq!(second[..4], *b"vdb\0");
    assert_eq!(second[32..40], (10u64 << 30).to_le_bytes());
    assert_eq!(second[40..48], 0x1111u64.to_le_bytes());
    assert_eq!(second[48..56], [0; 8]);
    assert_eq!(second[56..64], [0, 16, 0, 0, 2, 0, 0, 0]);
    let mut fixed = page[..128].to_vec();
    fixed.extend(&page[1024..]);
    assert_eq!(page[128..132], crc32fast::hash(&fixed).to_le_bytes());
}

#[test]
fn another_length_magic_or_version_is_refused() {
    let page = encode(&spec());
    assert_eq!(verify(&page).unwrap().spec(), &spec());
    for bytes in [0, 4096, FILE_BYTES - 1, FILE_BYTES + 4096, u64::MAX] {
        assert!(matches!(Unverified::new(&page).verify(bytes), Err(HeaderError::Damaged(_))), "{bytes}");
    }
    for short in [0, 1, 4095] {
        assert!(matches!(verify(&page[..short]), Err(HeaderError::Damaged(_))), "{short}");
    }
    let mut other = page;
    other[0] = b'X';
    assert!(matches!(verify(&resealed(other)), Err(HeaderError::Refused(_))));
    let mut other = page;
    other[8] = 1;
    assert_eq!(verify(&resealed(other)), Err(HeaderError::Version(1)));
    assert!(matches!(verify(&other), Err(HeaderError::Damaged(_))), "a flipped version is no other version");
}

#[test]
fn a_well_sealed_header_that_makes_no_sense_is_refused() {
    let page = encode(&spec());
    let cases: &[(usize, &[u8])] = &[
        (12, &[0]),             // no lane
        (12, &[65]),            // too many
        (16, &[0]),             // no group name
        (17, b"/"),             // a name that could leave its folder
        (16 + 63, b"x"),        // something after the name
        (80, &[0]),             // epoch 0
        (88, &[0]),             // no slot
        (88, &[129]),           // no power of two
        (91, &[0x80]),          // too many slots
        (92, &[0]),             // no disk
        (92, &[33]),            // too many
        (92, &[3]),             // a row that is empty
        (92, &[1]),             // a row that is not counted
        (97, &[1]),             // payload not in pages
        (103, &[0xff]),         // payload beyond the address space
        (132, &[1]),            // reserved
        (255, &[1]),            // reserved
        (264, &[1]),            // between two words
        (516, &[1]),            // after the doorbell
        (608, &[1]),            // after the last word
        (1023, &[1]),           // before the disk table
        (1024 + 32, &[1]),      // a size that is no whole sector
        (1024 + 60, &[3]),      // unknown kind of disk
        (1024 + 64, &[1]),      // reserved
        (1024 + 57, &[0x11]),   // block size that is no power of two
        (1024 + 96 + 2, b"a"),  // two disks of one name
        (1024 + 96 + 48, &[1]), // a block device with an inode
        (1024 + 31, b"x"),      // something after the name
        (1024, &[0xff]),        // a name that is not UTF-8
        (4095, &[1]),           // an unused row
    ];
    for (at, bytes) in cases {
        let mut bad = page;
        bad[*at..at + bytes.len()].copy_from_slice(bytes);
        assert!(matches!(verify(&resealed(bad)), Err(HeaderError::Damaged(_))), "byte {at} = {bytes:?} was taken");
    }
}

#[test]
fn a_ring_that_cannot_be_described_is_not_made() {
    let bad = [
        RingSpec { lanes: 0, ..spec() },
        RingSpec { lanes: 65, ..spec() },
        RingSpec { slots_per_lane: 32, ..spec() },
        RingSpec { slots_per_lane: 100, ..spec() },
        RingSpec { payload_bytes_per_lane: (4 << 20) - 4096, ..spec() },
        RingSpec { payload_bytes_per_lane: (4 << 20) + 512, ..spec() },
        RingSpec { disks: vec![], ..spec() },
        RingSpec { disks: vec![entry("vda", DiskKind::File); 2], ..spec() },
        RingSpec { epoch: Epoch(0), ..spec() },
    ];
    for spec in bad {
        assert!(check_spec(&spec).is_err(), "{spec:?}");
    }
    let most = (0..33).map(|i| entry(&format!("disk{i}"), DiskKind::File)).collect::<Vec<_>>();
    assert!(check_spec(&RingSpec { disks: most.clone(), ..spec() }).is_err());
    assert!(check_spec(&RingSpec { disks: most[..32].to_vec(), ..spec() }).is_ok());
}

fn any_spec() -> impl Strategy<Value = RingSpec> {
    let disk = ("[a-z0-9]{1,32}", 1..u64::MAX / 512, any::<(bool, u64, u64)>(), 9..13u32);
    let disks = prop::collection::vec(disk, 1..=32);
    (
        "[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}",
        1..u64::MAX,
        any::<[u8; 16]>(),
        1..=64u32,
        6..=20u32,
        1024..1_000_000u64,
        any::<u64>(),
        disks,
    )
        .prop_map(|(group, epoch, boot_id, lanes, slots, pages, created, disks)| RingSpec {
            group: GroupName::new(group).unwrap(),
            epoch: Epoch(epoch),
            boot_id,
            lanes,
            slots_per_lane: 1 << slots,
            payload_bytes_per_lane: pages * 4096,
            created: UnixMicros(created),
            disks: disks
                .into_iter()
                .map(|(name, sectors, (block, device, inode), block_bits)| DiskEntry {
                    name: DiskName::new(name).unwrap(),
                    size_bytes: sectors * 512,
                    identity: DiskIdentity {
                        kind: if block { DiskKind::BlockDevice } else { DiskKind::File },
                        device,
                        inode: if block { 0 } else { inode },
                    },
                    block_bytes: 1 << block_bits,
                })
                .collect(),
        })
        .prop_filter("two disks of one name", |spec| check_spec(spec).is_ok())
}

proptest! {
    #[test]
    fn a_header_says_what_it_was_made_for(spec in any_spec()) {
        let bytes = check_spec(&spec).unwrap().file_bytes();
        let verified = Unverified::new(&encode(&spec)).verify(bytes).unwrap();
        prop_assert_eq!(verified.into_spec(), spec);
    }

    /// Every byte of the header that never changes: none can be another one unnoticed.
    #[test]
    fn a_flipped_byte_is_found(at in prop_oneof![0..H_WORDS, H_DISKS..HEADER_BYTES], flip in 1..=255u8) {
        let mut page = encode(&spec());
        page[at] ^= flip;
        prop_assert!(verify(&page).is_err());
    }

    #[test]
    fn foreign_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES), magic in any::<bool>(), len in any::<u64>()) {
        if magic {
            bytes[..12].copy_from_slice(&encode(&spec())[..12]);
            let page = resealed(*bytes.first_chunk().unwrap());
            prop_assert!(Unverified::new(&page).verify(len).is_err());
        }
        prop_assert!(Unverified::new(&bytes).verify(len).is_err());
    }
}
