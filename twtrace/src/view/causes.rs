//! An error and what it came from, in one text.

/// The error and its causes, joined by colons; a cause that is part of what was told already is not
/// told again, for many an error has its cause in its own sentence.
pub fn causes<'a>(
    chain: impl IntoIterator<Item = &'a (dyn std::error::Error + 'static)>,
) -> String {
    let mut told = String::new();
    for cause in chain {
        let cause = cause.to_string();
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::causes;
    use anyhow::Context as _;

    #[test]
    fn a_cause_is_told_once_whoever_tells_it() {
        let inner = || std::io::Error::other("the disk is full");
        let own = anyhow::Error::from(inner()).context("cannot write FILE: the disk is full");
        assert_eq!(causes(own.chain()), "cannot write FILE: the disk is full");
        let bare = Err::<(), _>(inner()).context("cannot write FILE").unwrap_err();
        assert_eq!(causes(bare.chain()), "cannot write FILE: the disk is full");
    }

    #[test]
    fn a_faulty_filter_is_shown_once() {
        let fault = "dst foo =".parse::<crate::filter::Expr>().unwrap_err();
        let error = anyhow::Error::from(crate::session::SessionError::Filter(fault));
        let told = causes(error.chain());
        assert_eq!(told.matches("dst foo =").count(), 1, "{told}");
        assert_eq!(told.matches('^').count(), 1, "{told}");
    }
}
