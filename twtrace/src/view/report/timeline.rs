//! What happened when: entries, ends, what lives, what failed, and how much of each limit was taken.

use maud::{Markup, html};

use super::{
    Report, amount, shown,
    svg::{Chart, Hover, Line, STYLES, Tick},
    table::{
        Column::{Numbers, Words},
        table,
    },
};
use crate::{
    chronicle::{Mark, MarkKind, Sample},
    path::Class,
    peer::minutes::Minute,
    units::{Clock, time_of_day},
};

/// Rows of the table of figures.
const MOST_ROWS: usize = 60;

/// What happened between two moments.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interval {
    /// From when, nanoseconds of `CLOCK_MONOTONIC`; below 0 before this boot.
    pub from_ns: i64,
    /// To when.
    pub to_ns: i64,
    /// Entries.
    pub entered: u64,
    /// Ends, in the order of [`Class::ALL`].
    pub ends: Option<[u64; 3]>,
    /// `connect()` calls that failed.
    pub failed: Option<u64>,
    /// Sockets that live in the end.
    pub live: Option<u64>,
}

impl Interval {
    fn seconds(&self) -> f64 {
        ((self.to_ns - self.from_ns) as f64 / 1e9).max(1e-3)
    }

    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.seconds()
    }

    /// Both together; this one comes first.
    fn and(self, later: Self) -> Self {
        let both = |one: Option<u64>, two: Option<u64>| Some(one?.saturating_add(two?));
        let ends = self.ends.zip(later.ends);
        Self {
            from_ns: self.from_ns,
            to_ns: later.to_ns,
            entered: self.entered.saturating_add(later.entered),
            ends: ends
                .map(|(one, two)| [0, 1, 2].map(|class| one[class].saturating_add(two[class]))),
            failed: both(self.failed, later.failed),
            live: later.live,
        }
    }
}

/// What happened between each two samples.
pub fn of_samples(samples: &[Sample]) -> Vec<Interval> {
    let since = |now: u64, then: u64| now.saturating_sub(then);
    let pairs = samples.windows(2).map(|pair| {
        let [then, now] = pair else { unreachable!("windows of two") };
        Interval {
            from_ns: then.mono_ns.cast_signed(),
            to_ns: now.mono_ns.cast_signed(),
            entered: since(now.entered, then.entered),
            ends: now
                .ends
                .zip(then.ends)
                .map(|(now, then)| [0, 1, 2].map(|class| since(now[class], then[class]))),
            failed: now.failed.zip(then.failed).map(|(now, then)| since(now, then)),
            live: now.live,
        }
    });
    pairs.collect()
}

/// What happened in each minute; those in which nothing did are there as well.
pub fn of_minutes(minutes: &[Minute], follow_ends: bool) -> Vec<Interval> {
    let mut all: Vec<Interval> = Vec::new();
    for minute in minutes {
        let from_ns = minute.begins_ns();
        if let Some(before) = all.last().map(|last| last.to_ns).filter(|before| *before < from_ns) {
            let ends = follow_ends.then_some([0; 3]);
            all.push(Interval { from_ns: before, to_ns: from_ns, ends, ..Interval::default() });
        }
        let ends = [minute.fast, minute.two_msl, minute.other].map(u64::from);
        all.push(Interval {
            from_ns,
            to_ns: from_ns + 60_000_000_000,
            entered: minute.entered.into(),
            ends: follow_ends.then_some(ends),
            failed: None,
            live: None,
        });
    }
    all
}

