//! What a module may call, found by its words alone, before anything of it is parsed or run. Refuses more than it must: a
//! call that is written in an unusual way is none that is known.

use crate::InvalidValue;

/// A word of a module, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Word<'t> {
    /// A name with the names after its dots.
    Name(&'t str),
    Text,
    Sign(char),
}

/// Refuses a module that calls what is not in [`CALLED`], that has a `with`, or that is deeper than an engine which calls itself
/// for each level can bear.
pub(super) fn check(text: &str) -> Result<(), InvalidValue> {
    let mut before = Word::Sign('\n');
    let mut depth = Depth::default();
    let mut rest = text;
    while let Some((word, after)) = next(rest)? {
        match (before, word) {
            (Word::Name(name), Word::Sign('(')) if !may_stand_before_parenthesis(name) => {
                return Err(InvalidValue::from(format!(
                    "{name}(…) cannot be called here; there are {}, and no functions of one's own",
                    CALLED.join(", ")
                )));
            }
            (Word::Text | Word::Sign(']' | ')' | '}'), Word::Sign('(')) => {
                return Err(InvalidValue::because("what is called must be named"));
            }
            (_, Word::Name("with")) => return Err(InvalidValue::because("there is no `with` here")),
            _ => {}
        }
        let skipped = rest.len().saturating_sub(after.len());
        let is_new_line = rest.get(..skipped).is_some_and(|skipped| skipped.trim_end().contains('\n'));
        depth.enter(before, word, is_new_line)?;
        (before, rest) = (word, after);
    }
    Ok(())
}

/// How far expressions and rules reach into each other.
#[derive(Debug, Default)]
struct Depth {
    brackets: usize,
    /// Operators since an expression began.
    operators: usize,
    statements: usize,
}

impl Depth {
    fn enter(&mut self, before: Word<'_>, word: Word<'_>, is_new_line: bool) -> Result<(), InvalidValue> {
        if word == Word::Sign(';') || is_new_line && !before.is_operator() && !word.is_operator() {
            self.operators = 0;
            self.statements = self.statements.saturating_add(usize::from(self.brackets == 0));
        }
        self.operators = self.operators.saturating_add(word.operators());
        self.brackets = match word {
            Word::Sign('(' | '[' | '{') => self.brackets.saturating_add(1),
            Word::Sign(')' | ']' | '}') => self.brackets.saturating_sub(1),
            _ => self.brackets,
        };
        let bounds = [
            (self.brackets, MOST_BRACKETS, "brackets inside of each other"),
            (self.operators, MOST_OPERATORS, "operators in one expression"),
            (self.statements, MOST_STATEMENTS, "rules"),
        ];
        match bounds.iter().find(|(seen, most, _)| seen > most) {
            None => Ok(()),
            Some((_, most, what)) => Err(InvalidValue::from(format!("more than {most} {what}"))),
        }
    }
}

impl Word<'_> {
    fn is_operator(self) -> bool {
        self.operators() > 0
    }

    /// What makes an expression deeper by one, each.
    fn operators(self) -> usize {
        match self {
            Self::Name("not" | "in" | "else") => 1,
            Self::Name(name) => name.matches('.').count().saturating_sub(MOST_DOTS),
            Self::Sign(sign) => usize::from("+-*/%&|=<>!.[".contains(sign)),
            Self::Text => 0,
        }
    }
}

fn may_stand_before_parenthesis(name: &str) -> bool {
    CALLED.contains(&name) || KEYWORDS.contains(&name)
}

/// The next word and what is behind it; `None` at the end.
fn next(text: &str) -> Result<Option<(Word<'_>, &str)>, InvalidValue> {
    let mut text = text.trim_start();
    while let Some(comment) = text.strip_prefix('#') {
        text = comment.split_once('\n').map_or("", |(_, after)| after).trim_start();
    }
    let Some(first) = text.chars().next() else { return Ok(None) };
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    if is_name(first) {
        let end = text.find(|char: char| !is_name(char) && char != '.').unwrap_or(text.len());
        let (name, after) = text.split_at_checked(end).unwrap_or((text, ""));
        return Ok(Some((Word::Name(name), after)));
    }
    let after = text.get(first.len_utf8()..).unwrap_or("");
    match first {
        '"' | '`' => Ok(Some((Word::Text, behind(after, first)?))),
        // A name that begins anew behind a dot is none that is known.
        sign => Ok(Some((Word::Sign(sign), after))),
    }
}

