//! Rows that were made from one EWoK item are told to be no independent draws.

use std::collections::HashMap;

use bheval_data::locate::Folders;
use bheval_tests::data;

fn sizes(task: &str) -> HashMap<usize, usize> {
    let folders = Folders::from_env(Some(data()), true).expect("folders");
    let loaded = bheval_tasks::select(task).expect("known").remove(0).task.load(&folders).expect("loads");
    let mut clusters: HashMap<(usize, usize), usize> = HashMap::new();
    for item in &loaded.items {
        *clusters.entry((item.subset, item.cluster)).or_default() += 1;
    }
    let mut sizes = HashMap::new();
    for size in clusters.into_values() {
        *sizes.entry(size).or_default() += 1;
    }
    sizes
}

/// The data's README: 3,809 items, each written twice, the second time swapped.
#[test]
fn filtered_ewok_has_two_rows_an_item() {
    let sizes = sizes("ewok_filtered");
    let items: usize = sizes.values().sum();
    let rows: usize = sizes.iter().map(|(size, count)| size * count).sum();
    assert_eq!(rows, 7_618);
    assert!(sizes.keys().all(|size| size % 2 == 0), "{sizes:?}");
    assert!(items <= 3_809 && items > 3_700, "{sizes:?}");
}

/// 22 items of EWoK's full set occur a second time, with the same texts or with both swapped.
#[test]
fn items_that_occur_twice_are_one_draw() {
    assert_eq!(sizes("blimp"), HashMap::from([(1, 67_000)]));
    assert_eq!(sizes("ewok"), HashMap::from([(1, 4_330), (2, 22)]));
}
