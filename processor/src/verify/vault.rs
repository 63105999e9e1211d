//! Verifies a group's part of a vault: every epoch object, every segment with all its blocks, the chain, the seals, and what lies
//! there for the source. One segment is in memory at a time.

use bytes::Bytes;
use farshore_changelog::ids::{Epoch, Hash, SegmentNo, Seq};
use farshore_changelog::segment::{Kind, Segment, SegmentError, SegmentHead};
use farshore_vault::keys::Key;
use farshore_vault::{EpochObject, GroupVault, VaultError};

use super::report::Report;
use super::to_source;
use crate::chain;
use crate::target::TargetDisk;

/// The walk over one group.
pub(super) struct Walk<'a> {
    pub(super) vault: &'a GroupVault,
    pub(super) report: Report,
    progress: &'a mut (dyn FnMut(&Report) + Send),
}

/// What the next segment of an epoch must join to.
struct Link {
    /// The number before.
    number: SegmentNo,
    /// Hash and last seq of it; `None` after a segment that is missing or damaged.
    known: Option<(Hash, Seq)>,
    /// The first seal's number.
    seal: Option<SegmentNo>,
}

/// Verifies the group of `vault`. `progress` hears the report after each object.
///
/// # Errors
/// Only when the store cannot be read; what is wrong with the objects is in the report.
pub async fn verify_vault(
    vault: &GroupVault,
    progress: &mut (dyn FnMut(&Report) + Send),
) -> Result<Report, VaultError> {
    let mut walk = Walk { vault, report: Report::default(), progress };
    let mut epoch = Epoch(1);
    let mut disks: Option<Vec<TargetDisk>> = None;
    loop {
        let key = Key::Epoch(vault.group().clone(), epoch);
        let (object, hash) = match vault.get_epoch(epoch).await {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(e @ (VaultError::Damaged { .. } | VaultError::Version { .. })) => {
                walk.report.damage(&key, e.to_string());
                epoch = epoch.next();
                continue;
            }
            Err(e) => return Err(e),
        };
        walk.report.read(object.encoded().len() as u64);
        if let Some(old) = &disks
            && let Err(what) = chain::disks_of(old, &object)
        {
            walk.report.damage(&key, what);
        }
        disks = chain::target_disks(&object).map_err(|what| walk.report.damage(&key, what)).ok();
        let successor = next_epoch(&mut walk, epoch).await?;
        walk.epoch(&object, hash, successor.as_ref()).await?;
        to_source::hashes(&mut walk, epoch, successor.is_some()).await?;
        epoch = epoch.next();
    }
    to_source::requests(&mut walk).await?;
    if epoch == Epoch(1) {
        walk.report
            .damage(Key::Epoch(vault.group().clone(), epoch), "the group has no epoch: nothing was ever shipped");
    }
    Ok(walk.report)
}

