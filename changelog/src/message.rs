//! The pinned bincode configuration: messages between our own processes and catalogue entries. Durable layouts are never
//! defined by it alone: what it encodes is described field by field in `docs/format.md`.

use bincode::{Decode, Encode, config};

/// Largest encoded message, in bytes; a longer one is refused before anything is allocated for it.
pub const MESSAGE_MAX_BYTES: usize = 1 << 20;

/// Little-endian, fixed-width integers, bounded: the same bytes from every build.
const CONFIG: config::Configuration<config::LittleEndian, config::Fixint, config::Limit<MESSAGE_MAX_BYTES>> =
    config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MESSAGE_MAX_BYTES>();

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is larger than [`MESSAGE_MAX_BYTES`] or cannot be represented.
    #[error("message cannot be encoded")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are not a message of this type.
    #[error("message cannot be decoded")]
    Decode(#[from] bincode::error::DecodeError),
    /// Bytes were left over after the message.
    #[error("message is followed by {0} bytes that do not belong to it")]
    Trailing(usize),
}

/// Encodes `message`.
///
/// # Errors
/// [`MessageError::Encode`].
pub fn encode<T: Encode>(message: &T) -> Result<Vec<u8>, MessageError> {
    Ok(bincode::encode_to_vec(message, CONFIG)?)
}

/// Decodes exactly `bytes` as one message.
///
/// # Errors
/// [`MessageError::Decode`], or [`MessageError::Trailing`] when bytes are left over.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, MessageError> {
    let (message, used) = bincode::decode_from_slice(bytes, CONFIG)?;
    match bytes.len() - used {
        0 => Ok(message),
        left => Err(MessageError::Trailing(left)),
    }
}
