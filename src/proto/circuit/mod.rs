//! Circuits: three relays, one onion layer each (D4-D7).
//!
//! [`hop`] carries circuits for others and is their last hop; [`host`](crate::proto::host) answers the legs that a last hop opens;
//! [`origin`] builds and uses our own. The data path is `hop`: a cell in, one layer, a cell out, nothing allocated.

pub mod hop;
pub mod origin;
pub mod pace;

use crate::wire::cell::BODY;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;

/// The only circuit handshake of this version: hybrid X25519 and ML-KEM-768.
const HANDSHAKE_HYBRID: u16 = 1;

/// The body of a create or created cell: `handshake u16 | length u16 | message | zeros`.
pub(super) fn write_handshake(message: &[u8]) -> [u8; BODY] {
    let mut w = Writer::with_capacity(BODY);
    w.u16(HANDSHAKE_HYBRID).bytes16(message);
    debug_assert!(w.as_slice().len() <= BODY);
    let mut body = [0; BODY];
    for (to, from) in body.iter_mut().zip(w.as_slice()) {
        *to = *from;
    }
    body
}

/// The message in a create or created cell.
pub(super) fn read_handshake(body: &[u8; BODY]) -> Result<&[u8], DecodeError> {
    let mut r = Reader::new(body);
    if r.u16()? != HANDSHAKE_HYBRID {
        return Err(DecodeError::Newer);
    }
    r.bytes16(BODY)
}
