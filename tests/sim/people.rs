//! What people do in a world: publish, get, check, and what they see.

use super::World;
use onionskin::base::OpId;
use onionskin::crypto::secret::Secret;
use onionskin::proto::doc::key::{Key, ReadKey};
use onionskin::proto::event::{CheckReport, PublishWish, Report};
use onionskin::proto::{Command, Event, Failure};
use std::time::Duration;

/// Longest virtual time that anybody waits.
const PATIENCE: Duration = Duration::from_secs(3600);

impl World {
    /// Publishes a document from a node, and waits.
    pub fn publish(&mut self, node: usize, document: &[u8]) -> Result<(ReadKey, Report), Failure> {
        self.publish_under(node, document, None)
    }

    /// The same, under a key that the same content gets again.
    pub fn publish_under(
        &mut self,
        node: usize,
        document: &[u8],
        convergent: Option<Secret<32>>,
    ) -> Result<(ReadKey, Report), Failure> {
        self.publish_while(node, document, convergent, |_| {})
    }

    /// The same, while something happens to the world: after each step.
    pub fn publish_while(
        &mut self,
        node: usize,
        document: &[u8],
        convergent: Option<Secret<32>>,
        happens: impl FnMut(&mut Self),
    ) -> Result<(ReadKey, Report), Failure> {
        self.publish_texts(node, [document, document], convergent, happens)
    }

    /// The same, of a document of which the second reading, if there is one, gives another text of its length.
    pub fn publish_texts(
        &mut self,
        node: usize,
        [document, second]: [&[u8]; 2],
        convergent: Option<Secret<32>>,
        mut happens: impl FnMut(&mut Self),
    ) -> Result<(ReadKey, Report), Failure> {
        let mut readings = 0;
        let wish = PublishWish { length: document.len() as u64, name: None, media_type: None, lease_days: 90, convergent };
        let op = self.command(node, Command::Publish(wish));
        let mut early: Option<String> = None;
        let mut outcome = None;
        self.run_until(PATIENCE, |world| {
            for event in world.news_of(node, op) {
                match event {
                    Event::Need { offset, len } => {
                        readings += usize::from(offset == 0);
                        let text = if readings > 1 { second } else { document };
                        let part = &text[offset as usize..offset as usize + len];
                        world.tell(node, op, Command::Plain(part.to_vec().into()));
                    }
                    Event::Key(key) => assert!(early.replace(key.to_text()).is_none(), "the key comes once"),
                    Event::Published { key, report } => {
                        assert_eq!(early, Some(key.to_text()), "the key is told before all is stored");
                        outcome = Some(Ok((key, report)));
                    }
                    Event::Failed(failure) => outcome = Some(Err(failure)),
                    _ => {}
                }
            }
            happens(world);
            outcome.is_some()
        });
        outcome.expect("a publication ends in time, one way or the other")
    }

    /// Gets a document, and waits.
    pub fn get(&mut self, node: usize, key: &ReadKey, offset: u64) -> Result<(Vec<u8>, Report), Failure> {
        self.get_while(node, key, offset, |_, _| {})
    }

    /// The same, while something happens to the world: after each step, with the bytes that came so far.
    pub fn get_while(
        &mut self,
        node: usize,
        key: &ReadKey,
        offset: u64,
        mut happens: impl FnMut(&mut Self, usize),
    ) -> Result<(Vec<u8>, Report), Failure> {
        let op = self.command(node, Command::Get { key: key.clone(), offset });
        let mut bytes = Vec::new();
        let mut outcome = None;
        self.run_until(PATIENCE, |world| {
            for event in world.news_of(node, op) {
                match event {
                    Event::Data(data) => {
                        bytes.extend_from_slice(&data);
                        world.tell(node, op, Command::Consumed(data.len() as u64));
                    }
                    Event::Fetched(report) => outcome = Some(Ok(report)),
                    Event::Failed(failure) => outcome = Some(Err(failure)),
                    _ => {}
                }
            }
            happens(world, bytes.len());
            outcome.is_some()
        });
        outcome.expect("a get ends in time, one way or the other").map(|report| (bytes, report))
    }

    /// Checks a document, and waits.
    pub fn check(&mut self, node: usize, key: Key) -> Result<CheckReport, Failure> {
        let op = self.command(node, Command::Check { key, sample: usize::MAX });
        let mut outcome = None;
        self.run_until(PATIENCE, |world| {
            for event in world.news_of(node, op) {
                match event {
                    Event::Checked(report) => outcome = Some(Ok(report)),
                    Event::Failed(failure) => outcome = Some(Err(failure)),
                    _ => {}
                }
            }
            outcome.is_some()
        });
        outcome.expect("a check ends in time, one way or the other")
    }

    /// The chunks of which any host holds a share.
    pub fn chunks_held(&self) -> std::collections::BTreeSet<onionskin::base::Address> {
        self.nodes.iter().flat_map(|node| node.disk.addresses()).collect()
    }

    fn news_of(&mut self, node: usize, op: OpId) -> Vec<Event> {
        self.nodes[node].events.get_mut(&op).map(std::mem::take).unwrap_or_default()
    }
}
