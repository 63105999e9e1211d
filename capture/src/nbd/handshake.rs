//! The server's side of the fixed newstyle negotiation, without I/O: bytes in, bytes out.
//!
//! The machine says how many bytes it wants next and never takes one beyond the option that ends the negotiation: what
//! follows belongs to the transmission phase. One option is held in memory at a time, at most [`OPTION_MAX_BYTES`].

use std::sync::Arc;

use super::consts::*;
use super::export::Export;
use super::option_reply::{context, refuse, reply, text_info};
use super::options;
pub use super::outcome::{Ended, Negotiated, Progress};
use super::wire::{Put, Reader};
use crate::tls::identity::Identity;

/// Longest option data that is read, in bytes. A longer one is skipped and answered with `ERR_TOO_BIG`.
pub const OPTION_MAX_BYTES: u32 = 64 << 10;
/// Longest option data that is skipped, in bytes; a client that announces more is cut off.
pub const OPTION_SKIP_MAX_BYTES: u32 = 1 << 20;
/// Most options of one negotiation; a client that sends more is cut off.
pub const OPTIONS_MAX: u32 = 256;

/// Smallest preferred block size that the text allows ("Block size constraints"); it must be a power of two as well.
const PREFERRED_BLOCK_MIN_BYTES: u32 = 512;
const CLIENT_FLAGS_BYTES: usize = 4;
const OPTION_HEADER_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: u32,
        len: usize,
    },
    /// Data of an option that is answered with `error` and not looked at.
    Skipped {
        option: u32,
        left: usize,
        error: u32,
        why: &'static str,
    },
    Nothing(Progress),
}

/// What stands between a client and the exports.
#[derive(Debug)]
enum Guard {
    /// Nothing: who can connect may open them.
    Open,
    /// TLS, which has not begun.
    TlsFirst,
    /// TLS, with this client.
    Known(Identity),
}

