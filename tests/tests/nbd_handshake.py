# Run by nbdsh, unconnected; `socket` is the path of a server with the exports vda and vdb on two sockets, of which this is
# vda's: each way through the handshake.
import errno
import stat
import os

assert stat.S_IMODE(os.stat(socket).st_mode) == 0o600, oct(os.stat(socket).st_mode)


def negotiating():
    c = nbd.NBD()
    c.set_opt_mode(True)
    c.connect_unix(socket)
    assert c.get_protocol() == "newstyle-fixed"
    return c


# List, info, go, one after the other.
c = negotiating()
c.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
exports = []
assert c.opt_list(lambda name, description: exports.append(name)) == len(exports) and "vda" in exports, exports
c.set_export_name("vda")
c.opt_info()
size = c.get_size()
assert size > 0
contexts = []
c.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == [nbd.CONTEXT_BASE_ALLOCATION], contexts
c.opt_go()
assert c.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
assert c.pread(512, 0) is not None
c.shutdown()

# An export that is not there: refused, and the handshake goes on.
c = negotiating()
c.set_export_name("nobody")
for attempt in (c.opt_info, c.opt_go):
    try:
        attempt()
    except nbd.Error as error:
        assert error.errnum == errno.ENOENT, error
    else:
        raise AssertionError("an unknown export was served")
c.set_export_name("vda")
c.opt_go()
assert c.get_size() == size
c.shutdown()

# Abort.
c = negotiating()
c.opt_abort()
assert c.aio_is_closed()

# The default export is the disk's.
c = nbd.NBD()
c.connect_unix(socket)
assert c.get_size() == size
c.shutdown()

# A context that nobody knows is not chosen, and that is no error.
c = nbd.NBD()
c.add_meta_context("nobody:nothing")
c.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
c.connect_unix(socket)
assert not c.can_meta_context("nobody:nothing") and c.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
c.shutdown()

# Without structured replies: simple ones, no block status.
c = nbd.NBD()
c.set_request_structured_replies(False)
c.connect_unix(socket)
assert not c.get_structured_replies_negotiated()
c.pwrite(b"simple" * 512, 4096)
assert c.pread(3072, 4096) == b"simple" * 512
c.set_strict_mode(0)
try:
    c.pread(512, size)
except nbd.Error as error:
    assert error.errnum == errno.EINVAL
else:
    raise AssertionError("a read past the end was answered")
assert len(c.pread(512, 0)) == 512
c.shutdown()

# Not fixed newstyle: only EXPORT_NAME is left, with and without the 124 zeroes.
for flags in (0, nbd.HANDSHAKE_FLAG_NO_ZEROES):
    c = nbd.NBD()
    c.set_handshake_flags(flags)
    c.connect_unix(socket)
    assert c.get_protocol() == "newstyle", c.get_protocol()
    assert c.get_size() == size and len(c.pread(512, 0)) == 512
    c.shutdown()
print("all handshakes done")
