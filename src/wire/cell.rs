//! The cell: the one unit on every link.
//!
//! ```text
//! link cell   circuit u32 | command u8 | body (BODY bytes)
//! relay body  tag (16) | relay command u8 | stream u16 | length u16 | data (RELAY_DATA bytes; what is past `length` is random)
//! ```
//!
//! The size (D3): 16 cells carry a 32 KiB share and 4 cells an 8 KiB one with < 4 % waste, a hybrid handshake fits one cell, the
//! part of the body behind the tag is a whole number of cipher blocks, and 7 cells fill a TLS record to 92 %.

use crate::base::CircuitId;
use crate::base::StreamId;
use crate::wire::codec::DecodeError;

/// Bytes of circuit id and command in front of a body.
pub const HEADER: usize = 5;
/// Bytes of a cell's body: a tag and 133 cipher blocks.
pub const BODY: usize = TAG + 133 * 16;
/// Bytes of a whole cell on a link.
pub const CELL: usize = HEADER + BODY;
/// Bytes of the tag in front of a relay cell's body (Counter Galois Onion).
pub const TAG: usize = 16;
/// Bytes of a relay message's header: command, stream, length.
pub const RELAY_HEADER: usize = 5;
/// Most bytes of data in one relay message.
pub const RELAY_DATA: usize = BODY - TAG - RELAY_HEADER;
/// Most cells of the answer to a question about the public view: half of the first window of a circuit's leg, so that two fit.
pub const ANSWER_CELLS: usize = 16;
/// Most bytes of such an answer: what those cells carry behind the length.
pub const ANSWER_MAX: usize = ANSWER_CELLS * RELAY_DATA - 4;

/// What a link cell is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Command {
    /// Keep-alive and padding; ignored, but that one whose first byte is 1 wants another back.
    Padding = 0,
    /// First hop of a circuit: a handshake message.
    Create = 1,
    /// Its answer.
    Created = 2,
    /// A relay cell.
    Relay = 3,
    /// The circuit ends. Carries no reason (D6, T10).
    Destroy = 4,
    /// Credits for many circuits of this link at once.
    Credit = 5,
    /// The first cell of either end.
    Hello = 6,
    /// A fragment of an overlay message; circuit id zero.
    Overlay = 7,
    /// A last hop opens a leg to a host on this circuit id.
    Leg = 8,
    /// A relay cell that may carry an extend; at most `EARLY_MAX` of them pass on one circuit.
    RelayEarly = 9,
}

impl Command {
    /// From its wire form.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Padding,
            1 => Self::Create,
            2 => Self::Created,
            3 => Self::Relay,
            4 => Self::Destroy,
            5 => Self::Credit,
            6 => Self::Hello,
            7 => Self::Overlay,
            8 => Self::Leg,
            9 => Self::RelayEarly,
            _ => return None,
        })
    }
}

/// A cell's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The circuit on this link; `None` is the link itself.
    pub circuit: Option<CircuitId>,
    /// What the cell is for.
    pub command: Command,
}

impl Header {
    /// Reads the header of a cell. Commands that belong to the link must come with circuit zero, all others with another.
    pub fn read(cell: &[u8; CELL]) -> Result<Self, DecodeError> {
        let [a, b, c, d, raw, ..] = *cell;
        let circuit = CircuitId::new(u32::from_be_bytes([a, b, c, d]));
        let command = Command::from_u8(raw).ok_or(DecodeError::Invalid)?;
        let of_link = matches!(command, Command::Padding | Command::Credit | Command::Hello | Command::Overlay);
        if of_link == circuit.is_some() {
            return Err(DecodeError::Invalid);
        }
        Ok(Self { circuit, command })
    }

    /// Writes the header into a cell.
    pub fn write(self, cell: &mut [u8; CELL]) {
        let [a, b, c, d] = self.circuit.map_or(0, CircuitId::get).to_be_bytes();
        let (head, _) = split_mut(cell);
        *head = [a, b, c, d, self.command as u8];
    }
}

