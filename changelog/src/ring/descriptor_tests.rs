use proptest::prelude::*;

use super::*;
use crate::ids::DiskName;
use crate::ring::{DiskIdentity, DiskKind};
use crate::segment::{Kind, SegmentWriter};

fn disks() -> Vec<DiskEntry> {
    let disk = |name: &str, size_bytes| DiskEntry {
        name: DiskName::new(name).unwrap(),
        size_bytes,
        identity: DiskIdentity { kind: DiskKind::File, device: 1, inode: 2 },
        block_bytes: 512,
    };
    vec![disk("vda", 1 << 30), disk("vdb", 1 << 20)]
}

fn any_record() -> impl Strategy<Value = Record> {
    let offset = prop_oneof![Just(0), (0..4096u64).prop_map(|s| s * 512), any::<u64>()];
    let len = prop_oneof![Just(0), 1..200u64, (0..4096u64).prop_map(|s| s * 512), any::<u64>()];
    let flags = prop_oneof![Just(0), 0..32u8];
    (1..u64::MAX, any::<u64>(), 0..4u16, 0..Op::ALL.len(), flags, offset, len).prop_map(
        |(seq, time, disk, op, flags, offset, len)| Record {
            seq: Seq(seq),
            time: UnixMicros(time),
            disk: DiskIndex(disk),
            op: Op::ALL[op],
            flags: RecordFlags(flags),
            offset,
            len,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// The shipper must never find a record in the ring that it cannot put into a segment.
    #[test]
    fn what_the_ring_takes_a_segment_takes(record in any_record()) {
        if check_record(&record, &disks()).is_ok() {
            let payload = vec![b'a'; record.payload_len() as usize];
            prop_assert!(SegmentWriter::new(Kind::Log, None).push(&record, &payload).is_ok(), "{:?}", record);
        }
    }

    #[test]
    fn a_proved_descriptor_is_the_record_it_was_made_of(record in any_record(), position in any::<u64>(), reserved in any::<u32>()) {
        let geometry = Geometry::new(1, 64, 4 << 20).unwrap();
        let descriptor = Descriptor::of(&record, position, reserved);
        match descriptor.prove(&disks(), geometry) {
            Ok(proved) => {
                prop_assert_eq!(proved, record);
                prop_assert!(record.payload_len() <= u64::from(reserved));
                prop_assert!(position % 4096 == 0 && position % (4 << 20) + record.payload_len() <= 4 << 20);
            }
            Err(_) => prop_assert!(
                check_record(&record, &disks()).is_err()
                    || record.payload_len() > u64::from(reserved)
                    || !geometry.payload_fits(position, record.payload_len())
            ),
        }
    }

    /// CRC-32 finds every single flipped bit, and another slot number.
    #[test]
    fn a_flipped_bit_in_a_descriptor_is_found(record in any_record(), n in any::<u64>(), bit in 0..(S_CRC * 8)) {
        let descriptor = Descriptor::of(&record, 4096, 8192);
        let flip = |word: u64, at: usize, bytes: usize| {
            if (at..at + bytes).contains(&(bit / 8)) { word ^ 1 << (bit - at * 8) } else { word }
        };
        let flipped = Descriptor {
            seq: flip(descriptor.seq, S_SEQ, 8),
            offset: flip(descriptor.offset, S_OFFSET, 8),
            time: flip(descriptor.time, S_TIME, 8),
            len: flip(descriptor.len, S_LEN, 8),
            position: flip(descriptor.position, S_POSITION, 8),
            reserved: flip(descriptor.reserved.into(), S_RESERVED, 4) as u32,
            kind: flip(descriptor.kind.into(), S_DISK, 4) as u32,
        };
        prop_assert_ne!(flipped, descriptor);
        prop_assert_ne!(flipped.checksum(n), descriptor.checksum(n));
        prop_assert_ne!(descriptor.checksum(n), descriptor.checksum(n ^ 64));
    }
}

#[test]
fn a_state_lies_at_the_index_that_is_its_code() {
    for (code, state) in State::ALL.into_iter().enumerate() {
        assert_eq!(state.code() as usize, code);
        assert_eq!(State::from_code(code as u32), Some(state));
    }
    assert_eq!(State::from_code(6), None);
    assert_eq!(State::from_code(u32::MAX), None);
}

#[test]
fn records_that_no_disk_of_the_group_can_hold_are_refused() {
    let good = Record {
        seq: Seq(1),
        time: UnixMicros(0),
        disk: DiskIndex(1),
        op: Op::Write,
        flags: RecordFlags::NONE,
        offset: (1 << 20) - 512,
        len: 512,
    };
    assert_eq!(check_record(&good, &disks()), Ok(()));
    let bad = [
        Record { disk: DiskIndex(2), ..good },
        Record { offset: 1 << 20, ..good },
        Record { len: 1024, ..good },
        Record { len: 0, ..good },
        Record { offset: 1, ..good },
        Record { offset: u64::MAX - 511, ..good },
        Record { op: Op::Flush, ..good },
        Record { op: Op::Mark, ..good },
        Record { flags: RecordFlags::BOUNDARY, ..good },
        Record { flags: RecordFlags::NO_HOLE, ..good },
        Record { op: Op::Flush, offset: 0, len: 0, flags: RecordFlags::MORE, ..good },
    ];
    for record in bad {
        assert!(check_record(&record, &disks()).is_err(), "{record:?}");
    }
}
