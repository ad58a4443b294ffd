//! The table that the bench prints: what, in which setup, the figure, the bar, and whether it holds.

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What is measured.
    pub(crate) what: String,
    /// In which setup, with its seeds.
    pub(crate) setup: String,
    /// What came out, with its unit.
    pub(crate) figure: String,
    /// What it has to be.
    pub(crate) bar: String,
    /// Whether it is.
    pub(crate) holds: bool,
}

/// Prints rows under each other; returns whether all hold.
pub(crate) fn print(rows: &[Row]) -> bool {
    for row in rows {
        let verdict = if row.holds { "holds" } else { "misses" };
        println!("{verdict:6} | {} | {} | {} | bar: {}", row.what, row.setup, row.figure, row.bar);
    }
    rows.iter().all(|row| row.holds)
}
