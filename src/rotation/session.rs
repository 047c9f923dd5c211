//! One secret in one invocation: what it is looked at and rotated with, whichever step or report it is for.

use std::fmt;
use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::credential::{self, Credential, KEY_ID_LABEL, is_in_place};
use super::failures::{self, Role};
use super::marks::Marks;
use crate::api_key::ApiKey;
use crate::budget::{Budget, Repeatable};
use crate::document::Document;
use crate::error::{ErrorKind, RotationError};
use crate::event::SecretId;
use crate::function::Function;
use crate::identity::{Account, ClaimedKeyId, KeyId};
use crate::kosli::{Acceptance, Caller, KeyEntry, KosliError, Listing};
use crate::metrics::{Tally, count};
use crate::secrets_manager::{CURRENT, Description, PENDING, PREVIOUS, SecretsManagerError, Version, Which};

/// A key that answers 401 is asked once more, this much later, before it counts as dead.
pub(super) const DEATH_PAUSES: [Duration; 1] = [Duration::from_secs(2)];

/// A new key may take some seconds to be accepted everywhere.
pub(super) const ACCEPTANCE_PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// A marked key of another execution is taken over when it is older than the function's time-out and this.
const TAKE_OVER_MARGIN: Duration = Duration::from_secs(15);

/// What a secret is looked at and rotated with, in one invocation.
pub(super) struct Session<'a> {
    pub(super) function: &'a Function,
    pub(super) budget: Budget,
    pub(super) secret: &'a SecretId,
    /// The ARN by which this function was invoked.
    pub(super) function_arn: &'a str,
    pub(super) tally: Tally,
}

/// The admin key and the secret that it comes from.
pub(super) struct AdminKey {
    pub(super) secret_arn: String,
    pub(super) key: ApiKey,
}

/// A key that may list, rotate, create and revoke.
pub(super) struct Authority {
    pub(super) key: ApiKey,
    pub(super) role: Role,
}

impl AdminKey {
    /// Whether it is the very key of a secret other than the admin secret, and is rotated there.
    pub(super) fn is_rotated_elsewhere(&self, secret_arn: &str, key: &ApiKey) -> bool {
        self.secret_arn != secret_arn && self.key.same(key)
    }
}

