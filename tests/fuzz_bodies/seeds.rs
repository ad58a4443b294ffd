//! Valid and nearly valid values of every format, for the corpora to start from.

use onionskin::base::Address;
use onionskin::base::CircuitId;
use onionskin::base::NetworkId;
use onionskin::base::NodeId;
use onionskin::base::StreamId;
use onionskin::base::Wall;
use onionskin::crypto::keys::IdentityKey;
use onionskin::crypto::secret::Secret;
use onionskin::proto::core::directories;
use onionskin::proto::doc::code::BLOCK;
use onionskin::proto::doc::key::ReadKey;
use onionskin::proto::doc::key::decode_text;
use onionskin::proto::doc::share::encode_chunk;
use onionskin::proto::link_text::LinkText;
use onionskin::proto::overlay::Peer;
use onionskin::proto::overlay::kept::Kept;
use onionskin::proto::overlay::record::sign_descriptor;
use onionskin::proto::overlay::record::sign_freshness;
use onionskin::proto::overlay::record::sign_receipt;
use onionskin::wire::cell::BODY;
use onionskin::wire::cell::CELL;
use onionskin::wire::cell::Command;
use onionskin::wire::cell::Header;
use onionskin::wire::cell::RelayCommand;
use onionskin::wire::cell::RelayMessage;
use onionskin::wire::codec::Extensions;
use onionskin::wire::codec::Writer;
use onionskin::wire::freshness::Freshness;
use onionskin::wire::hello::Hello;
use onionskin::wire::hello::Proof;
use onionskin::wire::manifest::ManifestNode;
use onionskin::wire::manifest::Private;
use onionskin::wire::overlay::Blob;
use onionskin::wire::overlay::Cursor;
use onionskin::wire::overlay::Hint;
use onionskin::wire::overlay::Listed;
use onionskin::wire::overlay::Message;
use onionskin::wire::overlay::Part;
use onionskin::wire::record::Descriptor;
use onionskin::wire::record::HostKey;
use onionskin::wire::record::MLKEM_PUBLIC;
use onionskin::wire::request::Fetch;
use onionskin::wire::request::Store;
use onionskin::wire::request::fetched;
use onionskin::wire::share::Class;

const NET: NetworkId = NetworkId([7; 32]);

/// Seeds of one target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "cell" => cells(),
        "hello" => hellos(),
        "overlay_message" => messages(),
        "record" => records(),
        "share_manifest" => shares(),
        "request" => requests(),
        "key_text" => texts(),
        "paths_state" => paths(),
        "kept_view" => views(),
        "ntor" => handshakes(2),
        "session" => handshakes(3),
        "link" => links(),
        "store" => damages(),
        "world" => stories(),
        other => unreachable!("no target {other}"),
    }
}

/// Without the zeros at the end, which targets add again.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    bytes[..end].to_vec()
}

fn cells() -> Vec<Vec<u8>> {
    let header = |raw: u8| {
        let command = Command::from_u8(raw).expect("a command");
        let of_link = matches!(command, Command::Padding | Command::Credit | Command::Hello | Command::Overlay);
        let mut cell = [0; CELL];
        Header { circuit: CircuitId::new(if of_link { 0 } else { 5 }), command }.write(&mut cell);
        trimmed(&cell)
    };
    let message = |raw: u8| {
        let command = RelayCommand::from_u8(raw).expect("a command");
        let mut body = [0; BODY];
        RelayMessage { command, stream: StreamId(u16::from(raw)), data: &[raw; 40] }.write(&mut body);
        trimmed(&body)
    };
    (1..10).map(header).chain((1..9).map(message)).collect()
}

fn hellos() -> Vec<Vec<u8>> {
    let proof = Proof { clock: Wall(1_800_000_000), node: NodeId([3; 32]), signature: [9; 64] };
    let mut all = vec![Hello::new(NET, None), Hello::new(NET, Some(proof))];
    for (kind, len) in [(1, 0), (77, 3), (Extensions::CRITICAL | 1, 5)] {
        let mut newer = all[1].clone();
        newer.versions = (1, 9);
        newer.features = u64::MAX;
        newer.extensions.set(kind, vec![4; len]);
        all.push(newer);
    }
    all.iter().map(|hello| trimmed(&hello.write()[..])).collect()
}

