//! The words of a condition, each with the character at which it stands.

use std::{iter::Peekable, str::Chars};

use crate::InvalidValue;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Name(String),
    Text(String),
    Number(String),
    Sign(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) word: Word,
    /// In characters, counted from 1.
    pub(super) at: usize,
}

/// All words of a text.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, InvalidValue> {
    let mut letters = Letters { rest: text.chars().peekable(), at: 1 };
    let mut tokens = Vec::new();
    while let Some(first) = letters.next_if(|_| true) {
        let at = letters.at.saturating_sub(1);
        let word = match first {
            ' ' | '\t' | '\n' | '\r' => continue,
            '"' | '\'' => Word::Text(letters.quoted(first, at)?),
            'a'..='z' | 'A'..='Z' | '_' => {
                Word::Name(letters.run(first, |c| c.is_ascii_alphanumeric() || c == '_'))
            }
            '0'..='9' => Word::Number(letters.run(first, |c| c.is_ascii_alphanumeric())),
            other => Word::Sign(
                letters
                    .sign(other)
                    .ok_or_else(|| invalid(at, &format!("{other:?} is not part of the language")))?,
            ),
        };
        tokens.push(Token { word, at });
    }
    Ok(tokens)
}

/// An error at a character.
pub(super) fn invalid(at: usize, why: &str) -> InvalidValue {
    format!("at character {at}: {why}").into()
}

struct Letters<'t> {
    rest: Peekable<Chars<'t>>,
    /// Of the next letter.
    at: usize,
}

impl Letters<'_> {
    fn next_if(&mut self, belongs: impl Fn(char) -> bool) -> Option<char> {
        let letter = self.rest.next_if(|letter| belongs(*letter))?;
        self.at = self.at.saturating_add(1);
        Some(letter)
    }

    fn run(&mut self, first: char, belongs: impl Fn(char) -> bool) -> String {
        let mut word = String::from(first);
        while let Some(letter) = self.next_if(&belongs) {
            word.push(letter);
        }
        word
    }

    /// `\\`, `\"` and `\'` are the escapes that there are.
    fn quoted(&mut self, quote: char, at: usize) -> Result<String, InvalidValue> {
        let mut text = String::new();
        while let Some(letter) = self.next_if(|_| true) {
            match letter {
                _ if letter == quote => return Ok(text),
                '\\' => match self.next_if(|letter| matches!(letter, '\\' | '"' | '\'')) {
                    Some(letter) => text.push(letter),
                    None => return Err(invalid(at, "of escapes a text has only \\\\, \\\" and \\'")),
                },
                _ if letter.is_control() => return Err(invalid(at, "a text has no control characters")),
                _ => text.push(letter),
            }
        }
        Err(invalid(at, "the text has no end"))
    }

    fn sign(&mut self, first: char) -> Option<&'static str> {
        let mut then = |second: char| self.next_if(|letter| letter == second).is_some();
        match first {
            '&' => then('&').then_some("&&"),
            '|' => then('|').then_some("||"),
            '=' => then('=').then_some("=="),
            '!' => Some(if then('=') { "!=" } else { "!" }),
            '<' => Some(if then('=') { "<=" } else { "<" }),
            '>' => Some(if then('=') { ">=" } else { ">" }),
            '(' => Some("("),
            ')' => Some(")"),
            '[' => Some("["),
            ']' => Some("]"),
            '.' => Some("."),
            ',' => Some(","),
            _ => None,
        }
    }
}
