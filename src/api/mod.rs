//! The local API: HTTP/1.1 and JSON on a Unix socket that only its owner may open. For the command line, and for programs.
//!
//! ```text
//! GET  /v1/status                                          how the node is, as one object
//! POST /v1/publish?length=N&name=..&type=..&lease=DAYS     body: the document, raw. Answer: a stream that ends in `published`
//!                 &convergent=true                         body: the document twice, one right behind the other
//! POST /v1/get      {"key":"..","offset":0}                answer: a stream that ends in `fetched`
//! POST /v1/check    {"key":"..","sample":N}                answer: a stream that ends in `checked`
//! ```
//! Streams are what [`crate::client::lines`] says. An error is `{"error":{"kind","what","kept","next"}}`: with a status of its own
//! when it comes before anything else, as the last line of a stream otherwise. `length` may be left out when there is a
//! `content-length`; a document of another length than was said gets no key, nor does one whose second copy is not the first.
//! Keys travel in bodies only, never in URLs. A caller that hangs up cancels what it asked for, and one that is silent for two minutes is
//! taken for one: that neither sends what is missing, nor takes what it is sent, nor asks for anything on an open connection.

mod connections;
pub mod socket;

use crate::base::ErrorKind;
use crate::base::limits;
use crate::client::Found;
use crate::client::Operations;
use crate::client::Publish;
use crate::client::Publishing;
use crate::client::Sink;
use crate::client::Source;
use crate::client::daemon::readings;
use crate::client::drive;
use crate::client::failure;
use crate::client::lines::ChannelBody;
use crate::client::lines::DATA_MAX;
use crate::client::lines::Line;
use crate::client::lines::error_json;
use crate::crypto::secret::Secret;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::Failure;
use crate::proto::event::NO_KEY;
use crate::proto::event::Progress;
use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use axum::routing::post;
use bytes::Bytes;
use bytes::BytesMut;
use connections::SILENCE;
use core::future::Future;
use core::time::Duration;
use http_body_util::BodyExt;
use http_body_util::Limited;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

/// Most operations at a time: each has circuits and buffers of its own.
const OPERATIONS_MAX: usize = 32;
/// Longest JSON request: a key and two numbers.
const REQUEST_MAX: usize = 16 * 1024;
/// How long a failed publication waits for its caller to read why, while the rest of the document is thrown away.
const DRAIN: Duration = Duration::from_secs(10);
/// Chunks that a check fetches if nobody says otherwise: enough to see a loss of a tenth with 98 % certainty.
pub const CHECK_SAMPLE: usize = 40;

/// What the API serves.
#[derive(Clone)]
struct Service<H> {
    node: H,
    slots: Arc<Semaphore>,
    /// How long a caller may be silent.
    silence: Duration,
    /// Makes keys of convergent documents, together with their content.
    secret: Arc<Secret<32>>,
}

/// Serves the API until `stop` is done.
pub async fn serve<H: Operations>(
    listener: UnixListener,
    node: H,
    secret: Secret<32>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    serve_within(SILENCE, listener, node, secret, stop).await;
}

async fn serve_within<H: Operations>(
    silence: Duration,
    listener: UnixListener,
    node: H,
    secret: Secret<32>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let service = Service { node, slots: Arc::new(Semaphore::new(OPERATIONS_MAX)), silence, secret: Arc::new(secret) };
    let router = Router::new()
        .route("/v1/status", get(status::<H>))
        .route("/v1/publish", post(publish::<H>))
        .route("/v1/get", post(fetch::<H>))
        .route("/v1/check", post(check::<H>))
        .fallback(async || refuse(StatusCode::NOT_FOUND, &usage("there is no such resource")))
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, &usage("this resource has another method")))
        .with_state(service);
    connections::serve(listener, router, silence, stop).await;
}

fn usage(what: &str) -> Failure {
    failure(ErrorKind::Usage, what, "Nothing was sent.", "See the API's documentation.")
}

fn refuse(status: StatusCode, why: &Failure) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], error_json(why)).into_response()
}

fn refuse_by_kind(why: &Failure) -> Response {
    let status = match why.kind {
        ErrorKind::Usage => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::NoNetwork => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotVerified => StatusCode::BAD_GATEWAY,
        ErrorKind::Refused => StatusCode::FORBIDDEN,
        ErrorKind::Other => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(status, why)
}

impl<H: Operations> Service<H> {
    fn slot(&self) -> Result<OwnedSemaphorePermit, Box<Response>> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let why = failure(ErrorKind::Refused, "this node is busy with as much as it takes at a time", "", "Try again later.");
            Box::new(refuse(StatusCode::TOO_MANY_REQUESTS, &why))
        })
    }
}

