//! The table that the bench prints: what, in which setup, the figure, the bar, and whether it holds.

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is measured.
    pub what: String,
    /// In which setup, with its seeds.
    pub setup: String,
    /// What came out, with its unit.
    pub figure: String,
    /// What it has to be.
    pub bar: String,
    /// Whether it is.
    pub holds: bool,
}

/// Prints rows under each other; returns whether all hold.
pub fn print(rows: &[Row]) -> bool {
    for row in rows {
        let verdict = if row.holds { "holds" } else { "misses" };
        println!("{verdict:6} | {} | {} | {} | bar: {}", row.what, row.setup, row.figure, row.bar);
    }
    rows.iter().all(|row| row.holds)
}
