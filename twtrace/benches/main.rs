//! What userspace costs: `cargo bench`, or `cargo xtask bench` for the figures in the documents.
//!
//! One module an area. Called with `instructions WORKLOAD TIMES` the program plays one workload
//! that often and measures nothing itself: run under `valgrind --tool=callgrind` with two
//! different numbers, the difference is the instructions of the event path, to the digit the same
//! on a busy machine.

mod events;
mod views;
mod workload;

use std::process::ExitCode;

use criterion::Criterion;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, command, name, times] = args.as_slice()
        && command == "instructions"
    {
        return match times.parse() {
            Ok(times) if events::instructions(name, times) => ExitCode::SUCCESS,
            _ => {
                eprintln!("instructions takes WORKLOAD and TIMES; there is no {name:?} {times:?}");
                ExitCode::from(2)
            }
        };
    }
    let mut criterion = Criterion::default().configure_from_args();
    events::benchmark(&mut criterion);
    views::benchmark(&mut criterion);
    criterion.final_summary();
    ExitCode::SUCCESS
}
