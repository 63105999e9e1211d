//! A map from byte ranges to where their content is. Pure; replay overwrites in it (the last writer of a batch wins), the
//! undo index fills its gaps (the first batch that saved a block wins).

use std::collections::BTreeMap;

use farshore_changelog::units::ByteRange;

/// Content that can be cut: what stands for a range still stands for its tail.
pub trait Cut: Clone {
    /// The content `bytes` further on.
    #[must_use]
    fn skip(&self, bytes: u64) -> Self;
}

/// Ranges without overlap, each with its content.
#[derive(Debug, Clone)]
pub struct Extents<T> {
    /// By start: end and content.
    map: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for Extents<T> {
    fn default() -> Self {
        Self { map: BTreeMap::new() }
    }
}

impl<T: Cut> Extents<T> {
    /// Count of the ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether no byte is covered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Puts `content` at `range`, over whatever was there.
    pub fn overwrite(&mut self, range: ByteRange, content: T) {
        if range.is_empty() {
            return;
        }
        if self.touches(range) {
            self.cut_at(range.start);
            self.cut_at(range.end);
            let covered: Vec<u64> = self.map.range(range.start..range.end).map(|(start, _)| *start).collect();
            for start in covered {
                self.map.remove(&start);
            }
        }
        self.map.insert(range.start, (range.end, content));
    }

    /// Puts `content` at those bytes of `range` that nothing covers yet.
    pub fn fill(&mut self, range: ByteRange, content: &T) {
        if !range.is_empty() && !self.touches(range) {
            self.map.insert(range.start, (range.end, content.clone()));
            return;
        }
        let gaps: Vec<ByteRange> =
            self.pieces(range).into_iter().filter(|(_, held)| held.is_none()).map(|(gap, _)| gap).collect();
        for gap in gaps {
            self.map.insert(gap.start, (gap.end, content.skip(gap.start - range.start)));
        }
    }

    /// `range` in order without a gap, cut where the content changes; `None` where nothing covers it.
    #[must_use]
    pub fn pieces(&self, range: ByteRange) -> Vec<(ByteRange, Option<T>)> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        let before = self.map.range(..=range.start).next_back().map(|(start, _)| *start);
        for (&start, (end, content)) in self.map.range(before.unwrap_or(range.start)..range.end) {
            let held = ByteRange { start, end: *end }.intersect(range);
            if held.is_empty() {
                continue;
            }
            if at < held.start {
                pieces.push((ByteRange { start: at, end: held.start }, None));
            }
            pieces.push((held, Some(content.skip(held.start - start))));
            at = held.end;
        }
        if at < range.end {
            pieces.push((ByteRange { start: at, end: range.end }, None));
        }
        pieces
    }

    /// All ranges with their content, in order.
    pub fn iter(&self) -> impl Iterator<Item = (ByteRange, &T)> {
        self.map.iter().map(|(start, (end, content))| (ByteRange { start: *start, end: *end }, content))
    }

    /// What is covered, neighbours joined whatever their content.
    #[must_use]
    pub fn covered(&self) -> Vec<ByteRange> {
        let mut joined: Vec<ByteRange> = Vec::new();
        for (range, _) in self.iter() {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range),
            }
        }
        joined
    }

    /// Whether anything of `range` is covered. Of most ranges nothing is, and this is one search.
    fn touches(&self, range: ByteRange) -> bool {
        self.map.range(..range.end).next_back().is_some_and(|(_, (end, _))| *end > range.start)
    }

    /// Splits the range that `at` lies inside of.
    fn cut_at(&mut self, at: u64) {
        let Some((&start, (end, content))) = self.map.range_mut(..at).next_back() else { return };
        if *end <= at {
            return;
        }
        let tail = (*end, content.skip(at - start));
        *end = at;
        self.map.insert(at, tail);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content number `id`, from its byte `from` on.
    #[derive(Debug, Clone, PartialEq)]
    struct Tag {
        id: usize,
        from: u64,
    }

    impl Cut for Tag {
        fn skip(&self, bytes: u64) -> Self {
            Self { id: self.id, from: self.from + bytes }
        }
    }

    const SPACE: u64 = 64;

    proptest! {
        #[test]
        fn it_equals_a_map_of_single_bytes(
            ops in proptest::collection::vec((any::<bool>(), 0..SPACE, 0..SPACE), 0..40),
            ask in (0..SPACE, 0..SPACE),
        ) {
            let mut extents = Extents::default();
            let mut model: Vec<Option<Tag>> = vec![None; SPACE as usize];
            for (id, (over, a, b)) in ops.into_iter().enumerate() {
                let range = ByteRange { start: a.min(b), end: a.max(b) };
                let tag = Tag { id, from: 100 };
                for at in range.start..range.end {
                    let cell = &mut model[at as usize];
                    if over || cell.is_none() {
                        *cell = Some(tag.skip(at - range.start));
                    }
                }
                if over { extents.overwrite(range, tag) } else { extents.fill(range, &tag) }
            }
            let range = ByteRange { start: ask.0.min(ask.1), end: ask.0.max(ask.1) };
            let mut at = range.start;
            for (piece, content) in extents.pieces(range) {
                prop_assert_eq!(piece.start, at);
                prop_assert!(!piece.is_empty());
                for byte in piece.start..piece.end {
                    let expected = content.as_ref().map(|tag| tag.skip(byte - piece.start));
                    prop_assert_eq!(&model[byte as usize], &expected);
                }
                at = piece.end;
            }
            prop_assert_eq!(at, range.end);
            let covered: u64 = extents.covered().iter().map(|r| r.len()).sum();
            prop_assert_eq!(covered as usize, model.iter().flatten().count());
            prop_assert!(extents.covered().windows(2).all(|w| w[0].end < w[1].start));
        }
    }
}
