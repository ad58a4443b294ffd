//! What the overlay plane wants of its node, and in which words a person hears of it.

use crate::base::Rarely;
use crate::proto::Output;
use crate::proto::core::Core;
use crate::proto::event::Failure;
use crate::proto::event::NodeEvent;
use crate::proto::event::clock_differs;
use crate::proto::job::Job;
use crate::proto::link::Waiter;
use crate::proto::out::Ctx;
use crate::proto::out::JobFor;
use crate::proto::overlay;
use crate::proto::requests::Question;
use std::time::Duration;

/// Strangers decide how often there is something to tell; each kind is told this often.
const TELL_EVERY: Duration = Duration::from_secs(3600);

/// What the operator is told of, each kind on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    Clock,
    ClockFails,
    Address,
    StruckOut,
    OneWayIn,
    WaysDiffer,
    Moved,
    Unreached,
    Odd(overlay::Odd),
}

impl Core {
    /// Tells it, unless something of its kind was told within the hour.
    pub(super) fn tell(&mut self, ctx: &mut Ctx<'_, '_>, kind: Told, event: NodeEvent) {
        let rarely = self.told.entry(kind).or_insert(const { Rarely::every(TELL_EVERY) });
        if rarely.again(ctx.env.now).is_some() {
            ctx.out.push(Output::Node(event));
        }
    }

    fn warn(&mut self, ctx: &mut Ctx<'_, '_>, kind: Told, words: &str) {
        self.tell(ctx, kind, NodeEvent::Warning(words.to_owned()));
    }

    /// Does what the overlay plane wants of the node.
    pub(super) fn overlay_output(&mut self, ctx: &mut Ctx<'_, '_>, output: overlay::Output) {
        match output {
            overlay::Output::Send { link, bytes } => self.links.send_overlay(ctx, link, bytes),
            overlay::Output::Dial { token, addr, expect, fresh } => {
                let waiter = Waiter::Overlay(token);
                if fresh {
                    self.links.dial(ctx, addr, Some(expect), Some(waiter));
                } else if let Some(link) = self.links.want(ctx, expect, addr, waiter) {
                    self.overlay.handle(ctx.env, overlay::Input::Dialled { token, link: Some(link) });
                }
            }
            overlay::Output::Ask { token, to, bytes } => self.requests.question(ctx.env.now, Question { token, to, bytes }),
            overlay::Output::Release { link } => self.links.release(ctx, link),
            overlay::Output::Blame { link } => self.links.close(ctx, link),
            overlay::Output::Job(job, work) => {
                let identity = self.identity.clone();
                ctx.out.job(JobFor::Overlay(job), Job::Overlay { work, network: self.network, identity });
            }
            overlay::Output::Save { name, bytes } => ctx.out.push(Output::Save { name, bytes: bytes.into() }),
            overlay::Output::Event(event) => self.overlay_event(ctx, event),
        }
    }

    fn overlay_event(&mut self, ctx: &mut Ctx<'_, '_>, event: overlay::Event) {
        match event {
            overlay::Event::ViewChanged => self.acceptance = None,
            overlay::Event::Clock(offset, level) => {
                self.failed_clock = level == overlay::ClockLevel::Fail;
                match level {
                    overlay::ClockLevel::Good => {}
                    overlay::ClockLevel::Warn => self.warn(ctx, Told::Clock, &clock_differs(offset)),
                    overlay::ClockLevel::Fail => {
                        self.tell(ctx, Told::ClockFails, NodeEvent::NotReady(Failure::clock_off(offset)));
                    }
                }
            }
            overlay::Event::AddressDiffers => {
                let words = "others see this relay at another address than the one it advertises: check --advertise";
                self.warn(ctx, Told::Address, words);
            }
            overlay::Event::StruckOut => {
                let words = "two descriptors signed by this relay contradict each other, so others do not use it any more. Does a copy of \
                             its data directory run elsewhere? Stop one of the two, and give this one a new directory";
                self.warn(ctx, Told::StruckOut, words);
            }
            overlay::Event::OneWayIn => {
                let words = "this start believes what one relay says of the network: with links of two or more, they are compared";
                self.warn(ctx, Told::OneWayIn, words);
            }
            overlay::Event::WaysDiffer => {
                let words = "the relays behind your links name different networks, so some of them lie or are cut off: the network that \
                             most addresses answer for is used. Remove links whose origin you do not trust";
                self.warn(ctx, Told::WaysDiffer, words);
            }
            overlay::Event::Odd(odd) => self.tell(ctx, Told::Odd(odd), NodeEvent::Note(odd.words())),
            overlay::Event::Moved => {
                let words =
                    "witnesses find this relay at another address: it is announced from there, and its old place served for a week";
                self.warn(ctx, Told::Moved, words);
            }
        }
    }
}
