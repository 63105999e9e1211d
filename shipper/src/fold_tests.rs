use farshore_changelog::ids::Seq;
use farshore_changelog::op::Op;
use farshore_changelog::units::{SECTOR_BYTES, UnixMicros};
use proptest::prelude::*;

use super::*;

const SECTORS: u64 = 24;
const DISKS: u16 = 2;

fn record(seq: u64, op: Op, disk: u16, sector: u64, sectors: u64, flags: RecordFlags) -> Record {
    let (offset, len) = if op.changes_disk() { (sector * SECTOR_BYTES, sectors * SECTOR_BYTES) } else { (0, 0) };
    Record { seq: Seq(seq), time: UnixMicros(seq), disk: DiskIndex(disk), op, flags, offset, len }
}

fn write(seq: u64, sector: u64, sectors: u64) -> Record {
    record(seq, Op::Write, 0, sector, sectors, RecordFlags::NONE)
}

/// Seq and sectors of each piece.
fn folded(run: &[Record]) -> Vec<(u64, u64, u64)> {
    let pieces = fold(run.iter());
    pieces.iter().map(|p| (p.record.seq.0, p.record.offset / SECTOR_BYTES, p.record.len / SECTOR_BYTES)).collect()
}

#[test]
fn an_overwritten_record_vanishes_and_a_cut_one_leaves_its_pieces() {
    assert_eq!(folded(&[write(1, 2, 2), write(2, 0, 8)]), [(2, 0, 8)]);
    assert_eq!(folded(&[write(1, 0, 8), write(2, 2, 2)]), [(1, 0, 2), (1, 4, 4), (2, 2, 2)]);
    assert_eq!(folded(&[write(1, 0, 4), write(2, 2, 4)]), [(1, 0, 2), (2, 2, 4)]);
    assert_eq!(folded(&[write(1, 0, 8), write(2, 1, 1), write(3, 2, 1)]), [(1, 0, 1), (1, 3, 5), (2, 1, 1), (3, 2, 1)]);
}

#[test]
fn the_payload_of_a_piece_is_its_part_of_the_record() {
    let pieces = fold([write(1, 4, 4), write(2, 5, 2)].iter());
    assert_eq!(pieces[0].payload, 0..512);
    assert_eq!(pieces[1].payload, 1536..2048);
    let zeroes = record(1, Op::WriteZeroes, 0, 4, 4, RecordFlags::NO_HOLE);
    let pieces = fold([zeroes, write(2, 5, 2)].iter());
    assert_eq!((pieces[0].payload.clone(), pieces[0].record.flags), (0..0, RecordFlags::NO_HOLE));
}

#[test]
fn disks_do_not_fold_each_other_and_marks_keep_their_name() {
    let other_disk = record(2, Op::Write, 1, 0, 8, RecordFlags::NONE);
    let mark = Record { len: 5, ..record(3, Op::Mark, 0, 0, 0, RecordFlags::NONE) };
    let pieces = fold([write(1, 0, 8), other_disk, mark].iter());
    assert_eq!(pieces.len(), 3);
    assert_eq!((pieces[2].record, pieces[2].payload.clone()), (mark, 0..5));
}

#[test]
fn a_request_of_several_records_is_a_boundary_only_at_its_end() {
    let more = RecordFlags::FUA.with(RecordFlags::MORE);
    assert!(!is_boundary(&record(1, Op::Write, 0, 0, 1, more)));
    assert!(is_boundary(&record(2, Op::Write, 0, 1, 1, RecordFlags::FUA)));
    assert!(!is_boundary(&record(3, Op::Trim, 0, 1, 1, RecordFlags::NONE)));
    assert!(is_boundary(&record(4, Op::ResyncEnd, 0, 0, 0, RecordFlags::NONE)));
}

fn any_record() -> impl Strategy<Value = Record> {
    let op = prop::sample::select(Op::ALL.to_vec());
    let flags = prop_oneof![9 => Just(RecordFlags::NONE), 1 => Just(RecordFlags::FUA)];
    (op, 0..DISKS, 0..SECTORS, 1..=SECTORS, flags).prop_map(|(op, disk, sector, sectors, flags)| {
        let flags = if op.changes_disk() { flags } else { RecordFlags::NONE };
        let disk = if op.is_of_group() { 0 } else { disk };
        record(0, op, disk, sector, sectors.min(SECTORS - sector), flags)
    })
}

/// What each sector of each disk holds: the seq that wrote it and which of its sectors it was; 0 for zeroes.
type Image = Vec<(u64, u64)>;

/// `from`: the sector of the record's payload at which the piece begins.
fn apply(image: &mut Image, record: &Record, from: u64) {
    for i in 0..record.range().len() / SECTOR_BYTES {
        let sector = u64::from(record.disk.0) * SECTORS + record.offset / SECTOR_BYTES + i;
        let content = if record.op.zeroes() { (0, 0) } else { (record.seq.0, from + i) };
        image[usize::try_from(sector).unwrap()] = content;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// At every boundary the folded records give the image that all records give; and within a run no byte is kept twice.
    #[test]
    fn folding_changes_no_boundary(mut records in prop::collection::vec(any_record(), 1..60)) {
        for (index, record) in records.iter_mut().enumerate() {
            record.seq = Seq(index as u64 + 1);
        }
        let blank = vec![(u64::MAX, 0); usize::from(DISKS) * SECTORS as usize];
        let (mut naive, mut folded) = (blank.clone(), blank);
        for run in records.chunk_by(|a, _| !is_boundary(a)) {
            run.iter().for_each(|record| apply(&mut naive, record, 0));
            let pieces = fold(run.iter());
            for piece in &pieces {
                let source = run[piece.source];
                let at = piece.record.offset - source.offset;
                prop_assert_eq!(piece.payload.len() as u64, piece.record.payload_len());
                prop_assert!(piece.payload.is_empty() || piece.payload.start as u64 == at);
                apply(&mut folded, &piece.record, at / SECTOR_BYTES);
            }
            prop_assert_eq!(&naive, &folded);
            let order: Vec<_> = pieces.iter().map(|p| (p.source, p.record.offset)).collect();
            prop_assert!(order.is_sorted());
            let mut kept: Vec<_> = pieces.iter().filter(|p| p.record.op.changes_disk()).map(|p| (p.record.disk, p.record.range())).collect();
            kept.sort_by_key(|(disk, range)| (*disk, range.start));
            prop_assert!(kept.windows(2).all(|w| w[0].0 != w[1].0 || !w[0].1.overlaps(w[1].1)));
        }
    }
}
