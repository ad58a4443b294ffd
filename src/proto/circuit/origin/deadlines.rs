//! What of a circuit of ours ends because time has passed: one that is not built, and streams on which nothing moves.

use crate::base::Time;
use crate::base::limits;
use crate::proto::circuit::origin::Origins;
use crate::proto::circuit::origin::Stream;
use crate::proto::circuit::origin::Timer;
use crate::proto::link::Links;
use crate::proto::out::Ctx;
use core::time::Duration;
use rand::RngExt;

/// A circuit that is not built by then is given up: ten times a bad round trip to each hop.
pub(super) const BUILD_DEADLINE: Duration = Duration::from_secs(12);
/// While its own cells have not even left, a slow line is at fault and no hop; but not for longer than this.
const BUILD_DEADLINE_MAX: Duration = Duration::from_secs(60);
/// A request that has no answer by then has failed, whoever waits for it: whoever does decides sooner, by the pace of all answers
/// ([`Origins::give_up`]).
const REQUEST_DEADLINE: Duration = Duration::from_secs(600);
/// How often it is looked for such, and for sessions that pause; and up to so much later by chance, so that the circuits of a
/// document do not end theirs together.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const LOOK_LATER: Duration = Duration::from_secs(5);
/// A session that pauses this long is ended, before its host does so: a request would cross that end, and be lost. What is left is
/// for the next look, and for a request that is on its way at a slow line's pace. Those of one circuit may end together, which tells
/// their hosts no more than the circuit's own end does.
const PAUSE_MAX: Duration = Duration::from_secs(35);
const _: () = assert!(PAUSE_MAX.as_secs() + LOOK_EVERY.as_secs() + LOOK_LATER.as_secs() < limits::SESSION_PAUSE_MAX.as_secs());

impl Origins {
    /// When the streams of a circuit are looked at next.
    pub(super) fn next_look(ctx: &mut Ctx<'_, '_>) -> Time {
        ctx.env.now + LOOK_EVERY + LOOK_LATER.mul_f64(ctx.env.rng.random_range(0.0..1.0))
    }

    /// The earliest timer, and what it is for.
    pub fn timeout(&self) -> Option<(Time, &'static str)> {
        self.timers.next().map(|(at, timer)| match timer {
            Timer::Build(_) => (at, "circuit build"),
            Timer::Streams(_) => (at, "streams"),
            Timer::Questions(_) => (at, "questions"),
        })
    }

    /// Does what is due.
    pub(in crate::proto) fn tick(&mut self, ctx: &mut Ctx<'_, '_>, links: &mut Links) {
        while let Some(timer) = self.timers.expired(ctx.env.now) {
            match timer {
                Timer::Build(key) => {
                    let Some(circuit) = self.circuits.get(key) else { continue };
                    let leaving = circuit.port.and_then(|port| links.leaving(port)).is_some();
                    if leaving && ctx.env.now.since(circuit.started) < BUILD_DEADLINE_MAX {
                        self.timers.set(timer, ctx.env.now + BUILD_DEADLINE);
                    } else {
                        self.end(ctx, links, key);
                    }
                }
                Timer::Questions(key) => self.look_at_questions(ctx, links, key),
                Timer::Streams(key) => {
                    let Some(circuit) = self.circuits.get(key) else { continue };
                    let now = ctx.env.now;
                    let late = |s: &Stream| s.in_flight.front().is_some_and(|(_, _, sent)| now.since(*sent) >= REQUEST_DEADLINE);
                    let pauses = |s: &Stream| s.load() == 0 && now.since(s.moved) >= PAUSE_MAX;
                    let over = circuit.streams.iter().filter(|(_, s)| late(s) || pauses(s)).map(|(id, _)| *id);
                    let over: Vec<_> = over.collect();
                    let more = over.len() < circuit.streams.len();
                    for stream in over {
                        self.end_stream(ctx, links, key, stream);
                    }
                    if more {
                        self.timers.set(Timer::Streams(key), Self::next_look(ctx));
                    }
                }
            }
        }
    }
}
