//! Who the function is to AWS, and where AWS is: what Lambda and the AWS SDK call their own variables.

use aws_sdk_secretsmanager::config::{Credentials, Region};
use reqwest::Url;

use super::{Variables, network};
use crate::error::{ErrorKind, RotationError};

/// What a client of AWS needs. Lambda gives region and credentials as variables; the SDK's own chain asks for nothing else there,
/// takes longer to find them than all the rest of a start, and is silent where they are missing.
#[derive(Clone, Debug)]
pub struct Aws {
    /// The region.
    pub region: Region,
    /// The credentials, which do not print themselves.
    pub credentials: Credentials,
    /// Another Secrets Manager than the region's own.
    pub endpoint: Option<Url>,
    /// Whether the region's FIPS endpoint is used.
    pub use_fips: bool,
    /// Whether the region's dual-stack endpoint is used.
    pub use_dual_stack: bool,
}

impl Aws {
    pub(super) fn from_vars(variables: &Variables<'_>) -> Result<Self, RotationError> {
        let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| text.to_owned());
        let region = |text: &str| {
            let valid = text.len() <= 63
                && text.split('-').all(|part| {
                    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                });
            valid.then(|| Region::new(text.to_owned()))
        };
        let accepts = "the code of an AWS region, such as eu-west-1";
        // Lambda sets both.
        let by_default = variables.parsed("AWS_DEFAULT_REGION", accepts, region)?;
        let region = variables.parsed("AWS_REGION", accepts, region)?.or(by_default);
        let (key_id, secret_key) =
            ("one run of visible ASCII: the id of an access key", "one run of visible ASCII: an access key");
        let key_id = variables.parsed("AWS_ACCESS_KEY_ID", key_id, visible)?;
        let secret_key = variables.parsed("AWS_SECRET_ACCESS_KEY", secret_key, visible)?;
        let token = variables.parsed("AWS_SESSION_TOKEN", "one run of visible ASCII", visible)?;
        let credentials = Credentials::new(
            key_id.ok_or_else(|| missing("AWS_ACCESS_KEY_ID"))?,
            secret_key.ok_or_else(|| missing("AWS_SECRET_ACCESS_KEY"))?,
            token,
            None,
            "environment",
        );
        let mut aws = Self {
            region: region.ok_or_else(|| missing("AWS_REGION"))?,
            credentials,
            endpoint: None,
            use_fips: variables.parsed("AWS_USE_FIPS_ENDPOINT", TRUE_OR_FALSE, boolean)?.unwrap_or_default(),
            use_dual_stack: variables.parsed("AWS_USE_DUALSTACK_ENDPOINT", TRUE_OR_FALSE, boolean)?.unwrap_or_default(),
        };
        // The second counts only where the first is not set, and has to be well-formed all the same.
        for variable in ["AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"] {
            let endpoint = variables.parsed(variable, network::SERVICE_ACCEPTS, network::parse_service)?;
            for (switch, on) in
                [("AWS_USE_FIPS_ENDPOINT", aws.use_fips), ("AWS_USE_DUALSTACK_ENDPOINT", aws.use_dual_stack)]
            {
                if on && endpoint.is_some() {
                    return Err(contradictory(switch, variable));
                }
            }
            aws.endpoint = aws.endpoint.or(endpoint);
        }
        Ok(aws)
    }
}

const TRUE_OR_FALSE: &str = "true or false";

fn boolean(text: &str) -> Option<bool> {
    [("true", true), ("false", false)].into_iter().find(|(word, _)| text.eq_ignore_ascii_case(word)).map(|(_, on)| on)
}

fn missing(variable: &str) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidConfiguration,
        format!("The environment variable {variable} is not set: without it the function cannot call Secrets Manager."),
        "Lambda sets it, from the function's role; where the function runs elsewhere, set it there.",
    )
}

fn contradictory(switch: &str, endpoint: &str) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidConfiguration,
        format!(
            "The environment variable {switch} is true, and {endpoint} names an endpoint: it accepts true for AWS's own \
             endpoints only."
        ),
        format!(
            "Correct the function's configuration: set only one of them (the address of a FIPS endpoint may be in {endpoint})."
        ),
    )
}
