//! Paths that were asked for, as patterns: a segment that is a number, a UUID or a long hexadecimal text is `{id}`, and so is one that
//! has more values than a person would name.

use std::collections::{BTreeMap, BTreeSet};

use super::super::observed::Evidence;

/// A path as its segments; `None` is any one.
type Shape = Vec<Option<String>>;

/// What was asked of each shape.
type Shapes<'m> = BTreeMap<Shape, (BTreeSet<&'m str>, Evidence)>;

/// Methods, patterns and evidence; patterns with the same methods stand together.
pub(super) fn collapse(requests: &[(&str, &str, &Evidence)]) -> Vec<(Vec<String>, Vec<String>, Evidence)> {
    let mut shapes: Shapes<'_> = BTreeMap::new();
    for (method, path, evidence) in requests {
        let (methods, sum) = shapes.entry(shape(path)).or_default();
        methods.insert(method);
        sum.add(evidence);
    }
    let deepest = shapes.keys().map(Vec::len).max().unwrap_or_default();
    for depth in 0..deepest {
        shapes = joined(shapes, depth);
    }
    let mut operations: BTreeMap<Vec<String>, Vec<(Vec<String>, Evidence)>> = BTreeMap::new();
    for (shape, (methods, evidence)) in shapes {
        let methods = methods.into_iter().map(str::to_owned).collect();
        let lists = operations.entry(methods).or_default();
        match lists.last_mut().filter(|(patterns, _)| patterns.len() < MOST_PATTERNS) {
            Some((patterns, sum)) => {
                patterns.push(pattern(&shape));
                sum.add(&evidence);
            }
            None => lists.push((vec![pattern(&shape)], evidence)),
        }
    }
    let flat = operations.into_iter().flat_map(|(methods, lists)| {
        lists.into_iter().map(move |(patterns, evidence)| (methods.clone(), patterns, evidence))
    });
    flat.collect()
}

fn shape(path: &str) -> Shape {
    let path = path.strip_prefix('/').unwrap_or(path);
    let segment = |text: &str| {
        let is_plain = text.is_empty() || super::is_pattern(&format!("/{text}")) && !text.starts_with('{');
        (is_plain && !is_value(text)).then(|| text.to_owned())
    };
    path.split('/').map(segment).collect()
}

/// A number, a UUID, or as much hexadecimal as a hash has.
fn is_value(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number || text.len() >= 16 && is_hex(text) && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Shapes that differ only at `depth`, in more values than are named, become one.
fn joined(shapes: Shapes<'_>, depth: usize) -> Shapes<'_> {
    let without = |shape: &Shape| {
        let mut shape = shape.clone();
        if let Some(segment) = shape.get_mut(depth) {
            *segment = None;
        }
        shape
    };
    let mut values: BTreeMap<Shape, usize> = BTreeMap::new();
    // The empty segment behind a last slash is no value: `{id}` would not match it.
    for shape in shapes.keys().filter(|shape| shape.get(depth).is_some_and(|it| it.as_deref() != Some(""))) {
        *values.entry(without(shape)).or_default() += 1;
    }
    let mut joined: Shapes<'_> = BTreeMap::new();
    for (shape, (methods, evidence)) in shapes {
        let any = without(&shape);
        let is_value = shape.get(depth).is_some_and(|it| it.as_deref() != Some(""));
        let is_one_of_many = is_value && values.get(&any).is_some_and(|count| *count > MOST_VALUES);
        let (all, sum) = joined.entry(if is_one_of_many { any } else { shape }).or_default();
        all.extend(methods);
        sum.add(&evidence);
    }
    joined
}

fn pattern(shape: &Shape) -> String {
    let mut text = String::new();
    let mut unnamed = 0;
    for segment in shape {
        text.push('/');
        if let Some(segment) = segment {
            text.push_str(segment);
            continue;
        }
        unnamed += 1;
        // Of two segments with one name the second is refused.
        let number = if unnamed == 1 { String::new() } else { unnamed.to_string() };
        text.extend(["{id", &number, "}"]);
    }
    text
}

/// Values of one segment that are still named one by one.
const MOST_VALUES: usize = 16;
/// Values in one list of the language.
const MOST_PATTERNS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn collapsed(requests: &[(&str, String)]) -> Vec<String> {
        let evidence = Evidence { count: 1, ..Evidence::default() };
        let requests: Vec<_> =
            requests.iter().map(|(method, path)| (*method, path.as_str(), &evidence)).collect();
        let shown = |(methods, paths, evidence): (Vec<String>, Vec<String>, Evidence)| {
            format!("{} {} x{}", methods.join(","), paths.join(" "), evidence.count)
        };
        collapse(&requests).into_iter().map(shown).collect()
    }

    #[test]
    fn numbers_uuids_and_hashes_are_one_segment_whatever_they_are() {
        let paths =
            ["/a/1", "/a/22", "/a/0191d3a5-9c1b-7b3e-8e6d-2f1f0b6f7a10", "/a/da39a3ee5e6b4b0d3255", "/a/b"];
        let requests: Vec<_> = paths.iter().map(|path| ("GET", (*path).to_owned())).collect();
        assert_eq!(collapsed(&requests), ["GET /a/{id} /a/b x5"]);
        assert_eq!(collapsed(&[("GET", "/1/x/2".to_owned())]), ["GET /{id}/x/{id2} x1"]);
    }

    #[test]
    fn many_values_of_a_segment_are_any_and_few_are_named() {
        let of =
            |count: usize| (0..count).map(|index| ("GET", format!("/u/name-{index}/x"))).collect::<Vec<_>>();
        assert_eq!(collapsed(&of(17)), ["GET /u/{id}/x x17"]);
        assert!(collapsed(&of(16))[0].contains("/u/name-15/x"));
    }

    #[test]
    fn patterns_with_the_same_methods_stand_together_and_a_path_that_no_pattern_names_is_any() {
        let requests = [("GET", "/a"), ("POST", "/a"), ("GET", "/b"), ("GET", "/c/"), ("GET", "/d/x;y")];
        let requests = requests.map(|(method, path)| (method, path.to_owned()));
        assert_eq!(collapsed(&requests), ["GET /b /c/ /d/{id} x3", "GET,POST /a x2"]);
    }
}