fn messages() -> Vec<Vec<u8>> {
    let hints = (0..3).map(|id| Hint { id, tag: 7, fresh: 9 }).collect();
    let listed = (0..3).map(|id| Listed { id, tag: [4; 16], slot: 5, host: id == 1 }).collect();
    let since = Cursor { epoch: 1, came: 2, gone: 3 };
    let records = vec![Blob(vec![1; 20]), Blob(vec![])];
    let all = [
        Message::Near { id: 1, target: [2; 32], max: 8 },
        Message::NearReply { id: 1, hints },
        Message::Fetch { id: 2, ids: vec![1, 2, 3], part: Part::Both },
        Message::FetchReply { id: 2, records },
        Message::Announce { id: 3, descriptor: Blob(vec![5; 100]), freshness: Blob(vec![6; 50]) },
        Message::AnnounceAck { id: 3 },
        Message::List { id: 4, since: Some(since) },
        Message::ListPage { id: 4, next: since, anew: true, more: true, gone: vec![8, 9], listed },
        Message::Faces { one: Blob(vec![1; 20]), other: Blob(vec![2; 20]) },
        Message::DialBack { id: 6, port: 9001 },
        Message::DialBackReply { id: 6, receipt: Some(Blob(vec![7; 90])) },
    ];
    all.iter().filter_map(Message::encode).collect()
}

fn records() -> Vec<Vec<u8>> {
    let keys: Vec<IdentityKey> = (1..5).map(|i| IdentityKey::from_seed(&Secret::new([i; 32]))).collect();
    let node = keys[0].node_id();
    let four = "9.8.7.6:443".parse().expect("an address");
    let six = "[2a00:1::1]:443".parse().expect("an address");
    let receipts = keys[1..].iter().map(|key| sign_receipt(key, &NET, node, four, 20_000)).collect();
    let small = Descriptor {
        node,
        published: Wall(1_800_000_000),
        expires: Wall(1_800_003_600),
        addrs: vec![four],
        carries: true,
        onion_key: [1; 32],
        host_key: None,
        family: Vec::new(),
        old_addrs: Vec::new(),
        extensions: Extensions::default(),
    };
    let mut large = Descriptor {
        addrs: vec![four, six],
        host_key: Some(HostKey { id: 5, x25519: [2; 32], until: Wall(9), mlkem: Box::new([3; MLKEM_PUBLIC]) }),
        family: keys[1..].iter().map(IdentityKey::node_id).collect(),
        old_addrs: vec![("1.2.3.4:5".parse().expect("an address"), Wall(77))],
        ..small.clone()
    };
    large.extensions.set(3, vec![1, 2, 3]);
    let large = sign_descriptor(&keys[0], &NET, large).expect("a descriptor");
    let freshness = Freshness {
        node,
        descriptor: *large.digest(),
        published: Wall(1_800_000_000),
        expires: Wall(1_800_003_600),
        receipts,
        extensions: Extensions::default(),
    };
    let fresh = sign_freshness(&keys[0], &NET, freshness).expect("a freshness").encode();
    let small = sign_descriptor(&keys[0], &NET, small).expect("a descriptor").encode();
    let large = large.encode();
    let receipt = |addr| sign_receipt(&keys[1], &NET, node, addr, 20_000).encode();
    let cut = [small[..50].to_vec(), large[..1400].to_vec()];
    [vec![small.clone(), large, fresh, receipt(four), receipt(six), [small.clone(), small].concat()], cut.to_vec()].concat()
}

