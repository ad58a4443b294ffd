//! Placeholder until the documents room moves in: keys.
/// A read key.
#[derive(Clone, Debug)]
pub struct ReadKey;
/// Any key.
#[derive(Clone, Debug)]
pub struct Key;
