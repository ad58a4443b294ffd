//! `publish`, `get`, `check`, `status`: one code path, whether the node runs in this process or behind its socket.

use crate::base::ErrorKind;
use crate::base::text::harmless;
use crate::base::text::shown;
use crate::cli::args::Check;
use crate::cli::args::Get;
use crate::cli::args::Publish;
use crate::cli::kept::Keeper;
use crate::cli::keys;
use crate::cli::output::Out;
use crate::cli::output::hex_unless_text;
use crate::cli::session;
use crate::cli::session::Session;
use crate::cli::stop::unless_stopped;
use crate::client;
use crate::client::Found;
use crate::client::Publishing;
use crate::client::daemon::Daemon;
use crate::client::failure;
use crate::client::files;
use crate::client::files::FileSource;
use crate::client::files::StreamSink;
use crate::client::target;
use crate::client::target::Target;
use crate::config::Config;
use crate::proto::doc::key::Key;
use crate::proto::event::CheckReport;
use crate::proto::event::Failure;
use crate::proto::event::NO_KEY;
use crate::proto::event::Report;
use crate::proto::event::Status;
use crate::proto::event::count;
use crate::proto::event::size;
use serde::Serialize;
use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

// --- publish

#[derive(Serialize)]
struct PublishedJson<'a> {
    key: &'a str,
    report: &'a Report,
}

/// Publishes a file; prints its key.
pub(super) async fn publish(out: Out, config: &Config, args: &Publish) -> Result<(), Failure> {
    if args.slow {
        return Err(failure(
            ErrorKind::Usage,
            "publishing slowly is not available in this release",
            "Nothing was sent.",
            "Publish without --slow. If somebody may watch your line, publish from one that is not tied to you.",
        ));
    }
    if !args.convergent {
        key_is_heard()?;
    }
    out.ready().map_err(in_vain)?;
    let keeper = Keeper::new(out, config);
    let begun = AtomicBool::new(false);
    let work = async {
        let mut source = if args.path == Path::new("-") {
            not_empty(FileSource::spool(tokio::io::stdin()).await?, args)?
        } else {
            FileSource::open(&args.path).await?
        };
        let ask = client::Publish {
            length: source.length(),
            name: args.name.clone(),
            media_type: args.media_type.clone(),
            lease_days: args.lease.unwrap_or(config.lease_days),
            convergent: args.convergent,
        };
        let session = Session::open(out, config).await?;
        let local = (args.convergent && !session.is_daemon()).then(|| session::local_secret(config)).transpose()?;
        let bar = out.bar("publishing");
        begun.store(true, Ordering::Relaxed);
        let mut watch = |told: Publishing<'_>| match told {
            Publishing::At(progress) => bar.show(progress),
            Publishing::Key(key) => keeper.keep(key),
        };
        let done = session.node.publish(ask, local, &mut source, &mut watch).await;
        drop(bar);
        match done {
            Ok(done) => Ok((session, done)),
            Err(why) => {
                session.close().await;
                Err(match keeper.told() {
                    Some(kept) => Failure { kept, ..why },
                    None => why,
                })
            }
        }
    };
    let told = || {
        let kept =
            keeper.told().unwrap_or_else(|| if begun.load(Ordering::Relaxed) { NO_KEY } else { "Nothing was sent." }.to_owned());
        (kept, "A repeat starts from the beginning (with --convergent, under the same key).")
    };
    let (session, done) = unless_stopped(work, told).await?;
    // The key is out before anything else can go wrong.
    keeper.keep(&done.key);
    let key = done.key.to_text();
    out.note(&format!(
        "published {} in {}: {} shares at {} hosts",
        size(done.report.bytes),
        count(done.report.chunks, "chunk"),
        done.report.shares,
        done.report.hosts
    ));
    let printed = out.either(|| key.clone(), &PublishedJson { key: &key, report: &done.report });
    if printed.is_ok() {
        keeper.handed_out();
    }
    session.close().await;
    printed.map_err(|why| Failure {
        what: format!("the document is published, and its key could not be handed out: {}", why.what),
        kept: keeper.told().unwrap_or(why.kept),
        next: "Take the key from there; nothing needs to be published again.".to_owned(),
        kind: why.kind,
    })
}

/// Told also where nobody reads any more: what was asked for is more than words on standard output.
fn in_vain(why: Failure) -> Failure {
    Failure { what: format!("the result cannot be handed out: {}", why.what), ..why }
}

