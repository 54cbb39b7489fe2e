//! What a key means, by what is on the screen.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{State, View};

/// What a key wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Show a view.
    Show(View),
    /// Show the next view, or the one before.
    Turn(Direction),
    /// Move the selection or the text by this many lines.
    Move(isize),
    /// Move by this many pages.
    Page(isize),
    /// To the first line.
    First,
    /// To the last line.
    Last,
    /// Show the selected peer.
    Open,
    /// Back to where one came from, or take the filter away.
    Back,
    /// Order by the next column.
    Sort,
    /// Order the other way round.
    Reverse,
    /// Begin to type a filter.
    TypeFilter,
    /// A character of the filter.
    Type(char),
    /// Take the last character away.
    Erase,
    /// Take all characters away.
    EraseAll,
    /// Keep the filter.
    Accept,
    /// Keep the filter before.
    Cancel,
    /// Hold the picture, or go on.
    Pause,
    /// Count from now on.
    Reset,
    /// Group by something coarser, and back to peers in the end.
    Group,
    /// Show more rows at most, and few again in the end.
    Top,
    /// Show or hide the help.
    Help,
    /// Ask whether to end, and end when asked twice.
    Quit,
    /// End.
    QuitNow,
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the next.
    Next,
    /// To the one before.
    Before,
}

/// What a key wants done in this state, if anything.
pub fn effect(state: &State, key: KeyEvent) -> Option<Effect> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && key.code == KeyCode::Char('c') {
        return Some(Effect::QuitNow);
    }
    if state.filter().typed().is_some() { typing(key.code, control) } else { command(key.code) }
}

fn typing(code: KeyCode, control: bool) -> Option<Effect> {
    Some(match code {
        KeyCode::Enter => Effect::Accept,
        KeyCode::Esc => Effect::Cancel,
        KeyCode::Backspace => Effect::Erase,
        KeyCode::Char('u') if control => Effect::EraseAll,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char(char) => Effect::Type(char),
        _ => return None,
    })
}

fn command(code: KeyCode) -> Option<Effect> {
    Some(match code {
        KeyCode::Down | KeyCode::Char('j') => Effect::Move(1),
        KeyCode::Up | KeyCode::Char('k') => Effect::Move(-1),
        KeyCode::PageDown => Effect::Page(1),
        KeyCode::PageUp => Effect::Page(-1),
        KeyCode::Home | KeyCode::Char('g') => Effect::First,
        KeyCode::End | KeyCode::Char('G') => Effect::Last,
        KeyCode::Enter => Effect::Open,
        KeyCode::Esc => Effect::Back,
        KeyCode::Tab => Effect::Turn(Direction::Next),
        KeyCode::BackTab => Effect::Turn(Direction::Before),
        KeyCode::Char('1') => Effect::Show(View::Peers),
        KeyCode::Char('2') => Effect::Show(View::Events),
        KeyCode::Char('3') => Effect::Show(View::Findings),
        KeyCode::Char('4') => Effect::Show(View::Limits),
        KeyCode::Char('/') => Effect::TypeFilter,
        KeyCode::Char('s') => Effect::Sort,
        KeyCode::Char('S') => Effect::Reverse,
        KeyCode::Char('p' | ' ') => Effect::Pause,
        KeyCode::Char('r') => Effect::Reset,
        KeyCode::Char('a') => Effect::Group,
        KeyCode::Char('n') => Effect::Top,
        KeyCode::Char('h' | '?') | KeyCode::F(1) => Effect::Help,
        KeyCode::Char('q') => Effect::Quit,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(state: &State, code: KeyCode) -> Option<Effect> {
        effect(state, KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn letters_are_commands_until_a_filter_is_typed() {
        let mut state = State::default();
        assert_eq!(press(&state, KeyCode::Char('q')), Some(Effect::Quit));
        state.apply(Effect::TypeFilter);
        assert_eq!(press(&state, KeyCode::Char('q')), Some(Effect::Type('q')));
        assert_eq!(press(&state, KeyCode::Esc), Some(Effect::Cancel));
        state.apply(Effect::Cancel);
        assert_eq!(press(&state, KeyCode::Esc), Some(Effect::Back));
    }

    #[test]
    fn control_c_ends_it_whatever_one_is_at() {
        let mut state = State::default();
        state.apply(Effect::TypeFilter);
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(effect(&state, key), Some(Effect::QuitNow));
    }
}
