//! What the overlay plane wants of its node, and in which words a person hears of it.

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

/// Strangers decide how often odd things happen; each kind is told this often.
const ODD_EVERY: Duration = Duration::from_secs(3600);
impl Core {
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
                let minutes = offset.unsigned_abs() / 60;
                self.failed_clock = level == overlay::ClockLevel::Fail;
                match level {
                    overlay::ClockLevel::Good => {}
                    overlay::ClockLevel::Warn => {
                        let words = clock_differs(minutes);
                        ctx.out.push(Output::Node(NodeEvent::Warning(words)));
                    }
                    overlay::ClockLevel::Fail => {
                        ctx.out.push(Output::Node(NodeEvent::NotReady(Failure::clock_off(minutes))));
                    }
                }
            }
            overlay::Event::AddressDiffers => {
                let words = "others see this relay at another address than the one it advertises: check --advertise".into();
                ctx.out.push(Output::Node(NodeEvent::Warning(words)));
            }
            overlay::Event::StruckOut => {
                let words = "two descriptors signed by this relay contradict each other, so others do not use it any more. Does a copy of \
                             its data directory run elsewhere? Stop one of the two, and give this one a new directory";
                ctx.out.push(Output::Node(NodeEvent::Warning(words.into())));
            }
            overlay::Event::OneWayIn => {
                let words = "this start believes what one relay says of the network: with links of two or more, they are compared";
                ctx.out.push(Output::Node(NodeEvent::Warning(words.into())));
            }
            overlay::Event::WaysDiffer => {
                let words = "the relays behind your links name different networks, so some of them lie or are cut off: the network that \
                             most addresses answer for is used. Remove links whose origin you do not trust";
                ctx.out.push(Output::Node(NodeEvent::Warning(words.into())));
            }
            overlay::Event::Odd(odd) => {
                let now = ctx.env.now;
                if self.odd_told.get(&odd).is_none_or(|at| *at + ODD_EVERY <= now) {
                    self.odd_told.insert(odd, now);
                    ctx.out.push(Output::Node(NodeEvent::Note(odd.words())));
                }
            }
            overlay::Event::Moved => {
                let words =
                    "witnesses find this relay at another address: it is announced from there, and its old place served for a week";
                ctx.out.push(Output::Node(NodeEvent::Warning(words.into())));
            }
            overlay::Event::SelfUsable(usable) => {
                if let (true, false, Some(keys)) = (usable, self.announced, &self.keys) {
                    self.announced = true;
                    ctx.out.push(Output::Node(NodeEvent::Announced(keys.keys().node)));
                }
            }
        }
    }
}
