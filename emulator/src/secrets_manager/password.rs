//! `GetRandomPassword`, which every rotation function calls that makes its own secrets.

use serde_json::json;

use super::SecretsManager;
use super::answer::{Answer, Error};
use super::wire::{GetRandomPassword, check_length};

/// The length of a password where none is asked for, and the longest (service model, `PasswordLengthType`).
const LENGTH: i64 = 32;
const LONGEST: i64 = 4096;

const LOWERCASE: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPERCASE: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const NUMBERS: &str = "0123456789";
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

impl SecretsManager {
    /// The password is as random as the emulator's made-up keys are: good for a test, and for nothing else.
    pub(super) fn get_random_password(&mut self, input: &GetRandomPassword) -> Answer {
        let length = input.password_length.unwrap_or(LENGTH);
        if !(1..=LONGEST).contains(&length) {
            return Err(Error::constraint("passwordLength", &format!("have value between 1 and {LONGEST}")));
        }
        check_length("excludeCharacters", &input.exclude_characters, 0, 4096)?;
        let types = types(input);
        let mut characters = types.concat();
        if input.include_space && !input.exclude_characters.contains(' ') {
            characters.push(' ');
        }
        if characters.is_empty() {
            return Err(Error::invalid_parameter("No characters are left of which a password could be made."));
        }
        // The words are AWS's, as moto quotes them. A space is no type: "at least one upper and lowercase letter, one number,
        // and one punctuation" (API reference).
        let required = if input.require_each_included_type.unwrap_or(true) { types.as_slice() } else { &[] };
        let length = usize::try_from(length).unwrap_or_default();
        let Some(rest) = length.checked_sub(required.len()) else {
            return Err(Error::invalid_parameter("Password length is too short based on the required types."));
        };
        let mut password: Vec<char> = required.iter().filter_map(|of| self.random.choice(of)).copied().collect();
        password.extend((0..rest).filter_map(|_| self.random.choice(&characters)).copied());
        self.random.shuffle(&mut password);
        Ok(json!({ "RandomPassword": password.into_iter().collect::<String>() }))
    }
}

/// The characters of each type that is included. A type of which every character is excluded counts as excluded: AWS says nothing of
/// it.
fn types(input: &GetRandomPassword) -> Vec<Vec<char>> {
    let types = [
        (LOWERCASE, input.exclude_lowercase),
        (UPPERCASE, input.exclude_uppercase),
        (NUMBERS, input.exclude_numbers),
        (PUNCTUATION, input.exclude_punctuation),
    ];
    let included = types.into_iter().filter(|(_, excluded)| !excluded);
    let left = included.map(|(all, _)| all.chars().filter(|c| !input.exclude_characters.contains(*c)).collect());
    left.filter(|characters: &Vec<char>| !characters.is_empty()).collect()
}
