//! What a client is told about a disk.

use super::consts::*;
use crate::device::DeviceInfo;
use crate::tls::identity::Clients;

/// One export of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The device's own description of itself; its name is the export's name.
    pub info: DeviceInfo,
    /// Text for people; empty for none.
    pub description: String,
    /// Whom it is for, over TLS; `None`: whoever has a certificate of the authority.
    pub clients: Option<Clients>,
}

impl Export {
    /// The transmission flags that a client of this export sees.
    #[must_use]
    pub fn flags(&self, structured: bool) -> u16 {
        let mut flags = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_CAN_MULTI_CONN | FLAG_SEND_CACHE;
        flags |= if self.info.read_only {
            FLAG_READ_ONLY
        } else {
            FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO
        };
        if structured {
            flags |= FLAG_SEND_DF;
        }
        flags
    }
}
