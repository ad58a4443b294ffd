//! A relay's circuit and host keys, and their renewal (D12).
//!
//! New keys are made every ten days, beside the core. The descriptor carries the newest; those before are taken for four days
//! more, since clients hold older descriptors, and then erased, from memory and from disk. So whoever takes a relay can open the
//! sealed requests that were recorded in the last fourteen days, and nothing older. A restart changes nothing: the keys are saved.
//!
//! ```text
//! kind u8 = 33 | version u8 = 1 | count u8 | count x { made u64 | circuit key [32] | hosts u8 | host key if it hosts }
//! | extensions
//! ```
//! Newest first; a host key as [`HostKey::to_bytes`] gives it.

use crate::base::Env;
use crate::base::NetworkId;
use crate::base::NodeId;
use crate::base::Time;
use crate::base::Wall;
use crate::base::limits;
use crate::crypto::CryptoError;
use crate::crypto::keys::HostKey;
use crate::crypto::ntor::OnionKey;
use crate::crypto::secret::Secret;
use crate::proto::Output;
use crate::proto::event::Failure;
use crate::proto::event::NodeEvent;
use crate::proto::job::Job;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::out::Out;
use crate::proto::overlay::Profile;
use crate::wire::codec::DecodeError;
use crate::wire::codec::Extensions;
use crate::wire::codec::Reader;
use crate::wire::codec::Writer;
use crate::wire::record;
use rand::CryptoRng;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// Name of the saved keys.
pub const SAVED: &str = "keys";
const KIND: u8 = 33;
const VERSION: u8 = 1;
/// Most generations of keys that are kept: two, and room for those that a change of settings adds.
const GENERATIONS_MAX: usize = 4;
/// The wall clock is looked at this often: it may jump while the other one goes on.
const LOOK: Duration = Duration::from_secs(3600);
/// Keys that could not be made are tried again after this.
const AGAIN: Duration = Duration::from_secs(60);

/// Keys that were made together.
#[derive(Debug)]
pub struct Generation {
    made: Wall,
    onion: OnionKey,
    host: Option<HostKey>,
}

impl Generation {
    /// Fresh keys; `host_id` names the host key, if one is wanted.
    ///
    /// # Errors
    /// aws-lc could not make a key.
    pub fn fresh(rng: &mut dyn CryptoRng, made: Wall, host_id: Option<u32>) -> Result<Self, CryptoError> {
        let host = host_id.map(|id| HostKey::generate(rng, id)).transpose()?;
        Ok(Self { made, onion: OnionKey::generate(rng), host })
    }
}

/// A relay's keys as jobs need them. Replaced as a whole when they are renewed.
///
/// # Invariants
/// Never empty; newest first.
#[derive(Debug)]
pub struct NodeKeys {
    /// The network.
    pub network: NetworkId,
    /// The relay.
    pub node: NodeId,
    generations: Vec<Arc<Generation>>,
}

impl NodeKeys {
    /// The circuit keys that are taken.
    pub fn onion(&self) -> impl Iterator<Item = &OnionKey> {
        self.generations.iter().map(|g| &g.onion)
    }

    /// The host key of this name, if sessions to it are taken.
    pub fn host(&self, id: u32) -> Option<&HostKey> {
        self.generations.iter().filter_map(|g| g.host.as_ref()).find(|k| k.id() == id)
    }

    /// Whether this relay hosts.
    pub fn hosts(&self) -> bool {
        self.generations.iter().any(|g| g.host.is_some())
    }

    /// What this relay says of itself, with its newest keys.
    pub fn describe(&self, profile: &mut Profile) {
        let Some(newest) = self.generations.first() else { return };
        profile.onion_key = newest.onion.public();
        profile.host_key = newest.host.as_ref().map(|key| {
            let public = key.public();
            let until = newest.made.plus(limits::KEY_LIFE_SECS);
            record::HostKey { id: public.id, x25519: public.x25519, until, mlkem: public.mlkem }
        });
    }

