//! A running node of this machine, through its socket. The other end is `api`.

use crate::base::ErrorKind;
use crate::base::text::shown;
use crate::client::Publish;
use crate::client::PublishWatch;
use crate::client::Published;
use crate::client::Publishing;
use crate::client::Sink;
use crate::client::Source;
use crate::client::Watch;
use crate::client::failure;
use crate::client::lines::ChannelBody;
use crate::client::lines::Line;
use crate::client::lines::LineReader;
use crate::client::lines::Message;
use crate::client::lines::garbled;
use crate::proto::doc::key::Key;
use crate::proto::doc::key::ReadKey;
use crate::proto::event::CheckReport;
use crate::proto::event::Failure;
use crate::proto::event::Report;
use crate::proto::event::Status;
use bytes::Bytes;
use core::time::Duration;
use http_body_util::BodyExt;
use http_body_util::Either;
use http_body_util::Full;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// How long the socket may take to accept, and a status to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a document that are sent at a time.
const PIECE: u64 = 64 * 1024;
/// The user who may do everything.
const ROOT: u32 = 0;
/// Longest answer that is not a stream.
const ANSWER_MAX: usize = 1 << 20;

/// How often a document is in the body of its publication, one after the other.
pub const fn readings(convergent: bool) -> u64 {
    if convergent { 2 } else { 1 }
}

/// A running node.
#[derive(Clone, Debug)]
pub struct Daemon {
    socket: PathBuf,
}

/// A connection in use. Closed when this is dropped: that is how the node learns that nobody waits any more.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Outgoing = Either<Full<Bytes>, ChannelBody>;

impl Daemon {
    /// The node behind this socket, if one answers. Fails when this user may not ask it.
    pub async fn find(socket: &Path) -> Result<Option<Self>, Failure> {
        let daemon = Self { socket: socket.to_owned() };
        match daemon.dial().await {
            Ok(_) => Ok(Some(daemon)),
            Err(why) if why.kind == ErrorKind::NoNetwork => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Connects, and gives nothing to anybody but a process of this user: a key or a document is the other end's once it is sent.
    async fn dial(&self) -> Result<UnixStream, Failure> {
        let strange = |why: String| {
            let next = "Name a data directory of your own with --data-dir, or ask as the user whose node it is.";
            failure(ErrorKind::Other, why, "Nothing was sent.", next)
        };
        if let Some(why) = standing(&self.socket, me()).await {
            return Err(strange(why));
        }
        match tokio::time::timeout(PATIENCE, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) if peer(&stream) == Some(me()) => Ok(stream),
            Ok(Ok(_)) => Err(strange(format!("a process of another user listens at {}", self.socket.display()))),
            Ok(Err(e)) if e.kind() == io::ErrorKind::PermissionDenied => Err(failure(
                ErrorKind::Other,
                format!("this user may not open the socket {}", shown(&self.socket)),
                "Nothing was sent.",
                "Ask as the user whose node it is, or name a data directory of your own with --data-dir.",
            )),
            Ok(Err(_)) | Err(_) => Err(failure(
                ErrorKind::NoNetwork,
                format!("no node answers at {}", shown(&self.socket)),
                "Nothing was sent.",
                "Start one with `onionskin relay`, or name its data directory with --data-dir.",
            )),
        }
    }

    async fn connect(&self) -> Result<(SendRequest<Outgoing>, Connection), Failure> {
        let stream = TokioIo::new(self.dial().await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|_| broken())?;
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok((sender, Connection(task)))
    }

    async fn ask(&self, method: &str, path: &str, body: Bytes) -> Result<(Response<Incoming>, Connection), Failure> {
        let (mut sender, connection) = self.connect().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Either::Left(Full::new(body)))
            .map_err(|_| garbled())?;
        let response = sender.send_request(request).await.map_err(|_| broken())?;
        Ok((accepted(response).await?, connection))
    }

    /// How the node is.
    pub async fn status(&self) -> Result<Status, Failure> {
        let answer = async {
            let (response, _connection) = self.ask("GET", "/v1/status", Bytes::new()).await?;
            serde_json::from_slice(&whole(response).await?).map_err(|_| garbled())
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(broken()))
    }

