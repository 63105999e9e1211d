//! How a negotiation ends.

use super::handshake::OPTIONS_MAX;

/// What a negotiation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// The chosen export's place in the list.
    pub export: usize,
    /// Structured replies.
    pub structured: bool,
    /// `base:allocation` was selected for this export.
    pub allocation: bool,
}

/// Why the server ends a connection in the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// `ABORT`: as the client wished.
    #[error("the client ended the negotiation")]
    Aborted,
    /// A client flag that this server did not offer.
    #[error("unknown client flags {0:#x}")]
    Flags(u32),
    /// An option without its magic number.
    #[error("an option does not begin with its magic number")]
    Magic,
    /// An option other than `EXPORT_NAME` from a client that does not speak fixed newstyle.
    #[error("option {0} from a client that does not speak fixed newstyle")]
    NotFixed(u32),
    /// `EXPORT_NAME` of an export that does not exist, or not for this client: that option has no way to say so.
    #[error("an export was chosen by a name that does not exist here for this client")]
    UnknownExport,
    /// An option beyond every reasonable length.
    #[error("option {option} announces {len} bytes")]
    TooLong {
        /// The option.
        option: u32,
        /// Its announced length.
        len: u32,
    },
    /// `EXPORT_NAME` before TLS, where TLS is required: that option has no way to say so.
    #[error("an export was chosen in plain text, and this address serves over TLS only")]
    PlainExport,
    /// Something came after `STARTTLS` and before its answer: whoever sits between could have put it there (CVE-2021-3716).
    #[error("plain text came behind the request for TLS, before it was answered")]
    PlainAfterStartTls,
    /// More than [`super::handshake::OPTIONS_MAX`] options.
    #[error("more than {max} options", max = OPTIONS_MAX)]
    TooMany,
}

/// Where a negotiation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are wanted.
    More,
    /// TLS begins once the answer has been sent; the negotiation goes on in [`super::handshake::Handshake::secured`].
    StartTls,
    /// The transmission phase begins.
    Chosen(Negotiated),
    /// The connection is to be closed, after what is to be sent was sent.
    Ended(Ended),
}