async fn status<H: Operations>(State(service): State<Service<H>>) -> Response {
    match drive::status(&service.node).await {
        Ok(status) => axum::Json(status).into_response(),
        Err(why) => refuse_by_kind(&why),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishQuery {
    length: Option<u64>,
    name: Option<String>,
    #[serde(rename = "type")]
    media_type: Option<String>,
    lease: Option<u16>,
    #[serde(default)]
    convergent: bool,
}

async fn publish<H: Operations>(
    State(service): State<Service<H>>,
    query: Result<Query<PublishQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(Query(query)) = query else {
        return refuse_by_kind(&usage("the query of this publication is not understood"));
    };
    let announced: Option<u64> = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let readings = readings(query.convergent);
    let Some(length) = query.length.or(announced.map(|n| n / readings)) else {
        return refuse_by_kind(&usage("a publication needs its length in bytes"));
    };
    if length > limits::DOCUMENT_MAX || announced.is_some_and(|n| n != readings * length) {
        let what = if query.convergent {
            "the length of this publication cannot be right: a convergent document is sent twice"
        } else {
            "the length of this publication cannot be right"
        };
        return refuse_by_kind(&usage(what));
    }
    let lease_days = query.lease.unwrap_or(limits::LEASE_DAYS);
    if !(1..=limits::LEASE_MAX_DAYS).contains(&lease_days) {
        let most = limits::LEASE_MAX_DAYS;
        return refuse_by_kind(&usage(&format!("hosts keep a document at least 1 day and at most {most}")));
    }
    let ask = Publish { length, name: query.name, media_type: query.media_type, lease_days, convergent: query.convergent };
    if let Err(why) = ask.fits() {
        return refuse_by_kind(&why);
    }
    let slot = match service.slot() {
        Ok(slot) => slot,
        Err(answer) => return *answer,
    };
    let (tx, answer) = Lines::new();
    tokio::spawn(async move {
        let _slot = slot;
        let mut source = BodySource { body, ready: BytesMut::new(), left: readings * length, silence: service.silence };
        let local = ask.convergent.then(|| Secret::clone(&service.secret));
        // A place for the one line that must not be left out.
        let mut place = tx.0.clone().reserve_owned().await.ok();
        let mut progress = tx.watch();
        let mut watch = |told: Publishing<'_>| match told {
            Publishing::At(at) => progress(at),
            Publishing::Key(key) => {
                if let Some(place) = place.take() {
                    place.send(Ok(Line::Key(key.to_text()).encode()));
                }
            }
        };
        let work = async {
            if length == 0 {
                source.end().await?;
            }
            drive::publish(&service.node, ask, local, &mut source, &mut watch).await
        };
        let Some(done) = tx.unless_gone(work).await else { return };
        let line = match done {
            Ok(done) => Line::Published { key: done.key.to_text(), report: done.report },
            Err(why) if why.kept.is_empty() => Line::Error(Failure { kept: NO_KEY.to_owned(), ..why }),
            Err(why) => Line::Error(why),
        };
        tx.say(&line).await;
        // A caller that still sends would lose the answer if the connection closed now.
        let drain = async { while let Some(Ok(_)) = source.body.frame().await {} };
        let _ = tx.unless_gone(tokio::time::timeout(DRAIN.min(service.silence), drain)).await;
    });
    answer
}

/// Reads a request of JSON.
async fn parse<T: DeserializeOwned>(body: Body, silence: Duration) -> Result<T, Failure> {
    let whole = tokio::time::timeout(silence, Limited::new(body, REQUEST_MAX).collect());
    let body = whole.await.map_err(|_| silent("the request did not come to its end", silence))?;
    let body = body.map_err(|_| usage("the request is too long or was broken off"))?;
    // The parser's own words could repeat a key.
    serde_json::from_slice(&body.to_bytes()).map_err(|_| usage("the request is not the JSON that this resource takes"))
}

/// A caller that stopped sending.
fn silent(what: &str, silence: Duration) -> Failure {
    let what = format!("{what}: nothing came for {} seconds", silence.as_secs());
    failure(ErrorKind::Other, what, "", "Send it again, without such a pause.")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetRequest {
    key: String,
    #[serde(default)]
    offset: u64,
}

async fn fetch<H: Operations>(State(service): State<Service<H>>, body: Body) -> Response {
    let asked = parse::<GetRequest>(body, service.silence)
        .await
        .and_then(|r| Ok((ReadKey::parse(&r.key).map_err(Failure::mistyped)?, r.offset)));
    let (key, offset) = match asked {
        Ok(asked) => asked,
        Err(why) => return refuse_by_kind(&why),
    };
    let slot = match service.slot() {
        Ok(slot) => slot,
        Err(answer) => return *answer,
    };
    let (tx, answer) = Lines::new();
    let (found_tx, found_rx) = oneshot::channel();
    tokio::spawn(async move {
        let _slot = slot;
        let mut sink = LineSink { tx: tx.clone(), found: Some(found_tx) };
        let mut watch = tx.watch();
        let work = drive::get(&service.node, &key, offset, &mut sink, &mut watch);
        let Some(done) = tx.unless_gone(work).await else { return };
        match (done, sink.found.take()) {
            (Err(why), Some(found)) => drop(found.send(Err(why))),
            (Err(why), None) => tx.say(&Line::Error(why)).await,
            (Ok(report), _) => tx.say(&Line::Fetched(report)).await,
        }
    });
    // Until the document is found, a failure still has a status of its own.
    match found_rx.await {
        Ok(Err(why)) => refuse_by_kind(&why),
        Ok(Ok(())) | Err(_) => answer,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    key: String,
    sample: Option<usize>,
}

async fn check<H: Operations>(State(service): State<Service<H>>, body: Body) -> Response {
    let asked = parse::<CheckRequest>(body, service.silence).await.and_then(|r| {
        let sample = r.sample.unwrap_or(CHECK_SAMPLE);
        let fetches = (sample > 0).then_some(sample).ok_or_else(|| usage("a check must fetch at least 1 chunk"))?;
        Ok((Key::parse(&r.key).map_err(Failure::mistyped)?, fetches))
    });
    let (key, sample) = match asked {
        Ok(asked) => asked,
        Err(why) => return refuse_by_kind(&why),
    };
    let slot = match service.slot() {
        Ok(slot) => slot,
        Err(answer) => return *answer,
    };
    let (tx, answer) = Lines::new();
    tokio::spawn(async move {
        let _slot = slot;
        let mut watch = tx.watch();
        let work = drive::check(&service.node, &key, sample, &mut watch);
        let Some(done) = tx.unless_gone(work).await else { return };
        tx.say(&done.map_or_else(Line::Error, Line::Checked)).await;
    });
    answer
}

/// The sending side of a streamed answer.
#[derive(Clone)]
struct Lines(mpsc::Sender<io::Result<Bytes>>);

impl Lines {
    fn new() -> (Self, Response) {
        let (tx, body) = ChannelBody::new();
        let answer = ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response();
        (Self(tx), answer)
    }

    async fn say(&self, line: &Line) {
        let _ = self.0.send(Ok(line.encode())).await;
    }

    /// Progress is told when there is room, and otherwise left out.
    fn watch(&self) -> impl FnMut(Progress) + Send + use<> {
        let tx = self.0.clone();
        move |progress| {
            let _ = tx.try_send(Ok(Line::Progress(progress).encode()));
        }
    }

    /// Does the work while somebody listens. `None`: the caller hung up.
    async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.0.closed() => None,
        }
    }
}

/// A document that arrives as a request body, twice if it is to be read twice.
struct BodySource {
    body: Body,
    ready: BytesMut,
    /// What is still to be read of all copies of the announced length.
    left: u64,
    silence: Duration,
}

impl BodySource {
    /// What comes next, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(self.silence, self.body.frame()).await;
            let frame = frame.map_err(|_| silent("the document did not come to its end", self.silence))?;
            match frame.transpose() {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => {}
                },
                Ok(None) => return Ok(None),
                Err(_) => return Err(other_length("the document broke off before its announced length")),
            }
        }
    }

    /// Sees that nothing follows what was announced.
    async fn end(&mut self) -> Result<(), Failure> {
        if !self.ready.is_empty() || self.next().await?.is_some() {
            return Err(other_length("the document is longer than was announced"));
        }
        Ok(())
    }
}

