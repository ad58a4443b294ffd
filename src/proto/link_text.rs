//! The bootstrap link of a relay: what a person pastes to join its network.
//!
//! ```text
//! onionskin: base32 of   kind u8 = 3 | version u8 = 1 | network [32] | node [32] | count u8 (1..=4) | addresses
//!                        | extensions | checksum
//! ```
//! It holds no secret, and a link that lies leads nowhere: the relay must prove this very identity.

use crate::base::NetworkId;
use crate::base::NodeId;
use crate::proto::doc::key::KIND_LINK;
use crate::proto::doc::key::TextError;
use crate::proto::doc::key::decode_text;
use crate::proto::doc::key::encode_text;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::record::read_addr;
use crate::wire::record::write_addr;
use std::net::SocketAddr;

/// Most addresses of one link: an IPv4 and an IPv6 one, and one more of each during a move.
pub const ADDRS_MAX: usize = 4;

/// Where a network can be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkText {
    /// The network.
    pub network: NetworkId,
    /// The relay.
    pub node: NodeId,
    /// Where it is reached: one to [`ADDRS_MAX`].
    pub addrs: Vec<SocketAddr>,
}

impl LinkText {
    /// To text. Addresses beyond [`ADDRS_MAX`] are left out.
    pub fn encode(&self) -> String {
        let addrs = self.addrs.get(..ADDRS_MAX).unwrap_or(&self.addrs);
        let mut w = Writer::with_capacity(128);
        w.raw(&self.network.0).raw(&self.node.0).u8(u8::try_from(addrs.len()).unwrap_or(0));
        for addr in addrs {
            write_addr(&mut w, addr);
        }
        Extensions::default().write(&mut w);
        encode_text(KIND_LINK, w.as_slice())
    }

    /// From text.
    ///
    /// # Errors
    /// Why it is no bootstrap link, in words for whoever pasted it.
    pub fn decode(text: &str) -> Result<Self, TextError> {
        let (kind, payload) = decode_text(text)?;
        if kind != KIND_LINK {
            return Err(TextError::NotALink);
        }
        read(&payload).map_err(|e| match e {
            DecodeError::Newer => TextError::Newer,
            DecodeError::Short | DecodeError::Trailing | DecodeError::TooLarge | DecodeError::Invalid => TextError::Mistyped,
        })
    }
}

fn read(payload: &[u8]) -> Result<LinkText, DecodeError> {
    let mut r = Reader::new(payload);
    let network = NetworkId(r.array()?);
    let node = NodeId(r.array()?);
    let count = usize::from(r.u8()?);
    if count == 0 || count > ADDRS_MAX {
        return Err(DecodeError::Invalid);
    }
    let addrs = (0..count).map(|_| read_addr(&mut r)).collect::<Result<_, _>>()?;
    Extensions::read(&mut r, &[])?;
    r.finish()?;
    Ok(LinkText { network, node, addrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LinkText {
        let addrs = vec!["9.8.7.6:443".parse().unwrap(), "[2a00:1::1]:9000".parse().unwrap()];
        LinkText { network: NetworkId([1; 32]), node: NodeId([2; 32]), addrs }
    }

    #[test]
    fn comes_back_from_its_text_and_from_a_careless_copy() {
        let text = sample().encode();
        assert_eq!(LinkText::decode(&text), Ok(sample()));
        assert_eq!(LinkText::decode(&format!("  {}\n", text.to_ascii_uppercase())), Ok(sample()));
    }

    #[test]
    fn says_what_is_wrong() {
        let text = sample().encode();
        assert!(LinkText::decode(&text[..text.len() - 3]).is_err());
        assert_eq!(LinkText::decode(&encode_text(1, &[0; 65])), Err(TextError::NotALink));
        assert_eq!(LinkText::decode("http://example.org"), Err(TextError::Prefix));
        // No address at all, a fifth address, trailing bytes, an unknown critical extension.
        let head = [[1u8; 32], [2; 32]].concat();
        let addr = [4u8, 9, 8, 7, 6, 1, 187];
        for (tail, error) in [
            (vec![0u8, 0], TextError::Mistyped),
            ([&[5u8][..], &addr.repeat(5), &[0]].concat(), TextError::Mistyped),
            ([&[1u8][..], &addr, &[0, 9]].concat(), TextError::Mistyped),
            ([&[1u8][..], &addr, &[1, 0x80, 1, 0, 0]].concat(), TextError::Newer),
        ] {
            assert_eq!(LinkText::decode(&encode_text(KIND_LINK, &[head.clone(), tail].concat())), Err(error));
        }
    }
}
