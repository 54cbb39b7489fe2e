//! What is on the screen, and how keys change it.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::{
    keys::{Direction, Effect},
    line::FilterLine,
    series::{AllSeries, Series},
};
use crate::{
    event::Event,
    filter::{Socket, Verdict},
    peer::{Counts, Group, GroupBy},
    summary::{Row, RowChoice, SortKey, Summary},
    units::{Clock, Hz},
    view::{diagnosis, events::EventWriter, style::Palette},
};

/// Lines of the screen that are not the body's: three above and one below, and the body's own heading.
const LINES_AROUND: usize = 5;
/// Events kept to look back on.
const EVENTS: usize = 1000;
/// Most rows that can be asked for, and how many are at first.
const TOPS: [usize; 4] = [100, 20, 500, 5000];

/// What fills the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// The rows.
    #[default]
    Peers,
    /// All about the selected row.
    Peer,
    /// The latest events.
    Events,
    /// What is wrong and what to do.
    Findings,
    /// How far every limit is.
    Limits,
}

impl View {
    /// Those that can be turned to; [`View::Peer`] is opened.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Peers, "Peers"),
        (Self::Events, "Events"),
        (Self::Findings, "Findings"),
        (Self::Limits, "Limits"),
    ];
}

/// What an effect asks of whoever feeds the screen.
#[derive(Clone, Debug)]
pub enum Request {
    /// Make the next summary of other rows.
    Choose(RowChoice),
    /// Give a summary of all rows to [`State::begin_anew`].
    Reset(RowChoice),
    /// End.
    Quit,
}

/// A moment to look at.
#[derive(Clone, Debug)]
pub struct Shot {
    /// What was known then.
    pub summary: Summary,
    /// When that was.
    pub clock: Clock,
    /// The latest events, newest first.
    pub events: VecDeque<Event>,
}

impl Shot {
    /// The findings as text.
    pub fn findings(&self) -> String {
        let Some(examined) = &self.summary.examined else {
            return "Findings need rows by peer, and ends.".to_owned();
        };
        let mut text = Vec::new();
        match diagnosis::write_findings(&mut text, &self.summary, examined, Palette::PLAIN) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => error.to_string(),
        }
    }
}

/// Everything the screen is drawn from.
#[derive(Clone, Debug)]
pub struct State {
    view: View,
    filter: FilterLine,
    sort: SortKey,
    reversed: bool,
    by: GroupBy,
    /// What rows are counted by; coarser groupings are sums of it.
    counted_by: GroupBy,
    top: usize,
    selected: Option<Group>,
    scroll: usize,
    help: bool,
    asked_to_quit: bool,
    ended: bool,
    latest: Option<Shot>,
    /// The moment that is held, with what led to it.
    held: Option<(Shot, AllSeries)>,
    events: VecDeque<Event>,
    series: AllSeries,
    before: Option<Before>,
    size: (u16, u16),
    /// Whether colours may be used.
    pub coloured: bool,
    /// How events are put into words.
    pub writer: EventWriter,
}

/// The counts when counting began anew.
#[derive(Clone, Debug)]
struct Before {
    elapsed: std::time::Duration,
    totals: Counts,
    rows: FxHashMap<Group, Counts>,
}

impl Default for State {
    fn default() -> Self {
        let writer = EventWriter::bare(Default::default(), Hz::new(250), false);
        Self::new(GroupBy::Peer, SortKey::Entered, None, writer, true)
    }
}

impl State {
    /// A screen on which nothing is known yet.
    pub fn new(
        by: GroupBy,
        sort: SortKey,
        top: Option<usize>,
        writer: EventWriter,
        coloured: bool,
    ) -> Self {
        Self {
            view: View::Peers,
            filter: FilterLine::default(),
            sort,
            reversed: false,
            by,
            counted_by: by,
            top: top.unwrap_or(TOPS[0]),
            selected: None,
            scroll: 0,
            help: false,
            asked_to_quit: false,
            ended: false,
            latest: None,
            held: None,
            events: VecDeque::new(),
            series: AllSeries::default(),
            before: None,
            size: (80, 24),
            coloured,
            writer,
        }
    }

    /// Takes an event in.
    pub fn take(&mut self, event: &Event) {
        self.events.truncate(EVENTS - 1);
        self.events.push_front(*event);
    }

    /// Takes a summary in.
    pub fn update(&mut self, summary: Summary, clock: Clock) {
        // What was asked for a moment ago may not be in it yet.
        if summary.group_by == self.by {
            self.series.push(&summary);
        }
        self.latest = Some(Shot { summary, clock, events: self.events.clone() });
    }

