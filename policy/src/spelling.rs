//! Receives a word that is not known; hands on the known one that was probably meant.

/// `, did you mean `action`?`, or nothing if no known word is near.
pub(crate) fn did_you_mean(name: &str, known: &[&str]) -> String {
    const FARTHEST: usize = 2;
    known
        .iter()
        .map(|word| (distance(&name.to_lowercase(), &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= FARTHEST)
        .min()
        .map(|(_, word)| format!(", did you mean `{word}`?"))
        .unwrap_or_default()
}

/// Levenshtein's distance, for names of ordinary length; a name longer than any word is far from all of them.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 32;
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (index, a) in a.chars().enumerate() {
        let mut left = index.saturating_add(1);
        let mut diagonal = index;
        let mut next = vec![left];
        for (b, above) in b.chars().zip(row.iter().skip(1)) {
            let replaced = diagonal.saturating_add(usize::from(a != b));
            left = replaced.min(above.saturating_add(1)).min(left.saturating_add(1));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_proposed_and_a_far_one_is_not() {
        assert_eq!(did_you_mean("acton", &["action", "mode"]), ", did you mean `action`?");
        assert_eq!(did_you_mean("ipblocks", &["ipBlocks"]), ", did you mean `ipBlocks`?");
        assert_eq!(did_you_mean("jwt", &["from", "to", "expires"]), "");
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
        assert_eq!(distance(&"x".repeat(100), "x"), usize::MAX);
    }
}
