use proptest::prelude::*;

use super::*;

fn sample() -> Chunk {
    Chunk {
        group: GroupName::new("web01").unwrap(),
        epoch: Epoch(3),
        seq: Seq(1),
        disk: DiskIndex(2),
        unit_bytes: 1 << 20,
        chunk_units: 100,
        first_unit: 300,
        hashes: (0..7_u8).map(|n| Hash::of(&[n])).collect(),
    }
}

fn any_chunk() -> impl Strategy<Value = Chunk> {
    let names = "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}";
    let unit = (16..=26_u32).prop_map(|bits| 1 << bits);
    let counted =
        (1..200_u32).prop_flat_map(|size| (Just(size), prop::collection::vec(any::<[u8; 32]>(), 1..=size as usize)));
    (names, 1..=COUNTER_MAX, 0..=COUNTER_MAX, any::<u16>(), unit, 0..1_u64 << 30, counted).prop_map(
        |(group, epoch, seq, disk, unit_bytes, number, (chunk_units, hashes))| Chunk {
            group: GroupName::new(group).unwrap(),
            epoch: Epoch(epoch),
            seq: Seq(seq),
            disk: DiskIndex(disk),
            unit_bytes,
            chunk_units,
            first_unit: number * u64::from(chunk_units),
            hashes: hashes.into_iter().map(Hash).collect(),
        },
    )
}

/// The chunk's bytes with a right hash after a change.
fn forged(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = sample().encode();
    let body = bytes.len() - HASH_BYTES;
    change(&mut bytes[..body]);
    let sum = Hash::of(&bytes[..body]);
    bytes[body..].copy_from_slice(&sum.0);
    bytes
}

proptest! {
    #[test]
    fn a_chunk_survives_its_bytes(chunk in any_chunk()) {
        prop_assert_eq!(Chunk::parse(&chunk.encode()), Ok(chunk));
    }

    #[test]
    fn a_changed_bit_is_noticed(chunk in any_chunk(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = chunk.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Chunk::parse(&bytes).is_err());
    }

    #[test]
    fn a_chunk_that_was_cut_or_grew_is_refused(chunk in any_chunk(), keep in any::<prop::sample::Index>()) {
        let mut bytes = chunk.encode();
        prop_assert!(Chunk::parse(&bytes[..keep.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert!(Chunk::parse(&bytes).is_err());
    }
}

#[test]
fn what_contradicts_itself_is_refused_although_its_hash_is_right() {
    assert!(Chunk::parse(&forged(|_| ())).is_ok());
    assert_eq!(Chunk::parse(&forged(|b| b[0] = b'X')), Err(ChunkError::BadMagic));
    assert_eq!(Chunk::parse(&forged(|b| b[VERSION_AT] = 2)), Err(ChunkError::Version { found: 2 }));
    let refusal = |change: &dyn Fn(&mut [u8])| Chunk::parse(&forged(change)).unwrap_err().to_string();
    assert!(refusal(&|b| b[UNIT_BYTES_AT] = 1).contains("unit of"));
    assert!(refusal(&|b| b[GROUP_AT] = b'/').contains("group"));
    assert!(refusal(&|b| b[EPOCH_AT - 1] = b'x').contains("group"));
    assert!(refusal(&|b| b[EPOCH_AT] = 0).contains("epoch 0"));
    assert!(refusal(&|b| b[SEQ_AT + 7] = 0xff).contains("seq"));
    assert!(refusal(&|b| b[FIRST_UNIT_AT] ^= 1).contains("first unit"));
    assert!(refusal(&|b| b[FIRST_UNIT_AT + 7] = 0xff).contains("unit"));
    assert!(refusal(&|b| b[CHUNK_UNITS_AT..][..4].fill(0)).contains("0 units"));
    assert!(refusal(&|b| b[CHUNK_UNITS_AT] = 6).contains("7 hashes"));
    assert!(refusal(&|b| b[COUNT_AT] = 6).contains("length"));
    assert!(refusal(&|b| b[RESERVED_AT] = 1).contains("reserved"));
    assert!(refusal(&|b| b[HASHES_AT - 1] = 1).contains("reserved"));
}

#[test]
fn the_largest_chunk_is_as_large_as_the_limit_says() {
    let largest = Chunk {
        chunk_units: CHUNK_UNITS_MAX,
        first_unit: 0,
        hashes: vec![Hash::ZERO; CHUNK_UNITS_MAX as usize],
        ..sample()
    };
    assert_eq!(largest.encode().len() as u64, CHUNK_MAX_BYTES);
}
