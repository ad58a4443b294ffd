//! STAND-IN for the document room's keys, so that the rooms above compile. To be replaced whole.

use data_encoding::HEXLOWER;

/// Opens a document.
#[derive(Clone, Debug)]
pub struct ReadKey(pub [u8; 4]);
/// Checks and repairs a document.
#[derive(Clone, Debug)]
pub struct VerifyKey(pub [u8; 4]);
/// Any key.
#[derive(Clone, Debug)]
pub enum Key {
    /// See [`ReadKey`].
    Read(ReadKey),
    /// See [`VerifyKey`].
    Verify(VerifyKey),
}

/// This is not a key.
#[derive(Clone, Copy, Debug)]
pub struct BadKey;

impl ReadKey {
    /// From text.
    pub fn decode_text(text: &str) -> Result<Self, BadKey> {
        match Key::decode_text(text)? {
            Key::Read(key) => Ok(key),
            Key::Verify(_) => Err(BadKey),
        }
    }

    /// To text.
    pub fn encode_text(&self) -> String {
        format!("r{}", HEXLOWER.encode(&self.0))
    }

    /// The verify key.
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.0)
    }
}

impl VerifyKey {
    /// To text.
    pub fn encode_text(&self) -> String {
        format!("v{}", HEXLOWER.encode(&self.0))
    }
}

impl Key {
    /// From text.
    pub fn decode_text(text: &str) -> Result<Self, BadKey> {
        let (kind, rest) = text.split_at_checked(1).ok_or(BadKey)?;
        let bytes = HEXLOWER.decode(rest.as_bytes()).map_err(|_| BadKey)?.try_into().map_err(|_| BadKey)?;
        match kind {
            "r" => Ok(Self::Read(ReadKey(bytes))),
            "v" => Ok(Self::Verify(VerifyKey(bytes))),
            _ => Err(BadKey),
        }
    }

    /// To text.
    pub fn encode_text(&self) -> String {
        match self {
            Self::Read(key) => key.encode_text(),
            Self::Verify(key) => key.encode_text(),
        }
    }
}
