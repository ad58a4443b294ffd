//! How a link opens: a first cell each way, in which relays prove who they are (D2).

use crate::base::LinkId;
use crate::base::limits;
use crate::proto::Output;
use crate::proto::job::Job;
use crate::proto::link::Link;
use crate::proto::link::LinkEvent;
use crate::proto::link::LinkTimer;
use crate::proto::link::Links;
use crate::proto::link::Stage;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::wire::cell::BODY;
use crate::wire::cell::Command;
use crate::wire::hello::Hello;
use crate::wire::hello::Proof;
use std::net::SocketAddr;
use std::sync::Arc;

impl Links {
    /// The connection stands: our first cell goes out.
    pub(in crate::proto) fn up(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, remote: SocketAddr, exporter: [u8; 32], dialed: bool) {
        if !dialed && self.identity.is_none() {
            // A client accepts nothing; the shell never listens for one.
            ctx.out.push(Output::Close { link: id });
            return;
        }
        self.holds_more(self.memory.of_link());
        let link = self.links.entry(id).or_insert_with(|| Link::new(remote, dialed, None, ctx.env.now));
        if !matches!(link.stage, Stage::Dialing) {
            return;
        }
        link.exporter = exporter;
        link.remote = remote;
        link.stage = Stage::Hello { sent: false, checked: None, checking: false, early: Vec::new() };
        self.timers.set_if_unset(LinkTimer::Handshake(id), ctx.env.now + limits::HANDSHAKE_DEADLINE);
        match &self.identity {
            Some(identity) => {
                let work = Job::LinkProof {
                    identity: Arc::clone(identity),
                    network: self.network,
                    exporter,
                    dialer: dialed,
                    clock: ctx.env.wall,
                };
                ctx.out.job(JobFor::LinkProof(id), work);
            }
            None => self.send_hello(ctx, id, None),
        }
    }

    /// Our proof is signed (or, for a client, there is none): the first cell leaves.
    pub(in crate::proto) fn send_hello(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, proof: Option<Proof>) {
        let hello = Hello::new(self.network, proof);
        if let Some(link) = self.links.get_mut(&id)
            && let Stage::Hello { sent, .. } = &mut link.stage
        {
            *sent = true;
            self.push_control(ctx, id, Command::Hello, &hello.write());
            self.try_open(ctx, id);
        }
    }

    /// The other end's first cell.
    pub(super) fn on_hello(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, body: &[u8; BODY]) {
        let network = self.network;
        let hello = Hello::read(body).ok().filter(|h| h.network == network && h.common_version().is_some());
        let Some(link) = self.links.get_mut(&id) else { return };
        let (Some(hello), Stage::Hello { checked, checking, .. }) = (hello, &mut link.stage) else {
            return self.close(ctx, id);
        };
        if *checking || checked.is_some() {
            return self.close(ctx, id);
        }
        match hello.proof {
            // Whoever we dial must be a relay, and the one we meant.
            None if link.dialed => self.close(ctx, id),
            None => {
                *checked = Some(None);
                self.try_open(ctx, id);
            }
            Some(proof) if link.expect.is_some_and(|expected| expected != proof.node) => self.close(ctx, id),
            Some(proof) => {
                *checking = true;
                let work = Job::LinkCheck { network, exporter: link.exporter, dialer: !link.dialed, proof: Box::new(proof) };
                ctx.out.job(JobFor::LinkCheck(id), work);
            }
        }
    }

    /// The other end's proof was checked.
    pub(in crate::proto) fn checked(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId, proof: Option<Proof>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Stage::Hello { checked, .. } = &mut link.stage else { return };
        match proof {
            Some(proof) => {
                *checked = Some(Some(proof));
                self.try_open(ctx, id);
            }
            None => self.close(ctx, id),
        }
    }

    fn try_open(&mut self, ctx: &mut Ctx<'_, '_>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Stage::Hello { sent: true, checked: Some(proof), early, .. } = &mut link.stage else { return };
        let (proof, early) = (proof.take(), core::mem::take(early));
        link.stage = Stage::Open;
        link.peer = proof.as_ref().map(|p| p.node);
        let event = LinkEvent::Open {
            link: id,
            peer: link.peer,
            clock: proof.map(|p| p.clock),
            remote: link.remote,
            dialed: link.dialed,
            early,
            waiters: core::mem::take(&mut link.waiters),
        };
        if let Some(node) = link.peer
            && self.open_link(&node).is_none()
        {
            self.by_node.insert(node, id);
        }
        self.timers.stop(&LinkTimer::Handshake(id));
        self.lent_over(id);
        self.schedule_keep(ctx, id);
        self.events.push_back(event);
    }
}
