//! Links over real loopback sockets: what goes in comes out, bounds hold, and TLS is as the design says.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, clippy::panic, reason = "a test that fails may say so at once")]

use bytes::BytesMut;
use onionskin::base::{LinkId, limits};
use onionskin::node::doors::{Doors, accept};
use onionskin::node::env::Clock;
use onionskin::node::inbox::{Arrival, Inbox};
use onionskin::node::link::{Farewell, Order, run};
use onionskin::node::tcp::TlsTcp;
use onionskin::node::tls::Tls;
use onionskin::node::transport::Transport;
use onionskin::proto::Input;
use onionskin::wire::cell::CELL;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, NamedGroup, ProtocolVersion, ServerConnection};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn transport() -> TlsTcp {
    TlsTcp::new(Arc::new(Tls::new(Clock::start()).unwrap()))
}

/// An accepting end: where it is, and what arrives there.
fn listen(doors: Doors) -> (SocketAddr, UnboundedReceiver<Arrival>, JoinHandle<()>) {
    let listener = transport().listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let at = listener.local().unwrap();
    let (inbox, arrivals) = Inbox::new();
    (at, arrivals, tokio::spawn(accept(listener, doors, tokio::runtime::Handle::current(), inbox)))
}

/// A dialling end: its exporter value, its orders, what arrives there.
async fn dial(to: SocketAddr) -> ([u8; 32], UnboundedSender<Order>, UnboundedReceiver<Arrival>) {
    let pipe = transport().dial(to, None).await.unwrap();
    let exporter = pipe.exporter();
    let (inbox, arrivals) = Inbox::new();
    let (tell, mut orders) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        run(&Farewell { link: LinkId(7), inbox }, pipe, &mut orders, None).await;
    });
    (exporter, tell, arrivals)
}

async fn next(arrivals: &mut UnboundedReceiver<Arrival>) -> Arrival {
    timeout(PATIENCE, arrivals.recv()).await.expect("something arrives in time").expect("the other end lives")
}

async fn up(arrivals: &mut UnboundedReceiver<Arrival>) -> (LinkId, [u8; 32], UnboundedSender<Order>) {
    match next(arrivals).await {
        Arrival::Up { link, exporter, orders: Some(orders), .. } => (link, exporter, orders),
        _ => panic!("a link comes up first"),
    }
}

