//! A header as a condition reads it. Receives all fields of a request; hands on the one value of a name, or why there
//! is none.
//!
//! Applications differ in what they take for the value of a header that comes twice: the first, the last, or both
//! joined (CVE-2020-25017, CVE-2026-26308). Whichever a policy engine picks, it is a bypass before an application that
//! picks another. So none is picked: such a header is in doubt, and doubt denies.

use std::{fmt, str};

/// The header fields of a request, as they are forwarded.
pub trait Headers: fmt::Debug {
    /// Shows `field` every line: its name, and its value. A name that has several lines comes as often.
    fn visit<'h>(&'h self, field: &mut dyn FnMut(&'h str, &'h [u8]));
}

/// None at all.
impl Headers for () {
    fn visit<'h>(&'h self, _: &mut dyn FnMut(&'h str, &'h [u8])) {}
}

/// As a test or a person writes them.
impl Headers for Vec<(String, String)> {
    fn visit<'h>(&'h self, field: &mut dyn FnMut(&'h str, &'h [u8])) {
        for (name, value) in self {
            field(name, value.as_bytes());
        }
    }
}

/// What a name stands for in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading<'r> {
    Missing,
    One(&'r str),
    /// On more than one line.
    Several,
    Unclear(&'static str),
}

/// What the request says of `name`, which is in lower case.
pub(super) fn reading<'r>(headers: &'r dyn Headers, name: &str) -> Reading<'r> {
    let mut found = Reading::Missing;
    headers.visit(&mut |field, value| match likeness(field, name) {
        Likeness::None => {}
        Likeness::Same => {
            found = match found {
                Reading::Missing => str::from_utf8(value).map_or(NOT_TEXT, Reading::One),
                Reading::One(_) | Reading::Several => Reading::Several,
                Reading::Unclear(_) => found,
            }
        }
        // Beside the name itself it may be what the application reads.
        Likeness::Spelling => found = LOOKALIKE,
    });
    found
}

const NOT_TEXT: Reading<'static> = Reading::Unclear("is no text");
/// CGI and what follows it make one name of both (`HTTP_X_TENANT`), others keep them apart.
const LOOKALIKE: Reading<'static> =
    Reading::Unclear("is there with `_` for `-`, which some applications take for it");

enum Likeness {
    None,
    Same,
    Spelling,
}

fn likeness(field: &str, name: &str) -> Likeness {
    if field.len() != name.len() {
        return Likeness::None;
    }
    if field.eq_ignore_ascii_case(name) {
        return Likeness::Same;
    }
    let folded = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    if field.bytes().map(folded).eq(name.bytes().map(folded)) { Likeness::Spelling } else { Likeness::None }
}
