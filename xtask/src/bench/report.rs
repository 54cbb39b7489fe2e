//! The tables of docs/PERFORMANCE.md and docs/performance/, between their markers: never written by
//! hand.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    plot::thousands,
    samples::{Figure, Median, Samples, interval, median, ratios},
};
use crate::page::fill;

/// A table, and the page it is in.
type Table = (&'static str, &'static str, fn(&Samples) -> String);

/// The pages.
pub const PAGES: [&str; 4] = [
    "PERFORMANCE.md",
    "performance/kernel.md",
    "performance/userspace.md",
    "performance/moments.md",
];

const TABLES: [Table; 11] = [
    (PAGES[0], "goals", goals),
    (PAGES[0], "machine", machine),
    (PAGES[1], "kernel", kernel),
    (PAGES[1], "endtoend", endtoend),
    (PAGES[2], "events", events),
    (PAGES[2], "views", views),
    (PAGES[3], "start", start),
    (PAGES[3], "idle", idle),
    (PAGES[3], "snapshot", snapshot),
    (PAGES[3], "burst", burst),
    (PAGES[3], "audit", audit),
];

/// Fills in every table that was measured and leaves the others; answers the tables as text.
pub fn write(samples: &Samples, docs: &Path) -> Result<String> {
    let mut all = String::new();
    for (page, name, table) in TABLES {
        let text = table(samples);
        if text.is_empty() {
            continue;
        }
        let path = docs.join(page);
        let before =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let filled = fill(&before, name, &text).context(page)?;
        fs::write(&path, filled).with_context(|| format!("cannot write {}", path.display()))?;
        let _ = writeln!(all, "## {name}\n\n{text}");
    }
    for note in samples.notes() {
        let _ = writeln!(all, "note: {note}");
    }
    Ok(all)
}

/// Lines of a table, its heading first; empty without lines.
pub fn table(heading: &[&str], lines: Vec<Vec<String>>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let rule = vec!["---".to_owned(); heading.len()];
    row(&heading) + &row(&rule) + &lines.iter().map(|line| row(line)).collect::<String>()
}

/// Three significant digits, or a whole number with commas.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => thousands(value),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// A median with its spread, where there is one.
fn spread(median: Median) -> String {
    if median.count < 2 || median.spread == 0.0 {
        return short(median.value);
    }
    format!("{} ±{}", short(median.value), short(median.spread))
}

pub fn middle(figure: &Figure) -> String {
    figure.median().map_or_else(|| "-".to_owned(), spread)
}

/// A change in percent from the ratios of pairs, and where it surely lies.
pub fn change(ratios: Vec<f64>) -> String {
    let percent = |ratio: f64| format!("{:+.1}", (ratio - 1.0) * 100.0);
    let middle = median(ratios.clone()).map_or_else(|| "-".to_owned(), |it| percent(it.value));
    match interval(ratios) {
        Some((low, high)) => format!("{middle} % ({} to {})", percent(low), percent(high)),
        None => format!("{middle} %"),
    }
}

/// How busy the machine is.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

fn machine(samples: &Samples) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("?", |(_, value)| value).to_owned()
    };
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let release = read("/proc/sys/kernel/osrelease");
    let release: String =
        release.trim().chars().take_while(|it| it.is_ascii_digit() || *it == '.').collect();
    let areas = samples.below("run").filter_map(|(name, figure)| {
        let area = name.strip_suffix("/took")?;
        let load = samples.get(&format!("run/{area}/load before")).map(middle);
        Some(vec![area.to_owned(), format!("{} s", middle(figure)), load.unwrap_or_default()])
    });
    format!(
        "Commit {}; {processors} processors ({}), Linux {release}.\n\n{}",
        super::commit().unwrap_or_else(|| "unknown".to_owned()),
        field("model name"),
        table(&["area", "measured for", "load average before"], areas.collect()),
    )
}

