//! Words of a head, kept as far as they matter, and the bytes that each kind of word may have.

/// A word, folded to lower case, or too long to be any that matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    bytes: [u8; LONGEST_WORD],
    length: usize,
}

impl Word {
    pub(super) const EMPTY: Self = Self { bytes: [0; LONGEST_WORD], length: 0 };

    pub(super) fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(1);
    }

    /// Takes the bytes of a word that `bytes` begin with, as many as there are.
    pub(super) fn take(&mut self, bytes: &[u8], kind: &[bool; 256]) -> usize {
        let taken = bytes.iter().take_while(|byte| kind[usize::from(**byte)]).count();
        let from = self.length.min(LONGEST_WORD);
        for (place, byte) in self.bytes[from..].iter_mut().zip(&bytes[..taken]) {
            *place = byte.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(taken);
        taken
    }

    /// Longer than any word that matters.
    pub(super) fn is_long(&self) -> bool {
        self.length > LONGEST_WORD
    }

    /// Its beginning, if it is long.
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length.min(LONGEST_WORD)]
    }

    pub(super) fn is(&self, word: &[u8]) -> bool {
        !self.is_long() && self.as_slice() == word
    }
}

/// RFC 9110 §5.6.2.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// What ends no word and hides none: which of these belong into a path is for `path` to say.
pub(super) const fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// By byte. A table, since each byte of a head is asked.
pub(super) const TOKEN: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0u8);
    while byte < u8::MAX {
        table[byte as usize] = is_token_byte(byte);
        byte += 1;
    }
    table
};
pub(super) const TARGET: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0u8);
    while byte < u8::MAX {
        table[byte as usize] = is_target_byte(byte);
        byte += 1;
    }
    table
};
/// `transfer-encoding` is the longest that matters.
const LONGEST_WORD: usize = 17;
