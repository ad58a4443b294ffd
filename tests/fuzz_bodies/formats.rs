//! Formats on the wire, on disk and on paper: no input panics, and what decodes has one encoding.

use super::Choices;
use onionskin::base::NetworkId;
use onionskin::base::NodeId;
use onionskin::proto::core::directories;
use onionskin::proto::doc::key::Key;
use onionskin::proto::doc::key::ReadKey;
use onionskin::proto::doc::key::decode_text;
use onionskin::proto::doc::key::encode_text;
use onionskin::proto::doc::share::verify_share;
use onionskin::proto::link_text::LinkText;
use onionskin::proto::overlay::kept::Kept;
use onionskin::proto::overlay::record::verify_faces;
use onionskin::proto::overlay::record::verify_record;
use onionskin::proto::path::PathPolicy;
use onionskin::wire::cell::BODY;
use onionskin::wire::cell::CELL;
use onionskin::wire::cell::Header;
use onionskin::wire::cell::RelayMessage;
use onionskin::wire::codec::Reader;
use onionskin::wire::freshness;
use onionskin::wire::freshness::SignedFreshness;
use onionskin::wire::hello::Hello;
use onionskin::wire::manifest::ManifestNode;
use onionskin::wire::manifest::Private;
use onionskin::wire::overlay::Message;
use onionskin::wire::record;
use onionskin::wire::record::Receipt;
use onionskin::wire::record::SignedDescriptor;
use onionskin::wire::request::Fetch;
use onionskin::wire::request::SessionType;
use onionskin::wire::request::Store;
use onionskin::wire::request::Stored;
use onionskin::wire::request::fetched;
use onionskin::wire::request::read_fetched;
use onionskin::wire::share::ShareRef;

/// Fills an array from the front.
pub fn padded<const N: usize>(data: &[u8]) -> Box<[u8; N]> {
    let mut out = Box::new([0; N]);
    out.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
    out
}

/// A cell's header, and the message in its body.
pub fn cell(data: &[u8]) {
    let mut cell = padded::<CELL>(data);
    if let Ok(header) = Header::read(&cell) {
        let before = cell.clone();
        header.write(&mut cell);
        assert_eq!(cell, before);
    }
    let body = padded::<BODY>(data);
    if let Ok(message) = RelayMessage::read(&body) {
        let mut again = body.clone();
        message.write(&mut again);
        assert_eq!(again, body);
    }
}

/// The first cell of a link.
pub fn hello(data: &[u8]) {
    let body = padded::<BODY>(data);
    if let Ok(hello) = Hello::read(&body) {
        let again = hello.write();
        assert_eq!(Hello::read(&again).as_ref(), Ok(&hello));
        let written = again.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        assert_eq!(again[..written], body[..written]);
        assert!(hello.common_version().is_none_or(|v| hello.versions.0 <= v && v <= hello.versions.1));
    }
}

/// A message of the overlay plane.
pub fn overlay_message(data: &[u8]) {
    if let Ok(message) = Message::decode(data) {
        assert_eq!(message.encode().as_deref(), Some(data));
    }
}

/// Descriptors, freshnesses, receipts, and two descriptors as a proof.
pub fn record(data: &[u8]) {
    let known = record::peek(data);
    if let Ok(signed) = SignedDescriptor::decode(data) {
        assert_eq!(signed.encode(), data);
        assert_eq!(known, Some(signed.descriptor.node));
        let mut tidy = signed.descriptor.clone();
        tidy.tidy();
        assert_eq!(tidy, signed.descriptor);
    }
    if let Ok(receipt) = Receipt::decode(data) {
        assert_eq!(receipt.encode(), data);
    }
    if let Ok(signed) = SignedFreshness::decode(data) {
        assert_eq!(signed.encode(), data);
        let f = &signed.freshness;
        assert_eq!(freshness::peek(data), Some((f.node, f.descriptor, f.published)));
        let mut tidy = signed.freshness.clone();
        tidy.tidy();
        assert_eq!(tidy, signed.freshness);
    }
    drop(verify_record(&NetworkId([7; 32]), data));
    let (one, other) = data.split_at(data.len() / 2);
    drop(verify_faces(&NetworkId([7; 32]), one, other, true));
}

/// What a client kept of the network.
pub fn kept_view(data: &[u8]) {
    // Its sum is the last check a mutation would pass, so the bytes get a right one.
    if let Some((head, _)) = data.split_last_chunk::<32>() {
        drop(Kept::decode(&NetworkId([7; 32]), &Kept::sealed(head.to_vec())));
    }
    if let Ok(kept) = Kept::decode(&NetworkId([7; 32]), data) {
        assert_eq!(kept.encode(), data);
    }
}

/// Share blobs, manifest nodes and their private part.
pub fn share_manifest(data: &[u8]) {
    if let Ok(share) = ShareRef::read(data) {
        assert_eq!(share.to_blob(), data);
        assert!(verify_share(data).is_ok_and(|v| v.share == share));
    }
    if let Ok(node) = ManifestNode::read(data) {
        assert_eq!(ManifestNode::read(&node.to_bytes()), Ok(node));
    }
    let mut reader = Reader::new(data);
    if let Ok(private) = Private::read(&mut reader) {
        assert_eq!(Private::read(&mut Reader::new(&private.to_bytes())), Ok(private));
    }
}

/// What is inside sealed requests and responses.
pub fn request(data: &[u8]) {
    if let Ok(fetch) = Fetch::from_bytes(data) {
        assert_eq!(fetch.to_bytes(), data);
    }
    if let Ok(store) = Store::from_bytes(data) {
        assert_eq!(store.to_bytes(), data);
    }
    if let Ok(stored) = Stored::from_bytes(data) {
        assert_eq!(stored.to_bytes(), data);
    }
    if let Ok(found) = read_fetched(data) {
        assert_eq!(fetched(found), data);
    }
    if let Some(Ok(kind)) = data.first_chunk().map(|two| SessionType::from_bytes(*two)) {
        assert_eq!(Some(&kind.to_bytes()), data.first_chunk());
    }
}

/// Keys and bootstrap links as people paste them: as text, and as what a right checksum covers.
pub fn key_text(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let pasted = match kind {
        0..=4 => encode_text(*kind, rest),
        _ => String::from_utf8_lossy(data).into_owned(),
    };
    let canonical = pasted.trim().to_ascii_lowercase();
    if let Ok((kind, payload)) = decode_text(&pasted) {
        assert_eq!(encode_text(kind, &payload), canonical);
    }
    if let Ok(key) = Key::parse(&pasted) {
        assert_eq!(key.to_text(), canonical);
    }
    assert!(ReadKey::parse(&pasted).is_err() || Key::parse(&pasted).is_ok());
    if let Ok(link) = LinkText::decode(&pasted) {
        assert_eq!(LinkText::decode(&link.encode()), Ok(link));
    }
}

/// The saved state of guards and layers.
pub fn paths_state(data: &[u8]) {
    let mut choices = Choices(data);
    let me = (choices.byte() & 1 == 1).then(|| NodeId(*padded(choices.0)));
    if let Ok(policy) = PathPolicy::decode(choices.0, me) {
        let bytes = policy.encode();
        let again = PathPolicy::decode(&bytes, me).expect("our own encoding");
        assert_eq!(again.encode(), bytes);
    }
    if let Ok(peers) = directories::decode(choices.0) {
        assert_eq!(directories::decode(&directories::encode(&peers)), Ok(peers));
    }
}