/// The section.
pub fn section(report: &Report<'_>, intervals: &[Interval]) -> Markup {
    let clock = report.chronicle.clock();
    let [Some(first), Some(last)] = [intervals.first(), intervals.last()] else {
        return html! { p { "Nothing was looked at twice: there is no time to show." } };
    };
    let span = (first.from_ns, last.to_ns);
    let marks = visible_marks(report.chronicle.marks(), span);
    let ticks: Vec<Tick> = numbered(&marks, span);
    let across = across(span, &clock);
    let across = [across[0].as_str(), &across[1], &across[2]];
    let hovers: Vec<Hover> = hovers(intervals, span, &clock);
    let most_live = intervals.iter().filter_map(|it| it.live).max();
    let failed: u64 = intervals.iter().filter_map(|it| it.failed).sum();
    html! {
        (rates(intervals, span, (&ticks, &hovers, across)))
        @if let Some(most) = most_live {
            (live(intervals, span, most, (&ticks, across)))
        }
        @if failed > 0 {
            (failures(intervals, span, failed, (&ticks, across)))
        } @else if intervals.iter().all(|it| it.failed.is_none()) {
            p class="soft" { "Of failed calls the time by time is not known here." }
        } @else {
            p class="soft" { "No connect() failed in this time." }
        }
        @if !marks.is_empty() {
            h3 { "Moments marked" }
            ol class="marks" { @for mark in &marks { li { (moment(mark, &clock)) } } }
            @if report.chronicle.marks_left_out() > 0 {
                p class="soft" { (report.chronicle.marks_left_out()) " more are not shown." }
            }
        }
        (as_table(intervals, &clock))
    }
}

/// Where a moment is across.
fn place(at_ns: i64, (from, to): (i64, i64)) -> f64 {
    (at_ns - from) as f64 / (to - from).max(1) as f64
}

/// Begin, middle and end as times of day.
fn across((from, to): (i64, i64), clock: &Clock) -> [String; 3] {
    [from, from + (to - from) / 2, to].map(|at| time_of_day(clock.wall_at(at)))
}

fn visible_marks(marks: &[Mark], (from, to): (i64, i64)) -> Vec<&Mark> {
    let within = |mark: &&Mark| (from..=to).contains(&mark.mono_ns.cast_signed());
    marks.iter().filter(within).collect()
}

/// Marks with their numbers; those at one place share it.
fn numbered(marks: &[&Mark], span: (i64, i64)) -> Vec<Tick> {
    let mut ticks: Vec<(f64, usize, usize)> = Vec::new();
    for (number, mark) in (1..).zip(marks) {
        let at = place(mark.mono_ns.cast_signed(), span);
        match ticks.last_mut() {
            Some((known, _, last)) if at - *known < 0.09 => *last = number,
            _ => ticks.push((at, number, number)),
        }
    }
    let label = |(at, first, last): (f64, usize, usize)| Tick {
        at,
        label: if first == last { first.to_string() } else { format!("{first}-{last}") },
    };
    ticks.into_iter().map(label).collect()
}

fn moment(mark: &Mark, clock: &Clock) -> Markup {
    let kind = match mark.kind {
        MarkKind::Failure => "failure",
        MarkKind::Timestamps => "timestamps",
        MarkKind::Setting => "setting",
        MarkKind::Finding => "finding",
    };
    let at = time_of_day(clock.wall(mark.mono_ns));
    html! {
        strong { (at) } " (" (kind) "): " (shown(&mark.text))
        @if let Some(after) = mark.after_ns {
            @let seconds = mark.mono_ns.saturating_sub(after) as f64 / 1e9;
            @if seconds >= 0.1 {
                span class="soft" { "; not yet so " (format!("{seconds:.1}")) " s before" }
            }
        }
    }
}

fn hovers(intervals: &[Interval], span: (i64, i64), clock: &Clock) -> Vec<Hover> {
    let hover = |it: &Interval| {
        let mut text = format!(
            "{}: {} entered a second",
            time_of_day(clock.wall_at(it.from_ns)),
            amount(it.rate(it.entered))
        );
        for (class, ended) in Class::ALL.iter().zip(it.ends.into_iter().flatten()) {
            text.push_str(&format!(", {} {}", amount(it.rate(ended)), class_words(*class)));
        }
        if let Some(live) = it.live {
            text.push_str(&format!("; {live} live"));
        }
        Hover { from: place(it.from_ns, span), to: place(it.to_ns, span), text }
    };
    intervals.iter().map(hover).collect()
}

/// What an end of a class is called in pictures and tables.
pub const fn class_words(class: Class) -> &'static str {
    match class {
        Class::Fast => "ended fast",
        Class::TwoMsl => "sat out 2MSL",
        Class::Other => "ended otherwise",
    }
}

type Around<'a> = (&'a [Tick], &'a [Hover], [&'a str; 3]);