impl Session<'_> {
    pub(super) fn kosli<'a>(&'a self, key: &'a ApiKey) -> Caller<'a> {
        self.function.kosli.with(&self.budget, key)
    }

    /// From this age on, the execution that minted a key cannot live any more.
    pub(super) fn take_over_after(&self) -> Duration {
        self.budget.function_timeout() + TAKE_OVER_MARGIN
    }

    pub(super) async fn read(&self, which: Which<'_>) -> Result<Option<Version>, RotationError> {
        self.function
            .secrets_manager
            .read(&self.budget, self.secret, which)
            .await
            .map_err(|error| self.aws_failed(&error))
    }

    pub(super) async fn admin_key(&self, needed: bool) -> Result<Option<AdminKey>, RotationError> {
        let Some(secret) = self.function.config.admin_secret.as_ref().filter(|_| needed) else { return Ok(None) };
        let Some(version) = self.admin_version().await? else { return Ok(None) };
        let key = credential::admin_key(&version).map_err(|what| {
            RotationError::before_any_change(
                ErrorKind::InvalidAdminSecret,
                format!("The admin secret {secret} {what}."),
                "It holds the admin key: a plain string, or JSON with `api_key` or `KOSLI_API_TOKEN`.",
            )
        })?;
        Ok(Some(AdminKey { secret_arn: version.arn, key }))
    }

    /// The current version of the admin secret; `None`: none is configured. It is read in every invocation that needs it, so
    /// that a rotation of the admin key is noticed at once.
    pub(super) async fn admin_version(&self) -> Result<Option<Version>, RotationError> {
        let Some(secret) = &self.function.config.admin_secret else { return Ok(None) };
        let invalid = |what: String, action: &str| {
            RotationError::before_any_change(
                ErrorKind::InvalidAdminSecret,
                format!("The admin secret {secret} {what}."),
                action,
            )
        };
        let version = self
            .function
            .secrets_manager
            .read(&self.budget, secret, Which::Label(CURRENT))
            .await
            .map_err(|error| match error {
                SecretsManagerError::Refused { .. } => invalid(
                    format!("cannot be read ({error})"),
                    "Allow the function's role secretsmanager:GetSecretValue on it (and kms:Decrypt on its key).",
                ),
                SecretsManagerError::Unclear { .. } => self.aws_failed(&error),
            })?
            .ok_or_else(|| {
                invalid(
                    "does not exist or has no value".to_owned(),
                    "Correct KOSLI_ADMIN_SECRET_ID, or put the admin key into the secret.",
                )
            })?;
        Ok(Some(version))
    }

    /// The admin key, or the secret's own where there is none.
    pub(super) fn authority(&self, admin: Option<AdminKey>, own: &ApiKey, own_role: Role) -> Authority {
        match admin {
            Some(admin) => Authority { key: admin.key, role: Role::Admin },
            None => Authority { key: own.clone(), role: own_role },
        }
    }

    /// Refuses accounts that `KOSLI_SERVICE_ACCOUNTS` does not permit. Nothing has been sent to Kosli before this.
    pub(super) fn permit(&self, account: &Account) -> Result<(), RotationError> {
        if self.function.config.permitted.allows(account) {
            return Ok(());
        }
        Err(RotationError::before_any_change(
            ErrorKind::NotPermitted,
            format!("The secret names the service account {account}, which this function may not touch."),
            "Permit it in the function's KOSLI_SERVICE_ACCOUNTS, or correct the secret.",
        ))
    }

    /// Lists the account's keys. A key that answers 401 is asked once more before it counts as dead.
    pub(super) async fn list(&self, account: &Account, authority: &Authority) -> Result<Listing, RotationError> {
        let kosli = self.kosli(&authority.key);
        let mut listing = kosli.list(account).await;
        if matches!(listing, Err(KosliError::Refused { status: StatusCode::UNAUTHORIZED, .. }))
            && self.budget.pause(DEATH_PAUSES[0]).await
        {
            listing = kosli.list(account).await;
        }
        listing.map_err(|error| self.kosli_failed(&error, authority.role, &format!("listing the keys of {account}")))
    }

    /// Revokes a key of the account, and counts it. False: it was not there any more.
    pub(super) async fn revoke(
        &self,
        account: &Account,
        id: &KeyId,
        authority: &Authority,
    ) -> Result<bool, KosliError> {
        let revoked = self.kosli(&authority.key).revoke(account, id).await?;
        count(&self.tally.revoked);
        Ok(revoked)
    }

    /// The ids of the keys that labelled versions hold; those of `known` versions need no read. A version that does not
    /// parse is ignored.
    pub(super) async fn held_key_ids(
        &self,
        description: &Description,
        known: &[&Credential],
    ) -> Result<Vec<ClaimedKeyId>, RotationError> {
        let mut held: Vec<ClaimedKeyId> = known.iter().filter_map(|credential| credential.key_id.clone()).collect();
        for (version, labels) in &description.versions {
            if !is_in_place(description, version) || known.iter().any(|credential| credential.version == *version) {
                continue;
            }
            held.extend(
                labels.iter().filter_map(|label| label.strip_prefix(KEY_ID_LABEL)).filter_map(ClaimedKeyId::parse),
            );
            // Whose key it is need not be told: a copy of a value may name no account.
            let value = self.read(Which::Id(version)).await?.and_then(|version| version.value);
            let document = value.and_then(|value| Document::parse(value).ok());
            held.extend(document.and_then(|document| ClaimedKeyId::parse(document.key_id()?)));
        }
        Ok(held)
    }

    /// Takes the key id from a version further back that holds the very same key: a field was edited more than once, or a person has gone
    /// back to an edit. The label with the id still stands on the version that a rotation has made.
    pub(super) async fn learn_key_id(
        &self,
        description: &Description,
        credential: &mut Credential,
    ) -> Result<(), RotationError> {
        // The version under AWSPREVIOUS has been read by now, and the one under AWSPENDING is no older one.
        let is_further_back = |labels: &[String]| {
            labels.iter().any(|label| label.starts_with(KEY_ID_LABEL))
                && labels.iter().all(|label| label != PREVIOUS && label != PENDING)
        };
        for (version, _) in description.versions.iter().filter(|(_, labels)| is_further_back(labels)) {
            if credential.key_id.is_some() {
                break;
            }
            let version = self.read(Which::Id(version)).await?;
            let parsed = version.and_then(|version| Credential::parse(&version, description, "a label").ok());
            parsed.iter().for_each(|older| credential.learn_key_id(older));
        }
        Ok(())
    }

    /// The marks of all other versions of the account that are in place, as far as keys carry them whose ids are not these versions': a
    /// label of a person's own keeps a version in sight.
    pub(super) async fn marks_of_others(
        &self,
        description: &Description,
        known: &[&Credential],
        account: &Account,
        keys: &[KeyEntry],
    ) -> Result<Vec<Marks>, RotationError> {
        let held = || known.iter().filter_map(|credential| credential.key_id.as_ref());
        let others = description.versions.keys().filter(|version| {
            is_in_place(description, version) && known.iter().all(|credential| credential.version != **version)
        });
        let mut found = Vec::new();
        for version in others {
            let suspected = Marks::unproven(&description.arn, version);
            // To prove it costs a read.
            if !keys.iter().any(|key| !key.id.is_among(held()) && suspected.carried_by(key).is_some()) {
                continue;
            }
            let version = self.read(Which::Id(version)).await?;
            let parsed = version.and_then(|version| Credential::parse(&version, description, "a label").ok());
            let of_account = parsed.filter(|other| other.account == *account);
            found.extend(of_account.map(|other| Marks::of(&description.arn, &other, None)));
        }
        Ok(found)
    }

    /// The id of a version's key, proven: Kosli's list shows it; or, where the list does not, Kosli refuses the text as a key. `None`:
    /// nothing names one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSecret`]: a key is where its id belongs. Or whether it is one cannot be told.
    pub(super) async fn proven_id(
        &self,
        credential: &Credential,
        listing: Option<&Listing>,
    ) -> Result<Option<KeyId>, RotationError> {
        let listed = |is: &dyn Fn(&KeyEntry) -> bool| listing?.keys.iter().find(|key| is(key));
        if listed(&|key| key.id.as_str() == credential.key().expose()).is_some() {
            return Err(credential::id_for_a_key());
        }
        let Some(claimed) = &credential.key_id else { return Ok(None) };
        if let Some(entry) = listed(&|key| *claimed == key.id) {
            return Ok(Some(entry.id.clone()));
        }
        let whose = "what stands where the key id belongs";
        match self.accepts(&credential.account, claimed.as_key(), whose, &[]).await {
            Ok(Acceptance::Dead) => Ok(Some(claimed.refused_as_key())),
            Ok(Acceptance::Accepted) => Err(credential::key_for_an_id()),
            // Kosli knows it, and it may do nothing here: another organization's.
            Err(error) if error.kind() == ErrorKind::KosliForbidden => Err(credential::key_for_an_id()),
            Err(error) => Err(error),
        }
    }

    /// What Kosli shows of a version's key, with its id: the list's entry, or that which it shows by the id, once that is proven.
    ///
    /// # Errors
    /// As [`Session::proven_id`], or Kosli does not say.
    pub(super) async fn look_up(
        &self,
        credential: &Credential,
        authority: &Authority,
        listing: Option<&Listing>,
    ) -> Result<Option<(KeyId, Option<KeyEntry>)>, RotationError> {
        let Some(id) = self.proven_id(credential, listing).await? else { return Ok(None) };
        let mut entry = listing.and_then(|listing| listing.entry(credential.key_id.as_ref())).cloned();
        if entry.is_none() {
            let got = self.kosli(&authority.key).get(&credential.account, &id).await;
            let failed = |error| self.kosli_failed(&error, authority.role, &format!("looking up the key {id}"));
            entry = got.map_err(failed)?;
        }
        Ok(Some((id, entry)))
    }

    /// Authenticates with a key.
    pub(super) async fn accepts(
        &self,
        account: &Account,
        key: &ApiKey,
        whose: &str,
        pauses: &[Duration],
    ) -> Result<Acceptance, RotationError> {
        let accepted = self.kosli(key).accepts(&account.org, pauses).await;
        accepted.map_err(|error| {
            let unknown = || failures::acceptance_unknown(&error, account, whose, self.secret);
            self.out_of_time(&error).unwrap_or_else(unknown)
        })
    }

    /// The function's own time ran out while a service was asked: that is not the service's fault.
    fn out_of_time(&self, error: &(impl Repeatable + fmt::Display)) -> Option<RotationError> {
        let is_over = self.budget.remaining().is_zero() && error.repeat_after().is_some();
        is_over.then(|| failures::out_of_time(error, self.budget.function_timeout(), self.secret))
    }

    /// An error of Secrets Manager in words for the operator.
    pub(super) fn aws_failed(&self, error: &SecretsManagerError) -> RotationError {
        self.out_of_time(error).unwrap_or_else(|| failures::aws_failed(error, self.secret))
    }

    /// An error of Kosli in words for the operator: which key, which call.
    pub(super) fn kosli_failed(&self, error: &KosliError, role: Role, call: &str) -> RotationError {
        self.out_of_time(error).unwrap_or_else(|| failures::kosli_failed(error, role, call, self.secret))
    }

    /// The incident that this function cannot heal alone, with the steps to do by hand.
    pub(super) fn dead_without_admin(&self, current: &Credential) -> RotationError {
        failures::dead_without_admin(current, self.secret, self.host())
    }

    /// Where Kosli is.
    pub(super) fn host(&self) -> &Url {
        &self.function.config.host
    }
}
