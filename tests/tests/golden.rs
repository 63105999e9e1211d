//! The committed bytes of every durable layout in `tests/golden/`: the reader must find in them exactly what was written,
//! and the writer must still write exactly them (with codec stored; what zstd makes of the same bytes may change with
//! its release, so of that file only the reading is held).
//!
//! A version that has been released is never regenerated. `FARSHORE_REGENERATE_GOLDEN=1` writes the files anew while a
//! version is in the making.

use std::path::PathBuf;

use farshore_changelog::hashes::Chunk;
use farshore_changelog::ids::{DiskIndex, Epoch, GroupName, Hash, SegmentNo, Seq};
use farshore_changelog::op::{Op, Record, RecordFlags};
use farshore_changelog::segment::{Codec, Kind, Sealed, Segment, SegmentError, SegmentWriter, Stamp};
use farshore_changelog::units::UnixMicros;

/// 2025-01-01T00:00:00Z.
const START: u64 = 1_735_689_600_000_000;

type Entry = (Record, Vec<u8>);

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// The committed file; written first when asked to.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = path(name);
    if std::env::var_os("FARSHORE_REGENERATE_GOLDEN").is_some_and(|v| v == "1") {
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; it is committed, do not generate it to get past this", path.display()))
}

fn record(seq: u64, disk: u16, op: Op, flags: RecordFlags, offset: u64, len: u64) -> Record {
    let time = UnixMicros(START + seq * 1000);
    Record { seq: Seq(seq), time, disk: DiskIndex(disk), op, flags, offset, len }
}

/// Text that repeats, different for each seed.
fn text(seed: u64, len: u64) -> Vec<u8> {
    let line = format!("farshore golden payload {seed:04}\n");
    line.bytes().cycle().take(len as usize).collect()
}

fn with_payload(records: Vec<Record>) -> Vec<Entry> {
    let mark = b"before the upgrade";
    let payload = |r: &Record| if r.op == Op::Mark { mark.to_vec() } else { text(r.seq.0, r.payload_len()) };
    records.into_iter().map(|r| (r, payload(&r))).collect()
}

/// Every operation, every flag, two disks, a folded write in two pieces and a gap in the seqs.
fn log_records() -> Vec<Record> {
    use RecordFlags as F;
    let end = F::BOUNDARY;
    vec![
        record(1, 0, Op::ResyncBegin, end, 0, 3 << 20),
        record(2, 0, Op::ResyncWrite, F::NONE, 0, 1024),
        record(3, 1, Op::ResyncZeroes, F::NONE, 1 << 20, 2 << 20),
        record(4, 0, Op::Write, F::NONE, 4096, 512),
        record(4, 0, Op::Write, F::NONE, 6144, 512),
        record(6, 0, Op::Write, F::MORE, 8192, 1024),
        record(7, 0, Op::Write, F::FUA.with(end), 9216, 512),
        record(8, 0, Op::ResyncEnd, end, 0, 0),
        record(9, 1, Op::WriteZeroes, F::NO_HOLE, 0, 65536),
        record(10, 1, Op::Trim, F::NONE, 65536, 1 << 40),
        record(11, 1, Op::Write, F::REREAD, 512, 512),
        record(12, 1, Op::Flush, end, 0, 0),
        record(13, 0, Op::Mark, end, 0, 18),
    ]
}

/// Enough payload for three blocks; it compresses to little.
fn long_log_records() -> Vec<Record> {
    let mut records = log_records();
    let large = (14..19).map(|seq| record(seq, 0, Op::Write, RecordFlags::NONE, seq << 20, 150 << 10));
    records.extend(large);
    records.push(record(19, 0, Op::Flush, RecordFlags::BOUNDARY, 0, 0));
    records
}

fn undo_records() -> Vec<Record> {
    let old = |disk, op, offset, len| {
        let time = UnixMicros(START + 13_000);
        Record { time, ..record(13, disk, op, RecordFlags::NONE, offset, len) }
    };
    vec![
        old(0, Op::Write, 4096, 1024),
        old(0, Op::WriteZeroes, 0, 1024),
        old(1, Op::Write, 512, 512),
        old(1, Op::WriteZeroes, 65536, 1 << 40),
    ]
}

