//! Real nodes on real sockets: what the simulator cannot show.

#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test that fails may say so at once")]

use bytes::Bytes;
use onionskin::node::{Handle, NodeConfig, Pool, RelayConfig, StartError, start};
use onionskin::proto::event::{Command, Event, NodeEvent, PublishWish};
use onionskin::proto::memory::Memory;
use onionskin::store::StoreError;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const RELAYS: u8 = 24;

async fn relay(i: u8, home: &Path, bootstrap: &[String], pool: &Pool) -> Handle {
    let (handle, mut events) = start(NodeConfig {
        data_dir: Some(home.join(format!("relay-{i}"))),
        bootstrap: bootstrap.to_vec(),
        local_network: true,
        relay: Some(RelayConfig {
            listen: ([127, i, 0, 1], 0).into(),
            advertise: Vec::new(),
            family: Vec::new(),
            quota: 256 << 20,
            memory: Memory::default(),
        }),
        pool: Some(pool.clone()),
        ..NodeConfig::default()
    })
    .await
    .unwrap();
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

async fn client(bootstrap: &[String], pool: &Pool) -> Handle {
    let (handle, mut events): (Handle, mpsc::Receiver<NodeEvent>) =
        start(NodeConfig { bootstrap: bootstrap.to_vec(), local_network: true, pool: Some(pool.clone()), ..NodeConfig::default() })
            .await
            .unwrap();
    let ready = async {
        loop {
            match events.recv().await.expect("the node runs") {
                NodeEvent::Ready => return,
                NodeEvent::NotReady(why) => panic!("{why:?}"),
                _ => {}
            }
        }
    };
    timeout(Duration::from_secs(60), ready).await.expect("ready in time");
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    handle
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_published_by_one_client_is_fetched_by_another() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(None).unwrap();
    let mut relays = vec![relay(1, home.path(), &[], &pool).await];
    let links: Vec<String> = relays[0].bootstrap_link().into_iter().collect();
    for i in 2..=RELAYS {
        relays.push(relay(i, home.path(), &links, &pool).await);
    }
    let (writer, reader) = (client(&links, &pool).await, client(&links, &pool).await);

    let document: Vec<u8> = (0..300_000u32).flat_map(|i| i.to_le_bytes()).collect();
    let wish = PublishWish { length: document.len() as u64, name: None, media_type: None, lease_days: 30, convergent: None };
    let (op, mut events) = writer.submit(Command::Publish(wish));
    let publish = async {
        loop {
            match events.recv().await.expect("the node runs") {
                Event::Need { offset, len } => {
                    let from = usize::try_from(offset).unwrap();
                    writer.command(op, Command::Plain(Bytes::copy_from_slice(&document[from..from + len])));
                }
                Event::Published { key, .. } => return key,
                Event::Failed(why) => panic!("{why:?}"),
                _ => {}
            }
        }
    };
    let key = timeout(Duration::from_secs(120), publish).await.expect("published in time");

    let (op, mut events) = reader.submit(Command::Get { key, offset: 0 });
    let get = async {
        let mut got = Vec::new();
        loop {
            match events.recv().await.expect("the node runs") {
                Event::Data(bytes) => {
                    got.extend_from_slice(&bytes);
                    reader.command(op, Command::Consumed(bytes.len() as u64));
                }
                Event::Fetched(_) => return got,
                Event::Failed(why) => panic!("{why:?}"),
                _ => {}
            }
        }
    };
    let got = timeout(Duration::from_secs(120), get).await.expect("fetched in time");
    assert!(got == document, "what came back differs");

    for node in relays.iter().chain([&writer, &reader]) {
        node.shutdown().await;
    }
    // Nothing holds the data directories any more, and who comes back has the identity and the keys that it had.
    let keys = home.path().join("relay-1/state-keys");
    let (before, mode) = (std::fs::read(&keys).unwrap(), std::fs::metadata(&keys).unwrap().permissions().mode());
    assert_eq!(mode & 0o777, 0o600);
    let again = relay(1, home.path(), &[], &pool).await;
    assert_eq!(again.node_id(), relays[0].node_id());
    again.shutdown().await;
    assert!(std::fs::read(&keys).unwrap() == before, "a restart changes no keys");
    // Damaged ones are put aside for their owner to look at, and made anew.
    std::fs::write(&keys, &before[..before.len() - 1]).unwrap();
    let again = relay(1, home.path(), &[], &pool).await;
    assert_eq!(again.node_id(), relays[0].node_id());
    again.shutdown().await;
    assert!(std::fs::read(keys.with_extension("torn")).unwrap() == before[..before.len() - 1]);
    assert!(std::fs::read(&keys).unwrap() != before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_that_cannot_work_say_why_and_leave_nothing_running() {
    let home = tempfile::tempdir().unwrap();
    let pool = Pool::new(None).unwrap();
    let running = relay(1, home.path(), &[], &pool).await;
    let other = relay(2, home.path(), &[], &pool).await;
    let (link, foreign) = (running.bootstrap_link().unwrap(), other.bootstrap_link().unwrap());
    let taken = onionskin::proto::link_text::LinkText::decode(&link).unwrap().addrs[0];
    let listen = |listen: &str| {
        Some(RelayConfig {
            listen: listen.parse().unwrap(),
            advertise: Vec::new(),
            family: Vec::new(),
            quota: 1 << 20,
            memory: Memory::default(),
        })
    };
    let config = |dir: &str, links: &[&String], relay| NodeConfig {
        data_dir: Some(home.path().join(dir)),
        bootstrap: links.iter().map(|l| (*l).clone()).collect(),
        local_network: true,
        relay,
        pool: Some(pool.clone()),
        ..NodeConfig::default()
    };
    let refused = async |config| start(config).await.map(|_| ()).expect_err("this cannot work");

    assert!(matches!(refused(config("a", &[], listen(&taken.to_string()))).await, StartError::PortInUse(at) if at == taken));
    assert!(matches!(refused(config("relay-1", &[], listen("127.0.0.1:0"))).await, StartError::Disk(StoreError::InUse(_))));
    assert!(matches!(refused(config("b", &[], None)).await, StartError::NoWayIn));
    assert!(matches!(refused(config("c", &[&link, &foreign], None)).await, StartError::Networks));
    assert!(matches!(refused(config("d", &[&link[..40].to_owned()], None)).await, StartError::Link(_)));
    assert!(matches!(refused(config("e", &[], listen("0.0.0.0:0"))).await, StartError::Unreachable(_)));
    assert!(matches!(refused(config("f", &[], listen("192.0.2.1:0"))).await, StartError::NotOurs(_)));
    let public = NodeConfig { local_network: false, ..config("g", &[], listen("127.0.0.1:0")) };
    assert!(matches!(refused(public).await, StartError::NotPublic(_)));
    let forgotten = NodeConfig { local_network: false, ..config("h", &[&link], None) };
    assert!(matches!(refused(forgotten).await, StartError::LocalLinks));

    // The directories that were opened for nothing are free again, and a relay stays with its network.
    other.shutdown().await;
    assert!(matches!(refused(config("relay-2", &[&link], listen("127.0.0.1:0"))).await, StartError::OtherNetwork));
    let (again, _events) = start(config("relay-2", &[&foreign], listen("127.0.0.1:0"))).await.unwrap();
    assert_eq!(again.node_id(), other.node_id());
    again.shutdown().await;
    running.shutdown().await;
}
