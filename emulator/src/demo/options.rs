//! How the demo goes, as a person types it.

use std::path::PathBuf;

use crate::faults::Rule;

/// What `emulator demo --help` prints.
pub const USAGE: &str = "\
cargo demo [--shape SHAPE] [--self-rotation] [--revoke WHEN] [--fault FAULT]... [--serve] [--function PATH]

  --shape SHAPE       what the secret holds: api-key (JSON with api_key, the default), environment (JSON with
                      KOSLI_API_TOKEN) or plain (the key alone; tags say whose it is)
  --self-rotation     the key rotates itself, without an admin key: its account has the role Admin then, because Kosli
                      probably asks for Admin or for the account's creator
  --revoke WHEN       what becomes of the old key: after-grace-period (the default) or immediately
  --fault FAULT       what goes wrong, such as rotate#1=drop-after (Kosli mints a key, and the answer is lost),
                      rotate#1=kill-after (and the function is killed) or PutSecretValue#1=error-before; may be repeated
  --serve             stay up afterwards: a page for a browser, with buttons, and lines to paste
  --function PATH     the function's executable (default: build it)

It exits with 0 if the rotation succeeded and every promise held.";

/// How the demo goes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the secret holds.
    pub shape: Shape,
    /// Who may rotate the key.
    pub rotated_by: RotatedBy,
    /// What becomes of the old key.
    pub revoke_old_key: RevokeOldKey,
    /// What goes wrong.
    pub faults: Vec<Rule>,
    /// The function's executable; `None`: the program that runs the demo knows it.
    pub function: Option<PathBuf>,
    /// Whether to stay up afterwards; left to the program that runs the demo.
    pub serve: bool,
}

/// The three shapes of a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// JSON with `api_key`.
    #[default]
    ApiKey,
    /// JSON with `KOSLI_API_TOKEN`.
    Environment,
    /// The key's value alone.
    Plain,
}

/// Whose key makes the calls that change keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotatedBy {
    /// A key of an account with the role Admin, in a secret of its own.
    #[default]
    AdminKey,
    /// The secret's own key.
    ItsOwnKey,
}

/// `KOSLI_REVOKE_OLD_KEY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevokeOldKey {
    /// Kosli ends it.
    #[default]
    AfterGracePeriod,
    /// `finishSecret` ends it.
    Immediately,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// A text for the person who has typed it.
    pub fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(&name) = arguments.next() {
            match name {
                "--self-rotation" => options.rotated_by = RotatedBy::ItsOwnKey,
                "--serve" => options.serve = true,
                "--shape" | "--revoke" | "--fault" | "--function" => {
                    let value = *arguments.next().ok_or_else(|| format!("{name} needs a value.\n\n{USAGE}"))?;
                    options.set(name, value)?;
                }
                _ => return Err(format!("\"{name}\" is not an option of the demo.\n\n{USAGE}")),
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match (name, value) {
            ("--shape", "api-key") => self.shape = Shape::ApiKey,
            ("--shape", "environment") => self.shape = Shape::Environment,
            ("--shape", "plain") => self.shape = Shape::Plain,
            ("--shape", _) => return Err(format!("--shape takes api-key, environment or plain, not \"{value}\"")),
            ("--revoke", "after-grace-period") => self.revoke_old_key = RevokeOldKey::AfterGracePeriod,
            ("--revoke", "immediately") => self.revoke_old_key = RevokeOldKey::Immediately,
            ("--revoke", _) => {
                return Err(format!("--revoke takes after-grace-period or immediately, not \"{value}\""));
            }
            ("--function", _) => self.function = Some(value.into()),
            _ => self.faults.push(value.parse().map_err(|error| format!("--fault: {error}"))?),
        }
        Ok(())
    }
}