fn stamp(number: u64, first_seq: u64, last_seq: u64) -> Stamp {
    Stamp {
        group: GroupName::new("web01").unwrap(),
        epoch: Epoch(3),
        number: SegmentNo(number),
        first_seq: Seq(first_seq),
        last_seq: Seq(last_seq),
        created: UnixMicros(START + 60_000_000),
        watermark: SegmentNo(0),
        prev: Hash::of(b"the object before it"),
    }
}

fn write(kind: Kind, level: Option<i32>, entries: &[Entry], stamp: Stamp) -> Sealed {
    let mut writer = SegmentWriter::new(kind, level);
    for (record, payload) in entries {
        writer.push(record, payload).unwrap();
    }
    writer.seal(stamp).unwrap()
}

/// Reads the file and compares everything in it with what was meant to be written.
fn read(name: &str, now: &Sealed, codec: Codec, entries: &[Entry]) -> Vec<u8> {
    let bytes = golden(name, &now.bytes);
    let segment = Segment::parse(bytes.clone().into()).unwrap();
    let mut found: Vec<Entry> = Vec::new();
    segment
        .for_each(|record, payload| {
            found.push((*record, payload.to_vec()));
            Ok::<_, SegmentError>(())
        })
        .unwrap();
    assert_eq!(found.len(), entries.len());
    for (found, expected) in found.iter().zip(entries) {
        assert_eq!(found.0, expected.0);
        assert!(found.1 == expected.1, "the payload of seq {} differs", expected.0.seq);
    }
    assert_eq!(segment.index().head(), &now.head);
    assert_eq!(segment.index().codec(), codec);
    bytes
}

fn is_still_written(name: &str, now: &Sealed, entries: &[Entry]) {
    let committed = read(name, now, Codec::Stored, entries);
    assert!(committed == now.bytes, "{name}: the writer gives other bytes than the committed ones");
}

#[test]
fn log_stored() {
    let entries = with_payload(log_records());
    let now = write(Kind::Log, None, &entries, stamp(1, 1, 13));
    is_still_written("segment-v1-log-stored", &now, &entries);
}

#[test]
fn log_zstd() {
    let entries = with_payload(long_log_records());
    let mut stamp = stamp(2, 1, 20);
    stamp.watermark = SegmentNo(1);
    let now = write(Kind::Log, Some(1), &entries, stamp);
    let committed = read("segment-v1-log-zstd", &now, Codec::Zstd, &entries);
    assert_eq!(Segment::parse(committed.into()).unwrap().index().block_count(), 3);
}

/// The operations that version 2 brought.
#[test]
fn log_of_version_2() {
    let end = RecordFlags::BOUNDARY;
    let entries =
        with_payload(vec![record(14, 1, Op::Digest, end, 1 << 20, 1 << 20), record(15, 0, Op::Overflow, end, 0, 0)]);
    let now = write(Kind::Log, None, &entries, stamp(3, 14, 15));
    is_still_written("segment-v2-log-stored", &now, &entries);
    assert_eq!(now.bytes[8..10], [2, 0]);
}

#[test]
fn heartbeat() {
    let now = write(Kind::Log, None, &[], stamp(3, 21, 20));
    is_still_written("segment-v1-heartbeat", &now, &[]);
}

#[test]
fn undo() {
    let entries = with_payload(undo_records());
    let now = write(Kind::Undo, None, &entries, stamp(1, 9, 13));
    is_still_written("segment-v1-undo", &now, &entries);
}

#[test]
fn seal() {
    let group = GroupName::new("web01").unwrap();
    let created = UnixMicros(START);
    let now = SegmentWriter::seal_object(group, Epoch(3), SegmentNo(4), Epoch(4), *b"sixteen bytes it", created);
    is_still_written("segment-v1-seal", &now, &[]);
}

