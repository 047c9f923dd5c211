//! `BatchGetSecretValue`: many values in one answer, and beside them the reasons for those that are not there.

use serde_json::{Value, json};

use super::SecretsManager;
use super::answer::{Answer, Error, without_nulls};
use super::list::{matches_all, page};
use super::wire::{BatchGetSecretValue, GetSecretValue};

/// The most secrets in one answer (service model, `MaxResultsBatchType` and `SecretIdListType`).
const BATCH: usize = 20;

impl SecretsManager {
    /// What `GetSecretValue` refuses for one secret stands in `Errors`, and the others are answered all the same.
    pub(super) fn batch_get_secret_value(&mut self, input: &BatchGetSecretValue) -> Answer {
        let (ids, next) = self.chosen(input)?;
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for id in ids {
            match self.get_secret_value(&GetSecretValue { secret_id: id.clone(), ..GetSecretValue::default() }) {
                Ok(value) => values.push(value),
                Err(error) => {
                    errors.push(json!({ "SecretId": id, "ErrorCode": error.kind, "Message": error.message }));
                }
            }
        }
        Ok(without_nulls(json!({ "SecretValues": values, "Errors": errors, "NextToken": next })))
    }

    /// The secrets that the request names, or one page of those that its filters choose. The two texts are AWS's, as moto quotes them.
    fn chosen(&self, input: &BatchGetSecretValue) -> Result<(Vec<String>, Option<String>), Error> {
        match (&input.secret_id_list, &input.filters) {
            (Some(_), None) if input.page.max_results.is_some() => Err(Error::invalid_parameter(
                "'Filters' not specified. 'Filters' must also be specified when 'MaxResults' is provided.",
            )),
            (Some(ids), None) if (1..=BATCH).contains(&ids.len()) => Ok((ids.clone(), None)),
            (Some(_), None) => Err(Error::constraint("secretIdList", &format!("have length between 1 and {BATCH}"))),
            (None, Some(filters)) => {
                let mut found = Vec::new();
                for secret in self.secrets.iter().filter(|secret| secret.deletion.is_none()) {
                    if matches_all(secret, filters)? {
                        found.push(Value::from(secret.arn.as_str()));
                    }
                }
                let (found, next) = page(found, &input.page, BATCH)?;
                Ok((found.iter().filter_map(Value::as_str).map(str::to_owned).collect(), next))
            }
            _ => Err(Error::invalid_parameter("Either 'SecretIdList' or 'Filters' must be provided, but not both.")),
        }
    }
}
