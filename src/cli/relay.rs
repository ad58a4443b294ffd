//! `relay`: runs until it is told to stop.

use crate::api;
use crate::api::socket;
use crate::base::ErrorKind;
use crate::cli::output::Out;
use crate::cli::session;
use crate::cli::stop::Hangup;
use crate::cli::stop::Heard;
use crate::cli::stop::Stop;
use crate::client::failure;
use crate::config::Config;
use crate::node;
use crate::node::Changes;
use crate::node::Handle;
use crate::node::NodeConfig;
use crate::node::RelayConfig;
use crate::proto::event::Failure;
use core::time::Duration;
use serde::Serialize;

/// How long the API's callers get to finish when the relay stops.
const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Started<'a> {
    link: &'a str,
}

/// Runs a relay; the first line on standard output is its link.
///
/// `read` gives the settings, now and after each SIGHUP; `from_file` says whether a file is among them.
pub(super) async fn run(out: Out, from_file: bool, read: impl Fn() -> Result<Config, Failure>) -> Result<(), Failure> {
    let (mut stop, mut hangup) = (Stop::but_hangup(), Hangup::listen());
    let mut settings = read()?;
    let config = &settings;
    let relay = RelayConfig {
        listen: config.listen,
        advertise: config.advertised()?,
        family: config.family.clone(),
        quota: config.quota,
        memory: config.budget(),
    };
    node::home::settle(&config.data_dir()?).map_err(node::StartError::from)?;
    let secret = session::local_secret(config)?;
    // First of all: whoever holds the socket owns the data directory.
    let (listener, socket) = socket::listen(&config.socket()?).await?;
    let bootstrap = session::links(config)?;
    let (handle, mut events) = node::start(NodeConfig {
        data_dir: Some(config.data_dir()?),
        bootstrap: bootstrap.clone(),
        local_network: config.local_network,
        relay: Some(relay),
        ..NodeConfig::default()
    })
    .await?;
    if !bootstrap.is_empty() {
        session::keep_links(config, &bootstrap)?;
    }
    if let Some(link) = handle.bootstrap_link() {
        out.either(|| link.clone(), &Started { link: &link })?;
    }
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(api::serve(listener, handle.clone(), secret, async {
        let _ = ended.await;
    }));

    let done = loop {
        tokio::select! {
            () = stop.asked() => break Ok(()),
            heard = hangup.heard() => match heard {
                Heard::Gone => break Ok(()),
                Heard::Reload if from_file => reload(out, &handle, &mut settings, read()),
                Heard::Reload => out.note("nothing to read again: the relay was started without a settings file"),
            },
            event = events.recv() => match event {
                Some(event) => session::log(&event),
                None => break Err(failure(ErrorKind::Other, "the node stopped by itself: this is a bug", "", "Start it again; please report it.")),
            },
            _ = &mut serving => break Err(failure(ErrorKind::Other, "the local API stopped", "", "Start the relay again.")),
        }
    };
    out.note("stopping ...");
    drop(end);
    if !serving.is_finished() {
        let _ = tokio::time::timeout(FAREWELL, serving).await;
    }
    drop(socket);
    handle.shutdown().await;
    done
}

/// Takes over what may change while a relay runs, and says what became of the rest. Settings that cannot be used change nothing.
fn reload(out: Out, handle: &Handle, now: &mut Config, read: Result<Config, Failure>) {
    let changed = read.and_then(|new| {
        let (family, quota) = (new.family != now.family, new.quota != now.quota);
        handle.change(Changes { family: family.then(|| new.family.clone()), quota: quota.then_some(new.quota) })?;
        Ok((new, family, quota))
    });
    let (new, family, quota) = match changed {
        Ok(changed) => changed,
        Err(why) => {
            tracing::warn!("the settings were not read again, and stay as they were: {}. {}", why.what, why.next);
            return;
        }
    };
    let Config { data_dir, listen, advertise, bootstrap, family: _, local_network, quota: _, memory, lease_days: _ } = &new;
    let wait = [
        ("data_dir", *data_dir != now.data_dir),
        ("listen", *listen != now.listen),
        ("advertise", *advertise != now.advertise),
        ("bootstrap", *bootstrap != now.bootstrap),
        ("local_network", *local_network != now.local_network),
        ("memory", *memory != now.memory),
    ];
    let named = |list: &[(&'static str, bool)]| -> Vec<&'static str> {
        list.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
    };
    let (taken, wait) = (named(&[("family", family), ("quota", quota)]), named(&wait));
    out.note(&match taken.as_slice() {
        [] => "settings read again: nothing changed that can change while the relay runs".to_owned(),
        taken => format!("settings read again, and in force: {}", taken.join(", ")),
    });
    if !wait.is_empty() {
        tracing::warn!("these settings differ from those in force, and need a restart: {}", wait.join(", "));
    }
    // What waits for a restart is told again with the next reload.
    (now.family, now.quota) = (new.family, new.quota);
}