    /// The lasting form. Holds secrets.
    ///
    /// # Errors
    /// aws-lc could not export a key.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        // Room for all of it, so that no smaller buffer with secrets is left behind.
        let mut w = Writer::with_capacity(16 + self.generations.len() * (64 + HostKey::BYTES));
        w.u8(KIND).u8(VERSION).u8(u8::try_from(self.generations.len()).unwrap_or(u8::MAX));
        for generation in &self.generations {
            w.u64(generation.made.0).raw(generation.onion.to_bytes().expose());
            match &generation.host {
                Some(key) => w.u8(1).raw(&key.to_bytes()?),
                None => w.u8(0),
            };
        }
        Extensions::default().write(&mut w);
        Ok(Zeroizing::new(w.into_bytes()))
    }

    pub(in crate::proto) fn decode(bytes: &[u8]) -> Result<Vec<Generation>, DecodeError> {
        let mut r = Reader::new(bytes);
        r.head(KIND, VERSION)?;
        let count = usize::from(r.u8()?);
        if count > GENERATIONS_MAX {
            return Err(DecodeError::TooLarge);
        }
        let mut generations: Vec<Generation> = Vec::new();
        for _ in 0..count {
            let made = Wall(r.u64()?);
            let secret = Zeroizing::new(r.array::<32>()?);
            let onion = OnionKey::from_bytes(Secret::init(|bytes| *bytes = *secret));
            let host = match r.u8()? {
                0 => None,
                1 => Some(HostKey::from_bytes(r.take(HostKey::BYTES)?).map_err(|_| DecodeError::Invalid)?),
                _ => return Err(DecodeError::Invalid),
            };
            if generations.last().is_some_and(|newer| newer.made < made) {
                return Err(DecodeError::Invalid);
            }
            generations.push(Generation { made, onion, host });
        }
        Extensions::read(&mut r, &[])?;
        r.finish()?;
        Ok(generations)
    }
}

/// A relay's keys over time.
#[derive(Debug)]
pub struct Renewal {
    keys: Arc<NodeKeys>,
    hosts: bool,
    /// When to look again.
    at: Time,
    /// New keys are being made. A job may be lost without a word, so this ends.
    coming_until: Option<Time>,
}

impl Renewal {
    /// The saved keys that are still good, with new ones in front if it is time. Tells whether they differ from what is saved.
    ///
    /// # Errors
    /// What was saved is damaged or of a newer version; or no key could be made.
    pub fn start(
        saved: Option<&[u8]>,
        network: NetworkId,
        node: NodeId,
        hosts: bool,
        env: &mut Env<'_>,
    ) -> Result<(Self, bool), Failure> {
        let mut generations = match saved {
            Some(bytes) => NodeKeys::decode(bytes).map_err(|_| Failure::newer_state())?,
            None => Vec::new(),
        };
        let before = generations.len();
        // A clock that was ahead then must not make keys last longer now.
        generations.retain(|g| g.made <= env.wall.plus(limits::SKEW_MAX_SECS) && ended(g) > env.wall);
        let mut changed = generations.len() != before;
        for generation in generations.iter_mut().filter(|_| !hosts) {
            changed |= generation.host.take().is_some();
        }
        let good = |g: &Generation| due(g) > env.wall && g.host.is_some() == hosts;
        if !generations.first().is_some_and(good) {
            let id = env.rng.next_u32();
            let made = Generation::fresh(env.rng, env.wall, hosts.then_some(id));
            generations.insert(0, made.map_err(|_| Failure::bug("a relay's keys could not be made"))?);
            generations.truncate(GENERATIONS_MAX);
            changed = true;
        }
        let generations = generations.into_iter().map(Arc::new).collect();
        let keys = Arc::new(NodeKeys { network, node, generations });
        Ok((Self { keys, hosts, at: env.now, coming_until: None }, changed))
    }

    /// The keys of now.
    pub const fn keys(&self) -> &Arc<NodeKeys> {
        &self.keys
    }

    /// Has the keys saved.
    pub(in crate::proto) fn save(&self, out: &mut Out) {
        out.push(match self.keys.encode() {
            Ok(bytes) => Output::Save { name: SAVED, bytes },
            Err(_) => Output::Node(NodeEvent::Warning("this relay's keys could not be saved: a restart will change them".into())),
        });
    }

    /// When to tick.
    pub const fn timeout(&self) -> (Time, &'static str) {
        (self.at, "keys")
    }

