//! Every command, flag and error of the transmission phase.

use std::sync::atomic::Ordering;

use farshore_capture::nbd::client::{Client, Reply};
use farshore_capture::nbd::consts::*;

use crate::memory::Memory;
use crate::support::{Fixture, MIB, both, refused};

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| ((n * 31 + seed * 17) % 251) as u8 + 1).collect()
}

fn read(client: &mut Client, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    client.read(offset, &mut data).unwrap();
    data
}

#[test]
fn what_was_written_is_read_by_either_kind_of_client() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, 40 * MIB);
        for (n, mut client) in [fixture.client(), fixture.plain_client()].into_iter().enumerate() {
            assert_eq!(client.size_bytes(), 40 * MIB as u64);
            for (offset, len) in [(0, 1), (511, 3), (4096, 4096), (12_345, 100_000), (3 * MIB, 32 * MIB)] {
                let data = pattern(n + len, len);
                client.write(offset as u64, &data, false).unwrap();
                assert!(read(&mut client, offset as u64, len) == data, "{len} bytes at {offset}");
            }
            client.disconnect().unwrap();
        }
        fixture.stop();
    });
}

#[test]
fn flush_and_fua_reach_the_disk() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut client = fixture.client();
        let flushes = || fixture.memory.flushes.load(Ordering::SeqCst);
        client.write(0, &[1; 512], false).unwrap();
        assert_eq!(flushes(), 0);
        client.write(0, &[1; 512], true).unwrap();
        assert_eq!(flushes(), 1);
        client.flush().unwrap();
        assert_eq!(flushes(), 2);
        client.write_zeroes(0, 512, CMD_FLAG_FUA).unwrap();
        assert_eq!(flushes(), 3);
        let trim = client.submit(CMD_TRIM, CMD_FLAG_FUA, 0, 512, &[]).unwrap();
        client.wait(trim).unwrap();
        assert_eq!(flushes(), 4);
        // Valid with every command.
        for command in [CMD_READ, CMD_CACHE, CMD_BLOCK_STATUS] {
            let handle = client.submit(command, CMD_FLAG_FUA, 0, 512, &[]).unwrap();
            client.wait(handle).unwrap();
        }
        fixture.stop();
    });
}

#[test]
fn zeroes_trims_and_their_flags() {
    both(|kind| {
        let mut memory = Memory::new(MIB);
        memory.fast_zero = true;
        let fixture = Fixture::new(kind, memory);
        let mut client = fixture.client();
        client.write(0, &pattern(1, 65536), false).unwrap();
        client.write_zeroes(1000, 5000, 0).unwrap();
        assert!(!fixture.memory.kept_allocated());
        client.write_zeroes(10_000, 5000, CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO).unwrap();
        assert!(fixture.memory.kept_allocated());
        client.trim(20_000, 5000).unwrap();
        let mut expected = pattern(1, 65536);
        for start in [1000, 10_000, 20_000] {
            expected[start..start + 5000].fill(0);
        }
        assert_eq!(read(&mut client, 0, 65536), expected);
        client.cache(0, MIB as u32).unwrap();
        fixture.stop();

        let fixture = Fixture::of_size(kind, MIB);
        let mut client = fixture.client();
        assert_eq!(refused(client.write_zeroes(0, 4096, CMD_FLAG_FAST_ZERO)), ENOTSUP);
        client.write_zeroes(0, 4096, 0).unwrap();
        fixture.stop();
    });
}

#[test]
fn block_status_follows_the_data() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut client = fixture.client();
        client.write(8192, &[7; 4096], false).unwrap();
        let shape = |client: &mut Client, offset, len, one| -> Vec<(u64, bool)> {
            client.block_status(offset, len, one).unwrap().iter().map(|e| (e.len, e.hole && e.zero)).collect()
        };
        assert_eq!(shape(&mut client, 0, 65536, false), [(8192, true), (4096, false), (53248, true)]);
        assert_eq!(shape(&mut client, 0, 65536, true), [(8192, true)]);
        assert_eq!(shape(&mut client, 9000, 100, true), [(100, false)]);
        assert_eq!(refused(fixture.plain_client().block_status(0, 4096, false)), EINVAL);
        fixture.stop();
    });
}