fn other_length(what: &str) -> Failure {
    failure(ErrorKind::Usage, what, NO_KEY, "Send as many bytes as were announced.")
}

impl Source for BodySource {
    async fn read(&mut self, len: usize) -> Result<Bytes, Failure> {
        while self.ready.len() < len {
            match self.next().await? {
                Some(bytes) => self.ready.extend_from_slice(&bytes),
                None => return Err(other_length("the document broke off before its announced length")),
            }
        }
        let bytes = self.ready.split_to(len).freeze();
        self.left = self.left.saturating_sub(bytes.len() as u64);
        // Before the node has the last of it: from then on there may be a key.
        if self.left == 0 {
            self.end().await?;
        }
        Ok(bytes)
    }

    async fn rewind(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// Where a fetched document goes: into the answer.
struct LineSink {
    tx: Lines,
    found: Option<oneshot::Sender<Result<(), Failure>>>,
}

impl Sink for LineSink {
    async fn found(&mut self, found: Found) -> Result<(), Failure> {
        if let Some(tell) = self.found.take() {
            let _ = tell.send(Ok(()));
        }
        self.tx.say(&Line::Found(found)).await;
        Ok(())
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(DATA_MAX));
            // One message: progress from the side must not come between a data line and its bytes.
            let mut message = BytesMut::from(Line::Data(piece.len()).encode());
            message.extend_from_slice(&piece);
            let _ = self.tx.0.send(Ok(message.freeze())).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
