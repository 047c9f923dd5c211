//! What the rotation happens to: two service accounts at Kosli, their keys, and the secrets that hold two of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::options::{Options, RevokeOldKey, RotatedBy, Shape};
use crate::clock::Clock;
use crate::emulator::Emulator;
use crate::kosli::{Key, Role};
use crate::runtime_api::Function;
use crate::secrets_manager::{AWSCURRENT, RotationRequest, Version};

/// The secret whose key is rotated.
pub(super) const SECRET: &str = "kosli/ci";
/// The secret with the admin key.
pub(super) const ADMIN_SECRET: &str = "kosli/admin";

pub(super) const ORG: &str = "acme";
pub(super) const ACCOUNT: &str = "ci";
const ADMIN_ACCOUNT: &str = "key-rotation";

/// What the secret's key and the stranger's key are both called.
const DESCRIPTION: &str = "CI pipeline";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An emulator in which a rotation can begin. Cloning it gives another handle to the same one.
#[derive(Clone)]
pub struct World {
    /// Both services.
    pub emulator: Emulator,
    /// Where a person's calls go.
    pub address: SocketAddr,
    /// The id of the key that the secret holds before the rotation.
    pub own_key: String,
    /// The id of a stranger's key: same account, same description, never used.
    pub strangers_key: String,
    /// The id of the admin key.
    pub admin_key: Option<String>,
    environment: Vec<(String, String)>,
}

impl World {
    /// Makes the accounts, the keys and, over HTTP, the secrets.
    ///
    /// # Errors
    /// There is no port to be had, or a call was refused.
    pub async fn set_up(clock: Clock, options: &Options) -> Result<Self, String> {
        let emulator = Emulator::new(clock);
        let address = emulator.listen("person", 0).await.map_err(|error| format!("cannot listen: {error}"))?;
        let now = emulator.clock().now();
        let ((own_key, value), (strangers_key, _), admin) = emulator.with_kosli(|kosli| {
            // Kosli lets an Admin and an account's creator manage its keys, and no account creates itself.
            let role = match options.rotated_by {
                RotatedBy::AdminKey => Role::Member,
                RotatedBy::ItsOwnKey => Role::Admin,
            };
            kosli.add_account(ORG, ACCOUNT, role);
            kosli.add_account(ORG, ADMIN_ACCOUNT, Role::Admin);
            let mut add = |account, description, age: u32, left: u32| {
                kosli.add_key(ORG, account, description, now - age * DAY, Some(now + left * DAY))
            };
            let own = add(ACCOUNT, DESCRIPTION, 90, 275);
            let strangers = add(ACCOUNT, DESCRIPTION, 30, 335);
            let admin = (options.rotated_by == RotatedBy::AdminKey)
                .then(|| add(ADMIN_ACCOUNT, "rotates the keys of others", 10, 355));
            (own, strangers, admin)
        });
        let mut environment = vec![("KOSLI_SERVICE_ACCOUNTS".to_owned(), format!("{ORG}/{ACCOUNT}"))];
        if options.revoke_old_key == RevokeOldKey::Immediately {
            environment.push(("KOSLI_REVOKE_OLD_KEY".to_owned(), "immediately".to_owned()));
        }
        if admin.is_some() {
            environment.push(("KOSLI_ADMIN_SECRET_ID".to_owned(), ADMIN_SECRET.to_owned()));
        }
        let (admin_key, admin_value) = admin.unzip();
        let world = Self { emulator, address, own_key, strangers_key, admin_key, environment };
        world.create_secret(SECRET, &options.shape.value(&world.own_key, &value), &world.tags(options.shape)).await?;
        if let Some(admin_value) = admin_value {
            world.create_secret(ADMIN_SECRET, &admin_value, &json!([])).await?;
        }
        Ok(world)
    }

    /// The function as it is configured for this world.
    pub fn function(&self, executable: PathBuf) -> Function {
        Function { environment: self.environment.clone(), ..Function::new(executable) }
    }