/// What is behind the end of a text.
fn behind(text: &str, quote: char) -> Result<&str, InvalidValue> {
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' if quote == '"' => drop(chars.next()),
            end if end == quote => {
                return Ok(text.get(at.saturating_add(end.len_utf8())..).unwrap_or(""));
            }
            _ => {}
        }
    }
    Err(InvalidValue::because("a text in it has no end"))
}

const KEYWORDS: [&str; 9] = ["if", "in", "not", "some", "every", "else", "contains", "default", "as"];

/// What one path through `input` has.
const MOST_DOTS: usize = 8;
const MOST_BRACKETS: usize = 12;
const MOST_OPERATORS: usize = 24;
/// With `package` and every `import`. Each may rest on the next.
pub(super) const MOST_STATEMENTS: usize = 32;

/// What a module may call. None of these makes much of little.
pub(super) const CALLED: [&str; 30] = [
    "abs",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "indexof",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "object.get",
    "object.keys",
    "round",
    "split",
    "startswith",
    "substring",
    "to_number",
    "trim",
    "trim_prefix",
    "trim_space",
    "trim_suffix",
    "upper",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_list_may_be_called_and_the_rest_of_the_language_stands() {
        for text in [
            "package sidegate\nallow if startswith(input.request.path, \"/a\")",
            "package sidegate # numbers.range(1, 2)\nallow if { x := (1 + 2) * 3; x > 2 }",
            "allow if not (input.a == `with numbers.range(1, 2)`)",
            "allow if \"a \\\" numbers.range(\" == input.a",
            "allow if { some x in input.list; lower(x) == \"a\" }",
            "allow if count([x | some x in input.list]) > 1",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_deeper_than_its_bounds_is_refused() {
        let repeated = |what: &str, times: usize| what.repeat(times);
        let rules =
            |times: usize| (0..times).map(|n| format!("r{n} if r{}\n", n + 1)).collect::<Vec<_>>().concat();
        for (fits, deep) in [
            (
                format!("a := {}1{}", repeated("[", 12), repeated("]", 12)),
                format!("a := {}", repeated("[", 13)),
            ),
            (format!("a := 1{}", repeated(" + 1", 20)), format!("a := 1{}", repeated(" + 1", 30))),
            (format!("a := 1{}", repeated(" +\n1", 20)), format!("a := 1{}", repeated("\n+ 1", 30))),
            (format!("a if {} b", repeated("not ", 20)), format!("a if {} b", repeated("not ", 30))),
            (format!("a := b{}", repeated(".c", 30)), format!("a := b{}", repeated(".c", 40))),
            (format!("a := b{}", repeated("[0]", 20)), format!("a := b{}", repeated("[0]", 30))),
            (rules(MOST_STATEMENTS), rules(MOST_STATEMENTS + 2)),
        ] {
            assert_eq!(check(&fits), Ok(()), "{fits}");
            assert!(check(&deep).is_err(), "{deep}");
        }
        let lines = format!("a if {{\n{}}}", repeated("input.b == 1\n", 100));
        assert_eq!(check(&lines), Ok(()));
    }

    #[test]
    fn nothing_else_may_be_called_however_it_is_written() {
        for text in [
            "allow if count(numbers.range(1, 2)) > 1",
            "allow if numbers . range(1, 2)",
            "allow if numbers[\"range\"](1, 2)",
            "allow if numbers.range (1, 2)",
            "allow if numbers.range# no\n(1, 2)",
            "allow if sprintf(\"%1000000000d\", [1])",
            "allow if http.send({})",
            "f(x) := f(x)",
            "allow if f(1)",
            "allow if data.sidegate.f(1)",
            "allow if input.x with input as {}",
            "allow if count(x) with count as numbers.range",
            "allow if \"a",
            "allow if (f)(1)",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
