//! Pictures as inline SVG, of the few shapes that a report needs.
//!
//! A plotting library was looked at (plotters, which the benchmarks use): it writes colours and sizes
//! into the file. These pictures take theirs from the page's style sheet, so that they are light, dark
//! or printed as the page is; what scales is apart from the text, so that it can be read at any width;
//! each has a name and says in words what is on it.

use std::fmt::Write as _;

use maud::{Markup, html};

/// Steps of the picture's own coordinates, across and down.
const WIDE: f64 = 1000.0;
/// Down.
const HIGH: f64 = 100.0;

/// A line: values at places across, 0 to 1 each; `None` interrupts it.
pub struct Line {
    /// What it shows, for the legend.
    pub name: String,
    /// Its style: `s0`, `s1` and so on.
    pub style: &'static str,
    /// Where it goes.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A mark on a picture: where across, 0 to 1, and what is written there.
pub struct Tick {
    /// Where.
    pub at: f64,
    /// What is written there.
    pub label: String,
}

/// A piece of a picture that says something when it is pointed at.
pub struct Hover {
    /// From where, 0 to 1.
    pub from: f64,
    /// To where.
    pub to: f64,
    /// What it says.
    pub text: String,
}

/// Styles of lines, in the order they are used.
pub const STYLES: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];

/// A picture of lines over time.
pub struct Chart<'a> {
    /// What its parts are named by; different for each picture of a page.
    pub id: &'a str,
    /// What it shows.
    pub title: &'a str,
    /// The same in words.
    pub alternative: &'a str,
    /// The lines.
    pub lines: &'a [Line],
    /// The marks.
    pub ticks: &'a [Tick],
    /// What is said where one points.
    pub hovers: &'a [Hover],
    /// What the top of it is.
    pub top: &'a str,
    /// What its left end, middle and right end are.
    pub across: [&'a str; 3],
}

impl Chart<'_> {
    /// The picture with its legend.
    pub fn markup(&self) -> Markup {
        let Self { id, title, alternative, lines, ticks, hovers, top, across } = self;
        html! {
            figure {
                figcaption { (title) "; the top is " (top) }
                (picture(id, title, alternative, html! {
                    @for line in *lines { path class=(class(line.style)) d=(path(&line.points)) {} }
                    @for hover in *hovers {
                        rect class="hover" x=(across_at(hover.from)) y="0"
                            width=(across_at(hover.to - hover.from)) height="100" {
                            title { (hover.text) }
                        }
                    }
                }, ticks))
                div class="axis" { @for label in across { span { (label) } } }
                @if lines.len() > 1 {
                    ul class="legend" {
                        @for line in *lines {
                            li {
                                svg viewBox="0 0 30 10" aria-hidden="true" {
                                    path class=(class(line.style)) d="M0 5H30" {}
                                }
                                (line.name)
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A frame with something in it that scales, and marks that do not.
fn picture(id: &str, title: &str, alternative: &str, inside: Markup, ticks: &[Tick]) -> Markup {
    let (title_id, text_id) = (format!("{id}-title"), format!("{id}-text"));
    html! {
        svg class="chart" role="img" aria-labelledby=(title_id) aria-describedby=(text_id) {
            title id=(title_id) { (title) }
            desc id=(text_id) { (alternative) }
            svg viewBox="0 0 1000 100" preserveAspectRatio="none" width="100%" height="100%" {
                rect class="frame" x="0" y="0" width="1000" height="100" {}
                (inside)
            }
            @for tick in ticks {
                @let at = percent(tick.at);
                line class="mark" x1=(at) x2=(at) y1="0" y2="100%" {}
                text class="marked" x=(at) y="-4" text-anchor=(anchor(tick.at)) { (tick.label) }
            }
        }
    }
}

/// Bars of equal width, each 0 to 1 high and with what it says when it is pointed at.
pub fn bars(
    id: &str,
    (title, alternative): (&str, &str),
    bars: &[(f64, String)],
    ticks: &[Tick],
) -> Markup {
    let width = WIDE / bars.len().max(1) as f64;
    picture(
        id,
        title,
        alternative,
        html! {
            @for (place, (height, says)) in bars.iter().enumerate() {
                // What is there at all is seen.
                @let height = if *height > 0.0 { (height * HIGH).max(1.0) } else { 0.0 };
                rect class="bar" x=(round(place as f64 * width + width * 0.08)) y=(round(HIGH - height))
                    width=(round(width * 0.84)) height=(round(height)) { title { (says) } }
            }
        },
        ticks,
    )
}

/// A small picture of counts, named by what it says.
pub fn spark(says: &str, counts: &[u32], slots: usize) -> Markup {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut steps = String::from("M0 100");
    for slot in 0..slots {
        let count = counts.get(slot).copied().unwrap_or(0);
        let down = (100.0 - f64::from(count) * 100.0 / f64::from(most)).round();
        let _ = write!(steps, "V{down}H{}", slot + 1);
    }
    steps.push_str("V100");
    html! {
        svg class="spark" role="img" aria-label=(says) viewBox={ "0 0 " (slots.max(1)) " 100" }
            preserveAspectRatio="none" {
            title { (says) }
            path class="bar" d=(steps) {}
        }
    }
}

fn class(style: &str) -> String {
    format!("s {style}")
}

/// A line through its points.
fn path(points: &[(f64, Option<f64>)]) -> String {
    let mut path = String::new();
    let mut drawn = false;
    for (across, up) in points {
        let Some(up) = up else {
            drawn = false;
            continue;
        };
        let (x, y) = (across_at(*across), round(HIGH - up.clamp(0.0, 1.0) * HIGH));
        let _ = write!(path, "{}{x} {y}", if drawn { 'L' } else { 'M' });
        drawn = true;
    }
    path
}

fn across_at(share: f64) -> String {
    round(share.clamp(0.0, 1.0) * WIDE)
}

/// A number with no more digits than are seen.
fn round(number: f64) -> String {
    let tenths = (number * 10.0).round() / 10.0;
    if tenths.fract() == 0.0 { format!("{tenths:.0}") } else { format!("{tenths:.1}") }
}

fn percent(share: f64) -> String {
    format!("{}%", round(share.clamp(0.0, 1.0) * 100.0))
}

/// Where a text is held so that it stays on the picture.
const fn anchor(share: f64) -> &'static str {
    match share {
        ..0.1 => "start",
        0.9.. => "end",
        _ => "middle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_interrupts_a_line() {
        let points = [(0.0, Some(0.0)), (0.25, Some(1.0)), (0.5, None), (1.0, Some(0.5))];
        assert_eq!(path(&points), "M0 100L250 0M1000 50");
    }

    #[test]
    fn every_picture_has_a_name() {
        let spark = spark("most 3 in a second", &[1, 3], 4).into_string();
        assert!(spark.contains("role=\"img\" aria-label=\"most 3 in a second\""), "{spark}");
        assert!(spark.contains("M0 100V67H1V0H2V100H3V100H4V100"), "{spark}");
        let bars = bars("b", ("lives", "one bar"), &[(0.5, "half".into())], &[]).into_string();
        assert!(bars.contains("aria-labelledby=\"b-title\"") && bars.contains("id=\"b-title\""));
    }
}