fn shares() -> Vec<Vec<u8>> {
    let chunk = encode_chunk(vec![[6; BLOCK]; Class::Small.chunk_len() / BLOCK], Class::Small).expect("a chunk");
    let node = |level, count: u8, private: usize| ManifestNode {
        level,
        index: u64::from(level),
        chunks: u64::from(count),
        class: Class::Large,
        commitment: [8; 32],
        children: (0..count).map(|i| [i; 32]).collect(),
        private: vec![5; private],
    };
    let private =
        |name: Option<&str>| Private { length: 9, name: name.map(Into::into), media_type: name.map(|_| "text/plain".into()) };
    vec![
        chunk.share_blob(0, [1; 16]),
        chunk.share_blob(23, [2; 16]),
        chunk.share_blob(9, [3; 16])[..200].to_vec(),
        node(0, 40, 60).to_bytes(),
        node(1, 2, 0).to_bytes(),
        node(3, 0, 0).to_bytes(),
        private(None).to_bytes(),
        private(Some("notes.txt")).to_bytes(),
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let store = |ticket| Store { lease_days: 90, ticket, blob: &[5; 40] }.to_bytes();
    let mut all = vec![Fetch { address: Address([4; 32]), want: 0x00ff_ffff }.to_bytes(), store((0, &[])), store((1, &[9; 43]))];
    all.extend([fetched(None), fetched(Some(&[1; 30])), vec![6], vec![1, 0], vec![2, 1]]);
    all
}

fn texts() -> Vec<Vec<u8>> {
    let key = |tree| ReadKey::new(Secret::new([1; 32]), [2; 32], tree);
    let addrs = vec!["9.8.7.6:443".parse().expect("an address"), "[2a00:1::1]:443".parse().expect("an address")];
    let link = LinkText { network: NET, node: NodeId([3; 32]), addrs }.encode();
    let texts = [key(true).to_text(), key(false).verify_key().to_text(), link];
    let payloads = texts.iter().map(|text| {
        let (kind, payload) = decode_text(text).expect("our own text");
        [&[kind][..], &payload].concat()
    });
    let pasted =
        texts.iter().flat_map(|text| [text.clone().into_bytes(), format!(" {}\n", text.to_ascii_uppercase()).into_bytes()]);
    payloads.chain(pasted).collect()
}

fn paths() -> Vec<Vec<u8>> {
    let kept = |n: u8| [&[n; 32][..], &[0; 6], &[n; 2], &[n & 1]].concat();
    let state = |me: u8, guards: u8, layer2: u8| {
        let list = |from: u8, n: u8| [vec![n], (from..from + n).flat_map(kept).collect()].concat();
        let kind = onionskin::proto::path::PathPolicy::new(None).encode();
        [&[me][..], &kind[..2], &list(1, guards), &list(100, layer2), &[0, 0, 0x50, 0, 0, 0, 0, 1], &[0]].concat()
    };
    let peers: Vec<Peer> = (1..4u8).map(|n| Peer { node: NodeId([n; 32]), addr: ([n; 4], 443).into() }).collect();
    let directories = [&[0][..], &directories::encode(&peers)].concat();
    vec![state(0, 0, 0), state(1, 1, 0), state(0, 3, 4), state(1, 20, 8), state(0, 60, 60), directories]
}

/// Kept views: nothing; two relays; a list; samples; all of it; and one cut off.
fn views() -> Vec<Vec<u8>> {
    let key = IdentityKey::from_seed(&Secret::new([1; 32]));
    let addr = "9.8.7.6:443".parse().expect("an address");
    let body = |onion: u8| {
        let d = Descriptor {
            node: key.node_id(),
            published: Wall(1_800_000_000),
            expires: Wall(1_800_003_600),
            addrs: vec![addr],
            carries: true,
            onion_key: [onion; 32],
            host_key: None,
            family: Vec::new(),
            old_addrs: Vec::new(),
            extensions: Extensions::default(),
        };
        sign_descriptor(&key, &NET, d).expect("a descriptor").encode()
    };
    let view = |relays: u32, lists: u8, samples: u8| {
        let mut w = Writer::default();
        w.u8(36).u8(1).u64(1_800_000_000).u32(relays);
        for n in 0..relays {
            w.u8(1).bytes16(&body(n as u8));
        }
        w.u8(lists);
        for n in 0..lists {
            w.raw(&[n; 32]).u64(5).u64(9).u32(1).u64(u64::from(n)).raw(&[n; 16]).u8(1);
        }
        w.u8(samples);
        for n in 0..samples {
            w.raw(&[4, n, 0, 0, 0]).u32(31).u32(32).u32(32).u32(32);
        }
        w.u8(0);
        Kept::sealed(w.into_bytes())
    };
    let all = view(2, 3, 9);
    vec![view(0, 0, 0), view(2, 0, 0), view(0, 1, 0), view(0, 0, 5), all[..200].to_vec(), all]
}

/// Which direction, how to change, and where.
fn handshakes(kinds: u8) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for kind in 0..kinds {
        all.push(vec![kind, 0, 0, 0]);
        all.push(vec![kind, 0, 0, 33, 1, 0, 200, 0x80]);
        all.push(vec![kind, 1, 0, 100]);
        all.push([&[kind, 3][..], &[9; 400]].concat());
    }
    all
}

