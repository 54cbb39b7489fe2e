//! A table of the page: where the screen is too narrow for it, it scrolls by itself and not the page.

use maud::{Markup, html};

/// A column, by its head.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// Of words.
    Words(&'static str),
    /// Of numbers, which stand to the right.
    Numbers(&'static str),
}

/// The table of these columns and rows. `name` is what is read out of the area that scrolls.
pub fn table(
    name: &str,
    caption: &str,
    columns: impl IntoIterator<Item = Column>,
    rows: &Markup,
) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(name) {
            table {
                caption { (caption) }
                thead { tr {
                    @for column in columns {
                        @match column {
                            Column::Words(head) => th scope="col" { (head) },
                            Column::Numbers(head) => th scope="col" class="n" { (head) },
                        }
                    }
                } }
                tbody { (rows) }
            }
        }
    }
}
