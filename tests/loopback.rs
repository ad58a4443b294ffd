//! Real nodes on real sockets: what the simulator cannot show.

#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test that fails may say so at once")]

use bytes::Bytes;
use onionskin::node::{Handle, NodeConfig, Pool, RelayConfig, start};
use onionskin::proto::event::{Command, Event, NodeEvent, PublishWish};
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
        relay: Some(RelayConfig { listen: ([127, i, 0, 1], 0).into(), advertise: Vec::new(), quota: 256 << 20 }),
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
    // Nothing holds the data directories any more.
    let again = relay(1, home.path(), &[], &pool).await;
    assert_eq!(again.node_id(), relays[0].node_id());
    again.shutdown().await;
}
