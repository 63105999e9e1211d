//! Trims and zeroes on disks of every kind that the kernel has: afterwards the source reads as zeroes there, and log and image
//! hold what the source reads.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_tests::client::{Client, command};
use farshore_tests::durable;
use farshore_tests::pattern::Rng;
use farshore_tests::root::{BlockDevice, SmallFileSystem};
use farshore_tests::site::{Site, SiteSpec};

const DISK_BYTES: u64 = 16 << 20;
/// The largest unit in which a disk gives up room.
const BLOCK: usize = 4096;
/// Zeroes that stay allocated.
const NO_HOLE: u16 = 2;

/// A site whose disk is not the file that it makes but `source`, full of noise.
fn site_on(source: impl FnOnce(&Site) -> PathBuf) -> Site {
    let mut site = Site::new(SiteSpec { disks: vec![DISK_BYTES], ..SiteSpec::default() });
    site.disks[0].source = source(&site);
    site.write_config();
    let disk = std::fs::File::options().write(true).open(&site.disks[0].source).unwrap();
    disk.write_all_at(&Rng::new(7).bytes(DISK_BYTES as usize), 0).unwrap();
    disk.sync_all().unwrap();
    site
}

/// Trims and zeroes whole blocks, parts of them, and all of a MiB, among writes; the source, the image and the model agree.
fn given_up_reads_as_zeroes(mut site: Site) {
    let mut model = Rng::new(7).bytes(DISK_BYTES as usize);
    site.start_agent();
    site.wait_protected();
    let mut client = Client::open(&site.disks[0].socket, "vda").unwrap();
    let mut rng = Rng::new(8);
    for round in 0..120_u64 {
        let align = [1, 512, 4096][(round % 3) as usize];
        let len = (1 + rng.below(200_000 / align)) * align;
        let at = rng.below((DISK_BYTES - len) / align) * align;
        let range = at as usize..(at + len) as usize;
        let (flags, command) =
            [(0, command::TRIM), (0, command::WRITE_ZEROES), (NO_HOLE, command::WRITE_ZEROES), (0, command::WRITE)]
                [(round / 3 % 4) as usize];
        let payload = if command == command::WRITE { rng.bytes(len as usize) } else { Vec::new() };
        assert_eq!(client.ask(flags, command, at, len as u32, &payload).unwrap(), 0, "command {command} at {at}");
        match command {
            command::WRITE => model[range.clone()].copy_from_slice(&payload),
            command::TRIM => {
                // Whole blocks are given up; each byte of the others is as it was, or zero.
                let blocks = range.start.next_multiple_of(BLOCK)..range.end / BLOCK * BLOCK;
                model.get_mut(blocks).unwrap_or_default().fill(0);
                let read = client.read(at, len as u32).unwrap();
                for (is, was) in read.iter().zip(&mut model[range.clone()]) {
                    assert!(*is == 0 || is == was, "trim of {len} bytes at {at} made other bytes");
                    *was = *is;
                }
            }
            _ => model[range.clone()].fill(0),
        }
        assert!(client.read(at, len as u32).unwrap() == model[range], "command {command} of {len} bytes at {at}");
    }
    client.trim(DISK_BYTES - (1 << 20), 1 << 20).unwrap();
    model[(DISK_BYTES - (1 << 20)) as usize..].fill(0);
    client.flush().unwrap();
    site.stop_agent();
    let _ = site.process_once().good();
    assert_eq!(durable::digest(&site.image(0)), blake3::hash(&model), "the image is not what was asked for");
    site.assert_equal();
}

fn device_over(file: &Path, sector_bytes: u32) -> BlockDevice {
    std::fs::File::create(file).and_then(|f| f.set_len(DISK_BYTES)).unwrap();
    BlockDevice::over(file, sector_bytes)
}

#[test]
fn a_block_device_reads_as_zeroes_where_it_was_trimmed_whatever_its_sectors_are() {
    for sector_bytes in [512, 4096] {
        let mut device = None;
        let site = site_on(|site| {
            let over = device_over(&site.path("backing"), sector_bytes);
            let path = over.path.clone();
            device = Some(over);
            path
        });
        given_up_reads_as_zeroes(site);
        drop(device);
    }
}

#[test]
fn a_block_device_that_cannot_zero_is_written_with_zeroes() {
    let (mut device, mut mounted) = (None, None);
    let site = site_on(|site| {
        let at = site.path("ext2");
        mounted = Some(SmallFileSystem::mount_as("ext2", &site.path("ext2.img"), &at, 64 << 20));
        let over = device_over(&at.join("backing"), 512);
        let path = over.path.clone();
        device = Some(over);
        path
    });
    given_up_reads_as_zeroes(site);
    drop(device);
    drop(mounted);
}

#[test]
fn a_file_on_a_file_system_without_allocated_zeroes_is_written_with_them() {
    let mut mounted = None;
    let site = site_on(|site| {
        let at = site.path("ext2");
        mounted = Some(SmallFileSystem::mount_as("ext2", &site.path("ext2.img"), &at, 64 << 20));
        let file = at.join("vda.source");
        std::fs::File::create(&file).and_then(|f| f.set_len(DISK_BYTES)).unwrap();
        file
    });
    given_up_reads_as_zeroes(site);
    drop(mounted);
}

#[test]
fn a_target_image_on_a_block_device_holds_what_the_source_reads() {
    let mut site = site_on(|site| site.disks[0].source.clone());
    let backing = site.path("image.backing");
    std::fs::File::create(&backing).and_then(|f| f.set_len(DISK_BYTES)).unwrap();
    std::fs::write(&backing, Rng::new(9).bytes(DISK_BYTES as usize)).unwrap();
    let device = BlockDevice::over(&backing, 4096);
    // The image is a link to a device that somebody put there, with something on it.
    std::fs::create_dir_all(site.image(0).parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&device.path, site.image(0)).unwrap();
    site.disks[0].size = DISK_BYTES;
    given_up_reads_as_zeroes(site);
    drop(device);
}
