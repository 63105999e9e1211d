//! What a guest writes, so that whoever reads it knows who wrote it: a disk is cut into cells, and a written cell bears the number of
//! the operation that wrote it and its own place.

use crate::rng::mix;

/// Bytes of a cell: a quarter of a sector, so that requests can be unaligned.
pub const CELL: usize = 128;

/// What a cell holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value {
    Zeroes,
    /// What this operation wrote.
    Of(u32),
}

/// Fills `bytes`, the cells from `first` on of `disk`, with what `op` writes there.
pub fn fill(op: u32, disk: usize, first: usize, bytes: &mut [u8]) {
    for (n, cell) in bytes.chunks_mut(CELL).enumerate() {
        let place = (disk as u64) << 32 | (first + n) as u64;
        let salt = mix(u64::from(op) << 40 ^ place);
        for (i, word) in cell.chunks_mut(8).enumerate() {
            let value = match i {
                0 => u64::from(op),
                1 => place,
                // The first half of a cell is hard to compress, the second is not.
                _ if i < 9 => mix(salt ^ i as u64),
                _ => salt,
            };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
}

/// What cell number `n` of `disk` holds; `None` when no operation writes such bytes there.
pub fn read(disk: usize, n: usize, bytes: &[u8]) -> Option<Value> {
    if bytes.iter().all(|b| *b == 0) {
        return Some(Value::Zeroes);
    }
    let op = u32::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let mut expected = [0; CELL];
    fill(op, disk, n, &mut expected);
    (expected == bytes).then_some(Value::Of(op))
}
