//! The data of negotiation options, proved before it is used.

use super::consts::STRING_MAX_BYTES;
use super::wire::Reader;

/// Most information requests of one `INFO` or `GO`; there are four kinds, each to be asked for once.
pub const INFO_REQUESTS_MAX: usize = 64;
/// Most queries of one `LIST_META_CONTEXT` or `SET_META_CONTEXT`.
pub const CONTEXT_QUERIES_MAX: usize = 64;

/// Why the data of an option was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its fields do not fill its length; answered with `ERR_INVALID`.
    Malformed(&'static str),
    /// A string or a list is longer than this server takes; answered with `ERR_TOO_BIG`.
    TooBig(&'static str),
}

/// What `INFO` and `GO` ask.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoQuery<'a> {
    pub name: &'a [u8],
    pub requests: Vec<u16>,
}

/// Reads the data of `INFO` and `GO`: name length, name, count, requests.
pub(super) fn parse_info(data: &[u8]) -> Result<InfoQuery<'_>, Refused> {
    let short = Refused::Malformed("the option is shorter than its fields");
    let mut fields = Reader::new(data);
    let name = string(&mut fields)?;
    let count = usize::from(fields.u16().ok_or(short)?);
    if fields.left() != count * 2 {
        return Err(Refused::Malformed("the count of information requests does not fit the option's length"));
    }
    if count > INFO_REQUESTS_MAX {
        return Err(Refused::TooBig("too many information requests"));
    }
    let requests = (0..count).map(|_| fields.u16().ok_or(short)).collect::<Result<_, _>>()?;
    Ok(InfoQuery { name, requests })
}

/// What `LIST_META_CONTEXT` and `SET_META_CONTEXT` ask.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContextQuery<'a> {
    pub name: &'a [u8],
    pub queries: Vec<&'a [u8]>,
}

/// Reads the data of both metadata options: name length, name, count, then length and text of each query.
pub(super) fn parse_context(data: &[u8]) -> Result<ContextQuery<'_>, Refused> {
    let mut fields = Reader::new(data);
    let name = string(&mut fields)?;
    let count = fields.u32().ok_or(Refused::Malformed("the option is shorter than its fields"))?;
    // Each query takes four bytes at least: a count that cannot be true is malformed, not big.
    let count = usize::try_from(count).ok().filter(|n| n.saturating_mul(4) <= fields.left());
    let count = count.ok_or(Refused::Malformed("the count of queries does not fit the option's length"))?;
    if count > CONTEXT_QUERIES_MAX {
        return Err(Refused::TooBig("too many metadata queries"));
    }
    let mut queries = Vec::with_capacity(count);
    for _ in 0..count {
        let query = string(&mut fields)?;
        if !query.contains(&b':') {
            return Err(Refused::Malformed("a metadata query has no namespace"));
        }
        queries.push(query);
    }
    match fields.left() {
        0 => Ok(ContextQuery { name, queries }),
        _ => Err(Refused::Malformed("the option is longer than its fields")),
    }
}

/// A string with its length before it.
fn string<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], Refused> {
    let short = Refused::Malformed("the option is shorter than its fields");
    let len = usize::try_from(fields.u32().ok_or(short)?).map_err(|_| short)?;
    let text = fields.take(len).ok_or(short)?;
    if len > STRING_MAX_BYTES {
        return Err(Refused::TooBig("a string is longer than 4096 bytes"));
    }
    Ok(text)
}
