//! How a person or the system stops a command: Ctrl-C, SIGTERM, and SIGHUP when the terminal goes. All three end it in the same
//! way. To a relay SIGHUP says that its settings changed, unless its terminal has gone.

use crate::base::ErrorKind;
use crate::client::failure;
use crate::client::lines::keeps_nothing;
use crate::proto::event::Failure;
use core::future::Future;
use core::future::pending;
use std::io;
use std::io::IsTerminal;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// The signals that end a command. One that this process was started to ignore, as `nohup` does, stays ignored.
pub(super) struct Stop {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Stop {
    /// Hears them from now on.
    pub(super) fn listen() -> Self {
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |text| ignored(&text));
        let hear = |kind: SignalKind| {
            let listens = ignored & (1 << (kind.as_raw_value() - 1)) == 0;
            listens.then(|| signal(kind).ok()).flatten()
        };
        Self {
            interrupt: hear(SignalKind::interrupt()),
            terminate: hear(SignalKind::terminate()),
            hangup: hear(SignalKind::hangup()),
        }
    }

    /// The same for a relay, which hears SIGHUP on its own.
    pub(super) fn but_hangup() -> Self {
        Self { hangup: None, ..Self::listen() }
    }

    /// Waits for one.
    pub(super) async fn asked(&mut self) {
        async fn wait(signals: &mut Option<Signal>) {
            match signals {
                Some(signals) => drop(signals.recv().await),
                None => pending().await,
            }
        }
        tokio::select! {
            () = wait(&mut self.interrupt) => {}
            () = wait(&mut self.terminate) => {}
            () = wait(&mut self.hangup) => {}
        }
    }
}

/// SIGHUP, as a relay hears it, also one that was started by `nohup`: it ends nothing then.
pub(super) struct Hangup {
    signal: Option<Signal>,
    /// Whether there was a terminal.
    terminal: bool,
}

/// What SIGHUP says to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The settings changed.
    Reload,
    /// The terminal that the relay was started in has gone.
    Gone,
}

impl Hangup {
    /// Hears it from now on.
    pub(super) fn listen() -> Self {
        Self { signal: signal(SignalKind::hangup()).ok(), terminal: has_terminal() }
    }

    /// Waits for it.
    pub(super) async fn heard(&mut self) -> Heard {
        match &mut self.signal {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
        // One that hung up is none any more.
        if self.terminal && !has_terminal() { Heard::Gone } else { Heard::Reload }
    }
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// The set of ignored signals in a process's status: bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    field.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

/// Works until it is done or stopped; then says what was kept, and what to do next. An error that says nothing of what was kept
/// gets the same words.
pub(super) async fn unless_stopped<T>(
    work: impl Future<Output = Result<T, Failure>>,
    told: impl FnOnce() -> (String, &'static str),
) -> Result<T, Failure> {
    let mut stop = Stop::listen();
    tokio::select! {
        // Signals first, so that they are heard from the work's first step on.
        biased;
        () = stop.asked() => {
            let (kept, next) = told();
            Err(failure(ErrorKind::Other, "stopped by you", kept, next))
        }
        done = work => done.map_err(|why| if keeps_nothing(&why) { Failure { kept: told().0, ..why } } else { why }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