fn rates(intervals: &[Interval], span: (i64, i64), (ticks, hovers, across): Around<'_>) -> Markup {
    let of_class = |index: usize| move |it: &Interval| it.ends.map(|ends| it.rate(ends[index]));
    let entered = |it: &Interval| Some(it.rate(it.entered));
    let all = intervals.iter().flat_map(|it| {
        let ends = it.ends.into_iter().flatten().map(|count| it.rate(count));
        ends.chain([it.rate(it.entered)]).collect::<Vec<_>>()
    });
    let top = all.fold(1.0, f64::max);
    let mut lines =
        vec![line("entered", STYLES[0], intervals, span, |it| scaled(entered(it), top))];
    if intervals.iter().any(|it| it.ends.is_some()) {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            let of = of_class(index);
            let of = move |it: &Interval| scaled(of(it), top);
            lines.push(line(class_words(class), STYLES[index + 1], intervals, span, of));
        }
    }
    let total: u64 = intervals.iter().map(|it| it.entered).sum();
    let most = intervals.iter().map(|it| it.rate(it.entered)).fold(0.0, f64::max);
    let alternative = format!(
        "{total} entered in this time, at most {} a second; the figures are in the table below",
        amount(most)
    );
    let top = format!("{} a second", amount(top));
    Chart {
        id: "rates",
        title: "Entries and ends a second",
        alternative: &alternative,
        lines: &lines,
        ticks,
        hovers,
        top: &top,
        across,
    }
    .markup()
}

fn live(
    intervals: &[Interval],
    span: (i64, i64),
    most: u64,
    (ticks, across): (&[Tick], [&str; 3]),
) -> Markup {
    let top = most.max(1) as f64;
    let lines = [line("live", STYLES[0], intervals, span, |it| {
        scaled(it.live.map(|live| live as f64), top)
    })];
    let end = intervals.last().and_then(|it| it.live).unwrap_or(0);
    let alternative = format!("at most {most} at a time, {end} in the end");
    Chart {
        id: "live",
        title: "Sockets that live",
        alternative: &alternative,
        lines: &lines,
        ticks,
        hovers: &[],
        top: &most.to_string(),
        across,
    }
    .markup()
}

fn failures(
    intervals: &[Interval],
    span: (i64, i64),
    failed: u64,
    (ticks, across): (&[Tick], [&str; 3]),
) -> Markup {
    let rate = |it: &Interval| it.failed.map(|failed| it.rate(failed));
    let top = intervals.iter().filter_map(rate).fold(1.0, f64::max);
    let lines = [line("failed", STYLES[2], intervals, span, |it| scaled(rate(it), top))];
    let alternative = format!("{failed} failed, at most {} a second", amount(top));
    let top = format!("{} a second", amount(top));
    Chart {
        id: "failed",
        title: "connect() calls that failed, a second",
        alternative: &alternative,
        lines: &lines,
        ticks,
        hovers: &[],
        top: &top,
        across,
    }
    .markup()
}

fn scaled(value: Option<f64>, top: f64) -> Option<f64> {
    value.map(|value| value / top)
}

/// A line with a step for each interval.
fn line(
    name: &str,
    style: &'static str,
    intervals: &[Interval],
    span: (i64, i64),
    of: impl Fn(&Interval) -> Option<f64>,
) -> Line {
    let points = intervals.iter().flat_map(|it| {
        let value = of(it);
        [(place(it.from_ns, span), value), (place(it.to_ns, span), value)]
    });
    Line { name: name.into(), style, points: points.collect() }
}

/// The figures behind the pictures.
fn as_table(intervals: &[Interval], clock: &Clock) -> Markup {
    let each = intervals.len().div_ceil(MOST_ROWS).max(1);
    let rows: Vec<Interval> = intervals
        .chunks(each)
        .filter_map(|chunk| chunk.iter().copied().reduce(Interval::and))
        .collect();
    let cell = |value: Option<u64>| value.map_or_else(|| "not known".to_owned(), |n| n.to_string());
    html! {
        details {
            summary { "The figures as a table" }
            (table(
                "figures over time",
                "Counts of each time; `live` is at its end",
                [Words("from"), Numbers("seconds"), Numbers("entered")]
                    .into_iter()
                    .chain(Class::ALL.map(|class| Numbers(class_words(class))))
                    .chain([Numbers("connect() failed"), Numbers("live")]),
                &html! {
                    @for row in &rows {
                        tr {
                            th scope="row" { (time_of_day(clock.wall_at(row.from_ns))) }
                            td class="n" { (format!("{:.1}", row.seconds())) }
                            td class="n" { (row.entered) }
                            @for class in 0..Class::ALL.len() {
                                td class="n" { (cell(row.ends.map(|ends| ends[class]))) }
                            }
                            td class="n" { (cell(row.failed)) }
                            td class="n" { (cell(row.live)) }
                        }
                    }
                },
            ))
        }
    }
}

