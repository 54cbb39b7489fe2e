//! What the fuzz targets begin with, and what they found, without looking for more.

#[path = "../../fuzz/src/lib.rs"]
mod bodies;

use std::{fs, path::Path};

#[test]
fn what_a_stranger_wrote_does_no_harm_that_it_did_before() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, body) in bodies::TARGETS {
        let files = fs::read_dir(corpora.join(name)).expect("each target has a corpus");
        let mut count = 0;
        for file in files {
            let path = file.expect("a file").path();
            println!("{}", path.display());
            body(&fs::read(&path).expect("it can be read"));
            count += 1;
        }
        assert!(count > 0, "nothing for {name}");
    }
}