/// A program that failed before the pipe gives nothing, and a key for nothing would look like success.
fn not_empty(source: FileSource, args: &Publish) -> Result<FileSource, Failure> {
    if source.length() > 0 || args.allow_empty {
        return Ok(source);
    }
    Err(failure(
        ErrorKind::Usage,
        "standard input was empty",
        "Nothing was sent.",
        "See whether the program before it worked. To publish an empty document, add --allow-empty.",
    ))
}

/// Whether the key will be seen by anybody; a document with a convergent one can be published again for it. A standard output that
/// was closed is /dev/null by now.
fn key_is_heard() -> Result<(), Failure> {
    let device = |path: &str| fs::metadata(path).ok().map(|meta| meta.rdev());
    if device("/dev/null").is_some_and(|nowhere| nowhere != 0 && device("/dev/stdout") == Some(nowhere)) {
        return Err(failure(
            ErrorKind::Usage,
            "standard output goes nowhere, and the key with it: without the key nobody could read the document",
            "Nothing was sent.",
            "Let standard output go to the terminal, a file, or another program.",
        ));
    }
    Ok(())
}

// --- get

#[derive(Serialize)]
struct FetchedJson<'a> {
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    length: u64,
    name: Option<&'a str>,
    media_type: Option<&'a str>,
    resumed: u64,
    report: &'a Report,
}

fn note_found(out: Out, found: &Found) {
    if let Some(name) = &found.name {
        out.note(&format!("its publisher calls it: {name}"));
    }
}

/// Fetches a document into a file or to standard output.
pub(super) async fn get(out: Out, config: &Config, args: &Get) -> Result<(), Failure> {
    let key = keys::take_read(&args.key)?;
    let tag = target::tag(&key);
    if args.output.as_deref() == Some(Path::new("-")) {
        if out.json {
            return Err(failure(
                ErrorKind::Usage,
                "standard output cannot carry the document and a JSON object",
                "Nothing was sent.",
                "Name a file with -o, or leave --json out.",
            ));
        }
        let begun = AtomicBool::new(false);
        let work = async {
            out.ready()?;
            let session = Session::open(out, config).await?;
            let bar = out.bar("fetching");
            let mut sink = StreamSink::new(tokio::io::stdout(), &begun);
            let done = session.node.get(&key, 0, &mut sink, &mut |progress| bar.show(progress)).await;
            drop(bar);
            session.close().await;
            done.map(|_| sink.into_parts().1)
        };
        let told = || {
            let written = "What was written so far is verified and not the whole document.";
            (
                if begun.load(Ordering::Relaxed) { written.to_owned() } else { String::new() },
                "A repeat starts from the beginning; with -o FILE it would go on.",
            )
        };
        let found = unless_stopped(work, told).await?;
        note_found(out, &found);
        return Ok(());
    }
    out.ready().map_err(in_vain)?;
    let target = Target::settle(args.output.as_deref(), &tag, args.force)?;
    let work = async {
        // Before anything is sent: a place that cannot be written to is known at once.
        let part = files::Part::open(target.clone()).await?;
        let session = match Session::open(out, config).await {
            Ok(session) => session,
            Err(why) => return Err(part.leave(why)),
        };
        let bar = out.bar("fetching");
        let done = files::get_to_part(&session.node, &key, part, &mut |progress| bar.show(progress)).await;
        drop(bar);
        session.close().await;
        done
    };
    let told = || match files::left_behind(&target) {
        Some(kept) => (kept, "Repeat the command to go on."),
        None => (String::new(), "Repeat the command."),
    };
    let done = unless_stopped(work, told).await?;
    note_found(out, &done.found);
    out.either(
        || format!("{} ({})", shown(&done.path), size(done.found.length)),
        &FetchedJson {
            path: done.path.to_string_lossy(),
            path_hex: hex_unless_text(&done.path),
            length: done.found.length,
            name: done.found.name.as_deref(),
            media_type: done.found.media_type.as_deref(),
            resumed: done.resumed,
            report: &done.report,
        },
    )
    .map_err(|why| Failure { kept: format!("The whole document is in {}.", shown(&done.path)), ..in_vain(why) })
}

// --- check

