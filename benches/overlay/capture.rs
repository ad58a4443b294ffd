//! What it costs to silence one key (G5): the cheapest of the attacks that `tests/capture` searches through.

use crate::capture::Cost;
use crate::capture::Figures;
use crate::capture::search;
use crate::table::Row;

/// Addresses that silencing a key has to cost at least, and the /16s that they lie in.
const ADDRESSES: usize = 400;
const GROUPS: usize = 130;

/// Two rows for each size of a network.
pub(crate) fn rows(quick: bool) -> Vec<Row> {
    // Hosts, keys, and the addresses at which an attack is given up.
    let setups: &[(usize, u64, usize)] = if quick { &[(2000, 1, 1600)] } else { &[(2000, 6, 6000), (10_000, 2, 6000)] };
    setups.iter().flat_map(|(hosts, keys, most)| of_size(*hosts, *keys, *most)).collect()
}

fn of_size(hosts: usize, keys: u64, most: usize) -> [Row; 2] {
    let found: Vec<Figures> = (1..=keys).map(|seed| search(hosts, seed, most)).collect();
    for (figures, seed) in found.iter().zip(1..) {
        println!("{} hosts, seed {seed}: {}", figures.hosts, figures.best());
        if let Some(few) = figures.best_below(GROUPS) {
            println!("{} hosts, seed {seed}: {few}", figures.hosts);
        }
    }
    let setup = format!("{hosts} hosts, {keys} keys, seeds 1 to {keys}, real positions, attacks up to {most} addresses");
    let mut costs: Vec<usize> = found.iter().map(|figures| figures.best().addresses).collect();
    costs.sort_unstable();
    let (least, median) = (costs.first().copied().unwrap_or(0), costs.get(costs.len() / 2).copied().unwrap_or(0));
    let few: Option<&Cost> = found.iter().filter_map(|figures| figures.best_below(GROUPS)).min_by_key(|cost| cost.addresses);
    let in_few = few.map_or("none succeeds".into(), |cost| format!("{} addresses in {} /16s", cost.addresses, cost.groups));
    [
        Row {
            what: "key capture (G5): addresses rented to silence one key, the cheapest attack".into(),
            setup: setup.clone(),
            figure: format!("{least} addresses, median {median}"),
            bar: format!("{ADDRESSES} addresses"),
            holds: least >= ADDRESSES,
        },
        Row {
            what: "key capture (G5): the cheapest attack that uses few /16s".into(),
            setup,
            figure: in_few,
            bar: format!("none in fewer than {GROUPS} /16s"),
            holds: few.is_none(),
        },
    ]
}