#[test]
fn each_mistake_gets_its_error_and_the_connection_goes_on() {
    both(|kind| {
        let mut memory = Memory::new(MIB);
        memory.bad = 500_000..500_001;
        let fixture = Fixture::new(kind, memory);
        for mut client in [fixture.client(), fixture.plain_client()] {
            let end = MIB as u64;
            let block = [1; 4096];
            for (what, command, flags, offset, len, payload, expected) in [
                ("read beyond the end", CMD_READ, 0, end - 1, 2, &[][..], EINVAL),
                ("read past 2^64", CMD_READ, 0, u64::MAX, 4096, &[], EINVAL),
                ("write beyond the end", CMD_WRITE, 0, end - 1, 4096, &block, ENOSPC),
                ("zeroes beyond the end", CMD_WRITE_ZEROES, 0, end, 1, &[], ENOSPC),
                ("trim beyond the end", CMD_TRIM, 0, end, 1, &[], EINVAL),
                ("unknown command", 77, 0, 0, 0, &[], EINVAL),
                ("unknown flag", CMD_READ, 1 << 14, 0, 1, &[], EINVAL),
                ("unknown flag of a write", CMD_WRITE, 1 << 14, 0, 4096, &block, EINVAL),
                ("flush of a range", CMD_FLUSH, 0, 0, 512, &[], EINVAL),
                ("read of a bad place", CMD_READ, 0, 499_999, 4096, &[], EIO),
                ("write of a bad place", CMD_WRITE, 0, 499_999, 4096, &block, EIO),
            ] {
                let handle = client.submit(command, flags, offset, len, payload).unwrap();
                assert_eq!(refused(client.wait(handle)), expected, "{what}");
            }
            for command in [CMD_READ, CMD_WRITE, CMD_TRIM, CMD_WRITE_ZEROES, CMD_CACHE] {
                let handle = client.submit(command, 0, 0, 0, &[]).unwrap();
                client.wait(handle).unwrap();
            }
            client.write(0, &block, false).unwrap();
            assert_eq!(read(&mut client, 0, 4096), block);
        }
        assert_eq!(fixture.memory.content(MIB - 1..MIB), [0], "a refused write changes nothing");
        fixture.stop();
    });
}

#[test]
fn requests_that_are_too_long_are_refused_or_cut_off() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, 80 * MIB);
        let long = 33 * MIB;
        let mut client = fixture.client();
        let handle = client.submit(CMD_READ, 0, 0, long as u32, &[]).unwrap();
        assert_eq!(refused(client.wait(handle)), EINVAL);
        let handle = client.submit(CMD_READ, CMD_FLAG_DF, 0, long as u32, &[]).unwrap();
        assert_eq!(refused(client.wait(handle)), EOVERFLOW);
        let handle = client.submit(CMD_WRITE, 0, 0, long as u32, &vec![1; long]).unwrap();
        assert_eq!(refused(client.wait(handle)), EINVAL);
        client.flush().unwrap();
        let handle = client.submit(CMD_READ, CMD_FLAG_DF, 0, 32 * MIB as u32, &[]).unwrap();
        assert!(matches!(client.wait(handle), Ok(Reply::Data(data)) if data.len() == 32 * MIB));
        // What no server should have to throw away.
        let mut raw = fixture.raw_chosen();
        raw.request(CMD_WRITE, 0, 1, 0, 65 * MIB as u32);
        raw.assert_closed(0);
        fixture.still_serves();
        fixture.stop();
    });
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    both(|kind| {
        let mut memory = Memory::new(MIB);
        memory.read_only = true;
        let fixture = Fixture::new(kind, memory);
        let mut client = fixture.client();
        assert_eq!(client.flags() & FLAG_READ_ONLY, FLAG_READ_ONLY);
        assert_eq!(refused(client.write(0, &[1; 4096], false)), EPERM);
        assert_eq!(refused(client.write_zeroes(0, 4096, 0)), EPERM);
        assert_eq!(refused(client.trim(0, 4096)), EPERM);
        assert_eq!(read(&mut client, 0, 4096), [0; 4096]);
        client.flush().unwrap();
        fixture.stop();
    });
}

#[test]
fn many_requests_are_in_flight_and_each_gets_its_own_answer() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, 8 * MIB);
        let mut client = fixture.client();
        let mut expected = std::collections::HashMap::new();
        for n in 0..100 {
            let data = pattern(n, 8192);
            let handle = client.submit(CMD_WRITE, 0, n as u64 * 8192, 8192, &data).unwrap();
            expected.insert(handle, None);
        }
        while client.in_flight() > 0 {
            let (handle, outcome) = client.receive().unwrap();
            assert_eq!((expected.remove(&handle), outcome), (Some(None), Ok(Reply::Done)));
        }
        for n in 0..100 {
            let handle = client.submit(CMD_READ, 0, n as u64 * 8192 + 5, 8000, &[]).unwrap();
            expected.insert(handle, Some(Reply::Data(pattern(n, 8192)[5..8005].to_vec())));
        }
        while client.in_flight() > 0 {
            let (handle, outcome) = client.receive().unwrap();
            assert_eq!(expected.remove(&handle).flatten(), outcome.ok());
        }
        assert!(expected.is_empty());
        fixture.stop();
    });
}

#[test]
fn overlapping_writes_do_not_mix() {
    both(|kind| {
        let fixture = Fixture::of_size(kind, MIB);
        let mut clients: Vec<Client> = (0..4).map(|_| fixture.client()).collect();
        for round in 0..20_usize {
            for (n, client) in clients.iter_mut().enumerate() {
                client.submit(CMD_WRITE, 0, (n * 100) as u64, 65536, &[(round * 4 + n) as u8 + 1; 65536]).unwrap();
            }
            for client in &mut clients {
                client.receive().unwrap().1.unwrap();
            }
            let content = fixture.memory.content(300..65536);
            assert!(content.iter().all(|b| *b == content[0]), "the bytes that all wrote are one writer's");
        }
        // What one connection was told is what all others read and flush.
        clients[0].write(0, &[9; 512], false).unwrap();
        assert_eq!(read(&mut clients[1], 0, 512), [9; 512]);
        clients[2].flush().unwrap();
        fixture.stop();
    });
}
