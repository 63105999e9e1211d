//! `Segment::parse` and `Index::read` on foreign bytes: refused, or exactly what the writer would have written.
#![no_main]

use farshore_changelog::segment::{Index, Segment, SegmentError};
use farshore_fuzz::{rewrite, whole_segment};
use libfuzzer_sys::{Corpus, fuzz_target};

fn read(bytes: &[u8]) -> Corpus {
    let parsed = Segment::parse(bytes.to_vec().into());
    let index = Index::read(&mut &bytes[..], 0, None);
    let Ok(segment) = parsed else { return Corpus::Keep };
    let index = index.expect("what is a whole segment has an index");
    assert_eq!((index.hash(), index.total_len()), (segment.index().hash(), bytes.len() as u64));
    let mut entries = Vec::new();
    let all = segment.for_each(|record, payload| {
        assert_eq!(payload.len() as u64, record.payload_len());
        entries.push((*record, payload.to_vec()));
        Ok::<_, SegmentError>(())
    });
    if all.is_ok()
        && let Some(written) = rewrite(&index, &entries)
    {
        assert!(written == bytes, "the writer gives other bytes than the reader took");
    }
    Corpus::Keep
}

fuzz_target!(|data: &[u8]| -> Corpus {
    read(data);
    let mut whole = data.to_vec();
    if whole_segment(&mut whole) { read(&whole) } else { Corpus::Keep }
});