    /// Publishes what the source gives.
    pub async fn publish<S: Source>(&self, ask: Publish, source: &mut S, watch: PublishWatch<'_>) -> Result<Published, Failure> {
        let mut path = format!("/v1/publish?length={}&lease={}", ask.length, ask.lease_days);
        for (field, value) in [("name", &ask.name), ("type", &ask.media_type)] {
            if let Some(value) = value {
                let _ = write!(path, "&{field}={}", percent(value));
            }
        }
        if ask.convergent {
            path.push_str("&convergent=true");
        }
        let (feed, body) = ChannelBody::new();
        let readings = readings(ask.convergent);
        let sent = readings * ask.length;
        let request = Request::builder().method("POST").uri(path).header("host", "localhost").header("content-length", sent);
        let request = request.body(Either::Right(body)).map_err(|_| garbled())?;
        let (mut sender, _connection) = self.connect().await?;

        let mut feeding = core::pin::pin!(async {
            for reading in 0..readings {
                if reading > 0 {
                    source.rewind().await?;
                }
                let mut left = ask.length;
                while left > 0 {
                    let piece = left.min(PIECE);
                    let bytes = source.read(piece as usize).await?;
                    // Nobody listens any more: the answer says why.
                    if feed.send(Ok(bytes)).await.is_err() {
                        return core::future::pending().await;
                    }
                    left -= piece;
                }
            }
            drop(feed);
            Ok::<(), Failure>(())
        });
        let mut answering = core::pin::pin!(async {
            let response = sender.send_request(request).await.map_err(|_| broken())?;
            let mut answer = Answer::new(accepted(response).await?);
            loop {
                match answer.next().await? {
                    Message::Line(Line::Progress(progress)) => watch(Publishing::At(progress)),
                    Message::Line(Line::Key(key)) => watch(Publishing::Key(&ReadKey::parse(&key).map_err(|_| garbled())?)),
                    Message::Line(Line::Published { key, report }) => {
                        let key = ReadKey::parse(&key).map_err(|_| garbled())?;
                        return Ok(Published { key, report });
                    }
                    Message::Line(_) | Message::Data(_) => return Err(garbled()),
                }
            }
        });
        let mut fed = false;
        loop {
            tokio::select! {
                answer = &mut answering => return answer,
                // Leaving here closes the connection: the node hears of it and forgets the publication.
                done = &mut feeding, if !fed => { done?; fed = true; }
            }
        }
    }

    /// Fetches a document from byte `offset` on.
    pub async fn get<S: Sink>(&self, key: &ReadKey, offset: u64, sink: &mut S, watch: Watch<'_>) -> Result<Report, Failure> {
        let body = serde_json::json!({ "key": key.to_text(), "offset": offset }).to_string();
        let (response, _connection) = self.ask("POST", "/v1/get", body.into()).await?;
        let mut answer = Answer::new(response);
        let mut left = None;
        loop {
            match answer.next().await? {
                Message::Line(Line::Progress(progress)) => watch(progress),
                Message::Line(Line::Found(found)) => {
                    left = Some(found.length.saturating_sub(offset));
                    sink.found(found).await?;
                }
                Message::Data(bytes) => {
                    left = Some(left.and_then(|l: u64| l.checked_sub(bytes.len() as u64)).ok_or_else(garbled)?);
                    sink.data(bytes).await?;
                }
                Message::Line(Line::Fetched(report)) if left == Some(0) => return Ok(report),
                Message::Line(_) => return Err(garbled()),
            }
        }
    }

    /// Counts living shares.
    pub async fn check(&self, key: &Key, sample: usize, watch: Watch<'_>) -> Result<CheckReport, Failure> {
        // No more than it takes: the verify key.
        let body = serde_json::json!({ "key": key.verify_key().to_text(), "sample": sample }).to_string();
        let (response, _connection) = self.ask("POST", "/v1/check", body.into()).await?;
        let mut answer = Answer::new(response);
        loop {
            match answer.next().await? {
                Message::Line(Line::Progress(progress)) => watch(progress),
                Message::Line(Line::Checked(report)) => return Ok(report),
                Message::Line(_) | Message::Data(_) => return Err(garbled()),
            }
        }
    }
}

/// Who this process acts as.
fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Who is at the other end: of a listener, whoever began to listen.
fn peer(stream: &UnixStream) -> Option<u32> {
    stream.peer_cred().ok().map(|peer| peer.uid())
}

/// Whether the API answers this caller: one of its own user, or of the system's, who may read all of this process anyway.
pub fn may_call(stream: &UnixStream) -> bool {
    is_allowed(peer(stream), me())
}

const fn is_allowed(caller: Option<u32>, me: u32) -> bool {
    matches!(caller, Some(caller) if caller == me || caller == ROOT)
}

/// What of a socket and its directory lets others put theirs in its place, if anything does. Nothing is wrong with one that is not
/// there.
async fn standing(socket: &Path, me: u32) -> Option<String> {
    let meta = tokio::fs::metadata(socket).await.ok()?;
    let directory = socket.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let around = tokio::fs::metadata(directory).await.ok()?;
    if let Some(why) = doubt(around.uid(), around.mode(), &[me, ROOT]) {
        return Some(format!("the directory {} {why}", directory.display()));
    }
    doubt(meta.uid(), meta.mode(), &[me]).map(|why| format!("the socket {} {why}", socket.display()))
}