/// The object of the epoch after; what is wrong with it is said when its own turn comes.
async fn next_epoch(walk: &mut Walk<'_>, epoch: Epoch) -> Result<Option<EpochObject>, VaultError> {
    match walk.vault.get_epoch(epoch.next()).await {
        Ok(found) => Ok(found.map(|(object, _)| object)),
        Err(VaultError::Damaged { .. } | VaultError::Version { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Walk<'_> {
    fn key(&self, epoch: Epoch, number: SegmentNo) -> Key {
        Key::Segment(self.vault.group().clone(), epoch, number)
    }

    async fn epoch(
        &mut self,
        object: &EpochObject,
        hash: Hash,
        successor: Option<&EpochObject>,
    ) -> Result<(), VaultError> {
        let epoch = object.epoch;
        let mut link = Link { number: SegmentNo(0), known: Some((hash, Seq(0))), seal: None };
        let mut dead = 0u64;
        loop {
            let listed = self.vault.list_segments(epoch, link.number.next()).await?;
            if listed.is_empty() {
                break;
            }
            for (number, _) in listed {
                self.gap(epoch, &mut link, number);
                link.number = number;
                let Some(bytes) = self.vault.get_segment(epoch, number).await? else {
                    self.report
                        .damage(self.key(epoch, number), "it is listed and cannot be got (retention may be at work)");
                    link.known = None;
                    continue;
                };
                self.report.read(bytes.len() as u64);
                if link.seal.is_some() {
                    dead += 1;
                }
                self.segment(object, &mut link, bytes, successor);
                (self.progress)(&self.report);
            }
        }
        let at = Key::Epoch(self.vault.group().clone(), epoch);
        if dead > 0 {
            let what = format!(
                "{dead} objects lie above its cut: what a fenced source shipped too late, or more seals; they count for nothing"
            );
            self.report.note(&at, what);
        }
        if link.seal.is_none() && successor.is_some() {
            self.report.note(&at, "its successor was opened and it is not sealed yet: replay waits for that");
        }
        Ok(())
    }

    /// Numbers that are left out before `number`.
    fn gap(&mut self, epoch: Epoch, link: &mut Link, number: SegmentNo) {
        if number == link.number.next() {
            return;
        }
        let (from, to) = (link.number.next(), SegmentNo(number.0 - 1));
        if link.number == SegmentNo(0) {
            self.report.note(self.key(epoch, from), format!("the segments {from} to {to} were pruned"));
        } else if link.seal.is_none() {
            self.report.damage(
                self.key(epoch, from),
                format!("missing: the segments {from} to {to}, while {number} is there"),
            );
        }
        link.known = None;
    }

    /// One object, which is at `link.number`.
    fn segment(&mut self, object: &EpochObject, link: &mut Link, bytes: Bytes, successor: Option<&EpochObject>) {
        let (epoch, number) = (object.epoch, link.number);
        let key = self.key(epoch, number);
        let before = link.known.take();
        let segment = match whole(bytes) {
            Ok(segment) => segment,
            Err(e) => return self.report.damage(&key, e.to_string()),
        };
        let (head, hash) = (segment.index().head().clone(), segment.index().hash());
        if (&head.group, head.epoch, head.number) != (&object.group, epoch, number) {
            let what = format!("it is segment {} of epoch {} of group {}", head.number, head.epoch, head.group);
            return self.report.damage(&key, what);
        }
        match head.kind {
            Kind::Undo => return self.report.damage(&key, "it is an undo batch"),
            Kind::Seal => {
                let first = *link.seal.get_or_insert(number) == number;
                if first && let Err(what) = seals(&head, successor) {
                    self.report.damage(&key, what);
                }
                return;
            }
            Kind::Log if link.seal.is_some() => return,
            Kind::Log => {}
        }
        if let Some((prev, last_seq)) = before {
            if head.prev != prev {
                self.report.damage(&key, format!("it follows {}, not {prev}: the chain is broken", head.prev));
            }
            if head.first_seq != last_seq.next() {
                let what = format!("it begins with seq {}, not with {}", head.first_seq, last_seq.next());
                self.report.damage(&key, what);
            }
        }
        link.known = Some((hash, head.last_seq));
        let fits = chain::target_disks(object).and_then(|disks| chain::fits(segment.index().records(), &disks));
        if let Err(what) = fits {
            self.report.damage(&key, what);
        }
    }
}

/// Proves every byte, also that each block can be decoded.
fn whole(bytes: Bytes) -> Result<Segment, SegmentError> {
    let segment = Segment::parse(bytes)?;
    segment.for_each(|_, _| Ok::<(), SegmentError>(()))?;
    Ok(segment)
}

fn seals(head: &SegmentHead, successor: Option<&EpochObject>) -> Result<(), String> {
    match successor {
        Some(next) => chain::succeeds(head, next),
        None => Err(format!("it seals for epoch {}, which is not there or is damaged", head.successor)),
    }
}