    /// Asks for a rotation of the secret by this function. To call the function is left to the caller.
    ///
    /// # Errors
    /// What the service has said, if it was no success.
    pub async fn begin_rotation(&self, function_arn: &str) -> Result<RotationRequest, String> {
        let token = format!("{:032x}", fastrand::u128(..));
        let input = json!({ "SecretId": SECRET, "ClientRequestToken": token, "RotationLambdaARN": function_arn });
        self.aws("RotateSecret", &input).await?;
        let begun = self.emulator.with_secrets_manager(|service| service.take_rotations());
        begun.into_iter().next().ok_or_else(|| "RotateSecret began no rotation".to_owned())
    }

    /// Calls an operation of Secrets Manager over HTTP, as the `aws` command line does.
    async fn aws(&self, operation: &str, input: &Value) -> Result<Value, String> {
        let body = input.to_string();
        let length = body.len();
        let request = format!(
            "POST / HTTP/1.1\r\nhost: {}\r\nx-amz-target: secretsmanager.{operation}\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=emulator\r\ncontent-type: application/x-amz-json-1.1\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n{body}",
            self.address
        );
        let exchange = async {
            let mut connection = TcpStream::connect(self.address).await?;
            connection.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        let answer = exchange.await.map_err(|error: std::io::Error| format!("{operation}: {error}"))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => {
                serde_json::from_str(body).map_err(|error| format!("{operation}: {error}"))
            }
            _ => Err(format!("{operation} failed: {answer}")),
        }
    }

    async fn create_secret(&self, name: &str, value: &str, tags: &Value) -> Result<(), String> {
        let token = format!("{:032x}", fastrand::u128(..));
        let input = json!({ "Name": name, "SecretString": value, "ClientRequestToken": token, "Tags": tags });
        self.aws("CreateSecret", &input).await.map(drop)
    }

    /// A plain string cannot say whose key it is.
    fn tags(&self, shape: Shape) -> Value {
        let tag = |name: &str, value: &str| json!({ "Key": format!("kosli:{name}"), "Value": value });
        match shape {
            Shape::Plain => {
                json!([tag("org", ORG), tag("service-account", ACCOUNT), tag("key-id", &self.own_key)])
            }
            Shape::ApiKey | Shape::Environment => json!([]),
        }
    }

    /// The versions of the rotated secret, oldest first.
    pub(super) fn versions(&self) -> Vec<Version> {
        self.emulator.with_secrets_manager(|service| {
            service.secret(SECRET).map(|secret| secret.versions.iter().cloned().collect()).unwrap_or_default()
        })
    }

    /// All keys that there ever were.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect())
    }

    /// Whether a reader of the secret gets a key at this instant that Kosli accepts.
    pub(super) fn readers_get_a_working_key(&self) -> bool {
        let current = self.versions().into_iter().find(|version| version.stages.contains(AWSCURRENT));
        let key = current.and_then(|version| key_in(version.text()?));
        key.is_some_and(|key| self.emulator.with_kosli(|kosli| kosli.accepts(&key)))
    }
}

impl Shape {
    /// A value in this shape. The field `owner` is not the function's business.
    fn value(self, id: &str, key: &str) -> String {
        match self {
            Self::ApiKey => {
                json!({ "owner": "team CI", "api_key": key, "org": ORG, "service_account": ACCOUNT, "key_id": id })
                    .to_string()
            }
            Self::Environment => json!({
                "owner": "team CI",
                "KOSLI_API_TOKEN": key,
                "KOSLI_ORG": ORG,
                "KOSLI_SERVICE_ACCOUNT": ACCOUNT,
                "KOSLI_API_KEY_ID": id,
            })
            .to_string(),
            Self::Plain => key.to_owned(),
        }
    }
}

/// The key's value as an application takes it out of the secret's, whatever its shape.
fn key_in(value: &str) -> Option<String> {
    match serde_json::from_str::<Value>(value) {
        Ok(Value::Object(fields)) => {
            let field = fields.get("api_key").or_else(|| fields.get("KOSLI_API_TOKEN"))?;
            field.as_str().map(str::to_owned)
        }
        _ => Some(value.to_owned()),
    }
}

/// The labelled version whose value this key is in.
pub(super) fn holder<'a>(key: &Key, versions: &'a [Version]) -> Option<&'a Version> {
    let mut labelled = versions.iter().filter(|version| !version.stages.is_empty());
    labelled.find(|version| version.text().is_some_and(|value| value.contains(&key.value)))
}