/// What was aimed at and what came out.
fn goals(samples: &Samples) -> String {
    let mut lines = Vec::new();
    let mut goal = |what: &str, aim: &str, got: Option<(String, Option<bool>)>| {
        if let Some((got, met)) = got {
            let word = match met {
                Some(true) => "met",
                Some(false) => "missed",
                None => "the noise is wider",
            };
            lines.push([what, aim, &got, word].map(str::to_owned).to_vec());
        }
    };
    let rate = |workload: &str| {
        let name = format!("userspace/event path/decode, track, aggregate: {workload}");
        samples.get(&name).and_then(Figure::median).map(|it| 1e3 / it.value)
    };
    let millions = |workload: &str, aim: f64| {
        rate(workload).map(|rate| (format!("{} M/s", short(rate)), Some(rate >= aim)))
    };
    goal("events on one core, 1,000 peers", "10 M/s", millions("1,000 peers", 10.0));
    goal("events on one core, flood of peers that end", "3 M/s", millions("flood, ending", 3.0));
    goal("events on one core, flood of peers that stay", "3 M/s", millions("flood, staying", 3.0));
    let page = samples.get("userspace/views, metrics/page of 10,000 series");
    let got = page.and_then(Figure::median).map(|it| {
        let millis = it.value * 10_000.0 / 1e6;
        (format!("{} ms", short(millis)), Some(millis <= 20.0))
    });
    goal("metrics page of 10,000 series", "20 ms", got);
    let kernel = |tool: &str| {
        let name = format!("kernel/{tool}/all/each connection");
        samples.get(&name).and_then(Figure::median).map(|it| it.value)
    };
    let ways = [("", "", 0.7), (" --no-ends", ", entries only", 0.35)];
    for (flag, what, most) in ways {
        let ratio = kernel(&format!("twtrace, tracepoint{flag}")).zip(kernel("bpftrace"));
        let got = ratio.map(|(ours, theirs)| ours / theirs).map(|ratio| {
            let floor = kernel("bpftrace, empty programs").zip(kernel("bpftrace"));
            let floor =
                floor.map(|(empty, theirs)| format!(" (empty programs {})", short(empty / theirs)));
            (format!("{}{}", short(ratio), floor.unwrap_or_default()), Some(ratio <= most))
        });
        let what = format!("kernel time through tracepoints{what}, of bpftrace's");
        goal(&what, &short(most), got);
    }
    for scene in scenes(samples) {
        let got = pairs(samples, &scene, "twtrace").map(|ratios| {
            let met = match interval(ratios.clone()) {
                Some((low, _)) if low >= 0.99 => Some(true),
                Some((_, high)) if high < 0.99 => Some(false),
                _ => None,
            };
            (change(ratios), met)
        });
        goal(&format!("connections a second, {scene}"), "within 1 %", got);
    }
    let got = samples.get("burst/lost").map(Figure::points).map(|points| {
        let whole = points.iter().filter(|(_, lost)| *lost == 0.0).map(|(size, _)| *size);
        let most = whole.fold(0.0, f64::max);
        (format!("{} without loss", thousands(most)), Some(most >= 99_000.0))
    });
    goal("namespace deleted with its sockets", "100,000", got);
    let shares = samples.get("audit/share of a core").map(Figure::points).unwrap_or_default();
    let got = shares.into_iter().find(|(count, _)| *count == 64.0);
    let got = got.map(|(_, share)| (format!("{} %", short(share)), Some(share <= 1.0)));
    goal("comparing 64 namespaces a second, of one core", "1 %", got);
    for (what, aim, most) in [("processor", "0.5 ms/s", 0.5), ("wake-ups", "2 a second", 2.0)] {
        let figure = samples.get(&format!("idle/twtrace/{what}"));
        let got = figure.and_then(|it| Some((it.median()?.value, &it.unit)));
        let got =
            got.map(|(value, unit)| (format!("{} {unit}", short(value)), Some(value <= most)));
        goal(&format!("nothing to see: {what}"), aim, got);
    }
    table(&["", "goal", "measured", ""], lines)
}

fn audit(samples: &Samples) -> String {
    let points = samples.get("audit/share of a core").map(Figure::points).unwrap_or_default();
    let line =
        |(count, share): &(f64, f64)| vec![thousands(*count), format!("{} %", short(*share))];
    table(&["network namespaces", "of a core"], points.iter().map(line).collect())
}