/// A check in words.
fn checked(report: &CheckReport) -> String {
    let verdict = if report.chunks_lost > 0 && report.chunks_lost == report.chunks_sampled {
        "no fetched chunk can be rebuilt: unless hosts come back, the document is lost; publish it again if you have it".to_owned()
    } else if report.chunks_lost > 0 {
        format!(
            "{} of the fetched chunks cannot be rebuilt from their own shares; the document may still open, from its parity: publish it \
             again while you can",
            report.chunks_lost
        )
    } else {
        "every fetched chunk can be rebuilt".to_owned()
    };
    format!(
        "{verdict}\nshares     {} of {} seen in {} fetched chunks; the weakest has {}, and {} are needed\nchunks     {} in all: {} fetched, \
         {} claimed",
        report.shares_seen,
        report.shares_possible,
        report.chunks_sampled,
        report.weakest,
        report.needed,
        report.chunks,
        report.chunks_sampled,
        report.chunks.saturating_sub(report.chunks_sampled),
    )
}

/// Counts the living shares of a document. Gives the exit code: a document that has lost chunks is reported, and not found whole.
pub(super) async fn check(out: Out, config: &Config, args: &Check) -> Result<u8, Failure> {
    let key: Key = keys::take(&args.key)?;
    out.ready()?;
    let work = async {
        let session = Session::open(out, config).await?;
        let bar = out.bar("checking");
        let done = session.node.check(&key, args.sample, &mut |progress| bar.show(progress)).await;
        drop(bar);
        session.close().await;
        done
    };
    let report = unless_stopped(work, || (String::new(), "Repeat the command.")).await?;
    out.either(|| checked(&report), &report)?;
    // The report itself says what is lost; scripts get the exit code.
    Ok(if report.chunks_lost > 0 { ErrorKind::NotFound.exit_code() } else { 0 })
}

// --- status

/// How many of the relays known answer. Those of which nothing is known lately are in neither figure.
fn answering(status: &Status) -> String {
    match (status.answering, status.silent) {
        (Some(answering), Some(silent)) => {
            format!("; {answering} answered within the last hour, {silent} did not when last dialled")
        }
        _ => String::new(),
    }
}

/// The own clock against those of others, whose difference this is.
fn clock(secs: i64) -> String {
    match secs {
        0 => "as others have it".to_owned(),
        _ => format!("{} {} that of others", count(secs.unsigned_abs(), "second"), if secs > 0 { "behind" } else { "ahead of" }),
    }
}

/// Shows how the running node is.
pub(super) async fn status(out: Out, config: &Config) -> Result<(), Failure> {
    let socket = config.socket()?;
    let node = Daemon::find(&socket).await?.ok_or_else(|| {
        failure(
            ErrorKind::NoNetwork,
            format!("no node answers at {}", shown(&socket)),
            "",
            "Start one with `onionskin relay`, or name its data directory with --data-dir.",
        )
    })?;
    let status = node.status().await?;
    let people = || {
        let coverage = status.coverage.map_or_else(|| "not measured yet".to_owned(), |c| format!("{c} %"));
        let mut text = format!(
            "ready      {}\nrelays     {} known, {} of them hosts, in {} address groups{}\ncoverage   {coverage}\nlinks      {}\n\
             circuits   {} own, {} carried for others",
            if status.ready { "yes" } else { "no" },
            status.relays,
            status.hosts,
            status.groups,
            answering(&status),
            status.links,
            status.circuits_own,
            status.circuits_carried,
        );
        if let Some(reach) = &status.reach {
            text.push_str(&format!("\nreached    {} at {}", if reach.holds { "yes," } else { "no," }, reach.address));
            text.push_str(&format!(", by {} ({} needed)", count(u64::from(reach.came_back), "relay"), reach.needed));
            if let Some(there) = reach.elsewhere {
                text.push_str(&format!("; found at {there} instead"));
            }
        }
        if let Some(store) = &status.store {
            text.push_str(&format!(
                "\nstore      {} of {}, {}",
                size(store.bytes),
                size(store.quota),
                count(store.shares, "share")
            ));
        }
        if let Some(handles) = &status.handles {
            text.push_str(&format!("\nhandles    {} of {}", handles.open, handles.limit));
        }
        if let Some(secs) = status.clock_offset_secs {
            text.push_str(&format!("\nclock      {}", clock(secs)));
        }
        for warning in &status.warnings {
            text.push_str("\nwarning    ");
            text.push_str(&harmless(warning));
        }
        if let Some(link) = &status.link {
            text.push_str("\nlink       ");
            text.push_str(&harmless(link));
        }
        text
    };
    out.either(people, &status)
}
