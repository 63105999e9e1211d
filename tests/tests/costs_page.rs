//! `docs/costs.md` is made of `tools/src/costs.rs`: its tables are those that are computed.

use farshore::costs;
use farshore_tests::deps::repository;

#[test]
fn the_tables_of_the_page_are_those_that_are_computed() {
    let page = std::fs::read_to_string(repository().join("docs/costs.md")).unwrap();
    for table in [costs::price_table(), costs::table(), costs::data_table()] {
        assert!(page.contains(&table), "docs/costs.md has not this table:\n{table}");
    }
}