    /// Asks for new keys when it is time, and lets go of those whose grace is over. True if the keys changed.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>) -> bool {
        let wall = ctx.env.wall;
        if ctx.env.now < self.at {
            return false;
        }
        let coming = self.coming_until.is_some_and(|until| until > ctx.env.now);
        if !coming && self.keys.generations.first().is_none_or(|g| due(g) <= wall) {
            self.coming_until = Some(ctx.env.now + LOOK);
            let id = ctx.env.rng.next_u32();
            // A name that no other key has.
            let id = (0..=u32::MAX).map(|n| id.wrapping_add(n)).find(|id| self.keys.host(*id).is_none());
            ctx.out.job(JobFor::Keys, Job::MakeKeys { wall, host_id: id.filter(|_| self.hosts) });
        }
        // The newest stays, however old: it is what others know us by.
        let (mut first, before) = (true, self.keys.generations.len());
        let mut generations = self.keys.generations.clone();
        generations.retain(|g| core::mem::take(&mut first) || ended(g) > wall);
        let changed = generations.len() != before;
        if changed {
            self.replace(generations);
        }
        self.wait(ctx.env);
        changed
    }

    /// New keys are made, or could not be. True if the keys changed.
    pub(in crate::proto) fn made(&mut self, env: &Env<'_>, made: Option<Generation>) -> bool {
        if self.coming_until.take().is_none() {
            return false;
        }
        let Some(made) = made else {
            self.at = env.now + AGAIN;
            return false;
        };
        let mut generations = self.keys.generations.clone();
        generations.insert(0, Arc::new(made));
        generations.truncate(GENERATIONS_MAX);
        self.replace(generations);
        self.wait(env);
        true
    }

    fn replace(&mut self, generations: Vec<Arc<Generation>>) {
        self.keys = Arc::new(NodeKeys { network: self.keys.network, node: self.keys.node, generations });
    }

    fn wait(&mut self, env: &Env<'_>) {
        let (newest, older) = match self.keys.generations.split_first() {
            Some((newest, older)) => (Some(due(newest)), older),
            None => (None, [].as_slice()),
        };
        let next = newest.into_iter().chain(older.iter().map(|g| ended(g))).filter(|at| *at > env.wall).min();
        let rest = next.map_or(LOOK, |at| Duration::from_secs(at.0.saturating_sub(env.wall.0)));
        self.at = env.now + rest.min(LOOK);
    }
}

/// When new keys are to follow these.
fn due(generation: &Generation) -> Wall {
    generation.made.plus(limits::KEY_LIFE_SECS)
}

