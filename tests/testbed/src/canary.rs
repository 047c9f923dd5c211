//! The search for key values, and for pieces of them, in whatever the function emits (promise I5).
//!
//! A piece is any run of twelve characters. It is found plain, in Base64 (in all three alignments and both alphabets), in
//! hexadecimal, percent-encoded, escaped as JSON, Rust and C do it, and as a list of numbers. The fault suite reads gigabytes
//! with it, so each byte is looked at once: the pieces of every encoding are in one set, behind a sieve that lets almost nothing through.

use std::collections::{HashMap, HashSet};

/// The length of a piece.
const PIECE: usize = 12;

/// Bits of the sieve: enough for some thousand pieces, and small enough for the fastest cache.
const SIEVE_BITS: u32 = 18;

/// With more pieces than this the sieve lets too much through: those of earlier cases are forgotten.
const MOST_PIECES: usize = 60_000;

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What must not get out.
pub struct Canaries {
    known: HashSet<String>,
    pieces: HashMap<u128, &'static str>,
    sieve: Vec<u64>,
}

impl Default for Canaries {
    fn default() -> Self {
        Self { known: HashSet::new(), pieces: HashMap::new(), sieve: vec![0; 1 << (SIEVE_BITS - 6)] }
    }
}

impl Canaries {
    /// From now on nothing of these may be in what is searched, and no piece of them.
    pub fn add<'a>(&mut self, secrets: impl IntoIterator<Item = &'a str>) {
        if self.pieces.len() > MOST_PIECES {
            *self = Self::default();
        }
        for secret in secrets {
            if secret.len() < PIECE || self.known.contains(secret) {
                continue;
            }
            self.known.insert(secret.to_owned());
            let secret = secret.as_bytes();
            self.add_pieces(secret, "plain");
            for alphabet in [STANDARD, URL_SAFE] {
                for alignment in 0..3 {
                    self.add_pieces(&base64(secret, alphabet, alignment), "in Base64");
                }
            }
            let hexadecimal: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            self.add_pieces(hexadecimal.as_bytes(), "in hexadecimal");
            self.add_pieces(hexadecimal.to_uppercase().as_bytes(), "in hexadecimal");
        }
    }

    fn add_pieces(&mut self, text: &[u8], encoding: &'static str) {
        for piece in text.windows(PIECE) {
            let piece = piece.iter().fold(0, |piece, byte| (piece << 8) | u128::from(*byte));
            let place = place(piece);
            self.sieve[place >> 6] |= 1 << (place & 63);
            self.pieces.insert(piece, encoding);
        }
    }

    /// The first line with a piece of a canary in it, and how it was written; `None`: all is well.
    pub fn find(&self, text: &[u8]) -> Option<String> {
        const WHOLE: u128 = (1 << (8 * PIECE)) - 1;
        let (mut piece, mut last, mut suspicious, mut begin) = (0_u128, 0, false, 0);
        for (at, &byte) in text.iter().chain(b"\n").enumerate() {
            piece = ((piece << 8) | u128::from(byte)) & WHOLE;
            let place = place(piece);
            if (self.sieve[place >> 6] >> (place & 63)) & 1 == 1
                && let Some(encoding) = self.pieces.get(&piece)
            {
                return Some(told(line(text, begin), encoding));
            }
            suspicious |= match byte {
                b'%' => true,
                b'u' | b'x' => last == b'\\',
                b'0'..=b'9' => last == b'[',
                _ => false,
            };
            if byte == b'\n' {
                if suspicious && let Some(found) = self.find_decoded(line(text, begin)) {
                    return Some(found);
                }
                (suspicious, begin) = (false, at + 1);
            }
            last = byte;
        }
        None
    }

    fn find_decoded(&self, line: &[u8]) -> Option<String> {
        for (decoded, encoding) in [(unescaped(line), "escaped"), (numbers(line), "as a list of numbers")] {
            let found = decoded.windows(PIECE).any(|piece| {
                self.pieces.contains_key(&piece.iter().fold(0, |piece, byte| (piece << 8) | u128::from(*byte)))
            });
            if found {
                return Some(told(line, encoding));
            }
        }
        None
    }
}

fn place(piece: u128) -> usize {
    let mixed = (piece as u64 ^ (piece >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - SIEVE_BITS)) as usize
}

fn line(text: &[u8], begin: usize) -> &[u8] {
    let rest = &text[begin.min(text.len())..];
    rest.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

fn told(line: &[u8], encoding: &str) -> String {
    format!("a canary, {encoding}, in: {}", String::from_utf8_lossy(line))
}

/// As it reads inside a longer text that has so many bytes (modulo three) before it: the characters that depend on nothing else.
fn base64(secret: &[u8], alphabet: &[u8; 64], alignment: usize) -> Vec<u8> {
    let bytes: Vec<u8> = std::iter::repeat_n(0, alignment).chain(secret.iter().copied()).collect();
    let digits = |group: &[u8]| {
        let byte = |at: usize| usize::from(group.get(at).copied().unwrap_or_default());
        let number = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        let digits = [number >> 18, (number >> 12) & 63, (number >> 6) & 63, number & 63];
        digits.into_iter().take(group.len() * 8 / 6).collect::<Vec<_>>()
    };
    let encoded = bytes.chunks(3).flat_map(digits).map(|digit| alphabet[digit]);
    encoded.skip([0, 2, 3][alignment]).collect()
}

/// `%6B`, `\u006b`, `\u{6b}` and `\x6b` as what they stand for.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let hexadecimal = |digits: Option<&[u8]>| {
        let digits =
            std::str::from_utf8(digits?).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u8::from_str_radix(digits.trim_start_matches('0'), 16).ok()
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let (byte, length) = match rest {
            // Escaped twice.
            [b'\\', b'\\', b'u' | b'x', ..] => {
                at += 1;
                continue;
            }
            [b'%', ..] => (hexadecimal(rest.get(1..3)), 3),
            [b'\\', b'u', b'{', ..] => (hexadecimal(rest.get(3..5)), 6),
            [b'\\', b'u', ..] => (hexadecimal(rest.get(2..6)), 6),
            [b'\\', b'x', ..] => (hexadecimal(rest.get(2..4)), 4),
            _ => (None, 1),
        };
        decoded.push(byte.unwrap_or(rest[0]));
        at += byte.map_or(1, |_| length);
    }
    decoded
}

/// The bytes of `[107, 101, 121]`, as `Debug` shows them.
fn numbers(text: &[u8]) -> Vec<u8> {
    let words = text.split(|byte| !byte.is_ascii_digit());
    words
        .filter(|word| !word.is_empty())
        .map(|word| std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).unwrap_or(0))
        .collect()
}