fn events(samples: &Samples) -> String {
    let line = |(name, figure): (&str, &Figure)| {
        let median = figure.median()?;
        let workload = name.rsplit(": ").next().unwrap_or(name);
        let counted = samples.get(&format!("instructions/{workload}"));
        let instructions = counted.and_then(Figure::median).map(|it| short(it.value));
        Some(vec![
            name.to_owned(),
            short(median.value),
            format!("{} M", short(1e3 / median.value)),
            instructions.unwrap_or_default(),
        ])
    };
    let lines = samples.below("userspace/event path").filter_map(line).collect();
    table(&["event path", "ns an event", "events a second", "instructions an event"], lines)
}

fn views(samples: &Samples) -> String {
    let line = |(name, figure): (&str, &Figure)| {
        let (group, what) = name.strip_prefix("views, ")?.split_once('/')?;
        let each = figure.median()?.value;
        let whole = match group.split(' ').next()?.replace(',', "").parse::<f64>() {
            Ok(rows) => format!("{} ms", short(each * rows / 1e6)),
            Err(_) => String::new(),
        };
        Some(vec![group.to_owned(), what.to_owned(), format!("{} ns", short(each)), whole])
    };
    let lines = samples.below("userspace").filter_map(line).collect();
    table(&["of", "view", "a row or event", "all"], lines)
}

fn kernel(samples: &Samples) -> String {
    let mut tops = vec![("kernel".to_owned(), "here".to_owned())];
    tops.extend(
        samples.machines().into_iter().map(|series| {
            (format!("machine {series}/kernel"), format!("Linux {series}, emulated"))
        }),
    );
    let mut lines = Vec::new();
    for (top, place) in &tops {
        for (name, figure) in samples.below(top) {
            let Some(tool) = name.strip_suffix("/all/each connection") else { continue };
            let row = |what: String, runs: String, each: String, verified: String| {
                vec![
                    place.clone(),
                    tool.to_owned(),
                    what,
                    runs,
                    each,
                    verified,
                    String::new(),
                    String::new(),
                ]
            };
            let empty = String::new;
            let all = |what: &str| samples.get(&format!("{top}/{tool}/all/{what}")).map(middle);
            lines.push(vec![
                place.clone(),
                tool.to_owned(),
                format!("**{} ns**", middle(figure)),
                empty(),
                empty(),
                empty(),
                all("agent's processor time").unwrap_or_default(),
                all("counted a connection").unwrap_or_default(),
            ]);
            for (part, each) in samples.below(&format!("{top}/{tool}")) {
                let Some(program) = part.strip_suffix("/each run") else { continue };
                let of = |what: &str| {
                    let figure = samples.get(&format!("{top}/{tool}/{program}/{what}"));
                    figure.map(middle).unwrap_or_default()
                };
                let runs = of("runs a connection");
                lines.push(row(
                    format!("`{program}`"),
                    runs,
                    middle(each),
                    of("instructions verified"),
                ));
            }
        }
    }
    let heading = [
        "where",
        "tool",
        "each connection, by program",
        "runs",
        "ns a run",
        "instructions verified",
        "agent, s a million",
        "counted",
    ];
    table(&heading, lines)
}

/// The networks that were measured.
fn scenes(samples: &Samples) -> Vec<String> {
    let names = samples.below("endtoend").filter_map(|(name, _)| name.split('/').next());
    let mut scenes: Vec<String> = names.map(str::to_owned).collect();
    scenes.dedup();
    scenes
}

/// Connections a second with a tool, as shares of those without, pair by pair.
fn pairs(samples: &Samples, scene: &str, tool: &str) -> Option<Vec<f64>> {
    let figure = |which: &str| samples.get(&format!("endtoend/{scene}/{tool}/{which}"));
    Some(ratios(figure("with")?, figure("without")?))
}

