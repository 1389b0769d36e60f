//! Domain: the name that was probably meant.

/// More names than this are not compared: a suggestion must not take longer than the answer.
const MOST_NAMES: usize = 20_000;

/// Returns the name nearest to `wanted`, in capitals or not: one that begins with it or ends with it, else one few
/// slips away.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let allowed = (wanted.chars().count() / 3).clamp(1, 3);
    let mut best: Option<(usize, &'a str)> = None;
    for name in names.into_iter().take(MOST_NAMES) {
        let known = name.to_lowercase();
        let is_part = wanted.len() >= 2 && (known.starts_with(&wanted) || known.ends_with(&wanted));
        let slips = if is_part { 0 } else { distance(&wanted, &known) };
        if slips <= allowed && best.is_none_or(|(fewest, _)| slips < fewest) {
            best = Some((slips, name));
        }
    }
    best.map(|(_, name)| name)
}

/// Counts the insertions, removals, replacements and swaps of neighbours between two texts.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 3 {
        return usize::MAX;
    }
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (row, from) in a.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in b.iter().enumerate() {
            let mut cost =
                (last[column] + usize::from(from != to)).min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && *from == b[column - 1] && a[row - 1] == *to;
            if swapped {
                cost = cost.min(before_last[column - 1] + 1);
            }
            current.push(cost);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_parts_are_forgiven_and_strangers_are_not() {
        let names = ["m-12345678", "m-9abcdef0", "deploy", "default"];
        assert_eq!(nearest("m-12345687", names), Some("m-12345678"));
        assert_eq!(nearest("9abcdef0", names), Some("m-9abcdef0"));
        assert_eq!(nearest("depoly", names), Some("deploy"));
        assert_eq!(nearest("m-12", names), Some("m-12345678"));
        assert_eq!(nearest("count", ["blockSize", "blockCount"]), Some("blockCount"));
        assert_eq!(nearest("nothing-like-it", names), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn distances_count_slips() {
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("abc", "ab"), 1);
        assert_eq!(distance("abc", "xbz"), 2);
    }
}
