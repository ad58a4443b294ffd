//! `relay`: runs until it is told to stop.

use crate::api;
use crate::api::socket;
use crate::base::ErrorKind;
use crate::cli::output::Out;
use crate::cli::session;
use crate::cli::stop::Stop;
use crate::client::failure;
use crate::config::Config;
use crate::node;
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
pub(super) async fn run(out: Out, config: &Config) -> Result<(), Failure> {
    let mut stop = Stop::listen();
    let relay =
        RelayConfig { listen: config.listen, advertise: config.advertised()?, family: config.family.clone(), quota: config.quota };
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
