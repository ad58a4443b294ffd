//! A client's directory relays and guards, kept with their addresses for its next start: they are asked while none of its bootstrap
//! links leads anywhere. Not before: what one start saw must not decide what all later ones see (T29).

use crate::base::NodeId;
use crate::proto::overlay::Peer;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::record::read_addr;
use crate::wire::record::write_addr;

/// Name of this saved state.
pub(super) const SAVED: &str = "directories";
const KIND: u8 = 34;
const VERSION: u8 = 1;
/// Most that are kept: those in use, and some of the sample of guards that may be up when these are down.
const MAX: usize = 8;

/// The lasting form: `kind | version | count | (node, address) each | extensions`.
pub fn encode(peers: &[Peer]) -> Vec<u8> {
    let peers = peers.get(..MAX).unwrap_or(peers);
    let mut w = Writer::default();
    w.u8(KIND).u8(VERSION).u8(u8::try_from(peers.len()).unwrap_or_default());
    for peer in peers {
        w.raw(&peer.node.0);
        write_addr(&mut w, &peer.addr);
    }
    Extensions::default().write(&mut w);
    w.into_bytes()
}

/// Reads the lasting form.
///
/// # Errors
/// Damaged, or written by a newer version.
pub fn decode(bytes: &[u8]) -> Result<Vec<Peer>, DecodeError> {
    let mut r = Reader::new(bytes);
    r.head(KIND, VERSION)?;
    let count = usize::from(r.u8()?);
    if count > MAX {
        return Err(DecodeError::TooLarge);
    }
    let peers = (0..count).map(|_| Ok(Peer { node: NodeId(r.array()?), addr: read_addr(&mut r)? })).collect::<Result<_, _>>()?;
    Extensions::read(&mut r, &[])?;
    r.finish()?;
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back_and_damage_is_seen() {
        let peers: Vec<Peer> = (0..3u8).map(|n| Peer { node: NodeId([n; 32]), addr: ([9, 8, 7, n], 443).into() }).collect();
        let bytes = encode(&peers);
        assert_eq!(decode(&bytes), Ok(peers));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err());
        }
        let with = |at: usize, byte: u8| {
            let mut bent = bytes.clone();
            bent[at] = byte;
            decode(&bent)
        };
        assert_eq!(
            [with(0, 32), with(1, 2), with(2, 9)],
            [DecodeError::Invalid, DecodeError::Newer, DecodeError::TooLarge].map(Err)
        );
    }
}