/// When these are erased.
fn ended(generation: &Generation) -> Wall {
    due(generation).plus(limits::KEY_GRACE_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const DAY: u64 = 86_400;
    const BEGIN: Wall = Wall(1_000_000_000);

    fn start(saved: Option<&[u8]>, hosts: bool, seconds: u64) -> Result<(Renewal, bool), Failure> {
        let mut rng = StdRng::seed_from_u64(seconds);
        let mut env = Env { now: Time(0), wall: BEGIN.plus(seconds), rng: &mut rng };
        Renewal::start(saved, NetworkId([1; 32]), NodeId([2; 32]), hosts, &mut env)
    }

    fn names(renewal: &Renewal) -> Vec<u32> {
        renewal.keys.generations.iter().filter_map(|g| g.host.as_ref().map(HostKey::id)).collect()
    }

    #[test]
    fn a_restart_neither_changes_nor_loses_keys_within_their_time() {
        let (first, changed) = start(None, true, 0).unwrap();
        assert!(changed && first.keys.hosts());
        let saved = first.keys.encode().unwrap();
        for day in [0, 5, 9] {
            let (again, changed) = start(Some(&saved), true, day * DAY).unwrap();
            assert!(!changed, "day {day}");
            assert_eq!(again.keys.encode().unwrap(), saved);
        }
        // Switched off when it was time: the old keys have their grace, behind new ones.
        for day in [10, 13] {
            let (later, changed) = start(Some(&saved), true, day * DAY).unwrap();
            assert!(changed && names(&later).len() == 2 && names(&later)[1] == names(&first)[0], "day {day}");
            assert_eq!(later.keys.onion().count(), 2);
        }
        let (late, changed) = start(Some(&saved), true, 14 * DAY).unwrap();
        assert!(changed && names(&late).len() == 1 && names(&late) != names(&first));
        // A clock that was far ahead when they were made.
        let begun_ahead = start(None, true, 30 * DAY).unwrap().0.keys.encode().unwrap();
        let (back, changed) = start(Some(&begun_ahead), true, 0).unwrap();
        assert!(changed && back.keys.generations[0].made == BEGIN);
    }

    #[test]
    fn a_relay_that_hosts_no_more_has_no_host_key_and_one_that_begins_gets_one() {
        let (host, _) = start(None, true, 0).unwrap();
        let (carrier, changed) = start(Some(&host.keys.encode().unwrap()), false, DAY).unwrap();
        assert!(changed && !carrier.keys.hosts());
        let public = |renewal: &Renewal| renewal.keys.onion().map(OnionKey::public).collect::<Vec<_>>();
        assert_eq!(public(&carrier), public(&host), "its circuit keys go on");
        let saved = carrier.keys.encode().unwrap();
        assert!(!start(Some(&saved), false, 2 * DAY).unwrap().1);
        let (again, changed) = start(Some(&saved), true, 2 * DAY).unwrap();
        assert!(changed && again.keys.hosts() && again.keys.onion().count() == 2);
    }

    #[test]
    fn new_keys_are_asked_for_once_and_again_if_the_job_is_lost() {
        let (mut renewal, _) = start(None, true, 0).unwrap();
        let first = names(&renewal);
        let mut rng = StdRng::seed_from_u64(9);
        let mut out = Out::default();
        // One look at a time; what it came to: jobs asked for, and whether the keys changed.
        let mut look = |renewal: &mut Renewal, seconds: u64, made: Option<Option<Generation>>| {
            let mut env = Env { now: Time(seconds * 1_000_000), wall: BEGIN.plus(seconds), rng: &mut rng };
            let mut changed = made.is_some_and(|made| renewal.made(&env, made));
            changed |= renewal.tick(&mut Ctx { env: &mut env, out: &mut out });
            let jobs = core::mem::take(&mut out.queue).into_iter().filter(|o| matches!(o, Output::Job { .. })).count();
            (jobs, changed)
        };
        let fresh =
            |seconds, id| Some(Generation::fresh(&mut StdRng::seed_from_u64(id), BEGIN.plus(seconds), Some(id as u32)).ok());
        let life = limits::KEY_LIFE_SECS;
        assert_eq!(look(&mut renewal, life - 1, None), (0, false));
        assert_eq!(look(&mut renewal, life, None), (1, false));
        assert_eq!(look(&mut renewal, life + 1, None), (0, false));
        assert_eq!(look(&mut renewal, life + 2, Some(None)), (0, false), "they could not be made");
        assert_eq!(look(&mut renewal, life + 62, None), (1, false));
        assert_eq!(look(&mut renewal, life + 62 + 3600, None), (1, false), "no word of them");
        assert_eq!(look(&mut renewal, life + 3700, fresh(life + 3700, 77)), (0, true));
        assert_eq!(look(&mut renewal, life + 3701, fresh(life + 3701, 78)), (0, false), "the lost one, late");
        assert_eq!(names(&renewal), [77, first[0]]);
        // Both times count from when the keys were made.
        let later = look(&mut renewal, life + limits::KEY_GRACE_SECS, None);
        assert_eq!((later, names(&renewal)), ((0, true), vec![77]));
        assert_eq!(look(&mut renewal, 2 * life + 3700, None), (1, false));
        assert!(!look(&mut renewal, 9 * life, None).1, "the newest stays, however old");
        assert!(renewal.keys.host(77).is_some());
    }

    #[test]
    fn damaged_or_newer_keys_are_refused() {
        let good = start(None, true, 0).unwrap().0.keys.encode().unwrap();
        let refused = |bytes: &[u8]| start(Some(bytes), true, 0).is_err();
        assert!(!refused(&good));
        for n in 0..good.len() {
            assert!(refused(&good[..n]), "cut at {n}");
        }
        assert!(refused(&[&good[..], &[0]].concat()));
        // Kind, version, count, whether it hosts, and a byte of the host key's ML-KEM part.
        for at in [0, 1, 2, 43, 43 + 1 + 36 + 1500] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(refused(&bad), "byte {at}");
        }
    }
}