/// Why a file of this owner and mode is not only ours to change.
fn doubt(owner: u32, mode: u32, owners: &[u32]) -> Option<&'static str> {
    if !owners.contains(&owner) {
        return Some("belongs to another user");
    }
    (mode & 0o022 != 0).then_some("may be written by other users")
}

/// The messages of a streamed answer.
struct Answer {
    body: Incoming,
    lines: LineReader,
}

impl Answer {
    fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), lines: LineReader::default() }
    }

    /// The next message; an `error` line is the error.
    async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            match self.lines.take()? {
                Some(Message::Line(Line::Error(why))) => return Err(why),
                Some(message) => return Ok(message),
                None => {}
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.lines.feed(bytes);
                    }
                }
                Some(Err(_)) | None => return Err(broken()),
            }
        }
    }
}

/// Passes a success on, and turns any other answer into its failure.
async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    match serde_json::from_slice(&whole(response).await?) {
        Ok(Line::Error(why)) => Err(why),
        Ok(_) | Err(_) => Err(garbled()),
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX);
    Ok(body.collect().await.map_err(|_| broken())?.to_bytes())
}

fn broken() -> Failure {
    failure(ErrorKind::Other, "the running node broke the connection off", "", "See whether it still runs: `onionskin status`.")
}

/// A query value: everything but letters, digits and `-._` as `%xx`.
fn percent(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._".contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const ME: u32 = 1000;
    const OTHER: u32 = 1001;

    #[test]
    fn only_what_no_other_user_can_change_is_trusted() {
        for mode in [0o40700, 0o40755, 0o40750, 0o42750] {
            assert_eq!(doubt(ME, mode, &[ME, ROOT]), None, "{mode:o}");
            assert_eq!(doubt(ROOT, mode, &[ME, ROOT]), None, "{mode:o}");
            assert!(doubt(OTHER, mode, &[ME, ROOT]).is_some(), "{mode:o}");
        }
        for mode in [0o40770, 0o40777, 0o41777, 0o40702, 0o42770] {
            assert!(doubt(ME, mode, &[ME, ROOT]).is_some(), "{mode:o}");
        }
        // Nobody but ourselves makes our socket.
        assert!(doubt(ROOT, 0o140600, &[ME]).is_some());
        assert!(is_allowed(Some(ME), ME) && is_allowed(Some(ROOT), ME));
        assert!(!is_allowed(Some(OTHER), ME) && !is_allowed(Some(OTHER), ROOT) && !is_allowed(None, ME));
    }

    #[tokio::test]
    async fn a_socket_that_others_may_replace_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&path, 0o600);
        assert!(Daemon::find(&path).await.unwrap().is_some());
        for (of, mode, good) in [(dir.path(), 0o777, 0o700), (dir.path(), 0o720, 0o700), (&path, 0o666, 0o600)] {
            set(of, mode);
            let why = Daemon::find(&path).await.unwrap_err();
            assert!(why.what.contains("may be written by other users") && why.kept == "Nothing was sent.", "{why:?}");
            set(of, good);
        }
        assert!(Daemon::find(&path).await.unwrap().is_some());
        // One who may give files away shows the rest with real ones.
        if me() == ROOT {
            std::os::unix::fs::chown(&path, Some(OTHER), None).unwrap();
            assert!(Daemon::find(&path).await.unwrap_err().what.contains("belongs to another user"));
            std::os::unix::fs::chown(&path, Some(ROOT), None).unwrap();
            set(dir.path(), 0o755);
            std::os::unix::fs::chown(dir.path(), Some(OTHER), None).unwrap();
            assert!(Daemon::find(&path).await.unwrap_err().what.contains("belongs to another user"));
        }
    }

    /// Files can be ours while the process behind them is not.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_process_of_another_user_is_given_nothing() {
        if me() != ROOT {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let there = path.clone();
        let listener = std::thread::spawn(move || {
            rustix::thread::set_thread_res_uid(None, rustix::process::Uid::from_raw(OTHER), None).unwrap();
            std::os::unix::net::UnixListener::bind(there).unwrap()
        });
        let _listener = listener.join().unwrap();
        for file in [&path, dir.path()] {
            std::os::unix::fs::chown(file, Some(ROOT), None).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let why = Daemon::find(&path).await.unwrap_err();
        assert!(why.what.contains("a process of another user listens"), "{why:?}");
    }
}