/// As `link::cell` reads them: how many, then command, circuit, length of the front, front, filling; then milliseconds.
fn links() -> Vec<Vec<u8>> {
    let one = |command: Command, circuit: u8, front: &[u8]| {
        let [a, b] = u16::try_from(front.len()).expect("it is short").to_be_bytes();
        [&[0, command as u8, circuit, a, b][..], front, &[0, 20]].concat()
    };
    let create = [&[0, 1, 4, 224][..], &[5; 1248]].concat();
    let overlay = |message: &Message| {
        let bytes = message.encode().expect("it fits");
        let [a, b] = u16::try_from(bytes.len() + 4).expect("it is short").to_be_bytes();
        let total = u32::try_from(bytes.len()).expect("it is short").to_be_bytes();
        one(Command::Overlay, 0, &[&[3, a, b][..], &total, &bytes].concat())
    };
    let hello = |net| one(Command::Hello, 0, &trimmed(&Hello::new(net, None).write()[..]));
    let mut all = vec![
        [&[0][..], &one(Command::Create, 1, &create), &one(Command::Relay, 1, &[7; 60])].concat(),
        [&[0][..], &one(Command::Leg, 2, &[]), &one(Command::Relay, 2, &[0; 60]), &one(Command::Destroy, 2, &[])].concat(),
        [&[0][..], &one(Command::Credit, 0, &[0, 2, 0, 0, 0, 1, 1, 0, 0, 0, 2, 200])].concat(),
        [&[1][..], &hello(NetworkId([1; 32])), &one(Command::Padding, 0, &[])].concat(),
        [&[1][..], &hello(NET)].concat(),
        [&[0][..], &one(Command::Overlay, 0, &[1, 0, 20, 0, 0, 1, 0, 9, 9]), &one(Command::Overlay, 0, &[2, 0, 3, 1, 2, 3])]
            .concat(),
    ];
    for message in [
        Message::Near { id: 1, target: [2; 32], max: 8 },
        Message::List { id: 4, since: None },
        Message::DialBack { id: 6, port: 9001 },
        Message::Announce { id: 3, descriptor: Blob(records().swap_remove(1)), freshness: Blob(records().swap_remove(2)) },
    ] {
        all.push([&[0][..], &overlay(&message)].concat());
    }
    all
}

/// As `store::damage` reads them: how many, then file, how, place, and what.
fn damages() -> Vec<Vec<u8>> {
    let mut all = vec![vec![0, 0, 5, 0, 0, 0]];
    for file in 0..3 {
        all.push(vec![0, file, 0, 0, 50]);
        all.push(vec![0, file, 2, 0, 0]);
        all.push(vec![1, file, 4, 0, 10, 1, 0, file, 0x84, 128, 0, 0, 9]);
        all.push(vec![0, file, 5, 0, 3, 4, 9, 9, 9, 9]);
    }
    all.push(vec![1, 2, 3, 0, 0, 17, 1, 1, 5, 0, 100, 3, 1, 2, 3]);
    all
}

/// As `world::world` reads them: seed, then what, whom, and how.
fn stories() -> Vec<Vec<u8>> {
    vec![
        vec![1, 0, 9, 0, 0, 1, 0, 0, 0],
        vec![2, 0, 9, 80, 0, 2, 1, 2, 4, 1, 0, 0, 0, 3, 1, 7, 60, 1, 0, 0, 1],
        vec![3, 6, 1, 1, 6, 2, 2, 6, 3, 3, 0, 5, 60, 0, 1, 0, 0, 0],
        vec![4, 4, 2, 128, 2, 4, 5, 20, 0, 0, 7, 90, 0, 1, 0, 0, 0],
        vec![5, 0, 1, 255, 255, 2, 0, 2, 1, 2, 2, 2, 3, 7, 200, 1, 0, 0, 0, 3, 0, 1, 0, 0, 7],
    ]
}