/// How much of each limit was taken over time.
pub fn limits(report: &Report<'_>) -> Markup {
    let samples = report.chronicle.samples();
    let most = report.chronicle.limits();
    let [Some(first), Some(last)] = [samples.first(), samples.last()] else {
        return html! {};
    };
    if most.is_empty() || samples.len() < 2 {
        return html! { p { "No limit was looked at more than once." } };
    }
    let span = (first.mono_ns.cast_signed(), last.mono_ns.cast_signed());
    let clock = report.chronicle.clock();
    let mut keys: Vec<_> = most.iter().collect();
    keys.sort_by(|one, two| two.1.share().total_cmp(&one.1.share()));
    let top = keys.first().map_or(1.0, |(_, taken)| taken.share()).max(0.01);
    let name = |key: &crate::chronicle::LimitKey| {
        format!("{}, {}", key.limit.words(), report.summary.namespace(key.netns))
    };
    let lines: Vec<Line> = keys
        .iter()
        .zip(STYLES)
        .map(|((key, _), style)| {
            let value = |sample: &Sample| {
                sample.limits.get(key).map(|taken| (taken.share() / top).min(1.0))
            };
            let points = samples
                .iter()
                .map(|sample| (place(sample.mono_ns.cast_signed(), span), value(sample)));
            Line { name: shown(&name(key)), style, points: points.collect() }
        })
        .collect();
    let across = across(span, &clock);
    let marks = visible_marks(report.chronicle.marks(), span);
    let ticks = numbered(&marks, span);
    let nearest = keys.first().map_or_else(String::new, |(key, taken)| {
        format!("nearest: {} of {} of {}", taken.used, taken.of, shown(&name(key)))
    });
    html! {
        (Chart {
            id: "limits",
            title: "Share of each limit that was taken",
            alternative: &nearest,
            lines: &lines,
            ticks: &ticks,
            hovers: &[],
            top: &format!("{}%", amount(top * 100.0)),
            across: [&across[0], &across[1], &across[2]],
        }.markup())
        (table(
            "table of limits",
            "The most that was taken of each limit when it was looked at",
            [Words("limit"), Numbers("taken"), Numbers("of"), Numbers("share")],
            &html! {
                @for (key, taken) in &keys {
                    tr {
                        th scope="row" { (shown(&name(key))) }
                        td class="n" { (taken.used) }
                        td class="n" { (taken.of) }
                        td class="n" { (amount(taken.share() * 100.0)) "%" }
                    }
                }
            },
        ))
        @if keys.len() > STYLES.len() {
            p class="soft" { "The picture has the " (STYLES.len()) " that are nearest." }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_in_which_nothing_happened_are_no_gap() {
        let minute = |minute, entered| Minute { minute, entered, ..Minute::default() };
        let all = of_minutes(&[minute(-1, 6), minute(3, 60)], true);
        let told: Vec<_> = all.iter().map(|it| (it.from_ns, it.seconds(), it.entered)).collect();
        let second = 1_000_000_000;
        assert_eq!(told, [(-60 * second, 60.0, 6), (0, 180.0, 0), (180 * second, 60.0, 60)]);
    }

    #[test]
    fn what_is_not_known_of_one_time_is_not_known_of_both() {
        let known = Interval { to_ns: 5, failed: Some(3), live: Some(1), ..Interval::default() };
        let both = known.and(Interval { to_ns: 9, live: Some(7), ..Interval::default() });
        assert_eq!((both.to_ns, both.failed, both.live), (9, None, Some(7)));
    }
}