fn endtoend(samples: &Samples) -> String {
    let mut lines = Vec::new();
    for scene in scenes(samples) {
        for tool in ["twtrace", "twtrace --no-ends", "bpftrace", "tcplife"] {
            let Some(pairs) = pairs(samples, &scene, tool) else { continue };
            let of = |which: &str| {
                let figure = samples.get(&format!("endtoend/{scene}/{tool}/{which}"));
                figure.map(middle).unwrap_or_default()
            };
            lines.push(vec![
                scene.clone(),
                tool.to_owned(),
                of("without"),
                of("with"),
                change(pairs),
            ]);
        }
    }
    let heading = ["network", "tool", "without, a second", "with", "change"];
    table(&heading, lines)
}

fn start(samples: &Samples) -> String {
    let lines = samples
        .below("start")
        .map(|(name, figure)| {
            let (way, what) = name.split_once('/').unwrap_or(("", name));
            vec![way.to_owned(), what.to_owned(), format!("{} {}", middle(figure), figure.unit)]
        })
        .collect();
    table(&["--attach", "part", ""], lines)
}

fn idle(samples: &Samples) -> String {
    let tools: BTreeSet<_> =
        samples.below("idle").filter_map(|(name, _)| Some(name.split_once('/')?.0)).collect();
    let line = |tool: &str| {
        let each = ["processor", "wake-ups", "resident"].map(|what| {
            let figure = samples.get(&format!("idle/{tool}/{what}"));
            figure.map_or_else(String::new, |it| format!("{} {}", middle(it), it.unit))
        });
        [vec![tool.to_owned()], each.to_vec()].concat()
    };
    table(&["", "processor", "wake-ups", "resident"], tools.into_iter().map(line).collect())
}

fn snapshot(samples: &Samples) -> String {
    let line = |(name, figure): (&str, &Figure)| {
        vec![name.to_owned(), format!("{} {}", middle(figure), figure.unit).trim_end().to_owned()]
    };
    table(&["reading", ""], samples.below("snapshot").map(line).collect())
}

fn burst(samples: &Samples) -> String {
    let mut lines = Vec::new();
    for (name, agent) in [("burst", "runs"), ("burst stopped", "is stopped meanwhile")] {
        let figure = |what: &str| samples.get(&format!("{name}/{what}")).map(Figure::points);
        let at = |what: &str, x: f64| {
            let points = figure(what).unwrap_or_default();
            let found = points.into_iter().find(|(place, _)| *place == x);
            found.map_or_else(|| "-".to_owned(), |(_, value)| short(value))
        };
        lines.extend(figure("lost").unwrap_or_default().into_iter().map(|(x, lost)| {
            vec![
                agent.to_owned(),
                thousands(x),
                short(lost),
                at("ended unseen", x),
                at("live afterwards", x),
                format!("{} s", at("from deletion to quiet", x)),
                format!("{} s", at("processor", x)),
            ]
        }));
    }
    let heading = [
        "the agent",
        "sockets",
        "events lost",
        "ended unseen",
        "still live",
        "until all is counted",
        "its processor time",
    ];
    table(&heading, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_place_in_its_page() {
        let docs = crate::build::workspace().join("docs");
        for (page, name, _) in TABLES {
            let text = fs::read_to_string(docs.join(page)).unwrap();
            assert!(fill(&text, name, "").is_ok(), "{name} in {page}");
        }
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
        let filled = fill(page, "x", "new\n").unwrap();
        assert_eq!(filled, "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n");
        assert_eq!(fill(&filled, "x", "new\n").unwrap(), filled);
        assert!(fill(page, "y", "").is_err());
    }

    #[test]
    fn a_goal_missed_is_called_missed() {
        let mut samples = Samples::default();
        // Better by nothing, worse by a tenth, and now the one and now the other.
        for (scene, with) in [("one", [995.0; 2]), ("two", [900.0; 2]), ("yes", [900.0, 1100.0])] {
            for with in with.repeat(6) {
                samples.add(&format!("endtoend/{scene}/twtrace/without"), "/s", None, 1000.0);
                samples.add(&format!("endtoend/{scene}/twtrace/with"), "/s", None, with);
            }
        }
        let text = goals(&samples);
        let words: Vec<_> =
            text.lines().skip(2).filter_map(|line| line.rsplit(" | ").next()).collect();
        assert_eq!(words, ["met |", "missed |", "the noise is wider |"], "{text}");
    }
}
