//! The numbers of the NBD protocol, named as its text names them without the `NBD_` prefix.
//!
//! Source: `doc/proto.md` of the NetworkBlockDevice/nbd repository; the section of the text stands above each group.
//! All integers on the wire are big-endian.

// "Newstyle negotiation".

/// `NBDMAGIC`, the first word of a server.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, the second word of a newstyle server and the first of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Zeroes after the answer to [`OPT_EXPORT_NAME`], unless the client asked to leave them out.
pub const EXPORT_NAME_ZEROES_BYTES: usize = 124;

// "Handshake flags" and "Client flags".

/// The server speaks fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The server can leave out the zeroes.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// The client speaks fixed newstyle.
pub const FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// The client wants no zeroes.
pub const FLAG_C_NO_ZEROES: u32 = 1 << 1;

// "Transmission flags".

/// Always set.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
/// The export refuses every change.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// [`CMD_FLUSH`] is understood.
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
/// [`CMD_FLAG_FUA`] is understood.
pub const FLAG_SEND_FUA: u16 = 1 << 3;
/// The medium rotates. Never set here; kept so that a client can name it.
pub const FLAG_ROTATIONAL: u16 = 1 << 4;
/// [`CMD_TRIM`] is understood.
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
/// [`CMD_WRITE_ZEROES`] and [`CMD_FLAG_NO_HOLE`] are understood.
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// [`CMD_FLAG_DF`] is understood; only with structured replies.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Flush and FUA act across all connections of the export.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// [`CMD_CACHE`] is understood.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
/// [`CMD_FLAG_FAST_ZERO`] is understood.
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

// "Option types".

/// Chooses an export and ends the negotiation; cannot report an error.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Ends the negotiation and the connection.
pub const OPT_ABORT: u32 = 2;
/// Lists the exports.
pub const OPT_LIST: u32 = 3;
/// Begins TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Asks about an export.
pub const OPT_INFO: u32 = 6;
/// Asks about an export and enters the transmission phase.
pub const OPT_GO: u32 = 7;
/// Negotiates structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Lists metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Selects metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;

// "Option reply types".

/// The option is granted, or its list ends.
pub const REP_ACK: u32 = 1;
/// One export of a list.
pub const REP_SERVER: u32 = 2;
/// One piece of information about an export.
pub const REP_INFO: u32 = 3;
/// One metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// The bit that all error replies have.
pub const REP_FLAG_ERROR: u32 = 1 << 31;
/// Unknown option.
pub const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR | 1;
/// Refused by policy.
pub const REP_ERR_POLICY: u32 = REP_FLAG_ERROR | 2;
/// Malformed option.
pub const REP_ERR_INVALID: u32 = REP_FLAG_ERROR | 3;
/// Only within TLS.
pub const REP_ERR_TLS_REQD: u32 = REP_FLAG_ERROR | 5;
/// No such export.
pub const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR | 6;
/// The server is stopping.
pub const REP_ERR_SHUTDOWN: u32 = REP_FLAG_ERROR | 7;
/// The option, or the answer to it, is too long.
pub const REP_ERR_TOO_BIG: u32 = REP_FLAG_ERROR | 9;

// "NBD_REP_INFO".

/// Size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Canonical name.
pub const INFO_NAME: u16 = 1;
/// Description for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Block size constraints.
pub const INFO_BLOCK_SIZE: u16 = 3;

// "Metadata querying".

/// The one metadata context that is served.
pub const CONTEXT_BASE_ALLOCATION: &str = "base:allocation";
/// The namespace of that context, and the wildcard of a list query.
pub const CONTEXT_BASE: &str = "base:";
/// The id of [`CONTEXT_BASE_ALLOCATION`] once it is selected.
pub const CONTEXT_ID_BASE_ALLOCATION: u32 = 1;
/// The extent is not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// The extent reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

// "Transmission".

/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Bytes of a request without its payload.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply without its payload.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a structured reply chunk without its payload.
pub const STRUCTURED_REPLY_BYTES: usize = 20;

// "Command flags".

/// Durable before it is answered. Valid with every command.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Zeroed range stays allocated.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// One content chunk at most.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// One extent at most.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Fail unless zeroing is quicker than writing.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

// "Request types".

/// Read.
pub const CMD_READ: u16 = 0;
/// Write; the payload follows the header.
pub const CMD_WRITE: u16 = 1;
/// Disconnect; has no answer.
pub const CMD_DISC: u16 = 2;
/// Flush.
pub const CMD_FLUSH: u16 = 3;
/// Trim.
pub const CMD_TRIM: u16 = 4;
/// Read ahead.
pub const CMD_CACHE: u16 = 5;
/// Write zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Block status.
pub const CMD_BLOCK_STATUS: u16 = 7;

// "Structured reply flags" and "Structured reply types".

/// The last chunk of a reply.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;
/// No content.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Offset, then data.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Offset, then the length of a hole.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Context id, then extents.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// The bit that all error chunks have.
pub const REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
/// Error, message.
pub const REPLY_TYPE_ERROR: u16 = REPLY_TYPE_FLAG_ERROR | 1;
/// Error, message, offset.
pub const REPLY_TYPE_ERROR_OFFSET: u16 = REPLY_TYPE_FLAG_ERROR | 2;

// "Conventions" and "Block size constraints".

/// Longest string (export name, query, message), in bytes.
pub const STRING_MAX_BYTES: usize = 4096;
/// Largest payload that a client may assume without having asked for block sizes, in bytes.
pub const DEFAULT_MAX_PAYLOAD_BYTES: u32 = 32 << 20;

// "Error values".

/// Operation not permitted.
pub const EPERM: u32 = 1;
/// Input/output error.
pub const EIO: u32 = 5;
/// Cannot allocate memory.
pub const ENOMEM: u32 = 12;
/// Invalid argument.
pub const EINVAL: u32 = 22;
/// No space left on device.
pub const ENOSPC: u32 = 28;
/// Value too large; only for a read with [`CMD_FLAG_DF`].
pub const EOVERFLOW: u32 = 75;
/// Operation not supported; only for [`CMD_FLAG_FAST_ZERO`].
pub const ENOTSUP: u32 = 95;
/// Server is in the process of being shut down.
pub const ESHUTDOWN: u32 = 108;
