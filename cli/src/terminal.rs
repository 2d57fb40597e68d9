//! What the terminal can show: Unicode or ASCII marks, and colours.
//! The only reader of locale variables; `anstream` removes colours under `NO_COLOR` and off a terminal.

use clap::builder::styling::{AnsiColor, Style};

/// How a check or verdict is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As it should be.
    Good,
    /// To be looked at.
    Warn,
    /// Failed or refused.
    Bad,
    /// Labels beside values.
    Dim,
    /// Headings.
    Strong,
}

/// The characters that marks are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charset {
    /// √ ‼ ×
    Unicode,
    /// ok, !!, XX: readable in every locale and font.
    Ascii,
}

impl Charset {
    /// Unicode when the locale says UTF-8, ASCII otherwise.
    pub(crate) fn from_env() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        Self::of_locale(locale.as_deref())
    }

    fn of_locale(locale: Option<&str>) -> Self {
        let utf8 = locale.is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        if utf8 { Self::Unicode } else { Self::Ascii }
    }

    /// The mark before a line.
    pub(crate) const fn mark(self, paint: Paint) -> &'static str {
        match (self, paint) {
            (Self::Unicode, Paint::Good) => "√",
            (Self::Unicode, Paint::Warn) => "‼",
            (Self::Unicode, Paint::Bad) => "×",
            (Self::Ascii, Paint::Good) => "ok",
            (Self::Ascii, Paint::Warn) => "!!",
            (Self::Ascii, Paint::Bad) => "XX",
            (_, Paint::Dim | Paint::Strong) => "",
        }
    }
}

/// `text` in the colour of its meaning.
pub(crate) fn paint(paint: Paint, text: &str) -> String {
    let style = style(paint);
    format!("{style}{text}{style:#}")
}

fn style(paint: Paint) -> Style {
    match paint {
        Paint::Good => AnsiColor::Green.on_default(),
        Paint::Warn => AnsiColor::Yellow.on_default(),
        Paint::Bad => AnsiColor::Red.on_default().bold(),
        Paint::Dim => Style::new().dimmed(),
        Paint::Strong => Style::new().bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_utf8_locale_gets_unicode_and_any_other_ascii() {
        for locale in ["en_GB.UTF-8", "C.utf8", "de_DE.utf-8@euro"] {
            assert_eq!(Charset::of_locale(Some(locale)), Charset::Unicode, "{locale}");
        }
        for locale in [None, Some("C"), Some("POSIX"), Some("de_DE.ISO-8859-1")] {
            assert_eq!(Charset::of_locale(locale), Charset::Ascii, "{locale:?}");
        }
    }
}
