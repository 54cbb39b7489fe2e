//! Remedies, tried on what happened.

use maud::{Markup, html};

use super::{
    shown,
    table::{
        Column::{Numbers, Words},
        table,
    },
};
use crate::{
    view::what_if::{caveats, replayed},
    what_if::{Prediction, WhatIf},
};

/// The section; without a replay only that there is none.
pub fn section(what_if: Option<&WhatIf>) -> Markup {
    let Some(what_if) = what_if else {
        return html! {
            p {
                "Remedies are tried on entries, each at its time. A daemon remembers how many there were a \
                 minute, and a port that is taken over is held for a second: all at once or evenly, the most \
                 held at a time would be sixty times as many or as few. So of its history none is tried; of \
                 a recording, or of a session, they are."
            }
        };
    };
    let predictions = what_if.predictions();
    html! {
        p { (replayed(what_if)) " What would have been under other settings, by a model of the port space:" }
        (table(
            "table of remedies",
            "The first row is the model with nothing changed: how far it is from what was \
             recorded is how far to trust the others",
            [
                Words("settings"), Numbers("would have failed"), Numbers("most ports held"),
                Numbers("of"), Words("fullest port space"),
            ],
            &html! { @for prediction in &predictions { (line(prediction)) } },
        ))
        details {
            summary { "What these predictions rest on, and what they do not know" }
            ul { @for sentence in what_if.basis().chain(caveats(&predictions)) { li { (sentence) } } }
        }
    }
}

fn line(prediction: &Prediction) -> Markup {
    let fullest = prediction.spaces.first();
    let class = if prediction.failed > 0 { "n alarm" } else { "n" };
    html! {
        tr {
            th scope="row" { (prediction.remedy) }
            td class=(class) {
                (prediction.failed)
                @if prediction.unplaced > 0 { " (" (prediction.unplaced) " not tried)" }
            }
            @match fullest {
                Some(space) => {
                    td class="n" { (space.peak) }
                    td class="n" { (space.usable) }
                    td { (shown(&space.name())) }
                }
                None => { td class="n" { "0" } td class="n" { } td { "none" } }
            }
        }
    }
}