/// Cells that differ from each other in every byte's neighbourhood.
fn cells(from: usize, count: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(count * CELL);
    for n in from..from + count {
        let word = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        bytes.extend(word.iter().cycle().take(CELL));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_cells_arrive_intact_in_both_directions() {
    const TOTAL: usize = 100_000;
    let (at, mut there, _door) = listen(Doors::new());
    let (exporter, tell_here, here) = dial(at).await;
    let (_, same, tell_there) = up(&mut there).await;
    assert_eq!(exporter, same, "both ends share the exporter value");

    let end = |mut arrivals: UnboundedReceiver<Arrival>, tell: UnboundedSender<Order>| async move {
        let (mut begun, mut out, mut got, mut size) = (0, 0, 0, 1);
        while got < TOTAL || out > 0 {
            while begun < TOTAL && out < limits::LINK_IN_FLIGHT {
                // Batches of all sizes, so that cells and records meet in every way.
                size = size % 61 + 1;
                let count = size.min(TOTAL - begun);
                tell.send(Order::Send(cells(begun, count))).unwrap();
                begun += count;
                out += count;
            }
            match next(&mut arrivals).await {
                Arrival::Cells(Input::Cells { cells: batch, .. }, _room) => {
                    assert_eq!(batch.len() % CELL, 0);
                    let count = batch.len() / CELL;
                    assert!(batch == cells(got, count), "cells {got}.. are as they were sent");
                    got += count;
                }
                Arrival::Input(Input::Sent { cells, .. }) => out -= cells,
                _ => panic!("nothing else happens"),
            }
        }
    };
    let here = tokio::spawn(end(here, tell_here));
    tokio::spawn(end(there, tell_there)).await.unwrap();
    here.await.unwrap();
}

#[tokio::test]
async fn what_was_sent_before_a_close_still_arrives() {
    let (at, mut there, _door) = listen(Doors::new());
    let (_, tell, mut here) = dial(at).await;
    let (link, _, tell_there) = up(&mut there).await;
    // The other end sends as well, so unread bytes lie in this end's socket when it closes.
    tell_there.send(Order::Send(cells(0, 200))).unwrap();
    tell.send(Order::Send(cells(0, 150))).unwrap();
    tell.send(Order::Close).unwrap();
    let mut got = 0;
    loop {
        match next(&mut there).await {
            Arrival::Cells(Input::Cells { cells, .. }, _room) => got += cells.len() / CELL,
            Arrival::Input(Input::LinkDown { link: down }) => {
                assert_eq!(down, link);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(got, 150);
    loop {
        if let Arrival::Input(Input::LinkDown { link }) = next(&mut here).await {
            assert_eq!(link, LinkId(7));
            break;
        }
    }
}

#[tokio::test]
async fn a_close_does_not_wait_for_a_peer_that_reads_nothing() {
    let (at, mut there, _door) = listen(Doors::new());
    let (_, tell, mut here) = dial(at).await;
    let _open = up(&mut there).await;
    // Fill the other end's queue, which nobody empties: `there` is kept and not read, and its cells hold their room.
    for n in 0..2000 {
        tell.send(Order::Send(cells(n, 32))).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    tell.send(Order::Close).unwrap();
    let down = async { while !matches!(next(&mut here).await, Arrival::Input(Input::LinkDown { .. })) {} };
    timeout(Duration::from_secs(3), down).await.expect("closed after a second of grace");
}

#[tokio::test]
async fn silent_peers_are_closed_at_the_deadline() {
    let (at, mut there, _door) = listen(Doors::new());
    let clock = Clock::start();
    let began = clock.now();
    // One never speaks; one does TLS and then never sends a cell.
    let mut mute = tokio::net::TcpStream::connect(at).await.unwrap();
    let (_, _tell, mut idle) = dial(at).await;
    let (link, ..) = up(&mut there).await;

    let mut byte = [0];
    let closed = timeout(PATIENCE, mute.read(&mut byte)).await.expect("closed in time");
    assert!(matches!(closed, Ok(0) | Err(_)));
    let took = clock.now().since(began);
    assert!(took >= limits::HANDSHAKE_DEADLINE, "not before its time: {took:?}");
    assert!(took < limits::HANDSHAKE_DEADLINE + Duration::from_secs(3), "{took:?}");

    assert!(matches!(next(&mut there).await, Arrival::Input(Input::LinkDown { link: down }) if down == link));
    while !matches!(next(&mut idle).await, Arrival::Input(Input::LinkDown { .. })) {}
}

#[tokio::test]
async fn half_open_links_are_bounded_and_a_first_cell_frees_the_place() {
    let (at, mut there, _door) = listen(Doors::with(27, 100));
    let (_, tell, _here) = dial(at).await;
    let _first = up(&mut there).await;
    let mute: Vec<_> = [(), ()].map(|()| std::net::TcpStream::connect(at).unwrap()).into();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(transport().dial(at, None).await.is_err(), "a fourth half-open link of one prefix is dropped");

    tell.send(Order::Send(cells(0, 1))).unwrap();
    while !matches!(next(&mut there).await, Arrival::Cells(..)) {}
    let (_, _tell, _here) = dial(at).await;
    let _second = up(&mut there).await;
    assert!(transport().dial(at, None).await.is_err());
    drop(mute);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(transport().dial(at, None).await.is_ok(), "places come back");
}

#[tokio::test]
async fn open_links_are_bounded() {
    let (at, mut there, _door) = listen(Doors::with(100, 18));
    let (_, one, mut here) = dial(at).await;
    let _one = up(&mut there).await;
    let (_, _two, _) = dial(at).await;
    let _two = up(&mut there).await;
    assert!(transport().dial(at, None).await.is_err());
    one.send(Order::Close).unwrap();
    while !matches!(next(&mut here).await, Arrival::Input(Input::LinkDown { .. })) {}
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(transport().dial(at, None).await.is_ok());
}

#[tokio::test]
async fn a_silent_link_of_an_address_that_holds_more_leaves_for_a_newcomer() {
    let (at, mut there, _door) = listen(Doors::with(10, 100));
    let mute = |from: [u8; 4]| async move {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(at).await.unwrap()
    };
    // One address has two places, eight have one each: all are taken.
    let mut two = [mute([127, 1, 0, 1]).await, mute([127, 1, 0, 1]).await];
    let mut others = Vec::new();
    for n in 2..10 {
        others.push(mute([127, n, 0, 1]).await);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let newcomer = Some("127.10.0.1".parse().unwrap());
    assert!(transport().dial(at, newcomer).await.is_err(), "nobody is put out who has just come");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pipe = transport().dial(at, newcomer).await.unwrap();
    let _up = up(&mut there).await;
    let mut byte = [0];
    let ended = timeout(Duration::from_secs(1), two[0].read(&mut byte)).await.expect("the older of the two is closed");
    assert!(matches!(ended, Ok(0) | Err(_)));
    for stays in others.iter_mut().chain([&mut two[1]]) {
        assert!(timeout(Duration::from_millis(20), stays.read(&mut byte)).await.is_err());
    }
    assert!(transport().dial(at, Some("127.11.0.1".parse().unwrap())).await.is_err(), "nobody holds more any longer");
    drop(pipe);
}

#[tokio::test]
async fn links_are_dialled_from_the_wanted_address() {
    let (at, mut there, _door) = listen(Doors::new());
    let pipe = transport().dial(at, Some("127.9.0.1".parse().unwrap())).await.unwrap();
    match next(&mut there).await {
        Arrival::Up { remote, .. } => assert_eq!(remote.ip(), "127.9.0.1".parse::<std::net::IpAddr>().unwrap()),
        _ => panic!("a link comes up"),
    }
    drop(pipe);
}

/// Moves bytes between two TLS ends in memory until both are done.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn tls_is_1_3_hybrid_without_names_or_tickets() {
    let tls = Tls::new(Clock::start()).unwrap();
    let ends = || {
        let name = Tls::name("127.0.0.1".parse().unwrap());
        (ClientConnection::new(Arc::clone(&tls.client), name).unwrap(), ServerConnection::new(Arc::clone(&tls.server)).unwrap())
    };
    let (mut client, mut server) = ends();
    shake(&mut client, &mut server).unwrap();
    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.tls13_tickets_received(), 0);
    assert_eq!(server.server_name(), None);
    // A second connection is a whole handshake again.
    let (mut client, mut server) = ends();
    shake(&mut client, &mut server).unwrap();
    assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[test]
fn a_peer_without_the_hybrid_group_gets_no_link() {
    let tls = Tls::new(Clock::start()).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("example.org").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(&tls.server)).unwrap();
    assert!(shake(&mut client, &mut server).is_err());
}

#[test]
fn a_server_without_its_certificates_key_gets_no_link() {
    let tls = Tls::new(Clock::start()).unwrap();
    let key = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        (certificate.der().clone(), rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der.into()).unwrap())
    };
    let ((stolen, _), (_, other)) = (key("a.com"), key("b.com"));
    // rustls itself would refuse the pair, so it goes in through the resolver.
    #[derive(Debug)]
    struct Liar(Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Liar {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let liar = Liar(Arc::new(rustls::sign::CertifiedKey::new(vec![stolen], other)));
    let provider = Arc::clone(tls.server.crypto_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(liar));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConnection::new(Arc::clone(&tls.client), Tls::name("127.0.0.1".parse().unwrap())).unwrap();
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let refused = shake(&mut client, &mut server);
    assert_eq!(refused, Err(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature)));
}
