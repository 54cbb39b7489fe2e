//! How far the counts can be trusted: whatever was lost, missed or left out, in one list behind
//! every view, the metrics, `check` and TW018.

use twtrace_common::Counter;

use crate::{needs::Needs, totals::Totals};

/// How far the counts can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// What the kernel programs counted, their own troubles among it.
    pub kernel: Totals,
    /// Sockets in no row: their entry was lost and their end not seen yet.
    pub lost_sockets: u64,
    /// Sockets, ends and refusals in no row because it is not known whether they match the filter;
    /// with a filter, lost sockets are among them and not in `lost_sockets`.
    pub undecided: u64,
    /// Sockets that the kernel counted and its programs did not.
    pub missing: u64,
    /// Namespaces of which not all could be held against the kernel's own counters.
    pub unaudited: u64,
    /// Program runs the kernel skipped: why sockets or failed calls may be missing, and not how many.
    pub skipped: u64,
    /// Sockets whose end was not seen; counted as unknown.
    pub healed: u64,
    /// Live sockets beyond the cap: counted, their lifetimes are not.
    pub unfollowed: u64,
    /// Ends of sockets that were in namespaces nobody could read at the start.
    pub unseen_ends: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
}

/// How loudly a doubt is told to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something is wrong: in these words.
    Alarm(&'static str),
    /// It is worth knowing: in these words.
    Note(&'static str),
    /// Elsewhere.
    Elsewhere,
}

/// What kind of metric tells it, and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// It only grows.
    Counter(&'static str),
    /// It goes up and down.
    Gauge(&'static str),
}

/// Where the JSON form of a summary has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// In `trust`.
    Trust,
    /// In `totals`.
    Totals,
    /// In `totals.audit`, with what it was compared with.
    Audit,
}

/// One thing that makes counts less than exact.
#[derive(Clone, Copy, Debug)]
pub struct Doubt {
    /// Its key in JSON, and its name in the evidence of TW018.
    pub key: &'static str,
    /// What is counted, in two or three words for people.
    pub words: &'static str,
    /// What it is.
    pub sentence: &'static str,
    /// What it needs to be known.
    pub needs: Needs,
    /// Where JSON has it.
    pub place: Section,
    /// How people are told.
    pub told: Told,
    /// Whether counts by peer are lower bounds because of it: TW018.
    pub lower_bounds: bool,
    /// Its metric.
    pub metric: Option<Metric>,
    of: fn(&Trust) -> u64,
}

const fn doubt(
    key: &'static str,
    words: &'static str,
    sentence: &'static str,
    of: fn(&Trust) -> u64,
) -> Doubt {
    Doubt {
        key,
        words,
        sentence,
        needs: Needs::NOTHING,
        place: Section::Trust,
        told: Told::Elsewhere,
        lower_bounds: false,
        metric: None,
        of,
    }
}

impl Doubt {
    /// How many.
    pub fn count(&self, trust: &Trust) -> u64 {
        (self.of)(trust)
    }

    /// How many, if that is known.
    pub fn known(&self, trust: &Trust, known: Needs) -> Option<u64> {
        known.has(self.needs).then(|| self.count(trust))
    }

    const fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    const fn place(self, place: Section) -> Self {
        Self { place, ..self }
    }

    const fn alarm(self, words: &'static str) -> Self {
        Self { told: Told::Alarm(words), ..self }
    }

    const fn note(self, words: &'static str) -> Self {
        Self { told: Told::Note(words), ..self }
    }

    const fn lower_bounds(self) -> Self {
        Self { lower_bounds: true, ..self }
    }

    const fn counter(self, name: &'static str) -> Self {
        Self { metric: Some(Metric::Counter(name)), ..self }
    }

    const fn gauge(self, name: &'static str) -> Self {
        Self { metric: Some(Metric::Gauge(name)), ..self }
    }
}

/// All there is to doubt, the worst first.
pub static DOUBTS: &[Doubt] = &[
    doubt("lost", "events lost", "Events that found no room in the buffer.", |trust| {
        trust.kernel.lost()
    })
    .place(Section::Totals)
    .alarm("events lost, the buffer was full: rows are too low, the totals have them")
    .lower_bounds()
    .counter("twtrace_events_lost"),
    doubt(
        "missing",
        "sockets missing",
        "Sockets that the kernel counted and its programs did not.",
        |trust| trust.missing,
    )
    .needs(Needs::AUDIT)
    .place(Section::Audit)
    .lower_bounds()
    .counter("twtrace_missing"),
    doubt("undecodable", "records unreadable", "Records that could not be decoded.", |trust| {
        trust.undecodable
    })
    .alarm("records could not be decoded")
    .lower_bounds()
    .counter("twtrace_undecodable"),
    doubt("read_failures", "reads failed", "Reads of kernel memory that failed.", |trust| {
        trust.kernel.of(Counter::ReadFailed)
    })
    .alarm("reads of kernel memory failed: some fields are 0")
    .counter("twtrace_read_failures"),
    doubt(
        "map_failures",
        "map changes failed",
        "Changes to the kernel programs' maps that the kernel did not make.",
        |trust| trust.kernel.of(Counter::MapFailed),
    )
    .alarm("changes to the kernel programs' maps were not made")
    .lower_bounds()
    .counter("twtrace_map_failures"),
    doubt(
        "missed_ends",
        "ends missed in the kernel",
        "Sockets whose address came again though no program had seen their end.",
        |trust| trust.kernel.of(Counter::MissedEnd),
    )
    .counter("twtrace_missed_ends"),
    doubt(
        "refusals_dropped",
        "refusals uncounted",
        "Refused takeovers counted for no peer, the kernel side's map being full.",
        |trust| trust.kernel.of(Counter::RefusalsDropped),
    )
    .alarm("refusals not counted, too many peers")
    .counter("twtrace_refusals_dropped"),
    doubt(
        "failures_dropped",
        "failures of nobody",
        "Failed calls told of no place or program, the map being full; the totals have them.",
        |trust| trust.kernel.of(Counter::FailuresDropped),
    )
    .alarm("failed calls told of no program, too many at once")
    .counter("twtrace_failures_dropped"),
    doubt(
        "answers_missed",
        "answers missed",
        "Calls of bind(), and without the kernel's types of connect(), whose answer was not seen: more may \
         have failed than are counted. The kernel keeps track of few at a time for kprobes.",
        |trust| trust.kernel.of(Counter::AnswersMissed),
    )
    .alarm("calls whose answer was not seen: more may have failed than are counted")
    .counter("twtrace_answers_missed"),
    doubt(
        "failure_events_lost",
        "failure events lost",
        "Events of failed calls that found no room in the buffer; the calls are counted all the \
         same.",
        |trust| trust.kernel.of(Counter::LostFailed),
    )
    .note("events of failed calls lost, the buffer was full: the calls are counted all the same")
    .counter("twtrace_failure_events_lost"),
    doubt(
        "undecided",
        "sockets undecided",
        "Sockets, ends and refusals in no other count because it is not known whether they match \
         the filter.",
        |trust| trust.undecided,
    )
    .alarm("sockets or ends left out: not known whether they match the filter"),
    doubt(
        "adopted",
        "entries found later",
        "Of the entries: sockets whose entry was missed and that were found later among those \
         that live. Their time of entry is what their timer tells.",
        |trust| trust.kernel.of(Counter::Adopted),
    )
    .place(Section::Totals)
    .note("entries were missed and found later: RTO and owner are not known")
    .counter("twtrace_adopted"),
    doubt(
        "healed",
        "ends not seen",
        "Sockets whose end was not seen; they count as unknown.",
        |trust| trust.healed,
    )
    .needs(Needs::ENDS)
    .note("ends were not seen; they are counted as unknown")
    .lower_bounds()
    .counter("twtrace_healed"),
    doubt(
        "unfollowed",
        "sockets not followed",
        "Live sockets beyond --max-live: counted, their lifetimes are not.",
        |trust| trust.unfollowed,
    )
    .needs(Needs::ENDS)
    .note("live sockets are beyond the cap: their lifetimes are not sampled")
    .lower_bounds()
    .gauge("twtrace_unfollowed"),
    doubt(
        "unseen_ends",
        "ends of unknown sockets",
        "Ends of sockets that were not followed, as their namespace could not be read at the start or \
         their entry was missed; in no other count.",
        |trust| trust.unseen_ends,
    )
    .needs(Needs::ENDS)
    .note("ends of sockets not followed: they were there unseen, or their entry was missed")
    .counter("twtrace_unseen_ends"),
    doubt(
        "lost_sockets",
        "sockets in no row",
        "Sockets that are in no row: their entry was lost and their end not seen yet. \
         present_at_start + entered = live + all ends + overflow + lost_sockets.",
        |trust| trust.lost_sockets,
    ),
    doubt(
        "unaudited",
        "namespaces unaudited",
        "Network namespaces of which not all could be held against the kernel's own counters.",
        |trust| trust.unaudited,
    )
    .needs(Needs::AUDIT)
    .place(Section::Audit),
    doubt(
        "skipped",
        "program runs skipped",
        "Program runs that the kernel skipped: why sockets or failed calls may be missing, and not how many.",
        |trust| trust.skipped,
    )
    .counter("twtrace_programs_skipped"),
];

impl Trust {
    /// Events that found no room in the buffer.
    pub fn lost(&self) -> u64 {
        self.kernel.lost()
    }

    /// What makes counts by peer lower bounds, each with how many.
    pub fn lower_bounds(&self) -> impl Iterator<Item = (u64, &'static Doubt)> + '_ {
        let doubts = DOUBTS.iter().filter(|doubt| doubt.lower_bounds);
        doubts.map(|doubt| (doubt.count(self), doubt)).filter(|(count, _)| *count > 0)
    }

    /// What people are alarmed of, each with how many.
    pub fn alarms(&self) -> impl Iterator<Item = (u64, &'static Doubt)> + '_ {
        let doubts = DOUBTS.iter().filter(|doubt| matches!(doubt.told, Told::Alarm(_)));
        doubts.map(|doubt| (doubt.count(self), doubt)).filter(|(count, _)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_of_trouble_is_in_the_list() {
        for counter in [
            Counter::LostEntered,
            Counter::LostPresent,
            Counter::LostEnded,
            Counter::ReadFailed,
            Counter::MapFailed,
            Counter::RefusalsDropped,
            Counter::FailuresDropped,
            Counter::AnswersMissed,
        ] {
            let trust = Trust { kernel: Totals::default().with(counter, 3), ..Trust::default() };
            let told: Vec<_> = trust.alarms().map(|(count, _)| count).collect();
            assert_eq!(told, [3], "{counter:?}");
        }
    }

    #[test]
    fn an_end_that_the_kernel_side_missed_is_told_by_its_own_name() {
        let kernel = Totals::default().with(Counter::MissedEnd, 3);
        let trust = Trust { kernel, ..Trust::default() };
        let told = DOUBTS.iter().find(|doubt| doubt.key == "missed_ends").unwrap();
        assert_eq!(told.count(&trust), 3);
    }

    #[test]
    fn keys_are_told_apart() {
        let keys: std::collections::HashSet<_> = DOUBTS.iter().map(|doubt| doubt.key).collect();
        assert_eq!(keys.len(), DOUBTS.len());
    }
}
