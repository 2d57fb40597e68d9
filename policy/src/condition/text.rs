//! Questions to a text.

/// What is asked of a text; byte for byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextTest {
    /// `==`, and `in` a list.
    OneOf(Box<[Box<str>]>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
}

impl TextTest {
    pub(super) fn holds(&self, text: &str) -> bool {
        match self {
            Self::OneOf(list) => list.iter().any(|it| **it == *text),
            Self::StartsWith(start) => text.starts_with(&**start),
            Self::EndsWith(end) => text.ends_with(&**end),
            Self::Contains(part) => text.contains(&**part),
        }
    }

    /// As hosts are compared.
    pub(super) fn holds_in_any_case(&self, text: &str) -> bool {
        let (text, same) = (text.as_bytes(), <[u8]>::eq_ignore_ascii_case);
        let windows = |part: &str| text.windows(part.len().max(1));
        match self {
            Self::OneOf(list) => list.iter().any(|it| same(it.as_bytes(), text)),
            Self::StartsWith(start) => {
                text.get(..start.len()).is_some_and(|head| same(head, start.as_bytes()))
            }
            Self::EndsWith(end) => windows(end).next_back().is_some_and(|tail| same(tail, end.as_bytes())),
            Self::Contains(part) => windows(part).any(|window| same(window, part.as_bytes())),
        }
    }

    /// Whether it holds for a field's value, which may be one value or a list (RFC 9110 §5.3): a hop before this one may
    /// have joined several lines into it, and the application may take it apart. `None` if these readings differ.
    pub(super) fn holds_however_read(&self, value: &str) -> Option<bool> {
        let whole = self.holds(value);
        let is_list = value.as_bytes().contains(&b',');
        let agrees = |part: &str| self.holds(part.trim_matches([' ', '\t'])) == whole;
        (!is_list || value.split(',').all(agrees)).then_some(whole)
    }

    /// A text for which it holds.
    pub(super) fn example(&self) -> &str {
        match self {
            Self::OneOf(list) => list.first().map_or("", |first| first),
            Self::StartsWith(text) | Self::EndsWith(text) | Self::Contains(text) => text,
        }
    }
}
