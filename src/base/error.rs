//! Errors sorted by who is to blame, and by what the person in front of the screen can do.

/// Who caused an error. Decides what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The other end sent something wrong: its link or circuit ends, silently and the same way for every cause.
    Peer,
    /// This machine or its user: told to the user, with what was kept and what to do next.
    Local,
    /// Ourselves: closes the smallest machine it touches, and is logged as a bug.
    Bug,
}

/// What a person can do about a failure. Each kind is one exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// A command, key or option is mistyped: correct it. Nothing was sent.
    Usage,
    /// Nobody who was asked holds it, or too few shares are left.
    NotFound,
    /// No relay answers, or too little of the network is known to choose paths safely.
    NoNetwork,
    /// What came back does not verify: the document is void or its key is wrong.
    NotVerified,
    /// A host or this node refused: quota or policy.
    Refused,
    /// Anything else: disk, permissions, a bug.
    Other,
}

impl ErrorKind {
    /// The process exit code that scripts depend on.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NoNetwork => 4,
            Self::NotVerified => 5,
            Self::Refused => 6,
            Self::Other => 1,
        }
    }

    /// The stable word for this kind in JSON output and in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::NoNetwork => "no-network",
            Self::NotVerified => "not-verified",
            Self::Refused => "refused",
            Self::Other => "other",
        }
    }

    /// The inverse of [`ErrorKind::word`]; unknown words are [`ErrorKind::Other`].
    pub fn from_word(word: &str) -> Self {
        [Self::Usage, Self::NotFound, Self::NoNetwork, Self::NotVerified, Self::Refused]
            .into_iter()
            .find(|kind| kind.word() == word)
            .unwrap_or(Self::Other)
    }
}
