//! Rotates Kosli service-account API keys for AWS Secrets Manager.
