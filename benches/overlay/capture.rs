//! What it costs to silence one key (G5): the cheapest of the attacks that `tests/capture` searches through.

use crate::capture::search;
use crate::table::Row;

/// Addresses that silencing a key has to cost at least, and the /16s that they lie in.
const ADDRESSES: usize = 400;
const GROUPS: usize = 130;

/// One row for each size of a network.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    let setups: &[(usize, u64)] = if quick { &[(2000, 1)] } else { &[(2000, 6), (10_000, 2)] };
    let mut rows = Vec::new();
    for (hosts, keys) in setups {
        let found: Vec<_> = (1..=*keys).map(|seed| search(*hosts, seed)).collect();
        for figures in &found {
            let best = figures.best();
            println!(
                "{} hosts: {} addresses, {} /24s, {} /16s: {}",
                figures.hosts, best.addresses, best.prefixes, best.groups, best.attack
            );
        }
        let least = |of: fn(&crate::capture::Cost) -> usize| found.iter().map(|f| of(f.best())).min().unwrap_or(0);
        let (addresses, groups) = (least(|c| c.addresses), least(|c| c.groups));
        rows.push(Row {
            what: "key capture (G5): addresses rented to silence one key, the cheapest attack".into(),
            setup: format!("{hosts} hosts, {keys} keys, seeds 1 to {keys}, real positions"),
            figure: format!("{addresses} addresses; in {groups} /16s at the least"),
            bar: format!("{ADDRESSES} addresses in {GROUPS} /16s"),
            holds: addresses >= ADDRESSES && groups >= GROUPS,
        });
    }
    rows
}
