//! Opens a target again, and undoes what a crash left half done: an undo batch that was never finished is cut off (no image
//! was touched for it), complete ones beyond the position are written back into the images.

use farshore_changelog::ids::GroupName;
use farshore_changelog::op::Op;
use farshore_changelog::segment::Index;
use farshore_changelog::units::ByteRange;

use crate::compare::Comparison;
use crate::error::{GroupError, TargetError};
use crate::image::Image;
use crate::points;
use crate::position::{PositionFile, ReplayPosition};
use crate::replay::{Replay, VaultName, check_vault, open_images};
use crate::target::{GroupDir, Origin};
use crate::undo::journal::{Journal, Opened};
use crate::undo::published::Publisher;
use crate::undo::{JournalReader, damage};

impl Replay {
    /// Opens the target of a group; `None` when it was never created (or a crash came before it was).
    ///
    /// # Errors
    /// [`GroupError`]; also when the folder belongs to another vault.
    pub fn open(dir: &GroupDir, group: &GroupName, vault: &VaultName) -> Result<Option<Self>, GroupError> {
        Self::open_with(dir, group, vault, |at| Journal::open(&dir.undo(), group, at.undo_end, at.last_undo))
    }

    /// Opens a target of which the undo journal is damaged at `damaged`, so that what was half done cannot be undone. Its images are
    /// those of no position: it may only be taken into an epoch that copies everything again ([`Replay::leave`]). That the
    /// points before are unusable is noted before.
    ///
    /// # Errors
    /// As [`Replay::open`].
    pub fn open_spoilt(
        dir: &GroupDir,
        group: &GroupName,
        vault: &VaultName,
        damaged: u64,
        what: &str,
    ) -> Result<Option<Self>, GroupError> {
        Self::open_with(dir, group, vault, |at| {
            damage::note_durably(&dir.undo(), damaged, what)?;
            let journal = Journal::open_after_damage(&dir.undo(), group, at.undo_end, at.last_undo)?;
            Ok(Opened { journal, beyond: Vec::new() })
        })
    }

    fn open_with(
        dir: &GroupDir,
        group: &GroupName,
        vault: &VaultName,
        open_journal: impl FnOnce(&ReplayPosition) -> Result<Opened, TargetError>,
    ) -> Result<Option<Self>, GroupError> {
        if !dir.origin().exists() || !dir.position().exists() {
            return Ok(None);
        }
        let lock = dir.take_lock()?;
        let Some(mut origin) = Origin::read(dir)? else { return Ok(None) };
        check_vault(dir, &origin, vault)?;
        let position = PositionFile::open(&dir.position())?;
        let at = position.current();
        if at.group != *group {
            let what = format!("it is the position of group {}, not of {group}", at.group);
            return Err(TargetError::refused(&dir.position(), what).into());
        }
        if origin.vault_url != vault.url {
            origin.vault_url.clone_from(&vault.url);
            origin.write(dir)?;
        }
        let mut images = open_images(dir, origin.disks_at(at.epoch))?;
        let Opened { journal, beyond } = open_journal(at)?;
        // Before an image is touched, as always.
        let published = Publisher::open(&dir.published(), journal.end())?;
        if !beyond.is_empty() {
            tracing::info!(%group, position = %at.position(), batches = beyond.len(), "writing back what was not finished");
            write_back(dir, group, &beyond, &mut images)?;
        }
        let points = points::counting(&dir.points(), at)?;
        let stray = points.len() < points::read(&dir.points())?.len();
        if stray {
            // The batch of an entry beyond the position may be cut elsewhere next time, or never be applied: nobody must find
            // the entry once the position has passed it.
            points::write(&dir.points(), &points)?;
        }
        let comparison = Comparison::read(dir).unwrap_or_else(|e| {
            // It only reports, and replay is not to stand still for that.
            tracing::error!(%group, error = %GroupError::from(e).full_text(), "what was compared with the source is lost: verify it anew");
            Comparison::default()
        });
        Ok(Some(Self {
            dir: dir.clone(),
            _lock: lock,
            origin,
            images,
            journal,
            published,
            position,
            points,
            comparison,
            pool: None,
            unsettled: None,
            points_are_durable: stray,
        }))
    }
}

/// Writes what `batches` saved into the images, the first batch last: what it saved is content at the position. A later one says
/// the same where its run is the same, and something newer where the position fell back over more than one batch.
fn write_back(
    dir: &GroupDir,
    group: &GroupName,
    batches: &[(u64, Box<Index>)],
    images: &mut [Image],
) -> Result<(), TargetError> {
    let mut reader = JournalReader::open(&dir.undo(), group.clone())?;
    for (at, index) in batches.iter().rev() {
        let mut open: Option<(u32, Vec<u8>)> = None;
        for entry in index.records() {
            let record = &entry.record;
            let Some(image) = images.get_mut(usize::from(record.disk.0)) else {
                return Err(TargetError::damaged(&dir.undo(), *at, format!("there is no disk {}", record.disk)));
            };
            let range = within(image, record.range()).map_err(|what| TargetError::damaged(&dir.undo(), *at, what))?;
            match record.op {
                Op::WriteZeroes => image.zero(range)?,
                Op::Write => {
                    if open.as_ref().is_none_or(|(block, _)| *block != entry.block) {
                        open = Some((entry.block, reader.block(*at, index, entry.block)?));
                    }
                    if let Some((_, raw)) = &open {
                        image.write(range.start, &[&raw[entry.payload_range()]])?;
                    }
                }
                Op::Trim
                | Op::Flush
                | Op::Mark
                | Op::ResyncBegin
                | Op::ResyncWrite
                | Op::ResyncZeroes
                | Op::ResyncEnd
                | Op::Overflow
                | Op::Digest => {
                    unreachable!("the reader of segments refuses these in an undo batch")
                }
            }
        }
    }
    images.iter_mut().try_for_each(Image::sync)
}

fn within(image: &Image, range: ByteRange) -> Result<ByteRange, String> {
    if range.end <= image.size_bytes() {
        return Ok(range);
    }
    Err(format!("its range {range} passes the end of {}", image.path().display()))
}
