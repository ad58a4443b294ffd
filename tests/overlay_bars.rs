//! Bars that the overlay holds, small enough for every run. `cargo bench --bench overlay` measures the same at length.

mod capture;

/// Whoever wants to make one chosen key unretrievable among 2,000 hosts rents 400 addresses or more, whatever of what is known here
/// he tries.
#[test]
fn one_key_costs_hundreds_of_addresses() {
    for seed in [1, 2] {
        let figures = capture::search(2000, seed);
        println!("{} hosts, seed {seed}:", figures.hosts);
        for cost in &figures.costs {
            let capture::Cost { attack, succeeds, addresses, prefixes, groups } = cost;
            let end = if *succeeds { "lost" } else { "kept" };
            println!("  {end} with {addresses} addresses, {prefixes} /24s, {groups} /16s: {attack}");
        }
        assert!(figures.best().addresses >= 400, "{:?}", figures.best());
    }
}
