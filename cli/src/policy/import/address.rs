//! Blocks of addresses without other blocks: the language has no negation, and a difference of blocks is a list of them.

use std::net::IpAddr;

use ipnet::IpNet;

/// The blocks of `blocks` without those of `except`, at most as many as one list takes.
pub(super) fn without(blocks: &[&str], except: &[&str]) -> Result<Vec<String>, String> {
    let mut left = blocks.iter().map(|text| block(text)).collect::<Result<Vec<_>, _>>()?;
    for except in except.iter().map(|text| block(text)) {
        let except = except?;
        left = left.into_iter().flat_map(|block| minus(block, except)).collect();
    }
    match left.len() {
        0 => Err("no address is left".to_owned()),
        1..=MOST => Ok(left.iter().map(ToString::to_string).collect()),
        count => Err(format!("the addresses that are left make {count} blocks; a list takes {MOST}")),
    }
}

/// `10.0.0.7` or `10.0.0.0/8`.
fn block(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse())
        .map(|net: IpNet| net.trunc())
        .map_err(|_| format!("{text:?} is no block of addresses"))
}

/// Halves a block until the halves are in or out; the depth is that of an address.
fn minus(block: IpNet, except: IpNet) -> Vec<IpNet> {
    if except.contains(&block) {
        return Vec::new();
    }
    if !block.contains(&except) {
        return vec![block];
    }
    let halves = block.subnets(block.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| minus(half, except)).collect()
}

/// As many values as a list of a policy takes.
const MOST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_without_a_part_of_it_is_what_remains_and_nothing_else() {
        assert_eq!(without(&["10.0.0.0/30"], &["10.0.0.1"]).unwrap(), ["10.0.0.0/32", "10.0.0.2/31"]);
        assert_eq!(
            without(&["10.0.0.0/8", "fd00::/8"], &["11.0.0.0/8"]).unwrap(),
            ["10.0.0.0/8", "fd00::/8"]
        );
        assert!(without(&["10.0.0.7"], &["10.0.0.0/8"]).is_err());
        assert!(without(&["10.0.0.0/33"], &[]).is_err());
        let left = without(&["0.0.0.0/0"], &["10.0.0.7"]).unwrap();
        assert_eq!(left.len(), 32);
    }
}