/// Whether a whole cell is nothing but padding.
pub fn is_padding(cell: &[u8]) -> bool {
    cell.get(HEADER - 1) == Some(&(Command::Padding as u8))
}

/// A cell's body.
pub fn body(cell: &[u8; CELL]) -> &[u8; BODY] {
    match cell.last_chunk::<BODY>() {
        Some(body) => body,
        None => unreachable!("BODY < CELL"),
    }
}

/// A cell's header bytes and body.
pub fn split_mut(cell: &mut [u8; CELL]) -> (&mut [u8; HEADER], &mut [u8; BODY]) {
    match cell.split_first_chunk_mut::<HEADER>() {
        Some((head, rest)) => match rest.first_chunk_mut::<BODY>() {
            Some(body) => (head, body),
            None => unreachable!("HEADER + BODY = CELL"),
        },
        None => unreachable!("HEADER < CELL"),
    }
}

/// What a relay message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RelayCommand {
    /// Client to last hop: extend the circuit by one relay.
    Extend = 1,
    /// Its answer: the new hop's handshake reply.
    Extended = 2,
    /// Client to last hop: open a leg to a host on this stream.
    Begin = 3,
    /// Bytes of a sealed request or response.
    Data = 4,
    /// The stream ends: the host is gone, out of reach, or closed it. No reason.
    End = 5,
    /// Padding inside the circuit; ignored.
    Drop = 6,
    /// Client to last hop: a question about the public view (D8), one overlay message in one cell.
    Directory = 7,
    /// Its answer, or a part of it: `total u32 | bytes` in the first cell, the bytes that follow in the next ones. All but the last
    /// are full. A total of zero: the answer would be longer than [`ANSWER_MAX`].
    DirectoryReply = 8,
}

impl RelayCommand {
    /// From its wire form.
    pub const fn from_u8(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Extend,
            2 => Self::Extended,
            3 => Self::Begin,
            4 => Self::Data,
            5 => Self::End,
            6 => Self::Drop,
            7 => Self::Directory,
            8 => Self::DirectoryReply,
            _ => return None,
        })
    }
}

/// A relay message inside a body whose layers are off.
#[derive(Clone, Copy, Debug)]
pub struct RelayMessage<'a> {
    /// What it says.
    pub command: RelayCommand,
    /// Which stream of the circuit; zero is the circuit itself.
    pub stream: StreamId,
    /// At most [`RELAY_DATA`] bytes.
    pub data: &'a [u8],
}

impl<'a> RelayMessage<'a> {
    /// Reads the message behind the tag.
    pub fn read(body: &'a [u8; BODY]) -> Result<Self, DecodeError> {
        let mut r = crate::wire::codec::Reader::new(body);
        r.take(TAG)?;
        let command = RelayCommand::from_u8(r.u8()?).ok_or(DecodeError::Invalid)?;
        let stream = StreamId(r.u16()?);
        let n = usize::from(r.u16()?);
        Ok(Self { command, stream, data: r.take(n)? })
    }

    /// Writes the message behind the tag. What is left of the body keeps its bytes: callers hand in random or zero ones.
    /// Data longer than [`RELAY_DATA`] is a bug and is cut.
    pub fn write(&self, body: &mut [u8; BODY]) {
        debug_assert!(self.data.len() <= RELAY_DATA);
        let n = self.data.len().min(RELAY_DATA);
        let [s0, s1] = self.stream.0.to_be_bytes();
        let [n0, n1] = u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let head = [self.command as u8, s0, s1, n0, n1];
        // Two copies, not a loop over bytes: it runs for every cell that is made here.
        if let Some((to, rest)) = body.split_at_mut(TAG).1.split_first_chunk_mut()
            && let (Some(to_data), Some(data)) = (rest.get_mut(..n), self.data.get(..n))
        {
            *to = head;
            to_data.copy_from_slice(data);
        }
    }
}