#[test]
fn hash_chunk() {
    let now = Chunk {
        group: GroupName::new("web01").unwrap(),
        epoch: Epoch(3),
        seq: Seq(1),
        disk: DiskIndex(1),
        unit_bytes: 1 << 20,
        chunk_units: 8,
        first_unit: 16,
        hashes: (0..5_u8).map(|n| Hash::of(&[n])).collect(),
    };
    let bytes = golden("hash-chunk-v1", &now.encode());
    assert!(bytes == now.encode(), "hash-chunk-v1 is written otherwise now");
    assert_eq!(Chunk::parse(&bytes), Ok(now));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!((&bytes[..8], u32_at(8), u32_at(12)), (&b"FARSHHSH"[..], 1, 1 << 20));
    assert_eq!(&bytes[16..80], &[&b"web01"[..], &[0; 59]].concat()[..]);
    assert_eq!([u64_at(80), u64_at(88), u64_at(96)], [3, 1, 16]);
    assert_eq!((u32_at(104), u32_at(108), bytes[112], bytes[113]), (8, 5, 1, 0));
    assert!(bytes[114..128].iter().all(|b| *b == 0));
    assert_eq!(bytes[128..160], Hash::of(&[0]).0);
    assert_eq!((bytes.len(), &bytes[288..]), (320, &Hash::of(&bytes[..288]).0[..]));
}

/// The offsets of `docs/format.md`, written out by hand, so that code and page cannot drift together.
#[test]
fn the_fields_lie_where_the_specification_says() {
    let bytes = std::fs::read(path("segment-v1-log-stored")).unwrap();
    let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());

    assert_eq!(&bytes[..8], b"FARSHSEG");
    assert_eq!((u16_at(8), bytes[10], bytes[11], u32_at(12)), (1, 1, 0, 0));
    assert_eq!(u64_at(16), bytes.len() as u64);
    assert_eq!(&bytes[24..88], &[&b"web01"[..], &[0; 59]].concat()[..]);
    assert_eq!([u64_at(88), u64_at(96), u64_at(104), u64_at(112)], [3, 1, 1, 13]);
    assert_eq!([u64_at(120), u64_at(128), u64_at(136)], [START + 1000, START + 13_000, START + 60_000_000]);
    assert_eq!(u64_at(144), 0);
    assert_eq!(bytes[152..184], Hash::of(b"the object before it").0);
    assert!(bytes[184..256].iter().all(|b| *b == 0));

    let payload: Vec<u8> = with_payload(log_records()).into_iter().flat_map(|(_, payload)| payload).collect();
    let index = 256 + payload.len();
    assert_eq!(bytes[256..index], payload);
    assert_eq!((u32_at(index), u32_at(index + 4)), (payload.len() as u32, payload.len() as u32));
    assert_eq!(bytes[index + 8..index + 40], Hash::of(&payload).0);

    // The eleventh record: a write on disk 1, REREAD.
    let eleventh = index + 40 + 10 * 48;
    assert_eq!([u64_at(eleventh), u64_at(eleventh + 8)], [11, START + 11_000]);
    assert_eq!([u64_at(eleventh + 16), u64_at(eleventh + 24)], [512, 512]);
    assert_eq!([u32_at(eleventh + 32), u32_at(eleventh + 36)], [0, 1024 + 512 + 512 + 1024 + 512]);
    assert_eq!((u16_at(eleventh + 40), bytes[eleventh + 42], bytes[eleventh + 43]), (1, 1, 4));
    assert_eq!(u32_at(eleventh + 44), 0);

    let footer = bytes.len() - 88;
    let index_len = footer - index;
    assert_eq!(index_len, 40 + 13 * 48);
    assert_eq!(u64_at(footer), index as u64);
    assert_eq!([u32_at(footer + 8), u32_at(footer + 12)], [index_len as u32; 2]);
    assert_eq!([u32_at(footer + 16), u32_at(footer + 20)], [13, 1]);
    assert_eq!(u64_at(footer + 24), payload.len() as u64);
    assert!(bytes[footer + 32..footer + 48].iter().all(|b| *b == 0));
    let hashed = [&bytes[..256], &bytes[index..footer + 48]].concat();
    assert_eq!(bytes[footer + 48..footer + 80], Hash::of(&hashed).0);
    assert_eq!(&bytes[footer + 80..], b"GESHSRAF");
}