/// Why an export is not to be had: the option's error, and words for it.
type NotFound = (u32, &'static str);

/// One negotiation.
#[derive(Debug)]
pub struct Handshake {
    exports: Arc<[Export]>,
    expect: Expect,
    partial: Vec<u8>,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` is selected.
    context_of: Option<usize>,
    options: u32,
    guard: Guard,
}

impl Handshake {
    /// A negotiation about `exports`, the first of which is the default one. The server's greeting is appended to `out`.
    #[must_use]
    pub fn new(exports: Arc<[Export]>, out: &mut Vec<u8>) -> Self {
        out.u64(INIT_MAGIC);
        out.u64(OPTION_MAGIC);
        out.u16(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
        Self {
            exports,
            expect: Expect::ClientFlags,
            partial: Vec::new(),
            fixed: false,
            no_zeroes: false,
            structured: false,
            context_of: None,
            options: 0,
            guard: Guard::Open,
        }
    }

    /// As [`Handshake::new`], of a server that serves over TLS only.
    #[must_use]
    pub fn over_tls(exports: Arc<[Export]>, out: &mut Vec<u8>) -> Self {
        Self { guard: Guard::TlsFirst, ..Self::new(exports, out) }
    }

    /// Goes on within TLS, with a client that is known now. What was said before, in plain text, is forgotten but for the client's
    /// flags, which it does not send again.
    #[must_use]
    pub fn secured(self, client: Identity) -> Self {
        Self {
            expect: Expect::OptionHeader,
            partial: Vec::new(),
            structured: false,
            context_of: None,
            guard: Guard::Known(client),
            ..self
        }
    }

    /// Bytes to receive next, at most; 0 once the negotiation is over.
    #[must_use]
    pub fn wants(&self) -> usize {
        let whole = match self.expect {
            Expect::ClientFlags => CLIENT_FLAGS_BYTES,
            Expect::OptionHeader => OPTION_HEADER_BYTES,
            Expect::OptionData { len, .. } => len,
            Expect::Skipped { left, .. } => return left,
            Expect::Nothing(_) => return 0,
        };
        whole - self.partial.len()
    }

    /// Takes received bytes, appends answers to `out`, and says where the negotiation stands and how many bytes it took:
    /// all of them, unless it is over.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> (usize, Progress) {
        let mut taken = 0;
        loop {
            if let Expect::Nothing(end) = self.expect {
                return (taken, end);
            }
            let wants = self.wants();
            let part = &bytes[taken..][..wants.min(bytes.len() - taken)];
            taken += part.len();
            if let Expect::Skipped { left, .. } = &mut self.expect {
                *left -= part.len();
            } else {
                self.partial.extend_from_slice(part);
            }
            if part.len() < wants {
                return (taken, Progress::More);
            }
            let whole = std::mem::take(&mut self.partial);
            self.expect = self.step(&whole, out);
        }
    }

    /// Acts on one whole unit of input.
    fn step(&mut self, whole: &[u8], out: &mut Vec<u8>) -> Expect {
        match self.expect {
            Expect::ClientFlags => self.client_flags(whole),
            Expect::OptionHeader => self.option_header(whole),
            Expect::OptionData { option, .. } => self.option(option, whole, out),
            Expect::Skipped { option, error, why, .. } => {
                reply(out, option, error, why.as_bytes());
                Expect::OptionHeader
            }
            Expect::Nothing(end) => Expect::Nothing(end),
        }
    }

    fn client_flags(&mut self, whole: &[u8]) -> Expect {
        let Some(flags) = Reader::new(whole).u32() else { return end(Ended::Magic) };
        if flags & !(FLAG_C_FIXED_NEWSTYLE | FLAG_C_NO_ZEROES) != 0 {
            return end(Ended::Flags(flags));
        }
        self.fixed = flags & FLAG_C_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & FLAG_C_NO_ZEROES != 0;
        Expect::OptionHeader
    }

    fn option_header(&mut self, whole: &[u8]) -> Expect {
        let mut fields = Reader::new(whole);
        let (Some(OPTION_MAGIC), Some(option), Some(len)) = (fields.u64(), fields.u32(), fields.u32()) else {
            return end(Ended::Magic);
        };
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return end(Ended::TooMany);
        }
        if !self.fixed && option != OPT_EXPORT_NAME {
            return end(Ended::NotFixed(option));
        }
        let longest = if option == OPT_EXPORT_NAME { STRING_MAX_BYTES as u32 } else { OPTION_SKIP_MAX_BYTES };
        if len > longest {
            return end(Ended::TooLong { option, len });
        }
        let left = len as usize;
        if matches!(self.guard, Guard::TlsFirst) && !matches!(option, OPT_STARTTLS | OPT_ABORT) {
            if option == OPT_EXPORT_NAME {
                return end(Ended::PlainExport);
            }
            let why = "this address serves over TLS only: begin with STARTTLS";
            return Expect::Skipped { option, left, error: REP_ERR_TLS_REQD, why };
        }
        let known = matches!(
            option,
            OPT_EXPORT_NAME
                | OPT_ABORT
                | OPT_LIST
                | OPT_INFO
                | OPT_GO
                | OPT_STRUCTURED_REPLY
                | OPT_LIST_META_CONTEXT
                | OPT_SET_META_CONTEXT
        ) || (option == OPT_STARTTLS && !matches!(self.guard, Guard::Open));
        if !known {
            Expect::Skipped { option, left, error: REP_ERR_UNSUP, why: "this server does not know the option" }
        } else if len > OPTION_MAX_BYTES {
            if option == OPT_SET_META_CONTEXT {
                self.context_of = None; // a failed one clears the selection too
            }
            Expect::Skipped { option, left, error: REP_ERR_TOO_BIG, why: "the option is longer than 64 KiB" }
        } else {
            Expect::OptionData { option, len: left }
        }
    }

    fn option(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Expect {
        match option {
            OPT_EXPORT_NAME => return self.export_name(data, out),
            OPT_ABORT => {
                reply(out, option, REP_ACK, &[]);
                return end(Ended::Aborted);
            }
            OPT_STARTTLS if matches!(self.guard, Guard::Known(_)) => {
                reply(out, option, REP_ERR_INVALID, b"TLS has begun already");
            }
            OPT_STARTTLS if data.is_empty() => {
                reply(out, option, REP_ACK, &[]);
                return Expect::Nothing(Progress::StartTls);
            }
            OPT_LIST if data.is_empty() => {
                for export in self.exports.iter().filter(|export| self.admits(export)) {
                    let mut entry = Vec::new();
                    entry.u32(export.info.name.len() as u32);
                    entry.bytes(export.info.name.as_bytes());
                    entry.bytes(export.description.as_bytes());
                    reply(out, option, REP_SERVER, &entry);
                }
                reply(out, option, REP_ACK, &[]);
            }
            OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                reply(out, option, REP_ACK, &[]);
            }
            OPT_INFO | OPT_GO => {
                if let Some(negotiated) = self.info(option, data, out)
                    && option == OPT_GO
                {
                    return Expect::Nothing(Progress::Chosen(negotiated));
                }
            }
            OPT_LIST_META_CONTEXT => self.list_contexts(data, out),
            OPT_SET_META_CONTEXT => self.set_contexts(data, out),
            _ => reply(out, option, REP_ERR_INVALID, b"the option has no data"),
        }
        Expect::OptionHeader
    }

    /// `EXPORT_NAME`: its answer has no header, and there is no way to say no.
    fn export_name(&self, name: &[u8], out: &mut Vec<u8>) -> Expect {
        let Ok(export) = self.find(name) else { return end(Ended::UnknownExport) };
        out.u64(self.exports[export].info.size_bytes);
        out.u16(self.exports[export].flags(self.structured));
        if !self.no_zeroes {
            out.bytes(&[0; EXPORT_NAME_ZEROES_BYTES]);
        }
        Expect::Nothing(Progress::Chosen(self.negotiated(export)))
    }

    /// `INFO` and `GO`: gives the export when it was granted.
    fn info(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Option<Negotiated> {
        let query = match options::parse_info(data) {
            Ok(query) => query,
            Err(refused) => {
                refuse(out, option, refused);
                return None;
            }
        };
        let found = self.find(query.name).map_err(|(error, why)| reply(out, option, error, why.as_bytes())).ok()?;
        let export = &self.exports[found];
        let mut info = Vec::new();
        info.u16(INFO_EXPORT);
        info.u64(export.info.size_bytes);
        info.u16(export.flags(self.structured));
        reply(out, option, REP_INFO, &info);
        if query.requests.contains(&INFO_NAME) {
            text_info(out, option, INFO_NAME, &export.info.name);
        }
        if query.requests.contains(&INFO_DESCRIPTION) && !export.description.is_empty() {
            text_info(out, option, INFO_DESCRIPTION, &export.description);
        }
        if query.requests.contains(&INFO_BLOCK_SIZE) {
            info.clear();
            info.u16(INFO_BLOCK_SIZE);
            info.u32(1); // requests of any alignment are served
            info.u32(export.info.preferred_block_bytes.max(PREFERRED_BLOCK_MIN_BYTES).next_power_of_two());
            info.u32(export.info.max_request_bytes);
            reply(out, option, REP_INFO, &info);
        }
        reply(out, option, REP_ACK, &[]);
        Some(self.negotiated(found))
    }

    fn list_contexts(&self, data: &[u8], out: &mut Vec<u8>) {
        let option = OPT_LIST_META_CONTEXT;
        let Some((_, query)) = self.context_query(option, data, out) else { return };
        let wanted = |q: &&[u8]| **q == *CONTEXT_BASE.as_bytes() || **q == *CONTEXT_BASE_ALLOCATION.as_bytes();
        if query.queries.is_empty() || query.queries.iter().any(wanted) {
            // The id is reserved in a list, and zero.
            context(out, option, 0);
        }
        reply(out, option, REP_ACK, &[]);
    }

    fn set_contexts(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let option = OPT_SET_META_CONTEXT;
        self.context_of = None; // replaced by every such option, even by one that fails
        let Some((export, query)) = self.context_query(option, data, out) else { return };
        // The wildcard selects nothing here ("The base: metadata namespace").
        if query.queries.contains(&CONTEXT_BASE_ALLOCATION.as_bytes()) {
            self.context_of = Some(export);
            context(out, option, CONTEXT_ID_BASE_ALLOCATION);
        }
        reply(out, option, REP_ACK, &[]);
    }

    /// What both metadata options share; `None` when the refusal has been written.
    fn context_query<'a>(
        &self,
        option: u32,
        data: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<(usize, options::ContextQuery<'a>)> {
        if !self.structured {
            reply(out, option, REP_ERR_INVALID, b"structured replies must be negotiated first");
            return None;
        }
        let query = match options::parse_context(data) {
            Ok(query) => query,
            Err(refused) => {
                refuse(out, option, refused);
                return None;
            }
        };
        let export = self.find(query.name).map_err(|(error, why)| reply(out, option, error, why.as_bytes())).ok()?;
        Some((export, query))
    }

    /// The export of this name; the first one has the empty name too, also for a client that may not open it.
    fn find(&self, name: &[u8]) -> Result<usize, NotFound> {
        let found = self.exports.iter().position(|e| name.is_empty() || e.info.name.as_bytes() == name);
        let found = found.ok_or((REP_ERR_UNKNOWN, "there is no export of this name here"))?;
        if self.admits(&self.exports[found]) {
            return Ok(found);
        }
        if let Guard::Known(client) = &self.guard {
            tracing::warn!(export = self.exports[found].info.name, %client, "a certificate that is not in tls_clients was refused");
        }
        Err((REP_ERR_POLICY, "the client's certificate may not open this export"))
    }

    /// Whether the client may open an export, and know of it.
    fn admits(&self, export: &Export) -> bool {
        match &self.guard {
            Guard::Open => true,
            Guard::TlsFirst => false,
            Guard::Known(client) => export.clients.as_ref().is_none_or(|clients| clients.has(client)),
        }
    }

    fn negotiated(&self, export: usize) -> Negotiated {
        Negotiated { export, structured: self.structured, allocation: self.context_of == Some(export) }
    }
}

fn end(why: Ended) -> Expect {
    Expect::Nothing(Progress::Ended(why))
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
