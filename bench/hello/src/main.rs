//! A Lambda function that answers every event with itself: what the runtime costs before a function does anything.

use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let handler = service_fn(async |event: LambdaEvent<Value>| Ok::<_, Error>(event.payload));
    Runtime::new(handler).run().await
}
