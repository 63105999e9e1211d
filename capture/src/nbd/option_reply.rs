//! Replies of the negotiation as bytes.

use super::consts::*;
use super::options::Refused;
use super::wire::Put;

/// A reply to `option`.
pub(super) fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.u64(OPTION_REPLY_MAGIC);
    out.u32(option);
    out.u32(kind);
    out.u32(u32::try_from(data.len()).expect("replies are bounded by the exports' names"));
    out.bytes(data);
}

/// The error that a malformed or too long option gets.
pub(super) fn refuse(out: &mut Vec<u8>, option: u32, refused: Refused) {
    let (error, why) = match refused {
        Refused::Malformed(why) => (REP_ERR_INVALID, why),
        Refused::TooBig(why) => (REP_ERR_TOO_BIG, why),
    };
    reply(out, option, error, why.as_bytes());
}

/// A piece of information that is a text.
pub(super) fn text_info(out: &mut Vec<u8>, option: u32, kind: u16, text: &str) {
    let mut info = Vec::with_capacity(2 + text.len());
    info.u16(kind);
    info.bytes(text.as_bytes());
    reply(out, option, REP_INFO, &info);
}

/// The one metadata context, with its id.
pub(super) fn context(out: &mut Vec<u8>, option: u32, id: u32) {
    let mut data = Vec::with_capacity(4 + CONTEXT_BASE_ALLOCATION.len());
    data.u32(id);
    data.bytes(CONTEXT_BASE_ALLOCATION.as_bytes());
    reply(out, option, REP_META_CONTEXT, &data);
}
