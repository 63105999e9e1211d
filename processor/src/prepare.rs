//! What a batch needs before anything is written for it.

use std::collections::{BTreeMap, VecDeque};

use farshore_changelog::ids::DiskIndex;
use farshore_changelog::units::ByteRange;

use crate::image::Image;

/// Blocks, of 1 MiB mostly, from which on it is worth a thread to open half of them.
const OPENED_APART_FROM: usize = 4;

/// Opens blocks, half of them in another thread where there may be one.
pub(crate) fn open_all(
    blocks: &[u32],
    threads: bool,
    open: &(impl Fn(u32) -> Result<Vec<u8>, String> + Sync),
) -> Result<BTreeMap<u32, Vec<u8>>, String> {
    let here = |blocks: &[u32]| blocks.iter().map(|&block| Ok((block, open(block)?))).collect::<Result<_, String>>();
    if !threads || blocks.len() < OPENED_APART_FROM {
        return here(blocks);
    }
    let (first, second) = blocks.split_at(blocks.len() / 2);
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| here(second));
        let mut opened: BTreeMap<u32, Vec<u8>> = here(first)?;
        opened.append(&mut elsewhere.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        Ok(opened)
    })
}

/// Says to the images what of them is read first, `most` bytes of it.
pub(crate) fn announce(images: &[Image], saves: &VecDeque<(DiskIndex, ByteRange)>, most: u64) {
    let mut left = most;
    for (disk, range) in saves {
        let end = range.end.min(range.start + left);
        if let Some(image) = images.get(usize::from(disk.0)) {
            image.will_read(ByteRange { start: range.start, end });
        }
        left -= end - range.start;
        if left == 0 {
            break;
        }
    }
}
