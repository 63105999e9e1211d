# Run by nbdsh with h connected: each command, flag and error of the transmission phase.
import errno
import os

size = h.get_size()
assert size % 512 == 0
for able in (h.can_flush, h.can_fua, h.can_trim, h.can_zero, h.can_fast_zero, h.can_df, h.can_multi_conn, h.can_cache):
    assert able(), able
assert not h.is_read_only() and not h.is_rotational()
assert h.get_structured_replies_negotiated()
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
smallest, preferred, largest = (h.get_block_size(s) for s in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM))
assert smallest == 1 and preferred in (512, 1024, 2048, 4096) and largest >= 1 << 20, (smallest, preferred, largest)


def random(n):
    return os.urandom(n)


# Writes of any alignment, with and without FUA.
for offset, count in ((0, 512), (1, 1), (511, 2), (4095, 4098), (65536, 1 << 20), (100001, 300007), (size - 1, 1), (size - 4097, 4097)):
    for flags in (0, nbd.CMD_FLAG_FUA):
        data = random(count)
        h.pwrite(data, offset, flags)
        assert h.pread(count, offset) == data, (offset, count)

# The largest request, and one longer than the record limit of the log.
data = random(min(largest, 32 << 20, size))
h.pwrite(data, 0)
assert h.pread(len(data), 0) == data

# Neighbours of an unaligned write stay.
h.pwrite(b"a" * 3000, 8192)
h.pwrite(b"b" * 100, 9000)
assert h.pread(3000, 8192) == b"a" * 808 + b"b" * 100 + b"a" * 2092

# Zeroes: each flag, aligned or not.
NO_HOLE, FAST, FUA = nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_FUA
for flags in (0, FUA, NO_HOLE, NO_HOLE | FUA, FAST, FAST | NO_HOLE):
    for offset, count in ((1 << 20, 1 << 20), ((1 << 20) + 77, 100003)):
        h.pwrite(b"x" * ((1 << 20) + 4096), 1 << 20)
        try:
            h.zero(count, offset, flags)
        except nbd.Error as error:
            # FAST_ZERO may be refused, and then at once; nothing else may be.
            assert flags & FAST and error.errnum == errno.ENOTSUP, error
            continue
        around = h.pread((1 << 20) + 4096, 1 << 20)
        before = offset - (1 << 20)
        assert around[before:before + count] == bytes(count)
        assert around[:before] == b"x" * before
        assert around[before + count:] == b"x" * (len(around) - before - count)

# Trim: what is trimmed reads as zeroes here; the neighbours stay.
for offset, count in ((2 << 20, 1 << 20), ((2 << 20) + 1001, 70001)):
    for flags in (0, FUA):
        h.pwrite(b"y" * (2 << 20), 2 << 20)
        h.trim(count, offset, flags)
        seen = h.pread(2 << 20, 2 << 20)
        before = offset - (2 << 20)
        assert seen[:before] == b"y" * before and seen[before + count:] == b"y" * (len(seen) - before - count)

h.flush()
h.cache(1 << 20, 4096)

# Structured reads: the chunks cover the range once; with DF there is one.
h.pwrite(b"z" * (1 << 20), 4 << 20)
h.trim(1 << 19, 4 << 20)
for flags in (0, nbd.CMD_FLAG_DF):
    chunks = []

    def chunk(data, offset, status, error):
        chunks.append((offset, len(data), status))

    data = h.pread_structured(1 << 20, 4 << 20, chunk, flags)
    covered = sorted((offset, count) for offset, count, status in chunks)
    at = 4 << 20
    for offset, count in covered:
        assert offset == at, covered
        at += count
    assert at == 5 << 20
    assert flags == 0 or len(chunks) == 1, chunks
    assert data[1 << 19:] == b"z" * (1 << 19)

# Block status: the extents cover the range; with REQ_ONE there is one, which ends within it.
for flags in (0, nbd.CMD_FLAG_REQ_ONE):
    found = []

    def extent(context, offset, entries, error):
        assert context == nbd.CONTEXT_BASE_ALLOCATION and offset == 0
        found.extend(zip(entries[0::2], entries[1::2]))

    h.block_status(size, 0, extent, flags)
    assert all(count > 0 and kind in (0, 1, 2, 3) for count, kind in found), found
    total = sum(count for count, kind in found)
    if flags:
        assert len(found) == 1 and total <= size, found
    else:
        assert total >= 1
at, kinds = 0, set()
while at < size:
    found = []
    h.block_status(size - at, at, lambda c, o, e, r: found.extend(zip(e[0::2], e[1::2])))
    for count, kind in found:
        data = h.pread(min(count, 1 << 20), at)
        assert not kind & nbd.STATE_ZERO or data == bytes(len(data)), (at, count, kind)
        kinds.add(kind)
        at += count
assert at >= size

# Errors, with libnbd's own checks off. Each leaves the connection usable.
h.set_strict_mode(0)


def refused(wanted, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum in wanted, (error.errnum, wanted, repr(args)[:80])
    else:
        raise AssertionError(f"{call} {repr(args)[:80]} was taken")
    assert len(h.pread(512, 0)) == 512


past_write, past_read = (errno.ENOSPC, errno.EINVAL), (errno.EINVAL,)
refused(past_read, h.pread, 4096, size)
refused(past_read, h.pread, 4096, size - 4095)
refused(past_write[:1], h.pwrite, b"x" * 4096, size)
refused(past_write[:1], h.pwrite, b"x" * 4096, size - 4095)
refused(past_write[:1], h.zero, 4096, size - 4095)
refused(past_write, h.trim, 4096, size - 4095)
refused(past_write, h.cache, 4096, size - 4095)
refused(past_read, h.block_status, 4096, size, lambda *a: 0)
refused(past_write, h.pwrite, b"x", (1 << 64) - 1 >> 1)
# Flags where they do not belong, and flags that nobody knows.
refused((errno.EINVAL,), h.pread, 512, 0, nbd.CMD_FLAG_NO_HOLE)
refused((errno.EINVAL,), h.pwrite, b"x" * 512, 0, nbd.CMD_FLAG_REQ_ONE)
refused((errno.EINVAL,), h.trim, 512, 0, nbd.CMD_FLAG_NO_HOLE)
refused((errno.EINVAL,), h.flush, nbd.CMD_FLAG_DF)
refused((errno.EINVAL,), h.pwrite, b"x" * 512, 0, 1 << 14)

# Many in flight, answered in any order.
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(bytes([n]) * 4096)), n * 4096) for n in range(64)]
while h.aio_in_flight() > 0:
    h.poll(-1)
    cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
assert not cookies
for n in range(64):
    assert h.pread(4096, n * 4096) == bytes([n]) * 4096
h.flush()
h.shutdown()
print("all commands done")
