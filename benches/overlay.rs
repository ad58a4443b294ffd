//! The overlay against time, liars and cost: `cargo bench --bench overlay`, or `-- --quick` for less of everything. A word behind it
//! picks the parts whose name contains it. Everything runs the real node logic in virtual time; seeds are printed.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../tests/capture/mod.rs"]
mod capture;
#[path = "../tests/sim/mod.rs"]
mod sim;

#[path = "overlay/capture.rs"]
mod capturing;
#[path = "overlay/cost.rs"]
mod cost;
#[path = "overlay/eclipse.rs"]
mod eclipse;
#[path = "overlay/faces.rs"]
mod faces;
#[path = "overlay/fingerprint.rs"]
mod fingerprint;
#[path = "overlay/first_list.rs"]
mod first_list;
#[path = "overlay/lifelike.rs"]
mod lifelike;
#[path = "overlay/machines.rs"]
mod machines;
#[path = "overlay/months.rs"]
mod months;
#[path = "overlay/provider.rs"]
mod provider;
#[path = "overlay/squatters.rs"]
mod squatters;
#[path = "overlay/table.rs"]
mod table;

use table::Row;

/// A part of the bench: its name, and what makes its rows.
type Part = (&'static str, fn(bool) -> Vec<Row>);

const PARTS: [Part; 10] = [
    ("capture", capturing::rows),
    ("cost", cost::rows),
    ("eclipse", eclipse::rows),
    ("faces", faces::rows),
    ("fingerprint", fingerprint::rows),
    ("first-list", first_list::rows),
    ("lifelike", lifelike::rows),
    ("months", months::rows),
    ("provider", provider::rows),
    ("squatters", squatters::rows),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let quick = args.iter().any(|arg| arg == "--quick");
    let wanted = args.iter().find(|arg| !arg.starts_with("--"));
    let mut all = true;
    for (name, part) in PARTS {
        if wanted.is_none_or(|wanted| name.contains(wanted.as_str())) {
            all &= table::print(&part(quick));
        }
    }
    println!("{}", if all { "all bars hold" } else { "some bars are missed" });
}
