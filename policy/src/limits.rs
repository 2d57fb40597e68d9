//! Every bound on what a policy set may hold, in one place. Over a bound is SG0216, and the whole set is refused.

/// Bytes of one file or document. Ten thousand ordinary rules fit. Who reads files need not read further than one byte
/// beyond: that is enough to be refused.
pub const FILE_BYTES: usize = 4 << 20;
/// Bytes of all files of one set, which whoever reads them keeps to.
pub const SET_BYTES: usize = 64 << 20;
/// Files of one set, likewise.
pub const SET_FILES: usize = 10_000;
/// Nesting of lists and maps; the language itself needs eight.
pub(crate) const DEPTH: usize = 16;
/// Values in one file.
pub(crate) const NODES: usize = 500_000;
/// Values of one file that aliases repeat.
pub(crate) const REPEATED: usize = 50_000;
/// Bytes of all texts in one file, those that aliases repeat among them.
pub(crate) const TEXT_BYTES: usize = 4 * FILE_BYTES;
/// Policies in one set.
pub(crate) const POLICIES: usize = 10_000;
/// Rules in all policies of one set.
pub(crate) const RULES: usize = 100_000;
/// Callers × ports × path segments, over all rules of one set: what the index of a workload holds at most, so that a
/// small file cannot unfold into a large one.
pub(crate) const INDEXED: usize = 2_000_000;
/// Rules in one policy.
pub(crate) const RULES_PER_POLICY: usize = 10_000;
/// Entries of one rule's `from` or `to`.
pub(crate) const ENTRIES: usize = 64;
/// Values in one list, such as `paths`.
pub(crate) const VALUES: usize = 256;
/// Trust domains in one source: each multiplies its `serviceAccounts` in the index.
pub(crate) const TRUST_DOMAINS: usize = 16;
/// Labels in one selector.
pub(crate) const LABELS: usize = 16;
/// Bytes of a name: they end up in log lines and metric labels.
pub(crate) const NAME_BYTES: usize = 128;
/// Claims that one `jwt` asks for.
pub(crate) const CLAIMS: usize = 16;
/// Bytes of a claim's name, and of a text that one is compared with.
pub(crate) const CLAIM_BYTES: usize = 256;
/// Claims inside of each other.
pub(crate) const CLAIM_DEPTH: usize = 4;
/// Of a list, what an explanation shows.
pub(crate) const SHOWN_VALUES: usize = 5;
/// Bytes of a path pattern.
pub(crate) const PATTERN_BYTES: usize = 1024;
/// Rules that an explanation looks at for the nearest miss: denied callers must not buy unbounded work with it.
pub(crate) const EXPLAINED_RULES: usize = 256;
/// Rules that a lint compares with others, over all rules: it answers in a second or two whatever it is given, and says so
/// where it did not compare all.
pub(crate) const COMPARED_RULES: usize = 20_000_000;
/// Days for which an exception to mutual TLS may hold from now on: what is needed for longer is to be said again.
pub(crate) const EXCEPTION_DAYS: u32 = 90;
/// Bytes of the reason for one.
pub(crate) const REASON_BYTES: usize = 512;
/// Bytes of a `when`: what bounds the tests in it, and so what one judgement costs.
pub(crate) const CONDITION_BYTES: usize = 1024;
/// Bytes of a module in Rego.
pub(crate) const REGO_BYTES: usize = 16 << 10;
/// Parentheses and negations of a `when` inside each other: it is read and judged by functions that call themselves.
pub(crate) const CONDITION_DEPTH: usize = 16;