    /// Tells that nothing will come any more.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing will come any more.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Counts from this moment on. What was counted before stays known: it is only taken away, from
    /// rows that are not shown now as well.
    pub fn begin_anew(&mut self, all: &Summary) {
        self.before = Some(Before {
            elapsed: all.elapsed,
            totals: all.totals.counts,
            rows: all.rows.iter().map(|row| (row.group, row.counts)).collect(),
        });
    }

    /// Tells the size of the screen.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        self.size = (columns, lines);
    }

    /// Which rows the next summary should have.
    pub fn choice(&self) -> RowChoice {
        let by = (self.by != self.counted_by).then_some(self.by);
        RowChoice { top: Some(self.top), sort: self.sort, by, ..RowChoice::default() }
    }

    /// What is looked at: the latest moment, or the one held.
    pub fn moment(&self) -> Option<&Shot> {
        self.held.as_ref().map(|(moment, _)| moment).or(self.latest.as_ref())
    }

    /// Whether the picture is held.
    pub const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The view.
    pub const fn view(&self) -> View {
        self.view
    }

    /// The filter.
    pub const fn filter(&self) -> &FilterLine {
        &self.filter
    }

    /// The order of the rows, and whether it is turned round.
    pub const fn order(&self) -> (SortKey, bool) {
        (self.sort, self.reversed)
    }

    /// Most rows asked for.
    pub const fn top(&self) -> usize {
        self.top
    }

    /// Whether the help is open.
    pub const fn helps(&self) -> bool {
        self.help
    }

    /// Whether the next `q` ends it.
    pub const fn asked_to_quit(&self) -> bool {
        self.asked_to_quit
    }

    /// Lines to leave out at the top of a text or list.
    pub const fn scroll(&self) -> usize {
        self.scroll
    }

    /// Seconds that the counts shown are of.
    pub fn seconds(&self) -> f64 {
        let Some(moment) = self.moment() else { return 0.0 };
        let since = self.before.as_ref().map_or(Default::default(), |before| before.elapsed);
        moment.summary.elapsed.saturating_sub(since).as_secs_f64()
    }

    /// Whether counting began anew.
    pub const fn was_reset(&self) -> bool {
        self.before.is_some()
    }

    /// The rows shown, in order.
    pub fn rows(&self) -> Vec<&Row> {
        let Some(moment) = self.moment() else { return Vec::new() };
        let rows = moment.summary.rows.iter();
        let owners = moment.summary.owners.read();
        let mut rows: Vec<&Row> = rows.filter(|row| self.filter.shows(row, &owners)).collect();
        rows.sort_by(|one, two| {
            let rank = |row: &Row| match self.sort {
                // What lives now has no beginning to count from.
                SortKey::Live => row.counts.live(),
                key => key.rank(&self.counts(row)),
            };
            let order = rank(two).cmp(&rank(one)).then_with(|| one.group.cmp(&two.group));
            if self.reversed { order.reverse() } else { order }
        });
        rows
    }

    /// The events of a moment that the filter lets through, or may.
    pub fn events<'a>(&'a self, moment: &'a Shot) -> impl Iterator<Item = &'a Event> {
        moment.events.iter().filter(|event| {
            let filter = self.filter.expr();
            let owner = filter.asks_owner().then(|| self.writer.owner(event)).flatten();
            let socket = || Socket::from(*event).owned(owner.as_deref());
            filter.is_any() || filter.matches(&socket()) != Verdict::No
        })
    }

    /// Lines of what the view scrolls through.
    fn lines(&self) -> usize {
        let Some(moment) = self.moment() else { return 0 };
        match self.view {
            View::Findings => moment.findings().lines().count(),
            View::Events => self.events(moment).count(),
            View::Peers | View::Peer | View::Limits => 0,
        }
    }

    /// A row's counts since counting began. What lives now is in the row itself.
    pub fn counts(&self, row: &Row) -> Counts {
        let before = self.before.as_ref().and_then(|before| before.rows.get(&row.group));
        before.map_or(row.counts, |before| row.counts.since(before))
    }

    /// The counts of all sockets since counting began.
    pub fn totals(&self) -> Counts {
        let Some(moment) = self.moment() else { return Counts::default() };
        let totals = moment.summary.totals.counts;
        self.before.as_ref().map_or(totals, |before| totals.since(&before.totals))
    }

    /// Entries a second of a row.
    pub fn series(&self, row: &Row) -> Option<&Series> {
        let series = self.held.as_ref().map_or(&self.series, |(_, series)| series);
        series.of(&row.group)
    }

    /// The selected row, the first if none is.
    pub fn selected<'a>(&self, rows: &[&'a Row]) -> Option<(usize, &'a Row)> {
        let at = rows.iter().position(|row| Some(row.group) == self.selected).unwrap_or(0);
        rows.get(at).map(|row| (at, *row))
    }

    /// Lines of the body, where lists and texts are.
    pub fn page(&self) -> usize {
        usize::from(self.size.1).saturating_sub(LINES_AROUND).max(1)
    }

    /// Does what a key wants.
    pub fn apply(&mut self, effect: Effect) -> Option<Request> {
        let asked = std::mem::take(&mut self.asked_to_quit);
        match effect {
            Effect::Show(view) => self.show(view),
            Effect::Turn(direction) => self.turn(direction),
            Effect::Move(lines) => self.step(lines),
            Effect::Page(pages) => self.step(pages * self.page() as isize),
            Effect::First => self.step(isize::MIN / 2),
            Effect::Last => self.step(isize::MAX / 2),
            Effect::Open => {
                let selected = self.selected(&self.rows()).map(|(_, row)| row.group);
                if self.view == View::Peers && selected.is_some() {
                    self.selected = selected;
                    self.view = View::Peer;
                }
            }
            Effect::Back if self.help => self.help = false,
            Effect::Back if self.view != View::Peers => self.show(View::Peers),
            Effect::Back => {
                self.filter.open();
                self.edit(String::clear);
                self.filter.accept();
            }
            Effect::Sort => {
                self.sort = next(&SORTS, &self.sort);
                return Some(Request::Choose(self.choice()));
            }
            Effect::Reverse => self.reversed = !self.reversed,
            Effect::TypeFilter => self.filter.open(),
            Effect::Type(char) => self.edit(|typed| typed.push(char)),
            Effect::Erase => self.edit(|typed| {
                typed.pop();
            }),
            Effect::EraseAll => self.edit(String::clear),
            Effect::Accept => self.filter.accept(),
            Effect::Cancel => {
                let moment = self.held.as_ref().map(|(moment, _)| moment).or(self.latest.as_ref());
                self.filter.cancel(moment.map(|moment| &moment.summary));
            }
            Effect::Pause => {
                self.held = match (self.held.take(), &self.latest) {
                    (None, Some(latest)) => Some((latest.clone(), self.series.clone())),
                    _ => None,
                };
            }
            Effect::Reset => {
                return Some(Request::Reset(RowChoice { top: None, ..self.choice() }));
            }
            Effect::Group if self.counted_by == GroupBy::Peer => {
                self.by = next(&GROUPS, &self.by);
                self.series = AllSeries::default();
                self.before = None;
                return Some(Request::Choose(self.choice()));
            }
            Effect::Group => {}
            Effect::Top => {
                self.top = next(&TOPS, &self.top);
                return Some(Request::Choose(self.choice()));
            }
            Effect::Help => self.help = !self.help,
            Effect::Quit if asked => return Some(Request::Quit),
            Effect::Quit => self.asked_to_quit = true,
            Effect::QuitNow => return Some(Request::Quit),
        }
        None
    }

    fn edit(&mut self, change: impl FnOnce(&mut String)) {
        let moment = self.held.as_ref().map(|(moment, _)| moment).or(self.latest.as_ref());
        self.filter.edit(moment.map(|moment| &moment.summary), change);
    }

    fn show(&mut self, view: View) {
        self.view = view;
        self.scroll = 0;
    }

    fn turn(&mut self, direction: Direction) {
        let views = View::ALL.map(|(view, _)| view);
        // One looks at a peer among the peers.
        let now = views.iter().position(|view| *view == self.view).unwrap_or(0);
        let step = match direction {
            Direction::Next => 1,
            Direction::Before => views.len() - 1,
        };
        self.show(views[(now + step) % views.len()]);
    }

    /// Moves the selection, or the text where there is none.
    fn step(&mut self, lines: isize) {
        if self.view == View::Peers {
            let rows = self.rows();
            let at = self.selected(&rows).map_or(0, |(at, _)| at);
            let to = at.saturating_add_signed(lines).min(rows.len().saturating_sub(1));
            self.selected = rows.get(to).map(|row| row.group);
            return;
        }
        let last = self.lines().saturating_sub(self.page());
        self.scroll = self.scroll.saturating_add_signed(lines).min(last);
    }
}

/// The groupings that peers can be summed up to.
const GROUPS: [GroupBy; 5] =
    [GroupBy::Peer, GroupBy::Addr, GroupBy::Subnet, GroupBy::Netns, GroupBy::Owner];

/// The orders, as `s` goes through them.
const SORTS: [SortKey; 8] = [
    SortKey::Entered,
    SortKey::Live,
    SortKey::Fast,
    SortKey::TwoMsl,
    SortKey::Blocked,
    SortKey::Refused,
    SortKey::Overflow,
    SortKey::Peer,
];

/// The one after `now`; the first after the last and after one that is none of them.
fn next<T: Copy + PartialEq>(all: &[T], now: &T) -> T {
    let at = all.iter().position(|each| each == now).map_or(0, |at| at + 1);
    all[at % all.len()]
}
